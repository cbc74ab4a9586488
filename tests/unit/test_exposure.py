"""Advice on the exposure, from raw counts."""

from __future__ import annotations

import numpy as np
import pytest

from livephase.phase.exposure import TARGET, advise, foresee, noise_sd, saturated_fraction
from livephase_devices.sensor import SensorModel

SENSOR = SensorModel(bit_depth=12, offset_counts=100.0)


def frame(light: float, seed: int = 0) -> np.ndarray:
    """Expose a field with a smooth fall of the light and a few bright spots."""
    x = np.linspace(-1, 1, 400)
    field = light * (1 - 0.1 * x[:, None] ** 2 - 0.1 * x[None, :] ** 2)
    field[::40, ::40] *= 1.3
    return SENSOR.expose(field, np.random.default_rng(seed))


def test_saturation_is_counted_on_raw_counts() -> None:
    pixels = np.full((10, 10), 4094, np.uint16)
    pixels[0, :3] = 4095
    assert saturated_fraction(pixels, 12) == 0.03
    assert saturated_fraction(pixels, 16) == 0.0


@pytest.mark.parametrize("light", [0.1, 0.3, 0.6])
def test_noise_is_estimated_and_falls_with_the_root_of_the_light(light: float) -> None:
    pixels = frame(light)
    electrons = light * 0.95 * SENSOR.full_well_e
    expected = np.sqrt(electrons + SENSOR.read_noise_e**2) / electrons
    advice = advise(pixels, bit_depth=12, exposure_ms=10.0, offset_counts=100.0)
    assert advice.noise_sd == pytest.approx(expected, rel=0.06)
    again = advise(
        frame(light * advice.suggested_ms / 10.0, seed=1),
        bit_depth=12,
        exposure_ms=advice.suggested_ms,
        offset_counts=100.0,
    )
    assert again.brightest == pytest.approx(TARGET, abs=0.03)
    assert again.noise_sd == pytest.approx(advice.suggested_noise_sd, rel=0.08)
    assert again.text is None


def test_a_saturated_frame_is_answered_with_an_upper_bound() -> None:
    advice = advise(frame(1.3), bit_depth=12, exposure_ms=40.0)
    assert advice.saturated_fraction > 0.5
    assert advice.suggested_ms == 10.0
    assert advice.text is not None
    assert "saturated at 40 ms: expose 10 ms at most" in advice.text
    assert foresee(advice, 8.0) is None
    assert "should be 10 ms at most" in (foresee(advice, 20.0) or "")


def test_a_planned_exposure_is_judged_by_the_last_frame() -> None:
    advice = advise(frame(0.4), bit_depth=12, exposure_ms=20.0, offset_counts=100.0)
    assert advice.text is None
    assert foresee(advice, 20.0) is None
    assert foresee(advice, 30.0) is None
    too_long, too_short = foresee(advice, 60.0), foresee(advice, 5.0)
    assert too_long is not None
    assert "range" in too_long
    assert f"{advice.suggested_ms:g} ms brings them to 80 %" in too_long
    assert too_short is not None


def test_noise_of_a_smooth_image_is_that_of_its_noise() -> None:
    y, x = np.mgrid[-1:1:200j, -1:1:300j]
    image = 100 * np.exp(-(x**2) - y**2) + np.random.default_rng(2).normal(0, 1.5, x.shape)
    assert noise_sd(image) == pytest.approx(1.5, rel=0.03)
