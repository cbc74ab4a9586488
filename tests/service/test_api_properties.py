"""Devices and properties over HTTP, their changes over the stream; on Micro-Manager's and the faulty devices."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from websockets.sync.client import connect

from livephase.api.app import create_app
from livephase.api.services import Services
from livephase.api.websocket import WEBSOCKET_SETTINGS
from livephase.config import LiveTable, ModelTable, ServerTable, ServiceConfig
from livephase_devices import faults
from livephase_devices.config import MicroscopeConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from websockets.sync.client import ClientConnection

DEADLINE_S = 60.0
PROBLEM = "application/problem+json"

MODULE = """
from livephase_devices.faults import FaultyLens
from livephase_devices.python_device import add_property

class Odd(FaultyLens):
    def __init__(self):
        super().__init__()
        self.values = {"a/b": 1.0, "100 % / µ?#": 2, "..": "x", "%2F": 4.0, "Knob": 0.0}
        for name, value in self.values.items():
            add_property(self, name, type(value), lambda n=name: self.values[n], lambda v, n=name: self.turn(n, v))
        odd.append(self)

    def turn(self, name, value):
        if value == 13:
            raise RuntimeError("the knob is stuck")
        self.values[name] = value

odd = []
"""
CFG = """
Device,Camera,DemoCamera,DCam
#py pyDevice,Odd /µ%2F,odd_devices,Odd
#py pyDevice,properties,livephase_devices.faults,FaultyLens
Property,Core,Initialize,1
Property,Camera,OnCameraCCDXSize,96
Property,Camera,OnCameraCCDYSize,64
Property,Camera,Exposure,1
"""
ODD = "Odd /µ%2F"


class Running:
    """A service on its own web server in this process, so that a test can turn a device's knob behind its back."""

    def __init__(self, services: Services) -> None:
        self.services = services
        config = uvicorn.Config(create_app(services), port=0, log_config=None, **WEBSOCKET_SETTINGS)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        end = time.monotonic() + DEADLINE_S
        while not self.server.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=DEADLINE_S)

    def place(self, label: str, name: str | None = None) -> str:
        """Return the address of a device's properties or of one of them."""
        end = "" if name is None else f"/{quote(name, safe='').replace('..', '%2E%2E')}"
        return f"/devices/{quote(label, safe='')}/properties{end}"

    def get(self, label: str, name: str) -> dict[str, Any]:
        """Read a property."""
        answer = self.http.get(self.place(label, name))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, label: str, name: str, value: Any) -> httpx.Response:
        """Set a property."""
        return self.http.put(self.place(label, name), json={"value": value})

    @contextmanager
    def viewer(self) -> Generator[Viewer]:
        """Connect to the stream."""
        with connect(f"ws://127.0.0.1:{self.port}/api/v1/stream", compression=None, proxy=None) as client:
            yield Viewer(client)

    def stop(self) -> None:
        """End the server."""
        self.http.close()
        self.server.should_exit = True
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


