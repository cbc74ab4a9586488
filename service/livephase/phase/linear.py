"""Single-frame linear phase: the weak-object transfer function of the microscope, inverted by a Wiener filter.

For a weak object exp((i - kappa) phase) the image of a symmetric condenser is linear in the phase: its spectrum is that
of the phase times 2 Re[(i - kappa) M], where M is the amplitude transfer of the defocused pupil averaged over the
condenser (the weak-object form of Zhou et al. 2023, eq. 1 and 2; phase-attenuation duality, Wu and Liu 2004). M comes
from the forward model itself, so that pupil, coherence envelope and signs are the same as in simulation and training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.fft

from livephase_devices.optics import OpticalSetup, source_points, transfer_function

if TYPE_CHECKING:
    from numpy.typing import NDArray

PRIOR_SD_RAD = 0.6
"""Standard deviation of the phase that the filter expects; that of measured fields of adherent cells."""

PRIOR_SCALE_UM = 8.0
"""The expected power spectrum falls as (1 + (u x 2 pi x scale)^2)^-2: level for periods over some 50 um, as u^-4 for
short ones. Measured fields of adherent cells follow it within a factor of 2 from 100 um down to 3 um."""

_SOURCE_POINTS = 256
_LINE_POINTS = 2048


def weak_object_transfer(
    frequency_per_um: NDArray[np.float64],
    *,
    defocus_um: float,
    wavelength_um: float,
    coherence: float,
    objective_na: float,
    kappa_per_rad: float = 0.0,
) -> NDArray[np.float64]:
    """Factor from the spectrum of a weak phase to that of the relative intensity.

    Parameters
    ----------
    frequency_per_um : NDArray
        Radial spatial frequencies in cycles per um, any shape.
    defocus_um : float
        Positive = the lens focuses above the specimen.
    wavelength_um, coherence, objective_na
        As of ``optics.OpticalSetup``.
    kappa_per_rad : float
        Amplitude is exp(-kappa x phase).

    Returns
    -------
    NDArray[float64]
        Intensity per rad, shaped as ``frequency_per_um``.
    """
    # One radius of the transfer function on a line, sampled beyond the highest frequency, then looked up.
    highest = max(float(np.max(frequency_per_um)), 1e-6)
    setup = OpticalSetup(wavelength_um, objective_na, coherence, hr_pixel_um=0.5 / highest * 0.99)
    line = np.zeros((1, _LINE_POINTS), np.float32)
    tilts = source_points(setup, _SOURCE_POINTS)
    mean = sum(transfer_function(line, setup, defocus_um, (float(t[0]), float(t[1])))[0] for t in tilts) / len(tilts)
    transfer = 2 * np.real((1j - kappa_per_rad) * np.asarray(mean))
    frequencies = np.fft.fftfreq(_LINE_POINTS, setup.hr_pixel_um)
    half = _LINE_POINTS // 2
    return np.interp(frequency_per_um, frequencies[:half], transfer[:half])


def linear_phase(
    frame_relative: NDArray[Any],
    *,
    defocus_um: float,
    wavelength_um: float,
    lr_pixel_um: float,
    coherence: float,
    objective_na: float,
    noise_sd: float,
    kappa_per_rad: float = 0.0,
    scale: int = 4,
) -> NDArray[np.float32]:
    """Phase of one defocused frame by linear inversion.

    Solved on the camera's grid, mirrored at its edges, and interpolated by its cosine series, whose terms keep their
    place under the finer pixels of a binned grid. It recovers no period under two camera pixels.

    Parameters
    ----------
    frame_relative : NDArray
        (Y, X) intensity relative to the empty field, level 1.
    defocus_um, wavelength_um, coherence, objective_na, kappa_per_rad
        As for ``weak_object_transfer``.
    lr_pixel_um : float
        Camera pixel at the specimen in um; its averaging is part of the transfer.
    noise_sd : float
        Standard deviation of a camera pixel's noise, relative to the level.
    scale : int
        Phase pixels per camera pixel along an axis.

    Returns
    -------
    NDArray[float32]
        (scale Y, scale X) phase in radians. Its mean is 0 unless amplitude is coupled to the phase.

    Raises
    ------
    ValueError
        The frame is not one finite image, the noise is not positive, ``scale`` is under 1, or the condenser lights from
        outside the objective's aperture.
    """
    frame = np.asarray(frame_relative, np.float64)
    if frame.ndim != 2 or frame.size == 0:
        msg = f"the frame is {frame.shape}: one image (Y, X) is needed"
        raise ValueError(msg)
    if not np.isfinite(frame).all():
        msg = f"the frame has {int((~np.isfinite(frame)).sum())} pixels that are not finite; crop or fill them"
        raise ValueError(msg)
    if not noise_sd > 0 or scale < 1:
        msg = f"noise_sd {noise_sd:g} and scale {scale}: the noise must be positive, the scale at least 1"
        raise ValueError(msg)
    rows, columns = frame.shape
    u_y = np.arange(rows)[:, None] / (2 * rows * lr_pixel_um)
    u_x = np.arange(columns)[None, :] / (2 * columns * lr_pixel_um)
    radius = np.hypot(u_y, u_x)
    transfer = weak_object_transfer(
        radius,
        defocus_um=defocus_um,
        wavelength_um=wavelength_um,
        coherence=coherence,
        objective_na=objective_na,
        kappa_per_rad=kappa_per_rad,
    )
    transfer = transfer * np.sinc(u_y * lr_pixel_um) * np.sinc(u_x * lr_pixel_um)
    # Both are power per area of the frequency plane, rad2 um2: the prior integrates to its variance.
    length_um = 2 * np.pi * PRIOR_SCALE_UM
    prior = PRIOR_SD_RAD**2 * length_um**2 / np.pi / (1 + (radius * length_um) ** 2) ** 2
    noise = (noise_sd * lr_pixel_um) ** 2
    spectrum = scipy.fft.dctn(frame - 1, norm="ortho") * (transfer * prior / (transfer**2 * prior + noise))
    # The binned phase is averaged over its pixel: a fine one is sampled.
    fine = np.zeros((scale * rows, scale * columns))
    fine[:rows, :columns] = spectrum * scale
    return scipy.fft.idctn(fine, norm="ortho").astype(np.float32)
