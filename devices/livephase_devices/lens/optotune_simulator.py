"""A simulated Optotune lens driver on a pseudo-terminal or a TCP port, with faults on command.

``python -m livephase_devices.lens.optotune_simulator`` serves one until Ctrl-C and prints its port.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import select
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, get_args

from livephase_devices.lens.optotune_simulated_driver import Firmware, SimulatedDriver

if TYPE_CHECKING:
    from collections.abc import Callable

Fault = Literal["deaf", "mute", "partial", "garbage", "wrong-crc", "slow", "error-1", "error-2", "error-3", "error-4"]
"""What happens to a command: ``deaf`` loses it, ``mute`` carries it out without a reply, ``slow`` with a late one."""
FAULTS: tuple[Fault, ...] = get_args(Fault)
OVER_TEMPERATURE_C = 80.0
_INCOMPLETE_S = 0.05
_CHUNK = 4096
_WAIT_S = 10.0


class _PtyLine:
    """A pseudo-terminal, named by a link that stays the same when it is plugged in again."""

    def __init__(self) -> None:
        if os.name != "posix":
            raise OSError("pseudo-terminals exist on POSIX systems only; use TCP")
        self._folder = tempfile.mkdtemp(prefix="optotune-")
        self.port = str(Path(self._folder) / "lens")
        self._ends: tuple[int, int] | None = None
        self.plug()

    def plug(self) -> None:
        import tty

        if self._ends is None:
            ours, theirs = os.openpty()
            tty.setraw(theirs)
            os.set_blocking(ours, False)
            os.symlink(os.ttyname(theirs), self.port)
            # Their end stays open here too, otherwise a client that closes it would look like an unplugged cable.
            self._ends = (ours, theirs)

    def unplug(self) -> None:
        if self._ends is not None:
            Path(self.port).unlink()
            for end in self._ends:
                os.close(end)
            self._ends = None

    def remove(self) -> None:
        self.unplug()
        Path(self._folder).rmdir()

    def waiting_on(self) -> list[int]:
        return [] if self._ends is None else [self._ends[0]]

    def read(self) -> bytes:
        return b"" if self._ends is None else os.read(self._ends[0], _CHUNK)

    def write(self, data: bytes) -> None:
        if self._ends is not None:
            os.write(self._ends[0], data)


class _TcpLine:
    """A TCP port with one client at a time, for pyserial's ``socket://``."""

    def __init__(self, port: int) -> None:
        self._number = port
        self._listener: socket.socket | None = None
        self._client: socket.socket | None = None
        self.plug()
        self.port = f"socket://127.0.0.1:{self._number}"

    def plug(self) -> None:
        if self._listener is None:
            listener = socket.socket()
            if os.name == "posix":  # on Windows the option would let two programs share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._number))
            listener.listen(1)
            self._number = int(listener.getsockname()[1])
            self._listener = listener

    def unplug(self) -> None:
        for end in (self._client, self._listener):
            if end is not None:
                end.close()
        self._client = self._listener = None

    def remove(self) -> None:
        self.unplug()

    def waiting_on(self) -> list[int]:
        end = self._client or self._listener
        return [] if end is None else [end.fileno()]

    def read(self) -> bytes:
        if self._client is None:
            if self._listener is not None:
                self._client, _ = self._listener.accept()
            return b""
        data = b""
        with suppress(ConnectionError):
            data = self._client.recv(_CHUNK)
        if not data:
            self._client.close()
            self._client = None
        return data

    def write(self, data: bytes) -> None:
        if self._client is not None:
            self._client.sendall(data)


