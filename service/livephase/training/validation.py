"""Fixed test sets that no training pair comes from, and the figures of a network on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from livephase.phase.conditions import Conditions
from livephase.training.batches import network_input
from livephase.training.fields import measured_field, simulated_field
from livephase.training.metrics import nrmse_by_period, psnr_db, rmse_rad, ssim
from livephase.training.pair_sources import SCALE
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from livephase.training.recipe import OpticsPart, Recipe

_UNSEEN_SEED = 987_000_000
_BORDER_HR_PX = 64
"""Not judged: the propagation is periodic, a field of view is not."""
FINAL_DEFOCI_UM = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 13.0)
_WATCHED_DEFOCUS_UM = 6.0


@dataclass(frozen=True, slots=True)
class TestOptics:
    """Under which conditions a network is judged while and after it trains.

    Attributes
    ----------
    setup : OpticalSetup
        The microscope.
    noise_sd : float
        Gaussian noise of the binned frame.
    kappa_per_rad : float
        See ``livephase_devices.optics.object_field``.
    """

    __test__ = False  # not a test case for pytest

    setup: OpticalSetup
    noise_sd: float
    kappa_per_rad: float

    @classmethod
    def of(cls, optics: OpticsPart) -> TestOptics:
        """Take S = 0.3, noise 0.01 and kappa 0.01 where the recipe's ranges hold them, else the nearest there is."""

        def nearest(value: float, limits: tuple[float, float]) -> float:
            return float(np.clip(value, *limits))

        setup = OpticalSetup(
            wavelength_um=nearest(0.55, optics.wavelength_um),
            objective_na=optics.objective_na,
            coherence=nearest(0.3, optics.coherence),
            hr_pixel_um=sum(optics.hr_pixel_um) / 2,
            binning=SCALE,
        )
        return cls(setup, nearest(0.01, optics.noise_sd), nearest(0.01, optics.kappa_per_rad))


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
    defocus_um : float
    setup : OpticalSetup
        How it was made.
    """

    __test__ = False  # not a test case for pytest

    name: str
    frame: NDArray[np.float32]
    phase_rad: NDArray[np.float32]
    defocus_um: float
    setup: OpticalSetup


def make_frame(name: str, phase: NDArray[np.float32], defocus_um: float, optics: TestOptics, seed: int) -> TestFrame:
    """Put a phase image through the forward model.

    Parameters
    ----------
    name : str
        Test set.
    phase : NDArray[float32]
        (Y, X) rad; cropped to a multiple of the network's stride.
    defocus_um : float
        Distance.
    optics : TestOptics
        Microscope, noise and amplitude coupling.
    seed : int
        Draws the noise.
    """
    step = 8 * SCALE
    phase = phase[: phase.shape[0] // step * step, : phase.shape[1] // step * step]
    frame = bin_pixels(intensity(phase, optics.setup, defocus_um, optics.kappa_per_rad), SCALE)
    rng = np.random.default_rng([seed, 0x7E57])
    frame = frame + np.float32(optics.noise_sd) * rng.standard_normal(frame.shape, dtype=np.float32)
    return TestFrame(name, frame, phase, defocus_um, optics.setup)


def watched_defoci_um(optics: OpticsPart) -> tuple[float, ...]:
    """Choose the defocus at which a network is judged while it trains."""
    return (float(np.clip(_WATCHED_DEFOCUS_UM, *optics.defocus_um)),)


def final_defoci_um(optics: OpticsPart) -> tuple[float, ...]:
    """Choose the defoci at which a trained network is judged: those of a fixed list within the recipe's range."""
    low, high = optics.defocus_um
    return tuple(z for z in FINAL_DEFOCI_UM if low <= z <= high) or watched_defoci_um(optics)


def standard_frames(recipe: Recipe, defoci_um: tuple[float, ...], fields: int = 3) -> list[TestFrame]:
    """Make the unseen simulated fields, and the recipe's held-back measured ones, at each defocus."""
    optics, pixel_um = TestOptics.of(recipe.optics), sum(recipe.optics.hr_pixel_um) / 2
    phases = [
        ("simulated", simulated_field(_UNSEEN_SEED + i, (1024, 1024), pixel_um, recipe.data.coverage))
        for i in range(fields)
    ]
    phases += [("measured", measured_field(path)) for path in recipe.real_files(held_back=True)]
    return [
        make_frame(f"{kind} z={defocus:g} um", phase, defocus, optics, seed)
        for defocus in defoci_um
        for seed, (kind, phase) in enumerate(phases)
    ]


def reconstruct(network: nn.Module, frame: TestFrame) -> NDArray[np.float32]:
    """Phase (4Y, 4X) in rad of one test frame, in float32 on the network's device."""
    device = next(network.parameters()).device
    scaled = network_input(frame.frame / frame.frame.mean())
    setup = frame.setup
    told = Conditions(frame.defocus_um, setup.wavelength_um, setup.lr_pixel_um, setup.coherence).vector()
    with torch.inference_mode():
        phase = network(torch.from_numpy(scaled)[None, None].to(device), torch.from_numpy(told)[None].to(device))
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
                *nrmse_by_period(estimate, truth, frame.setup.hr_pixel_um),
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
