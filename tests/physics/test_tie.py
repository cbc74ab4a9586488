"""The two-plane solver against analytic phase and the forward model."""

from __future__ import annotations

import numpy as np
import pytest

from livephase.phase.tie import solve_tie
from livephase_devices.optics import OpticalSetup, intensity

SETUP = OpticalSetup(coherence=0.0, objective_na=0.5, hr_pixel_um=0.5)
Y, X = np.mgrid[:256, :320] * SETUP.hr_pixel_um


def bump(height_rad: float = 1.0, sigma_um: float = 8.0) -> np.ndarray:
    return (height_rad * np.exp(-((Y - 60) ** 2 + (X - 70) ** 2) / (2 * sigma_um**2))).astype(np.float32)


@pytest.mark.parametrize("dz_um", [0.5, -0.5])
def test_recovers_a_gaussian_phase(dz_um: float) -> None:
    phase = bump()
    planes = intensity(phase, SETUP, 0.0), intensity(phase, SETUP, dz_um)
    solved = solve_tie(*planes, dz_um, SETUP.hr_pixel_um, SETUP.wavelength_um)
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


@pytest.mark.parametrize(
    ("first", "second", "dz_um", "message"),
    [
        (np.ones((8, 8)), np.ones((8, 9)), 1.0, "differ in shape"),
        (np.ones((8, 8)), np.ones((8, 8)), 0.0, "dz_um is 0"),
        (np.zeros((8, 8)), np.ones((8, 8)), 1.0, "no light"),
    ],
)
def test_says_what_is_wrong(first: np.ndarray, second: np.ndarray, dz_um: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_tie(first, second, dz_um, 0.5, 0.55)
