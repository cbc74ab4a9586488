"""The choice of a model: which valid range fits a microscope or a recording, and which is the nearest.

Live, a model fits when pixel, wavelength, coherence and defocus (those that are known) lie in its valid range. Of
several the first in the order of ``KnownModel.preference`` is taken: `adaptive` and its kin before `fast`, bundled
before imported.

Recorded frames may also be averaged onto coarser pixels (``model_pixel_um``), so that several models may fit. A model
that takes the recorded pixel as it is goes first. Of the others the one whose phase has the pixel nearest to the
recorded one, by ratio: averaging 4 x 4 pixels, which the model undoes, neither throws resolution away nor promises one
that the recording's optics did not have. A 20x frame of 0.2325 um goes to the model of 0.93 um in this way, although
3 x 3 of its pixels would do for the one of 0.68 um, which was made for a wider aperture.

Where none fits, the nearest is the one of least ``distance``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from livephase.errors import ModelError
from livephase.phase.preprocess import model_pixel_um

if TYPE_CHECKING:
    from collections.abc import Sequence

    from livephase.phase.library import KnownModel
    from livephase.phase.modelfile import ModelCard, Range, ValidRange

_LINEAR_BELOW: Final = 0.01
"""The logarithmic scale of ``distance`` ends here: smaller values of either sign count as zero."""


@dataclass(frozen=True, slots=True)
class Optics:
    """What is known of how frames are taken; see ``phase.conditions.Conditions``.

    Attributes
    ----------
    lr_pixel_um, wavelength_um : float
        Camera pixel at the specimen and wavelength.
    defocus_um, coherence : float or None
        None where it is not known, and then not judged.
    """

    lr_pixel_um: float
    wavelength_um: float
    defocus_um: float | None = None
    coherence: float | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A model for given optics.

    Attributes
    ----------
    lr_pixel_um : float
        Pixel on which the model gets its frames: coarser than recorded where they are averaged first.
    problems : tuple of str
        What lies outside the model's valid range; empty where it fits.
    """

    model: KnownModel
    lr_pixel_um: float
    problems: tuple[str, ...]

    def advice(self, optics: Optics, objective_na: float | None = None) -> str:
        """Say in one or two sentences what to do when another model was to be used and did not fit.

        Parameters
        ----------
        optics : Optics
            For which this was chosen.
        objective_na : float or None
            Goes into the command that writes a recipe, where it is known.
        """
        name = self.model.card.name
        if not self.problems:
            return f"Model '{name}' fits."
        aperture = "NA" if objective_na is None else f"{objective_na:g}"
        return (
            f"No model fits; the nearest is '{name}'. The recipe to train one is written by: livephase models recipe"
            f" --lr-pixel-um {self.lr_pixel_um:g} --wavelength-um {optics.wavelength_um:g} --objective-na {aperture}"
            " --defocus-um LOW HIGH --out recipe.toml"
        )


def problems_of(card: ModelCard, optics: Optics) -> tuple[str, ...]:
    """Say what of the known values lies outside a model's valid range, one sentence each."""
    defocus_um = card.valid.defocus_um[0] if optics.defocus_um is None else optics.defocus_um
    return tuple(
        card.range_problems(
            defocus_um=defocus_um,
            lr_pixel_um=optics.lr_pixel_um,
            wavelength_um=optics.wavelength_um,
            coherence=optics.coherence,
        )
    )


def distance(valid: ValidRange, optics: Optics) -> float:
    """Say how far optics lie outside a valid range; 0 inside.

    Every quantity outside its range adds the logarithm of its ratio to the nearer end of the range. The quantities are
    those on which the image on the camera's grid depends: the defocus number wavelength x z / pixel^2 (alone, in the
    paraxial limit; see ``Conditions.defocus_number``), then pixel and wavelength, which set the size of a cell and the
    pupil on that grid, and S. The scale is symmetric for the other sign of the defocus and ends at 0.01.

    Parameters
    ----------
    valid : ValidRange
        Of the model.
    optics : Optics
        Unknown values add nothing.
    """
    total = _outside(optics.lr_pixel_um, valid.lr_pixel_um) + _outside(optics.wavelength_um, valid.wavelength_um)
    if optics.coherence is not None:
        total += _outside(optics.coherence, valid.coherence)
    if optics.defocus_um is not None:
        total += _outside(optics.wavelength_um * optics.defocus_um / optics.lr_pixel_um**2, _defocus_numbers(valid))
    return total


def choose(models: Sequence[KnownModel], optics: Optics) -> Choice:
    """Choose a model for a microscope.

    Parameters
    ----------
    models : sequence of KnownModel
        To choose from.
    optics : Optics
        Of the microscope; its pixel stays as it is.

    Raises
    ------
    ModelError
        There is no model to choose from.
    """
    _refuse_none(models)
    choices = [Choice(model, optics.lr_pixel_um, problems_of(model.card, optics)) for model in models]

    def key(choice: Choice) -> tuple[bool, float, tuple[bool, int, str]]:
        return bool(choice.problems), distance(choice.model.card.valid, optics), choice.model.preference

    return min(choices, key=key)


def choose_for_recording(models: Sequence[KnownModel], optics: Optics) -> Choice:
    """Choose a model for recorded frames, which may be averaged onto coarser pixels first.

    Parameters
    ----------
    models : sequence of KnownModel
        To choose from.
    optics : Optics
        Of the recording, with the recorded pixel as ``lr_pixel_um``.

    Raises
    ------
    ModelError
        There is no model to choose from.
    """
    _refuse_none(models)
    recorded_um = optics.lr_pixel_um
    choices: list[Choice] = []
    for model in models:
        pixel_um = model_pixel_um(model.card, recorded_um)
        problems = problems_of(model.card, replace(optics, lr_pixel_um=pixel_um))
        choices.append(Choice(model, pixel_um, problems))

    def key(choice: Choice) -> tuple[bool, bool, float, tuple[bool, int, str]]:
        card = choice.model.card
        if choice.problems:
            far = distance(card.valid, replace(optics, lr_pixel_um=choice.lr_pixel_um))
            return True, False, far, choice.model.preference
        ratio = choice.lr_pixel_um / card.scale / recorded_um
        return False, choice.lr_pixel_um != recorded_um, abs(math.log(ratio)), choice.model.preference

    return min(choices, key=key)


def _refuse_none(models: Sequence[KnownModel]) -> None:
    if not models:
        raise ModelError(
            "this installation carries no model file; name one with --model or path = in the table [model]"
        )


def _defocus_numbers(valid: ValidRange) -> Range:
    """Range of wavelength x z / pixel^2 that the ranges of its three factors give."""
    numbers = [
        wavelength_um * defocus_um / lr_pixel_um**2
        for wavelength_um in valid.wavelength_um
        for defocus_um in valid.defocus_um
        for lr_pixel_um in valid.lr_pixel_um
    ]
    return min(numbers), max(numbers)


def _outside(value: float, valid: Range) -> float:
    low, high = valid
    if low <= value <= high:
        return 0.0
    return abs(_scaled(value) - _scaled(low if value < low else high))


def _scaled(value: float) -> float:
    return math.copysign(math.log(max(abs(value) / _LINEAR_BELOW, 1.0)), value)
