"""A process that has devices loaded ends with its own exit code, and never with an abort of the core.

A bare core that dies with devices loaded and a sequence running ends in "FATAL: exception not rethrown" (SIGABRT).
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from devices.conftest import MakeConfig

PRELUDE = """
import sys, threading, time
from pathlib import Path
from livephase_devices.config import MicroscopeConfig
from livephase_devices.errors import LivephaseError
from livephase_devices.microscope import Microscope
microscope = Microscope(MicroscopeConfig.model_validate_json(sys.argv[1]))
"""
ENDINGS = {
    "end of the script": ("", 0),
    "error": ("raise ValueError('on purpose')", 1),
    "exit code": ("sys.exit(3)", 3),
    "error in a thread of its own": (
        "t = threading.Thread(target=lambda: microscope.snap() and 1 / 0); t.start(); t.join()",
        0,
    ),
    "still running consumer": (
        "threading.Thread(target=lambda: [microscope.next_frame(5) for _ in range(10**9)], daemon=True).start()",
        0,
    ),
}


def run(script: str, config: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-c", PRELUDE + script, config]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("ending", "kind"), [*((ending, "demo") for ending in ENDINGS), ("end of the script", "twin"), ("error", "twin")]
)
def test_devices_left_loaded(ending: str, kind: str, make_config: MakeConfig, demo_cfg: str, twin_cfg: str) -> None:
    cfg = demo_cfg if kind == "demo" else twin_cfg
    config = make_config(cfg, lens="Z" if kind == "demo" else "Lens").model_dump_json()
    script, code = ENDINGS[ending]
    sequence = "" if "thread" in ending else "microscope.start_sequence(); microscope.next_frame(20)\n"
    done = run(f"microscope.open()\nmicroscope.set_defocus_um(2.0)\n{sequence}{script}", config)
    assert done.returncode == code, done.stderr
    assert "FATAL" not in done.stderr
    assert "Fatal Python error" not in done.stderr
    if ending == "end of the script":
        assert done.stderr == ""


def test_a_hung_device_does_not_keep_the_process(make_config: MakeConfig, faulty_cfg: str) -> None:
    config = make_config(faulty_cfg, lens="Lens", call_timeout_s=1.0).model_dump_json()
    script = """
microscope.open()
microscope.set_property("Camera", "Fault", "hang")
try:
    microscope.snap()
except LivephaseError as error:
    sys.exit(str(error))
"""
    done = run(script, config)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Camera: did not answer within 1 s (snap)")
    assert "FATAL" not in done.stderr


def test_a_wrong_configuration_ends_in_one_line(make_config: MakeConfig, demo_cfg: str) -> None:
    config = make_config(demo_cfg.replace("DCam", "NoSuchCamera")).model_dump_json()
    script = "try:\n    microscope.open()\nexcept LivephaseError as error:\n    sys.exit(str(error))\n"
    done = run(script, config)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "NoSuchCamera" in done.stderr
