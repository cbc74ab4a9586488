"""Train by recipe: data, loop, curves, model file."""

from __future__ import annotations

import json
import platform
import time
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from livephase.phase.modelfile import ModelCard, read_card
from livephase.phase.weights import save_network
from livephase.training import validation
from livephase.training.batches import GeneratedBatches, StoredBatches
from livephase.training.calibration import calibrate_network
from livephase.training.curves import draw_curves, draw_samples
from livephase.training.loop import Trainer
from livephase.training.pairs import make_pairs
from livephase.training.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from livephase.training import loop
    from livephase.training.batches import Batches


_FOLDERS = {"data": {"real_folder", "measured_folder"}, "training": {"initial_model"}}
"""Where things lie on this machine; the card names them by their content."""


def train(recipe_path: Path, folder: Path, device: str | None = None) -> ModelCard:
    """Train a network by a recipe, or go on where a run in that folder stopped.

    Parameters
    ----------
    recipe_path : Path
        TOML, see ``recipe.Recipe``.
    folder : Path
        Takes training pairs, checkpoint, log, pictures and the model file.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default a CUDA device if there is one.

    Returns
    -------
    ModelCard
        Of ``folder/<name>-<version>.safetensors``.

    Raises
    ------
    ConfigurationError
        The recipe is wrong.
    ModelError
        A checkpoint does not fit, or training diverged.
    """
    recipe = load_recipe(recipe_path)
    initial = recipe.training.initial_model
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    ) as bar:
        place = torch.device(device)
        batches: Batches
        if recipe.data.generated:
            batches = GeneratedBatches(recipe, place)
        else:
            making = bar.add_task("making pairs", total=1)
            pairs = make_pairs(recipe, folder, lambda n, total: bar.update(making, completed=n, total=total))
            bar.update(making, completed=len(pairs), total=len(pairs))
            batches = StoredBatches(pairs, recipe.optics, place)
        trainer = Trainer(recipe, batches, folder, place)
        watch = validation.standard_frames(recipe, validation.watched_defoci_um(recipe.optics))
        training = bar.add_task("training", total=recipe.training.steps, completed=trainer.step)

        def report(progress: loop.Progress) -> None:
            bar.update(training, completed=progress.step, description=f"training, loss {progress.loss:.4f}")

        trainer.run(lambda network: validation.judge(network, watch), report)
    frames = validation.standard_frames(recipe, validation.final_defoci_um(recipe.optics))
    judged = validation.TestOptics.of(recipe.optics)
    network = trainer.average.float()
    card = ModelCard(
        name=recipe.name,
        version=recipe.version,
        architecture=recipe.architecture,
        scale=4,
        valid=recipe.valid,
        training={
            "steps": trainer.step,
            "recipe": json.loads(recipe.model_dump_json(exclude=_FOLDERS)),
            "data_sha256": recipe.data_digest,
            "real_files": [path.stem for path in recipe.real_files()],
            "measured_files": [path.stem for path in recipe.measured_files()],
            "initial_model_sha256": initial and read_card(initial).sha256,
            "device": device,
            "processor": platform.processor() or platform.machine(),
            "last_session_s": round(time.monotonic() - started),
        },
        figures={
            "conditions": {
                "noise_sd": judged.noise_sd,
                "coherence": judged.setup.coherence,
                "kappa_per_rad": judged.kappa_per_rad,
                "coverage": recipe.data.coverage,
                "period_bands_um": [">40", "40-20", "20-10", "10-5.2", "<5.2"],
            },
            **validation.judge(network, frames),
        },
        misfit=calibrate_network(network, recipe),
    )
    card = save_network(folder / f"{recipe.name}-{recipe.version}.safetensors", network, card)
    draw_curves(folder / "log.jsonl", folder / "curves.png")
    draw_samples(network, frames, folder / "samples.png", watch[0].defocus_um)
    return card
