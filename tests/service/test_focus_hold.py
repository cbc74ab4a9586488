"""Focus hold: a drifting lens stays at its defocus, and an attempt that fails costs nothing but itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pytest

from livephase.acquisition.focus import OFFSET, SWEEP_UM, FocusHold
from livephase.api.recording import LATE
from livephase.storage.catalogue import read_frame_table
from livephase.storage.journal import FocusLine, read_journal
from livephase_devices.twin.lens import TwinLens

if TYPE_CHECKING:
    from pathlib import Path

    from service.conftest import Bench, DriftingWatcher

    from livephase_devices.microscope import Microscope


def watcher_of(bench: Bench) -> DriftingWatcher:
    return cast("DriftingWatcher", bench.watcher)


def focus_lines(store: Path) -> list[FocusLine]:
    return [line for line in read_journal(store / "livephase" / "journal.jsonl") if isinstance(line, FocusLine)]


def hold_of(microscope: Microscope, defocus_um: float = 6.0, every: int = 3) -> FocusHold:
    return FocusHold(microscope, every, defocus_um, lambda: False)


# ---------------------------------------------------------------------------------------------- runs


def test_a_drifting_lens_is_corrected(drifting: Bench) -> None:
    watcher = watcher_of(drifting)
    watcher.um_per_time_point = -0.12
    run, path = drifting.record(time_points=9, focus_every=2)
    assert run.progress.state == "completed"
    assert run.progress.counters.raw_written == 9, "frames of the sweeps are no frames of the run"
    true_um = np.array(watcher.true_um)
    assert len(true_um) == 9
    assert np.abs(true_um - 6.0).max() <= 0.5
    assert watcher.drifted_um == pytest.approx(-1.08), "without focus hold the last frames would be 1 um off"
    table = read_frame_table(path)
    np.testing.assert_allclose(table["defocus_um"], 6.0, atol=1e-6)  # as far as the run knows
    offsets = table[OFFSET]
    np.testing.assert_allclose(true_um, 6.0 + offsets + np.arange(9) * -0.12, atol=0.011)
    assert offsets[8] - offsets[0] == pytest.approx(8 * 0.12, abs=0.2)
    assert [attempt.time_point for attempt in watcher.attempts] == [0, 2, 4, 6, 8]
    assert all(attempt.problem is None for attempt in watcher.attempts)
    lines = focus_lines(path)
    assert [line.time_point for line in lines] == [0, 2, 4, 6, 8]
    assert [line.offset_um for line in lines] == [attempt.offset_um for attempt in watcher.attempts]
    assert [offsets[line.time_point] for line in lines] == [line.offset_um for line in lines]


def test_without_the_option_nothing_is_swept(drifting: Bench) -> None:
    _, path = drifting.record(time_points=2)
    assert drifting.watcher.attempts == []
    assert focus_lines(path) == []
    assert OFFSET not in read_frame_table(path)


def test_a_blank_field_costs_nothing_but_the_attempt(scripted: Bench) -> None:
    """The scripted camera's frames are empty: the run is as without focus hold, and says why."""
    run, path = scripted.record(time_points=5, focus_every=2)
    assert run.progress.state == "completed"
    assert run.progress.counters.raw_written == 5
    assert len(scripted.watcher.attempts) == 3
    for attempt in scripted.watcher.attempts:
        assert attempt.problem is not None
        assert attempt.offset_um == 0.0
        assert attempt.change_um is None
    told = [fault for fault in scripted.watcher.faults if "the focus was not corrected" in fault]
    assert [fault.split(":")[0] for fault in told] == [
        f"before time point {index} the focus was not corrected" for index in (0, 2, 4)
    ]
    table = read_frame_table(path)
    np.testing.assert_array_equal(table["defocus_um"], 6.0)
    np.testing.assert_array_equal(table[OFFSET], 0.0)
    assert [line.problem is not None for line in focus_lines(path)] == [True] * 3


