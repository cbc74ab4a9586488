"""The command line as a user meets it: real processes, one clear line for every mistake, an orderly end."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import tifffile

from livephase.storage.catalogue import read_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import ServiceProcess


@pytest.fixture
def cli(livephase_command: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``livephase`` in a folder of its own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [livephase_command, *map(str, arguments)], capture_output=True, text=True, timeout=120, cwd=tmp_path
        )

    return run


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Check the exit code, and that stderr is one line with all of the words."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("livephase: ")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_help_lists_the_commands(cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = cli("--help")
    assert done.returncode == 0
    known = ("demo", "serve", "calibrate", "reconstruct", "simulate", "tie", "train", "evaluate", "models", "doctor")
    for command in known:
        assert command in done.stdout


def test_the_command_line_loads_nothing_heavy() -> None:
    """Neither for --help nor in the service's own process: torch lives in the worker."""
    code = (
        "import sys, livephase.cli\n"
        "heavy = {'torch', 'openvino', 'fastapi', 'uvicorn', 'pymmcore_plus', 'zarr', 'tensorstore', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import livephase.serving\n"
        "print(sorted({'torch', 'openvino'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


# ---------------------------------------------------------------------------------------------- mistakes


def edited(toml: Path, old: str, new: str) -> Path:
    """Return the TOML with one text replaced."""
    text = toml.read_text()
    assert old in text
    toml.write_text(text.replace(old, new))
    return toml


def test_a_missing_configuration(cli: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert_one_line(cli("serve", "--config", "nowhere.toml"), 2, "nowhere.toml", "does not exist")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[model]", "[model]\nname = 'fast'", ["name or path, not both"]),
        ('cfg = "small.cfg"', 'cfg = "missing.cfg"', ["missing.cfg", "no such Micro-Manager configuration"]),
        ('camera = "Camera"', 'camera = "Kamera"', ["Kamera"]),
        ('lens = "Lens"', 'lens = "Linse"', ["Linse"]),
        ("coherence = 0.3", "coherence = 0.3\nmagnification = 10", ["magnification"]),
        ("port = 0", "prot = 0", ["[service]", "prot"]),
        ("[live]", "[lvie]", ["lvie"]),
        ("port = 0", "port = 70000", ["port", "70000"]),
        ("wavelength_um = 0.55", 'wavelength_um = "green"', ["wavelength_um", "green"]),
        ("[model]", "[model", ["TOML"]),
    ],
)
def test_a_wrong_configuration(
    cli: Callable[..., subprocess.CompletedProcess[str]], twin_toml: Path, old: str, new: str, words: list[str]
) -> None:
    assert_one_line(cli("serve", "--config", edited(twin_toml, old, new)), 2, *words)


def test_a_port_in_use(cli: Callable[..., subprocess.CompletedProcess[str]], twin_toml: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(cli("serve", "--config", twin_toml, "--port", str(port)), 2, str(port), "--port")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.20", "example.org"])  # noqa: S104 - to be refused
def test_other_than_loopback(cli: Callable[..., subprocess.CompletedProcess[str]], twin_toml: Path, host: str) -> None:
    assert_one_line(cli("serve", "--config", twin_toml, "--host", host), 2, host, "loopback")


def test_a_data_folder_that_cannot_be_written(
    cli: Callable[..., subprocess.CompletedProcess[str]], twin_toml: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_one_line(cli("serve", "--config", twin_toml, "--data", tmp_path / "file" / "runs"), 2, "--data", "file")


def test_a_model_that_is_a_pickle(
    cli: Callable[..., subprocess.CompletedProcess[str]], twin_toml: Path, untrained_model: Path, tmp_path: Path
) -> None:
    """It is named as such and never loaded: the pickle would leave a marker."""
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str, int]]:
            return os.mkdir, (str(marker), 0o700)

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Bomb()))
    toml = edited(twin_toml, repr(str(untrained_model)), "'model.pt'")
    assert_one_line(cli("serve", "--config", toml), 2, "model.pt", "pickle")
    assert_one_line(cli("models", "show", "model.pt"), 2, "model.pt", "pickle")
    assert not marker.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["nonsense"],
        ["demo", "--port", "http"],
        ["demo", "--port", "99999"],
        ["demo", "--speedup", "-1"],
        ["demo", "--model", "no-such-model"],
        ["models", "show", "no-such-model"],
        ["simulate", "nowhere.npy", "out.npy", "--defocus-um", "6"],
        ["train", "nowhere.toml", "--out", "folder"],
    ],
)
def test_wrong_arguments(cli: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str]) -> None:
    assert_one_line(cli(*arguments), 2)


