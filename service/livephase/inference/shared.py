"""Shared memory between the service and the inference worker: the control block and the frame slots.

The service creates and unlinks every segment; the worker only attaches. Both are in one process tree and
share one resource tracker, which unlinks what a killed service leaves behind. A segment is unlinked only
while no worker can be attaching to it (its slot is idle, or the worker is gone): the tracker never hears of
a name afterwards.

Segment of a slot::

    0 ─ frame (Y, X) uint8 or uint16 ─ padding to 64 ─ phase_offset ─ phase (scale Y, scale X) float32
"""

from __future__ import annotations

import contextlib
import shutil
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from livephase.errors import InferenceError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_ALIGNMENT = 64
_COUNTERS = 3
_TMPFS = Path("/dev/shm")  # noqa: S108 - not a temporary file: where Linux keeps shared memory


def view(segment: SharedMemory, shape: tuple[int, ...], dtype: DTypeLike, offset: int = 0) -> NDArray[Any]:
    """Look at part of a segment as an array.

    The segment cannot be closed while the array lives: keep it in a local variable.
    """
    return np.ndarray(shape, dtype=dtype, buffer=segment.buf, offset=offset)


def unlink(segment: SharedMemory) -> None:
    """Close and remove a segment that this process created; one that is gone already is fine."""
    segment.close()
    with contextlib.suppress(FileNotFoundError):
        segment.unlink()


class ControlBlock:
    """Three counters that the worker raises and the service watches.

    ``heartbeat`` is raised by a thread of the worker: it stands still when the process is stopped.
    ``begun`` and ``done`` count frames: they stand still while the computation is stuck, though the heart
    beats. The service compares counters with their earlier values, so that no clock is shared between
    processes.
    """

    def __init__(self, segment: SharedMemory) -> None:
        self.segment = segment
        self._counters: NDArray[np.int64] | None = view(segment, (_COUNTERS,), np.int64)

    @classmethod
    def create(cls) -> ControlBlock:
        """Make a new one; every counter is zero."""
        return cls(SharedMemory(create=True, size=_COUNTERS * np.dtype(np.int64).itemsize))

    @classmethod
    def attach(cls, name: str) -> ControlBlock:
        """Open the one of the service."""
        return cls(SharedMemory(name=name))

    def read(self) -> tuple[int, int, int]:
        """Return (heartbeat, begun, done)."""
        if self._counters is None:
            return (0, 0, 0)
        heartbeat, begun, done = self._counters.tolist()
        return (heartbeat, begun, done)

    def beat(self) -> None:
        """Raise the heartbeat."""
        self._raise(0)

    def begin(self) -> None:
        """Say that a frame was begun."""
        self._raise(1)

    def end(self) -> None:
        """Say that a frame was finished."""
        self._raise(2)

    def close(self) -> None:
        """Let go of the memory without removing it."""
        self._counters = None
        self.segment.close()

    def unlink(self) -> None:
        """Let go of the memory and remove it."""
        self._counters = None
        unlink(self.segment)

    def _raise(self, index: int) -> None:
        if self._counters is not None:
            self._counters[index] += 1


class FrameSlot:
    """The service's side of one slot: room for one frame and its phase."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._segment: SharedMemory | None = None
        self._phase_shape = (0, 0)
        self.phase_offset = 0

    def put(self, pixels: NDArray[Any], scale: int) -> str:
        """Copy a frame in and make room for its phase; returns the name of the segment.

        Raises
        ------
        InferenceError
            The machine's shared memory has no room for it.
        """
        frame_bytes = pixels.nbytes
        self.phase_offset = -(-frame_bytes // _ALIGNMENT) * _ALIGNMENT
        self._phase_shape = (pixels.shape[0] * scale, pixels.shape[1] * scale)
        size = self.phase_offset + self._phase_shape[0] * self._phase_shape[1] * 4
        if self._segment is None or self._segment.size < size:
            self.unlink()
            _check_room(size)
            self._segment = SharedMemory(create=True, size=size)
        view(self._segment, pixels.shape, pixels.dtype)[:] = pixels
        return self._segment.name

    def take(self) -> NDArray[np.float32]:
        """Copy the phase out, (scale Y, scale X) in rad."""
        if self._segment is None:
            msg = "a phase was taken from a slot that holds no frame"
            raise RuntimeError(msg)
        return view(self._segment, self._phase_shape, np.float32, self.phase_offset).copy()

    def unlink(self) -> None:
        """Remove the memory."""
        if self._segment is not None:
            unlink(self._segment)
            self._segment = None


class AttachedSlots:
    """The worker's side of the slots: one attached segment per slot, replaced when the slot grew."""

    def __init__(self) -> None:
        self._segments: dict[int, SharedMemory] = {}

    def segment(self, slot: int, name: str) -> SharedMemory:
        """Return the segment of that slot, attaching it when it is new."""
        known = self._segments.get(slot)
        if known is not None and known.name == name:
            return known
        if known is not None:
            known.close()
        self._segments[slot] = SharedMemory(name=name)
        return self._segments[slot]

    def close(self) -> None:
        """Let go of every segment."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()


def _check_room(size: int) -> None:
    """Refuse what tmpfs cannot hold: the segment would be made, and writing to it would kill the process."""
    if not _TMPFS.is_dir():
        return
    free = shutil.disk_usage(_TMPFS).free
    if size > free:
        msg = (
            f"a frame needs {size / 2**20:.0f} MiB of shared memory and {_TMPFS} has {free / 2**20:.0f} MiB free; "
            "enlarge it (a container's --shm-size)"
        )
        raise InferenceError(msg)
