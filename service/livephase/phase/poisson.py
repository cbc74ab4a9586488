"""Derivatives and the regularised inverse Laplacian of an image, exact for its Fourier or cosine series.

Two borders: a periodic field (Fourier series), and a field mirrored at its edges (cosine series), whose gradient across
the border is zero: no light flows through it. Both classes have the same methods, so a solver is written once.

Spectra of the mirrored field are orthonormal, so a scalar product of spectra is one of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.fft

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Spectrum = NDArray[Any]


class SpectralGrid(Protocol):
    """What the solvers need of a border condition; images are (Y, X) float64, lengths in um.

    Attributes
    ----------
    k_squared : Floats
        Squared angular spatial frequency of each term of a spectrum, rad2 / um2.
    """

    k_squared: Floats

    def forward(self, image: Floats) -> Spectrum:
        """Spectrum of an image."""
        ...

    def inverse(self, spectrum: Spectrum) -> Floats:
        """Image of a spectrum."""
        ...

    def gradient(self, spectrum: Spectrum) -> tuple[Floats, Floats]:
        """Images of the derivatives along y and x, per um."""
        ...

    def divergence(self, flow_y: Floats, flow_x: Floats) -> Spectrum:
        """Spectrum of the divergence of a vector field, per um."""
        ...


class PeriodicGrid:
    """Fourier series: the field repeats beyond its border.

    Parameters
    ----------
    shape : tuple of int
        (Y, X).
    pixel_um : float
        Pixel in um.
    """

    def __init__(self, shape: tuple[int, int], pixel_um: float) -> None:
        self._shape = shape
        k_y = 2 * np.pi * np.fft.fftfreq(shape[0], pixel_um)[:, None]
        k_x = 2 * np.pi * np.fft.rfftfreq(shape[1], pixel_um)[None, :]
        self.k_squared: Floats = k_y**2 + k_x**2
        # At the Nyquist frequency of an even side the derivative of a real image has no defined sign.
        self._d_y, self._d_x = 1j * k_y, 1j * k_x
        if shape[0] % 2 == 0:
            self._d_y[shape[0] // 2] = 0
        if shape[1] % 2 == 0:
            self._d_x[:, -1] = 0

    def forward(self, image: Floats) -> Spectrum:
        """See ``SpectralGrid``."""
        return scipy.fft.rfft2(image)

    def inverse(self, spectrum: Spectrum) -> Floats:
        """See ``SpectralGrid``."""
        return np.asarray(scipy.fft.irfft2(spectrum, s=self._shape), np.float64)

    def gradient(self, spectrum: Spectrum) -> tuple[Floats, Floats]:
        """See ``SpectralGrid``."""
        return self.inverse(self._d_y * spectrum), self.inverse(self._d_x * spectrum)

    def divergence(self, flow_y: Floats, flow_x: Floats) -> Spectrum:
        """See ``SpectralGrid``."""
        return self._d_y * self.forward(flow_y) + self._d_x * self.forward(flow_x)


class MirroredGrid:
    """Cosine series: zero normal derivative at the border.

    The derivative of a cosine series along an axis is a sine series on the same pixels, so both are exact transforms.

    Parameters
    ----------
    shape : tuple of int
        (Y, X).
    pixel_um : float
        Pixel in um.
    """

    def __init__(self, shape: tuple[int, int], pixel_um: float) -> None:
        self._k_y = np.pi * np.arange(shape[0])[:, None] / (shape[0] * pixel_um)
        self._k_x = np.pi * np.arange(shape[1])[None, :] / (shape[1] * pixel_um)
        self.k_squared: Floats = self._k_y**2 + self._k_x**2

    def forward(self, image: Floats) -> Spectrum:
        """See ``SpectralGrid``."""
        return scipy.fft.dctn(image, norm="ortho")

    def inverse(self, spectrum: Spectrum) -> Floats:
        """See ``SpectralGrid``."""
        return scipy.fft.idctn(spectrum, norm="ortho")

    def gradient(self, spectrum: Spectrum) -> tuple[Floats, Floats]:
        """See ``SpectralGrid``."""
        # The sine of term n + 1 stands at index n; a constant has no derivative.
        sines_y = np.roll(-self._k_y * spectrum, -1, axis=0)
        sines_x = np.roll(-self._k_x * spectrum, -1, axis=1)
        along_y = scipy.fft.idct(scipy.fft.idst(sines_y, axis=0, norm="ortho"), axis=1, norm="ortho")
        along_x = scipy.fft.idct(scipy.fft.idst(sines_x, axis=1, norm="ortho"), axis=0, norm="ortho")
        return np.asarray(along_y, np.float64), np.asarray(along_x, np.float64)

    def divergence(self, flow_y: Floats, flow_x: Floats) -> Spectrum:
        """See ``SpectralGrid``."""
        sines_y = scipy.fft.dct(scipy.fft.dst(flow_y, axis=0, norm="ortho"), axis=1, norm="ortho")
        sines_x = scipy.fft.dct(scipy.fft.dst(flow_x, axis=1, norm="ortho"), axis=0, norm="ortho")
        # Rolled, the sine beyond the last cosine comes to index 0, where k is 0.
        return self._k_y * np.roll(sines_y, 1, axis=0) + self._k_x * np.roll(sines_x, 1, axis=1)


def inverse_laplacian(grid: SpectralGrid, regularisation_period_um: float | None = None) -> Floats:
    """Factors that solve laplace(u) = source for spectra; the mean of u is 0.

    Parameters
    ----------
    grid : SpectralGrid
        Border condition and frequencies.
    regularisation_period_um : float or None
        Periods longer than this are damped: -k2 / (k2^2 + k0^4) with k0 = 2 pi / period, which halves the term at that
        period. None: exact.

    Returns
    -------
    Floats
        Factors in um2, shaped as a spectrum.
    """
    k_squared = grid.k_squared
    floor = 0.0 if regularisation_period_um is None else (2 * np.pi / regularisation_period_um) ** 4
    factors = np.zeros_like(k_squared)
    positive = k_squared > 0
    factors[positive] = -k_squared[positive] / (k_squared[positive] ** 2 + floor)
    return factors
