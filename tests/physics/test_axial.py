"""Axial derivative of stacks with known polynomials in z, noise and the forward model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from livephase.phase.axial import fit_axial_derivative
from livephase.phase.tie import solve_derivative, solve_tie
from livephase_devices.optics import OpticalSetup, intensity

RNG_SHAPE = (40, 50)
Z_UM = np.array([-7.3, -3.1, -0.4, 2.0, 4.6, 9.0])


def polynomial(order: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Stack of random polynomials of one order per pixel, and their coefficients."""
    coefficients = np.random.default_rng(seed).uniform(0.5, 1, (order + 1, *RNG_SHAPE)) / 5.0 ** np.arange(
        order + 1
    ).reshape(-1, 1, 1)
    return np.stack([sum(c * z**n for n, c in enumerate(coefficients)) for z in Z_UM]), coefficients


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_exact_polynomials_are_found_with_their_order(order: int) -> None:
    stack, coefficients = polynomial(order)
    fit = fit_axial_derivative(stack, Z_UM.tolist(), 1e-3)
    assert fit.order == order
    np.testing.assert_allclose(fit.derivative_per_um, coefficients[1], rtol=1e-6)
    np.testing.assert_allclose(fit.intensity, coefficients[0], rtol=1e-6)


def test_the_derivative_is_that_of_the_wanted_depth() -> None:
    stack, coefficients = polynomial(2)
    fit = fit_axial_derivative(stack, Z_UM.tolist(), 1e-3, at_um=2.5)
    np.testing.assert_allclose(fit.derivative_per_um, coefficients[1] + 5.0 * coefficients[2], rtol=1e-6)


def test_noise_lowers_the_order_and_is_predicted() -> None:
    """A weak curvature under the noise is not followed; the stated noise of the derivative is the measured one."""
    stack, coefficients = polynomial(2)
    stack = stack - coefficients[2] * (Z_UM**2)[:, None, None] * 0.999
    noise = np.random.default_rng(1).normal(0, 0.05, stack.shape)
    fit = fit_axial_derivative(stack + noise, Z_UM.tolist(), 0.05)
    assert fit.order == 1
    error = fit.derivative_per_um - coefficients[1]
    assert error.std() == pytest.approx(fit.derivative_sd_per_um, rel=0.1)
    exact = fit_axial_derivative(stack + noise, Z_UM.tolist(), 1e-4)
    assert exact.order == 5
    assert exact.derivative_sd_per_um / 1e-4 > 2 * fit.derivative_sd_per_um / 0.05


def test_a_noisy_plane_counts_less() -> None:
    stack, coefficients = polynomial(1)
    sd = np.array([0.02, 0.02, 0.02, 0.02, 0.02, 0.4])
    noisy = stack + np.random.default_rng(2).normal(0, 1, stack.shape) * sd[:, None, None]
    aware = fit_axial_derivative(noisy, Z_UM.tolist(), sd.tolist())
    alike = fit_axial_derivative(noisy, Z_UM.tolist(), 0.4)
    assert aware.order == alike.order == 1
    errors = [float((fit.derivative_per_um - coefficients[1]).std()) for fit in (aware, alike)]
    assert errors[0] < 0.4 * errors[1]


def test_two_planes_are_the_difference_quotient() -> None:
    stack, _ = polynomial(1)
    fit = fit_axial_derivative(stack[:2], [-7.3, -3.1], 0.1)
    np.testing.assert_allclose(fit.derivative_per_um, (stack[1] - stack[0]) / 4.2)
    assert fit.derivative_sd_per_um == pytest.approx(0.1 * np.sqrt(2) / 4.2)


def test_more_planes_give_finer_phase_than_a_wide_pair() -> None:
    """Planes far away blur the phase of a pair; the polynomial takes their nonlinearity out (Waller et al. 2010)."""
    setup = OpticalSetup(coherence=0.0, objective_na=0.5, hr_pixel_um=0.5)
    y, x = np.mgrid[:160, :160] * 0.5
    phase = (0.8 * np.exp(-((y - 40) ** 2 + (x - 38) ** 2) / (2 * 1.2**2))).astype(np.float32)
    z_um = [-9.0, -5.0, -2.0, 0.0, 1.5, 4.0, 8.0]
    stack = np.stack([intensity(phase, setup, z) for z in z_um])
    stack = stack + np.random.default_rng(0).normal(0, 1e-4, stack.shape)
    fit = fit_axial_derivative(stack, z_um, 1e-4)
    assert fit.order > 2
    many = solve_derivative(fit.derivative_per_um, fit.intensity, 0.5, setup.wavelength_um)
    pair = solve_tie(stack[3], stack[-1], 8.0, 0.5, setup.wavelength_um)
    near = np.s_[60:100, 56:96]
    errors = [float(np.std(solved[near] - phase[near])) for solved in (many, pair)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 4, 4)), [0.0, 1.0], 0.1), "a stack"),
        ((np.ones((4, 4)), [0.0, 1.0, 2.0, 3.0], 0.1), "a stack"),
        ((np.ones((1, 4, 4)), [0.0], 0.1), "Z >= 2"),
        ((np.ones((2, 4, 4)), [1.0, 1.0], 0.1), "depth of its own"),
        ((np.ones((2, 4, 4)), [0.0, 1.0], 0.0), "must be positive"),
        ((np.full((2, 4, 4), np.nan), [0.0, 1.0], 0.1), "32 pixels of the stack are not finite"),
    ],
)
def test_says_what_is_wrong(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_axial_derivative(*arguments)
