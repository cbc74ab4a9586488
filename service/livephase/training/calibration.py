"""Calibrate a model's misfit: matched frames of unseen specimens, reconstructed and re-propagated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from livephase.phase.consistency import Comparison, compare
from livephase.phase.misfit_calibration import MisfitCalibration
from livephase.phase.preprocess import prepare
from livephase.phase.propagation import SCALE, ImagingOptics
from livephase.training.fields import measured_field, simulated_field
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity
from livephase_devices.sensor import uneven_illumination

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import nn

    from livephase.training.recipe import Recipe

    Reconstruct = Callable[[NDArray[np.float32], ImagingOptics], NDArray[np.float32]]
    """From the network's input (H, W), see ``preprocess.Prepared``, to its phase (4H, 4W) in rad."""

Range = tuple[float, float]

BIT_DEPTH = 8
SOURCE_POINTS = 16
SHADING = 0.1
"""Illumination of matched frames varies by this much over the field; flat-fielding estimates it."""

SPECIMENS = 32
"""Simulated cultures that a network is calibrated on."""
_FRAMES_FOR_EACH = 4
_UNSEEN_SEED = 876_000_000
_LEVEL = 0.6
"""Mean counts over the largest count."""


@dataclass(frozen=True, slots=True)
class MatchedRange:
    """Ranges that the optics and the noise of matched frames are drawn from; uniform, noise log-uniform."""

    defocus_um: Range
    wavelength_um: Range
    lr_pixel_um: Range
    coherence: Range
    noise_sd: Range
    kappa_per_rad: Range
    objective_na: float

    def draw(self, rng: np.random.Generator) -> tuple[ImagingOptics, float, float]:
        """Draw optics, noise sd and kappa (1/rad)."""
        optics = ImagingOptics(
            defocus_um=rng.uniform(*self.defocus_um),
            wavelength_um=rng.uniform(*self.wavelength_um),
            lr_pixel_um=rng.uniform(*self.lr_pixel_um),
            coherence=rng.uniform(*self.coherence),
            objective_na=self.objective_na,
        )
        return optics, float(np.exp(rng.uniform(*np.log(self.noise_sd)))), rng.uniform(*self.kappa_per_rad)


def image(
    phase_rad: NDArray[np.float32], optics: ImagingOptics, kappa_per_rad: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Image a phase (4Y, 4X) as the camera would, without noise, (Y, X) around a level of 1."""
    setup = OpticalSetup(
        optics.wavelength_um, optics.objective_na, optics.coherence, optics.lr_pixel_um / SCALE, binning=SCALE
    )
    turn_rad = rng.uniform(0, 2 * np.pi)
    return bin_pixels(
        intensity(phase_rad, setup, optics.defocus_um, kappa_per_rad, points=SOURCE_POINTS, rotation_rad=turn_rad),
        SCALE,
    )


def expose(light: NDArray[np.float32], noise_sd: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn intensity (Y, X) into counts: uneven light, noise relative to the mean, 8 bits."""
    light = light * uneven_illumination(light.shape, SHADING, int(rng.integers(2**31)))
    light = light / light.mean() + np.float32(noise_sd) * rng.standard_normal(light.shape, dtype=np.float32)
    top = 2**BIT_DEPTH - 1
    return np.clip(np.rint(light * (_LEVEL * top)), 0, top).astype(np.uint8)


def compare_frame(
    pixels: NDArray[np.uint8], optics: ImagingOptics, reconstruct: Reconstruct, stride: int
) -> Comparison:
    """Reconstruct counts (Y, X) and compare them with what the phase predicts.

    Raises
    ------
    ValueError
        The frame is too small to judge anything.
    """
    prepared = prepare(pixels, bit_depth=BIT_DEPTH, stride=stride, flat_field="auto")
    comparison = compare(prepared, reconstruct(prepared.intensity, optics), optics)
    if comparison is None:
        msg = f"a frame of {pixels.shape} pixels is too small to calibrate with"
        raise ValueError(msg)
    return comparison


def calibrate(
    reconstruct: Reconstruct,
    specimens: Iterator[tuple[NDArray[np.float32], MatchedRange]],
    *,
    stride: int,
    frames_for_each: int = _FRAMES_FOR_EACH,
    seed: int = 1,
) -> MisfitCalibration:
    """Calibrate the misfit of a reconstruction.

    Parameters
    ----------
    reconstruct : callable
        The model.
    specimens : iterator of (NDArray[float32], MatchedRange)
        Phase (4Y, 4X) in rad of specimens that no training saw, and how they are imaged; at least three.
    stride : int
        The network's, see ``preprocess.prepare``.
    frames_for_each : int
        Frames of each specimen, each with its own optics and noise.
    seed : int
        Draws optics, noise and illumination.
    """
    comparisons: list[Comparison] = []
    drawn: list[ImagingOptics] = []
    shown: list[int] = []
    for specimen, (phase, ranges) in enumerate(specimens):
        for frame in range(frames_for_each):
            rng = np.random.default_rng([seed, specimen, frame, 0xCA1])
            optics, noise_sd, kappa = ranges.draw(rng)
            pixels = expose(image(phase, optics, kappa, rng), noise_sd, rng)
            comparisons.append(compare_frame(pixels, optics, reconstruct, stride))
            drawn.append(optics)
            shown.append(specimen)
    return MisfitCalibration.fit(comparisons, drawn, shown)


def calibrate_network(network: nn.Module, recipe: Recipe) -> MisfitCalibration:
    """Calibrate a trained network on unseen simulated cultures and on the measured phases that were held back."""
    valid, optics = recipe.valid, recipe.optics
    pixel_um = sum(optics.hr_pixel_um) / 2
    ranges = MatchedRange(
        valid.defocus_um,
        valid.wavelength_um,
        valid.lr_pixel_um,
        valid.coherence,
        valid.noise_sd,
        optics.kappa_per_rad,
        optics.objective_na,
    )

    def phases() -> Iterator[tuple[NDArray[np.float32], MatchedRange]]:
        for index in range(SPECIMENS):
            yield simulated_field(_UNSEEN_SEED + index, pixel_um=pixel_um, coverage=recipe.data.coverage), ranges
        for path in recipe.real_files(held_back=True):
            yield tiled(measured_field(path)), ranges

    return calibrate(reconstruct_by(network), phases(), stride=int(network.stride))  # type: ignore[arg-type]


def tiled(phase_rad: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mirror a measured phase to four times its area: a larger field without edges, of multiples of 32 pixels."""
    rows, columns = (side // 16 * 16 for side in phase_rad.shape)
    phase = phase_rad[:rows, :columns]
    both = np.concatenate([phase, phase[:, ::-1]], axis=1)
    return np.concatenate([both, both[::-1]], axis=0)


def reconstruct_by(network: nn.Module) -> Reconstruct:
    """Wrap a network in evaluation mode as a reconstruction, in float32 on its device."""
    device = next(network.parameters()).device

    def run(network_input: NDArray[np.float32], optics: ImagingOptics) -> NDArray[np.float32]:
        told = torch.from_numpy(optics.vector())[None].to(device)
        with torch.inference_mode():
            phase = network(torch.from_numpy(network_input)[None, None].to(device), told)
        return phase[0, 0].float().cpu().numpy()

    return run
