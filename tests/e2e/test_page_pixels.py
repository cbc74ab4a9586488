"""Numbers that can be trusted: what the page draws and reads out is what the service has."""

from __future__ import annotations

import dataclasses
import itertools
import re
import time
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.conftest import RunningService, Tab
    from numpy.typing import NDArray

    from livephase.preview import PreviewFrame

pytestmark = pytest.mark.browser

HR_SHAPE = (360, 480)
# half a step of float16 between 4 and 8, and half of the last digit that is written
READ_OUT_ERROR_RAD = 2**-9 + 0.0005


@pytest.fixture(scope="module")
def taken(service: RunningService) -> PreviewFrame:
    """Take one frame with the microscope; live mode is off after that."""
    service.services.thread.start_live()
    assert service.services.publisher.first_phase.wait(60)
    service.still()
    latest = service.services.hub.latest("phase")
    assert latest is not None
    return latest


@pytest.fixture
def tab(shared_tab: Tab, service: RunningService, taken: PreviewFrame) -> Iterator[Tab]:
    """Return a page that shows that frame as a whole."""
    show(shared_tab, service, taken)
    shared_tab.press("f")
    yield shared_tab
    shared_tab.check()


def show(tab: Tab, service: RunningService, frame: PreviewFrame, **changes: Any) -> PreviewFrame:
    """Publish a frame with changes and a new number; return it when it is on the canvas."""
    frame = dataclasses.replace(
        frame, **changes, sequence=service.next_sequence(), time_monotonic_ns=time.monotonic_ns()
    )
    service.services.hub.publish(frame)
    tab.wait_until(lambda: tab.drawn() == frame.sequence, f"frame {frame.sequence} on the canvas")
    return frame


def phase_of(frame: PreviewFrame) -> NDArray[np.float32]:
    assert frame.phase_rad is not None
    assert frame.phase_rad.shape == HR_SHAPE
    return frame.phase_rad


def points(tab: Tab, count: int, seed: int) -> list[tuple[float, float]]:
    """Return positions on the part of the canvas that shows the whole image, spread at random."""
    width, height = tab.canvas_size()
    shown_width = min(width, height * HR_SHAPE[1] / HR_SHAPE[0])
    shown_height = shown_width * HR_SHAPE[0] / HR_SHAPE[1]
    spread = np.random.default_rng(seed).uniform(0.01, 0.99, (count, 2))
    corner = (width - shown_width) / 2, (height - shown_height) / 2
    return [(corner[0] + u * shown_width, corner[1] + v * shown_height) for u, v in spread.tolist()]


