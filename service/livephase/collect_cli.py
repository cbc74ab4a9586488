"""The command ``livephase collect``: training pairs from one's own microscope."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotation at run time
from typing import Annotated

import typer

from livephase.errors import ConfigurationError


def collect(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder of the dataset.")],
    config: Annotated[Path, typer.Option(help="TOML with the table [microscope]; its camera at full resolution.")],
    planes_um: Annotated[str, typer.Option(help="Defoci of the through-focus stack, um; 0 among them.")] = "-2,0,2",
    defocus_um: Annotated[str, typer.Option(help="Defoci of the training frames, um.")] = "3,6,9",
    fields: Annotated[int, typer.Option(min=1, help="Number of fields or time points.")] = 1,
    interval_s: Annotated[float, typer.Option(min=0, help="From one field to the next, s.")] = 0.0,
    average: Annotated[int, typer.Option(min=1, help="Exposures averaged for a plane of the stack.")] = 16,
    border_um: Annotated[
        float, typer.Option(min=0, help="Not used at the sides of a field: the label is wrong there.")
    ] = 40.0,
    ask: Annotated[bool, typer.Option("--ask", help="Wait for Enter before each field, to move the stage.")] = False,
) -> None:
    """Collect pairs to train on: a focus stack gives the phase (TIE), binned frames are the input.

    The camera's pixel is the high-resolution one; 4 x 4 binning makes the low-resolution frame. The lens ends
    where it was.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from livephase.training.collection import Collector, CollectPlan
    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.microscope import Microscope

    plan = CollectPlan(
        planes_um=_numbers("--planes-um", planes_um),
        defocus_um=_numbers("--defocus-um", defocus_um),
        average=average,
        fields=fields,
        interval_s=interval_s,
        border_um=border_um,
    )
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Microscope(MicroscopeConfig.load(config)) as microscope,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("", total=plan.exposures)
        collector = Collector(microscope, plan, out, lambda taken: bar.update(task, completed=taken))

        def before_field(index: int) -> None:
            if ask:
                bar.console.input(f"field {index + 1} of {fields}: move to it, focus, then press Enter ")

        try:
            collector.run(before_field)
        finally:
            done = len(collector.dataset.fields)
            print(f"{out}: {done} of {fields} fields, {done * len(plan.defocus_um)} pairs")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigurationError(f"{option} {text!r}: give numbers with commas between them, such as 3,6,9") from None
