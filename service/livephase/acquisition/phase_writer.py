"""The phase of a run: one thread that feeds the engine, stores what comes back, and backfills from raw.

The acquisition thread hands over every frame whose raw pixels are durable and never waits here. In memory
there is at most one frame waiting and one in the engine; of all others only the index and the defocus are
kept, and their pixels are read back from the store when the engine is free. The newest frame goes first, so
that the preview is live; older ones fill the idle time. A frame that fails is tried again after the others,
and its phase is recorded missing after ``ATTEMPTS``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from livephase_devices.errors import LivephaseError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from livephase.acquisition.ports import Observer, PhaseEngine, RunSink
    from livephase.frames import PhaseResult
    from livephase_devices.frame import CameraFrame

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""How often one frame is given to the engine before its phase is recorded missing."""
POLL_S: Final = 0.2
"""How often it is looked whether the engine has come back."""
DRAIN_FLOOR_S: Final = 180.0
"""What a stuck or restarting engine gets after the last raw frame, whatever the number of missing phases."""
DRAIN_FACTOR: Final = 4.0
"""After the last raw frame every missing phase gets this many times the measured time for one."""
UNMEASURED_S: Final = 1.0
"""Assumed time for one phase while none was measured."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A frame without phase; ``frame`` holds the pixels only for the newest one."""

    index: int
    defocus_um: float
    frame: CameraFrame | None


@dataclass(frozen=True, slots=True)
class _Job:
    """A frame in the engine."""

    waiting: _Waiting
    future: Future[PhaseResult]
    submitted_s: float


