"""Defocus calibration over real HTTP: measured, put into use, kept, and in every run's provenance."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from livephase.storage.catalogue import read_run
from livephase_devices.lens_calibration import ActiveCalibration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx
    from conftest import ServiceProcess

PLACE = "/api/v1/calibrations/defocus"
PLAN = {"from_position": -12.0, "to_position": 12.0, "steps": 3, "search_um": 8.0}


@pytest.fixture
def calibrated_toml(twin_toml: Path) -> Path:
    """A small simulated microscope with a focus drive, whose culture stands still."""
    cfg = twin_toml.parent / "small.cfg"
    text = cfg.read_text(encoding="utf-8").replace("Speedup,60", "Speedup,0").replace("CCDXSize,96", "CCDXSize,112")
    text = text.replace("CCDYSize,64", "CCDYSize,112")
    text += "#py Property,Lens,TrueScale-um-per-unit,0.9\n#py Property,Lens,TrueFocusPosition,1.5\n"
    cfg.write_text(text, encoding="utf-8")
    toml = twin_toml.read_text(encoding="utf-8").replace('lens = "Lens"', 'lens = "Lens"\nz_drive = "Drive"')
    twin_toml.write_text(toml.replace("defocus_um = 6.0", "defocus_um = 1.0"), encoding="utf-8")
    return twin_toml


def refused(answer: httpx.Response, status: int, text: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert text in answer.json()["detail"]


def measure(service: ServiceProcess) -> dict[str, Any]:
    answer = service.http.post(PLACE, json=PLAN)
    assert answer.status_code == 202, answer.text
    assert answer.json()["state"] == "running"
    return service.wait("/calibrations/defocus", lambda seen: seen["state"] != "running", "the calibration")


def test_a_calibration_from_start_to_provenance(
    calibrated_toml: Path, serve_toml: Callable[[Path], ServiceProcess]
) -> None:
    service = serve_toml(calibrated_toml)
    before = service.get("/calibrations/defocus")
    assert (before["state"], before["files"], before["active"]) == ("none", [], None)

    # While it is going on, others are refused at once, and reading is answered.
    assert service.http.post(PLACE, json=PLAN).status_code == 202
    for answer in (
        service.http.post(PLACE, json=PLAN),
        service.http.post("/api/v1/snap"),
        service.http.post("/api/v1/live/start"),
        service.http.patch("/api/v1/microscope", json={"defocus_um": 2.0}),
        service.http.post("/api/v1/acquisitions", json={"time_points": 1, "interval_s": 0, "defocus_um": 2}),
        service.http.delete(f"{PLACE}/active"),
    ):
        refused(answer, 409, "the defocus calibration has the microscope")
    assert service.get("/microscope")["microscope"]["fault"] is None
    service.wait("/calibrations/defocus", lambda seen: seen["exposures"] >= 2, "the first exposures")
    assert service.http.post(f"{PLACE}/cancel").status_code == 202
    ended = service.wait("/calibrations/defocus", lambda seen: seen["state"] != "running", "the end")
    assert (ended["state"], ended["files"], ended["result"]) == ("cancelled", [], None)
    assert service.get("/microscope")["microscope"]["defocus_um"] == 1.0
    refused(service.http.post(f"{PLACE}/cancel"), 409, "no calibration is going on")

    done = measure(service)
    assert (done["state"], done["error"]) == ("completed", None)
    assert done["exposures"] == done["expected"]
    result = done["result"]
    assert done["files"] == [result["file"]]
    assert result["calibration"]["um_per_unit"] == pytest.approx(0.9, rel=0.02)
    assert (result["calibration"]["focus_position"] - 1.5) * 0.9 == pytest.approx(0.0, abs=0.3)
    stored = service.data / "calibrations" / result["file"]
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == result["sha256"]
    assert ActiveCalibration.load(stored).model_dump(mode="json") == result
    assert done["active"] is None, "it is in use only when somebody says so"

    refused(service.http.put(f"{PLACE}/active", json={"file": "../small.toml"}), 404, "no calibration has the name")
    used = service.http.put(f"{PLACE}/active", json={"file": result["file"]})
    assert used.status_code == 200, used.text
    assert used.json()["active"] == result
    low, high = service.get("/microscope")["microscope"]["defocus_limits_um"]
    assert low == pytest.approx(-12.15, abs=0.5)
    assert high == pytest.approx(9.45, abs=0.5)

    # Outside of what was calibrated nothing is recorded: not as a plan, not tried, not set by hand.
    plan = {"name": "far", "time_points": 1, "interval_s": 0, "defocus_um": 15.0}
    refused(service.http.post("/api/v1/acquisitions", json=plan), 422, "outside the calibrated range of the lens")
    refused(
        service.http.post("/api/v1/acquisitions?dry_run=true", json=plan),
        422,
        f"({result['file']} of {result['calibration']['date_utc'][:10]})",
    )
    refused(service.http.patch("/api/v1/microscope", json={"defocus_um": -14.0}), 422, "outside the calibrated range")

    run = service.wait_run(service.start_run(time_points=2, defocus_um=5.0, focus_every=1)["id"])
    assert run["state"] == "completed"
    described: Any = read_run(service.data / f"{run['id']}.ome.zarr").provenance["microscope"]
    assert described["lens_calibration"] == {
        "file": result["file"],
        "sha256": result["sha256"],
        "date_utc": result["calibration"]["date_utc"],
    }
    assert described["configuration"]["lens_calibration"]["calibration"] == result["calibration"]

    # After a restart it is still in use; a file that was changed is not.
    service.stop()
    service = serve_toml(calibrated_toml)
    assert service.get("/calibrations/defocus")["active"] == result
    assert service.http.delete(f"{PLACE}/active").json()["active"] is None
    assert service.get("/microscope")["microscope"]["defocus_limits_um"] == [-20.0, 20.0]
    assert service.http.put(f"{PLACE}/active", json={"file": result["file"]}).status_code == 200
    service.stop()
    stored.write_text(stored.read_text(encoding="utf-8").replace("mA", "dpt").replace('"um"', '"mA"'), encoding="utf-8")
    service = serve_toml(calibrated_toml)
    assert service.get("/calibrations/defocus")["active"] is None
    assert any("was changed after it was put into use" in problem for problem in service.get("/health")["problems"])


def test_what_cannot_be_calibrated(service: ServiceProcess) -> None:
    """The shared small microscope has no focus drive among its roles."""
    refused(service.http.post(PLACE, json={"slope": "z_drive"}), 422, "has no focus drive")
    refused(service.http.post(PLACE, json={"from_position": 5.0, "to_position": -5.0}), 422, "they must rise")
    assert service.http.post(PLACE, json={"steps": 2}).status_code == 422
    assert service.http.post(PLACE, json={"unknown": 1}).status_code == 422
    assert service.get("/calibrations/defocus")["state"] == "none"
    plan = {"time_points": 2, "interval_s": 1, "defocus_um": 6, "focus_every": 0}
    assert service.http.post("/api/v1/acquisitions?dry_run=true", json=plan).status_code == 422
    assert service.http.post("/api/v1/acquisitions?dry_run=true", json=plan | {"focus_every": 1}).status_code == 200
