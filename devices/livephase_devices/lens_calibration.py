"""Calibration of a tunable lens: its unit to um of defocus, measured, with a date, a range and a hash."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from livephase_devices.errors import MicroscopeConfigError

if TYPE_CHECKING:
    from pathlib import Path

Method = Literal["z_drive", "images", "stated"]
"""Where the slope comes from: a focus drive, the images themselves, or the configuration (focus measured only)."""

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
RANGE_TOLERANCE_UM = 1e-6


class CalibrationPoint(BaseModel):
    """One measured point of the line.

    Attributes
    ----------
    position : float
        Of the lens, in its unit.
    defocus_um : float
        Measured there.
    residual_um : float
        Measured defocus minus that of the line.
    """

    model_config = _FROZEN

    position: float
    defocus_um: float
    residual_um: float


class LensCalibration(BaseModel):
    """``defocus_um = (position - focus_position) * um_per_unit`` within a range, and how it was measured.

    Attributes
    ----------
    format : str
        Names the version of this file.
    date_utc : str
        ISO 8601.
    microscope, lens, unit : str
        Name of the microscope, label of the lens, and the unit of its positions.
    um_per_unit, um_per_unit_sd : float
        Slope and its standard uncertainty, um per unit.
    focus_position, focus_position_sd : float
        Where the specimen is in focus, in the lens' unit.
    position_range : tuple of float
        Lowest and highest position at which frames were taken: the calibration holds between them.
    residual_rms_um : float
        Of the points about the line.
    temperature_c : float or None
        Of the lens, where it states one.
    method : str
        See ``Method``.
    kappa_per_rad : float
        Absorption that goes with the phase, as it was fitted; the simple contrast minimum would have been off by it.
    wavelength_um, objective_na, coherence, lr_pixel_um : float
        Optics that were assumed.
    points : tuple of CalibrationPoint
        All measured points.
    """

    model_config = _FROZEN

    format: Literal["livephase lens calibration 1"] = "livephase lens calibration 1"
    date_utc: str
    microscope: str
    lens: str
    unit: str
    um_per_unit: float
    um_per_unit_sd: float = Field(ge=0)
    focus_position: float
    focus_position_sd: float = Field(ge=0)
    position_range: tuple[float, float]
    residual_rms_um: float = Field(ge=0)
    temperature_c: float | None
    method: Method
    kappa_per_rad: float
    wavelength_um: float = Field(gt=0)
    objective_na: float = Field(gt=0)
    coherence: float = Field(ge=0)
    lr_pixel_um: float = Field(gt=0)
    points: tuple[CalibrationPoint, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_line(self) -> Self:
        if self.um_per_unit == 0:
            raise ValueError("um_per_unit must not be 0")
        if not self.position_range[0] < self.position_range[1]:
            raise ValueError("position_range must rise")
        return self

    @property
    def defocus_range_um(self) -> tuple[float, float]:
        """Lowest and highest defocus for which it holds."""
        low, high = sorted((end - self.focus_position) * self.um_per_unit for end in self.position_range)
        return low, high

    def to_json(self) -> bytes:
        """Return the content of its file; its SHA-256 names the calibration."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    def save(self, path: Path) -> ActiveCalibration:
        """Write the file, at once or not at all, and return the calibration as known by it."""
        content = self.to_json()
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            beside.write_bytes(content)
            os.replace(beside, path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise MicroscopeConfigError(
                f"the calibration cannot be written: {error.strerror}; choose another place", str(path)
            ) from error
        return ActiveCalibration(file=path.name, sha256=hashlib.sha256(content).hexdigest(), calibration=self)


class ActiveCalibration(BaseModel):
    """A calibration and the file that it came from.

    Attributes
    ----------
    file : str
        Name of the file.
    sha256 : str
        Of its content, hexadecimal.
    calibration : LensCalibration
        What it says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    calibration: LensCalibration

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a calibration file.

        Raises
        ------
        MicroscopeConfigError
            It does not exist, cannot be read or is no calibration: one line.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MicroscopeConfigError(
                f"this lens calibration cannot be read ({error.strerror}); make one with 'livephase calibrate'",
                str(path),
            ) from error
        try:
            calibration = LensCalibration.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise MicroscopeConfigError(
                f"is no lens calibration: {where + ': ' if where else ''}{first['msg']}", str(path)
            ) from error
        return cls(file=path.name, sha256=hashlib.sha256(content).hexdigest(), calibration=calibration)
