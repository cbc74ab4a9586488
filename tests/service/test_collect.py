"""Pairs from a microscope: labels and inputs against the simulated microscope's truth, the folder, and failures."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from livephase.errors import ConfigurationError
from livephase.training.collected import load_collected, load_objects, read_dataset
from livephase.training.collection import Collector, CollectPlan, solve_label
from livephase.training.experimental import experimental_set
from livephase_devices.config import MicroscopeConfig
from livephase_devices.errors import DeviceError
from livephase_devices.microscope import Microscope
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity
from livephase_devices.twin.world import truth_phase_rad

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIDE = 400
RIM = 64
"""The simulated light is periodic over the sensor. A region of interest inside it has a border like a real one."""
BORDER = 32
_TWIN = """
#py pyDevice,Camera,livephase_devices.twin.camera,TwinCamera
#py pyDevice,Lens,livephase_devices.twin.lens,TwinLens
#py Property,Camera,OnCameraCCDXSize,{side}
#py Property,Camera,OnCameraCCDYSize,{side}
#py Property,Camera,HRPixel-um,0.1625
#py Property,Camera,StartTime-h,30
Property,Core,Initialize,1
#py Property,Camera,Coherence,0.3
#py Property,Camera,AbsorptionPerRad,0.01
#py Property,Camera,PixelType,12bit
#py Property,Camera,Exposure,20
"""


def _config(folder: Path, side: int, **changes: Any) -> MicroscopeConfig:
    cfg = folder / "twin.cfg"
    cfg.write_text(_TWIN.format(side=side), encoding="utf-8")
    values: dict[str, Any] = {
        "name": "high-resolution twin",
        "cfg": cfg,
        "camera": "Camera",
        "lens": "Lens",
        "wavelength_um": 0.55,
        "objective_na": 0.4,
        "coherence": 0.3,
        "lr_pixel_um": 0.65,
        "recorded_properties": ("Camera.SpecimenTime-s", "Camera.TrueDefocus-um"),
        "call_timeout_s": 60.0,
    }
    return MicroscopeConfig.model_validate({**values, **changes})


def _ignore(_: int) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collect one field of the simulated microscope."""
    folder = tmp_path_factory.mktemp("collect")
    plan = CollectPlan((-2.0, 0.0, 2.0), (3.0, 6.0), average=16, fields=1, border_um=20.0)
    counts: list[int] = []
    with Microscope(_config(folder, SIDE)) as microscope:
        microscope.set_roi((RIM, RIM, SIDE - 2 * RIM, SIDE - 2 * RIM))
        Collector(microscope, plan, folder / "pairs", counts.append).run(_ignore)
        assert microscope.state().defocus_um == 0.0  # where it was
    assert counts == list(range(1, plan.exposures + 1))
    return folder / "pairs"


@pytest.fixture(scope="module")
def fine_truth() -> np.ndarray:
    return truth_phase_rad(30 * 3600.0, sensor_shape=(SIDE, SIDE), hr_pixel_um=0.1625)


def _cut(image: np.ndarray, border: int) -> np.ndarray:
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def test_the_label_is_the_true_phase(dataset: Path, fine_truth: np.ndarray) -> None:
    pair = load_collected(dataset)[0]
    truth = _cut(bin_pixels(fine_truth, 4), RIM + BORDER)
    assert pair.phase_rad.shape == truth.shape
    truth, label = _cut(truth, 32).ravel(), _cut(pair.phase_rad, 32).ravel()  # 40 um from the border in all
    assert truth.std() > 0.1
    correlation = np.corrcoef(truth, label)[0, 1]
    slope = np.polyfit(truth, label, 1)[0]
    assert correlation > 0.9
    assert 0.85 < slope < 1.1


