"""What is done in a child process, because a library or a device may end or hang the process that touches it.

``python -m livephase.doctor.child JOB ARGUMENT...``; every result is a line of JSON behind ``MARK`` on stdout, and a
line ``{"begin": NAME}`` comes before anything that may not come back.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import psutil

MARK: Final = "livephase-doctor "


def say(**content: Any) -> None:
    """Print a result."""
    print(MARK + json.dumps(content), flush=True)


def packages(*names: str) -> None:
    """Import packages; say the version of each and what it can compute on."""
    for name in names:
        say(begin=name)
        try:
            module = importlib.import_module(name)
            say(package=name, version=str(module.__version__), detail=_devices_of(name, module))
        except Exception as error:  # noqa: BLE001 - whatever keeps a package from loading is the finding
            say(package=name, error=f"{type(error).__name__}: {error}")


def _devices_of(name: str, module: Any) -> str:
    if name == "torch":
        return f"CUDA: {module.cuda.get_device_name(0)}" if module.cuda.is_available() else "no CUDA"
    if name == "openvino":
        return f"devices {', '.join(module.Core().available_devices)}"
    return ""


def core() -> None:
    """Say what Micro-Manager's core is, and in which folder pymmcore-plus finds device adapters."""
    import pymmcore

    bare = pymmcore.CMMCore()
    say(core=bare.getVersionInfo(), interface=_interface(bare))
    say(begin="folder")  # looking for it loads a library of every candidate
    from pymmcore_plus import find_micromanager

    say(folder=find_micromanager())


def adapters(*paths: str) -> None:
    """Load device adapters, but no device of them."""
    import pymmcore

    needed = _interface(pymmcore.CMMCore())
    for path in map(Path, paths):
        say(begin=str(path))
        try:
            load = ctypes.WinDLL if sys.platform == "win32" else ctypes.CDLL
            library = load(str(path))
            interface = library.GetDeviceInterfaceVersion
            interface.restype = ctypes.c_long
            found = int(interface())
            if found != needed:
                say(adapter=str(path), interface=found)
                continue
            bare = pymmcore.CMMCore()
            bare.setDeviceAdapterSearchPaths([str(path.parent)])
            say(adapter=str(path), interface=found, devices=list(bare.getAvailableDevices(adapter_name(path))))
        except Exception as error:  # noqa: BLE001 - as above
            say(adapter=str(path), error=" ".join(str(error).split()))


def _interface(bare: Any) -> int:
    """Return the version of the device interface, from ``"Device API version 75, Module API version 10"``."""
    return int(bare.getAPIVersionInfo().partition("Device API version ")[2].partition(",")[0])


def adapter_name(path: Path) -> str:
    """Return the name by which a cfg loads the adapter of a file."""
    return path.name.removeprefix("lib").removeprefix("mmgr_dal_").split(".")[0]


def microscope(config: str) -> None:
    """Load a microscope, say what it is, and unload it."""
    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.errors import LivephaseError
    from livephase_devices.microscope import Microscope

    say(begin="microscope")
    try:
        with Microscope(MicroscopeConfig.load(config)) as loaded:
            say(state=loaded.state().model_dump(mode="json"), devices=[one.label for one in loaded.devices()])
    except LivephaseError as error:
        say(error=str(error))


def ports(probe: str) -> None:
    """List the serial ports; with ``probe`` = ``"probe"`` ask each whether an Optotune lens driver is there."""
    from serial.tools import list_ports

    found = sorted(list_ports.comports(), key=lambda port: port.device)
    say(ports=[{"port": one.device, "text": one.description or "n/a"} for one in found])
    if probe == "probe":
        for one in found:
            say(begin=one.device)
            say(port=one.device, **probe_port(one.device))


def probe_port(port: str) -> dict[str, Any]:
    """Send ``Start`` to a serial port; an Optotune driver answers ``Ready`` and sets its current to 0.

    Returns
    -------
    dict
        ``{"answer": text}`` with what came within a second, or ``{"error": text}``.
    """
    import serial

    try:
        with serial.Serial(port, 115200, timeout=1.0, write_timeout=1.0) as connection:
            connection.reset_input_buffer()
            connection.write(b"Start")
            return {"answer": connection.read(len(b"Ready\r\n")).decode("latin-1")}
    except (OSError, ValueError) as error:  # pyserial's SerialException is an OSError
        return {"error": " ".join(str(error).split())}


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = psutil.Process(os.getppid())

    def wait() -> None:
        # A read of stdin would tell too, but on Windows libraries that load meanwhile may wait for it.
        while parent.is_running() and os.getppid() == parent.pid:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


JOBS: Final = {"packages": packages, "core": core, "adapters": adapters, "microscope": microscope, "ports": ports}

if __name__ == "__main__":
    if sys.platform == "win32":
        # a library that crashes must end the process, not open a window
        ctypes.windll.kernel32.SetErrorMode(0x0001 | 0x0002)
    _end_with_parent()
    JOBS[sys.argv[1]](*sys.argv[2:])
    sys.stdout.flush()
    # Devices are unloaded, or hang. What foreign libraries do at an orderly end is of no interest.
    os._exit(0)
