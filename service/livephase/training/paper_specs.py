"""Which datasets the paper has, and how a frame of one is taken (Zhou et al. 2023, section 2.2).

The noise is added to the high-resolution intensity BEFORE the binning, as in the paper, which leaves an sd of
0.01 / 4 = 0.0025 on the binned frame. ``noise_on="binned"`` adds it to the binned frame instead, which is four times
harder; livephase's own figures use that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from livephase_devices.optics import OpticalSetup, bin_pixels, intensity

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 4
NOISE_SD = 0.01
HR_PIXEL_UM = 0.65
_SOURCE_POINTS = 12
"""Samples of the condenser: at S = 0.4 and z = 4 um the binned frame is then 0.0016 rms from one with 96 samples,
which is below its noise of 0.0025."""


@dataclass(frozen=True, slots=True)
class SetSpec:
    """How the frames of one dataset are made: the paper's 10x / 0.4 NA optics, a pure phase object.

    Attributes
    ----------
    name : str
        For tables and figures; two sets that differ in name only are one.
    defocus_um : float
        Distance z.
    coherence : float
        S; 0 is a plane wave.
    noise_sd : float
        Standard deviation of the Gaussian noise, where an empty field has the intensity 1.
    noise_on : {"hr", "binned"}
        Whether noise is added before the binning (the paper) or after it.
    """

    name: str
    defocus_um: float
    coherence: float = 0.0
    noise_sd: float = NOISE_SD
    noise_on: Literal["hr", "binned"] = "hr"

    @property
    def setup(self) -> OpticalSetup:
        """The optics: 0.55 um, NA 0.4, 0.65 um HR pixel, 2.6 um camera pixel."""
        return OpticalSetup(0.55, 0.4, self.coherence, HR_PIXEL_UM, SCALE)

    @property
    def digest(self) -> str:
        """SHA-256 of what a frame depends on beside its phase field."""
        setup = self.setup
        optics = [setup.wavelength_um, setup.objective_na, setup.coherence, setup.hr_pixel_um, setup.binning]
        content = [optics, self.defocus_um, self.noise_sd, self.noise_on, _SOURCE_POINTS]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


DEFOCUS_SETS: tuple[SetSpec, ...] = tuple(SetSpec(f"z = {z} um", float(z)) for z in range(1, 14))
"""z = 1..13 um, coherent."""
COHERENCE_SETS: tuple[SetSpec, ...] = tuple(SetSpec(f"S = {s / 10:.1f}", 4.0, s / 10) for s in range(5))
"""S = 0..0.4 at z = 4 um; S = 0 is the defocus set of 4 um."""


def expose(
    phase_rad: NDArray[np.float32], margin_px: int, spec: SetSpec, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Take the frame of a set: propagation, noise and binning in the paper's order.

    Parameters
    ----------
    phase_rad : NDArray[float32]
        (Y + 2 M, X + 2 M) radians, taken as periodic.
    margin_px : int
        M, cut off after the propagation; Y and X are multiples of 4.
    spec : SetSpec
        The set.
    rng : numpy.random.Generator
        Draws the noise.

    Returns
    -------
    NDArray[float32]
        (Y / 4, X / 4) relative intensity.
    """
    image = intensity(phase_rad, spec.setup, spec.defocus_um, points=_SOURCE_POINTS)
    image = image[margin_px : image.shape[0] - margin_px, margin_px : image.shape[1] - margin_px]
    if spec.noise_on == "hr":
        image = image + np.float32(spec.noise_sd) * rng.standard_normal(image.shape, dtype=np.float32)
    frame = bin_pixels(image, SCALE)
    if spec.noise_on == "binned":
        frame = frame + np.float32(spec.noise_sd) * rng.standard_normal(frame.shape, dtype=np.float32)
    return np.asarray(frame, np.float32)
