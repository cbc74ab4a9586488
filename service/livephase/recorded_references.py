"""Dark frame and flat field of recorded frames, as given to ``livephase reconstruct``; what it says of the light."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from livephase.acquisition.lamp import LampState
from livephase.errors import ConfigurationError
from livephase.phase.exposure import MOST_SATURATED
from livephase.phase.reference import NAMES, load_reference, net_reference
from livephase_devices.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from livephase.acquisition.lamp import FrameLight
    from livephase.inference.reconstruct import FramePlan
    from livephase.phase.reference import Kind


@dataclass(frozen=True, slots=True)
class References:
    """Dark frame and flat field for the inference client, and what they were made of.

    Attributes
    ----------
    recorded_dark : NDArray[float32] or None
        Dark frame (Y, X), counts as recorded.
    dark, flat_field
        As the inference client takes them, on the pixels of the model's frames.
    described : dict
        For the provenance.
    """

    recorded_dark: NDArray[np.float32] | None
    dark: NDArray[np.float32] | None
    flat_field: Literal["none", "auto"] | NDArray[np.float32]
    described: dict[str, Any]


def read_references(dark: Path | None, flat_field: str, frames: Recording, plan: FramePlan) -> References:
    """Read what the user named.

    Parameters
    ----------
    dark : Path or None
        Dark frame: an .npz of ``livephase illumination``, or images, which are averaged.
    flat_field : str
        ``"auto"``, ``"none"``, or a flat field as above.
    frames : Recording
        The recorded frames.
    plan : FramePlan
        How they are given to the model.

    Raises
    ------
    ConfigurationError
        A file cannot be read, or does not fit the frames.
    """
    image, about_dark = (None, None) if dark is None else _read(dark, "dark", frames)
    described: dict[str, Any] = {"flat_field": flat_field, "dark": about_dark, "flat": None}
    converted = None if image is None else plan.convert_reference(image)
    if flat_field == "auto" or flat_field == "none":
        return References(image, converted, flat_field, described)
    flat, about_flat = _read(Path(flat_field), "flat", frames)
    described |= {"flat_field": "measured", "flat": about_flat}
    return References(image, converted, plan.convert_reference(net_reference(flat, image)), described)


def describe_light(lights: Sequence[FrameLight]) -> list[str]:
    """Say what of the frames' light is doubtful, one line each."""
    lines: list[str] = []
    saturated = [index for index, light in enumerate(lights) if light.saturated_fraction > MOST_SATURATED]
    if saturated:
        worst = max(saturated, key=lambda index: lights[index].saturated_fraction)
        lines.append(
            f"saturation: {len(saturated)} of {len(lights)} frames; the worst is frame {worst} with "
            f"{100 * lights[worst].saturated_fraction:.1f} % of its pixels. There the phase is too small"
        )
    changed = [index for index, light in enumerate(lights) if light.lamp in (LampState.CHANGED, LampState.OUT)]
    if changed:
        lines.append(
            f"light: {len(changed)} of {len(lights)} frames differ by more than 10 % from the first, from frame "
            f"{changed[0]} on; frames/level_relative in the store"
        )
    return lines


def _read(path: Path, kind: Kind, frames: Recording) -> tuple[NDArray[np.float32], dict[str, Any]]:
    what = f"{NAMES[kind]} {path}"
    if path.suffix == ".npz":
        reference = load_reference(path, kind)
        sensor = reference.info.sensor
        if (sensor.bit_depth <= 8) != (frames.dtype == np.uint8):
            raise ConfigurationError(
                f"the {what} was taken with {sensor.bit_depth} bits, the frames are {frames.dtype}; they have to match"
            )
        image, about = reference.image, reference.described()
    else:
        try:
            recording = Recording(path)
        except (OSError, ValueError) as error:
            raise ConfigurationError(str(error)) from error
        with closing(recording):
            # Several frames are averaged: the noise of one would be printed onto every phase.
            total = np.zeros(recording.shape)
            for index in range(recording.count):
                total += recording.frame(index)
            image = (total / recording.count).astype(np.float32)
            about = {"file": path.name, "sha256": _sha256(path), "frames": recording.count}
    if image.shape != frames.shape:
        raise ConfigurationError(f"the {what} has shape {image.shape}, the frames {frames.shape}; they have to match")
    return image, about


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
