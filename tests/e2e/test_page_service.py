"""The page and the service as processes: the demo as a user starts it, and a service that goes and comes back."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.conftest import Tab

pytestmark = pytest.mark.browser

DEADLINE_S = 120.0


class ServiceProcess:
    """A ``livephase`` process that serves the page, started as a user starts it.

    Attributes
    ----------
    url : str
        Of the page, as the process prints it.
    """

    def __init__(self, *arguments: str) -> None:
        command = shutil.which("livephase", path=str(Path(sys.executable).parent))
        assert command is not None, "livephase is not installed beside this Python"
        self._process = subprocess.Popen([command, *arguments], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert "http://" in line, f"livephase printed {line!r} instead of its address"
        self.url = line.split()[-1]
        # what it prints later must not fill the pipe
        self._reader = threading.Thread(target=self._process.stdout.read)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def end(self, how: int = signal.SIGTERM) -> int:
        """Signal the process and return its exit code."""
        self._process.send_signal(how)
        code = self._process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        if self._process.stdout:
            self._process.stdout.close()
        return code


@pytest.fixture
def start_service() -> Iterator[Callable[..., ServiceProcess]]:
    """Start ``livephase`` processes; those that still run are ended after the test."""
    started: list[ServiceProcess] = []

    def start(*arguments: str) -> ServiceProcess:
        started.append(ServiceProcess(*arguments))
        return started[-1]

    yield start
    for process in started:
        if process.running:
            process.end()


def test_the_demo_shows_live_phase_and_records_a_time_lapse(
    tmp_path: Path, start_service: Callable[..., ServiceProcess], open_tab: Callable[..., Tab]
) -> None:
    demo = start_service("demo", "--no-browser", "--port", "0", "--data", str(tmp_path / "runs"))
    tab = open_tab(demo.url, width=1440, height=900)
    first = tab.wait_frame()
    before = tab.canvas_pixels()
    tab.wait_frame(first)
    assert not np.array_equal(before, tab.canvas_pixels()), "the picture does not move"
    assert np.unique(before[..., :3].sum(axis=-1)).size > 100, "the picture is blank"

    tab.page.click("#live")
    tab.wait_text("live-label", "Start live")
    width, height = tab.canvas_size()
    still = -1
    while still != tab.drawn():
        still = tab.drawn()
        tab.page.wait_for_timeout(1500)
    with httpx.Client(base_url=f"{demo.url}/api/v1/", timeout=60) as http:
        for column, row, shown in tab.read_out([(u * width, 0.4 * height) for u in np.linspace(0.1, 0.9, 9)]):
            assert shown.endswith("(mean of 2 × 2 px)")
            region = {"x": column // 2 * 2, "y": row // 2 * 2, "width": 2, "height": 2}
            answer = http.get("preview/region", params=region).raise_for_status()
            assert int(answer.headers["X-Livephase-Seq"]) == still
            exact = np.frombuffer(answer.content, "<f4").mean()
            assert float(shown.split(" rad")[0]) == pytest.approx(float(exact), abs=0.003)

    tab.page.fill("#plan-name", "Demo run")
    tab.page.fill("#plan-time-points", "3")
    tab.page.fill("#plan-interval", "1")
    tab.page.click("#plan-start")
    tab.wait_until(lambda: " of 3 frames" in tab.text("progress-count"), "progress")
    row = tab.page.locator("#runs .run", has_text="Demo run")
    tab.wait_until(lambda: row.get_attribute("data-state") == "completed", "the completed run")
    assert "3 / 3" in (row.locator(".run-count").text_content() or "")
    # the estimate that the page asks for after a run may find the service on its way out
    tab.expected_errors += ["WebSocket connection to", "net::ERR_", "dry_run"]
    assert demo.end() == 0


def test_the_page_survives_the_service(
    live_twin: Callable[[int], Path], start_service: Callable[..., ServiceProcess], open_tab: Callable[..., Tab]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        toml = str(live_twin(probe.getsockname()[1]))
    service = start_service("serve", "--config", toml)
    tab = open_tab(service.url)
    tab.wait_frame()
    tab.expected_errors += ["WebSocket connection to", "net::ERR_", "503"]

    service.end(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    tab.wait_banner("connection", "No connection to the service")
    tab.page.locator("#stage.is-stale").wait_for()
    assert "no connection" in tab.text("stale")
    assert tab.text("live-label") == "No connection"
    # the last image stays, and can still be looked at
    tab.press("+", "+")
    assert np.unique(tab.canvas_pixels()[..., :3].sum(axis=-1)).size > 20
    tab.wait_banner("connection", "Trying again in")

    start_service("serve", "--config", toml)
    tab.wait_until(lambda: tab.banner("connection") is None, "the connection")
    tab.wait_until(lambda: tab.text("hud-source") == "Live", "live mode")
    tab.wait_until(lambda: not tab.page.locator("#stage.is-stale").count(), "a fresh frame")
