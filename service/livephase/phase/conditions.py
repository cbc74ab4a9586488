"""Imaging conditions of a frame: what a network is told beside the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a frame was taken.

    Attributes
    ----------
    defocus_um : float
        Distance z; positive = the lens focuses above the specimen.
    wavelength_um : float
        Mean wavelength.
    lr_pixel_um : float
        Camera pixel at the specimen.
    coherence : float or None
        S = NA_condenser / NA_objective; None where it is not known.
    """

    defocus_um: float
    wavelength_um: float
    lr_pixel_um: float
    coherence: float | None

    @property
    def defocus_number(self) -> float:
        """Dimensionless defocus, wavelength x z / pixel^2.

        In the paraxial limit of the angular spectrum (paper eq. 1) the transfer from phase to intensity on the
        camera's grid depends on wavelength, defocus and pixel through this number only.
        """
        return self.wavelength_um * self.defocus_um / self.lr_pixel_um**2

    def vector(self) -> NDArray[np.float32]:
        """Return the network's input (3,) float32: defocus number, S or 0, 1 where S is known and else 0."""
        known = self.coherence is not None
        return np.array([self.defocus_number, self.coherence or 0.0, float(known)], np.float32)
