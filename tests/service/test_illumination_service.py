"""Dark frame, flat field, exposure advice and lamp of a running service: real HTTP, simulated scope, real worker."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import uvicorn
import zarr

from livephase.acquisition.lamp import LampState
from livephase.acquisition.reference_frames import DarkRequest, Measurement
from livephase.api.app import create_app
from livephase.api.illumination import Illumination, InUse
from livephase.api.services import Services
from livephase.config import IlluminationTable, ServiceConfig
from livephase.errors import ConfigurationError
from livephase.inference.engine import PhaseEngine
from livephase.inference.protocol import WorkerSettings
from livephase.phase.modelfile import read_card
from livephase.phase.reference import load_reference, net_reference
from livephase.reconstruct_cli import reconstruct
from livephase.storage.catalogue import read_frame_table, read_phase_frame, read_raw_frame, read_run
from livephase.storage.recovery import mark_interrupted
from livephase_devices.config import MicroscopeConfig
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DEADLINE_S = 300.0
LAMP = """
#py Property,Camera,PixelType,12bit
#py Property,Camera,Offset-counts,100
#py Property,Camera,Dust,4
#py Property,Camera,Exposure,5
"""


class Scope:
    """A service in this process: its lamp can be changed under it, as a user does.

    Attributes
    ----------
    services : Services
        All parts.
    http : httpx.Client
        With the base URL.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(create_app(services), lifespan="on", log_config=None, ws="none"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()
        port = self._listener.getsockname()[1]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=120)
        self.wait_until(lambda: self._server.started, "the server")

    def close(self) -> None:
        """Stop serving."""
        self.http.close()
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        self._listener.close()

    def wait_ready(self) -> None:
        """Wait until the worker takes frames."""
        self.wait_until(lambda: self.services.engine.status().state == "ready", "the worker")

    @staticmethod
    def wait_until(condition: Callable[[], bool], what: str) -> None:
        """Poll a condition."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}"
            time.sleep(0.02)

    def adjust(self, **properties: Any) -> None:
        """Set properties of the simulated camera."""
        for name, value in properties.items():
            self.services.microscope.set_property("Camera", name.replace("_", "-"), value)

    def ask(self, method: str, place: str, status: int = 200, **body: Any) -> Any:
        """Send a request; return the JSON of the answer."""
        answer = self.http.request(method, place, json=body or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    def measured(self, kind: str, **body: Any) -> dict[str, Any]:
        """Measure a reference frame and wait for its end."""
        begun = self.http.post(f"/calibrations/{kind}", json=body)
        assert begun.status_code == 202, begun.text
        self.wait_until(lambda: self.ask("GET", f"/calibrations/{kind}")["state"] != "running", "the measurement")
        return self.ask("GET", f"/calibrations/{kind}")

    def recorded(self, meanwhile: Callable[[], None] = lambda: None, **plan: Any) -> Path:
        """Record a run; return its store."""
        body = {"name": "x", "time_points": 3, "interval_s": 0.0, "defocus_um": 6.0, **plan}
        run = self.ask("POST", "/acquisitions", 201, **body)
        meanwhile()
        self.wait_until(
            lambda: self.ask("GET", f"/acquisitions/{run['id']}")["state"] in ("completed", "failed"), "the run"
        )
        assert self.ask("GET", f"/acquisitions/{run['id']}")["state"] == "completed"
        return Path(run["path"])


WriteTwin = Callable[[Path], Path]


@pytest.fixture(scope="module")
def write_twin(write_small_twin: Callable[[Path, Path], Path], untrained_model: Path) -> WriteTwin:
    """Write configurations of a small twin with 12 bits, an offset and dust."""

    def write(folder: Path) -> Path:
        toml = write_small_twin(folder, untrained_model)
        cfg = folder / "small.cfg"
        cfg.write_text(cfg.read_text().replace("Speedup,60", "Speedup,0") + LAMP)
        return toml

    return write


@contextlib.contextmanager
def serving(toml: Path) -> Generator[Scope]:
    """Run the service of a TOML."""
    with Services(ServiceConfig.load(toml)) as services:
        scope = Scope(services)
        try:
            yield scope
        finally:
            scope.close()


@pytest.fixture(scope="module")
def toml(write_twin: WriteTwin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the configuration that the tests of this file share."""
    return write_twin(tmp_path_factory.mktemp("illumination"))


