"""Sources of training pairs: simulated cultures, measured phase, measured objects and the paper's datasets.

Each source yields a stated number of pairs of one size; ``pairs.make_pairs`` collects them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from livephase.errors import ConfigurationError
from livephase.phase.conditions import Conditions
from livephase.training.collected import load_objects
from livephase.training.fields import background_texture, simulated_field
from livephase.training.paper_fields import SimulatedCulture
from livephase.training.paper_sets import adaptive_training, paper_set
from livephase.training.paper_specs import SetSpec
from livephase_devices.optics import OpticalSetup, bin_pixels, field_intensity, intensity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from livephase.training.measured import MeasuredObject
    from livephase.training.recipe import DataPart, OpticsPart, PaperPart, Recipe

SCALE = 4
MARGIN_HR_PX = 32
"""The patch is cut from a field this much larger: the propagation is periodic, a culture is not."""
_SIMULATED_SEED = 1_000_000
_RECORDED_SHARE = 0.25

Floats = NDArray[np.float32]


class Pair(NamedTuple):
    """One pair; see ``pairs.Pairs`` for its fields."""

    intensity: Floats
    phase_rad: NDArray[np.floating]
    conditions: Floats
    level: float
    recorded: bool


def sources(recipe: Recipe, cache: Path) -> list[tuple[int, Iterator[Pair]]]:
    """Give every source of a recipe with the number of its pairs."""
    data, found = recipe.data, list[tuple[int, "Iterator[Pair]"]]()
    if data.paper:
        count = len(data.paper.defocus_um) * len(data.paper.coherence) * data.paper.pairs_of_each
        found.append((count, paper_pairs(data.paper, cache / "paper")))
    if data.simulated_fields:
        found.append((data.simulated_fields * data.pairs_for_each_field, simulated_pairs(recipe)))
    if real := recipe.real_fields():
        found.append((data.real_pairs, real_pairs(real, data, recipe.optics)))
    if data.measured_folder:
        objects = load_objects(data.measured_folder)
        found.append((data.measured_pairs, measured_pairs(objects, data, recipe.optics)))
    return found


def field_of(recipe: Recipe, index: int) -> Floats:
    """Render a recipe's simulated field (Y, X), radians."""
    data, pixel_um = recipe.data, sum(recipe.optics.hr_pixel_um) / 2
    return simulated_field(_SIMULATED_SEED * data.seed + index, pixel_um=pixel_um, coverage=data.coverage)


def simulated_pairs(recipe: Recipe) -> Iterator[Pair]:
    """Yield pairs of the simulated culture, half of them on a textured background."""
    data, optics = recipe.data, recipe.optics
    pixel_um = sum(optics.hr_pixel_um) / 2
    for index in range(data.simulated_fields):
        rng = np.random.default_rng([data.seed, 1, index])
        field = field_of(recipe, index)
        for _ in range(data.pairs_for_each_field):
            patch = _crop(field, data, rng)
            sd_rad = np.float32(data.background_rad * rng.uniform()) if rng.uniform() < 0.5 else np.float32(0)
            white = rng.standard_normal(patch.shape, dtype=np.float32)
            yield _expose(patch + sd_rad * background_texture(white, pixel_um, rng), field, optics, rng)


def real_pairs(fields: list[Floats], data: DataPart, optics: OpticsPart) -> Iterator[Pair]:
    """Yield pairs of measured phase, with thinner and thicker cells of the same shapes."""
    rng = np.random.default_rng([data.seed, 2])
    for index in range(data.real_pairs):
        field = fields[index % len(fields)]
        thickness = np.float32(rng.uniform(0.7, 1.3))
        yield _expose(_crop(field, data, rng) * thickness, field * thickness, optics, rng)


