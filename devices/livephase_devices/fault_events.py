"""Faults of a device at any call that the core makes to it: hang, stall, raise, vanish.

Every call counts as an event, so that a fault can be placed at each of them. ``release_hangs`` lets every call return
that hangs at that moment; ``replug`` brings every device back that has vanished.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from livephase_devices.python_device import add_property

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymmcore_plus.experimental.unicore import Device

NO_END: Final = 2**31 - 1
HANG_LIMIT_S: Final = 600.0
"""Only keeps a forgotten hang from outliving a test session."""
EVERYWHERE: Final = ("hang", "stall", "raise", "vanish")
"""Kinds that can happen in any call."""

_released = threading.Condition()
_releases = 0
_plugged = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One call of the core to a device.

    Attributes
    ----------
    device : str
        Label of the device.
    index : int
        Number of the call, from 0 at loading or from what ``NextEvent`` was set to.
    call : str
        ``"snap"``, ``"read the position"`` and so on.
    kind : str
        Fault that happened, ``"none"`` where none did.
    began_s : float
        Monotonic s.
    frame : int
        Number of the exposure, for a camera; -1 otherwise.
    """

    device: str
    index: int
    call: str
    kind: str
    began_s: float
    frame: int


history: deque[Event] = deque(maxlen=100_000)
"""What was called, of all devices of this process, oldest first."""


def release_hangs() -> None:
    """Let every call return that hangs now."""
    global _releases
    with _released:
        _releases += 1
        _released.notify_all()


def replug() -> None:
    """Bring every device back that has vanished."""
    global _plugged
    with _released:
        _plugged += 1


def hang() -> None:
    """Wait for ``release_hangs``."""
    with _released:
        before = _releases
        _released.wait_for(lambda: _releases != before, HANG_LIMIT_S)


class EventFaults:
    """Counts the calls to one device, and lets them go wrong where its properties say so.

    Properties: ``EventFault`` happens to the calls ``EventFaultAt`` .. ``EventFaultAt + EventFaultCount - 1``:
    ``none``, ``hang``, ``stall`` (takes ``StallTime-s`` and then works), ``raise``, ``vanish`` (this call and all
    later ones raise until ``replug``), or a kind of the device's own. Calls count from 0 at loading; setting
    ``NextEvent`` gives the next call that number. Access to these properties and to the device's other switches is no
    event.

    Parameters
    ----------
    device : Device
        Gets the properties.
    own_kinds : tuple of str
        Kinds that the device acts out itself, in the calls where they make sense.
    gone : str
        What a vanished device raises.
    """

    def __init__(self, device: Device, own_kinds: tuple[str, ...], gone: str) -> None:
        self._device = device
        self._gone_text = gone
        self._count = self._set_to = 0
        self._gone_since: int | None = None
        self._settings: dict[str, Any] = {
            "EventFault": "none",
            "EventFaultAt": 0,
            "EventFaultCount": 1,
            "StallTime-s": 0.1,
        }
        kinds = ("none", *EVERYWHERE, *(kind for kind in own_kinds if kind not in EVERYWHERE))
        add_property(device, "EventFault", str, *self._access("EventFault"), allowed=kinds)
        add_property(device, "EventFaultAt", int, *self._access("EventFaultAt"), limits=(0, NO_END))
        add_property(device, "EventFaultCount", int, *self._access("EventFaultCount"), limits=(0, NO_END))
        add_property(device, "StallTime-s", float, *self._access("StallTime-s"), limits=(0, 3600))
        add_property(device, "NextEvent", int, lambda: self._set_to, self._renumber, limits=(0, NO_END))

    def _access(self, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
        def write(value: Any) -> None:
            self._settings[name] = value

        return lambda: self._settings[name], write

    def _renumber(self, index: int) -> None:
        self._count = self._set_to = index

    def call(self, name: str, frame: int = -1) -> str:
        """Count a call; hang, stall or raise where that is due; return the fault, which may be the device's own."""
        index = self._count
        self._count += 1
        first, count = self._settings["EventFaultAt"], self._settings["EventFaultCount"]
        kind = str(self._settings["EventFault"]) if first <= index < first + count else "none"
        history.append(Event(self._device.get_label(), index, name, kind, time.monotonic(), frame))
        if self._gone_since == _plugged:
            kind = "vanish"
        self.act(kind)
        return kind

    def act(self, kind: str) -> None:
        """Hang, stall, raise or vanish; do nothing for any other kind."""
        if kind == "hang":
            hang()
        elif kind == "stall":
            time.sleep(self._settings["StallTime-s"])
        elif kind == "raise":
            raise RuntimeError("the device reports error 42")
        elif kind == "vanish":
            self._gone_since = _plugged
            raise RuntimeError(self._gone_text)
