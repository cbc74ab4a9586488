"""Recorded camera frames: TIFF, OME-TIFF, a folder of TIFFs, or OME-Zarr, read frame by frame."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_TIFF_SUFFIXES = (".tif", ".tiff", ".btf")


class _Stack(Protocol):
    """What is used of a zarr array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, index: tuple[int, ...]) -> Any: ...


class Recording:
    """Frames of one recording, in order.

    Parameters
    ----------
    path : Path
        A TIFF or OME-TIFF file, a folder of TIFF files (taken in the order of their names), an OME-Zarr image or a
        livephase run (of which the raw frames are taken).

    Attributes
    ----------
    shape : tuple of int
        (Y, X) of every frame.
    dtype : numpy.dtype
        uint8 or uint16.
    count : int
        Number of frames; axes before Y and X are walked through in their order.

    Raises
    ------
    FileNotFoundError
        Nothing is there.
    ValueError
        It holds no grey-level frames of 8 or 16 bits, or its frames differ in size or kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"the recording {path} does not exist")
        self._files: list[tifffile.TiffFile] = []
        self._frames: list[tuple[_Stack, tuple[int, ...]]] = []
        try:
            for stack, valid in self._open():
                before_yx = list(np.ndindex(stack.shape[:-2]))
                self._frames += [(stack, where) for where, there in zip(before_yx, valid, strict=False) if there]
            if not self._frames:
                raise ValueError(f"{path} holds no frames")
            first = self._frames[0][0]
            self.shape, self.dtype = (first.shape[-2], first.shape[-1]), first.dtype
            for stack, _ in self._frames:
                if stack.shape[-2:] != self.shape or stack.dtype != self.dtype:
                    raise ValueError(
                        f"the frames of {path} differ: {stack.shape[-2:]} {stack.dtype} after {self.shape} {self.dtype}"
                    )
        except BaseException:
            self.close()
            raise
        self.count = len(self._frames)

    def frame(self, index: int) -> Pixels:
        """Return frame ``index`` (Y, X), exactly as recorded.

        Raises
        ------
        IndexError
            There is no such frame.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"there is no frame {index} in {self.path}, which has {self.count}")
        stack, where = self._frames[index]
        return cast("Pixels", np.asarray(stack[where]))

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files = []

    def _open(self) -> list[tuple[_Stack, Iterable[bool]]]:
        """Return the stacks of the recording, each with whether its frames are there."""
        if self.path.is_file():
            return [(stack, repeat(True)) for stack in self._open_tiff(self.path)]
        if any((self.path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
            return [self._open_zarr()]
        files = sorted(file for file in self.path.iterdir() if file.suffix.lower() in _TIFF_SUFFIXES)
        if not files:
            raise ValueError(f"the folder {self.path} is no OME-Zarr image and holds no TIFF files")
        return [(stack, repeat(True)) for file in files for stack in self._open_tiff(file)]

    def _open_tiff(self, path: Path) -> list[_Stack]:
        try:
            file = tifffile.TiffFile(path)
        except tifffile.TiffFileError as error:
            raise ValueError(f"{path} is not a TIFF file ({error})") from error
        self._files.append(file)
        stacks: list[_Stack] = []
        for series in file.series:  # pages that were appended one by one are a series each
            store = cast("Any", series).aszarr(level=0)
            stacks.append(_grey(cast("_Stack", zarr.open_array(store, mode="r")), series.axes.lower(), path))
        return stacks

    def _open_zarr(self) -> tuple[_Stack, Iterable[bool]]:
        node: Any = zarr.open(str(self.path), mode="r")
        stack, axes = _image(node, self.path)
        there: Iterable[bool] = repeat(True)
        if stack.dtype.kind == "f" and not isinstance(node, zarr.Array) and "raw" in node:
            # A livephase run: its root is the phase. A raw frame that is missing reads as zeros and must not be shown.
            stack, axes = _image(node["raw"], self.path / "raw")
            there = _raw_is_there(node)
        return _grey(stack, axes, self.path), there


def _raw_is_there(run: Any) -> Iterable[bool]:
    """Return, for each time point of a livephase run, whether its raw frame was written."""
    frames = run["frames"]
    codes: dict[str, int] = dict(frames.attrs)["livephase"]["validity_codes"]
    written = {codes["written"], codes["backfilled"]}
    return [int(code) in written for code in frames["raw_valid"][:]]


def _image(node: Any, path: Path) -> tuple[_Stack, str]:
    """Return the full-resolution array of an OME-Zarr image (0.4 or 0.5) and the names of its axes."""
    if isinstance(node, zarr.Array):
        return cast("_Stack", node), "t" * (node.ndim - 2) + "yx"
    attributes: dict[str, Any] = dict(node.attrs)
    multiscales: list[dict[str, Any]] | None = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        raise ValueError(f"{path} is a Zarr group, but no OME-Zarr image (it has no multiscales)")
    axes = "".join(str(axis["name"])[0] for axis in multiscales[0]["axes"])
    return cast("_Stack", node[multiscales[0]["datasets"][0]["path"]]), axes


def _grey(stack: _Stack, axes: str, path: Path) -> _Stack:
    """Return ``stack`` if it is a series of grey-level frames; ``axes`` has one letter for each axis."""
    if not axes.endswith("yx"):
        raise ValueError(f"{path} has the axes {axes.upper()}: only grey-level frames can be replayed")
    for letter, size in zip(axes, stack.shape, strict=True):
        if letter in "cs" and size > 1:
            raise ValueError(f"{path} has {size} channels: only recordings of one channel can be replayed")
    if stack.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise ValueError(f"{path} holds {stack.dtype} pixels: only 8-bit and 16-bit frames can be replayed")
    return stack
