"""How the inference is doing, as a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

InferenceState = Literal["starting", "ready", "restarting", "stopped"]


@dataclass(frozen=True, slots=True)
class InferenceStatus:
    """A snapshot of the inference.

    Attributes
    ----------
    pid : int or None
        Process of the worker.
    restarts : int
        Workers that ended without being asked to, since ``start``.
    runtime : str or None
        What computes, e.g. ``"openvino-bf16"``; None until the model is loaded.
    last_ms : float or None
        Time of the latest phase in the worker.
    misfit : float or None
        Of the latest phase (``livephase.frames.Misfit``); None where it was not judged.
    misfit_threshold : float or None
        Above it the latest phase is not to be believed.
    heartbeat_age_s : float or None
        Seconds since the worker's heart was seen to beat.
    pending : int
        Frames accepted and not yet answered.
    error : str or None
        Why the last worker ended; None once a model is loaded again.
    """

    state: InferenceState
    pid: int | None
    restarts: int
    runtime: str | None
    last_ms: float | None
    misfit: float | None
    misfit_threshold: float | None
    heartbeat_age_s: float | None
    pending: int
    error: str | None
