"""Figures 7 and 8 of the paper: full fields with regions enlarged, and the time for each frame."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle

from livephase.evaluation import classical, drawing
from livephase.evaluation.dry_mass import segment_cells
from livephase.evaluation.environment import usable_cores
from livephase.evaluation.margins import WIDE_FIELD_MARGIN_PX as MARGIN_PX
from livephase.evaluation.paper_frames import IN_FOCUS, Z6, Frame, PaperFrames, frame_noise_sd
from livephase.evaluation.report import Picture, Table, render_png
from livephase.training.fields import simulated_field
from livephase.training.metrics import ssim
from livephase.training.paper_fields import save_array
from livephase.training.paper_specs import HR_PIXEL_UM, SetSpec, expose

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from livephase.evaluation.models import Model, Shelf
    from livephase.evaluation.report import Cell

_WIDE_SEED = 987_654_700
_WIDE_COVERAGE = (0.4, 0.4)
_WARM_UPS = 2
_ROI_PX = 256


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of one model for frames of one size.

    Attributes
    ----------
    label, runtime : str
        The model, and what computed it.
    shape : tuple of int
        (Y, X) of the frame.
    median_s, best_s : float
        From counts to cropped phase, preprocessing included.
    runs : int
    """

    label: str
    runtime: str
    shape: tuple[int, int]
    median_s: float
    best_s: float
    runs: int


def measure(model: Model, frame: Frame, runs: int) -> Timing:
    """Time a model on a frame: counts in, phase out, on all cores, after two runs that are not counted."""
    told = model.told(frame.defocus_um, frame.setup)
    times: list[float] = []
    for number in range(_WARM_UPS + runs):
        began = time.perf_counter()
        model.field(frame.intensity, told)
        if number >= _WARM_UPS:
            times.append(time.perf_counter() - began)
    shape = (frame.intensity.shape[0], frame.intensity.shape[1])
    return Timing(model.label, model.runtime.name, shape, float(np.median(times)), min(times), runs)


def timed_models(shelf: Shelf) -> list[Model]:
    """List the networks whose time is measured: shipped, fast, and the paper's U-Net."""
    models = [shelf.shipped]
    models += [shelf.named[name] for name in ("fast",) if name in shelf.named]
    return models + [shelf.comparison[name] for name in ("unet-16-z6",) if name in shelf.comparison]


def wide_frames(cache: Path, shape: tuple[int, int]) -> tuple[Frame, Frame]:
    """Make the wide field's frames at z = 6 um and in focus; the phase is kept as a file.

    Parameters
    ----------
    cache : Path
        Folder of the file.
    shape : tuple of int
        (Y, X) of the frames.
    """
    rows, columns = (4 * side + 2 * MARGIN_PX for side in shape)
    path = cache / f"wide-{_WIDE_SEED}-{rows}x{columns}.npy"
    if not path.exists():
        save_array(path, simulated_field(_WIDE_SEED, (rows, columns), HR_PIXEL_UM, _WIDE_COVERAGE))
    whole = np.load(path, allow_pickle=False)
    truth = np.ascontiguousarray(whole[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX])
    labels = segment_cells(truth, HR_PIXEL_UM, Z6.setup.wavelength_um)

    def frame(spec: SetSpec) -> Frame:
        seen = expose(whole, MARGIN_PX, spec, np.random.default_rng([_WIDE_SEED, int(spec.defocus_um)]))
        return Frame(seen, truth, labels, spec.defocus_um, spec.setup, frame_noise_sd("paper"))

    return frame(Z6), frame(IN_FOCUS)


