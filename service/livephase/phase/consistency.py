"""When not to believe a phase: re-propagate it, compare with the measured frame, and judge what is left.

::

    frame ─────────────────────────────┐
    phase ─ predict ─▶ predicted frame ┴─ fit level, illumination, kappa ─▶ residual ─ Haar bands ─▶ features
                                                                                                        │
                                         misfit = distance from matched frames (MisfitCalibration) ◀────┘

Level, smooth illumination and the absorption that goes with the phase are no errors of the phase, and are fitted.
The residual is measured in octaves of spatial period (an orthonormal Haar transform, in which camera noise has the
same power in every octave), in units of the noise that the frame itself shows, and against what the network misses
in matched frames. Each octave also tells whether the residual follows the prediction: a network with a wrong defocus
predicts too much or too little contrast.

What cannot be seen: below the first zero of sin(pi wavelength z u^2) the frame depends on z * phase alone, so that a
phase which is too large by the same factor as z is too small explains it as well. The first zero lies beyond the
camera's Nyquist frequency when wavelength * z / pixel^2 < 4. A wrong defocus (or pixel) is then raised only as far
as the network's knowledge of cells keeps its phase from following. See ``docs/misfit.md`` for measured rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from livephase.frames import MISFIT_BLOCK_PX, Misfit
from livephase.phase.illumination import erode
from livephase.phase.misfit_calibration import covariates
from livephase.phase.modelfile import INPUT_GAIN
from livephase.phase.propagation import absorption_term, halve, predict

if TYPE_CHECKING:
    from livephase.phase.misfit_calibration import MisfitCalibration
    from livephase.phase.preprocess import Prepared
    from livephase.phase.propagation import ImagingOptics

Floats = NDArray[np.float32]

BANDS = 6
"""Octaves of the residual: details of 2, 4, ... 64 LR pixels."""
GAIN_BANDS = 5
"""Octaves in which the residual is compared with the prediction; longer ones come from the network's prior."""

_MAP_BANDS = 3
_BORDER_PX = 4
"""Least border that is not judged: its surroundings were made up by reflection."""
_STOP_MARGIN_PX = 8
_NOISE_BLOCK_PX = 8
_NOISE_QUANTILE = 0.2
# A low quantile lies below the mean by what the spread of a block's power makes of it.
_NOISE_BIAS = float(chi2.ppf(_NOISE_QUANTILE, _NOISE_BLOCK_PX**2)) / _NOISE_BLOCK_PX**2
_LEAST_NOISE = 1e-4
_GAIN_FLOOR = 0.2
"""Of the noise power; an empty field predicts nothing, and its gain says nothing."""
_WORST_FRACTION = 0.05
_DEGREE = 3
_KAPPA_RIDGE = 1e-5


@dataclass(frozen=True, slots=True)
class Comparison:
    """A frame compared with its prediction, before any calibration.

    Attributes
    ----------
    noise_sd, kappa_per_rad : float
        See ``Misfit``.
    residual, predicted, cross : NDArray[float64]
        (BANDS,) mean power of the residual and of the predicted contrast in each octave, and their mean product.
    residual_blocks, predicted_blocks : NDArray[float64]
        (3, rows, columns) the same for the finest octaves in blocks of ``MISFIT_BLOCK_PX``; NaN where not judged.
    """

    noise_sd: float
    kappa_per_rad: float
    residual: NDArray[np.float64]
    predicted: NDArray[np.float64]
    cross: NDArray[np.float64]
    residual_blocks: NDArray[np.float64]
    predicted_blocks: NDArray[np.float64]

    def ratio_blocks(self, model_error: NDArray[np.float64]) -> NDArray[np.float64]:
        """Power of the residual over the expected one, (rows, columns), mean over the finest octaves."""
        errors = model_error[:_MAP_BANDS, None, None]
        return (self.residual_blocks / (self.noise_sd**2 + errors * self.predicted_blocks)).mean(axis=0)

    def features(self, model_error: NDArray[np.float64]) -> NDArray[np.float64]:
        """Describe the residual.

        Parameters
        ----------
        model_error : NDArray[float64]
            (BANDS,) power of the residual over power of the predicted contrast in matched frames without noise.

        Returns
        -------
        NDArray[float64]
            (BANDS + GAIN_BANDS + 1,): logarithms of residual over expected residual; gains, which are 0 where the
            residual has nothing of the prediction and -0.1 where 10 % too much contrast was predicted; logarithm of
            the worst blocks' residual over their expected one.
        """
        noise = self.noise_sd**2
        levels = np.log(np.maximum(self.residual, 1e-12) / (noise + model_error * self.predicted)) / 2
        gains = (self.cross / (self.predicted + _GAIN_FLOOR * noise))[:GAIN_BANDS]
        blocks = np.sort(self.ratio_blocks(model_error), axis=None)
        blocks = blocks[np.isfinite(blocks)]
        worst = blocks[-max(1, int(blocks.size * _WORST_FRACTION)) :].mean()
        return np.concatenate([levels, gains, [np.log(max(worst, 1e-12)) / 2]])


