"""What a defocus calibration is asked for, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from livephase_devices.errors import LivephaseError


class CalibrationPlan(BaseModel):
    """What to calibrate.

    Attributes
    ----------
    from_position, to_position : float or None
        Range of the lens in its own unit; None for its own limit.
    steps : int
        Lens positions at which the focus is measured, besides the present one.
    search_um : float
        How far to both sides the focus drive (or, without one, the lens) searches for the focus.
    slope : str or None
        ``"z_drive"``, or ``"stated"`` for the focus alone with the slope of the configuration. None: the drive where
        there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    from_position: float | None = Field(default=None, description="Lowest lens position, in the lens' unit.")
    to_position: float | None = Field(default=None, description="Highest lens position, in the lens' unit.")
    steps: Annotated[int, Field(ge=3, le=50)] = 5
    search_um: Annotated[float, Field(ge=6, le=200)] = 16.0
    slope: Literal["z_drive", "stated"] | None = None


@dataclass(frozen=True, slots=True)
class CalibrationProgress:
    """How far a calibration is.

    Attributes
    ----------
    exposures, expected : int
        Taken so far, and expected in all; the latter is corrected on the way.
    points : tuple of (float, float)
        Lens position and measured defocus in um of the foci so far.
    """

    exposures: int
    expected: int
    points: tuple[tuple[float, float], ...]


class CalibrationCancelledError(LivephaseError):
    """The calibration was cancelled."""

    status = 409
    slug = "calibration-cancelled"
    title = "Calibration cancelled"
