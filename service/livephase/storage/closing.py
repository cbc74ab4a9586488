"""Closing a run: what never came is recorded missing, every counter closes, the state is written last."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from livephase.clock import iso_utc
from livephase.storage.durable import write_atomically
from livephase.storage.journal import MissingLine, StateLine
from livephase.storage.layout import RESERVE, SERVICE_FOLDER, ZARR_JSON, image_arrays, to_json
from livephase.storage.metadata import write_root

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from livephase.acquisition.progress import RunState
    from livephase.storage.frames_table import FramesTable
    from livephase.storage.journal import Journal, Ledger
    from livephase.storage.layout import ImageArray
    from livephase.storage.metadata import RunDocument
    from livephase.storage.spec import ImageName


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How and when a run ended (UTC in ns; None for now), and why frames that never came are missing."""

    state: RunState
    reason: str | None
    raw_reason: str
    phase_reason: str
    utc_ns: int | None = None


def show_frames(store: Path, arrays: Sequence[ImageArray], length: int) -> None:
    """Set the length of an image that readers see, level 0 last."""
    for array in reversed(arrays):
        document = to_json(array.document(length))
        write_atomically(store / array.path / ZARR_JSON, document, store / SERVICE_FOLDER)


def close_run(
    store: Path, document: RunDocument, journal: Journal, ledger: Ledger, table: FramesTable, end: RunEnd
) -> RunDocument:
    """Bring a run to its end; it can be repeated after an error.

    Raw and phase get the same length, up to the last frame that was written: a run cancelled early does not show
    the time points that never came, but ``frames/`` and the counters account for them.

    Raises
    ------
    OSError
        When something cannot be written; the run is then still ``running`` on disk.
    """
    (store / RESERVE).unlink(missing_ok=True)
    reasons: dict[ImageName, str] = {"raw": end.raw_reason, "phase": end.phase_reason}
    missing = [
        MissingLine(image=image, first=first, last=last, reason=reason)
        for image, reason in reasons.items()
        for first, last in ledger.runs_not_there(image)
    ]
    ended_ns = time.time_ns() if end.utc_ns is None else end.utc_ns
    journal.append(*missing, StateLine(state=end.state, reason=end.reason, utc_ns=ended_ns))
    for line in missing:
        ledger.apply(line)
    table.set_all_validity(ledger.codes)
    length = max(ledger.lengths.values())
    for arrays in image_arrays(document.run).values():
        show_frames(store, arrays, length)
    table.sync()
    closed = document.model_copy(
        update={
            "state": end.state,
            "reason": end.reason,
            "ended_utc": iso_utc(ended_ns),
            "counters": ledger.counters,
        }
    )
    write_root(store, closed)
    return closed
