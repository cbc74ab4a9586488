"""Other processes: readers while a run is written, and a writer that is killed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from livephase.storage import Validity, list_runs, mark_interrupted, read_frame_table, read_run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

WRITER = Path(__file__).with_name("storage_writer_process.py")

Acknowledged = dict[tuple[str, int], str]


def start_writer(store: Path, seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WRITER), str(store), str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def acknowledged(lines: Iterable[str]) -> Acknowledged:
    split = [line.split() for line in lines if line.endswith("\n")]
    return {(image, int(index)): sha for image, index, sha in split}


def sha256(pixels: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def open_array(store: Path, name: str) -> zarr.Array[Any]:
    """Open an array with zarr-python; a reader of a growing one must do so every time."""
    array = zarr.open_array(store / name, mode="r")
    assert isinstance(array, zarr.Array)
    return array


def phase_with_ome_zarr(store: Path) -> list[NDArray[Any]]:
    """Read all levels of the phase image with ome-zarr-py."""
    location = parse_url(store, mode="r")
    assert location is not None
    image = next(iter(Reader(location)()))
    return image.data


def validity_of(store: Path, image: str) -> NDArray[np.uint8]:
    return np.asarray(zarr.open_array(store / f"frames/{image}_valid", mode="r"))


def test_readers_see_whole_frames_while_a_process_writes(tmp_path: Path) -> None:
    store = tmp_path / "run.ome.zarr"
    with start_writer(store, seed=1) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        first = writer.stdout.readline()  # the store is there and holds a frame
        seen: dict[str, list[NDArray[Any]]] = {"raw": [], "phase": []}
        lengths: set[int] = set()
        while len(seen["phase"]) < 40:
            for image, name in (("raw", "raw/0"), ("phase", "0")):
                # The length first, then the validity, then the pixels: each must hold for what comes after it.
                array, start = open_array(store, name), len(seen[image])
                new = range(start, array.shape[0])
                valid = validity_of(store, image)
                seen[image] += [np.asarray(array[index, 0]) for index in new]
                claimed = [index for index in new if valid[index] == Validity.WRITTEN]
                assert not any(np.isnan(seen[image][index]).any() for index in claimed)
                assert image == "phase" or len(claimed) == len(new)
            lengths.add(len(seen["phase"]))
            levels = phase_with_ome_zarr(store)
            written = validity_of(store, "phase")[: len(seen["phase"])] == Validity.WRITTEN
            for index in np.flatnonzero(written)[-2:]:
                assert all(np.isfinite(np.asarray(level[index, 0])).all() for level in levels)
        assert mark_interrupted(store) is False  # it is alive
        assert read_run(store).state == "running"
        lines = [first]
        writer.stdin.close()
        lines += writer.stdout.readlines()
    assert writer.returncode == 0
    assert len(lengths) > 3
    told = acknowledged(lines)
    for index, pixels in enumerate(seen["raw"]):
        assert sha256(pixels) == told["raw", index]
    blank = [index for index, pixels in enumerate(seen["phase"]) if np.isnan(pixels).any()]
    for index, pixels in enumerate(seen["phase"]):
        assert index in blank or sha256(pixels) == told["phase", index]
    # A blank frame is one whose phase had not come when it was read, or never came.
    assert all(index % 7 == 6 or index % 11 == 10 for index in blank)
    run = read_run(store)
    assert (run.state, run.reason) == ("cancelled", "told to stop")
    assert run.counters.closed
    assert run.counters.raw_written == sum(image == "raw" for image, _ in told)
    assert run.counters.phase_written == sum(image == "phase" for image, _ in told)


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    store = tmp_path / "run.ome.zarr"
    rng = np.random.default_rng(seed)
    with start_writer(store, seed) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        lines = [writer.stdout.readline() for _ in range(int(rng.integers(1, 30)))]
        time.sleep(rng.uniform(0, 0.05))  # waits for nothing: the kill comes at any moment of a commit
        writer.kill()
        lines += writer.stdout.readlines()
    told = acknowledged(lines)
    assert read_run(store).state == "running"

    # Before any repair, a reader that goes by shape and validity finds all of it.
    check_frames(store, told)
    assert mark_interrupted(store) is True
    assert mark_interrupted(store) is False
    check_frames(store, told)

    run = read_run(store)
    assert run.state == "interrupted"
    assert run.reason
    assert run.counters.closed
    for image, written in (("raw", run.counters.raw_written), ("phase", run.counters.phase_written)):
        # At most the frame in the air was committed but not yet acknowledged.
        assert written - sum(kind == image for kind, _ in told) in {0, 1}
    table = read_frame_table(store)
    written = table["raw_valid"] == Validity.WRITTEN
    assert np.isfinite(table["Camera.SpecimenTime-s"][written]).all()
    assert (table["time_utc_ns"][written] > 0).all()
    files = [path for path in store.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.endswith(("__lock", ".tmp")) or path.name == "reserve"]
    shards = [path for path in files if path.parent.name == "0" and path.name.startswith("c.")]
    assert len(shards) == run.counters.raw_written + run.counters.phase_written
    assert [found.path for found in list_runs(tmp_path).runs] == [store]


def check_frames(store: Path, told: Acknowledged) -> None:
    for image, name in (("raw", "raw/0"), ("phase", "0")):
        frames, valid = open_array(store, name), validity_of(store, image)
        for (kind, index), sha in told.items():
            if kind == image:
                assert valid[index] in {Validity.WRITTEN, Validity.BACKFILLED}
                assert sha256(np.asarray(frames[index, 0])) == sha
