"""The controls of the page against the real service: live mode, runs, notices, layout."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil
import pytest
import zarr

from livephase.preview import PreviewFrame
from livephase.storage.catalogue import read_run

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.conftest import RunningService, Tab

pytestmark = pytest.mark.browser


def fill_plan(tab: Tab, **plan: Any) -> None:
    ids = {
        "name": "plan-name",
        "time_points": "plan-time-points",
        "interval_s": "plan-interval",
        "defocus_um": "plan-defocus",
    }
    for field, value in plan.items():
        tab.page.fill(f"#{ids[field]}", str(value))


def replace_by_file(store: Path) -> None:
    """Take a store away so that nothing can be written to its place, not even by a writer that makes folders."""
    while not store.is_file():
        with contextlib.suppress(OSError):
            store.rename(store.with_suffix(f".{time.monotonic_ns()}"))
        with contextlib.suppress(OSError):
            store.write_bytes(b"")


def run_row(tab: Tab, name: str) -> str:
    """Return the text of the first run of that name in the list."""
    return " ".join(tab.page.locator("#runs .run summary", has_text=name).first.locator("span").all_text_contents())


def test_live_phase_moves_and_its_read_out_is_the_services(tab: Tab, service: RunningService) -> None:
    tab.press("f", "a")
    pictures: set[str] = set()
    for _ in range(3):
        tab.wait_frame(tab.drawn())
        drawn = tab.canvas_pixels()
        pictures.add(hashlib.sha256(drawn.tobytes()).hexdigest())
        # not blank: cells are bright, the background is dark, and there is something in between
        light = drawn[..., :3].sum(axis=-1)
        assert np.unique(light).size > 100
    assert len(pictures) == 3, "the picture does not move"

    tab.page.click("#live")
    tab.wait_text("live-label", "Start live")
    service.still()
    latest = service.services.hub.latest("phase")
    assert latest is not None
    assert latest.phase_rad is not None
    tab.wait_until(lambda: tab.drawn() == latest.sequence, "the last frame")
    width, height = tab.canvas_size()
    for column, row, shown in tab.read_out([(u * width, height / 2) for u in np.linspace(0.1, 0.9, 40)]):
        assert float(shown.removesuffix(" rad")) == pytest.approx(float(latest.phase_rad[row, column]), abs=0.003)
    assert tab.text("hud-source").startswith("Still")


def test_live_is_switched_by_button_and_space_bar(tab: Tab, service: RunningService) -> None:
    tab.press("Space")
    tab.wait_text("live-label", "Start live")
    assert not service.services.thread.live.running
    tab.press("Space")
    tab.wait_text("live-label", "Stop live")
    assert service.services.thread.live.running
    tab.page.click("#live")
    tab.wait_text("live-label", "Start live")
    service.still()
    before = tab.drawn()
    tab.page.click("#live")
    tab.wait_frame(before)
    # somebody else switches it, and the page knows
    service.services.thread.stop_live()
    tab.wait_text("live-label", "Start live")


def test_a_space_in_a_field_is_a_space(tab: Tab, service: RunningService) -> None:
    tab.page.focus("#plan-name")
    tab.page.keyboard.type("a f?c")
    assert "a f?c" in tab.page.input_value("#plan-name")
    assert not tab.page.locator("#shortcuts").is_visible()
    assert service.services.thread.live.running


def test_a_time_lapse_from_form_to_store(tab: Tab, service: RunningService) -> None:
    fill_plan(tab, name="Page run", time_points=6, interval_s=0.5, defocus_um=6)
    tab.wait_text("estimate", "ends")
    assert re.search(r"up to [\d.]+ [kM]B, [\d.]+ [GT]B free", tab.text("estimate"))
    tab.page.click("#plan-start")
    tab.page.locator("#run-progress").wait_for()
    assert tab.text("progress-name") == "Page run"
    assert not tab.page.locator("#time-lapse").is_visible()
    tab.wait_text("live-label", "Run in progress")
    tab.wait_until(lambda: re.search(r"[1-6] of 6 frames", tab.text("progress-count")) is not None, "progress")
    tab.wait_until(lambda: re.match(r"Run \d / 6", tab.text("hud-source")) is not None, "a frame of the run")
    tab.page.locator("#time-lapse").wait_for()
    tab.wait_until(lambda: run_row(tab, "Page run").startswith("Page run completed 6 / 6"), "the completed run")
    assert tab.text("status") == "Run Page run: completed."

    run = next(run for run in service.services.runs.list() if run.name == "Page run")
    info = read_run(service.services.data / f"{run.id}.ome.zarr")
    assert info.state == "completed"
    assert info.counters.phase_written == 6
    tab.page.locator("#runs .run summary", has_text="Page run").click()
    assert run.path in (tab.page.locator("#runs").text_content() or "")
    store = zarr.open_group(run.path, mode="r")
    phase = store["0"]
    assert isinstance(phase, zarr.Array)
    assert phase.shape == (6, 1, 360, 480)
    # live mode comes back after the run
    tab.wait_text("live-label", "Stop live")


def test_a_run_is_cancelled_only_after_a_question(tab: Tab, service: RunningService) -> None:
    fill_plan(tab, name="Long run", time_points=500, interval_s=0.5)
    tab.page.click("#plan-start")
    tab.wait_until(lambda: re.match(r"[1-9]\d* of 500", tab.text("progress-count")) is not None, "progress")
    assert re.match(r"\d+ (min|s).* left, ends \d\d:\d\d", tab.text("progress-left"))
    tab.page.click("#progress-cancel")
    tab.page.locator("#cancel-question").wait_for()
    assert tab.page.evaluate("document.activeElement.id") == "cancel-no"
    tab.page.keyboard.press("Enter")
    assert not tab.page.locator("#cancel-question").is_visible()
    assert service.services.thread.run is not None
    tab.page.click("#progress-cancel")
    tab.page.click("#cancel-yes")
    tab.page.locator("#time-lapse").wait_for()
    tab.wait_until(lambda: "cancelled" in run_row(tab, "Long run"), "the cancelled run")
    run = service.services.runs.list()[0]
    assert (run.name, run.state) == ("Long run", "cancelled")
    assert 0 < run.counters.raw_written < 500


def test_a_plan_that_cannot_be_carried_out_is_explained_before_it_starts(tab: Tab) -> None:
    tab.expected_errors.append("422")
    fill_plan(tab, time_points=0)
    tab.wait_text("plan-error", "Time points: ")
    assert tab.page.locator("#plan-start").is_disabled()
    fill_plan(tab, time_points=10, defocus_um=300)
    tab.wait_text("plan-error", "outside the range of the lens")
    fill_plan(tab, defocus_um=6, interval_s=0.001)
    tab.wait_text("plan-warnings", "shorter than one inference")
    assert not tab.page.locator("#plan-error").is_visible()


def test_a_run_that_loses_its_store_is_a_fault_on_the_page(tab: Tab, service: RunningService) -> None:
    fill_plan(tab, name="Lost run", time_points=200, interval_s=0.5, defocus_um=6)
    tab.page.click("#plan-start")
    tab.wait_until(lambda: re.match(r"[1-9]\d* of 200", tab.text("progress-count")) is not None, "progress")
    run = service.services.thread.run
    assert run is not None
    replace_by_file(service.services.runs.path(run.run_id))
    tab.wait_until(lambda: "failed" in run_row(tab, "Lost run"), "the failed run")
    # live mode comes back, the news of the fault stays
    tab.wait_text("live-label", "Stop live")
    tab.wait_banner("fault", "Fault.")
    tab.page.locator(".banner[data-name=fault] button", has_text="Dismiss").click()
    assert tab.banner("fault") is None


def test_settings_outside_the_valid_range_and_saturation_are_announced(tab: Tab, service: RunningService) -> None:
    service.services.thread.apply(exposure_ms=None, defocus_um=17.0).result(60)
    tab.wait_banner("range", "Outside the model's valid range")
    tab.wait_banner("range", "17")
    (advice,) = httpx.get(f"{service.url}api/v1/microscope").raise_for_status().json()["advice"]
    assert advice.startswith("No model fits; the nearest is")
    tab.wait_banner("range", advice)
    tab.wait_text("hud-notes", "outside valid range")
    service.services.thread.apply(exposure_ms=60.0, defocus_um=6.0).result(60)
    tab.wait_banner("saturation", "The camera saturates")
    tab.wait_until(lambda: tab.banner("range") is None, "the end of the range notice")
    tab.wait_until(lambda: "saturated" in tab.text("hud-notes"), "saturation beside the frame rate")
    service.services.thread.apply(exposure_ms=20.0, defocus_um=None).result(60)
    tab.wait_until(lambda: tab.banner("saturation") is None, "the end of the saturation notice")


def test_a_worker_that_hangs_and_dies_is_announced_and_phase_comes_back(tab: Tab, service: RunningService) -> None:
    pid = service.services.engine.status().pid
    assert pid is not None
    worker = psutil.Process(pid)
    worker.suspend()
    tab.page.locator("#stage.is-stale").wait_for()
    tab.wait_text("stale", "Stale: last frame")
    worker.kill()
    tab.wait_banner("inference", "The inference worker is restarting")
    # raw frames go on meanwhile
    tab.press("r")
    tab.page.locator("#canvas[data-kind=raw]").wait_for()
    tab.press("r")
    tab.wait_until(lambda: tab.banner("inference") is None, "the new worker")
    tab.page.locator("#canvas[data-kind=phase]").wait_for()
    tab.wait_frame(tab.drawn())
    tab.wait_until(lambda: not tab.page.locator("#stage.is-stale").count(), "the end of the stale state")


def test_a_device_fault_stays_until_it_is_dismissed(tab: Tab, service: RunningService) -> None:
    service.services.publisher.fault("Lens: does not answer; check its cable")
    tab.wait_banner("fault", "Lens: does not answer; check its cable")
    tab.page.locator(".banner[data-name=fault] button", has_text="Dismiss").click()
    assert tab.banner("fault") is None


def test_zooming_keeps_what_is_under_the_pointer_and_dragging_moves_it(tab: Tab) -> None:
    tab.press("f")
    width, height = tab.canvas_size()
    x, y = 0.7 * width, 0.6 * height
    tab.page.mouse.move(x, y)
    [(column, row, _)] = tab.read_out([(x, y)])
    for _ in range(6):
        tab.page.mouse.wheel(0, -200)
    tab.wait_until(lambda: float(tab.text("zoom").rstrip(" %")) > 400, "the zoom")
    assert abs(tab.read_out([(x, y)])[0][0] - column) <= 1
    assert abs(tab.read_out([(x, y)])[0][1] - row) <= 1
    tab.page.mouse.down()
    tab.page.mouse.move(x - 150, y - 80, steps=5)
    tab.page.mouse.up()
    assert abs(tab.read_out([(x - 150, y - 80)])[0][0] - column) <= 1
    # the server sends the region that came into view
    tab.wait_until(lambda: all(text for *_, text in tab.read_out([(width - 4, height - 4), (4, 4)])), "the region")
    tab.press("f")
    tab.wait_until(lambda: float(tab.text("zoom").rstrip(" %")) < 200, "the whole field")


def test_a_hidden_page_is_sent_next_to_nothing_and_is_not_dropped(tab: Tab, service: RunningService) -> None:
    hub = service.services.hub
    hide = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    tab.page.evaluate(hide, True)
    [viewer] = hub._viewers
    tab.wait_until(lambda: viewer._view is not None and viewer._view.canvas_width == 16, "the small view")
    sent = viewer.sent
    tab.wait_until(lambda: viewer.sent > sent + 3, "frames that are still acknowledged")
    before = tab.drawn()
    tab.page.evaluate(hide, False)
    tab.wait_frame(before)
    assert viewer in hub._viewers


def test_events_between_frames_do_not_stop_the_picture(tab: Tab, service: RunningService) -> None:
    for number in range(500):
        service.services.publisher.event("test", {"number": number})
    tab.wait_frame(tab.drawn())


def test_a_misfit_is_marked_and_frames_of_another_size_are_shown_as_a_whole(tab: Tab, service: RunningService) -> None:
    service.still()
    marked = "document.getElementById('hud-misfit').classList.contains('is-warning')"
    texts = {None: "", 1.04: "misfit 1.0", 3.21: "phase does not explain the frame: misfit 3.2"}
    for misfit, text in texts.items():
        frame = PreviewFrame(
            sequence=service.next_sequence(),
            phase_rad=np.zeros((300, 400), np.float32),
            raw=None,
            bit_depth=8,
            hr_pixel_um=0.65,
            time_utc_ns=1_780_000_000_000_000_000,
            time_monotonic_ns=time.monotonic_ns(),
            defocus_um=6.0,
            source="live",
            misfit=misfit,
            misfit_threshold=None if misfit is None else 2.0,
        )
        service.services.hub.publish(frame)
        tab.wait_until(lambda expected=frame.sequence: tab.drawn() == expected, "the frame")
        tab.wait_until(lambda expected=text: tab.text("hud-misfit") == expected, f"the text {text!r}")
        assert tab.page.evaluate(marked) is text.startswith("phase")
    wide = np.tile(np.linspace(0, 3, 900, dtype=np.float32), (300, 1))
    frame = PreviewFrame(
        sequence=service.next_sequence(),
        phase_rad=wide,
        raw=None,
        bit_depth=8,
        hr_pixel_um=0.17,
        time_utc_ns=1_780_000_000_000_000_000,
        time_monotonic_ns=time.monotonic_ns(),
        defocus_um=None,
        source="live",
    )
    service.services.hub.publish(frame)
    tab.wait_until(lambda: tab.drawn() == frame.sequence, "the wide frame")
    width, height = tab.canvas_size()
    [(left, *_), (right, *_)] = tab.read_out([(2, height / 2), (width - 2, height / 2)])
    assert left < 10
    assert right > 890
