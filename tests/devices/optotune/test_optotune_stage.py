"""The Optotune lens as a Micro-Manager stage: bundled configuration, real core, simulated driver behind a real port."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from pymmcore_plus.experimental.unicore import UniMMCore
from useq import MDAEvent

from livephase_devices.config import CONFIG_FOLDER, MicroscopeConfig
from livephase_devices.errors import DeviceError, DeviceTimeoutError, PropertyError
from livephase_devices.lens.optotune_simulator import OptotuneSimulator
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STEP_MA = 292.84 / 4095
UM_PER_MA = 0.1  # of the bundled optotune.toml
DEADLINE_S = 20.0


def write_config(folder: Path, port: str, *, mode: str = "Current", more: str = "", **changes: Any) -> MicroscopeConfig:
    """Do what the comments of the bundled files ask for: copy both, set the port."""
    cfg = (CONFIG_FOLDER / "optotune.cfg").read_text(encoding="utf-8")
    assert "Port,/dev/ttyACM0" in cfg
    assert "Mode,Current" in cfg
    cfg = cfg.replace("/dev/ttyACM0", port).replace("Mode,Current", f"Mode,{mode}")
    cfg = cfg.replace("CCDXSize,647", "CCDXSize,96").replace("CCDYSize,490", "CCDYSize,80")
    cfg = cfg.replace("\nProperty,Core,Initialize,1", f"\n{more}\nProperty,Core,Initialize,1")
    (folder / "optotune.cfg").write_text(cfg, encoding="utf-8")
    toml = (CONFIG_FOLDER / "optotune.toml").read_text(encoding="utf-8")
    (folder / "optotune.toml").write_text(toml, encoding="utf-8")
    config = MicroscopeConfig.load(folder / "optotune.toml")
    assert config.cfg == (folder / "optotune.cfg").resolve()
    return config.model_copy(update={"call_timeout_s": 30.0, **changes})


@pytest.fixture
def simulator(no_leaks: None) -> Iterator[OptotuneSimulator]:
    with OptotuneSimulator() as simulator:
        yield simulator


@pytest.fixture
def microscope(simulator: OptotuneSimulator, tmp_path: Path) -> Iterator[Microscope]:
    with Microscope(write_config(tmp_path, simulator.port)) as microscope:
        yield microscope


@pytest.fixture
def core(simulator: OptotuneSimulator, tmp_path: Path) -> Iterator[UniMMCore]:
    core = UniMMCore()
    core.loadSystemConfiguration(write_config(tmp_path, simulator.port).cfg)
    try:
        yield core
    finally:
        core.unloadAllDevices()


def values(microscope: Microscope) -> dict[str, Any]:
    return {info.name: info.value for info in microscope.properties() if info.device == "Lens"}


# -- the microscope -------------------------------------------------------------------------------------------


def test_frames_at_several_defoci(microscope: Microscope, simulator: OptotuneSimulator) -> None:
    for number, defocus_um in enumerate((6.0, -8.0, 0.0, 20.0)):
        simulator.set_temperature(30.0 + number)
        microscope.set_defocus_um(defocus_um)
        frame = microscope.snap()
        assert simulator.driver.current_raw == round(defocus_um / UM_PER_MA / STEP_MA)
        assert frame.defocus_um == pytest.approx(defocus_um, abs=UM_PER_MA * STEP_MA / 2 + 1e-9)
        assert frame.properties == {"Lens.Temperature-C": 30.0 + number}
        assert frame.pixels.shape == (80, 96)


def test_frames_in_focal_power_mode(simulator: OptotuneSimulator, tmp_path: Path) -> None:
    more = "#py Property,Lens,TemperatureLow-C,20\n#py Property,Lens,TemperatureHigh-C,35"
    config = write_config(
        tmp_path, simulator.port, mode="FocalPower", more=more, lens_um_per_unit=12.0, lens_focus_position=1.0
    )
    with Microscope(config) as microscope:
        limits = microscope.state().defocus_limits_um
        assert limits == pytest.approx((-2.5 * 12, 2.5 * 12))
        for defocus_um in (6.0, -9.0):
            microscope.set_defocus_um(defocus_um)
            assert microscope.snap().defocus_um == pytest.approx(defocus_um, abs=12 / 400 + 1e-9)
            assert simulator.driver.focal_power_raw == round((defocus_um / 12 + 1 + 5) * 200)
        shown = values(microscope)
        assert shown["FocalPower-dpt"] == shown["Position"] == pytest.approx(0.25)
        assert shown["Current-mA"] == pytest.approx(simulator.driver.focal_power_raw * STEP_MA)
        assert microscope.set_property("Lens", "FocalPower-dpt", 2.0) == pytest.approx(2.0)
        with pytest.raises(PropertyError, match="'Current-mA' is read-only"):
            microscope.set_property("Lens", "Current-mA", 5)


def test_outside_the_limits_of_the_driver(microscope: Microscope, simulator: OptotuneSimulator) -> None:
    microscope.set_defocus_um(5.0)
    with pytest.raises(PropertyError, match=r"^Lens: a defocus of 30 um is outside its range of -29.284 to 29.284 um"):
        microscope.set_defocus_um(30.0)
    for value in (293, -293):
        with pytest.raises(PropertyError, match=r"^Lens: 'Position' cannot be"):
            microscope.set_property("Lens", "Position", value)
    assert simulator.driver.current_raw == round(50 / STEP_MA)


def test_properties(microscope: Microscope, simulator: OptotuneSimulator) -> None:
    infos = {info.name: info for info in microscope.properties() if info.device == "Lens"}
    assert {name: info.kind for name, info in infos.items()} == {
        "Port": "str",
        "Mode": "str",
        "TemperatureLow-C": "float",
        "TemperatureHigh-C": "float",
        "SettlingTime-ms": "float",
        "Position": "float",
        "Current-mA": "float",
        "FocalPower-dpt": "float",
        "Temperature-C": "float",
        "Status": "str",
        "Firmware": "str",
        "SerialNumber": "str",
    }
    assert {name for name, info in infos.items() if info.pre_init} == {
        "Port",
        "Mode",
        "TemperatureLow-C",
        "TemperatureHigh-C",
    }
    assert {name for name, info in infos.items() if info.read_only} == {
        "FocalPower-dpt",
        "Temperature-C",
        "Status",
        "Firmware",
        "SerialNumber",
    }
    assert (infos["Firmware"].value, infos["SerialNumber"].value) == ("type A, version 1.8.300.7", "ABAB0042")
    assert infos["Mode"].allowed == ("Current", "FocalPower")
    assert infos["Position"].limits == infos["Current-mA"].limits == (-292.84, 292.84)
    assert infos["SettlingTime-ms"].value == 50.0
    assert microscope.set_property("Lens", "Current-mA", "12.5") == pytest.approx(12.5, abs=STEP_MA)
    simulator.set_temperature(None)
    with simulator.lock:
        simulator.driver.mode = 1
    shown = values(microscope)
    assert math.isnan(shown["Temperature-C"])
    assert math.isnan(shown["FocalPower-dpt"])
    assert shown["Position"] == pytest.approx(12.5, abs=STEP_MA)
    simulator.set_temperature(80.0)
    assert values(microscope)["Status"] == "no temperature limits, temperature out of specification"
    for name, value in (("Port", "COM9"), ("Mode", "FocalPower")):
        with pytest.raises(PropertyError, match="can only be set in the configuration file"):
            microscope.set_property("Lens", name, value)


def test_unplugged_in_use(microscope: Microscope, simulator: OptotuneSimulator) -> None:
    microscope.set_property("Lens", "SettlingTime-ms", 300)
    microscope.set_defocus_um(7.0)
    before = microscope.snap()
    simulator.unplug()
    for call in (microscope.snap, lambda: microscope.set_defocus_um(7.0), microscope.properties):
        with pytest.raises(DeviceError, match=r"^Lens: .*It may stand at 0 mA; 70 mA is set again when it answers"):
            call()
    simulator.plug()
    assert simulator.driver.current_raw == 0
    began_ns = time.monotonic_ns()
    frame = microscope.snap()
    assert simulator.driver.current_raw == round(70 / STEP_MA)
    assert frame.defocus_um == before.defocus_um
    # the exposure began only after the lens had come back to its place and settled
    assert frame.time_monotonic_ns - began_ns >= 300_000_000
    assert frame.index == before.index + 1


def test_a_mute_lens_gives_no_frame(simulator: OptotuneSimulator, tmp_path: Path) -> None:
    with Microscope(write_config(tmp_path, simulator.port)) as microscope:
        microscope.set_defocus_um(3.0)
        simulator.inject("mute", 10_000)
        with pytest.raises(DeviceTimeoutError, match=r"^Lens: .*30 mA is set again when it answers"):
            microscope.snap()
        simulator.heal()
        assert microscope.snap().defocus_um == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize(
    ("port", "mode", "firmware", "message"),
    [
        ("", "Current", "A", "has no port; set its property Port in the cfg"),
        ("COM77", "Current", "A", "cannot open its port: .*serial ports here: "),
        (None, "FocalPower", "old", "does not tell its firmware type, .*; use current mode"),
    ],
)
def test_a_lens_that_cannot_be_used(
    no_leaks: None, tmp_path: Path, port: str | None, mode: str, firmware: Any, message: str
) -> None:
    with OptotuneSimulator(firmware=firmware) as simulator:
        microscope = Microscope(write_config(tmp_path, simulator.port if port is None else port, mode=mode))
        with pytest.raises(DeviceError, match=f"^Lens: could not be initialised: {message}"):
            microscope.open()


# -- the core alone -------------------------------------------------------------------------------------------


def test_set_position_and_read_back(core: UniMMCore, simulator: OptotuneSimulator) -> None:
    core.setProperty("Lens", "SettlingTime-ms", "0")
    assert core.getFocusDevice() == "Lens"
    core.setPosition("Lens", 100.0)
    assert simulator.driver.current_raw == round(100 / STEP_MA)
    assert core.getPosition("Lens") == pytest.approx(100.0, abs=STEP_MA)
    core.setRelativePosition("Lens", -150.0)
    assert core.getPosition() == pytest.approx(-50.0, abs=2 * STEP_MA)
    simulator.unplug()
    with pytest.raises(DeviceError):
        core.getPosition("Lens")
    with pytest.raises(DeviceError):
        core.setPosition("Lens", 20.0)
    simulator.plug()
    assert core.getPosition("Lens") == pytest.approx(20.0, abs=STEP_MA)
    assert simulator.driver.current_raw == round(20 / STEP_MA)
    with pytest.raises(PropertyError, match=r"the limits are -292.84 to 292.84 mA"):
        core.setPosition("Lens", 300.0)
    for refused in (core.home, core.setOrigin):
        with pytest.raises(NotImplementedError, match="a tunable lens has no"):
            refused("Lens")


def test_busy_while_it_settles(core: UniMMCore) -> None:
    core.setProperty("Lens", "SettlingTime-ms", 10_000)
    assert not core.deviceBusy("Lens")
    core.setPosition("Lens", 5.0)
    assert core.deviceBusy("Lens")
    core.setProperty("Lens", "SettlingTime-ms", 1)
    core.setPosition("Lens", 6.0)
    core.waitForDevice("Lens")
    assert not core.deviceBusy("Lens")


def test_a_slot_that_asks_for_the_position(core: UniMMCore) -> None:
    """It would wait for ever, if the event came from under the device's lock."""
    heard: list[tuple[str, float, float]] = []
    done = threading.Event()

    def slot(label: str, position: float) -> None:
        heard.append((label, position, core.getPosition(label)))
        done.set()

    core.events.stagePositionChanged.connect(slot)
    core.setProperty("Lens", "SettlingTime-ms", "1")
    core.setPosition("Lens", 40.0)
    assert done.wait(DEADLINE_S)
    assert heard == [("Lens", 40.0, pytest.approx(40.0, abs=STEP_MA))]


