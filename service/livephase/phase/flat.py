"""Flat field: the light on the empty field, from an empty field or from several fields with cells, and its judgement.

::

    empty   frames ─ each to the same mean ─ mean ─▶ R
    fields  frames ─ - D, each to the same mean ─ median over the frames ─┬─ smoothed ──────────────────────────┬─▶ R
                                                                          └─ what stays in place beyond doubt ──┘

Cells that lie elsewhere in every frame leave the median as a remainder of about their contrast over the root of the
number of frames; smoothing over several cells takes it away. It would take dust away too, which is sharp and belongs
into a flat field: structure is therefore kept where it stands out of the scatter between the frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from scipy.ndimage import binary_dilation, binary_propagation, gaussian_filter

from livephase.errors import ConfigurationError
from livephase.phase.dark import Average
from livephase.phase.exposure import MOST_SATURATED, advise
from livephase.phase.illumination import box_mean, erode, estimate_background, find_field_stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Method = Literal["empty", "fields"]

SMOOTHING_UM: Final = 50.0
"""Sigma of the smoothing at the specimen: twice the width of a cell."""
_LEAST_LEVEL: Final = 0.1
_SEED_SD: Final = 6.0
_GROW_SD: Final = 2.5
_SCATTER_RADIUS_PX: Final = 4
_CONTRAST: Final = 0.02
_DETAIL_RADIUS_PX: Final = 1
_STOP_MARGIN_PX: Final = 4
_SOME_STRUCTURE: Final = 0.01
_MOST_STRUCTURE: Final = 0.04
"""Of the field: a culture in the early days covers 5 % with such contrast, 40 grains of dust 0.6 %."""
_MOST_FLICKER: Final = 0.05
_ROWS: Final = 32
_MEDIAN_SD: Final = 1.2533
"""Standard error of a median over that of a mean, normal distribution."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A measured flat field.

    Attributes
    ----------
    image : NDArray[float32]
        (Y, X) raw counts, offset included.
    smoothing_px : float or None
        Sigma of the smoothing.
    figures : dict
        ``level_fraction`` of the range; ``unevenness``, 5th to 95th percentile of the smooth light over its mean;
        ``structured_fraction`` of the field with sharp contrast above 2 %; ``noise_sd`` of a pixel, relative;
        ``flicker_sd`` of the frames' levels, relative; ``saturated_fraction``, the worst of the frames.
    warnings : list of str
        What is doubtful.
    """

    image: NDArray[np.float32]
    smoothing_px: float | None
    figures: dict[str, float]
    warnings: list[str]


def refuse_exposure(pixels: NDArray[Any], bit_depth: int, exposure_ms: float, offset_counts: float) -> None:
    """Refuse a frame that is too dark or too bright for a flat field, on its raw counts.

    Raises
    ------
    ConfigurationError
        Which of both, and the exposure to set.
    """
    top = 2**bit_depth - 1
    advice = advise(pixels, bit_depth=bit_depth, exposure_ms=exposure_ms, offset_counts=offset_counts)
    if advice.saturated_fraction > MOST_SATURATED:
        raise ConfigurationError(f"the frame is too bright for a flat field: {advice.text}")
    level = float(pixels.mean()) - offset_counts
    if level < _LEAST_LEVEL * top:
        raise ConfigurationError(
            f"the frame is too dark for a flat field: its level is {level:.0f} of {top} counts; open the shutter, or"
            f" expose {advice.suggested_ms:g} ms instead of {exposure_ms:g} ms"
        )


class FlatSeries:
    """Takes the frames of a flat field one by one, and makes it of them.

    Parameters
    ----------
    method : {"empty", "fields"}
        ``"empty"``: nothing but medium is in view. ``"fields"``: cells are, elsewhere in every frame.
    bit_depth : int
        Bits of the camera.
    dark : NDArray[float32] or None
        D (Y, X), counts; None where it is not known.
    pixel_um : float
        Pixel at the specimen.
    """

    def __init__(self, method: Method, bit_depth: int, dark: NDArray[np.float32] | None, pixel_um: float) -> None:
        self._method: Method = method
        self._bit_depth = bit_depth
        self._dark = dark
        self._offset = 0.0 if dark is None else float(np.median(dark))
        self._smoothing_px = SMOOTHING_UM / pixel_um
        self._levels: list[float] = []
        self._saturated: list[float] = []
        self._frames: list[NDArray[Any]] = []
        self._average: Average | None = None

    def add(self, pixels: NDArray[Any], exposure_ms: float) -> None:
        """Take in a frame of raw counts (Y, X); ConfigurationError where it is too dark or too bright."""
        refuse_exposure(pixels, self._bit_depth, exposure_ms, self._offset)
        self._levels.append(float(pixels.mean()) - self._offset)
        self._saturated.append(float(np.count_nonzero(pixels >= 2**self._bit_depth - 1)) / pixels.size)
        if self._method == "fields":
            self._frames.append(pixels)
            return
        if self._average is None:
            self._average = Average((pixels.shape[0], pixels.shape[1]))
        # The lamp's flicker would raise the scatter of every pixel alike.
        light = pixels - (np.float32(0) if self._dark is None else self._dark)
        self._average.add(light, self._levels[0] / self._levels[-1])

    def finish(self) -> Flat:
        """Make the flat field.

        Raises
        ------
        ConfigurationError
            It shows sharp structure over much of the field: cells, or dirt.
        """
        if self._average is not None:
            light = self._average.mean.astype(np.float32)
            error = np.sqrt(self._average.variance() / self._average.count).astype(np.float32)
        else:
            light, error = _median(self._frames, self._dark, self._levels)
        lit = find_field_stop(light)
        valid = np.ones(light.shape, np.bool_) if lit is None else erode(lit, _STOP_MARGIN_PX)
        level = float(light[valid].mean())
        # Neighbours scatter alike; a single pixel's scatter over a few frames is too uncertain to judge by.
        error = np.sqrt(box_mean(error**2, _SCATTER_RADIUS_PX))
        smooth, kept = _separate(light, error, valid, self._smoothing_px)
        structured = _structured(light, smooth, error, valid)
        noise = float(np.median(error[valid])) / level
        if self._average is None:
            light = np.where(kept | ~valid, light, smooth).astype(np.float32)
            noise = 0.0
        low, high = np.percentile(smooth[valid], (5, 95))
        figures = {
            "level_fraction": level / (2**self._bit_depth - 1),
            "unevenness": float(high - low) / level,
            "structured_fraction": structured,
            "noise_sd": noise,
            "flicker_sd": float(np.std(self._levels) / np.mean(self._levels)),
            "saturated_fraction": max(self._saturated),
        }
        smoothing_px = None if self._average is not None else self._smoothing_px
        image = light if self._dark is None else light + self._dark
        return Flat(image.astype(np.float32), smoothing_px, figures, _judged(figures, self._method, self._dark is None))


def _median(
    frames: Sequence[NDArray[Any]], dark: NDArray[np.float32] | None, levels: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Median over frames brought to the level of the first, and its standard error, in bands of rows."""
    shape = frames[0].shape
    light, error = np.empty(shape, np.float32), np.empty(shape, np.float32)
    scale = (np.float32(levels[0]) / np.array(levels, np.float32))[:, None, None]
    for first in range(0, shape[0], _ROWS):
        rows = slice(first, first + _ROWS)
        band = np.stack([frame[rows] for frame in frames]).astype(np.float32)
        if dark is not None:
            band -= dark[rows]
        band *= scale
        light[rows] = np.median(band, axis=0)
        scatter = 1.4826 * np.median(np.abs(band - light[rows]), axis=0)
        error[rows] = _MEDIAN_SD * scatter / np.sqrt(len(frames))
    return light, error


