"""Dry mass of cells in a phase image, and its bias in an estimate.

Phase is proportional to the dry mass per area: phase = 2 pi / wavelength x alpha x density (Barer 1952).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

REFRACTION_INCREMENT_UM3_PER_PG = 0.18
"""alpha, that of proteins; the value of the ``qpi_cells`` data."""

_CELL_PHASE_RAD = 0.25
"""Least smoothed phase of a cell's body."""
_SMOOTHING_UM = 3.0
_SEED_DISTANCE_UM = 12.0
_LEAST_MASS_PG = 60.0
"""Debris and what the border cut off is lighter than this; the lightest tenth of measured cells weighs 116 pg."""


def dry_mass_pg(
    phase_rad: NDArray[Any],
    labels: NDArray[Any],
    pixel_um: float,
    wavelength_um: float,
    increment_um3_per_pg: float = REFRACTION_INCREMENT_UM3_PER_PG,
) -> NDArray[np.float64]:
    """Dry mass of every labelled cell.

    Parameters
    ----------
    phase_rad : NDArray
        (Y, X) phase in rad, 0 in the medium.
    labels : NDArray[int]
        (Y, X) 0 outside of cells, 1..N in them.
    pixel_um, wavelength_um : float
        Pixel at the specimen and the wavelength of the phase.
    increment_um3_per_pg : float
        alpha.

    Returns
    -------
    NDArray[float64]
        (N,) picograms.
    """
    sums = ndimage.sum_labels(np.asarray(phase_rad, np.float64), labels, np.arange(1, int(labels.max()) + 1))
    return np.asarray(sums) * (pixel_um**2 * wavelength_um / (2 * np.pi * increment_um3_per_pg))


def segment_cells(phase_rad: NDArray[Any], pixel_um: float, wavelength_um: float) -> NDArray[np.int32]:
    """Find the cells of a true phase: smooth, threshold, and divide at the valleys between the peaks.

    Parameters
    ----------
    phase_rad : NDArray
        (Y, X) phase in rad without noise.
    pixel_um, wavelength_um : float
        As for ``dry_mass_pg``.

    Returns
    -------
    NDArray[int32]
        (Y, X) labels 1..N of cells that weigh at least 60 pg and do not touch the border, 0 elsewhere.
    """
    smooth = ndimage.gaussian_filter(np.asarray(phase_rad, np.float32), _SMOOTHING_UM / pixel_um)
    body = smooth > _CELL_PHASE_RAD
    size = 2 * round(_SEED_DISTANCE_UM / pixel_um / 2) + 1
    peaks = body & (smooth == ndimage.maximum_filter(smooth, size))
    seeds = ndimage.label(peaks, np.ones((3, 3)))[0].astype(np.int32)
    if not seeds.any():
        return seeds
    # A pixel belongs to the peak that the steepest way up leads to; a lesser summit belongs to the nearest peak.
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    labels = np.where(body, seeds[tuple(nearest)].ravel()[_summits(smooth)], 0)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    mass = dry_mass_pg(phase_rad, labels, pixel_um, wavelength_um)
    kept = mass >= _LEAST_MASS_PG
    kept[edge[edge > 0] - 1] = False
    return renumber(labels, kept)


def _summits(image: NDArray[np.float32]) -> NDArray[np.intp]:
    """Flat index of the local maximum that the steepest ascent from each pixel ends in, (Y, X)."""
    rows, columns = image.shape
    padded = np.pad(image, 1, constant_values=-np.inf)
    index = np.arange(image.size).reshape(image.shape)
    best, target = image.copy(), index.copy()
    for step_y in (-1, 0, 1):
        for step_x in (-1, 0, 1):
            beside = padded[1 + step_y : 1 + step_y + rows, 1 + step_x : 1 + step_x + columns]
            higher = beside > best
            best[higher] = beside[higher]
            target[higher] = index[higher] + step_y * columns + step_x
    target = target.ravel()
    while not np.array_equal(further := target[target], target):
        target = further
    return target.reshape(image.shape)


def renumber(labels: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Keep some of the labels 1..N and number them without gaps."""
    table = np.zeros(len(kept) + 1, np.int32)
    table[1:][kept] = np.arange(1, int(kept.sum()) + 1)
    return table[labels]


def mass_bias_percent(estimate_rad: NDArray[Any], truth_rad: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Bias of each cell's dry mass in per cent of the true one; pixel, wavelength and alpha cancel."""
    index = np.arange(1, int(labels.max()) + 1)
    if not len(index):
        return np.empty(0)
    true = np.asarray(ndimage.sum_labels(np.asarray(truth_rad, np.float64), labels, index))
    found = np.asarray(ndimage.sum_labels(np.asarray(estimate_rad, np.float64), labels, index))
    return (found / true - 1) * 100
