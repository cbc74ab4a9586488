"""Preprocessing: camera counts to the network's input, for simulated and for measured frames.

::

    counts ─ dark frame ─ field stop, stray light ─ flat field ─ level ─▶ INPUT_GAIN (I / mean - 1) ─ filled ─ padded

The network was trained on I / mean - 1 over a full rectangle. A measured frame differs from that by an
uneven illumination, by a field stop whose edge is far stronger than a cell, and by its border; each of them
would ring through the phase if it were passed on. An offset of the camera lowers the contrast and so the phase, by
its share of the level.

With a dark frame D and a flat field R the frame S becomes (S - D) / C, C = (R - D) mean(S - D) / mean(R - D): the
brightness correction of Zhou et al. 2024, section 2.2, C = R mean(S) / mean(R), with the offset taken off both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from livephase.errors import InferenceError
from livephase.phase.illumination import box_mean, erode, estimate_background, find_field_stop
from livephase.phase.modelfile import INPUT_GAIN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.phase.modelfile import ModelCard

    FlatField = Literal["none", "auto"] | NDArray[np.float32]

HALO_PX = 8
"""Reflected LR pixels around the frame; they keep the network's own zero padding out of the image."""

_MIN_SIDE_PX = 32
_MIN_LEVEL_FRACTION = 1 / 256
_LEAST_FLAT = 0.02
"""Light of the darkest pixel of a flat field over its mean: below, dividing would only raise noise."""
_STOP_MARGIN_PX = 3
_FEATHER_PX = 3


@dataclass(frozen=True, slots=True)
class Prepared:
    """A frame ready for the network.

    Attributes
    ----------
    intensity : NDArray[float32]
        (H, W), ``INPUT_GAIN * (I / mean - 1)``, padded; H and W are multiples of the network's stride.
    inner : tuple of slice
        Where the frame lies in ``intensity``.
    valid : NDArray[bool] or None
        (Y, X) of the frame: True inside the field stop. None without a field stop.
    """

    intensity: NDArray[np.float32]
    inner: tuple[slice, slice]
    valid: NDArray[np.bool_] | None

    def crop(self, phase: NDArray[np.float32], scale: int, out: NDArray[np.float32]) -> None:
        """Write the frame's part of the padded phase to ``out``, NaN outside the field stop.

        Parameters
        ----------
        phase : NDArray[float32]
            (scale H, scale W) in rad.
        scale : int
            HR pixels per LR pixel.
        out : NDArray[float32]
            (scale Y, scale X) in rad.
        """
        rows, columns = (slice(s.start * scale, s.stop * scale) for s in self.inner)
        out[:] = phase[rows, columns]
        if self.valid is not None:
            out[~self.valid.repeat(scale, axis=0).repeat(scale, axis=1)] = np.nan


def prepare(
    pixels: NDArray[Any],
    *,
    bit_depth: int,
    stride: int,
    flat_field: FlatField = "none",
    dark: NDArray[np.float32] | None = None,
    halo_px: int = HALO_PX,
) -> Prepared:
    """Turn camera counts into the network's input.

    Parameters
    ----------
    pixels : NDArray[uint8 or uint16]
        Counts (Y, X).
    bit_depth : int
        Bits of the camera; says what a dark frame is.
    stride : int
        The network's input sides are multiples of it.
    flat_field : "none", "auto" or NDArray[float32]
        ``"auto"`` divides by a smooth background estimated from the frame itself (``estimate_background``);
        an array (Y, X) is the light of a frame without specimen, R - D, and is divided by.
    dark : NDArray[float32] or None
        Dark frame D (Y, X), counts; None where it is not known.
    halo_px : int
        Reflected pixels on every side.

    Raises
    ------
    InferenceError
        The frame is dark, too small, or does not match the dark frame or the flat field.
    """
    if pixels.ndim != 2 or min(pixels.shape) < _MIN_SIDE_PX:
        sides = " x ".join(map(str, pixels.shape))
        msg = f"a frame of {sides} pixels cannot be computed; its sides need at least {_MIN_SIDE_PX} pixels"
        raise InferenceError(msg)
    image = pixels.astype(np.float32)
    if dark is not None:
        if dark.shape != image.shape:
            msg = f"the dark frame has shape {dark.shape}, the frame {image.shape}; they have to match"
            raise InferenceError(msg)
        image -= dark
    lit = find_field_stop(image)
    valid: NDArray[np.bool_] | None = None
    if lit is not None:
        # Behind the stop the camera shows stray light, and its offset without a dark frame; both also lie over the
        # specimen.
        image -= np.float32(np.median(image[~lit]))
        valid = erode(lit, _STOP_MARGIN_PX)
        if not valid.any():
            msg = "the field stop leaves no pixel to compute; open it"
            raise InferenceError(msg)
    level = _level(image, valid)
    if level < _MIN_LEVEL_FRACTION * 2**bit_depth:
        msg = (
            f"the frame is dark (mean {level:.2f} of {2**bit_depth - 1} counts); open the shutter or raise the exposure"
        )
        raise InferenceError(msg)
    image = _flatten(image, valid, flat_field)
    level = _level(image, valid)
    image *= np.float32(INPUT_GAIN / level)
    image -= np.float32(INPUT_GAIN)
    if valid is not None:
        # Zero is the level. The taper, inside the valid region, keeps its edge from acting as a structure.
        taper = box_mean(erode(valid, _FEATHER_PX).astype(np.float32), _FEATHER_PX)
        image = np.where(valid, image * taper, np.float32(0))
    pads = [_pads(side, stride, halo_px) for side in image.shape]
    inner_rows, inner_columns = (
        slice(before, before + side) for (before, _), side in zip(pads, image.shape, strict=True)
    )
    return Prepared(np.pad(image, pads, mode="reflect"), (inner_rows, inner_columns), valid)


