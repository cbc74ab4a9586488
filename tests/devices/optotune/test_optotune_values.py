"""Set-points, readings and limits of the lens driver, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from livephase_devices.errors import DeviceError, PropertyError
from livephase_devices.lens.optotune import OptotuneLens
from livephase_devices.lens.optotune_protocol import LensStatus
from livephase_devices.lens.optotune_simulator import OptotuneSimulator

if TYPE_CHECKING:
    from livephase_devices.lens.optotune_connection import Mode

STEP_MA = 292.84 / 4095


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