def _separate(
    light: NDArray[np.float32], error: NDArray[np.float32], valid: NDArray[np.bool_], sigma_px: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Divide a flat field into smooth light and the places of sharp structure that stays in every frame."""
    background = estimate_background(light, valid)
    kept = np.zeros(light.shape, np.bool_)
    smooth = light
    # Twice: the first smoothing still contains the dust.
    for _ in range(2):
        smooth = background * _smoothed(light / background, valid & ~kept, sigma_px)
        score = np.abs(light - smooth) / np.maximum(error, 1e-6 * smooth)
        seeds = (score > _SEED_SD) & valid
        kept = binary_propagation(seeds, mask=(score > _GROW_SD) & valid)
        kept = binary_dilation(kept, iterations=1) & valid
    return smooth, kept


def _smoothed(image: NDArray[np.float32], used: NDArray[np.bool_], sigma_px: float) -> NDArray[np.float32]:
    """Gaussian mean over the used pixels only; 1 where there are none near."""
    weight = gaussian_filter(used.astype(np.float32), sigma_px, mode="reflect")
    total = gaussian_filter(np.where(used, image - 1, 0).astype(np.float32), sigma_px, mode="reflect")
    return (1 + total / np.maximum(weight, 1e-3)).astype(np.float32)


def _structured(
    light: NDArray[np.float32], smooth: NDArray[np.float32], error: NDArray[np.float32], valid: NDArray[np.bool_]
) -> float:
    """Fraction of the valid field with sharp contrast, beyond the noise of single pixels."""
    side = 2 * _DETAIL_RADIUS_PX + 1
    detail = np.abs(box_mean(light / smooth - 1, _DETAIL_RADIUS_PX))
    bound = np.maximum(_CONTRAST, _SEED_SD * error / smooth / side)
    return float((detail > bound)[valid].mean())


def _judged(figures: dict[str, float], method: Method, without_dark: bool) -> list[str]:
    fraction = figures["structured_fraction"]
    shown = (
        f"sharp structure of more than {100 * _CONTRAST:.0f} % contrast stays over {100 * fraction:.1f} % of the field"
    )
    advice = {
        "empty": "move to a place without cells, or let the dish be moved between frames (method 'fields')",
        "fields": "move the dish further between the frames, take more of them, or clean the optics",
    }[method]
    if fraction > _MOST_STRUCTURE:
        raise ConfigurationError(f"this is no flat field: {shown}; {advice}")
    warnings: list[str] = []
    if fraction > _SOME_STRUCTURE:
        warnings.append(f"{shown}; dust belongs there, cells do not: {advice}.")
    if figures["flicker_sd"] > _MOST_FLICKER:
        warnings.append(f"the lamp varied by {100 * figures['flicker_sd']:.0f} % (sd) between the frames.")
    if without_dark:
        warnings.append("no dark frame was in use: an offset of the camera makes this flat field too flat.")
    return warnings
