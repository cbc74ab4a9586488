"""The store of a run as acquisition wants it: ``acquisition.ports.RunSink`` over ``storage.RunWriter``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from livephase.storage.catalogue import read_raw_frame
from livephase.storage.journal import FocusLine
from livephase.storage.spec import FrameRecord, PhaseRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from livephase.acquisition.focus import FocusAttempt
    from livephase.acquisition.lamp import FrameLight
    from livephase.acquisition.progress import Counters, RunState
    from livephase.frames import PhaseResult
    from livephase.storage.writer import RunWriter
    from livephase_devices.frame import CameraFrame

LATE: Final = "Schedule.late_s"
"""Recorded with every raw frame: seconds by which its exposure began after its time point was due."""


class StoreSink:
    """Hands frames and their records to a run's writer.

    Parameters
    ----------
    writer : RunWriter
        Of the run; its ``recorded`` names must contain ``LATE``.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer

    @property
    def counters(self) -> Counters:
        """Frames so far."""
        return self._writer.counters

    def write_raw(self, index: int, frame: CameraFrame, *, time_utc_ns: int, late_s: float, light: FrameLight) -> None:
        """Store a raw frame with when and how it was taken, and its light."""
        record = FrameRecord(
            time_utc_ns=time_utc_ns,
            time_monotonic_ns=frame.time_monotonic_ns,
            defocus_um=frame.defocus_um,
            exposure_ms=frame.exposure_ms,
            properties={**frame.properties, LATE: late_s},
            light=light,
        )
        self._writer.write_raw(index, frame.pixels, record)

    def read_raw(self, index: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Read a raw frame (Y, X) back."""
        return read_raw_frame(self._writer.path, index)

    def write_phase(self, index: int, result: PhaseResult, *, backfilled: bool) -> None:
        """Store a phase image and how it was computed."""
        record = PhaseRecord(result.inference_ms, result.runtime, backfilled, result.misfit)
        self._writer.write_phase(index, result.phase_rad, record)

    def mark_raw_missing(self, index: int, reason: str) -> None:
        """Record that time point ``index`` has no raw frame, and so no phase."""
        self._writer.mark_raw_missing(index, reason)

    def mark_phase_missing(self, index: int, reason: str) -> None:
        """Record that time point ``index`` has a raw frame but no phase."""
        self._writer.mark_phase_missing(index, reason)

    def note_focus(self, attempt: FocusAttempt, *, utc_ns: int) -> None:
        """Keep an attempt to measure the focus in the journal."""
        self._writer.note_focus(
            FocusLine(
                time_point=attempt.time_point,
                utc_ns=utc_ns,
                offset_um=attempt.offset_um,
                change_um=attempt.change_um,
                sd_um=attempt.sd_um,
                problem=attempt.problem,
            )
        )

    def finish(self, state: RunState, reason: str | None, *, raw_reason: str, phase_reason: str) -> None:
        """Close the store."""
        self._writer.finish(state, reason, raw_reason=raw_reason, phase_reason=phase_reason)
