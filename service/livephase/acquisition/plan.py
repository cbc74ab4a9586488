"""The plan of a run: what the user asks for, checked before anything moves."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

_Name = Annotated[str, StringConstraints(min_length=1, max_length=120, pattern=r"^[^\x00-\x1f\x7f]+$")]


class AcquisitionPlan(BaseModel):
    """A time-lapse at one field of view and one defocus.

    Attributes
    ----------
    name : str
        Free text, 1 to 120 printable characters.
    time_points : int
        Number of frames to record.
    interval_s : float
        Seconds between the starts of two time points; 0 records as fast as the microscope and the disk allow.
    defocus_um : float
        Distance of the lens focus above the specimen at which every frame is taken.
    exposure_ms : float or None
        Exposure of every frame; None keeps the camera's present one.
    focus_every : int or None
        The focus is measured, and the lens corrected, before the first time point and then every so many; None: never.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: _Name = "run"
    time_points: int = Field(ge=1, le=1_000_000, description="Number of frames to record.")
    interval_s: float = Field(ge=0, le=604_800, description="Seconds between the starts of two time points.")
    defocus_um: float = Field(ge=-1000, le=1000, description="Defocus of every frame, um.")
    exposure_ms: float | None = Field(default=None, gt=0, le=600_000, description="Exposure, ms.")
    focus_every: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Measure and correct the focus every so many time points."
    )

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last due time; 0 without an interval, where it says nothing."""
        return (self.time_points - 1) * self.interval_s
