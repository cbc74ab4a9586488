"""Figure 3 of the paper: methods compared on two cells, with line profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from livephase.evaluation import drawing
from livephase.evaluation.methods import ORACLE, Result
from livephase.evaluation.report import Picture, render_png
from livephase.training.metrics import ssim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.evaluation.models import Shelf
    from livephase.evaluation.paper_frames import Frame

_SIDE_PX = 112
_NAMES = "AB"


def two_cells(frame: Frame) -> list[tuple[int, int]]:
    """Choose two cells by rule, not by eye: those nearest to the median and to the 85th percentile of peak phase."""
    index = np.arange(1, int(frame.labels.max()) + 1)
    peaks = np.asarray(ndimage.maximum(frame.phase_rad, frame.labels, index))
    centres = np.asarray(ndimage.center_of_mass(frame.phase_rad, frame.labels, index)).reshape(-1, 2)
    half = min(_SIDE_PX, *frame.phase_rad.shape) // 2
    free = np.all((centres >= half) & (centres <= np.array(frame.phase_rad.shape) - half), axis=1)
    if not free.any():
        rows, columns = frame.phase_rad.shape
        return [(rows // 8 * 4, columns // 8 * 4)] * 2
    chosen: list[tuple[int, int]] = []
    for percentile in (50, 85):
        wanted = np.percentile(peaks[free], percentile)
        best = int(np.argmin(np.where(free, np.abs(peaks - wanted), np.inf)))
        # On a whole camera pixel, so that the crops of frame and phase show the same place.
        row, column = (round(float(value) / 4) * 4 for value in centres[best])
        chosen.append((row, column))
    return chosen


def methods_figure(
    frame: Frame, results: list[Result], field_ssim: dict[str, float], shelf: Shelf, where: str
) -> Picture:
    """Draw the methods on two cells of a field.

    Parameters
    ----------
    frame : Frame
        The field at z = 6 um.
    results : list of Result
        Of every method on it.
    field_ssim : dict
        Method -> SSIM over the whole field.
    shelf : Shelf
        Tells which networks are missing.
    where : str
        Name of the field and its noise, for the caption.
    """
    shown = [result for result in results if result.method != ORACLE]
    side = min(_SIDE_PX, *frame.phase_rad.shape) // 8 * 8
    columns = len(shown) + 2
    figure = drawing.new_figure(1.75 * columns, 8.0)
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    upper, lower = halves
    images, plots = upper.subplots(2, columns, squeeze=False), lower.subplots(1, 2)
    cells: dict[str, dict[str, float]] = {}
    for row, centre in enumerate(two_cells(frame)):
        truth = drawing.crop(frame.phase_rad, centre, side)
        limits = (0.0, float(np.percentile(truth, 99.9)))
        lr = drawing.crop(frame.intensity, (centre[0] // 4, centre[1] // 4), side // 4)
        axes = images[row]
        drawing.image(axes[0], lr, f"cell {_NAMES[row]}: camera frame", cmap="gray")
        drawing.image(axes[1], truth, "ground truth", limits)
        drawing.scale_bar(axes[1], 20, frame.setup.hr_pixel_um, side)
        line = _line(truth)
        drawing.line_mark(axes[1], line, side)
        scores: dict[str, float] = {}
        image = None
        for axis, result in zip(axes[2:], shown, strict=True):
            crop = drawing.crop(result.phase_rad, centre, side)
            scores[result.method] = ssim(crop, truth)
            image = drawing.image(axis, crop, f"{_short(result.method)}\nSSIM {scores[result.method]:.3f}", limits)
        if image is not None:
            upper.colorbar(image, ax=axes[-1], label="rad", shrink=0.9)
        cells[_NAMES[row]] = scores
        lines = [
            (_short(result.method), drawing.crop(result.phase_rad, centre, side)[line], colour)
            for result, colour in zip(shown, drawing.COLOURS, strict=False)
        ]
        drawing.profiles(plots[row], frame.setup.hr_pixel_um, truth[line], lines, f"profile through cell {_NAMES[row]}")
    missing = shelf.missing("srcnn-z6", "unet-16-z6", "fixed-z6")
    absent = f" Not in this installation and so not shown: {', '.join(missing)}." if missing else ""
    return Picture(
        "fig3",
        "Figure 3: methods compared on two cells",
        f"Reproduces figure 3 of the paper. {where}, z = 6 um, S = 0, pure phase object. The two TIE methods are given "
        "a second, in-focus frame; all others see the one camera frame. TIE and the linear inversion leave the offset "
        "open, and it is set to the truth's mean. Look at the inner structure: TIE and the linear inversion stop at "
        "the camera's pixel, SRCNN cannot find the level of a cell, the U-Nets reach the truth's profile (grey)."
        + absent,
        render_png(figure),
        {"ssim_of_cells": cells, "ssim_of_field": field_ssim, "missing": missing},
    )


def _line(truth: NDArray[np.float32]) -> int:
    """Row of the profile: where the cell in the middle third is thickest."""
    third = truth.shape[0] // 3
    middle = truth[third : 2 * third, third : 2 * third]
    return third + int(np.argmax(ndimage.gaussian_filter(middle, 3).max(axis=1)))


def _short(method: str) -> str:
    return method.replace("the paper's U-Net, width 16", "paper's U-Net (16)").replace("net trained at", "net of")
