"""Batches for the training loop: stored pairs, or fields that the forward model images anew for every batch.

What the camera adds is drawn for every use of a pair: noise, quantisation, residual shading, the level that the frame
is divided by, and one of the eight symmetries of the square. ``GeneratedBatches`` draws the optics and the patch as
well; on a GPU that takes less time than the network does, and no pair comes twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from array_api_compat import array_namespace, device
from torch import Tensor

from livephase.phase.modelfile import INPUT_GAIN
from livephase.training.fields import background_texture
from livephase.training.pair_sources import MARGIN_HR_PX, SCALE, draw_setup, field_of, told
from livephase.training.patches import SYMMETRIES, symmetric
from livephase_devices.optics import bin_pixels, intensity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.training.pairs import Pairs
    from livephase.training.recipe import OpticsPart, Recipe

Array = Any
"""A numpy array or a torch tensor."""

_FULL_RANGE_COUNTS = 255
_LEVEL = 0.6


class Batches(Protocol):
    """A source of batches."""

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ``count`` pairs.

        Returns
        -------
        inputs : Tensor
            (N, 1, H, W) float32 network input.
        conditions : Tensor
            (N, 3) float32; in some of them S is not known.
        phase_rad : Tensor
            (N, 1, 4H, 4W) float32.
        """
        ...


class StoredBatches:
    """Batches of stored pairs.

    Parameters
    ----------
    pairs : Pairs
        From ``pairs.make_pairs``.
    optics : OpticsPart
        Noise and shading are drawn from its ranges.
    device : torch.device
        Where the batches are put.
    """

    def __init__(self, pairs: Pairs, optics: OpticsPart, device: torch.device) -> None:
        self._pairs, self._optics, self._device = pairs, optics, device

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch; see ``Batches.draw``."""
        pairs = self._pairs
        chosen = rng.integers(0, len(pairs), count)
        inputs: list[Array] = []
        targets: list[Array] = []
        for index in chosen:
            symmetry = int(rng.integers(SYMMETRIES))
            frame, phase = (symmetric(one[index], symmetry) for one in (pairs.intensity, pairs.phase_rad))
            if pairs.recorded[index]:
                inputs.append(network_input(frame))
            else:
                noise = rng.standard_normal(frame.shape, dtype=np.float32)
                inputs.append(expose(frame, float(pairs.level[index]), noise, self._optics, rng))
            targets.append(phase.astype(np.float32))
        conditions = hide_coherence(pairs.conditions[chosen], self._optics, rng)
        arrays = (np.stack(inputs)[:, None], conditions, np.stack(targets)[:, None])
        frames, known, truth = (torch.from_numpy(array).to(self._device) for array in arrays)
        return frames, known, truth


class GeneratedBatches:
    """Batches that the forward model makes on the network's own device.

    Parameters
    ----------
    recipe : Recipe
        Its data and optics.
    device : torch.device
        Where the fields lie and the model runs.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self._recipe, self._device = recipe, device
        fields = [field_of(recipe, index) for index in range(recipe.data.simulated_fields)]
        self._simulated = [torch.from_numpy(field).to(device) for field in fields]
        real = recipe.real_fields()
        self._real = [torch.from_numpy(field).to(device) for field in real]
        self._noise = torch.Generator(device)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch; see ``Batches.draw``."""
        self._noise.manual_seed(int(rng.integers(2**62)))
        drawn = [self._one(rng) for _ in range(count)]
        inputs, conditions, targets = zip(*drawn, strict=True)
        known = torch.from_numpy(hide_coherence(np.stack(conditions), self._recipe.optics, rng)).to(self._device)
        return torch.stack(inputs)[:, None], known, torch.stack(targets)[:, None]

    def _one(self, rng: np.random.Generator) -> tuple[Tensor, NDArray[np.float32], Tensor]:
        data, optics = self._recipe.data, self._recipe.optics
        hr, size = data.patch_lr_px * SCALE, data.patch_lr_px * SCALE + 2 * MARGIN_HR_PX
        simulated = len(self._simulated) * data.pairs_for_each_field
        from_real = bool(self._real) and rng.uniform() * (simulated + data.real_pairs) >= simulated
        fields = self._real if from_real else self._simulated
        field = fields[int(rng.integers(len(fields)))]
        row, column = (int(rng.integers(side - size + 1)) for side in field.shape)
        patch = field[row : row + size, column : column + size]
        thickness = float(rng.uniform(0.7, 1.3)) if from_real else 1.0
        patch = patch * thickness
        if not from_real and rng.uniform() < 0.5:
            white = torch.randn(patch.shape, generator=self._noise, device=self._device)
            pixel_um = sum(optics.hr_pixel_um) / 2
            patch = patch + float(data.background_rad * rng.uniform()) * background_texture(white, pixel_um, rng)
        setup, defocus_um, kappa = draw_setup(rng, optics)
        image = intensity(patch, setup, defocus_um, kappa, rotation_rad=rng.uniform(0, 2 * np.pi))
        inner = slice(MARGIN_HR_PX, MARGIN_HR_PX + hr)
        level = float(torch.exp(-2 * kappa * thickness * field).mean())
        symmetry = int(rng.integers(SYMMETRIES))
        frame = symmetric(bin_pixels(image[inner, inner], SCALE), symmetry)
        noise = torch.randn(frame.shape, generator=self._noise, device=self._device)
        return (
            expose(frame, level, noise, optics, rng),
            told(setup, defocus_um),
            symmetric(patch[inner, inner], symmetry),
        )


def network_input(frame: Array) -> Array:
    """Turn relative intensity (level 1) into what the network sees."""
    return (frame - 1) * INPUT_GAIN


def expose(frame: Array, level: float, noise: Array, optics: OpticsPart, rng: np.random.Generator) -> Array:
    """Add what camera and flat-fielding add.

    Parameters
    ----------
    frame : Array
        (H, W) float32 noise-free intensity, 1 for an empty field.
    level : float
        Mean intensity of the whole field that the patch was cut from.
    noise : Array
        (H, W) normal noise of sd 1.
    optics : OpticsPart
        Ranges of noise and shading.
    rng : numpy.random.Generator
        Draws them.

    Returns
    -------
    Array
        (H, W) network input.
    """
    xp = array_namespace(frame)
    axis = xp.linspace(-1, 1, frame.shape[0], dtype=xp.float32, device=device(frame))
    c = (rng.uniform(-0.5, 0.5, 5) * optics.shading).tolist()
    shade = c[0] * axis[:, None] + c[1] * axis[None] + c[2] * axis[:, None] ** 2 + c[3] * axis[None] ** 2
    frame = frame * (1 + shade + 0.25 * c[4])
    # A camera has no reference for an empty field. A frame is divided by its own mean, which is the level of an
    # empty field in a sparse culture and that of the cells in a closed layer; flat-fielding ends in between.
    share = 1.0 if rng.uniform() < 0.6 else rng.uniform()
    frame = frame / (1 + share * (level - 1))
    frame = frame + float(np.exp(rng.uniform(*np.log(optics.noise_sd)))) * noise
    counts = xp.round(frame * (_LEVEL * _FULL_RANGE_COUNTS))
    return network_input(counts / (_LEVEL * _FULL_RANGE_COUNTS))


def hide_coherence(
    conditions: NDArray[np.float32], optics: OpticsPart, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Make S unknown in a share of the conditions (N, 3)."""
    conditions = conditions.copy()
    conditions[rng.uniform(size=len(conditions)) < optics.coherence_unknown, 1:] = 0
    return conditions
