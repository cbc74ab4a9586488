"""The stream over real sockets: back-pressure, time-outs, refusals, and the end of the service."""

from __future__ import annotations

import base64
import json
import logging
import os
import socket
import struct
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from livephase.api import websocket as websocket_module
from livephase.api.stream import MAX_MESSAGE_BYTES, stream_router
from livephase.api.websocket import WEBSOCKET_SETTINGS
from livephase.preview import PreviewFrame, PreviewHub, wire

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterator

DEADLINE_S = 30.0
VIEW = {
    "type": "view", "kind": "phase", "x": 0, "y": 0, "width": 1024, "height": 776,
    "canvas_width": 1024, "canvas_height": 776,
}  # fmt: skip
PHASE = np.random.default_rng(3).normal(1.5, 1.0, (776, 1024)).astype(np.float32)


def frame(sequence: int) -> PreviewFrame:
    return PreviewFrame(
        sequence=sequence,
        phase_rad=PHASE,
        raw=None,
        bit_depth=8,
        hr_pixel_um=0.65,
        time_utc_ns=time.time_ns(),
        time_monotonic_ns=time.monotonic_ns(),
        defocus_um=6.0,
        source="live",
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


class Service:
    """The stream behind uvicorn on a free port, in a thread."""

    def __init__(self, ack_timeout_s: float = 60.0, max_viewers: int = 32) -> None:
        self.hub = PreviewHub(max_viewers)

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
            self.hub.attach()
            yield
            self.hub.close()

        app = FastAPI(lifespan=lifespan)
        router = stream_router(self.hub, allowed_hosts={"127.0.0.1", "localhost"}, ack_timeout_s=ack_timeout_s)
        app.include_router(router, prefix="/api/v1")
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        config = uvicorn.Config(app, log_config=None, **WEBSOCKET_SETTINGS)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started)

    def stop(self) -> None:
        """End the service as a signal would; fails when it does not end."""
        self.server.should_exit = True
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive(), "the service did not end"
        self.socket.close()

    @contextmanager
    def viewer(self, **options: Any) -> Generator[ClientConnection]:
        """Connect a client that reads."""
        uri = f"ws://127.0.0.1:{self.port}/api/v1/stream"
        with connect(uri, compression=None, max_size=None, proxy=None, **options) as client:
            yield client

    @contextmanager
    def deaf_viewer(self) -> Generator[socket.socket]:
        """Connect a client that asks for frames and then reads nothing; its receive buffer is 4 KiB."""
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", self.port))
            key = base64.b64encode(os.urandom(16)).decode()
            client.sendall(
                f"GET /api/v1/stream HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
                f"Upgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
            )
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += client.recv(1)
            assert b" 101 " in answer
            payload = json.dumps(VIEW).encode()
            masked = bytes(byte ^ mask for byte, mask in zip(payload, b"\x01\x02\x03\x04" * 64, strict=False))
            client.sendall(struct.pack("!BBH", 0x81, 0x80 | 126, len(payload)) + b"\x01\x02\x03\x04" + masked)
            yield client


@pytest.fixture(scope="module", autouse=True)
def no_frames_in_the_log() -> Iterator[None]:
    """Keep debug records, which hold the frames that they describe, out of pytest's log.

    pymmcore-plus sets the root logger to DEBUG as soon as it is imported.
    """
    loggers = [logging.getLogger(name) for name in ("websockets", "uvicorn.error")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.stop()


def receive_frame(client: ClientConnection) -> dict[str, Any]:
    while True:
        message = client.recv(DEADLINE_S)
        if isinstance(message, bytes):
            header, pixels = wire.decode(message)
            assert np.array_equal(pixels, PHASE.astype(np.float16)[: pixels.shape[0], : pixels.shape[1]])
            client.send(json.dumps({"type": "ack", "seq": header["seq"]}))
            return header


def close_code(client: ClientConnection) -> int:
    def receive_to_the_end() -> None:
        while True:
            client.recv(DEADLINE_S)

    with pytest.raises(ConnectionClosed) as closed:
        receive_to_the_end()
    assert closed.value.rcvd is not None, "the connection ended without a close frame"
    return closed.value.rcvd.code


def test_frames_and_events_arrive_over_the_socket(service: Service) -> None:
    with service.viewer(origin=f"http://127.0.0.1:{service.port}") as client:
        client.send(json.dumps(VIEW))
        for sequence in range(1, 6):
            service.hub.publish(frame(sequence))
            assert receive_frame(client)["seq"] == sequence
        service.hub.publish_event({"kind": "live", "running": True})
        assert json.loads(client.recv(DEADLINE_S)) == {
            "type": "event", "event": {"kind": "live", "running": True},
        }  # fmt: skip


def test_a_viewer_that_does_not_read_costs_two_frames_and_nobody_else_anything() -> None:
    service = Service(ack_timeout_s=60.0)
    with service.deaf_viewer():
        # the first frames go to the deaf viewer alone, until it has no credit left
        wait_until(lambda: service.hub.counts().viewers == 1)
        for sequence in (1, 2):
            service.hub.publish(frame(sequence))
            wait_until(lambda sent=sequence: service.hub.counts().frames_sent == sent)
        memory_before = psutil.Process().memory_info().rss
        with service.viewer() as client:
            client.send(json.dumps(VIEW))
            assert receive_frame(client)["seq"] == 2
            for sequence in range(3, 203):
                service.hub.publish(frame(sequence))
                header = receive_frame(client)
                assert (header["seq"], header["dropped"]) == (sequence, 0)
        # 200 frames of 1.6 MB went by; had they been queued, they would be 318 MB
        assert psutil.Process().memory_info().rss - memory_before < 80e6
        assert service.hub.counts().frames_sent == 2 + 201
    service.stop()


def test_a_viewer_that_does_not_read_is_dropped() -> None:
    service = Service(ack_timeout_s=0.2)
    with service.deaf_viewer():
        wait_until(lambda: service.hub.counts().viewers == 1)
        for sequence in range(1, 4):
            service.hub.publish(frame(sequence))
        wait_until(lambda: service.hub.counts().viewers == 0)
        # and its connection ends too, although 1.6 MB were never read
        wait_until(lambda: not service.server.server_state.connections)
    service.stop()


def test_a_viewer_that_reads_but_does_not_acknowledge_is_told() -> None:
    service = Service(ack_timeout_s=0.2)
    with service.viewer() as client:
        client.send(json.dumps(VIEW))
        service.hub.publish(frame(1))
        assert close_code(client) == 1008
    service.stop()


def test_a_viewer_without_news_is_not_dropped() -> None:
    service = Service(ack_timeout_s=0.1)
    with service.viewer() as client:
        client.send(json.dumps(VIEW))
        for sequence in range(1, 8):
            service.hub.publish(frame(sequence))
            receive_frame(client)
            time.sleep(0.15)  # longer than the time-out, which must not run while nothing is owed
        assert service.hub.counts().viewers == 1
    service.stop()


def test_the_service_ends_with_viewers_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_module, "LINGER_S", 0.2)
    service = Service(ack_timeout_s=60.0)
    with service.deaf_viewer(), service.viewer() as client:
        client.send(json.dumps(VIEW))
        wait_until(lambda: service.hub.counts().viewers == 2)
        for sequence in range(1, 3):
            service.hub.publish(frame(sequence))
            receive_frame(client)
        wait_until(lambda: service.hub.counts().frames_sent == 4)
        service.stop()
        assert close_code(client) == 1012


