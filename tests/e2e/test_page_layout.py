"""The page as a whole: it fits, can be read, named and reached by keyboard, and loads nothing from elsewhere."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from e2e.conftest import RunningService, Tab

pytestmark = pytest.mark.browser


def test_nothing_is_loaded_from_elsewhere(tab: Tab, service: RunningService) -> None:
    assert {urlsplit(url).netloc for url in tab.requests} == {urlsplit(service.url).netloc}
    assert "default-src 'none'" in (tab.page.locator("meta[http-equiv]").get_attribute("content") or "")


def test_shortcuts_are_listed(tab: Tab) -> None:
    tab.press("?")
    dialog = tab.page.locator("#shortcuts")
    dialog.wait_for()
    for text in ("start or stop live", "automatic contrast", "next colour map", "fit the field of view"):
        assert text in (dialog.text_content() or "")
    tab.page.keyboard.press("Escape")
    assert not dialog.is_visible()
    tab.page.select_option("#colormap", "magma")
    for name in ("grey", "diverging", "viridis", "cividis", "magma"):
        tab.press("c")
        assert tab.page.input_value("#colormap") == name


CONTRASTS = """() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => {
        const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const [r, g, b, a = 1] = parts(getComputedStyle(at).backgroundColor);
            if (a > 0.5) return [r, g, b];
        }
        return [10, 10, 11];
    };
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own && !element.matches("input, select")) continue;
        if (!element.checkVisibility()) continue;
        const text = light(parts(getComputedStyle(element).color).slice(0, 3));
        const back = light(ground(element));
        found.push([element.id || element.className || element.tagName,
            (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05)]);
    }
    return found;
}"""


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 768), (390, 844)])
def test_the_page_fits_and_can_be_read(tab: Tab, width: int, height: int) -> None:
    tab.page.set_viewport_size({"width": width, "height": height})
    tab.wait_until(lambda: tab.canvas_size()[0] <= width, "the layout")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    for button in ("#live", "#fit", "#auto"):
        box = tab.page.locator(button).bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    shown = tab.canvas_size()
    assert shown[0] * shown[1] > 0.28 * width * height, "the image has the larger part"
    contrasts = tab.page.evaluate(CONTRASTS)
    assert len(contrasts) > 20
    assert [entry for entry in contrasts if entry[1] < 4.5] == []


def test_every_control_has_a_name(tab: Tab) -> None:
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas, progress")]
            .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length))
            .map((e) => e.id || e.outerHTML)"""
    )
    assert unnamed == []


def test_the_focus_can_be_seen_and_goes_through_the_controls(tab: Tab) -> None:
    tab.page.locator("#canvas").focus()
    seen: list[str] = []
    for _ in range(12):
        tab.page.keyboard.press("Tab")
        name, outline = tab.page.evaluate(
            """() => {
                const at = document.activeElement;
                const mark = at.matches(".segments input") ? at.nextElementSibling : at;
                return [at.id, getComputedStyle(mark).outlineStyle];
            }"""
        )
        assert outline == "solid", name
        seen.append(name)
    assert [name for name, _ in itertools.groupby(seen)] == seen
    assert {"live", "limit-low", "limit-high", "colormap", "auto", "plan-name"} <= set(seen)
