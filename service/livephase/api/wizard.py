"""Measurement of a dark frame or flat field by a running service, and how it stands."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from livephase.acquisition.reference_frames import Measurement
from livephase.errors import ConflictError
from livephase_devices.errors import LivephaseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase.acquisition.reference_frames import DarkRequest, FlatRequest
    from livephase.api.illumination import Illumination
    from livephase.phase.reference import Kind, Reference
    from livephase_devices.frame import CameraFrame
    from livephase_devices.microscope import MicroscopeState

log = logging.getLogger(__name__)

MeasurementState = Literal["idle", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class MeasurementStatus:
    """A measurement of a reference frame at one moment.

    Attributes
    ----------
    state : str
        ``"idle"`` (none since the service started), ``"running"``, ``"done"`` or ``"failed"``.
    frames, taken : int
        Wanted, and taken so far.
    error : str or None
        Why it failed.
    result : Reference or None
        What it made; not in use until it is chosen.
    """

    state: MeasurementState = "idle"
    frames: int = 0
    taken: int = 0
    error: str | None = None
    result: Reference | None = None


class Wizard:
    """Measures one reference frame at a time, in a thread of its own; live mode goes on between the frames.

    Parameters
    ----------
    illumination : Illumination
        Gets the result.
    state : callable
        State of the microscope.
    take : callable
        Takes a frame on the acquisition thread; ConflictError once a run has the microscope.
    """

    def __init__(
        self, illumination: Illumination, state: Callable[[], MicroscopeState], take: Callable[[], CameraFrame]
    ) -> None:
        self._illumination = illumination
        self._state = state
        self._take = take
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._statuses: dict[Kind, MeasurementStatus] = {"dark": MeasurementStatus(), "flat": MeasurementStatus()}

    def status(self, kind: Kind) -> MeasurementStatus:
        """Return how the latest measurement of that kind stands."""
        with self._lock:
            return self._statuses[kind]

    def start(self, request: DarkRequest | FlatRequest) -> MeasurementStatus:
        """Start a measurement and return at once; ConflictError while another one is going on."""
        measurement = Measurement(
            request, self._state(), self._take, self._stop.wait, dark=self._illumination.in_use.dark
        )
        with self._lock:
            if any(status.state == "running" for status in self._statuses.values()) or self._stop.is_set():
                raise ConflictError("another dark frame or flat field is being measured; wait for its end")
            status = MeasurementStatus("running", request.frames)
            self._statuses[measurement.kind] = status
            self._thread = threading.Thread(target=self._run, args=(measurement,), name="wizard", daemon=True)
            self._thread.start()
        return status

    def close(self) -> None:
        """End a measurement; may be called twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, measurement: Measurement) -> None:
        kind, frames = measurement.kind, measurement.request.frames

        def told(status: MeasurementStatus) -> None:
            with self._lock:
                self._statuses[kind] = status

        try:
            image, info = measurement.run(lambda taken: told(MeasurementStatus("running", frames, taken)))
            result = self._illumination.save(image, info)
        except Exception as error:
            if not isinstance(error, LivephaseError):
                log.exception("the measurement of the %s failed", kind)
            told(MeasurementStatus("failed", frames, measurement.taken, error=str(error)))
        else:
            told(MeasurementStatus("done", frames, measurement.taken, result=result))
