"""Runs on disk as others find them: validators, other libraries, the catalogue, and runs that cannot be created."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import ngff_zarr
import numpy as np
import pytest
import yaozarrs
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05 import Image

from livephase.errors import StorageError
from livephase.storage import (
    FrameRecord,
    PhaseRecord,
    RunSpec,
    RunWriter,
    Validity,
    estimated_bytes,
    list_runs,
    mark_interrupted,
    read_phase_frame,
    read_raw_frame,
    read_run,
)

if TYPE_CHECKING:
    from pathlib import Path

SPEC = RunSpec(
    run_id="r-1",
    name="HeLa",
    frames=5,
    interval_s=30.0,
    lr_shape=(131, 150),
    dtype="uint8",
    lr_pixel_um=2.6,
    defocus_um=6.0,
    recorded=("Camera.Gain",),
    provenance={"model": {"sha256": "0" * 64}, "warnings": ["outside the valid range"], "started_by": None},
)


def write(writer: RunWriter, index: int, *, phase: bool = True) -> None:
    spec = writer.spec
    rng = np.random.default_rng(index)
    pixels = rng.integers(0, 255, spec.lr_shape, dtype=np.uint8)
    writer.write_raw(index, pixels, FrameRecord(1 + index, 1 + index, None, 10.0, {"Camera.Gain": 2.0}))
    if phase:
        writer.write_phase(index, rng.normal(0, 1, spec.hr_shape).astype(np.float32), PhaseRecord(1.0, "torch-cpu"))


def check_with_every_validator(store: Path, frames: int) -> None:
    for image in (store, store / "raw"):
        yaozarrs.validate_zarr_store(str(image))
        Image.from_zarr(zarr.open_group(image, mode="r"))
        multiscales = ngff_zarr.from_ngff_zarr(str(image), validate=True)
        location = parse_url(image, mode="r")
        assert location is not None
        node = next(iter(Reader(location)()))
        assert [level.shape for level in node.data] == [level.data.shape for level in multiscales.images]
        assert node.data[0].shape[:2] == (frames, 1)
        assert [axis["name"] for axis in node.metadata["axes"]] == ["t", "c", "y", "x"]
        if frames:
            assert np.isfinite(np.asarray(node.data[-1][0])).all()
    # Not one object in the store is unknown to zarr-python, which would warn.
    members = dict(zarr.open_group(store, mode="r").members(max_depth=None))
    assert {"0", "1", "raw/0", "frames/time_utc_ns", "frames/Camera.Gain", "livephase"} <= set(members)


def test_a_run_is_valid_from_its_creation_to_its_end(tmp_path: Path) -> None:
    store = tmp_path / "run.ome.zarr"
    writer = RunWriter.create(store, SPEC)
    check_with_every_validator(store, frames=0)
    write(writer, 0)
    write(writer, 1, phase=False)
    write(writer, 2)
    writer.mark_raw_missing(3, "the camera did not answer")
    check_with_every_validator(store, frames=3)
    writer.finish("completed")
    check_with_every_validator(store, frames=3)


def test_metadata_say_what_the_image_is(tmp_path: Path) -> None:
    store = tmp_path / "run.ome.zarr"
    writer = RunWriter.create(store, SPEC)
    write(writer, 0)
    writer.finish("cancelled", "by the user")
    attributes: Any = zarr.open_group(store, mode="r").attrs.asdict()
    omero = attributes["ome"]["omero"]
    assert omero["channels"][0]["label"] == "phase (rad)"
    own = attributes["livephase"]
    assert own["provenance"] == SPEC.provenance
    assert (own["state"], own["reason"]) == ("cancelled", "by the user")
    assert own["counters"]["phase_missing"] == 4
    for name, dtype, inner in (
        ("0", "float32", (1, 1, 512, 512)),
        ("1", "float32", (1, 1, 262, 300)),
        ("raw/0", "uint8", (1, 1, 131, 150)),
    ):
        array = zarr.open_array(store / name, mode="r")
        assert isinstance(array, zarr.Array)
        assert array.dtype == dtype
        assert array.chunks == inner
        assert array.metadata.to_dict()["dimension_names"] == ("t", "c", "y", "x")
    assert np.isnan(zarr.open_array(store / "0", mode="r").fill_value)


def test_the_catalogue_reports_broken_stores_and_lists_the_others(tmp_path: Path) -> None:
    for name in ("done", "gone"):
        writer = RunWriter.create(tmp_path / f"{name}.ome.zarr", SPEC)
        write(writer, 0)
        writer.finish("completed")
    writing = RunWriter.create(tmp_path / "writing.ome.zarr", SPEC)
    write(writing, 0)

    (tmp_path / "empty.ome.zarr").mkdir()
    (tmp_path / "torn.ome.zarr").mkdir()
    (tmp_path / "torn.ome.zarr/zarr.json").write_bytes(b"\0" * 400)
    shutil.copytree(tmp_path / "done.ome.zarr/raw", tmp_path / "foreign.ome.zarr")
    (tmp_path / "gone.ome.zarr/zarr.json").write_text('{"attributes": {"livephase": {"layout": 99, "run": {}}}}')
    shutil.copytree(tmp_path / "done.ome.zarr", tmp_path / "edited.ome.zarr")
    root = json.loads((tmp_path / "edited.ome.zarr/zarr.json").read_text())
    root["attributes"]["livephase"]["run"]["frames"] = "many"
    (tmp_path / "edited.ome.zarr/zarr.json").write_text(json.dumps(root))
    (tmp_path / "notes.txt").write_text("not a run")
    (tmp_path / "other").mkdir()

    found = list_runs(tmp_path)
    assert [run.path.name for run in found.runs] == ["writing.ome.zarr", "done.ome.zarr"]
    assert [run.state for run in found.runs] == ["running", "completed"]
    assert found.runs[0].counters.raw_written == 1
    assert found.runs[1].provenance == SPEC.provenance
    problems = {run.path.name.split(".")[0]: run.problem for run in found.broken}
    assert set(problems) == {"empty", "torn", "foreign", "gone", "edited"}
    assert "layout version 99" in problems["gone"]
    assert "livephase.run.frames" in problems["edited"]
    writing.finish("cancelled")
    with pytest.raises(StorageError, match="data folder cannot be read"):
        list_runs(tmp_path / "nowhere")


def test_a_run_that_cannot_be_created_leaves_nothing(tmp_path: Path) -> None:
    taken = tmp_path / "taken.ome.zarr"
    taken.mkdir()
    (taken / "precious").write_text("data")
    with pytest.raises(StorageError, match=r"taken\.ome\.zarr: exists already"):
        RunWriter.create(taken, SPEC)
    assert (taken / "precious").read_text() == "data"
    with pytest.raises(StorageError, match=r"must end in \.ome\.zarr"):
        RunWriter.create(tmp_path / "run", SPEC)
    with pytest.raises(StorageError, match="could not be created"):
        RunWriter.create(tmp_path / "nowhere/run.ome.zarr", SPEC)
    with pytest.raises(StorageError, match="could not be created"):
        RunWriter.create(taken / "precious/run.ome.zarr", SPEC)
    not_json = SPEC.model_copy(update={"provenance": {"z": float("nan")}})
    with pytest.raises(StorageError, match="JSON"):
        RunWriter.create(tmp_path / "nan.ome.zarr", not_json)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.ome.zarr"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no POSIX permissions on Windows")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # root may write everywhere
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match="no permission to write there; choose another data folder"):
            RunWriter.create(folder / "run.ome.zarr", SPEC)
    finally:
        if user == 0:
            os.seteuid(0)
    assert not list(folder.iterdir())


def test_damage_after_a_crash_is_repaired_from_the_journal(tmp_path: Path) -> None:
    """What a power cut may leave: a torn line, damaged tables, a lower length, temporary files, a lost file."""
    store = tmp_path / "run.ome.zarr"
    writer = RunWriter.create(store, SPEC)
    for index in range(4):
        write(writer, index)
    crashed = tmp_path / "crashed.ome.zarr"
    shutil.copytree(store, crashed)  # a running store that no writer holds
    pixels, phase_rad = read_raw_frame(store, 3), read_phase_frame(store, 3)
    writer.finish("completed")

    assert mark_interrupted(store) is False
    with (crashed / "livephase/journal.jsonl").open("ab") as journal:
        journal.write(b'{"kind":"raw","index":4,"time_u')
    for name in ("raw/0", "1", "0"):
        metadata = crashed / name / "zarr.json"
        metadata.write_text(metadata.read_text().replace("\n  4,\n  1,", "\n  2,\n  1,"))
    for column in ("raw_valid", "time_utc_ns"):
        (crashed / "frames" / column / "c.0").write_bytes(b"\0\0\0")
    (crashed / "frames/phase_valid/c.0").unlink()
    (crashed / "livephase/0.zarr.json.tmp").write_text("{")
    (crashed / "0/c.4.0.0.0.__lock").write_bytes(b"half a shard")
    shutil.copy(crashed / "raw/0/c.3.0.0.0", crashed / "raw/0/c.4.0.0.0")
    (crashed / "1/c.1.0.0.0").unlink()

    assert mark_interrupted(crashed, "power cut") is True
    run = read_run(crashed)
    assert (run.state, run.reason) == ("interrupted", "power cut")
    assert (run.counters.raw_written, run.counters.raw_missing) == (4, 1)
    assert (run.counters.phase_written, run.counters.phase_missing) == (3, 2)
    np.testing.assert_array_equal(read_raw_frame(crashed, 3), pixels)
    np.testing.assert_array_equal(read_phase_frame(crashed, 3), phase_rad)
    frames = zarr.open_group(crashed / "frames", mode="r")
    assert np.asarray(frames["time_utc_ns"]).tolist() == [1, 2, 3, 4, 0]
    missing = int(Validity.MISSING)
    assert np.asarray(frames["phase_valid"]).tolist() == [1, missing, 1, 1, missing]
    check_with_every_validator(crashed, frames=4)
    assert not [path for path in crashed.rglob("*") if path.name.endswith(("__lock", ".tmp"))]
    assert not (crashed / "raw/0/c.4.0.0.0").exists()


def test_a_damaged_journal_is_reported(tmp_path: Path) -> None:
    store, crashed = tmp_path / "run.ome.zarr", tmp_path / "crashed.ome.zarr"
    writer = RunWriter.create(store, SPEC)
    write(writer, 0)
    shutil.copytree(store, crashed)
    writer.finish("completed")
    journal = crashed / "livephase/journal.jsonl"
    text = journal.read_text()
    journal.write_text(text.replace('"kind":"raw"', '"kind":"row"'))
    with pytest.raises(StorageError, match="line 2 of the journal is damaged"):
        mark_interrupted(crashed)
    journal.write_text(text.replace('"index":0', '"index":5'))
    with pytest.raises(StorageError, match="frame outside the plan"):
        read_run(crashed)
    assert [broken.path for broken in list_runs(tmp_path).broken] == [crashed]


def test_a_run_whose_end_is_journalled_keeps_it(tmp_path: Path) -> None:
    """The writer died between the last journal line and the root's metadata."""
    store, crashed = tmp_path / "run.ome.zarr", tmp_path / "crashed.ome.zarr"
    writer = RunWriter.create(store, SPEC)
    write(writer, 0)
    shutil.copytree(store, crashed)
    writer.finish("cancelled", "by the user")
    shutil.copy(store / "livephase/journal.jsonl", crashed / "livephase/journal.jsonl")
    assert read_run(crashed).state == "running"
    assert mark_interrupted(crashed) is True
    assert (read_run(crashed).state, read_run(crashed).reason) == ("cancelled", "by the user")
    assert read_run(crashed).counters == read_run(store).counters


def test_the_estimate_is_above_what_a_noisy_run_takes(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"lr_shape": (245, 320), "frames": 3})
    writer = RunWriter.create(tmp_path / "run.ome.zarr", spec)
    rng = np.random.default_rng(0)
    y, x = np.indices(spec.hr_shape)
    smooth = np.sin(x / 40) + np.cos(y / 30)
    for index in range(3):
        pixels = rng.normal(120, 6, spec.lr_shape).astype(np.uint8)
        writer.write_raw(index, pixels, FrameRecord(1, 1, None, 10.0))
        phase_rad = (smooth + rng.normal(0, 0.007, spec.hr_shape)).astype(np.float32)
        writer.write_phase(index, phase_rad, PhaseRecord(1.0, "torch-cpu"))
    writer.finish("completed")
    shards = sum(path.stat().st_size for path in writer.path.rglob("c.*.0.0.0"))
    assert 0.5 * estimated_bytes(spec) < shards < estimated_bytes(spec)