class PhaseWriter:
    """Compute and store the phase of every raw frame of one run.

    Parameters
    ----------
    engine, sink, observer
        See ``livephase.acquisition.ports``.
    run_id : str
        Named in previews and in log lines.
    bit_depth : int
        Of the raw pixels, the same for all frames of the run.
    progressed : callable
        Called, from this thread, whenever a phase is stored or recorded missing.
    """

    def __init__(
        self,
        engine: PhaseEngine,
        sink: RunSink,
        observer: Observer,
        *,
        run_id: str,
        bit_depth: int,
        progressed: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._sink = sink
        self._observer = observer
        self._run_id = run_id
        self._bit_depth = bit_depth
        self._progressed = progressed
        self._lock = threading.Lock()
        self._newest: _Waiting | None = None
        self._backlog: deque[_Waiting] = deque()
        self._attempts: dict[int, int] = {}
        self._in_engine = 0
        self._measured_s: float | None = None
        self._fault: str | None = None
        self._misfit: float | None = None
        self._closed = False
        self._abandoned = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"phase-writer-{run_id}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, index: int, frame: CameraFrame, defocus_um: float) -> None:
        """Hand over a frame whose raw pixels are durable; returns at once."""
        with self._lock:
            overtaken = self._newest
            if overtaken is not None:
                self._backlog.append(_Waiting(overtaken.index, overtaken.defocus_um, None))
            self._newest = _Waiting(index, defocus_um, frame)
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Frames on disk whose phase is neither stored nor recorded missing."""
        with self._lock:
            return len(self._backlog) + (self._newest is not None) + self._in_engine

    @property
    def expected_s(self) -> float:
        """Expected seconds until every frame handed over so far has its phase."""
        return self.waiting * (UNMEASURED_S if self._measured_s is None else self._measured_s)

    @property
    def misfit(self) -> float | None:
        """Misfit of the latest phase that was judged and stored."""
        return self._misfit

    @property
    def fault(self) -> str | None:
        """Why phase cannot be stored any more, or None."""
        return self._fault

    def drain(self, stop: threading.Event, grace_s: float) -> bool:
        """Wait for the missing phases; True when none is left.

        Gives up after a time that scales with the number of missing phases and the measured time for one, at
        once when the engine has stopped for good, and ``grace_s`` seconds after ``stop`` is set.
        """
        per_frame_s = DRAIN_FACTOR * (UNMEASURED_S if self._measured_s is None else self._measured_s)
        deadline_s = time.monotonic() + DRAIN_FLOOR_S + per_frame_s * self.waiting
        self._closed = True
        self._wake.set()
        while self._thread.is_alive():
            if stop.is_set():
                deadline_s = min(deadline_s, time.monotonic() + grace_s)
                self._thread.join(max(0.0, deadline_s - time.monotonic()))
                break
            if time.monotonic() >= deadline_s or self._engine.status().state == "stopped":
                break
            self._thread.join(POLL_S)
        self._abandoned = True
        self._wake.set()
        self._thread.join()
        return self.waiting == 0

    def _run(self) -> None:
        job: _Job | None = None
        try:
            while True:
                self._wake.clear()
                if self._abandoned:  # tested after the clear: a request from before it would not be seen otherwise
                    return
                if job is not None and job.future.done():
                    finished = job
                    job = self._submit_next()  # keeps the engine busy while the result is stored
                    self._store(finished)
                    continue
                if job is None:
                    job = self._submit_next()
                    if job is None and self._closed and self.waiting == 0:
                        return
                self._wake.wait(POLL_S if job is None else None)
        except Exception as error:
            log.exception("run %s: the phase writer failed", self._run_id)
            self._fault = f"the phase writer failed: {error}"
            self._observer.fault(f"run {self._run_id}: {self._fault}; raw frames go on, phase is missing from here")
        finally:
            if job is not None:
                job.future.cancel()

    def _submit_next(self) -> _Job | None:
        """Give the engine the newest frame, or else the oldest of the backlog; None if that is impossible."""
        if self._engine.status().state != "ready":
            return None
        with self._lock:
            if self._newest is not None:
                taken, self._newest = self._newest, None
            elif self._backlog:
                taken = self._backlog.popleft()
            else:
                return None
            self._in_engine += 1
        try:
            pixels = self._sink.read_raw(taken.index) if taken.frame is None else taken.frame.pixels
            future = self._engine.submit(pixels, taken.defocus_um, bit_depth=self._bit_depth)
        except Exception as error:  # noqa: BLE001  one frame must not end the phase of the others
            self._failed(taken, error)
            return None
        job = _Job(taken, future, time.monotonic())
        future.add_done_callback(lambda _: self._wake.set())
        return job

    def _store(self, job: _Job) -> None:
        taken = job.waiting
        try:
            result = job.future.result()
        except Exception as error:  # noqa: BLE001  logged and told there
            self._failed(taken, error)
            return
        taken_s = time.monotonic() - job.submitted_s
        self._measured_s = taken_s if self._measured_s is None else 0.7 * self._measured_s + 0.3 * taken_s
        if not bool(np.isfinite(result.phase_rad).any()):  # single pixels may be NaN: outside a field stop
            self._give_up(taken, "the network returned no finite value")
            return
        try:
            self._sink.write_phase(taken.index, result, backfilled=taken.frame is None)
        except Exception as error:  # noqa: BLE001  logged and told there
            self._failed(taken, error)
            return
        if result.misfit is not None:
            self._misfit = result.misfit.value
        self._settled(taken)
        if taken.frame is not None:
            self._observer.frame_ready(
                taken.frame,
                result,
                defocus_um=taken.defocus_um,
                run_id=self._run_id,
                time_point=taken.index,
            )

    def _failed(self, taken: _Waiting, error: Exception) -> None:
        """Put a frame back behind the others, or record its phase missing when it was tried often enough."""
        attempts = self._attempts.get(taken.index, 0) + 1
        log.warning("run %s: phase of time point %d, attempt %d: %s", self._run_id, taken.index, attempts, error)
        reason = str(error)
        if not isinstance(error, LivephaseError):
            reason = f"unexpected: {type(error).__name__}: {error}"
            log.error("run %s: unexpected error", self._run_id, exc_info=error)
            self._observer.fault(f"the phase of time point {taken.index}, attempt {attempts}: {reason}")
        if attempts >= ATTEMPTS:
            self._give_up(taken, reason)
            return
        self._attempts[taken.index] = attempts
        with self._lock:
            self._backlog.append(_Waiting(taken.index, taken.defocus_um, None))
            self._in_engine -= 1

    def _give_up(self, taken: _Waiting, reason: str) -> None:
        try:
            self._sink.mark_phase_missing(taken.index, reason)
        except Exception as error:
            log.exception("run %s: time point %d", self._run_id, taken.index)
            self._fault = f"the phase of time point {taken.index} could not be recorded missing: {error}"
            self._observer.fault(self._fault)
        else:
            self._observer.fault(f"time point {taken.index} has no phase: {reason}")
        self._settled(taken)

    def _settled(self, taken: _Waiting) -> None:
        self._attempts.pop(taken.index, None)
        with self._lock:
            self._in_engine -= 1
        self._progressed()
