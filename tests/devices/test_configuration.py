"""Wrong microscope files end in one clear line that names the file and says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from livephase_devices.config import CONFIG_FOLDER, MicroscopeConfig, bundled_names
from livephase_devices.errors import (
    DeviceError,
    DeviceNotFoundError,
    LivephaseError,
    MicroscopeConfigError,
    PropertyError,
)
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from pathlib import Path

    from devices.conftest import MakeConfig

GOOD = """
[microscope]
name = "m"
cfg = "demo.cfg"
camera = "Camera"
wavelength_um = 0.55
objective_na = 0.4
coherence = 0.3
lr_pixel_um = 2.6

[service]
port = 1
"""


def load(tmp_path: Path, text: str) -> MicroscopeConfig:
    path = tmp_path / "microscope.toml"
    path.write_text(text, encoding="utf-8")
    return MicroscopeConfig.load(path)


def test_bundled_configurations_are_complete() -> None:
    assert bundled_names(".toml") == [
        "demo.toml",
        "optotune.toml",
        "replay.toml",
        "twin-40x.toml",
        "twin-highres.toml",
        "twin.toml",
    ]
    for name in bundled_names(".toml"):
        config = MicroscopeConfig.load(name)
        assert config.cfg.is_file()
        assert config.cfg.is_absolute()


def test_cfg_beside_the_toml_comes_before_the_bundled_one(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).cfg == CONFIG_FOLDER / "demo.cfg"
    (tmp_path / "demo.cfg").write_text("", encoding="utf-8")
    assert load(tmp_path, GOOD).cfg == (tmp_path / "demo.cfg").resolve()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("coherence = 0.3", "", "key 'coherence' is missing"),
        ("coherence", "coherrence", "unknown key 'coherrence'; known keys: name, cfg, camera"),
        ("demo.cfg", "nowhere.cfg", "no such Micro-Manager configuration beside this file"),
        ("[microscope]", "[microscop]", "has no table"),
        ("0.55", "-1", "wavelength_um = -1: Input should be greater than 0"),
        ("0.55", "nan", "wavelength_um = nan"),
        ("0.55", "'green'", "wavelength_um = 'green'"),
        ("0.55", "", "is not valid TOML"),
        ("lr_pixel", "lens_um_per_unit = 0.0\nlr_pixel", "must not be 0"),
        ("lr_pixel", "recorded_properties = ['Exposure']\nlr_pixel", "not of the form 'Device.Property'"),
    ],
)
def test_a_wrong_toml(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(MicroscopeConfigError) as caught:
        load(tmp_path, GOOD.replace(old, new))
    text = str(caught.value)
    assert message in text
    assert text.startswith(str(tmp_path / "microscope.toml"))
    assert "\n" not in text


def test_a_missing_toml(tmp_path: Path) -> None:
    with pytest.raises(MicroscopeConfigError, match="does not exist; give a microscope TOML, or one of the bundled"):
        MicroscopeConfig.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("old", "new", "changes", "kind", "message"),
    [
        ("", "", {"camera": "Cam"}, DeviceNotFoundError, r"^Cam: the role camera .* in it: Camera\)"),
        ("", "", {"lens": "Camera"}, DeviceError, r"^Camera: has the role lens but is of type Camera"),
        ("", "", {"camera": "Z"}, DeviceError, r"^Z: has the role camera but is of type Stage"),
        ("", "", {"xy_stage": "Z"}, DeviceError, r"^Z: has the role xy_stage"),
        ("", "", {"recorded_properties": ("Camera.No",)}, PropertyError, r"^Camera: has no property 'No'"),
        ("", "", {"recorded_properties": ("Camera.PixelType",)}, PropertyError, "only numbers can be recorded"),
        ("DCam", "NoCam", {}, MicroscopeConfigError, r"test.cfg: line 2 'Device,Camera.*DemoCamera.*NoCam"),
        ("DemoCamera,DCam", "Nothing,DCam", {}, MicroscopeConfigError, r"line 2 .*Nothing"),
        ("CCDXSize", "CCDXSizes", {}, MicroscopeConfigError, r"line 5 .*CCDXSizes"),
        ("PixelType,8bit", "PixelType,32bitRGB", {}, DeviceError, r"^Camera: delivers 4 component"),
    ],
)
def test_a_configuration_that_does_not_fit(
    make_config: MakeConfig,
    demo_cfg: str,
    no_leaks: None,
    old: str,
    new: str,
    changes: dict[str, object],
    kind: type[LivephaseError],
    message: str,
) -> None:
    microscope = Microscope(make_config(demo_cfg.replace(old, new), **changes))
    with pytest.raises(kind, match=message) as caught:
        microscope.open()
    assert "\n" not in str(caught.value)
    assert not microscope.state().is_open


def test_devices_that_nobody_initialises(make_config: MakeConfig, demo_cfg: str, faulty_cfg: str) -> None:
    for cfg in (demo_cfg, faulty_cfg):
        devices = "\n".join(line for line in cfg.splitlines() if "evice," in line)
        with pytest.raises(DeviceError, match=r"nitialized.*'Property,Core,Initialize,1'"):
            Microscope(make_config(devices)).open()


def test_a_missing_cfg(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("").model_copy(update={"cfg": tmp_path / "nowhere.cfg"})
    microscope = Microscope(config)
    with pytest.raises(MicroscopeConfigError, match=r"nowhere.cfg: this Micro-Manager configuration does not exist"):
        microscope.open()


def test_a_python_module_that_does_not_exist(make_config: MakeConfig, twin_cfg: str) -> None:
    microscope = Microscope(make_config(twin_cfg.replace("twin.camera", "twin.kamera")))
    with pytest.raises(MicroscopeConfigError, match=r"line 2 .*kamera") as caught:
        microscope.open()
    assert "\n" not in str(caught.value)


def _in_clean_environment(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    keep = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP", "TMP") if name in os.environ}
    environment = {**keep, "HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_adapters_are_found_in_a_clean_environment(tmp_path: Path) -> None:
    code = (
        "from pymmcore_plus import find_micromanager; from pathlib import Path\n"
        "folder = find_micromanager()\n"
        "assert folder, 'no Micro-Manager device adapters: pip install mm-test-adapters'\n"
        "assert list(Path(folder).glob('*mmgr_dal_DemoCamera*')), folder\n"
    )
    done = _in_clean_environment(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_missing_adapters_are_named_and_python_devices_work_without(tmp_path: Path, twin_cfg: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "twin.cfg").write_text(twin_cfg, encoding="utf-8")
    code = f"""
from pathlib import Path
from livephase_devices.config import MicroscopeConfig
from livephase_devices.errors import LivephaseError
from livephase_devices.microscope import Microscope
config = MicroscopeConfig.load("demo.toml")
try:
    Microscope(config).open()
except LivephaseError as error:
    print(error)
twin = config.model_copy(update={{"cfg": Path({str(tmp_path / "twin.cfg")!r}), "lens": "Lens"}})
with Microscope(twin) as microscope:
    print(microscope.snap().pixels.shape)
"""
    done = _in_clean_environment(code, tmp_path, MICROMANAGER_PATH=str(empty))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.strip().splitlines()
    assert "needs Micro-Manager device adapters and none are installed" in first
    assert "pip install mm-test-adapters" in first
    assert second == "(80, 96)"
