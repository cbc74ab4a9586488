"""Device properties as clients see them: read, set between frames, and announced to viewers when they change.

Nothing connects to the events of Micro-Manager's core (``docs/decisions/008-property-changes.md`` says why). A change
made through this service is announced at once; any other is found by a thread that reads one property after the other
while somebody watches and no run has the microscope, and takes at most 2 % of the device thread's time for it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from livephase_devices.errors import DeviceTimeoutError, LivephaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from livephase_devices.microscope import DeviceInfo, Microscope, PropertyInfo, PropertyValue

log = logging.getLogger(__name__)

IDLE_S: Final = 0.5
"""How often the thread looks whether it has anything to do."""
GAP_S: Final = 0.02
"""Shortest pause between two readings."""
RETRY_S: Final = 60.0
"""How long a property is left alone that could not be read."""
SHARE: Final = 0.02
"""Largest part of the device thread's time that the readings may take."""

Key = tuple[str, str]


class Properties:
    """The properties of a microscope's devices; every method may be called from any thread.

    Parameters
    ----------
    microscope : Microscope
        Whose devices.
    tell : callable
        Gets ``"property"`` and the content of an event for every change.
    may_poll : callable
        Whether somebody watches and the microscope is free.
    """

    def __init__(
        self,
        microscope: Microscope,
        tell: Callable[[str, Mapping[str, Any]], None],
        may_poll: Callable[[], bool],
    ) -> None:
        self._microscope = microscope
        self._tell = tell
        self._may_poll = may_poll
        # Held while a value is read or set and announced, so that events come in the order of the device thread.
        self._lock = threading.Lock()
        self._known: dict[Key, PropertyValue] = {}
        self._fixed: set[Key] = set()
        self._left_out: dict[Key, float] = {}  # until when, monotonic s
        self._due: deque[Key] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="properties", daemon=True)

    def start(self) -> None:
        """Start looking for changes."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; a reading under way ends with its device's time-out at the latest."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def devices(self) -> list[DeviceInfo]:
        """Describe every loaded device."""
        return self._microscope.devices()

    def of_device(self, label: str) -> list[PropertyInfo]:
        """Read all properties of a device, one by one: a frame that is due does not wait for all of them."""
        return [self.read(label, name) for name in self._microscope.property_names(label)]

    def read(self, label: str, name: str) -> PropertyInfo:
        """Read a property; viewers are told where it is not what it was when it was read last."""
        with self._lock:
            info = self._microscope.describe_property(label, name)
            self._seen(info, announce_first=False)
        return info

    def set(self, label: str, name: str, value: PropertyValue) -> PropertyInfo:
        """Set a property and return it as read back; what it may have changed beside itself is looked at next."""
        try:
            with self._lock:
                self._microscope.set_property(label, name, value)
                info = self._microscope.describe_property(label, name)
                self._seen(info, announce_first=True)
        finally:
            self.look_at(label)
        return info

    def look_at(self, what: str) -> None:
        """Read a property ``label.name``, or those of a device, before all others: something has been done to it."""
        with self._lock:
            first = [key for key in self._known if what in (key[0], ".".join(key)) and key not in self._fixed]
            for key in first:
                if key in self._due:
                    self._due.remove(key)
            self._due.extendleft(first)

    # -- inside -----------------------------------------------------------------------------------------------

    def _seen(self, info: PropertyInfo, *, announce_first: bool) -> None:
        key = info.device, info.name
        unknown = key not in self._known
        changed = announce_first if unknown else not _same(self._known[key], info.value)
        self._known[key] = info.value
        self._left_out.pop(key, None)
        if info.read_only or info.pre_init:
            self._fixed.add(key)
        if changed:
            self._tell(
                "property",
                {
                    # the end of its address; also what makes newer news of it replace older ones in a full queue
                    "id": f"{quote(info.device, safe='')}/properties/{quote(info.name, safe='')}",
                    "device": info.device,
                    "name": info.name,
                    "value": info.value,
                },
            )

    def _poll(self) -> None:
        pause_s = IDLE_S
        while not self._stop.wait(pause_s):
            try:
                pause_s = self._look_at_next() if self._may_poll() else IDLE_S
            except LivephaseError as error:  # the microscope is closed or hangs: others say so
                log.debug("properties: %s", error)
                pause_s = IDLE_S
            except Exception:
                log.exception("looking for changed properties failed")
                pause_s = IDLE_S

    def _look_at_next(self) -> float:
        """Read the property that is due; return the pause after it in s."""
        with self._lock:
            key = self._due.popleft() if self._due else None
        if key is None:
            self._begin_round()
            return GAP_S if self._due else IDLE_S
        try:
            info = self.read(*key)
        except LivephaseError as error:
            self._leave_out(key, error)
            return IDLE_S
        return max(GAP_S, info.read_ms / 1000 / SHARE)

    def _begin_round(self) -> None:
        keys = [
            (device.label, name)
            for device in self._microscope.devices()
            for name in self._microscope.property_names(device.label)
        ]
        with self._lock:
            now_s = time.monotonic()
            self._due.extend(key for key in keys if key not in self._fixed and self._left_out.get(key, now_s) <= now_s)

    def _leave_out(self, key: Key, error: LivephaseError) -> None:
        """Leave a property alone for a while that cannot be read; one that hung, until somebody asks for it."""
        label, name = key
        if getattr(error, "device", None) != label:
            return  # another device hangs, or the microscope is closed
        hung = isinstance(error, DeviceTimeoutError)
        with self._lock:
            self._left_out[key] = math.inf if hung else time.monotonic() + RETRY_S
        if hung:
            log.warning("property %r is not looked at for changes any more: %s", name, error)
        else:
            log.info("property %r is not looked at for changes for %g s: %s", name, RETRY_S, error)


def _same(before: PropertyValue, now: PropertyValue) -> bool:
    return before == now or (before != before and now != now)  # NaN is the same as NaN
