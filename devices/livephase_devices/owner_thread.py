"""One thread that owns the core: every call to a device has a time-out.

Micro-Manager has no time-out for a snap, and groups of core calls are not atomic across threads. So all calls
of one microscope run on one thread as jobs, one at a time. The time-out is that of each call to a device inside a
job (``touching``), so a job may be long, and the error names the device that hangs. Whoever waits for a hung job or
behind it gets a ``DeviceTimeoutError``, and so does every later caller, at once, until the hung call returns:
nothing queues up behind a device that does not answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from livephase_devices.errors import DeviceError, DeviceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

T = TypeVar("T")


class Job(Generic[T]):
    """One call on the owner thread.

    Attributes
    ----------
    device : str
        Label of the device that the job is talking to at present; ``OwnerThread.touching`` changes it.
    action : str
        What it is doing, as it reads in an error message: ``"snap"``, ``"read the position"``.
    since_s, timeout_s : float
        When the present step began (monotonic s; None before the job began), and how long it may take.
    """

    def __init__(self, device: str, action: str, function: Callable[[], T], timeout_s: float) -> None:
        self.device = device
        self.action = action
        self.function = function
        self.timeout_s = timeout_s
        self.since_s: float | None = None
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def outcome(self) -> T:
        """Return the result, or raise what the function raised; the job must be done."""
        if self.error is not None:
            raise self.error
        return cast("T", self.result)


class OwnerThread:
    """Runs jobs in the order of submission on a thread of its own.

    Parameters
    ----------
    name : str
        Name of the thread.
    timeout_s : float
        How long a step may take that does not state its own time-out.
    """

    def __init__(self, name: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._queue: deque[Job[Any]] = deque()
        self._running: Job[Any] | None = None
        self._hung: Job[Any] | None = None
        self._last: Job[None] | None = None
        # Daemon: a hung device must not keep the process alive. Orderly unloading is atexit's part.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    # -- for callers ------------------------------------------------------------------------------------------

    def call(self, device: str, action: str, function: Callable[[], T]) -> T:
        """Run ``function`` on the owner thread and return its result.

        Raises
        ------
        DeviceTimeoutError
            This call, or one before it, exceeded its time-out, or an earlier call still hangs.
        """
        job = self.submit(device, action, function)
        self.wait(job)
        return job.outcome()

    def submit(self, device: str, action: str, function: Callable[[], T]) -> Job[T]:
        """Queue ``function`` and return its job; refused at once while a call hangs."""
        job = Job(device, action, function, self._timeout_s)
        with self._changed:
            self._find_hung()
            if self._hung is not None:
                raise _still_hanging(self._hung)
            if self._last is not None:
                raise DeviceError("the microscope is closed; open it again", device)
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def wait(self, job: Job[Any], timeout_s: float | None = None) -> bool:
        """Wait until ``job`` is done; return False if it is not after ``timeout_s``, while it goes on.

        Raises
        ------
        DeviceTimeoutError
            A call of the job, or of one before it, exceeded its time-out.
        """
        give_up_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not job.done:
                deadline_s = self._find_hung()
                if job.done:
                    break
                if self._hung is not None:
                    raise _hangs(self._hung)
                now_s = time.monotonic()
                if give_up_s is not None and now_s >= give_up_s:
                    return False
                limits = [at for at in (deadline_s, give_up_s) if at is not None]
                self._changed.wait(max(0.0, min(limits) - now_s) if limits else None)
        return True

    def fault(self) -> str | None:
        """Return a sentence about the call that hangs, or None."""
        with self._changed:
            self._find_hung()
            return None if self._hung is None else str(_still_hanging(self._hung))

    def stop(self, last: Callable[[], None], device: str, timeout_s: float) -> None:
        """Run ``last`` after the jobs in the queue, then end the thread.

        While a call hangs, ``last`` stays queued and runs as soon as the call returns.

        Raises
        ------
        DeviceTimeoutError
            ``last`` did not run to its end within ``timeout_s``.
        """
        job = Job(device, "unload the devices", last, timeout_s)
        with self._changed:
            if self._last is not None:
                return
            self._last = job
            self._queue.append(job)
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if not job.done:
            with self._changed:
                blocking = self._running or job
            raise DeviceTimeoutError(
                f"could not be unloaded within {timeout_s:g} s: {blocking.action} has not returned; "
                "check the device, then restart the program",
                blocking.device,
            )
        job.outcome()

    # -- for jobs ---------------------------------------------------------------------------------------------

    @contextmanager
    def touching(self, device: str, action: str, timeout_s: float | None = None) -> Generator[None]:
        """Note, inside a job, which device is being talked to, and give this step its own time-out."""
        job = self._running
        if job is None or threading.current_thread() is not self._thread:
            raise RuntimeError("the core is touched outside its owner thread")
        before = job.device, job.action, job.timeout_s
        self._enter_step(job, device, action, self._timeout_s if timeout_s is None else timeout_s)
        try:
            yield
        finally:
            self._enter_step(job, *before)

    def _enter_step(self, job: Job[Any], device: str, action: str, timeout_s: float) -> None:
        with self._changed:
            if self._hung is job:
                self._hung = None  # the call that hung has returned
            job.device, job.action, job.timeout_s, job.since_s = device, action, timeout_s, time.monotonic()
            self._changed.notify_all()

    # -- inside -----------------------------------------------------------------------------------------------

    def _find_hung(self) -> float | None:
        """Mark the running job as hung when its time is over; return its deadline (monotonic s)."""
        job = self._running
        if job is None or job.since_s is None:
            return None
        deadline_s = job.since_s + job.timeout_s
        if self._hung is None and job is not self._last and time.monotonic() >= deadline_s:
            self._hung = job
            for behind in self._queue:
                if behind is not self._last:
                    behind.error, behind.done = _hangs(job), True
            self._queue = deque(behind for behind in self._queue if not behind.done)
            self._changed.notify_all()
        return deadline_s

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and self._last is None:
                    self._changed.wait()
                if not self._queue:
                    return
                job = self._queue.popleft()
                job.since_s = time.monotonic()
                self._running = job
                self._changed.notify_all()
            try:
                job.result = job.function()
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                job.error = error
            with self._changed:
                job.done = True
                self._running = None
                if self._hung is job:
                    self._hung = None
                self._changed.notify_all()
            # A finished job must not keep the caller's frames alive until the next one comes.
            del job


def _hangs(job: Job[Any]) -> DeviceTimeoutError:
    return DeviceTimeoutError(
        f"did not answer within {job.timeout_s:g} s ({job.action}); check its cable and power", job.device
    )


def _still_hanging(job: Job[Any]) -> DeviceTimeoutError:
    since_s = time.monotonic() - (job.since_s or time.monotonic())
    return DeviceTimeoutError(
        f"has not answered for {since_s:.0f} s ({job.action}); no call is made until it does; "
        "check its cable and power",
        job.device,
    )
