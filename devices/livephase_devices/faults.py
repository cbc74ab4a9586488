"""A camera and a lens that hang, fail and lie on command, to test what is made of it.

A fault is placed at a frame or a state (property ``Fault``), or at any call that the core makes to the device
(``EventFault``, see ``livephase_devices.fault_events``); by property, so also from a ``.cfg``.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pymmcore_plus.experimental.unicore import CameraDevice, StageDevice

from livephase_devices.fault_events import NO_END, EventFaults, hang, history, release_hangs, replug
from livephase_devices.python_device import add_property

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = ["FaultyCamera", "FaultyLens", "history", "release_hangs", "replug"]

_SHAPE: Final = (80, 96)
_EXPOSURE_FAULTS: Final = ("stale", "misshaped", "tear", "torn", "old", "overwritten")
_LIE_UM: Final = 3.0


class FaultyCamera(CameraDevice):
    """Camera of 96 x 80 16-bit pixels that all hold the frame's number, so that a torn frame shows.

    Properties: ``Fault`` is what happens to frames ``FaultFrom`` .. ``FaultFrom + FaultCount - 1`` (frames count
    from 0 at loading; a failed exposure counts): ``none``, ``hang``, ``stall``, ``raise``, ``vanish``, or

    - ``stale``: no image is delivered, and no error;
    - ``misshaped``: an image of the wrong size;
    - ``tear``: an error when half the image is there;
    - ``torn``: an image whose lower half is the one before, without an error;
    - ``old``: the image before, once more;
    - ``overwritten``: the next exposure is written over the image that was delivered.

    ``EventFault`` takes the same kinds at any call. ``Grain`` = 1 gives every image structure that stays:
    its right half holds the column. ``InitFault`` makes initialisation ``raise`` or ``hang``. ``FrameNumber`` is the
    number of the last exposure, ``FrameExposure-ms`` its exposure time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exposure_ms = self._frame_exposure_ms = 1.0
        self._number = -1
        self._image: NDArray[np.uint16] | None = None
        self._overwritten = False
        self._ready = False
        self._settings: dict[str, Any] = {
            "Fault": "none",
            "FaultFrom": 0,
            "FaultCount": NO_END,
            "InitFault": "none",
            "Grain": 0,
        }
        self._events = EventFaults(self, _EXPOSURE_FAULTS, "the camera's cable was pulled")
        kinds = ("none", "hang", "stall", "raise", "vanish", *_EXPOSURE_FAULTS)
        add_property(self, "Fault", str, *self._access("Fault"), allowed=kinds)
        add_property(self, "FaultFrom", int, *self._access("FaultFrom"), limits=(0, NO_END))
        add_property(self, "FaultCount", int, *self._access("FaultCount"), limits=(0, NO_END))
        add_property(self, "Grain", int, *self._access("Grain"), limits=(0, 1))
        add_property(
            self,
            "InitFault",
            str,
            *self._access("InitFault"),
            allowed=("none", "raise", "hang"),
            only_before=lambda: not self._ready,
        )
        add_property(self, "FrameNumber", int, self._frame_number)
        add_property(self, "FrameExposure-ms", float, self._exposure_of_frame)

    def _access(self, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
        def write(value: Any) -> None:
            self._settings[name] = value

        return lambda: self._settings[name], write

    def _frame_number(self) -> int:
        self._events.call("read FrameNumber")
        return self._number

    def _exposure_of_frame(self) -> float:
        self._events.call("read FrameExposure-ms")
        return self._frame_exposure_ms

    def initialize(self) -> None:
        """Get ready, or fail as ``InitFault`` says."""
        self._events.call("initialise")
        if self._settings["InitFault"] == "hang":
            hang()
        if self._settings["InitFault"] == "raise":
            raise RuntimeError("the camera's sensor does not answer")
        self._ready = True

    def shutdown(self) -> None:
        """Nothing is to be done, but it may go wrong."""
        self._events.call("shut down")

    def busy(self) -> bool:
        """It never is."""
        self._events.call("ask whether it rests")
        return False

    def get_exposure(self) -> float:
        """Exposure time in ms."""
        self._events.call("read the exposure")
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure time in ms."""
        self._events.call("set the exposure")
        self._exposure_ms = float(exposure)

    def shape(self) -> tuple[int, int]:
        """(Y, X) in pixels."""
        self._events.call("read the shape")
        return _SHAPE

    def dtype(self) -> DTypeLike:
        """16 bits."""
        self._events.call("read the pixel type")
        return np.uint16

    def start_sequence(
        self, n: int | None, get_buffer: Callable[[Sequence[int], DTypeLike], NDArray[np.uint16]]
    ) -> Iterator[Mapping[str, Any]]:
        """Expose ``n`` frames, with the faults that are due."""
        for _ in range(NO_END if n is None else n):
            self._number += 1
            fault = self._events.call("snap", self._number)
            if fault == "none":
                fault = self._due()
                if fault == "raise":
                    raise RuntimeError("the camera's cable was pulled")
                self._events.act(fault)
            if fault == "stale":
                yield {}
                continue
            height, width = _SHAPE
            buffer = get_buffer((height // 2 if fault == "misshaped" else height, width), np.uint16)
            self._read_out(buffer, fault)
            self._frame_exposure_ms = self._exposure_ms
            time.sleep(self._frame_exposure_ms / 1000.0)
            yield {}

    def _read_out(self, buffer: NDArray[np.uint16], fault: str) -> None:
        """Fill the buffer with the number of the exposure, from the top."""
        half = len(buffer) // 2
        before = self._image
        if self._overwritten and before is not None:
            before[:] = self._number % 65536
        self._overwritten = fault == "overwritten"
        if fault == "tear":
            buffer[:half] = self._number % 65536
            raise RuntimeError("the camera lost the second half of the image")
        if fault == "old" and before is not None:
            buffer[:] = before
        else:
            buffer[:] = self._number % 65536
            if fault == "torn":
                buffer[half:] = (self._number - 1) % 65536
            if self._settings["Grain"]:
                right = _SHAPE[1] // 2
                buffer[:, right:] = np.arange(right, _SHAPE[1])
        self._image = buffer

    def _due(self) -> str:
        first, count = self._settings["FaultFrom"], self._settings["FaultCount"]
        return str(self._settings["Fault"]) if first <= self._number < first + count else "none"


class FaultyLens(StageDevice):
    """Stage that arrives at once, unless ``Fault`` says otherwise.

    ``hang`` (moving never returns), ``hang-read`` (asking for the position never returns), ``raise``, ``ignore``
    (accepts a position and stays where it is), ``busy`` (never arrives). ``EventFault`` takes, at any call, ``hang``,
    ``stall``, ``raise``, ``vanish`` and

    - ``ignore``, in a move: it accepts the position and stays where it is;
    - ``lie``, in a move: it stays where it is, and reports from then on that it has arrived;
      when asked for its position: it reports one 3 um away;
    - ``nan``, when asked for its position: it reports no number;
    - ``busy``, when asked whether it rests: it does not rest again until ``Fault`` is set to ``none``.

    Property ``Current-mA`` is the same position, for a lens that is a property; ``TruePosition-um`` is where it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._position_um = self._reported_um = 0.0
        self._fault = "none"
        self._events = EventFaults(self, ("ignore", "lie", "nan", "busy"), "the lens driver's port is gone")

        def set_fault(value: str) -> None:
            self._fault = value

        kinds = ("none", "hang", "hang-read", "raise", "ignore", "busy")
        add_property(self, "Fault", str, lambda: self._fault, set_fault, allowed=kinds)
        add_property(self, "TruePosition-um", float, lambda: self._position_um)
        add_property(self, "Current-mA", float, self.get_position_um, self.set_position_um, limits=(-300.0, 300.0))

    def initialize(self) -> None:
        """Nothing is to be done, but it may go wrong."""
        self._events.call("initialise")

    def shutdown(self) -> None:
        """Nothing is to be done, but it may go wrong."""
        self._events.call("shut down")

    def set_position_um(self, val: float) -> None:
        """Go to ``val``, or not."""
        fault = self._events.call("move")
        if self._fault == "hang":
            hang()
        if self._fault == "raise":
            raise RuntimeError("the lens driver reports error 42")
        if self._fault != "ignore" and fault not in ("ignore", "lie"):
            self._position_um = float(val)
        self._reported_um = float(val) if fault == "lie" else self._position_um

    def get_position_um(self) -> float:
        """Return the position in um."""
        fault = self._events.call("read the position")
        if self._fault == "hang-read":
            hang()
        if fault == "nan":
            return math.nan
        return self._reported_um + (_LIE_UM if fault == "lie" else 0.0)

    def busy(self) -> bool:
        """Return whether the lens claims to be moving."""
        if self._events.call("ask whether it rests") == "busy":
            self._fault = "busy"
        return self._fault == "busy"

    def home(self) -> None:
        """Go to 0."""
        self.set_position_um(0.0)

    def stop(self) -> None:
        """Do nothing: it moves at once."""

    def set_origin(self) -> None:
        """Call the present position 0."""
        self._position_um = self._reported_um = 0.0