def resample_area(image: NDArray[Any], pixel_um: float, target_um: float) -> NDArray[np.float32]:
    """Average an image onto coarser pixels of any ratio, as a sensor with those pixels would.

    Parameters
    ----------
    image : NDArray
        (Y, X) on square pixels of ``pixel_um``.
    pixel_um, target_um : float
        Side of the pixels before and after; the target is not finer.

    Returns
    -------
    NDArray[float32]
        (floor(Y pixel / target), floor(X pixel / target)); the upper left corners coincide.
    """
    if target_um < pixel_um:
        msg = f"area averaging makes pixels coarser; {pixel_um:g} um to {target_um:g} um would make them finer"
        raise ValueError(msg)
    result = image.astype(np.float64)
    for axis in (0, 1):
        result = _average_along(result, axis, target_um / pixel_um)
    return result.astype(np.float32)


def model_pixel_um(card: ModelCard, pixel_um: float) -> float:
    """Say on which LR pixel a frame is given to the model.

    Parameters
    ----------
    card : ModelCard
        The model.
    pixel_um : float
        The recorded pixel at the specimen.

    Returns
    -------
    float
        ``pixel_um`` unless it is finer than the model's valid range. Then the multiple of it within the range that is
        nearest to the range's centre: whole pixels are averaged, and their noise stays independent. Where the range
        holds no multiple, its centre.
    """
    low, high = card.valid.lr_pixel_um
    if pixel_um >= low:
        return pixel_um
    centre = (low + high) / 2
    multiples = [count * pixel_um for count in (math.floor(centre / pixel_um), math.ceil(centre / pixel_um))]
    within = [multiple for multiple in multiples if low <= multiple <= high]
    return min(within, key=lambda multiple: abs(multiple - centre), default=centre)


def _level(image: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> float:
    return float((image if valid is None else image[valid]).mean(dtype=np.float64))


def _flatten(image: NDArray[np.float32], valid: NDArray[np.bool_] | None, flat_field: FlatField) -> NDArray[np.float32]:
    if isinstance(flat_field, str):
        return image / estimate_background(image, valid) if flat_field == "auto" else image
    if flat_field.shape != image.shape:
        msg = f"the flat field has shape {flat_field.shape}, the frame {image.shape}; they have to match"
        raise InferenceError(msg)
    used = np.ones(image.shape, dtype=bool) if valid is None else valid
    light = flat_field[used]
    level = float(light.mean(dtype=np.float64))
    if not (math.isfinite(level) and float(light.min()) > _LEAST_FLAT * max(level, 0.0)):
        msg = (
            "the flat field has pixels without light where the frame is lit: they are not positive, or behind a field "
            "stop; record it with the light on and the stop as it is"
        )
        raise InferenceError(msg)
    correction = flat_field * np.float32(_level(image, valid) / level)
    return image / np.where(used, correction, 1).astype(np.float32)


def _pads(side: int, stride: int, halo_px: int) -> tuple[int, int]:
    total = -(-(side + 2 * halo_px) // stride) * stride
    return halo_px, total - side - halo_px


def _average_along(image: NDArray[np.float64], axis: int, ratio: float) -> NDArray[np.float64]:
    length = image.shape[axis]
    count = int(length / ratio + 1e-6)
    if count == 0:
        msg = "the image is smaller than one target pixel"
        raise ValueError(msg)
    sums = np.concatenate([np.zeros_like(image.take([0], axis=axis)), np.cumsum(image, axis=axis)], axis=axis)
    edges = np.minimum(np.arange(count + 1) * ratio, length)
    lower = np.minimum(edges.astype(int), length - 1)
    share = np.expand_dims(edges - lower, 1 - axis)
    at_edges = sums.take(lower, axis=axis) * (1 - share) + sums.take(lower + 1, axis=axis) * share
    return np.diff(at_edges, axis=axis) / ratio
