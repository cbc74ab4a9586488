"""uvicorn's WebSocket protocol with an end: a peer that does not read cannot keep its connection."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from livephase.api.stream import MAX_MESSAGE_BYTES

# Time for a peer that reads to take what is buffered and the close frame.
LINGER_S = 2.0


class StreamProtocol(WebSocketsSansIOProtocol):
    """Closes as uvicorn does, and aborts the connection when that did not help.

    uvicorn ends a connection by ``transport.close()``, which first waits until the peer has read what is
    buffered. A peer that stopped reading would keep the buffer (megabytes of a frame) for ever, and the
    service's shutdown with it, because uvicorn waits for all connections.
    """

    def shutdown(self) -> None:
        """Close because the service ends."""
        super().shutdown()
        self._abort_soon()

    def keepalive_timeout(self) -> None:
        """Close because a ping was not answered."""
        super().keepalive_timeout()
        self._abort_soon()

    async def run_asgi(self) -> None:
        """Run the application for this connection, then see to it that the connection ends."""
        try:
            await super().run_asgi()
        finally:
            self._abort_soon()

    def _abort_soon(self) -> None:
        self.loop.call_later(LINGER_S, self.transport.abort)


# Keyword arguments for uvicorn.Config. Deflate costs five sixths of the frame rate; messages of viewers
# are short.
WEBSOCKET_SETTINGS: dict[str, Any] = {
    "ws": StreamProtocol,
    "ws_per_message_deflate": False,
    "ws_max_size": MAX_MESSAGE_BYTES,
}
