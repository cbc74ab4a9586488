"""The three TIE solvers against analytic phase and the forward model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from livephase.phase.lens_fit import fit_lens
from livephase.phase.poisson import MirroredGrid, PeriodicGrid
from livephase.phase.tie import REGULARISATION_PERIOD_UM, Solver, describe, solve_derivative, solve_tie
from livephase_devices.optics import OpticalSetup, intensity

SETUP = OpticalSetup(coherence=0.0, objective_na=0.5, hr_pixel_um=0.5)
Y, X = np.mgrid[:256, :320] * SETUP.hr_pixel_um


def bump(height_rad: float = 1.0, sigma_um: float = 8.0) -> np.ndarray:
    return (height_rad * np.exp(-((Y - 60) ** 2 + (X - 70) ** 2) / (2 * sigma_um**2))).astype(np.float32)


SOLVERS: list[Solver] = ["universal", "dct-iterative", "fft"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dz_um", [0.5, -0.5])
def test_recovers_a_gaussian_phase(dz_um: float, solver: Solver) -> None:
    phase = bump()
    planes = intensity(phase, SETUP, 0.0), intensity(phase, SETUP, dz_um)
    solved = solve_tie(*planes, dz_um, SETUP.hr_pixel_um, SETUP.wavelength_um, solver=solver)
    assert np.sqrt(np.mean((solved - (phase - phase.mean())) ** 2)) < 0.02


def test_uneven_light_does_not_bend_the_phase() -> None:
    phase = bump()
    # A smooth transparency in the object's own plane: the light is uneven, the phase is not.
    light = 1 + 0.3 * np.cos(np.pi * X / X.max())
    field = np.sqrt(light) * np.exp(1j * phase)
    k_y, k_x = (2 * np.pi * np.fft.fftfreq(2 * n, 0.5) for n in phase.shape)
    mirrored = np.pad(field, ((0, 256), (0, 320)), mode="symmetric")
    kernel = np.exp(-1j * (k_y[:, None] ** 2 + k_x[None] ** 2) * 0.5 * SETUP.wavelength_um / (4 * np.pi))
    defocused = np.abs(np.fft.ifft2(np.fft.fft2(mirrored) * kernel))[:256, :320] ** 2
    solved = solve_tie(light, defocused, 0.5, 0.5, SETUP.wavelength_um)
    assert np.sqrt(np.mean((solved - (phase - phase.mean())) ** 2)) < 0.03


def test_a_brighter_lamp_at_the_second_plane_changes_nothing() -> None:
    phase = bump()
    first, second = intensity(phase, SETUP, 0.0), intensity(phase, SETUP, 0.5)
    a = solve_tie(first, second, 0.5, 0.5, 0.55)
    b = solve_tie(first, 1.1 * second, 0.5, 0.5, 0.55)
    np.testing.assert_allclose(a, b, atol=3e-4)


def test_a_field_stop_in_view_gives_the_border_values() -> None:
    """A lens that fills the lit disc: without the light at the stop a curvature over the whole field is lost."""
    pixel_um, dz_um = 0.25, 0.2
    y, x = np.mgrid[:256, :320] * pixel_um
    r_squared = (y - 32) ** 2 + (x - 40) ** 2
    phase = -r_squared / 175
    soft_stop = 1 / (1 + np.exp((np.sqrt(r_squared) - 24) / 0.5))
    k_y, k_x = (2 * np.pi * np.fft.fftfreq(n, pixel_um) for n in phase.shape)
    kernel = np.exp(-1j * (k_y[:, None] ** 2 + k_x[None] ** 2) * dz_um * 0.55 / (4 * np.pi))
    field = np.sqrt(soft_stop) * np.exp(1j * phase)
    defocused = np.abs(np.fft.ifft2(np.fft.fft2(field) * kernel)) ** 2
    solved = solve_tie(soft_stop, defocused, dz_um, pixel_um, 0.55)
    inside = np.sqrt(r_squared) < 20
    assert np.corrcoef(phase[inside], solved[inside])[0, 1] > 0.99
    # The regularisation takes a quarter of a curvature that is as wide as the field; without the stop it is all gone.
    crop = np.s_[72:184, 104:216]
    cropped = solve_tie(soft_stop[crop], defocused[crop], dz_um, pixel_um, 0.55)
    assert 0.7 < np.polyfit(phase[inside], solved[inside], 1)[0] < 1.05
    assert abs(np.polyfit(phase[crop].ravel(), cropped.ravel(), 1)[0]) < 0.2


ZERNIKE = {
    "defocus": lambda r, t: np.sqrt(3) * (2 * r**2 - 1),
    "astigmatism": lambda r, t: np.sqrt(6) * r**2 * np.cos(2 * t),
    "coma": lambda r, t: np.sqrt(8) * (3 * r**3 - 2 * r) * np.sin(t),
}


@pytest.mark.parametrize("name", ZERNIKE)
def test_zernike_phase_on_a_round_aperture_with_uneven_light(name: str) -> None:
    """The aperture's edge moves with the local slope of the phase; its light is the border value of the solution."""
    pixel_um, radius_um = 0.4, 20.0
    y, x = (np.mgrid[:161, :188] + 0.5) * pixel_um
    y, x = y - 32, x - 38
    r, angle = np.hypot(y, x) / radius_um, np.arctan2(y, x)
    aperture = 1 / (1 + np.exp((r - 1) * radius_um / 0.8))
    light = aperture * (1 + 0.4 * x / radius_um + 0.3 * (y / radius_um) ** 2)
    phase = 0.5 * ZERNIKE[name](np.minimum(r, 1.4), angle)
    # The transport of intensity itself, so that only the solver is tested.
    grid = MirroredGrid(light.shape, pixel_um)
    flow_y, flow_x = np.gradient(phase, pixel_um)
    change = -grid.inverse(grid.divergence(light * flow_y, light * flow_x)) * 0.55 / (2 * np.pi)
    inside = r < 0.9
    true = phase[inside] - phase[inside].mean()
    errors = {}
    for solver in SOLVERS:
        solved = solve_derivative(change, light, pixel_um, 0.55, solver=solver, regularisation_period_um=500)[inside]
        errors[solver] = float(np.std(solved - true) / np.std(true))
    assert errors["universal"] < 0.04
    assert errors["universal"] < errors["dct-iterative"]
    assert errors["universal"] < errors["fft"]


