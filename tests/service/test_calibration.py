"""The defocus calibration against what the simulated microscope really does, by real frames through the real core."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from livephase.acquisition.calibration import DefocusCalibration
from livephase.acquisition.calibration_plan import CalibrationCancelledError, CalibrationPlan, CalibrationProgress
from livephase.errors import FocusError, PlanError
from livephase_devices.config import MicroscopeConfig
from livephase_devices.errors import DeviceError
from livephase_devices.microscope import Microscope
from livephase_devices.stages import Stage
from livephase_devices.twin.lens import TwinLens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from livephase_devices.lens_calibration import LensCalibration

CFG = """
#py pyDevice,Camera,livephase_devices.twin.camera,TwinCamera
#py pyDevice,Lens,livephase_devices.twin.lens,TwinLens
#py pyDevice,Drive,livephase_devices.twin.drive,TwinDrive
#py Property,Camera,OnCameraCCDXSize,112
#py Property,Camera,OnCameraCCDYSize,112
#py Property,Camera,StartTime-h,20
#py Property,Camera,Seed,{seed}
Property,Core,Initialize,1
#py Property,Camera,Exposure,20
#py Property,Lens,SettlingTime-ms,0
#py Property,Lens,Temperature-C,31.5
"""
HOME = 1.0
QUICK = CalibrationPlan(from_position=-15.0, to_position=15.0, steps=3, search_um=8.0)


@dataclass(frozen=True)
class Truth:
    """What the simulated lens, drive and specimen are."""

    name: str
    scale: float = 1.0
    focus: float = 0.0
    stated: float = 1.0
    kappa: float = 0.01
    dust: int = 0
    backlash_um: float = 0.0
    seed: int = 1


def microscope_of(folder: Path, truth: Truth, **changes: object) -> Microscope:
    """Make the microscope; what it really is has to be set by ``hide``."""
    cfg = folder / "calibrate.cfg"
    cfg.write_text(CFG.format(seed=truth.seed), encoding="utf-8")
    values: dict[str, object] = {
        "name": "calibrated twin",
        "cfg": cfg,
        "camera": "Camera",
        "lens": "Lens",
        "z_drive": "Drive",
        "wavelength_um": 0.55,
        "objective_na": 0.4,
        "coherence": 0.3,
        "lr_pixel_um": 2.6,
        "lens_um_per_unit": truth.stated,
        "lens_unit": "mA",
        "lens_temperature": "Lens.Temperature-C",
        "recorded_properties": ("Camera.TrueDefocus-um",),
        "call_timeout_s": 60.0,
    }
    return Microscope(MicroscopeConfig.model_validate({**values, **changes}))


def hide(microscope: Microscope, truth: Truth) -> None:
    microscope.set_property("Lens", "TrueScale-um-per-unit", truth.scale)
    microscope.set_property("Lens", "TrueFocusPosition", truth.focus)
    microscope.set_property("Camera", "AbsorptionPerRad", truth.kappa)
    microscope.set_property("Camera", "Dust", truth.dust)
    microscope.set_property("Drive", "Backlash-um", truth.backlash_um)
    Stage.lens(microscope).move(HOME)


def at_home(microscope: Microscope) -> bool:
    drive = Stage.z_drive(microscope)
    assert drive is not None
    return (Stage.lens(microscope).position(), drive.position()) == (HOME, 0.0)


def ignore(_: CalibrationProgress) -> None:
    pass


@pytest.fixture
def twin(tmp_path: Path, no_leaks: None) -> Iterator[Microscope]:
    with microscope_of(tmp_path, Truth("plain")) as microscope:
        hide(microscope, Truth("plain"))
        yield microscope


@pytest.mark.parametrize(
    "truth",
    [
        Truth("scale and focus", scale=0.93, focus=2.4),
        Truth("stated scale far off, turned, absorbing", scale=-0.31, focus=-4.0, stated=1.6, kappa=0.05, seed=2),
        Truth("dust and backlash", scale=1.2, focus=-1.5, kappa=0.03, dust=15, backlash_um=3.0, seed=3),
    ],
    ids=lambda truth: truth.name,
)
def test_slope_and_focus_are_recovered(tmp_path: Path, truth: Truth, no_leaks: None) -> None:
    """Slope within 2 %, focus within 0.3 um of the truth."""
    told: list[CalibrationProgress] = []
    with microscope_of(tmp_path, truth) as microscope:
        hide(microscope, truth)
        made = DefocusCalibration(microscope, QUICK, told.append).run(time.time_ns())
        assert at_home(microscope)
        # The drive is left as a sweep approaches it, with its play taken up: that belongs to the focus.
        Stage.lens(microscope).move(made.focus_position)
        left_um = microscope.snap().properties["Camera.TrueDefocus-um"]
        microscope.set_lens_calibration(made.save(tmp_path / "lens.json"))
        microscope.set_defocus_um(3.0)
        true_um = microscope.snap().properties["Camera.TrueDefocus-um"]
    assert made.um_per_unit == pytest.approx(truth.scale, rel=0.02)
    assert abs(left_um) < 0.3
    assert true_um == pytest.approx(3.0, abs=0.35)
    assert abs(made.um_per_unit - truth.scale) < 4 * made.um_per_unit_sd
    assert made.focus_position_sd * abs(truth.scale) < 0.3
    assert made.position_range == (-15.0, 15.0)
    assert made.residual_rms_um < 0.15
    assert made.temperature_c == 31.5
    assert (made.method, made.unit, made.lens) == ("z_drive", "mA", "Lens")
    assert made.kappa_per_rad == pytest.approx(truth.kappa, abs=0.02)
    assert len(made.points) >= 4
    assert [one.exposures for one in told] == sorted(one.exposures for one in told)
    assert told[-1].exposures <= told[-1].expected


def test_the_focus_alone_is_found_without_a_drive(tmp_path: Path, no_leaks: None) -> None:
    truth = Truth("focus only", scale=0.5, focus=4.0, stated=0.5, kappa=0.03)
    with microscope_of(tmp_path, truth, z_drive=None) as microscope:
        hide(microscope, truth)
        made = DefocusCalibration(microscope, CalibrationPlan(search_um=9.0), ignore).run(time.time_ns())
        assert Stage.lens(microscope).position() == HOME
    assert made.method == "stated"
    assert made.um_per_unit == 0.5
    assert (made.focus_position - truth.focus) * 0.5 == pytest.approx(0.0, abs=0.3)
    turned = Truth("turned", scale=0.5, focus=4.0, stated=-0.5)
    with microscope_of(tmp_path, turned, z_drive=None) as microscope:
        hide(microscope, turned)
        with pytest.raises(FocusError, match=r"set lens_um_per_unit in the TOML to 0\.5"):
            DefocusCalibration(microscope, CalibrationPlan(search_um=9.0), ignore).run(time.time_ns())


def test_a_drive_whose_sign_is_wrong_is_noticed(twin: Microscope) -> None:
    twin.set_property("Drive", "Direction", -1)
    with pytest.raises(FocusError, match="set z_drive_um_per_unit in the TOML to -1"):
        DefocusCalibration(twin, QUICK, ignore).run(time.time_ns())
    assert at_home(twin)


def interrupted(microscope: Microscope, at_exposure: int, act: Callable[[DefocusCalibration], None]) -> LensCalibration:
    def progressed(progress: CalibrationProgress) -> None:
        if progress.exposures == at_exposure:
            act(calibration)

    calibration = DefocusCalibration(microscope, QUICK, progressed)
    return calibration.run(time.time_ns())


def test_cancelling_sends_lens_and_drive_home(twin: Microscope) -> None:
    with pytest.raises(CalibrationCancelledError):
        interrupted(twin, 20, lambda calibration: calibration.stop())
    assert at_home(twin)


def test_a_field_without_light_sends_them_home(twin: Microscope) -> None:
    with pytest.raises(FocusError, match="cannot be measured"):
        interrupted(twin, 3, lambda _: twin.set_exposure_ms(0.05))
    assert at_home(twin)


def test_an_overexposed_field_is_refused(twin: Microscope) -> None:
    twin.set_exposure_ms(80.0)
    with pytest.raises(FocusError, match="overexposed; lower the exposure"):
        DefocusCalibration(twin, QUICK, ignore).run(time.time_ns())
    assert at_home(twin)


def test_a_lens_that_fails_once_is_sent_home(twin: Microscope, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = TwinLens.set_position_um
    calls: list[float] = []

    def fail_at_the_second(lens: TwinLens, val: float) -> None:
        calls.append(val)
        if len(calls) == 2:
            raise RuntimeError("the lens driver reports error 42")
        moved(lens, val)

    monkeypatch.setattr(TwinLens, "set_position_um", fail_at_the_second)
    with pytest.raises(DeviceError, match="error 42"):
        DefocusCalibration(twin, QUICK, ignore).run(time.time_ns())
    assert at_home(twin)
    assert all(-20 <= position <= 20 for position in calls)


def test_a_drive_at_the_end_of_its_range_leaves_no_room(twin: Microscope) -> None:
    drive = Stage.z_drive(twin)
    assert drive is not None
    drive.move(500.0)
    Stage.lens(twin).move(-15.0)
    plan = QUICK.model_copy(update={"search_um": 6.0})
    with pytest.raises(FocusError, match=r"leave room|frames lie within|shows too little|not certain"):
        DefocusCalibration(twin, plan, ignore).run(time.time_ns())
    assert drive.position() == 500.0
    assert Stage.lens(twin).position() == -15.0


def test_plans_that_do_not_fit(tmp_path: Path, twin: Microscope) -> None:
    for low, high in ((-25.0, 5.0), (5.0, 5.0), (6.0, -6.0)):
        with pytest.raises(PlanError, match="they must rise within the limits of the lens, -20 to 20"):
            DefocusCalibration(twin, CalibrationPlan(from_position=low, to_position=high), ignore)
    with (
        microscope_of(tmp_path, Truth("no drive"), z_drive=None) as microscope,
        pytest.raises(PlanError, match="has no focus drive"),
    ):
        DefocusCalibration(microscope, CalibrationPlan(slope="z_drive"), ignore)
