"""Where models are: those that come with livephase, and those that the user has imported; found by name or path."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from platformdirs import user_data_path

from livephase.errors import ModelError
from livephase.files import replace
from livephase.phase.modelfile import ModelCard, bundled_models, read_card

Source = Literal["bundled", "imported", "file"]

PREFERRED: Final = ("adaptive", "adaptive-20x", "adaptive-40x", "fast")
"""Names in the order in which they are taken where several models serve equally well; other names follow."""
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names and versions of models that are imported: they become file names."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model file and its card.

    Attributes
    ----------
    source : str
        ``"bundled"``, ``"imported"``, or ``"file"`` for one that was named by its path.
    """

    path: Path
    card: ModelCard
    source: Source

    @property
    def preference(self) -> tuple[bool, int, str]:
        """Sort key: bundled before others, then the order of ``PREFERRED``, then by name."""
        name = self.card.name
        rank = PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)
        return self.source != "bundled", rank, name


def user_models_folder() -> Path:
    """Return the folder of imported models: in the user's data folder of the platform; it need not exist."""
    return user_data_path("livephase", appauthor=False) / "models"


def known_models() -> tuple[list[KnownModel], list[str]]:
    """Read the cards of all bundled and imported models.

    Returns
    -------
    list of KnownModel
        In the order of preference. A name stands for one model: an imported one whose name came to be that of a
        bundled one is left out.
    list of str
        Why an imported file could not be used, one sentence for each.

    Raises
    ------
    ModelError
        A bundled file cannot be used: the installation is damaged.
    """
    bundled = [KnownModel(path, read_card(path), "bundled") for path in bundled_models()]
    found = {model.card.name: model for model in bundled}
    problems: list[str] = []
    for path in sorted(user_models_folder().glob("*.safetensors")):
        try:
            card = read_card(path)
        except ModelError as error:
            problems.append(str(error))
            continue
        if card.name in found:
            problems.append(f"model file {path} is left out: the name {card.name!r} is that of {found[card.name].path}")
        else:
            found[card.name] = KnownModel(path, card, "imported")
    return sorted(found.values(), key=lambda model: model.preference), problems


def find_model(name_or_path: str | Path) -> KnownModel:
    """Find a model by its name, or else read the file of that path.

    Raises
    ------
    ModelError
        There is no model of that name and no usable file of that path.
    """
    known, _ = known_models()
    for model in known:
        if model.card.name == str(name_or_path):
            return model
    path = Path(name_or_path)
    if path.name == str(name_or_path) and not path.suffix and not path.exists():
        names = ", ".join(model.card.name for model in known)
        raise ModelError(f"no model has the name {path.name!r}; known are {names}; a file is named by its path")
    return KnownModel(path, read_card(path), "file")


def import_model(path: Path) -> KnownModel:
    """Copy a model file into the user's folder, so that it is found by its name.

    Importing the same file twice changes nothing.

    Parameters
    ----------
    path : Path
        A livephase model; that its weights fit its architecture is for the caller to check (``weights.load_network``).

    Raises
    ------
    ModelError
        The file is not a livephase model, its name is taken by another one, or it cannot be copied.
    """
    card = read_card(path)
    if not MODEL_NAME.fullmatch(card.name) or not MODEL_NAME.fullmatch(card.version):
        msg = (
            f"model file {path}: name {card.name!r} or version {card.version!r} has signs that a file name cannot have"
        )
        raise ModelError(msg)
    for model in known_models()[0]:
        if model.card.name != card.name:
            continue
        if model.card.sha256 == card.sha256:
            return model
        what = "a bundled model has it" if model.source == "bundled" else f"remove {model.path} first"
        msg = f"the name {card.name!r} of {path} is taken: {what}; or train under another name (name = in the recipe)"
        raise ModelError(msg)
    target = user_models_folder() / f"{card.name}-{card.version}.safetensors"
    partial = target.with_suffix(".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, partial)
        replace(partial, target)
    except OSError as error:
        msg = f"model file {path} cannot be copied to {target.parent} ({error.strerror})"
        raise ModelError(msg) from error
    return KnownModel(target, read_card(target), "imported")