@pytest.fixture(scope="module")
def scope(toml: Path) -> Iterator[Scope]:
    """Run one service for all tests that leave it as it was."""
    with serving(toml) as running:
        running.wait_ready()
        yield running


def phase_here(model: Path, pixels: NDArray[Any], **references: Any) -> NDArray[np.float32]:
    """Compute a phase in this process with the worker's engine."""
    flat_field = references.pop("flat_field", "auto")
    engine = PhaseEngine(
        WorkerSettings(model, read_card(model).sha256, "torch-cpu", 2.6, 0.55, 0.3, 0.4, flat_field, 1, **references)
    )
    out = np.empty((pixels.shape[0] * 4, pixels.shape[1] * 4), np.float32)
    engine.compute(pixels, 6.0, 12, out)
    return out


def test_from_the_measurement_to_a_run_to_the_next_start(toml: Path, untrained_model: Path) -> None:
    """Dark frame and flat field are measured, chosen, applied to the phase but not to raw, recorded, and kept."""
    with serving(toml) as scope:
        assert scope.ask("GET", "/calibrations/illumination")["dark"] is None
        assert scope.ask("GET", "/calibrations/dark")["state"] == "idle"
        lit = scope.measured("dark", frames=4)
        assert lit["state"] == "failed"
        assert "this is no dark frame" in lit["error"]
        assert lit["result"] is None

        scope.adjust(LampLevel=0)
        dark = scope.measured("dark", frames=8)
        assert (dark["state"], dark["taken"], dark["error"]) == ("done", 8, None)
        assert dark["result"]["info"]["figures"]["offset_counts"] == pytest.approx(100, abs=0.2)
        scope.adjust(LampLevel=4.0, Specimen="out")
        scope.ask("PATCH", "/calibrations/illumination", dark=dark["result"]["sha256"])
        flat = scope.measured("flat", frames=8)
        assert flat["state"] == "done", flat
        assert flat["result"]["info"]["dark_sha256"] == dark["result"]["sha256"]
        used = scope.ask("PATCH", "/calibrations/illumination", flat=flat["result"]["sha256"])
        assert used["dark"]["sha256"] == dark["result"]["sha256"], "an absent value stays"
        assert {one["sha256"] for one in used["known"]} == {dark["result"]["sha256"], flat["result"]["sha256"]}
        assert used["problems"] == []

        scope.adjust(Specimen="in")
        store = scope.recorded(time_points=2)
        folder = scope.services.data / "illumination"
        dark_file = load_reference(folder / dark["result"]["file"], "dark")
        flat_file = load_reference(folder / flat["result"]["file"], "flat")
        raw = read_raw_frame(store, 1)
        assert raw.dtype == np.uint16
        assert raw.min() > 100, "raw frames keep the camera's offset"
        light = net_reference(flat_file.image, dark_file.image)
        expected = phase_here(untrained_model, raw, dark=dark_file.image, flat_field=light)
        np.testing.assert_allclose(read_phase_frame(store, 1), expected, atol=2**-10)
        uncorrected = phase_here(untrained_model, raw)
        assert np.std(expected - uncorrected) > 0.02
        provenance: Any = read_run(store).provenance["preprocessing"]
        assert provenance["flat_field"] == "measured"
        for kind, measured in (("dark", dark), ("flat", flat)):
            assert provenance[kind]["sha256"] == measured["result"]["sha256"]
            assert provenance[kind]["sensor"]["shape"] == [64, 96]
            assert provenance[kind]["created_utc"].endswith("Z")
        table = read_frame_table(store)
        np.testing.assert_allclose(table["level_counts"][1], raw.mean() - dark_file.image.mean(), rtol=1e-5)

    with serving(toml) as scope:
        again = scope.ask("GET", "/calibrations/illumination")
        assert again["dark"]["sha256"] == dark["result"]["sha256"]
        assert again["flat"]["sha256"] == flat["result"]["sha256"]
        scope.adjust(LampLevel=4.0)
        scope.wait_ready()
        store = scope.recorded(time_points=1)
        raw = read_raw_frame(store, 0)
        expected = phase_here(untrained_model, raw, dark=dark_file.image, flat_field=light)
        np.testing.assert_allclose(read_phase_frame(store, 0), expected, atol=2**-10)
        # The recorded raw frames and the same files give the same phase on the command line.
        reconstructed = toml.parent / "again.ome.zarr"
        reconstruct(
            store,
            reconstructed,
            6.0,
            2.6,
            0.55,
            coherence=0.3,
            model=str(untrained_model),
            dark=folder / dark["result"]["file"],
            flat_field=str(folder / flat["result"]["file"]),
        )
        np.testing.assert_allclose(read_phase_frame(reconstructed, 0), expected, atol=0.03)
        np.testing.assert_array_equal(read_raw_frame(reconstructed, 0), raw)
        described: Any = read_run(reconstructed).provenance["preprocessing"]
        assert described["dark"]["sha256"] == dark["result"]["sha256"]

        # Another bit depth: nothing is computed with references that do not fit.
        scope.adjust(PixelType="8bit")
        assert "bit depth 12 instead of 8" in scope.ask("GET", "/microscope")["illumination_problems"][0]
        refused = scope.ask("POST", "/acquisitions", 422, name="x", time_points=1, interval_s=0, defocus_um=6)
        assert "does not fit the camera: it has bit depth 12 instead of 8" in refused["detail"]
        snapped = scope.ask("POST", "/snap")
        assert "the frame has 8 bits, dark frame and flat field have 12" in snapped["phase_error"]
        used = scope.http.patch("/calibrations/illumination", json={"dark": None, "flat": None}).json()
        assert (used["dark"], used["flat"]) == (None, None)
        assert scope.ask("POST", "/snap")["phase"] is not None
        kept = Illumination(scope.services.data, IlluminationTable())
        assert kept.in_use.references() == [], "taking out of use is kept too"


