"""One camera frame, as handed to the layers above."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """One exposure.

    Attributes
    ----------
    pixels : NDArray[uint8 or uint16]
        Counts (Y, X), C-contiguous, owned by the receiver: nothing else refers to the memory.
    bit_depth : int
        Significant bits: counts lie in 0 .. 2**bit_depth - 1.
    exposure_ms : float
        Exposure time in ms.
    defocus_um : float or None
        Confirmed lens position in um of defocus when the exposure began; None without a lens.
    time_utc_ns, time_monotonic_ns : int
        When the exposure began, as nearly as the host knows: UTC ns since 1970, and ``time.monotonic_ns``.
    index : int
        Counts the frames of this microscope since it was opened, from 0.
    properties : Mapping[str, float]
        The configured ``recorded_properties``, read right after the exposure.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    bit_depth: int
    exposure_ms: float
    defocus_um: float | None
    time_utc_ns: int
    time_monotonic_ns: int
    index: int
    properties: Mapping[str, float] = field(default_factory=dict[str, float])
