"""Light of a run: levels above the dark, flags, and one message for each change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from livephase.acquisition.lamp import CALM_FRAMES, CHANGED_BOUND, LampMonitor, LampState

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (60, 80)


def frames(levels: list[float], offset: float = 0.0, stop: bool = False) -> list[NDArray[np.uint16]]:
    """Make 12-bit frames of these levels above an offset, with noise; with a field stop if wanted."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    lit = np.hypot(y - 30, x - 40) < 25 if stop else np.ones(SHAPE, bool)
    return [np.round(rng.normal(offset + level * lit, 5.0)).clip(0, 4095).astype(np.uint16) for level in levels]


def judge(monitor: LampMonitor, levels: list[float], **how: float | bool) -> tuple[list[LampState], list[str]]:
    """Judge frames of these levels; return the states and what was told."""
    judged = [monitor.judge(pixels) for pixels in frames(levels, **how)]  # pyright: ignore[reportArgumentType]
    return [light.lamp for light, _ in judged], [news for _, news in judged if news is not None]


@pytest.mark.parametrize(("dark", "stop"), [(True, False), (True, True), (False, True)])
def test_the_level_is_above_the_offset_and_inside_the_stop(dark: bool, stop: bool) -> None:
    monitor = LampMonitor(12, np.full(SHAPE, 100, np.float32) if dark else None)
    levels = [500.0, 550.0, 250.0]
    found = [monitor.judge(pixels)[0] for pixels in frames(levels, offset=100.0, stop=stop)]
    np.testing.assert_allclose([light.level_counts for light in found], levels, atol=1.0)
    relative = np.array([light.level_relative for light in found], np.float64)
    np.testing.assert_allclose(relative, [1, 1.1, 0.5], atol=3e-3)


def test_a_change_is_told_once_and_every_frame_is_flagged() -> None:
    levels = [500.0, 505.0, 400.0, 390.0, 380.0] + [500.0] * (CALM_FRAMES + 3)
    states, told = judge(LampMonitor(12, np.zeros(SHAPE, np.float32)), levels)
    assert states == [LampState.STEADY] * 2 + [LampState.CHANGED] * 3 + [LampState.STEADY] * (CALM_FRAMES + 3)
    assert len(told) == 2
    assert "changed to 80 %" in told[0]
    assert "back at 100 %" in told[1]


def test_flicker_does_not_flood_the_user() -> None:
    levels = [500.0, *(500.0 * (1 + 2 * CHANGED_BOUND * (-1) ** i) for i in range(100))]
    states, told = judge(LampMonitor(12, np.zeros(SHAPE, np.float32)), levels)
    assert states.count(LampState.CHANGED) == 100
    assert len(told) == 1


def test_a_lamp_that_goes_out_is_told_even_when_it_had_changed_before() -> None:
    states, told = judge(LampMonitor(12, np.zeros(SHAPE, np.float32)), [500.0, 420.0, 20.0, 0.0])
    assert states == [LampState.STEADY, LampState.CHANGED, LampState.OUT, LampState.OUT]
    assert ["gone out" in text for text in told] == [False, True]


def test_without_a_dark_frame_an_offset_does_not_hide_that_the_lamp_is_out() -> None:
    states, told = judge(LampMonitor(12, None), [500.0, 0.0], offset=100.0)
    assert states == [LampState.STEADY, LampState.OUT]
    assert len(told) == 1


def test_a_run_that_starts_in_the_dark_takes_its_first_lit_frame_as_reference() -> None:
    monitor = LampMonitor(12, np.full(SHAPE, 100, np.float32))
    found = [monitor.judge(pixels) for pixels in frames([0.0, 0.0, 300.0, 315.0], offset=100.0)]
    assert [light.lamp for light, _ in found] == [LampState.OUT, LampState.OUT, LampState.STEADY, LampState.STEADY]
    assert found[0][0].level_relative is None
    assert found[3][0].level_relative == pytest.approx(1.05, abs=0.01)
    assert "hardly any light" in (found[0][1] or "")
    assert found[1][1] is None
