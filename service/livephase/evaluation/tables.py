"""The tables of the reports: every method on full fields, the test fields themselves, the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from livephase.evaluation.dry_mass import REFRACTION_INCREMENT_UM3_PER_PG, dry_mass_pg
from livephase.evaluation.figures_of_merit import BAND_NAMES, Merit, summarise
from livephase.evaluation.report import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from livephase.evaluation.models import Shelf
    from livephase.evaluation.paper_frames import Frame
    from livephase.evaluation.report import Cell

_OCCUPIED_RAD = 0.15

Scores = dict[str, list[Merit]]
"""Method -> its figures on each field."""


def methods_table(key: str, title: str, note: str, scores: Scores, frames_needed: dict[str, str]) -> Table:
    """Tabulate every figure of merit of every method."""
    rows: list[list[Cell]] = []
    for method, merits in scores.items():
        s = summarise(merits)
        spread = f"{s['ssim_low']:.3f}-{s['ssim_high']:.3f}"
        rows.append(
            [
                method,
                frames_needed.get(method, "1"),
                s["ssim"],
                spread,
                s["psnr_db"],
                s["rmse_rad"],
                *s["nrmse"],
                s["mass_bias_percent"],
                s["mass_bias_abs_percent"],
                s["cells"],
                s["fields"],
            ]
        )
    columns = ["method", "frames", "SSIM, mean", "SSIM, fields", "PSNR (dB)", "RMSE (rad)"]
    columns += [f"NRMSE, {band} um" for band in BAND_NAMES]
    columns += ["dry-mass bias (%)", "|bias| (%)", "cells", "fields"]
    explained = (
        " NRMSE: error over signal by spatial period; 0 is perfect, 1 is as bad as an empty picture, and only the "
        "shortest band (< 5.2 um, two camera pixels) shows super-resolution. Dry-mass bias: median over cells of the "
        "integral of the phase against the true one; the wavelength and the refraction increment (alpha = "
        f"{REFRACTION_INCREMENT_UM3_PER_PG} um3/pg) cancel in it. The oracle is the true phase binned 4 x 4 and "
        "interpolated: a high SSIM without any super-resolution. Linear inversion and TIE leave the offset open; it is "
        "set to the truth's mean."
    )
    return Table(key, title, note + explained, columns, rows)


def confluences(frames: Sequence[Frame]) -> list[float]:
    """Share of the area that cells cover, for each field."""
    return [float(np.mean(frame.phase_rad > _OCCUPIED_RAD)) for frame in frames]


def fields_table(fields: Sequence[tuple[str, Frame]]) -> Table:
    """Tabulate the test fields: confluence, cells, and their dry mass."""
    rows: list[list[Cell]] = []
    for name, frame in fields:
        pixel, wavelength = frame.setup.hr_pixel_um, frame.setup.wavelength_um
        masses = dry_mass_pg(frame.phase_rad, frame.labels, pixel, wavelength)
        low, middle, high = np.percentile(masses, [10, 50, 90]) if len(masses) else (np.nan,) * 3
        rows.append(
            [
                name,
                f"{frame.phase_rad.shape[0]} x {frame.phase_rad.shape[1]}",
                f"{confluences([frame])[0]:.0%}",
                len(masses),
                f"{middle:.0f} ({low:.0f}-{high:.0f})",
                float(np.percentile(frame.phase_rad, 99.9)),
            ]
        )
    note = (
        f"Confluence: share of the area with more than {_OCCUPIED_RAD} rad. Cells: those that lie whole in the field. "
        f"Mass: median (10-90 %) with alpha = {REFRACTION_INCREMENT_UM3_PER_PG} um3/pg, phase at 0.55 um."
    )
    columns = ["test field", "HR pixels", "confluence", "cells", "dry mass (pg)", "peak phase, 99.9 % (rad)"]
    return Table("fields", "Test fields", note, columns, rows)


def models_table(shelf: Shelf, wanted: Sequence[str]) -> Table:
    """Tabulate the networks, and those that this installation lacks."""
    rows: list[list[Cell]] = []
    for model in shelf.all():
        valid = model.card.valid
        rows.append(
            [
                model.label,
                model.card.name,
                f"{model.card.architecture.name} {model.card.architecture.width}",
                _span(valid.defocus_um),
                _span(valid.coherence),
                _span(valid.lr_pixel_um),
                model.card.sha256[:16],
            ]
        )
    for name in shelf.missing(*wanted):
        absent: list[Cell] = [name, "not in this installation", None, None, None, None, None]
        rows.append(absent)
    columns = ["network", "card", "architecture", "z (um)", "S", "camera pixel (um)", "SHA-256"]
    return Table("models", "Networks", "A single value: trained there only, and always told it.", columns, rows)


def _span(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g}" if limits[0] == limits[1] else f"{limits[0]:g}-{limits[1]:g}"
