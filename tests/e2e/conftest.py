"""Fixtures of the page tests: a real Chromium, and the real service on a small simulated microscope."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import uvicorn
from playwright.sync_api import Error, Page, sync_playwright

import livephase_devices.config
from livephase.api.app import create_app
from livephase.api.services import Services
from livephase.api.websocket import WEBSOCKET_SETTINGS
from livephase.config import ServiceConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from playwright.sync_api import Browser, ConsoleMessage

DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium: the system's, else the one that Playwright has installed.

    Of module scope: Playwright keeps an event loop in this thread, and tests of other files start their own.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    system = next((path for name in names if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(
                executable_path=system, args=["--no-sandbox", "--disable-background-networking"]
            )
        except Error as error:
            reason = f"no Chromium can be started: {error.message.splitlines()[0]}"
            if sys.platform == "linux" and os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        yield started
        started.close()


class Tab:
    """A page under test and what went wrong on it.

    Attributes
    ----------
    page : Page
        Playwright's page.
    expected_errors : list of str
        Parts of console messages that the test provokes.
    requests : list of str
        URLs of all requests.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.expected_errors: list[str] = []
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(1000 * DEADLINE_S)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(f"page error: {error}"))
        page.on("console", self._console)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} {message.location['url']}")

    def check(self) -> None:
        """Fail on every error that was not expected."""
        unexpected = [error for error in self.errors if not any(part in error for part in self.expected_errors)]
        assert unexpected == []

    def text(self, element_id: str) -> str:
        """Return the text of an element, empty if it shows none."""
        return self.page.locator(f"#{element_id}").text_content() or ""

    def drawn(self) -> int:
        """Return the number of the frame on the canvas, -1 before the first."""
        return int(self.page.locator("#canvas").get_attribute("data-seq") or -1)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition while the page goes on."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}; errors on the page: {self.errors}"
            self.page.wait_for_timeout(20)

    def wait_text(self, element_id: str, part: str) -> None:
        """Wait until an element's text contains a part."""
        self.wait_until(lambda: part in self.text(element_id), f"{part!r} in #{element_id} ({self.text(element_id)!r})")

    def wait_frame(self, after: int = 0) -> int:
        """Wait until a frame with a higher number is on the canvas; return its number."""
        self.wait_until(lambda: self.drawn() > after, f"a frame after {after}")
        return self.drawn()

    def banner(self, name: str) -> str | None:
        """Return the text of a banner, None while it is not shown."""
        # asks once; text_content() of a banner that goes in this moment would wait for it to come back
        found = self.page.locator(f".banner[data-name={name}]").all_text_contents()
        return found[0] if found else None

    def wait_banner(self, name: str, part: str) -> None:
        """Wait for a banner with a text."""
        self.wait_until(lambda: part in (self.banner(name) or ""), f"the banner {name} ({self.banner(name)})")

    def canvas_size(self) -> tuple[int, int]:
        """Return width and height of the canvas; its pixels are CSS pixels here."""
        box = self.page.locator("#canvas").bounding_box()
        assert box
        return round(box["width"]), round(box["height"])

    def canvas_pixels(self) -> NDArray[np.uint8]:
        """Return the canvas as it is painted next, RGBA (Y, X, 4)."""
        values = self.page.evaluate(
            """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => {
                const canvas = document.getElementById("canvas");
                const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                let text = "";
                for (let i = 0; i < pixels.length; i += 32768)
                    text += String.fromCharCode(...pixels.subarray(i, i + 32768));
                resolve(text);
            })))"""
        )
        width, height = self.canvas_size()
        return np.frombuffer(values.encode("latin-1"), np.uint8).reshape(height, width, 4)

    def read_out(self, points: list[tuple[float, float]]) -> list[tuple[int, int, str]]:
        """Point at canvas positions one after the other; return pixel x, y and the shown value of each."""
        found = self.page.evaluate(
            """(points) => {
                const canvas = document.getElementById("canvas");
                const box = canvas.getBoundingClientRect();
                const text = (id) => document.getElementById(id).textContent;
                return points.map(([x, y]) => {
                    canvas.dispatchEvent(new PointerEvent("pointermove",
                        { clientX: box.left + x, clientY: box.top + y, pointerId: 1, bubbles: true }));
                    return [text("readout-pixel"), text("readout-shown")];
                });
            }""",
            points,
        )
        values: list[tuple[int, int, str]] = []
        for pixel, shown in found:
            match = re.fullmatch(r"px (\d+), (\d+)", pixel)
            assert match, f"no pixel is read out: {pixel!r}"
            values.append((int(match[1]), int(match[2]), shown.replace("\u2212", "-")))
        return values

    def press(self, *keys: str) -> None:
        """Press keys with the focus on the image."""
        self.page.locator("#canvas").focus()
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Tab]]:
    """Open pages; the test fails if one of them wrote an error to its console."""
    tabs: list[Tab] = []

    def open_page(url: str, width: int = 1000, height: int = 700) -> Tab:
        # a device pixel ratio of 1: canvas pixels are CSS pixels
        tab = Tab(browser.new_page(viewport={"width": width, "height": height}))
        tabs.append(tab)
        tab.page.goto(url)
        return tab

    yield open_page
    for tab in tabs:
        tab.page.close()
        tab.check()