# ---------------------------------------------------------------------------------------------- the service


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize(("how", "worker_hangs"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_a_signal_ends_the_service_in_order(
    twin_toml: Path, serve_toml: Callable[[Path], ServiceProcess], how: signal.Signals, worker_hangs: bool
) -> None:
    """The run is closed as interrupted, the worker is gone even if it hangs, the exit code is 0."""
    service = serve_toml(edited(twin_toml, "on_start = false", "on_start = true"))
    service.line("first phase frame")
    worker = service.get("/microscope")["inference"]["pid"]
    run = service.start_run(time_points=100_000, interval_s=0.1)
    service.wait(f"/acquisitions/{run['id']}", lambda seen: seen["counters"]["phase_written"] >= 2, "phase")
    if worker_hangs:
        os.kill(worker, signal.SIGSTOP)
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert worker in [child.pid for child in children]
    assert service.stop(how) == 0
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert "Traceback" not in service.errors
    assert "FATAL" not in service.errors
    stored = read_run(service.data / f"{run['id']}.ome.zarr")
    assert (stored.state, stored.reason) == ("interrupted", "the service was stopped")
    assert stored.counters.closed
    assert stored.counters.phase_written >= 2


def test_a_run_with_the_demo_camera_says_that_it_is_out_of_range(
    untrained_model: Path, tmp_path: Path, serve_toml: Callable[[Path], ServiceProcess]
) -> None:
    """Micro-Manager's DemoCamera and demo stage, with the pixel size of its own demo configuration."""
    (tmp_path / "demo.cfg").write_text(
        "Device,Camera,DemoCamera,DCam\nDevice,Z,DemoCamera,DStage\nProperty,Core,Initialize,1\n"
        "Property,Camera,OnCameraCCDXSize,128\nProperty,Camera,OnCameraCCDYSize,96\nProperty,Camera,PixelType,16bit\n"
    )
    toml = tmp_path / "demo.toml"
    toml.write_text(
        '[microscope]\nname = "demo"\ncfg = "demo.cfg"\ncamera = "Camera"\nlens = "Z"\nwavelength_um = 0.55\n'
        "objective_na = 0.3\ncoherence = 0.3\nlr_pixel_um = 1.0\n[service]\nport = 0\ndata = 'data'\n"
        f"[model]\npath = {str(untrained_model)!r}\nruntime = 'torch-cpu'\n"
    )
    service = serve_toml(toml)
    service.wait_ready()
    # The service chooses before it has loaded the stage, so that the pixel decides. In focus, where the stage then
    # stands, the model with the smallest defocus number is the nearest; at the run's 6 um again that of the pixel.
    in_focus, by_pixel = (
        f"No model fits; the nearest is '{name}'. The recipe to train one is written by: livephase models recipe "
        "--lr-pixel-um 1 --wavelength-um 0.55 --objective-na 0.3 --defocus-um LOW HIGH --out recipe.toml"
        for name in ("untrained", "adaptive-20x")
    )
    described = service.get("/microscope")
    assert described["microscope"]["defocus_um"] == 0
    assert any("lr_pixel_um" in one for one in described["range_problems"])
    assert described["advice"] == [in_focus]
    assert by_pixel in service.errors, "it is said at the start, too"
    run = service.wait_run(service.start_run(time_points=5)["id"])
    assert run["state"] == "completed"
    assert run["counters"]["phase_written"] == 5
    assert any("lr_pixel_um = 1 is outside the model's valid range" in warning for warning in run["warnings"])
    stored = read_run(service.data / f"{run['id']}.ome.zarr")
    provenance: Any = stored.provenance
    assert run["warnings"] == [*provenance["outside_valid_range"], by_pixel]
    after = service.get("/microscope")
    assert after["microscope"]["defocus_um"] == 6
    assert after["advice"] == [by_pixel]
    assert stored.spec.dtype == "uint16"


# ---------------------------------------------------------------------------------------------- images, models


def test_simulate_and_tie_are_inverse(cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Two simulated planes give back the phase that they were made of."""
    y, x = np.mgrid[:128, :128] * 0.65
    phase = (0.5 * np.exp(-((y - 40) ** 2 + (x - 45) ** 2) / (2 * 8.0**2))).astype(np.float32)
    np.save(tmp_path / "phase.npy", phase)
    for name, defocus_um in (("i0.tif", "0"), ("iz.tif", "2")):
        done = cli(
            "simulate", "phase.npy", name, "--defocus-um", defocus_um, "--coherence", "0", "--binning", "1"
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = cli(
        "tie", "i0.tif", "iz.tif", "back.npy", "--dz-um", "2", "--pixel-um", "0.65", "--wavelength-um", "0.55"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    back = np.load(tmp_path / "back.npy")
    assert np.corrcoef(back.ravel(), phase.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("solver", ["universal", "dct-iterative", "fft"])
def test_tie_records_its_solver_in_the_tiff(
    cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, solver: str
) -> None:
    planes = np.random.default_rng(0).uniform(90, 110, (2, 40, 48)).astype(np.float32)
    np.save(tmp_path / "i0.npy", planes[0])
    np.save(tmp_path / "iz.npy", planes[1])
    optics = ("--dz-um", "2", "--pixel-um", "0.65", "--wavelength-um", "0.55")
    done = cli("tie", "i0.npy", "iz.npy", "phase.tif", *optics, "--solver", solver)
    assert done.returncode == 0, done.stderr
    with tifffile.TiffFile(tmp_path / "phase.tif") as tiff:
        record = tiff.shaped_metadata
        assert record is not None
        assert record[0]["solver"] == solver
        assert record[0]["regularisation_period_um"] == 200
        assert record[0]["dz_um"] == 2
        assert tiff.asarray().dtype == np.float32


def test_tie_refuses_what_it_cannot_solve_in_one_line(
    cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    np.save(tmp_path / "i0.npy", np.ones((8, 8), np.float32))
    np.save(tmp_path / "nan.npy", np.full((8, 8), np.nan, np.float32))
    for change in (
        ("nan.npy", "--dz-um", "2"),
        ("i0.npy", "--dz-um", "0"),
        ("i0.npy", "--dz-um", "2", "--solver", "x"),
    ):
        done = cli("tie", "i0.npy", change[0], "o.tif", *change[1:], "--pixel-um", "0.65", "--wavelength-um", "0.55")
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert not (tmp_path / "o.tif").exists()


def test_noise_of_simulate_follows_the_seed(
    cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((64, 64), np.float32))
    for name, seed in (("a.npy", "1"), ("b.npy", "1"), ("c.npy", "2")):
        done = cli("simulate", "flat.npy", name, "--defocus-um", "6", "--noise-sd", "0.02", "--seed", seed)
        assert done.returncode == 0, done.stderr
    a, b, c = (np.load(tmp_path / name) for name in ("a.npy", "b.npy", "c.npy"))
    assert a.shape == (16, 16)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    assert a.std() == pytest.approx(0.02, rel=0.25)
    assert a.mean() == pytest.approx(1.0, abs=0.01)


def test_models_show_prints_the_card(
    cli: Callable[..., subprocess.CompletedProcess[str]], untrained_model: Path
) -> None:
    done = cli("models", "show", untrained_model, "--json")
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["name"] == "untrained"
    assert len(card["sha256"]) == 64
    shown = cli("models", "show", untrained_model).stdout
    assert "untrained" in shown
    assert card["sha256"] in shown


def test_models_show_tabulates_the_figures_of_each_defocus(
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    card = json.loads(cli("models", "show", "adaptive", "--json").stdout)
    lines = cli("models", "show", "adaptive").stdout.splitlines()
    head = next(line for line in lines if line.startswith("test set"))
    assert head.split()[:3] == ["test", "set", "fields"]
    for name, row in card["figures"].items():
        if name != "conditions":
            (line,) = [one for one in lines if one.startswith(name + " ")]
            assert line.removeprefix(name).split()[:2] == [str(row["fields"]), f"{row['ssim']:.4g}"]
    assert max(map(len, lines)) < 200
