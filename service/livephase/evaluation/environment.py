"""With what an evaluation was made: software versions and hardware, and where its measured data lie."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from livephase.errors import ConfigurationError

_CHECKOUT = Path(__file__).resolve().parents[3]


def shared_data() -> Path:
    """Find the folder of the measured data (``docs/data.md``).

    Raises
    ------
    ConfigurationError
        It is not there.
    """
    named = os.environ.get("LIVEPHASE_SHARED")
    folder = (Path(named) if named else _CHECKOUT.parent / "shared") / "data"
    if not folder.is_dir():
        raise ConfigurationError(
            f"the measured data are not at {folder}; set LIVEPHASE_SHARED to the folder that holds data/ (docs/data.md)"
        )
    return folder


def usable_cores() -> int:
    """Count the processor cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Describe software and hardware, JSON-ready."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "software": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("livephase", "torch", "openvino", "numpy", "scipy")},
        },
        "hardware": {
            "processor": processor(),
            "cores": usable_cores(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "load_average_at_start": load if load is None else round(load, 1),
        },
    }


def processor() -> str:
    """Name of the CPU, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
