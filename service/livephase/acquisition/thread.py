"""The acquisition thread: the one place from which frames are taken, for live mode, single frames and runs.

A run takes the microscope, and so does a calibration (any ``Task``): live mode pauses while it lasts and comes back
after it if it was on. Requests that would disturb it (live, a single frame, another exposure or defocus, a second run)
are refused with a ConflictError. Outside they are carried out between two live frames.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol, TypeVar

from livephase.acquisition.live import LiveMode
from livephase.acquisition.progress import ENDED
from livephase.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase.acquisition.ports import Observer, PhaseEngine
    from livephase.acquisition.progress import LiveStatus
    from livephase.acquisition.runner import Run
    from livephase_devices.frame import CameraFrame
    from livephase_devices.microscope import Microscope

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Task(Protocol):
    """Work that needs the microscope for itself and is no run."""

    @property
    def name(self) -> str:
        """What has the microscope, e.g. ``"the defocus calibration"``."""
        ...

    def execute(self) -> None:
        """Do it, on the acquisition thread; must not raise."""
        ...

    def stop(self) -> None:
        """Ask it to end soon; from any thread."""
        ...


class AcquisitionThread:
    """Owns the thread; every method may be called from any thread.

    Parameters
    ----------
    microscope, engine, observer
        The parts that live mode and runs use.
    """

    def __init__(self, microscope: Microscope, engine: PhaseEngine, observer: Observer) -> None:
        self._microscope = microscope
        self._observer = observer
        self._changed = threading.Condition()
        self._live = LiveMode(microscope, engine, observer, self._wake)
        self._jobs: deque[Callable[[], None]] = deque()
        self._run: Run | None = None
        self._task: Task | None = None
        self._resume_live = False
        self._stated_defocus_um: float | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="acquisition", daemon=True)

    def start(self, stated_defocus_um: float | None = None) -> None:
        """Start the thread; ``stated_defocus_um`` holds for a microscope without a lens until it is changed."""
        self._stated_defocus_um = stated_defocus_um if self._microscope.config.lens is None else None
        self._thread.start()

    def close(self, reason: str, timeout_s: float = 60.0) -> None:
        """End live mode, interrupt a run with that reason, and join the thread."""
        with self._changed:
            self._closing = True
            run, task = self._run, self._task
            self._changed.notify_all()
        if run is not None:
            run.stop("interrupted", reason)
        if task is not None:
            task.stop()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.error("the acquisition thread did not end within %.0f s", timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread does its work."""
        return self._thread.is_alive()

    @property
    def live(self) -> LiveStatus:
        """Live mode at this moment."""
        return self._live.status

    @property
    def run(self) -> Run | None:
        """The run that has the microscope, or None."""
        with self._changed:
            return self._run

    @property
    def taken(self) -> bool:
        """Whether a run or a task has the microscope."""
        with self._changed:
            return self._run is not None or self._task is not None

    @property
    def device_fault(self) -> str | None:
        """The device error since which there was no frame, in a run or in live mode; without asking a device."""
        run = self.run
        return self._live.status.fault if run is None else run.device_fault

    @property
    def stated_defocus_um(self) -> float | None:
        """The defocus that the user stated for a microscope without a lens."""
        return self._stated_defocus_um

    def start_live(self) -> None:
        """Start live mode; ConflictError during a run."""
        with self._changed:
            self._refuse_during_run("live mode cannot start")
            self._live.switch(running=True)
            self._changed.notify_all()

    def stop_live(self) -> None:
        """Stop live mode; during a run, keep it off after the run too."""
        with self._changed:
            self._resume_live = False
            self._live.switch(running=False)

    def start_run(self, run: Run) -> None:
        """Let a run take the microscope; ConflictError while another one has it."""
        with self._changed:
            self._refuse_during_run("a second run cannot start")
            self._run = run
            self._resume_live = self._live.status.running
            self._live.switch(running=False)
            self._changed.notify_all()

    def start_task(self, task: Task) -> None:
        """Let a task take the microscope; ConflictError while a run or another task has it."""
        with self._changed:
            self._refuse_during_run(f"{task.name} cannot start")
            self._task = task
            self._resume_live = self._live.status.running
            self._live.switch(running=False)
            self._changed.notify_all()

    def refuse_during_run(self, what: str) -> None:
        """Raise ConflictError while a run or a task has the microscope; ``what`` begins its message."""
        with self._changed:
            self._refuse_during_run(what)

    def snap(self) -> Future[CameraFrame]:
        """Take one frame; ConflictError during a run, DeviceError in the future."""
        return self._submit(self._microscope.snap, "a single frame cannot be taken")

    def apply(self, *, exposure_ms: float | None, defocus_um: float | None) -> Future[None]:
        """Set exposure and defocus between two frames; ConflictError in a run, DeviceError in the future."""

        def settings() -> None:
            if exposure_ms is not None:
                self._microscope.set_exposure_ms(exposure_ms)
            if defocus_um is not None:
                if self._microscope.config.lens is None:
                    self._stated_defocus_um = defocus_um
                else:
                    self._microscope.set_defocus_um(defocus_um)

        return self._submit(settings, "exposure and defocus cannot be changed")

    def between_frames(self, call: Callable[[], _Result], refusal: str) -> Future[_Result]:
        """Carry out a call between two frames; ConflictError in a run, whose message ``refusal`` begins."""
        return self._submit(call, refusal)

    def _submit(self, call: Callable[[], _Result], refusal: str) -> Future[_Result]:
        future: Future[_Result] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call())
            except Exception as error:
                log.info("request refused: %s", error, exc_info=True)
                future.set_exception(error)

        with self._changed:
            self._refuse_during_run(refusal)
            self._jobs.append(job)
            self._changed.notify_all()
        return future

    def _refuse_during_run(self, what: str) -> None:
        if self._closing:
            raise ConflictError(f"{what}: the service is stopping")
        if self._run is not None:
            raise ConflictError(
                f"{what} while run {self._run.run_id} has the microscope; cancel it or wait for its end"
            )
        if self._task is not None:
            raise ConflictError(f"{what} while {self._task.name} has the microscope; cancel it or wait for its end")

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._closing
                        or self._jobs
                        or self._run is not None
                        or self._task is not None
                        or self._live.status.running
                    )
                )
                if self._closing and self._run is None and self._task is None:
                    break
                run, task = self._run, self._task
                job = self._jobs.popleft() if self._jobs else None
            if job is not None:
                job()
            elif run is not None:
                self._execute(run)
            elif task is not None:
                self._execute_task(task)
            else:
                self._live_step()
        self._live.switch(running=False)
        while self._jobs:
            self._jobs.popleft()()

    def _execute(self, run: Run) -> None:
        run.execute()
        if run.progress.state not in ENDED:
            log.error("run %s returned in state %s", run.run_id, run.progress.state)
        self._give_back()

    def _execute_task(self, task: Task) -> None:
        try:
            task.execute()
        except Exception:
            log.exception("%s failed", task.name)
        self._give_back()

    def _give_back(self) -> None:
        with self._changed:
            self._run = self._task = None
            resume = self._resume_live and not self._closing
            self._resume_live = False
        if resume:
            self._live.switch(running=True)

    def _live_step(self) -> None:
        try:
            pause_s = self._live.step(self._stated_defocus_um)
        except Exception as error:
            log.exception("live mode failed")
            self._live.switch(running=False)
            self._observer.fault(f"live mode failed: {error}")
            return
        if pause_s:
            busy = self._live.engine_busy
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._closing
                        or bool(self._jobs)
                        or self._run is not None
                        or self._task is not None
                        or (busy and not self._live.engine_busy)
                    ),
                    pause_s,
                )

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
