"""Shared drawing: images of frames and phase, line profiles, curves over a condition with a box plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

PHASE_MAP = "viridis"
COLOURS = ("#1f77b4", "#d95f02", "#2a9d4a", "#111111", "#8e44ad", "#b8860b", "#17a2b8", "#c2185b")
TRUTH_COLOUR = "#999999"


def new_figure(width: float, height: float) -> Figure:
    """Make a figure without the interactive machinery; size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def image(
    axis: Axes, pixels: NDArray[Any], title: str, limits: tuple[float, float] | None = None, cmap: str = PHASE_MAP
) -> Any:
    """Show an image without axes; the limits default to its 0.5 and 99.5 percentiles."""
    low, high = limits or (float(v) for v in np.nanpercentile(pixels, [0.5, 99.5]))
    shown = axis.imshow(pixels, cmap=cmap, vmin=low, vmax=high, interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])
    return shown


def scale_bar(axis: Axes, length_um: float, pixel_um: float, side_px: int) -> None:
    """Draw a scale bar into the lower left of an image ``side_px`` high."""
    length_px, y = length_um / pixel_um, side_px * 0.94
    axis.plot([side_px * 0.05, side_px * 0.05 + length_px], [y, y], color="white", lw=2.5)
    axis.text(
        side_px * 0.05 + length_px / 2,
        y - side_px * 0.025,
        f"{length_um:g} um",
        color="white",
        ha="center",
        va="bottom",
        fontsize=8,
    )


def line_mark(axis: Axes, row: int, width: int) -> None:
    """Mark the row of a profile."""
    axis.plot([0, width - 1], [row, row], color="white", lw=0.9, ls="--")


def profiles(
    axis: Axes, pixel_um: float, truth: NDArray[Any], lines: Sequence[tuple[str, NDArray[Any], str]], title: str
) -> None:
    """Draw line profiles over the truth, in rad over um; each line has name, values and colour."""
    x = np.arange(len(truth)) * pixel_um
    axis.fill_between(x, truth, color="#dddddd", lw=0)
    axis.plot(x, truth, color=TRUTH_COLOUR, lw=2.2, label="truth")
    for name, values, colour in lines:
        axis.plot(x, values, color=colour, lw=1.2, label=name)
    axis.set(xlabel="um", ylabel="phase (rad)")
    axis.set_title(title, fontsize=9)
    axis.margins(x=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, frameon=False)


def curves_and_boxes(
    positions: Sequence[float],
    series: Sequence[tuple[str, NDArray[np.float64], str, str]],
    boxed: tuple[str, NDArray[np.float64]],
    xlabel: str,
    lowest: float,
) -> Figure:
    """Draw mean SSIM over a condition for several networks, and the box plot of one.

    Parameters
    ----------
    positions : sequence of float
        The condition.
    series : sequence of (name, SSIM (conditions, patches), colour, line style)
        The curves.
    boxed : (name, SSIM (conditions, patches))
        The box plot.
    xlabel : str
        Of both axes.
    lowest : float
        Lowest SSIM of the box plot's axis.
    """
    figure = new_figure(13, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    for name, values, colour, style in series:
        left.plot(positions, values.mean(axis=1), color=colour, ls=style, marker="o", ms=3.5, lw=1.5, label=name)
    low, high = np.percentile(boxed[1], [25, 75], axis=1)
    left.fill_between(positions, low, high, color=series[-1][2], alpha=0.12, lw=0)
    left.set(xlabel=xlabel, ylabel="SSIM", ylim=(None, 1.0))
    left.set_title(f"mean over the test patches; band: middle half of {boxed[0]}", fontsize=10)
    left.set_xticks(positions)
    left.grid(alpha=0.3)
    left.legend(fontsize=8, loc="lower right")
    step = positions[1] - positions[0] if len(positions) > 1 else 1.0
    right.boxplot(
        list(boxed[1]),
        positions=list(positions),
        widths=0.55 * step,
        flierprops={"ms": 3, "alpha": 0.5},
        medianprops={"color": COLOURS[1]},
    )
    right.set(xlabel=xlabel, ylim=(lowest, 1.0))
    right.set_xlim(positions[0] - step, positions[-1] + step)
    right.set_xticks(positions, [f"{p:g}" for p in positions])
    right.set_title(f"{boxed[0]}: SSIM of the {boxed[1].shape[1]} patches", fontsize=10)
    right.grid(alpha=0.3, axis="y")
    return figure


def crop(image: NDArray[Any], centre: tuple[int, int], side: int) -> NDArray[Any]:
    """Cut a square of ``side`` pixels around a centre, moved inside the image."""
    rows, columns = image.shape
    top = min(max(centre[0] - side // 2, 0), rows - side)
    left = min(max(centre[1] - side // 2, 0), columns - side)
    return image[top : top + side, left : left + side]
