"""Fixtures of all tests: a real service process, and a guard against what tests leave behind."""

from __future__ import annotations

import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEAK_DEADLINE_S = 20.0
START_DEADLINE_S = 90.0
STOP_DEADLINE_S = 60.0


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves threads or processes behind which it has started."""
    threads = set(threading.enumerate())
    processes = _children()
    yield
    end = time.monotonic() + LEAK_DEADLINE_S
    while True:
        left = [thread.name for thread in set(threading.enumerate()) - threads if thread.is_alive()]
        left += [f"process {process}" for process in sorted(_children() - processes)]
        if not left:
            return
        assert time.monotonic() < end, f"left behind: {', '.join(left)}"
        time.sleep(0.02)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small sub-pixel U-Net with random weights: what the process machinery needs of a model."""
    import torch

    from livephase.phase.modelfile import Architecture, ModelCard, ValidRange
    from livephase.phase.weights import build_network, save_network

    torch.manual_seed(7)
    architecture = Architecture(name="subpixel-unet", width=8)
    card = ModelCard(
        name="untrained",
        version="0",
        architecture=architecture,
        scale=4,
        valid=ValidRange(
            defocus_um=(1, 13), wavelength_um=(0.5, 0.6), lr_pixel_um=(2.4, 2.8), coherence=(0, 0.6), noise_sd=(0, 0.03)
        ),
        training={},
        figures={},
    )
    network = build_network(architecture)
    with torch.no_grad():
        # Blocks start as the identity without conditioning; here every weight has to matter.
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    path = tmp_path_factory.mktemp("models") / "untrained.safetensors"
    save_network(path, network, card)
    return path


@pytest.fixture(scope="session")
def livephase_command() -> str:
    """Return the installed console script."""
    command = shutil.which("livephase", path=str(Path(sys.executable).parent))
    assert command is not None, "livephase is not installed beside this Python"
    return command


class ServiceProcess:
    """A real ``livephase`` process that serves, and a client for it.

    Attributes
    ----------
    url : str
        As printed by the process.
    http : httpx.Client
        With that base URL.
    data : Path
        Folder of its runs.
    """

    def __init__(self, command: list[str], data: Path) -> None:
        self.data = data
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._lines.put)),
            threading.Thread(target=self._read, args=(self.process.stderr, self._errors.append)),
        ]
        for reader in self._readers:
            reader.start()
        self.url = self.line("http://").split()[-1]
        self.http = httpx.Client(base_url=self.url, timeout=60.0)

    @staticmethod
    def _read(stream: Any, keep: Callable[[str], None]) -> None:
        for line in stream:
            keep(line)

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return "".join(self._errors)

    def line(self, containing: str) -> str:
        """Wait for a line on stdout that contains a text."""
        end = time.monotonic() + START_DEADLINE_S
        while True:
            try:
                line = self._lines.get(timeout=0.1)
            except queue.Empty:
                assert self.process.poll() is None, f"it ended: {self.errors}"
                assert time.monotonic() < end, f"no line with {containing!r}; stderr: {self.errors}"
            else:
                if containing in line:
                    return line.strip()

    def get(self, path: str) -> Any:
        """Return the JSON of a resource under /api/v1."""
        response = self.http.get(f"/api/v1{path}")
        assert response.status_code == 200, response.text
        return response.json()

    def wait(self, path: str, condition: Callable[[Any], bool], what: str, deadline_s: float = 240.0) -> Any:
        """Poll a resource until a condition on its JSON holds."""
        end = time.monotonic() + deadline_s
        while not condition(found := self.get(path)):
            assert time.monotonic() < end, f"waited in vain for {what}: {found}"
            time.sleep(0.05)
        return found

    def wait_ready(self) -> None:
        """Wait until the inference worker takes frames."""
        self.wait("/health", lambda health: health["inference"] == "ready", "the worker")

    def start_run(self, **plan: Any) -> dict[str, Any]:
        """POST a plan, with defaults; return the run's JSON."""
        body = {"name": "test", "time_points": 5, "interval_s": 0.05, "defocus_um": 6.0, **plan}
        response = self.http.post("/api/v1/acquisitions", json=body)
        assert response.status_code == 201, response.text
        return response.json()

    def wait_run(self, run_id: str) -> dict[str, Any]:
        """Wait until a run has ended; return its JSON."""
        ended = {"completed", "cancelled", "failed", "interrupted"}
        return self.wait(f"/acquisitions/{run_id}", lambda run: run["state"] in ended, "the end of the run")

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Signal the process, wait for its end and return its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            for reader in self._readers:
                reader.join(STOP_DEADLINE_S)
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()


def small_twin(folder: Path, model: Path, runtime: str = "torch-cpu") -> Path:
    """Write the configuration of a simulated microscope with a small sensor; return the TOML."""
    import livephase_devices.config

    text = (livephase_devices.config.CONFIG_FOLDER / "twin.cfg").read_text()
    text = text.replace("CCDXSize,647", "CCDXSize,96").replace("CCDYSize,490", "CCDYSize,64")
    assert "CCDXSize,96" in text
    assert "CCDYSize,64" in text
    (folder / "small.cfg").write_text(text)
    toml = folder / "small.toml"
    toml.write_text(
        f"""
[microscope]
name = "small twin"
cfg = "small.cfg"
camera = "Camera"
lens = "Lens"
wavelength_um = 0.55
objective_na = 0.4
coherence = 0.3
lr_pixel_um = 2.6
recorded_properties = ["Camera.SpecimenTime-s"]
call_timeout_s = 60.0
[service]
port = 0
data = "data"
[model]
path = {str(model)!r}
runtime = "{runtime}"
[live]
on_start = false
defocus_um = 6.0
"""
    )
    return toml


@pytest.fixture(scope="session")
def write_small_twin() -> Callable[[Path, Path], Path]:
    """Return the writer of that configuration, for a folder and a model, to tests that change it."""
    return small_twin


@pytest.fixture
def twin_toml(untrained_model: Path, tmp_path: Path) -> Path:
    """Write the configuration of a service on a small simulated microscope."""
    return small_twin(tmp_path, untrained_model)


@pytest.fixture
def serve_toml(livephase_command: str, no_leaks: None) -> Iterator[Callable[[Path], ServiceProcess]]:
    """Start services on configurations; all are stopped after the test."""
    running: list[ServiceProcess] = []

    def start(toml: Path) -> ServiceProcess:
        service = ServiceProcess([livephase_command, "serve", "--config", str(toml)], toml.parent / "data")
        running.append(service)
        return service

    yield start
    for service in running:
        service.stop()


@pytest.fixture(scope="session")
def service(
    livephase_command: str, untrained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    """Run one service on a small simulated microscope for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("service")
    toml = small_twin(folder, untrained_model, runtime="auto")
    service = ServiceProcess([livephase_command, "serve", "--config", str(toml)], folder / "data")
    try:
        service.wait_ready()
        yield service
    finally:
        code = service.stop()
    assert code == 0, service.errors
