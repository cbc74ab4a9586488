"""Run the service in this process until it is told to stop: socket, services, web server, signals."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import uvicorn

from livephase.api.app import create_app
from livephase.api.services import Services
from livephase.api.websocket import WEBSOCKET_SETTINGS
from livephase.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from livephase.config import ServiceConfig

GRACE_S = 5
"""What open requests get when the service stops."""


def serve(
    config: ServiceConfig,
    *,
    properties: Mapping[tuple[str, str], str | int | float],
    started: Callable[[str], None],
) -> None:
    """Run the service until SIGINT or SIGTERM.

    Parameters
    ----------
    config : ServiceConfig
        What to serve.
    properties : mapping
        Device properties by (label, name), set before the first frame.
    started : callable
        Called with the service's URL when it takes requests.

    Raises
    ------
    ConfigurationError
        The port is in use, the address is not a loopback one, or the data folder cannot be written.
    LivephaseError
        A part cannot start.
    """
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    _stop_by_exception()
    listener = _listen(config.service.host, config.service.port)
    try:
        with Services(config, properties) as services:
            server = _Server(
                uvicorn.Config(
                    create_app(services),
                    lifespan="on",
                    log_config=None,
                    access_log=False,
                    timeout_graceful_shutdown=GRACE_S,
                    **WEBSOCKET_SETTINGS,
                ),
                lambda: _announce(services, _url(listener), started),
            )
            with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal that ended it once more
                server.run(sockets=[listener])
            _ignore_further_signals()
    except KeyboardInterrupt:  # before the web server ran; the services have closed themselves
        pass
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn that says when it takes requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def _listen(host: str, port: int) -> socket.socket:
    """Bind the port before anything else is started, so that a port in use costs nothing."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigurationError(
            f"host {host!r} is refused: this version serves loopback addresses only (127.0.0.1, ::1, localhost);"
            " other addresses need access tokens, which come with a later version"
        )
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"port {port} on {host} cannot be used ({error.strerror}); choose another one with --port, 0 for any"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _announce(services: Services, url: str, started: Callable[[str], None]) -> None:
    started(url)

    def first_phase() -> None:
        services.publisher.first_phase.wait()
        age_s = time.time() - psutil.Process().create_time()
        print(f"first phase frame {age_s:.1f} s after the start", flush=True)

    threading.Thread(target=first_phase, name="first-phase", daemon=True).start()


def _stop_by_exception() -> None:
    """Let SIGTERM end the program like Ctrl-C, also before the web server takes the signals over."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _ignore_further_signals() -> None:
    """Let the orderly end go on when its signal comes twice; it is bounded in time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