def mean_shown(phase: NDArray[np.float32], column: int, row: int, shown: str) -> tuple[int, float]:
    """Return over how many pixels a read-out says that it is a mean, and the mean of those of the source."""
    match = re.fullmatch(r"-?\d+\.\d{3} rad(?: \(mean of (\d+) × \1 px\))?", shown)
    assert match, shown
    size = int(match[1] or 1)
    block = phase[row // size * size : row // size * size + size, column // size * size : column // size * size + size]
    return size, float(block.mean(dtype=np.float64))


def lookup(name: str) -> NDArray[np.uint8]:
    colours = np.array(matplotlib.colormaps[name](np.arange(256)))[:, :3]
    return np.round(colours * 255).astype(np.uint8)


def test_every_bit_pattern_has_its_value(tab: Tab) -> None:
    found = tab.page.evaluate("async () => Array.from((await import('/js/float16.js')).VALUES, String)")
    values = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    shown = np.array([float(text.replace("Infinity", "inf")) for text in found], np.float32)
    assert np.array_equal(shown, values, equal_nan=True)


@pytest.mark.parametrize(("low", "high"), [(0.0, 4.0), (-0.05, 2.9), (-3.0, 3.0), (0.0, 255.0), (1.0, 1.001)])
def test_every_bit_pattern_has_its_colour_and_no_data_has_none(tab: Tab, low: float, high: float) -> None:
    found = tab.page.evaluate(
        """async ([low, high]) => {
            const [{ colourTable }, { colormap }] = await Promise.all([
                import("/js/float16.js"), import("/js/colormaps.js")]);
            return Array.from(colourTable(colormap("viridis"), low, high));
        }""",
        [low, high],
    )
    table = np.array(found, np.uint32).view(np.uint8).reshape(-1, 4)
    values = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
    finite = np.isfinite(values)
    assert finite.sum() == 65536 - 2 * 1024
    assert np.all(table[~finite] == 0)
    assert np.all(table[finite, 3] == 255)
    index = np.clip(np.floor((values[finite] - low) * (255 / (high - low)) + 0.5), 0, 255).astype(int)
    assert np.array_equal(table[finite, :3], lookup("viridis")[index])


def test_colour_maps_are_those_of_matplotlib(tab: Tab) -> None:
    for name in ("viridis", "cividis", "magma", "grey"):
        found = tab.page.evaluate("async (name) => Array.from((await import('/js/colormaps.js')).colormap(name))", name)
        entries = np.array(found, np.uint32).view(np.uint8).reshape(256, 4)
        assert np.array_equal(entries[:, :3], lookup(name)), name
        assert np.all(entries[:, 3] == 255)


def test_the_value_under_the_pointer_is_the_services_at_every_zoom(
    tab: Tab, service: RunningService, taken: PreviewFrame
) -> None:
    phase = phase_of(taken)
    assert phase.std() > 0.05
    widths: list[float] = []
    for zoomed in range(4):
        read: set[tuple[int, int]] = set()
        for column, row, shown in tab.read_out(points(tab, 250, seed=zoomed)):
            size, mean = mean_shown(phase, column, row, shown)
            assert size == 1
            assert abs(float(shown.split(" rad")[0]) - mean) <= READ_OUT_ERROR_RAD
            read.add((column, row))
        columns = [column for column, _ in read]
        widths.append(max(columns) - min(columns))
        tab.press("+", "+", "+")
        # the server has sent the new region when nothing at its edges is empty any more
        tab.wait_until(lambda: all(shown for *_, shown in tab.read_out(points(tab, 20, seed=1))), "the zoomed region")
    assert widths[0] > 450
    assert all(wide > 2.5 * narrow for wide, narrow in itertools.pairwise(widths))


def test_a_binned_overview_says_that_it_is_a_mean(tab: Tab, service: RunningService, taken: PreviewFrame) -> None:
    tab.page.set_viewport_size({"width": 320, "height": 560})
    phase = phase_of(show(tab, service, taken))
    tab.wait_until(lambda: "mean of" in tab.read_out(points(tab, 1, seed=0))[0][2], "binned pixels")
    for column, row, shown in tab.read_out(points(tab, 250, seed=5)):
        size, mean = mean_shown(phase, column, row, shown)
        assert size == 2
        assert abs(float(shown.split(" rad")[0]) - mean) <= READ_OUT_ERROR_RAD
    tab.page.set_viewport_size({"width": 1000, "height": 700})
    tab.wait_until(lambda: "mean of" not in tab.read_out(points(tab, 1, seed=0))[0][2], "single pixels")


def test_the_exact_value_is_the_float32_of_that_frame(tab: Tab, service: RunningService, taken: PreviewFrame) -> None:
    frame = show(tab, service, taken)
    exact = tab.page.locator("#readout-exact")
    for point in points(tab, 6, seed=9):
        [(column, row, _)] = tab.read_out([point])
        tab.wait_text("readout-exact", f"frame {frame.sequence}")
        value = phase_of(frame)[row, column]
        assert np.float32(exact.get_attribute("data-value")) == value
        assert tab.text("readout-exact").replace("\u2212", "-").startswith(f"exact {value:.4f} rad")


def test_raw_counts_are_those_of_the_camera(tab: Tab, service: RunningService, taken: PreviewFrame) -> None:
    assert taken.raw is not None
    tab.press("r")
    tab.page.locator("#canvas[data-kind=raw]").wait_for()
    assert tab.text("limit-unit") == "counts"
    for column, row, shown in tab.read_out(points(tab, 250, seed=4)):
        assert shown == f"{taken.raw[row, column]} counts"
    tab.press("r")
    tab.page.locator("#canvas[data-kind=phase]").wait_for()
    assert tab.text("limit-unit") == "rad"


def test_colours_on_the_canvas_are_those_of_the_values(tab: Tab, taken: PreviewFrame) -> None:
    tab.page.select_option("#colormap", "viridis")
    tab.page.fill("#limit-low", "-0.25")
    tab.page.fill("#limit-high", "1.75")
    tab.press(*"++++++++")
    tab.wait_until(lambda: float(tab.text("zoom").rstrip(" %")) > 1000, "single pixels")
    tab.wait_until(lambda: all(shown for *_, shown in tab.read_out(points(tab, 20, seed=1))), "the region")
    drawn = tab.canvas_pixels()
    height, width, _ = drawn.shape
    places = np.random.default_rng(2).uniform(0.05, 0.95, (200, 2)) * (width, height)
    at = [(int(x), int(y)) for x, y in places]
    indices: set[int] = set()
    for (x, y), (column, row, _) in zip(at, tab.read_out([(x + 0.5, y + 0.5) for x, y in at]), strict=True):
        value = float(np.float16(phase_of(taken)[row, column]))
        index = int(np.clip(np.floor((value + 0.25) * (255 / 2.0) + 0.5), 0, 255))
        assert drawn[y, x].tolist() == [*lookup("viridis")[index].tolist(), 255], (row, column, value)
        indices.add(index)
    assert len(indices) > 10


def test_what_is_not_finite_is_never_drawn_as_data(tab: Tab, service: RunningService, taken: PreviewFrame) -> None:
    holed = phase_of(taken).copy()
    holed[:, 240:] = np.nan
    holed[:, 120:240] = np.inf
    tab.page.select_option("#colormap", "viridis")
    show(tab, service, taken, phase_rad=holed)
    drawn = tab.canvas_pixels()[..., :3].astype(int)
    spread = drawn.max(axis=-1) - drawn.min(axis=-1)
    height, width = spread.shape
    assert width / height < HR_SHAPE[1] / HR_SHAPE[0], "the image fills the canvas from left to right"
    inner = slice(height // 3, 2 * height // 3)
    # viridis has no grey, the hatching and the surround have nothing else
    assert spread[inner, 4 : width // 4 - 4].min() > 30
    assert spread[:, width // 4 + 4 :].max() <= 12
    middle = [(x * width, height / 2) for x in (0.3, 0.45, 0.6, 0.9)]
    assert [shown for *_, shown in tab.read_out(middle)] == ["no data"] * 4


def test_the_diverging_map_is_pinned_at_zero(tab: Tab, service: RunningService, taken: PreviewFrame) -> None:
    show(tab, service, taken, phase_rad=np.zeros(HR_SHAPE, np.float32))
    tab.page.select_option("#colormap", "magma")
    tab.page.fill("#limit-low", "-1")
    tab.page.fill("#limit-high", "3")
    tab.page.select_option("#colormap", "diverging")
    assert tab.page.input_value("#limit-low") == "-3"
    assert tab.page.input_value("#limit-high") == "3"
    drawn = tab.canvas_pixels()
    middle = drawn[drawn.shape[0] // 2, drawn.shape[1] // 2, :3].astype(int)
    assert middle.max() < 24
    assert middle.max() - middle.min() <= 3


def test_limits_are_taken_only_when_they_are_numbers_in_order(tab: Tab) -> None:
    tab.page.select_option("#colormap", "magma")
    tab.page.fill("#limit-high", "4")
    tab.page.fill("#limit-low", "0.5")
    tab.page.fill("#limit-high", "0.25")
    assert tab.page.get_attribute("#limit-high", "aria-invalid") == "true"
    tab.page.fill("#limit-high", "")
    assert tab.page.get_attribute("#limit-high", "aria-invalid") == "true"
    tab.page.fill("#limit-high", "2.5")
    assert tab.page.get_attribute("#limit-high", "aria-invalid") != "true"
    tab.page.locator("#limit-high").blur()
    assert (tab.page.input_value("#limit-low"), tab.page.input_value("#limit-high")) == ("0.5", "2.5")


def test_automatic_limits_enclose_the_image(tab: Tab, service: RunningService, taken: PreviewFrame) -> None:
    tab.page.select_option("#colormap", "magma")
    ramp = np.linspace(-1, 7, HR_SHAPE[0] * HR_SHAPE[1], dtype=np.float32).reshape(HR_SHAPE)
    show(tab, service, taken, phase_rad=ramp)
    tab.press("a")
    low, high = (float(tab.page.input_value(f"#limit-{end}")) for end in ("low", "high"))
    assert -1.05 <= low <= -0.9
    assert 6.9 <= high <= 7.05


def test_the_scale_bar_has_the_length_that_it_states(tab: Tab) -> None:
    for _ in range(3):
        label = tab.text("scale-label")
        box = tab.page.locator("#scale-line").bounding_box()
        assert box
        match = re.fullmatch(r"([\d.]+) (µm|mm)", label)
        assert match, label
        um = float(match[1]) * (1000 if match[2] == "mm" else 1)
        assert f"{um:e}"[0] in "125"
        zoom = float(tab.text("zoom").rstrip(" %")) / 100
        assert box["width"] == pytest.approx(um * zoom / 0.65, rel=0.02)
        assert 50 <= box["width"] <= 150
        tab.press("+", "+", "+")
        tab.wait_until(lambda before=zoom: float(tab.text("zoom").rstrip(" %")) > 250 * before, "the zoom")
