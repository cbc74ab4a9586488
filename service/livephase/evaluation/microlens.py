"""Figure 6 a of the paper: the topography of a measured microlens, its profile and its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from livephase.errors import ConfigurationError
from livephase.evaluation import drawing
from livephase.evaluation.classical import enlarge
from livephase.evaluation.margins import LENS_MARGIN_UM
from livephase.evaluation.report import Picture, render_png
from livephase.phase.illumination import erode, find_field_stop
from livephase.phase.tie import solve_tie
from livephase_devices.optics import OpticalSetup, bin_pixels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from livephase.evaluation.models import Shelf

PIXEL_UM, DZ_UM, WAVELENGTH_UM = 0.2325, -1.0, 0.55
LENS_INDEX = 1.46
"""Refractive index for the height: that of fused silica, an assumption; the data do not state it."""
_FIT_RADIUS = 0.75


@dataclass(frozen=True, slots=True)
class Lens:
    """One lens, fitted by a paraboloid.

    Attributes
    ----------
    centre_px : tuple of float
        (row, column).
    radius_px : float
        Of its rim.
    focal_um : float
        From the curvature of the phase, phase = -pi r^2 / (wavelength f).
    """

    centre_px: tuple[float, float]
    radius_px: float
    focal_um: float


def read_planes(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read the in-focus and the defocused plane of a pair.

    Raises
    ------
    ConfigurationError
        A plane is not there.
    """
    import tifffile

    planes: list[NDArray[np.float32]] = []
    for name in ("I0.tif", "Iz.tif"):
        if not (folder / name).is_file():
            raise ConfigurationError(f"{folder / name} is missing; set LIVEPHASE_SHARED to a full copy (docs/data.md)")
        image = np.asarray(tifffile.imread(folder / name), np.float32)
        rows, columns = (side // 4 * 4 for side in image.shape)
        planes.append(image[:rows, :columns])
    return planes[0], planes[1]


def fit_lenses(phase_rad: NDArray[np.float32], lit: NDArray[np.bool_]) -> list[Lens]:
    """Fit every lens that lies whole inside the field stop."""
    inside = erode(lit, round(LENS_MARGIN_UM / PIXEL_UM))
    low, high = np.percentile(phase_rad[inside], [5, 95])
    labels = ndimage.label((phase_rad > low + 0.25 * (high - low)) & inside)[0]
    edge = np.unique(labels[inside & ~ndimage.binary_erosion(inside, iterations=2)])
    lenses: list[Lens] = []
    for index, window in enumerate(ndimage.find_objects(labels), start=1):
        body = labels[window] == index
        radius = float(np.sqrt(body.sum() / np.pi))
        height, width = body.shape
        if index in edge or radius < 50 or abs(height - width) > 0.15 * height:
            continue
        y, x = np.nonzero(body)
        centre = (window[0].start + float(y.mean()), window[1].start + float(x.mean()))
        lenses.append(Lens(centre, radius, _focal_um(phase_rad, centre, _FIT_RADIUS * radius)))
    return lenses


def _focal_um(phase_rad: NDArray[np.float32], centre: tuple[float, float], radius_px: float) -> float:
    y: NDArray[np.float64] = (np.arange(phase_rad.shape[0])[:, None] - centre[0]) * PIXEL_UM + np.zeros(phase_rad.shape)
    x: NDArray[np.float64] = (np.arange(phase_rad.shape[1])[None, :] - centre[1]) * PIXEL_UM + np.zeros(phase_rad.shape)
    near: NDArray[np.bool_] = y**2 + x**2 < (radius_px * PIXEL_UM) ** 2
    design = np.stack([y[near] ** 2 + x[near] ** 2, y[near], x[near], np.ones(int(near.sum()))], axis=1)
    curvature = np.linalg.lstsq(design, phase_rad[near].astype(np.float64), rcond=None)[0][0]
    return float(-np.pi / (WAVELENGTH_UM * curvature))


def height_um(phase_rad: NDArray[Any]) -> NDArray[Any]:
    """Thickness of glass that delays light by a phase."""
    return phase_rad * (WAVELENGTH_UM / (2 * np.pi * (LENS_INDEX - 1)))


def microlens_figure(folder: Path, shelf: Shelf, key: str = "fig6a") -> Picture:
    """Solve the full pair (truth), the binned pair and, where its network is there, the single frame; draw a lens.

    Parameters
    ----------
    folder : Path
        ``tie_microlens``.
    shelf : Shelf
        May hold the network ``microlens``.
    key : str
        Name of the figure.
    """
    focused, defocused = read_planes(folder)
    stop = find_field_stop(defocused)
    lit = np.ones(defocused.shape, np.bool_) if stop is None else stop
    truth = solve_tie(focused, defocused, DZ_UM, PIXEL_UM, WAVELENGTH_UM)
    lr = [bin_pixels(plane, 4) for plane in (focused, defocused)]
    coarse = solve_tie(lr[0], lr[1], DZ_UM, 4 * PIXEL_UM, WAVELENGTH_UM)
    lenses = fit_lenses(truth, lit)
    if not lenses:
        raise ConfigurationError(
            f"{folder} shows no whole microlens; set LIVEPHASE_SHARED to the real data (docs/data.md)"
        )
    middle = np.array(truth.shape) / 2
    lens = min(lenses, key=lambda one: float(np.hypot(*(np.array(one.centre_px) - middle))))
    side = int(2.3 * lens.radius_px) // 8 * 8
    centre = (round(lens.centre_px[0]), round(lens.centre_px[1]))
    cut = drawing.crop(truth, centre, side)
    methods = {"TIE of the binned pair": _aligned(drawing.crop(enlarge(coarse), centre, side), cut)}
    if "microlens" in shelf.named:
        model = shelf.named["microlens"]
        told = model.told(DZ_UM, OpticalSetup(WAVELENGTH_UM, 0.45, 0.0, PIXEL_UM, 4), coherence_known=False)
        phase = np.nan_to_num(model.field(lr[1], told))
        methods[f"{model.label} (one frame)"] = _aligned(drawing.crop(phase, centre, side), cut)
        network = f"Network: {model.label}; its card names its training data."
    else:
        network = (
            "No network was trained on microlenses in this installation (none is called 'microlens'), so the paper's "
            "network row is left out, and the TIE of the binned pair stands against that of the full one."
        )
    coarse_lens = drawing.crop(coarse, (centre[0] // 4, centre[1] // 4), side // 4)
    frame = drawing.crop(lr[1], (centre[0] // 4, centre[1] // 4), side // 4)
    png = _draw(cut, frame, coarse_lens, methods)
    focal = [one.focal_um for one in lenses]
    errors = {
        name: {
            "rmse_rad": float(np.sqrt(np.mean((phase - cut) ** 2))),
            "rmse_height_um": float(np.sqrt(np.mean(height_um(phase - cut) ** 2))),
            "focal_um": _focal_um_of_crop(phase, lens),
        }
        for name, phase in methods.items()
    }
    first = next(iter(errors.values()))
    return Picture(
        key,
        "Figure 6 a: topography of a microlens",
        "Reproduces figure 6 a1-a6 on measured data (tie_microlens, 0.55 um, pixel 0.2325 um, dz = -1 um, field "
        "stop in "
        f"view). Truth: universal TIE of the full-resolution pair, {np.ptp(cut):.0f} rad over the lens. {len(lenses)} "
        f"lenses lie whole in the field: focal lengths {', '.join(f'{f:.1f}' for f in focal)} um by paraboloids. "
        "Camera "
        f"frames are the full ones binned 4 x 4 (0.93 um). The binned pair's error has {first['rmse_rad']:.2f} "
        "rad rms, "
        f"{first['rmse_height_um']:.3f} um of height at an assumed index of {LENS_INDEX}. The zoomed profile shows the "
        f"stairs of the camera's pixels. {network}",
        png,
        {"focal_um": focal, "errors": errors, "lens_index": LENS_INDEX, "peak_to_valley_rad": float(np.ptp(cut))},
    )


def _aligned(phase: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Remove the offset, which TIE leaves open."""
    return phase - np.float32(np.mean(phase - truth))


def _focal_um_of_crop(phase: NDArray[np.float32], lens: Lens) -> float:
    centre = (phase.shape[0] / 2, phase.shape[1] / 2)
    return _focal_um(phase, centre, _FIT_RADIUS * lens.radius_px)


def _draw(
    truth: NDArray[np.float32],
    frame: NDArray[np.float32],
    coarse: NDArray[np.float32],
    methods: dict[str, NDArray[np.float32]],
) -> bytes:
    figure = drawing.new_figure(15, 8.2)
    grid = figure.add_gridspec(2, 4)
    base = float(np.percentile(truth, 2))
    limits = (0.0, float(np.ptp(truth)))
    name, best = list(methods.items())[-1]
    drawing.image(figure.add_subplot(grid[0, 0]), frame, "a2: camera frame, binned 4 x 4", cmap="gray")
    drawing.image(
        figure.add_subplot(grid[0, 1]), coarse - np.percentile(coarse, 2), "a1: TIE of the binned pair (rad)", limits
    )
    axis = figure.add_subplot(grid[0, 2])
    shown = drawing.image(axis, truth - base, "truth: TIE of the full pair (rad)", limits)
    drawing.scale_bar(axis, 20, PIXEL_UM, truth.shape[0])
    drawing.line_mark(axis, truth.shape[0] // 2, truth.shape[1])
    figure.colorbar(shown, ax=axis, shrink=0.8)
    surface = figure.add_subplot(grid[0, 3], projection="3d")
    step = max(truth.shape[0] // 60, 1)
    rows, columns = np.indices(best[::step, ::step].shape) * step * PIXEL_UM
    surface.plot_surface(columns, rows, height_um(best - base)[::step, ::step], cmap=drawing.PHASE_MAP, lw=0)
    surface.set(xlabel="um", ylabel="um", zlabel="height (um)")
    surface.set_title(f"a4: topography, {name}", fontsize=9)
    x = np.arange(truth.shape[1]) * PIXEL_UM
    row = truth.shape[0] // 2
    for position, span in ((grid[1, 0], slice(None)), (grid[1, 1], slice(int(0.58 * len(x)), int(0.72 * len(x))))):
        axis = figure.add_subplot(position)
        axis.plot(x[span], (truth - base)[row, span], color=drawing.TRUTH_COLOUR, lw=3, label="truth")
        stairs = np.repeat(coarse[row // 4], 4) - np.percentile(coarse, 2)
        stairs = stairs + np.mean(truth[row] - base - stairs[: len(x)])
        axis.step(x[span], stairs[span], color=drawing.COLOURS[0], lw=1.2, label="TIE of the binned pair", where="mid")
        for (label, phase), colour in zip(list(methods.items())[1:], drawing.COLOURS[1:], strict=False):
            axis.plot(x[span], (phase - base)[row, span], color=colour, lw=1.2, label=label)
        axis.set(xlabel="um", ylabel="phase (rad)")
        axis.set_title("a5: profile" if span == slice(None) else "a5: enlarged", fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, frameon=False)
    error = best - truth
    reach = float(np.percentile(np.abs(error), 99))
    axis = figure.add_subplot(grid[1, 2])
    shown = drawing.image(axis, error, f"a6: error (rad), {name}", (-reach, reach), "RdBu")
    figure.colorbar(shown, ax=axis, shrink=0.8)
    axis = figure.add_subplot(grid[1, 3])
    axis.hist(height_um(error).ravel(), bins=80, color=drawing.COLOURS[0])
    axis.set(xlabel="height error (um)", ylabel="pixels")
    axis.set_title("a6: error in height", fontsize=9)
    return render_png(figure)
