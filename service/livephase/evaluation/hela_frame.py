"""The measured HeLa frame: its single-shot phase against the TIE phase of the pair."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from livephase.evaluation import drawing
from livephase.evaluation.margins import TIE_MARGIN_UM
from livephase.evaluation.measured import AGREEMENT_COLUMNS, compare, judged_half, onto_grid, single_shot
from livephase.evaluation.microlens import read_planes
from livephase.evaluation.report import Picture, Table, Target, render_png
from livephase.phase.illumination import erode, find_field_stop
from livephase.phase.tie import solve_tie

if TYPE_CHECKING:
    from pathlib import Path

    from livephase.evaluation.models import Model, Shelf
    from livephase.evaluation.report import Cell

PIXEL_UM, DZ_UM, WAVELENGTH_UM = 0.2325, 2.5, 0.55
MODEL = "adaptive-20x"


def hela_models(shelf: Shelf) -> list[Model]:
    """List the networks that the frame goes through: that of its objective first, if it is there."""
    return [shelf.named[MODEL], shelf.shipped] if MODEL in shelf.named else [shelf.shipped]


def hela_figure(folder: Path, shelf: Shelf) -> tuple[list[Picture], Table, list[Target]]:
    """Reconstruct the defocused frame alone, and compare it with TIE of both frames.

    Parameters
    ----------
    folder : Path
        ``tie_hela``.
    shelf : Shelf
        The networks.

    Returns
    -------
    pictures : list of Picture
        One for each network.
    table : Table
        All figures.
    targets : list of Target
        Correlation of the first network.
    """
    focused, defocused = read_planes(folder)
    tie = solve_tie(focused, defocused, DZ_UM, PIXEL_UM, WAVELENGTH_UM)
    stop = find_field_stop(defocused)
    lit = np.ones(defocused.shape, np.bool_) if stop is None else erode(stop, round(TIE_MARGIN_UM / PIXEL_UM))
    pictures: list[Picture] = []
    rows: list[list[Cell]] = []
    targets: list[Target] = []
    for model in hela_models(shelf):
        seen, said = judged_half(model, "tie_hela", (tie.shape[0], tie.shape[1]), round(TIE_MARGIN_UM / PIXEL_UM))
        shot = single_shot(model, defocused, PIXEL_UM, DZ_UM, WAVELENGTH_UM)
        reference = onto_grid(tie, PIXEL_UM, shot)
        judged = onto_grid((lit & seen).astype(np.float32), PIXEL_UM, shot) > 0.999
        found = compare(shot.phase_rad, reference, judged, shot.hr_pixel_um)
        inside = onto_grid(lit.astype(np.float32), PIXEL_UM, shot) > 0.999
        shown = np.where(inside, reference - np.median(reference[judged]), np.nan)
        phase = shot.phase_rad - np.float32(np.median(shot.phase_rad[judged & np.isfinite(shot.phase_rad)]))
        limits = tuple(float(v) for v in np.nanpercentile(shown[judged], [0.5, 99.5]))
        figure = drawing.new_figure(14, 5.3)
        axes = figure.subplots(1, 4)
        low, high = np.percentile(shot.frame[shot.frame > 0.5 * np.median(shot.frame)], [0.5, 99.5])
        drawing.image(axes[0], shot.frame, f"the one frame, {4 * shot.hr_pixel_um:.3g} um pixels", (low, high), "gray")
        drawing.image(axes[1], phase, f"{model.label}, correlation {found.correlation:.3f}", (limits[0], limits[1]))
        image = drawing.image(axes[2], shown, "TIE of the full-resolution pair", (limits[0], limits[1]))
        figure.colorbar(image, ax=axes[2], label="rad", shrink=0.6)
        error = np.where(judged, phase - shown, np.nan)
        image = drawing.image(axes[3], error, "difference, judged pixels only", (-0.7, 0.7), "RdBu")
        figure.colorbar(image, ax=axes[3], label="rad", shrink=0.6)
        outside = f" Outside the model's range: {' '.join(shot.problems)}" if shot.problems else ""
        pictures.append(
            Picture(
                f"hela_{model.card.name}",
                f"Measured HeLa frame, {model.label}",
                "Measured bright-field frame (tie_hela, 20x, 0.55 um, +2.5 um, field stop in view) averaged onto the "
                f"model's {4 * shot.hr_pixel_um:.3g} um pixels; S is not told, the flat field is estimated from "
                "the frame. "
                "Reference: universal TIE of the full-resolution pair. Judged inside the field stop, "
                f"{TIE_MARGIN_UM:g} um from "
                f"its edge; {said}. Medians of the judged pixels are removed from both phases.{outside}",
                render_png(figure),
                {"agreement": asdict(found), "judged": said, "range_problems": shot.problems},
            )
        )
        rows.append([model.label, *found.cells, said, " ".join(shot.problems) or "inside"])
        targets.append(
            Target(
                f"correlation with TIE, measured HeLa frame, {model.label}",
                "–",
                "0.85",
                "0.95",
                found.correlation,
                None,
                "",
                f"one field, {found.pixels} HR pixels of {shot.hr_pixel_um:.3g} um; {said}",
            )
        )
    columns = ["network", *AGREEMENT_COLUMNS, "judged", "range"]
    table = Table("hela", "Measured HeLa frame against its TIE phase", _NOTE, columns, rows)
    return pictures, table, targets


_NOTE = (
    "Slope: of the single-shot phase over TIE. SSIM, absolute: only the offset is removed, which TIE leaves open. TIE "
    "itself is not exact: its regularisation damps periods over 200 um."
)
