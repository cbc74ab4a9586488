"""The figures that the project is to reach, with what was measured beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from livephase.evaluation.figures_of_merit import summarise
from livephase.evaluation.generalisation import Sweep
from livephase.evaluation.methods import ORACLE
from livephase.evaluation.report import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    z6 = {noise: summarise(scores[me]) for noise, scores in found.methods.items()}
    real = {noise: summarise(scores[me]) for noise, scores in found.real.items()}
    z = [spec.defocus_um for spec in found.defocus.specs]
    far = [i for i, defocus in enumerate(z) if defocus >= 4]
    patches = found.defocus.scores[me, "paper"].shape[1]

    def spread(values: dict[Noise, list[float]]) -> str:
        return "; ".join(
            f"{'paper' if noise == 'paper' else 'on frame'}: {' '.join(f'{v:.3f}' for v in each)}"
            for noise, each in values.items()
        )

    def fields_of(scores: dict[Noise, Scores]) -> dict[Noise, list[float]]:
        return {noise: [merit.ssim for merit in each[me]] for noise, each in scores.items()}

    def over_sets(sweep: Sweep, chosen: list[int] | None) -> str:
        low, high = (
            f(sweep.scores[me, "paper"][slice(None) if chosen is None else chosen].mean(axis=1)) for f in (min, max)
        )
        sd = float(sweep.scores[me, "paper"][slice(None) if chosen is None else chosen].std())
        return f"set means {low:.3f}-{high:.3f}, sd over patches {sd:.3f} (paper's noise)"

    targets = [
        Target(
            "SSIM, matched z = 6 um, full field",
            "0.96",
            "0.975",
            "0.985",
            z6["paper"]["ssim"],
            z6["frame"]["ssim"],
            "",
            f"{me}, {field_count} fields, {dishes}; {spread(fields_of(found.methods))}; oracle "
            f"{summarise(found.methods['paper'][ORACLE])['ssim']:.3f}",
        ),
        Target(
            "SSIM, z-adaptive, mean over z = 4..13 um",
            "0.95 (1..13)",
            "0.960",
            "0.975",
            found.defocus.mean(me, "paper", far),
            found.defocus.mean(me, "frame", far),
            "",
            f"{patches} patches at each z; {over_sets(found.defocus, far)}",
        ),
        Target(
            "SSIM, z-adaptive, mean over z = 1..13 um",
            "0.95",
            "–",
            "–",
            found.defocus.mean(me, "paper"),
            found.defocus.mean(me, "frame"),
            "",
            f"{patches} patches at each z; {over_sets(found.defocus, None)}; the network's range begins at "
            f"{shelf.shipped.card.valid.defocus_um[0]:g} um",
        ),
        Target(
            "SSIM over S = 0..0.4, one network",
            "0.95",
            "0.960",
            "0.975",
            found.coherence.mean(me, "paper"),
            found.coherence.mean(me, "frame"),
            "",
            f"z = 4 um, {patches} patches at each S; {over_sets(found.coherence, None)}",
        ),
        Target(
            "SSIM, real cell phase through the model, z = 6 um, held-back images",
            "–",
            "0.95",
            "0.97",
            real["paper"]["ssim"],
            real["frame"]["ssim"],
            "",
            f"{real['paper']['fields']} fields, {real_dishes}; {spread(fields_of(found.real))}; oracle "
            f"{summarise(found.real['paper'][ORACLE])['ssim']:.3f}. {real_note}",
        ),
        Target(
            "SSIM, noise 0.02 instead of 0.01",
            "–",
            "0.94",
            "0.96",
            float(np.mean(found.noise_002["paper"])),
            float(np.mean(found.noise_002["frame"])),
            "",
            f"z = 6 um, {field_count} fields; {spread(found.noise_002)}",
        ),
        Target(
            "NRMSE at periods under 5.2 um, z = 6 um",
            "–",
            "0.70",
            "0.60",
            z6["paper"]["nrmse"][-1],
            z6["frame"]["nrmse"][-1],
            "",
            f"smaller is better; {field_count} simulated fields; real phase: {real['paper']['nrmse'][-1]:.3f} and "
            f"{real['frame']['nrmse'][-1]:.3f}",
        ),
    ]
    for name, summary in (("simulated culture", z6), ("real cell phase", real)):
        signed = " and ".join(
            "–" if summary[noise]["mass_bias_percent"] is None else f"{summary[noise]['mass_bias_percent']:+.2f} %"
            for noise in ("paper", "frame")
        )
        targets.append(
            Target(
                f"dry-mass bias of a cell, median of |bias|, {name}",
                "–",
                "5",
                "2",
                summary["paper"]["mass_bias_abs_percent"],
                summary["frame"]["mass_bias_abs_percent"],
                "%",
                f"z = 6 um, {summary['paper']['cells']} whole cells; median of the signed bias {signed}",
            )
        )
    targets += _times(found.timings, shelf)
    return targets


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
