"""The suite ``real``: measured phase through the forward model, and measured frames against TIE."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from livephase.evaluation import real_phase, tables
from livephase.evaluation.defocus_stack import stack_figure
from livephase.evaluation.environment import environment
from livephase.evaluation.figures_of_merit import summarise
from livephase.evaluation.hela_frame import MODEL, hela_figure
from livephase.evaluation.microlens import microlens_figure
from livephase.evaluation.paper_frames import Z6, PaperFrames
from livephase.evaluation.report import Report, Target
from livephase.evaluation.steps import Step, run_steps
from livephase.evaluation.targets import mass_target, real_ssim_target
from livephase.training.paper_specs import SetSpec

if TYPE_CHECKING:
    from pathlib import Path

    from livephase.evaluation.models import Shelf
    from livephase.evaluation.paper_frames import Noise
    from livephase.evaluation.steps import Progress
    from livephase.evaluation.tables import Scores
    from livephase.training.paper_fields import MeasuredPhase

_INTRODUCTION = (
    "Measured data only: phase of live cells put through the forward model (pure phase objects, fields held back from "
    "training), and measured bright-field frames whose single-shot phase is set beside the TIE phase of several planes."
)


def run_real(
    shelf: Shelf,
    data: Path,
    measured: MeasuredPhase,
    cache: Path,
    progress: Progress | None = None,
) -> Report:
    """Run the suite; the arguments are those of ``suite_paper.run_paper``."""
    report = Report(
        "real",
        "livephase: measured cells and frames",
        _INTRODUCTION,
        environment(),
        [model.describe() for model in shelf.all()],
    )
    frames = PaperFrames(measured, cache)
    note = real_phase.held_back_note(measured, shelf.shipped)
    models = [shelf.named["fast"]] if "fast" in shelf.named else []
    models.append(shelf.shipped)
    found: dict[tuple[float, Noise, float], Scores] = {}

    def score(defocus_um: float, noise: Noise, sd: float) -> None:
        spec = SetSpec(f"z = {defocus_um:g} um", defocus_um)
        found[defocus_um, noise, sd] = real_phase.real_scores(frames, spec, models, noise, sd)

    def draw_phase() -> None:
        report.pictures.append(real_phase.real_phase_figure(frames, shelf, note))
        report.tables.append(real_phase.real_sweep_table(found))
        report.targets += _targets(found, shelf.shipped.label, note)

    def draw_hela() -> None:
        pictures, table, targets = hela_figure(data / "tie_hela", shelf)
        report.pictures += pictures
        report.tables.append(table)
        report.targets += targets

    def draw_stack() -> None:
        picture, table = stack_figure(data / "defocus_stack", shelf)
        report.pictures.append(picture)
        report.tables.append(table)

    def draw_microlens() -> None:
        report.pictures.append(microlens_figure(data / "tie_microlens", shelf, "microlens"))

    def tabulate() -> None:
        named = [(f"measured {i + 1}", frames.field(Z6, i)) for i in range(frames.fields)]
        report.tables += [tables.fields_table(named), tables.models_table(shelf, (MODEL, "fast", "microlens"))]

    steps = [
        Step(f"real phase, z = {defocus:g} um", 3, partial(score, defocus, noise, sd))
        for defocus in real_phase.DEFOCI_UM
        for noise, sd in real_phase.NOISES
    ]
    steps += [
        Step("real phase, picture", 3, draw_phase),
        Step("HeLa frame", 20, draw_hela),
        Step("defocus stack", 20, draw_stack),
        Step("microlens", 15, draw_microlens),
        Step("tables", 1, tabulate),
    ]
    run_steps(steps, progress)
    return report


def _targets(found: dict[tuple[float, Noise, float], Scores], label: str, note: str) -> list[Target]:
    """Set SSIM of real phase at z = 6 um beside the figures to reach."""
    paper, frame, more = (summarise(found[6.0, noise, sd][label]) for noise, sd in real_phase.NOISES)
    fields = f"{paper['fields']} fields, {paper['ssim_low']:.3f}-{paper['ssim_high']:.3f} (paper's noise). {note}"
    return [
        real_ssim_target(paper["ssim"], frame["ssim"], fields),
        Target(
            "SSIM, the same, noise 0.02 on the frame",
            "–",
            "–",
            "–",
            None,
            more["ssim"],
            "",
            f"{more['fields']} fields, {more['ssim_low']:.3f}-{more['ssim_high']:.3f}",
        ),
        mass_target("real cell phase", paper, frame),
    ]
