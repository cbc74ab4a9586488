"""The figures that the project is to reach, with what was measured beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from livephase.evaluation.figures_of_merit import summarise
from livephase.evaluation.generalisation import Sweep
from livephase.evaluation.methods import ORACLE
from livephase.evaluation.paper_frames import NOISE_TEXT
from livephase.evaluation.report import Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from livephase.evaluation.fig78_fields import Timing
    from livephase.evaluation.models import Shelf
    from livephase.evaluation.paper_frames import Noise
    from livephase.evaluation.tables import Scores


def _each_noise() -> dict[Noise, Scores]:
    return {"paper": {}, "frame": {}}


@dataclass
class Findings:
    """What the suite measured.

    Attributes
    ----------
    shipped : str
        Label of the judged network.
    defocus, coherence : Sweep
        Patches over z and S.
    methods, real : dict
        Noise -> method -> figures on each field, z = 6 um: simulated and measured phase.
    noise_002 : dict
        Where noise of sd 0.02 is added -> SSIM of each simulated field.
    timings : list of Timing
    """

    shipped: str
    defocus: Sweep = field(default_factory=Sweep)
    coherence: Sweep = field(default_factory=Sweep)
    methods: dict[Noise, Scores] = field(default_factory=_each_noise)
    real: dict[Noise, Scores] = field(default_factory=_each_noise)
    noise_002: dict[Noise, list[float]] = field(default_factory=lambda: {"paper": [], "frame": []})
    timings: list[Timing] = field(default_factory=list["Timing"])


def paper_targets(found: Findings, shelf: Shelf, confluence: Sequence[float], real_note: str) -> list[Target]:
    """Set the measured figures beside those to reach.

    Parameters
    ----------
    found : Findings
        What was measured.
    shelf : Shelf
        The networks.
    confluence : sequence of float
        Of the simulated fields, then of the measured ones.
    real_note : str
        What the card says of the measured fields.
    """
    me = found.shipped
    field_count = len(found.methods["paper"][me])
    dishes = f"confluence {', '.join(f'{share:.0%}' for share in confluence[:field_count])}"
    real_dishes = f"confluence {', '.join(f'{share:.0%}' for share in confluence[field_count:])}"
    z6: dict[Noise, dict[str, Any]] = {noise: summarise(scores[me]) for noise, scores in found.methods.items()}
    real: dict[Noise, dict[str, Any]] = {noise: summarise(scores[me]) for noise, scores in found.real.items()}

    def over_fields(scores: dict[Noise, Scores]) -> str:
        oracle = summarise(scores["paper"][ORACLE])["ssim"]
        of_fields: dict[Noise, list[float]] = {
            noise: [merit.ssim for merit in each[me]] for noise, each in scores.items()
        }
        return f"{_spread(of_fields)}; oracle {oracle:.3f}"

    return [
        _target(
            "SSIM, matched z = 6 um, full field",
            ("0.96", "0.975", "0.985"),
            {"paper": z6["paper"]["ssim"], "frame": z6["frame"]["ssim"]},
            f"{me}, {field_count} fields, {dishes}; {over_fields(found.methods)}",
        ),
        *_sweep_targets(found, shelf),
        real_ssim_target(
            real["paper"]["ssim"],
            real["frame"]["ssim"],
            f"{real['paper']['fields']} fields, {real_dishes}; {over_fields(found.real)}. {real_note}",
        ),
        _target(
            "SSIM, noise 0.02 instead of 0.01",
            ("–", "0.94", "0.96"),
            {"paper": float(np.mean(found.noise_002["paper"])), "frame": float(np.mean(found.noise_002["frame"]))},
            f"z = 6 um, {field_count} fields; {_spread(found.noise_002)}",
        ),
        _target(
            "NRMSE at periods under 5.2 um, z = 6 um",
            ("–", "0.70", "0.60"),
            {"paper": z6["paper"]["nrmse"][-1], "frame": z6["frame"]["nrmse"][-1]},
            f"smaller is better; {field_count} simulated fields; real phase: {real['paper']['nrmse'][-1]:.3f} and "
            f"{real['frame']['nrmse'][-1]:.3f}",
        ),
        mass_target("simulated culture", z6["paper"], z6["frame"]),
        mass_target("real cell phase", real["paper"], real["frame"]),
        *_times(found.timings, shelf),
    ]


def real_ssim_target(paper: float, frame: float, note: str) -> Target:
    """SSIM of real phase at z = 6 um with the paper's noise and with noise on the frame."""
    name = "SSIM, real cell phase through the model, z = 6 um, held-back images"
    return _target(name, ("–", "0.95", "0.97"), {"paper": paper, "frame": frame}, note)