def test_z_of_a_plan_moves_the_lens(core: UniMMCore, simulator: OptotuneSimulator) -> None:
    held: list[tuple[float, int]] = []

    def slot(_image: object, event: MDAEvent) -> None:
        held.append((event.z_pos or math.nan, simulator.driver.current_raw))

    core.mda.events.frameReady.connect(slot)
    core.setAutoShutter(False)  # there is no shutter, which the engine does not expect
    core.mda.run([MDAEvent(z_pos=z) for z in (10.0, -20.0, 30.0)])
    assert held == [(z, round(z / STEP_MA)) for z in (10.0, -20.0, 30.0)]


def test_two_lenses_keep_their_own_limits(no_leaks: None, tmp_path: Path) -> None:
    with OptotuneSimulator() as one, OptotuneSimulator() as other:
        with other.lock:
            other.driver._limits_raw = [0, 2048]
        ports: Callable[[str, str], str] = lambda label, port: (  # noqa: E731
            f"#py pyDevice,{label},livephase_devices.lens.optotune_stage,OptotuneStage\n"
            f"#py Property,{label},Port,{port}\n"
        )
        cfg = tmp_path / "two.cfg"
        cfg.write_text(ports("One", one.port) + ports("Other", other.port) + "Property,Core,Initialize,1\n")
        core = UniMMCore()
        core.loadSystemConfiguration(cfg)
        try:
            assert core.getPropertyLowerLimit("One", "Position") == -292.84
            assert core.getPropertyLowerLimit("Other", "Position") == 0.0
            core.setPosition("One", -10.0)
            core.setPosition("Other", 10.0)
            assert (one.driver.current_raw, other.driver.current_raw) == (-140, 140)
        finally:
            core.unloadAllDevices()
