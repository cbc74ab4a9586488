"""Re-propagation: the camera frame that a reconstructed phase would have given.

::

    phase (4Y,4X) ─ exp(i phase) ─▶ mean of 2x2 ─▶ angular spectrum ─▶ |.|^2 ─▶ condenser blur ─▶ mean of 2x2 ─▶ (Y,X)

Two samples for each camera pixel carry everything that the pixel passes on (its transfer falls to zero at the
Nyquist frequency of that grid), at a quarter of the cost of the HR grid.

The condenser costs one filter instead of a superposition of tilted images. In the Fresnel approximation the image
of a thin object under the tilt u (cycles per um) is the on-axis image moved by wavelength * z * u, so an evenly lit
condenser disc of radius S * NA / wavelength moves it over a disc of radius z * S * NA, whose transfer function is
2 J1(x) / x with x = 2 pi z S NA |u|. What is left out is the pupil's cut of the tilted spectrum.
``livephase_devices.optics`` sums the tilted images one by one (Zhou et al. 2023 eq. 1 and 2) and is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.special import j1

from livephase.phase.conditions import Conditions

SCALE = 4
"""HR pixels per LR pixel along an axis."""

Floats = NDArray[np.float32]

_KERNELS_KEPT = 4


@dataclass(frozen=True, slots=True)
class ImagingOptics(Conditions):
    """Conditions of a frame with all that its image depends on: S has a value, and the aperture is stated.

    Attributes
    ----------
    coherence : float
        S = NA_condenser / NA_objective.
    objective_na : float
        Numerical aperture of the objective.
    """

    coherence: float
    objective_na: float

    @property
    def reach_px(self) -> float:
        """LR pixels over which defocus and condenser spread light that the camera resolves."""
        diffraction = self.wavelength_um / (2 * self.lr_pixel_um)
        return abs(self.defocus_um) * (diffraction + self.coherence * self.objective_na) / self.lr_pixel_um


def predict(phase_rad: NDArray[np.floating], optics: ImagingOptics, threads: int = 1) -> Floats:
    """Predict the frame of a pure phase object.

    Parameters
    ----------
    phase_rad : NDArray[floating]
        (4Y, 4X) in rad; finite. The field is taken as periodic.
    optics : ImagingOptics
        How the frame was imaged.
    threads : int
        Of the Fourier transforms.

    Returns
    -------
    NDArray[float32]
        (Y, X) intensity, 1 for an empty field.
    """
    phase = np.asarray(phase_rad, np.float32)
    field = np.empty((phase.shape[0] // 2, phase.shape[1] // 2), np.complex64)
    field.real = halve(np.cos(phase))
    field.imag = halve(np.sin(phase))
    kernel, blur = _kernels(field.shape, optics)
    spectrum = scipy.fft.fft2(field, overwrite_x=True, workers=threads)
    spectrum *= kernel
    wave = scipy.fft.ifft2(spectrum, overwrite_x=True, workers=threads)
    image = wave.real**2
    image += wave.imag**2
    filtered = scipy.fft.rfft2(image, workers=threads)
    filtered *= blur
    return halve(_real(filtered, image.shape, threads))


def absorption_term(phase_rad: NDArray[np.floating], optics: ImagingOptics, threads: int = 1) -> Floats:
    """Derivative of the predicted frame by kappa, where the object's amplitude is exp(-kappa * phase).

    Weak-object transfer of amplitude: -2 cos(pi wavelength z u^2), with the condenser's blur.

    Parameters
    ----------
    phase_rad, optics, threads
        As in ``predict``.

    Returns
    -------
    NDArray[float32]
        (Y, X) in rad; kappa in 1/rad times this is a relative intensity.
    """
    amplitude = halve(halve(np.asarray(phase_rad, np.float32)))
    spectrum = scipy.fft.rfft2(amplitude, workers=threads)
    spectrum *= _amplitude_transfer(amplitude.shape, optics)
    return _real(spectrum, amplitude.shape, threads)


def halve(image: Floats) -> Floats:
    """Average blocks of 2x2; sides are even."""
    rows = image[0::2] + image[1::2]
    return np.multiply(rows[:, 0::2] + rows[:, 1::2], 0.25, dtype=np.float32)


def _real(half_spectrum: NDArray[np.complexfloating], shape: tuple[int, ...], threads: int) -> Floats:
    """Transform back; scipy keeps single precision, which its type stubs don't say."""
    return cast("Floats", scipy.fft.irfft2(half_spectrum, s=shape, overwrite_x=True, workers=threads))


@lru_cache(_KERNELS_KEPT)
def _kernels(shape: tuple[int, int], optics: ImagingOptics) -> tuple[NDArray[np.complex64], Floats]:
    """Kernels on the grid with two samples for each camera pixel: of the field, and of the intensity."""
    pixel_um = optics.lr_pixel_um / SCALE
    u_y = np.fft.fftfreq(shape[0], 2 * pixel_um).astype(np.float32)[:, None]
    u_x = np.fft.fftfreq(shape[1], 2 * pixel_um).astype(np.float32)[None, :]
    squared = u_y**2 + u_x**2
    wavelength = np.float32(optics.wavelength_um)
    cosine = np.sqrt(np.maximum(1 - wavelength**2 * squared, 0))
    # sqrt(1 - (wavelength u)^2) - 1 without the cancellation that would cost single precision its digits
    angle = squared / (cosine + 1) * np.float32(-2 * np.pi * optics.wavelength_um * optics.defocus_um)
    # The mean of 2x2 field samples acts as a filter, and is undone here; the camera pixel's mean is made of the
    # mean of 2x2 on this grid, which comes later, and of the same filter.
    mean = np.cos(np.pi * pixel_um * u_y) * np.cos(np.pi * pixel_um * u_x)
    size = (squared <= np.float32((optics.objective_na / optics.wavelength_um) ** 2)) / mean
    kernel = np.empty(shape, np.complex64)
    kernel.real = size * np.cos(angle)
    kernel.imag = size * np.sin(angle)
    half = shape[1] // 2 + 1
    return kernel, (_condenser_transfer(squared[:, :half], optics) * mean[:, :half]).astype(np.float32)


@lru_cache(_KERNELS_KEPT)
def _amplitude_transfer(shape: tuple[int, int], optics: ImagingOptics) -> Floats:
    u_y = np.fft.fftfreq(shape[0], optics.lr_pixel_um)[:, None]
    u_x = np.fft.rfftfreq(shape[1], optics.lr_pixel_um)[None, :]
    squared = u_y**2 + u_x**2
    transfer = -2 * np.cos(np.pi * optics.wavelength_um * optics.defocus_um * squared)
    return (transfer * _condenser_transfer(squared, optics)).astype(np.float32)


def _condenser_transfer(squared: NDArray[np.floating], optics: ImagingOptics) -> NDArray[np.floating]:
    radius_um = abs(optics.defocus_um) * optics.coherence * optics.objective_na
    x = np.maximum(2 * np.pi * radius_um * np.sqrt(squared), 1e-6)
    return 2 * j1(x) / x
