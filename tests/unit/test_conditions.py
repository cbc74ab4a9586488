"""Imaging conditions: the dimensionless defocus, and that the paraxial image depends on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from livephase.phase.conditions import Conditions
from livephase.phase.propagation import ImagingOptics
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity


def test_the_defocus_number_is_wavelength_times_defocus_over_the_pixel_squared() -> None:
    told = Conditions(defocus_um=6.0, wavelength_um=0.55, lr_pixel_um=2.6, coherence=0.3)
    assert told.defocus_number == pytest.approx(0.55 * 6 / 2.6**2)
    np.testing.assert_allclose(told.vector(), [0.4882, 0.3, 1], atol=1e-4)
    assert Conditions(-6.0, 0.55, 2.6, None).defocus_number == pytest.approx(-0.4882, abs=1e-4)


def test_unknown_coherence_is_not_the_same_as_a_plane_wave() -> None:
    np.testing.assert_array_equal(Conditions(6.0, 0.55, 2.6, None).vector()[1:], [0, 0])
    np.testing.assert_array_equal(Conditions(6.0, 0.55, 2.6, 0.0).vector()[1:], [0, 1])


def test_microscopes_of_equal_defocus_number_give_the_same_frame_in_the_paraxial_limit() -> None:
    rng = np.random.default_rng(4)
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None, :])
    phase = np.fft.ifft2(np.fft.fft2(rng.standard_normal((256, 256))) * np.exp(-((frequency / 0.04) ** 2))).real
    phase = (phase / phase.std()).astype(np.float32)
    frames = []
    for pixel_um, wavelength_um in ((0.65, 0.55), (1.3, 0.55), (0.65, 0.45)):
        defocus_um = 6.0 * (pixel_um / 0.65) ** 2 * 0.55 / wavelength_um
        setup = OpticalSetup(wavelength_um, 0.4, 0.0, pixel_um)
        frames.append(bin_pixels(intensity(phase, setup, defocus_um), 4))
        told = Conditions(defocus_um, wavelength_um, 4 * pixel_um, None)
        assert told.defocus_number == pytest.approx(0.4882, abs=1e-4)
    contrast = frames[0].std()
    assert contrast > 0.02
    for frame in frames[1:]:
        assert np.abs(frame - frames[0]).max() < 0.05 * contrast


def test_imaging_optics_are_conditions_with_a_known_coherence() -> None:
    optics = ImagingOptics(6.0, 0.55, 2.6, 0.0, objective_na=0.4)
    np.testing.assert_array_equal(optics.vector(), Conditions(6.0, 0.55, 2.6, 0.0).vector())
    assert optics.defocus_number == Conditions(6.0, 0.55, 2.6, None).defocus_number
    with pytest.raises(TypeError, match="coherence"):
        ImagingOptics(6.0, 0.55, 2.6, objective_na=0.4)  # pyright: ignore[reportCallIssue]