@pytest.fixture(scope="module")
def shared_tab(browser: Browser, service: RunningService) -> Iterator[Tab]:
    """Open one page for all tests of a file that share the running service."""
    tab = Tab(browser.new_page(viewport={"width": 1000, "height": 700}))
    tab.page.goto(service.url)
    yield tab
    tab.page.close()


def write_twin(folder: Path, *, port: int, live: bool) -> Path:
    """Write a configuration of a simulated microscope with a sensor of 120 x 90; return the TOML."""
    cfg = (livephase_devices.config.CONFIG_FOLDER / "twin.cfg").read_text()
    small = cfg.replace("CCDXSize,647", "CCDXSize,120").replace("CCDYSize,490", "CCDYSize,90")
    assert small.count("CCD") == cfg.count("CCD")
    assert small != cfg
    (folder / "small.cfg").write_text(small)
    toml = folder / "small.toml"
    toml.write_text(
        f"""
[microscope]
name = "Small simulated microscope"
cfg = "small.cfg"
camera = "Camera"
lens = "Lens"
wavelength_um = 0.55
objective_na = 0.4
coherence = 0.3
lr_pixel_um = 2.6
call_timeout_s = 60.0
[service]
port = {port}
data = "data"
[live]
on_start = {"true" if live else "false"}
defocus_um = 6.0
"""
    )
    return toml


@pytest.fixture
def live_twin(tmp_path: Path) -> Callable[[int], Path]:
    """Write configurations of that microscope that serve on a given port and start live mode."""
    return lambda port: write_twin(tmp_path, port=port, live=True)


class RunningService:
    """The real application in a thread, so that a test can look at the arrays that the page shows.

    Attributes
    ----------
    services : Services
        All parts of the service.
    url : str
        Of the page.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._sequence = 1_000_000
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        config = uvicorn.Config(create_app(services), lifespan="on", log_config=None, **WEBSOCKET_SETTINGS)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, name="uvicorn")
        self._thread.start()
        wait_for(lambda: self._server.started, "the server")

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        self._listener.close()
        assert not self._thread.is_alive()

    def next_sequence(self) -> int:
        """Return a number for a frame that a test publishes, above those of the microscope's frames."""
        self._sequence += 1
        return self._sequence

    def still(self) -> None:
        """Stop live mode and wait until no frame is on its way."""
        self.services.thread.stop_live()
        counts, since = self.services.hub.counts().frames_published, time.monotonic()
        while time.monotonic() - since < 1.0:
            now = self.services.hub.counts().frames_published
            if now != counts or self.services.engine.status().pending:
                counts, since = now, time.monotonic()
            time.sleep(0.02)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition that no page is needed for."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Run the real service on a small simulated microscope with the bundled model."""
    toml = write_twin(tmp_path_factory.mktemp("page"), port=0, live=False)
    with Services(ServiceConfig.load(toml)) as services, contextlib.ExitStack() as stack:
        running = RunningService(services)
        stack.callback(running.close)
        wait_for(lambda: services.engine.status().state == "ready", "the inference worker")
        yield running


@pytest.fixture
def tab(shared_tab: Tab, service: RunningService) -> Iterator[Tab]:
    """Return a page that shows live phase."""
    shared_tab.page.set_viewport_size({"width": 1000, "height": 700})
    if not service.services.thread.live.running:
        service.services.thread.start_live()
    shared_tab.wait_frame(shared_tab.drawn())
    shared_tab.wait_text("live-label", "Stop live")
    yield shared_tab
    shared_tab.check()
    shared_tab.expected_errors.clear()
    shared_tab.errors.clear()
