"""Figures 4 and 5 of the paper: networks over the defocus, and over the coherence parameter, of the test frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from livephase.evaluation.generalisation import Sweep, curve_figure, sample_figure, sweep_table
from livephase.training.paper_specs import COHERENCE_SETS, DEFOCUS_SETS, SetSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase.evaluation.models import Model, Shelf
    from livephase.evaluation.paper_frames import PaperFrames
    from livephase.evaluation.report import Picture, Table


@dataclass(frozen=True, slots=True)
class Axis:
    """One condition that the test frames differ in, and what its figure says.

    The captions may name ``{shipped}``, the judged network, ``{patches}``, the number of test patches of a set, and
    ``{valid}``, the range of defocus that the network states.

    Attributes
    ----------
    figure : int
        Number of the figure in the paper.
    value : callable
        The condition of a set.
    sets : tuple of SetSpec
        Test sets.
    samples : tuple of float
        Values at which one patch is shown.
    names : tuple of str
        Networks that were trained at one value, of ``models.COMPARISON_NAMES``.
    symbol, title, label : str
        As in file names, headings, and on the axis.
    sample_title, sample_caption, curve_caption : str
        Text of the pictures.
    fixed, columns : str
        What all sets have in common, and what the table's columns are.
    """

    figure: int
    value: Callable[[SetSpec], float]
    sets: tuple[SetSpec, ...]
    samples: tuple[float, ...]
    names: tuple[str, ...]
    symbol: str
    title: str
    label: str
    sample_title: str
    sample_caption: str
    curve_caption: str
    fixed: str
    columns: str

    def fixed_models(self, shelf: Shelf) -> list[Model]:
        """List the networks that were trained at one value and are there."""
        return [shelf.comparison[name] for name in self.names if name in shelf.comparison]


DEFOCUS = Axis(
    figure=4,
    value=lambda spec: spec.defocus_um,
    sets=DEFOCUS_SETS,
    samples=(3, 6, 9),
    names=("fixed-z3", "fixed-z6", "fixed-z9"),
    symbol="z",
    title="SSIM over the test defocus",
    label="test defocus (um)",
    sample_title="one patch at test z = 3, 6, 9 um",
    sample_caption="Simulated culture, S = 0, noise as in the paper (sd 0.01 before binning), pure phase "
    "object. A net of one defocus is told its own z whatever the frame's: too small a test z makes its phase too "
    "dim, too large a one too bright. {shipped} is told the frame's z.",
    curve_caption="{patches} unseen test patches (64 -> 256 "
    "pixels) at each z, S = 0. Solid: noise as in the paper; dotted: sd 0.01 on the binned frame, four times "
    "harder. A net of one defocus peaks at its own z; the adaptive one should stay level. Right: box (quartiles), "
    "whiskers 1.5 box lengths. {shipped} states z = {valid} um as its range; frames outside it are "
    "computed all the same.",
    fixed="S = 0",
    columns="test z in um",
)
COHERENCE = Axis(
    figure=5,
    value=lambda spec: spec.coherence,
    sets=COHERENCE_SETS,
    samples=(0.0, 0.3, 0.4),
    names=("fixed-s00", "fixed-s03", "fixed-s04"),
    symbol="s",
    title="SSIM over the test coherence parameter",
    label="test coherence parameter S",
    sample_title="one patch at test S = 0, 0.3, 0.4",
    sample_caption="Simulated culture, z = 4 um, noise as in the paper, pure phase object. A net of one S is "
    "told its own; {shipped} is told the frame's.",
    curve_caption="{patches} unseen test patches at each S, "
    "z = 4 um. Solid: noise as in the paper; dotted: sd 0.01 on the binned frame. The paper trains one net for each "
    "S; the shipped net is one for all.",
    fixed="z = 4 um",
    columns="test S",
)


def condition_figures(axis: Axis, sweep: Sweep, frames: PaperFrames, shelf: Shelf) -> tuple[list[Picture], Table]:
    """Draw figures 4b and 4c, or 5b and 5c, and their table."""
    missing = shelf.missing(*axis.names)
    absent = f" Not in this installation: {', '.join(missing)}." if missing else ""
    low, high = shelf.shipped.card.valid.defocus_um
    shipped = shelf.shipped.label
    said = {
        "shipped": shipped,
        "patches": len(next(iter(sweep.scores.values()))[0]),
        "valid": f"{low:g} to {high:g}",
    }
    number = axis.figure
    sample = sample_figure(
        f"fig{number}b",
        f"Figure {number}b: {axis.sample_title}",
        f"Reproduces figure {number}b. {axis.sample_caption.format(**said)}{absent}",
        frames,
        [spec for spec in axis.sets if axis.value(spec) in axis.samples],
        [*axis.fixed_models(shelf), shelf.shipped],
    )
    values = [axis.value(spec) for spec in sweep.specs]
    curve = curve_figure(
        f"fig{number}c",
        f"Figure {number}c: {axis.title}",
        f"Reproduces figure {number}c1 and c2. {axis.curve_caption.format(**said)}{absent}",
        sweep,
        values,
        shipped,
        axis.label,
    )
    table = sweep_table(
        f"ssim_over_{axis.symbol}",
        axis.title,
        f"Mean ± sd over the test patches, {axis.fixed}; columns: {axis.columns}.",
        sweep,
        [f"{value:g}" for value in values],
    )
    return [sample, curve], table
