"""Runs on devices that fail on command: real core, real runner, real store."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import pytest

from livephase.acquisition import runner, taking
from livephase.acquisition.plan import AcquisitionPlan
from livephase.acquisition.runner import Run
from livephase.api.recording import LATE, StoreSink
from livephase.inference.client import InferenceClient
from livephase.storage.catalogue import read_frame_table, read_raw_frame, read_run
from livephase.storage.layout import JOURNAL
from livephase.storage.spec import RunSpec
from livephase.storage.writer import RunWriter
from livephase_devices.config import MicroscopeConfig
from livephase_devices.fault_events import history, release_hangs, replug
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from livephase_devices.fault_events import Event

TIME_POINTS = {True: 30, False: 10}
"""Of a run with a fault at every event, and of one with a choice of them."""
DEFOCUS_UM = 6.0
EXPOSURE_MS = 1.0
TIMEOUT_S = 0.5
GIVE_UP_S = 0.2
CFG = """
#py pyDevice,Camera,livephase_devices.faults,FaultyCamera
#py pyDevice,Lens,livephase_devices.faults,FaultyLens
Property,Core,Initialize,1
#py Property,Camera,Grain,1
"""


class Fault(Protocol):
    """What happens to which device, in how many calls, and whether it is mended when it has been noticed."""

    @property
    def device(self) -> str:
        """Label of the device."""
        ...

    @property
    def kind(self) -> str:
        """Kind of fault, as ``EventFault`` takes it."""
        ...

    @property
    def calls(self) -> tuple[str, ...]:
        """Calls in which it can happen; empty means all."""
        ...

    @property
    def count(self) -> int:
        """Calls in a row that fail."""
        ...

    @property
    def mended(self) -> bool:
        """Whether the device works again soon after the fault was noticed."""
        ...


class Notice(logging.Handler):
    """Notes when the log first names a device, and mends the device a moment later where that is asked for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.expect: Fault | None = None
        self.at_s: float | None = None
        self.lines: list[str] = []
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        line = record.getMessage()
        self.lines.append(line)
        wanted = self.expect
        if wanted is not None and self.at_s is None and f"{wanted.device}: " in line:
            self.at_s = time.monotonic()
            if wanted.mended:
                self._timer = threading.Timer(0.05, mend)
                self._timer.start()

    def settle(self) -> None:
        """Wait until the device is mended."""
        if self._timer is not None:
            self._timer.join()


def mend() -> None:
    """Let hung calls return and plug devices in."""
    release_hangs()
    replug()


