"""Pairs of a low-resolution intensity patch and its high-resolution phase, made once and stored.

The optics of each pair are drawn once and stored with it; the camera's part is drawn anew whenever a pair is used
(``batches``), so a stored pair never looks the same twice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from livephase.files import replace
from livephase.training.pair_sources import SCALE, sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from livephase.training.recipe import Recipe

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
