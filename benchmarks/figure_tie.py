"""TIE on measured planes: ``python -m benchmarks.figure_tie OUT.png`` writes a picture and prints the figures.

Top: microlenses with paraboloids fitted one by one. Middle: HeLa cells by the three solvers. Bottom: planes at 25 um of
a stack, predicted from those at -10, 0 and +10 um, beside the null predictor (the inner difference itself).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from matplotlib.figure import Figure

from livephase.phase.axial import fit_axial_derivative
from livephase.phase.illumination import erode, find_field_stop
from livephase.phase.lens_fit import fit_lens
from livephase.phase.stack_model import ThinObject, fit_coherence
from livephase.phase.tie import Solver, solve_derivative, solve_tie
from livephase.training.metrics import correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

PIXEL_UM, WAVELENGTH_UM = 0.2325, 0.55
SOLVERS: tuple[Solver, ...] = ("universal", "dct-iterative", "fft")
LENS_CENTRES_PX = ((318, 330), (318, 656), (635, 336), (635, 660))
LENS_RADIUS_UM = 36.0
FITTED_RADIUS_UM = 0.8 * LENS_RADIUS_UM
STOP_MARGIN_PX = 64
STACK = {"z-24.0": 24.0, "z-10.3": 10.3, "z+00.0": 0.0, "z+09.75": -9.75, "z+24.55": -24.55}
"""Plane and defocus in um: increasing stage z moves the focus of the lens below the specimen."""

STACK_BINNING, STACK_PIXEL_UM, STACK_NOISE_SD, ASSUMED_NA = 4, 0.2004, 0.004, 0.65


def main() -> int:
    """Write the picture and print the figures."""
    shared = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
    figure = Figure(figsize=(18, 19), layout="constrained")
    axes = figure.subplots(3, 3)
    _microlens(shared / "tie_microlens", axes[0])
    _hela(shared / "tie_hela", axes[1])
    _stack(shared / "defocus_stack", axes[2])
    figure.savefig(sys.argv[1], dpi=60)
    return 0


def _microlens(folder: Path, axes: NDArray[Any]) -> None:
    planes = [tifffile.imread(folder / name) for name in ("I0.tif", "Iz.tif")]
    phase = solve_tie(planes[0], planes[1], -1.0, PIXEL_UM, WAVELENGTH_UM, regularisation_period_um=500)
    _show(axes[0], planes[1], "microlenses, dz = -1 um", "gray")
    _show(axes[1], phase, "phase (rad)", "viridis")
    lengths: list[float] = []
    for centre in LENS_CENTRES_PX:
        fit = fit_lens(phase, centre, FITTED_RADIUS_UM, pixel_um=PIXEL_UM, wavelength_um=WAVELENGTH_UM)
        lengths.append(fit.focal_length_um)
        row = phase[round(fit.centre_px[0])]
        x_um = (np.arange(len(row)) - fit.centre_px[1]) * PIXEL_UM
        near = np.abs(x_um) < LENS_RADIUS_UM
        line = axes[2].plot(x_um[near], row[near] - fit.vertex_rad, label=f"f = {fit.focal_length_um:.1f} um")[0]
        parabola = -np.pi * x_um[near] ** 2 / (WAVELENGTH_UM * fit.focal_length_um)
        axes[2].plot(x_um[near], parabola, "--", color=line.get_color(), linewidth=0.8)
        print(f"microlens at {centre}: f = {fit.focal_length_um:.2f} um, residual {fit.residual_sd_rad:.2f} rad")
    spread = max(lengths) / min(lengths) - 1
    print(f"microlenses: mean {np.mean(lengths):.2f} um, extremes differ by {100 * spread:.2f} %")
    axes[2].set(xlabel="x (um)", ylabel="phase (rad)", title="profile (solid) and fitted paraboloid (dashed)")
    axes[2].legend()


def _hela(folder: Path, axes: NDArray[Any]) -> None:
    planes = [tifffile.imread(folder / name) for name in ("I0.tif", "Iz.tif")]
    stop = find_field_stop(planes[1])
    lit = np.ones(planes[1].shape, np.bool_) if stop is None else stop
    inside = erode(lit, STOP_MARGIN_PX)
    phases = {
        solver: solve_tie(planes[0], planes[1], 2.5, PIXEL_UM, WAVELENGTH_UM, solver=solver) for solver in SOLVERS
    }
    for axis, (solver, phase) in zip(axes, phases.items(), strict=True):
        agreement = correlation(phase[inside], phases["universal"][inside])
        low, high = np.percentile(phase[inside] - np.median(phase[inside]), [1, 99])
        print(f"hela, {solver}: {low:.2f} to {high:.2f} rad (1-99 %), correlation with universal {agreement:.3f}")
        shown = np.where(erode(lit, 12), phase - np.median(phase[inside]), np.nan)
        _show(axis, shown, f"{solver} (rad), correlation with universal {agreement:.3f}", "gray")


def _stack(folder: Path, axes: NDArray[Any]) -> None:
    z_um = list(STACK.values())
    recorded = np.stack([tifffile.imread(folder / f"{name}.tif").astype(np.float64) for name in STACK])
    blocks = (5, recorded.shape[1] // STACK_BINNING, STACK_BINNING, recorded.shape[2] // STACK_BINNING, STACK_BINNING)
    stack = recorded.reshape(blocks).mean(axis=(2, 4))
    stack /= stack.mean(axis=(1, 2), keepdims=True)
    pixel_um = STACK_BINNING * STACK_PIXEL_UM
    fit = fit_axial_derivative(stack[1:4], z_um[1:4], STACK_NOISE_SD)
    phase = solve_derivative(fit.derivative_per_um, fit.intensity, pixel_um, WAVELENGTH_UM)
    inner = np.zeros(phase.shape, np.bool_)
    inner[20:-20, 20:300] = True  # right of it the wall of the well is in view
    specimen = ThinObject(phase, stack[2], pixel_um, WAVELENGTH_UM, ASSUMED_NA)
    found = fit_coherence(specimen, stack[[1, 3]], [z_um[1], z_um[3]], inner)
    print(
        f"stack: order {fit.order}, S x NA = {found.coherence * ASSUMED_NA:.3f} (S = {found.coherence:.3f} at NA "
        f"{ASSUMED_NA}), gain {found.phase_gain:.3f}, unexplained in the inner planes {found.unexplained:.3f}"
    )
    kappa = -0.5 * float(np.polyfit(phase[inner], np.log(stack[2][inner]), 1)[0])
    print(f"stack: amplitude coupling in focus {kappa:.4f} per rad")
    outer = stack[0] - stack[4]
    near, far = (specimen.plane(z_um[plane], found.coherence, found.phase_gain) for plane in (0, 4))
    predictions = {
        "partially coherent model": near - far,
        "null (inner difference)": stack[1] - stack[3],
        "coherent model": specimen.plane(z_um[0], 0.0) - specimen.plane(z_um[4], 0.0),
    }
    limits = (float(np.percentile(outer[inner], 0.5)), float(np.percentile(outer[inner], 99.5)))
    _show(axes[0], outer, "measured plane at +24 um minus plane at -24.55 um", "gray", limits)
    axis = iter(axes[1:])
    for name, image in predictions.items():
        agreement = correlation(image[inner], outer[inner])
        print(f"stack, {name}: correlation with the outer difference {agreement:.3f}")
        if not name.startswith("coherent"):
            _show(next(axis), image, f"{name}, correlation {agreement:.3f}", "gray", limits)


def _show(axis: Axes, image: NDArray[Any], title: str, colours: str, limits: tuple[float, float] | None = None) -> None:
    low, high = np.nanpercentile(image, [0.5, 99.5]) if limits is None else limits
    shown = axis.imshow(image, cmap=colours, vmin=low, vmax=high)
    axis.set_title(title)
    axis.axis("off")
    axis.figure.colorbar(shown, ax=axis, shrink=0.7)


if __name__ == "__main__":
    sys.exit(main())
