"""What a run reports and records when things come late, out of order or not at all."""

from __future__ import annotations

import math
import shutil
import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from livephase.acquisition.plan import AcquisitionPlan
from livephase.acquisition.progress import Counters, RunProgress
from livephase.api.publisher import Publisher
from livephase.api.recording import StoreSink
from livephase.metrics import Metrics
from livephase.phase.modelfile import read_card
from livephase.preview import PreviewHub
from livephase.storage.catalogue import read_frame_table, read_run
from livephase.storage.layout import JOURNAL
from livephase.storage.metadata import phase_image, raw_image
from livephase.storage.recovery import mark_interrupted
from livephase.storage.spec import FrameRecord, RunSpec, Validity
from livephase.storage.writer import RunWriter
from livephase_devices import session
from livephase_devices.config import CONFIG_FOLDER, MicroscopeConfig
from livephase_devices.core import DeviceCore
from livephase_devices.frame import CameraFrame
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import ServiceProcess
    from service.conftest import Bench

    from livephase.acquisition.progress import RunState
    from livephase.frames import PhaseResult

TWIN = MicroscopeConfig.model_validate(
    {
        "name": "twin",
        "cfg": CONFIG_FOLDER / "twin.cfg",
        "camera": "Camera",
        "lens": "Lens",
        "wavelength_um": 0.55,
        "objective_na": 0.4,
        "coherence": 0.3,
        "lr_pixel_um": 2.6,
    }
)
SPEC = RunSpec(
    run_id="r-1",
    name="times",
    frames=3,
    interval_s=30.0,
    lr_shape=(32, 40),
    dtype="uint8",
    lr_pixel_um=2.6,
    defocus_um=6.0,
)


@pytest.fixture
def hub() -> Iterator[PreviewHub]:
    """A hub without viewers."""
    hub = PreviewHub()
    yield hub
    hub.close()


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of one test."""
    return Metrics()


@pytest.fixture
def publisher(hub: PreviewHub, metrics: Metrics, untrained_model: Path, tmp_path: Path) -> Publisher:
    """A publisher with metrics of its own."""
    card = read_card(untrained_model)
    return Publisher(hub, metrics, TWIN, lambda: card, lambda run_id: tmp_path / run_id)


def progress(counters: Counters, state: RunState = "running") -> RunProgress:
    """Make a snapshot of a run."""
    plan = AcquisitionPlan(time_points=counters.expected, interval_s=0.0, defocus_um=6.0)
    return RunProgress("r", plan, state, None, (), 0, 0, None, counters, None, None)


def counted(metrics: Metrics) -> tuple[float, ...]:
    """Read the metrics: expected, raw written and missing, phase written and missing."""
    values = dict(line.split()[:2] for line in metrics.text().decode().splitlines() if not line.startswith("#"))
    names = ("time_points_expected", "raw_written", "raw_missing", "phase_written", "phase_missing")
    return tuple(float(values[f"livephase_{name}_total"]) for name in names)


def test_an_older_snapshot_of_a_run_is_ignored(publisher: Publisher, metrics: Metrics, hub: PreviewHub) -> None:
    """Two threads report a run; the snapshot that was taken first may arrive second, even after the end."""
    newer = Counters(4, raw_written=3, phase_written=1)
    publisher.run_changed(progress(newer))
    publisher.run_changed(progress(Counters(4, raw_written=2, phase_written=1)))
    assert hub.counts().events_published == 1, "viewers do not see a run go back"
    end = Counters(4, raw_written=4, phase_written=3, phase_missing=1)
    publisher.run_changed(progress(end, "completed"))
    publisher.run_changed(progress(newer))
    assert counted(metrics) == (4, 4, 0, 3, 1)
    assert hub.counts().events_published == 2


def test_what_cannot_be_shown_never_ends_a_run(
    publisher: Publisher, metrics: Metrics, hub: PreviewHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer's trouble is logged; the thread that reports goes on."""

    def broken(event: object) -> None:
        raise RuntimeError("no room for events")

    monkeypatch.setattr(hub, "publish_event", broken)
    publisher.run_changed(progress(Counters(4, raw_written=1)))
    publisher.fault("the lamp is off")
    assert counted(metrics)[:2] == (4, 1)


