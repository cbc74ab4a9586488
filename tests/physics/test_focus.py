"""The focus of a sweep: found to 0.3 um although cells absorb, dirt lies about and the light is uneven."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from livephase.errors import FocusError
from livephase.phase.focus import SweepOptics, find_focus, sweep_spectra
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity
from livephase_devices.sensor import uneven_illumination
from livephase_devices.twin.lamp import dust_transmission
from livephase_devices.twin.specimen import Specimen

SIDE_PX = 128
Z_UM = np.arange(-4.5, 4.6, 1.5)


@dataclass(frozen=True)
class Case:
    """A specimen and how it is seen."""

    name: str
    seed: int = 1
    hours: float = 30.0
    kappa: float = 0.01
    coherence: float = 0.3
    dust: int = 0
    focus_um: float = 0.6
    noise_sd: float = 0.01


CASES = (
    Case("phase only", kappa=0.0),
    Case("absorbing", kappa=0.05, focus_um=-0.9),
    Case("coherent light", kappa=0.03, coherence=0.0),
    Case("open condenser", kappa=0.02, coherence=0.5),
    Case("dust", kappa=0.03, dust=15, focus_um=1.2),
    Case("dense", seed=2, hours=60.0, kappa=0.02),
)


@cache
def _phase(seed: int, hours: float) -> np.ndarray:
    return Specimen(seed, (4 * SIDE_PX, 4 * SIDE_PX)).phase_rad(hours * 3600.0)


@cache
def frames_of(case: Case) -> list[np.ndarray]:
    rng = np.random.default_rng([case.seed, 5])
    setup = OpticalSetup(coherence=case.coherence)
    light = uneven_illumination((SIDE_PX, SIDE_PX), 0.15, case.seed) * dust_transmission(
        (SIDE_PX, SIDE_PX), case.dust, case.seed
    )
    frames: list[np.ndarray] = []
    for z_um in Z_UM:
        image = bin_pixels(intensity(_phase(case.seed, case.hours), setup, z_um - case.focus_um, case.kappa), 4) * light
        noisy = image + case.noise_sd * rng.standard_normal(image.shape)
        frames.append(np.clip(np.rint(150 * noisy), 0, 255).astype(np.uint8))
    return frames


def optics_of(case: Case) -> SweepOptics:
    return SweepOptics(0.55, 0.4, case.coherence, 2.6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_focus_is_found(case: Case) -> None:
    optics = optics_of(case)
    fit = find_focus(sweep_spectra(frames_of(case), 8, optics), Z_UM, optics)
    assert fit.z_um == pytest.approx(case.focus_um, abs=0.3)
    assert abs(fit.z_um - case.focus_um) < 3 * fit.sd_um
    assert fit.kappa_per_rad == pytest.approx(case.kappa, abs=0.02)
    assert fit.skewness > 0


def test_the_contrast_minimum_is_not_the_focus() -> None:
    """Why there is a fit at all: with absorbing cells the least contrast lies elsewhere."""
    case = CASES[1]
    contrast = [float(np.var(frame / np.mean(frame))) for frame in frames_of(case)]
    curve = np.polyfit(Z_UM, contrast, 2)
    least_um = -curve[1] / (2 * curve[0])
    assert least_um - case.focus_um > 0.8
    optics = optics_of(case)
    fit = find_focus(sweep_spectra(frames_of(case), 8, optics), Z_UM, optics)
    assert abs(fit.z_um - case.focus_um) < 0.3 * abs(least_um - case.focus_um)


def test_the_axis_may_be_shifted_and_frames_come_in_any_order() -> None:
    case = CASES[0]
    optics = optics_of(case)
    order = np.random.default_rng(1).permutation(len(Z_UM))
    straight = find_focus(sweep_spectra(frames_of(case), 8, optics), Z_UM, optics)
    mixed = find_focus(sweep_spectra([frames_of(case)[i] for i in order], 8, optics), Z_UM[order] + 100.0, optics)
    assert mixed.z_um == pytest.approx(straight.z_um + 100.0, abs=0.02)


def test_a_turned_axis_shows_in_the_skewness() -> None:
    case = CASES[4]
    optics = optics_of(case)
    turned = find_focus(sweep_spectra(frames_of(case), 8, optics), -Z_UM, optics)
    assert turned.skewness < 0


def test_a_field_without_cells_has_no_focus() -> None:
    rng = np.random.default_rng(3)
    light = uneven_illumination((SIDE_PX, SIDE_PX), 0.2, 1) * dust_transmission((SIDE_PX, SIDE_PX), 20, 1)
    frames = [
        np.rint(np.clip(150 * light * (1 + 0.01 * rng.standard_normal(light.shape)), 0, 255)).astype(np.uint8)
        for _ in Z_UM
    ]
    optics = optics_of(CASES[0])
    with pytest.raises(FocusError, match=r"shows too little|frames lie within"):
        find_focus(sweep_spectra(frames, 8, optics), Z_UM, optics)


def test_frames_that_cannot_be_used() -> None:
    optics = optics_of(CASES[0])
    with pytest.raises(FocusError, match="dark"):
        sweep_spectra([np.zeros((64, 64), np.uint8)] * 5, 8, optics)
    with pytest.raises(FocusError, match="too small"):
        sweep_spectra([np.full((32, 32), 100, np.uint8)] * 5, 8, SweepOptics(0.55, 0.4, 0.3, 0.65))
    case = CASES[0]
    coarse = sweep_spectra(frames_of(case), 8, optics)
    with pytest.raises(FocusError, match="steps of 1 to 2 um"):
        find_focus(coarse, 5 * Z_UM, optics)
