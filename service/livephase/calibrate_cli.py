"""The command ``livephase calibrate``: um of defocus for a unit of the lens, as a file and a plot."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotation at run time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from livephase.errors import ConfigurationError

if TYPE_CHECKING:
    from livephase.acquisition.calibration_plan import CalibrationPlan, CalibrationProgress
    from livephase_devices.lens_calibration import LensCalibration
    from livephase_devices.microscope import Microscope


def calibrate(
    config: Annotated[Path, typer.Option(help="TOML with the table [microscope].")],
    out: Annotated[Path, typer.Option(help="File of the calibration, .json; a plot is put beside it.")],
    from_position: Annotated[
        float | None, typer.Option("--from", help="Lowest lens position, in its unit; by default its limit.")
    ] = None,
    to_position: Annotated[
        float | None, typer.Option("--to", help="Highest lens position, in its unit; by default its limit.")
    ] = None,
    steps: Annotated[int, typer.Option(min=3, max=50, help="Lens positions at which the focus is measured.")] = 5,
    search_um: Annotated[float, typer.Option(min=6, max=200, help="How far to both sides to look for the focus.")] = 16,
    slope: Annotated[
        Literal["z_drive", "stated"] | None,
        typer.Option(help="By the focus drive, or focus only; by default the drive where there is one."),
    ] = None,
    exposure_ms: Annotated[float | None, typer.Option(min=0.001, help="By default the present one.")] = None,
) -> None:
    """Calibrate the lens: put a specimen of cells in focus, roughly, and let it measure.

    Lens and focus drive end where they were. See docs/calibration.md.
    """
    from livephase.acquisition.calibration_plan import CalibrationPlan
    from livephase.evaluation.calibration_figure import calibration_figure
    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.microscope import Microscope

    if out.suffix != ".json":
        raise ConfigurationError(f"--out {out}: the name of a calibration ends in .json")
    if not out.absolute().parent.is_dir():
        raise ConfigurationError(f"--out {out}: its folder does not exist; make it first")
    plan = CalibrationPlan(
        from_position=from_position, to_position=to_position, steps=steps, search_um=search_um, slope=slope
    )
    with Microscope(MicroscopeConfig.load(config)) as microscope:
        if exposure_ms is not None:
            microscope.set_exposure_ms(exposure_ms)
        made = _measure(microscope, plan)
    made.save(out)
    plot = out.with_suffix(".png")
    calibration_figure(made).savefig(plot, dpi=110)
    low, high = made.defocus_range_um
    print(f"{made.um_per_unit:.5g} +- {made.um_per_unit_sd:.2g} um of defocus for each {made.unit}")
    print(f"in focus at {made.focus_position:.5g} +- {made.focus_position_sd:.2g} {made.unit}")
    print(f"valid from {low:.4g} to {high:.4g} um; residuals {made.residual_rms_um:.3f} um (rms)")
    print(f"{out}, {plot}; to use it, write into [microscope] of a TOML in the same folder:")
    print(f'lens_calibration = "{out.name}"')


def _measure(microscope: Microscope, plan: CalibrationPlan) -> LensCalibration:
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from livephase.acquisition.calibration import DefocusCalibration

    columns = (
        TextColumn("calibrating"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def progressed(progress: CalibrationProgress) -> None:
            found = f"{progress.points[-1][1]:+.2f} um at {progress.points[-1][0]:.4g}" if progress.points else ""
            bar.update(task, completed=progress.exposures, total=progress.expected, description=found)

        made = DefocusCalibration(microscope, plan, progressed).run(time.time_ns())
        bar.update(task, total=bar.tasks[0].completed)
        return made
