"""Continuous acquisition without a lost frame; runs on the owner thread.

A C++ camera runs Micro-Manager's sequence acquisition with "stop on overflow": the core then never overwrites an
image that was not fetched. Its image numbers must be contiguous, the overflow flag is sticky, and a camera that
stops by itself is noticed: each of these is an error, never a silent gap.

A Python camera is snapped again and again. The sequence buffer that pymmcore-plus 0.18 gives to Python cameras drops
and tears frames, swallows the camera's exceptions and accepts a second start; it is never used.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from livephase_devices.errors import DeviceError, DeviceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Generator

    from livephase_devices.frame import CameraFrame
    from livephase_devices.session import CoreSession

_NO_END = 2**31 - 1
"""Stands for "until stopped": the core counts images in a C long, which has 32 bits on Windows."""


class Sequence(ABC):
    """A continuous acquisition.

    Attributes
    ----------
    ended : bool
        Stopped, or all ``count`` frames were fetched.
    failure : DeviceError or None
        Why no further frame can come; sticky until the sequence is stopped.
    """

    def __init__(self, session: CoreSession, count: int | None) -> None:
        self._session = session
        self._count = count
        self._fetched = 0
        self.ended = False
        self.failure: DeviceError | None = None

    def fetch(self) -> CameraFrame | None:
        """Return the next frame, or None when none is there yet or the sequence has ended.

        Raises
        ------
        DeviceError
            The camera failed or frames were lost; raised again by every later call.
        """
        if self.failure is not None:
            raise self.failure
        if self.ended:
            return None
        try:
            frame = self._next()
        except DeviceError as error:
            self.failure = error
            self._halt()
            raise
        if frame is not None:
            self._fetched += 1
            if self._fetched == self._count:
                self.stop()
        return frame

    def stop(self) -> None:
        """End the sequence; frames that were not fetched are given up."""
        self.ended = True
        self._halt()

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Keep the camera from exposing while a device is changed; frames so far keep their own values."""
        yield

    @abstractmethod
    def _next(self) -> CameraFrame | None: ...

    @abstractmethod
    def _halt(self) -> None: ...


class SnapSequence(Sequence):
    """Repeated snaps of a Python camera: one exposure for every fetch."""

    def _next(self) -> CameraFrame:
        return self._session.snap()

    def _halt(self) -> None:
        """Do nothing: between two fetches the camera rests."""


class BufferedSequence(Sequence):
    """Sequence acquisition of a C++ camera through the core's image buffer.

    Parameters
    ----------
    session : CoreSession
        The loaded core.
    count : int or None
        Frames to take; None until stopped.
    """

    def __init__(self, session: CoreSession, count: int | None) -> None:
        super().__init__(session, count)
        self._rescued: deque[CameraFrame] = deque()
        self._camera = session.config.camera
        self._start()

    def _start(self) -> None:
        """Start exposing; image numbers count from 0 again."""
        self._defocus_um = self._session.confirmed_defocus_um()
        self._exposure_ms = self._session.read_exposure_ms()
        with self._session.touching(self._camera, "start the sequence"):
            core = self._session.core
            taken = self._fetched + len(self._rescued)
            wanted = _NO_END if self._count is None else self._count - taken
            self._next_number = 0
            self._start_utc_ns, self._start_monotonic_ns = time.time_ns(), time.monotonic_ns()
            self._last_seen_s = time.monotonic()
            core.startSequenceAcquisition(self._camera, wanted, 0.0, True)

    def _next(self) -> CameraFrame | None:
        if self._rescued:
            return self._rescued.popleft()
        with self._session.touching(self._camera, "fetch an image of the sequence"):
            core = self._session.core
            # Asked before the buffer is looked at: an image that arrives in between is then still fetched.
            running = core.isSequenceRunning()
            if core.getRemainingImageCount() > 0:
                return self._pop()
            if core.isBufferOverflowed():
                raise DeviceError(
                    f"the image buffer overflowed after {self._position()} frames of the sequence: later frames "
                    "were lost; fetch faster, lengthen the exposure or reduce the region",
                    self._camera,
                )
            if not running:
                raise DeviceError(
                    f"ended the sequence by itself after {self._position()} frames"
                    + (f" of {self._count}" if self._count is not None else ""),
                    self._camera,
                )
            silent_s = time.monotonic() - self._last_seen_s
            if silent_s > self._session.frame_limit_s(self._exposure_ms):
                raise DeviceTimeoutError(
                    f"has sent no frame for {silent_s:.0f} s in a running sequence; check its cable, power and trigger",
                    self._camera,
                )
        return None

    def _position(self) -> int:
        return self._fetched + len(self._rescued)

    def _pop(self) -> CameraFrame:
        image, metadata = self._session.core.popNextImageAndMD(fix=False)
        number = int(metadata["ImageNumber"])
        if number != self._next_number:
            raise DeviceError(
                f"lost {number - self._next_number} frame(s) before frame {self._position()} of the sequence "
                f"(image number {number} came instead of {self._next_number})",
                self._camera,
            )
        self._next_number += 1
        self._last_seen_s = time.monotonic()
        now_ns = time.monotonic_ns() - self._start_monotonic_ns
        arrived_ns = int(float(metadata["ElapsedTime-ms"]) * 1e6) if "ElapsedTime-ms" in metadata else now_ns
        began_ns = max(0, arrived_ns - int(self._exposure_ms * 1e6))
        return self._session.frame(
            image,
            self._exposure_ms,
            self._defocus_um,
            self._start_utc_ns + began_ns,
            self._start_monotonic_ns + began_ns,
        )

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Stop the camera, keep what it has exposed, and start it again afterwards.

        So every frame was exposed entirely before or entirely after the change, and says which.
        """
        if self.ended or self.failure is not None:
            yield
            return
        self._halt()
        try:
            with self._session.touching(self._camera, "fetch the images before a change"):
                while self._session.core.getRemainingImageCount() > 0:
                    self._rescued.append(self._pop())
                if self._session.core.isBufferOverflowed():
                    raise DeviceError("the image buffer overflowed: frames were lost; fetch faster", self._camera)
        except DeviceError as error:
            self.failure = error
            raise
        try:
            yield
        finally:
            if self._count is None or self._position() < self._count:
                try:
                    self._start()
                except DeviceError as error:
                    self.failure = error

    def _halt(self) -> None:
        # A failing stop must not hide the error that led here; unloading tries again. Stopping waits for the end
        # of an exposure.
        limit_s = self._session.frame_limit_s()
        with suppress(DeviceError), self._session.touching(self._camera, "stop the sequence", limit_s):
            self._session.core.stopSequenceAcquisition(self._camera)
