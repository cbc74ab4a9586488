"""``reconstruct``: recordings in, stores out, through the real worker; what it refuses; what it records."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import tifffile
import zarr

from livephase.errors import ConfigurationError, InferenceError, ModelError, ModelRangeError
from livephase.inference.engine import PhaseEngine
from livephase.inference.protocol import WorkerSettings
from livephase.inference.reconstruct import plan_frames
from livephase.phase.choice import Optics, choose_for_recording
from livephase.phase.library import known_models
from livephase.phase.modelfile import read_card
from livephase.phase.preprocess import resample_area
from livephase.phase.weights import load_network, save_network
from livephase.reconstruct_cli import reconstruct
from livephase.storage import read_phase_frame, read_raw_frame, read_run
from livephase.storage.journal import PhaseLine, RawLine, read_journal
from livephase.storage.layout import JOURNAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARED = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).parents[3] / "shared"))
OPTICS: dict[str, Any] = {"defocus_um": 6.0, "pixel_um": 2.6, "wavelength_um": 0.55}


def changed(**values: float) -> dict[str, Any]:
    """Take the usual values, some of them changed."""
    return OPTICS | values


def recorded(count: int, shape: tuple[int, int] = (64, 80), dtype: str = "uint8") -> NDArray[Any]:
    """Make frames (T, Y, X) of 100 counts with noise."""
    noise = np.random.default_rng(11).normal(100, 4, (count, *shape))
    return (np.round(noise) * (1 if dtype == "uint8" else 16)).astype(dtype)


@cache
def engine_here(model: Path, flat_field: Literal["none", "auto"]) -> PhaseEngine:
    """Make the engine of the worker in this process."""
    return PhaseEngine(
        WorkerSettings(model, read_card(model).sha256, "auto", 2.6, 0.55, None, 0.4, flat_field, os.cpu_count() or 1)
    )


def computed(
    model: Path, pixels: NDArray[Any], bit_depth: int, flat_field: Literal["none", "auto"] = "auto"
) -> NDArray[np.float32]:
    """Compute the phase of one frame in this process."""
    engine = engine_here(model, flat_field)
    out = np.empty((pixels.shape[0] * 4, pixels.shape[1] * 4), np.float32)
    engine.compute(pixels, 6.0, bit_depth, out)
    return out


def write_recording(kind: str, folder: Path, frames: NDArray[Any]) -> Path:
    """Write the frames as a microscope would."""
    if kind == "tiff":
        path = folder / "frames.tif"
        tifffile.imwrite(path, frames, photometric="minisblack")
    elif kind == "ome-tiff":
        path = folder / "frames.ome.tif"
        tifffile.imwrite(path, frames, photometric="minisblack", metadata={"axes": "TYX"})
    else:
        from ngff_zarr import to_multiscales, to_ngff_image, to_ngff_zarr

        path = folder / "frames.ome.zarr"
        to_ngff_zarr(path, to_multiscales(to_ngff_image(frames, dims=["t", "y", "x"]), scale_factors=[]))
    return path


@pytest.mark.parametrize("kind", ["tiff", "ome-tiff", "ome-zarr"])
def test_every_recorded_frame_gets_its_phase(kind: str, untrained_model: Path, tmp_path: Path) -> None:
    frames = recorded(3, dtype="uint16" if kind == "ome-tiff" else "uint8")
    out = tmp_path / "out.ome.zarr"
    reconstruct(write_recording(kind, tmp_path, frames), out, **OPTICS, model=str(untrained_model))
    run = read_run(out)
    assert run.state == "completed"
    assert (run.counters.raw_written, run.counters.phase_written, run.counters.phase_missing) == (3, 3, 0)
    check_frames(out, frames, untrained_model, 11 if kind == "ome-tiff" else 8)
    group: Any = zarr.open_group(out, mode="r")
    assert group["0"].shape == (3, 1, 256, 320)
    provenance: Any = run.provenance
    assert provenance["model"]["sha256"] == read_card(untrained_model).sha256
    assert provenance["values"]["lr_pixel_um"] == run.spec.lr_pixel_um == 2.6
    assert provenance["resampling"] is None
    assert provenance["outside_valid_range"] == []


def test_store_states_no_exposure_that_nobody_measured(untrained_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.zarr"
    before_ns = time.time_ns()
    reconstruct(write_recording("tiff", tmp_path, recorded(2)), out, **OPTICS, model=str(untrained_model))
    group: Any = zarr.open_group(out, mode="r")
    table: Any = {name: np.asarray(group["frames"][name]) for name in group["frames"].array_keys()}
    for name in ("exposure_ms", "defocus_um", "latency_ms"):
        assert np.isnan(table[name]).all(), name
    assert (table["inference_ms"] > 0).all()
    np.testing.assert_array_equal(table["time_monotonic_ns"], 0)
    assert (table["time_utc_ns"] >= before_ns).all()
    provenance: Any = read_run(out).provenance
    assert "time_utc_ns is the time of processing" in provenance["frame_times"]
    assert provenance["values"]["defocus_um"] == 6.0
    # The journal says the same, so that a recovered table does.
    lines = [*read_journal(out / JOURNAL)]
    raw = [line for line in lines if isinstance(line, RawLine)]
    phase = [line for line in lines if isinstance(line, PhaseLine)]
    assert [(line.exposure_ms, line.time_monotonic_ns, line.defocus_um) for line in raw] == [(None, None, None)] * 2
    assert [line.latency_ms for line in phase] == [None, None]


def check_frames(out: Path, frames: NDArray[Any], model: Path, bit_depth: int, missing: int | None = None) -> None:
    """Compare a store with the recorded frames and with their phases computed in this process."""
    for index, pixels in enumerate(frames):
        np.testing.assert_array_equal(read_raw_frame(out, index), pixels)
        if index != missing:
            # Stored on a grid of 2^-10 rad.
            expected = computed(model, pixels, bit_depth)
            np.testing.assert_allclose(read_phase_frame(out, index), expected, atol=2**-11 + 1e-4)


def test_frame_without_phase_is_marked_and_the_others_are_there(untrained_model: Path, tmp_path: Path) -> None:
    frames = recorded(5)
    frames[2] = 0
    out = tmp_path / "out.ome.zarr"
    with pytest.raises(InferenceError, match="1 of 5 frames have no phase; frame 2: the frame is dark"):
        reconstruct(write_recording("tiff", tmp_path, frames), out, **OPTICS, model=str(untrained_model))
    run = read_run(out)
    assert run.state == "completed"
    assert (run.counters.raw_written, run.counters.phase_written, run.counters.phase_missing) == (5, 4, 1)
    check_frames(out, frames, untrained_model, 8, missing=2)


@pytest.mark.parametrize(
    ("pixel_um", "lr_shape"),
    # 4 x 4 pixels; and, where no multiple lies in the untrained model's range, parts of pixels to its centre.
    [(0.65, (70, 82)), (1.7, (183, 215))],
)
def test_finer_pixels_are_averaged_to_the_models_and_that_is_recorded(
    untrained_model: Path, tmp_path: Path, pixel_um: float, lr_shape: tuple[int, int]
) -> None:
    frames = recorded(1, (280, 330))
    out = tmp_path / "out.ome.zarr"
    source = write_recording("tiff", tmp_path, frames[0])
    reconstruct(source, out, **changed(pixel_um=pixel_um), model=str(untrained_model))
    run = read_run(out)
    assert run.spec.lr_pixel_um == pytest.approx(2.6)
    assert run.spec.lr_shape == lr_shape
    raw = read_raw_frame(out, 0)
    np.testing.assert_allclose(raw / 256, resample_area(frames[0], pixel_um, 2.6), atol=0.002)
    np.testing.assert_allclose(read_phase_frame(out, 0), computed(untrained_model, raw, 16), atol=2**-11 + 1e-4)
    assert run.provenance["resampling"] == {
        "from_um": pixel_um,
        "to_um": pytest.approx(2.6),
        "method": "area average",
        "counts_per_recorded_count": 256.0,
    }


def test_later_brighter_frames_do_not_overflow_when_averaged(untrained_model: Path, tmp_path: Path) -> None:
    frames = recorded(2, (280, 330)).astype(np.uint16)
    frames[1] *= 100
    out = tmp_path / "out.ome.zarr"
    reconstruct(write_recording("tiff", tmp_path, frames), out, **changed(pixel_um=0.65), model=str(untrained_model))
    provenance: Any = read_run(out).provenance
    # The brightest frame has 14 bits.
    assert provenance["resampling"]["counts_per_recorded_count"] == 4.0
    for index, pixels in enumerate(frames):
        np.testing.assert_allclose(read_raw_frame(out, index) / 4, resample_area(pixels, 0.65, 2.6), atol=0.126)
    plan = plan_frames(read_card(untrained_model), frames[:1], 0.65)
    assert plan.gain == 256.0
    with pytest.raises(InferenceError, match="more than the 65535 of uint16"):
        plan.convert(frames[1])


def test_values_outside_the_valid_range_need_permission(untrained_model: Path, tmp_path: Path) -> None:
    source = write_recording("tiff", tmp_path, recorded(1))
    out = tmp_path / "out.ome.zarr"
    for values, named in (
        ({"defocus_um": 25.0}, "defocus_um = 25 is outside the model's valid range 1 to 13"),
        ({"pixel_um": 5.0}, "lr_pixel_um = 5 is outside"),
        ({"wavelength_um": 0.7}, "wavelength_um = 0.7 is outside"),
        ({"coherence": 0.9}, "coherence = 0.9 is outside"),
    ):
        with pytest.raises(ModelRangeError, match=f"model 'untrained': {named}.* --allow-out-of-range") as refused:
            reconstruct(source, out, **changed(**values), model=str(untrained_model))
        assert "livephase models recipe" in str(refused.value), "no bundled model serves these either"
        assert not out.exists()
    values = changed(defocus_um=25.0, coherence=0.3)
    reconstruct(source, out, **values, model=str(untrained_model), allow_out_of_range=True)
    run = read_run(out)
    assert run.counters.phase_written == 1
    assert run.provenance["outside_valid_range"] == ["defocus_um = 25 is outside the model's valid range 1 to 13."]
    assert run.provenance["values"] == {
        "defocus_um": 25.0,
        "lr_pixel_um": 2.6,
        "wavelength_um": 0.55,
        "coherence": 0.3,
        "flat_field": "auto",
    }


def test_without_a_name_the_model_that_fits_is_used(tmp_path: Path) -> None:
    """The bundled ones; and where none fits, the refusal names the nearest."""
    source = write_recording("tiff", tmp_path, recorded(1))
    expected = choose_for_recording(known_models()[0], Optics(2.6, 0.55, 6.0))
    assert expected.problems == ()
    out = tmp_path / "out.ome.zarr"
    reconstruct(source, out, **OPTICS)
    provenance: Any = read_run(out).provenance
    assert provenance["model"]["sha256"] == expected.model.card.sha256
    far = choose_for_recording(known_models()[0], Optics(30.0, 0.55, 6.0)).model.card.name
    with pytest.raises(ModelRangeError, match=f"nearest is '{far}'"):
        reconstruct(source, tmp_path / "x.ome.zarr", **changed(pixel_um=30.0))
    with pytest.raises(ModelError, match="no model has the name 'nonsense'"):
        reconstruct(source, tmp_path / "x.ome.zarr", **OPTICS, model="nonsense")


def test_the_refusal_names_the_model_that_fits(untrained_model: Path, tmp_path: Path) -> None:
    """A model named by its path does not serve a wavelength that a bundled one serves."""
    network, card = load_network(untrained_model)
    blue = card.model_copy(
        update={"name": "blue", "valid": card.valid.model_copy(update={"wavelength_um": (0.4, 0.5)})}
    )
    path = tmp_path / "blue.safetensors"
    save_network(path, network, blue)
    fitting = choose_for_recording(known_models()[0], Optics(2.6, 0.55, 6.0)).model.card.name
    with pytest.raises(ModelRangeError, match=f"wavelength_um = 0.55 is outside.* Model '{fitting}' fits"):
        reconstruct(write_recording("tiff", tmp_path, recorded(1)), tmp_path / "x.ome.zarr", **OPTICS, model=str(path))


def test_flat_field_image_is_divided_out(untrained_model: Path, tmp_path: Path) -> None:
    light = np.linspace(0.6, 1.4, 80)[None, :]
    frames = np.round(recorded(1)[0] * light * 100).astype(np.uint16)
    flat = tmp_path / "flat.tif"
    tifffile.imwrite(flat, np.round(np.repeat(20000 * light, 64, axis=0)).astype(np.uint16))
    source = write_recording("tiff", tmp_path, frames)
    out = tmp_path / "out.ome.zarr"
    reconstruct(source, out, **OPTICS, model=str(untrained_model), flat_field=str(flat))
    phase = read_phase_frame(out, 0)
    even = computed(untrained_model, recorded(1)[0], 8, "none")
    uncorrected = computed(untrained_model, frames, 14, "none")
    assert np.abs(phase - even).max() < 0.02 * np.abs(even).max()
    assert np.abs(uncorrected - even).max() > 0.2 * np.abs(even).max()
    tifffile.imwrite(flat, np.ones((10, 10), np.uint8))
    with pytest.raises(ConfigurationError, match="have to match"):
        reconstruct(source, tmp_path / "x.ome.zarr", **OPTICS, model=str(untrained_model), flat_field=str(flat))


def test_what_cannot_be_done_is_said_in_one_line(untrained_model: Path, tmp_path: Path) -> None:
    source = write_recording("tiff", tmp_path, recorded(1))
    good = tmp_path / "out.ome.zarr"
    (tmp_path / "there.ome.zarr").mkdir()
    no_tiff = tmp_path / "text.tif"
    no_tiff.write_text("no image")
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(b"\x80\x04}q\x00.")
    for source_path, out, model, error, message in (
        (tmp_path / "absent.tif", good, untrained_model, ConfigurationError, "absent.tif"),
        (no_tiff, good, untrained_model, ConfigurationError, "not a TIFF file"),
        (source, tmp_path / "out.zip", untrained_model, ConfigurationError, "must end in .ome.zarr"),
        (source, tmp_path / "there.ome.zarr", untrained_model, ConfigurationError, "exists already"),
        (source, tmp_path / "no" / "out.ome.zarr", untrained_model, ConfigurationError, "folder does not exist"),
        (source, good, pickled, ModelError, "pickle"),
    ):
        with pytest.raises(error, match=message) as caught:
            reconstruct(source_path, out, **OPTICS, model=str(model))
        assert "\n" not in str(caught.value)
    assert not good.exists()


@pytest.mark.real_data
def test_measured_hela_frame_through_the_command(untrained_model: Path, tmp_path: Path) -> None:
    path = SHARED / "data" / "tie_hela" / "Iz.tif"
    if not path.is_file():
        pytest.skip(f"the measured data set is absent ({path})")
    out = tmp_path / "hela.ome.zarr"
    command = [
        sys.executable,
        "-c",
        "import typer; from livephase.reconstruct_cli import reconstruct as r; typer.run(r)",
    ]
    command += [str(path), str(out), "--defocus-um", "2.5", "--pixel-um", "0.2325", "--wavelength-um", "0.55"]
    command += ["--model", str(untrained_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 phases, 464 x 324 at 0.6394 um" in done.stdout
    phase = read_phase_frame(out, 0)
    # NaN outside the octagonal field stop, finite inside.
    assert 0.4 < np.isfinite(phase).mean() < 0.62
    assert np.isfinite(phase[200:250, 150:250]).all()
    assert np.isnan(phase[:40]).all()
    provenance: Any = read_run(out).provenance
    assert len(provenance["source"]["sha256"]) == 64