def test_a_lens_that_fails_in_an_attempt_keeps_the_last_good_offset(
    drifting: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watcher_of(drifting)
    watcher.drifted_um = -0.8
    drifting.microscope.set_property("Lens", "Drift-um", -0.8)
    moved = TwinLens.set_position_um
    positions: list[float] = []

    def fail_in_the_second_sweep(lens: TwinLens, val: float) -> None:
        positions.append(val)
        if len(watcher.attempts) == 1 and val < 3.0:
            raise RuntimeError("the lens driver reports error 42")
        moved(lens, val)

    monkeypatch.setattr(TwinLens, "set_position_um", fail_in_the_second_sweep)
    run, path = drifting.record(time_points=6, focus_every=2)
    assert run.progress.state == "completed"
    assert run.progress.counters.raw_written == 6
    first, second, third = watcher.attempts
    assert first.problem is None
    assert first.offset_um == pytest.approx(0.8, abs=0.3)
    assert second.problem is not None
    assert "error 42" in second.problem
    assert second.offset_um == first.offset_um
    assert third.problem is None
    assert np.abs(np.array(watcher.true_um) - 6.0).max() <= 0.5
    assert all(-20 <= position <= 20 for position in positions)
    assert any("error 42" in fault for fault in watcher.faults)
    assert [line.problem is None for line in focus_lines(path)] == [True, False, True]


def test_sweeps_do_not_shift_the_schedule(drifting: Bench) -> None:
    """Waits that are too short for a sweep: it is made in the end, late time points follow, due times stay."""
    run, path = drifting.record(time_points=6, interval_s=0.05, focus_every=2)
    assert run.progress.state == "completed"
    assert [attempt.time_point for attempt in drifting.watcher.attempts] == [0, 4]
    table = read_frame_table(path)
    due_ns = (np.diff(table["time_monotonic_ns"]) - np.diff(table[LATE]) * 1e9).round(-6)
    assert (due_ns == 0.05e9).all(), "without their lateness, time points are exactly one interval apart"


def test_a_run_ends_in_the_middle_of_an_attempt(drifting: Bench) -> None:
    run, _ = drifting.start(time_points=1000, interval_s=0.0, focus_every=1)
    drifting.wait_until(lambda: run.progress.counters.raw_written >= 1, "the first time point")
    run.stop("cancelled", "cancelled by the test")
    drifting.wait_until(lambda: drifting.thread.run is None, "the end of the run")
    assert run.progress.state == "cancelled"
    assert drifting.watcher.attempts[-1].problem is None, "an attempt that was cut short is no fault"


# ---------------------------------------------------------------------------------------------- single attempts


def test_a_jump_is_not_believed(drifting_twin: Microscope) -> None:
    hold = hold_of(drifting_twin)
    assert hold.attempt(0).problem is None
    before_um = hold.offset_um
    drifting_twin.set_property("Lens", "Drift-um", -3.6)
    attempt = hold.attempt(3)
    assert attempt.problem is not None
    assert "not believed" in attempt.problem or "frames lie within" in attempt.problem
    assert attempt.offset_um == hold.offset_um == before_um


def test_a_jump_that_is_found_twice_is_followed(drifting_twin: Microscope) -> None:
    hold = hold_of(drifting_twin)
    assert hold.attempt(0).problem is None
    before_um = hold.offset_um
    drifting_twin.set_property("Lens", "Drift-um", -3.3)
    assert hold.attempt(3).problem is not None, "too far from the middle of the sweep"
    doubted = hold.attempt(6)
    assert "next attempt" in (doubted.problem or "")
    assert hold.offset_um == before_um
    believed = hold.attempt(9)
    assert believed.problem is None
    assert hold.offset_um == pytest.approx(before_um + 3.3, abs=0.3)


def test_a_correction_out_of_reach_is_not_made(drifting_twin: Microscope) -> None:
    """The lens reaches 20 um: at a defocus of 19.5 um it cannot follow a drift of 1.5 um."""
    hold = hold_of(drifting_twin, defocus_um=19.5)
    drifting_twin.set_property("Lens", "Drift-um", -1.5)
    attempt = hold.attempt(0)
    assert attempt.problem is not None
    assert "out of reach" in attempt.problem
    assert hold.offset_um == 0.0


def test_a_sweep_that_would_leave_the_range_is_not_begun(
    drifting_twin: Microscope, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = hold_of(drifting_twin)
    hold.offset_um = 17.0
    moves: list[float] = []
    monkeypatch.setattr(TwinLens, "set_position_um", lambda _lens, val: moves.append(val))
    attempt = hold.attempt(0)
    assert attempt.problem is not None
    assert f"from 13 to {17 + SWEEP_UM[-1]:g} um would leave the range of the lens" in attempt.problem
    assert moves == []
    assert hold.offset_um == 17.0


def test_when_the_focus_is_due(drifting_twin: Microscope) -> None:
    hold = hold_of(drifting_twin, every=3)
    assert hold.due(0, 0.0, 10.0), "before the first time point"
    hold.offset_um = 17.0  # an attempt that ends at once
    hold.attempt(0)
    long_s, short_s = hold.needs_s + 1, hold.needs_s - 1
    assert [hold.due(index, long_s, 10.0) for index in range(1, 5)] == [False, False, True, True]
    assert [hold.due(index, short_s, 10.0) for index in range(1, 8)] == [False] * 5 + [True, True]
    assert [hold.due(index, 0.0, 0.0) for index in range(1, 4)] == [False, False, True], "without a schedule"
