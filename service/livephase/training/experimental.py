"""The paper's experimental dataset (Zhou et al. 2023, section 2.2): TIE labels of measured frames, 128 -> 512 patches.

::

    frames R ─ C = R mean(S) / mean(R) ─┬─ focus + defocus ─ TIE ─▶ label 512^2
                                        └─ defocus ─ 4 x 4 binning ─▶ input 128^2

The TIE label of a whole field is solved at once, so the label of one half depends weakly on the light of the other;
the input pixels of the splits are disjoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from livephase.errors import ConfigurationError
from livephase.phase.illumination import erode, find_field_stop
from livephase.phase.tie import solve_tie
from livephase.training.patches import Patches, draw_augmented, edge_map, grid, occupied, symmetric
from livephase_devices.optics import bin_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

SCALE = 4
PATCH_LR_PX = 128
TRAIN_PAIRS, VALIDATION_PAIRS, TEST_PAIRS = 400, 8, 25
"""The paper's division of 433 pairs."""
_STRIDE_LR_PX = 32
_STOP_MARGIN_PX = 12

Image = NDArray[Any]
Region = tuple[slice, slice]
"""Rows and columns in LR pixels."""


@dataclass(frozen=True, slots=True)
class LabelledField:
    """A measured field: the low-resolution frame that a network sees, and the phase that it should give.

    Attributes
    ----------
    name : str
        Of the field of view; fields of one name show the same specimen and are never divided between splits.
    intensity : NDArray[float32]
        (Y, X) relative intensity, mean 1 over the lit part.
    phase_rad : NDArray[float32]
        (4 Y, 4 X) radians; its zero is arbitrary, as always with TIE.
    valid : NDArray[bool] or None
        (Y, X), False behind a field stop; None where all of it is lit.
    defocus_um, wavelength_um, lr_pixel_um : float
        Conditions of the frame.
    coherence : float
        S.
    """

    name: str
    intensity: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    valid: NDArray[np.bool_] | None
    defocus_um: float
    wavelength_um: float
    lr_pixel_um: float
    coherence: float


@dataclass(frozen=True, slots=True)
class PlanePair:
    """Two high-resolution frames of one field.

    Attributes
    ----------
    name : str
        Of the field of view.
    in_focus, defocused : NDArray
        (Y, X) counts at z = 0 and z = ``defocus_um``.
    defocus_um : float
        Positive = the lens focuses above the specimen.
    """

    name: str
    in_focus: Image
    defocused: Image
    defocus_um: float


@dataclass(frozen=True, slots=True)
class ExperimentalSet:
    """Pairs of the three splits; ``Patches.field`` is an index into ``fields``."""

    fields: tuple[LabelledField, ...]
    train: Patches
    validation: Patches
    test: Patches


def brightness_correction(frames: Sequence[Image]) -> list[NDArray[np.float32]]:
    """Scale every frame to the average brightness of all: C_ij = R_ij mean(S) / mean(R).

    Parameters
    ----------
    frames : sequence of NDArray
        (Y, X) counts, all frames of a dataset.

    Returns
    -------
    list of NDArray[float32]
        In the same order; all have the same mean, which is the mean over the frames' means.

    Raises
    ------
    ConfigurationError
        A frame has no light.
    """
    means = [float(np.mean(frame, dtype=np.float64)) for frame in frames]
    if means and min(means) <= 0:
        raise ConfigurationError(f"frame {int(np.argmin(means))} of the dataset has no light; leave it out")
    level = float(np.mean(means))
    return [(frame * np.float64(level / mean)).astype(np.float32) for frame, mean in zip(frames, means, strict=True)]


