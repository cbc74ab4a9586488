"""The forward model: from phase to the light on a camera behind a bright-field microscope.

Written once against the array API standard: the simulated camera calls it with numpy arrays, training with torch
tensors. Steps: thin object, partially coherent defocused image (angular spectrum and Abbe superposition, Zhou et al.
2023 eq. 1 and 2), pixel binning. ``sensor`` turns the light into counts.

Sign of defocus: positive ``defocus_um`` propagates the object's exit field by a positive distance (the kernel of
eq. 1), so a weak phase bump (positive where the cell delays light, a converging lens) gets brighter at its centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from array_api_compat import array_namespace, device

Array = Any
"""A numpy array or a torch tensor."""

_GOLDEN_ANGLE_RAD = np.pi * (3.0 - np.sqrt(5.0))
DEFAULT_SOURCE_POINTS = 8


@dataclass(frozen=True, slots=True)
class OpticalSetup:
    """Constants of a bright-field microscope.

    Attributes
    ----------
    wavelength_um : float
        Mean wavelength of the illumination in um.
    objective_na : float
        Numerical aperture of the objective.
    coherence : float
        Coherence parameter S = NA_condenser / NA_objective; 0 is a plane wave.
    hr_pixel_um : float
        Pixel of the high-resolution grid at the specimen in um.
    binning : int
        HR pixels per camera pixel along an axis.
    """

    wavelength_um: float = 0.55
    objective_na: float = 0.4
    coherence: float = 0.3
    hr_pixel_um: float = 0.65
    binning: int = 4

    @property
    def lr_pixel_um(self) -> float:
        """Camera pixel at the specimen in um."""
        return self.hr_pixel_um * self.binning


def source_points(setup: OpticalSetup, count: int, rotation_rad: float = 0.0) -> np.ndarray:
    """Sample the condenser aperture with points of equal weight.

    Half of them lie on a Vogel spiral (equal area for each point), the others are its mirror image: the aperture of a
    microscope is symmetric, and a lopsided one would show phase in focus, as differential phase contrast does.

    Parameters
    ----------
    setup : OpticalSetup
        Gives the aperture's radius S * NA / wavelength in cycles per um.
    count : int
        Number of points, even; 1 is used where S = 0.
    rotation_rad : float
        Turns the spiral, so that training does not see one pattern only.

    Returns
    -------
    ndarray
        (N, 2) float64: spatial frequencies (u_y, u_x) in cycles per um.

    Raises
    ------
    ValueError
        ``count`` is odd, S > 1 or S * NA >= 1.
    """
    if setup.coherence == 0:
        return np.zeros((1, 2))
    if count % 2:
        msg = f"the condenser is sampled by an even number of points, not {count}"
        raise ValueError(msg)
    if setup.coherence > 1 or setup.coherence * setup.objective_na >= 1:
        msg = (
            f"S = {setup.coherence:g} at NA {setup.objective_na:g} lights the specimen from outside the objective's "
            "aperture; bright-field needs S <= 1 and S x NA < 1"
        )
        raise ValueError(msg)
    index = np.arange(count // 2) + 0.5
    radius = setup.coherence * setup.objective_na / setup.wavelength_um * np.sqrt(index / (count // 2))
    angle = index * _GOLDEN_ANGLE_RAD + rotation_rad
    points = np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    return np.concatenate([points, -points])


def frequencies(field: Array, pixel_um: float) -> tuple[Array, Array]:
    """Spatial frequencies u_y (Y, 1) and u_x (1, X) in cycles per um, float32, of an image's transform."""
    xp = array_namespace(field)
    rows, columns = field.shape[-2:]
    grid = {"dtype": xp.float32, "device": device(field)}
    u_y = xp.asarray(np.fft.fftfreq(rows, pixel_um), **grid)[:, None]
    u_x = xp.asarray(np.fft.fftfreq(columns, pixel_um), **grid)[None, :]
    return u_y, u_x


def _fft2(field: Array, *, inverse: bool = False) -> Array:
    """Transform the last two axes; scipy's multi-threaded transform where the array is numpy's."""
    if isinstance(field, np.ndarray):
        return (scipy.fft.ifft2 if inverse else scipy.fft.fft2)(field, workers=-1)
    xp = array_namespace(field)
    return (xp.fft.ifft2 if inverse else xp.fft.fft2)(field)


