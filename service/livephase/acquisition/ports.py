"""What acquisition needs of the parts above it: a phase engine, a store for one run, somebody who watches.

Acquisition imports neither inference nor storage nor preview; the API's composition root hands these in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray

    from livephase.acquisition.focus import FocusAttempt
    from livephase.acquisition.lamp import FrameLight
    from livephase.acquisition.progress import Counters, LiveStatus, RunProgress, RunState
    from livephase.frames import PhaseResult
    from livephase_devices.frame import CameraFrame


class EngineStatus(Protocol):
    """How the phase engine is."""

    @property
    def state(self) -> str:
        """``"starting"``, ``"ready"``, ``"restarting"`` or ``"stopped"``."""
        ...


class PhaseEngine(Protocol):
    """Computes phase from one frame, elsewhere (``livephase.inference.client.InferenceClient``)."""

    def status(self) -> EngineStatus:
        """Return the present state; cheap, from any thread."""
        ...

    def submit(
        self, pixels: NDArray[np.uint8] | NDArray[np.uint16], defocus_um: float, *, bit_depth: int
    ) -> Future[PhaseResult]:
        """Start computing the phase of raw pixels (Y, X); the future fails with an InferenceError."""
        ...


class RunSink(Protocol):
    """The store of one run. ``write_raw`` and ``write_phase`` are called from two different threads."""

    @property
    def counters(self) -> Counters:
        """How many frames are written and recorded missing so far."""
        ...

    def write_raw(self, index: int, frame: CameraFrame, *, time_utc_ns: int, late_s: float, light: FrameLight) -> None:
        """Store a raw frame and its light; it is durable when this returns. StorageError when it cannot be."""
        ...

    def read_raw(self, index: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Read a raw frame (Y, X) back."""
        ...

    def write_phase(self, index: int, result: PhaseResult, *, backfilled: bool) -> None:
        """Store a phase image; indices come in any order. StorageError when it cannot be."""
        ...

    def mark_raw_missing(self, index: int, reason: str) -> None:
        """Record that time point ``index`` has no raw frame, and so no phase."""
        ...

    def mark_phase_missing(self, index: int, reason: str) -> None:
        """Record that time point ``index`` has a raw frame but no phase."""
        ...

    def note_focus(self, attempt: FocusAttempt, *, utc_ns: int) -> None:
        """Record an attempt to measure the focus. StorageError when it cannot be."""
        ...

    def finish(self, state: RunState, reason: str | None, *, raw_reason: str, phase_reason: str) -> None:
        """Close the store; time points without a record are recorded missing with the two reasons."""
        ...


class Observer(Protocol):
    """Is told what happens; called from acquisition's threads, must return at once and never raise."""

    def run_changed(self, progress: RunProgress) -> None:
        """Note that a run changed its state or finished a time point."""
        ...

    def live_changed(self, status: LiveStatus) -> None:
        """Note that live mode started or stopped."""
        ...

    def live_frame(self, *, submitted: bool) -> None:
        """Note that live mode took a frame, and gave it to the engine or dropped it."""
        ...

    def focus_measured(self, run_id: str, attempt: FocusAttempt) -> None:
        """Note that a run measured its focus, or failed to."""
        ...

    def time_point_done(self, *, late_s: float, write_s: float) -> None:
        """Note that a raw frame of a run is durable."""
        ...

    def frame_ready(
        self,
        frame: CameraFrame,
        result: PhaseResult | None,
        *,
        defocus_um: float | None,
        run_id: str | None,
        time_point: int | None,
    ) -> None:
        """Show a frame, newer than the one before; without phase while the engine is not ready."""
        ...

    def fault(self, message: str) -> None:
        """Tell the user that something failed."""
        ...
