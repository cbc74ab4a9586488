"""Focal length of a lens in a phase image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LensFit:
    """Paraboloid fitted to the phase of a lens.

    Attributes
    ----------
    focal_length_um : float
        Positive for a converging lens.
    centre_px : tuple of float
        (row, column) of the vertex.
    vertex_rad : float
        Phase at the vertex.
    residual_sd_rad : float
        Standard deviation of what the paraboloid leaves.
    """

    focal_length_um: float
    centre_px: tuple[float, float]
    vertex_rad: float
    residual_sd_rad: float


def fit_lens(
    phase_rad: NDArray[Any],
    centre_px: tuple[float, float],
    radius_um: float,
    *,
    pixel_um: float,
    wavelength_um: float,
) -> LensFit:
    """Fit phase = -pi r^2 / (wavelength f) with offset and tilt to a disc.

    Parameters
    ----------
    phase_rad : NDArray
        (Y, X) phase.
    centre_px : tuple of float
        (row, column) about the middle of the lens; the tilt takes up its error.
    radius_um : float
        Of the disc, within the lens. A lens that is no paraboloid has a focal length that depends on it.
    pixel_um, wavelength_um : float
        In um.

    Returns
    -------
    LensFit
        The least-squares paraboloid.
    """
    y = (np.arange(phase_rad.shape[0])[:, None] - centre_px[0]) * pixel_um
    x = (np.arange(phase_rad.shape[1])[None, :] - centre_px[1]) * pixel_um
    inside = np.hypot(y, x) < radius_um
    v, u = (np.broadcast_to(axis, inside.shape)[inside] for axis in (y, x))
    phase = phase_rad[inside].astype(np.float64)
    design = np.stack([np.ones_like(v), v, u, v**2 + u**2], axis=1)
    coefficients = np.linalg.lstsq(design, phase, rcond=None)[0]
    level, tilt_y, tilt_x, curvature = (float(coefficient) for coefficient in coefficients)
    shift_y, shift_x = -tilt_y / (2 * curvature), -tilt_x / (2 * curvature)
    return LensFit(
        focal_length_um=-np.pi / (wavelength_um * curvature),
        centre_px=(centre_px[0] + shift_y / pixel_um, centre_px[1] + shift_x / pixel_um),
        vertex_rad=level - curvature * (shift_y**2 + shift_x**2),
        residual_sd_rad=float(np.std(phase - design @ coefficients)),
    )
