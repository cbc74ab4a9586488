"""What goes into a run comes out of it: pixels, pyramid, coordinates, records, holes, counters."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import zarr

from livephase.acquisition.lamp import FrameLight, LampState
from livephase.acquisition.progress import Counters
from livephase.errors import StorageError
from livephase.frames import Misfit
from livephase.storage import (
    PHASE_STEP_RAD,
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
from livephase.storage.pyramid import level_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

PHASE = PhaseRecord(inference_ms=21.5, runtime="torch-cpu")


def make_spec(**changes: Any) -> RunSpec:
    values: dict[str, Any] = {
        "run_id": "r-1",
        "name": "HeLa",
        "frames": 6,
        "interval_s": 2.0,
        "lr_shape": (80, 96),
        "dtype": "uint16",
        "lr_pixel_um": 2.6,
        "defocus_um": 6.0,
    }
    return RunSpec.model_validate(values | changes)


def raw_of(spec: RunSpec, index: int) -> NDArray[Any]:
    top = np.iinfo(spec.dtype).max
    return np.random.default_rng(index).integers(0, top, spec.lr_shape, dtype=spec.dtype, endpoint=True)


def phase_of(spec: RunSpec, index: int) -> NDArray[np.float32]:
    return np.random.default_rng(100 + index).normal(1.0, 2.0, spec.hr_shape).astype(np.float32)


def record_of(index: int, **properties: float) -> FrameRecord:
    return FrameRecord(
        time_utc_ns=1_700_000_000_000_000_123 + index,
        time_monotonic_ns=5_000 + index,
        defocus_um=6.0 + 0.1 * index,
        exposure_ms=12.5,
        properties=properties,
    )


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RunWriter]:
    """Make a run of six frames, closed after the test if the test has not."""
    made = RunWriter.create(tmp_path / "run.ome.zarr", make_spec())
    yield made
    if read_run(made.path).state == "running":
        made.finish("cancelled")


def array(writer: RunWriter, name: str) -> zarr.Array[Any]:
    found = zarr.open_array(writer.path / name, mode="r")
    assert isinstance(found, zarr.Array)
    return found


@pytest.mark.parametrize(
    ("lr_shape", "dtype", "scale"),
    [
        ((80, 96), "uint8", 4),
        ((490, 647), "uint8", 4),
        ((131, 77), "uint16", 4),
        ((3, 5), "uint16", 4),
        ((7, 600), "uint8", 3),
    ],
)
def test_frames_come_back(tmp_path: Path, lr_shape: tuple[int, int], dtype: str, scale: int) -> None:
    spec = make_spec(lr_shape=lr_shape, dtype=dtype, scale=scale, frames=2)
    writer = RunWriter.create(tmp_path / "run.ome.zarr", spec)
    for index in range(2):
        writer.write_raw(index, raw_of(spec, index), record_of(index))
        writer.write_phase(index, phase_of(spec, index), PHASE)
    writer.finish("completed")

    raw = np.asarray(array(writer, "raw/0"))
    phase = np.asarray(array(writer, "0"))
    for index in range(2):
        assert raw.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(raw[index, 0], raw_of(spec, index))
        np.testing.assert_array_equal(read_raw_frame(writer.path, index), raw_of(spec, index))
        error_rad = np.abs(phase[index, 0] - phase_of(spec, index).astype(np.float64))
        assert error_rad.max() <= PHASE_STEP_RAD / 2
        np.testing.assert_array_equal(read_phase_frame(writer.path, index), phase[index, 0])
        steps = phase[index, 0] / PHASE_STEP_RAD
        np.testing.assert_array_equal(steps, np.rint(steps))


def test_black_frame_is_stored(writer: RunWriter) -> None:
    black = np.zeros(writer.spec.lr_shape, np.uint16)
    writer.write_raw(0, black, record_of(0))
    np.testing.assert_array_equal(read_raw_frame(writer.path, 0), black)
    assert (writer.path / "raw/0/c.0.0.0.0").exists()


@pytest.mark.parametrize("lr_shape", [(128, 192), (131, 77)])
def test_pyramid_is_the_mean_of_what_is_there(tmp_path: Path, lr_shape: tuple[int, int]) -> None:
    spec = make_spec(lr_shape=lr_shape)
    writer = RunWriter.create(tmp_path / "run.ome.zarr", spec)
    writer.write_raw(0, raw_of(spec, 0), record_of(0))
    writer.write_phase(0, phase_of(spec, 0), PHASE)
    writer.finish("completed")
    expected = phase_of(spec, 0).astype(np.float64)
    levels = len(level_shapes(spec.hr_shape))
    assert levels >= 2
    for level in range(1, levels):
        y, x = expected.shape
        padded = np.pad(expected, ((0, y % 2), (0, x % 2)), constant_values=np.nan)
        expected = np.nanmean(padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2), axis=(1, 3))
        stored = np.asarray(array(writer, str(level)))[0, 0]
        assert stored.shape == expected.shape
        # Half a step of rounding, and the float32 means.
        assert np.abs(stored - expected).max() <= PHASE_STEP_RAD / 2 + 1e-6


def test_coordinates_of_every_level_and_of_raw_agree(tmp_path: Path) -> None:
    """A ramp over the field reads the same at the same place (um) in each level and in the binned raw frame."""
    spec = make_spec(lr_shape=(96, 160))
    y_px, x_px = np.indices(spec.hr_shape)
    ramp = (0.01 * x_px + 0.02 * y_px).astype(np.float32)
    counts = 1000 * ramp.reshape(96, 4, 160, 4).mean(axis=(1, 3))
    writer = RunWriter.create(tmp_path / "run.ome.zarr", spec)
    writer.write_raw(0, np.rint(counts).astype(np.uint16), record_of(0))
    writer.write_phase(0, ramp, PHASE)
    writer.finish("completed")
    root = zarr.open_group(writer.path, mode="r")
    per_um = 0.01 / spec.hr_pixel_um, 0.02 / spec.hr_pixel_um
    for group, unit_rad in ((root, 1.0), (zarr.open_group(writer.path / "raw", mode="r"), 1e-3)):
        ome: Any = group.attrs["ome"]
        for dataset in ome["multiscales"][0]["datasets"]:
            scale, shift = dataset["coordinateTransformations"]
            assert scale["scale"][:2] == [2.0, 1.0]
            (_, _, y_um, x_um), (_, _, y0_um, x0_um) = scale["scale"], shift["translation"]
            stored = np.asarray(group[dataset["path"]])[0, 0] * unit_rad
            y, x = np.indices(stored.shape)
            there = per_um[0] * (x * x_um + x0_um) + per_um[1] * (y * y_um + y0_um)
            np.testing.assert_allclose(stored, there, atol=1e-3)


def test_records_are_stored_with_the_frames(tmp_path: Path) -> None:
    names = ("Camera.SpecimenTime-s", "COM1.Delay", "Stage.a/b:c", "stage.A b c")
    spec = make_spec(recorded=names)
    writer = RunWriter.create(tmp_path / "run.ome.zarr", spec)
    values = {name: index + 0.25 for index, name in enumerate(names)}
    light = FrameLight(512.5, 1.02, 0.001, LampState.STEADY)
    writer.write_raw(0, raw_of(spec, 0), replace(record_of(0, **values), light=light))
    writer.write_raw(2, raw_of(spec, 2), record_of(2, **{names[0]: float("nan")}))
    where = np.arange(30, dtype=np.float16).reshape(5, 6)
    where[0, 0] = np.nan
    misfit = Misfit(value=1.25, threshold=2.0, noise_sd=0.0105, kappa_per_rad=0.01, map=where)
    writer.write_phase(2, phase_of(spec, 2), replace(PHASE, misfit=misfit))
    writer.write_phase(0, phase_of(spec, 0), PHASE)
    with pytest.raises(StorageError, match=r"Lamp\.Power is not among"):
        writer.write_raw(1, raw_of(spec, 1), record_of(1, **{"Lamp.Power": 3.0}))
    writer.finish("completed")

    frames = zarr.open_group(writer.path / "frames", mode="r")
    utc_ns, monotonic_ns = np.asarray(frames["time_utc_ns"]), np.asarray(frames["time_monotonic_ns"])
    assert utc_ns.dtype == monotonic_ns.dtype == np.int64
    assert utc_ns.tolist() == [1_700_000_000_000_000_123, 0, 1_700_000_000_000_000_125, 0, 0, 0]
    assert monotonic_ns.tolist() == [5_000, 0, 5_002, 0, 0, 0]
    np.testing.assert_array_equal(np.asarray(frames["defocus_um"])[:3], [6.0, np.nan, 6.2])
    np.testing.assert_array_equal(np.asarray(frames["exposure_ms"])[:3], [12.5, np.nan, 12.5])
    np.testing.assert_array_equal(np.asarray(frames["inference_ms"])[:3], [21.5, np.nan, 21.5])
    np.testing.assert_array_equal(np.asarray(frames["misfit"])[:3], [np.nan, np.nan, 1.25])
    np.testing.assert_array_equal(np.asarray(frames["noise_sd"])[:3], [np.nan, np.nan, 0.0105])
    np.testing.assert_array_equal(np.asarray(frames["level_counts"])[:3], [512.5, np.nan, np.nan])
    np.testing.assert_array_equal(np.asarray(frames["level_relative"])[:3], [1.02, np.nan, np.nan])
    np.testing.assert_array_equal(np.asarray(frames["saturated_fraction"])[:3], [0.001, np.nan, np.nan])
    assert np.asarray(frames["lamp"]).tolist()[:3] == [LampState.STEADY, 0, 0]
    maps = cast("zarr.Array[Any]", frames["misfit_map"])
    assert (maps.dtype, maps.attrs["block_px"], maps.attrs["pixel_um"]) == (np.float16, 16, 16 * spec.lr_pixel_um)
    np.testing.assert_array_equal(np.asarray(maps[2]), where)
    assert np.isnan(np.asarray(maps[:2])).all()
    assert read_run(writer.path).misfit == 1.25
    assert np.asarray(frames["latency_ms"])[2] > 0
    table = read_frame_table(writer.path)
    for name in names:
        assert table[name].dtype == np.float64
        np.testing.assert_array_equal(table[name][:3], [values[name], np.nan, np.nan])
    assert len({name.casefold() for name, _ in frames.arrays()}) == 15 + len(names)


def test_holes_are_nan_and_counted(writer: RunWriter) -> None:
    spec = writer.spec
    for index in (0, 1, 3):
        writer.write_raw(index, raw_of(spec, index), record_of(index))
    writer.write_phase(3, phase_of(spec, 3), PHASE)
    writer.mark_raw_missing(2, "the camera did not answer")
    writer.mark_phase_missing(1, "the worker ended")
    assert writer.counters == Counters(6, raw_written=3, raw_missing=1, phase_written=1, phase_missing=2)
    assert read_run(writer.path).counters == writer.counters
    assert array(writer, "0").shape[0] == 4
    writer.finish("failed", "the camera is gone")

    phase, raw = np.asarray(array(writer, "0")), np.asarray(array(writer, "raw/0"))
    assert phase.shape[0] == raw.shape[0] == 4
    assert np.isnan(phase[:3]).all()
    assert np.isfinite(phase[3]).all()
    missing = int(Validity.MISSING)
    table = read_frame_table(writer.path)
    assert table["raw_valid"].tolist() == [1, 1, missing, 1, missing, missing]
    assert table["phase_valid"].tolist() == [missing, missing, missing, 1, missing, missing]
    run = read_run(writer.path)
    assert (run.state, run.reason) == ("failed", "the camera is gone")
    assert run.counters == Counters(6, raw_written=3, raw_missing=3, phase_written=1, phase_missing=5)
    assert run.counters.closed
    assert np.isnan(read_phase_frame(writer.path, 2)).all()
    with pytest.raises(StorageError, match="raw frame 2 is not there"):
        read_raw_frame(writer.path, 2)
    lines = [json.loads(line) for line in (writer.path / "livephase/journal.jsonl").read_text().splitlines()]
    reasons = {
        (line["image"], line["first"], line["last"]): line["reason"] for line in lines if line["kind"] == "missing"
    }
    assert reasons["raw", 2, 2] == reasons["phase", 2, 2] == "the camera did not answer"
    assert reasons["phase", 1, 1] == "the worker ended"
    assert "the camera is gone" in reasons["raw", 4, 5]
    assert lines[-1]["state"] == "failed"


def test_phase_comes_in_any_order_and_later(writer: RunWriter) -> None:
    spec = writer.spec
    for index in range(6):
        writer.write_raw(index, raw_of(spec, index), record_of(index))
    writer.mark_phase_missing(0, "the worker ended")
    writer.write_phase(4, phase_of(spec, 4), PHASE)
    writer.write_phase(2, phase_of(spec, 2), PhaseRecord(30.0, "openvino-bf16", backfilled=True))
    assert array(writer, "0").shape[0] == 5
    writer.write_phase(0, phase_of(spec, 0), PHASE)
    for index in (1, 3, 5):
        writer.write_phase(index, phase_of(spec, index), PHASE)
    writer.finish("completed")
    assert read_frame_table(writer.path)["phase_valid"].tolist() == [2, 1, 2, 1, 1, 1]
    assert read_run(writer.path).counters == Counters(6, raw_written=6, phase_written=6)
    for index in range(6):
        assert np.abs(read_phase_frame(writer.path, index) - phase_of(spec, index)).max() <= PHASE_STEP_RAD / 2


def test_no_frame_is_written_twice_or_out_of_order(writer: RunWriter) -> None:
    spec = writer.spec
    with pytest.raises(StorageError, match="phase frame 0 came before its raw frame"):
        writer.write_phase(0, phase_of(spec, 0), PHASE)
    writer.write_raw(0, raw_of(spec, 0), record_of(0))
    with pytest.raises(StorageError, match="raw frame 0 is there already"):
        writer.write_raw(0, raw_of(spec, 1), record_of(0))
    writer.write_phase(0, phase_of(spec, 0), PHASE)
    with pytest.raises(StorageError, match="phase frame 0 is there already"):
        writer.write_phase(0, phase_of(spec, 1), PHASE)
    with pytest.raises(StorageError, match="cannot be recorded missing"):
        writer.mark_phase_missing(0, "no")
    with pytest.raises(StorageError, match="cannot be recorded missing"):
        writer.mark_raw_missing(0, "no")
    writer.mark_raw_missing(1, "first reason")
    writer.mark_raw_missing(1, "second reason")
    writer.mark_phase_missing(1, "third reason")
    with pytest.raises(StorageError, match="raw frame 1 was recorded as missing"):
        writer.write_raw(1, raw_of(spec, 1), record_of(1))
    assert writer.counters == Counters(6, raw_written=1, raw_missing=1, phase_written=1, phase_missing=1)
    np.testing.assert_array_equal(read_raw_frame(writer.path, 0), raw_of(spec, 0))


def test_frames_that_do_not_fit_are_refused(writer: RunWriter) -> None:
    spec = writer.spec
    with pytest.raises(StorageError, match=r"raw frame 0 has shape \(80, 95\).*created for \(80, 96\) and uint16"):
        writer.write_raw(0, raw_of(spec, 0)[:, :-1], record_of(0))
    with pytest.raises(StorageError, match="dtype uint8"):
        writer.write_raw(0, raw_of(spec, 0).astype(np.uint8), record_of(0))
    for index in (-1, 6):
        with pytest.raises(StorageError, match=f"frame {index} is not in the plan of 6 frames"):
            writer.write_raw(index, raw_of(spec, 0), record_of(0))
        with pytest.raises(StorageError, match=f"frame {index} is not in the plan"):
            read_phase_frame(writer.path, index)
    writer.write_raw(0, raw_of(spec, 0), record_of(0))
    with pytest.raises(StorageError, match="dtype float64"):
        writer.write_phase(0, phase_of(spec, 0).astype(np.float64), PHASE)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="no finite pixel"):
        writer.write_phase(0, np.full(spec.hr_shape, np.nan, np.float32), PHASE)
    with pytest.raises(StorageError, match="phase frame 0 could not be written"):
        writer.write_phase(0, phase_of(spec, 0), PhaseRecord(float("nan"), "torch-cpu"))
    assert not list(writer.path.glob("[0-9]/c.*"))
    writer.write_phase(0, phase_of(spec, 0), PHASE)
    assert writer.counters.phase_written == 1


def test_a_closed_run_takes_nothing(writer: RunWriter) -> None:
    with pytest.raises(StorageError, match="does not end running"):
        writer.finish("running")
    writer.finish("cancelled", "by the user")
    for late in (
        lambda: writer.write_raw(0, raw_of(writer.spec, 0), record_of(0)),
        lambda: writer.mark_raw_missing(0, "late"),
        lambda: writer.finish("completed"),
    ):
        with pytest.raises(StorageError, match="the run is closed"):
            late()
    assert read_run(writer.path).reason == "by the user"


def test_raw_and_phase_are_written_from_two_threads(tmp_path: Path) -> None:
    spec = make_spec(frames=24)
    writer = RunWriter.create(tmp_path / "run.ome.zarr", spec)
    durable = [threading.Event() for _ in range(spec.frames)]
    refused: list[int] = []

    def write_raw_frames() -> None:
        for index in range(spec.frames):
            try:
                writer.write_raw(index, raw_of(spec, index), record_of(index))
            except StorageError:
                refused.append(index)
            else:
                durable[index].set()

    def write_phases() -> None:
        for index in range(spec.frames):
            assert durable[index].wait(60)
            writer.write_phase(index, phase_of(spec, index), PHASE)

    # Two rivals for every raw frame: exactly one of them may write it.
    threads = [threading.Thread(target=target) for target in (write_raw_frames, write_raw_frames, write_phases)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.finish("completed")
    assert sorted(refused) == list(range(spec.frames))
    assert read_run(writer.path).counters == Counters(24, raw_written=24, phase_written=24)
    for index in range(spec.frames):
        np.testing.assert_array_equal(read_raw_frame(writer.path, index), raw_of(spec, index))
        assert np.abs(read_phase_frame(writer.path, index) - phase_of(spec, index)).max() <= PHASE_STEP_RAD / 2
