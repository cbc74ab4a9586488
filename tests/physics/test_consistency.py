"""Re-propagation and misfit: the predicted frame against the Abbe superposition, and what a residual can tell."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from livephase.phase.consistency import BANDS, Comparison, compare, judge
from livephase.phase.misfit_calibration import MisfitCalibration
from livephase.phase.preprocess import prepare
from livephase.phase.propagation import SCALE, ImagingOptics, absorption_term, predict
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity
from livephase_devices.sensor import uneven_illumination

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TEN_TIMES = ImagingOptics(defocus_um=6.0, wavelength_um=0.55, lr_pixel_um=2.6, coherence=0.3, objective_na=0.4)
FORTY_TIMES = ImagingOptics(defocus_um=6.0, wavelength_um=0.55, lr_pixel_um=0.68, coherence=0.3, objective_na=0.6)
NOISE_SD = 0.01


def cells(lr_side: int, lr_pixel_um: float, seed: int = 3) -> Floats:
    """Draw periodic bumps of radii from 1 to 3 LR pixels, (4 side, 4 side); flatter ones on small pixels."""
    rng = np.random.default_rng(seed)
    side = lr_side * SCALE
    axis = np.arange(side) - side / 2
    phase = np.zeros((side, side))
    highest_rad = 4.0 if lr_pixel_um > 1 else 1.5
    for _ in range(lr_side // 3):
        radius = rng.uniform(1, 3) * SCALE
        bump = np.exp(-(axis**2) / (2 * radius**2))
        shift = rng.integers(0, side, 2)
        phase += highest_rad * rng.uniform(0.2, 1) * np.roll(np.outer(bump, bump), tuple(shift.tolist()), (0, 1))
    return phase.astype(np.float32)


def imaged(phase_rad: Floats, optics: ImagingOptics, kappa_per_rad: float = 0.0) -> Floats:
    """Image as the reference does: tilted illumination, point by point."""
    setup = OpticalSetup(
        optics.wavelength_um, optics.objective_na, optics.coherence, optics.lr_pixel_um / SCALE, binning=SCALE
    )
    return bin_pixels(intensity(phase_rad, setup, optics.defocus_um, kappa_per_rad, points=48), SCALE)


def compared(light: Floats, phase_rad: Floats, optics: ImagingOptics, noise_sd: float = NOISE_SD) -> Comparison:
    """Give a 12-bit frame of that light to ``compare`` with a phase; both are periodic, so nothing is padded."""
    rng = np.random.default_rng(5)
    noisy = light / light.mean() + noise_sd * rng.standard_normal(light.shape)
    pixels = np.rint(noisy * 2000).astype(np.uint16)
    prepared = prepare(pixels, bit_depth=12, stride=8, halo_px=0)
    comparison = compare(prepared, phase_rad, optics)
    assert comparison is not None
    return comparison


def excess(comparison: Comparison) -> NDArray[np.float64]:
    """Power of the residual over that of the noise in every octave."""
    return comparison.residual / comparison.noise_sd**2


@pytest.mark.parametrize("optics", [TEN_TIMES, FORTY_TIMES], ids=["10x", "40x"])
@pytest.mark.parametrize("coherence", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("defocus_um", [-6.0, 3.0, 9.0])
def test_the_prediction_is_that_of_the_abbe_superposition(
    optics: ImagingOptics, coherence: float, defocus_um: float
) -> None:
    optics = replace(optics, coherence=coherence, defocus_um=defocus_um)
    phase = cells(96, optics.lr_pixel_um)
    reference = imaged(phase, optics)
    difference = predict(phase, optics) - reference
    contrast = float(reference.std())
    assert contrast > 0.005
    # The superposition loses the part of a tilted spectrum that the pupil cuts off, the blur does not.
    assert difference.std() < (0.05 + 0.3 * coherence) * contrast


def test_an_empty_field_stays_empty_and_light_is_conserved() -> None:
    np.testing.assert_allclose(predict(np.zeros((256, 320), np.float32), TEN_TIMES), 1, atol=1e-5)
    np.testing.assert_allclose(predict(np.full((256, 320), 2.5, np.float32), TEN_TIMES), 1, atol=1e-5)
    assert predict(cells(96, 2.6), TEN_TIMES).mean() == pytest.approx(1, abs=2e-3)


def test_absorption_is_the_derivative_by_kappa() -> None:
    phase = (cells(96, 2.6) / 4).astype(np.float32)
    change = (imaged(phase, TEN_TIMES, 0.01) - imaged(phase, TEN_TIMES)) / 0.01
    term = absorption_term(phase, TEN_TIMES)
    assert np.corrcoef(change.ravel(), term.ravel())[0, 1] > 0.995
    assert np.std(change - term) < 0.1 * np.std(change)


def test_the_true_phase_leaves_the_noise() -> None:
    phase = cells(128, 2.6)
    comparison = compared(imaged(phase, TEN_TIMES, 0.02), phase, TEN_TIMES)
    assert comparison.noise_sd == pytest.approx(NOISE_SD, rel=0.05)
    assert comparison.kappa_per_rad == pytest.approx(0.02, abs=0.002)
    np.testing.assert_allclose(excess(comparison), 1, atol=0.35)
    ratios = comparison.ratio_blocks(np.zeros(BANDS))
    assert ratios.shape == (8, 8)
    assert 0.8 < np.nanmedian(ratios) < 1.2


def test_level_and_uneven_light_are_no_misfit() -> None:
    phase = cells(128, 2.6)
    light = imaged(phase, TEN_TIMES)
    even = compared(light, phase, TEN_TIMES)
    uneven = compared(light * uneven_illumination(light.shape, 0.2, seed=4) * 1.7, phase, TEN_TIMES)
    np.testing.assert_allclose(excess(uneven), excess(even), rtol=0.3)


def test_a_scaled_phase_hides_a_wrong_defocus_unless_the_transfer_has_a_zero() -> None:
    """Half the phase at twice z: the same frame at 10x (lambda z / pixel^2 < 4), not at 40x."""
    left: dict[str, float] = {}
    for name, optics in {"10x": TEN_TIMES, "40x": FORTY_TIMES}.items():
        phase = (cells(128, optics.lr_pixel_um) / 8).astype(np.float32)
        frame = imaged(phase, optics)
        twice = replace(optics, defocus_um=2 * optics.defocus_um)
        left[name] = float(np.std(predict((phase / 2).astype(np.float32), twice) - frame) / frame.std())
    assert TEN_TIMES.defocus_number * 2 < 4 < FORTY_TIMES.defocus_number
    assert left["10x"] < 0.4
    assert left["40x"] > 2 * left["10x"]


def test_too_much_or_too_little_contrast_is_told_apart() -> None:
    phase = cells(128, 2.6)
    frame = imaged(phase, TEN_TIMES)
    none = np.zeros(BANDS)
    gains = {
        scale: compared(frame, phase * np.float32(scale), TEN_TIMES).features(none)[BANDS] for scale in (0.7, 1, 1.4)
    }
    assert gains[0.7] > 0.15
    assert abs(gains[1]) < 0.05
    assert gains[1.4] < -0.15


@pytest.mark.parametrize("fault", ["bead", "fringes", "phase of another place"])
def test_what_the_phase_cannot_explain_is_left_where_it_is(fault: str) -> None:
    phase = cells(128, 2.6)
    light = imaged(phase, TEN_TIMES)
    clean = excess(compared(light, phase, TEN_TIMES))
    if fault == "bead":
        light[60:66, 60:66] *= np.float32(0.7)
    elif fault == "fringes":
        light *= (1 + 0.03 * np.cos(np.arange(128) * 2 * np.pi / 12)).astype(np.float32)
    else:
        phase = np.roll(phase, 40, axis=1)
    comparison = compared(light, phase, TEN_TIMES)
    assert (excess(comparison) / clean).max() > 2
    ratios = comparison.ratio_blocks(np.zeros(BANDS))
    if fault == "bead":
        row, column = np.unravel_index(np.nanargmax(ratios), ratios.shape)
        assert (row in (3, 4), column in (3, 4)) == (True, True)


def test_nothing_is_judged_behind_a_field_stop_or_in_a_tiny_frame() -> None:
    optics = TEN_TIMES
    phase = cells(128, 2.6)
    light = imaged(phase, optics)
    light[:, :40] = 0.02
    comparison = compared(light, phase, optics)
    ratios = comparison.ratio_blocks(np.zeros(BANDS))
    assert np.isnan(ratios[:, :2]).all()
    assert np.isfinite(ratios[1:-1, 4:-1]).all()
    tiny = prepare(np.full((32, 32), 100, np.uint8), bit_depth=8, stride=8)
    far = replace(optics, defocus_um=60.0)
    assert compare(tiny, np.zeros((4 * tiny.intensity.shape[0], 4 * tiny.intensity.shape[1]), np.float32), far) is None


def test_calibration_sets_the_scale_and_needs_several_specimens() -> None:
    """The model of this test knows the true phase but blurs it by a random gain."""
    rng = np.random.default_rng(2)
    comparisons: list[Comparison] = []
    drawn: list[ImagingOptics] = []
    for index in range(24):
        optics = replace(TEN_TIMES, defocus_um=rng.uniform(3, 12), coherence=rng.uniform(0, 0.5))
        phase = cells(96, 2.6, seed=index // 2)
        gain = np.float32(rng.normal(1, 0.03))
        comparisons.append(compared(imaged(phase, optics), phase * gain, optics, rng.uniform(0.004, 0.02)))
        drawn.append(optics)
    specimens = [index // 2 for index in range(24)]
    calibration = MisfitCalibration.fit(comparisons, drawn, specimens)
    values = [judge(*pair, calibration).value for pair in zip(comparisons, drawn, strict=True)]
    assert 0.2 < np.median(values) <= 1.1
    assert calibration.threshold > 1
    assert (calibration.frames, calibration.objective_na) == (24, 0.4)
    phase = cells(96, 2.6, seed=99)
    right = compared(imaged(phase, TEN_TIMES), phase, TEN_TIMES)
    assert not judge(right, TEN_TIMES, calibration).is_raised
    wrong = compared(imaged(phase, TEN_TIMES), phase * np.float32(1.5), TEN_TIMES)
    misfit = judge(wrong, TEN_TIMES, calibration)
    assert misfit.is_raised
    assert misfit.map.dtype == np.float16
    assert MisfitCalibration.model_validate_json(calibration.model_dump_json()) == calibration
    with pytest.raises(ValueError, match="three specimens"):
        MisfitCalibration.fit(comparisons, drawn, [0] * 24)
