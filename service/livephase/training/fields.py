"""High-resolution phase to train on: simulated cultures and measured cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from livephase_devices.optics import Array, frequencies
from livephase_devices.twin.specimen import Specimen

if TYPE_CHECKING:
    from pathlib import Path

SIMULATED_SHAPE = (1152, 1152)
COVERAGE = (0.02, 1.2)
_LOWEST_CREDIBLE_RAD = -0.3
"""Measured phase below this is an unwrapping residue, not a cell (data note of ``qpi_cells``)."""

_EDGE_UM = 5.0
_BACKGROUND_UM = 15.0
_TYPICAL_MASS_PG = 240.0

Field = NDArray[np.float32]


def simulated_field(
    seed: int,
    shape: tuple[int, int] = SIMULATED_SHAPE,
    pixel_um: float = 0.65,
    coverage: tuple[float, float] = COVERAGE,
) -> Field:
    """Render one field of a culture with random confluence, spread and age.

    Parameters
    ----------
    seed : int
        Chooses everything.
    shape : tuple of int
        (Y, X) of the HR grid.
    pixel_um : float
        HR pixel.
    coverage : tuple of float
        Lowest and highest area of all cells over that of the field; log-uniform between them.

    Returns
    -------
    NDArray[float32]
        (Y, X) radians.
    """
    rng = np.random.default_rng([seed, 0xF1E1D])
    # Equal shares of every order of confluence: an empty dish and a closed layer are both what people record.
    drawn = float(np.exp(rng.uniform(*np.log(coverage))))
    spread_um2_per_pg = float(np.exp(rng.uniform(np.log(0.9), np.log(3.5))))
    specimen = Specimen(
        seed=seed,
        shape=shape,
        pixel_um=pixel_um,
        density_per_mm2=drawn * 1e6 / (_TYPICAL_MASS_PG * spread_um2_per_pg),
        spread_um2_per_pg=spread_um2_per_pg,
    )
    # A crowded culture gets time to push its cells apart, a sparse one also time to grow.
    oldest_h = 36 if drawn < 0.3 else 6
    return specimen.phase_rad(float(rng.uniform(2, oldest_h) * 3600))


def measured_field(path: Path) -> Field:
    """Read one measured phase image of ``qpi_cells`` and take the slow background of its hologram out.

    Parameters
    ----------
    path : Path
        ``.npz`` with ``phase_rad`` (Y, X) float32 and ``labels`` (Y, X), above 0 in cells.

    Returns
    -------
    NDArray[float32]
        (Y, X) radians; unwrapping residues replaced by the background's 0. Structure wider than about 15 um between
        the cells is removed, and what it interpolates to below them: it is the instrument's, and defocus of some
        micrometres does not show it.
    """
    with np.load(path, allow_pickle=False) as archive:
        phase = archive["phase_rad"].astype(np.float32)
        cells = archive["labels"] > 0
        pixel_um = float(archive["pixel_um"])
    phase -= np.median(phase)
    phase = np.where(phase < _LOWEST_CREDIBLE_RAD, np.float32(0), phase)
    # Thin edges of cells reach beyond their labels.
    empty = ~binary_dilation(cells, iterations=round(_EDGE_UM / pixel_um))
    sigma_px = _BACKGROUND_UM / pixel_um
    weight = gaussian_filter(empty.astype(np.float64), sigma_px)
    background = gaussian_filter(np.where(empty, phase, 0.0), sigma_px) / np.maximum(weight, 1e-3)
    return (phase - background).astype(np.float32)


def background_texture(white: Array, pixel_um: float, rng: np.random.Generator) -> Array:
    """Make a texture like that between the cells of measured phase: medium, dish and debris are not flat.

    Parameters
    ----------
    white : Array
        (Y, X) float32 white noise, numpy or torch.
    pixel_um : float
        HR pixel.
    rng : numpy.random.Generator
        Draws the correlation length, 1 to 8 um.

    Returns
    -------
    Array
        (Y, X) float32 of sd 1 and mean 0, periodic.
    """
    xp = array_namespace(white)
    length_um = float(np.exp(rng.uniform(np.log(1.0), np.log(8.0))))
    u_y, u_x = frequencies(white, pixel_um)
    # Power falls as the fourth power of frequency beyond the correlation length: between a blur and a drift.
    spectrum = xp.fft.fft2(white) / (1 + (2 * np.pi * length_um) ** 2 * (u_y**2 + u_x**2))
    texture = xp.real(xp.fft.ifft2(spectrum))
    texture = texture - xp.mean(texture)
    return texture / xp.std(texture)
