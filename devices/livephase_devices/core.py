"""Micro-Manager's core that can say which device it is waiting for while a configuration is loaded.

pymmcore-plus initialises Python devices, and waits for them, on threads of its own: Python then joins those threads
when the process ends, so a device that hangs in ``initialize`` or ``busy`` keeps the process for ever. Here both happen
one device after the other on the calling thread.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

from pymmcore_plus import CMMCorePlus, DeviceType
from pymmcore_plus.experimental.unicore import UniMMCore

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager


def _no_name(_label: str, _action: str) -> AbstractContextManager[None]:
    return nullcontext()


class DeviceCore(UniMMCore):
    """UniMMCore that names each device before it talks to it while loading.

    Attributes
    ----------
    naming : callable
        Gives a context around the calls to one device, from its label and what is being done.
    """

    naming: Callable[[str, str], AbstractContextManager[None]] = staticmethod(_no_name)

    def initializeAllDevices(self) -> None:
        """Initialise the devices of Micro-Manager's adapters together, then the Python devices one by one."""
        labels = [label for label in self.getLoadedDevices() if label != "Core"]
        foreign = [label for label in labels if not self.isPyDevice(label)]
        if foreign:
            with self.naming(", ".join(foreign), "initialise"):
                CMMCorePlus.initializeAllDevices(self)
        for label in labels:
            if self.isPyDevice(label):
                with self.naming(label, "initialise"):
                    self.initializeDevice(label)

    def waitForDeviceType(self, devType: int) -> None:
        """Wait until no device of a type is busy."""
        foreign = [label for label in self.getLoadedDevicesOfType(devType) if not self.isPyDevice(label)]
        with self.naming(", ".join(foreign) or "Core", "wait until it rests"):
            CMMCorePlus.waitForDeviceType(self, devType)
        for label in self.getLoadedDevicesOfType(devType):
            if self.isPyDevice(label):
                with self.naming(label, "wait until it rests"):
                    self.waitForDevice(label)

    def waitForSystem(self) -> None:
        """Wait until no device is busy."""
        self.waitForDeviceType(DeviceType.AnyType)

    def setProperty(self, label: str, propName: str, propValue: bool | float | int | str) -> None:
        """Set a property."""
        with self.naming(label, f"set property {propName!r}"):
            super().setProperty(label, propName, propValue)

    def getProperty(self, label: str, propName: str) -> Any:
        """Read a property."""
        with self.naming(label, f"read property {propName!r}"):
            return super().getProperty(label, propName)

    def updateSystemStateCache(self) -> None:
        """Read every property once; one that cannot be read is left out."""
        for label in self.getLoadedDevices():
            if label != "Core" and self.isPyDevice(label):
                for name in self.getDevicePropertyNames(label):
                    with suppress(Exception):
                        self.getProperty(label, name)
        CMMCorePlus.updateSystemStateCache(self)
