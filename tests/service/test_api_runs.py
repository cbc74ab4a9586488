"""Runs over real HTTP: a ``livephase serve`` process with the simulated microscope and a real worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from livephase.phase.modelfile import read_card
from livephase.storage.catalogue import read_frame_table, read_phase_frame, read_raw_frame, read_run

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import ServiceProcess

RUN_KEYS = {
    "id",
    "name",
    "state",
    "reason",
    "time_points",
    "interval_s",
    "defocus_um",
    "created_utc",
    "started_utc",
    "ended_utc",
    "counters",
    "misfit",
    "remaining_s",
    "path",
    "warnings",
}


@pytest.fixture(scope="module")
def finished(service: ServiceProcess) -> dict[str, Any]:
    """Return a run of 20 time points that has completed."""
    started = service.start_run(name="twenty", time_points=20, interval_s=0.1)
    assert set(started) == RUN_KEYS
    assert started["state"] in ("queued", "running")
    return service.wait_run(started["id"])


def metric(service: ServiceProcess, name: str) -> float:
    """Read one metric without labels."""
    lines = service.http.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.split()[0] == f"livephase_{name}"))


def test_a_run_completes_and_its_counters_close(finished: dict[str, Any], service: ServiceProcess) -> None:
    assert finished["state"] == "completed"
    assert finished["reason"] is None
    assert finished["remaining_s"] is None
    # How fast one inference is belongs to the machine; nothing else may be wrong with this run.
    assert [text for text in finished["warnings"] if "shorter than one inference" not in text] == []
    assert finished["counters"] == {
        "expected": 20,
        "raw_written": 20,
        "raw_missing": 0,
        "phase_written": 20,
        "phase_missing": 0,
    }
    assert finished["created_utc"] <= finished["started_utc"] < finished["ended_utc"]
    expected = metric(service, "time_points_expected_total")
    assert expected >= 20
    assert expected == metric(service, "raw_written_total") + metric(service, "raw_missing_total")
    assert expected == metric(service, "phase_written_total") + metric(service, "phase_missing_total")


def test_the_store_holds_what_the_microscope_saw(finished: dict[str, Any], service: ServiceProcess) -> None:
    store = service.data / f"{finished['id']}.ome.zarr"
    assert finished["path"] == str(store)
    group = zarr.open_group(store, mode="r")
    phase, raw = group["0"], group["raw/0"]
    assert isinstance(phase, zarr.Array)
    assert isinstance(raw, zarr.Array)
    assert phase.shape == (20, 1, 256, 384)
    assert raw.shape == (20, 1, 64, 96)
    frames = np.asarray(raw[:, 0])
    assert len({frame.tobytes() for frame in frames}) == 20, "every exposure has noise of its own"
    assert np.isfinite(np.asarray(phase[:])).all()
    table = read_frame_table(store)
    assert (table["raw_valid"] == 1).all()
    assert (table["phase_valid"] > 0).all()
    np.testing.assert_allclose(table["defocus_um"], 6.0, atol=0.01)
    assert (table["Schedule.late_s"] >= 0).all()
    assert (np.diff(table["time_utc_ns"]) > 0).all()
    np.testing.assert_array_equal(frames[7], read_raw_frame(store, 7))
    np.testing.assert_array_equal(np.asarray(phase[7, 0]), read_phase_frame(store, 7))


def test_provenance_says_where_a_run_comes_from(
    finished: dict[str, Any], service: ServiceProcess, untrained_model: Path
) -> None:
    provenance: Any = read_run(service.data / f"{finished['id']}.ome.zarr").provenance
    assert provenance["plan"]["time_points"] == 20
    assert provenance["model"]["sha256"] == read_card(untrained_model).sha256
    assert provenance["microscope"]["properties"]["Camera"]["Seed"] == 1
    assert provenance["microscope"]["state"]["sensor_shape"] == [64, 96]
    assert provenance["microscope"]["configuration"]["lens"] == "Lens"
    assert provenance["runtime"]
    assert provenance["started_by"]
    assert provenance["outside_valid_range"] == []
    assert set(provenance["software"]) >= {"livephase", "python", "numpy", "torch", "pymmcore", "pymmcore-plus"}
    assert all(provenance["software"].values())


def test_runs_are_listed_newest_first(finished: dict[str, Any], service: ServiceProcess) -> None:
    later = service.wait_run(service.start_run(time_points=1)["id"])
    listed = service.get("/acquisitions")["acquisitions"]
    ids = [run["id"] for run in listed]
    assert ids.index(later["id"]) < ids.index(finished["id"])
    from_disk = next(run for run in listed if run["id"] == finished["id"])
    moments = {"created_utc", "started_utc", "ended_utc"}  # of the store and of the run: milliseconds apart
    assert {key: from_disk[key] for key in RUN_KEYS - moments} == {key: finished[key] for key in RUN_KEYS - moments}


def test_values_outside_the_valid_range_are_said_before_and_kept(service: ServiceProcess) -> None:
    plan = {"name": "far", "time_points": 2, "interval_s": 0, "defocus_um": 14.5}
    tried = service.http.post("/api/v1/acquisitions?dry_run=true", json=plan)
    assert tried.status_code == 200
    assert any("valid range" in warning for warning in tried.json()["warnings"])
    run = service.wait_run(service.start_run(**plan)["id"])
    assert run["state"] == "completed"
    assert any("outside the model's valid range" in warning for warning in run["warnings"])
    provenance = read_run(service.data / f"{run['id']}.ome.zarr").provenance
    assert provenance["outside_valid_range"]


def test_a_dry_run_starts_nothing(service: ServiceProcess) -> None:
    before = service.get("/acquisitions")
    plan = {"name": "long", "time_points": 1000, "interval_s": 60, "defocus_um": 6}
    answer = service.http.post("/api/v1/acquisitions?dry_run=true", json=plan)
    assert answer.status_code == 200
    estimate = answer.json()
    assert set(estimate) == {"bytes", "duration_s", "warnings", "disk_free_bytes"}
    assert estimate["duration_s"] == 999 * 60
    raw, phase = 64 * 96, 256 * 384 * 4
    assert 1000 * (raw + phase / 8) < estimate["bytes"] < 1000 * (raw + 2 * phase)
    assert estimate["disk_free_bytes"] > 0
    assert service.get("/acquisitions") == before


def test_the_estimate_is_an_upper_bound_of_the_store(finished: dict[str, Any], service: ServiceProcess) -> None:
    plan = {"name": "x", "time_points": 20, "interval_s": 0, "defocus_um": 6}
    estimate = service.http.post("/api/v1/acquisitions?dry_run=true", json=plan).json()["bytes"]
    store = service.data / f"{finished['id']}.ome.zarr"
    images = sum(file.stat().st_size for file in store.rglob("c.*") if file.parent.parent.name != "frames")
    assert images < estimate


def test_a_plan_that_does_not_fit_the_disk_is_refused(service: ServiceProcess) -> None:
    answer = service.http.post(
        "/api/v1/acquisitions", json={"name": "x", "time_points": 1_000_000, "interval_s": 1, "defocus_um": 6}
    )
    free = service.get("/health")["disk_free_bytes"]
    needed = service.http.post(
        "/api/v1/acquisitions?dry_run=true",
        json={"name": "x", "time_points": 1_000_000, "interval_s": 1, "defocus_um": 6},
    ).json()["bytes"]
    if needed <= free:
        service.http.post(f"/api/v1/acquisitions/{answer.json()['id']}/cancel")
        service.wait_run(answer.json()["id"])
        pytest.skip(f"this disk has room for {needed / 1e9:.0f} GB")
    assert answer.status_code == 422
    assert "GB are free" in answer.json()["detail"]


def test_an_idempotency_key_makes_a_retry_safe(service: ServiceProcess) -> None:
    plan = {"name": "once", "time_points": 2, "interval_s": 0.05, "defocus_um": 6}
    headers = {"Idempotency-Key": "key-1"}
    first = service.http.post("/api/v1/acquisitions", json=plan, headers=headers)
    again = service.http.post("/api/v1/acquisitions", json=plan, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert first.headers["location"] == f"/api/v1/acquisitions/{first.json()['id']}"
    service.wait_run(first.json()["id"])
    late = service.http.post("/api/v1/acquisitions", json=plan, headers=headers)
    assert late.json()["id"] == first.json()["id"]
    other = service.http.post("/api/v1/acquisitions", json=plan | {"time_points": 3}, headers=headers)
    assert other.status_code == 409
    assert "another plan" in other.json()["detail"]
    assert [run["name"] for run in service.get("/acquisitions")["acquisitions"]].count("once") == 1


def test_during_a_run_the_microscope_is_taken_and_cancel_frees_it(service: ServiceProcess) -> None:
    run = service.start_run(name="long", time_points=1000, interval_s=600.0)
    place = f"/acquisitions/{run['id']}"
    service.wait(place, lambda seen: seen["counters"]["phase_written"] == 1, "the first time point")
    assert service.get("/microscope")["run"]["id"] == run["id"]
    assert service.get("/health")["run"] == run["id"]
    plan = {"name": "second", "time_points": 1, "interval_s": 0, "defocus_um": 6}
    for answer in (
        service.http.post("/api/v1/live/start"),
        service.http.post("/api/v1/snap"),
        service.http.patch("/api/v1/microscope", json={"defocus_um": 3}),
        service.http.post("/api/v1/acquisitions", json=plan),
    ):
        assert answer.status_code == 409, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert run["id"] in answer.json()["detail"]
    assert service.http.post(f"/api/v1{place}/cancel").status_code == 202
    ended = service.wait_run(run["id"])
    assert (ended["state"], ended["reason"]) == ("cancelled", "cancelled by the user")
    assert ended["counters"] == {
        "expected": 1000,
        "raw_written": 1,
        "raw_missing": 999,
        "phase_written": 1,
        "phase_missing": 999,
    }
    again = service.http.post(f"/api/v1{place}/cancel")
    assert again.status_code == 409
    assert "ended already" in again.json()["detail"]


def test_live_returns_after_a_run(service: ServiceProcess) -> None:
    assert service.http.post("/api/v1/live/start").json()["running"] is True
    try:
        run = service.start_run(time_points=3)
        service.wait_run(run["id"])
        live = service.wait("/microscope", lambda seen: seen["live"]["running"], "live mode")["live"]
        service.wait("/microscope", lambda seen: seen["live"]["frames"] > live["frames"], "live frames")
    finally:
        assert service.http.post("/api/v1/live/stop").json()["running"] is False


def test_json_of_the_store_is_strict(finished: dict[str, Any], service: ServiceProcess) -> None:
    """No NaN in any document: browsers refuse it."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} in JSON")

    store = service.data / f"{finished['id']}.ome.zarr"
    text = service.http.get(f"/api/v1/acquisitions/{finished['id']}/store/zarr.json").text
    assert text == (store / "zarr.json").read_text()
    for document in (text, service.http.get("/api/v1/acquisitions").text, service.http.get("/api/v1/microscope").text):
        json.loads(document, parse_constant=refuse)
