"""The simulated lamp, the dust on the sensor's window, and the dish that somebody moves by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_GRAIN_SIGMA_PX = (0.8, 3.0)
_GRAIN_DEPTH = (0.05, 0.25)


@dataclass(slots=True)
class Lamp:
    """How bright the light is at an exposure.

    Attributes
    ----------
    level : float
        1 is the standard level; 0 is a lamp that is off, or a closed shutter.
    flicker_sd : float
        Relative standard deviation from one exposure to the next.
    drift_per_frame : float
        Relative change with every exposure, so that a run is the same however fast it goes.
    """

    level: float = 1.0
    flicker_sd: float = 0.0
    drift_per_frame: float = 0.0

    def at(self, exposure: int, seed: int) -> float:
        """Return the light of an exposure, counted since the drift was set; never below 0."""
        flicker = np.random.default_rng([seed, 0x1A, exposure]).normal(0.0, self.flicker_sd)
        return max(0.0, self.level * (1.0 + self.drift_per_frame * exposure) * (1.0 + flicker))


def dust_transmission(shape: tuple[int, int], grains: int, seed: int) -> np.ndarray:
    """Transmission of a dusty sensor window: soft dark spots that stay where they are.

    Parameters
    ----------
    shape : tuple of int
        (Y, X) of the camera.
    grains : int
        Number of grains.
    seed : int
        Chooses place, size and depth.

    Returns
    -------
    ndarray
        (Y, X) float32, 1 where there is no dust.
    """
    rng = np.random.default_rng([seed, 0xD5])
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    result = np.ones(shape, np.float32)
    for _ in range(grains):
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        sigma_px, depth = rng.uniform(*_GRAIN_SIGMA_PX), rng.uniform(*_GRAIN_DEPTH)
        spot = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma_px**2))
        result *= (1.0 - depth * spot).astype(np.float32)
    return result


def moved_dish(light: np.ndarray, exposure: int, seed: int) -> np.ndarray:
    """Return the light (Y, X) of another place of the dish: the field is periodic, so shifting it adds no edge."""
    rng = np.random.default_rng([seed, 0x3D, exposure])
    rows, columns = (int(rng.integers(0, side)) for side in light.shape)
    return np.roll(light, (rows, columns), axis=(0, 1))
