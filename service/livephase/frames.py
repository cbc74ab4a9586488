"""What is passed between the layers of the service: a phase image and where it came from.

A camera frame is ``livephase_devices.microscope.CameraFrame``; it is not wrapped again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One computed phase image.

    Attributes
    ----------
    phase_rad : NDArray[float32]
        Phase (Y, X) in radians on the HR grid, positive where the cell delays light, NaN
        outside a field stop. Owned by the receiver.
    inference_ms : float
        Wall time of preprocessing and network in the worker.
    runtime : str
        What computed it, e.g. ``"openvino-bf16"``, ``"torch-cpu"``, ``"torch-cuda-bf16"``.
    """

    phase_rad: NDArray[np.float32]
    inference_ms: float
    runtime: str