def test_foreign_pages_are_refused_before_the_handshake(service: Service) -> None:
    foreign = (
        "http://evil.example",
        f"http://evil.example:{service.port}",
        "http://127.0.0.1",
        f"http://localhost:{service.port}",
        f"http://127.0.0.1:{service.port + 1}",
        f"ftp://127.0.0.1:{service.port}",
        f"http://127.0.0.1:{service.port}.evil.example",
        f"http://127.0.0.1:{service.port}/",
        "http://[",
        "null",
    )
    for origin in foreign:
        with pytest.raises(InvalidStatus) as refused, service.viewer(origin=origin):
            pass
        assert refused.value.response.status_code == 403, origin
    # a page that rebound its own name to this address: origin and host agree, but the name is not ours
    name = f"evil.example:{service.port}"
    with (
        pytest.raises(InvalidStatus),
        service.viewer(origin=f"http://{name}", additional_headers={"Host": name}),
    ):
        pass


def test_one_viewer_too_many_is_told_to_come_later() -> None:
    service = Service(max_viewers=2)
    with service.viewer(), service.viewer():
        wait_until(lambda: service.hub.counts().viewers == 2)
        with service.viewer() as third:
            assert close_code(third) == 1013
    wait_until(lambda: service.hub.counts().viewers == 0)
    with service.viewer() as later:
        later.send(json.dumps(VIEW))
        service.hub.publish(frame(1))
        assert receive_frame(later)["seq"] == 1
    service.stop()


def test_binary_messages_close_with_1003_and_long_ones_with_1009(service: Service) -> None:
    with service.viewer() as client:
        client.send(b"\x00\x01")
        assert close_code(client) == 1003
    with service.viewer() as client:
        client.send("x" * (MAX_MESSAGE_BYTES + 1))
        assert close_code(client) == 1009


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_WRONG_FIELD = st.fixed_dictionaries(
    {"field": st.sampled_from([key for key in VIEW if key != "type"]), "value": _JSON}
).map(lambda change: {**VIEW, str(change["field"]): change["value"]})


def _is_wrong(message: object) -> bool:
    lengths = ("x", "y", "width", "height", "canvas_width", "canvas_height")
    return not (
        isinstance(message, dict)
        and message.get("type") == "view"
        and message.get("kind") in ("phase", "raw")
        and all(type(message.get(key)) is int and 1 <= message[key] <= 16384 for key in lengths[2:])
        and all(type(message.get(key)) is int and 0 <= message[key] <= 1 << 20 for key in lengths[:2])
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(
        st.text(max_size=60),
        _JSON.map(json.dumps),
        _WRONG_FIELD.filter(_is_wrong).map(json.dumps),
        st.fixed_dictionaries({"type": st.just("ack"), "seq": _JSON.filter(lambda v: type(v) is not int)}).map(
            json.dumps
        ),
    )
)
@example(text="")
@example(text="[" * 20000)
@example(text=json.dumps({**VIEW, "width": 0}))
@example(text=json.dumps({**VIEW, "x": -1}))
@example(text=json.dumps({**VIEW, "canvas_width": 1e3}))
@example(text=json.dumps({**VIEW, "extra": 1}))
@example(text='{"type": "ack", "seq": -1}')
@example(text='{"type": "ack", "seq": true}')
@example(text='{"type": "ack", "seq": NaN}')
def test_malformed_messages_close_with_1008_and_without_traceback(
    service: Service, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    caplog.clear()
    with caplog.at_level(logging.WARNING), service.viewer() as client:
        client.send(text)
        assert close_code(client) == 1008
    assert caplog.records == []
