"""Faults of the lens, its driver and its cable: right values, or an error that names the lens; never a wrong value."""

from __future__ import annotations

import os
import socket
import time
from contextlib import nullcontext

import pytest

from livephase_devices.errors import DeviceError, DeviceTimeoutError, PropertyError
from livephase_devices.lens import optotune_protocol as protocol
from livephase_devices.lens.optotune import OptotuneLens
from livephase_devices.lens.optotune_link import Link, NoAnswerError
from livephase_devices.lens.optotune_simulator import FAULTS, Fault, OptotuneSimulator

REPLY_S = 0.15
STEP_MA = 292.84 / 4095
posix = pytest.mark.skipif(os.name != "posix", reason="only POSIX lets a program ask for a port of its own")
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
