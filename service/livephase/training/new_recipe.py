"""A recipe for a microscope that no model fits: the bundled one for 20x, with that microscope's optics and ranges."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from livephase.errors import ConfigurationError
from livephase.phase.modelfile import ValidRange
from livephase.training.pairs import SCALE
from livephase.training.recipe import OpticsPart, Recipe, load_recipe

if TYPE_CHECKING:
    from livephase.phase.modelfile import Range

BASE: Final = "adaptive-20x.toml"
"""Gives network, amount of data and steps: it trains on simulated cells alone, which come in every pixel size."""
_PIXEL_TOLERANCE: Final = 0.03
_WAVELENGTH_TOLERANCE_UM: Final = 0.03
_TABLES: Final = ("architecture", "data", "optics", "training", "valid")


def new_recipe(
    name: str,
    *,
    lr_pixel_um: float,
    wavelength_um: float,
    objective_na: float,
    defocus_um: Range,
    coherence: Range,
) -> Recipe:
    """Make the recipe of a model for a microscope.

    Parameters
    ----------
    name : str
        Of the model.
    lr_pixel_um, wavelength_um : float
        Camera pixel at the specimen and centre wavelength; trained 3 % and 0.03 um to either side.
    objective_na : float
        Aperture of the objective.
    defocus_um, coherence : (float, float)
        Ranges to train.

    Raises
    ------
    ConfigurationError
        A range is empty or negative, or the condenser's aperture S x NA is not one of a dry bright field.
    """
    for what, (low, high) in (("--defocus-um", defocus_um), ("--coherence", coherence)):
        if not 0 <= low < high:
            raise ConfigurationError(
                f"{what} {low:g} {high:g}: the first number has to be the smaller one, and not negative"
            )
    if coherence[1] > 1 or coherence[1] * objective_na >= 1:
        raise ConfigurationError(
            f"--coherence {coherence[1]:g} with --objective-na {objective_na:g}: bright field needs S <= 1 and"
            " S x NA < 1"
        )
    base = load_recipe(Path(str(files("livephase.training") / "recipes")) / BASE)
    pixels_um = ((1 - _PIXEL_TOLERANCE) * lr_pixel_um, (1 + _PIXEL_TOLERANCE) * lr_pixel_um)
    wavelengths_um = (wavelength_um - _WAVELENGTH_TOLERANCE_UM, wavelength_um + _WAVELENGTH_TOLERANCE_UM)
    optics: dict[str, Any] = {
        **base.optics.model_dump(),
        "defocus_um": defocus_um,
        "coherence": coherence,
        "objective_na": objective_na,
        "wavelength_um": _rounded(wavelengths_um),
        "hr_pixel_um": _rounded((pixels_um[0] / SCALE, pixels_um[1] / SCALE)),
    }
    valid = ValidRange(
        defocus_um=defocus_um,
        wavelength_um=_rounded(wavelengths_um),
        lr_pixel_um=_rounded(pixels_um),
        coherence=coherence,
        noise_sd=base.valid.noise_sd,
    )
    update = {"name": name, "version": "1", "optics": OpticsPart.model_validate(optics), "valid": valid}
    return base.model_copy(update=update)


def to_toml(recipe: Recipe, comment: str) -> str:
    """Write a recipe as ``recipe.load_recipe`` reads it; values that are None are left out."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    lines = [f"# {comment}", f"name = {_value(recipe.name)}", f"version = {_value(recipe.version)}"]
    for table in _TABLES:
        lines += ["", f"[{table}]", *(f"{key} = {_value(value)}" for key, value in content[table].items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    # A name has no signs that TOML or Python would escape; see the command.
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _rounded(limits: Range) -> Range:
    return round(limits[0], 6), round(limits[1], 6)
