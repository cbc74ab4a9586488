"""The report of an evaluation: one HTML file that carries its pictures, and one JSON with the numbers."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from livephase.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

_DPI = 90
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 1180px; margin: 24px auto; padding: 0 16px; }
h1 { font-size: 25px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 34px 0 6px; border-bottom: 1px solid #bbb; }
p.caption, p.note { margin: 6px 0 14px; max-width: 1000px; } p.note { color: #444; font-size: 14px; }
img { max-width: 100%; height: auto; border: 1px solid #ddd; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; margin: 6px 0; }
th, td { border: 1px solid #ccc; padding: 3px 8px; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { background: #f2f2f2; vertical-align: bottom; }
td.text { text-align: left; }
"""

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure.

    Attributes
    ----------
    key : str
        Its name in the JSON, e.g. ``"fig3"``.
    title, caption : str
        What it is; what it shows, on which data, with which noise.
    png : bytes
        The picture.
    data : dict
        The numbers behind it, JSON-ready.
    """

    key: str
    title: str
    caption: str
    png: bytes
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """One table; a cell that is None was not measured and is shown as a dash.

    Attributes
    ----------
    key, title, note : str
        Its name in the JSON, its heading, and how to read it.
    columns : list of str
        Headings.
    rows : list of list
        Cells.
    """

    key: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that was to be reached.

    Attributes
    ----------
    name : str
        What was measured.
    paper, least, aim : str
        The paper's figure, and what livephase is to reach.
    measured : float or None
        With the noise as in the paper, or with no noise to choose; None where it was not measured.
    measured_frame_noise : float or None
        With the noise on the binned frame.
    unit, note : str
        Unit of both; n, spread and conditions, or why there is no number.
    """

    name: str
    paper: str
    least: str
    aim: str
    measured: float | None
    measured_frame_noise: float | None
    unit: str
    note: str


@dataclass
class Report:
    """What a suite found.

    Attributes
    ----------
    suite, title, introduction : str
        Its name, and the head of the page.
    environment : dict
        ``software`` and ``hardware``.
    models : list of dict
        ``models.Model.describe`` of each.
    """

    suite: str
    title: str
    introduction: str
    environment: dict[str, Any]
    models: list[dict[str, Any]]
    pictures: list[Picture] = field(default_factory=list[Picture])
    tables: list[Table] = field(default_factory=list[Table])
    targets: list[Target] = field(default_factory=list[Target])

    def content(self) -> dict[str, Any]:
        """Return the JSON: suite, software, hardware, models, figures, tables, targets; null for what is not finite."""
        content = {
            "suite": self.suite,
            **self.environment,
            "models": self.models,
            "figures": {p.key: {"title": p.title, "caption": p.caption, **p.data} for p in self.pictures},
            "tables": {
                t.key: {"title": t.title, "note": t.note, "columns": t.columns, "rows": t.rows} for t in self.tables
            },
            "targets": [{name: getattr(target, name) for name in Target.__slots__} for target in self.targets],
        }
        return _finite(content)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``SUITE.html`` and ``SUITE.json``.

        Raises
        ------
        ConfigurationError
            The folder cannot be written.
        """
        page, numbers = folder / f"{self.suite}.html", folder / f"{self.suite}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            numbers.write_text(json.dumps(self.content(), indent=1, allow_nan=False), encoding="utf-8")
            page.write_text(self.page(), encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be written ({error.strerror}); choose another --out") from error
        return page, numbers

    def page(self) -> str:
        """Render the HTML."""
        parts = [f"<h1>{html.escape(self.title)}</h1>", f"<p>{html.escape(self.introduction)}</p>"]
        parts.append(_definition(self.environment))
        if self.targets:
            parts.append(_table(_targets_table(self.targets)))
        parts += [_picture(picture) for picture in self.pictures]
        parts += [_table(table) for table in self.tables]
        body = "\n".join(parts)
        head = f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{_STYLE}</style>'
        return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def render_png(figure: Figure) -> bytes:
    """Draw a figure into a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def show(value: Cell) -> str:
    """Write a cell: three or four significant digits; a dash for what was not measured."""
    if value is None:
        return "–"
    if isinstance(value, str | int):
        return str(value)
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.1f}"


def _finite(content: Any) -> Any:
    """Replace what JSON cannot say (NaN, infinity) by null."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _definition(environment: dict[str, Any]) -> str:
    rows: list[list[Cell]] = [
        [f"{part}: {key}", str(value)] for part, of in environment.items() for key, value in of.items()
    ]
    return _table(Table("environment", "Measured with", "", ["", ""], rows))


def _targets_table(targets: list[Target]) -> Table:
    rows: list[list[Cell]] = [
        [t.name, t.paper, t.least, t.aim, t.measured, t.measured_frame_noise, t.unit, t.note] for t in targets
    ]
    columns = [
        "figure to reach",
        "paper",
        "at least",
        "aim",
        "measured, noise as in the paper",
        "measured, noise on the frame (4x harder)",
        "unit",
        "n, spread, conditions",
    ]
    note = (
        "The paper adds its noise (sd 0.01) to the high-resolution intensity before 4 x 4 binning, which leaves 0.0025 "
        "on the camera frame. The second column has the full sd on the frame. Rows without noise to choose have "
        "one number."
    )
    return Table("targets", "Figures to reach", note, columns, rows)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    title = f'<h2 id="table-{table.key}">{html.escape(table.title)}</h2>'
    return f"{title}{note}<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _cell(cell: Cell) -> str:
    kind = ' class="text"' if isinstance(cell, str) else ""
    return f"<td{kind}>{html.escape(show(cell))}</td>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    return (
        f'<h2 id="figure-{picture.key}">{html.escape(picture.title)}</h2>'
        f'<img alt="{html.escape(picture.title)}" src="data:image/png;base64,{data}">'
        f'<p class="caption">{html.escape(picture.caption)}</p>'
    )
