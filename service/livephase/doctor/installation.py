"""Checks Python and the packages that compute: their versions, and that they load."""

from __future__ import annotations

import platform
import struct
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from livephase import __version__
from livephase.doctor.finding import Finding
from livephase.doctor.process import ChildDiedError, results

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECK: Final = "installation"
PARTS: Final = ("pymmcore", "pymmcore-plus", "pyserial", "numpy", "zarr", "tensorstore", "fastapi", "uvicorn")
_IMPORT_S: Final = 180.0
"""Longest import: torch from a network drive, or while a virus scanner reads it for the first time."""
_AGAIN: Final = "install livephase again in a new environment: python -m pip install livephase"


def check_installation() -> Iterator[Finding]:
    """Look at Python, at the packages that livephase is made of, and load torch and OpenVINO."""
    bits = 8 * struct.calcsize("P")
    python = f"livephase {__version__}, Python {platform.python_version()}, {bits} bit, {platform.platform()}"
    if bits == 64:
        yield Finding.ok(CHECK, f"{python} ({sys.executable})")
    else:
        yield Finding.wrong(CHECK, python, "install a 64-bit Python: torch and OpenVINO need one")
    found: list[str] = []
    for name in PARTS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding.wrong(CHECK, f"the package {name} is not installed", _AGAIN)
    yield Finding.ok(CHECK, ", ".join(found))
    for name in ("torch", "openvino"):
        yield _loaded(name)


def _loaded(name: str) -> Finding:
    try:
        (result,) = results("packages", name, silence_s=_IMPORT_S)
    except ChildDiedError as error:
        return Finding.wrong(CHECK, f"loading {name} {error.how}: {error.last_words}", _AGAIN)
    if "error" in result:
        advice = _AGAIN
        if sys.platform == "win32" and "DLL" in result["error"]:
            advice = "install the Microsoft Visual C++ Redistributable (vc_redist.x64.exe), then try again"
        return Finding.wrong(CHECK, f"{name} cannot be loaded: {result['error']}", advice)
    return Finding.ok(CHECK, f"{name} {result['version']}, {result['detail']}")
