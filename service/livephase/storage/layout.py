"""Layout: which arrays a run has, where their files lie, and their Zarr 3 metadata documents.

::

    <name>.ome.zarr/
        zarr.json            phase image: OME-Zarr 0.5 multiscales, and ``livephase``: state, counters, provenance
        0/ 1/ 2/ 3/          phase, (t, c, y, x) float32 rad; one shard per frame and level: c.<t>.0.0.0
        raw/                 camera frames, an OME-Zarr image with one level
        frames/              one array over t for each value recorded with a frame, and misfit_map (t, y, x)
        livephase/           journal.jsonl, writer.lock, and temporary files

``livephase/`` is a Zarr array of rank 0 (the version of this layout), because Zarr libraries warn of a folder that they
do not know inside a group, but leave what lies in an array's folder alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from livephase.storage.pyramid import level_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

    from livephase.storage.spec import ImageName, RunSpec

LAYOUT_VERSION: Final = 1
SUFFIX: Final = ".ome.zarr"
AXES: Final = ("t", "c", "y", "x")
INNER_PX: Final = 512
"""Side of an inner chunk: what a viewer fetches at once. A smaller image is one chunk."""

ZARR_JSON: Final = "zarr.json"
SERVICE_FOLDER: Final = "livephase"
JOURNAL: Final = "livephase/journal.jsonl"
LOCK: Final = "livephase/writer.lock"
RESERVE: Final = "livephase/reserve"
FRAMES: Final = "frames"
RAW: Final = "raw"

Document = dict[str, "JsonValue"]

_LITTLE: Final[Document] = {"name": "bytes", "configuration": {"endian": "little"}}


def to_json(document: Document) -> bytes:
    """Encode a metadata document; ValueError for NaN, which JSON cannot hold."""
    return json.dumps(document, indent=1, allow_nan=False).encode()


def group_document(attributes: Document) -> Document:
    """Return the zarr.json of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def array_document(
    shape: tuple[int, ...],
    dtype: str,
    fill: JsonValue,
    chunk: tuple[int, ...],
    codecs: list[JsonValue],
    names: tuple[str, ...],
    attributes: Document,
) -> Document:
    """Return the zarr.json of an array."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "fill_value": fill,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": codecs,
        "dimension_names": list(names),
        "attributes": attributes,
    }


def version_document() -> Document:
    """Return the zarr.json of ``livephase/``."""
    attributes: Document = {"description": "Version of livephase's layout. Beside this file: the journal of the run."}
    return array_document((), "uint8", LAYOUT_VERSION, (), [{"name": "bytes"}], (), attributes)


@dataclass(frozen=True, slots=True)
class ImageArray:
    """One level of one image: an array (t, c, y, x) with one shard per frame.

    Attributes
    ----------
    path : str
        Folder, relative to the store.
    shape : (int, int)
        Shape (Y, X) of a frame, px.
    dtype : str
        ``"float32"``, ``"uint8"`` or ``"uint16"``.
    level, shuffle : int, str
        Of blosc-zstd.
    """

    path: str
    shape: tuple[int, int]
    dtype: str
    level: int
    shuffle: str

    def document(self, length: int) -> Document:
        """Return the zarr.json that shows the first ``length`` frames."""
        inner = tuple(min(INNER_PX, size) for size in self.shape)
        shard = tuple(-(-size // side) * side for size, side in zip(self.shape, inner, strict=True))
        blosc: JsonValue = {
            "name": "blosc",
            "configuration": {
                "cname": "zstd",
                "clevel": self.level,
                "shuffle": self.shuffle,
                "typesize": {"uint8": 1, "uint16": 2, "float32": 4}[self.dtype],
                "blocksize": 0,
            },
        }
        sharding: JsonValue = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [1, 1, *inner],
                "codecs": [_LITTLE, blosc],
                "index_codecs": [_LITTLE, {"name": "crc32c"}],
                "index_location": "end",
            },
        }
        fill: JsonValue = "NaN" if self.dtype == "float32" else 0
        return array_document(
            (length, 1, *self.shape), self.dtype, fill, (1, 1, *shard), [sharding], AXES, attributes={}
        )

    def shard(self, store: Path, index: int) -> Path:
        """Return the file of one frame."""
        return store / self.path / f"c.{index}.0.0.0"

    def shard_index(self, name: str) -> int | None:
        """Return the frame to which a file in this folder belongs; None when it is no shard."""
        parts = name.split(".")
        is_shard = len(parts) == 5 and parts[0] == "c" and parts[1].isdecimal() and parts[2:] == ["0"] * 3
        return int(parts[1]) if is_shard else None


def raw_array(spec: RunSpec) -> ImageArray:
    """Return the array of the camera frames."""
    return ImageArray(f"{RAW}/0", spec.lr_shape, spec.dtype, level=3, shuffle="shuffle")


def phase_arrays(spec: RunSpec) -> tuple[ImageArray, ...]:
    """Return the levels of the phase image, level 0 first."""
    shapes = level_shapes(spec.hr_shape)
    return tuple(ImageArray(str(i), shape, "float32", level=1, shuffle="bitshuffle") for i, shape in enumerate(shapes))


def image_arrays(spec: RunSpec) -> dict[ImageName, tuple[ImageArray, ...]]:
    """Return the arrays of both images, level 0 first."""
    return {"raw": (raw_array(spec),), "phase": phase_arrays(spec)}


def estimated_bytes(spec: RunSpec) -> int:
    """Size on disk to plan for: raw does not compress (noise), phase with its pyramid by a factor of 2.5.

    Measured factors for phase are 3.1 to 4.1 (7 mrad noise); the plan is on the safe side.
    """
    raw = spec.lr_shape[0] * spec.lr_shape[1] * (1 if spec.dtype == "uint8" else 2)
    phase = sum(4 * y * x for y, x in level_shapes(spec.hr_shape))
    return round(spec.frames * (raw + phase / 2.5))
