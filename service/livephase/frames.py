"""What is passed between the layers of the service: a phase image and where it came from.

A camera frame is ``livephase_devices.microscope.CameraFrame``; it is not wrapped again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


MISFIT_BLOCK_PX: Final = 16
"""LR pixels along a side of a pixel of the misfit map."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """How well a phase explains the frame that it was computed from (``livephase.phase.consistency``).

    Attributes
    ----------
    value : float
        1 is the median of matched frames.
    threshold : float
        Of the model: what 1 % of matched frames exceed. Above it the phase is not to be believed.
    noise_sd : float
        Standard deviation of the frame's noise, relative to its level, estimated from the frame.
    kappa_per_rad : float
        Fitted coupling of amplitude to phase.
    map : NDArray[float16]
        (ceil(Y / 16), ceil(X / 16)) of the frame's (Y, X): residual over expected residual (noise and the model's
        usual error), rms over blocks of ``MISFIT_BLOCK_PX`` LR pixels. About 1 where the phase explains the frame,
        NaN where nothing is judged.
    """

    value: float
    threshold: float
    noise_sd: float
    kappa_per_rad: float
    map: NDArray[np.float16]

    @property
    def is_raised(self) -> bool:
        """Whether the phase is not to be believed."""
        return self.value > self.threshold


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
    misfit : Misfit or None
        Whether it is to be believed; None where the model has no calibration or the frame nothing to judge.
    """

    phase_rad: NDArray[np.float32]
    inference_ms: float
    runtime: str
    misfit: Misfit | None = None