def compare(
    prepared: Prepared, phase_rad: NDArray[np.floating], optics: ImagingOptics, threads: int = 1
) -> Comparison | None:
    """Compare a frame with the one that its phase predicts.

    Parameters
    ----------
    prepared : Prepared
        The frame as the network saw it, padding included.
    phase_rad : NDArray[floating]
        (4H, 4W) that the network made of it, padding included; finite.
    optics : ImagingOptics
        How the frame was imaged.
    threads : int
        Of the Fourier transforms.

    Returns
    -------
    Comparison or None
        None where the border and the field stop leave less than one map pixel to judge.
    """
    inner = prepared.inner
    frame = prepared.intensity[inner] / np.float32(INPUT_GAIN) + 1
    weight = _weight(frame.shape, optics, prepared.valid)
    if not np.isfinite(_block_mean(weight, weight, MISFIT_BLOCK_PX)).any():
        return None
    predicted = predict(phase_rad, optics, threads)[inner]
    absorption = absorption_term(phase_rad, optics, threads)[inner]
    illumination, kappa = _fit(frame, predicted, absorption, weight)
    # What the prediction says beyond an empty field under the same illumination.
    contrast = (predicted - 1) * illumination + absorption * np.float32(kappa)
    residual = np.multiply(frame - illumination - contrast, weight, dtype=np.float32)
    return _measure(residual, np.multiply(contrast, weight, dtype=np.float32), weight, kappa)


def judge(comparison: Comparison, optics: ImagingOptics, calibration: MisfitCalibration) -> Misfit:
    """Judge a comparison by what is usual for the model."""
    model_error = np.asarray(calibration.model_error)
    with np.errstate(invalid="ignore"):
        ratios = np.sqrt(comparison.ratio_blocks(model_error))
    return Misfit(
        value=calibration.distance(comparison.features(model_error), covariates(comparison, optics)),
        threshold=calibration.threshold,
        noise_sd=comparison.noise_sd,
        kappa_per_rad=comparison.kappa_per_rad,
        map=np.minimum(ratios, np.finfo(np.float16).max).astype(np.float16),
    )


def _weight(shape: tuple[int, ...], optics: ImagingOptics, valid: NDArray[np.bool_] | None) -> Floats:
    """1 where the frame is judged, else 0, (Y, X)."""
    border = max(_BORDER_PX, int(np.ceil(optics.reach_px)))
    weight = np.zeros(shape, np.float32)
    weight[border:-border, border:-border] = 1
    return weight if valid is None else weight * erode(valid, max(border, _STOP_MARGIN_PX))


