"""The training loop: reads in one file, resumes after a kill, gives the same weights for the same recipe.

Every step's random numbers are keyed by (seed, step), and a checkpoint holds network, average, optimiser and step, so
a resumed run takes the steps that an unbroken one would have taken.
"""

from __future__ import annotations

import json
import time
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from livephase.errors import ModelError
from livephase.files import replace
from livephase.phase.weights import build_network, load_network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from livephase.training.batches import Batches
    from livephase.training.recipe import Recipe

_WARM_UP_STEPS = 200
_DECAY_FROM = 0.7
_LAST_RATE = 0.03
_SSIM_SIGMA_PX = 1.5
_SSIM_TAPS = 11
_SSIM_TILE_PX = 32
_SSIM_WEIGHT = 0.5


def _gaussian_band() -> Tensor:
    """Banded matrix (2 tile, tile) that filters a tile and what follows it by multiplication."""
    taps = np.exp(-((np.arange(_SSIM_TAPS) - _SSIM_TAPS // 2) ** 2) / (2 * _SSIM_SIGMA_PX**2))
    taps /= taps.sum()
    band = np.zeros((2 * _SSIM_TILE_PX, _SSIM_TILE_PX), np.float32)
    for column in range(_SSIM_TILE_PX):
        band[column : column + _SSIM_TAPS, column] = taps
    return torch.from_numpy(band)


def _filter_rows(image: Tensor, band: Tensor) -> Tensor:
    """Filter (B, Y, X) along its last axis, to X - taps + 1."""
    wanted, tile = image.shape[-1] - _SSIM_TAPS + 1, _SSIM_TILE_PX
    padded = functional.pad(image, (0, -wanted % tile + tile - _SSIM_TAPS + 1))
    # Two products of plain slices: convolutions cost 6 times as much, overlapping views 1.4 times.
    tiles = padded[..., :-tile].reshape(-1, tile) @ band[:tile] + padded[..., tile:].reshape(-1, tile) @ band[tile:]
    return tiles.view(*image.shape[:-1], -1)[..., :wanted]


class PhaseLoss(nn.Module):
    """L1 in rad + 0.5 (1 - SSIM)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("band", _gaussian_band())

    def forward(self, estimate: Tensor, truth: Tensor) -> Tensor:
        """Compare (B, 1, H, W) phases."""
        band = self.get_buffer("band")
        span = (truth.amax((1, 2, 3)) - truth.amin((1, 2, 3))).clamp(min=1.0)[:, None, None]
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        x, y = estimate[:, 0], truth[:, 0]

        def blur(images: list[Tensor]) -> tuple[Tensor, ...]:
            return _filter_rows(_filter_rows(torch.cat(images), band).transpose(-1, -2), band).chunk(len(images))

        with torch.no_grad():
            my, yy = blur([y, y * y])
        mx, xx, xy = blur([x, x * x, x * y])
        ssim = ((2 * mx * my + c1) * (2 * (xy - mx * my) + c2)) / (
            (mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2)
        )
        return (x - y).abs().mean() + _SSIM_WEIGHT * (1 - ssim.mean())


@dataclass(slots=True)
class Progress:
    """State of a training run after a step.

    Attributes
    ----------
    step, steps : int
        Steps taken and planned.
    loss : float
        Mean over the steps since the last report.
    remaining_s : float
        At the pace of this process.
    """

    step: int
    steps: int
    loss: float
    remaining_s: float


def start_network(recipe: Recipe) -> nn.Module:
    """Make the network that training starts from: untrained, or with the weights of ``initial_model``.

    Raises
    ------
    ModelError
        ``initial_model`` cannot be used, or has another architecture.
    """
    initial = recipe.training.initial_model
    if initial is None:
        return build_network(recipe.architecture)
    network, card = load_network(initial)
    if card.architecture != recipe.architecture:
        msg = f"training.initial_model {initial} is a {card.architecture}, the recipe asks for {recipe.architecture}"
        raise ModelError(msg)
    return network.train()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm up, hold, then fall linearly over the last part of the run."""
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    fall = min(1.0, (1 - step / steps) / (1 - _DECAY_FROM))
    return peak * warm * max(fall, _LAST_RATE)


class Trainer:
    """A training run in a folder.

    Parameters
    ----------
    recipe : Recipe
        What to do.
    batches : Batches
        What to train on.
    folder : Path
        Takes ``checkpoint.safetensors``, ``log.jsonl`` and the results.
    device : torch.device
        Where the network lies.
    """

    def __init__(self, recipe: Recipe, batches: Batches, folder: Path, device: torch.device) -> None:
        torch.manual_seed(recipe.training.seed)
        self.recipe, self.batches, self.folder, self.device = recipe, batches, folder, device
        network = start_network(recipe).to(self.device)
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(self.network).eval().requires_grad_(requires_grad=False)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.training.learning_rate, weight_decay=1e-4
        )
        self.loss: nn.Module = (PhaseLoss() if recipe.training.loss == "l1+ssim" else nn.MSELoss()).to(self.device)
        self.losses: list[float] = []
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's file."""
        return self.folder / "checkpoint.safetensors"

    def run(
        self,
        validate: Callable[[nn.Module], dict[str, Any]],
        report: Callable[[Progress], None],
    ) -> None:
        """Train to the recipe's last step.

        Parameters
        ----------
        validate : callable
            Gives figures for the averaged network; logged.
        report : callable
            Called about every 20 steps.
        """
        training = self.recipe.training
        started, first = time.monotonic(), self.step
        while self.step < training.steps:
            self.losses.append(self._one_step())
            self.step += 1
            if self.step % 20 == 0 or self.step == training.steps:
                pace = (time.monotonic() - started) / (self.step - first)
                left = pace * (training.steps - self.step)
                report(Progress(self.step, training.steps, float(np.mean(self.losses)), left))
            if self.step % 100 == 0:
                self._log({"step": self.step, "loss": float(np.mean(self.losses))})
                self.losses.clear()
            if self.step % training.checkpoint_every == 0 or self.step == training.steps:
                self._save()
            if self.step % training.validate_every == 0 or self.step == training.steps:
                self._log({"step": self.step, "validation": validate(self.average)})

    def _one_step(self) -> float:
        training = self.recipe.training
        rng = np.random.default_rng([training.seed, self.step])
        inputs, conditions, truth = self.batches.draw(training.batch, rng)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, training.steps, training.learning_rate)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=training.bf16):
            estimate = self.network(inputs.contiguous(memory_format=torch.channels_last), conditions)
        loss = self.loss(estimate.float(), truth)
        if not torch.isfinite(loss):
            msg = f"the loss is not finite at step {self.step}; lower training.learning_rate and resume"
            raise ModelError(msg)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        # The average forgets quickly at first, so that early validation is not that of the initial weights.
        decay = min(training.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
            for mean, value in zip(self.average.buffers(), self.network.buffers(), strict=True):
                mean.copy_(value)
        return float(loss.detach())

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def _save(self) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, parameter in enumerate(self.network.parameters()):
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{index}.{key}"] = value
        partial = self.checkpoint.with_suffix(".partial")
        save_file(
            {k: v.contiguous() for k, v in tensors.items()},
            partial,
            # The losses since the last entry of the log: a resumed run logs the means of an unbroken one.
            {"step": str(self.step), "data": self.recipe.data_digest, "losses": json.dumps(self.losses)},
        )
        replace(partial, self.checkpoint)

    def _resume(self) -> None:
        with safe_open(self.checkpoint, framework="pt") as file:
            metadata = file.metadata()
        if metadata["data"] != self.recipe.data_digest:
            msg = f"checkpoint {self.checkpoint} was made from other data; train into another folder"
            raise ModelError(msg)
        tensors = load_file(self.checkpoint, device=str(self.device))

        def part(name: str) -> dict[str, Tensor]:
            return {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}

        self.network.load_state_dict(part("network."))
        self.average.load_state_dict(part("average."))
        for index, parameter in enumerate(self.network.parameters()):
            self.optimiser.state[parameter] = {
                k: v if k == "step" else v.contiguous(memory_format=torch.preserve_format)
                for k, v in part(f"optimiser.{index}.").items()
            }
        self.step = int(metadata["step"])
        self.losses = json.loads(metadata["losses"])
        # What was logged after the checkpoint is about to be done again.
        log = self.folder / "log.jsonl"
        if log.exists():
            lines = log.read_text(encoding="utf-8").splitlines()
            kept = [f"{line}\n" for line in lines if json.loads(line)["step"] <= self.step]
            log.write_text("".join(kept), encoding="utf-8")
