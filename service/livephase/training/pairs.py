"""Pairs of a low-resolution intensity patch and its high-resolution phase, made by the forward model.

The optics of each pair are drawn once and stored with it; noise, quantisation, shading and the eight symmetries of
the square are drawn anew each time a pair is used, so a stored pair never looks the same twice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from livephase.files import replace
from livephase.phase.modelfile import INPUT_GAIN
from livephase.training.pair_sources import SCALE, sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from livephase.training.recipe import OpticsPart, Recipe

_FULL_RANGE_COUNTS = 255
_LEVEL = 0.6

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pairs:
    """A set of pairs.

    Attributes
    ----------
    intensity : NDArray[float32]
        (N, H, W) noise-free intensity, 1 for an empty field.
    phase_rad : NDArray[float16]
        (N, 4H, 4W).
    conditions : NDArray[float32]
        (N, 3), ``Conditions.vector`` of each.
    level : NDArray[float32]
        (N,) mean intensity of the whole field that the patch was cut from; below 1 where cells absorb.
    recorded : NDArray[bool]
        (N,) True where the frame is as a camera gave it, noise and level included; it is only turned and mirrored.
    """

    intensity: Floats
    phase_rad: NDArray[np.float16]
    conditions: Floats
    level: Floats
    recorded: NDArray[np.bool_]

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.intensity)


def make_pairs(recipe: Recipe, cache: Path, progress: Callable[[int, int], None] | None = None) -> Pairs:
    """Make the training pairs of a recipe, or read them back if they were made before.

    Parameters
    ----------
    recipe : Recipe
        Its ``data`` and ``optics`` parts decide.
    cache : Path
        Folder; the file's name carries the digest of what the pairs depend on.
    progress : callable, optional
        Called with (pairs done, pairs in all).

    Returns
    -------
    Pairs
        In a fixed order.
    """
    path = cache / f"pairs-{recipe.data_digest[:16]}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as archive:
            return Pairs(**{field.name: archive[field.name] for field in fields(Pairs)})
    found = sources(recipe, cache)
    total = sum(count for count, _ in found)
    lr, hr = recipe.data.patch_lr_px, recipe.data.patch_lr_px * SCALE
    pairs = Pairs(
        np.empty((total, lr, lr), np.float32),
        np.empty((total, hr, hr), np.float16),
        np.empty((total, 3), np.float32),
        np.empty(total, np.float32),
        np.zeros(total, np.bool_),
    )
    for index, pair in enumerate(chain.from_iterable(source for _, source in found)):
        for field, value in zip(fields(Pairs), pair, strict=True):
            getattr(pairs, field.name)[index] = value
        if progress:
            progress(index + 1, total)
    cache.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **{field.name: getattr(pairs, field.name) for field in fields(Pairs)})
    replace(partial, path)
    return pairs


def network_input(frame: Floats) -> Floats:
    """Turn relative intensity (level 1) into what the network sees."""
    return (frame - 1) * np.float32(INPUT_GAIN)


def draw_batch(pairs: Pairs, optics: OpticsPart, count: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Draw a batch with fresh noise, quantisation, shading and symmetry.

    Returns
    -------
    inputs : NDArray[float32]
        (N, 1, H, W) network input.
    conditions : NDArray[float32]
        (N, 3); in some of them S is not known.
    phase_rad : NDArray[float32]
        (N, 1, 4H, 4W).
    """
    chosen = rng.integers(0, len(pairs), count)
    lr = pairs.intensity.shape[-1]
    axis = np.linspace(-1, 1, lr, dtype=np.float32)
    inputs = np.empty((count, 1, lr, lr), np.float32)
    targets = np.empty((count, 1, lr * SCALE, lr * SCALE), np.float32)
    for slot, index in enumerate(chosen):
        turns, mirror = int(rng.integers(4)), rng.integers(2)
        frame, phase = np.rot90(pairs.intensity[index], turns), np.rot90(pairs.phase_rad[index], turns)
        if mirror:
            frame, phase = frame[:, ::-1], phase[:, ::-1]
        targets[slot, 0] = phase
        if pairs.recorded[index]:
            inputs[slot, 0] = network_input(frame)
            continue
        c = rng.uniform(-0.5, 0.5, 5).astype(np.float32) * optics.shading
        shade = c[0] * axis[:, None] + c[1] * axis[None] + c[2] * axis[:, None] ** 2 + c[3] * axis[None] ** 2
        frame = frame * (1 + shade + 0.25 * c[4])
        # A camera has no reference for an empty field. A frame is divided by its own mean, which is the level of an
        # empty field in a sparse culture and that of the cells in a closed layer; flat-fielding ends in between.
        share = 1.0 if rng.uniform() < 0.6 else rng.uniform()
        frame = frame / np.float32(1 + share * (pairs.level[index] - 1))
        noise_sd = np.exp(rng.uniform(*np.log(optics.noise_sd)))
        frame = frame + np.float32(noise_sd) * rng.standard_normal(frame.shape, dtype=np.float32)
        counts = np.rint(frame * (_LEVEL * _FULL_RANGE_COUNTS))
        inputs[slot, 0] = network_input(counts / np.float32(_LEVEL * _FULL_RANGE_COUNTS))
    conditions = pairs.conditions[chosen]
    conditions[rng.uniform(size=count) < optics.coherence_unknown, 1:] = 0
    return inputs, conditions, targets
