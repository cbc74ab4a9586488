"""Bodies of the REST layer: what a client sends and what it gets back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from livephase.acquisition.progress import RunState
from livephase.clock import iso_utc
from livephase_devices.lens_calibration import ActiveCalibration
from livephase_devices.microscope import DeviceInfo, MicroscopeState, PropertyInfo

if TYPE_CHECKING:
    from livephase.acquisition.progress import Counters, LiveStatus, RunProgress
    from livephase.phase.exposure import ExposureAdvice
    from livephase.phase.modelfile import ModelCard

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class CountersOut(BaseModel):
    """Frames of a run; when it has ended, ``expected`` equals written plus missing, for raw and for phase."""

    model_config = _FROZEN

    expected: int
    raw_written: int
    raw_missing: int
    phase_written: int
    phase_missing: int

    @classmethod
    def of(cls, counters: Counters) -> Self:
        """Describe the counters of a run."""
        return cls(**asdict(counters))


class RunOut(BaseModel):
    """One run."""

    model_config = _FROZEN

    id: str
    name: str
    state: RunState
    reason: str | None = Field(description="Why the run ended, when it did not complete.")
    time_points: int
    interval_s: float
    defocus_um: float
    created_utc: str
    started_utc: str | None
    ended_utc: str | None
    counters: CountersOut
    remaining_s: float | None = Field(
        description="Estimate until the last phase is stored; null after the end, and while there is nothing to go by."
    )
    misfit: float | None = Field(description="Of the latest phase that was judged; see the table frames/ of the store.")
    path: str = Field(description="The run's OME-Zarr on the service's computer.")
    warnings: list[str] = Field(description="Such as values outside the model's valid range.")

    @classmethod
    def of_progress(cls, progress: RunProgress, path: str) -> Self:
        """Describe a run of this service."""
        return cls(
            id=progress.run_id,
            name=progress.plan.name,
            state=progress.state,
            reason=progress.reason,
            time_points=progress.plan.time_points,
            interval_s=progress.plan.interval_s,
            defocus_um=progress.plan.defocus_um,
            created_utc=iso_utc(progress.created_utc_ns),
            started_utc=_iso(progress.started_utc_ns),
            ended_utc=_iso(progress.ended_utc_ns),
            counters=CountersOut.of(progress.counters),
            remaining_s=progress.remaining_s,
            misfit=progress.misfit,
            path=path,
            warnings=list(progress.warnings),
        )


class RunList(BaseModel):
    """All runs in the service's data folder, the newest first."""

    model_config = _FROZEN

    acquisitions: list[RunOut]


class Estimate(BaseModel):
    """What a plan would need (``?dry_run=true``)."""

    model_config = _FROZEN

    bytes: int = Field(description="Estimated size of the store; noise compresses badly, so take it as a maximum.")
    duration_s: float | None = Field(description="From the first to the last time point; null for interval_s = 0.")
    warnings: list[str]
    disk_free_bytes: int


CalibrationState = Literal["none", "running", "completed", "failed", "cancelled"]


class CalibrationToUse(BaseModel):
    """The calibration to use."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    file: str = Field(min_length=1, max_length=200, description="Name of a stored calibration.")


class CalibrationOut(BaseModel):
    """The latest defocus calibration, the stored ones, and the one in use."""

    model_config = _FROZEN

    state: CalibrationState
    exposures: int
    expected: int = Field(description="Exposures in all; corrected on the way.")
    points: list[tuple[float, float]] = Field(description="Lens position and measured defocus in um, so far.")
    result: ActiveCalibration | None = Field(description="What came of it, and the name of its file.")
    error: str | None = Field(description="Why it failed.")
    files: list[str] = Field(description="Stored calibrations, the newest first.")
    active: ActiveCalibration | None = Field(description="In use; null: the numbers of the configuration are.")


class LiveOut(BaseModel):
    """Live mode."""

    model_config = _FROZEN

    running: bool
    frames: int = Field(description="Frames taken by live mode since the service started.")
    dropped: int = Field(description="Those of them that the inference worker was too busy for.")
    fault: str | None = Field(description="The device error that keeps it from taking frames at present.")

    @classmethod
    def of_status(cls, status: LiveStatus) -> Self:
        """Describe live mode."""
        return cls(running=status.running, frames=status.frames, dropped=status.dropped, fault=status.fault)


class InferenceOut(BaseModel):
    """The inference worker."""

    model_config = _FROZEN

    state: str = Field(description="starting, ready, restarting or stopped")
    pid: int | None
    restarts: int
    runtime: str | None
    last_ms: float | None
    misfit: float | None = Field(description="Of the latest phase; 1 is usual for matched frames, null: not judged.")
    misfit_threshold: float | None = Field(description="Above it the phase does not explain the frame.")
    heartbeat_age_s: float | None
    error: str | None = Field(description="Why the last worker ended.")


class ModelOut(BaseModel):
    """A model's card."""

    model_config = _FROZEN

    name: str
    version: str
    sha256: str
    scale: int
    architecture: dict[str, Any]
    parameters: int
    valid: dict[str, tuple[float, float]] = Field(description="Inclusive valid range of every quantity.")
    objective_na: float | None = Field(description="Aperture that the training simulated.")
    training: dict[str, Any]
    figures: dict[str, Any]
    licence: str
    source: str = Field(description="bundled, imported, or file: named by its path in the configuration")
    active: bool
    fits: bool = Field(description="Whether the present microscope lies inside the valid range.")
    problems: list[str] = Field(description="What of the microscope lies outside the valid range.")
    distance: float = Field(description="How far outside: sum of the logarithms of the ratios; 0 inside.")


