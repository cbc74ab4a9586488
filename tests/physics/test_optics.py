"""The forward model against physics: conservation, symmetry and analytic limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import j1

from livephase_devices.optics import (
    OpticalSetup,
    bin_pixels,
    intensity,
    object_field,
    source_points,
    transfer_function,
)
from livephase_devices.sensor import SensorModel, uneven_illumination

COHERENT = OpticalSetup(coherence=0.0)
PARTIAL = OpticalSetup(coherence=0.4)
SHAPE = (160, 192)


def smooth_phase(peak_rad: float, seed: int = 3) -> np.ndarray:
    """Random phase with periods over about 4 um."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(SHAPE[0], 0.65)[:, None], np.fft.fftfreq(SHAPE[1], 0.65)[None]
    low_pass = np.exp(-(fy**2 + fx**2) / (2 * 0.08**2))
    phase = np.fft.ifft2(np.fft.fft2(rng.standard_normal(SHAPE)) * low_pass).real
    return (peak_rad * phase / np.abs(phase).max()).astype(np.float32)


def grating(periods: int, amplitude_rad: float) -> tuple[np.ndarray, float]:
    x = np.arange(SHAPE[1])
    u = periods / (SHAPE[1] * 0.65)
    row = amplitude_rad * np.cos(2 * np.pi * periods * x / SHAPE[1])
    return np.tile(row, (SHAPE[0], 1)).astype(np.float32), u


def contrast(image: np.ndarray, periods: int) -> float:
    """Signed amplitude of the grating's own cosine."""
    return float(2 * np.fft.rfft(image.mean(axis=0))[periods].real / image.shape[1])


@pytest.mark.parametrize("defocus_um", [-9.0, 2.5, 13.0])
def test_propagation_conserves_energy(defocus_um: float) -> None:
    """Without an aperture the angular spectrum is unitary: no light appears or is lost."""
    field = object_field(smooth_phase(2.0), kappa_per_rad=0.03)
    kernel = transfer_function(field.real, COHERENT, defocus_um, pupil=False)
    propagated = np.fft.ifft2(np.fft.fft2(field) * kernel)
    np.testing.assert_allclose(np.sum(np.abs(propagated) ** 2), np.sum(np.abs(field) ** 2), rtol=1e-5)


def test_light_that_misses_the_pupil_is_the_only_light_lost() -> None:
    phase = smooth_phase(6.0)
    narrow = replace(COHERENT, objective_na=0.06)
    spectrum = np.abs(np.fft.fft2(object_field(phase))) ** 2
    passes = np.abs(transfer_function(phase, narrow, 0.0)) ** 2
    expected = float((spectrum * passes).sum() / spectrum.sum())
    assert 0.5 < expected < 0.99
    assert float(intensity(phase, narrow, 5.0).mean()) == pytest.approx(expected, rel=1e-4)


def test_an_empty_field_is_flat() -> None:
    np.testing.assert_allclose(intensity(np.zeros(SHAPE, np.float32), PARTIAL, 7.0), 1.0, atol=1e-5)


@pytest.mark.parametrize("setup", [COHERENT, PARTIAL])
def test_defocus_and_phase_change_sign_together(setup: OpticalSetup) -> None:
    """I(phase, z) = I(-phase, -z): conjugating the object reverses the propagation, for a symmetric source."""
    phase = smooth_phase(1.5)
    np.testing.assert_allclose(intensity(phase, setup, 6.0), intensity(-phase, setup, -6.0), atol=2e-5)


@pytest.mark.parametrize("setup", [COHERENT, PARTIAL])
def test_a_weak_pure_phase_object_is_antisymmetric_in_defocus(setup: OpticalSetup) -> None:
    phase = smooth_phase(0.02)
    above, below = intensity(phase, setup, 6.0) - 1, intensity(phase, setup, -6.0) - 1
    assert np.abs(above).max() > 3e-3
    np.testing.assert_allclose(above, -below, atol=0.03 * np.abs(above).max())