def test_the_input_is_what_the_forward_model_says(dataset: Path, fine_truth: np.ndarray) -> None:
    setup = OpticalSetup(0.55, 0.4, 0.3, 0.1625, 16)
    near, pair = load_collected(dataset)
    assert (near.defocus_um, pair.defocus_um) == (3, 6)
    assert near.intensity.std() < pair.intensity.std()
    assert pair.intensity.dtype == np.float32
    expected = _cut(bin_pixels(intensity(fine_truth, setup, 6.0, 0.01), 16), (RIM + BORDER) // 4)
    assert pair.intensity.shape == expected.shape == tuple(side // 4 for side in pair.phase_rad.shape)
    residual = pair.intensity - expected / expected.mean()
    # One exposure of 12,000 electrons a pixel, 16 pixels binned, is 0.0023; the flat field adds its error.
    assert residual.std() < 0.006
    assert np.corrcoef(pair.intensity.ravel(), expected.ravel())[0, 1] > 0.97


def test_the_folder_says_where_it_comes_from(dataset: Path) -> None:
    content = read_dataset(dataset)
    assert content.microscope["name"] == "high-resolution twin"
    assert content.devices["Camera.AbsorptionPerRad"] == 0.01
    assert content.optics.hr_pixel_um == 0.65
    assert content.fields[0].properties["Camera.SpecimenTime-s"] == 30 * 3600
    assert content.fields[0].saturated_fraction <= 1e-3
    assert content.border_px == BORDER
    pair = load_collected(dataset)[0]
    assert (pair.lr_pixel_um, pair.wavelength_um, pair.coherence) == (2.6, 0.55, 0.3)
    with np.load(dataset / "field-0000.npz") as archive:
        np.testing.assert_array_equal(archive["plane_um"], [-2, 0, 2])
        np.testing.assert_array_equal(
            archive["label_rad"], solve_label(archive["stack"], archive["plane_um"], 0.65, 0.55)
        )
    assert sorted(path.name for path in dataset.iterdir()) == ["dataset.json", "field-0000.npz"]


def test_patches_can_be_cut_from_it(dataset: Path) -> None:
    pair = load_collected(dataset)[1]
    made = experimental_set([replace(pair, name=name) for name in "abc"], "field", patch_lr_px=32, counts=(20, 2, 4))
    assert made.train.intensity.shape == (20, 32, 32)
    assert made.train.phase_rad.shape == (20, 128, 128)
    row, column = made.test.corner_px[0] // 4
    np.testing.assert_array_equal(made.test.intensity[0], pair.intensity[row : row + 32, column : column + 32])


def test_fields_are_objects_that_training_can_image_at_any_defocus(dataset: Path) -> None:
    objects = load_objects(dataset)
    pairs = load_collected(dataset)
    assert len(objects) == len({pair.name for pair in pairs})
    for one in objects:
        assert one.amplitude.shape == one.phase_rad.shape == one.valid.shape
        assert one.frames.shape[1:] == tuple(side // 4 for side in one.phase_rad.shape)
        assert float(one.amplitude.mean()) == pytest.approx(1, abs=0.05)
        assert float(np.percentile(one.phase_rad, 5)) == pytest.approx(0, abs=1e-3)


def test_a_changed_or_missing_file_is_refused(dataset: Path, tmp_path: Path) -> None:
    for path in dataset.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "field-0000.npz").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x00\x01\x02\x03")
    with pytest.raises(ConfigurationError, match="SHA-256 differs"):
        load_collected(tmp_path)
    (tmp_path / "field-0000.npz").unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_collected(tmp_path)
    (tmp_path / "dataset.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"dataset\.json: "):
        load_collected(tmp_path)
    with pytest.raises(ConfigurationError, match="is no collected dataset"):
        load_collected(tmp_path / "nothing")


@pytest.fixture
def small(tmp_path: Path, no_leaks: None) -> Iterator[Microscope]:
    with Microscope(_config(tmp_path, 128, coherence=0.3)) as microscope:
        microscope.set_property("Camera", "Coherence", 0.0)
        yield microscope


SHORT = CollectPlan((0.0, 2.0), (4.0,), average=1, fields=2, border_um=0.0)


def test_a_saturated_frame_ends_it_and_complete_fields_stay(small: Microscope, tmp_path: Path) -> None:
    small.set_defocus_um(5.0)
    out = tmp_path / "pairs"

    def brighter(index: int) -> None:
        small.set_exposure_ms(20.0 if index == 0 else 80.0)

    with pytest.raises(ConfigurationError, match=r"% of the frame at defocus 0 um is saturated; lower the exposure"):
        Collector(small, SHORT, out, _ignore).run(brighter)
    assert len(load_collected(out)) == 1
    assert small.state().defocus_um == 5.0


def test_a_dark_frame_is_refused(small: Microscope, tmp_path: Path) -> None:
    small.set_exposure_ms(0.1)
    with pytest.raises(ConfigurationError, match="is dark"):
        Collector(small, SHORT, tmp_path / "pairs", _ignore).run(_ignore)
    with pytest.raises(ConfigurationError, match="holds no complete field"):
        load_collected(tmp_path / "pairs")


def test_what_cannot_be_collected_is_said_before_it_starts(small: Microscope, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    far = CollectPlan((0.0, 2.0), (40.0,), average=1, fields=1, border_um=0.0)
    with pytest.raises(ConfigurationError, match="Lens reaches -20 to 20 um, not 40 um"):
        Collector(small, far, out, _ignore)
    wide = CollectPlan((0.0, 2.0), (4.0,), average=1, fields=1, border_um=40.0)
    with pytest.raises(ConfigurationError, match="smaller --border-um"):
        Collector(small, wide, out, _ignore)
    with pytest.raises(ConfigurationError, match="is not an empty folder"):
        Collector(small, SHORT, tmp_path, _ignore)
    assert not out.exists()


def test_no_lens_is_an_error(tmp_path: Path, no_leaks: None) -> None:
    with Microscope(_config(tmp_path, 128, lens=None)) as microscope:
        with pytest.raises(ConfigurationError, match="has no lens"):
            Collector(microscope, SHORT, tmp_path / "pairs", _ignore)


def test_a_lens_that_fails_is_named(tmp_path: Path, no_leaks: None) -> None:
    config = _config(tmp_path, 128)
    config.cfg.write_text(config.cfg.read_text().replace("twin.lens,TwinLens", "faults,FaultyLens"))
    with Microscope(config) as microscope:

        def break_it(index: int) -> None:
            if index == 1:
                microscope.set_property("Lens", "Fault", "raise")

        with pytest.raises(DeviceError, match="Lens"):
            Collector(microscope, SHORT, tmp_path / "pairs", _ignore).run(break_it)
    assert len(read_dataset(tmp_path / "pairs").fields) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"planes_um": (1.0, 2.0)}, "needs the plane 0"),
        ({"planes_um": (0.0,)}, "at least one other"),
        ({"planes_um": (0.0, 2.0, 2.0)}, "each once"),
        ({"defocus_um": ()}, "at least one training defocus"),
        ({"defocus_um": (0.0,)}, "none of them 0"),
        ({"average": 0}, "must be 1 or more"),
    ],
)
def test_a_wrong_plan_is_refused(values: dict[str, Any], message: str) -> None:
    plan: dict[str, Any] = {"planes_um": (0.0, 2.0), "defocus_um": (4.0,), "average": 1, "fields": 1}
    with pytest.raises(ConfigurationError, match=message):
        CollectPlan(**{**plan, **values})


