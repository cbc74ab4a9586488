"""The live stream: a WebSocket over which a viewer says what it looks at and gets frames and events.

::

    client -> server   {"type": "view", "kind", "x", "y", "width", "height", "canvas_width", "canvas_height"}
                       {"type": "ack", "seq"}   once for every frame, drawn or skipped
    server -> client   {"type": "event", "event": {"kind", ...}}
                       frames as binary messages: livephase.preview.wire

    close codes        1003 binary message    1008 malformed message, or frames not acknowledged
                       1009 message too long  1013 too many viewers

A handshake with a foreign ``Origin`` is answered with 403.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from livephase.preview import PreviewHub, TooManyViewersError, View, Viewer

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_MESSAGE_BYTES = 64 * 1024
# How long a viewer may keep a frame without acknowledging it. Pings do not find a viewer that stopped
# reading: the kernel answers nothing, but the socket stays open.
ACK_TIMEOUT_S = 10.0
# A close frame waits behind what the viewer has not read; for one that does not read that is for ever.
CLOSE_TIMEOUT_S = 1.0

_log = logging.getLogger(__name__)

_Pixels = Annotated[int, Field(strict=True, ge=0, le=1 << 20)]
_Length = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
_Canvas = Annotated[int, Field(strict=True, ge=1, le=1 << 14)]


class ViewMessage(BaseModel):
    """What the viewer looks at, in pixels of the image of `kind`, and its canvas in device pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["view"]
    kind: Literal["phase", "raw"]
    x: _Pixels
    y: _Pixels
    width: _Length
    height: _Length
    canvas_width: _Canvas
    canvas_height: _Canvas


class AckMessage(BaseModel):
    """The viewer is done with that frame."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["ack"]
    seq: Annotated[int, Field(strict=True, ge=0)]


_MESSAGE: TypeAdapter[ViewMessage | AckMessage] = TypeAdapter(
    Annotated[ViewMessage | AckMessage, Field(discriminator="type")]
)


class _Close(NamedTuple):
    code: int
    reason: str


def stream_router(
    hub: PreviewHub, *, allowed_hosts: Collection[str], ack_timeout_s: float = ACK_TIMEOUT_S
) -> APIRouter:
    """Return the router with ``WS /stream``; the caller mounts it under the API's prefix.

    Parameters
    ----------
    hub : PreviewHub
        Where frames and events come from; attached to the event loop by the caller.
    allowed_hosts : collection of str
        Host names (no ports) under which the page is served. An ``Origin`` is accepted only when it is
        exactly the host and port that were asked, and its name is one of these.
    ack_timeout_s : float
        A viewer that keeps a frame longer than this is dropped.
    """
    router = APIRouter()
    hosts = frozenset(host.lower() for host in allowed_hosts)

    @router.websocket("/stream")
    async def stream(websocket: WebSocket) -> None:  # pyright: ignore[reportUnusedFunction]
        if not origin_is_allowed(websocket.headers.get("origin"), websocket.headers.get("host"), hosts):
            await websocket.close(1008)
            return
        await websocket.accept()
        try:
            viewer = hub.subscribe()
        except TooManyViewersError as error:
            await _close(websocket, _Close(1013, str(error)))
            return
        try:
            verdict = await _serve(websocket, viewer, ack_timeout_s)
        finally:
            hub.unsubscribe(viewer)
        if verdict is not None:
            await _close(websocket, verdict)

    return router


def origin_is_allowed(origin: str | None, host: str | None, allowed_hosts: Collection[str]) -> bool:
    """Return whether a page of that origin may open the stream; programs send no origin and may.

    Parameters
    ----------
    origin, host : str or None
        Headers of the handshake.
    allowed_hosts : collection of str
        Host names in lower case, without ports.
    """
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
        name = parts.hostname
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or host is None or name is None:
        return False
    return origin.lower() == f"{parts.scheme}://{host.lower()}" and name in allowed_hosts


async def _serve(websocket: WebSocket, viewer: Viewer, ack_timeout_s: float) -> _Close | None:
    """Receive and send until either ends; return how to close the socket, None if it is closed."""
    tasks = {asyncio.create_task(_receive(websocket, viewer)), asyncio.create_task(_send(websocket, viewer))}
    try:
        while True:
            # whatever is sent meanwhile is due later than this
            patience_s = max(0.0, ack_timeout_s - viewer.waiting_s())
            done, _ = await asyncio.wait(tasks, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return await done.pop()
            if viewer.waiting_s() >= ack_timeout_s:
                return _Close(1008, f"no acknowledgement for {ack_timeout_s:g} s")
    except (WebSocketDisconnect, ConnectionError):
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _receive(websocket: WebSocket, viewer: Viewer) -> _Close | None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        if text is None:
            return _Close(1003, "binary messages are not understood")
        if len(text.encode()) > MAX_MESSAGE_BYTES:
            return _Close(1009, f"messages end at {MAX_MESSAGE_BYTES} bytes")
        try:
            request = _MESSAGE.validate_json(text)
        except ValidationError as error:
            return _Close(1008, f"malformed message: {error.errors()[0]['msg']}")
        if isinstance(request, AckMessage):
            viewer.acknowledge(request.seq)
        else:
            viewer.look_at(View(**request.model_dump(exclude={"type"})))


async def _send(websocket: WebSocket, viewer: Viewer) -> _Close | None:
    while True:
        message = await viewer.next_message()
        if isinstance(message, str):
            await websocket.send_text(message)
        else:
            await websocket.send_bytes(message)


async def _close(websocket: WebSocket, how: _Close) -> None:
    # the reason of a close frame ends at 123 bytes
    reason = how.reason.encode()[:120].decode(errors="ignore")
    try:
        await asyncio.wait_for(websocket.close(how.code, reason), CLOSE_TIMEOUT_S)
    except (TimeoutError, WebSocketDisconnect, ConnectionError, RuntimeError):
        _log.info("a viewer went away before it was told: %s", how.reason)
