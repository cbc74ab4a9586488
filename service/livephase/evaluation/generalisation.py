"""What figures 4 and 5 of the paper share: networks trained under one condition, tested under all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from livephase.evaluation import drawing
from livephase.evaluation.figures_of_merit import patch_ssim
from livephase.evaluation.report import Picture, Table, render_png
from livephase.training.metrics import ssim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.evaluation.models import Model
    from livephase.evaluation.paper_frames import Noise, PaperFrames
    from livephase.evaluation.report import Cell
    from livephase.training.paper_specs import SetSpec

_SAMPLE_PERCENTILE = 70
"""The sample patch is that with this percentile of peak phase: neither the thinnest nor the thickest."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """SSIM of each test patch of each set by each network.

    Attributes
    ----------
    specs : list of SetSpec
        The test sets.
    scores : dict
        (label, noise) -> SSIM (sets, patches).
    """

    specs: list[SetSpec] = field(default_factory=list["SetSpec"])
    scores: dict[tuple[str, Noise], NDArray[np.float64]] = field(
        default_factory=dict[tuple[str, "Noise"], "NDArray[np.float64]"]
    )

    def add(self, spec: SetSpec, keys: list[tuple[str, Noise]], found: list[NDArray[np.float64]]) -> None:
        """Append a test set."""
        self.specs.append(spec)
        for key, scores in zip(keys, found, strict=True):
            row = scores[None]
            self.scores[key] = np.concatenate([self.scores[key], row]) if key in self.scores else row

    def mean(self, label: str, noise: Noise, chosen: list[int] | None = None) -> float:
        """Mean SSIM over sets, all or those of some positions."""
        rows = self.scores[label, noise]
        return float((rows if chosen is None else rows[chosen]).mean())


def score_set(sweep: Sweep, frames: PaperFrames, spec: SetSpec, fixed: list[Model], shipped: Model) -> None:
    """Score the test patches of a set, and append it: all networks at the paper's noise, the shipped one at both."""
    judged: list[tuple[Model, Noise]] = [(shipped, "frame")]
    judged[:0] = [(model, "paper") for model in (*fixed, shipped)]
    found: list[NDArray[np.float64]] = []
    for model, noise in judged:
        intensity, truth = frames.patches(spec, noise)
        estimates = model.patches(intensity, model.told(spec.defocus_um, spec.setup))
        found.append(patch_ssim(estimates, truth))
    sweep.add(spec, [(model.label, noise) for model, noise in judged], found)


def sample_figure(
    key: str, title: str, caption: str, frames: PaperFrames, specs: list[SetSpec], models: list[Model]
) -> Picture:
    """Draw one test patch: a row for each test set, a column for each network, and its line profile."""
    truth = frames.patches(specs[0])[1]
    peaks = np.percentile(truth.astype(np.float32), 99.5, axis=(1, 2))
    chosen = int(np.argsort(peaks)[(len(peaks) - 1) * _SAMPLE_PERCENTILE // 100])
    true = truth[chosen].astype(np.float32)
    limits = (0.0, float(np.percentile(true, 99.9)))
    line = int(np.argmax(true.mean(axis=1)))
    pixel_um = specs[0].setup.hr_pixel_um
    columns = 2 + len(models)
    figure = drawing.new_figure(2.15 * columns + 4.6, 2.5 * len(specs))
    grid = figure.add_gridspec(len(specs), columns + 2)
    data: dict[str, dict[str, float]] = {}
    for row, spec in enumerate(specs):
        intensity = frames.patches(spec)[0][chosen]
        axes = [figure.add_subplot(grid[row, column]) for column in range(columns)]
        drawing.image(axes[0], intensity, f"frame, {spec.name}", cmap="gray")
        drawing.image(axes[1], true, "ground truth", limits)
        drawing.line_mark(axes[1], line, true.shape[1])
        drawing.scale_bar(axes[1], 40, pixel_um, true.shape[0])
        lines: list[tuple[str, NDArray[np.float32], str]] = []
        scores: dict[str, float] = {}
        for axis, model, colour in zip(axes[2:], models, drawing.COLOURS, strict=False):
            phase = model.patches(intensity[None], model.told(spec.defocus_um, spec.setup))[0]
            scores[model.label] = ssim(phase, true)
            drawing.image(axis, phase, f"{model.label}\nSSIM {scores[model.label]:.3f}", limits)
            lines.append((model.label, phase[line], colour))
        drawing.profiles(figure.add_subplot(grid[row, columns:]), pixel_um, true[line], lines, f"profile, {spec.name}")
        data[spec.name] = scores
    return Picture(key, title, caption, render_png(figure), {"ssim_of_sample": data})


def curve_figure(
    key: str, title: str, caption: str, sweep: Sweep, positions: list[float], shipped: str, xlabel: str
) -> Picture:
    """Draw mean SSIM over the condition, and the box plot of the shipped network."""
    series: list[tuple[str, NDArray[np.float64], str, str]] = []
    labels = [label for label, noise in sweep.scores if noise == "paper" and label != shipped]
    for label, colour in zip(labels, drawing.COLOURS, strict=False):
        series.append((label, sweep.scores[label, "paper"], colour, "-"))
    series.append((shipped, sweep.scores[shipped, "paper"], "#111111", "-"))
    series.append((f"{shipped}, noise on the frame", sweep.scores[shipped, "frame"], "#111111", ":"))
    boxed = sweep.scores[shipped, "paper"]
    lowest = float(np.floor(np.percentile(boxed, 0.5) * 10) / 10)
    figure = drawing.curves_and_boxes(positions, series, (shipped, boxed), xlabel, lowest)
    data = {
        "positions": positions,
        "patches": int(boxed.shape[1]),
        "mean_ssim": {f"{label}; noise {noise}": v.mean(axis=1).tolist() for (label, noise), v in sweep.scores.items()},
        "ssim_of_patches": {f"{label}; noise {noise}": v.tolist() for (label, noise), v in sweep.scores.items()},
    }
    return Picture(key, title, caption, render_png(figure), data)


def sweep_table(key: str, title: str, note: str, sweep: Sweep, names: list[str]) -> Table:
    """Tabulate mean SSIM +- sd over patches."""
    rows: list[list[Cell]] = []
    for (label, noise), values in sweep.scores.items():
        cells: list[Cell] = [f"{v.mean():.3f} ± {v.std():.3f}" for v in values]
        place = "0.0025 (paper)" if noise == "paper" else "0.01 (4x harder)"
        rows.append([label, place, *cells, float(values.mean())])
    return Table(key, title, note, ["network", "noise on the frame", *names, "mean"], rows)
