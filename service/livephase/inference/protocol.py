"""What the service and the inference worker say to each other over the control pipe.

::

    service                                worker
       │ ── spawn(WorkerSettings) ───────────▶ │  loads the model
       │ ◀──────────── Ready or StartFailed ── │
       │ ── Request(slot, shape, defocus) ───▶ │  reads the frame from shared memory, computes,
       │ ◀────────────────── Done or Failed ── │  writes the phase to shared memory
       │ ── None ────────────────────────────▶ │  exits

Pixels never travel through the pipe: see ``shared.py``. The misfit's map, of 2 to 3 kB, does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from livephase.frames import Misfit

RuntimeName = Literal["auto", "openvino", "torch-cpu", "torch-cuda"]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker is started with.

    Attributes
    ----------
    model_sha256 : str
        Digest of the model file whose card the service has read; a worker that finds another one does not start.
    lr_pixel_um, wavelength_um, coherence
        As in ``phase.conditions.Conditions``.
    objective_na : float or None
        Numerical aperture of the objective; None for that of the model's calibration.
    flat_field : "none", "auto" or NDArray
    dark : NDArray or None
        As in ``phase.preprocess.prepare``.
    reference_bits : int or None
        Bit depth of the camera at which dark frame and flat field were taken; frames of another one have no phase. None
        where it is not known.
    threads : int
        Threads of the network's arithmetic.
    """

    model_path: Path
    model_sha256: str
    runtime: RuntimeName
    lr_pixel_um: float
    wavelength_um: float
    coherence: float | None
    objective_na: float | None
    flat_field: Literal["none", "auto"] | NDArray[np.float32]
    threads: int
    dark: NDArray[np.float32] | None = None
    reference_bits: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded; ``runtime`` says by what it is computed."""

    runtime: str


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The worker could not load its model or runtime and exits."""

    message: str


@dataclass(frozen=True, slots=True)
class Request:
    """One frame to compute.

    Attributes
    ----------
    sequence : int
        Counts requests; comes back in the answer.
    slot, segment : int, str
        Which slot, and the name of its shared-memory segment (a slot that grows gets a new one).
    shape, dtype : tuple, str
        The frame (Y, X) at offset 0 of the segment, C-contiguous; ``"uint8"`` or ``"uint16"``.
    phase_offset : int
        Where the phase (scale x Y, scale x X) float32 goes, in bytes.
    """

    sequence: int
    slot: int
    segment: str
    shape: tuple[int, int]
    dtype: str
    phase_offset: int
    defocus_um: float
    bit_depth: int


@dataclass(frozen=True, slots=True)
class Done:
    """The phase of that request lies in its slot."""

    sequence: int
    inference_ms: float
    runtime: str
    misfit: Misfit | None


@dataclass(frozen=True, slots=True)
class Failed:
    """That request has no phase; ``message`` says why."""

    sequence: int
    message: str


Answer = Ready | StartFailed | Done | Failed
