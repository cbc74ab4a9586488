"""Shards: tensorstore encodes a frame, syncs it to disk under a temporary name and renames it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import tensorstore as ts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from livephase.storage.layout import ImageArray

    Pixels = NDArray[np.float32] | NDArray[np.uint8] | NDArray[np.uint16]

_CONTEXT: Final = {"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": True}


class ShardWriter:
    """Writes whole frames of one image, with all its levels, but never its metadata.

    It opens the arrays with the planned length; how many frames a reader sees is up to the metadata, which is raised
    when the frames are committed.

    Parameters
    ----------
    store : Path
        The run.
    arrays : sequence of ImageArray
        Level 0 first.
    frames : int
        Planned length.
    """

    def __init__(self, store: Path, arrays: Sequence[ImageArray], frames: int) -> None:
        self._store = store
        self._arrays = arrays
        self._levels = [
            ts.open(
                {
                    "driver": "zarr3",
                    "kvstore": {"driver": "file", "path": f"{(store / array.path).as_posix()}/"},
                    "context": _CONTEXT,
                    "metadata": array.document(frames),
                    "assume_metadata": True,
                    "open": True,
                    # Else a black frame would have no file, just like a frame that was never written.
                    "store_data_equal_to_fill_value": True,
                }
            ).result()
            for array in arrays
        ]

    def write(self, index: int, levels: Sequence[Pixels]) -> None:
        """Write one frame (Y, X) per level; durable when this returns.

        Raises
        ------
        ValueError
            tensorstore's error, with the operating system's code in its text. No file of the frame is left then.
        """
        started = [level[index, 0].write(pixels) for level, pixels in zip(self._levels, levels, strict=True)]
        errors = [error for write in started if (error := write.commit.exception()) is not None]
        if errors:
            self.remove(index)
            raise errors[0]

    def remove(self, index: int) -> None:
        """Delete what there is of a frame that was not committed."""
        for array in self._arrays:
            array.shard(self._store, index).unlink(missing_ok=True)


def read_frame(store: Path, array: ImageArray, index: int) -> NDArray[Any] | None:
    """Read one frame (Y, X); None when it lies beyond the committed length.

    Raises
    ------
    ValueError
        tensorstore's error: not there, or damaged.
    """
    opened = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{(store / array.path).as_posix()}/"},
            "context": _CONTEXT,
        },
        open=True,
        read=True,
    ).result()
    if index >= opened.shape[0]:
        return None
    return opened[index, 0].read().result()
