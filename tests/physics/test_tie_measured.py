"""TIE on measured planes: microlenses, HeLa cells, and planes of a stack that the solution has not seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

from livephase.phase.axial import fit_axial_derivative
from livephase.phase.illumination import erode, find_field_stop
from livephase.phase.lens_fit import fit_lens
from livephase.phase.stack_model import ThinObject, fit_coherence
from livephase.phase.tie import Solver, solve_derivative, solve_tie

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.real_data

DATA = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).parents[3] / "shared")) / "data"
WAVELENGTH_UM = 0.55


def planes(folder: str, *names: str) -> list[NDArray[np.float64]]:
    """Read measured images as float64."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"the measured data set is absent ({DATA / folder})")
    return [tifffile.imread(DATA / folder / f"{name}.tif").astype(np.float64) for name in names]


# ------------------------------------------------------------------------------------------------ microlens

LENS_CENTRES_PX = ((318, 330), (318, 656), (635, 336), (635, 660))
"""(row, column) of the four lenses that lie in view as a whole, read off the picture to a few pixels."""

LENS_RADIUS_UM = 36.0


def test_four_microlenses_have_one_focal_length() -> None:
    """Phase = -pi r^2 / (wavelength f) fitted to the inner 80 % of each lens; the extremes differ by under 2 %."""
    pixel_um = 0.2325
    in_focus, defocused = planes("tie_microlens", "I0", "Iz")
    # A lens is 72 um wide: the usual 200 um would take 2 % of its curvature.
    phase = solve_tie(in_focus, defocused, -1.0, pixel_um, WAVELENGTH_UM, regularisation_period_um=500)
    fits = [
        fit_lens(phase, centre, 0.8 * LENS_RADIUS_UM, pixel_um=pixel_um, wavelength_um=WAVELENGTH_UM)
        for centre in LENS_CENTRES_PX
    ]
    focal_lengths_um = [fit.focal_length_um for fit in fits]
    assert max(fit.residual_sd_rad for fit in fits) < 1.0
    assert max(focal_lengths_um) / min(focal_lengths_um) < 1.02
    assert all(55 < focal_length_um < 57 for focal_length_um in focal_lengths_um)
    # From the top of a lens to the valley beside it.
    assert np.ptp(phase[318, 330:500]) > 90


# ------------------------------------------------------------------------------------------------ HeLa


@pytest.fixture(scope="module")
def hela() -> tuple[NDArray[np.float64], dict[Solver, NDArray[np.float32]], NDArray[np.bool_]]:
    """In-focus plane, phase by each solver, and the pixels 15 um inside the field stop."""
    in_focus, defocused = planes("tie_hela", "I0", "Iz")
    solvers: tuple[Solver, ...] = ("universal", "dct-iterative", "fft")
    phases: dict[Solver, NDArray[np.float32]] = {
        solver: solve_tie(in_focus, defocused, 2.5, 0.2325, WAVELENGTH_UM, solver=solver) for solver in solvers
    }
    stop = find_field_stop(defocused)
    assert stop is not None
    return in_focus, phases, erode(stop, 64)


def test_hela_phase_has_the_published_range(
    hela: tuple[NDArray[np.float64], dict[Solver, NDArray[np.float32]], NDArray[np.bool_]],
) -> None:
    """The data note gives -1.2 to 1.8 rad: 3 rad from the emptiest place to the densest nucleus."""
    _, phases, inside = hela
    low, high = np.percentile(phases["universal"][inside], [1, 99])
    assert 2.4 < high - low < 3.6


def test_the_solvers_agree_within_the_stop(
    hela: tuple[NDArray[np.float64], dict[Solver, NDArray[np.float32]], NDArray[np.bool_]],
) -> None:
    _, phases, inside = hela
    universal = phases["universal"]
    for solver in ("dct-iterative", "fft"):
        assert np.corrcoef(phases[solver][inside], universal[inside])[0, 1] > 0.96
        fine = [image - gaussian_filter(image, 20 / 0.2325 / 2) for image in (phases[solver], universal)]
        inner = erode(inside, 86)
        assert np.corrcoef(fine[0][inner], fine[1][inner])[0, 1] > 0.995
        assert np.polyfit(fine[1][inner], fine[0][inner], 1)[0] == pytest.approx(1, abs=0.02)


def test_cells_are_darker_in_focus(
    hela: tuple[NDArray[np.float64], dict[Solver, NDArray[np.float32]], NDArray[np.bool_]],
) -> None:
    """Absorption and light scattered beyond the pupil follow the phase, some 3 % of intensity per rad."""
    in_focus, phases, inside = hela
    contrast = gaussian_filter(in_focus / in_focus[inside].mean(), 2)
    phase = gaussian_filter(phases["universal"].astype(np.float64), 2)
    y, x = np.nonzero(inside)
    surface = np.stack([y**i * 1e-3**i * x**j * 1e-3**j for i in range(4) for j in range(4 - i)], axis=1)
    flat = contrast[inside] - surface @ np.linalg.lstsq(surface, contrast[inside], rcond=None)[0]
    level = phase[inside] - surface @ np.linalg.lstsq(surface, phase[inside], rcond=None)[0]
    assert np.corrcoef(flat, level)[0, 1] < -0.8
    assert -0.045 < np.polyfit(level, flat, 1)[0] < -0.02


# ------------------------------------------------------------------------------------------------ stack


def test_inner_planes_predict_the_outer_ones() -> None:
    """Phase, coherence and gain come from z = -10, 0 and +10 um; the planes at 25 um are only compared."""
    names = ("z-24.0", "z-10.3", "z+00.0", "z+09.75", "z+24.55")
    # Increasing stage z moves the lens focus below the specimen.
    z_um = [24.0, 10.3, 0.0, -9.75, -24.55]
    recorded = np.stack(planes("defocus_stack", *names))
    stack = recorded.reshape(5, 256, 4, 336, 4).mean(axis=(2, 4))
    stack /= stack.mean(axis=(1, 2), keepdims=True)
    pixel_um = 4 * 0.2004
    fit = fit_axial_derivative(stack[1:4], z_um[1:4], 0.004)
    phase = solve_derivative(fit.derivative_per_um, fit.intensity, pixel_um, WAVELENGTH_UM)
    inner = np.zeros(phase.shape, np.bool_)
    inner[20:-20, 20:300] = True  # right of it the well's wall is in view
    specimen = ThinObject(phase, stack[2], pixel_um, WAVELENGTH_UM, 0.65)
    found = fit_coherence(specimen, stack[[1, 3]], [z_um[1], z_um[3]], inner)
    outer = (stack[0] - stack[4])[inner]
    predicted = {
        "null": stack[1] - stack[3],
        "model": specimen.plane(z_um[0], found.coherence, found.phase_gain)
        - specimen.plane(z_um[4], found.coherence, found.phase_gain),
        "coherent": specimen.plane(z_um[0], 0.0) - specimen.plane(z_um[4], 0.0),
    }
    correlation = {name: float(np.corrcoef(image[inner], outer)[0, 1]) for name, image in predicted.items()}
    assert correlation["model"] > correlation["null"] + 0.3
    assert correlation["model"] > correlation["coherent"] + 0.2
    assert correlation["model"] > 0.9
    for plane in (0, 4):
        single = specimen.plane(z_um[plane], found.coherence, found.phase_gain)
        assert np.corrcoef(single[inner], stack[plane][inner])[0, 1] > 0.85
