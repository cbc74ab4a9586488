"""One run, from its first time point to its closed store.

::

    queued ── running ─┬─ completed      every time point is written or recorded missing
                       ├─ cancelled      by the user
                       ├─ failed         the camera gave no frame for too long, or the store cannot be written
                       └─ interrupted    the service was stopped

For every time point: wait until it is due (and hold the focus in the wait, where the plan says so), confirm the
defocus, take a frame, make the raw frame durable, hand it to the phase writer. Nothing is dropped: a slow disk makes
the next time point late, and a slow or dead engine leaves phase to be backfilled. A device error is retried and then
recorded as a gap of that time point; later frames keep their own index.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from livephase.acquisition.focus import FocusHold
from livephase.acquisition.lamp import LampMonitor
from livephase.acquisition.phase_writer import PhaseWriter
from livephase.acquisition.progress import RunProgress
from livephase.acquisition.schedule import Schedule
from livephase.acquisition.taking import FrameTaker
from livephase.clock import UtcAnchor
from livephase.errors import StorageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from livephase.acquisition.plan import AcquisitionPlan
    from livephase.acquisition.ports import Observer, PhaseEngine, RunSink
    from livephase.acquisition.progress import RunState
    from livephase_devices.frame import CameraFrame
    from livephase_devices.microscope import Microscope

log = logging.getLogger(__name__)

CONSECUTIVE_GAPS: Final = 5
"""Gaps in a row after which the run fails, if they last longer than ``GIVE_UP_S``."""
GIVE_UP_S = 30.0
"""A device that hangs for less than this does not end a run with short intervals."""
CLOSING_GRACE_S: Final = 3.0
"""What the engine gets for frames it already has when a run is cancelled or the service stops."""
CLOCK_JUMP_S: Final = 1.0
"""A step of the system clock against the monotonic clock that is worth a line in the log."""


class Run:
    """One run; ``execute`` is called once, on the acquisition thread.

    Parameters
    ----------
    run_id : str
        Identifier made by the service.
    plan : AcquisitionPlan
        What to record.
    sink : RunSink
        The run's store, already created.
    microscope, engine, observer
        The parts it uses.
    frame_shape : tuple of int
        (Y, X) of the raw frames that the store takes.
    bit_depth : int
        Of the raw frames.
    warnings : tuple of str
        Known before the start.
    dark : NDArray[float32] or None
        Dark frame (Y, X) in use, counts; the light of every frame is judged above it.
    """

    def __init__(
        self,
        run_id: str,
        plan: AcquisitionPlan,
        sink: RunSink,
        *,
        microscope: Microscope,
        engine: PhaseEngine,
        observer: Observer,
        frame_shape: tuple[int, int],
        bit_depth: int,
        warnings: tuple[str, ...] = (),
        dark: NDArray[np.float32] | None = None,
    ) -> None:
        self.run_id = run_id
        self.plan = plan
        self._sink = sink
        self._microscope = microscope
        self._engine = engine
        self._observer = observer
        self._warnings = warnings
        self._anchor = UtcAnchor.now()
        self._lamp = LampMonitor(bit_depth, dark)
        self._phases = PhaseWriter(
            engine,
            sink,
            observer,
            run_id=run_id,
            bit_depth=bit_depth,
            progressed=lambda: observer.run_changed(self.progress),
        )
        self._schedule: Schedule | None = None
        self._next_index = 0
        self._worked_s = 0.0
        self._state: RunState = "queued"
        self._reason: str | None = None
        self._started_utc_ns: int | None = None
        self._ended_utc_ns: int | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._stop_state: RunState = "cancelled"
        self._stop_reason = ""
        self._clock_warned = False
        self._focus: FocusHold | None = None
        if plan.focus_every is not None:
            self._focus = FocusHold(microscope, plan.focus_every, plan.defocus_um, self._stop.is_set)
        self._taker = FrameTaker(run_id, plan, microscope, frame_shape, self._focus, self._stop)

    @property
    def progress(self) -> RunProgress:
        """The run at this moment; from any thread."""
        with self._lock:
            remaining_s = self._remaining_s() if self._ended_utc_ns is None else None
            return RunProgress(
                run_id=self.run_id,
                plan=self.plan,
                state=self._state,
                reason=self._reason,
                warnings=self._warnings,
                created_utc_ns=self._anchor.utc_ns,
                started_utc_ns=self._started_utc_ns,
                ended_utc_ns=self._ended_utc_ns,
                counters=self._sink.counters,
                remaining_s=remaining_s,
                misfit=self._phases.misfit,
            )

    @property
    def device_fault(self) -> str | None:
        """The device error since which there was no frame, or None."""
        return self._taker.device_fault

    def _remaining_s(self) -> float | None:
        left = self.plan.time_points - self._next_index
        due_s = self.plan.duration_s
        if self._schedule is not None:
            due_s = self._schedule.remaining_s(self._next_index, time.monotonic_ns())
        if self._next_index:
            due_s = max(due_s, left * self._worked_s / self._next_index)
        elif self.plan.interval_s == 0:  # the plan says nothing about the duration, and nothing was measured yet
            return None
        return due_s + self._phases.expected_s

    def stop(self, state: RunState, reason: str) -> None:
        """Ask the run to end as ``"cancelled"`` or ``"interrupted"``; the first request counts.

        It ends within the time of one device call, one frame's storage and ``CLOSING_GRACE_S``.
        """
        with self._lock:
            if not self._stop.is_set():
                self._stop_state, self._stop_reason = state, reason
                self._stop.set()

    def abandon(self, state: RunState, reason: str) -> None:
        """End a run that was never started."""
        self._close(state, reason)

    def execute(self) -> None:
        """Record the run and close its store; never raises."""
        self._phases.start()
        try:
            failure = self._record()
        except StorageError as error:
            failure = str(error)
        except Exception as error:
            log.exception("run %s failed", self.run_id)
            failure = f"unexpected: {type(error).__name__}: {error}"
        complete = self._phases.drain(self._stop, CLOSING_GRACE_S)
        failure = failure or self._phases.fault
        if not complete and not self._stop.is_set():
            self._observer.fault(f"run {self.run_id}: some phase images are missing; the inference worker was too slow")
        if failure is not None:
            log.error("run %s failed: %s", self.run_id, failure)
            self._close("failed", failure)
        elif self._stop.is_set() and (not complete or self._next_index < self.plan.time_points):
            self._close(self._stop_state, self._stop_reason)
        else:
            self._close("completed", None)

    def _record(self) -> str | None:
        """Run the time points; return why the run failed, or None when it ended or was stopped."""
        problem = self._taker.set_exposure()
        if problem is not None:
            return problem
        self._hold_focus(0)
        schedule = Schedule(time.monotonic_ns(), self.plan.interval_s, self.plan.time_points)
        with self._lock:
            self._schedule = schedule
            self._state = "running"
            self._started_utc_ns = self._anchor.utc_ns_at(schedule.start_ns)
        self._observer.run_changed(self.progress)
        gaps_in_a_row = 0
        last_frame_s = time.monotonic()
        for index in range(self.plan.time_points):
            if not self._wait(index, schedule):
                return None
            begun_s = time.monotonic()
            frame, reason = self._taker.take(index)
            if frame is not None:
                gaps_in_a_row = 0
                last_frame_s = time.monotonic()
                self._keep(index, frame, schedule)
            elif self._stop.is_set():
                return None
            else:
                gaps_in_a_row += 1
                self._sink.mark_raw_missing(index, reason)
                self._observer.fault(f"time point {index} is missing: {reason}")
            with self._lock:
                self._next_index = index + 1
                self._worked_s += time.monotonic() - begun_s
            if gaps_in_a_row >= CONSECUTIVE_GAPS and time.monotonic() - last_frame_s > GIVE_UP_S:
                return f"{gaps_in_a_row} time points in a row gave no frame; the last error: {reason}"
            self._observer.run_changed(self.progress)
        return None

    def _wait(self, index: int, schedule: Schedule) -> bool:
        """Wait until a time point is due, and hold the focus meanwhile; False when the run was asked to end."""
        wait_s = schedule.wait_s(index, time.monotonic_ns())
        if index and self._focus is not None and self._focus.due(index, wait_s, self.plan.interval_s):
            # As late as it can be without making the time point late, so that the correction is fresh.
            if self._stop.wait(max(0.0, wait_s - self._focus.needs_s)):
                return False
            self._hold_focus(index)
        return not self._stop.wait(schedule.wait_s(index, time.monotonic_ns()))

    def _hold_focus(self, index: int) -> None:
        """Measure the focus before a time point, and tell how it went; never raises."""
        if self._focus is None:
            return
        attempt = self._focus.attempt(index)
        if self._stop.is_set() and attempt.problem is not None:
            return
        try:
            self._sink.note_focus(attempt, utc_ns=self._anchor.utc_ns_at(time.monotonic_ns()))
        except StorageError as error:
            self._observer.fault(str(error))
        self._observer.focus_measured(self.run_id, attempt)
        if attempt.problem is not None:
            self._observer.fault(f"before time point {index} the focus was not corrected: {attempt.problem}")

    def _keep(self, index: int, frame: CameraFrame, schedule: Schedule) -> None:
        """Make the raw frame durable, then hand it on."""
        self._note_clock_jump()
        late_s = schedule.late_s(index, frame.time_monotonic_ns)
        light, news = self._lamp.judge(frame.pixels)
        before_s = time.monotonic()
        utc_ns = self._anchor.utc_ns_at(frame.time_monotonic_ns)
        self._sink.write_raw(index, frame, time_utc_ns=utc_ns, late_s=late_s, light=light)
        self._observer.time_point_done(late_s=late_s, write_s=time.monotonic() - before_s)
        if news is not None:
            self._observer.fault(f"run {self.run_id}, time point {index}: {news}")
        defocus_um = self.plan.defocus_um if frame.defocus_um is None else frame.defocus_um
        self._phases.offer(index, frame, defocus_um)
        if self._engine.status().state != "ready":
            self._observer.frame_ready(frame, None, defocus_um=defocus_um, run_id=self.run_id, time_point=index)

    def _note_clock_jump(self) -> None:
        jump_s = self._anchor.jump_s(time.time_ns(), time.monotonic_ns())
        if abs(jump_s) > CLOCK_JUMP_S and not self._clock_warned:
            self._clock_warned = True
            log.warning(
                "run %s: the system clock moved by %.1f s; times of this run stay on the clock of its start",
                self.run_id,
                jump_s,
            )

    def _close(self, state: RunState, reason: str | None) -> None:
        """Close the store and the counters."""
        why = reason or "the inference worker did not compute it in time"
        try:
            self._sink.finish(
                state,
                reason,
                raw_reason=f"the run ended before this time point: {why}",
                phase_reason=f"no phase when the run ended: {why}",
            )
        except StorageError as error:
            log.error("run %s could not be closed: %s", self.run_id, error)
            state, reason = "failed", reason or str(error)
        except Exception as error:
            log.exception("run %s could not be closed", self.run_id)
            state, reason = "failed", reason or f"the store could not be closed: {error}"
        with self._lock:
            self._state, self._reason = state, reason
            self._ended_utc_ns = self._anchor.utc_ns_at(time.monotonic_ns())
        self._observer.run_changed(self.progress)