def test_a_choice_that_does_not_fit_any_more_is_not_used_and_told(write_twin: WriteTwin, tmp_path: Path) -> None:
    toml = write_twin(tmp_path)
    with Microscope(MicroscopeConfig.load(toml)) as microscope:
        microscope.set_property("Camera", "LampLevel", 0)
        state = microscope.state()
        measured = Measurement(DarkRequest(frames=2), state, microscope.snap, lambda _: False).run()
    earlier = Illumination(tmp_path / "data", IlluminationTable())
    chosen = earlier.save(*measured)
    with earlier.changing(InUse(dark=chosen), state):
        earlier.commit()
    sha256 = chosen.sha256
    cfg = tmp_path / "small.cfg"
    cfg.write_text(cfg.read_text().replace("PixelType,12bit", "PixelType,8bit"))
    with serving(toml) as scope:
        used = scope.ask("GET", "/calibrations/illumination")
        assert used["dark"] is None
        assert "bit depth 12 instead of 8" in used["problems"][0]
        health = scope.ask("GET", "/health")
        assert health["status"] == "degraded"
        assert "not in use: the dark frame" in health["problems"][0]
        scope.wait_ready()
        assert scope.ask("POST", "/snap")["phase"] is not None
        dry = scope.http.post(
            "/acquisitions?dry_run=true", json={"time_points": 1, "interval_s": 0, "defocus_um": 6.0}
        ).json()
        assert any("not in use: the dark frame" in warning for warning in dry["warnings"])
        refused = scope.ask("PATCH", "/calibrations/illumination", 422, dark=sha256)
        assert "does not fit the camera" in refused["detail"]
    # The TOML has named nothing so far; now it names a file, and that is refused at the start.
    dark = next((tmp_path / "data" / "illumination").glob("dark-*.npz"))
    toml.write_text(toml.read_text() + f'[illumination]\ndark = "data/illumination/{dark.name}"\n')
    with pytest.raises(ConfigurationError, match="bit depth 12 instead of 8"), serving(toml):
        pass
    cfg.write_text(cfg.read_text().replace("PixelType,8bit", "PixelType,12bit"))
    with serving(toml) as scope:
        assert scope.ask("GET", "/calibrations/illumination")["dark"]["sha256"] == sha256
        scope.http.patch("/microscope", json={"exposure_ms": 8.0})
        dry = scope.http.post(
            "/acquisitions?dry_run=true", json={"time_points": 1, "interval_s": 0, "defocus_um": 6.0}
        ).json()
        assert any("taken at 5 ms, frames are exposed 8 ms" in warning for warning in dry["warnings"])
    toml.write_text(toml.read_text().replace(dark.name, "not-there.npz"))
    with pytest.raises(ConfigurationError, match=r"not-there\.npz cannot be read"):
        Services(ServiceConfig.load(toml))


