"""A device that hangs while it is loaded, or later: the process says which one, and ends."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServiceProcess

END_S = 60.0
CFG = """
#py pyDevice,Camera,livephase_devices.faults,FaultyCamera
#py pyDevice,Lens,livephase_devices.faults,FaultyLens
{fault}
Property,Core,Initialize,1
"""
TOML = """
[microscope]
name = "faulty"
cfg = "faulty.cfg"
camera = "Camera"
lens = "Lens"
wavelength_um = 0.55
objective_na = 0.4
coherence = 0.3
lr_pixel_um = 2.6
call_timeout_s = 0.5
[service]
port = 0
data = "data"
[model]
path = {model!r}
runtime = "torch-cpu"
[live]
on_start = true
defocus_um = 6.0
"""


def write(folder: Path, model: Path, *lines: str) -> Path:
    """Write the configuration of a service on faulty devices."""
    fault = "\n".join(f"#py Property,{line}" for line in lines)
    (folder / "faulty.cfg").write_text(CFG.format(fault=fault), encoding="utf-8")
    toml = folder / "faulty.toml"
    toml.write_text(TOML.format(model=str(model)), encoding="utf-8")
    return toml


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("Camera,InitFault,hang",), "Camera: did not answer within 6 s (initialise)"),
        # the first call after its initialisation asks whether it rests
        (("Lens,EventFault,hang", "Lens,EventFaultAt,1"), "Lens: did not answer within 6 s (wait until it rests)"),
    ],
    ids=["initialise", "busy"],
)
def test_a_service_whose_device_hangs_at_the_start_ends(
    livephase_command: str, untrained_model: Path, tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    """Python would wait for the threads on which pymmcore-plus initialises devices and waits for them."""
    toml = write(tmp_path, untrained_model, *lines)
    command = [livephase_command, "serve", "--config", str(toml)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_S, check=False)
    assert done.returncode == 1, done.stderr
    assert f"livephase: {message}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_whose_camera_hangs_stops_when_told(
    serve_toml: Callable[[Path], ServiceProcess], untrained_model: Path, tmp_path: Path
) -> None:
    service = serve_toml(write(tmp_path, untrained_model, "Camera,Fault,hang", "Camera,FaultFrom,2"))
    live = service.wait("/microscope", lambda seen: seen["live"]["fault"] is not None, "the fault")["live"]
    assert live["fault"].startswith("Camera: ")
    assert service.stop() == 0
    assert "Camera: could not be unloaded within 1 s" in service.errors
