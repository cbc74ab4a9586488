"""Pyramid: phase rounded to the storage grid, and its coarser levels by 2x2 means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from livephase.storage.spec import PHASE_STEP_RAD

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LEVELS: Final = 4
SMALLEST_PX: Final = 256
"""No level is added below one whose longer side is this small: one request shows it whole."""


def level_shapes(shape: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Shapes (Y, X) of the levels, the image itself first; each next one is half as large, rounded up."""
    shapes = [shape]
    while len(shapes) < MAX_LEVELS and max(shapes[-1]) > SMALLEST_PX:
        y, x = shapes[-1]
        shapes.append(((y + 1) // 2, (x + 1) // 2))
    return tuple(shapes)


def round_phase(phase_rad: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to multiples of 2^-10 rad, which are exact in float32 up to 8192 rad; NaN stays NaN."""
    return np.rint(phase_rad * np.float32(1 / PHASE_STEP_RAD)) * np.float32(PHASE_STEP_RAD)


def halve(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over 2x2 blocks of an image (Y, X); at an odd edge over the pixels that are there.

    A block with a NaN in it is NaN: a coarse pixel never mixes data with a hole.
    """
    y, x = image.shape
    if y % 2:
        image = np.concatenate((image, image[-1:]), axis=0)
    if x % 2:
        image = np.concatenate((image, image[:, -1:]), axis=1)
    rows = image[0::2] + image[1::2]
    mean = np.empty((rows.shape[0], rows.shape[1] // 2), np.float32)
    np.add(rows[:, 0::2], rows[:, 1::2], out=mean)
    np.multiply(mean, np.float32(0.25), out=mean)
    return mean


def phase_levels(phase_rad: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """All levels of a phase image (Y, X) in rad as they are stored, level 0 first.

    The means are taken before rounding, so that the error of every level is at most 2^-11 rad.
    """
    exact = [phase_rad]
    while len(exact) < len(level_shapes(phase_rad.shape)):
        exact.append(halve(exact[-1]))
    return [round_phase(level) for level in exact]