def test_measurements_and_changes_are_refused_during_a_run_and_one_at_a_time(scope: Scope) -> None:
    scope.adjust(LampLevel=4.0, Specimen="out", PixelType="12bit")
    run = scope.ask("POST", "/acquisitions", 201, name="x", time_points=9, interval_s=3600, defocus_um=6)
    try:
        for place in ("dark", "flat"):
            answer = scope.http.post(f"/calibrations/{place}", json={})
            assert answer.status_code == 409
            assert f"while run {run['id']} has the microscope" in answer.json()["detail"]
        assert scope.http.patch("/calibrations/illumination", json={"dark": None}).status_code == 409
    finally:
        scope.ask("POST", f"/acquisitions/{run['id']}/cancel", 202)
        scope.wait_until(lambda: scope.services.thread.run is None, "the end of the run")
    slow = scope.http.post("/calibrations/flat", json={"frames": 6, "method": "fields", "interval_s": 600})
    assert slow.status_code == 202
    assert slow.json()["state"] == "running"
    scope.wait_until(lambda: scope.ask("GET", "/calibrations/flat")["taken"] == 1, "its first frame")
    assert "wait for its end" in scope.http.post("/calibrations/dark", json={}).json()["detail"]
    # A run takes precedence: the measurement says so and ends. Here the service's end stops it.
    scope.services.wizard.close()
    stopped = scope.ask("GET", "/calibrations/flat")
    assert (stopped["state"], stopped["taken"]) == ("failed", 1)
    assert "stopped after 1 frames" in stopped["error"]


@pytest.mark.parametrize(
    ("place", "body", "word"),
    [
        ("dark", {"frames": 1}, "frames"),
        ("dark", {"frames": 10, "method": "fields"}, "method"),
        ("flat", {"method": "fields", "frames": 3}, "5 to 64"),
        ("flat", {"interval_s": -1}, "interval_s"),
    ],
)
def test_a_wrong_request_is_refused(scope: Scope, place: str, body: dict[str, Any], word: str) -> None:
    answer = scope.http.post(f"/calibrations/{place}", json=body)
    assert answer.status_code == 422
    assert word in answer.json()["detail"]


def test_an_unknown_reference_is_refused(scope: Scope) -> None:
    answer = scope.http.patch("/calibrations/illumination", json={"dark": "../../etc/passwd"})
    assert answer.status_code == 422
    assert "no dark has the SHA-256" in answer.json()["detail"]


def test_exposure_advice_follows_the_raw_counts(scope: Scope) -> None:
    scope.adjust(LampLevel=1.0, Specimen="in", PixelType="12bit")
    scope.http.patch("/microscope", json={"exposure_ms": 5.0})
    exposure = scope.ask("POST", "/snap")["exposure"]
    assert exposure["saturated_fraction"] == 0
    assert exposure["brightest"] < 0.4
    assert "ms, or more light" in exposure["advice"]
    assert scope.ask("GET", "/microscope")["exposure"] == exposure
    scope.http.patch("/microscope", json={"exposure_ms": exposure["suggested_ms"]})
    better = scope.ask("POST", "/snap")["exposure"]
    assert better["brightest"] == pytest.approx(0.8, abs=0.1)  # of few pixels, and noise is in the first
    assert better["advice"] is None
    assert better["noise_sd"] == pytest.approx(
        exposure["suggested_noise_sd"], rel=0.35
    )  # cells count a little as noise
    assert better["noise_sd"] < 0.8 * exposure["noise_sd"]
    plan = {"name": "x", "time_points": 1, "interval_s": 0, "defocus_um": 6.0}
    fine = scope.http.post("/acquisitions?dry_run=true", json=plan).json()["warnings"]
    long = scope.http.post("/acquisitions?dry_run=true", json=plan | {"exposure_ms": 60.0}).json()["warnings"]
    assert not [text for text in fine if "range" in text]
    assert [text for text in long if "at 60 ms the brightest parts would reach" in text]
    scope.adjust(LampLevel=6.0)
    bright = scope.ask("POST", "/snap")
    assert bright["raw"]["saturated_fraction"] == bright["exposure"]["saturated_fraction"] > 0.5
    assert "saturated" in bright["exposure"]["advice"]
    scope.adjust(LampLevel=1.0)
    scope.http.patch("/microscope", json={"exposure_ms": 5.0})


