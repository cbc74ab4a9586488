"""Run writer: commits raw frames and phase images one by one, each durable and visible at once or not at all.

A commit is, in this order: the shards (synced), a journal line (synced), the frame table, the length in the metadata,
level 0 last. A reader that goes by the length of level 0 thus never sees a frame that is not there nor one whose record
is not; what the table says of frames beyond that length is not committed. After a crash the journal tells what is.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from livephase.acquisition.progress import ENDED
from livephase.errors import StorageError
from livephase.storage.closing import RunEnd, close_run, show_frames
from livephase.storage.creation import lay_out
from livephase.storage.durable import WriterLock, storage_error
from livephase.storage.frames_table import FramesTable
from livephase.storage.journal import Journal, Ledger, MissingLine, PhaseLine, RawLine
from livephase.storage.layout import JOURNAL, LOCK, SERVICE_FOLDER, SUFFIX, image_arrays
from livephase.storage.pyramid import phase_levels
from livephase.storage.shards import ShardWriter
from livephase.storage.spec import Validity

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from livephase.acquisition.progress import Counters, RunState
    from livephase.storage.journal import FocusLine
    from livephase.storage.metadata import RunDocument
    from livephase.storage.shards import Pixels
    from livephase.storage.spec import FrameRecord, ImageName, PhaseRecord, RunSpec


class RunWriter:
    """Writes one run; made by ``RunWriter.create``.

    ``write_raw`` and ``write_phase`` may be called from two threads: they share the commits, not the encoding.

    Attributes
    ----------
    path : Path
        The store, ``<name>.ome.zarr``.
    spec : RunSpec
        As given at the start.
    """

    def __init__(self, path: Path, document: RunDocument, lock: WriterLock) -> None:
        self.path = path
        self.spec = document.run
        self._document = document
        self._writer_lock = lock
        self._table = FramesTable(path, self.spec)
        self._ledger = Ledger(self.spec.frames)
        self._arrays = image_arrays(self.spec)
        self._shards = {image: ShardWriter(path, arrays, self.spec.frames) for image, arrays in self._arrays.items()}
        self._exposed_ns = np.zeros(self.spec.frames, np.int64)
        self._commits = threading.Condition()
        self._in_work: set[tuple[ImageName, int]] = set()
        self._closed = False
        self._journal = Journal(path / JOURNAL)

    @classmethod
    def create(cls, path: Path, spec: RunSpec) -> RunWriter:
        """Create the store of a run.

        Parameters
        ----------
        path : Path
            Must not exist, its parent must; its name ends in ``.ome.zarr``.
        spec : RunSpec
            The run.

        Raises
        ------
        StorageError
            When the path exists or cannot be written, the disk is full, or the provenance is not JSON. Nothing is
            left behind then.
        """
        if not path.name.endswith(SUFFIX):
            raise StorageError(f"{path}: the name of a run must end in {SUFFIX}")
        try:
            path.mkdir()
        except FileExistsError as error:
            raise StorageError(f"{path}: exists already; a run never overwrites. Choose another name") from error
        except OSError as error:
            raise storage_error(error, path, "the run could not be created") from error
        lock = WriterLock(path / LOCK)
        try:
            (path / SERVICE_FOLDER).mkdir()
            lock.acquire()
            return cls(path, lay_out(path, spec), lock)
        except (OSError, ValueError) as error:
            lock.release()
            shutil.rmtree(path, ignore_errors=True)
            raise storage_error(error, path, "the run could not be created") from error

    @property
    def counters(self) -> Counters:
        """Frames so far."""
        with self._commits:
            return self._ledger.counters

    def write_raw(self, index: int, pixels: NDArray[np.uint8] | NDArray[np.uint16], record: FrameRecord) -> None:
        """Store a camera frame, bit-exact; it is durable when this returns.

        Parameters
        ----------
        index : int
            Time point, any order.
        pixels : NDArray
            Shape (Y, X) and dtype as in the RunSpec; counts.
        record : FrameRecord
            When and how it was taken.

        Raises
        ------
        StorageError
            Wrong shape, dtype or record; not in the plan; there already; the disk is full. The frame is not there then.
        """
        self._check_pixels(f"raw frame {index}", pixels, self.spec.lr_shape, self.spec.dtype)
        if unknown := set(record.properties) - set(self.spec.recorded):
            raise StorageError(f"{self.path}: {', '.join(sorted(unknown))} is not among the run's recorded properties")

        light = record.light

        def line() -> RawLine:
            return RawLine(
                index=index,
                time_utc_ns=record.time_utc_ns,
                time_monotonic_ns=record.time_monotonic_ns,
                defocus_um=_number(record.defocus_um),
                exposure_ms=_number(record.exposure_ms),
                properties={name: _number(value) for name, value in record.properties.items()},
                level_counts=None if light is None else _number(light.level_counts),
                level_relative=None if light is None else _number(light.level_relative),
                saturated_fraction=None if light is None else _number(light.saturated_fraction),
                lamp=0 if light is None else int(light.lamp),
            )

        with self._claimed("raw", index):
            self._write("raw", index, [pixels], line)
            self._exposed_ns[index] = record.time_monotonic_ns or 0

    def write_phase(self, index: int, phase_rad: NDArray[np.float32], record: PhaseRecord) -> None:
        """Store a phase image, rounded to 2^-10 rad, with its pyramid; durable when this returns.

        Parameters
        ----------
        index : int
            Time point, any order; its raw frame must be there. A phase recorded as missing may still be written.
        phase_rad : NDArray[float32]
            Shape (Y, X) of the HR image, rad. Single pixels may be NaN.
        record : PhaseRecord
            How it was computed.

        Raises
        ------
        StorageError
            As in ``write_raw``; or no pixel is finite, since NaN means that a frame is not there.
        """
        self._check_pixels(f"phase frame {index}", phase_rad, self.spec.hr_shape, "float32")
        if not np.isfinite(phase_rad).any():
            raise StorageError(f"{self.path}: phase frame {index} has no finite pixel; record it as missing")

        judged = record.misfit

        def line() -> PhaseLine:  # made at the commit, for the latency
            exposed_ns = int(self._exposed_ns[index])
            late = record.backfilled or self._ledger.codes["phase"][index] == Validity.MISSING
            return PhaseLine(
                index=index,
                validity=Validity.BACKFILLED if late else Validity.WRITTEN,
                inference_ms=record.inference_ms,
                latency_ms=(time.monotonic_ns() - exposed_ns) / 1e6 if exposed_ns else None,
                runtime=record.runtime,
                misfit=None if judged is None else _number(judged.value),
                noise_sd=None if judged is None else _number(judged.noise_sd),
            )

        with self._claimed("phase", index):
            self._write("phase", index, phase_levels(phase_rad), line, None if judged is None else judged.map)

    def mark_raw_missing(self, index: int, reason: str) -> None:
        """Record that a raw frame will not come, and so no phase; harmless when it is recorded already.

        Raises
        ------
        StorageError
            When the frame is there, is not in the plan, or the record cannot be written.
        """
        self._mark_missing(("raw", "phase"), index, reason)

    def mark_phase_missing(self, index: int, reason: str) -> None:
        """Record that a phase image will not come; harmless when it is recorded already.

        Raises
        ------
        StorageError
            When the image is there, is not in the plan, or the record cannot be written.
        """
        self._mark_missing(("phase",), index, reason)

    def note_focus(self, line: FocusLine) -> None:
        """Record in the journal how the focus was measured. StorageError when it cannot be."""
        with self._commits:
            self._check_open()
            try:
                self._journal.append(line)
            except OSError as error:
                raise storage_error(error, self.path, "the focus could not be recorded") from error

    def finish(
        self,
        state: RunState,
        reason: str | None = None,
        *,
        raw_reason: str | None = None,
        phase_reason: str | None = None,
    ) -> None:
        """Close the run; the writer cannot be used after it.

        Parameters
        ----------
        state : {"completed", "cancelled", "failed", "interrupted"}
            How the run ended.
        reason : str or None
            Why, when it did not complete.
        raw_reason, phase_reason : str or None
            Why frames that never came are missing; by default because the run ended so.

        Raises
        ------
        StorageError
            When the end cannot be written. The writer is closed nevertheless, and ``mark_interrupted`` completes the
            run once there is room.
        """
        if state not in ENDED:
            raise StorageError(f"{self.path}: a run does not end {state}; it ends {', '.join(sorted(ENDED))}")
        default = f"the run ended {state}" + (f": {reason}" if reason else "")
        end = RunEnd(state, reason, raw_reason or default, phase_reason or default)
        with self._commits:
            self._check_open()
            self._closed = True
            self._commits.wait_for(lambda: not self._in_work)
            try:
                close_run(self.path, self._document, self._journal, self._ledger, self._table, end)
            except OSError as error:
                raise storage_error(error, self.path, "the end of the run could not be recorded") from error
            finally:
                self._journal.close()
                self._writer_lock.release()

    def _write(
        self,
        image: ImageName,
        index: int,
        levels: Sequence[Pixels],
        line: Callable[[], RawLine | PhaseLine],
        misfit_map: NDArray[np.float16] | None = None,
    ) -> None:
        """Write the shards of a claimed frame, then commit it; all or nothing."""
        shards = self._shards[image]
        try:
            shards.write(index, levels)
            try:
                with self._commits:
                    self._commit(image, index, line(), misfit_map)
            except (OSError, ValueError):
                shards.remove(index)
                raise
        except (OSError, ValueError) as error:
            raise storage_error(error, self.path, f"{image} frame {index} could not be written") from error

    def _commit(
        self, image: ImageName, index: int, line: RawLine | PhaseLine, misfit_map: NDArray[np.float16] | None
    ) -> None:
        before = self._ledger.codes[image][index]
        self._journal.append(line)
        try:
            if isinstance(line, RawLine):
                self._table.set_raw(line)
            else:
                self._table.set_phase(line, misfit_map)
            if index >= self._ledger.lengths[image]:
                show_frames(self.path, self._arrays[image], index + 1)
        except OSError:
            # Readers go by the validity: it is taken back first, then the journal, which a recovery goes by.
            with suppress(OSError):
                self._table.set_validity(image, index, before)
            self._journal.take_back()
            raise
        self._ledger.apply(line)

    def _mark_missing(self, images: tuple[ImageName, ...], index: int, reason: str) -> None:
        with self._commits:
            self._check_open()
            self._check_index(index)
            for image in images:
                if self._ledger.is_written(image, index) or (image, index) in self._in_work:
                    raise StorageError(f"{self.path}: {image} frame {index} is there and cannot be recorded missing")
            lines = [
                MissingLine(image=image, first=index, last=index, reason=reason)
                for image in images
                if self._ledger.codes[image][index] != Validity.MISSING
            ]
            try:
                self._journal.append(*lines)
                for line in lines:
                    self._ledger.apply(line)
                    self._table.set_validity(line.image, index, Validity.MISSING)
            except OSError as error:
                doing = f"the missing {images[0]} frame {index} could not be recorded"
                raise storage_error(error, self.path, doing) from error

    @contextmanager
    def _claimed(self, image: ImageName, index: int) -> Generator[None]:
        """Hold a frame while it is written, so that no other thread writes or closes it."""
        with self._commits:
            self._check_open()
            self._check_index(index)
            if self._ledger.is_written(image, index) or (image, index) in self._in_work:
                raise StorageError(f"{self.path}: {image} frame {index} is there already; frames are never overwritten")
            if image == "raw" and self._ledger.codes["raw"][index] == Validity.MISSING:
                raise StorageError(f"{self.path}: raw frame {index} was recorded as missing and cannot be written")
            if image == "phase" and not self._ledger.is_written("raw", index):
                raise StorageError(f"{self.path}: phase frame {index} came before its raw frame; write that first")
            self._in_work.add((image, index))
        try:
            yield
        finally:
            with self._commits:
                self._in_work.discard((image, index))
                self._commits.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"{self.path}: the run is closed; nothing more can be written")

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self.spec.frames:
            raise StorageError(f"{self.path}: frame {index} is not in the plan of {self.spec.frames} frames")

    def _check_pixels(self, what: str, pixels: Pixels, shape: tuple[int, int], dtype: str) -> None:
        if pixels.shape != shape or pixels.dtype != np.dtype(dtype):
            raise StorageError(
                f"{self.path}: {what} has shape {pixels.shape} and dtype {pixels.dtype}, "
                f"but the run was created for {shape} and {dtype}"
            )


def _number(value: float | None) -> float | None:
    """NaN has no place in JSON; a value that is not there is None."""
    return None if value is None or not math.isfinite(value) else float(value)