@pytest.mark.parametrize("focal_length_um", [200.0, -300.0])
def test_a_lens_has_its_focal_length(focal_length_um: float) -> None:
    """Quadratic phase -pi r^2 / (wavelength f) in a soft round stop, propagated as a wave."""
    pixel_um, dz_um, wavelength_um = 0.25, 1.0, 0.55
    y, x = np.mgrid[:320, :320] * pixel_um - 40
    r_squared = y**2 + x**2
    stop = 1 / (1 + np.exp((np.sqrt(r_squared) - 25) / 0.5))
    field = np.sqrt(stop) * np.exp(-1j * np.pi * r_squared / (wavelength_um * focal_length_um))
    k_y, k_x = (2 * np.pi * np.fft.fftfreq(n, pixel_um) for n in field.shape)
    kernel = np.exp(-1j * (k_y[:, None] ** 2 + k_x[None] ** 2) * dz_um * wavelength_um / (4 * np.pi))
    defocused = np.abs(np.fft.ifft2(np.fft.fft2(field) * kernel)) ** 2
    solved = solve_tie(stop, defocused, dz_um, pixel_um, wavelength_um, regularisation_period_um=2000)
    fit = fit_lens(solved, (155, 168), 18.0, pixel_um=pixel_um, wavelength_um=wavelength_um)
    # The phase is that of the middle plane, half of dz nearer to the focus.
    assert fit.focal_length_um == pytest.approx(focal_length_um - dz_um / 2, rel=0.01)
    assert fit.centre_px == pytest.approx((160, 160), abs=0.2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_phase_bump_that_brightens_at_positive_defocus_is_positive(solver: Solver) -> None:
    """The sign convention of the forward model, at a coherence and pupil of a microscope."""
    setup = OpticalSetup(coherence=0.3, objective_na=0.4, hr_pixel_um=0.5)
    phase = bump(0.5)
    planes = intensity(phase, setup, 0.0), intensity(phase, setup, 2.0)
    assert planes[1][120, 140] > planes[0][120, 140]
    solved = solve_tie(*planes, 2.0, 0.5, setup.wavelength_um, solver=solver)
    assert np.unravel_index(solved.argmax(), solved.shape) == pytest.approx((120, 140), abs=1)
    assert solved[120, 140] - np.median(solved) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_of_the_phase_follows_the_poisson_equation(solver: Solver) -> None:
    """White noise is amplified as k_wave / (dz k^2), damped beyond the regularisation period."""
    shape, pixel_um, dz_um, sd = (256, 256), 0.5, 2.0, 0.002
    noise = np.random.default_rng(3).normal(0, sd, shape)
    solved = solve_tie(np.ones(shape), 1 + noise, dz_um, pixel_um, 0.55, solver=solver)
    grid = PeriodicGrid(shape, pixel_um) if solver == "fft" else MirroredGrid(shape, pixel_um)
    k_squared, floor = grid.k_squared, (2 * np.pi / REGULARISATION_PERIOD_UM) ** 4
    gain = 2 * np.pi / 0.55 / dz_um * k_squared / (k_squared**2 + floor)
    weight = np.full(k_squared.shape, 1.0)
    if solver == "fft":
        weight[:, 1:-1] = 2
    expected = sd * np.sqrt(np.sum(weight * gain**2) / (shape[0] * shape[1]))
    # A few long periods carry nearly all of it, so one draw scatters widely.
    assert 0.4 * expected < solved.std() < 2 * expected
    halved = solve_tie(np.ones(shape), 1 + noise, 2 * dz_um, pixel_um, 0.55, solver=solver)
    assert halved.std() == pytest.approx(solved.std() / 2, rel=0.01)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(101, 127), (64, 33), (2, 50), (7, 3)])
