"""Three solutions of -k dI/dz = div(I grad phase), for one source and one intensity; ``tie`` is their public side.

All of them damp long periods in the same way: level x k0^4 x (-laplace)^-1 is added to the operator. For even light
that is the factor k2 / (k2^2 + k0^4) of ``poisson.inverse_laplacian``, whatever the solver and its iterations. Were
only the Poisson solution damped, iterations would undo it, and their number would be the regularisation.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from livephase.phase.poisson import MirroredGrid, PeriodicGrid, SpectralGrid, inverse_laplacian

if TYPE_CHECKING:
    from livephase.phase.poisson import Floats, Spectrum

TOLERANCE = 1e-3
"""Iterations end when the residual, measured as the phase that it stands for, has fallen by this factor."""

MAX_ITERATIONS = 200

_DARK_FRACTION = 0.3
"""Below this part of the bright level a pixel is taken as behind the field stop by the solvers that divide by I."""

_DARKEST = 0.01
"""Least intensity of the universal solver, relative to the bright level: where there is no light at all the equation
says nothing, and conjugate gradients stall. 0.003 instead takes 43 iterations rather than 27 on a measured frame with a
field stop, and moves the phase by 0.02 of 0.69 rad."""

_logger = logging.getLogger(__name__)


def bright_level(intensity: Floats) -> float:
    """Mean of the lit part of an intensity (Y, X), in its unit."""
    return float(intensity[_lit(intensity)].mean())


def solve_fft(source: Floats, intensity: Floats, pixel_um: float, period_um: float) -> Floats:
    """Two periodic Poisson equations and Teague's auxiliary function (Paganin and Nugent 1998, eq. 8).

    Parameters
    ----------
    source : Floats
        (Y, X) k dI/dz, intensity x rad / um2.
    intensity : Floats
        (Y, X) in the plane of the derivative. Dark places are filled with the bright level.
    pixel_um : float
        Pixel in um.
    period_um : float
        Regularisation: longer periods are damped.

    Returns
    -------
    Floats
        (Y, X) phase in rad, mean 0. Teague's assumption, that the transverse flow I grad(phase) has no curl, is not
        corrected.
    """
    grid = PeriodicGrid(source.shape, pixel_um)
    level = bright_level(intensity)
    uneven = np.where(_lit(intensity), intensity, level) / level
    phase = _teague(grid, grid.forward(source / level), uneven, period_um)
    return grid.inverse(phase)


def solve_dct_iterative(source: Floats, intensity: Floats, pixel_um: float, period_um: float) -> Floats:
    """Teague's solution on the mirrored field, whose error is compensated by iteration (Zuo et al. 2014).

    The discrepancy between the source and the one that the phase so far gives is solved for and added, until it is
    below ``TOLERANCE`` or stops falling.

    Parameters
    ----------
    source, intensity, pixel_um, period_um
        As for ``solve_fft``.

    Returns
    -------
    Floats
        (Y, X) phase in rad, mean 0.
    """
    grid = MirroredGrid(source.shape, pixel_um)
    level = bright_level(intensity)
    uneven = np.where(_lit(intensity), intensity, level) / level
    damping = _damping(grid, period_um)
    spectrum = grid.forward(source / level)
    spectrum[0, 0] = 0
    phase = np.zeros_like(spectrum)
    step = _teague(grid, spectrum, uneven, period_um)
    first = previous = float(np.linalg.norm(step))
    for _ in range(MAX_ITERATIONS):
        phase = phase + step
        if previous <= TOLERANCE * first:
            break
        step = _teague(grid, spectrum - _transport(grid, phase, uneven, damping), uneven, period_um)
        size = float(np.linalg.norm(step))
        if size >= previous:
            _logger.warning("dct-iterative: the discrepancy stays at %.1e of the solution", size / first)
            break
        previous = size
    return grid.inverse(phase)


def solve_universal(source: Floats, intensity: Floats, pixel_um: float, period_um: float) -> Floats:
    """The equation itself, for any intensity and aperture (after Zhang et al. 2020).

    As in the paper each iteration solves a Poisson equation of even light for the residual that the true intensity
    leaves. Its fixed step of 1 / max(I) is replaced by the step of conjugate gradients, with the Poisson solution as
    preconditioner: the same fixed point in about 15 iterations instead of hundreds. No division by the intensity.

    Parameters
    ----------
    source, intensity, pixel_um, period_um
        As for ``solve_fft``; the intensity may be zero anywhere, and is not filled.

    Returns
    -------
    Floats
        (Y, X) phase in rad, mean 0.
    """
    grid = MirroredGrid(source.shape, pixel_um)
    level = bright_level(intensity)
    relative = np.maximum(intensity / level, _DARKEST)
    damping = _damping(grid, period_um)
    even = -inverse_laplacian(grid, period_um)
    residual = grid.forward(source / level)
    residual[0, 0] = 0
    phase = np.zeros_like(residual)
    step = even * residual
    direction = step
    size = first = float(np.sum(residual * step))
    for _ in range(MAX_ITERATIONS):
        if size <= TOLERANCE**2 * first:
            break
        image = _transport(grid, direction, relative, damping)
        length = size / float(np.sum(direction * image))
        phase += length * direction
        residual -= length * image
        step = even * residual
        previous, size = size, float(np.sum(residual * step))
        direction = step + size / previous * direction
    else:
        _logger.warning(
            "universal: the residual is still %.1e after %d iterations", np.sqrt(size / first), MAX_ITERATIONS
        )
    return grid.inverse(phase)


def _lit(intensity: Floats) -> np.ndarray:
    return intensity > _DARK_FRACTION * np.percentile(intensity, 90)


def _damping(grid: SpectralGrid, period_um: float) -> Floats:
    """Factors of k0^4 (-laplace)^-1."""
    return -((2 * np.pi / period_um) ** 4) * inverse_laplacian(grid)


def _transport(grid: SpectralGrid, phase: Spectrum, relative: Floats, damping: Floats) -> Spectrum:
    """Spectrum of -div(relative grad phase), regularised."""
    flow_y, flow_x = grid.gradient(phase)
    return damping * phase - grid.divergence(relative * flow_y, relative * flow_x)


def _teague(grid: SpectralGrid, source: Spectrum, relative: Floats, period_um: float) -> Spectrum:
    """Solve -laplace(psi) = source and laplace(phase) = div(grad(psi) / relative)."""
    flow_y, flow_x = grid.gradient(-inverse_laplacian(grid, period_um) * source)
    return inverse_laplacian(grid) * grid.divergence(flow_y / relative, flow_x / relative)
