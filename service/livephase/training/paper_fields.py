"""High-resolution phase fields of the paper's datasets: simulated culture and measured cells, split by field.

A field carries a margin around it, because propagation is periodic and a culture is not: light that leaves one side
comes in on the other within the margin only. Phase is kept in float16, and the rounded phase is what the light passes
through, so a label is exactly the phase behind its frame.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np

from livephase.errors import ConfigurationError
from livephase.files import replace
from livephase.training.fields import measured_field
from livephase_devices.twin.specimen import Specimen

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, Split, Split]] = ("train", "validation", "test")

SIDE_MULTIPLE_PX = 32
"""A field's sides are multiples of this: 4 x 4 binning, then the three halvings of a network."""
_MARGIN_PX = 56
"""At 0.65 um four times the reach of the light at z = 13 um; 2048 + 2 x 56 = 2160 = 2^4 3^3 5 transforms fast."""
_LEAST_MARGIN_PX = 24
_SEED_BASE = 5_000_000_000
"""Other uses of the simulated culture take seeds below it, so no network has seen these fields elsewhere."""
_COVERAGE = (0.15, 0.8)
_SPREAD_UM2_PER_PG = (1.0, 3.2)
_AGE_H = (3.0, 12.0)
_TYPICAL_MASS_PG = 240.0

_PIXELS: dict[tuple[Path, str], str] = {}
"""What this process has found of each measured field: a dozen names ask for it for every frame."""

HELD_BACK_FILES = ("dense_003", "dense_008")
"""The measured fields that no shipped model was trained on."""


@dataclass(frozen=True, slots=True)
class PhaseField:
    """One phase field.

    Attributes
    ----------
    phase_rad : NDArray[float16]
        (Y + 2 M, X + 2 M) radians on the HR grid, the margin M included.
    margin_px : int
        M; the field itself is ``phase_rad[M:-M, M:-M]``, and Y and X are multiples of ``SIDE_MULTIPLE_PX``.
    """

    phase_rad: NDArray[np.float16]
    margin_px: int

    @property
    def inner(self) -> NDArray[np.float16]:
        """The field without its margin, (Y, X)."""
        m = self.margin_px
        return self.phase_rad[m:-m, m:-m]


@dataclass(frozen=True, slots=True)
class SimulatedCulture:
    """Fields of the simulated culture, as wide as the paper's: 2048 pixels of 0.65 um, 1.77 mm2.

    The fields of a split lie at even steps over the range of confluence, so that each split has sparse and dense ones.

    Attributes
    ----------
    seed : int
        Chooses all fields; those of different splits or seeds are different cultures.
    train_fields, validation_fields, test_fields : int
        Number of fields in a split. The defaults hold the paper's 1300 / 80 / 100 patches.
    side_px : int
        Side of a field in HR pixels, a multiple of ``SIDE_MULTIPLE_PX``.
    stride_px : int
        Step of the patch grid in HR pixels.
    """

    seed: int = 1
    train_fields: int = 3
    validation_fields: int = 2
    test_fields: int = 2
    side_px: int = 2048
    stride_px: int = 256

    def count(self, split: Split) -> int:
        """Number of fields in a split."""
        return {"train": self.train_fields, "validation": self.validation_fields, "test": self.test_fields}[split]

    def identity(self, split: Split, index: int) -> str:
        """Which field it is, as text; what is drawn for it, noise and patches, is seeded with this."""
        fixed = [_MARGIN_PX, _COVERAGE, _SPREAD_UM2_PER_PG, _AGE_H, version("livephase")]
        return json.dumps([self.seed, split, index, self.count(split), self.side_px, fixed])

    def kept_as(self, split: Split, index: int) -> str:
        """Text that files made of a field are named by."""
        return self.identity(split, index)

    def render(self, split: Split, index: int) -> PhaseField:
        """Make a field."""
        rng = np.random.default_rng([self.seed, SPLITS.index(split), index, 0xFA9E])
        low, high = _COVERAGE
        coverage = low * (high / low) ** ((index + 0.5) / self.count(split))
        spread = float(rng.uniform(*_SPREAD_UM2_PER_PG))
        side = self.side_px + 2 * _MARGIN_PX
        specimen = Specimen(
            seed=_SEED_BASE + 1000 * self.seed + 100 * SPLITS.index(split) + index,
            shape=(side, side),
            density_per_mm2=coverage * 1e6 / (_TYPICAL_MASS_PG * spread),
            spread_um2_per_pg=spread,
        )
        phase = specimen.phase_rad(float(rng.uniform(*_AGE_H)) * 3600)
        return PhaseField(phase.astype(np.float16), _MARGIN_PX)


