"""The schedule of a run: absolute due times on the monotonic clock, so that lateness never accumulates.

A pure object: it is told the present moment and never reads a clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Due times of the time points.

    Time point ``i`` is due at ``start_ns + i * interval_s``. One that is late runs at once, the following
    ones keep their own due times; none is skipped.

    Attributes
    ----------
    start_ns : int
        Monotonic moment of time point 0.
    interval_s : float
        Seconds between two due times, >= 0.
    time_points : int
        How many there are, >= 1.
    """

    start_ns: int
    interval_s: float
    time_points: int

    def due_ns(self, index: int) -> int:
        """Monotonic moment at which time point ``index`` is due; IndexError outside the run."""
        if not 0 <= index < self.time_points:
            raise IndexError(f"time point {index} of a run of {self.time_points}")
        return self.start_ns + round(index * self.interval_s * 1e9)

    def wait_s(self, index: int, now_ns: int) -> float:
        """Seconds until time point ``index`` is due; 0 when it is due or late."""
        return max(0, self.due_ns(index) - now_ns) / 1e9

    def late_s(self, index: int, now_ns: int) -> float:
        """Seconds by which time point ``index`` is late; 0 when it is early or exact."""
        return max(0, now_ns - self.due_ns(index)) / 1e9

    def remaining_s(self, next_index: int, now_ns: int) -> float:
        """Seconds until the last time point is due, 0 when it is due; ``next_index`` is the next one to run.

        A run that is already late takes longer than this; it is never promised to catch up faster than its
        plan.
        """
        if next_index >= self.time_points:
            return 0.0
        return max(0, self.due_ns(self.time_points - 1) - now_ns) / 1e9
