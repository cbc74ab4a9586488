"""Takes the frame of a time point at the plan's exposure and defocus; retries errors, refuses what is not confirmed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from livephase.acquisition.focus import OFFSET
from livephase_devices.errors import DeviceError
from livephase_devices.lens.role import TOLERANCE_UM

if TYPE_CHECKING:
    from threading import Event

    from livephase.acquisition.focus import FocusHold
    from livephase.acquisition.plan import AcquisitionPlan
    from livephase_devices.frame import CameraFrame
    from livephase_devices.microscope import Microscope

log = logging.getLogger(__name__)

ATTEMPTS: Final = 3
"""How often a time point is tried before it is recorded as a gap."""
RETRY_PAUSE_S: Final = 0.2
"""Pause before the second attempt; doubled before every further one."""


class FrameTaker:
    """Takes the frames of one run; used on the acquisition thread.

    Parameters
    ----------
    run_id : str
        For the log.
    plan : AcquisitionPlan
        Exposure and defocus.
    microscope : Microscope
        Takes the frames.
    frame_shape : tuple of int
        (Y, X) that the store takes.
    focus : FocusHold or None
        By how much the lens is corrected.
    stop : Event
        Set when the run was asked to end: there are no further attempts.

    Attributes
    ----------
    device_fault : str or None
        The error since which there was no frame; may be read from any thread.
    """

    def __init__(
        self,
        run_id: str,
        plan: AcquisitionPlan,
        microscope: Microscope,
        frame_shape: tuple[int, int],
        focus: FocusHold | None,
        stop: Event,
    ) -> None:
        self._run_id = run_id
        self._plan = plan
        self._microscope = microscope
        self._frame_shape = frame_shape
        self._focus = focus
        self._stop = stop
        self.device_fault: str | None = None

    def set_exposure(self) -> str | None:
        """Set the plan's exposure; after ``ATTEMPTS`` errors return the last one."""
        reason = None
        for attempt in range(ATTEMPTS):
            if self._stopped_before(attempt):
                break
            try:
                if self._plan.exposure_ms is not None:
                    self._microscope.set_exposure_ms(self._plan.exposure_ms)
            except DeviceError as error:
                reason = self.device_fault = str(error)
                log.warning("run %s: attempt %d before the first time point: %s", self._run_id, attempt + 1, error)
            else:
                return None
        return reason

    def take(self, time_point: int) -> tuple[CameraFrame | None, str]:
        """Confirm the defocus and take one frame; after ``ATTEMPTS`` errors None and the last error."""
        reason = ""
        for attempt in range(ATTEMPTS):
            if self._stopped_before(attempt):
                break
            try:
                frame = self._confirmed_frame()
            except DeviceError as error:
                reason = self.device_fault = str(error)
                log.warning("run %s: time point %d, attempt %d: %s", self._run_id, time_point, attempt + 1, error)
                continue
            if frame.pixels.shape == self._frame_shape:
                self.device_fault = None
                return frame, ""
            reason = self.device_fault = (
                f"the camera gave a frame of {frame.pixels.shape}, the run records {self._frame_shape}"
            )
        return None, reason

    def _stopped_before(self, attempt: int) -> bool:
        """Pause before a further attempt; whether the run was asked to end meanwhile."""
        return attempt > 0 and self._stop.wait(RETRY_PAUSE_S * 2 ** (attempt - 1))

    def _confirmed_frame(self) -> CameraFrame:
        offset_um = 0.0 if self._focus is None else self._focus.offset_um
        confirmed_um = None
        if self._microscope.config.lens is not None:
            # fails where the lens stands elsewhere
            confirmed_um = self._microscope.set_defocus_um(self._plan.defocus_um + offset_um)
        frame = self._microscope.snap()
        self._refuse_moved_lens(frame, confirmed_um)
        if self._focus is None:
            return frame
        # A frame states its defocus from the measured focus, and by how much that is off the nominal one.
        true_um = None if frame.defocus_um is None else frame.defocus_um - offset_um
        return replace(frame, defocus_um=true_um, properties={**frame.properties, OFFSET: offset_um})

    def _refuse_moved_lens(self, frame: CameraFrame, confirmed_um: float | None) -> None:
        """Fail where the lens, asked again when the frame was exposed, did not stand where it had arrived."""
        if confirmed_um is None or frame.defocus_um is None:
            return
        if abs(frame.defocus_um - confirmed_um) > TOLERANCE_UM:
            raise DeviceError(
                f"had arrived at a defocus of {confirmed_um:g} um but reports {frame.defocus_um:g} um at the exposure; "
                "check that it is powered and not blocked",
                self._microscope.config.lens or self._microscope.config.name,
            )
