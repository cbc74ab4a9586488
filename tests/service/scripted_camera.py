"""A Python camera for the core that fails on command and writes the number of its exposure into every pixel."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from pymmcore_plus.experimental.unicore import SimpleCameraDevice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

SHAPE = (32, 40)


class ScriptedCamera(SimpleCameraDevice):
    """Exposure ``n`` since loading gives frames of ``n + 100``; ``failing`` numbers raise instead.

    One instance lives at a time; tests set the class attributes before it is loaded.
    """

    failing: frozenset[int] = frozenset()
    fails_from: int | None = None
    taken = 0
    gate = threading.Event()  # while it is cleared, exposures wait
    gate.set()

    @classmethod
    def script(cls, failing: frozenset[int] = frozenset(), fails_from: int | None = None) -> None:
        """Say which exposures fail, and count from 0 again."""
        cls.failing, cls.fails_from, cls.taken = failing, fails_from, 0
        cls.gate.set()

    def __init__(self) -> None:
        super().__init__()
        self._exposure_ms = 1.0

    def sensor_shape(self) -> tuple[int, int]:
        """(Y, X)."""
        return SHAPE

    def dtype(self) -> DTypeLike:
        """8 bit."""
        return np.uint8

    def get_exposure(self) -> float:
        """Exposure in ms."""
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure in ms."""
        self._exposure_ms = exposure

    def snap(self, buffer: NDArray[np.uint8]) -> Mapping[str, object]:
        """Expose, or fail."""
        cls = type(self)
        number = cls.taken
        cls.taken += 1
        cls.gate.wait()
        if number in cls.failing or (cls.fails_from is not None and number >= cls.fails_from):
            raise RuntimeError(f"exposure {number} failed on command")
        buffer[:] = 100 + number % 100
        return {}
