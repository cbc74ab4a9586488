"""Measurement of a dark frame or a flat field: frames are taken, watched for changes, described."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from livephase import __version__
from livephase.errors import ConfigurationError, ConflictError
from livephase.phase.dark import Average, judge_dark, refuse_light
from livephase.phase.flat import FlatSeries
from livephase.phase.reference import ReferenceInfo, Sensor, exposure_warning, refuse_misfit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from livephase.phase.reference import Kind, Reference
    from livephase_devices.frame import CameraFrame
    from livephase_devices.microscope import MicroscopeState

MOST_FIELDS: Final = 64
"""Frames of a median are all kept in memory until the end."""

_Frames = Annotated[int, Field(ge=2, le=500, description="Number of frames.")]


class DarkRequest(BaseModel):
    """What to take for a dark frame."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    frames: _Frames = 32


class FlatRequest(BaseModel):
    """What to take for a flat field.

    Attributes
    ----------
    frames : int
        Number of frames.
    method : {"empty", "fields"}
        ``"empty"``: only medium is in view. ``"fields"``: cells are, and the dish is moved between the frames.
    interval_s : float
        From one frame to the next: time to move the dish.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    frames: _Frames = 32
    method: Literal["empty", "fields"] = "empty"
    interval_s: float = Field(default=0.0, ge=0, le=600, description="Time to move the dish between two frames, s.")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.method == "fields" and not 5 <= self.frames <= MOST_FIELDS:
            raise ValueError(f"the method 'fields' takes 5 to {MOST_FIELDS} frames")
        return self


class Measurement:
    """One measurement of a reference frame; ``run`` is called once.

    Parameters
    ----------
    request : DarkRequest or FlatRequest
        What to take.
    state : MicroscopeState
        Of the open microscope, before the first frame.
    take : callable
        Takes a frame.
    wait : callable
        Waits so many seconds; True when the measurement is to stop.
    dark : Reference or None
        Dark frame in use, for a flat field.

    Raises
    ------
    ConfigurationError
        The microscope cannot be used, or the dark frame does not fit it.
    """

    def __init__(
        self,
        request: DarkRequest | FlatRequest,
        state: MicroscopeState,
        take: Callable[[], CameraFrame],
        wait: Callable[[float], bool],
        dark: Reference | None = None,
    ) -> None:
        self.request = request
        self.kind: Kind = "dark" if isinstance(request, DarkRequest) else "flat"
        self.taken = 0
        self._state = state
        self._sensor = Sensor.of(state)
        self._take = take
        self._wait = wait
        self._dark = None if isinstance(request, DarkRequest) else dark
        self._exposure_ms: float | None = None
        if self._dark is not None:
            refuse_misfit(self._dark, self._sensor)

    def run(self, taken: Callable[[int], None] = lambda _: None) -> tuple[NDArray[np.float32], ReferenceInfo]:
        """Take the frames and make the reference frame.

        Parameters
        ----------
        taken : callable
            Called after every frame with the number of frames so far.

        Returns
        -------
        NDArray[float32], ReferenceInfo
            (Y, X) counts, and what is known of it.

        Raises
        ------
        ConfigurationError
            The frames are refused: lit, too dark, saturated, with cells; or the camera's settings changed meanwhile.
        ConflictError
            It was stopped.
        DeviceError
            The camera failed.
        """
        request = self.request
        if isinstance(request, DarkRequest):
            return self._run_dark(request, taken)
        return self._run_flat(request, taken)

    def _run_dark(
        self, request: DarkRequest, taken: Callable[[int], None]
    ) -> tuple[NDArray[np.float32], ReferenceInfo]:
        bits = self._sensor.bit_depth
        average = Average(self._sensor.shape)
        for _ in range(request.frames):
            frame = self._next(0.0, taken)
            refuse_light(frame.pixels, bits)
            average.add(frame.pixels)
        figures, warnings = judge_dark(average, bits)
        return average.mean.astype(np.float32), self._info("mean", None, figures, warnings)

    def _run_flat(
        self, request: FlatRequest, taken: Callable[[int], None]
    ) -> tuple[NDArray[np.float32], ReferenceInfo]:
        dark = self._dark
        image = None if dark is None else dark.image
        series = FlatSeries(request.method, self._sensor.bit_depth, image, self._state.lr_pixel_um)
        for _ in range(request.frames):
            frame = self._next(request.interval_s, taken)
            series.add(frame.pixels, frame.exposure_ms)
        flat = series.finish()
        warnings = list(flat.warnings)
        if dark is not None and self._exposure_ms is not None:
            doubt = exposure_warning(dark, self._exposure_ms)
            warnings += [] if doubt is None else [doubt]
        return flat.image, self._info(request.method, flat.smoothing_px, flat.figures, warnings)

    def _next(self, interval_s: float, taken: Callable[[int], None]) -> CameraFrame:
        if self._wait(interval_s if self.taken else 0.0):
            raise ConflictError(f"the measurement of the {self.kind} was stopped after {self.taken} frames")
        frame = self._take()
        if self._exposure_ms is None:
            self._exposure_ms = frame.exposure_ms
        sensor = self._sensor
        if (frame.pixels.shape, frame.bit_depth, frame.exposure_ms) != (
            sensor.shape,
            sensor.bit_depth,
            self._exposure_ms,
        ):
            raise ConfigurationError(
                f"the camera's settings changed during the measurement: frame {self.taken} has {frame.pixels.shape} "
                f"pixels, {frame.bit_depth} bits and {frame.exposure_ms:g} ms instead of {sensor.shape}, "
                f"{sensor.bit_depth} and {self._exposure_ms:g}; measure again"
            )
        self.taken += 1
        taken(self.taken)
        return frame

    def _info(
        self,
        method: Literal["mean", "empty", "fields"],
        smoothing_px: float | None,
        figures: dict[str, float],
        warnings: list[str],
    ) -> ReferenceInfo:
        return ReferenceInfo(
            kind=self.kind,
            created_utc=datetime.now(UTC),
            microscope=self._state.name,
            sensor=self._sensor,
            exposure_ms=self._exposure_ms or 0.0,
            frames=self.taken,
            method=method,
            smoothing_px=smoothing_px,
            dark_sha256=None if self._dark is None else self._dark.sha256,
            figures=figures,
            warnings=tuple(warnings),
            livephase=__version__,
        )
