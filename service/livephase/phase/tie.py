"""Phase from two planes by the transport of intensity equation (paper eq. 3).

The equation -k dI/dz = div(I grad phase) is solved in Teague's way: an auxiliary function with grad psi = I grad phase
makes it two Poisson equations. Each is solved by a discrete cosine transform, which is the solution on a field
mirrored at its edges (no flow of light through the border), so it does not wrap around as a plain Fourier solution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn

Floats = NDArray[np.floating]

REGULARISATION_PERIOD_UM = 200.0
"""Periods longer than this are damped: there the derivative carries noise and illumination drift, not phase."""

_DARK_FRACTION = 0.3
"""Below this part of the bright level a pixel lies behind the field stop."""


def _solve_poisson(source: Floats, pixel_um: float) -> Floats:
    """Solve laplace(u) = source with zero normal derivative at the border; the mean of u is 0."""
    rows, columns = source.shape
    k_y = np.pi * np.arange(rows)[:, None] / (rows * pixel_um)
    k_x = np.pi * np.arange(columns)[None, :] / (columns * pixel_um)
    k_squared = k_y**2 + k_x**2
    floor = (2 * np.pi / REGULARISATION_PERIOD_UM) ** 4
    spectrum = dctn(source, norm="ortho") * (-k_squared / (k_squared**2 + floor))
    spectrum[0, 0] = 0
    return idctn(spectrum, norm="ortho")


def solve_tie(
    in_focus: Floats, defocused: Floats, dz_um: float, pixel_um: float, wavelength_um: float
) -> NDArray[np.float32]:
    """Phase of a pair of planes.

    A field stop in view is welcome: light that crosses it is part of the derivative, which gives the solution its
    border values (Zuo et al. 2014). Crop the result, not the planes.

    Parameters
    ----------
    in_focus, defocused : ndarray
        (Y, X) intensity, any common unit, at z = 0 and z = ``dz_um``.
    dz_um : float
        Distance of the planes in um; positive = the lens focuses above the specimen.
    pixel_um, wavelength_um : float
        Pixel at the specimen and wavelength in um.

    Returns
    -------
    NDArray[float32]
        (Y, X) phase in radians with mean 0, periods over ``REGULARISATION_PERIOD_UM`` damped. Behind a field stop
        it means nothing.

    Raises
    ------
    ValueError
        The shapes differ, ``dz_um`` is 0 or a plane has no light.
    """
    if in_focus.shape != defocused.shape:
        msg = f"the planes differ in shape: {in_focus.shape} and {defocused.shape}"
        raise ValueError(msg)
    if dz_um == 0:
        msg = "dz_um is 0: the two planes must lie at different depths"
        raise ValueError(msg)
    first, second = np.asarray(in_focus, np.float64), np.asarray(defocused, np.float64)
    if first.mean() <= 0 or second.mean() <= 0:
        msg = "a plane has no light"
        raise ValueError(msg)
    lit = first > _DARK_FRACTION * np.percentile(first, 90)
    level = float(first[lit].mean())
    # Drift of the lamp between the planes would be read as a lens over the whole field.
    change = second * (level / second[lit].mean()) - first
    base = np.where(lit, first, level)
    wave_number = 2 * np.pi / wavelength_um
    psi = _solve_poisson(-wave_number * change / dz_um, pixel_um)
    flow_y, flow_x = np.gradient(psi, pixel_um)
    # Differences attenuate short periods, so only the effect of uneven light goes through them: for even light the
    # correction vanishes and psi over the intensity is the solution.
    uneven = 1 / base - 1 / level
    divergence = np.gradient(flow_y * uneven, pixel_um, axis=0) + np.gradient(flow_x * uneven, pixel_um, axis=1)
    return (psi / level + _solve_poisson(divergence, pixel_um)).astype(np.float32)
