"""Live mode, single frames and settings beside runs, over the real core and a real inference worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from livephase.acquisition.progress import ENDED
from livephase.errors import ConflictError

if TYPE_CHECKING:
    from service.conftest import Bench

DEADLINE_S = 90.0


def test_a_run_takes_the_microscope_and_live_comes_back(scripted: Bench) -> None:
    thread = scripted.thread
    thread.start_live()
    scripted.wait_until(lambda: thread.live.frames > 3, "live frames")
    run, _ = scripted.start(time_points=3, interval_s=0.2)
    assert not thread.live.running
    for refused in (
        thread.start_live,
        thread.snap,
        lambda: thread.apply(exposure_ms=5.0, defocus_um=None),
        lambda: thread.start_run(run),
    ):
        with pytest.raises(ConflictError, match=run.run_id):
            refused()
    scripted.wait_until(lambda: run.progress.state in ENDED, "the end of the run")
    before = thread.live.frames
    scripted.wait_until(lambda: thread.live.running and thread.live.frames > before, "live after the run")
    thread.stop_live()
    assert not thread.live.running


def test_live_that_is_stopped_during_a_run_stays_off(scripted: Bench) -> None:
    scripted.thread.start_live()
    run, _ = scripted.start(time_points=2, interval_s=0.3)
    scripted.thread.stop_live()
    scripted.wait_until(lambda: run.progress.state in ENDED and scripted.thread.run is None, "the end of the run")
    scripted.thread.apply(exposure_ms=1.0, defocus_um=None).result(DEADLINE_S)
    assert not scripted.thread.live.running


def test_live_counts_every_frame(scripted: Bench) -> None:
    """Frames taken = frames given to the engine + frames dropped; what is shown is never older than before."""
    scripted.thread.start_live()
    scripted.wait_until(lambda: len(scripted.watcher.frames) >= 5, "five previews")
    scripted.thread.stop_live()
    scripted.thread.snap().result(DEADLINE_S)
    status = scripted.thread.live
    assert status.frames == len(scripted.watcher.submitted)
    assert status.dropped == scripted.watcher.submitted.count(False)
    shown = [frame.index for frame, result, _ in scripted.watcher.frames if result is not None]
    assert shown == sorted(set(shown))


def test_live_shows_a_dead_camera_and_goes_on_when_it_recovers(scripted: Bench) -> None:
    scripted.script(failing=frozenset({0, 1, 2}))
    scripted.thread.start_live()
    scripted.wait_until(lambda: scripted.thread.live.fault is not None, "the fault")
    assert "failed on command" in (scripted.thread.live.fault or "")
    scripted.wait_until(lambda: scripted.thread.live.frames > 0, "live frames after the fault")
    assert scripted.thread.live.running
    assert scripted.thread.live.fault is None
    assert len([fault for fault in scripted.watcher.faults if "live mode waits" in fault]) == 1
    assert [bool(status.fault) for status in scripted.watcher.lives] == [False, True, False]


def test_settings_are_applied_between_live_frames(scripted: Bench) -> None:
    scripted.thread.start_live()
    scripted.thread.apply(exposure_ms=7.0, defocus_um=4.0).result(DEADLINE_S)
    frame = scripted.thread.snap().result(DEADLINE_S)
    assert frame.exposure_ms == 7.0
    assert frame.defocus_um == pytest.approx(4.0)
