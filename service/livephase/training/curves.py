"""Pictures of a training run: its curves, and samples beside their truth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from livephase.training.metrics import ssim
from livephase.training.validation import TestFrame, reconstruct

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def draw_curves(log: Path, picture: Path) -> None:
    """Draw loss and validation figures over the steps.

    Parameters
    ----------
    log : Path
        ``log.jsonl`` of a training run.
    picture : Path
        PNG to write.
    """
    entries: list[dict[str, Any]] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [(e["step"], e["loss"]) for e in entries if "loss" in e]
    checks = [(e["step"], e["validation"]) for e in entries if "validation" in e]
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].semilogy([s for s, _ in losses], [v for _, v in losses], lw=0.8)
    axes[0].set(xlabel="step", ylabel="loss, L1 (rad) + 0.5 (1 - SSIM)", title="training loss")
    for axis, key, label in ((axes[1], "ssim", "SSIM"), (axes[2], "rmse_rad", "RMSE (rad)")):
        for name in sorted({name for _, figures in checks for name in figures}):
            axis.plot([s for s, _ in checks], [f[name][key] for _, f in checks], marker=".", label=name)
        axis.set(xlabel="step", ylabel=label, title=f"unseen fields: {label}")
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)


def draw_samples(network: nn.Module, frames: list[TestFrame], picture: Path, defocus_um: float) -> None:
    """Draw one frame of each kind at a defocus: intensity, estimate, truth, error.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode.
    frames : list of TestFrame
        From ``validation.standard_frames``.
    picture : Path
        PNG to write.
    defocus_um : float
        Which of the frames.
    """
    first: dict[str, TestFrame] = {}
    for frame in frames:
        if frame.defocus_um == defocus_um:
            first.setdefault(frame.name, frame)
    if not first:
        return
    figure = Figure(figsize=(18, 4.6 * len(first)), layout="constrained")
    axes = figure.subplots(len(first), 4, squeeze=False)
    for row, frame in zip(axes, first.values(), strict=True):
        estimate = reconstruct(network, frame)
        top = float(frame.phase_rad.max())
        for axis, image, title, options in (
            (row[0], frame.frame, f"{frame.name}: camera frame", {"cmap": "gray"}),
            (
                row[1],
                estimate,
                f"estimate, SSIM {ssim(estimate, frame.phase_rad):.3f}",
                {"vmin": 0, "vmax": top},
            ),
            (row[2], frame.phase_rad, "truth (rad)", {"vmin": 0, "vmax": top}),
            (row[3], estimate - frame.phase_rad, "error (rad)", {"cmap": "RdBu", "vmin": -0.5, "vmax": 0.5}),
        ):
            shown = axis.imshow(image, **options)
            axis.set_title(title)
            axis.axis("off")
            figure.colorbar(shown, ax=axis, shrink=0.8)
    figure.savefig(picture, dpi=80)
