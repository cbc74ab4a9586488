"""Light of a run, frame by frame: its level on the raw counts, and whether the lamp has changed or gone out.

A frame is never dropped for its light: it is stored, its level and a code stand beside it in ``frames/``, and the user
is told once when the light changes, not with every frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from livephase.phase.exposure import saturated_fraction
from livephase.phase.illumination import find_field_stop

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANGED_BOUND: Final = 0.1
"""A level further than this from that of the run's first frame is flagged; growing cells change it by a few %."""
OUT_BOUND: Final = 0.1
"""Below this part of the first frame's level the lamp is out."""
OUT_BOUND_WITH_OFFSET: Final = 0.3
"""The same where the camera's offset is not known and so lies in both levels."""
CALM_FRAMES: Final = 10
"""So many frames in a row have to be better before the next change is told again."""
_LEAST_LEVEL: Final = 1 / 256


class LampState(IntEnum):
    """The codes in ``frames/lamp``."""

    NOT_JUDGED = 0
    """No level is known of the frame."""
    STEADY = 1
    """Within ``CHANGED_BOUND`` of the first frame's level."""
    CHANGED = 2
    """Further away than that."""
    OUT = 3
    """Hardly any light."""


@dataclass(frozen=True, slots=True)
class FrameLight:
    """Light of one frame.

    Attributes
    ----------
    level_counts : float
        Mean of the raw counts inside the field stop, above the dark frame where one is in use.
    level_relative : float or None
        The same over that of the run's first frame with light; None before there is one.
    saturated_fraction : float
        Of the raw counts.
    lamp : LampState
        What it means.
    """

    level_counts: float
    level_relative: float | None
    saturated_fraction: float
    lamp: LampState


class LampMonitor:
    """Judges the frames of one run, in their order.

    Parameters
    ----------
    bit_depth : int
        Bits of the camera.
    dark : NDArray[float32] or None
        Dark frame (Y, X), counts. Without one the level behind a field stop is taken off, and without a stop nothing.
    """

    def __init__(self, bit_depth: int, dark: NDArray[np.float32] | None) -> None:
        self._bit_depth = bit_depth
        self._dark = dark
        self._lit: NDArray[np.bool_] | None = None
        self._offset = 0.0
        self._offset_known = dark is not None
        self._first: float | None = None
        self._told = LampState.STEADY
        self._calm = 0

    def judge(self, pixels: NDArray[Any]) -> tuple[FrameLight, str | None]:
        """Judge a frame of raw counts (Y, X); return its light, and what to tell the user where that is new."""
        if self._first is None:
            self._look(pixels)
        level = float(pixels.mean() if self._lit is None else pixels[self._lit].mean()) - self._offset
        if self._first is None and level >= _LEAST_LEVEL * 2**self._bit_depth:
            self._first = level
        relative = None if self._first is None else level / self._first
        light = FrameLight(level, relative, saturated_fraction(pixels, self._bit_depth), self._state(relative))
        return light, self._news(light)

    def _look(self, pixels: NDArray[Any]) -> None:
        """Find the field stop and the offset; they stay for the run."""
        above = pixels.astype(np.float32)
        if self._dark is not None:
            above -= self._dark
        self._lit = find_field_stop(above)
        lit = np.s_[:] if self._lit is None else self._lit
        if self._dark is not None:
            self._offset = float(self._dark[lit].mean())
        elif self._lit is not None:
            self._offset = float(np.median(above[~self._lit]))
        else:
            self._offset = 0.0
        self._offset_known = self._dark is not None or self._lit is not None

    def _state(self, relative: float | None) -> LampState:
        if relative is None or relative < (OUT_BOUND if self._offset_known else OUT_BOUND_WITH_OFFSET):
            return LampState.OUT
        return LampState.CHANGED if abs(relative - 1) > CHANGED_BOUND else LampState.STEADY

    def _news(self, light: FrameLight) -> str | None:
        if light.lamp > self._told:
            self._told, self._calm = light.lamp, 0
            return _worse(light)
        if light.lamp == self._told:
            self._calm = 0
            return None
        self._calm += 1
        if self._calm < CALM_FRAMES:
            return None
        self._told, self._calm = light.lamp, 0
        return f"the light is back at {100 * (light.level_relative or 0):.0f} % of the run's first frame"


def _worse(light: FrameLight) -> str:
    if light.level_relative is None:
        return (
            f"there is hardly any light (level {light.level_counts:.1f} counts): switch the lamp on, open the shutter;"
            " frames are recorded and flagged"
        )
    percent = f"{100 * light.level_relative:.0f} % of the run's first frame"
    if light.lamp is LampState.OUT:
        return f"the light has gone out: {percent}; look at lamp and shutter. Frames are recorded and flagged"
    return (
        f"the light has changed to {percent}, more than {100 * CHANGED_BOUND:.0f} %: look at the lamp. Frames are"
        " recorded and flagged"
    )
