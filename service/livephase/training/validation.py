"""Fixed test sets that no training pair comes from, and the figures of a network on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from livephase.phase.preprocess import reduced_defocus_um
from livephase.training.fields import measured_field, simulated_field
from livephase.training.metrics import nrmse_by_period, psnr_db, rmse_rad, ssim
from livephase.training.pairs import SCALE, network_input
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

_UNSEEN_SEED = 987_000_000
_BORDER_HR_PX = 64
"""Not judged: the propagation is periodic, a field of view is not."""
KAPPA_PER_RAD = 0.01
NOISE_SD = 0.01
COHERENCE = 0.3


@dataclass(frozen=True, slots=True)
class TestFrame:
    """One frame with its truth.

    Attributes
    ----------
    name : str
        The test set it belongs to.
    frame : NDArray[float32]
        (Y, X) intensity of level 1, noise included.
    phase_rad : NDArray[float32]
        (4Y, 4X).
    defocus_um, wavelength_um, hr_pixel_um : float
        How it was made.
    """

    __test__ = False  # not a test case for pytest

    name: str
    frame: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    defocus_um: float
    wavelength_um: float
    hr_pixel_um: float


def make_frame(name: str, phase: NDArray[np.float32], defocus_um: float, seed: int) -> TestFrame:
    """Put a phase image through the forward model with the twin's default optics and noise.

    Parameters
    ----------
    name : str
        Test set.
    phase : NDArray[float32]
        (Y, X) rad; cropped to a multiple of the network's stride.
    defocus_um : float
        Distance.
    seed : int
        Draws the noise: Gaussian, sd ``NOISE_SD`` on the binned frame.
    """
    step = 8 * SCALE
    phase = phase[: phase.shape[0] // step * step, : phase.shape[1] // step * step]
    setup = OpticalSetup(coherence=COHERENCE)
    frame = bin_pixels(intensity(phase, setup, defocus_um, KAPPA_PER_RAD), SCALE)
    rng = np.random.default_rng([seed, 0x7E57])
    frame = frame + np.float32(NOISE_SD) * rng.standard_normal(frame.shape, dtype=np.float32)
    return TestFrame(name, frame, phase, defocus_um, setup.wavelength_um, setup.hr_pixel_um)


def standard_frames(real_files: list[Path], defoci_um: tuple[float, ...] = (6.0,), fields: int = 3) -> list[TestFrame]:
    """Make the unseen simulated fields, and the held-back measured ones, at each defocus."""
    phases = [("simulated", simulated_field(_UNSEEN_SEED + i, (1024, 1024))) for i in range(fields)]
    phases += [("measured", measured_field(path)) for path in real_files]
    return [
        make_frame(f"{kind} z={defocus:g} um", phase, defocus, seed)
        for defocus in defoci_um
        for seed, (kind, phase) in enumerate(phases)
    ]


def reconstruct(network: nn.Module, frame: TestFrame) -> NDArray[np.float32]:
    """Phase (4Y, 4X) in rad of one test frame, in float32 on the network's device."""
    device = next(network.parameters()).device
    scaled = network_input(frame.frame / frame.frame.mean())
    reduced = reduced_defocus_um(frame.defocus_um, frame.wavelength_um)
    with torch.inference_mode():
        phase = network(torch.from_numpy(scaled)[None, None].to(device), torch.tensor([reduced], device=device))
    return phase[0, 0].float().cpu().numpy()


def judge(network: nn.Module, frames: list[TestFrame]) -> dict[str, dict[str, Any]]:
    """Mean figures of a network for each test set.

    Returns
    -------
    dict
        Test set -> ``fields``, ``ssim``, ``psnr_db``, ``rmse_rad``, ``nrmse_by_period``.
    """
    gathered: dict[str, list[list[float]]] = {}
    inner = slice(_BORDER_HR_PX, -_BORDER_HR_PX)
    for frame in frames:
        estimate, truth = reconstruct(network, frame)[inner, inner], frame.phase_rad[inner, inner]
        gathered.setdefault(frame.name, []).append(
            [
                ssim(estimate, truth),
                psnr_db(estimate, truth),
                rmse_rad(estimate, truth),
                *nrmse_by_period(estimate, truth, frame.hr_pixel_um),
            ]
        )
    figures: dict[str, dict[str, Any]] = {}
    for name, rows in gathered.items():
        mean = [round(float(value), 4) for value in np.mean(rows, axis=0)]
        figures[name] = {
            "fields": len(rows),
            "ssim": mean[0],
            "psnr_db": mean[1],
            "rmse_rad": mean[2],
            "nrmse_by_period": mean[3:],
        }
    return figures
