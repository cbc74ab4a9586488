"""Checks Micro-Manager's core, and that every device adapter in its folder loads; no device is loaded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from livephase.doctor.child import adapter_name
from livephase.doctor.finding import Finding
from livephase.doctor.process import ChildDiedError, results

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

CHECK: Final = "adapters"
_SILENCE_S: Final = 30.0
_NAMES_SHOWN: Final = 12
_LIBRARY: Final = re.compile(r"(?:lib)?mmgr_dal_[^.]+(?:\.so(?:\.\d+)*|\.dll|\.dylib)?", re.IGNORECASE)
_GET: Final = (
    "install Micro-Manager and set MICROMANAGER_PATH to its folder, or run 'pip install mm-test-adapters' for the demo"
    " devices"
)


def needed_by(cfg: Path) -> set[str]:
    """Return the adapters whose devices a Micro-Manager configuration loads."""
    fields = (line.split(",") for line in cfg.read_text(encoding="utf-8", errors="replace").splitlines())
    return {parts[2].strip() for parts in fields if parts[0].strip() == "Device" and len(parts) >= 4}


def check_adapters(needed: Collection[str]) -> Iterator[Finding]:
    """Load every adapter in the folder that livephase uses.

    Parameters
    ----------
    needed : collection of str
        Adapters without which the configuration cannot load; what is wrong with others is a note.
    """
    interface: int | None = None
    folder: str | None = None
    try:
        for result in results("core", silence_s=_SILENCE_S):
            if "core" in result:
                interface = int(result["interface"])
                yield Finding.ok(CHECK, f"{result['core']}, device interface {interface}")
            else:
                folder = result["folder"]
    except ChildDiedError as error:
        folder = os.environ.get("MICROMANAGER_PATH")
        what = "looking for Micro-Manager's folder" if interface is not None else "loading Micro-Manager's core"
        advice = "the adapter that is named below does it: move it out of the folder"
        if interface is None or folder is None:
            advice = "set MICROMANAGER_PATH to the folder of a Micro-Manager installation that works"
        yield Finding.wrong(CHECK, f"{what} {error.how}: {error.last_words}", advice)
    if interface is None:
        return
    if folder is None or not (paths := _libraries(Path(folder))):
        text = "no Micro-Manager folder was found" if folder is None else f"{folder} has no device adapters"
        if needed:
            yield Finding.wrong(CHECK, f"{text}, and the cfg needs {', '.join(sorted(needed))}", _GET)
        else:
            yield Finding.note(CHECK, f"{text}: only Python devices can be used (the simulated microscope)", _GET)
        return
    yield from _judged(_load(paths), interface, folder, needed)


def _libraries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*mmgr_dal_*") if _LIBRARY.fullmatch(path.name) and path.is_file())


def _load(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Load adapters, with a new child after each one that ended the child or did not come back."""
    found: dict[str, dict[str, Any]] = {}
    left = list(map(str, paths))
    while left:
        try:
            for result in results("adapters", *left, silence_s=_SILENCE_S):
                found[result["adapter"]] = result
        except ChildDiedError as error:
            culprits = left if error.begun is None else [error.begun]
            found |= {path: {"error": f"loading it {error.how}"} for path in culprits if path not in found}
        left = [path for path in left if path not in found]
    return {adapter_name(Path(path)): result for path, result in found.items()}


def _judged(
    found: dict[str, dict[str, Any]], interface: int, folder: str, needed: Collection[str]
) -> Iterator[Finding]:
    good = [name for name, result in found.items() if "devices" in result]
    names = ", ".join(good) if len(good) <= _NAMES_SHOWN else f"{', '.join(good[:_NAMES_SHOWN])}, ..."
    if good:
        yield Finding.ok(CHECK, f"{len(good)} of {len(found)} adapters in {folder} load: {names}")
    old = {name: result["interface"] for name, result in found.items() if "interface" in result and name not in good}
    for version in sorted(set(old.values())):
        those = sorted(name for name, its in old.items() if its == version)
        text = f"{', '.join(those)} in {folder}: device interface {version}, not {interface}"
        yield Finding.wrong(
            CHECK, text, f"install a Micro-Manager whose device interface is {interface} (its nightly builds name it)"
        )
    for name, result in found.items():
        if "error" not in result:
            continue
        text = f"{name} does not load: {result['error']}"
        if name in needed:
            yield Finding.wrong(
                CHECK, text, "install its vendor's driver; Micro-Manager's page of that device names it"
            )
        else:
            yield Finding.note(CHECK, f"{text}; the configuration does not need it")
    absent = sorted(set(needed) - set(found))
    if absent:
        yield Finding.wrong(CHECK, f"{folder} has no adapter {', '.join(absent)}, which the cfg names", _GET)
