"""What the service counts and measures, for Prometheus; its own registry, so that nothing else slips in.

The counters of a run close: when a run has ended, ``time_points_expected = raw_written + raw_missing`` and
``time_points_expected = phase_written + phase_missing``.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Metrics:
    """The service's metrics."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry

        def counter(name: str, text: str) -> Counter:
            return Counter(f"livephase_{name}", text, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"livephase_{name}", text, registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"livephase_{name}_seconds", text, registry=registry, buckets=_SECONDS)

        self.expected = counter("time_points_expected", "Time points of the runs that were started")
        self.raw_written = counter("raw_written", "Raw frames on disk")
        self.raw_missing = counter("raw_missing", "Time points recorded without a raw frame")
        self.phase_written = counter("phase_written", "Phase images on disk")
        self.phase_missing = counter("phase_missing", "Time points recorded without a phase image")
        self.runs = Counter("livephase_runs", "Runs that ended, by state", ["state"], registry=registry)
        self.run_active = gauge("run_active", "1 while a run has the microscope")
        self.live_running = gauge("live_running", "1 while live mode takes frames")
        self.live_frames = counter("live_frames", "Frames taken by live mode")
        self.live_submitted = counter("live_frames_submitted", "Live frames given to the inference worker")
        self.live_dropped = counter("live_frames_dropped", "Live frames that the worker was too busy for")
        self.faults = counter("faults", "Faults reported to the user")
        self.late = seconds("time_point_late", "How late time points were")
        self.raw_write = seconds("raw_write", "Time until a raw frame was durable")
        self.inference = seconds("inference", "Time of preprocessing and network for one frame")
        self.inference_ready = gauge("inference_ready", "1 while the inference worker takes frames")
        self.inference_restarts = gauge("inference_restarts", "Restarts of the inference worker")
        self.preview_frames = gauge("preview_frames_published", "Frames published for preview")
        self.preview_sent = gauge("preview_frames_sent", "Previews sent to viewers")
        self.preview_dropped = gauge("preview_frames_dropped", "Previews that a viewer was too slow for")
        self.viewers = gauge("viewers", "Viewers connected")
        self.disk_free = gauge("disk_free_bytes", "Free space where the runs are stored")

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