def measured_pairs(objects: list[MeasuredObject], data: DataPart, optics: OpticsPart) -> Iterator[Pair]:
    """Yield pairs of measured objects: refocused by the forward model, and as they were recorded."""
    rng = np.random.default_rng([data.seed, 3])
    hr, lr, margin = data.patch_lr_px * SCALE, data.patch_lr_px, MARGIN_HR_PX
    corners = [one.corners(hr + 2 * margin) for one in objects]
    usable = [index for index, found in enumerate(corners) if len(found)]
    if not usable:
        msg = f"no measured field has a valid square of {hr + 2 * margin} HR pixels; use a smaller data.patch_lr_px"
        raise ConfigurationError(msg)
    for number in range(data.measured_pairs):
        which = usable[number % len(usable)]
        measured = objects[which]
        row, column = corners[which][rng.integers(len(corners[which]))]
        inner = np.s_[row + margin : row + margin + hr, column + margin : column + margin + hr]
        phase = measured.phase_rad[inner]
        if len(measured.frames) and rng.uniform() < _RECORDED_SHARE:
            taken = rng.integers(len(measured.frames))
            top, left = (row + margin) // SCALE, (column + margin) // SCALE
            frame = measured.frames[taken, top : top + lr, left : left + lr]
            coherence = None if np.isnan(measured.coherence) else measured.coherence
            pixel_um = measured.pixel_um * SCALE
            known = Conditions(float(measured.defocus_um[taken]), measured.wavelength_um, pixel_um, coherence)
            yield Pair(frame, phase, known.vector(), 1.0, recorded=True)
            continue
        outer = np.s_[row : row + hr + 2 * margin, column : column + hr + 2 * margin]
        thickness = np.float32(rng.uniform(0.7, 1.3))
        setup, defocus_um, _ = draw_setup(rng, optics)
        field = measured.amplitude[outer] ** thickness * np.exp(1j * thickness * measured.phase_rad[outer])
        turn = rng.uniform(0, 2 * np.pi)
        # Without a pupil: the object was measured behind one.
        image = field_intensity(field.astype(np.complex64), setup, defocus_um, rotation_rad=turn, pupil=False)
        frame = bin_pixels(image[margin : margin + hr, margin : margin + hr], SCALE)
        yield Pair(frame, phase * thickness, told(setup, defocus_um), 1.0, recorded=False)


def paper_pairs(paper: PaperPart, cache: Path) -> Iterator[Pair]:
    """Yield training pairs of the paper's datasets."""
    sets = [
        paper_set(SetSpec(f"z = {z:g} um, S = {s:g}", z, s), SimulatedCulture(), cache)
        for z in paper.defocus_um
        for s in paper.coherence
    ]
    patches, set_index = adaptive_training(sets, paper.pairs_of_each)
    for frame, phase, index in zip(patches.intensity, patches.phase_rad, set_index, strict=True):
        spec = sets[index].spec
        yield Pair(frame, phase, told(spec.setup, spec.defocus_um), 1.0, recorded=True)


def draw_setup(rng: np.random.Generator, optics: OpticsPart) -> tuple[OpticalSetup, float, float]:
    """Draw optics, defocus (um) and kappa (1/rad) from the ranges of a recipe."""
    setup = OpticalSetup(
        wavelength_um=rng.uniform(*optics.wavelength_um),
        objective_na=optics.objective_na,
        coherence=rng.uniform(*optics.coherence),
        hr_pixel_um=rng.uniform(*optics.hr_pixel_um),
        binning=SCALE,
    )
    thin, thick = optics.kappa_per_rad
    kappa = thin + (thick - thin) * rng.uniform() ** 2
    low, high = optics.defocus_um
    # More weight on small defocus, where the signal is weakest.
    return setup, low + (high - low) * rng.uniform() ** 1.4, kappa


def _crop(field: Floats, data: DataPart, rng: np.random.Generator) -> Floats:
    size = data.patch_lr_px * SCALE + 2 * MARGIN_HR_PX
    row = rng.integers(0, field.shape[0] - size + 1)
    column = rng.integers(0, field.shape[1] - size + 1)
    return field[row : row + size, column : column + size]


def _expose(patch: Floats, field: Floats, optics: OpticsPart, rng: np.random.Generator) -> Pair:
    """Take the frame of a patch that was cut from a field."""
    setup, defocus_um, kappa = draw_setup(rng, optics)
    image = intensity(patch, setup, defocus_um, kappa, rotation_rad=rng.uniform(0, 2 * np.pi))
    inner = slice(MARGIN_HR_PX, -MARGIN_HR_PX)
    level = float(np.exp(-2 * kappa * field).mean())
    frame = bin_pixels(image[inner, inner], SCALE)
    return Pair(frame, patch[inner, inner], told(setup, defocus_um), level, recorded=False)


def told(setup: OpticalSetup, defocus_um: float) -> Floats:
    """Return the conditions (3,) of a frame."""
    return Conditions(defocus_um, setup.wavelength_um, setup.lr_pixel_um, setup.coherence).vector()
