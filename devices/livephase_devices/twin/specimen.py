"""The specimen: the true high-resolution phase of the simulated culture at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from livephase_devices.twin.cell import CellLook, render_cell, texture_tile
from livephase_devices.twin.culture import DAUGHTER_SEPARATION_UM, Culture

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MARGIN_UM = 60.0
_DEBRIS_PER_MM2 = 25.0


class Specimen:
    """A field of view over a simulated culture.

    Parameters
    ----------
    seed : int
        Chooses the culture, its cells and the debris.
    shape : tuple of int
        (Y, X) of the HR grid.
    pixel_um : float
        HR pixel in um.
    wavelength_um : float
        Wavelength at which the phase is stated.
    density_per_mm2, spread_um2_per_pg : float
        See ``Culture``.
    """

    def __init__(
        self,
        seed: int = 1,
        shape: tuple[int, int] = (1960, 2588),
        pixel_um: float = 0.65,
        wavelength_um: float = 0.55,
        density_per_mm2: float = 90.0,
        spread_um2_per_pg: float = 2.2,
    ) -> None:
        self.seed = seed
        self.shape = shape
        self.pixel_um = pixel_um
        self.wavelength_um = wavelength_um
        size_um = (shape[0] * pixel_um + 2 * _MARGIN_UM, shape[1] * pixel_um + 2 * _MARGIN_UM)
        self.culture = Culture(seed, size_um, density_per_mm2, spread_um2_per_pg)
        self._texture = texture_tile(seed)
        self._debris = self._render_debris()

    def phase_rad(self, time_s: float) -> NDArray[np.float32]:
        """Render the true phase.

        Parameters
        ----------
        time_s : float
            Biological seconds since the founders were seeded.

        Returns
        -------
        NDArray[float32]
            (Y, X) radians, 0 in the medium. The same seed and time give the same pixels.
        """
        image = self._debris.copy()
        cells = self.culture.at(time_s)
        radius, roundness, furrow, mass = cells.radius_um(), cells.roundness(), cells.furrow(), cells.mass_pg
        for i in range(len(cells)):
            look = CellLook(
                look_seed=int(self.seed * 1_000_003 + cells.cell_id[i]),
                heading_rad=float(cells.heading_rad[i]),
                radius_um=float(radius[i]),
                roundness=float(roundness[i]),
                furrow=float(furrow[i]),
                separation_um=DAUGHTER_SEPARATION_UM,
                mass_pg=float(mass[i]),
                time_s=time_s,
            )
            self._add(image, look, float(cells.y_um[i]) - _MARGIN_UM, float(cells.x_um[i]) - _MARGIN_UM)
        return image

    def _add(self, image: NDArray[np.float32], look: CellLook, y_um: float, x_um: float) -> None:
        reach_um = look.radius_um * (2.6 if look.roundness < 1 else 1.2) + look.furrow * look.separation_um
        half = int(np.ceil(reach_um / self.pixel_um))
        y_px, x_px = y_um / self.pixel_um, x_um / self.pixel_um
        row, column = int(np.floor(y_px)), int(np.floor(x_px))
        top, bottom = max(row - half, 0), min(row + half + 1, self.shape[0])
        left, right = max(column - half, 0), min(column + half + 1, self.shape[1])
        if top >= bottom or left >= right:
            return
        patch = render_cell(look, (y_px - row, x_px - column), half, self.pixel_um, self.wavelength_um, self._texture)
        y0, x0 = row - half, column - half
        image[top:bottom, left:right] += patch[top - y0 : bottom - y0, left - x0 : right - x0]

    def _render_debris(self) -> NDArray[np.float32]:
        """Small fixed grains between the cells, so that an empty field is not perfectly empty."""
        rng = np.random.default_rng([self.seed, 0xDE])
        image = np.zeros(self.shape, np.float32)
        area_mm2 = self.shape[0] * self.shape[1] * self.pixel_um**2 * 1e-6
        for _ in range(rng.poisson(_DEBRIS_PER_MM2 * area_mm2)):
            y, x = rng.uniform(0, self.shape[0]), rng.uniform(0, self.shape[1])
            sigma_px = rng.uniform(0.5, 1.3) / self.pixel_um
            half = int(np.ceil(4 * sigma_px))
            rows = np.arange(max(int(y) - half, 0), min(int(y) + half + 1, self.shape[0]))
            columns = np.arange(max(int(x) - half, 0), min(int(x) + half + 1, self.shape[1]))
            grain = np.outer(
                np.exp(-((rows - y) ** 2) / (2 * sigma_px**2)),
                np.exp(-((columns - x) ** 2) / (2 * sigma_px**2)),
            )
            image[np.ix_(rows, columns)] += (rng.uniform(0.2, 1.2) * grain).astype(np.float32)
        return image
