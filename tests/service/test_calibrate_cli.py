"""``livephase calibrate`` as a user meets it: a file, a plot, the line for the TOML, one line for a mistake."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import matplotlib.image
import pytest

from livephase_devices.config import MicroscopeConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def cli(livephase_command: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [livephase_command, "calibrate", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=250,
            cwd=tmp_path,
        )

    return run


def test_a_calibration_is_made_and_used(
    cli: Callable[..., subprocess.CompletedProcess[str]], twin_toml: Path, tmp_path: Path
) -> None:
    cfg = tmp_path / "small.cfg"
    text = cfg.read_text(encoding="utf-8").replace("Speedup,60", "Speedup,0").replace("CCDXSize,96", "CCDXSize,112")
    text = text.replace("CCDYSize,64", "CCDYSize,112")
    text += "#py Property,Lens,TrueScale-um-per-unit,0.8\n#py Property,Lens,TrueFocusPosition,-1\n"
    cfg.write_text(text, encoding="utf-8")
    toml = twin_toml.read_text(encoding="utf-8").replace('lens = "Lens"', 'lens = "Lens"\nlens_unit = "mA"')
    twin_toml.write_text(toml, encoding="utf-8")
    options = ("--config", twin_toml, "--out", "lens.json", "--search-um", "8")
    # Without a drive the scale of 1 um per mA is taken as stated, and the focus is found nevertheless.
    done = cli(*options)
    assert done.returncode == 0, done.stderr
    with_drive = toml.replace('lens = "Lens"', 'lens = "Lens"\nz_drive = "Drive"')
    twin_toml.write_text(with_drive, encoding="utf-8")
    done = cli(*options, "--from", "-12", "--to", "12", "--steps", "3")
    assert done.returncode == 0, done.stderr
    assert "calibrating" in done.stderr
    assert "um of defocus for each mA" in done.stdout
    line = done.stdout.strip().splitlines()[-1]
    assert line == 'lens_calibration = "lens.json"'
    picture = matplotlib.image.imread(tmp_path / "lens.png")
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05, "the plot is not empty"
    twin_toml.write_text(with_drive.replace('camera = "Camera"', f'camera = "Camera"\n{line}'), encoding="utf-8")
    active = MicroscopeConfig.load(twin_toml).lens_calibration
    assert active is not None
    assert active.calibration.um_per_unit == pytest.approx(0.8, rel=0.02)
    assert (active.calibration.focus_position + 1) * 0.8 == pytest.approx(0.0, abs=0.3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--out", "lens.txt"), "ends in .json"),
        (("--out", "nowhere/lens.json"), "its folder does not exist"),
        (("--out", "lens.json", "--from", "5", "--to", "1"), "they must rise"),
        (("--out", "lens.json", "--slope", "z_drive"), "has no focus drive"),
        (("--out", "lens.json", "--steps", "2"), "steps"),
    ],
)
def test_a_mistake_is_one_line(
    cli: Callable[..., subprocess.CompletedProcess[str]],
    twin_toml: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    words: str,
) -> None:
    done = cli("--config", twin_toml, *options)
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.strip().splitlines() if line.startswith("livephase: ")]
    assert len(errors) == 1, done.stderr
    assert words in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "lens.json").exists()
