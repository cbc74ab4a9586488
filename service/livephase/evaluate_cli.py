"""The command ``livephase evaluate``: the paper's figures, or measured data, as one HTML report and one JSON."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotation at run time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase.evaluation.report import Report
    from livephase.evaluation.steps import Progress


def evaluate(
    suite: Annotated[
        Literal["paper", "real"],
        typer.Option(help="paper: the paper's figures on open data; real: measured phase and frames."),
    ],
    out: Annotated[Path, typer.Option(help="Folder that gets SUITE.html and SUITE.json.")],
    model: Annotated[Path | None, typer.Option(help="A model file instead of the bundled one.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of fields and frames, kept for the next run; by default in OUT.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON instead of the table.")] = False,
) -> None:
    """Evaluate the models and write a report."""
    import json

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    run = _suite(suite, model, out, cache or out / "cache")
    columns = (TextColumn("{task.description:32}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("evaluating", total=1.0)
        report = run(lambda name, share: bar.update(task, description=name, completed=share))
    page, numbers = report.write(out)
    if as_json:
        print(json.dumps(report.content(), indent=1, allow_nan=False))
        return
    _print_summary(report)
    print(f"{page}\n{numbers}")


def _suite(
    suite: Literal["paper", "real"], model: Path | None, out: Path, cache: Path
) -> Callable[[Progress | None], Report]:
    """Check everything that can be wrong, and return the suite as a function of its progress."""
    from livephase.errors import ConfigurationError
    from livephase.evaluation.environment import shared_data
    from livephase.evaluation.models import open_shelf
    from livephase.evaluation.real_phase import measured_source

    shelf, data = open_shelf(model), shared_data()
    measured = measured_source(data / "qpi_cells")
    for folder in (out, cache):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be made ({error.strerror}); choose another folder") from error
    if suite == "paper":
        from livephase.evaluation.suite_paper import run_paper

        return lambda progress: run_paper(shelf, data, measured, cache, progress=progress)
    from livephase.evaluation.suite_real import run_real

    return lambda progress: run_real(shelf, data, measured, cache, progress=progress)


def _print_summary(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    from livephase.evaluation.report import show

    table = Table("figure", "paper", "at least", "aim", "measured", "noise on frame", title=report.title)
    for target in report.targets:
        cells = (target.name, target.paper, target.least, target.aim)
        table.add_row(*cells, show(target.measured), show(target.measured_frame_noise))
    Console().print(table)