class ModelList(BaseModel):
    """The models that the service knows, in the order in which they are preferred."""

    model_config = _FROZEN

    models: list[ModelOut]
    active: str = Field(description="Name of the model in use.")
    nearest: str = Field(description="The preferred one of those that fit the microscope; else the nearest one.")
    advice: str | None = Field(description="What to do where no model fits.")


class ActiveModel(BaseModel):
    """The model to use."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str


class ModelName(BaseModel):
    """Which model."""

    model_config = _FROZEN

    name: str
    version: str
    sha256: str

    @classmethod
    def of(cls, card: ModelCard) -> Self:
        """Name the model of a card."""
        return cls(name=card.name, version=card.version, sha256=card.sha256)


class ExposureOut(BaseModel):
    """What the raw counts of a frame say of its exposure."""

    model_config = _FROZEN

    exposure_ms: float = Field(description="Of the frame that was judged: the newest one.")
    saturated_fraction: float
    brightest: float = Field(description="99.9 % of the pixels are darker; fraction of the camera's range.")
    noise_sd: float = Field(description="Noise over level, estimated from the frame.")
    suggested_ms: float = Field(description="Brings the brightest level to 80 %; of a saturated frame an upper bound.")
    suggested_noise_sd: float = Field(description="Noise over level there, if photons make the noise.")
    advice: str | None = Field(description="null where the exposure is good as it is.")

    @classmethod
    def of(cls, advice: ExposureAdvice) -> Self:
        """Describe advice."""
        return cls(
            exposure_ms=advice.exposure_ms,
            saturated_fraction=advice.saturated_fraction,
            brightest=advice.brightest,
            noise_sd=advice.noise_sd,
            suggested_ms=advice.suggested_ms,
            suggested_noise_sd=advice.suggested_noise_sd,
            advice=advice.text,
        )


class MicroscopeOut(BaseModel):
    """The microscope, and whether the model fits it."""

    model_config = _FROZEN

    microscope: MicroscopeState
    stated_defocus_um: float | None = Field(description="Defocus as stated by the user, without a lens.")
    hr_pixel_um: float = Field(description="Pixel of the phase image at the specimen.")
    model: ModelName = Field(description="The model in use.")
    range_problems: list[str] = Field(description="What lies outside the model's valid range at present.")
    advice: list[str] = Field(description="Which model fits then, or which is the nearest and how to train one.")
    exposure: ExposureOut | None = Field(description="null before the first frame.")
    illumination_problems: list[str] = Field(description="Why dark frame or flat field do not fit at present.")
    live: LiveOut
    inference: InferenceOut
    run: RunOut | None = Field(description="The run that has the microscope.")


class MicroscopePatch(BaseModel):
    """What can be changed at the microscope; absent values stay."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    exposure_ms: float | None = Field(default=None, gt=0, le=600_000)
    defocus_um: float | None = Field(default=None, ge=-1000, le=1000)


class DeviceList(BaseModel):
    """The loaded devices."""

    model_config = _FROZEN

    devices: list[DeviceInfo]


class PropertyList(BaseModel):
    """All properties of a device."""

    model_config = _FROZEN

    properties: list[PropertyInfo]


class PropertyPut(BaseModel):
    """The value that a property is to have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    value: bool | int | float | Annotated[str, Field(max_length=1023)] = Field(
        description="A number or text, as the property's kind says; true and false stand for 1 and 0."
    )


class RawStatistics(BaseModel):
    """Counts of a camera frame."""

    model_config = _FROZEN

    min: int
    max: int
    mean: float
    saturated_fraction: float


class PhaseStatistics(BaseModel):
    """A phase image, in radians."""

    model_config = _FROZEN

    min_rad: float
    max_rad: float
    mean_rad: float
    sd_rad: float
    inference_ms: float
    runtime: str
    misfit: float | None = Field(description="1 is usual for matched frames; null: not judged.")


class SnapOut(BaseModel):
    """One frame, taken on request and not stored."""

    model_config = _FROZEN

    index: int
    time_utc: str
    width: int
    height: int
    bit_depth: int
    exposure_ms: float
    defocus_um: float | None
    raw: RawStatistics
    exposure: ExposureOut
    phase: PhaseStatistics | None
    phase_error: str | None = Field(description="Why there is no phase.")
    warnings: list[str]


class HealthOut(BaseModel):
    """Whether the service does its work."""

    model_config = _FROZEN

    status: str = Field(description="ok; degraded: something is at fault; failed: no acquisition is possible")
    version: str
    microscope: str
    inference: str
    live: bool
    run: str | None
    disk_free_bytes: int
    problems: list[str]


class Problem(BaseModel):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    instance: str | None = None
    errors: list[dict[str, str]] | None = None


def _iso(utc_ns: int | None) -> str | None:
    return None if utc_ns is None else iso_utc(utc_ns)
