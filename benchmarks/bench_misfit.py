"""How often the misfit of the bundled model raises a fault, on unseen simulated fields, and what it costs.

``python -m benchmarks.bench_misfit`` prints the table of docs/misfit.md.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from livephase.phase.consistency import compare, judge
from livephase.phase.library import find_model
from livephase.phase.preprocess import prepare
from livephase.phase.propagation import ImagingOptics
from livephase.phase.weights import load_network
from livephase.training.calibration import MatchedRange, compare_frame, expose, image, reconstruct_by
from livephase.training.fields import simulated_field
from livephase_devices.optics import OpticalSetup, bin_pixels, object_field, transfer_function

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import nn

    from livephase.phase.misfit_calibration import MisfitCalibration

    Floats = NDArray[np.float32]
    Frame = tuple[str, Floats, ImagingOptics]
    """Name of the fault, light, and the optics that are stated."""

MODEL = "adaptive"
FIELDS = 12
_UNSEEN_SEED = 444_000_000
_RANGE = MatchedRange((2.0, 13.0), (0.54, 0.56), (2.58, 2.62), (0.0, 0.5), (0.0025, 0.03), (0.0, 0.04), 0.4)


def _discs(side: int, count: int, radii: tuple[float, float], rng: np.random.Generator) -> Floats:
    y, x = np.mgrid[:side, :side]
    found = np.zeros((side, side), np.float32)
    for _ in range(count):
        centre, radius = rng.uniform(0, side, 2), rng.uniform(*radii)
        found[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = 1
    return found


def _stripes(side: int, rng: np.random.Generator) -> Floats:
    y, x = np.mgrid[:side, :side] * 0.65
    angle, period_um = rng.uniform(0, np.pi), rng.uniform(6, 25)
    return (np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period_um) > 0).astype(np.float32)


def _target(side: int, rng: np.random.Generator) -> Floats:
    phase = np.zeros((side, side), np.float32)
    for width in (5, 10, 20, 40):
        for _ in range(3):
            row, column = rng.integers(0, side - 6 * width, 2)
            for bar in range(3):
                phase[row : row + 5 * width, column + 2 * bar * width : column + (2 * bar + 1) * width] = 5
    return phase


def _absorbing(phase: Floats, amplitude: Floats, optics: ImagingOptics) -> Floats:
    """Image an object with its own amplitude, coherently."""
    setup = OpticalSetup(optics.wavelength_um, optics.objective_na, 0.0, optics.lr_pixel_um / 4)
    wave = np.fft.ifft2(
        np.fft.fft2(object_field(phase) * amplitude) * transfer_function(phase, setup, optics.defocus_um)
    )
    return bin_pixels((np.abs(wave) ** 2).astype(np.float32), 4)


def _frames(phase: Floats, optics: ImagingOptics, kappa: float, rng: np.random.Generator) -> Iterator[Frame]:
    light = image(phase, optics, kappa, rng)
    yield "none (matched)", light, optics
    for factor, wrong in (
        (0.5, "2 times too small"),
        (0.7, "1.4 times too small"),
        (1.4, "1.4 times too large"),
        (2, "2 times too large"),
    ):
        if 1 <= optics.defocus_um * factor <= 13:
            yield f"z stated {wrong}", light, replace(optics, defocus_um=optics.defocus_um * factor)
    for factor, wrong in ((0.8, "20 % too small"), (1.25, "25 % too large")):
        yield f"pixel stated {wrong}", light, replace(optics, lr_pixel_um=optics.lr_pixel_um * factor)
    for true, stated in ((0.5, 0.1), (0.1, 0.5)):
        lit = replace(optics, coherence=true)
        yield f"S = {true} stated as {stated}", image(phase, lit, kappa, rng), replace(optics, coherence=stated)
    side = len(phase)
    yield "stripes of 1 rad", image(_stripes(side, rng), optics, kappa, rng), optics
    yield "bars of 5 rad", image(_target(side, rng), optics, kappa, rng), optics
    coherent = replace(optics, coherence=0.0)
    beads = 1 - 0.7 * _discs(side, 25, (4, 12), rng)
    yield "absorbing beads", _absorbing(phase, beads, coherent), coherent
    shadows = gaussian_filter(_discs(side // 4, 12, (2.5, 7.5), rng), 0.75)
    yield "dust shadows, 25 % dark", (light * (1 - 0.25 * shadows)).astype(np.float32), optics
    far = _absorbing(np.zeros_like(phase), 1 - 0.8 * _discs(side, 10, (6, 15), rng), replace(optics, defocus_um=150.0))
    yield "dirt 150 um out of focus", light * far, optics
    y, x = np.mgrid[: side // 4, : side // 4] * 2.6
    angle, period_um = rng.uniform(0, np.pi), rng.uniform(12, 60)
    along = np.cos(angle) * x + np.sin(angle) * y
    middle = np.median(along)
    yield "fringes of 3 %", light * (1 + 0.03 * np.cos(2 * np.pi * along / period_um)), optics
    yield "scratch, 30 % dark", light * (1 - 0.3 * np.exp(-(((along - middle) / 2.5) ** 2))), optics
    yield "edge of 10 % in the light", light * (1 - 0.1 / (1 + np.exp(-(along - middle) / 10))), optics


def misfits(network: nn.Module, calibration: MisfitCalibration) -> dict[str, list[float]]:
    """Judge every kind of frame of every field: fault -> misfits, progress on stderr."""
    reconstruct = reconstruct_by(network)
    values: dict[str, list[float]] = {}
    for index in range(FIELDS):
        rng = np.random.default_rng([index, 0x315F17])
        optics, noise_sd, kappa = _RANGE.draw(rng)
        for name, light, stated in _frames(simulated_field(_UNSEEN_SEED + index), optics, kappa, rng):
            pixels = expose(light.astype(np.float32), noise_sd, rng)
            comparison = compare_frame(pixels, stated, reconstruct, 8)
            values.setdefault(name, []).append(judge(comparison, stated, calibration).value)
        print(f"misfit: field {index + 1} of {FIELDS}", file=sys.stderr, flush=True)
    return values


def main() -> list[tuple[str, float, str]]:
    """Return rows (what, value, unit)."""
    network, card = load_network(find_model(MODEL).path)
    calibration = card.misfit
    if calibration is None:
        return []
    rows = [("threshold", calibration.threshold, "misfit")]
    for name, found in misfits(network, calibration).items():
        rows.append((f"{name}: median of {len(found)}", float(np.median(found)), "misfit"))
        rows.append((f"{name}: raised", 100 * float(np.mean(np.array(found) > calibration.threshold)), "%"))
    rows.append(("490x647 frame", 1e3 * _cost_s(), "ms"))
    return rows


def print_table() -> None:
    """Print the table of docs/misfit.md, the faults that are found most often first."""
    network, card = load_network(find_model(MODEL).path)
    if card.misfit is None:
        print(f"model {card.name} has no calibration of its misfit")
        return
    threshold = card.misfit.threshold
    found = {name: np.array(values) for name, values in misfits(network, card.misfit).items()}
    print(f"Model `{card.name}` {card.version}, SHA-256 {card.sha256[:12]}, threshold {threshold:.2f}")
    print("\n| fault | frames | median misfit | raised |\n|---|---|---|---|")
    order = sorted(found, key=lambda name: (not name.startswith("none"), -float((found[name] > threshold).mean())))
    for name in order:
        raised = f"{(found[name] > threshold).mean():.0%}".replace("%", " %")
        print(f"| {name} | {len(found[name])} | {np.median(found[name]):.2g} | {raised} |")


def _cost_s() -> float:
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(150, 2, (490, 647)), 0, 255).astype(np.uint8)
    prepared = prepare(pixels, bit_depth=8, stride=8)
    height, width = prepared.intensity.shape
    phase = rng.random((4 * height, 4 * width), np.float32)
    optics = ImagingOptics(6.0, 0.55, 2.6, 0.3, 0.4)
    times: list[float] = []
    for _ in range(6):
        start = time.perf_counter()
        compare(prepared, phase, optics, os.cpu_count() or 1)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


if __name__ == "__main__":
    print_table()
