"""Figure 6 b of the paper: one culture at three defoci in the paper's 40x / 0.6 NA set-up at half magnification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from livephase.evaluation import classical, drawing
from livephase.evaluation.dry_mass import segment_cells
from livephase.evaluation.figures_of_merit import judge, to_json
from livephase.evaluation.margins import OBJECTIVE_FIELD_MARGIN_PX
from livephase.evaluation.report import Picture, render_png
from livephase.training.fields import simulated_field
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.evaluation.models import Shelf

DEFOCI_UM = (3.0, 6.0, 9.0)
SETUP_40X = OpticalSetup(0.55, 0.6, 0.3, 0.17, 4)
"""More than the reach of the light at 9 um, 9 um x tan(asin 0.6) = 40 pixels."""
_FIELD_SEED = 987_654_321
_COVERAGE = (0.45, 0.45)
_SOURCE_POINTS = 24
_HR_NOISE_SD = 0.01
MODEL = "adaptive-40x"


def three_defoci_figure(shelf: Shelf, side_px: int) -> Picture:
    """Image a field that no training saw at three defoci, and reconstruct each frame.

    Parameters
    ----------
    shelf : Shelf
        Its ``adaptive-40x`` is used, if it is there.
    side_px : int
        Side of the HR field, a multiple of 32.
    """
    side = side_px + 2 * OBJECTIVE_FIELD_MARGIN_PX
    whole = simulated_field(_FIELD_SEED, (side, side), SETUP_40X.hr_pixel_um, _COVERAGE)
    inner = slice(OBJECTIVE_FIELD_MARGIN_PX, -OBJECTIVE_FIELD_MARGIN_PX)
    truth = whole[inner, inner]
    labels = segment_cells(truth, SETUP_40X.hr_pixel_um, SETUP_40X.wavelength_um)
    model = shelf.named.get(MODEL)
    limits = (0.0, float(np.percentile(truth, 99.9)))
    rows = 2 if model is None else 3
    figure = drawing.new_figure(13, 3.3 * (rows - 1) + 0.6)
    axes = figure.subplots(rows - 1, 4, squeeze=False)
    data: dict[str, object] = {"hr_pixels": side_px, "cells": int(labels.max())}
    rng = np.random.default_rng(_FIELD_SEED)
    lines: list[tuple[str, NDArray[np.float32], str]] = []
    line = int(np.argmax(truth.max(axis=1)))
    for column, defocus in enumerate(DEFOCI_UM):
        image = intensity(whole, SETUP_40X, defocus, points=_SOURCE_POINTS)[inner, inner]
        image = image + np.float32(_HR_NOISE_SD) * rng.standard_normal(image.shape, dtype=np.float32)
        frame = np.asarray(bin_pixels(image, 4), np.float32)
        drawing.image(axes[0, column], frame, f"b{column + 1}: camera frame, z = {defocus:g} um", cmap="gray")
        oracle = judge(classical.oracle(truth), truth, labels, SETUP_40X.hr_pixel_um)
        entry: dict[str, object] = {"oracle": to_json(oracle)}
        if model is not None:
            phase = model.field(frame, model.told(defocus, SETUP_40X))
            merit = judge(phase, truth, labels, SETUP_40X.hr_pixel_um)
            entry[model.label] = to_json(merit)
            drawing.image(axes[1, column], phase, f"b{column + 4}: {model.label}\nSSIM {merit.ssim:.3f}", limits)
            drawing.line_mark(axes[1, column], line, side_px)
            lines.append((f"z = {defocus:g} um", phase[line], drawing.COLOURS[column]))
        data[f"z = {defocus:g} um"] = entry
    shown = drawing.image(axes[0, 3], truth, "b7: ground truth", limits)
    drawing.scale_bar(axes[0, 3], 20, SETUP_40X.hr_pixel_um, side_px)
    figure.colorbar(shown, ax=axes[0, 3], label="rad", shrink=0.8)
    if model is not None:
        drawing.profiles(axes[1, 3], SETUP_40X.hr_pixel_um, truth[line], lines, "profile along the dashed line")
        said = f"One network, {model.label}, is told each frame's z; the paper trains one for each z."
    else:
        said = f"The network {MODEL} is not in this installation, so no phase is shown."
    return Picture(
        "fig6b",
        "Figure 6 b: one culture at z = 3, 6, 9 um, 40x / 0.6 NA at half magnification",
        "Reproduces figure 6 b1-b7 in the paper's second set-up (HR pixel 0.17 um, camera pixel 0.68 um, 0.55 um, "
        "S = 0.3) on simulated cells: the paper's HeLa frames are not public. Pure phase object, noise sd 0.01 before "
        f"the binning, one unseen field of {side_px} x {side_px} HR pixels with {int(labels.max())} whole cells. "
        f"{said}",
        render_png(figure),
        data,
    )
