"""What the doctor finds, on real libraries, child processes and a pseudo-terminal; it leaves nothing running."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from livephase import cli
from livephase.clock import UtcAnchor
from livephase.config import ServiceConfig
from livephase.doctor import adapters, computer, examine, ports, process
from livephase.doctor.adapters import check_adapters, needed_by
from livephase.doctor.child import adapter_name, probe_port
from livephase.doctor.computer import check_clock, check_disk
from livephase.doctor.microscope import check_microscope, check_models
from livephase.doctor.process import ChildDiedError, results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from livephase.doctor.finding import Finding

pytestmark = pytest.mark.usefixtures("no_leaks")

ADAPTER = """
#include <stdlib.h>
#include <unistd.h>
#ifdef BAD
__attribute__((constructor)) static void bad(void) { BAD; }
#endif
long GetModuleVersion(void) { return 10; }
long GetDeviceInterfaceVersion(void) { return INTERFACE; }
unsigned GetNumberOfDevices(void) { return 0; }
void InitializeModuleData(void) {}
void *CreateDevice(const char *name) { return 0; }
void DeleteDevice(void *device) {}
_Bool GetDeviceName(unsigned index, char *name, unsigned size) { return 0; }
_Bool GetDeviceType(const char *name, int *type) { return 0; }
_Bool GetDeviceDescription(const char *name, char *text, unsigned size) { return 0; }
"""
TOML = """
[microscope]
name = "test microscope"
cfg = "test.cfg"
camera = "Camera"
lens = "Lens.Current-mA"
wavelength_um = 0.55
objective_na = 0.4
coherence = 0.3
lr_pixel_um = 2.6
call_timeout_s = 1.0
[live]
defocus_um = 6.0
"""
FAULTY = """
#py pyDevice,Camera,livephase_devices.faults,FaultyCamera
#py pyDevice,Lens,livephase_devices.faults,FaultyLens
Property,Core,Initialize,1
"""


def texts(findings: Iterable[Finding], status: str) -> list[str]:
    """Return the texts of the findings of a status; advice is there wherever something is wrong."""
    listed = list(findings)
    assert all(one.advice for one in listed if one.status == "wrong")
    assert not any("\n" in one.text for one in listed)
    return [one.text for one in listed if one.status == status]


def write(folder: Path, cfg: str, toml: str = TOML) -> Path:
    (folder / "test.cfg").write_text(cfg, encoding="utf-8")
    (folder / "test.toml").write_text(toml, encoding="utf-8")
    return folder / "test.toml"


def examined(toml: Path) -> tuple[list[Finding], list[dict[str, Any]]]:
    states: list[dict[str, Any]] = []
    return list(check_microscope(toml, ServiceConfig.load(toml), states)), states


# ---------------------------------------------------------------------------------------------- adapters


def test_the_adapters_that_come_with_livephase_load() -> None:
    findings = list(check_adapters({"DemoCamera"}))
    assert texts(findings, "wrong") == []
    core, loaded = texts(findings, "ok")
    assert core.startswith("MMCore version")
    assert "DemoCamera" in loaded
    assert loaded.split(" adapters in ")[0] == "4 of 4"


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Build device adapters in the folder that livephase uses."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("adapters are built with a C compiler on Linux")
    monkeypatch.setenv("MICROMANAGER_PATH", str(tmp_path))
    (tmp_path / "adapter.c").write_text(ADAPTER)

    def make(name: str, *options: str) -> None:
        out = tmp_path / f"libmmgr_dal_{name}.so.0"
        subprocess.run([compiler, "-shared", "-fPIC", *options, "-o", out, tmp_path / "adapter.c"], check=True)

    return make


def test_every_kind_of_broken_adapter_is_named(
    build: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "_SILENCE_S", 4.0)
    build("AGood", "-DINTERFACE=75")  # the folder is looked at with the first one that comes
    (tmp_path / "libmmgr_dal_Broken.so.0").write_bytes(b"\x7fELF and then nothing")
    (tmp_path / "mmgr_dal_notes.txt").write_text("no library")
    build("Old", "-DINTERFACE=70")
    build("Older", "-DINTERFACE=70")
    build("Aborts", "-DINTERFACE=75", "-DBAD=abort()")
    build("Hangs", "-DINTERFACE=75", "-DBAD=for(;;)pause()")
    build("Zebra", "-DINTERFACE=75")
    findings = list(check_adapters({"Hangs", "Absent"}))
    assert "2 of 7 adapters in" in texts(findings, "ok")[1]
    wrong = [text for text in texts(findings, "wrong") if "looking for" not in text]
    assert wrong == [
        f"Old, Older in {tmp_path}: device interface 70, not 75",
        "Hangs does not load: loading it did not answer within 4 s",
        f"{tmp_path} has no adapter Absent, which the cfg names",
    ]
    notes = texts(findings, "note")
    assert any(text.startswith("Aborts does not load: loading it ended the process") for text in notes)
    assert any(text.startswith("Broken does not load: ") for text in notes)


def test_a_folder_that_ends_the_search(build: Callable[..., None]) -> None:
    """pymmcore-plus loads a library of the folder to see its version: an adapter that aborts ends every start."""
    build("Aborts", "-DINTERFACE=75", "-DBAD=abort()")
    wrong = texts(check_adapters({"Aborts"}), "wrong")
    assert [text.split(" ended")[0] for text in wrong] == [
        "looking for Micro-Manager's folder",
        "Aborts does not load: loading it",
    ]


def test_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROMANAGER_PATH", str(tmp_path))
    assert texts(check_adapters({"DemoCamera"}), "wrong") == [
        f"{tmp_path} has no device adapters, and the cfg needs DemoCamera"
    ]
    assert texts(check_adapters(set()), "wrong") == []


def test_names_of_adapters(tmp_path: Path) -> None:
    names = ("libmmgr_dal_DemoCamera.so.0", "mmgr_dal_DemoCamera.dll", "libmmgr_dal_DemoCamera")
    assert {adapter_name(Path(name)) for name in names} == {"DemoCamera"}
    cfg = tmp_path / "a.cfg"
    cfg.write_text("# Device,A,B,C\nDevice,Cam, DemoCamera,DCam\nProperty,Core,Initialize,1\nDevice,Z,ASI,Z\n" + FAULTY)
    assert needed_by(cfg) == {"DemoCamera", "ASI"}


# ---------------------------------------------------------------------------------------------- microscope


def test_a_microscope_that_loads(tmp_path: Path) -> None:
    findings, states = examined(write(tmp_path, FAULTY))
    assert texts(findings, "wrong") == []
    assert texts(findings, "ok") == [
        "test microscope: 2 devices initialise (Camera, Lens)",
        "camera Camera: 96 x 80 pixels, 16 bit, exposure 1 ms",
        "lens Lens.Current-mA: defocus 0 um, reaches -300 to 300 um",
    ]
    assert states[0]["sensor_shape"] == [80, 96]


@pytest.mark.parametrize(
    ("cfg", "toml", "message"),
    [
        ("#py Property,Camera,InitFault,raise\n", TOML, "Camera: could not be initialised: the camera's sensor does"),
        ("#py Property,Camera,InitFault,hang\n", TOML, "did not answer within"),
        ("", TOML.replace("Current-mA", "Curent-mA"), "Lens: the role lens names its property 'Curent-mA'"),
        ("", TOML.replace('"Camera"', '"Lens"'), "Lens: has the role camera but is of type Stage"),
    ],
)
def test_a_microscope_that_does_not_load(tmp_path: Path, cfg: str, toml: str, message: str) -> None:
    findings, states = examined(write(tmp_path, FAULTY.replace("Property,Core", f"{cfg}Property,Core"), toml))
    (wrong,) = texts(findings, "wrong")
    assert message in wrong
    assert states == []


def test_a_device_that_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly.py").write_text(
        "import os\nfrom livephase_devices.faults import FaultyCamera\n"
        "class Deadly(FaultyCamera):\n    def initialize(self):\n        os.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    cfg = FAULTY.replace("livephase_devices.faults,FaultyCamera", "deadly,Deadly")
    (wrong,) = texts(examined(write(tmp_path, cfg))[0], "wrong")
    assert wrong.startswith("loading test.cfg ended the process")


def test_a_start_outside_the_range_of_the_lens(tmp_path: Path) -> None:
    findings, _ = examined(write(tmp_path, FAULTY, TOML.replace("= 6.0", "= 301.0")))
    assert texts(findings, "wrong") == ["[live] defocus_um = 301 is outside the range of the lens"]


def test_which_model_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert texts(check_models(None), "wrong") == []
    good = ServiceConfig.load(write(tmp_path, FAULTY))
    assert texts(check_models(good), "ok")[-1] == "'adaptive' fits the microscope"
    coarse = ServiceConfig.load(write(tmp_path, FAULTY, TOML.replace("lr_pixel_um = 2.6", "lr_pixel_um = 9.9")))
    (finding,) = [one for one in check_models(coarse) if one.status == "wrong"]
    assert "lr_pixel_um = 9.9 is outside" in finding.text
    assert "livephase models recipe" in (finding.advice or "")
    unknown = ServiceConfig.load(write(tmp_path, FAULTY, TOML + '[model]\nname = "nobody"\n'))
    assert "no model has the name 'nobody'" in texts(check_models(unknown), "wrong")[0]


# ---------------------------------------------------------------------------------------------- computer


def test_room_and_speed_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"sensor_shape": (490, 647), "bit_depth": 8, "lr_pixel_um": 2.6}
    monkeypatch.setattr(computer, "LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(computer, "LEAST_BYTES_PER_S", 0.0)
    room, speed = texts(check_disk(tmp_path / "not" / "yet", state, 4), "ok")
    assert f"not made yet, in {tmp_path}" in room
    # raw 0.3 MB, phase 2588 x 1960 float32 and its pyramid (4/3) by 2.5
    assert "time points of 11.1 MB" in room
    assert speed.startswith(f"{tmp_path} takes ")
    monkeypatch.setattr(computer, "LEAST_FREE_BYTES", 1 << 60)
    monkeypatch.setattr(computer, "LEAST_BYTES_PER_S", 1e15)
    assert len(texts(check_disk(tmp_path, None, 4), "wrong")) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root and Windows write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert any("cannot be written" in text for text in texts(check_disk(tmp_path, None, 4), "wrong"))


def test_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(texts(check_clock(UtcAnchor.now()), "ok")) == 1
    now = UtcAnchor.now()
    before = UtcAnchor(utc_ns=now.utc_ns - 3_600_000_000_000, monotonic_ns=now.monotonic_ns)
    assert "the clock jumped by 3600" in texts(check_clock(before), "wrong")[0]
    monkeypatch.setattr(computer.time, "time_ns", lambda: 0)
    assert "1970-01-01" in texts(check_clock(UtcAnchor(0, now.monotonic_ns)), "wrong")[0]


# ---------------------------------------------------------------------------------------------- ports


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b"Ready\r\n", "ok", "an Optotune lens driver answers; its current is 0 now"),
        (b"", "note", "it says nothing"),
        (b"Error 5", "note", "'Error 5'"),
        (b"Read", "note", "'Read'"),
    ],
)
def test_who_answers_at_a_port(answer: bytes, status: str, words: str) -> None:
    import pty

    device, terminal = pty.openpty()
    asked: list[bytes] = []

    def peer() -> None:
        heard = b""
        while len(heard) < 5:
            heard += os.read(device, 5 - len(heard))
        asked.append(heard)
        os.write(device, answer)

    thread = threading.Thread(target=peer)
    thread.start()
    name = os.ttyname(terminal)
    try:
        found = ports._answered({"port": name, **probe_port(name)})
    finally:
        thread.join()
        os.close(terminal)
        os.close(device)
    assert asked == [b"Start"]
    assert (found.status, found.check) == (status, "ports")
    assert words in found.text
    assert name in found.text


def test_a_port_that_is_not_there() -> None:
    name = str(Path("nowhere").absolute())
    found = ports._answered({"port": name, **probe_port(name)})
    assert (found.status, found.text.split(":")[0]) == ("note", f"{name} cannot be opened")


def test_no_port_is_asked_unless_it_is_wanted() -> None:
    findings = list(ports.check_ports(probe=False))
    assert texts(findings, "wrong") == []
    assert texts(findings, "note")[0].startswith("serial ports: ")
    assert not any("answers" in one.text and "no port" not in one.text for one in findings)


# ---------------------------------------------------------------------------------------------- children


def test_a_silent_child_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleepy.py").write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with pytest.raises(ChildDiedError, match="did not answer within 5 s") as caught:
        list(results("packages", "sleepy", silence_s=5.0))
    assert caught.value.begun == "sleepy"
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_child_ends_with_whoever_started_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleepy.py").write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(os.getpid()))\n"
        f"os.replace({str(tmp_path / 'new')!r}, {str(tmp_path / 'pid')!r})\n"
        "time.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    code = "from livephase.doctor.process import results; list(results('packages', 'sleepy', silence_s=600))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    child = psutil.Process(int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.wait()
    child.wait(60)


def test_what_a_child_prints_beside_its_results_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "talking.py").write_text("print('hello'); print('{\"package\": 1}')\n__version__ = '3'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert list(results("packages", "talking", "no_such_package_at_all", silence_s=60.0)) == [
        {"package": "talking", "version": "3", "detail": ""},
        {
            "package": "no_such_package_at_all",
            "error": "ModuleNotFoundError: No module named 'no_such_package_at_all'",
        },
    ]
    assert process.MARK


# ---------------------------------------------------------------------------------------------- command


def run(livephase_command: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [livephase_command, "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, cwd=folder)


def test_the_command_on_a_good_microscope(livephase_command: str, tmp_path: Path) -> None:
    toml = write(tmp_path, FAULTY)
    done = run(livephase_command, tmp_path, "--config", str(toml), "--json")
    report = json.loads(done.stdout)
    wrong = [one for one in report["findings"] if one["status"] == "wrong" and one["check"] != "disk"]
    assert wrong == []
    assert done.returncode == (0 if report["ok"] else 1)  # the disk of a test machine may be full or slow
    assert [one["check"] for one in report["findings"] if one["status"] == "ok"].count("microscope") == 3
    seen = {one["check"] for one in report["findings"]}
    assert seen >= {"installation", "configuration", "adapters", "microscope", "models", "disk", "ports", "clock"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.cfg", "test.toml"]


def test_the_command_on_a_wrong_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(examine, "check_installation", lambda: iter(()))  # loads torch, and is tested above
    toml = write(tmp_path, FAULTY, TOML.replace("coherence = 0.3", "coherrence = 0.3"))
    assert cli._run(["doctor", "--config", str(toml)]) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("configuration WRONG"))
    assert "unknown key 'coherrence'" in lines[place]
    assert lines[place + 1].strip().startswith("-> ")
    assert "wrong." in lines[-1]
    assert any(line.startswith("clock") for line in lines), "one wrong thing does not keep the others from being seen"
