"""Catalogue: the runs under a data folder, what is in one of them, and its frames.

Everything is read from disk each time, so it is right for a run that is still being written, by whomever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from livephase.clock import iso_utc
from livephase.errors import StorageError
from livephase.storage.durable import storage_error
from livephase.storage.frames_table import FramesTable
from livephase.storage.journal import Ledger, first_raw_utc_ns, read_journal
from livephase.storage.layout import JOURNAL, SUFFIX, phase_arrays, raw_array
from livephase.storage.metadata import read_root
from livephase.storage.shards import read_frame
from livephase.storage.spec import WRITTEN_CODES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydantic import JsonValue

    from livephase.acquisition.progress import Counters, RunState
    from livephase.storage.layout import ImageArray
    from livephase.storage.metadata import RunDocument
    from livephase.storage.spec import ImageName, RunSpec


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run on disk.

    Attributes
    ----------
    path : Path
        The store.
    spec : RunSpec
        As given at its start.
    state, reason : str, str or None
        ``"running"`` also for a run whose writer died, until ``mark_interrupted`` has seen it.
    created_utc, started_utc, ended_utc : str, str or None, str or None
        ISO 8601: of the store, of the first raw frame, of the run's end.
    counters : Counters
        Frames written and recorded missing.
    misfit : float or None
        Of the last time point whose phase was judged.
    """

    path: Path
    spec: RunSpec
    state: RunState
    reason: str | None
    created_utc: str
    started_utc: str | None
    ended_utc: str | None
    counters: Counters
    misfit: float | None

    @property
    def provenance(self) -> dict[str, JsonValue]:
        """What the creator of the run recorded."""
        return self.spec.provenance


@dataclass(frozen=True, slots=True)
class BrokenRun:
    """A store that is no readable run."""

    path: Path
    problem: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All stores directly under a data folder: runs, the newest first, and what could not be read."""

    runs: tuple[RunInfo, ...]
    broken: tuple[BrokenRun, ...]


def read_run(path: Path) -> RunInfo:
    """Read what a run is and how far it came.

    Raises
    ------
    StorageError
        When it is no readable run.
    """
    document = read_root(path)
    counters = document.counters
    if counters is None:
        counters = replay(path, document).counters
    started_ns = first_raw_utc_ns(path / JOURNAL)
    return RunInfo(
        path=path,
        spec=document.run,
        state=document.state,
        reason=document.reason,
        created_utc=document.created_utc,
        started_utc=None if started_ns is None else iso_utc(started_ns),
        ended_utc=document.ended_utc,
        counters=counters,
        misfit=_last_misfit(path, document.run),
    )


def list_runs(root: Path) -> Catalogue:
    """Find the runs directly under a folder; a broken one is reported and never stops the others.

    Raises
    ------
    StorageError
        When the folder itself cannot be read.
    """
    try:
        stores = sorted(path for path in root.iterdir() if path.name.endswith(SUFFIX) and path.is_dir())
    except OSError as error:
        raise StorageError(f"{root}: the data folder cannot be read: {error.strerror or error}") from error
    runs: list[RunInfo] = []
    broken: list[BrokenRun] = []
    for store in stores:
        try:
            runs.append(read_run(store))
        except StorageError as error:
            broken.append(BrokenRun(store, str(error)))
    runs.sort(key=lambda run: run.created_utc, reverse=True)
    return Catalogue(tuple(runs), tuple(broken))


def replay(path: Path, document: RunDocument) -> Ledger:
    """Rebuild from its journal which frames of a run are there. StorageError when the journal is damaged."""
    ledger = Ledger(document.run.frames)
    try:
        for line in read_journal(path / JOURNAL):
            ledger.apply(line)
    except IndexError as error:
        raise StorageError(f"{path}: the journal names a frame outside the plan") from error
    return ledger


def read_frame_table(path: Path) -> dict[str, NDArray[Any]]:
    """Read all recorded values, one array (T,) for each column.

    A recorded property goes by its name ``"Device.Property"``, anything else by the name of its array.
    """
    spec = read_root(path).run
    table = FramesTable(path, spec)
    arrays = {column.name: name for name, column in table.properties.items()}
    try:
        return {arrays.get(name, name): table.read(name) for name in table.names}
    except (OSError, ValueError) as error:
        raise storage_error(error, path, "the frame table could not be read") from error


def read_raw_frame(path: Path, index: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read a camera frame (Y, X), counts.

    Raises
    ------
    StorageError
        Not in the plan, not there, or damaged.
    """
    spec = read_root(path).run
    there = _is_there(path, spec, "raw", index)
    pixels = _read(path, raw_array(spec), index) if there else None
    if pixels is None:
        raise StorageError(f"{path}: raw frame {index} is not there; frames/raw_valid and the journal say why")
    return pixels


def read_phase_frame(path: Path, index: int) -> NDArray[np.float32]:
    """Read a phase image (Y, X), rad; all NaN when it is not there or recorded as missing.

    Raises
    ------
    StorageError
        Not in the plan, or damaged.
    """
    spec = read_root(path).run
    there = _is_there(path, spec, "phase", index)
    phase_rad = _read(path, phase_arrays(spec)[0], index) if there else None
    return np.full(spec.hr_shape, np.nan, np.float32) if phase_rad is None else phase_rad


def _is_there(path: Path, spec: RunSpec, image: ImageName, index: int) -> bool:
    if not 0 <= index < spec.frames:
        raise StorageError(f"{path}: frame {index} is not in the plan of {spec.frames} frames")
    try:
        code = FramesTable(path, spec).validity(image, index)
    except (OSError, ValueError, IndexError) as error:
        raise storage_error(error, path, f"{image} frame {index} could not be read") from error
    return code in WRITTEN_CODES


def _read(path: Path, array: ImageArray, index: int) -> NDArray[Any] | None:
    try:
        return read_frame(path, array, index)
    except ValueError as error:
        raise storage_error(error, path, f"frame {index} of {array.path} could not be read") from error


def _last_misfit(path: Path, spec: RunSpec) -> float | None:
    judged = FramesTable(path, spec).read("misfit")
    judged = judged[np.isfinite(judged)]
    return float(judged[-1]) if judged.size else None
