"""Figures of merit for phase images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.floating]

PERIOD_BANDS_UM = ((40.0, np.inf), (20.0, 40.0), (10.0, 20.0), (5.2, 10.0), (0.0, 5.2))


def ssim(estimate: Floats, truth: Floats) -> float:
    """Structural similarity (Wang et al. 2004; paper eq. 5-7) with a Gaussian window of sd 1.5 px.

    Parameters
    ----------
    estimate, truth : ndarray
        (Y, X) phase in rad; the data range is that of ``truth``.

    Returns
    -------
    float
        Mean over the image, 1 for equal images.
    """
    return float(ssim_map(estimate, truth, float(np.ptp(truth)))[5:-5, 5:-5].mean())


def ssim_map(estimate: Floats, truth: Floats, data_range: float) -> NDArray[np.float64]:
    """Structural similarity at every pixel, for images of which a part is judged.

    Parameters
    ----------
    estimate, truth : ndarray
        (Y, X) phase in rad.
    data_range : float
        Range of the truth in rad.

    Returns
    -------
    NDArray[float64]
        (Y, X); the outer 5 pixels look beyond the border.
    """
    x, y = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def blur(image: Floats) -> Floats:
        return gaussian_filter(image, 1.5, truncate=3.5)

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    return ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))


def rmse_rad(estimate: Floats, truth: Floats) -> float:
    """Root mean square error in rad."""
    return float(np.sqrt(np.mean((np.asarray(estimate, np.float64) - truth) ** 2)))


def psnr_db(estimate: Floats, truth: Floats) -> float:
    """Peak signal-to-noise ratio in dB; the peak is the range of ``truth``."""
    return float(20 * np.log10(np.ptp(truth) / rmse_rad(estimate, truth)))


def nrmse_by_period(estimate: Floats, truth: Floats, pixel_um: float) -> list[float]:
    """Error over signal within bands of spatial period.

    Parameters
    ----------
    estimate, truth : ndarray
        (Y, X) phase in rad.
    pixel_um : float
        Pixel of the grid.

    Returns
    -------
    list of float
        One for each of ``PERIOD_BANDS_UM``: 0 is perfect, 1 is as bad as an empty estimate. Only the shortest
        periods, which a camera pixel cannot carry, show super-resolution.
    """
    window = np.outer(np.hanning(truth.shape[0]), np.hanning(truth.shape[1]))
    error = np.abs(np.fft.fft2((estimate - truth) * window)) ** 2
    signal = np.abs(np.fft.fft2((truth - truth.mean()) * window)) ** 2
    fy = np.fft.fftfreq(truth.shape[0], pixel_um)[:, None]
    fx = np.fft.fftfreq(truth.shape[1], pixel_um)[None, :]
    with np.errstate(divide="ignore"):
        period = 1 / np.hypot(fy, fx)
    figures: list[float] = []
    for low, high in PERIOD_BANDS_UM:
        band = (period >= low) & (period < high)
        figures.append(float(np.sqrt(error[band].sum() / signal[band].sum())))
    return figures


def correlation(a: Floats, b: Floats) -> float:
    """Pearson correlation of two images."""
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])
