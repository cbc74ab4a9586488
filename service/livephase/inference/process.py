"""One worker process and its pulse: start, messages, signs of death, kill."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from livephase.inference import worker
from livephase.inference.shared import ControlBlock

if TYPE_CHECKING:
    from livephase.inference.protocol import Answer, Request, WorkerSettings

_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a worker may be silent before it is killed.

    Attributes
    ----------
    start_s : float
        From the spawn until the model is loaded; importing torch on a busy machine takes its time.
    heartbeat_s : float
        Without a heartbeat once it is ready: the process is stopped.
    frame_s : float
        Without progress while it holds a frame: the computation is stuck.
    """

    start_s: float = 300.0
    heartbeat_s: float = 10.0
    frame_s: float = 60.0


class WorkerProcess:
    """A spawned worker; used by one thread, but for ``heartbeat_age_s`` and ``kill``.

    Parameters
    ----------
    settings : WorkerSettings
        Given to the worker.
    timeouts : Timeouts
        When it counts as dead.

    Raises
    ------
    OSError
        The process, its pipe or its shared memory cannot be made; nothing of them is left.
    """

    def __init__(self, settings: WorkerSettings, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        context = multiprocessing.get_context("spawn")
        with contextlib.ExitStack() as on_failure:
            self._control = ControlBlock.create()
            on_failure.callback(self._control.unlink)
            self.pipe, theirs = context.Pipe()
            on_failure.callback(self.pipe.close)
            with theirs:
                self._process = context.Process(
                    target=worker.main,
                    args=(theirs, self._control.segment.name, settings),
                    name="livephase-inference",
                    daemon=True,
                )
                _start_without_interrupts(self._process)
            # From here on ``stop`` frees them.
            on_failure.pop_all()
        self.pid = self._process.pid or 0
        self.sentinel = self._process.sentinel
        self._ready = False
        self._counters = (0, 0, 0)
        self._started_at = self._beat_at = self._progress_at = time.monotonic()

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the heart was seen to beat."""
        return time.monotonic() - self._beat_at

    def send(self, request: Request) -> None:
        """Hand over a frame; a worker that died in between is found by ``problem``."""
        self._progress_at = time.monotonic()
        try:
            self.pipe.send(request)
        except OSError:
            return

    def answers(self) -> list[Answer]:
        """Take every message that has arrived, without waiting."""
        received: list[Answer] = []
        try:
            while self.pipe.poll():
                received.append(self.pipe.recv())
        except (EOFError, OSError):
            pass
        return received

    def set_ready(self) -> None:
        """Count time-outs as for a worker whose model is loaded."""
        self._ready = True
        self._beat_at = self._progress_at = time.monotonic()

    def problem(self, *, holds_frames: bool) -> str | None:
        """Look at the worker; says why it cannot be used any more, or None.

        Parameters
        ----------
        holds_frames : bool
            Whether it has been sent frames that it has not answered.
        """
        now = time.monotonic()
        counters = self._control.read()
        if counters[0] != self._counters[0]:
            self._beat_at = now
        if counters[1:] != self._counters[1:] or not holds_frames:
            self._progress_at = now
        self._counters = counters
        if not self._process.is_alive():
            return f"the inference worker (pid {self.pid}) ended: {self._describe_exit()}"
        limits = self._timeouts
        if not self._ready:
            if now - self._started_at > limits.start_s:
                return f"the inference worker (pid {self.pid}) did not start within {limits.start_s:g} s"
        elif now - self._beat_at > limits.heartbeat_s:
            return f"the inference worker (pid {self.pid}) stopped: no heartbeat for {limits.heartbeat_s:g} s"
        elif now - self._progress_at > limits.frame_s:
            return f"the inference worker (pid {self.pid}) is stuck: no progress for {limits.frame_s:g} s"
        return None

    def kill(self) -> None:
        """End the process at once and free nothing: for when the thread that would call ``stop`` is stuck."""
        with contextlib.suppress(ValueError):  # closed already
            self._process.kill()

    def stop(self, *, politely: bool) -> None:
        """End the process and free what belongs to it.

        Parameters
        ----------
        politely : bool
            Ask first, and kill only if it does not go.
        """
        if politely:
            try:
                self.pipe.send(None)
            except OSError:
                pass
            else:
                self._process.join(_GOODBYE_S)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.pipe.close()
        self._process.close()
        self._control.unlink()

    def _describe_exit(self) -> str:
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"


def _start_without_interrupts(process: Any) -> None:
    """Start a process that is deaf to Ctrl-C from its first instruction on.

    The worker ignores the signal itself, but only once its imports are done; until then an inherited mask holds
    it back. Windows has no masks; there the worker's own setting has to do.
    """
    if not hasattr(signal, "pthread_sigmask"):
        process.start()
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
