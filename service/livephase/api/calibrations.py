"""The service's defocus calibrations: made on the acquisition thread, kept in the data folder, put into use."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from livephase.acquisition.calibration import DefocusCalibration
from livephase.acquisition.calibration_plan import CalibrationCancelledError
from livephase.api.schemas import CalibrationOut
from livephase.errors import CalibrationNotFoundError, ConflictError, StorageError
from livephase.files import replace
from livephase_devices.errors import LivephaseError
from livephase_devices.lens_calibration import ActiveCalibration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from livephase.acquisition.calibration_plan import CalibrationPlan, CalibrationProgress
    from livephase.acquisition.thread import AcquisitionThread
    from livephase.api.publisher import Publisher
    from livephase.api.runs import Runs
    from livephase.api.schemas import CalibrationState
    from livephase_devices.microscope import Microscope

log = logging.getLogger(__name__)

FOLDER: Final = "calibrations"
ACTIVE: Final = "active.json"
_NAME: Final = re.compile(r"defocus-[0-9]{8}-[0-9]{6}(-[0-9]+)?\.json")


class Calibrations:
    """Defocus calibrations of one service; every method may be called from any thread.

    Parameters
    ----------
    data : Path
        The data folder; its subfolder ``calibrations`` is made when the first one is stored.
    microscope, thread, runs, publisher
        What a calibration uses.
    """

    def __init__(
        self, data: Path, microscope: Microscope, thread: AcquisitionThread, runs: Runs, publisher: Publisher
    ) -> None:
        self._folder = data / FOLDER
        self._microscope = microscope
        self._thread = thread
        self._runs = runs
        self._publisher = publisher
        self._lock = threading.Lock()
        self._task: _Task | None = None

    def restore(self) -> list[str]:
        """Use the calibration that was in use when the service ended; return what speaks against it."""
        chosen = self._folder / ACTIVE
        if not chosen.exists():
            return []
        try:
            content: Any = json.loads(chosen.read_text(encoding="utf-8"))
            active = ActiveCalibration.load(self._folder / str(content["file"]))
            if active.sha256 != content["sha256"]:
                raise StorageError(f"{active.file}: the calibration was changed after it was put into use")
            self._microscope.set_lens_calibration(active)
        except (OSError, ValueError, KeyError, TypeError) as error:
            return [f"{chosen}: the calibration in use cannot be read: {error}"]
        except LivephaseError as error:
            return [f"the lens is not calibrated as before: {error}"]
        return []

    def start(self, plan: CalibrationPlan) -> CalibrationOut:
        """Start a calibration.

        Raises
        ------
        ConflictError
            A run or another calibration has the microscope.
        PlanError, DeviceError
            The plan does not fit the lens, there is none, or it does not answer.
        """
        self._thread.refuse_during_run("a calibration cannot start")
        task = _Task(self._microscope, plan, self._folder, self._changed)
        with self._lock:
            before, self._task = self._task, task  # it reports as soon as it is started
            try:
                self._thread.start_task(task)
            except ConflictError:
                self._task = before
                raise
        return self.status()

    def cancel(self) -> CalibrationOut:
        """Ask the calibration to end; ConflictError when none is going on."""
        task = self._task
        if task is None or task.state != "running":
            raise ConflictError("no calibration is going on")
        task.stop()
        return self.status()

    def status(self) -> CalibrationOut:
        """Say how far the latest calibration is, which there are, and which is in use."""
        task = self._task
        common: dict[str, Any] = {
            "files": [path.name for path in self._stored()],
            "active": self._microscope.config.lens_calibration,
        }
        if task is None:
            return CalibrationOut(state="none", exposures=0, expected=0, points=[], result=None, error=None, **common)
        progress = task.progress
        return CalibrationOut(
            state=task.state,
            exposures=progress.exposures,
            expected=progress.expected,
            points=list(progress.points),
            result=task.result,
            error=task.error,
            **common,
        )

    def activate(self, name: str) -> CalibrationOut:
        """Put a stored calibration into use, now and after a restart.

        Raises
        ------
        CalibrationNotFoundError
            None is stored under that name.
        ConflictError
            A run or a calibration has the microscope.
        """
        path = next((path for path in self._stored() if path.name == name), None)
        if path is None:
            raise CalibrationNotFoundError(
                f"no calibration has the name {name[:100]!r}; GET /api/v1/calibrations/defocus lists them"
            )
        active = ActiveCalibration.load(path)
        with self._runs.between_runs("the calibration cannot be changed"):
            self._microscope.set_lens_calibration(active)
            self._keep({"file": active.file, "sha256": active.sha256})
        return self._changed()

    def deactivate(self) -> CalibrationOut:
        """Go back to what the TOML says of the lens; ConflictError during a run or calibration."""
        with self._runs.between_runs("the calibration cannot be changed"):
            self._microscope.set_lens_calibration(None)
            (self._folder / ACTIVE).unlink(missing_ok=True)
        return self._changed()

    def _changed(self) -> CalibrationOut:
        status = self.status()
        self._publisher.event("calibration", status.model_dump(mode="json", exclude={"files"}))
        return status

    def _stored(self) -> list[Path]:
        """Files of calibrations, the newest first."""
        if not self._folder.is_dir():
            return []
        return sorted((path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)

    def _keep(self, content: dict[str, str]) -> None:
        beside = self._folder / f".{ACTIVE}.part"
        try:
            beside.write_text(json.dumps(content), encoding="utf-8")
            replace(beside, self._folder / ACTIVE)
        except OSError as error:
            raise StorageError(
                f"{self._folder}: the calibration is in use, but will not be after a restart: {error.strerror}"
            ) from error


class _Task:
    """One calibration as the acquisition thread carries it out."""

    name = "the defocus calibration"

    def __init__(
        self, microscope: Microscope, plan: CalibrationPlan, folder: Path, changed: Callable[[], object]
    ) -> None:
        self.state: CalibrationState = "running"
        self.result: ActiveCalibration | None = None
        self.error: str | None = None
        self._folder = folder
        self._changed = changed
        self._calibration = DefocusCalibration(microscope, plan, lambda _: changed())

    @property
    def progress(self) -> CalibrationProgress:
        return self._calibration.progress

    def stop(self) -> None:
        self._calibration.stop()

    def execute(self) -> None:
        now_ns = time.time_ns()
        try:
            made = self._calibration.run(now_ns)
            self._folder.mkdir(exist_ok=True)
            self.result = made.save(self._free_name(now_ns))
            self.state = "completed"
        except CalibrationCancelledError as error:
            self.state, self.error = "cancelled", str(error)
        except LivephaseError as error:
            self.state, self.error = "failed", str(error)
        except Exception as error:
            log.exception("the calibration failed")
            self.state, self.error = "failed", f"unexpected: {type(error).__name__}: {error}"
        if self.error is not None:
            log.warning("defocus calibration %s: %s", self.state, self.error)
        self._changed()

    def _free_name(self, utc_ns: int) -> Path:
        stem = datetime.fromtimestamp(utc_ns / 1e9, UTC).strftime("defocus-%Y%m%d-%H%M%S")
        path, number = self._folder / f"{stem}.json", 2
        while path.exists():
            path, number = self._folder / f"{stem}-{number}.json", number + 1
        return path
