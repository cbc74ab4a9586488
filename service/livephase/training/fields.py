"""High-resolution phase to train on: simulated cultures and measured cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from livephase_devices.twin.specimen import Specimen

if TYPE_CHECKING:
    from pathlib import Path

SIMULATED_SHAPE = (1152, 1152)
_LOWEST_CREDIBLE_RAD = -0.3
"""Measured phase below this is an unwrapping residue, not a cell (data note of ``qpi_cells``)."""

_TYPICAL_MASS_PG = 240.0

Field = NDArray[np.float32]


def simulated_field(seed: int, shape: tuple[int, int] = SIMULATED_SHAPE) -> Field:
    """Render one field of a culture with random confluence, spread and age.

    Parameters
    ----------
    seed : int
        Chooses everything.
    shape : tuple of int
        (Y, X) of the HR grid.

    Returns
    -------
    NDArray[float32]
        (Y, X) radians.
    """
    rng = np.random.default_rng([seed, 0xF1E1D])
    # Equal shares of every order of confluence: an empty dish and a closed layer are both what people record.
    coverage = float(np.exp(rng.uniform(np.log(0.02), np.log(1.2))))
    spread_um2_per_pg = float(np.exp(rng.uniform(np.log(0.9), np.log(3.5))))
    specimen = Specimen(
        seed=seed,
        shape=shape,
        density_per_mm2=coverage * 1e6 / (_TYPICAL_MASS_PG * spread_um2_per_pg),
        spread_um2_per_pg=spread_um2_per_pg,
    )
    # A crowded culture gets time to push its cells apart, a sparse one also time to grow.
    oldest_h = 36 if coverage < 0.3 else 6
    return specimen.phase_rad(float(rng.uniform(2, oldest_h) * 3600))


def measured_field(path: Path) -> Field:
    """Read one measured phase image of ``qpi_cells``.

    Parameters
    ----------
    path : Path
        ``.npz`` with ``phase_rad`` (Y, X) float32.

    Returns
    -------
    NDArray[float32]
        (Y, X) radians; unwrapping residues replaced by the background's 0, the background's offset removed.
    """
    with np.load(path, allow_pickle=False) as archive:
        phase = archive["phase_rad"].astype(np.float32)
    phase -= np.median(phase)
    return np.where(phase < _LOWEST_CREDIBLE_RAD, np.float32(0), phase)
