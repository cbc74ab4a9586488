"""Cost of the simulated microscope: specimen, partially coherent image, exposure, at the default field of view."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from livephase_devices.optics import OpticalSetup, bin_pixels, intensity
from livephase_devices.sensor import SensorModel
from livephase_devices.twin.specimen import Specimen

if TYPE_CHECKING:
    from collections.abc import Callable


def _seconds(work: Callable[[], object], repeats: int = 3) -> float:
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> list[tuple[str, float, str]]:
    """Return rows (what, value, unit)."""
    specimen = Specimen()
    phase = specimen.phase_rad(24 * 3600.0)
    frame = bin_pixels(intensity(phase, OpticalSetup(), 6.0, 0.01), 4)
    sensor, rng = SensorModel(), np.random.default_rng(0)
    coherent = _seconds(lambda: intensity(phase, OpticalSetup(coherence=0.0), 6.0, 0.01))
    partial = _seconds(lambda: intensity(phase, OpticalSetup(), 6.0, 0.01))
    return [
        ("specimen at 24 h, 2588x1960", _seconds(lambda: specimen.phase_rad(24 * 3600.0)), "s"),
        ("coherent image, 1 source point", coherent, "s"),
        ("S = 0.3 image, 8 source points", partial, "s"),
        ("S = 0.3 over coherent", partial / coherent, "ratio"),
        ("exposure with noise, 647x490", 1e3 * _seconds(lambda: sensor.expose(0.6 * frame, rng)), "ms"),
    ]
