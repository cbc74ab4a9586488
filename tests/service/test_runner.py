"""Runs over the real core, a real store and a real inference worker."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from livephase.acquisition import runner
from livephase.acquisition.progress import ENDED
from livephase.api.recording import LATE
from livephase.errors import ConflictError
from livephase.inference.client import InferenceClient
from livephase.storage.catalogue import read_frame_table, read_phase_frame, read_raw_frame, read_run
from livephase.storage.spec import Validity

if TYPE_CHECKING:
    from pathlib import Path

    from service.conftest import Bench

DEADLINE_S = 90.0


def test_a_run_stores_every_frame_and_its_phase(scripted: Bench) -> None:
    run, path = scripted.record(time_points=12)
    assert run.progress.state == "completed"
    assert run.progress.reason is None
    assert run.progress.counters.phase_written == 12
    for index in range(12):
        assert (read_raw_frame(path, index) == 100 + index).all()
        assert np.isfinite(read_phase_frame(path, index)).all()
    assert scripted.watcher.runs[0].state == "running"
    assert scripted.watcher.runs[-1].state == "completed"
    # The camera counts its frames in their level, which looks like a lamp that grows brighter.
    assert [fault for fault in scripted.watcher.faults if "the light has changed" not in fault] == []
    shown = [point for _, result, point in scripted.watcher.frames if result is not None and point is not None]
    assert shown == sorted(set(shown)), "the preview of a run never goes back in time"


def test_a_phase_belongs_to_its_raw_frame(scripted: Bench) -> None:
    """The phase of a time point is what the engine gives for its raw frame, also when it was backfilled."""
    _, path = scripted.record(time_points=4)
    for index in range(4):
        again = scripted.engine.submit(read_raw_frame(path, index), 6.0, bit_depth=8).result(DEADLINE_S)
        np.testing.assert_allclose(read_phase_frame(path, index), again.phase_rad, atol=2**-10)


def test_a_failed_exposure_is_tried_again(scripted: Bench) -> None:
    scripted.script(failing=frozenset({3, 4}))
    run, path = scripted.record(time_points=6)
    assert run.progress.state == "completed"
    assert run.progress.counters.raw_missing == 0
    values = [int(read_raw_frame(path, index)[0, 0]) - 100 for index in range(6)]
    assert values == [0, 1, 2, 5, 6, 7]


def test_a_gap_keeps_its_place(scripted: Bench) -> None:
    """Three failures at one time point make a gap there; later frames keep their own time points."""
    scripted.script(failing=frozenset({3, 4, 5}))
    run, path = scripted.record(time_points=8)
    assert run.progress.state == "completed"
    counters = run.progress.counters
    assert (counters.raw_written, counters.raw_missing) == (7, 1)
    assert (counters.phase_written, counters.phase_missing) == (7, 1)
    table = read_frame_table(path)
    assert list(table["raw_valid"]) == [1, 1, 1, Validity.MISSING, 1, 1, 1, 1]
    assert table["phase_valid"][3] == Validity.MISSING
    values = {index: int(read_raw_frame(path, index)[0, 0]) - 100 for index in range(8) if index != 3}
    assert values == {0: 0, 1: 1, 2: 2, 4: 6, 5: 7, 6: 8, 7: 9}
    journal = (path / "livephase" / "journal.jsonl").read_text()
    assert "exposure 5 failed on command" in journal
    assert any("time point 3" in fault and "Camera" in fault for fault in scripted.watcher.faults)


def test_a_camera_that_stays_dead_fails_the_run(scripted: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GIVE_UP_S", 1.0)
    scripted.script(fails_from=2)
    run, path = scripted.record(time_points=40)
    assert run.progress.state == "failed"
    assert run.progress.reason is not None
    assert "time points in a row gave no frame" in run.progress.reason
    assert sum("is missing" in fault for fault in scripted.watcher.faults) >= runner.CONSECUTIVE_GAPS
    assert "failed on command" in run.progress.reason
    counters = run.progress.counters
    assert (counters.raw_written, counters.raw_missing) == (2, 38)
    assert (counters.phase_written, counters.phase_missing) == (2, 38)
    assert read_run(path).reason == run.progress.reason


def test_an_unreachable_defocus_is_never_recorded_under_another_one(
    scripted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo stage stops at its limit: no frame may be stored under the defocus of the plan."""
    monkeypatch.setattr(runner, "GIVE_UP_S", 1.0)
    run, _ = scripted.record(time_points=8, defocus_um=500.0)
    assert run.progress.state == "failed"
    assert run.progress.counters.raw_written == 0
    assert run.progress.reason is not None
    assert "Z" in run.progress.reason


