"""Exposure of a camera frame, judged on its raw counts: saturation, brightest level, noise, and what to set instead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.ndimage import convolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

BRIGHTEST_PERCENTILE: Final = 99.9
TARGET: Final = 0.8
"""Where the brightest level should lie, as a fraction of the range: cells that round up focus more light yet."""
MOST_SATURATED: Final = 1e-3
_USEFUL: Final = (0.4, 0.95)
"""Brightest levels that need no advice: below, more light lowers the noise; above, the next bright cell saturates."""
_MOST_FACTOR: Final = 10.0
_SAMPLES: Final = 400_000
_NOISE_SIDE_PX: Final = 320
"""Half the side of the part that the noise is estimated from: enough of a large sensor, and quick."""


def saturated_fraction(pixels: NDArray[Any], bit_depth: int) -> float:
    """Return the fraction of raw counts (Y, X) at the highest count that the camera can give."""
    return float(np.count_nonzero(pixels >= 2**bit_depth - 1)) / pixels.size


def noise_sd(image: NDArray[Any]) -> float:
    """Noise of an image (Y, X) in its unit: by second differences, which smooth images do not have (Immerkaer 1996)."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    second: NDArray[np.float64] = convolve(image.astype(np.float64), kernel, mode="nearest")
    return max(float(1.4826 * np.median(np.abs(second)) / 6), 1e-9)


@dataclass(frozen=True, slots=True)
class ExposureAdvice:
    """What a frame's raw counts say of its exposure.

    Attributes
    ----------
    exposure_ms : float
        Of the frame.
    saturated_fraction : float
        Of its pixels.
    brightest : float
        99.9 % of the pixels are darker: as a fraction of the range.
    offset : float
        Of the camera, as a fraction of the range; 0 where no dark frame is in use.
    noise_sd : float
        Standard deviation of the noise over the level, estimated from the frame.
    suggested_ms : float
        Exposure at which the brightest level is ``TARGET``; of a saturated frame an upper bound.
    suggested_noise_sd : float
        Noise over level at that exposure if photons make the noise: it falls with the root of the light.
    text : str or None
        What to do, where something should be done.
    """

    exposure_ms: float
    saturated_fraction: float
    brightest: float
    offset: float
    noise_sd: float
    suggested_ms: float
    suggested_noise_sd: float
    text: str | None


def advise(pixels: NDArray[Any], *, bit_depth: int, exposure_ms: float, offset_counts: float = 0.0) -> ExposureAdvice:
    """Judge the exposure of a frame.

    Parameters
    ----------
    pixels : NDArray[uint8 or uint16]
        Raw counts (Y, X), before any correction.
    bit_depth : int
        Bits of the camera.
    exposure_ms : float
        Exposure of the frame.
    offset_counts : float
        Counts without light, from a dark frame.
    """
    top = 2**bit_depth - 1
    saturated = saturated_fraction(pixels, bit_depth)
    step = max(1, math.isqrt(pixels.size // _SAMPLES))
    brightest = float(np.percentile(pixels[::step, ::step], BRIGHTEST_PERCENTILE)) / top
    offset = offset_counts / top
    level = max(float(pixels.mean()) - offset_counts, 1e-6)
    middle = tuple(slice(max(0, side // 2 - _NOISE_SIDE_PX), side // 2 + _NOISE_SIDE_PX) for side in pixels.shape)
    noise = noise_sd(pixels[middle]) / level
    if saturated > MOST_SATURATED:
        # How bright it really is cannot be seen any more: a step, and then another look.
        factor = 0.25 if saturated > 0.5 else 0.5
    else:
        factor = min(_MOST_FACTOR, (TARGET - offset) / max(brightest - offset, 1e-6))
    suggested_ms = float(f"{exposure_ms * factor:.3g}")
    suggested_noise = noise / math.sqrt(factor)
    return ExposureAdvice(
        exposure_ms,
        saturated,
        brightest,
        offset,
        noise,
        suggested_ms,
        suggested_noise,
        _text(saturated, brightest, noise, exposure_ms, suggested_ms, suggested_noise),
    )


def foresee(advice: ExposureAdvice, exposure_ms: float) -> str | None:
    """Say what speaks against another exposure, given a frame; None where nothing does.

    Parameters
    ----------
    advice : ExposureAdvice
        Of a frame of the same microscope and light.
    exposure_ms : float
        Exposure that is planned.
    """
    if math.isclose(exposure_ms, advice.exposure_ms, rel_tol=1e-3):
        return advice.text
    factor = exposure_ms / advice.exposure_ms
    brightest = advice.offset + (advice.brightest - advice.offset) * factor
    if advice.saturated_fraction > MOST_SATURATED:
        if exposure_ms <= advice.suggested_ms:
            return None
        return (
            f"the last frame, {advice.exposure_ms:g} ms, was saturated in {100 * advice.saturated_fraction:.1f} % of"
            f" its pixels; the planned {exposure_ms:g} ms should be {advice.suggested_ms:g} ms at most."
        )
    if _USEFUL[0] <= brightest <= _USEFUL[1]:
        return None
    return (
        f"at {exposure_ms:g} ms the brightest parts would reach {100 * brightest:.0f} % of the camera's range (by the"
        f" last frame, {advice.exposure_ms:g} ms); {advice.suggested_ms:g} ms brings them to {100 * TARGET:.0f} %."
    )


def _text(
    saturated: float, brightest: float, noise: float, exposure_ms: float, suggested_ms: float, suggested_noise: float
) -> str | None:
    if saturated > MOST_SATURATED:
        return (
            f"{100 * saturated:.1f} % of the pixels are saturated at {exposure_ms:g} ms: expose {suggested_ms:g} ms at"
            " most, or lower the lamp."
        )
    if brightest > _USEFUL[1]:
        return (
            f"the brightest parts reach {100 * brightest:.0f} % of the camera's range at {exposure_ms:g} ms; "
            f"{suggested_ms:g} ms leaves room for brighter cells."
        )
    if brightest < _USEFUL[0]:
        return (
            f"the brightest parts reach only {100 * brightest:.0f} % of the camera's range at {exposure_ms:g} ms (noise"
            f" {100 * noise:.1f} % of the level); {suggested_ms:g} ms, or more light, lowers it to about"
            f" {100 * suggested_noise:.1f} %."
        )
    return None