def test_an_unexpected_error_with_one_frame_is_told_and_leaves_the_others(
    scripted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything may go wrong with a frame: its phase is missing with the reason, the thread goes on."""
    write_phase = StoreSink.write_phase

    def fails_for_two(sink: StoreSink, index: int, result: PhaseResult, *, backfilled: bool) -> None:
        if index == 2:
            raise MemoryError("no memory on command")
        write_phase(sink, index, result, backfilled=backfilled)

    monkeypatch.setattr(StoreSink, "write_phase", fails_for_two)
    run, path = scripted.record(time_points=6)
    assert run.progress.state == "completed"
    assert list(read_frame_table(path)["phase_valid"]).count(Validity.MISSING) == 1
    assert read_frame_table(path)["phase_valid"][2] == Validity.MISSING
    assert any("time point 2, attempt 1" in fault and "no memory" in fault for fault in scripted.watcher.faults)
    assert "no memory on command" in (path / "livephase" / "journal.jsonl").read_text()


def test_without_an_interval_the_time_axis_has_no_unit() -> None:
    """Frames as fast as possible have their times in frames/; one second between them would be invented."""
    for interval_s, scale, axis in (
        (0.0, 1.0, {"name": "t", "type": "time"}),
        (0.5, 0.5, {"name": "t", "type": "time", "unit": "second"}),
    ):
        spec = SPEC.model_copy(update={"interval_s": interval_s})
        for document in (phase_image(spec), raw_image(spec)):
            multiscale: Any = cast("Any", document["multiscales"])[0]
            assert multiscale["axes"][0] == axis
            assert {level["coordinateTransformations"][0]["scale"][0] for level in multiscale["datasets"]} == {scale}


def test_a_repaired_run_keeps_its_times(tmp_path: Path) -> None:
    """A run began with its first frame and ended with its last one, or as its journal says; not with its repair."""
    store, crashed, ended = (tmp_path / f"{name}.ome.zarr" for name in ("run", "crashed", "ended"))
    writer = RunWriter.create(store, SPEC)
    assert read_run(store).started_utc is None
    for index in range(2):
        record = FrameRecord((1_700_000_000 + 60 * index) * 10**9, 1, 6.0, 10.0, {})
        writer.write_raw(index, np.zeros(SPEC.lr_shape, np.uint8), record)
    shutil.copytree(store, crashed)  # running stores that no writer holds
    shutil.copytree(store, ended)
    writer.finish("cancelled")
    shutil.copy(store / JOURNAL, ended / JOURNAL)
    assert mark_interrupted(crashed) is True
    assert mark_interrupted(ended) is True
    run = read_run(crashed)
    assert (run.started_utc, run.ended_utc) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:14:20.000Z")
    assert read_run(ended).ended_utc == read_run(store).ended_utc


def test_a_recorded_property_that_fails_does_not_cost_the_frame(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, no_leaks: None
) -> None:
    """The frame is exposed already: its value is NaN, told once, and the next ones are read again."""
    config = TWIN.model_copy(
        update={"cfg": CONFIG_FOLDER / "demo.cfg", "lens": None, "recorded_properties": ("Camera.Gain",)}
    )
    broken = threading.Event()

    class Core(DeviceCore):
        def getProperty(self, label: str, propName: str) -> Any:
            if broken.is_set():
                raise RuntimeError(f"{propName} failed on command")
            return super().getProperty(label, propName)

    monkeypatch.setattr(session, "DeviceCore", Core)
    with Microscope(config) as microscope:
        broken.set()
        assert all(math.isnan(microscope.snap().properties["Camera.Gain"]) for _ in range(3))
        broken.clear()
        assert microscope.snap().properties["Camera.Gain"] == 0
    assert caplog.text.count("Gain failed on command; NaN is recorded") == 1


def test_a_preview_that_comes_late_does_not_replace_a_newer_one(publisher: Publisher, hub: PreviewHub) -> None:
    """A single frame waits for its phase while live mode goes on; a clock that is set back changes nothing."""
    pixels = np.zeros((4, 4), np.uint8)
    for monotonic_ns, utc_ns, shown in ((20, 90, 20), (10, 80, 20), (30, 40, 30)):
        frame = CameraFrame(pixels, 8, 10.0, 6.0, utc_ns, monotonic_ns, 0, {})
        publisher.frame_ready(frame, None, defocus_um=6.0, run_id=None, time_point=None)
        latest = hub.latest("raw")
        assert latest is not None
        assert latest.time_monotonic_ns == shown


def test_remaining_time_without_an_interval_is_measured(scripted: Bench) -> None:
    """Nothing is known before the first time point; from then on it is what the rest takes at the same pace."""
    run, _ = scripted.record(time_points=8)
    assert run.progress.remaining_s is None
    told = [one.remaining_s for one in scripted.watcher.runs if one.state == "running"]
    assert told[0] is None
    after_three = [one for one in scripted.watcher.runs if one.counters.raw_written == 3 and one.state == "running"]
    assert after_three
    assert all(one.remaining_s is not None and one.remaining_s > 0 for one in after_three)


def test_the_stored_state_is_that_of_the_run(service: ServiceProcess) -> None:
    """Exposure and defocus in the provenance are the plan's, not those of live mode before it."""
    before = service.http.patch("/api/v1/microscope", json={"exposure_ms": 10.0, "defocus_um": 6.0})
    assert before.status_code == 200, before.text
    run = service.start_run(time_points=6, exposure_ms=13.0, defocus_um=8.0)
    service.wait_run(run["id"])
    service.http.patch("/api/v1/microscope", json={"exposure_ms": 10.0, "defocus_um": 6.0})
    provenance: Any = read_run(service.data / f"{run['id']}.ome.zarr").provenance
    assert provenance["microscope"]["state"]["exposure_ms"] == 13.0
    assert provenance["microscope"]["state"]["defocus_um"] == pytest.approx(8.0, abs=0.05)
    assert provenance["preprocessing"] == {"flat_field": "auto", "dark": None, "flat": None}