class OptotuneSimulator:
    """A simulated lens driver that serves its port from a thread; a context manager.

    Parameters
    ----------
    line : str
        ``"pty"`` (POSIX) or ``"tcp"``.
    firmware : str
        ``"A"``, ``"F"`` (a type without the offset in focal power) or ``"old"``.
    tcp_port : int
        0 takes a free one.
    slow_s : float
        How late the reply of a ``slow`` command is.
    seed : int
        Of the random bytes and cuts.

    Attributes
    ----------
    port : str
        What ``OptotuneLens`` takes.
    driver : SimulatedDriver
        State of the driver; read and set it under ``lock``.
    """

    def __init__(
        self,
        line: Literal["pty", "tcp"] = "pty" if os.name == "posix" else "tcp",
        firmware: Firmware = "A",
        *,
        tcp_port: int = 0,
        slow_s: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.driver = SimulatedDriver(firmware)
        self.lock = threading.Lock()
        self.slow_s = slow_s
        self._line = _PtyLine() if line == "pty" else _TcpLine(tcp_port)
        self.port = self._line.port
        self._random = random.Random(seed)  # noqa: S311 - noise on a line, no secret
        self._faults: list[Fault | None] = []
        self._tasks: queue.SimpleQueue[tuple[Callable[[], None], threading.Event]] = queue.SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._interrupt = threading.Event()
        self._running = True
        self._thread = threading.Thread(target=self._serve, name="optotune simulator", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving and remove the port."""
        self._in_thread(self._stop)
        self._thread.join(_WAIT_S)
        self._line.remove()
        self._wake.close()
        self._woken.close()

    # -- faults -----------------------------------------------------------------------------------------------

    def inject(self, fault: Fault, count: int = 1, after: int = 0) -> None:
        """Let ``fault`` happen to ``count`` commands, after ``after`` good ones and what is still to happen."""
        with self.lock:
            self._faults.extend([*repeat(None, after), *repeat(fault, count)])

    def heal(self) -> None:
        """Drop the faults that are still to happen, and plug the cable in."""
        with self.lock:
            self._faults.clear()
        self.plug()

    def unplug(self) -> None:
        """Pull the USB cable: the port vanishes and the driver loses its power."""

        def pull() -> None:
            self._line.unplug()
            with self.lock:
                self.driver.power_cycle()

        self._in_thread(pull)

    def plug(self) -> None:
        """Put the cable in again; the port has the same name."""
        self._in_thread(self._line.plug)

    def power_cycle(self) -> None:
        """Let the driver start anew behind a port that stays, as behind a serial server."""
        with self.lock:
            self.driver.power_cycle()

    def set_temperature(self, temperature_c: float | None) -> None:
        """Set the temperature of the lens; None is a lens without a sensor."""
        with self.lock:
            self.driver.temperature_c = temperature_c

    def attach(self, attached: bool) -> None:
        """Plug the lens into its driver, or pull it out there."""
        with self.lock:
            self.driver.attached = attached

    # -- the thread -------------------------------------------------------------------------------------------

    def _in_thread(self, task: Callable[[], None]) -> None:
        """Run a task where the line is served: nobody closes a descriptor that another thread is waiting on."""
        done = threading.Event()
        self._tasks.put((task, done))
        self._interrupt.set()
        self._wake.send(b"w")
        if not done.wait(_WAIT_S):
            raise RuntimeError("the simulator's thread does not answer")

    def _stop(self) -> None:
        self._running = False

    def _serve(self) -> None:
        while self._running:
            lines = self._line.waiting_on()
            ready, _, _ = select.select([self._woken, *lines], [], [], _INCOMPLETE_S)
            if self._woken in ready:
                self._woken.recv(_CHUNK)
                self._interrupt.clear()
                while not self._tasks.empty():
                    task, done = self._tasks.get()
                    task()
                    done.set()
                continue
            with self.lock:
                commands = self.driver.take(self._line.read()) if ready else self.driver.idle()
            for command in commands:
                self._handle(command)

    def _handle(self, command: bytes) -> None:
        with self.lock:
            fault = self._faults.pop(0) if self._faults else None
        if fault == "deaf":
            return
        with self.lock:
            reply = self.driver.error(int(fault[-1])) if fault and "error" in fault else self.driver.execute(command)
        if fault == "slow":
            self._interrupt.wait(self.slow_s)
        with suppress(OSError):  # nobody reads, or the client has just gone: a real driver does not notice either
            self._line.write(self._spoilt(reply, fault))

    def _spoilt(self, reply: bytes, fault: Fault | None) -> bytes:
        if fault == "mute":
            return b""
        if fault == "garbage":
            return self._random.randbytes(self._random.randint(1, 20))
        if fault == "partial":
            return reply[: self._random.randrange(1, len(reply))] if reply else b""
        if fault == "wrong-crc" and len(reply) > 4:
            at = self._random.randrange(len(reply) - 2)  # a byte of the data or of the CRC
            return reply[:at] + bytes([reply[at] ^ self._random.randint(1, 255)]) + reply[at + 1 :]
        return reply


_HELP = f"""commands: {", ".join(FAULTS)} (each may be followed by a count);
  unplug, plug, detach, attach (the lens), power-cycle, temperature 37.5, temperature none, over-temperature, quit"""


def _obey(simulator: OptotuneSimulator, line: str) -> bool:
    """Carry out a line of the operator; return whether to go on."""
    words = line.split()
    if not words:
        return True
    word, argument = words[0], (words[1] if len(words) > 1 else "")
    if word in FAULTS:
        simulator.inject(word, int(argument or 1))
    elif word == "temperature" and argument:
        simulator.set_temperature(None if argument == "none" else float(argument))
    elif word == "over-temperature":
        simulator.set_temperature(OVER_TEMPERATURE_C)
    elif word in ("attach", "detach"):
        simulator.attach(word == "attach")
    elif word in ("unplug", "plug", "power-cycle"):
        {"unplug": simulator.unplug, "plug": simulator.plug, "power-cycle": simulator.power_cycle}[word]()
    elif word == "quit":
        return False
    else:
        print(_HELP)
    return True


def main() -> None:
    """Serve a simulated lens driver until ``quit`` or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m livephase_devices.lens.optotune_simulator", description=__doc__)
    parser.add_argument(
        "--tcp", type=int, metavar="PORT", help="serve TCP at this port (0: a free one), not a terminal"
    )
    parser.add_argument("--firmware", choices=get_args(Firmware), default="A")
    options = parser.parse_args()
    line = "pty" if options.tcp is None and os.name == "posix" else "tcp"
    with OptotuneSimulator(line, options.firmware, tcp_port=options.tcp or 0) as simulator, suppress(KeyboardInterrupt):
        print(f"port: {simulator.port}\n{_HELP}", flush=True)
        for text in sys.stdin:
            try:
                if not _obey(simulator, text):
                    return
            except ValueError as error:
                print(error, flush=True)
        threading.Event().wait()  # no terminal to read from: until Ctrl-C


if __name__ == "__main__":
    main()