def test_any_shape_gives_finite_phase_of_mean_zero(shape: tuple[int, int], solver: Solver) -> None:
    rng = np.random.default_rng(1)
    first, second = (200 + 5 * rng.standard_normal((2, *shape))).astype(np.uint8)
    solved = solve_tie(first, second, 2.0, 0.5, 0.55, solver=solver)
    assert solved.shape == shape
    assert solved.dtype == np.float32
    assert np.isfinite(solved).all()
    assert abs(float(solved.mean())) < 1e-4 * float(np.abs(solved).max())


@pytest.mark.parametrize("solver", SOLVERS)
def test_axes_are_not_confused(solver: Solver) -> None:
    planes = intensity(bump(), SETUP, 0.0), intensity(bump(), SETUP, 0.5)
    solved = solve_tie(*planes, 0.5, 0.5, 0.55, solver=solver)
    turned = solve_tie(planes[0].T, planes[1].T, 0.5, 0.5, 0.55, solver=solver)
    np.testing.assert_allclose(turned.T, solved, atol=1e-4)


@pytest.mark.parametrize("shape", [(48, 61), (31, 40)])
@pytest.mark.parametrize("kind", [PeriodicGrid, MirroredGrid])
def test_derivatives_are_exact_and_adjoint(kind: type[PeriodicGrid | MirroredGrid], shape: tuple[int, int]) -> None:
    grid = kind(shape, 0.5)
    y, x = (np.arange(n) + 0.5 for n in shape)
    terms = 2 if kind is PeriodicGrid else 1
    k_y, k_x = (terms * np.pi * 3 / (n * 0.5) for n in shape)
    image = np.cos(k_y * y * 0.5)[:, None] * np.cos(k_x * x * 0.5)[None]
    spectrum = grid.forward(image)
    np.testing.assert_allclose(grid.inverse(spectrum), image, atol=1e-12)
    flow_y, flow_x = grid.gradient(spectrum)
    np.testing.assert_allclose(flow_y, -k_y * np.sin(k_y * y * 0.5)[:, None] * np.cos(k_x * x * 0.5), atol=1e-11)
    np.testing.assert_allclose(flow_x, -k_x * np.cos(k_y * y * 0.5)[:, None] * np.sin(k_x * x * 0.5), atol=1e-11)
    np.testing.assert_allclose(grid.inverse(grid.divergence(flow_y, flow_x)), -(k_y**2 + k_x**2) * image, atol=1e-10)
    rng = np.random.default_rng(0)
    a, flow = rng.standard_normal(shape), rng.standard_normal((2, *shape))
    gradient = grid.gradient(grid.forward(a))
    inner = sum(np.vdot(g, f) for g, f in zip(gradient, flow, strict=True))
    assert inner == pytest.approx(-np.vdot(a, grid.inverse(grid.divergence(*flow))), rel=1e-9)


