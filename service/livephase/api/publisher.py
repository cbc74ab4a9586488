"""What acquisition reports, passed on to viewers (preview hub) and to the metrics."""

from __future__ import annotations

import functools
import itertools
import logging
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from livephase.acquisition.progress import ENDED, Counters
from livephase.api.problems import finite
from livephase.api.schemas import RunOut
from livephase.phase.exposure import advise, foresee, saturated_fraction
from livephase.preview import PreviewFrame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from livephase.acquisition.focus import FocusAttempt
    from livephase.acquisition.progress import LiveStatus, RunProgress
    from livephase.frames import PhaseResult
    from livephase.metrics import Metrics
    from livephase.phase.exposure import ExposureAdvice
    from livephase.phase.modelfile import ModelCard
    from livephase.preview import PreviewHub
    from livephase_devices.config import MicroscopeConfig
    from livephase_devices.frame import CameraFrame

log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")


def _never_raises(
    report: Callable[Concatenate[Publisher, _Arguments], None],
) -> Callable[Concatenate[Publisher, _Arguments], None]:
    """Log an error of a report instead of raising it: a run must not end because it was watched."""

    @functools.wraps(report)
    def safe(publisher: Publisher, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            report(publisher, *args, **kwargs)
        except Exception:
            log.exception("a report to viewers and metrics failed")

    return safe


class Publisher:
    """The service's ``acquisition.ports.Observer``; called from any thread.

    Parameters
    ----------
    hub : PreviewHub
        Gets every frame and every event.
    metrics : Metrics
        Counts them.
    microscope : MicroscopeConfig
        Decides, with the card, whether a frame lies inside the model's valid range.
    card_of : callable
        Card of the model in use.
    path_of : callable
        Store of a run.
    """

    def __init__(
        self,
        hub: PreviewHub,
        metrics: Metrics,
        microscope: MicroscopeConfig,
        card_of: Callable[[], ModelCard],
        path_of: Callable[[str], Path],
    ) -> None:
        self._hub = hub
        self._metrics = metrics
        self._microscope = microscope
        self._card_of = card_of
        self._path_of = path_of
        self._sequence = itertools.count(1)
        self._lock = threading.Lock()
        self._counted: dict[str, Counters] = {}
        self._ended: str | None = None
        self._latest: CameraFrame | None = None
        self.first_phase = threading.Event()

    def range_problems(self, defocus_um: float | None) -> list[str]:
        """Return what lies outside the model's valid range at that defocus, one sentence each."""
        return self._card_of().range_problems(
            defocus_um=defocus_um,
            lr_pixel_um=self._microscope.lr_pixel_um,
            wavelength_um=self._microscope.wavelength_um,
            coherence=self._microscope.coherence,
        )

    def exposure_advice(self, offset_counts: float) -> ExposureAdvice | None:
        """Judge the exposure of the newest frame that was shown; None before there is one."""
        frame = self._latest
        if frame is None:
            return None
        return advise(
            frame.pixels, bit_depth=frame.bit_depth, exposure_ms=frame.exposure_ms, offset_counts=offset_counts
        )

    def exposure_problems(self, exposure_ms: float | None, offset_counts: float) -> list[str]:
        """Say what speaks against an exposure, by the newest frame: at most one entry."""
        advice = self.exposure_advice(offset_counts)
        problem = None if advice is None or exposure_ms is None else foresee(advice, exposure_ms)
        return [] if problem is None else [problem]

    def event(self, kind: str, content: Mapping[str, Any]) -> None:
        """Tell every viewer."""
        self._hub.publish_event({"kind": kind, **finite(content)})

    @_never_raises
    def run_changed(self, progress: RunProgress) -> None:
        """Tell viewers about a run, and count what is new; a snapshot older than one seen before is ignored."""
        with self._lock:
            # Two threads report a run, and take their snapshots before they come here.
            if progress.run_id == self._ended or self._is_older(progress):
                return
            self._count(progress)
            run = RunOut.of_progress(progress, str(self._path_of(progress.run_id)))
            self.event("run", run.model_dump(mode="json"))

    @_never_raises
    def live_changed(self, status: LiveStatus) -> None:
        """Tell viewers about live mode."""
        self._metrics.live_running.set(status.running)
        self.event("live", {"running": status.running, "fault": status.fault})

    @_never_raises
    def live_frame(self, *, submitted: bool) -> None:
        """Count a live frame."""
        self._metrics.live_frames.inc()
        (self._metrics.live_submitted if submitted else self._metrics.live_dropped).inc()

    @_never_raises
    def focus_measured(self, run_id: str, attempt: FocusAttempt) -> None:
        """Tell viewers and the log how far the focus had drifted, or why that is not known."""
        if attempt.problem is None:
            log.info(
                "run %s: focus offset %+.2f um before time point %d", run_id, attempt.offset_um, attempt.time_point
            )
        self.event("focus", {"id": run_id, **asdict(attempt)})

    @_never_raises
    def time_point_done(self, *, late_s: float, write_s: float) -> None:
        """Measure a time point."""
        self._metrics.late.observe(late_s)
        self._metrics.raw_write.observe(write_s)

    @_never_raises
    def frame_ready(
        self,
        frame: CameraFrame,
        result: PhaseResult | None,
        *,
        defocus_um: float | None,
        run_id: str | None,
        time_point: int | None,
    ) -> None:
        """Show a frame; without phase while there is none."""
        self._latest = frame
        if result is not None:
            self._metrics.inference.observe(result.inference_ms / 1000)
        misfit = None if result is None else result.misfit
        scale = self._card_of().scale
        self._hub.publish(
            PreviewFrame(
                sequence=next(self._sequence),
                phase_rad=None if result is None else result.phase_rad,
                raw=frame.pixels,
                bit_depth=frame.bit_depth,
                hr_pixel_um=self._microscope.lr_pixel_um / scale,
                time_utc_ns=frame.time_utc_ns,
                time_monotonic_ns=frame.time_monotonic_ns,
                defocus_um=defocus_um,
                source="live" if run_id is None else "run",
                run_id=run_id,
                time_point=time_point,
                out_of_range=bool(self.range_problems(defocus_um)),
                saturated_fraction=saturated_fraction(frame.pixels, frame.bit_depth),
                misfit=None if misfit is None else misfit.value,
                misfit_threshold=None if misfit is None else misfit.threshold,
                scale=scale,
            )
        )
        if result is not None:
            self.first_phase.set()

    @_never_raises
    def fault(self, message: str) -> None:
        """Tell viewers that something failed."""
        log.warning("%s", message)
        self._metrics.faults.inc()
        self.event("fault", {"message": message})

    def _is_older(self, progress: RunProgress) -> bool:
        before = self._counted.get(progress.run_id)
        return before is not None and progress.state not in ENDED and _accounted(progress.counters) < _accounted(before)

    def _count(self, progress: RunProgress) -> None:
        """Add to the metrics what a run has done since it was last seen."""
        before = self._counted.get(progress.run_id)
        now = progress.counters
        if before is None:
            self._metrics.expected.inc(now.expected)
            self._metrics.run_active.set(1)
            before = Counters(now.expected)
        # A Prometheus counter refuses to go back, and a phase recorded missing may still be written.
        self._metrics.raw_written.inc(max(0, now.raw_written - before.raw_written))
        self._metrics.raw_missing.inc(max(0, now.raw_missing - before.raw_missing))
        self._metrics.phase_written.inc(max(0, now.phase_written - before.phase_written))
        self._metrics.phase_missing.inc(max(0, now.phase_missing - before.phase_missing))
        if progress.state in ENDED:
            self._counted.pop(progress.run_id, None)
            self._ended = progress.run_id
            self._metrics.runs.labels(progress.state).inc()
            self._metrics.run_active.set(0)
        else:
            self._counted[progress.run_id] = now


def _accounted(counters: Counters) -> int:
    """Frames written or recorded missing, which only ever grow."""
    return counters.raw_written + counters.raw_missing + counters.phase_written + counters.phase_missing
