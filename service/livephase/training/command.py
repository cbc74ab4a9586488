"""Train by recipe: data, loop, curves, model file."""

from __future__ import annotations

import json
import platform
import time
from typing import TYPE_CHECKING

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from livephase.phase.modelfile import ModelCard
from livephase.phase.weights import save_network
from livephase.training import validation
from livephase.training.calibration import calibrate_network
from livephase.training.curves import draw_curves, draw_samples
from livephase.training.loop import Trainer
from livephase.training.pairs import make_pairs
from livephase.training.recipe import load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from livephase.training import loop

FINAL_DEFOCI_UM = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 13.0)


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
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    ) as bar:
        making = bar.add_task("making pairs", total=1)
        pairs = make_pairs(recipe, folder, lambda n, total: bar.update(making, completed=n, total=total))
        bar.update(making, completed=len(pairs), total=len(pairs))
        trainer = Trainer(recipe, pairs, folder, device)
        watch = validation.standard_frames(recipe.real_files(held_back=True))
        training = bar.add_task("training", total=recipe.training.steps, completed=trainer.step)

        def report(progress: loop.Progress) -> None:
            bar.update(training, completed=progress.step, description=f"training, loss {progress.loss:.4f}")

        trainer.run(lambda network: validation.judge(network, watch), report)
    frames = validation.standard_frames(recipe.real_files(held_back=True), FINAL_DEFOCI_UM)
    network = trainer.average.float()
    card = ModelCard(
        name=recipe.name,
        version=recipe.version,
        architecture=recipe.architecture,
        scale=4,
        valid=recipe.valid,
        training={
            "steps": trainer.step,
            "recipe": json.loads(recipe.model_dump_json(exclude={"data": {"real_folder"}})),
            "data_sha256": recipe.data_digest,
            "measured_files": [path.stem for path in recipe.real_files()],
            "device": device,
            "processor": platform.processor() or platform.machine(),
            "last_session_s": round(time.monotonic() - started),
        },
        figures={
            "conditions": {
                "noise_sd": validation.NOISE_SD,
                "coherence": validation.COHERENCE,
                "kappa_per_rad": validation.KAPPA_PER_RAD,
                "period_bands_um": [">40", "40-20", "20-10", "10-5.2", "<5.2"],
            },
            **validation.judge(network, frames),
        },
        misfit=calibrate_network(network, recipe),
    )
    card = save_network(folder / f"{recipe.name}-{recipe.version}.safetensors", network, card)
    draw_curves(folder / "log.jsonl", folder / "curves.png")
    draw_samples(network, frames, folder / "samples.png")
    return card