def _fit(frame: Floats, predicted: Floats, absorption: Floats, weight: Floats) -> tuple[Floats, float]:
    """Fit illumination (Y, X), a cubic, and kappa: frame = illumination * predicted + kappa * absorption."""
    rows, columns = (side // 4 * 4 for side in frame.shape)
    w, y, p, a = (halve(halve(image[:rows, :columns])).ravel() for image in (weight, frame, predicted, absorption))
    blocks_y, blocks_x = (
        np.arange(1.5, side, 4) / full * 2 - 1 for side, full in zip((rows, columns), frame.shape, strict=True)
    )
    powers = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    terms = [np.outer(blocks_y**i, blocks_x**j).ravel() * p for i, j in powers]
    design = np.stack([*terms, a], axis=1)[w == 1].astype(np.float64)
    normal = design.T @ design
    # An empty field leaves kappa undetermined; the ridge makes it 0 then.
    normal[-1, -1] += _KAPPA_RIDGE * len(design)
    solution = np.linalg.solve(normal, design.T @ y[w == 1])
    full_y, full_x = (np.arange(side) / side * 2 - 1 for side in frame.shape)
    along_x = np.zeros((_DEGREE + 1, _DEGREE + 1))
    for value, (i, j) in zip(solution[:-1], powers, strict=True):
        along_x[i, j] = value
    powers_y = full_y[:, None] ** np.arange(_DEGREE + 1)
    powers_x = full_x[:, None] ** np.arange(_DEGREE + 1)
    return (powers_y @ along_x @ powers_x.T).astype(np.float32), float(solution[-1])


def _measure(residual: Floats, contrast: Floats, weight: Floats, kappa: float) -> Comparison:
    """Measure residual and contrast in Haar octaves; both are 0 where nothing is judged."""
    map_shape = tuple(-(-side // MISFIT_BLOCK_PX) for side in residual.shape)
    residual, contrast, weight = _pad(residual), _pad(contrast), _pad(weight)
    powers = np.zeros((3, BANDS))
    blocks: list[list[NDArray[np.float64]]] = []
    noise_sd = _LEAST_NOISE
    for band in range(BANDS):
        residual, details = _haar(residual)
        contrast, wanted = _haar(contrast)
        weight = halve(weight)
        if band == 0:
            noise_sd = max(_noise_sd(details[2], weight), _LEAST_NOISE)
        products = [np.einsum("kyx,kyx->yx", *pair) for pair in ((details,) * 2, (wanted,) * 2, (details, wanted))]
        powers[:, band] = [float(part.sum(dtype=np.float64)) / (3 * weight.sum(dtype=np.float64)) for part in products]
        if band < _MAP_BANDS:
            means = [_block_mean(part, weight, MISFIT_BLOCK_PX >> (band + 1)) / 3 for part in products[:2]]
            blocks.append([mean[: map_shape[0], : map_shape[1]] for mean in means])
    return Comparison(noise_sd, kappa, *powers, *(np.stack(part) for part in zip(*blocks, strict=True)))


def _haar(image: Floats) -> tuple[Floats, Floats]:
    """One level of the orthonormal Haar transform: means (Y/2, X/2), and details (3, Y/2, X/2), diagonal ones last."""
    total, difference = image[0::2] + image[1::2], image[0::2] - image[1::2]
    mean = total[:, 0::2] + total[:, 1::2]
    details = np.empty((3, *mean.shape), np.float32)
    np.subtract(total[:, 0::2], total[:, 1::2], out=details[0])
    np.add(difference[:, 0::2], difference[:, 1::2], out=details[1])
    np.subtract(difference[:, 0::2], difference[:, 1::2], out=details[2])
    details *= np.float32(0.5)
    return np.multiply(mean, 0.5, dtype=np.float32), details


def _noise_sd(diagonal: Floats, weight: Floats) -> float:
    """Estimate the noise from the finest diagonal details, in the quiet blocks.

    The median of absolute values, which is usual, takes steps of a count in a frame of 8 bits; a power does not.
    """
    size = _NOISE_BLOCK_PX
    rows, columns = (side // size for side in diagonal.shape)
    blocks = diagonal[: rows * size, : columns * size].reshape(rows, size, columns, size)
    power = np.einsum("iajb,iajb->ij", blocks, blocks) / size**2
    whole = weight[: rows * size, : columns * size].reshape(rows, size, columns, size).min(axis=(1, 3)) == 1
    if not whole.any():
        return float(np.sqrt((diagonal**2).sum() / weight.sum()))
    return float(np.sqrt(np.quantile(power[whole], _NOISE_QUANTILE) / _NOISE_BIAS))


def _block_mean(power: Floats, weight: Floats, size: int) -> NDArray[np.float64]:
    rows, columns = (side // size for side in power.shape)
    sums, counts = (
        part[: rows * size, : columns * size].reshape(rows, size, columns, size).sum(axis=(1, 3), dtype=np.float64)
        for part in (power, weight)
    )
    return np.where(counts >= size**2 / 2, sums / np.maximum(counts, 1), np.nan)


def _pad(image: Floats) -> Floats:
    """Add zeros up to multiples of the coarsest detail."""
    block = 2**BANDS
    return np.pad(image, [(0, -side % block) for side in image.shape])