class Viewer:
    """Reads events of properties."""

    def __init__(self, client: ClientConnection) -> None:
        self._client = client

    def next(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for an event of a property."""
        end = time.monotonic() + DEADLINE_S
        while True:
            event = json.loads(self._client.recv(end - time.monotonic()))["event"]
            if event["kind"] == "property" and wanted(event):
                return event


@pytest.fixture(scope="module")
def running(untrained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("properties")
    (folder / "odd_devices.py").write_text(MODULE, encoding="utf-8")
    (folder / "odd.cfg").write_text(CFG, encoding="utf-8")
    microscope = MicroscopeConfig(
        name="odd",
        cfg=folder / "odd.cfg",
        camera="Camera",
        lens="properties.Current-mA",
        wavelength_um=0.55,
        objective_na=0.4,
        coherence=0.3,
        lr_pixel_um=2.6,
        call_timeout_s=1.0,
    )
    config = ServiceConfig(
        microscope=microscope,
        service=ServerTable(data=folder / "data"),
        model=ModelTable(path=untrained_model, runtime="torch-cpu"),
        live=LiveTable(defocus_um=6.0),
    )
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.syspath_prepend(folder)
        services = stack.enter_context(Services(config))
        service = Running(services)
        stack.callback(service.stop)
        stack.callback(faults.release_hangs)
        yield service


def assert_problem(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    for word in words:
        assert word in answer.json()["detail"]


def test_devices_and_all_their_properties(running: Running) -> None:
    devices = running.http.get("/devices").json()["devices"]
    assert {(one["label"], one["library"], one["name"], one["type"]) for one in devices} == {
        ("Camera", "DemoCamera", "DCam", "Camera"),
        (ODD, "odd_devices", "Odd", "Stage"),
        ("properties", "livephase_devices.faults", "FaultyLens", "Stage"),
    }
    listed = {one["name"]: one for one in running.http.get(running.place("Camera")).json()["properties"]}
    assert listed["Gain"].pop("read_ms") >= 0
    assert listed["Gain"] == {
        "device": "Camera",
        "name": "Gain",
        "kind": "int",
        "value": 0,
        "read_only": False,
        "pre_init": False,
        "limits": [-5, 8],
        "allowed": [],
    }
    assert listed["PixelType"]["kind"] == "str"
    assert "16bit" in listed["PixelType"]["allowed"]
    assert listed["CCDTemperature RO"]["read_only"] is True
    assert listed["MaximumExposureMs"]["pre_init"] is True
    assert listed["TestProperty1"]["limits"] == [-0.1, 0.1]
    for name in listed:
        assert {**running.get("Camera", name), "read_ms": 0} == {**listed[name], "read_ms": 0}


@pytest.mark.parametrize(
    ("label", "name", "value"),
    [
        (ODD, "a/b", 1.5),
        (ODD, "100 % / µ?#", 7),
        (ODD, "..", "y/z"),
        (ODD, "%2F", 4.5),
        ("properties", "Fault", "none"),
        ("Camera", "ReadNoise (electrons)", 3.25),
        ("Camera", "Gain", 3.0),
        ("Camera", "Gain", "2"),
        ("Camera", "FastImage", True),
        ("Camera", "Binning", 1),
    ],
)
def test_put_then_get_under_any_name(running: Running, label: str, name: str, value: Any) -> None:
    answer = running.put(label, name, value)
    assert answer.status_code == 200, answer.text
    assert answer.json()["name"] == name
    kinds = {"int": int, "float": float, "str": str}
    wanted = kinds[answer.json()["kind"]](value)
    assert answer.json()["value"] == wanted
    assert running.get(label, name)["value"] == wanted


@pytest.mark.parametrize(
    ("label", "name", "value", "status", "words"),
    [
        ("Nobody", "Gain", 1, 404, ["Nobody", "Camera"]),
        ("Core", "Camera", "", 404, ["Core"]),
        ("Camera", "Nothing", 1, 404, ["Camera", "'Nothing'", "Gain"]),
        ("Camera", "Gain/..", 1, 404, ["Gain/.."]),
        ("Camera", "Gain", 9, 422, ["Gain", "-5 and 8"]),
        ("Camera", "Gain", 1.5, 422, ["whole number"]),
        ("Camera", "Gain", "much", 422, ["must be a number"]),
        ("Camera", "Gain", 10**400, 422, ["Gain"]),
        ("Camera", "PixelType", "9bit", 422, ["PixelType", "16bit"]),
        ("Camera", "CCDTemperature RO", 1, 422, ["is read-only"]),
        ("Camera", "MaximumExposureMs", 1, 422, ["configuration file"]),
        ("Camera", "TriggerDevice", "a\0b", 422, ["NUL"]),
        ("Camera", "TriggerDevice", "x" * 1024, 422, ["value"]),
        ("Camera", "TriggerDevice", "µ" * 1000, 422, ["1023 bytes"]),
        ("Camera", "Gain", None, 422, ["value"]),
        ("Camera", "Gain", [1], 422, ["value"]),
        (ODD, "Knob", 13, 502, ["Odd /µ%2F", "the knob is stuck"]),
    ],
)
def test_what_cannot_be_set(running: Running, label: str, name: str, value: Any, status: int, words: list[str]) -> None:
    assert_problem(running.put(label, name, value), status, *words)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"value": NaN}',
        b'{"value": 1e999}',
        b'{"value": "\\ud800"}',
        b'{"value": 1, "x": 2}',
    ],
)
def test_bodies_that_are_no_value(running: Running, body: bytes) -> None:
    place = running.place("Camera", "Gain")
    answer = running.http.put(place, content=body, headers={"content-type": "application/json"})
    assert_problem(answer, 422)


@pytest.mark.parametrize("place", ["/devices/%FF/properties", "/devices/a%00b/properties/c", "/devices//properties"])
def test_impossible_names_are_404(running: Running, place: str) -> None:
    raw = httpx.URL(f"http://127.0.0.1:{running.port}").copy_with(raw_path=f"/api/v1{place}".encode())
    assert_problem(running.http.get(raw), 404)


def test_a_wrong_method_is_405(running: Running) -> None:
    assert_problem(running.http.post(running.place("Camera", "Gain")), 405)
    assert_problem(running.http.delete(running.place("Camera")), 405)


def test_a_property_set_by_rest_is_announced_at_once_to_every_viewer(running: Running) -> None:
    with running.viewer() as first, running.viewer() as second:
        assert running.put(ODD, "a/b", 42.0).status_code == 200
        for viewer in (first, second):
            event = viewer.next(lambda event: event["name"] == "a/b")
            assert event == {
                "kind": "property",
                "id": "Odd%20%2F%C2%B5%252F/properties/a%2Fb",
                "device": ODD,
                "name": "a/b",
                "value": 42.0,
            }


def test_what_the_device_changes_by_itself_is_found(running: Running) -> None:
    """A knob that is turned by hand, and a property that follows another one."""
    import odd_devices  # pyright: ignore[reportMissingImports] - written by the fixture

    assert running.put("Camera", "PixelType", "8bit").status_code == 200
    with running.viewer() as viewer:
        knob = running.get(ODD, "Knob")["value"]
        odd_devices.odd[-1].values["Knob"] = knob + 1.5
        event = viewer.next(lambda event: event["name"] == "Knob")
        assert (event["device"], event["value"]) == (ODD, knob + 1.5)
        assert running.get("Camera", "BitDepth")["value"] == 8
        assert running.put("Camera", "PixelType", "16bit").status_code == 200
        assert viewer.next(lambda event: event["name"] == "BitDepth")["value"] == 16
        assert running.put("Camera", "PixelType", "8bit").status_code == 200
        assert viewer.next(lambda event: event["name"] == "BitDepth")["value"] == 8


def test_a_patch_of_exposure_and_defocus_is_an_event_of_their_properties(running: Running) -> None:
    with running.viewer() as viewer:
        running.get("Camera", "Exposure")
        running.get("properties", "Current-mA")
        assert running.http.patch("/microscope", json={"exposure_ms": 2.5, "defocus_um": 7.25}).status_code == 200
        found = {
            event["name"]: event["value"]
            for event in (viewer.next(lambda event: event["name"] in ("Exposure", "Current-mA")) for _ in range(2))
        }
        assert found == {"Exposure": 2.5, "Current-mA": 7.25}


def test_a_change_that_a_reading_finds_is_announced(running: Running) -> None:
    import odd_devices  # pyright: ignore[reportMissingImports] - as above

    running.get(ODD, "%2F")
    odd_devices.odd[-1].values["%2F"] = 99.0
    with running.viewer() as viewer:
        assert running.get(ODD, "%2F")["value"] == 99.0
        assert viewer.next(lambda event: event["name"] == "%2F")["value"] == 99.0


def test_live_mode_goes_on(running: Running) -> None:
    def frames() -> int:
        live = running.http.get("/microscope").json()["live"]
        assert live["running"]
        assert live["fault"] is None
        return live["frames"]

    assert running.http.post("/live/start").status_code == 200
    try:
        for gain in (1, 2, 3):
            assert running.put("Camera", "Gain", gain).json()["value"] == gain
        before, end = frames(), time.monotonic() + DEADLINE_S
        while frames() < before + 5:
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        assert running.http.post("/live/stop").status_code == 200


def test_a_run_is_not_disturbed(running: Running) -> None:
    plan = {"name": "run", "time_points": 3, "interval_s": 0.5, "defocus_um": 6.0}
    run = running.http.post("/acquisitions", json=plan).json()
    try:
        answer = running.put("Camera", "Gain", 4)
        assert_problem(answer, 409, "'Gain' cannot be set", run["id"])
        assert running.get("Camera", "Gain")["value"] != 4
    finally:
        running.http.post(f"/acquisitions/{run['id']}/cancel")
        end = time.monotonic() + DEADLINE_S
        while running.http.get(f"/acquisitions/{run['id']}").json()["state"] not in ("cancelled", "completed"):
            assert time.monotonic() < end
            time.sleep(0.02)
    assert running.put("Camera", "Gain", 4).status_code == 200


def test_a_device_that_hangs_is_a_504_and_is_not_asked_again(running: Running) -> None:
    """Comes last: it hangs the microscope for a while."""
    place = running.place("properties", "Fault")
    assert running.http.put(place, json={"value": "hang"}).status_code == 200
    assert_problem(running.put("properties", "Current-mA", 3), 504, "properties", "did not answer within 1 s")
    assert_problem(running.put("Camera", "Gain", 1), 504, "properties")
    assert_problem(running.http.get(running.place("Camera", "Gain")), 504, "properties")
    faults.release_hangs()
    end = time.monotonic() + DEADLINE_S
    while running.put("properties", "Fault", "none").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert running.put("properties", "Current-mA", 3).json()["value"] == 3
