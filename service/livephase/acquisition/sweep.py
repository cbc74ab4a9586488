"""A short series of frames at several focus positions, for calibration and focus hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from livephase.errors import FocusError
from livephase.phase.exposure import saturated_fraction
from livephase.phase.focus import SweepOptics

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.microscope import Microscope

SATURATED_FRACTION: Final = 0.02
"""With more pixels at the highest count the contrast is not that of the specimen."""


def optics_of(config: MicroscopeConfig) -> SweepOptics:
    """Return the optics of a microscope."""
    return SweepOptics(config.wavelength_um, config.objective_na, config.coherence, config.lr_pixel_um)


def take_frames(
    microscope: Microscope, move: Callable[[int], object], count: int, before: Callable[[], None]
) -> tuple[list[NDArray[Any]], int]:
    """Take ``count`` frames, each after ``move(index)``.

    Parameters
    ----------
    microscope : Microscope
        Open, without a running sequence.
    move : callable
        Goes to the position of a frame, and returns when that is confirmed.
    count : int
        Of frames.
    before : callable
        Called before each exposure; may raise to end the sweep.

    Returns
    -------
    (list of NDArray, int)
        Counts (Y, X), and the camera's bit depth.

    Raises
    ------
    FocusError
        A frame is overexposed.
    """
    frames: list[NDArray[Any]] = []
    bit_depth = 8
    for index in range(count):
        before()
        move(index)
        frame = microscope.snap()
        bit_depth = frame.bit_depth
        saturated = saturated_fraction(frame.pixels, bit_depth)
        if saturated > SATURATED_FRACTION:
            raise FocusError(f"{100 * saturated:.0f} % of the pixels are overexposed; lower the exposure")
        frames.append(frame.pixels)
    return frames, bit_depth