def simulated_field_figure(frames: PaperFrames, shelf: Shelf, timings: list[Timing]) -> Picture:
    """Draw figure 7: the last test field of the paper's sets, and two regions of it."""
    index = frames.fields - 1
    frame = frames.field(Z6, index)
    phase = shelf.shipped.field(frame.intensity, shelf.shipped.told(frame.defocus_um, frame.setup))
    score = ssim(phase, frame.phase_rad)
    rows, columns = frame.phase_rad.shape
    side = min(_ROI_PX, rows // 2, columns // 2) // 4 * 4
    rois = _densest(frame.phase_rad, side, 2)
    figure = drawing.new_figure(14, 8.4)
    grid = figure.add_gridspec(2, 5)
    axis = figure.add_subplot(grid[:, :2])
    limits = (0.0, float(np.percentile(frame.phase_rad, 99.9)))
    shown = drawing.image(axis, phase, f"{shelf.shipped.label}, {rows} x {columns}, SSIM {score:.3f}", limits)
    figure.colorbar(shown, ax=axis, label="rad", shrink=0.6, location="bottom")
    _mark(axis, rois, side)
    data: dict[str, object] = {"ssim": score, "rois": [], "timings": [_timing(t) for t in timings]}
    scores: list[float] = []
    for row, centre in enumerate(rois):
        truth = drawing.crop(frame.phase_rad, centre, side)
        crop = drawing.crop(phase, centre, side)
        scores.append(ssim(crop, truth))
        lr = drawing.crop(frame.intensity, (centre[0] // 4, centre[1] // 4), side // 4)
        drawing.image(figure.add_subplot(grid[row, 2]), lr, f"ROI {row + 1}: camera frame", cmap="gray")
        drawing.image(figure.add_subplot(grid[row, 3]), crop, f"phase from that frame, SSIM {scores[-1]:.3f}", limits)
        last = figure.add_subplot(grid[row, 4])
        drawing.image(last, truth, "ground truth", limits)
        drawing.scale_bar(last, 40, HR_PIXEL_UM, side)
    data["rois"] = scores
    return Picture(
        "fig7",
        f"Figure 7: full field, {frame.intensity.shape[0]} x {frame.intensity.shape[1]} to {rows} x {columns}",
        f"Reproduces figure 7a on a simulated culture ({(frame.labels > 0).mean():.0%} of the area are whole cells), "
        "z = 6 um, S = 0, noise as in the paper. The whole field goes through the service's runtime in one piece. The "
        f"two regions are the busiest of the field. {_said(timings)}",
        render_png(figure),
        data,
    )


def wide_field_figure(frame: Frame, focused: Frame, shelf: Shelf, timings: list[Timing]) -> Picture:
    """Draw figure 8: the wide field with three regions: frame, TIE of the binned pair, network, truth."""
    model = shelf.shipped
    phase = model.field(frame.intensity, model.told(frame.defocus_um, frame.setup))
    tie = classical.two_plane_tie(
        focused.intensity, frame.intensity, frame.phase_rad, frame.setup, frame.defocus_um, "dct-iterative"
    )
    score = ssim(phase, frame.phase_rad)
    rows, columns = frame.phase_rad.shape
    side = min(_ROI_PX, rows // 2, columns // 2) // 4 * 4
    rois = _densest(frame.phase_rad, side, 3)
    limits = (0.0, float(np.percentile(frame.phase_rad, 99.9)))
    figure = drawing.new_figure(14, 12.5)
    grid = figure.add_gridspec(4, 12, height_ratios=(1.15, 1, 1, 1))
    for column, (image, title, cmap, bounds) in enumerate(
        (
            (frame.intensity, "a: camera frame", "gray", None),
            (
                tie,
                f"a: iterative DCT-TIE of two frames, SSIM {ssim(tie, frame.phase_rad):.3f}",
                drawing.PHASE_MAP,
                limits,
            ),
            (phase, f"d: {model.label} from one frame, SSIM {score:.3f}", drawing.PHASE_MAP, limits),
        )
    ):
        axis = figure.add_subplot(grid[0, 4 * column : 4 * column + 4])
        drawing.image(axis, image, title, bounds, cmap)
        if column == 2:
            _mark(axis, rois, side)
    data: dict[str, object] = {"ssim": score, "timings": [_timing(t) for t in timings]}
    scores: list[float] = []
    for row, centre in enumerate(rois, start=1):
        truth, crop = drawing.crop(frame.phase_rad, centre, side), drawing.crop(phase, centre, side)
        lr = drawing.crop(frame.intensity, (centre[0] // 4, centre[1] // 4), side // 4)
        scores.append(ssim(crop, truth))
        axes = [figure.add_subplot(grid[row, 3 * column : 3 * column + 3]) for column in range(4)]
        drawing.image(axes[0], lr, f"b: ROI {row}, camera frame", cmap="gray")
        drawing.image(axes[1], drawing.crop(tie, centre, side), "c: TIE of the binned pair", limits)
        drawing.image(axes[2], crop, f"e: from one frame, SSIM {scores[-1]:.3f}", limits)
        drawing.image(axes[3], truth, "f: ground truth", limits)
        drawing.scale_bar(axes[3], 40, HR_PIXEL_UM, side)
    data["rois"] = scores
    return Picture(
        "fig8",
        f"Figure 8: full field, {frame.intensity.shape[1]} x {frame.intensity.shape[0]} to {columns} x {rows}",
        "Reproduces figure 8 at the paper's frame size; the paper's measured HeLa frame is not public, this is a "
        f"simulated culture ({(frame.labels > 0).mean():.0%} of the area are whole cells), z = 6 um, S = 0, noise "
        "as in "
        "the paper. TIE is given a second frame and stops at the camera's pixel; the network has one frame. "
        f"{_said(timings)}",
        render_png(figure),
        data,
    )


def timing_table(timings: list[Timing]) -> Table:
    """Tabulate times."""
    rows: list[list[Cell]] = [
        [t.label, t.runtime, f"{t.shape[0]} x {t.shape[1]}", t.median_s, t.best_s, t.runs] for t in timings
    ]
    note = (
        f"Wall time from camera counts to cropped phase, preprocessing included, on {usable_cores()} cores of the "
        "processor named above; another load on the machine lengthens it. The paper: 0.3 s for 512 x 512 and 0.2 s for "
        "647 x 490 on an RTX 3090."
    )
    return Table(
        "times", "Time for each frame", note, ["network", "runtime", "frame", "median (s)", "best (s)", "runs"], rows
    )


def _densest(phase: NDArray[np.float32], side: int, count: int) -> list[tuple[int, int]]:
    """Centres of the tiles with the largest variance of phase."""
    rows, columns = phase.shape[0] // side, phase.shape[1] // side
    tiles = phase[: rows * side, : columns * side].reshape(rows, side, columns, side).var(axis=(1, 3))
    best = np.argsort(tiles.ravel())[::-1][:count]
    return [(int(i // columns) * side + side // 2, int(i % columns) * side + side // 2) for i in best]


def _mark(axis: Axes, centres: list[tuple[int, int]], side: int) -> None:
    for number, (row, column) in enumerate(centres, start=1):
        corner = (column - side / 2, row - side / 2)
        axis.add_patch(Rectangle(corner, side, side, fill=False, ec="white", lw=1.2))
        axis.text(corner[0] + 6, corner[1] + 6, str(number), color="white", fontsize=9, va="top")


def _said(timings: list[Timing]) -> str:
    parts = [f"{t.label} {t.median_s:.2f} s ({t.runtime}, median of {t.runs})" for t in timings]
    return f"Time for the frame, measured on {usable_cores()} CPU cores: {'; '.join(parts)}." if parts else ""


def _timing(timing: Timing) -> dict[str, object]:
    return {name: getattr(timing, name) for name in Timing.__slots__}
