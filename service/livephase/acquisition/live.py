"""Live mode: take frames continuously, give the engine the newest one whenever it is free, drop the others.

A device error is shown at once and live mode goes on when the device does. Nothing is stored. The frame that
the engine gets was taken after the engine became free, so a preview is never older than one exposure and one
inference.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from livephase.acquisition.progress import LiveStatus
from livephase_devices.errors import DeviceError, LivephaseError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from livephase.acquisition.ports import Observer, PhaseEngine
    from livephase.frames import PhaseResult
    from livephase_devices.frame import CameraFrame
    from livephase_devices.microscope import Microscope

log = logging.getLogger(__name__)

RETRY_PAUSE_S: Final = (0.5, 5.0)
"""Pause after the first device error in a row, and the longest one; doubled in between."""
BUSY_PAUSE_S: Final = 0.1
"""Longest pause after a frame that the engine was too busy for: further ones would only cost it processor time."""


class LiveMode:
    """Live mode's state and one step of its loop; the acquisition thread calls ``step``.

    Parameters
    ----------
    microscope, engine, observer
        The parts it uses.
    wake : callable
        Called when the engine has become free; from any thread.
    """

    def __init__(
        self, microscope: Microscope, engine: PhaseEngine, observer: Observer, wake: Callable[[], None]
    ) -> None:
        self._microscope = microscope
        self._engine = engine
        self._observer = observer
        self._wake = wake
        self._lock = threading.Lock()
        self._running = False
        self._frames = 0
        self._dropped = 0
        self._failures = 0
        self._fault: str | None = None
        self._in_engine: Future[PhaseResult] | None = None

    @property
    def status(self) -> LiveStatus:
        """Live mode at this moment; from any thread."""
        with self._lock:
            return LiveStatus(self._running, self._frames, self._dropped, self._fault)

    @property
    def engine_busy(self) -> bool:
        """Whether the engine has a frame of live mode."""
        return self._in_engine is not None and not self._in_engine.done()

    def switch(self, running: bool) -> None:
        """Start or stop taking frames; either clears an earlier fault."""
        with self._lock:
            changed = self._running != running
            self._running = running
            self._fault = None
            self._failures = 0
        if changed:
            self._observer.live_changed(self.status)

    def step(self, stated_defocus_um: float | None) -> float:
        """Take one frame and give it to the engine if that is free; return how many seconds to pause.

        Parameters
        ----------
        stated_defocus_um : float or None
            Defocus of a microscope without a lens, as its user states it.
        """
        try:
            frame = self._microscope.snap()
        except DeviceError as error:
            return self._device_failed(error)
        if self._failures:
            self._recovered()
        submitted = self._submit(frame, frame.defocus_um if frame.defocus_um is not None else stated_defocus_um)
        with self._lock:
            self._frames += 1
            self._dropped += not submitted
        self._observer.live_frame(submitted=submitted)
        return 0.0 if submitted else BUSY_PAUSE_S

    def _submit(self, frame: CameraFrame, defocus_um: float | None) -> bool:
        if defocus_um is None or self._engine.status().state != "ready":
            self._observer.frame_ready(frame, None, defocus_um=defocus_um, run_id=None, time_point=None)
            return False
        if self.engine_busy:
            return False
        try:
            future = self._engine.submit(frame.pixels, defocus_um, bit_depth=frame.bit_depth)
        except LivephaseError as error:
            log.warning("live: %s", error)
            return False
        self._in_engine = future
        future.add_done_callback(lambda done: self._publish(done, frame, defocus_um))
        future.add_done_callback(lambda _: self._wake())
        return True

    def _publish(self, done: Future[PhaseResult], frame: CameraFrame, defocus_um: float) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            log.info("live: %s", error)  # the next frame follows at once; the engine reports its own state
            return
        self._observer.frame_ready(frame, done.result(), defocus_um=defocus_um, run_id=None, time_point=None)

    def _device_failed(self, error: DeviceError) -> float:
        first_s, longest_s = RETRY_PAUSE_S
        with self._lock:
            pause_s = min(first_s * 2**self._failures, longest_s)
            self._failures += 1
            self._fault = str(error)
        if self._failures == 1:
            self._observer.fault(f"live mode waits: {error}")
            self._observer.live_changed(self.status)
        return pause_s

    def _recovered(self) -> None:
        with self._lock:
            log.warning("live: frames again after %d errors", self._failures)
            self._failures = 0
            self._fault = None
        self._observer.live_changed(self.status)
