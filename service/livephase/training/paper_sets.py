"""The paper's simulated datasets (Zhou et al. 2023, section 2.2): 13 defocus sets and 5 coherence sets.

::

    phase 2048^2 ─ angular spectrum, Abbe sum (eq. 1, 2) ─ noise sd 0.01 ─ 4 x 4 binning ─ frame 512^2
        └──────────────── patches 256^2 with edges in them ──────────────── the same patches, 64^2

``paper_specs`` lists the sets and takes the frames, ``paper_fields`` gives the phase.

Two things differ from the paper on purpose. The splits are made of different fields, so no test pixel was seen in
training; the paper draws from one pool of augmented patches. Only training patches are mirrored and rotated: the 80
and 100 others are all different. The division is the same for every set of a source.

Phase fields and frames are made when they are first needed and kept, one file each, so a killed build goes on where
it stopped.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from livephase.errors import ConfigurationError
from livephase.training.paper_fields import SPLITS, Source, Split, phase_field, save_array, source_digests
from livephase.training.paper_specs import HR_PIXEL_UM, SCALE, SetSpec, expose
from livephase.training.patches import (
    SYMMETRIES,
    SYMMETRY_NUMBERING,
    Patches,
    draw_augmented,
    edge_map,
    grid,
    occupied,
    symmetric,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PATCH_LR_PX = 64
PATCH_HR_PX = PATCH_LR_PX * SCALE


class Counts(NamedTuple):
    """Number of pairs in each split; the defaults are the paper's."""

    train: int = 1300
    validation: int = 80
    test: int = 100


PAPER_COUNTS = Counts()


