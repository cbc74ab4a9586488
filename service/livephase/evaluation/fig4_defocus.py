"""Figure 4 of the paper: networks over the defocus of the test frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livephase.evaluation.generalisation import Sweep, curve_figure, sample_figure, sweep_table
from livephase.training.paper_specs import DEFOCUS_SETS

if TYPE_CHECKING:
    from livephase.evaluation.models import Model, Shelf
    from livephase.evaluation.paper_frames import PaperFrames
    from livephase.evaluation.report import Picture, Table

NAMES = ("fixed-z3", "fixed-z6", "fixed-z9")


def fixed_models(shelf: Shelf) -> list[Model]:
    """List the networks that were trained at one defocus."""
    return [shelf.comparison[name] for name in NAMES if name in shelf.comparison]


def defocus_figures(sweep: Sweep, frames: PaperFrames, shelf: Shelf) -> tuple[list[Picture], Table]:
    """Draw figures 4b and 4c, and their table."""
    missing = shelf.missing(*NAMES)
    absent = f" Not in this installation: {', '.join(missing)}." if missing else ""
    low, high = shelf.shipped.card.valid.defocus_um
    shipped = shelf.shipped.label
    samples = [spec for spec in DEFOCUS_SETS if spec.defocus_um in (3, 6, 9)]
    four_b = sample_figure(
        "fig4b",
        "Figure 4b: one patch at test z = 3, 6, 9 um",
        "Reproduces figure 4b. Simulated culture, S = 0, noise as in the paper (sd 0.01 before binning), pure phase "
        "object. A net of one defocus is told its own z whatever the frame's: too small a test z makes its phase too "
        f"dim, too large a one too bright. {shipped} is told the frame's z." + absent,
        frames,
        samples,
        [*fixed_models(shelf), shelf.shipped],
    )
    four_c = curve_figure(
        "fig4c",
        "Figure 4c: SSIM over the test defocus",
        f"Reproduces figure 4c1 and c2. {len(next(iter(sweep.scores.values()))[0])} unseen test patches (64 -> 256 "
        "pixels) at each z, S = 0. Solid: noise as in the paper; dotted: sd 0.01 on the binned frame, four times "
        "harder. A net of one defocus peaks at its own z; the adaptive one should stay level. Right: box (quartiles), "
        f"whiskers 1.5 box lengths. {shipped} states z = {low:g} to {high:g} um as its range; frames outside it are "
        "computed all the same." + absent,
        sweep,
        [spec.defocus_um for spec in sweep.specs],
        shipped,
        "test defocus (um)",
    )
    table = sweep_table(
        "ssim_over_z",
        "SSIM over the test defocus",
        "Mean ± sd over the test patches, S = 0; columns: test z in um.",
        sweep,
        [f"{spec.defocus_um:g}" for spec in sweep.specs],
    )
    return [four_b, four_c], table
