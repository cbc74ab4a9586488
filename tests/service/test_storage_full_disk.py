"""A disk that is really full: nothing is half there, everything earlier is readable, the end is recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from livephase.errors import StorageError
from livephase.storage import (
    FrameRecord,
    PhaseRecord,
    RunSpec,
    RunWriter,
    Validity,
    read_frame_table,
    read_phase_frame,
    read_raw_frame,
    read_run,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tmpfs and file size limits are POSIX")

PAGE = 4096
SPEC = RunSpec(
    run_id="r-1",
    name="full",
    frames=8,
    interval_s=1,
    lr_shape=(40, 48),
    dtype="uint8",
    lr_pixel_um=2.6,
    defocus_um=6.0,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 4 MiB, which only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    # Lazily, since a test that failed leaves its writer open.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave_pages(filler: Path, pages: int) -> None:
    """Fill the disk up to this many free pages."""
    with filler.open("ab") as file:
        file.truncate(0)
        free = os.statvfs(filler.parent)
        file.write(b"x" * (free.f_bavail * free.f_frsize - pages * PAGE))


def raw_of(index: int) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 255, SPEC.lr_shape, dtype=np.uint8)


def phase_of(index: int) -> NDArray[np.float32]:
    steps = np.random.default_rng(index).integers(-2048, 2048, SPEC.hr_shape)
    return (steps / 1024).astype(np.float32)


def check_readable(writer: RunWriter, raw_count: int, phase_count: int) -> None:
    """What is acknowledged is there, and nothing else claims to be."""
    assert read_run(writer.path).counters == writer.counters
    assert (writer.counters.raw_written, writer.counters.phase_written) == (raw_count, phase_count)
    table = read_frame_table(writer.path)
    for column, count, name in (("raw_valid", raw_count, "raw/0"), ("phase_valid", phase_count, "0")):
        assert table[column].tolist() == [Validity.WRITTEN] * count + [Validity.NOT_THERE] * (SPEC.frames - count)
        assert len(list((writer.path / name).glob("c.*"))) == count
        array = zarr.open_array(writer.path / name, mode="r")
        assert array.shape[0] == count
    for index in range(raw_count):
        np.testing.assert_array_equal(read_raw_frame(writer.path, index), raw_of(index))
    for index in range(phase_count):
        np.testing.assert_array_equal(read_phase_frame(writer.path, index), phase_of(index))


def test_every_step_of_a_commit_may_meet_a_full_disk(small_disk: Path) -> None:
    """The free space is swept page by page, so that the shard, the journal, the table and the metadata fail in turn."""
    writer = RunWriter.create(small_disk / "run.ome.zarr", SPEC)
    filler = small_disk / "filler"
    record = FrameRecord(1, 1, 6.0, 10.0)

    refusals: list[str] = []

    def write_with_room(write: Callable[[], None], check: Callable[[], None]) -> None:
        for pages in range(200):
            leave_pages(filler, pages)
            try:
                write()
            except StorageError as error:
                refusals.append(str(error))
                check()
            else:
                return
        raise AssertionError("the frame was refused with plenty of room")

    for index in range(3):
        write_with_room(
            lambda index=index: writer.write_raw(index, raw_of(index), record),
            lambda index=index: check_readable(writer, index, index),
        )
        write_with_room(
            lambda index=index: writer.write_phase(index, phase_of(index), PhaseRecord(1.0, "torch-cpu")),
            lambda index=index: check_readable(writer, index + 1, index),
        )
    assert len(refusals) > 20
    assert all("the disk is full" in refusal for refusal in refusals)
    check_readable(writer, 3, 3)

    leave_pages(filler, 0)
    with pytest.raises(StorageError, match="the disk is full"):
        writer.write_raw(3, raw_of(3), record)
    writer.finish("failed", "the disk is full")
    run = read_run(writer.path)
    assert (run.state, run.reason) == ("failed", "the disk is full")
    assert run.counters.closed
    assert run.counters.raw_missing == SPEC.frames - 3


def test_a_run_is_not_created_on_a_full_disk(small_disk: Path) -> None:
    leave_pages(small_disk / "filler", 200)
    with pytest.raises(StorageError, match="the run could not be created: the disk is full"):
        RunWriter.create(small_disk / "run.ome.zarr", SPEC)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_file_size_limit_reads_like_a_full_disk(tmp_path: Path) -> None:
    import resource

    writer = RunWriter.create(tmp_path / "run.ome.zarr", SPEC)
    writer.write_raw(0, raw_of(0), FrameRecord(1, 1, 6.0, 10.0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * PAGE, before[1]))
    try:
        with pytest.raises(StorageError, match="phase frame 0 could not be written: the disk is full"):
            writer.write_phase(0, phase_of(0), PhaseRecord(1.0, "torch-cpu"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_readable(writer, 1, 0)
    writer.write_phase(0, phase_of(0), PhaseRecord(1.0, "torch-cpu"))
    check_readable(writer, 1, 1)
    writer.finish("completed")
