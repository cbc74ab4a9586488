"""Time: one monotonic clock for every schedule, tied once to UTC.

The system clock may jump (NTP, a user, summer time on a badly set machine). Intervals and time stamps of a
run therefore come from the monotonic clock; UTC is read once, at the start, and everything later is counted
from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class UtcAnchor:
    """One moment on both clocks.

    Attributes
    ----------
    utc_ns : int
        Nanoseconds since 1970-01-01 UTC at that moment.
    monotonic_ns : int
        ``time.monotonic_ns()`` at that moment.
    """

    utc_ns: int
    monotonic_ns: int

    @classmethod
    def now(cls) -> UtcAnchor:
        """Read both clocks."""
        return cls(utc_ns=time.time_ns(), monotonic_ns=time.monotonic_ns())

    def utc_ns_at(self, monotonic_ns: int) -> int:
        """UTC in ns at a moment of the monotonic clock, unaffected by later jumps of the system clock."""
        return self.utc_ns + (monotonic_ns - self.monotonic_ns)

    def jump_s(self, utc_ns: int, monotonic_ns: int) -> float:
        """Seconds by which the system clock has moved against the monotonic clock since the anchor."""
        return (utc_ns - self.utc_ns_at(monotonic_ns)) / 1e9


def iso_utc(utc_ns: int) -> str:
    """ISO 8601 with milliseconds and ``Z``, e.g. ``2026-11-22T18:24:05.120Z``."""
    moment = datetime.fromtimestamp(utc_ns / 1e9, tz=UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