def label_pairs(
    pairs: Sequence[PlanePair], pixel_um: float, wavelength_um: float, coherence: float
) -> list[LabelledField]:
    """Make labelled fields of plane pairs as the paper does: brightness, TIE, binning.

    Parameters
    ----------
    pairs : sequence of PlanePair
        All frames of the dataset; the brightness correction is over all of them.
    pixel_um : float
        Pixel of the frames at the specimen, the HR pixel.
    wavelength_um : float
        Centre wavelength.
    coherence : float
        S of the illumination.

    Returns
    -------
    list of LabelledField
        In the same order; sides cut to multiples of 4 HR pixels.

    Raises
    ------
    ConfigurationError
        A frame has no light, or the two planes of a pair do not fit.
    """
    corrected = brightness_correction([frame for pair in pairs for frame in (pair.in_focus, pair.defocused)])
    labelled: list[LabelledField] = []
    for index, pair in enumerate(pairs):
        in_focus, defocused = corrected[2 * index], corrected[2 * index + 1]
        try:
            phase = solve_tie(in_focus, defocused, pair.defocus_um, pixel_um, wavelength_um)
        except ValueError as error:
            raise ConfigurationError(f"field {pair.name}: {error}") from error
        rows, columns = (side // SCALE * SCALE for side in phase.shape)
        frame = bin_pixels(defocused[:rows, :columns], SCALE)
        lit = find_field_stop(in_focus[:rows, :columns])
        valid: NDArray[np.bool_] | None = None
        if lit is not None:
            inside = erode(lit, _STOP_MARGIN_PX)
            valid = bin_pixels(inside.astype(np.float32), SCALE) == 1
        frame = frame / (frame.mean() if valid is None else frame[valid].mean())
        labelled.append(
            LabelledField(
                pair.name,
                frame.astype(np.float32),
                phase[:rows, :columns],
                valid,
                pair.defocus_um,
                wavelength_um,
                pixel_um * SCALE,
                coherence,
            )
        )
    return labelled


def experimental_set(
    fields: Sequence[LabelledField],
    division: Literal["field", "half"],
    *,
    seed: int = 1,
    patch_lr_px: int = PATCH_LR_PX,
    counts: tuple[int, int, int] = (TRAIN_PAIRS, VALIDATION_PAIRS, TEST_PAIRS),
) -> ExperimentalSet:
    """Cut pairs of patches; those that train are mirrored and rotated.

    Parameters
    ----------
    fields : sequence of LabelledField
        Measured fields.
    division : {"field", "half"}
        ``"field"``: a field of view is in one split only; needs three. ``"half"``: the left half of each field
        trains, the upper third of its right half validates and the rest tests.
    seed : int
        Chooses fields, patches and symmetries.
    patch_lr_px : int
        Side of the input patch.
    counts : tuple of int
        Pairs for training, validation and test; fewer where the fields do not have as many.

    Returns
    -------
    ExperimentalSet
        ``phase_rad`` of a patch keeps the field's zero.

    Raises
    ------
    ConfigurationError
        A split stays empty: too few fields, or fields too small for the patch.
    """
    rng = np.random.default_rng([seed, 0xE9])
    if division == "field":
        regions = _whole_fields(fields, rng)
    else:
        regions = [[_part(field, part) for field in fields] for part in range(3)]
    splits: list[Patches] = []
    for split, (areas, count) in enumerate(zip(regions, counts, strict=True)):
        corners = [_corners(field, area, patch_lr_px) for field, area in zip(fields, areas, strict=True)]
        found = np.concatenate([np.insert(places, 0, index, axis=1) for index, places in enumerate(corners)])
        if not len(found):
            msg = (
                f"the {('training', 'validation', 'test')[split]} split has no patch of {patch_lr_px} x {patch_lr_px} "
                f"pixels with cells in it; give more or larger fields, or ask for smaller patches"
            )
            raise ConfigurationError(msg)
        if split == 0:
            drawn = draw_augmented(len(found), count, rng)
            chosen = np.append(found[drawn[:, 0]], drawn[:, 1:], axis=1)
        else:
            chosen = np.insert(found[rng.permutation(len(found))[:count]], 3, 0, axis=1)
        splits.append(_cut(fields, chosen, patch_lr_px))
    return ExperimentalSet(tuple(fields), *splits)


def _whole_fields(fields: Sequence[LabelledField], rng: np.random.Generator) -> list[list[Region | None]]:
    names = sorted({field.name for field in fields})
    if len(names) < 3:
        msg = f"{len(names)} fields of view cannot be divided into training, validation and test; divide them by half"
        raise ConfigurationError(msg)
    order = [names[i] for i in rng.permutation(len(names))]
    tests = max(1, round(len(names) * TEST_PAIRS / (TRAIN_PAIRS + VALIDATION_PAIRS + TEST_PAIRS)))
    split_of = {name: 2 if place < tests else int(place == tests) for place, name in enumerate(order)}
    whole = (slice(None), slice(None))
    return [[whole if split_of[field.name] == split else None for field in fields] for split in range(3)]


def _part(field: LabelledField, part: int) -> Region:
    rows, columns = field.intensity.shape
    if part == 0:
        return slice(0, rows), slice(0, columns // 2)
    third = rows // 3
    return (slice(0, third) if part == 1 else slice(third, rows)), slice(columns // 2, columns)


def _corners(field: LabelledField, area: Region | None, size: int) -> NDArray[np.int64]:
    """Corners (N, 2) in LR pixels of the patches in an area that are lit and not empty."""
    if area is None:
        return np.empty((0, 2), np.int64)
    (top, bottom, _), (left, right, _) = (
        part.indices(side) for part, side in zip(area, field.intensity.shape, strict=True)
    )
    corners = grid((bottom - top, right - left), size, min(_STRIDE_LR_PX, size // 2)) + np.array([top, left])
    if field.valid is not None:
        lit = [field.valid[row : row + size, column : column + size].all() for row, column in corners]
        corners = corners[np.array(lit, bool).reshape(-1)]
    edges = edge_map(field.phase_rad, field.lr_pixel_um / SCALE)
    return corners[occupied(edges, corners * SCALE, size * SCALE)]


def _cut(fields: Sequence[LabelledField], chosen: NDArray[np.int64], size: int) -> Patches:
    frames = np.empty((len(chosen), size, size), np.float32)
    phases = np.empty((len(chosen), size * SCALE, size * SCALE), np.float16)
    for slot, (index, row, column, symmetry) in enumerate(chosen.tolist()):
        field = fields[index]
        frames[slot] = symmetric(field.intensity[row : row + size, column : column + size], symmetry)
        top, left, side = row * SCALE, column * SCALE, size * SCALE
        phases[slot] = symmetric(field.phase_rad[top : top + side, left : left + side], symmetry)
    return Patches(frames, phases, chosen[:, 0], chosen[:, 1:3] * SCALE, chosen[:, 3])
