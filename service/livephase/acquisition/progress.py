"""The state of a run and of live mode, as others may see it at any moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from livephase.acquisition.plan import AcquisitionPlan

RunState = Literal["queued", "running", "completed", "cancelled", "failed", "interrupted"]
ENDED: frozenset[RunState] = frozenset({"completed", "cancelled", "failed", "interrupted"})


@dataclass(frozen=True, slots=True)
class Counters:
    """Frames of one run; a finished run satisfies ``expected == written + missing`` for raw and for phase.

    Attributes
    ----------
    expected : int
        Time points of the plan.
    raw_written, raw_missing : int
        Raw frames on disk, and recorded as missing.
    phase_written, phase_missing : int
        Phase images on disk, and recorded as missing.
    """

    expected: int
    raw_written: int = 0
    raw_missing: int = 0
    phase_written: int = 0
    phase_missing: int = 0

    @property
    def closed(self) -> bool:
        """Whether nothing is unaccounted for."""
        return (
            self.expected == self.raw_written + self.raw_missing
            and self.expected == self.phase_written + self.phase_missing
        )


@dataclass(frozen=True, slots=True)
class RunProgress:
    """A run at one moment.

    Attributes
    ----------
    run_id : str
        Identifier made by the service.
    plan : AcquisitionPlan
        What was asked for.
    state : RunState
        ``queued -> running -> completed | cancelled | failed | interrupted``.
    reason : str or None
        Why it ended, when it did not complete.
    warnings : tuple of str
        Known before the start, such as values outside the model's valid range.
    created_utc_ns, started_utc_ns, ended_utc_ns : int or None
        UTC in ns.
    counters : Counters
        Frames so far.
    remaining_s : float or None
        Estimate until the last phase is on disk; None when the run has ended, and before the first time point of
        a run without an interval.
    misfit : float or None
        Of the latest phase that was judged (``livephase.frames.Misfit``).
    """

    run_id: str
    plan: AcquisitionPlan
    state: RunState
    reason: str | None
    warnings: tuple[str, ...]
    created_utc_ns: int
    started_utc_ns: int | None
    ended_utc_ns: int | None
    counters: Counters
    remaining_s: float | None
    misfit: float | None


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """Live mode at one moment.

    Attributes
    ----------
    running : bool
        Whether frames are being taken for preview.
    frames, dropped : int
        Frames taken since the service started, and those of them that the engine was too busy for.
    fault : str or None
        The device error that keeps it from taking frames at present.
    """

    running: bool
    frames: int
    dropped: int
    fault: str | None
