"""Axial derivative of an intensity stack: a polynomial in z fitted to every pixel, planes at any spacing.

The polynomial removes what is not linear in z (higher-order TIE, Waller et al. 2010). Each order more also amplifies
noise, so its order is the one of the least expected square error of the derivative: the noise follows from the weights
of the planes; the bias is what the derivative differs from that of the highest order, beyond the noise of this
difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class AxialFit:
    """Polynomial fit of a stack at one depth.

    Attributes
    ----------
    derivative_per_um : NDArray[float64]
        (Y, X) dI/dz, intensity per um.
    intensity : NDArray[float64]
        (Y, X) fitted intensity at the same depth.
    order : int
        Of the polynomial.
    derivative_sd_per_um : float
        Noise of a pixel's derivative, intensity per um.
    weights_per_um : NDArray[float64]
        (Z,) factors of the planes in the derivative.
    """

    derivative_per_um: NDArray[np.float64]
    intensity: NDArray[np.float64]
    order: int
    derivative_sd_per_um: float
    weights_per_um: NDArray[np.float64]


def fit_axial_derivative(
    planes: NDArray[Any], z_um: Sequence[float], noise_sd: float | Sequence[float], *, at_um: float = 0.0
) -> AxialFit:
    """Fit a polynomial in z to every pixel by weighted least squares.

    Parameters
    ----------
    planes : NDArray
        (Z, Y, X) intensity, any unit, of the same total light: what the lamp drifted between planes is not removed.
    z_um : sequence of float
        Depth of each plane in um, positive = the lens focuses above the specimen; any order and spacing.
    noise_sd : float or sequence of float
        Standard deviation of a pixel's noise in the unit of ``planes``, of all planes or of each one.
    at_um : float
        Depth at which derivative and intensity are wanted.

    Returns
    -------
    AxialFit
        Give ``derivative_per_um`` and ``intensity`` to ``tie.solve_derivative``.

    Raises
    ------
    ValueError
        Fewer than two planes or depths, a depth given twice, planes that are not finite, noise that is not positive.
    """
    stack = np.asarray(planes, np.float64)
    z = np.asarray(z_um, np.float64)
    if stack.ndim != 3 or z.shape != stack.shape[:1] or len(z) < 2:
        msg = f"{stack.shape} planes and {len(z)} depths: a stack (Z, Y, X) and one depth for each of Z >= 2 planes"
        raise ValueError(msg)
    if len(np.unique(z)) < len(z) or not np.isfinite(z).all():
        msg = f"depths {z.tolist()} um: each plane needs a depth of its own; average repeated planes first"
        raise ValueError(msg)
    if not np.isfinite(stack).all():
        msg = f"{int((~np.isfinite(stack)).sum())} pixels of the stack are not finite; crop or fill them"
        raise ValueError(msg)
    noise = np.broadcast_to(np.asarray(noise_sd, np.float64), z.shape)
    if not (noise > 0).all() or not np.isfinite(noise).all():
        msg = f"noise_sd is {np.asarray(noise_sd).tolist()}: it must be positive"
        raise ValueError(msg)
    # Depths are scaled to about 1, so that high powers do not spoil the fit's condition.
    scale_um = float(np.abs(z - at_um).max())
    estimators: list[NDArray[np.float64]] = []
    for order in range(1, len(z)):
        design = np.vander((z - at_um) / scale_um, order + 1, increasing=True)
        estimators.append(np.linalg.pinv(design / noise[:, None])[:2] / noise)
    flat = stack.reshape(len(z), -1)
    highest = estimators[-1][1]
    risks: list[float] = []
    for estimator in estimators:
        difference = estimator[1] - highest
        bias = float(np.mean((difference @ flat) ** 2)) - float(np.sum((difference * noise) ** 2))
        risks.append(max(bias, 0.0) + float(np.sum((estimator[1] * noise) ** 2)))
    best = int(np.argmin(risks))
    level, weights = estimators[best][0], estimators[best][1] / scale_um
    return AxialFit(
        derivative_per_um=(weights @ flat).reshape(stack.shape[1:]),
        intensity=(level @ flat).reshape(stack.shape[1:]),
        order=best + 1,
        derivative_sd_per_um=float(np.sqrt(np.sum((weights * noise) ** 2))),
        weights_per_um=weights,
    )
