"""Creation of a run's store: every array with no frame yet, so that it is a valid OME-Zarr from the first moment."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from livephase.clock import iso_utc
from livephase.storage.closing import show_frames
from livephase.storage.durable import sync_directory, write_atomically
from livephase.storage.frames_table import FramesTable
from livephase.storage.journal import Journal, StateLine
from livephase.storage.layout import (
    FRAMES,
    JOURNAL,
    LAYOUT_VERSION,
    RAW,
    RESERVE,
    SERVICE_FOLDER,
    ZARR_JSON,
    group_document,
    image_arrays,
    to_json,
    version_document,
)
from livephase.storage.metadata import RunDocument, raw_image, write_root

if TYPE_CHECKING:
    from pathlib import Path

    from livephase.storage.spec import RunSpec

RESERVE_BYTES: Final = 1 << 20
"""Held back in every running store and freed at its end, so that on a full disk the end can still be recorded."""


def lay_out(store: Path, spec: RunSpec) -> RunDocument:
    """Write everything but frames into a new folder that holds ``livephase/`` and is locked; the root comes last.

    Raises
    ------
    OSError
        When something cannot be written.
    ValueError
        When the provenance is not JSON.
    """
    now_ns = time.time_ns()
    document = RunDocument(
        layout=LAYOUT_VERSION,
        state="running",
        reason=None,
        created_utc=iso_utc(now_ns),
        ended_utc=None,
        counters=None,
        run=spec,
    )
    scratch = store / SERVICE_FOLDER
    write_atomically(scratch / ZARR_JSON, to_json(version_document()), scratch)
    write_atomically(store / RESERVE, os.urandom(RESERVE_BYTES), scratch)  # random: some file systems drop zeros
    for arrays in image_arrays(spec).values():
        for array in arrays:
            (store / array.path).mkdir(parents=True)
        show_frames(store, arrays, 0)
    write_atomically(store / RAW / ZARR_JSON, to_json(group_document({"ome": raw_image(spec)})), scratch)
    FramesTable(store, spec).create()
    journal = Journal(store / JOURNAL)
    try:
        journal.append(StateLine(state="running", reason=None, utc_ns=now_ns))
    finally:
        journal.close()
    for folder in (scratch, store / RAW, store / FRAMES):
        sync_directory(folder)
    write_root(store, document)  # without it, this is no run
    sync_directory(store.parent)
    return document
