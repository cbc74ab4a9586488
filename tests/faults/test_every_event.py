"""A camera or lens that fails at any call that a run makes to it: noticed, survived, and no frame at a wrong place.

The calls of a clean run of 30 time points are counted first; then every fault is placed at each of them, against the
real core, the real runner and a real store. The camera writes the number of its exposure into every pixel and the
devices note when they were called, so that what is stored can be held against what was exposed.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

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
NOTICE_S = 5.0
"""The promise, max(5 s, 5 exposures); the time-out here is a tenth of it."""
LONG = 40
"""Calls that fail one after the other: more than the attempts of one time point make."""
CFG = """
#py pyDevice,Camera,livephase_devices.faults,FaultyCamera
#py pyDevice,Lens,livephase_devices.faults,FaultyLens
Property,Core,Initialize,1
#py Property,Camera,Grain,1
"""


@dataclass(frozen=True)
class Scenario:
    """A fault of a device: what happens, in how many calls, and whether it is mended when it has been noticed.

    ``calls`` are those where it can happen; empty means all. ``noticed`` is whether software can notice it.
    """

    name: str
    device: str
    kind: str
    calls: tuple[str, ...] = ()
    count: int = 1
    mended: bool = False
    noticed: bool = True


ANYWHERE = [
    Scenario(f"{device} {name}", device, kind, count=count, mended=mended, noticed=kind != "stall")
    for device in ("Camera", "Lens")
    for name, kind, count, mended in (
        ("hangs and answers later", "hang", 1, True),
        ("hangs for good", "hang", 1, False),
        ("raises once", "raise", 1, False),
        ("raises for a while", "raise", LONG, False),
        ("vanishes and comes back", "vanish", 1, True),
        ("vanishes for good", "vanish", 1, False),
        ("stalls", "stall", 1, False),
    )
]
IMAGES = [
    Scenario(f"Camera image {kind}", "Camera", kind, ("snap",), noticed=kind != "overwritten")
    for kind in ("stale", "misshaped", "tear", "torn", "old", "overwritten")
]
POSITIONS = [
    Scenario("Lens reports a wrong position", "Lens", "lie", ("read the position",)),
    Scenario("Lens reports no number", "Lens", "nan", ("read the position",)),
    Scenario("Lens never rests again", "Lens", "busy", ("ask whether it rests",)),
]
SCENARIOS = ANYWHERE + IMAGES + POSITIONS
FIRST_MOVE = [
    Scenario("Lens does not move", "Lens", "ignore", ("move",)),
    Scenario("Lens does not move and says it has", "Lens", "lie", ("move",), noticed=False),
]


class Notice(logging.Handler):
    """Notes when the log first names a device, and mends the device a moment later where that is asked for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.expect: Scenario | None = None
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
    fired: list[Event] = field(default_factory=list)


class Rig:
    """Makes runs, each on devices loaded anew."""

    def __init__(self, folder: Path, engine: InferenceClient, time_points: int) -> None:
        self.folder = folder
        self.engine = engine
        self.time_points = time_points
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

    def places(self, scenario: Scenario) -> list[int]:
        """Return the indices of the calls at which a fault can be placed."""
        return [
            index
            for index, call in enumerate(self.calls[scenario.device])
            if not scenario.calls or call in scenario.calls
        ]

    def run(self, scenario: Scenario | None, index: int) -> Outcome:
        """Record a run with one fault."""
        store = self.folder / "r.ome.zarr"
        shutil.rmtree(store, ignore_errors=True)
        notice, watcher = Notice(), Watcher()
        logging.getLogger().addHandler(notice)
        try:
            with Microscope(self.config) as microscope:
                try:
                    self._arm(microscope, scenario, index)
                    history.clear()
                    notice.expect = scenario
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
    def _arm(microscope: Microscope, scenario: Scenario | None, index: int) -> None:
        def arm() -> None:
            assert microscope._session is not None
            core = microscope._session.core
            for label in ("Camera", "Lens"):
                core.setProperty(label, "NextEvent", 0)
            if scenario is not None:
                core.setProperty(scenario.device, "EventFaultAt", index)
                core.setProperty(scenario.device, "EventFaultCount", scenario.count)
                core.setProperty(scenario.device, "StallTime-s", TIMEOUT_S / 5)
                core.setProperty(scenario.device, "EventFault", scenario.kind)

        microscope._call("test", "arm", arm)


