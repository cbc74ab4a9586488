"""The experimental dataset: brightness correction, TIE labels, divisions that share no pixel."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from livephase.errors import ConfigurationError
from livephase.training.experimental import (
    LabelledField,
    PlanePair,
    brightness_correction,
    experimental_set,
    label_pairs,
)
from livephase.training.patches import symmetric
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity
from livephase_devices.twin.specimen import Specimen

SHARED = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).parents[3] / "shared"))
SETUP = OpticalSetup(coherence=0.0)
DZ_UM = 2.0
MARGIN = 48
COUNTS = (48, 4, 6)


def _true_phase(seed: int) -> np.ndarray:
    shape = (512 + 2 * MARGIN, 640 + 2 * MARGIN)
    return Specimen(seed, shape, density_per_mm2=400.0).phase_rad(4 * 3600.0)


def _inner(image: np.ndarray) -> np.ndarray:
    return image[MARGIN:-MARGIN, MARGIN:-MARGIN]


@pytest.fixture(scope="module")
def true_phases() -> list[np.ndarray]:
    return [_true_phase(seed) for seed in (11, 12, 13)]


@pytest.fixture(scope="module")
def labelled(true_phases: list[np.ndarray]) -> list[LabelledField]:
    """Three fields, each taken under another lamp."""
    pairs: list[PlanePair] = []
    for index, phase in enumerate(true_phases):
        planes = [_inner(intensity(phase, SETUP, z)) for z in (0.0, DZ_UM)]
        lamps = (100.0 + 20 * index, 90.0 + 30 * index)
        counts = [np.rint(lamp * 20 * plane).astype(np.uint16) for lamp, plane in zip(lamps, planes, strict=True)]
        pairs.append(PlanePair(f"dish {index}", counts[0], counts[1], DZ_UM))
    return label_pairs(pairs, SETUP.hr_pixel_um, SETUP.wavelength_um, SETUP.coherence)


def test_brightness_correction_is_the_papers_formula() -> None:
    rng = np.random.default_rng(4)
    frames = [rng.integers(1, 200 * (k + 1), (30, 40)).astype(np.uint8 if k == 0 else np.uint16) for k in range(3)]
    level = np.mean([frame.mean() for frame in frames])
    corrected = brightness_correction(frames)
    for frame, after in zip(frames, corrected, strict=True):
        np.testing.assert_allclose(after, frame * (level / frame.mean()), rtol=1e-6)
        assert after.dtype == np.float32
        assert after.mean() == pytest.approx(level, rel=1e-5)
    with pytest.raises(ConfigurationError, match="frame 1 of the dataset has no light"):
        brightness_correction([frames[0], np.zeros((30, 40))])


def test_labels_and_inputs(labelled: list[LabelledField], true_phases: list[np.ndarray]) -> None:
    for field, phase in zip(labelled, true_phases, strict=True):
        assert field.intensity.shape == (128, 160)
        assert field.phase_rad.shape == (512, 640)
        assert field.intensity.mean() == pytest.approx(1, abs=1e-5)
        expected = bin_pixels(_inner(intensity(phase, SETUP, DZ_UM)), 4)
        assert np.abs(field.intensity - expected / expected.mean()).max() < 2e-3  # rounding of the counts
        centre = (slice(96, -96), slice(96, -96))
        truth, label = _inner(phase)[centre].ravel(), field.phase_rad[centre].ravel()
        assert np.corrcoef(truth, label)[0, 1] > 0.9
        assert 0.8 < np.polyfit(truth, label, 1)[0] < 1.15


def test_halves_share_no_pixel(labelled: list[LabelledField]) -> None:
    made = experimental_set(labelled, "half", patch_lr_px=32, counts=COUNTS)
    masks = np.zeros((3, len(labelled), 512, 640), bool)
    for split, patches in enumerate((made.train, made.validation, made.test)):
        assert len(patches) == COUNTS[split]
        for field, (row, column) in zip(patches.field, patches.corner_px, strict=True):
            masks[split, field, row : row + 128, column : column + 128] = True
    assert masks.any(axis=(1, 2, 3)).all()
    assert masks.sum(axis=0).max() == 1
    assert set(made.validation.symmetry) == set(made.test.symmetry) == {0}
    assert len(set(made.train.symmetry)) == 8


def test_fields_are_in_one_split(labelled: list[LabelledField]) -> None:
    twice = [*labelled, *(replace(field, defocus_um=5.0) for field in labelled)]  # two defoci of each dish
    made = experimental_set(twice, "field", patch_lr_px=32, counts=COUNTS)
    names = [{made.fields[i].name for i in patches.field} for patches in (made.train, made.validation, made.test)]
    assert sorted(name for split in names for name in split) == ["dish 0", "dish 1", "dish 2"]
    for index in range(6):
        patches = made.train
        field = made.fields[patches.field[index]]
        row, column = patches.corner_px[index]
        phase = field.phase_rad[row : row + 128, column : column + 128].astype(np.float16)
        np.testing.assert_array_equal(patches.phase_rad[index], symmetric(phase, int(patches.symmetry[index])))


def test_it_depends_on_nothing_but_its_seed(labelled: list[LabelledField]) -> None:
    a, b, c = (experimental_set(labelled, "field", seed=s, patch_lr_px=32, counts=COUNTS) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.train.intensity, b.train.intensity)
    assert not np.array_equal(a.train.intensity, c.train.intensity)


def test_the_papers_patches(labelled: list[LabelledField]) -> None:
    made = experimental_set(labelled, "field")
    assert made.train.intensity.shape[1:] == (128, 128)
    assert made.train.phase_rad.shape[1:] == (512, 512)


def test_too_little_is_an_error(labelled: list[LabelledField]) -> None:
    with pytest.raises(ConfigurationError, match="2 fields of view cannot be divided"):
        experimental_set(labelled[:2], "field")
    with pytest.raises(ConfigurationError, match="has no patch of 128 x 128"):
        experimental_set(labelled, "half")
    with pytest.raises(ConfigurationError, match="field a: dz_um is 0"):
        label_pairs([PlanePair("a", np.ones((32, 32)), np.ones((32, 32)), 0.0)], 0.65, 0.55, 0.0)


@pytest.mark.real_data
def test_measured_hela_halves() -> None:
    folder = SHARED / "data" / "tie_hela"
    if not folder.is_dir():
        pytest.skip(f"the measured data set is absent ({folder})")
    pair = PlanePair("hela", tifffile.imread(folder / "I0.tif"), tifffile.imread(folder / "Iz.tif"), 2.5)
    (field,) = label_pairs([pair], 0.2325, 0.55, 0.3)
    assert field.valid is not None  # the field aperture
    assert 0.2 < field.valid.mean() < 0.95
    assert field.intensity[field.valid].mean() == pytest.approx(1, abs=1e-4)
    made = experimental_set([field], "half", patch_lr_px=32, counts=(100, 8, 25))
    for patches in (made.train, made.validation, made.test):
        for row, column in patches.corner_px // 4:
            assert field.valid[row : row + 32, column : column + 32].all()
    assert made.train.corner_px[:, 1].max() + 128 <= field.phase_rad.shape[1] // 2 <= made.test.corner_px[:, 1].min()
