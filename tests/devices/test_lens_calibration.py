"""Lens calibrations as files, in the configuration and on the microscope; the simulated lens and drive behind them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from livephase_devices.config import MicroscopeConfig
from livephase_devices.errors import DeviceError, DeviceNotFoundError, MicroscopeConfigError, PropertyError
from livephase_devices.lens_calibration import ActiveCalibration, CalibrationPoint, LensCalibration
from livephase_devices.microscope import Microscope
from livephase_devices.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from devices.conftest import MakeConfig

RECORDED = ("Camera.TrueDefocus-um",)


def calibration(**changes: Any) -> LensCalibration:
    values: dict[str, Any] = {
        "date_utc": "2026-11-24T12:00:00.000000Z",
        "microscope": "test microscope",
        "lens": "Lens",
        "unit": "mA",
        "um_per_unit": 0.5,
        "um_per_unit_sd": 0.002,
        "focus_position": 3.0,
        "focus_position_sd": 0.2,
        "position_range": (-17.0, 19.0),
        "residual_rms_um": 0.02,
        "temperature_c": 26.5,
        "method": "z_drive",
        "kappa_per_rad": 0.01,
        "wavelength_um": 0.55,
        "objective_na": 0.4,
        "coherence": 0.3,
        "lr_pixel_um": 2.6,
        "points": (CalibrationPoint(position=3.0, defocus_um=0.0, residual_um=0.0),),
    }
    return LensCalibration.model_validate({**values, **changes})


@pytest.fixture
def bench(make_config: MakeConfig, twin_cfg: str, no_leaks: None) -> Iterator[Microscope]:
    """A twin with lens and focus drive."""
    cfg = twin_cfg.replace("Property,Core", "#py pyDevice,Drive,livephase_devices.twin.drive,TwinDrive\nProperty,Core")
    with Microscope(make_config(cfg, lens="Lens", z_drive="Drive", recorded_properties=RECORDED)) as microscope:
        yield microscope


def true_um(microscope: Microscope) -> float:
    return microscope.snap().properties["Camera.TrueDefocus-um"]


def write_toml(folder: Path, *lines: str) -> Path:
    path = folder / "microscope.toml"
    path.write_text(
        "\n".join(
            (
                '[microscope]\nname = "m"\ncfg = "twin.cfg"\ncamera = "Camera"\nlens = "Lens"',
                "wavelength_um = 0.55\nobjective_na = 0.4\ncoherence = 0.3\nlr_pixel_um = 2.6",
                *lines,
            )
        ),
        encoding="utf-8",
    )
    return path


# ---------------------------------------------------------------------------------------------- files


def test_a_file_is_known_by_its_hash(tmp_path: Path) -> None:
    saved = calibration().save(tmp_path / "lens.json")
    assert saved.file == "lens.json"
    assert saved.sha256 == hashlib.sha256((tmp_path / "lens.json").read_bytes()).hexdigest()
    assert ActiveCalibration.load(tmp_path / "lens.json") == saved
    assert [path.name for path in tmp_path.iterdir()] == ["lens.json"]


def test_the_range_follows_from_the_positions_in_both_directions() -> None:
    assert calibration().defocus_range_um == (-10.0, 8.0)
    assert calibration(um_per_unit=-0.5).defocus_range_um == (-8.0, 10.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no lens calibration"),
        ("[]", "is no lens calibration"),
        (calibration().to_json().decode().replace('"um_per_unit": 0.5', '"um_per_unit": 0'), "must not be 0"),
        (calibration().to_json().decode().replace('"unit": "mA",', ""), "unit: Field required"),
        (calibration().to_json().decode().replace("livephase lens calibration 1", "another 7"), "format"),
        (calibration().to_json().decode().replace('"coherence": 0.3', '"coherence": NaN'), "coherence"),
    ],
)
def test_a_wrong_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "lens.json").write_text(content, encoding="utf-8")
    with pytest.raises(MicroscopeConfigError, match=message) as caught:
        ActiveCalibration.load(tmp_path / "lens.json")
    assert "lens.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MicroscopeConfigError, match="cannot be written"):
        calibration().save(tmp_path / "nowhere" / "lens.json")


# ---------------------------------------------------------------------------------------------- configuration


def test_a_toml_names_its_calibration_beside_it(tmp_path: Path) -> None:
    saved = calibration().save(tmp_path / "lens.json")
    config = MicroscopeConfig.load(write_toml(tmp_path, 'lens_calibration = "lens.json"'))
    assert config.lens_calibration == saved
    assert (config.lens_um_per_unit, config.lens_focus_position, config.lens_unit) == (0.5, 3.0, "mA")
    assert config.position_of(2.0) == 7.0
    assert config.defocus_of(7.0) == 2.0
    assert config.uncalibrated_range_problem(8.0) is None
    problem = config.uncalibrated_range_problem(8.1)
    assert problem is not None
    assert "lens.json of 2026-11-24" in problem


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (('lens_calibration = "lens.json"', "lens_um_per_unit = 1.0"), "both lens_calibration and lens_um_per_unit"),
        (('lens_calibration = "lens.json"', "lens_focus_position = 0.0"), "both lens_calibration and lens_focus"),
        (('lens_calibration = "other.json"',), "other.json: this lens calibration cannot be read"),
        (("lens_calibration = 3",), "give the name of a file"),
        (("z_drive_um_per_unit = 0.0",), "must not be 0"),
        (('lens_temperature = "Temperature"',), "not of the form 'Device.Property'"),
    ],
)
def test_a_toml_that_contradicts_itself(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    calibration().save(tmp_path / "lens.json")
    with pytest.raises(MicroscopeConfigError, match=message):
        MicroscopeConfig.load(write_toml(tmp_path, *lines))


def test_the_calibration_of_another_lens_is_refused(tmp_path: Path) -> None:
    calibration(lens="ETL").save(tmp_path / "lens.json")
    with pytest.raises(MicroscopeConfigError, match="is of the lens 'ETL' of 'test microscope'"):
        MicroscopeConfig.load(write_toml(tmp_path, 'lens_calibration = "lens.json"'))


# ---------------------------------------------------------------------------------------------- microscope


def test_a_calibration_says_what_a_position_is(bench: Microscope, tmp_path: Path) -> None:
    bench.set_property("Lens", "TrueScale-um-per-unit", 0.5)
    bench.set_property("Lens", "TrueFocusPosition", 3.0)
    bench.set_defocus_um(4.0)
    assert true_um(bench) == 0.5, "uncalibrated, 4 is a position"
    bench.set_lens_calibration(calibration().save(tmp_path / "lens.json"))
    for defocus_um in (4.0, -10.0, 8.0):
        assert bench.set_defocus_um(defocus_um) == pytest.approx(defocus_um)
        frame = bench.snap()
        assert frame.properties["Camera.TrueDefocus-um"] == frame.defocus_um == pytest.approx(defocus_um)
    assert bench.state().defocus_limits_um == pytest.approx((-10.0, 8.0))
    with pytest.raises(PropertyError, match=r"outside the calibrated range of the lens, -10 to 8 um \(lens.json"):
        bench.set_defocus_um(8.2)
    assert Stage.lens(bench).position() == 19.0, "a refused position moves nothing"
    bench.set_lens_calibration(None)
    assert bench.set_defocus_um(8.2) == 8.2
    assert bench.state().defocus_limits_um == (-20.0, 20.0)


def test_the_range_is_also_that_of_the_lens(bench: Microscope, tmp_path: Path) -> None:
    wide = calibration(um_per_unit=1.0, focus_position=0.0, position_range=(-30.0, 5.0))
    bench.set_lens_calibration(wide.save(tmp_path / "lens.json"))
    assert bench.state().defocus_limits_um == (-20.0, 5.0)
    with pytest.raises(PropertyError, match="outside its range of -20 to 5 um"):
        bench.set_defocus_um(-25.0)


def test_stages_move_in_their_own_unit_and_within_their_limits(bench: Microscope) -> None:
    lens, drive = Stage.lens(bench), Stage.z_drive(bench)
    assert drive is not None
    assert lens.limits() == (-20.0, 20.0)
    assert drive.limits() == (-500.0, 500.0)
    lens.move(2.5)
    drive.move(-10.0)
    assert (lens.position(), drive.position()) == (2.5, -10.0)
    assert true_um(bench) == -7.5
    for stage, position in ((lens, 20.1), (drive, -501.0), (lens, float("nan"))):
        with pytest.raises(PropertyError, match="is outside"):
            stage.move(position)
    assert true_um(bench) == -7.5


def test_a_stage_that_does_not_arrive(faulty: Microscope) -> None:
    faulty.set_property("Lens", "Fault", "ignore")
    with pytest.raises(DeviceError, match="was sent to position 7 but reports 0"):
        Stage.lens(faulty).move(7.0)


def test_without_a_lens_there_is_none_to_calibrate(make_config: MakeConfig, demo_cfg: str) -> None:
    with Microscope(make_config(demo_cfg)) as microscope:
        assert Stage.z_drive(microscope) is None
        with pytest.raises(DeviceNotFoundError, match="has no lens"):
            Stage.lens(microscope)


# ---------------------------------------------------------------------------------------------- simulated devices


def test_the_drive_has_backlash_and_a_direction(bench: Microscope) -> None:
    drive = Stage.z_drive(bench)
    assert drive is not None
    bench.set_property("Drive", "Backlash-um", 2.0)
    seen: list[float] = []
    for position in (5.0, 4.0, 3.0, 2.0, 4.0, 5.0):
        drive.move(position)
        seen.append(true_um(bench))
    assert seen == [3.0, 3.0, 3.0, 2.0, 2.0, 3.0], "the play is taken up when the direction changes"
    bench.set_property("Drive", "Direction", -1)
    assert true_um(bench) == -3.0


def test_drift_can_be_set(bench: Microscope) -> None:
    bench.set_defocus_um(2.0)
    bench.set_property("Lens", "Drift-um", 1.25)
    frame = bench.snap()
    assert frame.defocus_um == 2.0
    assert frame.properties["Camera.TrueDefocus-um"] == 3.25


def test_the_range_of_the_lens_is_configured(make_config: MakeConfig, twin_cfg: str) -> None:
    cfg = twin_cfg.replace("Property,Core", "#py Property,Lens,Range,45\nProperty,Core")
    with Microscope(make_config(cfg, lens="Lens")) as microscope:
        assert microscope.state().defocus_limits_um == (-45.0, 45.0)
        assert microscope.set_defocus_um(-44.0) == -44.0


def test_dust_stays_where_it_is(bench: Microscope) -> None:
    bench.set_exposure_ms(20.0)
    clean = bench.snap().pixels.astype(float)
    bench.set_property("Camera", "Dust", 30)
    dusty = bench.snap().pixels.astype(float)
    bench.set_defocus_um(10.0)
    defocused = bench.snap().pixels.astype(float)
    dark = dusty < 0.8 * clean
    assert 20 < dark.sum() < 0.1 * dark.size
    assert (defocused[dark] < 0.9 * clean[dark]).mean() > 0.9
