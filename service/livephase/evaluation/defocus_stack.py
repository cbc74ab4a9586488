"""The measured defocus stack: single-shot phase of one plane against the TIE phase of the inner planes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from livephase.errors import ConfigurationError
from livephase.evaluation import drawing
from livephase.evaluation.margins import TIE_MARGIN_UM
from livephase.evaluation.measured import AGREEMENT_COLUMNS, compare, onto_grid, single_shot
from livephase.evaluation.report import Picture, Table, render_png
from livephase.phase.axial import fit_axial_derivative
from livephase.phase.tie import solve_derivative

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from livephase.evaluation.models import Shelf
    from livephase.evaluation.report import Cell

PIXEL_UM = 0.2004
WAVELENGTH_UM = 0.55
"""Assumed: the data do not state it. Phase is inversely proportional to it."""
_INNER = {"z-10.3.tif": -10.3, "z-00.65_init.tif": -0.65, "z+00.0.tif": 0.0, "z+09.75.tif": 9.75}
"""Stage position, um. The stage moves against the lens: lens defocus is its negative (docs/data.md)."""
_SHOTS = ("z-10.3.tif", "z+09.75.tif")


def stack_figure(folder: Path, shelf: Shelf) -> tuple[Picture, Table]:
    """Solve the inner planes by TIE, reconstruct each defocused one alone, and compare.

    Parameters
    ----------
    folder : Path
        ``defocus_stack``.
    shelf : Shelf
        Its shipped network is used.

    Raises
    ------
    ConfigurationError
        A plane is missing.
    """
    planes = {name: _read(folder / name) for name in _INNER}
    z_um = [-stage for stage in _INNER.values()]
    pair = planes["z+00.0.tif"] - planes["z-00.65_init.tif"]
    noise_sd = float(1.4826 * np.median(np.abs(pair - np.median(pair))) / np.sqrt(2))
    fit = fit_axial_derivative(np.stack(list(planes.values())), z_um, noise_sd)
    tie = solve_derivative(fit.derivative_per_um, fit.intensity, PIXEL_UM, WAVELENGTH_UM)
    margin = round(TIE_MARGIN_UM / PIXEL_UM)
    inside = np.zeros(tie.shape, np.float32)
    inside[margin:-margin, margin:-margin] = 1
    model = shelf.shipped
    figure = drawing.new_figure(14, 7.6)
    axes = figure.subplots(2, 3)
    rows: list[list[Cell]] = []
    lr_pixel_um = 0.0
    data: dict[str, object] = {
        "polynomial_order": fit.order,
        "tie_percentiles_rad": np.percentile(tie - np.median(tie), [0.5, 99.5]).tolist(),
    }
    for line, name in zip(axes, _SHOTS, strict=True):
        defocus = -_INNER[name]
        shot = single_shot(model, planes[name], PIXEL_UM, defocus, WAVELENGTH_UM)
        lr_pixel_um = 4 * shot.hr_pixel_um
        reference = onto_grid(tie, PIXEL_UM, shot)
        judged = onto_grid(inside, PIXEL_UM, shot) > 0.999
        found = compare(shot.phase_rad, reference, judged, shot.hr_pixel_um)
        shown = np.where(judged, reference - np.median(reference[judged]), np.nan)
        phase = shot.phase_rad - np.float32(np.median(shot.phase_rad[judged]))
        low, high = (float(v) for v in np.nanpercentile(shown, [0.5, 99.5]))
        drawing.image(line[0], shot.frame, f"{name}: lens defocus {defocus:+g} um", cmap="gray")
        drawing.image(line[1], phase, f"{model.label}, correlation {found.correlation:.3f}", (low, high))
        image = drawing.image(line[2], shown, "TIE of the inner planes", (low, high))
        figure.colorbar(image, ax=line[2], label="rad", shrink=0.7)
        rows.append([f"{name} ({defocus:+g} um)", *found.cells, " ".join(shot.problems) or "inside"])
        data[name] = {"agreement": asdict(found), "range_problems": shot.problems}
    picture = Picture(
        "defocus_stack",
        "Measured defocus stack",
        f"Measured bright-field planes of adherent cells (defocus_stack, 40x, {PIXEL_UM} um per pixel). "
        "Reference: universal "
        f"TIE on the axial derivative of the four inner planes, polynomial of order {fit.order} in z. The stage moves "
        "against the lens, so the plane at -10.3 um has a lens defocus of +10.3 um; that at +9.75 um lies on the other "
        f"side of focus. {model.label} is given each plane averaged onto its camera pixel ({lr_pixel_um:.3g} um); S is "
        "not told and the flat field is estimated from the plane. The planes serve both the reference and the single "
        "shot, so noise is shared.",
        render_png(figure),
        data,
    )
    columns = ["plane (lens defocus)", *AGREEMENT_COLUMNS, "range"]
    note = (
        f"{model.label} against TIE of the inner planes, {TIE_MARGIN_UM:g} um from the border; "
        "wavelength assumed 0.55 um."
    )
    return picture, Table("defocus_stack", "Measured defocus stack against TIE", note, columns, rows)


def _read(path: Path) -> NDArray[np.float32]:
    """Read a plane, divided by its mean: the lamp drifts."""
    import tifffile

    if not path.is_file():
        raise ConfigurationError(f"{path} is missing; set LIVEPHASE_SHARED to a full copy (docs/data.md)")
    plane = np.asarray(tifffile.imread(path), np.float32)
    return plane / plane.mean()
