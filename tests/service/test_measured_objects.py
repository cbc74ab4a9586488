"""Measured objects: made of two planes, written, read, and turned into training pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from livephase.errors import ConfigurationError
from livephase.training.measured import MeasuredObject, object_from_planes, read_measured, write_measured
from livephase.training.pair_sources import measured_pairs
from livephase.training.recipe import DataPart, OpticsPart
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SETUP = OpticalSetup(0.55, 0.45, 0.0, 0.2325, 4)
KAPPA = 0.02


def bumps(side: int) -> NDArray[np.float32]:
    """Make smooth cells of 1 to 2 rad on an empty field."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:side, :side]
    phase = np.zeros((side, side))
    for _ in range(6):
        row, column = rng.uniform(60, side - 60, 2)
        phase += rng.uniform(1, 2) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * rng.uniform(15, 25) ** 2))
    return phase.astype(np.float32)


@pytest.fixture(scope="module")
def measured() -> MeasuredObject:
    phase = bumps(480)
    planes = [(150 * intensity(phase, SETUP, z, KAPPA)).astype(np.float32) for z in (0.0, 2.5)]
    valid = np.ones(phase.shape, np.bool_)
    valid[:, 440:] = False
    return object_from_planes(
        planes[0], planes[1], dz_um=2.5, pixel_um=0.2325, wavelength_um=0.55, coherence=0.0, valid=valid
    )


def test_two_planes_give_amplitude_phase_and_the_binned_frame(measured: MeasuredObject) -> None:
    phase = bumps(480)
    inner = np.s_[20:-20, 20:420]
    slope, _ = np.polyfit(phase[inner].ravel(), measured.phase_rad[inner].ravel(), 1)
    assert slope == pytest.approx(1, abs=0.1)
    assert np.corrcoef(phase[inner].ravel(), measured.phase_rad[inner].ravel())[0, 1] > 0.98
    # Cells are darker by exp(-2 kappa phase), less what the background estimate takes of them.
    assert np.corrcoef(np.log(measured.amplitude[inner]).ravel(), phase[inner].ravel())[0, 1] < -0.8
    assert measured.frames.shape == (1, 120, 120)
    assert float(np.percentile(measured.phase_rad[measured.valid], 5)) == pytest.approx(0, abs=1e-3)


def test_a_file_comes_back_as_it_was_and_a_wrong_one_is_named(measured: MeasuredObject, tmp_path: Path) -> None:
    write_measured(tmp_path / "one.npz", measured)
    again = read_measured(tmp_path / "one.npz")
    np.testing.assert_array_equal(again.phase_rad, measured.phase_rad)
    np.testing.assert_array_equal(again.valid, measured.valid)
    assert again.coherence == 0.0
    np.savez(tmp_path / "other.npz", phase_rad=measured.phase_rad)
    with pytest.raises(ConfigurationError, match=r"other\.npz is no measured field: it has no amplitude"):
        read_measured(tmp_path / "other.npz")
    with np.load(tmp_path / "one.npz", allow_pickle=False) as archive:
        parts = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "cut.npz", **{**parts, "frames": parts["frames"][:, :-1]})
    with pytest.raises(ConfigurationError, match="do not fit together"):
        read_measured(tmp_path / "cut.npz")


def test_pairs_stay_within_the_valid_part_and_obey_the_forward_model(measured: MeasuredObject) -> None:
    corners = measured.corners(256)
    assert len(corners)
    assert corners[:, 1].max() + 256 <= 440
    optics = OpticsPart.model_validate(
        {
            "defocus_um": (1.0, 4.0),
            "coherence": (0.0, 0.0),
            "objective_na": 0.45,
            "hr_pixel_um": (0.2325, 0.2325),
            "wavelength_um": (0.55, 0.55),
        }
    )
    data = DataPart.model_validate({"patch_lr_px": 48, "measured_pairs": 12})
    pairs = list(measured_pairs([measured], data, optics))
    assert {pair.recorded for pair in pairs} == {True, False}
    for pair in pairs:
        phase = np.asarray(pair.phase_rad, np.float32)
        defocus_um = float(pair.conditions[0]) * 0.93**2 / 0.55
        frame = bin_pixels(intensity(phase, SETUP, defocus_um, KAPPA), 4)
        inner = np.s_[6:-6, 6:-6]
        if phase.std() > 0.3:
            assert np.corrcoef(frame[inner].ravel(), pair.intensity[inner].ravel())[0, 1] > 0.8
