"""Reference frames of a camera, dark frame and flat field: what they are, their files, and whether they fit a camera.

A file is an npz without pickle: ``image`` (Y, X) float32, raw counts including the offset, and ``metadata``, JSON. It
is known by the SHA-256 of its bytes.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from livephase import files
from livephase.errors import ConfigurationError
from livephase.phase.illumination import box_mean, find_field_stop

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from livephase_devices.microscope import MicroscopeState

Kind = Literal["dark", "flat"]

NAMES: dict[Kind, str] = {"dark": "dark frame", "flat": "flat field"}
_DEAD = 0.05
"""A pixel below this fraction of the flat field's level sees nothing."""
_EXPOSURE_TOLERANCE = 0.01


class Sensor(BaseModel):
    """How a camera is read out; a reference frame holds for one readout.

    Attributes
    ----------
    camera : str
        ``"library.device"`` of the camera.
    shape : (int, int)
        (Y, X) of a frame in pixels.
    roi : (int, int, int, int) or None
        (x, y, width, height) of the sensor that is read out, in pixels.
    binning : str or None
        As the camera states it.
    bit_depth : int
        Bits of a pixel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    camera: str
    shape: tuple[int, int]
    roi: tuple[int, int, int, int] | None
    binning: str | None
    bit_depth: int

    @classmethod
    def of(cls, state: MicroscopeState) -> Self:
        """Describe the readout of an open microscope; ConfigurationError where it is not known."""
        if state.fault is not None or state.sensor_shape is None or state.bit_depth is None:
            raise ConfigurationError(f"the microscope cannot be used at present: {state.fault or 'it is not open'}")
        return cls(
            camera=state.devices.get(state.camera, state.camera),
            shape=state.sensor_shape,
            roi=state.roi,
            binning=state.binning,
            bit_depth=state.bit_depth,
        )


class ReferenceInfo(BaseModel):
    """What is known of a reference frame; kept in its file and in the provenance of every run that uses it.

    Attributes
    ----------
    kind : {"dark", "flat"}
        Which reference.
    created_utc : datetime
        End of the measurement.
    microscope : str
        Its name.
    sensor : Sensor
        Readout of the frames.
    exposure_ms : float
        Of every frame.
    frames : int
        How many were taken.
    method : str
        ``"mean"`` (dark), ``"empty"`` or ``"fields"`` (flat).
    smoothing_px : float or None
        Sigma of the smoothing in pixels; None where nothing was smoothed.
    dark_sha256 : str or None
        Dark frame that was in use when a flat field was measured.
    figures : dict
        What was measured on the way; see ``phase.dark`` and ``phase.flat``.
    warnings : tuple of str
        What is doubtful.
    livephase : str
        Version that made it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["livephase reference 1"] = "livephase reference 1"
    kind: Kind
    created_utc: datetime
    microscope: str
    sensor: Sensor
    exposure_ms: float = Field(gt=0)
    frames: int = Field(ge=1)
    method: Literal["mean", "empty", "fields"]
    smoothing_px: float | None
    dark_sha256: str | None
    figures: dict[str, float]
    warnings: tuple[str, ...]
    livephase: str


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A reference frame.

    Attributes
    ----------
    image : NDArray[float32]
        (Y, X) raw counts, the camera's offset included.
    info : ReferenceInfo
        What is known of it.
    sha256 : str
        Of its file.
    name : str
        Of its file, for messages.
    """

    image: NDArray[np.float32]
    info: ReferenceInfo
    sha256: str
    name: str

    def described(self) -> dict[str, Any]:
        """Return what a run's provenance keeps of it."""
        return {"sha256": self.sha256, "file": self.name, **self.info.model_dump(mode="json")}


def save_reference(path: Path, image: NDArray[np.float32], info: ReferenceInfo) -> Reference:
    """Write a reference frame, whole or not at all; an existing file is not overwritten.

    Raises
    ------
    ConfigurationError
        The file exists or cannot be written.
    """
    if path.exists():
        raise ConfigurationError(f"{path} exists already and is not overwritten; choose another name")
    buffer = io.BytesIO()
    image = np.ascontiguousarray(image, np.float32)
    np.savez(buffer, image=image, metadata=np.array(info.model_dump_json()))
    content = buffer.getvalue()
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.write_bytes(content)
        files.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from error
    return Reference(image, info, hashlib.sha256(content).hexdigest(), path.name)


