"""Recovery: a run whose writer died is repaired from its journal and closed as interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from livephase.acquisition.progress import ENDED
from livephase.storage.catalogue import replay
from livephase.storage.closing import RunEnd, close_run
from livephase.storage.durable import WriterLock, storage_error
from livephase.storage.frames_table import FramesTable
from livephase.storage.journal import Journal, MissingLine, RawLine, StateLine, drop_torn_line, read_journal
from livephase.storage.layout import JOURNAL, LOCK, SERVICE_FOLDER, image_arrays
from livephase.storage.metadata import read_root

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from livephase.storage.journal import Ledger
    from livephase.storage.layout import ImageArray
    from livephase.storage.metadata import RunDocument
    from livephase.storage.spec import ImageName

INTERRUPTED: Final = "the process that wrote the run ended before the run did"


def mark_interrupted(path: Path, reason: str = INTERRUPTED) -> bool:
    """Repair and close a run that is ``running`` on disk but that no process writes any more.

    Frames that the journal names stay; leftovers of frames that were not committed are deleted; the frame table and
    the lengths are written anew; what never came is recorded missing. A run whose end is in its journal already
    (only its last steps failed) keeps that end. An interrupted run ended with its last frame, not with its repair.

    Parameters
    ----------
    path : Path
        The store.
    reason : str
        Recorded with the state ``"interrupted"``.

    Returns
    -------
    bool
        True when the run was closed now; False when it had ended properly, or a live writer holds it.

    Raises
    ------
    StorageError
        When it is no readable run, its journal is damaged, or the repair cannot be written.
    """
    if read_root(path).state in ENDED:
        return False
    lock = WriterLock(path / LOCK)
    try:
        if not lock.acquire():
            return False
        document = read_root(path)  # again: the writer may have closed the run just before it let go
        if document.state in ENDED:
            return False
        _repair(path, document, reason)
    except (OSError, ValueError) as error:
        raise storage_error(error, path, "the interrupted run could not be repaired") from error
    finally:
        lock.release()
    return True


def _repair(path: Path, document: RunDocument, reason: str) -> None:
    drop_torn_line(path / JOURNAL)
    ledger = replay(path, document)
    lines = list(read_journal(path / JOURNAL))
    for leftover in (path / SERVICE_FOLDER).glob("*.tmp"):
        leftover.unlink()
    lost: list[MissingLine] = []
    for image, levels in image_arrays(document.run).items():
        _delete_uncommitted(path, levels, ledger, image)
        lost += _lost_frames(path, levels, ledger, image)
    seen_ns = [line.time_utc_ns for line in lines if isinstance(line, RawLine)]
    seen_ns = seen_ns or [line.utc_ns for line in lines if isinstance(line, StateLine)]
    end = RunEnd("interrupted", reason, reason, reason, max(seen_ns, default=None))
    for line in lines:
        if isinstance(line, StateLine) and line.state in ENDED:
            end = RunEnd(line.state, line.reason, reason, reason, line.utc_ns)
    journal = Journal(path / JOURNAL)
    try:
        journal.append(*lost)
        for line in lost:
            ledger.apply(line)
        table = FramesTable(path, document.run)
        table.rebuild(lines, ledger.codes)
        close_run(path, document, journal, ledger, table, end)
    finally:
        journal.close()


def _delete_uncommitted(path: Path, levels: Sequence[ImageArray], ledger: Ledger, image: ImageName) -> None:
    for array in levels:
        for file in (path / array.path).iterdir():
            index = array.shard_index(file.name)
            uncommitted = index is not None and not (index < ledger.frames and ledger.is_written(image, index))
            if uncommitted or file.name.endswith(".__lock"):  # what tensorstore had not renamed yet
                file.unlink()


def _lost_frames(path: Path, levels: Sequence[ImageArray], ledger: Ledger, image: ImageName) -> list[MissingLine]:
    """Frames that the journal names but whose files are gone: someone or something deleted them."""
    return [
        MissingLine(image=image, first=index, last=index, reason="its file was not found after the interruption")
        for index in range(ledger.lengths[image])
        if ledger.is_written(image, index) and not all(array.shard(path, index).exists() for array in levels)
    ]
