"""What a run on disk is made of: its specification, the records of its frames, and the validity codes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

if TYPE_CHECKING:
    from collections.abc import Mapping

    from livephase.acquisition.lamp import FrameLight
    from livephase.frames import Misfit

ImageName = Literal["raw", "phase"]
"""The two images of a run."""

PHASE_STEP_RAD: Final = 2.0**-10
"""Phase is rounded to multiples of this (0.98 mrad): the largest error is half of it."""


class Validity(IntEnum):
    """The codes in ``frames/raw_valid`` and ``frames/phase_valid``."""

    NOT_THERE = 0
    """Not there (yet)."""
    WRITTEN = 1
    """Written in the run."""
    BACKFILLED = 2
    """Written later, from the stored raw frame."""
    MISSING = 3
    """Recorded as missing; the reason is in the journal."""


WRITTEN_CODES: Final = frozenset({Validity.WRITTEN, Validity.BACKFILLED})
"""The codes of frames that are on disk."""


class RunSpec(BaseModel):
    """What is known of a run before its first frame.

    Attributes
    ----------
    run_id, name : str
        Identifier made by the service, and the user's name for the run.
    frames : int
        Planned number of time points; every array over t covers this many.
    interval_s : float
        Nominal time between two frames; 0 for as fast as possible. The true times are in ``frames/``.
    lr_shape : (int, int)
        Shape (Y, X) of a camera frame, px.
    dtype : {"uint8", "uint16"}
        Of the camera frames.
    scale : int
        HR pixels per LR pixel along one axis: phase has shape (scale Y, scale X).
    lr_pixel_um : float
        Size of an LR pixel at the specimen.
    defocus_um : float
        Planned defocus; the confirmed one of every frame is in ``frames/defocus_um``.
    recorded : tuple of str
        ``"Device.Property"`` names whose values are stored with every frame.
    provenance : dict
        Anything that JSON can hold (no NaN): plan, microscope, model, software. It is kept in the root's attributes
        under ``livephase``, beside ``ome``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    run_id: Annotated[str, StringConstraints(min_length=1)]
    name: str
    frames: int = Field(ge=1)
    interval_s: float = Field(ge=0)
    lr_shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    dtype: Literal["uint8", "uint16"]
    scale: int = Field(default=4, ge=1)
    lr_pixel_um: float = Field(gt=0)
    defocus_um: float
    recorded: tuple[Annotated[str, StringConstraints(pattern=r"^[^.]+\..+$")], ...] = ()
    provenance: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def hr_shape(self) -> tuple[int, int]:
        """Shape (Y, X) of a phase image, px."""
        return self.lr_shape[0] * self.scale, self.lr_shape[1] * self.scale

    @property
    def hr_pixel_um(self) -> float:
        """Size of an HR pixel at the specimen."""
        return self.lr_pixel_um / self.scale


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """What is stored with a raw frame.

    Attributes
    ----------
    time_utc_ns, time_monotonic_ns : int
        Start of the exposure, UTC and ``time.monotonic_ns()``. The latter is None where it is not known (a recording
        that is reconstructed): it is stored as 0, and the latency of the phase as NaN.
    defocus_um : float or None
        Confirmed defocus; None without a lens.
    exposure_ms : float or None
        Exposure time; None where it is not known.
    properties : mapping of str to float
        Values of ``RunSpec.recorded``; one that is absent is stored as NaN.
    light : FrameLight or None
        Level, saturation and lamp; None where they were not judged.
    """

    time_utc_ns: int
    time_monotonic_ns: int | None
    defocus_um: float | None
    exposure_ms: float | None
    properties: Mapping[str, float] = field(default_factory=dict[str, float])
    light: FrameLight | None = None


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """What is stored with a phase image.

    Attributes
    ----------
    inference_ms : float
        Time the worker took.
    runtime : str
        What computed it, as in ``PhaseResult.runtime``.
    backfilled : bool
        Whether it was computed later, from the stored raw frame. A phase that replaces one recorded as missing
        counts as backfilled anyway.
    misfit : Misfit or None
        Whether the phase is to be believed.
    """

    inference_ms: float
    runtime: str
    backfilled: bool = False
    misfit: Misfit | None = None
