"""The linear single-frame inversion against the forward model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from livephase.phase.linear import PRIOR_SCALE_UM, PRIOR_SD_RAD, linear_phase, weak_object_transfer
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity

OPTICS: dict[str, Any] = {
    "defocus_um": 6.0,
    "wavelength_um": 0.55,
    "lr_pixel_um": 2.6,
    "coherence": 0.3,
    "objective_na": 0.4,
    "noise_sd": 0.01,
}


def changed(**changes: float) -> dict[str, Any]:
    """Optics with some values changed."""
    return {**OPTICS, **changes}


def cells(shape: tuple[int, int], height_rad: float) -> np.ndarray:
    """Make three smooth bumps of 8 to 12 um at places that no symmetry confuses; HR pixel 0.65 um."""
    y, x = np.mgrid[: shape[0], : shape[1]] * 0.65
    phase = np.zeros(shape)
    for row, column, sigma_um, share in ((40, 60, 8, 0.6), (100, 45, 10, 1.0), (85, 120, 12, 0.7)):
        phase += share * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma_um**2))
    return (height_rad * phase).astype(np.float32)


def frame(phase: np.ndarray, kappa_per_rad: float = 0.0, noise_sd: float = 0.0, **changes: float) -> np.ndarray:
    setting = changed(**changes)
    setup = OpticalSetup(setting["wavelength_um"], setting["objective_na"], setting["coherence"], 0.65, 4)
    light = bin_pixels(intensity(phase, setup, setting["defocus_um"], kappa_per_rad, points=64), 4)
    return light + np.random.default_rng(0).normal(0, noise_sd, light.shape)


@pytest.mark.parametrize("coherence", [0.0, 0.3, 0.6])
@pytest.mark.parametrize(("defocus_um", "kappa_per_rad"), [(6.0, 0.0), (-6.0, 0.0), (9.0, 0.02), (0.0, 0.03)])
def test_the_transfer_is_what_the_forward_model_does_to_a_weak_grating(
    coherence: float, defocus_um: float, kappa_per_rad: float
) -> None:
    setup = OpticalSetup(0.55, 0.4, coherence, 0.65, 4)
    x = np.arange(256) * 0.65
    for cycles in (4, 11, 30):
        wave = np.cos(2 * np.pi * cycles * np.arange(256) / 256)[None].repeat(8, 0)
        light = intensity((0.01 * wave).astype(np.float32), setup, defocus_um, kappa_per_rad, points=256)
        measured = 2 * float(np.mean((light - light.mean()) * wave)) / 0.01
        expected = weak_object_transfer(
            np.array(cycles / (x[1] * 256)),
            defocus_um=defocus_um,
            wavelength_um=0.55,
            coherence=coherence,
            objective_na=0.4,
            kappa_per_rad=kappa_per_rad,
        )
        assert measured == pytest.approx(float(expected), abs=0.02)


def test_coherent_transfer_is_the_sine() -> None:
    """Without condenser aperture: 2 sin(pi wavelength z u^2) (Zuo et al., paraxial) inside the pupil, 0 outside."""
    frequency = np.array([0.0, 0.05, 0.1, 0.2, 0.3, 0.8])
    settings: dict[str, Any] = {"defocus_um": 6.0, "wavelength_um": 0.55, "coherence": 0.0, "objective_na": 0.4}
    transfer = weak_object_transfer(frequency, **settings)
    inside = 2 * np.sin(np.pi * 0.55 * 6 * frequency[:-1] ** 2)
    np.testing.assert_allclose(transfer[:-1], inside, atol=0.02)
    assert transfer[-1] == 0
    np.testing.assert_allclose(
        weak_object_transfer(frequency, **{**settings, "defocus_um": -6.0}), -transfer, atol=1e-4
    )


@pytest.mark.parametrize("defocus_um", [6.0, -6.0, 12.0])
def test_weak_phase_is_recovered_on_the_fine_grid(defocus_um: float) -> None:
    phase = cells((256, 320), 0.05)
    solved = linear_phase(frame(phase, defocus_um=defocus_um), **changed(defocus_um=defocus_um, noise_sd=1e-5))
    assert solved.shape == phase.shape
    assert solved.dtype == np.float32
    error = solved - solved.mean() - (phase - phase.mean())
    assert np.sqrt(np.mean(error**2)) < 0.1 * phase.std()
    assert np.unravel_index(solved.argmax(), solved.shape) == pytest.approx(
        np.unravel_index(phase.argmax(), phase.shape), abs=1
    )


def test_amplitude_that_follows_the_phase_brings_back_its_mean() -> None:
    """At negative defocus both darken a bump; at positive defocus they cancel at one period, which is lost."""
    phase = cells((256, 320), 0.3)
    setting = changed(noise_sd=0.003, defocus_um=-6.0)
    recorded = frame(phase, 0.05, noise_sd=0.003, defocus_um=-6.0)
    aware = linear_phase(recorded, **setting, kappa_per_rad=0.05)
    blind = linear_phase(recorded, **setting)
    assert aware.mean() == pytest.approx(phase.mean(), rel=0.15)
    assert abs(blind.mean()) < 1e-3
    assert np.corrcoef(aware.ravel(), phase.ravel())[0, 1] > 0.9
    assert np.corrcoef(aware.ravel(), phase.ravel())[0, 1] > np.corrcoef(blind.ravel(), phase.ravel())[0, 1] + 0.1


def test_the_filter_knows_the_noise() -> None:
    """On a phase like the prior, the stated noise gives a smaller error than a tenth or ten times of it."""
    shape = (256, 320)
    length_um = 2 * np.pi * PRIOR_SCALE_UM
    u_squared = np.fft.fftfreq(shape[0], 0.65)[:, None] ** 2 + np.fft.fftfreq(shape[1], 0.65)[None] ** 2
    drawn = np.fft.fft2(np.random.default_rng(5).standard_normal(shape)) / (1 + u_squared * length_um**2)
    phase = np.fft.ifft2(drawn).real
    phase = (phase * (PRIOR_SD_RAD / phase.std())).astype(np.float32)
    recorded = frame(phase, noise_sd=0.01)
    solved = [linear_phase(recorded, **changed(noise_sd=sd)) for sd in (0.001, 0.01, 0.1)]
    errors = [float(np.std(image - phase)) for image in solved]
    assert errors[1] < errors[0]
    assert errors[1] < errors[2]


def test_an_empty_frame_is_flat() -> None:
    assert not linear_phase(np.ones((20, 30)), **OPTICS).any()


@pytest.mark.parametrize("shape", [(33, 47), (1, 9), (122, 161)])
def test_any_shape(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    solved = linear_phase(1 + 0.01 * rng.standard_normal(shape), **OPTICS, scale=3)
    assert solved.shape == (3 * shape[0], 3 * shape[1])
    assert np.isfinite(solved).all()


@pytest.mark.parametrize(
    ("image", "changes", "message"),
    [
        (np.full((8, 8), np.nan), {}, "64 pixels that are not finite"),
        (np.ones((2, 8, 8)), {}, "one image"),
        (np.ones((8, 8)), {"noise_sd": 0.0}, "the noise must be positive"),
        (np.ones((8, 8)), {"coherence": 1.2}, "S <= 1"),
    ],
)
def test_says_what_is_wrong(image: np.ndarray, changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_phase(image, **changed(**changes))
