"""Recorded frames as a camera: exactly the recorded pixels, in order, through the same core as any camera."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pymmcore_plus.experimental.unicore import SimpleCameraDevice

from livephase_devices.python_device import add_property
from livephase_devices.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray


class ReplayCamera(SimpleCameraDevice):
    """Camera that delivers the frames of a recording, one for each exposure.

    Properties: ``Path`` (before initialisation; see ``Recording`` for what it may be), ``BitDepth`` (before
    initialisation; 0 takes that of the pixel type), ``Loop`` (1 starts again after the last frame), ``NextFrame``
    (which frame comes next), ``Frame`` (which one came last, -1 before the first) and ``FrameCount``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._path = ""
        self._bit_depth = 0
        self._loop = 0
        self._next = 0
        self._last = -1
        self._exposure_ms = 10.0
        self._recording: Recording | None = None

        def before() -> bool:
            return self._recording is None

        def set_path(value: str) -> None:
            self._path = value

        def set_bit_depth(value: int) -> None:
            self._bit_depth = value

        def set_loop(value: str) -> None:
            self._loop = int(value)

        add_property(self, "Path", str, lambda: self._path, set_path, only_before=before)
        add_property(self, "BitDepth", int, self._bits, set_bit_depth, limits=(0, 16), only_before=before)
        add_property(self, "Loop", str, lambda: str(self._loop), set_loop, allowed=("0", "1"))
        add_property(self, "NextFrame", int, lambda: self._next, self._set_next)
        add_property(self, "Frame", int, lambda: self._last)
        add_property(self, "FrameCount", int, lambda: 0 if self._recording is None else self._recording.count)

    def initialize(self) -> None:
        """Open the recording.

        Raises
        ------
        FileNotFoundError, ValueError
            It cannot be replayed; the message says why.
        """
        if not self._path:
            raise ValueError("the property Path is empty; set it to the recording before initialisation")
        recording = Recording(Path(self._path).expanduser())
        if recording.dtype == np.uint8 and self._bit_depth > 8:
            recording.close()
            raise ValueError(f"BitDepth {self._bit_depth} does not fit the 8-bit frames of {self._path}")
        self._recording = recording

    def shutdown(self) -> None:
        """Close the recording."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None

    def sensor_shape(self) -> tuple[int, int]:
        """(Y, X) of the recorded frames."""
        return self._opened().shape

    def dtype(self) -> DTypeLike:
        """uint8 or uint16, as recorded."""
        return self._opened().dtype

    def get_exposure(self) -> float:
        """Time between two frames in ms."""
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the time between two frames in ms; it does not change the pixels."""
        value_ms = float(exposure)
        if not 0 < value_ms <= 60_000.0:
            raise ValueError(f"{value_ms:g} ms is outside 0 to 60000 ms")
        self._exposure_ms = value_ms

    def snap(self, buffer: NDArray[np.uint8] | NDArray[np.uint16]) -> Mapping[str, object]:
        """Copy the next frame into ``buffer``.

        Raises
        ------
        EOFError
            The recording has ended and ``Loop`` is 0.
        """
        began_s = time.monotonic()
        recording = self._opened()
        if self._next >= recording.count:
            if not self._loop:
                raise EOFError(
                    f"the recording {recording.path} has ended after {recording.count} frames; "
                    "set Loop to 1, or NextFrame to 0 to see it again"
                )
            self._next = 0
        buffer[:] = recording.frame(self._next)
        self._last = self._next
        self._next += 1
        time.sleep(max(0.0, self._exposure_ms / 1000.0 - (time.monotonic() - began_s)))
        return {"Frame": self._last}

    def _opened(self) -> Recording:
        if self._recording is None:
            raise RuntimeError("no recording is open: the camera is not initialised")
        return self._recording

    def _bits(self) -> int:
        if self._bit_depth or self._recording is None:
            return self._bit_depth
        return 8 * self._recording.dtype.itemsize

    def _set_next(self, index: int) -> None:
        count = self._opened().count
        if not 0 <= index < count:
            raise ValueError(f"there is no frame {index}: the recording has frames 0 to {count - 1}")
        self._next = index