def transfer_function(
    field: Array,
    setup: OpticalSetup,
    defocus_um: float,
    tilt: tuple[float, float] = (0.0, 0.0),
    *,
    pupil: bool = True,
) -> Array:
    """Angular-spectrum kernel (eq. 1), limited by the pupil and shifted by an illumination tilt.

    Parameters
    ----------
    field : Array
        (..., Y, X); gives the grid, the array library and the device.
    setup : OpticalSetup
        Wavelength, NA and HR pixel.
    defocus_um : float
        Propagation distance z in um.
    tilt : tuple of float
        Illumination (u_y, u_x) in cycles per um.
    pupil : bool
        False leaves out the objective's aperture and keeps only the propagating waves.

    Returns
    -------
    Array
        (Y, X) complex64: multiplies the object's spectrum; the phase at the tilt itself is removed, which keeps
        single precision exact over long distances.
    """
    xp = array_namespace(field)
    u_y, u_x = frequencies(field, setup.hr_pixel_um)
    wavelength = setup.wavelength_um
    radius_squared = (u_y + tilt[0]) ** 2 + (u_x + tilt[1]) ** 2
    tilt_squared = tilt[0] ** 2 + tilt[1] ** 2
    cosine_squared = 1.0 - wavelength**2 * radius_squared
    cosine = xp.sqrt(xp.clip(cosine_squared, 0.0, None))
    on_axis = float(np.sqrt(1.0 - wavelength**2 * tilt_squared))
    # cosine - on_axis without the cancellation that would cost single precision its digits
    difference = wavelength**2 * (tilt_squared - radius_squared) / (cosine + on_axis)
    angle = difference * (2 * np.pi / wavelength * defocus_um)
    limit = (setup.objective_na / wavelength) ** 2 if pupil else 1.0 / wavelength**2
    inside = xp.astype(radius_squared <= limit, xp.float32)
    return inside * xp.cos(angle) + 1j * (inside * xp.sin(angle))


def object_field(phase_rad: Array, kappa_per_rad: float = 0.0) -> Array:
    """Exit field of a thin object whose amplitude follows its phase.

    Parameters
    ----------
    phase_rad : Array
        (..., Y, X) float32.
    kappa_per_rad : float
        Amplitude is exp(-kappa * phase): measured cells are darker by 1-2 % of intensity per rad in focus.

    Returns
    -------
    Array
        (..., Y, X) complex64, 1 where the phase is 0.
    """
    xp = array_namespace(phase_rad)
    amplitude = xp.exp(-kappa_per_rad * phase_rad)
    return xp.astype(amplitude * xp.cos(phase_rad), xp.float32) + 1j * xp.astype(
        amplitude * xp.sin(phase_rad), xp.float32
    )


def intensity(
    phase_rad: Array,
    setup: OpticalSetup,
    defocus_um: float,
    kappa_per_rad: float = 0.0,
    *,
    points: int = DEFAULT_SOURCE_POINTS,
    rotation_rad: float = 0.0,
) -> Array:
    """Partially coherent image at a defocus by Abbe superposition (eq. 2).

    Parameters
    ----------
    phase_rad : Array
        (..., Y, X) float32, radians on the HR grid; the field is taken as periodic.
    setup : OpticalSetup
        The microscope.
    defocus_um : float
        Distance z in um; positive = the lens focuses above the specimen.
    kappa_per_rad : float
        Coupling of amplitude to phase, see ``object_field``.
    points : int
        Samples of the condenser aperture.
    rotation_rad : float
        Rotation of the samples.

    Returns
    -------
    Array
        (..., Y, X) float32 intensity, 1 for an empty field.
    """
    return field_intensity(
        object_field(phase_rad, kappa_per_rad), setup, defocus_um, points=points, rotation_rad=rotation_rad
    )


def field_intensity(
    field: Array,
    setup: OpticalSetup,
    defocus_um: float,
    *,
    points: int = DEFAULT_SOURCE_POINTS,
    rotation_rad: float = 0.0,
    pupil: bool = True,
) -> Array:
    """Partially coherent image of a thin object of any amplitude; ``intensity`` is the same for a phase.

    Parameters
    ----------
    field : Array
        (..., Y, X) complex64, exit field of the object lit by a plane wave of amplitude 1; periodic.
    setup, defocus_um, points, rotation_rad
        As for ``intensity``.
    pupil : bool
        False for a field that was measured behind the objective, whose aperture has acted already.

    Returns
    -------
    Array
        (..., Y, X) float32 intensity.
    """
    xp = array_namespace(field)
    spectrum = _fft2(field)
    tilts = source_points(setup, points, rotation_rad)
    total = xp.zeros_like(xp.real(field))
    for tilt in tilts:
        kernel = transfer_function(total, setup, defocus_um, (float(tilt[0]), float(tilt[1])), pupil=pupil)
        wave = _fft2(spectrum * kernel, inverse=True)
        total = total + xp.real(wave) ** 2 + xp.imag(wave) ** 2
    return total / len(tilts)


def bin_pixels(image: Array, binning: int) -> Array:
    """Average blocks of pixels, as a larger camera pixel does.

    Parameters
    ----------
    image : Array
        (..., Y, X); Y and X are multiples of ``binning``.
    binning : int
        Pixels per block along an axis.

    Returns
    -------
    Array
        (..., Y / binning, X / binning).

    Raises
    ------
    ValueError
        Y or X is not a multiple of ``binning``.
    """
    rows, columns = image.shape[-2:]
    if rows % binning or columns % binning:
        msg = f"an image of {rows} x {columns} pixels cannot be binned by {binning}; crop it first"
        raise ValueError(msg)
    xp = array_namespace(image)
    blocks = xp.reshape(image, (*image.shape[:-2], rows // binning, binning, columns // binning, binning))
    return xp.mean(blocks, axis=(-3, -1))