def test_positive_defocus_brightens_the_centre_of_a_phase_bump() -> None:
    """The sign that fixes the word 'defocus' for the whole project."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    bump = (0.5 * np.exp(-((y - 80) ** 2 + (x - 96) ** 2) / (2 * 12.0**2))).astype(np.float32)
    assert intensity(bump, PARTIAL, 5.0)[80, 96] > 1.005
    assert intensity(bump, PARTIAL, -5.0)[80, 96] < 0.995


@pytest.mark.parametrize("periods", [4, 12, 25, 40])
def test_weak_phase_transfer_of_a_plane_wave(periods: int) -> None:
    """Coherent: contrast / phase = 2 sin(k z (1 - cos theta)), not paraxial."""
    amplitude, defocus_um = 1e-3, 6.0
    phase, u = grating(periods, amplitude)
    k = 2 * np.pi / COHERENT.wavelength_um
    expected = 2 * amplitude * np.sin(k * defocus_um * (1 - np.sqrt(1 - (COHERENT.wavelength_um * u) ** 2)))
    measured = contrast(intensity(phase, COHERENT, defocus_um), periods)
    assert measured == pytest.approx(expected, abs=0.01 * amplitude)


@pytest.mark.parametrize("periods", [6, 14, 22])
def test_weak_phase_transfer_of_a_condenser(periods: int) -> None:
    """Partially coherent, paraxial, inside the pupil: the coherent transfer times the source's Fourier transform.

    For a disc of radius rho: 2 J1(v) / v with v = 2 pi rho lambda z u.
    """
    amplitude, defocus_um = 1e-3, 9.0
    setup = replace(PARTIAL, coherence=0.25)
    phase, u = grating(periods, amplitude)
    v = 2 * np.pi * (setup.coherence * setup.objective_na / setup.wavelength_um) * setup.wavelength_um * defocus_um * u
    coherent = 2 * amplitude * np.sin(np.pi * setup.wavelength_um * defocus_um * u**2)
    measured = contrast(intensity(phase, setup, defocus_um, points=256), periods)
    assert measured == pytest.approx(coherent * 2 * j1(v) / v, abs=0.03 * amplitude)
    assert abs(measured) <= 1.02 * abs(coherent)


def test_small_defocus_obeys_the_transport_of_intensity() -> None:
    """dI/dz = -(1/k) laplace(phase) for a transparent object (paper eq. 3)."""
    phase, step_um = smooth_phase(0.5), 0.05
    derivative = (intensity(phase, COHERENT, step_um) - intensity(phase, COHERENT, -step_um)) / (2 * step_um)
    fy, fx = np.fft.fftfreq(SHAPE[0], 0.65)[:, None], np.fft.fftfreq(SHAPE[1], 0.65)[None]
    laplacian = np.fft.ifft2(-4 * np.pi**2 * (fy**2 + fx**2) * np.fft.fft2(phase)).real
    expected = -laplacian * COHERENT.wavelength_um / (2 * np.pi)
    # What is left is the next order of the angular spectrum and single precision over a small difference.
    np.testing.assert_allclose(derivative, expected, atol=0.02 * np.abs(expected).max())


def test_a_wide_condenser_blurs_what_a_plane_wave_shows() -> None:
    phase = smooth_phase(0.3)
    coherent = intensity(phase, COHERENT, 10.0).std()
    partial = intensity(phase, replace(PARTIAL, coherence=0.6), 10.0).std()
    assert 0.2 * coherent < partial < 0.9 * coherent
    nearly = intensity(phase, replace(PARTIAL, coherence=1e-4), 10.0)
    np.testing.assert_allclose(nearly, intensity(phase, COHERENT, 10.0), atol=1e-4)


def test_amplitude_follows_phase_in_focus() -> None:
    phase = np.clip(smooth_phase(2.0), 0, None)
    image = intensity(phase, replace(COHERENT, objective_na=0.7), 0.0, kappa_per_rad=0.02)
    assert np.corrcoef(image.ravel(), phase.ravel())[0, 1] < -0.95
    np.testing.assert_allclose(image, np.exp(-0.04 * phase), atol=0.02)


def test_numpy_and_torch_agree() -> None:
    phase = smooth_phase(2.0)
    a = bin_pixels(intensity(phase, PARTIAL, 6.0, 0.02), 4)
    b = bin_pixels(intensity(torch.from_numpy(phase), PARTIAL, 6.0, 0.02), 4)
    assert isinstance(b, torch.Tensor)
    np.testing.assert_allclose(b.numpy(), a, atol=1e-5)


def test_batches_are_independent() -> None:
    stack = np.stack([smooth_phase(1.0, 1), smooth_phase(1.0, 2)])
    both = intensity(stack, PARTIAL, 6.0)
    np.testing.assert_allclose(both[1], intensity(stack[1], PARTIAL, 6.0), atol=1e-6)


def test_binning_keeps_the_mean_and_refuses_what_does_not_fit() -> None:
    image = smooth_phase(1.0)
    assert bin_pixels(image, 4).shape == (40, 48)
    assert bin_pixels(image, 4).mean() == pytest.approx(image.mean(), abs=1e-6)
    assert bin_pixels(image, 4)[0, 0] == pytest.approx(image[:4, :4].mean(), abs=1e-6)
    with pytest.raises(ValueError, match="cannot be binned by 3"):
        bin_pixels(image, 3)


def test_source_is_symmetric_and_fills_the_condenser() -> None:
    points = source_points(PARTIAL, 64)
    radius = np.hypot(*points.T)
    edge = PARTIAL.coherence * PARTIAL.objective_na / PARTIAL.wavelength_um
    np.testing.assert_allclose(points.sum(axis=0), 0, atol=1e-12)
    assert radius.max() <= edge
    assert np.mean(radius**2) == pytest.approx(edge**2 / 2, rel=1e-6)
    assert source_points(COHERENT, 64).tolist() == [[0.0, 0.0]]


def test_sensor_noise_is_shot_and_read_noise() -> None:
    sensor = SensorModel(full_well_e=10_000, read_noise_e=5, bit_depth=12)
    light = np.full((400, 400), 0.5, np.float32)
    counts = sensor.expose(light, np.random.default_rng(0)).astype(float)
    gain = 4095 / 10_000
    assert counts.mean() == pytest.approx(0.5 * 4095, rel=1e-3)
    assert counts.std() == pytest.approx(gain * np.sqrt(5000 + 25), rel=0.02)


def test_sensor_saturates_and_quantises() -> None:
    bright = SensorModel(bit_depth=8).expose(np.full((9, 9), 2.0), np.random.default_rng(0))
    assert bright.dtype == np.uint8
    assert bright.min() == 255
    assert SensorModel(bit_depth=12).expose(np.zeros((9, 9)), np.random.default_rng(0)).dtype == np.uint16


def test_illumination_has_mean_one_and_the_asked_range() -> None:
    field = uneven_illumination((49, 64), 0.12, seed=5)
    assert field.mean() == pytest.approx(1, abs=1e-5)
    assert np.ptp(field) == pytest.approx(0.12, rel=1e-4)
    np.testing.assert_array_equal(field, uneven_illumination((49, 64), 0.12, seed=5))


@pytest.mark.parametrize(("coherence", "objective_na"), [(1.2, 0.4), (0.9, 1.4)])
def test_dark_field_and_immersion_condensers_are_refused(coherence: float, objective_na: float) -> None:
    setup = replace(PARTIAL, coherence=coherence, objective_na=objective_na)
    with pytest.raises(ValueError, match="outside the objective's aperture"):
        intensity(np.zeros(SHAPE, np.float32), setup, 3.0)
