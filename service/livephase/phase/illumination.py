"""Illumination of a measured frame: its field stop, its smooth background and the masks of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_propagation, uniform_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STOP_MAX_LEVEL = 0.25
_STOP_MIN_FRACTION = 0.005
_STOP_EVENNESS = 0.1
_STOP_EVEN_FRACTION = 0.75
_BACKGROUND_BLOCK_PX = 8
_TERMS = [(i, j) for i in range(4) for j in range(4 - i)]
"""Powers of y and x in the cubic background."""


def find_field_stop(image: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Find the field stop: the dark region that reaches the border of the frame.

    Parameters
    ----------
    image : NDArray
        Counts (Y, X).

    Returns
    -------
    NDArray[bool] or None
        (Y, X), True where light comes through; None when no field stop is in view.
    """
    bright = float(np.percentile(image[::4, ::4], 90))
    dark = image < 0.5 * bright
    border = np.zeros_like(dark)
    border[[0, -1], :] = dark[[0, -1], :]
    border[:, [0, -1]] |= dark[:, [0, -1]]
    if not border.any():
        return None
    outside = binary_propagation(border, mask=dark)
    behind = image[outside]
    level = float(np.median(behind))
    even = np.mean(np.abs(behind - level) < _STOP_EVENNESS * bright)
    # Dirt at the border is small, a shadow is not dark enough, and a dark structure is not even.
    if outside.mean() < _STOP_MIN_FRACTION or level > _STOP_MAX_LEVEL * bright or even < _STOP_EVEN_FRACTION:
        return None
    return ~outside


def estimate_background(image: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Estimate a smooth illumination: a cubic polynomial fitted to block means, cells rejected as outliers.

    Parameters
    ----------
    image : NDArray[float32]
        (Y, X).
    valid : NDArray[bool] or None
        Where the image is to be used; None for everywhere.

    Returns
    -------
    NDArray[float32]
        (Y, X) in the image's unit; it is positive where the image is valid.
    """
    block = _BACKGROUND_BLOCK_PX
    rows, columns = (side // block for side in image.shape)
    weight = np.ones_like(image) if valid is None else valid.astype(np.float32)
    weights = _block_sums(weight, rows, columns, block)
    used = weights.ravel() >= 0.5 * block**2
    if used.sum() < 4 * len(_TERMS):
        return np.full_like(image, image[valid].mean() if valid is not None else image.mean())
    sums = _block_sums(image * weight, rows, columns, block)
    means = (sums.ravel()[used] / weights.ravel()[used]).astype(np.float64)
    y_px, x_px = np.divmod(np.flatnonzero(used), columns)
    centre = (block - 1) / 2
    design = _design((y_px * block + centre) / image.shape[0] * 2 - 1, (x_px * block + centre) / image.shape[1] * 2 - 1)
    keep = np.ones(means.shape, dtype=np.bool_)
    coefficients = np.zeros(len(_TERMS))
    for _ in range(4):
        coefficients = np.linalg.lstsq(design[keep], means[keep], rcond=None)[0]
        residual = np.abs(means - design @ coefficients)
        keep = residual <= 2.5 * 1.4826 * np.median(residual) + 1e-9
    y: NDArray[np.float64] = np.arange(image.shape[0], dtype=np.float64)[:, None] / image.shape[0] * 2 - 1
    x: NDArray[np.float64] = np.arange(image.shape[1], dtype=np.float64)[None, :] / image.shape[1] * 2 - 1
    surface = np.zeros(image.shape)
    for coefficient, (i, j) in zip(coefficients.tolist(), _TERMS, strict=True):
        surface += coefficient * (y**i * x**j)
    # Beyond the fitted blocks a cubic may run away: a background far below the level is not believed.
    return np.maximum(surface, 0.1 * float(np.median(means))).astype(np.float32)


def erode(mask: NDArray[np.bool_], distance_px: int) -> NDArray[np.bool_]:
    """Shrink a mask by a square of ``distance_px``; the border of the image does not shrink it."""
    holes = (~mask).astype(np.float32)
    return box_mean(holes, distance_px) <= 1e-6


def box_mean(image: NDArray[np.float32], radius_px: int) -> NDArray[np.float32]:
    """Average over a square of 2 ``radius_px`` + 1 pixels; the image continues beyond its border."""
    return uniform_filter(image.astype(np.float64), 2 * radius_px + 1, mode="nearest").astype(np.float32)


def _block_sums(image: NDArray[np.float32], rows: int, columns: int, block: int) -> NDArray[np.float32]:
    return image[: rows * block, : columns * block].reshape(rows, block, columns, block).sum(axis=(1, 3))


def _design(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    columns: list[NDArray[np.float64]] = [y**i * x**j for i, j in _TERMS]
    return np.stack(columns, axis=1)
