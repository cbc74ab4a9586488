"""Picture of a defocus calibration: the measured points with their line, and what is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from livephase.evaluation.drawing import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from livephase_devices.lens_calibration import LensCalibration


def calibration_figure(made: LensCalibration) -> Figure:
    """Draw a calibration.

    Parameters
    ----------
    made : LensCalibration
        Any; one without a measured slope has a single point.
    """
    positions = np.array([point.position for point in made.points])
    ends = np.array(made.position_range)
    figure = new_figure(7, 6)
    line, rest = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    line.plot(ends, (ends - made.focus_position) * made.um_per_unit, color=COLOURS[0], lw=1.2)
    line.plot(positions, [point.defocus_um for point in made.points], "o", color=COLOURS[1], ms=5)
    line.axhline(0, color="#bbbbbb", lw=0.8)
    line.axvline(made.focus_position, color="#bbbbbb", lw=0.8)
    line.set(ylabel="defocus (um)")
    stated = " (stated)" if made.method == "stated" else f" ± {made.um_per_unit_sd:.2g}"
    line.set_title(
        f"{made.microscope}, {made.lens}: {made.um_per_unit:.5g}{stated} um/{made.unit}, focus at "
        f"{made.focus_position:.4g} ± {made.focus_position_sd:.2g} {made.unit}\n{made.date_utc[:19]}Z"
        + ("" if made.temperature_c is None else f", {made.temperature_c:.1f} °C"),
        fontsize=10,
    )
    rest.axhline(0, color="#bbbbbb", lw=0.8)
    rest.plot(positions, [point.residual_um for point in made.points], "o", color=COLOURS[1], ms=5)
    largest = max(0.1, 1.3 * max(abs(point.residual_um) for point in made.points))
    rest.set(
        xlabel=f"lens position ({made.unit})",
        ylabel=f"residual (um)\nrms {made.residual_rms_um:.3f}",
        ylim=(-largest, largest),
    )
    for axis in (line, rest):
        axis.grid(alpha=0.3)
    return figure
