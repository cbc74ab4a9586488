"""The lens driver against the simulated driver: right values, or an error that names the lens; never a wrong value."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import pytest
from opto import Opto
from serial import SerialException

from livephase_devices.errors import DeviceError, DeviceTimeoutError, PropertyError
from livephase_devices.lens import optotune_protocol as protocol
from livephase_devices.lens.optotune import OptotuneLens
from livephase_devices.lens.optotune_link import Link, NoAnswerError
from livephase_devices.lens.optotune_protocol import LensStatus
from livephase_devices.lens.optotune_simulator import FAULTS, Fault, OptotuneSimulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from livephase_devices.lens.optotune_connection import Mode

REPLY_S = 0.15
LINES: list[Literal["pty", "tcp"]] = ["pty", "tcp"] if os.name == "posix" else ["tcp"]
STEP_MA = 292.84 / 4095
posix = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals exist on POSIX systems only")


@pytest.fixture
def simulator(no_leaks: None) -> Iterator[OptotuneSimulator]:
    with OptotuneSimulator(slow_s=2 * REPLY_S) as simulator:
        yield simulator


@pytest.fixture
def lens(simulator: OptotuneSimulator) -> Iterator[OptotuneLens]:
    with OptotuneLens(simulator.port, label="Lens", reply_timeout_s=REPLY_S) as lens:
        yield lens


@pytest.fixture
def focal(simulator: OptotuneSimulator) -> Iterator[OptotuneLens]:
    with OptotuneLens(simulator.port, mode="focal_power", temperature_limits_c=(20, 35), label="Lens") as lens:
        yield lens


@pytest.fixture(params=LINES)
def on_each_line(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[tuple[OptotuneSimulator, OptotuneLens]]:
    with OptotuneSimulator(request.param) as simulator, OptotuneLens(simulator.port, label="Lens") as lens:
        yield simulator, lens


# -- bytes on the wire ----------------------------------------------------------------------------------------

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


# -- values ---------------------------------------------------------------------------------------------------


def test_identity_and_limits(lens: OptotuneLens) -> None:
    identity = lens.identity
    assert (identity.firmware_type, identity.firmware_version, identity.serial_number) == ("A", "1.8.300.7", "ABAB0042")
    assert identity.max_current_ma == 292.84
    assert lens.limits == identity.current_limits_ma == (-292.84, 292.84)
    assert (lens.unit, lens.current_ma) == ("mA", 0.0)


def test_current(on_each_line: tuple[OptotuneSimulator, OptotuneLens]) -> None:
    simulator, lens = on_each_line
    for wanted_ma in (100.0, -292.84, 292.84, 0.0, 0x0A0A * STEP_MA):
        lens.current_ma = wanted_ma
        assert simulator.driver.current_raw == round(wanted_ma / STEP_MA)
        assert lens.current_ma == pytest.approx(wanted_ma, abs=STEP_MA / 2 + 1e-9)


def test_focal_power_of_type_a(focal: OptotuneLens, simulator: OptotuneSimulator) -> None:
    assert focal.limits == pytest.approx((-1.5, 3.5))
    focal.focal_power_dpt = 2.0
    assert simulator.driver.focal_power_raw == 1400
    assert focal.focal_power_dpt == pytest.approx(2.0)
    assert focal.current_ma == pytest.approx(1400 * STEP_MA)
    assert focal.unit == "dpt"


def test_focal_power_of_other_types(no_leaks: None) -> None:
    with OptotuneSimulator(firmware="F") as simulator:
        with OptotuneLens(simulator.port, mode="focal_power", temperature_limits_c=(20, 35)) as lens:
            assert lens.limits == pytest.approx((-1.5, 3.5))
            lens.focal_power_dpt = -1.25
            assert simulator.driver.focal_power_raw == -250
            assert lens.focal_power_dpt == pytest.approx(-1.25)


def test_old_firmware(no_leaks: None) -> None:
    with OptotuneSimulator(firmware="old") as simulator:
        with OptotuneLens(simulator.port) as lens:
            assert (lens.identity.firmware_type, lens.status) == (None, None)
            assert lens.temperature_c == 26.0
            lens.current_ma = 55.0
            assert lens.current_ma == pytest.approx(55.0, abs=STEP_MA)
            simulator.set_temperature(-3.5)
            assert lens.temperature_c == -3.5
        with pytest.raises(DeviceError, match=r"does not tell its firmware type.* use current mode"):
            OptotuneLens(simulator.port, mode="focal_power").open()


def test_software_limits_of_the_driver(no_leaks: None) -> None:
    with OptotuneSimulator() as simulator:
        with simulator.lock:
            simulator.driver._limits_raw = [0, 2048]
        with OptotuneLens(simulator.port, label="Lens") as lens:
            assert lens.limits == pytest.approx((0.0, 2048 * STEP_MA))
            with pytest.raises(PropertyError, match=r"^Lens: cannot be set to 150 mA; the limits are 0 to 146.456 mA"):
                lens.current_ma = 150.0
        with simulator.lock:
            simulator.driver._limits_raw = [2048, 2048]
        with pytest.raises(DeviceError, match="leave no range; set them with the vendor's program"):
            OptotuneLens(simulator.port).open()


@pytest.mark.parametrize("value", [292.9, -300.0, float("nan"), float("inf")])
def test_outside_the_limits(lens: OptotuneLens, simulator: OptotuneSimulator, value: float) -> None:
    lens.current_ma = 20.0
    with pytest.raises(PropertyError, match=r"^Lens: cannot be set to"):
        lens.current_ma = value
    assert lens.current_ma == pytest.approx(20.0, abs=STEP_MA)


def test_the_other_modes_set_point(lens: OptotuneLens) -> None:
    with pytest.raises(DeviceError, match="is in current mode, where its set-point is in mA"):
        lens.focal_power_dpt = 1.0
    with pytest.raises(DeviceError, match="is in current mode"):
        _ = lens.focal_power_dpt


def test_temperature_and_status(
    lens: OptotuneLens, simulator: OptotuneSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    assert (lens.temperature_c, lens.status) == (26.0, LensStatus.NO_TEMPERATURE_LIMITS)
    simulator.set_temperature(80.0)
    assert lens.temperature_c == 80.0
    assert lens.status == LensStatus.NO_TEMPERATURE_LIMITS | LensStatus.TEMPERATURE_OUT_OF_SPECIFICATION
    for _ in range(3):
        assert lens.current_ma == 0.0
    assert caplog.messages == ["Lens: its status reports: temperature out of specification"]
    simulator.set_temperature(None)
    assert lens.temperature_c is None


def test_a_focal_power_that_cannot_be_reached(focal: OptotuneLens, simulator: OptotuneSimulator) -> None:
    focal.focal_power_dpt = 1.0
    simulator.set_temperature(80.0)
    assert focal.focal_power_dpt == pytest.approx(1.0)  # outside its limits, but reached: a warning
    with simulator.lock:
        simulator.driver.unreachable = True
    with pytest.raises(DeviceError, match=r"cannot reach the focal power .*temperature outside limits.*Let it cool"):
        _ = focal.focal_power_dpt


def test_a_lens_pulled_out_of_its_driver(lens: OptotuneLens, simulator: OptotuneSimulator) -> None:
    """The driver goes on as if it were there: only the status tells."""
    lens.current_ma = 60.0
    simulator.attach(False)
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"^Lens: its status reports: eeprom faulty. Check the cable between"):
            _ = lens.current_ma
    simulator.unplug()
    simulator.plug()
    with pytest.raises(DeviceError, match="eeprom faulty"):
        _ = lens.current_ma
    simulator.attach(True)
    assert lens.current_ma == pytest.approx(60.0, abs=STEP_MA)


def test_a_lens_without_eeprom(simulator: OptotuneSimulator, caplog: pytest.LogCaptureFixture) -> None:
    simulator.attach(False)  # looks the same
    with OptotuneLens(simulator.port, label="Lens") as lens:
        lens.current_ma = 60.0
        assert lens.current_ma == pytest.approx(60.0, abs=STEP_MA)
        assert caplog.messages == ["Lens: its status reports: eeprom faulty"]


def test_temperature_limits_that_leave_no_range(simulator: OptotuneSimulator) -> None:
    lens = OptotuneLens(simulator.port, mode="focal_power", temperature_limits_c=(-40, 99.9))
    with pytest.raises(DeviceError, match=r"no focal power that it can hold from -40 to 99.9 C; narrow"):
        lens.open()


def test_nothing_is_written_to_the_eeprom(simulator: OptotuneSimulator) -> None:
    modes: tuple[Mode, ...] = ("current", "focal_power")
    for mode in modes:
        with OptotuneLens(simulator.port, mode=mode) as lens:
            if mode == "current":
                lens.current_ma = 5.0
            else:
                lens.focal_power_dpt = 0.5
            simulator.unplug()
            simulator.plug()
            assert lens.temperature_c == 26.0
    assert simulator.driver.eeprom_writes == 0


# -- faults ---------------------------------------------------------------------------------------------------


REFUSALS = ("error-2", "error-3", "error-4")


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_survived_or_reported(lens: OptotuneLens, simulator: OptotuneSimulator, fault: Fault) -> None:
    """At each of the exchanges of a move and of a reading, in turn."""
    for after in range(3):
        wanted_ma = 10.0 * (after + 1)
        simulator.inject(fault, after=after)
        # A refused move, 0, is noticed when it is read back, 1, and repeated. What the status, 2, refuses is reported.
        refused = fault in REFUSALS and after == 2
        with pytest.raises(DeviceError, match=r"^Lens: refuses to") if refused else nullcontext():
            lens.current_ma = wanted_ma
        simulator.heal()
        assert lens.current_ma == pytest.approx(wanted_ma, abs=STEP_MA)
        assert simulator.driver.current_raw == round(wanted_ma / STEP_MA)
        simulator.inject(fault, after=after)
        with pytest.raises(DeviceError, match=r"^Lens: refuses to") if fault in REFUSALS else nullcontext():
            assert lens.current_ma == pytest.approx(wanted_ma, abs=STEP_MA)
        simulator.heal()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lasting_fault(simulator: OptotuneSimulator, fault: Fault) -> None:
    with OptotuneLens(simulator.port, label="Lens", reply_timeout_s=REPLY_S, call_timeout_s=1.0) as lens:
        lens.current_ma = 40.0
        simulator.inject(fault, 10_000)
        silent = not fault.startswith("error")
        for _ in range(2):
            with pytest.raises(DeviceTimeoutError if silent else DeviceError, match=r"^Lens: ") as caught:
                _ = lens.current_ma
            assert ("40 mA is set again when it answers" in str(caught.value)) == silent
        simulator.heal()
        assert lens.current_ma == pytest.approx(40.0, abs=STEP_MA)
        assert simulator.driver.current_raw == round(40.0 / STEP_MA)


def test_a_late_reply_is_not_taken_for_the_next_ones(on_each_line: tuple[OptotuneSimulator, OptotuneLens]) -> None:
    """The late reply looks exactly like the one that is waited for, and holds another value."""
    simulator, lens = on_each_line
    lens.close()
    link = Link(simulator.port, 10.0)
    try:
        link.start(time.monotonic() + 20)
        for number in range(3):
            simulator.inject("slow")
            with pytest.raises(NoAnswerError):
                link.query(protocol.READ_CURRENT, time.monotonic() + 0.1)
            with simulator.lock:
                simulator.driver.current_raw = 1402 + number
            assert link.query(protocol.READ_CURRENT, time.monotonic() + 20) == (1402 + number).to_bytes(2, "big")
    finally:
        link.close()


def test_bytes_that_nobody_asked_for_are_thrown_away(lens: OptotuneLens, simulator: OptotuneSimulator) -> None:
    lens.current_ma = 100.0
    simulator._in_thread(lambda: simulator._line.write(bytes.fromhex("41 00 00 50 14 0D 0A 45")))
    assert lens.current_ma == pytest.approx(100.0, abs=STEP_MA)


def test_unplugged_and_plugged_in_again(
    on_each_line: tuple[OptotuneSimulator, OptotuneLens], caplog: pytest.LogCaptureFixture
) -> None:
    simulator, lens = on_each_line
    lens.current_ma = 100.0
    simulator.unplug()
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"^Lens: .*It may stand at 0 mA; 100 mA is set again when it answers"):
            _ = lens.current_ma
        with pytest.raises(DeviceError, match=r"^Lens: "):
            _ = lens.temperature_c
    simulator.plug()
    assert simulator.driver.current_raw == 0
    assert lens.temperature_c == 26.0  # any call restores it
    assert simulator.driver.current_raw == round(100 / STEP_MA)
    assert lens.current_ma == pytest.approx(100.0, abs=STEP_MA)
    assert lens.restorations == 1
    assert "Lens: connected again; sets 100 mA again" in caplog.messages


def test_a_cable_that_was_out_between_two_calls(focal: OptotuneLens, simulator: OptotuneSimulator) -> None:
    focal.focal_power_dpt = 2.0
    simulator.unplug()
    simulator.plug()
    assert focal.focal_power_dpt == pytest.approx(2.0)
    assert (simulator.driver.mode, simulator.driver.focal_power_raw) == (5, 1400)


def test_a_power_cut_behind_a_port_that_stays(
    lens: OptotuneLens, simulator: OptotuneSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    lens.current_ma = 100.0
    simulator.power_cycle()
    assert lens.current_ma == pytest.approx(100.0, abs=STEP_MA)
    assert simulator.driver.current_raw == round(100 / STEP_MA)
    assert caplog.messages == ["Lens: holds 0 mA; sets 100 again"]


def test_a_power_cut_in_focal_power_mode(focal: OptotuneLens, simulator: OptotuneSimulator) -> None:
    focal.focal_power_dpt = 2.0
    simulator.power_cycle()
    assert focal.focal_power_dpt == pytest.approx(2.0)
    simulator.power_cycle()
    focal.focal_power_dpt = 1.0
    assert (simulator.driver.mode, simulator.driver.focal_power_raw) == (5, 1200)


def test_a_set_point_that_cannot_be_restored_is_reported_by_every_call(
    lens: OptotuneLens, simulator: OptotuneSimulator
) -> None:
    lens.current_ma = 250.0
    simulator.unplug()
    with simulator.lock:
        simulator.driver._limits_raw = [0, 2048]  # another driver, with narrower limits
        simulator.driver._serial = b"OTHER123"
    simulator.plug()
    for _ in range(3):
        with pytest.raises(DeviceError, match=r"^Lens: its set-point could not be restored: cannot be set to 250 mA"):
            _ = lens.current_ma
        with pytest.raises(DeviceError, match=r"^Lens: its set-point could not be restored"):
            _ = lens.temperature_c
    lens.current_ma = 100.0  # a set-point that this driver can hold ends it
    assert lens.current_ma == pytest.approx(100.0, abs=STEP_MA)


def test_a_move_while_the_cable_is_out_is_made_up_for(lens: OptotuneLens, simulator: OptotuneSimulator) -> None:
    lens.current_ma = 100.0
    simulator.unplug()
    with pytest.raises(DeviceError, match="It may stand at 0 mA; 50 mA is set again"):
        lens.current_ma = 50.0
    with pytest.raises(PropertyError):
        lens.current_ma = 400.0
    simulator.plug()
    assert lens.current_ma == pytest.approx(50.0, abs=STEP_MA)


def test_a_driver_that_ignores_its_set_point(lens: OptotuneLens, simulator: OptotuneSimulator) -> None:
    simulator.inject("deaf")
    simulator.inject("deaf", after=2)  # after reading back and asking for the mode
    with pytest.raises(DeviceError, match=r"^Lens: was set to 30 mA but holds 0 mA; its status: no temperature limits"):
        lens.current_ma = 30.0


@posix
def test_a_port_that_another_program_uses(no_leaks: None) -> None:
    with OptotuneSimulator("pty") as simulator, OptotuneLens(simulator.port) as lens:
        lens.current_ma = 10.0
        with pytest.raises(DeviceError, match=r"cannot open its port: .*exclusively lock"):
            OptotuneLens(simulator.port).open()
        assert simulator.driver.current_raw == round(10 / STEP_MA)


def test_wrong_ports_are_explained() -> None:
    with pytest.raises(DeviceError, match=r"^nothing-here: cannot open its port: .*serial ports here: "):
        OptotuneLens("nothing-here").open()
    with pytest.raises(DeviceError, match="cannot open its port"):
        OptotuneLens("socket://127.0.0.1").open()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = f"socket://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeviceTimeoutError, match=r"no lens driver answers on .*'Start', got nothing.; check power"):
            OptotuneLens(port, call_timeout_s=0.5).open()


# -- others ---------------------------------------------------------------------------------------------------


@posix
def test_an_independent_public_driver_works_with_the_simulator(no_leaks: None) -> None:
    """``opto`` 0.1 from PyPI, written by others from the vendor's manual."""
    with OptotuneSimulator("pty") as simulator, Opto(simulator.port) as other:
        assert other.current_max() == 292.84
        other.current(100)
        assert other.current() == pytest.approx(100.0, abs=STEP_MA)
        assert simulator.driver.current_raw == int(100 / STEP_MA)
        assert other.firmwaretype() == ord("A")
        assert other.firmwareversion().startswith("1.8.300.")
        assert other.serialnumber() == b"ABAB0042"
        assert other.current_upper() == pytest.approx(292.84)
        assert other.temp_reading() == 26.0
        assert other.get_status() == b"\0\0\0\4"
        assert other.mode() == "current"
        other.temp_limits((20, 35))
        assert other.ser is not None
        other.ser.readline()  # its answer, which opto leaves on the line
        other.mode("focal")
        assert (other.mode(), simulator.driver.mode) == ("focal", 5)
        # It waits for an answer that the vendor's sheet does not have, and then reports a CRC error.
        with pytest.raises(SerialException, match="CRC mismatch"):
            other.focalpower(2.5)
        assert simulator.driver.focal_power_raw == 1500
        assert other.focalpower() == pytest.approx(2.5)
        other.current_upper(250.0)  # 200 mA would have a 0x0A in its reply, where opto stops reading
        assert simulator.driver.eeprom_writes == 1


def test_the_simulator_from_the_command_line(no_leaks: None) -> None:
    command = [sys.executable, "-m", "livephase_devices.lens.optotune_simulator", "--tcp", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = process.stdout.readline().removeprefix("port: ").strip()
        with OptotuneLens(port) as lens:
            lens.current_ma = 12.0
            print("temperature 41.5", "wrong-crc 2", sep="\n", file=process.stdin, flush=True)
            until_s = time.monotonic() + 20
            while lens.temperature_c != 41.5:
                assert time.monotonic() < until_s
            assert lens.current_ma == pytest.approx(12.0, abs=STEP_MA)
        print("quit", file=process.stdin, flush=True)
        assert process.wait(20) == 0
