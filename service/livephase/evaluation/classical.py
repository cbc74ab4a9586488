"""The rows beside the networks: the oracle, the linear inversion, and TIE of two camera frames.

TIE and the linear inversion leave the zero of phase open. Their offset is set so that their mean is that of the
truth, the most favourable choice: what is judged is the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import zoom

from livephase.phase.linear import linear_phase
from livephase.phase.tie import Solver, solve_tie
from livephase_devices.optics import bin_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase_devices.optics import OpticalSetup

    Floats = NDArray[np.float32]


def enlarge(image: Floats, scale: int = 4) -> Floats:
    """Interpolate (Y, X) by bicubic splines onto pixels ``scale`` times finer; the corners of the pixels coincide."""
    # Splines keep a paraboloid; the usual four-point kernel ripples over one.
    return zoom(np.asarray(image, np.float32), scale, order=3, mode="nearest", grid_mode=True)


def oracle(truth_rad: Floats, scale: int = 4) -> Floats:
    """The true phase (4Y, 4X) binned onto the camera's pixels and interpolated: perfect but for super-resolution."""
    return enlarge(bin_pixels(truth_rad, scale), scale)


def linear(frame: Floats, truth_rad: Floats, setup: OpticalSetup, defocus_um: float, noise_sd: float) -> Floats:
    """Single-frame linear inversion of a frame (Y, X) of relative intensity; ``noise_sd`` is that of the frame."""
    phase = linear_phase(
        frame / np.float32(frame.mean()),
        defocus_um=defocus_um,
        wavelength_um=setup.wavelength_um,
        lr_pixel_um=setup.lr_pixel_um,
        coherence=setup.coherence,
        objective_na=setup.objective_na,
        noise_sd=noise_sd,
    )
    return same_mean(phase, truth_rad)


def two_plane_tie(
    in_focus: Floats, defocused: Floats, truth_rad: Floats, setup: OpticalSetup, defocus_um: float, solver: Solver
) -> Floats:
    """TIE of two camera frames (Y, X), interpolated to (4Y, 4X)."""
    phase = solve_tie(in_focus, defocused, defocus_um, setup.lr_pixel_um, setup.wavelength_um, solver=solver)
    return same_mean(enlarge(phase), truth_rad)


def same_mean(phase_rad: Floats, truth_rad: Floats) -> Floats:
    """Shift a phase to the mean of the truth."""
    shift = truth_rad.mean(dtype=np.float64) - phase_rad.mean(dtype=np.float64)
    return np.asarray(phase_rad + np.float32(shift), np.float32)
