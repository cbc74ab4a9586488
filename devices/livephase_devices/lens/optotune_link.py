"""The serial line to an Optotune lens driver: every wait ends, and a late reply is never taken for another's.

After anything odd (nothing, part of a reply, garbage) the line counts as unsettled: replies of earlier commands may
still come, and some look exactly like the reply of the next command. The driver answers in the order of the commands.
So before the next command another one is sent whose reply cannot be one of those that are still owed; when its reply
is there, all earlier ones have come or never will, and what lies before it is thrown away.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import serial
from serial.tools import list_ports

from livephase_devices.lens import optotune_protocol as protocol
from livephase_devices.lens.optotune_protocol import GarbledReplyError, Query, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    from termios import error as _terminal_error  # what pyserial lets through when a port vanishes while it opens
except ImportError:  # Windows
    _terminal_error = OSError

_PORT_ERRORS = (OSError, _terminal_error)  # serial.SerialException is an OSError
_POLL_S = 0.01
"""Longest single wait in a read; deadlines are kept to this."""
_ATTEMPTS = 2
_MARKERS = (protocol.READ_MAX_CURRENT, protocol.READ_UPPER_LIMIT, protocol.READ_LOWER_LIMIT)
"""Commands without effect that every firmware has."""


class LinkLostError(Exception):
    """The port is gone or cannot be opened."""


class NoAnswerError(LinkLostError):
    """The port is there, but nothing proper comes from it."""


class Link:
    """An open port with a lens driver behind it.

    Parameters
    ----------
    url : str
        ``COM3``, ``/dev/ttyACM0``, or any URL of pyserial such as ``socket://192.168.1.5:5000``.
    reply_timeout_s : float
        Longest wait for one reply.

    Raises
    ------
    LinkLostError
        The port cannot be opened.
    """

    def __init__(self, url: str, reply_timeout_s: float) -> None:
        self._reply_timeout_s = reply_timeout_s
        self._markers: list[Query] = list(_MARKERS)
        self._owed: set[bytes] = set()
        self._silent_command = False
        try:
            # exclusive: a second program on the same port would take half of the replies. Windows always refuses it.
            self._port: Any = serial.serial_for_url(
                url, baudrate=protocol.BAUD, timeout=_POLL_S, write_timeout=reply_timeout_s, exclusive=True
            )
        except (*_PORT_ERRORS, ValueError) as error:
            raise LinkLostError(f"cannot open its port: {_first_line(error)}{_ports_here(url)}") from error

    def close(self) -> None:
        """Close the port; the lens stays as it is."""
        # pyserial forgets to close a socket whose other end has vanished.
        inner = getattr(self._port, "_socket", None)
        with suppress(OSError):
            self._port.close()
        if inner is not None:
            inner.close()

    # -- exchanges --------------------------------------------------------------------------------------------

    def start(self, deadline_s: float) -> None:
        """Shake hands: the driver answers ``Ready`` and sets the current to 0.

        Raises
        ------
        NoAnswerError
            No ``Ready``.
        """
        self._write(protocol.START)
        received = self._collect(protocol.READY, deadline_s)
        if protocol.READY not in received:
            raise NoAnswerError(
                f"no lens driver answers on {self._port.name} (sent 'Start', got {protocol.shown(received)}); "
                "check power, cable and that it is the right port"
            )
        self._owed.clear()
        self._silent_command = False

    def query(self, query: Query, deadline_s: float) -> bytes:
        """Return the data of the reply; a disturbed exchange is repeated once.

        Parameters
        ----------
        deadline_s : float
            ``time.monotonic`` at which to give up.

        Raises
        ------
        RefusedError
            The driver refuses the command.
        NoAnswerError
            No proper reply came in time.
        LinkLostError
            The port has vanished.
        """
        problem: Exception = GarbledReplyError("no time was left")
        for _ in range(_ATTEMPTS):
            self._settle(deadline_s)
            self._write(protocol.frame(query.payload))
            try:
                data = self._reply(query, deadline_s)
            except GarbledReplyError as error:
                self._owed.add(query.echo)
                problem = error
                continue
            except RefusedError as error:
                if self._silent_command:
                    # It may have been the unanswered command before that was refused: then this one's reply follows.
                    self._owed.add(query.echo)
                elif error.code not in (protocol.ERROR_CRC, None):
                    raise
                problem = error
                continue
            self._silent_command = False
            return data
        if isinstance(problem, RefusedError):
            raise problem
        raise NoAnswerError(f"no proper reply when asked to {query.purpose}: {problem}")

    def send(self, payload: bytes, deadline_s: float) -> None:
        """Send a command that is not answered; whether it was carried out has to be asked for."""
        self._settle(deadline_s)
        self._write(protocol.frame(payload))
        self._silent_command = True

    def note_known(self, query: Query) -> None:
        """Note that this driver answers ``query``, so that it can serve to settle the line."""
        if query not in self._markers:
            self._markers.append(query)

    # -- inside -----------------------------------------------------------------------------------------------

    def _settle(self, deadline_s: float) -> None:
        """Make sure that no reply of an earlier command is still to come."""
        waiting = self._guarded(lambda: int(self._port.in_waiting))
        if not self._owed and not waiting:
            return
        for marker in self._markers:
            if marker.echo in self._owed:
                continue
            if time.monotonic() >= deadline_s:
                break
            self._owed.add(marker.echo)
            self._write(protocol.frame(marker.payload))
            if self._collect(marker, deadline_s):
                self._owed.clear()
                self._silent_command = False
                return
        raise NoAnswerError("the lens driver does not answer")

    def _collect(self, wanted: Query | bytes, deadline_s: float) -> bytes:
        """Read until the stream ends with ``wanted``; for a Query return b"" where it did not come."""
        end_s = min(time.monotonic() + self._reply_timeout_s, deadline_s)
        stream = b""
        while True:
            stream += self._read(max(1, self._guarded(lambda: int(self._port.in_waiting))))
            if isinstance(wanted, bytes):
                if stream.endswith(wanted):
                    return stream
            elif protocol.find_reply(wanted, stream) == len(stream):
                return stream
            if time.monotonic() > end_s:
                return stream if isinstance(wanted, bytes) else b""

    def _reply(self, query: Query, deadline_s: float) -> bytes:
        end_s = min(time.monotonic() + self._reply_timeout_s, deadline_s)
        reply = self._read_exactly(protocol.SHORTEST_REPLY, end_s)
        missing = protocol.missing_bytes(query, reply)
        if missing > 0:
            reply += self._read_exactly(missing, end_s, reply)
        return protocol.parse(query, reply)

    def _read_exactly(self, count: int, end_s: float, before: bytes = b"") -> bytes:
        received = b""
        while True:
            received += self._read(count - len(received))
            if len(received) == count:
                return received
            if time.monotonic() > end_s:
                came = protocol.shown(before + received)
                raise GarbledReplyError(f"got {came} within {self._reply_timeout_s:g} s")

    def _read(self, count: int) -> bytes:
        return self._guarded(lambda: bytes(self._port.read(count)))

    def _write(self, data: bytes) -> None:
        self._guarded(lambda: self._port.write(data))

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except serial.SerialTimeoutException as error:
            raise NoAnswerError("the lens driver takes no commands") from error
        except _PORT_ERRORS as error:
            raise LinkLostError(f"the port has vanished ({_first_line(error)})") from error


def _ports_here(url: str) -> str:
    """Return which serial ports there are, for someone who gave another one."""
    if "://" in url:
        return ""
    names = sorted(port.device for port in list_ports.comports())
    return f" (serial ports here: {', '.join(names) or 'none'})"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
