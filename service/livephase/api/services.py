"""The composition root: builds every part of the service, wires them, and takes them down in order."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

from livephase.acquisition.thread import AcquisitionThread
from livephase.api.calibrations import Calibrations
from livephase.api.illumination import Illumination
from livephase.api.models import Models
from livephase.api.properties import Properties
from livephase.api.publisher import Publisher
from livephase.api.runs import TURN_S, Runs
from livephase.api.schemas import InferenceOut, ModelName
from livephase.api.wizard import Wizard
from livephase.errors import ConfigurationError, ConflictError
from livephase.inference.active import ActiveInference
from livephase.inference.client import InferenceClient
from livephase.metrics import Metrics
from livephase.preview import PreviewHub
from livephase_devices.errors import LivephaseError, PropertyError
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path
    from types import TracebackType

    from livephase.api.illumination import InUse
    from livephase.config import ServiceConfig
    from livephase.phase.library import KnownModel
    from livephase_devices.frame import CameraFrame

log = logging.getLogger(__name__)

STOPPED = "the service was stopped"


class Services:
    """All parts of a running service; a context manager.

    ``open`` fails with one clear error and leaves nothing behind; ``close`` interrupts a run, unloads the
    devices and ends the inference worker.

    Parameters
    ----------
    config : ServiceConfig
        What to build.
    properties : mapping
        Device properties by (label, name), set when the devices are loaded.

    Raises
    ------
    ModelError
        The model cannot be used.
    ConfigurationError
        A dark frame or flat field of the configuration cannot be used.
    """

    def __init__(
        self, config: ServiceConfig, properties: Mapping[tuple[str, str], str | int | float] | None = None
    ) -> None:
        self.config = config
        self._at_start = dict(properties or {})
        self.data: Path = config.service.data.absolute()
        self.models = Models(config.microscope, config.model, config.live.defocus_um)
        self.illumination = Illumination(self.data, config.illumination)
        self._changing = threading.Lock()
        self.engine = ActiveInference(self._client_of, self.models.first.path)
        self.microscope = Microscope(config.microscope)
        self.metrics = Metrics()
        self.hub = PreviewHub()
        self.publisher = Publisher(
            self.hub, self.metrics, config.microscope, lambda: self.engine.card, self._store_path
        )
        self.thread = AcquisitionThread(self.microscope, self.engine, self.publisher)
        self.properties = Properties(self.microscope, self.publisher.event, self._may_poll)
        self.wizard = Wizard(self.illumination, self.microscope.state, self._snap)
        self.runs = Runs(
            self.data, self.microscope, self.models, self.engine, self.thread, self.publisher, self.illumination
        )
        self.calibrations = Calibrations(self.data, self.microscope, self.thread, self.runs, self.publisher)
        self.store_problems: list[str] = []

    def open(self) -> None:
        """Start everything.

        Raises
        ------
        ConfigurationError
            The data folder cannot be written.
        LivephaseError
            The microscope does not load.
        """
        _make_writable(self.data)
        try:
            self.engine.start()
            self.microscope.open()
            for (label, name), value in self._at_start.items():
                self.microscope.set_property(label, name, value)
            if self.illumination.drop_misfits(self.microscope.state()):
                self.engine.remake()
            self.store_problems = self.runs.recover() + self.calibrations.restore()
            if self.config.live.defocus_um is not None and self.config.microscope.lens is not None:
                try:
                    self.microscope.set_defocus_um(self.config.live.defocus_um)
                except PropertyError as error:
                    if self.microscope.config.lens_calibration is None:
                        raise
                    # A calibration put into use since may not reach it; without a service nobody could change that.
                    self.store_problems.append(f"live.defocus_um was not set: {error}")
            self.thread.start(self.config.live.defocus_um)
            self.properties.start()
            if self.config.live.on_start:
                self.thread.start_live()
        except BaseException:
            self.close()
            raise

    def close(self, reason: str = STOPPED) -> None:
        """Stop everything; may be called twice."""
        self.wizard.close()
        self.thread.close(reason)
        self.properties.close()
        self.engine.close()
        try:
            self.microscope.close()
        except LivephaseError as error:
            log.error("%s", error)
        self.hub.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def inference(self) -> InferenceOut:
        """Describe the inference worker."""
        status = asdict(self.engine.status())
        return InferenceOut(**{name: status[name] for name in InferenceOut.model_fields})

    def defocus_um(self) -> float | None:
        """Return the defocus of the lens, or as stated by the user; None where it is not known."""
        confirmed_um = self.microscope.state().defocus_um
        return self.thread.stated_defocus_um if confirmed_um is None else confirmed_um

    def activate(self, model: KnownModel) -> None:
        """Let the inference use another model from the next frame on, and tell viewers.

        Raises
        ------
        ConflictError
            A run has the microscope, or another change is going on.
        InferenceError
            The model's worker did not start; the model before stays in use.
        """
        refusal = "the model cannot be changed"
        self.thread.refuse_during_run(refusal)  # before a worker is started for nothing
        with self._one_change():
            self.engine.switch(model.path, lambda: self.runs.between_runs(refusal))
        self.publisher.event("model", ModelName.of(self.engine.card).model_dump(mode="json"))
        self.publisher.event("inference", self.inference().model_dump(mode="json"))

    def look_at_changed(self, *, exposure: bool, defocus: bool) -> None:
        """Look soon at the properties of the devices of which these have been changed."""
        microscope = self.config.microscope
        if exposure:
            self.properties.look_at(microscope.camera)
        if defocus and microscope.lens is not None:
            self.properties.look_at(microscope.lens)

    def _may_poll(self) -> bool:
        """Whether somebody would see a changed property, and neither run nor calibration would wait for a reading."""
        return not self.thread.taken and self.hub.counts().viewers > 0

    def use_references(self, new: InUse) -> None:
        """Let the inference use other reference frames from the next frame on.

        Raises
        ------
        ConfigurationError
            One of them does not fit the camera.
        ConflictError
            A run has the microscope, or another change is going on.
        InferenceError
            The worker did not start; the reference frames before stay in use.
        """
        refusal = "dark frame and flat field cannot be changed"
        self.thread.refuse_during_run(refusal)

        @contextlib.contextmanager
        def permit() -> Generator[None]:
            with self.runs.between_runs(refusal):
                yield
                self.illumination.commit()

        with self._one_change(), self.illumination.changing(new, self.microscope.state()):
            self.engine.renew(permit)

    @contextlib.contextmanager
    def _one_change(self) -> Generator[None]:
        if not self._changing.acquire(blocking=False):
            raise ConflictError("another change of the model, dark frame or flat field is going on; wait for its end")
        try:
            yield
        finally:
            self._changing.release()

    def _snap(self) -> CameraFrame:
        """Take a frame for the wizard, and show it while live mode does not."""
        frame = self.thread.snap().result(TURN_S)
        if not self.thread.live.running:
            self.publisher.frame_ready(frame, None, defocus_um=self.defocus_um(), run_id=None, time_point=None)
        return frame

    def _client_of(self, model_path: Path) -> InferenceClient:
        microscope = self.config.microscope
        return InferenceClient(
            model_path,
            self.config.model.runtime,
            lr_pixel_um=microscope.lr_pixel_um,
            wavelength_um=microscope.wavelength_um,
            coherence=microscope.coherence,
            objective_na=microscope.objective_na,
            **self.illumination.wanted.client_options(),
        )

    def _store_path(self, run_id: str) -> Path:
        return self.runs.path(run_id)


def _make_writable(folder: Path) -> None:
    """Create the data folder and write to it once, so that a run does not find out first."""
    probe = folder / f".livephase-write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
    except OSError as error:
        raise ConfigurationError(
            f"the data folder {folder} cannot be written ({error.strerror}); choose another one with --data or"
            " data = in the table [service]"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