@dataclass(frozen=True)
class PaperSet:
    """One dataset. A split is read when it is first asked for: training takes about 190 MB, a test split 15 MB.

    Attributes
    ----------
    spec : SetSpec
        How its frames were made.
    source : Source
        Where its phase comes from.
    cache : Path
        Folder of its files.
    counts : Counts
        Pairs in each split.
    """

    spec: SetSpec
    source: Source
    cache: Path
    counts: Counts = PAPER_COUNTS

    @cached_property
    def train(self) -> Patches:
        """Training pairs, mirrored and rotated, in a fixed random order."""
        return self.cut("train")

    @cached_property
    def validation(self) -> Patches:
        """Validation pairs."""
        return self.cut("validation")

    @cached_property
    def test(self) -> Patches:
        """Test pairs."""
        return self.cut("test")

    def test_field(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a whole test field; the test patches are cut from these.

        Parameters
        ----------
        index : int
            From 0 to ``source.count("test") - 1``.

        Returns
        -------
        frame : NDArray[float32]
            (Y, X) relative intensity; 512 x 512 for the simulated culture.
        phase_rad : NDArray[float32]
            (4 Y, 4 X) radians.
        """
        phase = phase_field(self.source, "test", index, self.cache).inner.astype(np.float32)
        return _frame(self.spec, self.source, "test", index, self.cache), phase

    def cut(self, split: Split) -> Patches:
        """Read a split without keeping it."""
        chosen = _chosen(self.source, split, self.counts, self.cache)
        count, size = len(chosen), PATCH_HR_PX
        frames = np.empty((count, PATCH_LR_PX, PATCH_LR_PX), np.float32)
        phases = np.empty((count, size, size), np.float16)
        for index in np.unique(chosen[:, 0]):
            phase = phase_field(self.source, split, int(index), self.cache).inner
            frame = _frame(self.spec, self.source, split, int(index), self.cache)
            for slot in np.flatnonzero(chosen[:, 0] == index):
                row, column, symmetry = (int(value) for value in chosen[slot, 1:])
                phases[slot] = symmetric(phase[row : row + size, column : column + size], symmetry)
                row, column = row // SCALE, column // SCALE
                frames[slot] = symmetric(frame[row : row + PATCH_LR_PX, column : column + PATCH_LR_PX], symmetry)
        return Patches(frames, phases, chosen[:, 0], chosen[:, 1:3], chosen[:, 3])


def paper_set(
    spec: SetSpec,
    source: Source,
    cache: Path,
    counts: Counts = PAPER_COUNTS,
    progress: Callable[[int, int], None] | None = None,
) -> PaperSet:
    """Make one of the paper's datasets, or find it made.

    Parameters
    ----------
    spec : SetSpec
        One of ``DEFOCUS_SETS``, ``COHERENCE_SETS`` or another.
    source : SimulatedCulture or MeasuredPhase
        Where phase comes from.
    cache : Path
        Folder for the fields and frames; sets of one source share their fields.
    counts : Counts
        Pairs in each split.
    progress : callable, optional
        Called with (frames done, frames in all).

    Returns
    -------
    PaperSet
        All of its frames are on disk.

    Raises
    ------
    ConfigurationError
        The source has too few patches that are not empty, or a measured file is missing.
    """
    for split in SPLITS:
        _chosen(source, split, counts, cache)
    fields: list[tuple[Split, int]] = [(split, index) for split in SPLITS for index in range(source.count(split))]
    for done, (split, index) in enumerate(fields):
        _frame(spec, source, split, index, cache)
        if progress:
            progress(done + 1, len(fields))
    return PaperSet(spec, source, cache, counts)


def adaptive_training(sets: Sequence[PaperSet], each: int = 100) -> tuple[Patches, NDArray[np.int64]]:
    """Training pairs of the paper's defocus-adaptive network (section 3.2): ``each`` from every set.

    Parameters
    ----------
    sets : sequence of PaperSet
        The 13 defocus sets of one source.
    each : int
        Pairs from one set; set i gives its pairs number i x ``each`` and following, so that no phase comes twice
        while there are enough.

    Returns
    -------
    patches : Patches
        (each x len(sets)) pairs.
    set_index : NDArray[int64]
        (N,) which set a pair comes from.
    """
    parts: list[Patches] = []
    for number, one in enumerate(sets):
        train = one.cut("train")  # not kept: 13 whole training splits are 2.5 GB
        take = (np.arange(each) + number * each) % len(train)
        parts.append(
            Patches(
                train.intensity[take],
                train.phase_rad[take],
                train.field[take],
                train.corner_px[take],
                train.symmetry[take],
            )
        )
    joined = Patches(
        np.concatenate([part.intensity for part in parts]),
        np.concatenate([part.phase_rad for part in parts]),
        np.concatenate([part.field for part in parts]),
        np.concatenate([part.corner_px for part in parts]),
        np.concatenate([part.symmetry for part in parts]),
    )
    return joined, np.repeat(np.arange(len(sets)), each)


def _frame(spec: SetSpec, source: Source, split: Split, index: int, cache: Path) -> NDArray[np.float32]:
    """Return the camera frame (Y, X) of one field, made once and kept as a file."""
    path = cache / f"frame-{_sha256(f'{source.kept_as(split, index)} {spec.digest}')[:16]}.npy"
    if not path.exists():
        field = phase_field(source, split, index, cache)
        rng = np.random.default_rng(int(_sha256(f"{source.identity(split, index)} {spec.digest}"), 16))
        save_array(path, expose(field.phase_rad.astype(np.float32), field.margin_px, spec, rng))
    return cast("NDArray[np.float32]", np.load(path, allow_pickle=False))


def _chosen(source: Source, split: Split, counts: Counts, cache: Path) -> NDArray[np.int64]:
    """Choose the patches of a split: (N, 4) field, row, column, symmetry; the same for all sets of a source.

    Only the fields of that split are made: an evaluation needs none of those that train.
    """
    seeds, names = source_digests(source)
    rest = [list(counts), PATCH_HR_PX, split]
    # What is drawn does not depend on how symmetries are numbered; only training patches have any.
    kept_as = json.dumps([names, *rest]) + (SYMMETRY_NUMBERING if split == "train" else "")
    path = cache / f"division-{_sha256(kept_as)[:16]}.npy"
    if not path.exists():
        rng = np.random.default_rng(int(_sha256(json.dumps([seeds, *rest])), 16))
        save_array(path, _choose(source, split, getattr(counts, split), cache, rng))
    return cast("NDArray[np.int64]", np.load(path, allow_pickle=False))


def _choose(source: Source, split: Split, count: int, cache: Path, rng: np.random.Generator) -> NDArray[np.int64]:
    found: list[NDArray[np.int64]] = []
    for index in range(source.count(split)):
        phase = phase_field(source, split, index, cache).inner
        corners = grid((phase.shape[0], phase.shape[1]), PATCH_HR_PX, source.stride_px)
        corners = corners[occupied(edge_map(phase, HR_PIXEL_UM), corners, PATCH_HR_PX)]
        found.append(np.insert(corners, 0, index, axis=1))
    patches = np.concatenate(found)
    unique = -(-count // SYMMETRIES) if split == "train" else count
    if len(patches) < unique:
        msg = (
            f"the {split} split needs {unique} patches that are not empty and its {source.count(split)} fields have "
            f"{len(patches)}; give the source more fields, or ask for fewer pairs"
        )
        raise ConfigurationError(msg)
    patches = patches[rng.permutation(len(patches))[:unique]]
    if split != "train":
        return np.append(patches, np.zeros((count, 1), np.int64), axis=1)
    drawn = draw_augmented(unique, count, rng)
    return np.append(patches[drawn[:, 0]], drawn[:, 1:], axis=1)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
