"""Runs and live mode over the real core, a real store and a real inference worker."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from livephase.acquisition import runner
from livephase.acquisition.plan import AcquisitionPlan
from livephase.acquisition.progress import ENDED
from livephase.acquisition.runner import Run
from livephase.acquisition.thread import AcquisitionThread
from livephase.api.recording import LATE, StoreSink
from livephase.errors import ConflictError
from livephase.inference.client import InferenceClient
from livephase.storage.catalogue import read_frame_table, read_phase_frame, read_raw_frame, read_run
from livephase.storage.spec import RunSpec, Validity
from livephase.storage.writer import RunWriter
from livephase_devices.config import MicroscopeConfig
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from livephase.acquisition.progress import LiveStatus, RunProgress
    from livephase.frames import PhaseResult
    from livephase_devices.frame import CameraFrame

DEADLINE_S = 90.0
HERE = Path(__file__).parent


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, polling; fail when the deadline passes."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


@dataclass
class Watcher:
    """Keeps what acquisition reports."""

    runs: list[RunProgress] = field(default_factory=list)
    lives: list[LiveStatus] = field(default_factory=list)
    frames: list[tuple[CameraFrame, PhaseResult | None, int | None]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    submitted: list[bool] = field(default_factory=list)

    def run_changed(self, progress: RunProgress) -> None:
        """Keep it."""
        self.runs.append(progress)

    def live_changed(self, status: LiveStatus) -> None:
        """Keep it."""
        self.lives.append(status)

    def live_frame(self, *, submitted: bool) -> None:
        """Keep whether it was submitted."""
        self.submitted.append(submitted)

    def time_point_done(self, *, late_s: float, write_s: float) -> None:
        """Check the times."""
        assert late_s >= 0
        assert write_s >= 0

    def frame_ready(
        self,
        frame: CameraFrame,
        result: PhaseResult | None,
        *,
        defocus_um: float | None,
        run_id: str | None,
        time_point: int | None,
    ) -> None:
        """Keep frame, phase and time point."""
        assert (run_id is None) == (time_point is None)
        self.frames.append((frame, result, time_point))

    def fault(self, message: str) -> None:
        """Keep it."""
        self.faults.append(message)


@dataclass
class Bench:
    """A microscope, its acquisition thread, and runs in a folder."""

    microscope: Microscope
    engine: InferenceClient
    watcher: Watcher
    thread: AcquisitionThread
    folder: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self, engine: InferenceClient | None = None, **plan: object) -> tuple[Run, Path]:
        """Start a run; return it and its store."""
        wanted = AcquisitionPlan.model_validate({"defocus_um": 6.0, "interval_s": 0.0, **plan})
        state = self.microscope.state()
        assert state.sensor_shape is not None
        assert state.bit_depth is not None
        run_id = f"run-{next(self.numbers)}"
        path = self.folder / f"{run_id}.ome.zarr"
        spec = RunSpec(
            run_id=run_id,
            name=wanted.name,
            frames=wanted.time_points,
            interval_s=wanted.interval_s,
            lr_shape=state.sensor_shape,
            dtype="uint8",
            lr_pixel_um=2.6,
            defocus_um=wanted.defocus_um,
            recorded=(LATE,),
        )
        run = Run(
            run_id,
            wanted,
            StoreSink(RunWriter.create(path, spec)),
            microscope=self.microscope,
            engine=engine or self.engine,
            observer=self.watcher,
            frame_shape=state.sensor_shape,
            bit_depth=state.bit_depth,
        )
        self.thread.start_run(run)
        return run, path

    def record(self, engine: InferenceClient | None = None, **plan: object) -> tuple[Run, Path]:
        """Start a run and wait for its end."""
        run, path = self.start(engine, **plan)
        wait_until(lambda: run.progress.state in ENDED and self.thread.run is None, "the end of the run")
        counters = run.progress.counters
        assert counters.closed, counters
        assert read_run(path).counters == counters
        assert read_run(path).state == run.progress.state
        return run, path


@pytest.fixture(scope="module")
def engine(untrained_model: Path) -> Iterator[InferenceClient]:
    """One real worker for all tests of this file."""
    with InferenceClient(untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1) as client:
        wait_until(lambda: client.status().state == "ready", "the worker")
        yield client


@pytest.fixture
def scripted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: InferenceClient, no_leaks: None
) -> Iterator[Bench]:
    """A bench with the scripted camera and Micro-Manager's demo stage as lens."""
    monkeypatch.syspath_prepend(str(HERE))
    from scripted_camera import ScriptedCamera

    ScriptedCamera.script()
    cfg = tmp_path / "scripted.cfg"
    cfg.write_text(
        "#py pyDevice,Camera,scripted_camera,ScriptedCamera\n"
        "Device,Z,DemoCamera,DStage\nProperty,Core,Initialize,1\n#py Property,Core,Camera,Camera\n"
    )
    config = MicroscopeConfig(
        name="scripted",
        cfg=cfg,
        camera="Camera",
        lens="Z",
        wavelength_um=0.55,
        objective_na=0.4,
        coherence=0.3,
        lr_pixel_um=2.6,
    )
    watcher = Watcher()
    with Microscope(config) as microscope:
        thread = AcquisitionThread(microscope, engine, watcher)
        thread.start()
        try:
            yield Bench(microscope, engine, watcher, thread, tmp_path)
        finally:
            ScriptedCamera.gate.set()
            thread.close("the test ended")
    assert not thread.alive


