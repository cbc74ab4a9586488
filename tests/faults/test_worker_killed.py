"""The inference worker, or the whole service, is killed in the middle of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import psutil

from livephase.storage.catalogue import read_frame_table, read_phase_frame

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServiceProcess

TIME_POINTS = 60


def test_a_killed_worker_costs_no_raw_frame_and_no_phase(
    twin_toml: Path, serve_toml: Callable[[Path], ServiceProcess]
) -> None:
    service = serve_toml(twin_toml)
    service.wait_ready()
    killed = service.get("/microscope")["inference"]["pid"]
    run = service.start_run(time_points=TIME_POINTS, interval_s=0.1)
    place = f"/acquisitions/{run['id']}"
    service.wait(place, lambda seen: seen["counters"]["phase_written"] >= 2, "two phase images")
    psutil.Process(killed).kill()
    at_kill = service.get(place)["counters"]
    assert at_kill["raw_written"] < TIME_POINTS, "the run ended before the worker was killed"
    ended = service.wait_run(run["id"])
    assert ended["state"] == "completed"
    assert ended["counters"] == {
        "expected": TIME_POINTS,
        "raw_written": TIME_POINTS,
        "raw_missing": 0,
        "phase_written": TIME_POINTS,
        "phase_missing": 0,
    }
    inference = service.get("/microscope")["inference"]
    assert inference["pid"] != killed
    assert inference["restarts"] == 1
    store = service.data / f"{run['id']}.ome.zarr"
    table = read_frame_table(store)
    assert (table["phase_valid"] == 2).any(), "phase of the time without a worker is marked as backfilled"
    assert np.diff(table["time_monotonic_ns"]).max() < 5e9, "recording went on while there was no worker"
    for index in range(TIME_POINTS):
        assert np.isfinite(read_phase_frame(store, index)).all()
    assert service.get("/health")["status"] == "ok"


def test_a_killed_service_leaves_an_interrupted_run(
    twin_toml: Path, serve_toml: Callable[[Path], ServiceProcess]
) -> None:
    """SIGKILL of the service itself: its worker goes too, and the next start closes the run."""
    first = serve_toml(twin_toml)
    first.wait_ready()
    worker = psutil.Process(first.get("/microscope")["inference"]["pid"])
    run = first.start_run(name="cut off", time_points=500, interval_s=0.05)
    place = f"/acquisitions/{run['id']}"
    seen = first.wait(place, lambda one: one["counters"]["phase_written"] >= 3, "three phase images")
    first.process.kill()
    first.process.wait()
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running()
    second = serve_toml(twin_toml)
    found = second.get(place)
    assert found["state"] == "interrupted"
    assert "next start" in found["reason"]
    counters = found["counters"]
    assert counters["raw_written"] >= seen["counters"]["raw_written"]
    assert counters["raw_written"] + counters["raw_missing"] == 500
    assert counters["phase_written"] + counters["phase_missing"] == 500
    assert second.wait_run(second.start_run(time_points=2)["id"])["state"] == "completed"
