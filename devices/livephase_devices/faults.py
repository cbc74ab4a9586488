"""Devices that hang, fail and lie on command, to test what is made of it.

``release_hangs`` lets every call return that hangs at that moment.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from pymmcore_plus.experimental.unicore import CameraDevice, StageDevice

from livephase_devices.python_device import add_property

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

_HANG_LIMIT_S = 600.0
_released = threading.Condition()
_releases = 0
_NO_END = 2**31 - 1


def release_hangs() -> None:
    """Let every call return that hangs now."""
    global _releases
    with _released:
        _releases += 1
        _released.notify_all()


def _hang() -> None:
    with _released:
        before = _releases
        # The limit only keeps a forgotten hang from outliving a test session.
        _released.wait_for(lambda: _releases != before, _HANG_LIMIT_S)


class FaultyCamera(CameraDevice):
    """Camera of 96 x 80 16-bit pixels that all hold the frame's number, so that a torn frame shows.

    Properties: ``Fault`` is what happens to frames ``FaultFrom`` .. ``FaultFrom + FaultCount - 1`` (frames count
    from 0 at loading; a failed exposure counts): ``none``, ``hang``, ``raise``, ``stale`` (no image is delivered,
    and no error), ``misshaped`` (an image of the wrong size). ``InitFault`` makes initialisation ``raise`` or
    ``hang``. ``FrameNumber`` is the number of the last exposure, ``FrameExposure-ms`` its exposure time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exposure_ms = self._frame_exposure_ms = 1.0
        self._number = -1
        self._ready = False
        self._settings: dict[str, Any] = {
            "Fault": "none",
            "FaultFrom": 0,
            "FaultCount": _NO_END,
            "InitFault": "none",
        }
        kinds = ("none", "hang", "raise", "stale", "misshaped")
        add_property(self, "Fault", str, *self._access("Fault"), allowed=kinds)
        add_property(self, "FaultFrom", int, *self._access("FaultFrom"), limits=(0, _NO_END))
        add_property(self, "FaultCount", int, *self._access("FaultCount"), limits=(0, _NO_END))
        add_property(
            self,
            "InitFault",
            str,
            *self._access("InitFault"),
            allowed=("none", "raise", "hang"),
            only_before=lambda: not self._ready,
        )
        add_property(self, "FrameNumber", int, lambda: self._number)
        add_property(self, "FrameExposure-ms", float, lambda: self._frame_exposure_ms)

    def _access(self, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
        def write(value: Any) -> None:
            self._settings[name] = value

        return lambda: self._settings[name], write

    def initialize(self) -> None:
        """Get ready, or fail as ``InitFault`` says."""
        if self._settings["InitFault"] == "hang":
            _hang()
        if self._settings["InitFault"] == "raise":
            raise RuntimeError("the camera's sensor does not answer")
        self._ready = True

    def get_exposure(self) -> float:
        """Exposure time in ms."""
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure time in ms."""
        self._exposure_ms = float(exposure)

    def shape(self) -> tuple[int, int]:
        """(Y, X) in pixels."""
        return 80, 96

    def dtype(self) -> DTypeLike:
        """16 bits."""
        return np.uint16

    def start_sequence(
        self, n: int | None, get_buffer: Callable[[Sequence[int], DTypeLike], NDArray[np.uint16]]
    ) -> Iterator[Mapping[str, Any]]:
        """Expose ``n`` frames, with the faults that are due."""
        for _ in range(_NO_END if n is None else n):
            self._number += 1
            fault = self._due()
            if fault == "hang":
                _hang()
            if fault == "raise":
                raise RuntimeError("the camera's cable was pulled")
            if fault == "stale":
                yield {}
                continue
            height, width = self.shape()
            buffer = get_buffer((height // 2 if fault == "misshaped" else height, width), self.dtype())
            buffer[:] = self._number % 65536
            self._frame_exposure_ms = self._exposure_ms
            time.sleep(self._frame_exposure_ms / 1000.0)
            yield {}

    def _due(self) -> str:
        first, count = self._settings["FaultFrom"], self._settings["FaultCount"]
        return str(self._settings["Fault"]) if first <= self._number < first + count else "none"


class FaultyLens(StageDevice):
    """Stage that arrives at once, unless ``Fault`` says otherwise.

    ``hang`` (moving never returns), ``hang-read`` (asking for the position never returns), ``raise``, ``ignore``
    (accepts a position and stays where it is), ``busy`` (never arrives). Property ``Current-mA`` is the same position,
    for a lens that is a property.
    """

    def __init__(self) -> None:
        super().__init__()
        self._position_um = 0.0
        self._fault = "none"

        def set_fault(value: str) -> None:
            self._fault = value

        kinds = ("none", "hang", "hang-read", "raise", "ignore", "busy")
        add_property(self, "Fault", str, lambda: self._fault, set_fault, allowed=kinds)
        add_property(self, "Current-mA", float, self.get_position_um, self.set_position_um, limits=(-300.0, 300.0))

    def set_position_um(self, val: float) -> None:
        """Go to ``val``, or not."""
        if self._fault == "hang":
            _hang()
        if self._fault == "raise":
            raise RuntimeError("the lens driver reports error 42")
        if self._fault != "ignore":
            self._position_um = float(val)

    def get_position_um(self) -> float:
        """Return the position in um."""
        if self._fault == "hang-read":
            _hang()
        return self._position_um

    def busy(self) -> bool:
        """Return whether the lens claims to be moving."""
        return self._fault == "busy"

    def home(self) -> None:
        """Go to 0."""
        self.set_position_um(0.0)

    def stop(self) -> None:
        """Do nothing: it moves at once."""

    def set_origin(self) -> None:
        """Call the present position 0."""
        self._position_um = 0.0
