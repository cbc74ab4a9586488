"""Single frames and exact pixels of the newest frame, over real HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    import httpx
    from conftest import ServiceProcess


@pytest.fixture
def snapped(service: ServiceProcess) -> dict[str, Any]:
    """Return the statistics of a single frame."""
    answer = service.http.post("/api/v1/snap")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_snap_says_what_it_saw(snapped: dict[str, Any]) -> None:
    assert (snapped["width"], snapped["height"], snapped["bit_depth"]) == (96, 64, 8)
    assert snapped["defocus_um"] == pytest.approx(6.0, abs=0.01)
    raw, phase = snapped["raw"], snapped["phase"]
    assert 0 < raw["min"] < raw["mean"] < raw["max"] <= 255
    assert phase["min_rad"] < phase["mean_rad"] < phase["max_rad"]
    assert phase["sd_rad"] > 0
    assert phase["inference_ms"] > 0
    assert snapped["phase_error"] is None
    assert snapped["warnings"] == []


def region(service: ServiceProcess, **query: Any) -> httpx.Response:
    """Get a region of the newest frame."""
    return service.http.get("/api/v1/preview/region", params=query)


def pixels_of(answer: httpx.Response) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Decode a region."""
    assert answer.status_code == 200, answer.text
    shape = int(answer.headers["x-livephase-height"]), int(answer.headers["x-livephase-width"])
    return np.frombuffer(answer.content, "<f4").reshape(shape)


def test_regions_are_exact_values_of_the_newest_frame(service: ServiceProcess, snapped: dict[str, Any]) -> None:
    whole = region(service, kind="phase", x=0, y=0, width=384, height=256)
    phase = pixels_of(whole)
    assert float(phase.min()) == pytest.approx(snapped["phase"]["min_rad"], abs=1e-6)
    assert float(phase.max()) == pytest.approx(snapped["phase"]["max_rad"], abs=1e-6)
    part = region(service, kind="phase", x=100, y=30, width=17, height=5)
    assert part.headers["x-livephase-seq"] == whole.headers["x-livephase-seq"]
    np.testing.assert_array_equal(pixels_of(part), phase[30:35, 100:117])
    raw = pixels_of(region(service, kind="raw", x=0, y=0, width=96, height=64))
    assert (int(raw.min()), int(raw.max())) == (snapped["raw"]["min"], snapped["raw"]["max"])


@pytest.mark.parametrize(
    "query",
    [
        {"x": 380, "y": 0, "width": 5, "height": 1},
        {"x": 0, "y": 256, "width": 1, "height": 1},
        {"x": -1, "y": 0, "width": 1, "height": 1},
        {"x": 0, "y": 0, "width": 0, "height": 1},
        {"x": 0, "y": 0, "width": 1, "height": 1, "kind": "depth"},
        {"x": "a", "y": 0, "width": 1, "height": 1},
        {"x": 0, "y": 0, "width": 1},
        {"x": 10**30, "y": 0, "width": 1, "height": 1},
    ],
)
def test_regions_outside_the_image_are_refused(
    service: ServiceProcess, snapped: dict[str, Any], query: dict[str, Any]
) -> None:
    answer = region(service, **query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
