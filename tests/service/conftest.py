"""A bench for acquisition: real core with a scripted camera, real store, real inference worker."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from livephase.acquisition.focus import OFFSET
from livephase.acquisition.plan import AcquisitionPlan
from livephase.acquisition.progress import ENDED
from livephase.acquisition.runner import Run
from livephase.acquisition.thread import AcquisitionThread
from livephase.api.recording import LATE, StoreSink
from livephase.inference.client import InferenceClient
from livephase.storage.catalogue import read_run
from livephase.storage.spec import RunSpec
from livephase.storage.writer import RunWriter
from livephase_devices.config import MicroscopeConfig
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from livephase.acquisition.focus import FocusAttempt
    from livephase.acquisition.progress import LiveStatus, RunProgress
    from livephase.frames import PhaseResult
    from livephase_devices.frame import CameraFrame

DEADLINE_S = 90.0
HERE = Path(__file__).parent
DRIFTING = """
#py pyDevice,Camera,livephase_devices.twin.camera,TwinCamera
#py pyDevice,Lens,livephase_devices.twin.lens,TwinLens
#py Property,Camera,OnCameraCCDXSize,112
#py Property,Camera,OnCameraCCDYSize,112
#py Property,Camera,StartTime-h,20
Property,Core,Initialize,1
#py Property,Camera,Exposure,20
#py Property,Camera,AbsorptionPerRad,0.02
#py Property,Lens,SettlingTime-ms,0
"""


@dataclass
class Watcher:
    """Keeps what acquisition reports."""

    runs: list[RunProgress] = field(default_factory=list)
    lives: list[LiveStatus] = field(default_factory=list)
    frames: list[tuple[CameraFrame, PhaseResult | None, int | None]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    submitted: list[bool] = field(default_factory=list)
    attempts: list[FocusAttempt] = field(default_factory=list)

    def run_changed(self, progress: RunProgress) -> None:
        """Keep it."""
        self.runs.append(progress)

    def live_changed(self, status: LiveStatus) -> None:
        """Keep it."""
        self.lives.append(status)

    def live_frame(self, *, submitted: bool) -> None:
        """Keep whether it was submitted."""
        self.submitted.append(submitted)

    def focus_measured(self, run_id: str, attempt: FocusAttempt) -> None:
        """Keep it."""
        assert run_id
        self.attempts.append(attempt)

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

    @staticmethod
    def script(failing: frozenset[int] = frozenset(), fails_from: int | None = None) -> None:
        """Say which exposures of the camera fail, and count them from 0 again."""
        from scripted_camera import ScriptedCamera

        ScriptedCamera.script(failing, fails_from)

    @staticmethod
    def hold(held: bool) -> None:
        """Make exposures wait until they are let go."""
        from scripted_camera import ScriptedCamera

        (ScriptedCamera.gate.clear if held else ScriptedCamera.gate.set)()

    @staticmethod
    def wait_until(condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition, polling; fail when the deadline passes."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.01)

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
            recorded=(LATE, *(() if wanted.focus_every is None else (OFFSET,))),
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
        self.wait_until(lambda: run.progress.state in ENDED and self.thread.run is None, "the end of the run")
        counters = run.progress.counters
        assert counters.closed, counters
        assert read_run(path).counters == counters
        assert read_run(path).state == run.progress.state
        return run, path


@pytest.fixture(scope="session")
def engine(untrained_model: Path) -> Iterator[InferenceClient]:
    """Run one real worker for all tests of acquisition."""
    with InferenceClient(untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, threads=1) as client:
        Bench.wait_until(lambda: client.status().state == "ready", "the worker")
        yield client


@pytest.fixture
def scripted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: InferenceClient, no_leaks: None
) -> Iterator[Bench]:
    """Build a bench with the scripted camera and Micro-Manager's demo stage as lens."""
    monkeypatch.syspath_prepend(str(HERE))
    Bench.script()
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
            Bench.hold(False)
            thread.close("the test ended")
    assert not thread.alive


@dataclass
class DriftingWatcher(Watcher):
    """Lets the lens drift after every time point."""

    microscope: Microscope | None = None
    um_per_time_point: float = 0.0
    drifted_um: float = 0.0
    true_um: list[float] = field(default_factory=list[float])

    def time_point_done(self, *, late_s: float, write_s: float) -> None:
        """Read the truth of the frame that was just written, then drift."""
        assert self.microscope is not None
        self.true_um.append(float(self.microscope.get_property("Camera", "TrueDefocus-um")))
        self.drifted_um += self.um_per_time_point
        self.microscope.set_property("Lens", "Drift-um", self.drifted_um)


@pytest.fixture
def drifting_twin(tmp_path: Path, no_leaks: None) -> Iterator[Microscope]:
    cfg = tmp_path / "twin.cfg"
    cfg.write_text(DRIFTING, encoding="utf-8")
    config = MicroscopeConfig(
        name="drifting twin",
        cfg=cfg,
        camera="Camera",
        lens="Lens",
        wavelength_um=0.55,
        objective_na=0.4,
        coherence=0.3,
        lr_pixel_um=2.6,
        call_timeout_s=60.0,
    )
    with Microscope(config) as microscope:
        yield microscope


@pytest.fixture
def drifting(drifting_twin: Microscope, tmp_path: Path, untrained_model: Path) -> Iterator[Bench]:
    """A bench whose lens drifts; phase is not what is tested here, so its worker is not started."""
    watcher = DriftingWatcher(microscope=drifting_twin)
    engine = InferenceClient(untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55)
    thread = AcquisitionThread(drifting_twin, engine, watcher)
    thread.start()
    try:
        yield Bench(drifting_twin, engine, watcher, thread, tmp_path)
    finally:
        thread.close("the test ended")