def _run(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from livephase.cli import main; main()", "collect", *arguments]
    return subprocess.run(command, input=answer, capture_output=True, text=True, timeout=200, check=False)


def test_the_command(tmp_path: Path) -> None:
    config = _config(tmp_path, 128)
    toml = tmp_path / "scope.toml"
    toml.write_text(
        '[microscope]\nname = "small"\ncfg = "twin.cfg"\ncamera = "Camera"\nlens = "Lens"\nwavelength_um = 0.55\n'
        "objective_na = 0.4\ncoherence = 0.3\nlr_pixel_um = 0.65\ncall_timeout_s = 60.0\n",
        encoding="utf-8",
    )
    assert config.cfg.parent == tmp_path
    out = tmp_path / "pairs"
    given = ["--config", str(toml), "--fields", "2", "--average", "2", "--border-um", "0", "--defocus-um", "3,6"]
    done = _run(str(out), *given, "--planes-um", "-2,0,2", "--ask", answer="\n\n")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 fields, 4 pairs" in done.stdout
    assert [pair.defocus_um for pair in load_collected(out)] == [3, 6, 3, 6]
    wrong = _run(str(tmp_path / "other"), *given, "--planes-um", "two")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == [
        "livephase: --planes-um 'two': give numbers with commas between them, such as 3,6,9"
    ]


def test_the_bundled_configuration_has_a_high_resolution_camera() -> None:
    config = MicroscopeConfig.load("twin-highres.toml")
    assert config.lr_pixel_um == 0.65
    assert "HRPixel-um,0.1625" in config.cfg.read_text(encoding="utf-8")