def mass_target(phase: str, paper: Mapping[str, Any], frame: Mapping[str, Any]) -> Target:
    """Dry-mass bias at z = 6 um of two summaries: with the paper's noise and with noise on the frame.

    Parameters
    ----------
    phase : str
        Whose cells.
    paper, frame : mapping
        See ``figures_of_merit.summarise``.
    """
    signed = [summary["mass_bias_percent"] for summary in (paper, frame)]
    said = " and ".join("–" if bias is None else f"{bias:+.2f} %" for bias in signed)
    return _target(
        f"dry-mass bias of a cell, median of |bias|, {phase}",
        ("–", "5", "2"),
        {"paper": paper["mass_bias_abs_percent"], "frame": frame["mass_bias_abs_percent"]},
        f"z = 6 um, {paper['cells']} whole cells; median of the signed bias {said}",
        "%",
    )


def _target(
    name: str, goals: tuple[str, str, str], measured: Mapping[Noise, float | None], note: str, unit: str = ""
) -> Target:
    """Make a row; the goals are the paper's figure, the least and the aim."""
    return Target(name, *goals, measured["paper"], measured["frame"], unit, note)


def _sweep_targets(found: Findings, shelf: Shelf) -> list[Target]:
    """Mean SSIM over the sets of figures 4 and 5."""
    me = found.shipped
    defocus, coherence = found.defocus, found.coherence
    far = [index for index, spec in enumerate(defocus.specs) if spec.defocus_um >= 4]
    lowest_um = shelf.shipped.card.valid.defocus_um[0]
    rows: list[tuple[str, tuple[str, str, str], Sweep, list[int] | None, str, str]] = [
        ("SSIM, z-adaptive, mean over z = 4..13 um", ("0.95 (1..13)", "0.960", "0.975"), defocus, far, "", ""),
        (
            "SSIM, z-adaptive, mean over z = 1..13 um",
            ("0.95", "–", "–"),
            defocus,
            None,
            "",
            f"; the network's range begins at {lowest_um:g} um",
        ),
        ("SSIM over S = 0..0.4, one network", ("0.95", "0.960", "0.975"), coherence, None, "z = 4 um, ", ""),
    ]
    targets: list[Target] = []
    for name, goals, sweep, chosen, where, more in rows:
        scores = sweep.scores[me, "paper"][slice(None) if chosen is None else chosen]
        means = scores.mean(axis=1)
        note = (
            f"{where}{scores.shape[1]} patches at each {'S' if sweep is coherence else 'z'}; set means "
            f"{means.min():.3f}-{means.max():.3f}, sd over patches {scores.std():.3f} (paper's noise){more}"
        )
        measured: dict[Noise, float | None] = {noise: sweep.mean(me, noise, chosen) for noise in NOISE_TEXT}
        targets.append(_target(name, goals, measured, note))
    return targets


def _spread(values: Mapping[Noise, Sequence[float]]) -> str:
    return "; ".join(
        f"{'paper' if noise == 'paper' else 'on frame'}: {' '.join(f'{v:.3f}' for v in each)}"
        for noise, each in values.items()
    )


def _times(timings: list[Timing], shelf: Shelf) -> list[Target]:
    """The time of ``fast`` for the wide field, and of the judged network for comparison."""
    wide = [timing for timing in timings if timing.shape == timings[-1].shape]
    targets: list[Target] = []
    fast = shelf.named.get("fast")
    for name, label in (("fast", fast.label if fast else ""), (shelf.shipped.label, shelf.shipped.label)):
        of = next((timing for timing in wide if timing.label == label), None)
        size = f"{wide[0].shape[1]} x {wide[0].shape[0]}"
        targets.append(
            Target(
                f"full field {size}, {name}",
                "0.2 (RTX 3090)",
                "0.3" if name == "fast" else "–",
                "0.1" if name == "fast" else "–",
                of.median_s if of else None,
                None,
                "s",
                f"median of {of.runs} on {of.runtime}, best {of.best_s:.3f} s" if of else "not in this installation",
            )
        )
    return targets
