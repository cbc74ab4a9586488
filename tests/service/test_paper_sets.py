"""The paper's datasets: physics of the frames, fair splits, the same patches in every set, builds that go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from livephase.errors import ConfigurationError
from livephase.training import paper_fields
from livephase.training.paper_fields import SPLITS, MeasuredPhase, SimulatedCulture, phase_field
from livephase.training.paper_sets import PAPER_COUNTS, Counts, PaperSet, adaptive_training, paper_set
from livephase.training.paper_specs import COHERENCE_SETS, DEFOCUS_SETS, SetSpec, expose
from livephase.training.patches import draw_augmented, edge_map, grid, occupied, symmetric

SHARED = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).parents[3] / "shared"))
SMALL = SimulatedCulture(seed=3, train_fields=1, validation_fields=1, test_fields=1, side_px=768)
FEW = Counts(train=24, validation=3, test=4)
Z6 = DEFOCUS_SETS[5]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def small_set(cache: Path) -> PaperSet:
    return paper_set(Z6, SMALL, cache, FEW)


def test_the_sets_are_those_of_the_paper() -> None:
    assert [spec.defocus_um for spec in DEFOCUS_SETS] == list(range(1, 14))
    assert {spec.coherence for spec in DEFOCUS_SETS} == {0.0}
    assert [spec.coherence for spec in COHERENCE_SETS] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert {spec.defocus_um for spec in COHERENCE_SETS} == {4.0}
    assert {spec.noise_sd for spec in DEFOCUS_SETS + COHERENCE_SETS} == {0.01}
    assert len({spec.digest for spec in DEFOCUS_SETS + COHERENCE_SETS}) == 17  # S = 0 is z = 4 um
    assert PAPER_COUNTS == (1300, 80, 100)


def test_shapes_types_and_content(small_set: PaperSet) -> None:
    for split, count in zip(SPLITS, FEW, strict=True):
        patches = getattr(small_set, split)
        assert len(patches) == count
        assert patches.intensity.shape == (count, 64, 64)
        assert patches.phase_rad.shape == (count, 256, 256)
        assert (patches.intensity.dtype, patches.phase_rad.dtype) == (np.float32, np.float16)
        assert np.isfinite(patches.intensity).all()
        assert abs(patches.intensity.mean() - 1) < 0.02
        assert np.ptp(patches.phase_rad.astype(np.float32), axis=(1, 2)).min() > 0.5  # none is empty


def test_a_patch_is_cut_from_its_field_and_its_frame(small_set: PaperSet) -> None:
    frame, phase = small_set.test_field(0)
    assert frame.shape == (192, 192)
    assert phase.shape == (768, 768)
    row, column = small_set.test.corner_px[2]
    np.testing.assert_array_equal(small_set.test.phase_rad[2], phase[row : row + 256, column : column + 256])
    lr = frame[row // 4 : row // 4 + 64, column // 4 : column // 4 + 64]
    np.testing.assert_array_equal(small_set.test.intensity[2], lr)


def test_a_training_pair_is_turned_as_one(small_set: PaperSet) -> None:
    train = small_set.train
    assert set(train.symmetry.tolist()) == set(range(8))
    phase = phase_field(SMALL, "train", 0, small_set.cache).inner.astype(np.float32)
    for index in range(8):
        row, column = train.corner_px[index]
        turned = symmetric(phase[row : row + 256, column : column + 256], int(train.symmetry[index]))
        np.testing.assert_array_equal(train.phase_rad[index], turned)
        # Propagating the turned patch gives the turned frame, away from the patch's border.
        again = expose(turned.copy(), 0, SetSpec("", 6.0, noise_sd=0.0), np.random.default_rng(0))
        difference = (again - train.intensity[index])[8:-8, 8:-8]
        assert difference.std() < 0.006 < 0.2 * train.intensity[index].std() + 0.006


def test_no_test_pixel_is_in_training(small_set: PaperSet) -> None:
    """By construction the fields are different cultures; by content no block of a test patch comes again."""
    fields = [phase_field(SMALL, split, 0, small_set.cache).phase_rad for split in SPLITS]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        x, y = fields[a].astype(np.float64), fields[b].astype(np.float64)
        assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.2

    def blocks(phase: np.ndarray) -> set[bytes]:
        found: set[bytes] = set()
        for patch in phase:
            for turn in range(8):
                turned = np.ascontiguousarray(symmetric(patch, turn))
                cells = turned.reshape(16, 16, 16, 16).swapaxes(1, 2).reshape(-1, 256)
                found |= {cell.tobytes() for cell in cells[cells.min(axis=1) > 0.05]}
        return found

    trained, tested = blocks(small_set.train.phase_rad), blocks(small_set.test.phase_rad)
    assert len(tested) > 100
    assert not trained & tested
    assert not blocks(small_set.validation.phase_rad) & tested


def test_the_division_is_the_same_in_every_set(small_set: PaperSet, cache: Path) -> None:
    other = paper_set(COHERENCE_SETS[2], SMALL, cache, FEW)
    for split in SPLITS:
        a, b = getattr(small_set, split), getattr(other, split)
        np.testing.assert_array_equal(a.phase_rad, b.phase_rad)
        assert not np.array_equal(a.intensity, b.intensity)


def test_the_same_seed_gives_the_same_set(small_set: PaperSet, tmp_path: Path) -> None:
    again = paper_set(Z6, SMALL, tmp_path, FEW)
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(small_set, split).intensity, getattr(again, split).intensity)
        np.testing.assert_array_equal(getattr(small_set, split).phase_rad, getattr(again, split).phase_rad)


@pytest.mark.parametrize(("noise_on", "expected"), [("hr", 0.0025), ("binned", 0.01)])
def test_noise_of_an_empty_field(noise_on: str, expected: float) -> None:
    spec = SetSpec("", 6.0, noise_on=noise_on)  # type: ignore[arg-type]
    frame = expose(np.zeros((1024, 1024), np.float32), 0, spec, np.random.default_rng(1))
    assert frame.std() == pytest.approx(expected, rel=0.02)
    assert frame.mean() == pytest.approx(1, abs=1e-4)


def test_noise_of_an_empty_region_of_a_set(small_set: PaperSet) -> None:
    frame, phase = small_set.test_field(0)
    flat = np.abs(phase).reshape(192, 4, 192, 4).max(axis=(1, 3)) < 1e-3
    # Light travels: only pixels with 13 um of empty specimen around them are empty in the frame.
    for _ in range(5):
        flat[1:-1, 1:-1] &= flat[:-2, 1:-1] & flat[2:, 1:-1] & flat[1:-1, :-2] & flat[1:-1, 2:]
    flat[[0, 1, 2, 3, 4, -5, -4, -3, -2, -1]] = False
    flat[:, [0, 1, 2, 3, 4, -5, -4, -3, -2, -1]] = False
    assert flat.sum() > 500
    assert 0.0022 < frame[flat].std() < 0.0035


def test_a_pure_phase_field_keeps_its_energy(small_set: PaperSet) -> None:
    phase = phase_field(SMALL, "test", 0, small_set.cache).phase_rad.astype(np.float32)
    for defocus_um in (1.0, 13.0):
        frame = expose(phase, 0, SetSpec("", defocus_um, noise_sd=0.0), np.random.default_rng(0))
        assert frame.mean() == pytest.approx(1, abs=2e-3)  # what the finite pupil stops


def test_contrast_grows_with_defocus(cache: Path, small_set: PaperSet) -> None:
    near = paper_set(DEFOCUS_SETS[0], SMALL, cache, FEW)
    assert near.test_field(0)[0].std() < 0.6 * small_set.test_field(0)[0].std()


def test_adaptive_training_takes_other_phases_from_each_set(small_set: PaperSet, cache: Path) -> None:
    sets = [small_set, paper_set(DEFOCUS_SETS[0], SMALL, cache, FEW)]
    patches, set_index = adaptive_training(sets, each=12)
    assert len(patches) == 24
    np.testing.assert_array_equal(set_index, [0] * 12 + [1] * 12)
    np.testing.assert_array_equal(patches.intensity[12:], sets[1].train.intensity[12:24])
    assert len({phase.tobytes() for phase in patches.phase_rad}) == 24


def test_empty_patches_are_found() -> None:
    phase = np.zeros((512, 512), np.float32)
    y, x = np.mgrid[:512, :512]
    phase += 2 * np.exp(-((y - 128) ** 2 + (x - 384) ** 2) / (2 * 20.0**2)).astype(np.float32)
    phase += np.random.default_rng(0).normal(0, 0.03, phase.shape).astype(np.float32)  # a measured background
    corners = grid((512, 512), 256, 256)
    np.testing.assert_array_equal(corners, [[0, 0], [0, 256], [256, 0], [256, 256]])
    np.testing.assert_array_equal(occupied(edge_map(phase, 0.65), corners, 256), [False, True, False, False])


def test_symmetries_are_eight_different_ones() -> None:
    patch = np.arange(32).reshape(2, 4, 4)
    assert len({symmetric(patch, k).tobytes() for k in range(8)}) == 8
    for k in range(8):
        turned = symmetric(patch, k)
        # Of every image by itself, and the same for a tensor.
        np.testing.assert_array_equal(turned[1] - 16, turned[0])
        np.testing.assert_array_equal(symmetric(torch.from_numpy(patch), k).numpy(), turned)
    drawn = draw_augmented(3, 24, np.random.default_rng(0))
    assert len({tuple(row) for row in drawn.tolist()}) == 24


def test_too_few_patches_is_an_error(cache: Path) -> None:
    with pytest.raises(ConfigurationError, match="test split needs 50 patches"):
        paper_set(Z6, SMALL, cache, Counts(8, 1, 50))
    with pytest.raises(IndexError, match="no field 1"):
        phase_field(SMALL, "test", 1, cache)


_BUILD = """
import sys
from pathlib import Path
from livephase.training.paper_fields import SimulatedCulture
from livephase.training.paper_sets import Counts, paper_set
from livephase.training.paper_specs import DEFOCUS_SETS
source = SimulatedCulture(seed=3, train_fields=1, validation_fields=1, test_fields=1, side_px=768)
paper_set(DEFOCUS_SETS[5], source, Path(sys.argv[1]), Counts(24, 3, 4), lambda done, _: print(done, flush=True))
"""


def test_a_killed_build_goes_on_and_ends_the_same(small_set: PaperSet, tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", _BUILD, str(tmp_path)], stdout=subprocess.PIPE)
    end = time.monotonic() + 120
    while not list(tmp_path.glob("field-*.npy")):
        assert child.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    child.communicate()
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npy")}
    assert len(kept) < 6  # 3 fields and 3 frames make a whole set
    again = paper_set(Z6, SMALL, tmp_path, FEW)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    np.testing.assert_array_equal(again.train.intensity, small_set.train.intensity)


def test_a_truncated_write_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = SimulatedCulture(side_px=256)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(np, "save", full)
        with pytest.raises(OSError, match="no space"):
            phase_field(tiny, "test", 0, tmp_path)
    assert not list(tmp_path.glob("*.npy"))
    assert phase_field(tiny, "test", 0, tmp_path).inner.shape == (256, 256)


@pytest.mark.real_data
def test_measured_phase_is_split_by_file(tmp_path: Path) -> None:
    folder = SHARED / "data" / "qpi_cells"
    if not folder.is_dir():
        pytest.skip(f"the measured data set is absent ({folder})")
    source = MeasuredPhase(folder)
    names = [{path.stem for path in source.files(split)} for split in SPLITS]
    assert not names[0] & names[1]
    assert not (names[0] | names[1]) & names[2]
    one = paper_set(Z6, source, tmp_path)
    assert (len(one.validation), len(one.test)) == (80, 100)
    frame, phase = one.test_field(0)
    assert (frame.shape, phase.shape) == ((136, 136), (544, 544))
    assert np.ptp(one.test.phase_rad.astype(np.float32), axis=(1, 2)).min() > 0.5


def test_fields_of_older_code_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a measured field becomes is decided by code, which its file on disk says nothing of."""
    for seed, name in enumerate(("dense_001", "dense_003", "dense_004", "dense_008")):
        phase = np.random.default_rng(seed).normal(0, 0.2, (336, 336)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", phase_rad=phase, labels=np.zeros(phase.shape, np.uint16), pixel_um=0.65)
    source, cache = MeasuredPhase(tmp_path), tmp_path / "cache"
    # The processes of old and new code each begin with an empty memory.
    monkeypatch.setattr(paper_fields, "_PIXELS", {})
    old = PaperSet(Z6, source, cache).test_field(0)
    measured_field = paper_fields.measured_field
    monkeypatch.setattr(paper_fields, "measured_field", lambda path: measured_field(path) + np.float32(0.25))
    monkeypatch.setattr(paper_fields, "_PIXELS", {})
    frame, phase = PaperSet(Z6, source, cache).test_field(0)
    np.testing.assert_allclose(phase, old[1] + 0.25, atol=2e-3)
    # A constant phase changes no light, and the noise is the same: a seed does not follow the pixels.
    np.testing.assert_allclose(frame, old[0], atol=2e-3)
    assert len(list(cache.glob("field-*.npy"))) == len(list(cache.glob("frame-*.npy"))) == 2


def test_a_missing_measured_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"has no dense_004\.npz"):
        MeasuredPhase(tmp_path).files("train")
