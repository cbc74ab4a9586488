"""Every byte that the lens driver sends in a session, against literal replies; no simulated driver in between."""

from __future__ import annotations

import socket
import threading

from livephase_devices.lens.optotune import OptotuneLens

START = ("53 74 61 72 74", "52 65 61 64 79 0D 0A")
IDENTITY = [
    ("48 00 36", "48 41 F6 30 0D 0A"),
    ("56 80 3E", "56 01 08 01 2C 00 07 57 E2 0D 0A"),
    ("58 01 FA", "58 41 42 41 42 30 30 34 32 D3 3F 0D 0A"),
    # 292.08 mA: the maximum with which the vendor's example, 100 mA = 1402 steps, comes out
    ("43 72 4D 41 00 00 71 80", "43 4D 41 72 18 26 1D 0D 0A"),
    ("43 72 4C 41 00 00 70 7C", "43 4C 41 F0 01 86 8B 0D 0A"),
    ("43 72 55 41 00 00 77 20", "43 55 41 0F FF 41 A7 0D 0A"),
]
IN_CURRENT_MODE = ("4D 4D 41 65 77", "4D 4D 41 01 76 EB 0D 0A")
IN_FOCAL_POWER_MODE = ("4D 4D 41 65 77", "4D 4D 41 05 77 28 0D 0A")
STATUS = ("53 72 BC D5", "53 00 00 00 00 84 0C 0D 0A")
CURRENT_SESSION = [
    START,
    *IDENTITY,
    ("4D 77 44 41 54 46", "4D 44 41 63 27 0D 0A"),
    IN_CURRENT_MODE,
    IN_CURRENT_MODE,
    STATUS,
    ("41 77 05 7A 26 95", ""),
    ("41 72 00 00 B4 27", "41 05 7A D2 A7 0D 0A"),
    STATUS,
    ("54 43 41 B0 D0", "54 43 41 01 A0 75 B4 0D 0A"),
    ("54 43 41 B0 D0", "54 43 41 0F FF 31 EC 0D 0A"),
]
FOCAL_POWER_SESSION = [
    START,
    *IDENTITY,
    ("50 77 54 41 02 30 01 40 32 37", "50 54 00 06 A4 02 BC 1C 6B 0D 0A"),
    ("4D 77 43 41 56 76", "4D 43 41 00 07 D0 02 BC B8 20 0D 0A"),
    IN_FOCAL_POWER_MODE,
    IN_FOCAL_POWER_MODE,
    STATUS,
    ("50 77 44 41 07 D0 00 00 31 FD", ""),
    ("50 72 44 41 00 00 00 00 64 70", "50 44 07 D0 52 B9 0D 0A"),
    STATUS,
]


class ScriptedPeer:
    """Compares what it receives with literal bytes and answers literal bytes; no part of this package."""

    def __init__(self, script: list[tuple[str, str]]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = f"socket://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received: list[str] = []
        self._script = script
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as client:
            for expected, answer in self._script:
                wanted = len(bytes.fromhex(expected))
                data = b""
                while len(data) < wanted:
                    data += client.recv(wanted - len(data))
                self.received.append(data.hex(" ").upper())
                client.sendall(bytes.fromhex(answer))

    def join(self) -> None:
        """Wait until the script is through."""
        self._thread.join(20)


def test_every_byte_of_a_session_in_current_mode(no_leaks: None) -> None:
    peer = ScriptedPeer(CURRENT_SESSION)
    with OptotuneLens(peer.port, reply_timeout_s=20, call_timeout_s=20) as lens:
        lens.current_ma = 100.0
        # the first answer tells that the firmware knows the command, the second is the value
        assert lens.temperature_c is None
        peer.join()
    assert peer.received == [command for command, _ in CURRENT_SESSION]


def test_every_byte_of_a_session_in_focal_power_mode(no_leaks: None) -> None:
    peer = ScriptedPeer(FOCAL_POWER_SESSION)
    lens = OptotuneLens(
        peer.port, mode="focal_power", temperature_limits_c=(20, 35), reply_timeout_s=20, call_timeout_s=20
    )
    with lens:
        lens.focal_power_dpt = 5.0
        peer.join()
    assert peer.received == [command for command, _ in FOCAL_POWER_SESSION]
