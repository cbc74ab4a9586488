"""The REST layer as a client meets it: documents, errors, refusals, stores and pixels over real HTTP."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tensorstore
import zarr

from livephase.phase.modelfile import bundled_models, read_card

if TYPE_CHECKING:
    from conftest import ServiceProcess

PROBLEM = "application/problem+json"
PLAN = {"name": "x", "time_points": 3, "interval_s": 0.05, "defocus_um": 6.0}


@pytest.fixture(scope="module")
def store(service: ServiceProcess) -> str:
    """Return the path of a finished run's store in the API."""
    run = service.wait_run(service.start_run(**PLAN)["id"])
    return f"/api/v1/acquisitions/{run['id']}/store"


def assert_problem(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """Check that an answer is an RFC 9457 document of that status whose detail contains the words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    body = answer.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:livephase:problem:")
    assert body["title"]
    for word in words:
        assert word in body["detail"]
    return body


# ---------------------------------------------------------------------------------------------- documents


def test_openapi_describes_every_route(service: ServiceProcess) -> None:
    document = service.get("/openapi.json")
    assert document["openapi"].startswith("3.")
    assert set(document["paths"]) == {
        "/api/v1/health",
        "/api/v1/metrics",
        "/api/v1/models",
        "/api/v1/models/active",
        "/api/v1/microscope",
        "/api/v1/calibrations/defocus",
        "/api/v1/calibrations/defocus/cancel",
        "/api/v1/calibrations/defocus/active",
        "/api/v1/live/start",
        "/api/v1/live/stop",
        "/api/v1/snap",
        "/api/v1/preview/region",
        "/api/v1/devices",
        "/api/v1/devices/{label}/properties",
        "/api/v1/devices/{label}/properties/{name}",
        "/api/v1/calibrations/dark",
        "/api/v1/calibrations/flat",
        "/api/v1/calibrations/illumination",
        "/api/v1/acquisitions",
        "/api/v1/acquisitions/{run_id}",
        "/api/v1/acquisitions/{run_id}/cancel",
        "/api/v1/acquisitions/{run_id}/store/{path}",
    }
    ids: list[str] = []
    for place, path in document["paths"].items():
        for method, operation in path.items():
            ids.append(operation["operationId"])
            assert operation["summary"], (place, method)
            assert len(operation["description"]) > 10, (place, method)
            for status, response in operation["responses"].items():
                assert response["description"], (place, method, status)
                if status >= "400":
                    assert set(response["content"]) == {PROBLEM}
    assert len(ids) == len(set(ids))
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for reference in set(text.split('"$ref": "#/components/schemas/')[1:]):
        assert reference.split('"')[0] in schemas


@pytest.mark.parametrize("place", ["/health", "/api/v1/health"])
def test_health(service: ServiceProcess, place: str) -> None:
    health = service.http.get(place).json()
    assert health["status"] == "ok", health
    assert health["inference"] == "ready"
    assert health["microscope"] == "ok"
    assert health["problems"] == []
    assert health["disk_free_bytes"] > 0


@pytest.mark.parametrize("place", ["/metrics", "/api/v1/metrics"])
def test_metrics_are_prometheus_text(service: ServiceProcess, place: str) -> None:
    answer = service.http.get(place)
    assert answer.headers["content-type"].startswith("text/plain")
    assert "livephase_inference_ready 1.0" in answer.text
    assert "python_info" not in answer.text


def test_models_says_how_each_fits_and_which_is_active(service: ServiceProcess) -> None:
    known = service.get("/models")
    models = {model["name"]: model for model in known["models"]}
    assert known["active"] == "untrained"
    assert [name for name, model in models.items() if model["active"]] == ["untrained"]
    assert models["untrained"]["source"] == "file"
    assert len(models["untrained"]["sha256"]) == 64
    assert models["untrained"]["valid"]["defocus_um"] == [1, 13]
    assert models["untrained"]["parameters"] > 1000
    assert {read_card(path).name for path in bundled_models()} <= set(models)
    for model in models.values():
        assert model["fits"] == (model["problems"] == [])
        assert model["distance"] >= 0
    # Bundled models come before one that was named by its path, where both fit.
    assert models[known["nearest"]]["fits"] is True
    assert models[known["nearest"]]["source"] == "bundled"
    assert known["advice"] is None
    described = service.get("/microscope")
    assert described["model"] == {key: models["untrained"][key] for key in ("name", "version", "sha256")}
    assert described["advice"] == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": "no-such-model"}, 404, ["no-such-model", "untrained"]),
        ({}, 422, ["name", "required"]),
        ({"name": 7}, 422, ["name"]),
        ({"name": "untrained", "path": "/etc/passwd"}, 422, ["path"]),
    ],
)
def test_a_wrong_choice_of_the_model(
    service: ServiceProcess, body: dict[str, Any], status: int, words: list[str]
) -> None:
    assert_problem(service.http.put("/api/v1/models/active", json=body), status, *words)
    assert service.get("/models")["active"] == "untrained"


def test_the_page_is_served_and_is_never_the_answer_to_a_wrong_path(service: ServiceProcess) -> None:
    page = service.http.get("/")
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    assert_problem(service.http.get("/nothing-here.js"), 404)


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("method", "place", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/acquisitions/20000101-000000-abcdef", 404),
        ("POST", "/api/v1/acquisitions/20000101-000000-abcdef/cancel", 404),
        ("GET", "/api/v1/acquisitions/../../etc", 404),
        ("GET", "/api/v1/acquisitions/%2e%2e", 404),
        ("GET", "/api/v1/acquisitions/a%00b", 404),
        ("DELETE", "/api/v1/acquisitions", 405),
        ("PUT", "/api/v1/microscope", 405),
        ("GET", "/api/v1/snap", 405),
    ],
)
def test_wrong_places_and_methods(service: ServiceProcess, method: str, place: str, status: int) -> None:
    assert_problem(service.http.request(method, place), status)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{not json", ["JSON"]),
        (b"", ["required"]),
        (b"[]", []),
        (b'{"name": "x", "interval_s": 1, "defocus_um": 6}', ["time_points", "required"]),
        (b'{"time_points": "20", "interval_s": 1, "defocus_um": 6}', ["time_points", "integer"]),
        (b'{"time_points": 0, "interval_s": 1, "defocus_um": 6}', ["time_points", "greater than or equal to 1"]),
        (b'{"time_points": 2, "interval_s": -1, "defocus_um": 6}', ["interval_s"]),
        (b'{"time_points": 2, "interval_s": NaN, "defocus_um": 6}', []),
        (b'{"time_points": 2, "interval_s": 1, "defocus_um": 1e999}', ["defocus_um"]),
        (b'{"time_points": 2, "interval_s": 1, "defocus_um": 6, "channels": 2}', ["channels"]),
        (b'{"name": "a\\u0000b", "time_points": 2, "interval_s": 1, "defocus_um": 6}', ["name"]),
        (b'{"time_points": 2, "interval_s": 1, "defocus_um": 999}', ["range of the lens"]),
        (b"\xff\xfe", []),
    ],
)
def test_a_wrong_plan_is_refused_with_what_is_wrong(service: ServiceProcess, body: bytes, words: list[str]) -> None:
    answer = service.http.post("/api/v1/acquisitions", content=body, headers={"content-type": "application/json"})
    assert_problem(answer, 422, *words)


def test_a_bottomless_body_is_refused(service: ServiceProcess) -> None:
    answer = service.http.post(
        "/api/v1/acquisitions", content=b"[" * 100_000, headers={"content-type": "application/json"}
    )
    assert_problem(answer, 400)


def test_a_wrong_patch_changes_nothing(service: ServiceProcess) -> None:
    before = service.get("/microscope")["microscope"]
    assert_problem(service.http.patch("/api/v1/microscope", json={"exposure_ms": -1}), 422, "exposure_ms")
    assert_problem(service.http.patch("/api/v1/microscope", json={"defocus_um": 900}), 422, "Lens", "range")
    assert_problem(service.http.patch("/api/v1/microscope", json={"zoom": 2}), 422, "zoom")
    after = service.get("/microscope")["microscope"]
    assert (after["exposure_ms"], after["defocus_um"]) == (before["exposure_ms"], before["defocus_um"])


def test_a_patch_is_confirmed_by_the_devices(service: ServiceProcess) -> None:
    changed = service.http.patch("/api/v1/microscope", json={"exposure_ms": 12.5, "defocus_um": 14.0}).json()
    assert changed["microscope"]["exposure_ms"] == 12.5
    assert changed["microscope"]["defocus_um"] == pytest.approx(14.0, abs=0.01)
    assert any("defocus_um" in problem for problem in changed["range_problems"])
    assert any("nearest" in advice for advice in changed["advice"])
    back = service.http.patch("/api/v1/microscope", json={"exposure_ms": 20.0, "defocus_um": 6.0}).json()
    assert back["range_problems"] == []


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("host", ["rebind.evil", "127.0.0.1.evil.org:80", "", "localhost@evil.org", "[::1", "10.0.0.1"])
def test_foreign_hosts_are_refused(service: ServiceProcess, host: str) -> None:
    answer = service.http.get("/api/v1/health", headers={"host": host})
    assert answer.status_code in (400, 421)  # 400: the server itself refuses an impossible one
    if answer.status_code == 421:
        assert_problem(answer, 421, "localhost")


@pytest.mark.parametrize("origin", ["http://evil.org", "null", "http://localhost:1", "https://127.0.0.1.evil.org"])
def test_pages_of_other_origins_cannot_act(service: ServiceProcess, origin: str) -> None:
    answer = service.http.post("/api/v1/live/start", headers={"origin": origin})
    assert_problem(answer, 403, "refused")
    assert service.get("/microscope")["live"]["running"] is False
    assert service.http.get("/api/v1/health", headers={"origin": origin}).status_code == 200


def test_the_own_page_may_act(service: ServiceProcess) -> None:
    answer = service.http.post("/api/v1/live/stop", headers={"origin": service.url})
    assert answer.status_code == 200


def test_a_body_over_one_mebibyte_is_refused(service: ServiceProcess) -> None:
    body = b'{"name": "' + b"x" * (1 << 20) + b'"}'
    assert_problem(service.http.post("/api/v1/acquisitions", content=body), 413, "1048576")


def test_an_endless_body_is_cut_off(service: ServiceProcess) -> None:
    """Chunks without a length: refused after 1 MiB, however much would come."""
    place = urlsplit(service.url)
    sent = 0
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        connection.sendall(
            b"POST /api/v1/acquisitions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        try:
            while sent < 64 << 20:
                connection.sendall(chunk)
                sent += 65536
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            pytest.fail("64 MiB were taken")
    assert service.get("/health")["status"] == "ok"


# ---------------------------------------------------------------------------------------------- stores


def test_metadata_is_revalidated_and_shards_are_immutable(service: ServiceProcess, store: str) -> None:
    for changing in ("zarr.json", "0/zarr.json", "raw/0/zarr.json", "frames/raw_valid/zarr.json"):
        answer = service.http.get(f"{store}/{changing}")
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["content-type"] == "application/json"
    for shard in ("0/c.0.0.0.0", "1/c.2.0.0.0", "raw/0/c.1.0.0.0"):
        answer = service.http.get(f"{store}/{shard}")
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]


def test_shards_are_the_files_and_take_ranges(service: ServiceProcess, store: str) -> None:
    run = store.split("/")[4]
    content = (service.data / f"{run}.ome.zarr" / "0" / "c.1.0.0.0").read_bytes()
    place = f"{store}/0/c.1.0.0.0"
    assert service.http.get(place).content == content
    part = service.http.get(place, headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    tail = service.http.get(place, headers={"range": "bytes=-64"})
    assert (tail.status_code, tail.content) == (206, content[-64:])
    head = service.http.head(place)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(content)
    beyond = service.http.get(place, headers={"range": f"bytes={len(content)}-"})
    assert_problem(beyond, 416)
    assert beyond.headers["content-range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize(
    "path",
    [
        "0/c.99.0.0.0",
        "0",
        "",
        "nothing/zarr.json",
        "../zarr.json",
        "%2e%2e/%2e%2e/etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "0/%2e%2e/zarr.json",
        "zarr.json%00",
        "0//zarr.json",
        "..%5czarr.json",
        "C:%5cwindows",
    ],
)
def test_what_is_not_in_the_store_is_404(service: ServiceProcess, store: str, path: str) -> None:
    raw = httpx.URL(service.url).copy_with(raw_path=f"{store}/{path}".encode())
    assert_problem(service.http.get(raw), 404)


def test_a_link_out_of_the_store_is_404(service: ServiceProcess, store: str) -> None:
    folder = service.data / f"{store.split('/')[4]}.ome.zarr" / "raw"
    (service.data / "secret.json").write_text("{}")
    (folder / "secret.json").symlink_to(service.data / "secret.json")
    try:
        assert_problem(service.http.get(f"{store}/raw/secret.json"), 404)
    finally:
        (folder / "secret.json").unlink()


def test_another_library_reads_the_run_over_http(service: ServiceProcess, store: str) -> None:
    run = store.split("/")[4]
    for array in ("0", "raw/0"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "http", "base_url": f"{service.url}{store}/{array}/"}}
        remote = tensorstore.open(spec, read=True).result()
        local = zarr.open_array(service.data / f"{run}.ome.zarr" / array, mode="r")
        np.testing.assert_array_equal(remote.read().result(), np.asarray(local[:]))
