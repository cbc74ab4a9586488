"""Which model is chosen for a microscope or a recording, and which is the nearest where none fits."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from livephase.errors import ModelError
from livephase.phase.choice import Optics, choose, choose_for_recording, distance, problems_of
from livephase.phase.library import KnownModel, Source
from livephase.phase.modelfile import Architecture, ModelCard, ValidRange

RECIPES = Path(str(files("livephase.training") / "recipes"))


def model(name: str, recipe: str, source: Source = "bundled") -> KnownModel:
    """Make the card that a bundled recipe leads to, under a name."""
    content = tomllib.loads((RECIPES / f"{recipe}.toml").read_text())
    card = ModelCard(
        name=name,
        version="1",
        architecture=Architecture(name="subpixel-unet", width=8),
        scale=4,
        valid=ValidRange.model_validate(content["valid"]),
        training={"recipe": content},
        figures={},
    )
    return KnownModel(Path(f"{name}.safetensors"), card, source)


SHIPPED = [
    model("fast", "adaptive"),
    model("adaptive-40x", "adaptive-40x"),
    model("adaptive-20x", "adaptive-20x"),
    model("adaptive", "adaptive"),
]


@dataclass(frozen=True)
class Case:
    """Optics, and the model that they lead to."""

    why: str
    optics: Optics
    model: str
    fits: bool = True
    lr_pixel_um: float | None = None


LIVE = [
    Case("the paper's 10x", Optics(2.6, 0.55, 6.0, 0.3), "adaptive"),
    Case("nothing known but pixel and wavelength", Optics(2.6, 0.55), "adaptive"),
    Case("20x", Optics(0.93, 0.55, 2.5, 0.5), "adaptive-20x"),
    Case("the paper's 40x", Optics(0.68, 0.55, 6.0, 0.3), "adaptive-40x"),
    Case("the pixel at the very end of a range", Optics(2.7, 0.58, 13.0, 0.5), "adaptive"),
    Case("too little defocus", Optics(2.6, 0.55, 0.5, 0.3), "adaptive", fits=False),
    Case("the other side of the focus", Optics(2.6, 0.55, -6.0, 0.3), "adaptive", fits=False),
    Case("Micro-Manager's demo", Optics(1.0, 0.55, 3.0, 0.3), "adaptive-20x", fits=False),
    Case("a pixel nearer to that of 20x", Optics(0.8, 0.55, None, 0.3), "adaptive-20x", fits=False),
    Case("the same pixel, but the defocus number of 40x", Optics(0.8, 0.55, 6.0, 0.3), "adaptive-40x", fits=False),
    Case("4x", Optics(6.5, 0.55, 40.0, 0.3), "adaptive", fits=False),
    Case("red light", Optics(2.6, 0.65, 6.0, 0.3), "adaptive", fits=False),
]

RECORDED = [
    Case("as it is", Optics(2.6, 0.55, 6.0), "adaptive", lr_pixel_um=2.6),
    Case(
        "4 x 4 to the 20x model; 3 x 3 would do for that of 40x", Optics(0.2325, 0.55, 2.5), "adaptive-20x", True, 0.93
    ),
    Case("too far for 20x: the nearest of the others", Optics(0.2325, 0.55, 8.0), "adaptive-40x", True, 0.6975),
    Case("a pixel of 40x; 4 x 4 would do for 10x", Optics(0.66, 0.55, 6.0), "adaptive-40x", True, 0.66),
    Case("10x with the camera's own pixels", Optics(0.65, 0.55, 6.0), "adaptive", True, 2.6),
    Case("40x with the camera's own pixels", Optics(0.17, 0.55, 6.0), "adaptive-40x", True, 0.68),
    Case("no multiple in the range: its centre", Optics(1.5, 0.55, 6.0), "adaptive", True, 2.6),
    Case("coarser than all", Optics(3.45, 0.55, 6.0), "adaptive", False, 3.45),
    Case(
        "further than all, on the pixel nearest to the recorded one", Optics(0.17, 0.55, 11.0), "adaptive", True, 2.55
    ),
]


@pytest.mark.parametrize("case", LIVE, ids=lambda case: case.why)
def test_a_microscope_gets_the_model_that_fits_or_else_the_nearest(case: Case) -> None:
    choice = choose(SHIPPED, case.optics)
    assert choice.model.card.name == case.model
    assert (choice.problems == ()) == case.fits
    assert choice.lr_pixel_um == case.optics.lr_pixel_um


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.why)
def test_a_recording_gets_the_model_that_undoes_its_averaging(case: Case) -> None:
    choice = choose_for_recording(SHIPPED, case.optics)
    assert choice.model.card.name == case.model
    assert (choice.problems == ()) == case.fits
    assert choice.lr_pixel_um == pytest.approx(case.lr_pixel_um)


def test_fast_and_imported_models_come_after_adaptive() -> None:
    paper = Optics(2.6, 0.55, 6.0, 0.3)
    own, better = model("own", "adaptive", "imported"), model("aa", "adaptive", "imported")
    assert choose([own, *SHIPPED], paper).model.card.name == "adaptive"
    assert choose([own, *SHIPPED[:3]], paper).model.card.name == "fast"
    assert choose([own, better], paper).model.card.name == "aa"
    assert choose([own, *SHIPPED[1:3]], paper).model is own
    with pytest.raises(ModelError, match="--model"):
        choose([], paper)


def test_distance_is_the_logarithm_of_the_ratio_to_the_range() -> None:
    valid = SHIPPED[-1].card.valid
    assert distance(valid, Optics(2.6, 0.55, 6.0, 0.3)) == 0
    assert distance(valid, Optics(2.7 * 2, 0.55)) == pytest.approx(math.log(2))
    assert distance(valid, Optics(2.5 / 3, 0.55)) == pytest.approx(math.log(3))
    assert distance(valid, Optics(2.6, 0.58 * 1.5, None, 0.5 * 1.5)) == pytest.approx(2 * math.log(1.5))
    # Defocus counts as wavelength x z / pixel^2, whose largest value is at the smallest pixel.
    far_um = 2 * 0.58 * 13 / 2.5**2 * 2.6**2 / 0.55
    assert distance(valid, Optics(2.6, 0.55, far_um)) == pytest.approx(math.log(2))
    # The other side of the focus is further than none at all.
    sides = [distance(valid, Optics(2.6, 0.55, defocus_um)) for defocus_um in (1.0, 0.3, 0.0, -1.0, -6.0)]
    assert sides == sorted(sides)
    assert sides[0] == 0 < sides[1]
    assert len(set(sides)) == len(sides)


def test_what_is_not_known_is_not_judged() -> None:
    card = SHIPPED[-1].card
    assert problems_of(card, Optics(2.6, 0.55)) == ()
    assert problems_of(card, Optics(2.6, 0.55, 14.0, 0.9)) == (
        "defocus_um = 14 is outside the model's valid range 1 to 13.",
        "coherence = 0.9 is outside the model's valid range 0 to 0.5.",
    )


def test_the_advice_names_the_model_or_the_command() -> None:
    fitting = Optics(0.93, 0.55, 2.5)
    assert choose(SHIPPED, fitting).advice(fitting) == "Model 'adaptive-20x' fits."
    demo = Optics(1.0, 0.55, 3.0, 0.3)
    advice = choose(SHIPPED, demo).advice(demo, 0.25)
    assert "nearest is 'adaptive-20x'" in advice
    assert "livephase models recipe --lr-pixel-um 1 --wavelength-um 0.55 --objective-na 0.25" in advice


def test_the_aperture_of_the_training_is_read_from_its_record() -> None:
    assert [one.card.objective_na for one in SHIPPED] == [0.4, 0.6, 0.45, 0.4]
    assert SHIPPED[0].card.model_copy(update={"training": {}}).objective_na is None
