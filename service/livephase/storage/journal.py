"""Journal: one JSON line for everything that was committed, synced before anything else shows it.

The counters and the frame table of a run follow from its journal. A line is appended after the shards of a frame are
on disk and before a reader can see the frame, so what the journal names is there. The last line may be torn (the
process or the machine stopped while it was written); it was never acknowledged and is dropped.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from livephase.acquisition.progress import Counters, RunState
from livephase.errors import StorageError
from livephase.storage.spec import WRITTEN_CODES, ImageName, Validity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StateLine(_Line):
    """The run came into a state at a moment."""

    kind: Literal["state"] = "state"
    state: RunState
    reason: str | None
    utc_ns: int


class RawLine(_Line):
    """A raw frame is on disk. What has no value is None; ``lamp`` is an ``acquisition.lamp.LampState``."""

    kind: Literal["raw"] = "raw"
    index: int = Field(ge=0)
    time_utc_ns: int
    time_monotonic_ns: int | None
    defocus_um: float | None
    exposure_ms: float | None
    properties: dict[str, float | None]
    level_counts: float | None = None
    level_relative: float | None = None
    saturated_fraction: float | None = None
    lamp: int = 0


class PhaseLine(_Line):
    """A phase image is on disk.

    The latency is None when the start of the exposure is not known; misfit and noise are None when the phase was not
    judged.
    """

    kind: Literal["phase"] = "phase"
    index: int = Field(ge=0)
    validity: Literal[Validity.WRITTEN, Validity.BACKFILLED]
    inference_ms: float
    latency_ms: float | None
    runtime: str
    misfit: float | None = None
    noise_sd: float | None = None


class MissingLine(_Line):
    """The frames ``first`` to ``last`` (inclusive) of an image will not come; a phase may still be backfilled."""

    kind: Literal["missing"] = "missing"
    image: ImageName
    first: int
    last: int
    reason: str


class FocusLine(_Line):
    """The focus was measured before a time point, or could not be (``problem``); ``offset_um`` holds from then on."""

    kind: Literal["focus"] = "focus"
    time_point: int = Field(ge=0)
    utc_ns: int
    offset_um: float
    change_um: float | None
    sd_um: float | None
    problem: str | None


Line = StateLine | RawLine | PhaseLine | MissingLine | FocusLine
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="kind")])


class Journal:
    """The journal of one run, open for appending; one thread at a time.

    Parameters
    ----------
    path : Path
        The file; created when it is not there. A torn last line must have been cut off (``drop_torn_line``).
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._before_last = self._file.tell()

    def append(self, *lines: Line) -> None:
        """Append lines; durable when this returns, and none of them is there when it raises OSError."""
        content = b"".join(line.model_dump_json().encode() + b"\n" for line in lines)
        self._before_last = self._file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError:
            self.take_back()
            raise

    def take_back(self) -> None:
        """Remove what the last ``append`` wrote."""
        self._file.truncate(self._before_last)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> Iterator[Line]:
    """Read the lines of a journal, without a torn last one.

    Raises
    ------
    StorageError
        When the file cannot be read, or a line before the last one is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: the journal cannot be read: {error.strerror or error}") from error
    *lines, _torn = content.split(b"\n")
    for number, text in enumerate(lines, start=1):
        try:
            yield _LINE.validate_json(text)
        except ValidationError as error:
            raise StorageError(f"{path}: line {number} of the journal is damaged") from error


def first_raw_utc_ns(path: Path) -> int | None:
    """Return when the first raw frame in a journal was exposed, UTC in ns; None when there is none that can be read."""
    try:
        with path.open("rb") as file:
            for text in file:
                line = _LINE.validate_json(text)
                if isinstance(line, RawLine):
                    return line.time_utc_ns
    except (OSError, ValidationError):
        return None
    return None


def drop_torn_line(path: Path) -> None:
    """Cut off what follows the last complete line."""
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
        os.fsync(file.fileno())


@dataclass(slots=True)
class Ledger:
    """Which frames of a run are there, rebuilt line by line.

    Attributes
    ----------
    frames : int
        Planned length.
    codes : dict
        For ``"raw"`` and ``"phase"`` one ``Validity`` per frame.
    lengths : dict
        For each image the highest written frame + 1: the length that readers see.
    """

    frames: int
    codes: dict[ImageName, bytearray] = field(init=False)
    lengths: dict[ImageName, int] = field(init=False)

    def __post_init__(self) -> None:
        self.codes = {"raw": bytearray(self.frames), "phase": bytearray(self.frames)}
        self.lengths = {"raw": 0, "phase": 0}

    def apply(self, line: Line) -> None:
        """Take in one line. IndexError when it names a frame outside the plan."""
        match line:
            case RawLine():
                self._written("raw", line.index, Validity.WRITTEN)
            case PhaseLine():
                self._written("phase", line.index, line.validity)
            case MissingLine():
                self._missing(line)
            case StateLine() | FocusLine():
                pass

    def is_written(self, image: ImageName, index: int) -> bool:
        """Whether a frame is on disk."""
        return self.codes[image][index] in WRITTEN_CODES

    def runs_not_there(self, image: ImageName) -> list[tuple[int, int]]:
        """First and last (inclusive) frame of every run of frames that are neither written nor recorded missing."""
        codes, runs, start = self.codes[image], list[tuple[int, int]](), 0
        while (first := codes.find(Validity.NOT_THERE, start)) >= 0:
            start = first
            while start < self.frames and codes[start] == Validity.NOT_THERE:
                start += 1
            runs.append((first, start - 1))
        return runs

    @property
    def counters(self) -> Counters:
        """Frames so far."""
        raw, phase = self.codes["raw"], self.codes["phase"]
        return Counters(
            expected=self.frames,
            raw_written=raw.count(Validity.WRITTEN),
            raw_missing=raw.count(Validity.MISSING),
            phase_written=phase.count(Validity.WRITTEN) + phase.count(Validity.BACKFILLED),
            phase_missing=phase.count(Validity.MISSING),
        )

    def _written(self, image: ImageName, index: int, code: Validity) -> None:
        self.codes[image][index] = code
        self.lengths[image] = max(self.lengths[image], index + 1)

    def _missing(self, line: MissingLine) -> None:
        if not 0 <= line.first <= line.last < self.frames:
            raise IndexError(line.first)
        count = line.last - line.first + 1
        self.codes[line.image][line.first : line.last + 1] = bytes([Validity.MISSING]) * count
