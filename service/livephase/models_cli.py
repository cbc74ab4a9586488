"""The commands ``livephase models``: list, show, import, and the recipe for a microscope that no model fits."""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotation at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from livephase.errors import ConfigurationError

if TYPE_CHECKING:
    from livephase.phase.library import KnownModel
    from livephase.phase.modelfile import ModelCard, Range

models = typer.Typer(help="Look at models, import them, and get the recipe for a new one.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@models.command("list")
def list_models(as_json: _Json = False) -> None:
    """List the bundled and the imported models, in the order in which they are preferred."""
    from livephase.phase.library import known_models

    known, problems = known_models()
    for problem in problems:
        print(f"livephase: {problem}", file=sys.stderr)
    if as_json:
        _print_json([_listed(model) for model in known])
        return
    rows = [("name", "version", "pixel um", "defocus um", "NA", "parameters", "size", "from", "sha256")]
    rows += [_row(model) for model in known]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@models.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="Name of a model, or a model file.")], as_json: _Json = False
) -> None:
    """Show what a model is, where it is valid, and its figures."""
    from livephase.phase.library import find_model

    show_card(find_model(model).card, as_json=as_json)


@models.command("import")
def import_file(file: Annotated[Path, typer.Argument(help="A model file, such as 'livephase train' writes.")]) -> None:
    """Check a model file and copy it to the user's models, so that its name can be given instead of its path."""
    from livephase.phase.library import import_model
    from livephase.phase.weights import load_network

    load_network(file)
    known = import_model(file)
    print(f"{known.card.name} {known.card.version}  {known.path}")


@models.command("recipe")
def write_recipe(
    lr_pixel_um: Annotated[float, typer.Option(min=0.01, help="Camera pixel at the specimen, um.")],
    objective_na: Annotated[float, typer.Option(min=0.01, max=1.6, help="Aperture of the objective.")],
    defocus_um: Annotated[tuple[float, float], typer.Option(metavar="LOW HIGH", help="Range of the defocus, um.")],
    out: Annotated[Path, typer.Option(help="New TOML for 'livephase train'.")],
    wavelength_um: Annotated[float, typer.Option(min=0.1, max=2.0, help="Centre wavelength, um.")] = 0.55,
    coherence: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Range of S = NA_condenser / NA_objective.")
    ] = (0.0, 0.6),
    name: Annotated[str, typer.Option(help="Of the model.")] = "own",
) -> None:
    """Write the recipe of a model for a microscope that no model fits."""
    from livephase.phase.library import MODEL_NAME
    from livephase.training.new_recipe import new_recipe, to_toml

    if not MODEL_NAME.fullmatch(name):
        raise ConfigurationError(f"--name {name!r}: a name has letters, digits, '.', '_' and '-' only")
    recipe = new_recipe(
        name,
        lr_pixel_um=lr_pixel_um,
        wavelength_um=wavelength_um,
        objective_na=objective_na,
        defocus_um=defocus_um,
        coherence=coherence,
    )
    comment = f"{objective_na:g} NA, camera pixel {lr_pixel_um:g} um at the specimen, z = {_span(defocus_um)} um."
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(to_toml(recipe, comment))
    except FileExistsError as error:
        raise ConfigurationError(f"{out} exists already and is not overwritten; choose another name") from error
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written ({error.strerror})") from error
    print(f"{out}: train it with 'livephase train {out} --out FOLDER', then 'livephase models import' the model file")


def show_card(card: ModelCard, *, as_json: bool) -> None:
    """Print a card, as JSON with everything in it or for a person."""
    from livephase.card_text import card_text

    if as_json:
        _print_json(card.model_dump(mode="json"))
    else:
        print(card_text(card))


def _listed(model: KnownModel) -> dict[str, Any]:
    from livephase.phase.modelfile import count_parameters

    return {
        **model.card.model_dump(mode="json"),
        "objective_na": model.card.objective_na,
        "parameters": count_parameters(model.path),
        "size_bytes": model.path.stat().st_size,
        "source": model.source,
        "path": str(model.path),
    }


def _row(model: KnownModel) -> tuple[str, ...]:
    from livephase.phase.modelfile import count_parameters

    card = model.card
    return (
        card.name,
        card.version,
        _span(card.valid.lr_pixel_um),
        _span(card.valid.defocus_um),
        "?" if card.objective_na is None else f"{card.objective_na:g}",
        f"{count_parameters(model.path) / 1e6:.2f} M",
        f"{model.path.stat().st_size / 1e6:.1f} MB",
        model.source,
        card.sha256[:12],
    )


def _span(limits: Range) -> str:
    return f"{limits[0]:g}-{limits[1]:g}"


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, allow_nan=False))
