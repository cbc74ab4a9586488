"""The steps of a suite, with their expected cost, so that a progress bar knows the remaining time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Progress = Callable[[str, float], None]
    """Called with what is done next and the share that is done, 0..1."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    Attributes
    ----------
    name : str
        For the progress bar.
    cost : float
        Expected share of the time, in any unit.
    run : callable
        Does it.
    """

    name: str
    cost: float
    run: Callable[[], None]


def run_steps(steps: Sequence[Step], progress: Progress | None) -> None:
    """Run steps in order."""
    total, done = sum(step.cost for step in steps), 0.0
    for step in steps:
        if progress:
            progress(step.name, done / total)
        step.run()
        done += step.cost
    if progress:
        progress("done", 1.0)
