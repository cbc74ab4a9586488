"""The schedule of a run, driven by a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livephase.acquisition.schedule import Schedule
from livephase.clock import UtcAnchor, iso_utc

START_NS = 5_000_000_000


class FakeClock:
    """A monotonic clock that only the test moves."""

    def __init__(self) -> None:
        self.ns = START_NS

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.ns += round(seconds * 1e9)


def run_through(schedule: Schedule, clock: FakeClock, work_s: list[float]) -> list[float]:
    """Go through a run whose time points take ``work_s`` each; return when each began, s after the start."""
    began: list[float] = []
    for index, work in enumerate(work_s):
        clock.sleep(schedule.wait_s(index, clock.ns))
        began.append((clock.ns - START_NS) / 1e9)
        clock.sleep(work)
    return began


def test_time_points_do_not_drift() -> None:
    clock = FakeClock()
    began = run_through(Schedule(START_NS, 0.1, 1000), clock, [0.0371] * 1000)
    assert began == pytest.approx([0.1 * index for index in range(1000)], abs=1e-8)


def test_a_long_run_does_not_drift_by_rounding() -> None:
    schedule = Schedule(START_NS, 1 / 3, 1_000_000)
    assert schedule.due_ns(999_999) - START_NS == round(999_999 / 3 * 1e9)


def test_late_time_points_run_at_once_and_the_rest_is_on_time() -> None:
    clock = FakeClock()
    work_s = [0.01, 3.5, 0.01, 0.01, 0.01, 0.01, 0.01]
    began = run_through(Schedule(START_NS, 1.0, 7), clock, work_s)
    assert began == pytest.approx([0.0, 1.0, 4.5, 4.51, 4.52, 5.0, 6.0])


def test_lateness_is_what_the_clock_says() -> None:
    schedule = Schedule(START_NS, 2.0, 3)
    assert schedule.late_s(1, START_NS + 2_500_000_000) == pytest.approx(0.5)
    assert schedule.late_s(1, START_NS + 1_000_000_000) == 0.0
    assert schedule.wait_s(1, START_NS + 1_500_000_000) == pytest.approx(0.5)
    assert schedule.wait_s(1, START_NS + 9_000_000_000) == 0.0


def test_interval_zero_never_waits() -> None:
    clock = FakeClock()
    assert run_through(Schedule(START_NS, 0.0, 4), clock, [0.5] * 4) == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_remaining_time_counts_down_to_the_last_time_point() -> None:
    schedule = Schedule(START_NS, 10.0, 4)
    assert schedule.remaining_s(0, START_NS) == pytest.approx(30.0)
    assert schedule.remaining_s(2, START_NS + 15_000_000_000) == pytest.approx(15.0)
    assert schedule.remaining_s(3, START_NS + 99_000_000_000) == 0.0
    assert schedule.remaining_s(4, START_NS + 30_000_000_000) == 0.0


@pytest.mark.parametrize("index", [-1, 4])
def test_time_points_outside_the_run_are_refused(index: int) -> None:
    with pytest.raises(IndexError, match="of a run of 4"):
        Schedule(START_NS, 1.0, 4).due_ns(index)


@given(
    interval_s=st.floats(0, 10, allow_nan=False),
    work_s=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=40),
)
def test_no_time_point_begins_early_or_waits_without_need(interval_s: float, work_s: list[float]) -> None:
    """Each begins when it is due or when the one before has ended, whichever is later."""
    began = run_through(Schedule(START_NS, interval_s, len(work_s)), FakeClock(), work_s)
    free_s = 0.0
    for index, moment in enumerate(began):
        assert moment == pytest.approx(max(index * interval_s, free_s), abs=1e-6)
        free_s = moment + work_s[index]


def test_a_jump_of_the_system_clock_does_not_move_the_times_of_a_run() -> None:
    anchor = UtcAnchor(utc_ns=1_795_000_000_000_000_000, monotonic_ns=START_NS)
    later = START_NS + 60_000_000_000
    assert anchor.utc_ns_at(later) - anchor.utc_ns == 60_000_000_000
    assert anchor.jump_s(anchor.utc_ns_at(later) + 3_600_000_000_000, later) == pytest.approx(3600.0)
    assert anchor.jump_s(anchor.utc_ns_at(later), later) == 0.0


def test_utc_is_written_with_milliseconds() -> None:
    assert iso_utc(1_795_371_845_120_900_000) == "2026-11-22T18:24:05.120Z"
