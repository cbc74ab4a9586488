"""The supervisor thread: starts, feeds, watches, kills and replaces the inference worker.

::

    submit ──▶ pending ──▶ slot (shared memory) ──▶ worker ──▶ slot ──▶ future

    starting ──loaded──▶ ready ──ended, stopped or stuck──▶ restarting ──loaded──▶ ready
        └──────────────────┴──────────────── close ───────────────┴──────────────▶ stopped

Only the supervisor thread touches the worker and the slots. Other threads put jobs into ``pending`` and wake it.
What they do with the lock or the wake pipe, they do with Ctrl-C held back (``interrupts``); where they wait, they poll:
a thread that is interrupted in ``Thread.join`` or ``Condition.wait`` may leave either broken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import Pipe, connection
from typing import TYPE_CHECKING, Any

from livephase.errors import InferenceError, WorkerDiedError
from livephase.frames import PhaseResult
from livephase.inference.interrupts import interrupts_held
from livephase.inference.process import Timeouts, WorkerProcess
from livephase.inference.protocol import Answer, Done, Ready, Request, StartFailed, WorkerSettings
from livephase.inference.shared import FrameSlot
from livephase.inference.status import InferenceState, InferenceStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.frames import Misfit

log = logging.getLogger(__name__)

_SLOTS = 2
"""The worker computes in one while the other is filled or emptied."""
_POLL_S = 0.2
_WAIT_S = 0.005
"""Between two looks of a thread that waits for the supervisor."""
_CLOSE_S = 20.0
"""The end of the worker and its thread takes 2 s at most, but for a callback that does not return."""
_BACKOFF_S = (0.25, 30.0)


@dataclass(frozen=True, slots=True)
class Job:
    """A frame that waits for its phase; see ``InferenceClient.submit``."""

    pixels: NDArray[Any]
    defocus_um: float
    bit_depth: int
    future: Future[PhaseResult] = field(default_factory=Future[PhaseResult])

    def fail(self, error: InferenceError) -> None:
        """Fail the future of a job that was not sent to the worker."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Supervisor:
    """Keeps one worker alive and jobs flowing; see the module's diagram.

    Parameters
    ----------
    settings : WorkerSettings
        For every worker.
    timeouts : Timeouts
        When a silent worker is killed.
    scale : int
        HR pixels per LR pixel.
    """

    def __init__(self, settings: WorkerSettings, timeouts: Timeouts, scale: int) -> None:
        self._settings = settings
        self._timeouts = timeouts
        self._scale = scale
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._state: InferenceState = "stopped"
        self._pending: deque[Job] = deque()
        self._in_flight: dict[int, tuple[Job, FrameSlot]] = {}
        self._slots = [FrameSlot(index) for index in range(_SLOTS)]
        self._worker: WorkerProcess | None = None
        self._runtime: str | None = None
        self._last_ms: float | None = None
        self._last_misfit: Misfit | None = None
        self._error: str | None = None
        self._start_failed = False
        self._restarts = self._failures = self._sequence = 0
        self._wake_reader, self._wake_writer = Pipe(duplex=False)
        self._awake = False

    def start(self) -> None:
        """Start the thread and its first worker."""
        with interrupts_held(), self._lock:
            if self._thread is not None or self._closing.is_set():
                msg = "this inference client was started before; make a new one"
                raise InferenceError(msg)
            self._state = "starting"
            self._thread = threading.Thread(target=self._supervise, name="inference", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End worker and thread; every open future fails. An interrupted call may be repeated."""
        with interrupts_held():
            self._closing.set()
            self._wake()
            if self._thread is None:
                self._wake_reader.close()
                self._wake_writer.close()
                return
        if self._thread is threading.current_thread():
            return
        end = time.monotonic() + _CLOSE_S
        while not self._ended:
            if time.monotonic() > end:
                log.error(
                    "the supervision of inference is stuck in a callback, it is left behind; its worker is killed"
                )
                # Without the lock, which the stuck thread may hold.
                if self._worker is not None:
                    self._worker.kill()
                return
            time.sleep(_WAIT_S)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the model is loaded; see ``InferenceClient.wait_ready``."""
        end = time.monotonic() + timeout_s
        while True:
            with interrupts_held(), self._lock:
                state, error = self._state, self._error
                settled = state in ("ready", "stopped") or self._start_failed
            if state == "ready":
                return
            if settled or time.monotonic() > end:
                raise InferenceError(error or f"the inference worker is {state} after {timeout_s:g} s")
            time.sleep(_WAIT_S)

    def submit(self, job: Job) -> None:
        """Take a job; its future fails when nothing is there to compute it."""
        with interrupts_held():
            with self._lock:
                accepted = self._state != "stopped" and not self._closing.is_set()
                if accepted:
                    self._pending.append(job)
            if accepted:
                self._wake()
        if not accepted:
            job.fail(InferenceError("inference is stopped; start it and submit the frame again"))

    def status(self) -> InferenceStatus:
        """Describe the present state."""
        with interrupts_held(), self._lock:
            worker = self._worker
            return InferenceStatus(
                state=self._state,
                pid=worker.pid if worker else None,
                restarts=self._restarts,
                runtime=self._runtime,
                last_ms=self._last_ms,
                misfit=self._last_misfit.value if self._last_misfit else None,
                misfit_threshold=self._last_misfit.threshold if self._last_misfit else None,
                heartbeat_age_s=worker.heartbeat_age_s if worker else None,
                pending=len(self._pending) + len(self._in_flight),
                error=self._error,
            )

    def _supervise(self) -> None:
        try:
            self._keep_worker()
        finally:
            self._ended = True

    def _keep_worker(self) -> None:
        while not self._closing.is_set():
            try:
                error = self._run_worker()
            except Exception as fault:
                # Without this thread every future would hang; the next worker starts from a clean state.
                log.exception("the supervision of the inference worker failed")
                error = self._note_end(InferenceError(f"the inference failed: {fault}"))
            if error is None:
                break
            self._fail_all(error)
            shortest_s, longest_s = _BACKOFF_S
            self._closing.wait(min(longest_s, shortest_s * 2**self._failures))
            # Until a frame is computed again, every attempt waits twice as long as the one before.
            self._failures = min(self._failures + 1, 16)
        with self._lock:
            self._state = "stopped"
            self._wake_reader.close()
            self._wake_writer.close()
        self._fail_all(InferenceError("inference was closed before the frame was computed"))
        for slot in self._slots:
            slot.unlink()

    def _run_worker(self) -> InferenceError | None:
        """Run one worker until it ends (returns why) or the supervisor is closed (returns None)."""
        try:
            worker = WorkerProcess(self._settings, self._timeouts)
        except OSError as error:
            return self._note_end(InferenceError(f"the inference worker cannot be started ({error})"))
        with self._lock:
            self._worker = worker
        ended: InferenceError | None = None
        try:
            while ended is None and not self._closing.is_set():
                connection.wait([worker.pipe, worker.sentinel, self._wake_reader], _POLL_S)
                self._sleep_again()
                for answer in worker.answers():
                    ended = ended or self._handle(answer, worker)
                ended = ended or self._judge(worker)
                if ended is None and self._state == "ready":
                    self._feed(worker)
            return ended
        finally:
            with self._lock:
                self._worker = self._runtime = None
            if ended is not None:
                self._note_end(ended)
            worker.stop(politely=ended is None)

    def _note_end(self, error: InferenceError) -> InferenceError:
        with self._lock:
            self._start_failed = self._state != "ready"
            self._state = "restarting"
            self._error = str(error)
            self._restarts += 1
        return error

    def _judge(self, worker: WorkerProcess) -> InferenceError | None:
        problem = worker.problem(holds_frames=bool(self._in_flight))
        if problem is None:
            return None
        return WorkerDiedError(f"{problem}; it is restarted, submit the frame again")

    def _handle(self, answer: Answer, worker: WorkerProcess) -> InferenceError | None:
        if isinstance(answer, StartFailed):
            return InferenceError(answer.message)
        if isinstance(answer, Ready):
            worker.set_ready()
            with self._lock:
                self._state, self._runtime, self._error = "ready", answer.runtime, None
                self._start_failed = False
            return None
        job, slot = self._in_flight[answer.sequence]
        phase_rad = slot.take() if isinstance(answer, Done) else None
        with self._lock:
            del self._in_flight[answer.sequence]
            if isinstance(answer, Done):
                self._last_ms, self._runtime, self._failures = answer.inference_ms, answer.runtime, 0
                self._last_misfit = answer.misfit
        if isinstance(answer, Done) and phase_rad is not None:
            job.future.set_result(PhaseResult(phase_rad, answer.inference_ms, answer.runtime, answer.misfit))
        elif not isinstance(answer, Done):
            job.future.set_exception(InferenceError(answer.message))
        return None

    def _feed(self, worker: WorkerProcess) -> None:
        busy = {slot.index for _, slot in self._in_flight.values()}
        for slot in self._slots:
            if slot.index in busy:
                continue
            job = self._next_job()
            if job is None:
                return
            with self._lock:
                self._sequence += 1
                self._in_flight[self._sequence] = (job, slot)
            try:
                segment = slot.put(job.pixels, self._scale)
            except (OSError, InferenceError) as error:
                with self._lock:
                    del self._in_flight[self._sequence]
                job.future.set_exception(InferenceError(str(error)))
                continue
            height, width = job.pixels.shape
            worker.send(
                Request(
                    sequence=self._sequence,
                    slot=slot.index,
                    segment=segment,
                    shape=(height, width),
                    dtype=job.pixels.dtype.name,
                    phase_offset=slot.phase_offset,
                    defocus_um=job.defocus_um,
                    bit_depth=job.bit_depth,
                )
            )

    def _next_job(self) -> Job | None:
        while True:
            with self._lock:
                if not self._pending:
                    return None
                job = self._pending.popleft()
            # Without the lock: a future has its own, which whoever waits for it may hold.
            if job.future.set_running_or_notify_cancel():
                return job

    def _wake(self) -> None:
        with self._lock:
            if not self._awake and not self._wake_writer.closed:
                self._awake = True
                self._wake_writer.send_bytes(b"w")

    def _sleep_again(self) -> None:
        with self._lock:
            if self._awake:
                self._wake_reader.recv_bytes()
                self._awake = False

    def _fail_all(self, error: InferenceError) -> None:
        with self._lock:
            running = [job for job, _ in self._in_flight.values()]
            waiting = list(self._pending)
            self._in_flight.clear()
            self._pending.clear()
        for job in running:
            job.future.set_exception(error)
        for job in waiting:
            job.fail(error)