def test_the_record_names_the_regularisation() -> None:
    record = describe("universal")
    assert record["solver"] == "universal"
    assert record["regularisation_period_um"] == REGULARISATION_PERIOD_UM


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_regularisation_halves_its_own_period(solver: Solver) -> None:
    """With even light every solver is the same filter, iterations included."""
    n, pixel_um = 200, 1.0
    wave = np.cos(2 * np.pi * (np.arange(n) + 0.5) / 100)[None].repeat(40, 0)
    change = wave * (2 * np.pi / 100) ** 2 * 0.55 / (2 * np.pi)
    even = np.ones_like(change)
    solved = solve_derivative(change, even, pixel_um, 0.55, solver=solver, regularisation_period_um=100)
    np.testing.assert_allclose(solved, wave / 2, atol=2e-3)


NAN = np.full((8, 8), np.nan)
NOISY = np.random.default_rng(0).uniform(1, 2, (8, 8))


@pytest.mark.parametrize(
    ("first", "second", "dz_um", "message"),
    [
        (NOISY, np.ones((8, 9)), 1.0, "differ in shape"),
        (NOISY, NOISY + 1, 0.0, "dz_um is 0"),
        (NOISY, NOISY + 1, np.nan, "dz_um is nan"),
        (np.zeros((8, 8)), NOISY, 1.0, "in-focus plane has no light"),
        (NOISY, NAN, 1.0, "defocused image has 64 pixels that are not finite"),
        (NOISY, np.full((8, 8), 3.0), 1.0, "defocused plane is constant"),
        (NOISY[None], NOISY[None], 1.0, "one image"),
    ],
)
def test_says_what_is_wrong(first: np.ndarray, second: np.ndarray, dz_um: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_tie(first, second, dz_um, 0.5, 0.55)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "multigrid"}, "no solver is called 'multigrid'"),
        ({"pixel_um": 0.0}, "pixel_um is 0"),
        ({"wavelength_um": -0.5}, "wavelength_um is -0.5"),
        ({"regularisation_period_um": np.inf}, "regularisation_period_um is inf"),
        ({"derivative_per_um": NAN}, "derivative image has 64"),
        ({"intensity": NOISY[:4]}, "differ in shape"),
    ],
)
def test_says_what_is_wrong_with_a_derivative(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "derivative_per_um": NOISY,
        "intensity": NOISY,
        "pixel_um": 0.5,
        "wavelength_um": 0.55,
    }
    with pytest.raises(ValueError, match=message):
        solve_derivative(**{**arguments, **change})
