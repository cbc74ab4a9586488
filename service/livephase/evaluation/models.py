"""Which networks are judged: the shipped ones, and those trained for the comparisons of the paper's figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from livephase.errors import ModelError
from livephase.evaluation.environment import usable_cores
from livephase.inference.runtimes import Runtime, open_runtime
from livephase.phase.conditions import Conditions
from livephase.phase.modelfile import INPUT_GAIN, ModelCard, bundled_models, read_card
from livephase.phase.preprocess import prepare
from livephase.phase.weights import load_network

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from livephase.phase.preprocess import FlatField
    from livephase_devices.optics import OpticalSetup

COMPARISON_NAMES = {
    "unet-16-z6": "the paper's U-Net, width 16",
    "srcnn-z6": "SRCNN",
    "fixed-z3": "net trained at z = 3 um",
    "fixed-z6": "net trained at z = 6 um",
    "fixed-z9": "net trained at z = 9 um",
    "fixed-s00": "net trained at S = 0",
    "fixed-s03": "net trained at S = 0.3",
    "fixed-s04": "net trained at S = 0.4",
}
_DEFAULT_NAME = "adaptive"
_BATCH = 10
_FLOAT_COUNTS = 2000.0
_BIT_DEPTH = 12


@dataclass(frozen=True)
class Model:
    """One network.

    Attributes
    ----------
    label : str
        Its name in tables and figures.
    path : Path
        Its file.
    """

    label: str
    path: Path

    @cached_property
    def card(self) -> ModelCard:
        """Its card."""
        return read_card(self.path)

    @cached_property
    def network(self) -> nn.Module:
        """The network in float32."""
        return load_network(self.path)[0]

    @cached_property
    def runtime(self) -> Runtime:
        """What computes full fields in service, on all cores."""
        return open_runtime("auto", self.path, usable_cores())[0]

    def told(self, defocus_um: float, setup: OpticalSetup, *, coherence_known: bool = True) -> Conditions:
        """Say what the network is told of a frame: the truth, but its own z or S if it was trained at one only."""
        valid = self.card.valid
        if valid.defocus_um[0] == valid.defocus_um[1]:
            defocus_um = valid.defocus_um[0]
        fixed = valid.coherence[0] == valid.coherence[1]
        coherence = valid.coherence[0] if fixed else setup.coherence
        return Conditions(
            defocus_um, setup.wavelength_um, setup.lr_pixel_um, coherence if coherence_known or fixed else None
        )

    def patches(self, intensity: NDArray[np.float32], conditions: Conditions) -> NDArray[np.float32]:
        """Phase (N, 4Y, 4X) of patches (N, Y, X) of relative intensity, in float32 without padding."""
        told = torch.from_numpy(conditions.vector())[None]
        parts: list[NDArray[np.float32]] = []
        with torch.inference_mode():
            for start in range(0, len(intensity), _BATCH):
                batch = torch.from_numpy(intensity[start : start + _BATCH] - 1)[:, None] * INPUT_GAIN
                parts.append(self.network(batch, told.expand(len(batch), -1))[:, 0].numpy())
        return np.concatenate(parts)

    def field(
        self, frame: NDArray[Any], conditions: Conditions, *, flat_field: FlatField = "none"
    ) -> NDArray[np.float32]:
        """Phase (4Y, 4X) of a whole frame (Y, X) as the service computes it; NaN behind a field stop."""
        # Any level will do but a dark one. The frame is not rounded: the simulated noise is all of its noise.
        counts = np.asarray(frame, np.float32) * np.float32(_FLOAT_COUNTS / float(np.mean(frame)))
        prepared = prepare(counts, bit_depth=_BIT_DEPTH, stride=self.runtime.stride, flat_field=flat_field)
        out = np.empty((frame.shape[0] * self.card.scale, frame.shape[1] * self.card.scale), np.float32)
        prepared.crop(self.runtime.run(prepared.intensity, conditions.vector()), self.card.scale, out)
        return out

    def describe(self) -> dict[str, Any]:
        """JSON-ready description."""
        card = self.card
        return {
            "label": self.label,
            "name": card.name,
            "version": card.version,
            "architecture": f"{card.architecture.name} {card.architecture.width}",
            "valid": card.valid.model_dump(mode="json"),
            "sha256": card.sha256,
        }


@dataclass(frozen=True)
class Shelf:
    """The networks of an evaluation; one that is None is not in this installation.

    Attributes
    ----------
    shipped : Model
        The model that is judged.
    named : dict of str to Model
        Other shipped models by card name: ``fast``, ``adaptive-20x``, ``adaptive-40x``, ``microlens``.
    comparison : dict of str to Model
        Networks of ``COMPARISON_NAMES`` that are there.
    """

    shipped: Model
    named: dict[str, Model] = field(default_factory=dict[str, Model])
    comparison: dict[str, Model] = field(default_factory=dict[str, Model])

    def all(self) -> list[Model]:
        """List them without repetition."""
        models = [self.shipped, *self.named.values(), *self.comparison.values()]
        return list({model.path: model for model in models}.values())

    def missing(self, *names: str) -> list[str]:
        """Say which of these names are not in this installation."""
        return [name for name in names if name not in self.named and name not in self.comparison]


def open_shelf(model: Path | None = None, bundled: list[Path] | None = None, comparison: Path | None = None) -> Shelf:
    """Find the networks.

    Parameters
    ----------
    model : Path, optional
        The model that is judged in place of ``adaptive``.
    bundled : list of Path, optional
        The shipped model files; by default those of the installation.
    comparison : Path, optional
        Folder of the comparison networks; by default that of the installation.

    Raises
    ------
    ModelError
        The model cannot be read, or there is none.
    """
    paths = bundled_models() if bundled is None else bundled
    cards = {path: read_card(path) for path in paths}
    if model is None:
        if not paths:
            raise ModelError("this installation carries no model file; name one with --model")
        model = next((path for path, card in cards.items() if card.name == _DEFAULT_NAME), paths[0])
    card = read_card(model)
    shipped = Model(f"{card.name} {card.version}", model)
    named = {card.name: Model(f"{card.name} {card.version}", path) for path, card in cards.items() if path != model}
    folder = comparison or Path(str(files("livephase") / "models" / "paper"))
    found = {name: folder / f"{name}.safetensors" for name in COMPARISON_NAMES}
    nets = {name: Model(COMPARISON_NAMES[name], path) for name, path in found.items() if path.exists()}
    return Shelf(shipped, named, nets)