def script(**kwargs: object) -> None:
    """Script the camera that the bench has loaded."""
    from scripted_camera import ScriptedCamera

    ScriptedCamera.script(**kwargs)  # pyright: ignore[reportArgumentType]


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
    assert scripted.watcher.faults == []
    shown = [point for _, result, point in scripted.watcher.frames if result is not None and point is not None]
    assert shown == sorted(set(shown)), "the preview of a run never goes back in time"


def test_a_phase_belongs_to_its_raw_frame(scripted: Bench) -> None:
    """The phase of a time point is what the engine gives for its raw frame, also when it was backfilled."""
    _, path = scripted.record(time_points=4)
    for index in range(4):
        again = scripted.engine.submit(read_raw_frame(path, index), 6.0, bit_depth=8).result(DEADLINE_S)
        np.testing.assert_allclose(read_phase_frame(path, index), again.phase_rad, atol=2**-10)


def test_a_failed_exposure_is_tried_again(scripted: Bench) -> None:
    script(failing=frozenset({3, 4}))
    run, path = scripted.record(time_points=6)
    assert run.progress.state == "completed"
    assert run.progress.counters.raw_missing == 0
    values = [int(read_raw_frame(path, index)[0, 0]) - 100 for index in range(6)]
    assert values == [0, 1, 2, 5, 6, 7]


def test_a_gap_keeps_its_place(scripted: Bench) -> None:
    """Three failures at one time point make a gap there; later frames keep their own time points."""
    script(failing=frozenset({3, 4, 5}))
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
    script(fails_from=2)
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
    from scripted_camera import ScriptedCamera

    ScriptedCamera.gate.clear()
    run, path = scripted.start(time_points=5, interval_s=0.2)
    wait_until(lambda: run.progress.state == "running", "the run")
    held = time.monotonic()
    wait_until(lambda: time.monotonic() - held > 0.7, "three due times to pass")
    ScriptedCamera.gate.set()
    wait_until(lambda: run.progress.state in ENDED, "the end of the run")
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
    wait_until(lambda: run.progress.counters.phase_written == 1, "the first time point")
    remaining_s = run.progress.remaining_s
    assert remaining_s is not None
    assert 98 * 3600 < remaining_s <= 99 * 3600 + 1
    run.stop("cancelled", "cancelled by the test")
    wait_until(lambda: run.progress.state in ENDED, "the end of the run")
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
    wait_until(lambda: run.progress.counters.raw_written == 1, "the first time point")
    scripted.thread.close("the service was stopped")
    assert (run.progress.state, run.progress.reason) == ("interrupted", "the service was stopped")
    assert read_run(path).state == "interrupted"
    with pytest.raises(ConflictError, match="stopping"):
        scripted.thread.start_live()


def test_a_run_takes_the_microscope_and_live_comes_back(scripted: Bench) -> None:
    thread = scripted.thread
    thread.start_live()
    wait_until(lambda: thread.live.frames > 3, "live frames")
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
    wait_until(lambda: run.progress.state in ENDED, "the end of the run")
    before = thread.live.frames
    wait_until(lambda: thread.live.running and thread.live.frames > before, "live after the run")
    thread.stop_live()
    assert not thread.live.running


def test_live_that_is_stopped_during_a_run_stays_off(scripted: Bench) -> None:
    scripted.thread.start_live()
    run, _ = scripted.start(time_points=2, interval_s=0.3)
    scripted.thread.stop_live()
    wait_until(lambda: run.progress.state in ENDED and scripted.thread.run is None, "the end of the run")
    scripted.thread.apply(exposure_ms=1.0, defocus_um=None).result(DEADLINE_S)
    assert not scripted.thread.live.running


def test_live_counts_every_frame(scripted: Bench) -> None:
    """Frames taken = frames given to the engine + frames dropped; what is shown is never older than before."""
    scripted.thread.start_live()
    wait_until(lambda: len(scripted.watcher.frames) >= 5, "five previews")
    scripted.thread.stop_live()
    scripted.thread.snap().result(DEADLINE_S)
    status = scripted.thread.live
    assert status.frames == len(scripted.watcher.submitted)
    assert status.dropped == scripted.watcher.submitted.count(False)
    shown = [frame.index for frame, result, _ in scripted.watcher.frames if result is not None]
    assert shown == sorted(set(shown))


def test_live_shows_a_dead_camera_and_goes_on_when_it_recovers(scripted: Bench) -> None:
    script(failing=frozenset({0, 1, 2}))
    scripted.thread.start_live()
    wait_until(lambda: scripted.thread.live.fault is not None, "the fault")
    assert "failed on command" in (scripted.thread.live.fault or "")
    wait_until(lambda: scripted.thread.live.frames > 0, "live frames after the fault")
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


def test_threads_of_a_run_end_with_it(scripted: Bench) -> None:
    run, _ = scripted.record(time_points=2)
    wait_until(lambda: not [t for t in threading.enumerate() if run.run_id in t.name], "the phase writer's end")
