"""The page's files are found, complete, and all of them are packed into a wheel."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from livephase.api.static import client_directory

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_that_the_page_names_is_there() -> None:
    client = client_directory()
    named = re.findall(r'(?:src|href)="([^"]+)"', (client / "index.html").read_text(encoding="utf-8"))
    sheets = {f"css/{path.name}" for path in (client / "css").iterdir()}
    assert {"js/main.js", "icon.svg", *sheets} == set(named)
    modules = sorted((client / "js").glob("*.js"))
    imported = {client / name for name in named}
    for module in modules:
        imported |= {module.parent / path for path in re.findall(r'from "(\./[^"]+)"', module.read_text("utf-8"))}
    assert [path for path in imported if not path.resolve().is_file()] == []
    types_only = {"types.js"}
    assert {module.name for module in modules} == {p.name for p in imported if p.suffix == ".js"} | types_only


def test_a_wheel_has_the_pages_files_and_not_its_tools() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = document["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    page = {name: target for name, target in packed.items() if name.startswith("client")}
    assert page == {name: f"livephase/{name}" for name in page}
    tools = {"package.json", "package-lock.json", "tsconfig.json", "node_modules", ".npmrc"}
    present = {path.name for path in (ROOT / "client").iterdir()}
    assert {Path(name).name for name in page} == present - tools
