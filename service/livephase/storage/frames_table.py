"""Frame table: one array over t for every value that is recorded with a frame, and the misfit's maps.

The arrays have the planned length from the start and are not compressed, so that a value is changed in place: 8
bytes in a page, which no reader sees half-written. They are not synced with every frame, because the journal is, and
holds the same values; a store that was interrupted gets its table from there.

``misfit_map`` (t, y, x) has one file for each frame, written once, atomically, before the misfit's value; the journal
does not hold it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from livephase.acquisition.lamp import LampState
from livephase.frames import MISFIT_BLOCK_PX
from livephase.storage.durable import sync_directory, write_atomically
from livephase.storage.journal import PhaseLine, RawLine
from livephase.storage.layout import (
    FRAMES,
    SERVICE_FOLDER,
    ZARR_JSON,
    array_document,
    group_document,
    to_json,
)
from livephase.storage.spec import Validity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydantic import JsonValue

    from livephase.storage.journal import Line
    from livephase.storage.layout import Document
    from livephase.storage.spec import ImageName, RunSpec

CHUNK_FRAMES: Final = 4096
MISFIT_MAP: Final = "misfit_map"

DType = Literal["int64", "float64", "uint8"]


@dataclass(frozen=True, slots=True)
class Column:
    """One array of the table; frames that are not there hold 0 (integers) or NaN."""

    name: str
    dtype: DType
    unit: str | None
    description: str

    @property
    def fill(self) -> float:
        """What a frame that is not there holds."""
        return np.nan if self.dtype == "float64" else 0


BASE_COLUMNS: Final = (
    Column("time_utc_ns", "int64", "nanosecond", "start of the exposure, since 1970-01-01 UTC"),
    Column("time_monotonic_ns", "int64", "nanosecond", "start of the exposure, clock without jumps; 0: not known"),
    Column("defocus_um", "float64", "micrometer", "confirmed distance of the lens focus above the specimen"),
    Column("exposure_ms", "float64", "millisecond", "exposure time"),
    Column("level_counts", "float64", None, "mean of the raw counts inside the field stop, above the dark frame"),
    Column("level_relative", "float64", None, "level_counts over that of the run's first frame with light"),
    Column("saturated_fraction", "float64", None, "part of the raw counts at the camera's highest count"),
    Column("lamp", "uint8", None, "see lamp_codes of the group"),
    Column("inference_ms", "float64", "millisecond", "time to compute the phase"),
    Column("latency_ms", "float64", "millisecond", "from the start of the exposure to the phase on disk"),
    Column(
        "misfit", "float64", None, "residual of the re-propagated phase; 1 is usual for matched frames, NaN not judged"
    ),
    Column("noise_sd", "float64", None, "standard deviation of the frame's noise over its level"),
    Column("raw_valid", "uint8", None, "see validity_codes of the group"),
    Column("phase_valid", "uint8", None, "see validity_codes of the group"),
)

_RESERVED: Final = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def property_columns(recorded: tuple[str, ...]) -> dict[str, Column]:
    """Return the column of every recorded ``"Device.Property"``, named such that any file system takes it."""
    taken = {column.name for column in BASE_COLUMNS} | {MISFIT_MAP}
    columns: dict[str, Column] = {}
    for name in recorded:
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", name).strip(".")
        if _RESERVED.match(safe):  # COM1 is a usual label for a serial port, and no file on Windows
            safe = f"_{safe}"
        number, unique = 2, safe
        while unique.casefold() in taken:
            unique, number = f"{safe}_{number}", number + 1
        taken.add(unique.casefold())
        columns[name] = Column(unique, "float64", None, f"device property {name}")
    return columns


class FramesTable:
    """The arrays under ``frames/`` of one run.

    Parameters
    ----------
    store : Path
        The run.
    spec : RunSpec
        Gives the length and the recorded properties.
    """

    def __init__(self, store: Path, spec: RunSpec) -> None:
        self._store = store
        self._frames = spec.frames
        self._chunk = min(spec.frames, CHUNK_FRAMES)
        self._map_shape = tuple(-(-side // MISFIT_BLOCK_PX) for side in spec.lr_shape)
        self._map_pixel_um = spec.lr_pixel_um * MISFIT_BLOCK_PX
        self.properties = property_columns(spec.recorded)
        self._columns = {column.name: column for column in (*BASE_COLUMNS, *self.properties.values())}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(self._columns)

    def create(self) -> None:
        """Write the metadata; the values come with the frames."""
        codes: Document = {code.name.lower(): int(code) for code in Validity}
        lamp_codes: Document = {code.name.lower(): int(code) for code in LampState}
        attributes: Document = {"livephase": {"validity_codes": codes, "lamp_codes": lamp_codes}}
        for column in self._columns.values():
            folder = self._store / FRAMES / column.name
            folder.mkdir(parents=True, exist_ok=True)
            codec: Document = {"name": "bytes"}
            if column.dtype != "uint8":
                codec["configuration"] = {"endian": "little"}
            fill: JsonValue = "NaN" if column.dtype == "float64" else 0
            text: Document = {"description": column.description}
            if column.unit is not None:
                text["unit"] = column.unit
            document = array_document(
                (self._frames,), column.dtype, fill, (self._chunk,), [codec], ("t",), attributes=text
            )
            self._replace(folder / ZARR_JSON, to_json(document))
        self._create_map()
        self._replace(self._store / FRAMES / ZARR_JSON, to_json(group_document(attributes)))

    def set_raw(self, line: RawLine) -> None:
        """Set what a raw frame brings; its validity last."""
        self._set(line.index, self._raw_row(line))
        self.set_validity("raw", line.index, Validity.WRITTEN)

    def set_phase(self, line: PhaseLine, misfit_map: NDArray[np.float16] | None = None) -> None:
        """Set what a phase image brings; its validity last."""
        if misfit_map is not None:
            self._replace(self._map_path(line.index), misfit_map.astype("<f2").tobytes())
        self._set(line.index, _phase_row(line))
        self.set_validity("phase", line.index, line.validity)

    def set_validity(self, image: ImageName, index: int, code: int) -> None:
        """Set the validity of one frame."""
        self._put(f"{image}_valid", index, [code])

    def set_all_validity(self, codes: Mapping[ImageName, bytearray]) -> None:
        """Set the validity of all frames."""
        for image, column in codes.items():
            self._put(f"{image}_valid", 0, np.frombuffer(bytes(column), np.uint8))

    def rebuild(self, lines: Iterable[Line], codes: Mapping[ImageName, bytearray]) -> None:
        """Write the whole table anew from a journal and the validity that follows from it; the maps stay."""
        self.create()
        values = {name: np.full(self._frames, column.fill, self._dtype(name)) for name, column in self._columns.items()}
        for line in lines:
            match line:
                case RawLine():
                    row = self._raw_row(line)
                case PhaseLine():
                    row = _phase_row(line)
                case _:
                    continue
            for name, value in row.items():
                values[name][line.index] = value
        for name, column in values.items():
            for damaged in (self._store / FRAMES / name).glob("c.*"):
                damaged.unlink()
            self._put(name, 0, column)
        self.set_all_validity(codes)

    def read(self, name: str) -> NDArray[Any]:
        """Read one column (T,)."""
        dtype = self._dtype(name)
        values = np.full(self._frames, self._columns[name].fill, dtype)
        for start in range(0, self._frames, self._chunk):
            path = self._chunk_path(name, start // self._chunk)
            if path.exists():
                stop = min(start + self._chunk, self._frames)
                values[start:stop] = np.frombuffer(path.read_bytes(), dtype)[: stop - start]
        return values

    def validity(self, image: ImageName, index: int) -> Validity:
        """Read the validity code of one frame."""
        path = self._chunk_path(f"{image}_valid", index // self._chunk)
        if not path.exists():
            return Validity.NOT_THERE
        with path.open("rb") as file:
            file.seek(index % self._chunk)
            return Validity(file.read(1)[0])

    def sync(self) -> None:
        """Make all values durable."""
        for name in self._columns:
            folder = self._store / FRAMES / name
            for path in folder.glob("c.*"):
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
            sync_directory(folder)

    def _create_map(self) -> None:
        text: Document = {
            "description": "residual of the re-propagated phase over the expected one, rms; NaN: not judged",
            "block_px": MISFIT_BLOCK_PX,
            "pixel_um": self._map_pixel_um,
        }
        little: Document = {"name": "bytes", "configuration": {"endian": "little"}}
        document = array_document(
            (self._frames, *self._map_shape),
            "float16",
            "NaN",
            (1, *self._map_shape),
            [little],
            ("t", "y", "x"),
            attributes=text,
        )
        folder = self._store / FRAMES / MISFIT_MAP
        folder.mkdir(exist_ok=True)
        self._replace(folder / ZARR_JSON, to_json(document))

    def _map_path(self, index: int) -> Path:
        return self._store / FRAMES / MISFIT_MAP / f"c.{index}.0.0"

    def _raw_row(self, line: RawLine) -> dict[str, float]:
        row = {
            "time_utc_ns": line.time_utc_ns,
            "time_monotonic_ns": line.time_monotonic_ns or 0,
            "defocus_um": _number(line.defocus_um),
            "exposure_ms": _number(line.exposure_ms),
            "level_counts": _number(line.level_counts),
            "level_relative": _number(line.level_relative),
            "saturated_fraction": _number(line.saturated_fraction),
            "lamp": line.lamp,
        }
        return row | {self.properties[name].name: _number(value) for name, value in line.properties.items()}

    def _set(self, index: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._put(name, index, [value])

    def _put(self, name: str, first: int, values: Sequence[float] | NDArray[Any]) -> None:
        """Set one column from frame ``first`` on, in place."""
        column = np.asarray(values, self._dtype(name))
        done = 0
        while done < len(column):
            chunk, offset = divmod(first + done, self._chunk)
            part = column[done : done + self._chunk - offset]
            path = self._chunk_path(name, chunk)
            if not path.exists():
                self._replace(path, np.full(self._chunk, self._columns[name].fill, column.dtype).tobytes())
            with path.open("r+b", buffering=0) as file:
                file.seek(offset * column.itemsize)
                file.write(part.tobytes())
            done += len(part)

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(self._columns[name].dtype).newbyteorder("<")

    def _chunk_path(self, name: str, chunk: int) -> Path:
        return self._store / FRAMES / name / f"c.{chunk}"

    def _replace(self, path: Path, content: bytes) -> None:
        write_atomically(path, content, self._store / SERVICE_FOLDER)


def _phase_row(line: PhaseLine) -> dict[str, float]:
    return {
        "inference_ms": line.inference_ms,
        "latency_ms": _number(line.latency_ms),
        "misfit": _number(line.misfit),
        "noise_sd": _number(line.noise_sd),
    }


def _number(value: float | None) -> float:
    return np.nan if value is None else value
