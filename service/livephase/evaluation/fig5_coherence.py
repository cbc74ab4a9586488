"""Figure 5 of the paper: networks over the coherence parameter of the test frames, z = 4 um."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livephase.evaluation.generalisation import Sweep, curve_figure, sample_figure, sweep_table
from livephase.training.paper_specs import COHERENCE_SETS

if TYPE_CHECKING:
    from livephase.evaluation.models import Model, Shelf
    from livephase.evaluation.paper_frames import PaperFrames
    from livephase.evaluation.report import Picture, Table

NAMES = ("fixed-s00", "fixed-s03", "fixed-s04")


def fixed_models(shelf: Shelf) -> list[Model]:
    """List the networks that were trained at one S."""
    return [shelf.comparison[name] for name in NAMES if name in shelf.comparison]


def coherence_figures(sweep: Sweep, frames: PaperFrames, shelf: Shelf) -> tuple[list[Picture], Table]:
    """Draw figures 5b and 5c, and their table."""
    missing = shelf.missing(*NAMES)
    absent = f" Not in this installation: {', '.join(missing)}." if missing else ""
    shipped = shelf.shipped.label
    samples = [spec for spec in COHERENCE_SETS if spec.coherence in (0.0, 0.3, 0.4)]
    five_b = sample_figure(
        "fig5b",
        "Figure 5b: one patch at test S = 0, 0.3, 0.4",
        "Reproduces figure 5b. Simulated culture, z = 4 um, noise as in the paper, pure phase object. A net of "
        "one S is "
        f"told its own; {shipped} is told the frame's." + absent,
        frames,
        samples,
        [*fixed_models(shelf), shelf.shipped],
    )
    five_c = curve_figure(
        "fig5c",
        "Figure 5c: SSIM over the test coherence parameter",
        f"Reproduces figure 5c1 and c2. {len(next(iter(sweep.scores.values()))[0])} unseen test patches at each S, "
        "z = 4 um. Solid: noise as in the paper; dotted: sd 0.01 on the binned frame. The paper trains one net "
        "for each "
        "S; the shipped net is one for all." + absent,
        sweep,
        [spec.coherence for spec in sweep.specs],
        shipped,
        "test coherence parameter S",
    )
    table = sweep_table(
        "ssim_over_s",
        "SSIM over the test coherence parameter",
        "Mean ± sd over the test patches, z = 4 um; columns: test S.",
        sweep,
        [f"{spec.coherence:g}" for spec in sweep.specs],
    )
    return [five_b, five_c], table
