"""What a request must satisfy before any route sees it: its Host, its Origin, and the size of its body.

- Host: only names of the loopback interface, so that a page which rebinds its own name to 127.0.0.1 gets
  nothing.
- Origin: a browser names the page that a WebSocket or an unsafe method comes from; only the service's own
  page may.
- Body: at most 1 MiB, counted as it arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from livephase.api.problems import problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
BODY_LIMIT: Final = 1024 * 1024


class Gate:
    """ASGI middleware for HTTP and WebSocket; refuses with a problem document, a WebSocket with 403.

    Parameters
    ----------
    app : ASGIApp
        The application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = _refusal(scope)
        if refusal is not None:
            status, detail = refusal
            if scope["type"] == "websocket":
                await receive()  # the connect event; closing before accepting answers the handshake with 403
                await send({"type": "websocket.close", "code": 1008, "reason": detail[:120]})
            else:
                await problem(status, detail, instance=scope["path"])(scope, receive, send)
            return
        if scope["type"] == "http" and _has_body(scope):
            body = await _bounded_body(receive)
            if body is None:
                too_big = problem(
                    413,
                    f"a request body may have at most {BODY_LIMIT} bytes",
                    instance=scope["path"],
                    headers={"connection": "close"},
                )
                await too_big(scope, receive, send)
                return
            await self._app(scope, _replay(body, receive), send)
            return
        await self._app(scope, receive, send)


def _refusal(scope: Scope) -> tuple[int, str] | None:
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if _host_name(host) not in LOOPBACK_NAMES:
        return 421, f"this service answers to localhost and 127.0.0.1, not to {host[:80]!r}"
    origin = headers.get("origin")
    guarded = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
    if guarded and origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return (
            403,
            f"requests of pages from {origin[:80]!r} are refused; only the service's own page may send them",
        )
    return None


def _host_name(host: str) -> str | None:
    """Name in a Host header without its port; None where it cannot be parsed."""
    try:
        return urlsplit(f"//{host}").hostname if host else None
    except ValueError:
        return None


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _bounded_body(receive: Receive) -> bytes | None:
    """Read a whole request body; None as soon as it is longer than the limit."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > BODY_LIMIT:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that gives the body once and then what the server says."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
