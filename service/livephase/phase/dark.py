"""Dark frame: average of frames without light, and the judgement whether it was dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from livephase.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_OFFSET: Final = 0.2
_MOST_SPREAD: Final = 0.002
_LEAST_SPREAD_COUNTS: Final = 0.5
_BLOCKS: Final = 8
_HOT_SD: Final = 8.0
_HOT_COUNTS: Final = 2.0
_HOT_FRACTION: Final = 0.005
_MANY_HOT: Final = 1e-3


class Average:
    """Mean and temporal variance of frames of one shape, updated frame by frame (Welford 1962).

    Attributes
    ----------
    count : int
        Frames so far.
    mean : NDArray[float64]
        (Y, X) counts.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(shape)
        self._squares: NDArray[np.float64] = np.zeros(shape)

    def add(self, frame: NDArray[Any], scale: float = 1.0) -> None:
        """Take in a frame (Y, X), multiplied by ``scale``."""
        values = frame * np.float64(scale)
        self.count += 1
        delta = values - self.mean
        self.mean += delta / self.count
        self._squares += delta * (values - self.mean)

    def variance(self) -> NDArray[np.float64]:
        """Temporal variance (Y, X) in counts squared; 0 of a single frame."""
        return self._squares / max(1, self.count - 1)


def refuse_light(frame: NDArray[Any], bit_depth: int) -> None:
    """Refuse a frame, or a mean of frames, that has seen light.

    Light shows by its level, and in a dim frame by the lamp's unevenness and by cells: the means of blocks differ
    more than those of a sensor's offset do.

    Parameters
    ----------
    frame : NDArray
        Counts (Y, X).
    bit_depth : int
        Bits of the camera.

    Raises
    ------
    ConfigurationError
        It is lit; says how much.
    """
    top = 2**bit_depth - 1
    level = float(np.median(frame))
    what = "close the shutter or switch the lamp off, cover the microscope, and measure again"
    if level > _MOST_OFFSET * top:
        raise ConfigurationError(f"this is no dark frame: its level is {level:.0f} of {top} counts; {what}")
    spread = _spread(frame)
    if spread > max(_LEAST_SPREAD_COUNTS, _MOST_SPREAD * top):
        raise ConfigurationError(
            f"this is no dark frame: its level of {level:.1f} counts varies by {spread:.1f} counts over the field, as"
            f" light does; {what}"
        )


def judge_dark(average: Average, bit_depth: int) -> tuple[dict[str, float], list[str]]:
    """Judge an averaged dark frame.

    Parameters
    ----------
    average : Average
        Of the dark frames.
    bit_depth : int
        Bits of the camera.

    Returns
    -------
    dict
        ``offset_counts``; ``read_noise_counts``, temporal sd of a typical pixel; ``fixed_pattern_counts``, sd between
        pixels; ``spread_counts`` over the field; ``hot_pixels``, their number.
    list of str
        What is doubtful.

    Raises
    ------
    ConfigurationError
        It is lit.
    """
    refuse_light(average.mean, bit_depth)
    offset = float(np.median(average.mean))
    pattern = 1.4826 * float(np.median(np.abs(average.mean - offset)))
    bound = max(_HOT_SD * pattern, _HOT_COUNTS, _HOT_FRACTION * 2**bit_depth)
    hot = int(np.count_nonzero(average.mean - offset > bound))
    figures = {
        "offset_counts": offset,
        "read_noise_counts": float(np.sqrt(np.median(average.variance()))),
        "fixed_pattern_counts": pattern,
        "spread_counts": _spread(average.mean),
        "hot_pixels": float(hot),
    }
    warnings: list[str] = []
    if hot > _MANY_HOT * average.mean.size:
        warnings.append(f"{hot} pixels are hot, {100 * hot / average.mean.size:.1f} %: cool the camera or expose less.")
    if offset < 0.5 and float((average.mean <= 0).mean()) > 0.5:
        warnings.append(
            "most pixels give 0 counts: the camera cuts off below its offset, so the darkest parts of a frame are lost;"
            " raise its offset (black level, brightness) if it can be set."
        )
    return figures, warnings


def _spread(frame: NDArray[Any]) -> float:
    """From the 5th to the 95th percentile of medians over 8 x 8 parts of the field: hot pixels do not count."""
    rows = np.array_split(frame, _BLOCKS, axis=0)
    medians = [float(np.mean(_clipped(part))) for row in rows for part in np.array_split(row, _BLOCKS, axis=1)]
    low, high = np.percentile(medians, (5, 95))
    return float(high - low)


def _clipped(part: NDArray[Any]) -> NDArray[Any]:
    low, high = np.percentile(part, (2, 98))
    return np.clip(part, low, high)
