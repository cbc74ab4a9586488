"""Storage: a run on disk as OME-Zarr 0.5.

``RunWriter`` writes one run, ``list_runs`` and ``read_run`` find runs again, ``mark_interrupted`` repairs what a
crash left. What lies where is described in ``livephase.storage.layout``.
"""

from livephase.storage.catalogue import (
    BrokenRun,
    Catalogue,
    RunInfo,
    list_runs,
    read_frame_table,
    read_phase_frame,
    read_raw_frame,
    read_run,
)
from livephase.storage.layout import SUFFIX, estimated_bytes
from livephase.storage.recovery import mark_interrupted
from livephase.storage.spec import PHASE_STEP_RAD, FrameRecord, PhaseRecord, RunSpec, Validity
from livephase.storage.writer import RunWriter

__all__ = [
    "PHASE_STEP_RAD",
    "SUFFIX",
    "BrokenRun",
    "Catalogue",
    "FrameRecord",
    "PhaseRecord",
    "RunInfo",
    "RunSpec",
    "RunWriter",
    "Validity",
    "estimated_bytes",
    "list_runs",
    "mark_interrupted",
    "read_frame_table",
    "read_phase_frame",
    "read_raw_frame",
    "read_run",
]