class Watcher:
    """Counts what acquisition tells its user."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def fault(self, message: str) -> None:
        """Keep it."""
        self.faults.append(message)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_named: None


@dataclass
class Outcome:
    """What came of a run."""

    time_points: int
    state: str
    reason: str | None
    written: list[int]
    numbers: dict[int, np.ndarray]
    table: dict[str, Any]
    events: list[Event]
    faults: list[str]
    missing: dict[int, str]
    notice: Notice
    fired: list[Event]


class Rig:
    """Makes runs, each on devices loaded anew."""

    def __init__(self, folder: Path, engine: InferenceClient, time_points: int) -> None:
        self.folder = folder
        self.engine = engine
        self.time_points = time_points
        self.defocus_um, self.exposure_ms = DEFOCUS_UM, EXPOSURE_MS
        cfg = folder / "faulty.cfg"
        cfg.write_text(CFG, encoding="utf-8")
        self.config = MicroscopeConfig(
            name="faulty",
            cfg=cfg,
            camera="Camera",
            lens="Lens",
            wavelength_um=0.55,
            objective_na=0.4,
            coherence=0.3,
            lr_pixel_um=2.6,
            recorded_properties=("Camera.FrameNumber", "Lens.TruePosition-um"),
            call_timeout_s=TIMEOUT_S,
        )
        self._spec = RunSpec(
            run_id="r",
            name="faults",
            frames=time_points,
            interval_s=0.0,
            lr_shape=(80, 96),
            dtype="uint16",
            lr_pixel_um=2.6,
            defocus_um=DEFOCUS_UM,
            recorded=(LATE, *self.config.recorded_properties),
        )
        clean = self.run(None, 0)
        assert clean.state == "completed"
        assert clean.written == list(range(time_points))
        assert [int(clean.numbers[index][0, 0]) for index in clean.written] == clean.written
        assert not clean.notice.lines
        self.calls = {
            label: [event.call for event in clean.events if event.device == label] for label in ("Camera", "Lens")
        }

    def places(self, fault: Fault) -> list[int]:
        """Return the indices of the calls at which a fault can be placed."""
        return [index for index, call in enumerate(self.calls[fault.device]) if not fault.calls or call in fault.calls]

    def run(self, fault: Fault | None, index: int) -> Outcome:
        """Record a run with one fault."""
        store = self.folder / "r.ome.zarr"
        shutil.rmtree(store, ignore_errors=True)
        notice, watcher = Notice(), Watcher()
        logging.getLogger().addHandler(notice)
        try:
            with Microscope(self.config) as microscope:
                try:
                    self._arm(microscope, fault, index)
                    history.clear()
                    notice.expect = fault
                    run = Run(
                        "r",
                        AcquisitionPlan(
                            time_points=self.time_points, interval_s=0.0, defocus_um=DEFOCUS_UM, exposure_ms=EXPOSURE_MS
                        ),
                        StoreSink(RunWriter.create(store, self._spec)),
                        microscope=microscope,
                        engine=self.engine,
                        observer=cast("Any", watcher),
                        frame_shape=(80, 96),
                        bit_depth=16,
                    )
                    run.execute()
                    events = list(history)
                finally:
                    notice.settle()
                    mend()
        finally:
            logging.getLogger().removeHandler(notice)
        progress = run.progress
        assert progress.counters.closed, progress.counters
        info = read_run(store)
        assert (info.counters, info.state, info.reason) == (progress.counters, progress.state, progress.reason)
        table = read_frame_table(store)
        written = [int(at) for at in np.flatnonzero(table["raw_valid"] == 1)]
        assert len(written) == progress.counters.raw_written
        lines = [json.loads(line) for line in (store / JOURNAL).read_text(encoding="utf-8").splitlines()]
        gaps = [line for line in lines if line["kind"] == "missing" and line["image"] == "raw"]
        missing = {at: line["reason"] for line in gaps for at in range(line["first"], line["last"] + 1)}
        return Outcome(
            time_points=self.time_points,
            state=progress.state,
            reason=progress.reason,
            written=written,
            numbers={at: np.asarray(read_raw_frame(store, at)) for at in written},
            table=table,
            events=events,
            faults=watcher.faults,
            missing=missing,
            notice=notice,
            fired=[event for event in events if event.kind != "none"],
        )

    @staticmethod
    def _arm(microscope: Microscope, fault: Fault | None, index: int) -> None:
        def arm() -> None:
            assert microscope._session is not None
            core = microscope._session.core
            for label in ("Camera", "Lens"):
                core.setProperty(label, "NextEvent", 0)
            if fault is not None:
                core.setProperty(fault.device, "EventFaultAt", index)
                core.setProperty(fault.device, "EventFaultCount", fault.count)
                core.setProperty(fault.device, "StallTime-s", TIMEOUT_S / 5)
                core.setProperty(fault.device, "EventFault", fault.kind)

        microscope._call("test", "arm", arm)


@pytest.fixture
def rig(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    untrained_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    no_leaks: None,
) -> Iterator[Rig]:
    """Make runs; the parameter says whether a whole sweep is wanted."""
    # pytest keeps what is logged, and the core's debug lines hold every core with its threads.
    caplog.set_level(logging.WARNING, logger="pymmcore-plus")
    monkeypatch.setattr(taking, "RETRY_PAUSE_S", 0.01)
    monkeypatch.setattr(runner, "GIVE_UP_S", GIVE_UP_S)
    stopped = InferenceClient(untrained_model, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55)
    assert stopped.status().state == "stopped"
    yield Rig(tmp_path, stopped, TIME_POINTS[getattr(request, "param", False)])
    mend()
