"""Fixtures of the device tests: small microscopes on the real Micro-Manager core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
import tifffile

from livephase_devices import faults
from livephase_devices.config import MicroscopeConfig
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = """
Device,Camera,DemoCamera,DCam
Device,Z,DemoCamera,DStage
Property,Core,Initialize,1
Property,Camera,OnCameraCCDXSize,96
Property,Camera,OnCameraCCDYSize,80
Property,Camera,PixelType,8bit
Property,Camera,Exposure,1
"""
TWIN = """
#py pyDevice,Camera,livephase_devices.twin.camera,TwinCamera
#py pyDevice,Lens,livephase_devices.twin.lens,TwinLens
#py Property,Camera,OnCameraCCDXSize,96
#py Property,Camera,OnCameraCCDYSize,80
#py Property,Camera,StartTime-h,20
Property,Core,Initialize,1
#py Property,Camera,Exposure,5
"""
REPLAY = """
#py pyDevice,Camera,livephase_devices.replay,ReplayCamera
#py Property,Camera,Path,{path}
#py Property,Camera,BitDepth,12
Property,Core,Initialize,1
#py Property,Camera,Exposure,1
#py Property,Camera,Loop,1
"""
FAULTY = """
#py pyDevice,Camera,livephase_devices.faults,FaultyCamera
#py pyDevice,Lens,livephase_devices.faults,FaultyLens
Property,Core,Initialize,1
"""


class MakeConfig(Protocol):
    """Writes a cfg and returns the configuration that names it."""

    def __call__(self, cfg: str, **changes: Any) -> MicroscopeConfig:
        """Write ``cfg`` to a file; ``changes`` are fields of the configuration."""
        ...


@dataclass(frozen=True)
class Rig:
    """A microscope to test, and what is known of it; ``lens`` is the label of the device that moves."""

    config: MicroscopeConfig
    dtype: type[np.generic]
    bit_depth: int
    lens: str | None


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    def make(cfg: str, **changes: Any) -> MicroscopeConfig:
        path = tmp_path / "test.cfg"
        path.write_text(cfg, encoding="utf-8")
        values: dict[str, Any] = {
            "name": "test microscope",
            "cfg": path,
            "camera": "Camera",
            "wavelength_um": 0.55,
            "objective_na": 0.4,
            "coherence": 0.3,
            "lr_pixel_um": 2.6,
            "call_timeout_s": 30.0,
        }
        return MicroscopeConfig.model_validate({**values, **changes})

    return make


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Five frames of 12-bit noise, and the TIFF that holds them."""
    rng = np.random.default_rng(7)
    frames = rng.integers(0, 4096, (5, 80, 96)).astype(np.uint16)
    path = tmp_path / "recording.tif"
    tifffile.imwrite(path, frames, photometric="minisblack")
    return path, frames


@pytest.fixture(params=["demo", "demo, lens by property", "twin", "twin, lens by property", "replay"])
def rig(request: pytest.FixtureRequest, make_config: MakeConfig, recorded: tuple[Path, np.ndarray]) -> Rig:
    kind, _, by_property = request.param.partition(", ")
    if kind == "replay":
        return Rig(make_config(REPLAY.format(path=recorded[0])), np.uint16, 12, None)
    cfg, lens = (DEMO, "Z") if kind == "demo" else (TWIN, "Lens")
    return Rig(make_config(cfg, lens=f"{lens}.Position" if by_property else lens), np.uint8, 8, lens)


@pytest.fixture
def demo(make_config: MakeConfig, no_leaks: None) -> Iterator[Microscope]:
    with Microscope(make_config(DEMO, lens="Z")) as microscope:
        yield microscope


@pytest.fixture
def twin(make_config: MakeConfig, no_leaks: None) -> Iterator[Microscope]:
    recorded = ("Camera.SpecimenTime-s", "Camera.TrueDefocus-um")
    with Microscope(make_config(TWIN, lens="Lens", recorded_properties=recorded)) as microscope:
        yield microscope


@pytest.fixture
def faulty_lens() -> str:
    """The lens of ``faulty``; tests of lenses also run with a property."""
    return "Lens"


@pytest.fixture
def faulty(make_config: MakeConfig, faulty_lens: str, no_leaks: None) -> Iterator[Microscope]:
    """A microscope whose devices fail on command, with a short time-out; hangs are released at the end."""
    config = make_config(FAULTY, lens=faulty_lens, call_timeout_s=0.6, recorded_properties=("Camera.FrameNumber",))
    with Microscope(config) as microscope:
        yield microscope
        faults.release_hangs()


@pytest.fixture
def faulty_cfg() -> str:
    return FAULTY


@pytest.fixture
def demo_cfg() -> str:
    return DEMO


@pytest.fixture
def twin_cfg() -> str:
    return TWIN


@pytest.fixture
def replay_cfg() -> str:
    return REPLAY