def test_flicker_is_recorded_with_every_frame(scope: Scope) -> None:
    """The stored levels are those of the stored raw frames, and no frame is dropped."""
    scope.adjust(LampLevel=4.0, Specimen="in", PixelType="12bit", LampFlicker=0.15)
    scope.http.patch("/microscope", json={"exposure_ms": 5.0})
    try:
        store = scope.recorded(time_points=12)
    finally:
        scope.adjust(LampFlicker=0.0)
    group: Any = zarr.open_group(store, mode="r")
    frames: dict[str, NDArray[Any]] = {
        name: np.asarray(group["frames"][name]) for name in ("level_counts", "level_relative", "lamp", "raw_valid")
    }
    levels = np.asarray(group["raw/0"])[:, 0].mean(axis=(1, 2), dtype=np.float64)
    assert (frames["raw_valid"] == 1).all()
    np.testing.assert_allclose(frames["level_counts"], levels, rtol=1e-6)
    np.testing.assert_allclose(frames["level_relative"], levels / levels[0], rtol=1e-6)
    assert 0.08 < np.std(frames["level_relative"]) < 0.25
    changed = np.abs(frames["level_relative"] - 1) > 0.1
    assert 2 < changed.sum() < 12
    np.testing.assert_array_equal(frames["lamp"], np.where(changed, LampState.CHANGED, LampState.STEADY))
    codes: Any = group["frames"].attrs["livephase"]
    assert codes["lamp_codes"] == {"not_judged": 0, "steady": 1, "changed": 2, "out": 3}


def test_a_lamp_that_fades_is_told_and_its_frames_are_kept(scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
    scope.adjust(LampLevel=4.0, Specimen="in", PixelType="12bit", LampDrift_per_frame=-0.08)
    scope.http.patch("/microscope", json={"exposure_ms": 5.0})
    try:
        store = scope.recorded(time_points=12)
    finally:
        scope.adjust(LampDrift_per_frame=0.0)
    table = read_frame_table(store)
    assert (table["raw_valid"] == 1).all()
    # The first exposure after the setting is the run's first frame; the camera's offset is in the levels.
    light = np.clip(1 - 0.08 * np.arange(12), 0, None)
    first = table["level_counts"][0] - 100
    np.testing.assert_allclose(table["level_counts"], 100 + first * light, atol=3)
    assert list(table["lamp"][:3]) == [1, 1, 2]
    assert (table["lamp"][-2:] == LampState.OUT).all()
    told = [record.message for record in caplog.records if "the light has" in record.message]
    assert len(told) == 2
    assert "time point 2: the light has changed to" in told[0]
    assert "the light has gone out" in told[1]
    # The journal holds the same: a table that is written anew from it does not lose the light.
    document = store / "zarr.json"
    document.write_text(document.read_text().replace('"completed"', '"running"', 1))
    assert mark_interrupted(store)
    rebuilt = read_frame_table(store)
    for name in ("level_counts", "level_relative", "lamp", "saturated_fraction"):
        np.testing.assert_array_equal(rebuilt[name], table[name])


def test_the_command_line_measures_both(toml: Path, livephase_command: str, tmp_path: Path) -> None:
    cfg, config = toml.parent / "small.cfg", tmp_path / "scope.toml"
    dark_cfg = tmp_path / "dark.cfg"
    dark_cfg.write_text(cfg.read_text() + "#py Property,Camera,LampLevel,0\n")
    lit_cfg = tmp_path / "lit.cfg"
    lit_cfg.write_text(cfg.read_text() + "#py Property,Camera,LampLevel,4\n#py Property,Camera,Specimen,out\n")

    def run(kind: str, cfg: Path, *options: str) -> subprocess.CompletedProcess[str]:
        config.write_text(toml.read_text().replace('"small.cfg"', repr(str(cfg))))
        command = [livephase_command, "illumination", kind, "--config", str(config), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    dark, flat = tmp_path / "dark.npz", tmp_path / "flat.npz"
    done = run("dark", dark_cfg, "--out", str(dark), "--frames", "4")
    assert done.returncode == 0, done.stderr
    assert "dark of 4 frames at 5 ms" in done.stdout
    assert "offset_counts: 100" in done.stdout
    assert "4/4" in done.stderr
    done = run("flat", lit_cfg, "--out", str(flat), "--frames", "4", "--dark", str(dark))
    assert done.returncode == 0, done.stderr
    assert load_reference(flat, "flat").info.dark_sha256 == load_reference(dark, "dark").sha256
    refused = run("dark", lit_cfg, "--out", str(tmp_path / "no.npz"))
    assert refused.returncode == 2
    assert "this is no dark frame" in refused.stderr
    assert not (tmp_path / "no.npz").exists()
