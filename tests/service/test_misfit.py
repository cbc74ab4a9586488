"""The misfit of the bundled model: matched frames stay below its threshold, faults go above, and it is passed on."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from livephase.inference.client import InferenceClient
from livephase.inference.engine import PhaseEngine
from livephase.inference.protocol import WorkerSettings
from livephase.phase.library import find_model
from livephase.phase.modelfile import read_card
from livephase.phase.propagation import ImagingOptics
from livephase.training.calibration import expose, image
from livephase_devices.twin.specimen import Specimen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.frames import Misfit

OPTICS = ImagingOptics(defocus_um=6.0, wavelength_um=0.55, lr_pixel_um=2.6, coherence=0.3, objective_na=0.4)
NOISE_SD = 0.01
SIDE = 192


@cache
def culture(seed: int) -> NDArray[np.float32]:
    """Make the phase of cells that no model was calibrated or trained on."""
    return Specimen(seed=71_000 + seed, shape=(4 * SIDE, 4 * SIDE), density_per_mm2=400).phase_rad(6 * 3600.0)


@cache
def light(seed: int) -> NDArray[np.float32]:
    """Image that culture without noise."""
    return image(culture(seed), OPTICS, 0.01, np.random.default_rng(seed))


def misfit_of(frame: NDArray[np.float32], optics: ImagingOptics = OPTICS) -> Misfit:
    """Expose a frame, give it to the worker's engine in this process, and return the misfit."""
    path = find_model("adaptive").path
    settings = WorkerSettings(
        model_path=path,
        model_sha256=read_card(path).sha256,
        runtime="torch-cpu",
        lr_pixel_um=optics.lr_pixel_um,
        wavelength_um=optics.wavelength_um,
        coherence=optics.coherence,
        objective_na=optics.objective_na,
        flat_field="auto",
        threads=1,
    )
    pixels = expose(frame, NOISE_SD, np.random.default_rng(17))
    out = np.empty((4 * SIDE, 4 * SIDE), np.float32)
    _, misfit = PhaseEngine(settings).compute(pixels, optics.defocus_um, 8, out)
    assert misfit is not None
    return misfit


@cache
def matched(seed: int) -> Misfit:
    return misfit_of(light(seed))


def shadows(rng: np.random.Generator) -> NDArray[np.float32]:
    """Make the transmission of dust near the camera: blurred spots, 25 % dark."""
    y, x = np.mgrid[:SIDE, :SIDE]
    spots = np.zeros((SIDE, SIDE), np.float32)
    for _ in range(10):
        centre = rng.uniform(10, SIDE - 10, 2)
        spots[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < rng.uniform(3, 8) ** 2] = 0.25
    return 1 - gaussian_filter(spots, 1)


def bars() -> NDArray[np.float32]:
    """Make a phase target: bars of 5 rad, of several widths."""
    phase = np.zeros((4 * SIDE, 4 * SIDE), np.float32)
    for row, width in enumerate((6, 12, 24, 40)):
        for bar in range(3):
            left = 60 + 2 * bar * width
            phase[40 + 180 * row : 40 + 180 * row + 120, left : left + width] = 5
            phase[40 + 180 * row : 40 + 180 * row + 120, left + 380 : left + 380 + width] = 5
    return phase


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_matched_frames_are_believed(seed: int) -> None:
    misfit = matched(seed)
    assert not misfit.is_raised
    assert misfit.noise_sd == pytest.approx(NOISE_SD, rel=0.3)
    assert misfit.map.shape == (SIDE // 16, SIDE // 16)
    assert 0.7 < np.nanmedian(misfit.map) < 1.5


@pytest.mark.parametrize("fault", ["dust", "fringes", "edge", "phase target"])
def test_dirt_and_unlike_objects_are_raised(fault: str) -> None:
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    frame = light(1)
    if fault == "dust":
        frame = frame * shadows(np.random.default_rng(3))
    elif fault == "fringes":
        frame = frame * (1 + 0.04 * np.cos((x + 0.5 * y) * 2 * np.pi / 9))
    elif fault == "edge":
        frame = frame * (1 - 0.15 / (1 + np.exp(-(x + 0.3 * y - 100) / 3)))
    else:
        frame = image(bars(), OPTICS, 0.0, np.random.default_rng(1))
    misfit = misfit_of(frame.astype(np.float32))
    assert misfit.is_raised
    assert misfit.value > 1.5 * max(matched(seed).value for seed in (1, 2, 3))


def test_dust_shows_in_the_map_where_it_lies() -> None:
    frame = light(2).copy()
    frame[80:96, 112:128] *= 1 - 0.4 * np.outer(np.hanning(16), np.hanning(16)).astype(np.float32)
    misfit, clean = misfit_of(frame), matched(2)
    more = np.nan_to_num((misfit.map - clean.map).astype(np.float32))
    assert np.unravel_index(np.argmax(more), more.shape) == (5, 7)


def test_the_worker_passes_the_misfit_on_and_an_unknown_coherence_is_fitted() -> None:
    pixels = expose(light(1), NOISE_SD, np.random.default_rng(17))
    with InferenceClient(
        find_model("adaptive").path, "torch-cpu", lr_pixel_um=2.6, wavelength_um=0.55, coherence=None, threads=1
    ) as client:
        result = client.submit(pixels, 6.0, bit_depth=8).result(120)
        status = client.status()
    assert result.misfit is not None
    assert not result.misfit.is_raised
    assert (status.misfit, status.misfit_threshold) == (result.misfit.value, result.misfit.threshold)
    # The largest S of the model's range is among those that are tried.
    highest = misfit_of(light(1), replace(OPTICS, coherence=0.6))
    assert result.misfit.value <= highest.value + 1e-3
