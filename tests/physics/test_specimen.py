"""The simulated culture: deterministic, mass-conserving, growing and dividing."""

from __future__ import annotations

import numpy as np
import pytest

from livephase_devices.twin.cell import REFRACTION_INCREMENT_UM3_PER_PG, CellLook, render_cell, texture_tile
from livephase_devices.twin.culture import STEP_S, Culture
from livephase_devices.twin.specimen import Specimen

HOUR_S = 3600.0
SHAPE = (256, 320)
RAD_UM2_PER_PG = 2 * np.pi / 0.55 * REFRACTION_INCREMENT_UM3_PER_PG


def small(seed: int = 5) -> Specimen:
    return Specimen(seed=seed, shape=SHAPE, density_per_mm2=300)


def test_the_same_seed_and_time_give_the_same_pixels_in_any_order() -> None:
    first = small()
    later, earlier = first.phase_rad(9.3 * HOUR_S), first.phase_rad(2.1 * HOUR_S)
    second = small()
    np.testing.assert_array_equal(second.phase_rad(2.1 * HOUR_S), earlier)
    np.testing.assert_array_equal(second.phase_rad(9.3 * HOUR_S), later)
    assert not np.array_equal(small(6).phase_rad(2.1 * HOUR_S), earlier)


def test_phase_is_finite_non_negative_and_of_cells() -> None:
    phase = small().phase_rad(5 * HOUR_S)
    assert phase.shape == SHAPE
    assert phase.dtype == np.float32
    assert np.isfinite(phase).all()
    assert phase.min() >= 0
    assert 1.0 < np.percentile(phase, 99.5) < 8.0


def test_the_population_doubles_about_once_a_day() -> None:
    culture = Culture(seed=2, size_um=(900, 900), density_per_mm2=80)
    start, day = len(culture.at(0)), len(culture.at(22 * HOUR_S))
    assert 1.7 < day / start < 2.6
    assert len(culture.at(44 * HOUR_S)) > 1.6 * day


def test_division_gives_two_daughters_of_half_the_mass() -> None:
    culture = Culture(seed=4, size_um=(600, 600), density_per_mm2=150)
    seen = 0
    for step in range(200):
        before, after = culture.at(step * STEP_S), culture.at((step + 1) * STEP_S)
        gone = np.setdiff1d(before.cell_id, after.cell_id)
        for mother in gone:
            daughters = np.flatnonzero(after.mother_id == mother)
            born = daughters[after.age_s[daughters] == 0]
            assert len(born) == 2
            mass = before.mass_pg[before.cell_id == mother][0]
            assert after.mass_pg[born].sum() == pytest.approx(mass, rel=0.01)
            assert before.roundness()[before.cell_id == mother][0] > 0.99
            seen += 1
    assert seen >= 5


def test_positions_are_continuous_between_steps() -> None:
    culture = Culture(seed=4, size_um=(600, 600), density_per_mm2=150)
    before, after = culture.at(10 * STEP_S + 59), culture.at(10 * STEP_S + 61)
    moved = np.hypot(before.y_um - after.y_um, before.x_um - after.x_um)
    assert np.median(moved) < 0.1


@pytest.mark.parametrize("roundness", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("furrow", [0.0, 0.8])
def test_the_integral_of_phase_is_the_dry_mass(roundness: float, furrow: float) -> None:
    look = CellLook(
        look_seed=9,
        heading_rad=0.7,
        radius_um=12.0,
        roundness=roundness,
        furrow=furrow,
        separation_um=15.0,
        mass_pg=250.0,
        time_s=1e4,
    )
    image = render_cell(look, (0.3, -0.2), 60, 0.65, 0.55, texture_tile(1))
    assert image.sum() * 0.65**2 == pytest.approx(250.0 * RAD_UM2_PER_PG, rel=1e-4)
    assert image.min() >= 0


def test_a_rounded_cell_is_thicker_than_a_flat_one() -> None:
    def peak(roundness: float) -> float:
        radius = 14.0 if roundness == 0 else 8.5
        look = CellLook(1, 0.0, radius, roundness, 0.0, 15.0, 300.0, 0.0)
        return float(np.percentile(render_cell(look, (0, 0), 60, 0.65, 0.55, texture_tile(1)), 99.9))

    assert peak(1.0) > 1.5 * peak(0.0)


def test_cells_change_shape_smoothly() -> None:
    specimen = small()
    a, b = specimen.phase_rad(6 * HOUR_S), specimen.phase_rad(6 * HOUR_S + 20)
    c = specimen.phase_rad(7 * HOUR_S)
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.1 * np.sqrt(np.mean((a - c) ** 2))