def load_reference(path: Path, kind: Kind) -> Reference:
    """Read a reference frame.

    Parameters
    ----------
    path : Path
        As written by ``save_reference``.
    kind : {"dark", "flat"}
        What it has to be.

    Raises
    ------
    ConfigurationError
        It is not there, not livephase's, damaged, or of the other kind; one line.
    """
    what = f"{NAMES[kind]} {path}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{what} cannot be read: {error.strerror or error}") from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            image: NDArray[Any] = archive["image"]
            info = ReferenceInfo.model_validate_json(str(archive["metadata"][()]))
    except (ValueError, KeyError, OSError, EOFError, TypeError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).split("\n")[0]
        raise ConfigurationError(
            f"{what} is not a reference frame of livephase ({reason}); measure one with 'livephase illumination {kind}'"
        ) from error
    if info.kind != kind:
        raise ConfigurationError(f"{what} is a {NAMES[info.kind]}, not a {NAMES[kind]}")
    if image.dtype != np.float32 or image.shape != info.sensor.shape or not bool(np.isfinite(image).all()):
        raise ConfigurationError(f"{what} is damaged: its image is {image.shape} {image.dtype}, or not finite")
    return Reference(image, info, hashlib.sha256(content).hexdigest(), path.name)


def refuse_misfit(reference: Reference, sensor: Sensor) -> None:
    """Refuse a reference frame that does not belong to the present readout.

    Raises
    ------
    ConfigurationError
        Another camera, shape, region, binning or bit depth; says which.
    """
    taken = reference.info.sensor
    names = {
        "camera": "camera",
        "shape": "shape (Y, X)",
        "roi": "region (x, y, width, height)",
        "binning": "binning",
        "bit_depth": "bit depth",
    }
    differing = [key for key in names if getattr(taken, key) != getattr(sensor, key)]
    if differing:
        kind = reference.info.kind
        found = ", ".join(f"{names[key]} {getattr(taken, key)} instead of {getattr(sensor, key)}" for key in differing)
        raise ConfigurationError(
            f"the {NAMES[kind]} {reference.name} does not fit the camera: it has {found}; "
            f"measure a new one (POST /api/v1/calibrations/{kind} or 'livephase illumination {kind}')"
        )


def exposure_warning(dark: Reference, exposure_ms: float) -> str | None:
    """Say that a dark frame was taken at another exposure; its offset may still be right, its hot pixels are not."""
    taken_ms = dark.info.exposure_ms
    if abs(taken_ms - exposure_ms) <= _EXPOSURE_TOLERANCE * exposure_ms:
        return None
    return (
        f"the dark frame {dark.name} was taken at {taken_ms:g} ms, frames are exposed {exposure_ms:g} ms: its offset"
        " holds where the camera's dark current is small; measure one at this exposure to be sure."
    )


def net_reference(flat: NDArray[np.float32], dark: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return the light of a flat field: R - D, without stray light and without dead pixels.

    Parameters
    ----------
    flat : NDArray[float32]
        R (Y, X), counts.
    dark : NDArray[float32] or None
        D (Y, X), counts; None where it is not known.

    Returns
    -------
    NDArray[float32]
        (Y, X) counts. Where the field stop was in view its own level, offset and stray light, is taken off as it is
        from a frame; single pixels that see nothing get the median of their neighbours, to be divided by.
    """
    light = flat.copy() if dark is None else flat - dark
    lit = find_field_stop(light)
    if lit is not None:
        light -= np.float32(np.median(light[~lit]))
    level = float(light.mean() if lit is None else light[lit].mean())
    dead = light < _DEAD * level
    # A region without light is not a defect: it stays, and is refused where a frame is lit there.
    dead &= box_mean(dead.astype(np.float32), 2) < 0.5
    for row, column in np.argwhere(dead):
        around = np.s_[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        light[row, column] = np.median(light[around][~dead[around]])
    return light
