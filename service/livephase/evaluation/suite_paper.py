"""The suite ``paper``: the paper's figures on open data, and the figures that the project is to reach."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from livephase.evaluation import real_phase, tables
from livephase.evaluation.environment import environment
from livephase.evaluation.fig3_methods import methods_figure
from livephase.evaluation.fig6_quantitative import three_defoci_figure
from livephase.evaluation.fig45_conditions import COHERENCE, DEFOCUS, condition_figures
from livephase.evaluation.fig78_fields import (
    measure,
    simulated_field_figure,
    timed_models,
    timing_table,
    wide_field_figure,
    wide_frames,
)
from livephase.evaluation.figures_of_merit import judge
from livephase.evaluation.generalisation import score_set
from livephase.evaluation.methods import at_z6
from livephase.evaluation.microlens import microlens_figure
from livephase.evaluation.models import COMPARISON_NAMES
from livephase.evaluation.paper_frames import NOISE_TEXT, Z6, PaperFrames, paper_specs
from livephase.evaluation.report import Report
from livephase.evaluation.steps import Step, run_steps
from livephase.evaluation.targets import Findings, paper_targets
from livephase.training.metrics import ssim
from livephase.training.paper_fields import SimulatedCulture
from livephase.training.paper_sets import PAPER_COUNTS, Counts
from livephase.training.paper_specs import NOISE_SD

if TYPE_CHECKING:
    from pathlib import Path

    from livephase.evaluation.fig45_conditions import Axis
    from livephase.evaluation.generalisation import Sweep
    from livephase.evaluation.methods import Result
    from livephase.evaluation.models import Shelf
    from livephase.evaluation.paper_frames import Noise
    from livephase.evaluation.steps import Progress
    from livephase.training.paper_fields import MeasuredPhase

WANTED = (*COMPARISON_NAMES, "fast", "adaptive-40x", "microlens")
"""Networks that the suite shows where they are there."""
_INTRODUCTION = (
    "Figures of Zhou et al., Laser & Photonics Reviews 2023 (deep-learning pixel-super-resolved phase from one "
    "defocused frame), made again on open data: simulated cultures in place of the paper's HeLa fields, a measured "
    "microlens array, and measured cell phase. Objects are pure phase objects (kappa = 0), as in the paper. No test "
    "field was in any training set: simulated ones have seeds of their own, measured ones are held back."
)


@dataclass(frozen=True, slots=True)
class PaperSize:
    """How large the suite is; the defaults are the paper's sizes.

    Attributes
    ----------
    source : SimulatedCulture
        Its test split is used.
    counts : Counts
        Number of test patches.
    wide_shape : tuple of int
        Frame of figure 8.
    objective_side_px : int
        HR side of the field of figure 6 b.
    timing_runs : int
        Frames for each time.
    """

    source: SimulatedCulture = field(default_factory=lambda: SimulatedCulture(test_fields=3))
    counts: Counts = PAPER_COUNTS
    wide_shape: tuple[int, int] = (490, 647)
    objective_side_px: int = 1024
    timing_runs: int = 7


FULL_SIZE = PaperSize()


def run_paper(
    shelf: Shelf,
    data: Path,
    measured: MeasuredPhase,
    cache: Path,
    size: PaperSize = FULL_SIZE,
    progress: Progress | None = None,
) -> Report:
    """Run the suite.

    Parameters
    ----------
    shelf : Shelf
        The networks.
    data : Path
        Folder of the measured data.
    measured : MeasuredPhase
        Its test split is the held-back real phase.
    cache : Path
        Folder for fields and frames, which a later run finds again.
    size : PaperSize
        How large.
    progress : callable, optional
        See ``steps``.

    Returns
    -------
    Report
        Complete.
    """
    return _PaperSuite(shelf, data, measured, cache, size).run(progress)


class _PaperSuite:
    def __init__(self, shelf: Shelf, data: Path, measured: MeasuredPhase, cache: Path, size: PaperSize) -> None:
        self.shelf, self.data, self.cache, self.size = shelf, data, cache, size
        self.frames = PaperFrames(size.source, cache, size.counts)
        self.real_frames = PaperFrames(measured, cache)
        self.real_note = real_phase.held_back_note(measured, shelf.shipped)
        self.found = Findings(shelf.shipped.label)
        self.frames_needed: dict[str, str] = {}
        self.sample: list[Result] = []
        self.report = Report(
            "paper",
            "livephase: the paper's figures on open data",
            _INTRODUCTION,
            environment(),
            [model.describe() for model in shelf.all()],
        )

    def run(self, progress: Progress | None) -> Report:
        """Run all steps and return the report."""
        fields = self.frames.fields
        steps = [
            Step(
                f"test frames, {spec.name}",
                (2 if spec.coherence == 0 else 8) * fields,
                partial(self.frames.build, spec),
            )
            for spec in paper_specs()
        ]
        steps += [
            Step(f"methods, field {index + 1}", 22, partial(self._methods, index, noise))
            for noise in NOISE_TEXT
            for index in range(fields)
        ]
        steps += [Step("noise 0.02", 8 * fields, self._more_noise), Step("real phase", 8, self._real)]
        for axis, sweep in self._sweeps:
            fixed = axis.fixed_models(self.shelf)
            steps += [
                Step(
                    f"patches, {spec.name}",
                    12 + 3 * len(fixed),
                    partial(score_set, sweep, self.frames, spec, fixed, self.shelf.shipped),
                )
                for spec in axis.sets
            ]
        steps += [
            Step("figures 3 to 5", 15, self._draw_simulated),
            Step("figure 6 a", 15, self._draw_microlens),
            Step("figure 6 b", 25, self._draw_objective),
            Step("figures 7 and 8", 60, self._draw_fields),
            Step("tables", 2, self._tabulate),
        ]
        run_steps(steps, progress)
        return self.report

    def _methods(self, index: int, noise: Noise) -> None:
        frame = self.frames.field(Z6, index, noise)
        for result in at_z6(self.frames, index, noise, self.shelf):
            merit = judge(result.phase_rad, frame.phase_rad, frame.labels, frame.setup.hr_pixel_um)
            self.found.methods[noise].setdefault(result.method, []).append(merit)
            self.frames_needed[result.method] = result.frames
            if noise == "paper" and index == self._sample_field:
                self.sample.append(result)

    def _more_noise(self) -> None:
        shipped = self.shelf.shipped
        for noise in NOISE_TEXT:
            for index in range(self.frames.fields):
                frame = self.frames.field(Z6, index, noise, 0.02)
                phase = shipped.field(frame.intensity, shipped.told(frame.defocus_um, frame.setup))
                self.found.noise_002[noise].append(ssim(phase, frame.phase_rad))

    def _real(self) -> None:
        for noise in NOISE_TEXT:
            self.found.real[noise] = real_phase.real_scores(self.real_frames, Z6, [self.shelf.shipped], noise, NOISE_SD)

    def _draw_simulated(self) -> None:
        index = self._sample_field
        scores = {method: merits[index].ssim for method, merits in self.found.methods["paper"].items()}
        where = f"Field {index + 1} of the simulated culture, {NOISE_TEXT['paper']}"
        frame = self.frames.field(Z6, index)
        self.report.pictures.append(methods_figure(frame, self.sample, scores, self.shelf, where))
        self.sample.clear()
        for axis, sweep in self._sweeps:
            pictures, table = condition_figures(axis, sweep, self.frames, self.shelf)
            self.report.pictures += pictures
            self.report.tables.append(table)

    def _draw_microlens(self) -> None:
        self.report.pictures.append(microlens_figure(self.data / "tie_microlens", self.shelf))

    def _draw_objective(self) -> None:
        self.report.pictures.append(three_defoci_figure(self.shelf, self.size.objective_side_px))

    def _draw_fields(self) -> None:
        square = self.frames.field(Z6, self.frames.fields - 1)
        wide, focused = wide_frames(self.cache, self.size.wide_shape)
        models, runs = timed_models(self.shelf), self.size.timing_runs
        small, large = ([measure(model, frame, runs) for model in models] for frame in (square, wide))
        self.found.timings = [*small, *large]
        self.report.pictures += [
            simulated_field_figure(self.frames, self.shelf, small),
            wide_field_figure(wide, focused, self.shelf, large),
        ]
        self.report.tables.append(timing_table(self.found.timings))

    def _tabulate(self) -> None:
        made = [
            tables.methods_table(
                f"methods_{noise}",
                f"Every method at z = 6 um, full fields; {text}",
                "Simulated cultures, S = 0, pure phase objects.",
                self.found.methods[noise],
                self.frames_needed,
            )
            for noise, text in NOISE_TEXT.items()
        ]
        made += [
            tables.methods_table(
                f"real_{noise}",
                f"Real cell phase at z = 6 um; {text}",
                f"S = 0, pure phase objects. {self.real_note}",
                self.found.real[noise],
                {},
            )
            for noise, text in NOISE_TEXT.items()
        ]
        named = [(f"simulated {i + 1}", self.frames.field(Z6, i)) for i in range(self.frames.fields)]
        named += [(f"measured {i + 1}", self.real_frames.field(Z6, i)) for i in range(self.real_frames.fields)]
        made += [tables.fields_table(named), tables.models_table(self.shelf, WANTED)]
        self.report.tables = made[:4] + self.report.tables + made[4:]
        confluence = tables.confluences([frame for _, frame in named])
        self.report.targets = paper_targets(self.found, self.shelf, confluence, self.real_note)

    @property
    def _sweeps(self) -> list[tuple[Axis, Sweep]]:
        return [(DEFOCUS, self.found.defocus), (COHERENCE, self.found.coherence)]

    @property
    def _sample_field(self) -> int:
        return self.frames.fields // 2
