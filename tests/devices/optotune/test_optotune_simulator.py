"""The simulated lens driver with a public driver that others wrote, and from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from opto import Opto
from serial import SerialException

from livephase_devices.lens.optotune import OptotuneLens
from livephase_devices.lens.optotune_simulator import OptotuneSimulator

STEP_MA = 292.84 / 4095
posix = pytest.mark.skipif(os.name != "posix", reason="opto opens no TCP port, and pseudo-terminals need POSIX")


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
