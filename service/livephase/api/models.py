"""The models of the service: which are known, how they fit the present microscope, and which is in use."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from livephase.api.schemas import ModelList, ModelOut
from livephase.errors import ModelNotFoundError
from livephase.phase.choice import Optics, choose, distance, problems_of
from livephase.phase.library import find_model, known_models
from livephase.phase.modelfile import count_parameters

if TYPE_CHECKING:
    from livephase.config import ModelTable
    from livephase.phase.choice import Choice
    from livephase.phase.library import KnownModel
    from livephase.phase.modelfile import ModelCard
    from livephase_devices.config import MicroscopeConfig

log = logging.getLogger(__name__)


class Models:
    """Bundled, imported and configured models, and the optics that they have to fit.

    Parameters
    ----------
    microscope : MicroscopeConfig
        Gives pixel, wavelength and coherence.
    table : ModelTable
        The configured model; without one, the model that fits is chosen.
    defocus_um : float or None
        Of the frames, where it is known at the start.

    Attributes
    ----------
    first : KnownModel
        With which the service starts.

    Raises
    ------
    ModelError
        The configured model cannot be used, or there is none to choose from.
    """

    def __init__(self, microscope: MicroscopeConfig, table: ModelTable, defocus_um: float | None) -> None:
        self._microscope = microscope
        named = table.name or table.path
        self._configured = None if named is None else find_model(named)
        self._known = self._read()
        optics = self._optics(defocus_um)
        self.first: KnownModel = self._configured or choose(self._known, optics).model
        problems = problems_of(self.first.card, optics)
        if problems:
            advice = self._best(optics).advice(optics, self._microscope.objective_na)
            log.warning("model '%s': %s %s", self.first.card.name, " ".join(problems), advice)

    def advice(self, active: ModelCard, defocus_um: float | None) -> list[str]:
        """Say what to do where the model in use does not fit: at most one entry.

        Parameters
        ----------
        active : ModelCard
            The model in use.
        defocus_um : float or None
            Of the frames, where it is known.
        """
        optics = self._optics(defocus_um)
        if not problems_of(active, optics):
            return []
        return [self._best(optics).advice(optics, self._microscope.objective_na)]

    def describe(self, active: ModelCard, defocus_um: float | None) -> ModelList:
        """Return all models, in the order of preference, with how they fit; imported ones are read again."""
        known = self._read()
        self._known = known
        optics = self._optics(defocus_um)
        best = self._best(optics)
        return ModelList(
            models=[_described(model, optics, active) for model in known],
            active=active.name,
            nearest=best.model.card.name,
            advice=best.advice(optics, self._microscope.objective_na) if best.problems else None,
        )

    def find(self, name: str) -> KnownModel:
        """Return the model of that name; ModelNotFoundError when there is none."""
        known = self._read()
        for model in known:
            if model.card.name == name:
                return model
        names = ", ".join(model.card.name for model in known)
        raise ModelNotFoundError(f"no model has the name {name[:100]!r}; known are {names}")

    def _read(self) -> list[KnownModel]:
        known, problems = known_models()
        for problem in problems:
            log.warning("%s", problem)
        configured = self._configured
        if configured is None or configured.source != "file":
            return known
        # A file that was named by its path keeps its name, whatever else has that name.
        return [configured, *(model for model in known if model.card.name != configured.card.name)]

    def _optics(self, defocus_um: float | None) -> Optics:
        microscope = self._microscope
        return Optics(microscope.lr_pixel_um, microscope.wavelength_um, defocus_um, microscope.coherence)

    def _best(self, optics: Optics) -> Choice:
        return choose(self._known, optics)


def _described(model: KnownModel, optics: Optics, active: ModelCard) -> ModelOut:
    card = model.card
    problems = problems_of(card, optics)
    return ModelOut(
        name=card.name,
        version=card.version,
        sha256=card.sha256,
        scale=card.scale,
        architecture=card.architecture.model_dump(mode="json"),
        parameters=count_parameters(model.path),
        valid=card.valid.model_dump(mode="json"),
        objective_na=card.objective_na,
        training=card.training,
        figures=card.figures,
        licence=card.licence,
        source=model.source,
        active=card.sha256 == active.sha256,
        fits=not problems,
        problems=list(problems),
        distance=distance(card.valid, optics),
    )
