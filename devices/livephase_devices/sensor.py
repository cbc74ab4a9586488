"""The camera's side of the forward model: uneven light, and counts with noise; ``optics`` gives the light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def uneven_illumination(shape: tuple[int, int], strength: float, seed: int) -> np.ndarray:
    """Smooth illumination of mean 1: a vignette and a gradient whose direction follows the seed.

    Parameters
    ----------
    shape : tuple of int
        (Y, X) of the camera.
    strength : float
        Relative fall from the brightest to the darkest place, e.g. 0.1.
    seed : int
        Chooses direction and centre.

    Returns
    -------
    ndarray
        (Y, X) float32.
    """
    rng = np.random.default_rng([seed, 0x111])
    y = np.linspace(-1, 1, shape[0])[:, None]
    x = np.linspace(-1, 1, shape[1])[None, :]
    angle = rng.uniform(0, 2 * np.pi)
    centre = rng.uniform(-0.3, 0.3, size=2)
    vignette = -((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 2
    gradient = 0.5 * (np.cos(angle) * x + np.sin(angle) * y)
    shading = vignette + gradient
    shading = (shading - shading.mean()) / max(np.ptp(shading), 1e-12)
    return (1.0 + strength * shading).astype(np.float32)


@dataclass(frozen=True, slots=True)
class SensorModel:
    """How a camera turns light into counts.

    Attributes
    ----------
    full_well_e : float
        Electrons that fill the range of the converter.
    read_noise_e : float
        Standard deviation of the read noise in electrons.
    bit_depth : int
        8 to 16; the converter clips at 2**bit_depth - 1, which is saturation.
    offset_counts : float
        Black level in counts.
    """

    full_well_e: float = 20_000.0
    read_noise_e: float = 6.0
    bit_depth: int = 8
    offset_counts: float = 0.0

    def expose(self, relative_light: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Take one exposure.

        Parameters
        ----------
        relative_light : ndarray
            (Y, X) float: 1 fills the well.
        rng : numpy.random.Generator
            Shot and read noise are drawn from it.

        Returns
        -------
        ndarray
            (Y, X) uint8 for 8 bits, else uint16.
        """
        electrons = np.clip(relative_light, 0, None) * self.full_well_e
        # Poisson counts this large are Gaussian to better than the read noise, and 20 times faster to draw.
        noisy = electrons + rng.standard_normal(electrons.shape, dtype=np.float32) * np.sqrt(
            electrons + self.read_noise_e**2
        )
        top = 2**self.bit_depth - 1
        counts = np.rint(noisy * ((top - self.offset_counts) / self.full_well_e) + self.offset_counts)
        return np.clip(counts, 0, top).astype(np.uint8 if self.bit_depth <= 8 else np.uint16)