def check(scenario: Scenario, outcome: Outcome) -> float | None:
    """Hold what was stored and told against what happened; return after how many seconds the fault was noticed."""
    assert outcome.fired, "the fault did not happen"
    first = outcome.fired[0]
    assert outcome.state in ("completed", "failed")
    assert sorted(outcome.written + list(outcome.missing)) == list(range(outcome.time_points))
    # The first image of all has none before it to be compared with.
    unseen = scenario.kind in ("torn", "old") and first.frame == 0
    check_frames(outcome, allow_torn=scenario.kind == "torn" and unseen)
    device = f"{scenario.device}: "
    if outcome.missing:
        assert all(device in reason for reason in outcome.missing.values())
        assert any(device in told for told in outcome.faults) or outcome.state == "failed"
    if outcome.state == "failed":
        assert device in (outcome.reason or "")
    if unseen or not scenario.noticed:
        assert outcome.state == "completed"
        assert outcome.written == list(range(outcome.time_points))
        assert not outcome.notice.lines
        return None
    assert outcome.notice.at_s is not None, f"nothing in the log names {scenario.device}: {outcome.notice.lines}"
    notice_s = outcome.notice.at_s - first.began_s
    assert 0 <= notice_s < max(NOTICE_S, 5 * EXPOSURE_MS / 1000)
    return notice_s


def check_frames(outcome: Outcome, *, allow_torn: bool) -> None:
    """Every stored frame is whole, and was exposed at its own time point under the defocus of the plan."""
    exposed = {event.frame: event.began_s for event in outcome.events if event.call == "snap"}
    times_s = {index: outcome.table["time_monotonic_ns"][index] / 1e9 for index in outcome.written}
    last = -1
    for index in outcome.written:
        pixels = outcome.numbers[index][:, :48]  # the other half is the grain
        number = int(pixels[0, 0])
        if not (pixels == number).all():
            assert allow_torn
            assert [event.frame for event in outcome.fired] == [number]
        assert number > last, f"time point {index} holds exposure {number} again"
        last = number
        assert times_s[index] <= exposed[number], f"time point {index} holds an exposure from before it"
        later = [at for at in outcome.written if at > index]
        if later:
            assert exposed[number] < times_s[later[0]], f"time point {index} holds an exposure of a later one"
        recorded = outcome.table["Camera.FrameNumber"][index]
        assert recorded in (number, -1) or np.isnan(recorded)
        assert abs(outcome.table["defocus_um"][index] - DEFOCUS_UM) <= 0.5


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


@pytest.mark.filterwarnings("ignore:Camera device did not provide an image buffer")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize(
    ("rig", "every"),
    [(False, False), pytest.param(True, True, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
    indirect=["rig"],
    ids=["chosen", "every"],
)
def test_a_fault_at_every_event_of_a_run(rig: Rig, every: bool, scenario: Scenario) -> None:
    """A fault at every call of the run (a soak), or at each call of some time point drawn by lot."""
    rng = np.random.default_rng(11)
    places = rig.places(scenario)
    calls = len(places) // rig.time_points
    assert calls >= 1
    chosen = places if every else [int(rng.choice(places[call::calls])) for call in range(calls)]
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    slowest_s, gaps = 0.0, 0
    for index in chosen:
        outcome = rig.run(scenario, index)
        try:
            noticed_s = check(scenario, outcome)
        except AssertionError as error:
            wrong.append(f"at call {index} ({rig.calls[scenario.device][index]}): {error}")
            continue
        slowest_s = max(slowest_s, noticed_s or 0.0)
        outcomes[outcome.state if not outcome.missing else f"{outcome.state} with gaps"] += 1
        gaps += len(outcome.missing)
    print(
        f"{scenario.name}: {len(chosen)} faults, {dict(outcomes)}, {gaps} gaps, slowest {slowest_s:.3f} s", flush=True
    )
    assert not wrong, f"{len(wrong)} faults: " + "\n".join(wrong)


@pytest.mark.parametrize("scenario", FIRST_MOVE, ids=lambda scenario: scenario.name)
def test_a_lens_that_stays_at_the_first_move(rig: Rig, scenario: Scenario) -> None:
    """A lens that lies about its position cannot be noticed: the frame is stored under what the lens says."""
    outcome = rig.run(scenario, rig.places(scenario)[0])
    check(scenario, outcome)
    true_um = outcome.table["Lens.TruePosition-um"]
    assert outcome.written == list(range(outcome.time_points))
    assert true_um[0] == (DEFOCUS_UM if scenario.noticed else 0.0)
    assert (true_um[1:] == DEFOCUS_UM).all()