def test_late_time_points_run_at_once_and_none_is_skipped(scripted: Bench) -> None:
    """Time point 0 is held up until later ones are due: they follow at once, and say how late they were."""
    scripted.hold(True)
    run, path = scripted.start(time_points=5, interval_s=0.2)
    scripted.wait_until(lambda: run.progress.state == "running", "the run")
    held = time.monotonic()
    scripted.wait_until(lambda: time.monotonic() - held > 0.7, "three due times to pass")
    scripted.hold(False)
    scripted.wait_until(lambda: run.progress.state in ENDED, "the end of the run")
    assert run.progress.state == "completed"
    assert run.progress.counters.raw_written == 5
    table = read_frame_table(path)
    late_s = table[LATE]
    assert late_s[1] > 0.3
    assert late_s[1] > late_s[2] > late_s[3] > 0
    due_ns = (np.diff(table["time_monotonic_ns"]) - np.diff(late_s) * 1e9).round(-6)
    assert (due_ns == 0.2e9).all(), "without their lateness, time points are exactly one interval apart"


def test_utc_of_the_frames_follows_the_monotonic_clock(scripted: Bench) -> None:
    _, path = scripted.record(time_points=4, interval_s=0.05)
    table = read_frame_table(path)
    offset = table["time_utc_ns"] - table["time_monotonic_ns"]
    assert (offset == offset[0]).all()
    assert abs(int(table["time_utc_ns"][0]) - time.time_ns()) < 3600e9


def test_cancel_ends_a_run_that_waits_for_its_next_time_point(scripted: Bench) -> None:
    run, path = scripted.start(time_points=100, interval_s=3600.0)
    scripted.wait_until(lambda: run.progress.counters.phase_written == 1, "the first time point")
    remaining_s = run.progress.remaining_s
    assert remaining_s is not None
    assert 98 * 3600 < remaining_s <= 99 * 3600 + 1
    run.stop("cancelled", "cancelled by the test")
    scripted.wait_until(lambda: run.progress.state in ENDED, "the end of the run")
    assert (run.progress.state, run.progress.reason) == ("cancelled", "cancelled by the test")
    assert run.progress.remaining_s is None
    counters = read_run(path).counters
    assert (counters.raw_written, counters.raw_missing, counters.phase_missing) == (1, 99, 99)


def test_without_an_engine_raw_is_complete_and_phase_recorded_missing(scripted: Bench, untrained_model: Path) -> None:
    stopped = InferenceClient(untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55)
    assert stopped.status().state == "stopped"
    run, path = scripted.record(engine=stopped, time_points=6)
    counters = run.progress.counters
    assert (counters.raw_written, counters.phase_written, counters.phase_missing) == (6, 0, 6)
    assert run.progress.state == "completed"
    assert np.isnan(read_phase_frame(path, 0)).all()
    raw_shown = [frame for frame, result, _ in scripted.watcher.frames if result is None]
    assert len(raw_shown) == 6, "raw frames are shown while there is no phase"


def test_closing_the_thread_interrupts_the_run(scripted: Bench) -> None:
    run, path = scripted.start(time_points=100, interval_s=3600.0)
    scripted.wait_until(lambda: run.progress.counters.raw_written == 1, "the first time point")
    scripted.thread.close("the service was stopped")
    assert (run.progress.state, run.progress.reason) == ("interrupted", "the service was stopped")
    assert read_run(path).state == "interrupted"
    with pytest.raises(ConflictError, match="stopping"):
        scripted.thread.start_live()


def test_threads_of_a_run_end_with_it(scripted: Bench) -> None:
    run, _ = scripted.record(time_points=2)
    scripted.wait_until(
        lambda: not [t for t in threading.enumerate() if run.run_id in t.name], "the phase writer's end"
    )
