"""Real phase through the forward model: measured cells that no training saw, at several defoci and noises."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from livephase.errors import ConfigurationError
from livephase.evaluation import drawing
from livephase.evaluation.figures_of_merit import judge
from livephase.evaluation.methods import single_shot
from livephase.evaluation.paper_frames import Z6, Frame, PaperFrames
from livephase.evaluation.report import Picture, Table, render_png
from livephase.training.metrics import ssim
from livephase.training.paper_fields import HELD_BACK_FILES, MeasuredPhase

if TYPE_CHECKING:
    from pathlib import Path

    from livephase.evaluation.models import Model, Shelf
    from livephase.evaluation.paper_frames import Noise
    from livephase.evaluation.report import Cell
    from livephase.evaluation.tables import Scores
    from livephase.training.paper_specs import SetSpec

DEFOCI_UM = (3.0, 4.0, 6.0, 9.0, 13.0)
NOISES: tuple[tuple[Noise, float], ...] = (("paper", 0.01), ("frame", 0.01), ("frame", 0.02))


def measured_source(folder: Path) -> MeasuredPhase:
    """Take the measured fields, those that are held back as test split.

    Raises
    ------
    ConfigurationError
        They are not there.
    """
    source = MeasuredPhase(folder)
    missing = [name for name in HELD_BACK_FILES if not (folder / f"{name}.npz").is_file()]
    if missing:
        raise ConfigurationError(
            f"{folder} has no {missing[0]}.npz; set LIVEPHASE_SHARED to the folder that holds data/ (docs/data.md)"
        )
    return source


def held_back_note(source: MeasuredPhase, model: Model) -> str:
    """Say by the card whether the fields were held back from the training of a model."""
    names = [path.stem for path in source.files("test")]
    trained = {str(name) for name in model.card.training.get("measured_files", [])}
    if seen := [name for name in names if name in trained]:
        return f"ATTENTION: {model.label} was trained on {', '.join(seen)} by its card."
    return f"{', '.join(names)}: held back from training by the card of {model.label}."


def real_scores(frames: PaperFrames, spec: SetSpec, models: list[Model], noise: Noise, sd: float) -> Scores:
    """Judge oracle, linear inversion and networks on the held-back fields."""
    scores: Scores = {}
    for index in range(frames.fields):
        frame = frames.field(spec, index, noise, sd)
        for result in single_shot(frame, models):
            merit = judge(result.phase_rad, frame.phase_rad, frame.labels, frame.setup.hr_pixel_um)
            scores.setdefault(result.method, []).append(merit)
    return scores


def real_phase_figure(frames: PaperFrames, shelf: Shelf, note: str) -> Picture:
    """Draw the held-back fields at z = 6 um: frame, network, truth, error."""
    figure = drawing.new_figure(15, 3.9 * frames.fields)
    axes = figure.subplots(frames.fields, 4, squeeze=False)
    scores: list[float] = []
    for row, index in zip(axes, range(frames.fields), strict=True):
        frame: Frame = frames.field(Z6, index)
        phase = shelf.shipped.field(frame.intensity, shelf.shipped.told(frame.defocus_um, frame.setup))
        scores.append(ssim(phase, frame.phase_rad))
        limits = (-0.1, float(np.percentile(frame.phase_rad, 99.8)))
        drawing.image(row[0], frame.intensity, f"field {index + 1}: camera frame, z = 6 um", cmap="gray")
        drawing.image(row[1], phase, f"{shelf.shipped.label}, SSIM {scores[-1]:.3f}", limits)
        shown = drawing.image(row[2], frame.phase_rad, "measured phase = truth", limits)
        drawing.scale_bar(row[2], 50, frame.setup.hr_pixel_um, frame.phase_rad.shape[0])
        figure.colorbar(shown, ax=row[2], label="rad", shrink=0.8)
        shown = drawing.image(row[3], phase - frame.phase_rad, "error", (-0.5, 0.5), "RdBu")
        figure.colorbar(shown, ax=row[3], label="rad", shrink=0.8)
    return Picture(
        "real_phase",
        "Real cell phase through the forward model",
        "Measured phase of live cells (qpi_cells, holographic microscope) as a pure phase object, taken to lie on the "
        f"0.65 um grid, z = 6 um, S = 0, noise as in the paper. {note} The error's scale is ±0.5 rad.",
        render_png(figure),
        {"ssim": scores},
    )


def real_sweep_table(found: dict[tuple[float, Noise, float], Scores]) -> Table:
    """Tabulate SSIM, RMSE and dry-mass bias over defocus and noise."""
    rows: list[list[Cell]] = []
    for (defocus, noise, sd), scores in found.items():
        for method, merits in scores.items():
            bias = np.concatenate([merit.mass_bias_percent for merit in merits])
            rows.append(
                [
                    method,
                    f"{defocus:g}",
                    f"{sd / 4 if noise == 'paper' else sd:g}",
                    float(np.mean([merit.ssim for merit in merits])),
                    " ".join(f"{merit.ssim:.3f}" for merit in merits),
                    float(np.mean([merit.rmse_rad for merit in merits])),
                    float(np.mean([merit.nrmse[-1] for merit in merits])),
                    float(np.median(bias)) if len(bias) else None,
                    float(np.median(np.abs(bias))) if len(bias) else None,
                    len(bias),
                ]
            )
    columns = [
        "method",
        "z (um)",
        "noise sd on the frame",
        "SSIM, mean",
        "SSIM, fields",
        "RMSE (rad)",
        "NRMSE, < 5.2 um",
        "dry-mass bias (%)",
        "|bias| (%)",
        "cells",
    ]
    note = (
        "S = 0, pure phase object. 0.0025 on the frame is the paper's noise (0.01 before binning). Cells by the labels "
        "that come with the data; those cut off by the border are left out."
    )
    return Table("real_phase", "Real cell phase over defocus and noise", note, columns, rows)