@dataclass(frozen=True, slots=True)
class MeasuredPhase:
    """Measured phase images (``qpi_cells``), split by file; they are taken to lie on the 0.65 um grid.

    Attributes
    ----------
    folder : Path
        Holds the ``.npz`` files; those in neither list train.
    validation, test : tuple of str
        File names without suffix.
    stride_px : int
        Step of the patch grid in HR pixels. Patches of one file overlap, which makes the paper's numbers of few
        files; a file is in one split only.
    """

    folder: Path
    validation: tuple[str, ...] = ("dense_004",)
    test: tuple[str, ...] = HELD_BACK_FILES
    stride_px: int = 32

    def files(self, split: Split) -> list[Path]:
        """List the files of a split.

        Raises
        ------
        ConfigurationError
            A named file is not there, or none is left to train.
        """
        there = {path.stem: path for path in sorted(self.folder.glob("*.npz"))}
        named = self.validation + self.test
        if missing := [name for name in named if name not in there]:
            raise ConfigurationError(f"{self.folder} has no {missing[0]}.npz; see docs/data.md")
        training = [name for name in there if name not in named]
        if not training:
            raise ConfigurationError(f"{self.folder} has no file left to train on beside those held back")
        names = {"train": training, "validation": self.validation, "test": self.test}[split]
        return [there[name] for name in names]

    def count(self, split: Split) -> int:
        """Number of fields in a split."""
        return len(self.files(split))

    def identity(self, split: Split, index: int) -> str:
        """Which field it is, as text; what is drawn for it, noise and patches, is seeded with this."""
        content = hashlib.sha256(self.files(split)[index].read_bytes()).hexdigest()
        return json.dumps([content, _LEAST_MARGIN_PX, version("livephase")])

    def kept_as(self, split: Split, index: int) -> str:
        """Text that files made of a field are named by: its pixels are part of it, as the code that makes them changes.

        Seeds do not depend on the pixels, whose last digits may differ between processors.
        """
        identity = self.identity(split, index)
        path = self.files(split)[index]
        if (path, identity) not in _PIXELS:
            made = self.render(split, index)
            digest = hashlib.sha256(np.ascontiguousarray(made.phase_rad).tobytes()).hexdigest()
            _PIXELS[path, identity] = json.dumps([digest, made.phase_rad.shape, made.margin_px])
        return identity + _PIXELS[path, identity]

    def render(self, split: Split, index: int) -> PhaseField:
        """Read a field and cut it to a whole number of network strides."""
        phase = measured_field(self.files(split)[index])
        inner = [(side - 2 * _LEAST_MARGIN_PX) // SIDE_MULTIPLE_PX * SIDE_MULTIPLE_PX for side in phase.shape]
        margin = min((side - kept) // 2 for side, kept in zip(phase.shape, inner, strict=True))
        return PhaseField(phase[: inner[0] + 2 * margin, : inner[1] + 2 * margin].astype(np.float16), margin)


Source = SimulatedCulture | MeasuredPhase


def source_digests(source: Source) -> tuple[str, str]:
    """SHA-256 of all fields of a source and their patch grid: for seeds, and for the names of files."""
    fields: list[tuple[Split, int]] = [(split, index) for split in SPLITS for index in range(source.count(split))]
    seeds, names = (
        hashlib.sha256(json.dumps([source.stride_px, *parts]).encode()).hexdigest()
        for parts in (
            [source.identity(split, index) for split, index in fields],
            [source.kept_as(split, index) for split, index in fields],
        )
    )
    return seeds, names


def describe_source(source: Source) -> dict[str, object]:
    """JSON-ready description for provenance, without folders."""
    if isinstance(source, SimulatedCulture):
        return {"kind": "simulated culture", **asdict(source)}
    return {"kind": "measured phase", **{split: [path.stem for path in source.files(split)] for split in SPLITS}}


def phase_field(source: Source, split: Split, index: int, cache: Path) -> PhaseField:
    """Return a field, made once and kept as a file.

    Parameters
    ----------
    source : Source
        Where phase comes from.
    split : {"train", "validation", "test"}
        Which part.
    index : int
        From 0 to ``source.count(split) - 1``.
    cache : Path
        Folder of the file ``field-DIGEST.npy``.

    Returns
    -------
    PhaseField
        Mapped from the file, read-only.

    Raises
    ------
    IndexError
        The split has no such field.
    ConfigurationError
        A measured file is missing.
    """
    if not 0 <= index < source.count(split):
        raise IndexError(f"the {split} split has {source.count(split)} fields, no field {index}")
    digest = hashlib.sha256(source.kept_as(split, index).encode()).hexdigest()
    path = cache / f"field-{digest[:16]}.npy"
    if not path.exists():
        made = source.render(split, index)
        # The margin travels in a first row of its own: one file, one rename, no half-written pair.
        head = np.zeros((1, made.phase_rad.shape[1]), np.float16)
        head[0, 0] = made.margin_px
        save_array(path, np.concatenate([head, made.phase_rad]))
    stored = cast("NDArray[np.float16]", np.load(path, mmap_mode="r", allow_pickle=False))
    return PhaseField(stored[1:], int(stored[0, 0]))


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an ``.npy`` file that is either whole or not there, also after a kill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    replace(partial, path)
