"""What the simulated devices share: light passes from the lens to the camera, and the true phase is known.

Micro-Manager's devices do not see one another. The simulated camera has to know where the simulated lens is, so the
devices of one core join one bench; two cores in a process have two benches.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from livephase_devices.twin.specimen import Specimen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pymmcore_plus.experimental.unicore._proxy import CMMCoreProxy

BINNING = 4
"""HR pixels per camera pixel along an axis."""


class Focusing(Protocol):
    """What the light sees of a lens or a focus drive."""

    def optical_defocus_um(self) -> float:
        """Return what it adds to the true defocus at this moment in um, drift included."""
        ...


class Bench:
    """The optical bench of one core."""

    def __init__(self) -> None:
        self.members = 0
        self.lens: Focusing | None = None
        self.drive: Focusing | None = None

    def defocus_um(self) -> float:
        """Return the true defocus at this moment in um: what lens and drive add up to, 0 without either."""
        return sum(part.optical_defocus_um() for part in (self.lens, self.drive) if part is not None)


_lock = threading.Lock()
_benches: dict[int, Bench] = {}


def join(core: CMMCoreProxy) -> Bench:
    """Return the bench that the devices of ``core`` share; each call is paired with ``leave``."""
    with _lock:
        bench = _benches.setdefault(_key(core), Bench())
        bench.members += 1
        return bench


def leave(core: CMMCoreProxy) -> None:
    """Leave the bench; the last one takes it away."""
    with _lock:
        bench = _benches[_key(core)]
        bench.members -= 1
        if bench.members == 0:
            del _benches[_key(core)]


def _key(core: CMMCoreProxy) -> int:
    # Every device gets a proxy of its own, but the signal behind it is one object per core, alive as long as they.
    return id(core.events.stagePositionChanged)


def make_specimen(seed: int, sensor_shape: tuple[int, int], hr_pixel_um: float, wavelength_um: float) -> Specimen:
    """Return a specimen like the one that a twin camera with these properties looks at."""
    return Specimen(seed, (sensor_shape[0] * BINNING, sensor_shape[1] * BINNING), hr_pixel_um, wavelength_um)


def truth_phase_rad(
    time_s: float,
    *,
    seed: int = 1,
    sensor_shape: tuple[int, int] = (490, 647),
    hr_pixel_um: float = 0.65,
    wavelength_um: float = 0.55,
) -> NDArray[np.float32]:
    """Return the true phase behind a frame of the simulated camera.

    Parameters
    ----------
    time_s : float
        The frame's recorded property ``SpecimenTime-s``.
    seed : int
        The camera's property ``Seed``.
    sensor_shape : tuple of int
        (Y, X) of the camera in pixels.
    hr_pixel_um, wavelength_um : float
        The camera's properties ``HRPixel-um`` and ``Wavelength-um``.

    Returns
    -------
    NDArray[float32]
        (4 Y, 4 X) phase in rad on the HR grid.
    """
    with _truth_lock:
        return _truth(seed, sensor_shape, hr_pixel_um, wavelength_um).phase_rad(time_s)


_truth_lock = threading.Lock()
# Not the camera's own specimen: that one is at work in other threads.
_truth = lru_cache(maxsize=2)(make_specimen)
