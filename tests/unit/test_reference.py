"""Files of dark frames and flat fields: what is kept, what is refused, and the light of a flat field."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from livephase.errors import ConfigurationError, InferenceError
from livephase.phase.modelfile import INPUT_GAIN
from livephase.phase.preprocess import prepare
from livephase.phase.reference import (
    ReferenceInfo,
    Sensor,
    exposure_warning,
    load_reference,
    net_reference,
    refuse_misfit,
    save_reference,
)

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (48, 64)
SENSOR = Sensor(camera="lib.Cam", shape=SHAPE, roi=(0, 0, 64, 48), binning="1", bit_depth=12)
INFO = ReferenceInfo(
    kind="dark",
    created_utc=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    microscope="scope",
    sensor=SENSOR,
    exposure_ms=20.0,
    frames=32,
    method="mean",
    smoothing_px=None,
    dark_sha256=None,
    figures={"offset_counts": 100.0},
    warnings=("doubtful",),
    livephase="0",
)
IMAGE = np.random.default_rng(0).normal(100, 1, SHAPE).astype(np.float32)


def test_a_file_is_read_back_and_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "dark.npz"
    saved = save_reference(path, IMAGE, INFO)
    loaded = load_reference(path, "dark")
    np.testing.assert_array_equal(loaded.image, IMAGE)
    assert loaded.image.dtype == np.float32
    assert loaded.info == INFO
    assert loaded.sha256 == saved.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive) == {"image", "metadata"}
    assert [file.name for file in tmp_path.iterdir()] == ["dark.npz"]
    with pytest.raises(ConfigurationError, match="exists already and is not overwritten"):
        save_reference(path, IMAGE, INFO)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a reference frame"),
        (b"no zip at all", "not a reference frame"),
        (b"PK\x03\x04 torn", "not a reference frame"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_reference_frame_is_refused(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_reference(path, "dark")
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return marker.touch, ()

    path = tmp_path / "evil.npz"
    np.savez(path, image=np.array([Evil()], dtype=object), metadata=np.array(INFO.model_dump_json()))
    with pytest.raises(ConfigurationError, match="not a reference frame"):
        load_reference(path, "dark")
    assert not marker.exists()


def test_damage_and_the_other_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dark.npz"
    save_reference(path, IMAGE, INFO)
    with pytest.raises(ConfigurationError, match="is a dark frame, not a flat field"):
        load_reference(path, "flat")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ConfigurationError, match="not a reference frame"):
        load_reference(path, "dark")
    for name, image in (("nan", np.where(IMAGE > 101, np.nan, IMAGE)), ("shape", IMAGE[:-1])):
        np.savez(tmp_path / f"{name}.npz", image=image, metadata=np.array(INFO.model_dump_json()))
        with pytest.raises(ConfigurationError, match="is damaged"):
            load_reference(tmp_path / f"{name}.npz", "dark")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": (48, 60)}, r"shape \(Y, X\) \(48, 64\) instead of \(48, 60\)"),
        ({"roi": (8, 0, 64, 48)}, r"region \(x, y, width, height\) \(0, 0, 64, 48\) instead of \(8, 0, 64, 48\)"),
        ({"bit_depth": 8}, "bit depth 12 instead of 8"),
        ({"binning": "2"}, "binning 1 instead of 2"),
        ({"camera": "lib.Other"}, r"camera lib\.Cam instead of lib\.Other"),
    ],
)
def test_another_readout_is_refused_and_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    reference = save_reference(tmp_path / "dark.npz", IMAGE, INFO)
    refuse_misfit(reference, SENSOR)
    with pytest.raises(ConfigurationError, match=words):
        refuse_misfit(reference, SENSOR.model_copy(update=change))


def test_another_exposure_is_only_warned_about(tmp_path: Path) -> None:
    reference = save_reference(tmp_path / "dark.npz", IMAGE, INFO)
    assert exposure_warning(reference, 20.05) is None
    assert "taken at 20 ms, frames are exposed 40 ms" in (exposure_warning(reference, 40.0) or "")


def test_single_dead_pixels_of_a_flat_field_can_be_divided_by() -> None:
    dark = np.full(SHAPE, 100, np.float32)
    flat = np.full(SHAPE, 600, np.float32)
    flat[10, 20], flat[0, 0], flat[30, 40] = 100, 95, 99
    light = net_reference(flat, dark)
    np.testing.assert_array_equal(light, 500)
    flat[20:30, 20:30] = 100  # a region without light is no defect
    assert (net_reference(flat, dark)[22:28, 22:28] == 0).all()


def test_the_correction_is_the_papers_with_the_offset_taken_off() -> None:
    """(S - D) / C with C = (R - D) mean(S - D) / mean(R - D), and then the mean is made exactly 1."""
    rng = np.random.default_rng(3)
    dark = rng.normal(100, 2, SHAPE).astype(np.float32)
    flat = (dark + np.linspace(300, 500, 64)).astype(np.float32)
    frame = np.round(dark + (flat - dark) * rng.normal(0.8, 0.04, SHAPE)).astype(np.uint16)
    corrected = (frame - dark) / ((flat - dark) * (frame - dark).mean() / (flat - dark).mean())
    assert corrected.mean() == pytest.approx(1.0, abs=0.01)
    found = prepare(frame, bit_depth=12, stride=8, flat_field=net_reference(flat, dark), dark=dark)
    expected = INPUT_GAIN * (corrected / corrected.mean() - 1)
    np.testing.assert_allclose(found.intensity[found.inner], expected, atol=1e-4)


def test_a_dark_frame_of_another_shape_or_a_flat_field_without_light_has_no_phase() -> None:
    frame = np.full(SHAPE, 600, np.uint16)
    with pytest.raises(InferenceError, match="dark frame has shape"):
        prepare(frame, bit_depth=12, stride=8, dark=np.zeros((48, 60), np.float32))
    flat = np.full(SHAPE, 500, np.float32)
    flat[20:30, 20:30] = 1.0
    with pytest.raises(InferenceError, match="pixels without light where the frame is lit"):
        prepare(frame, bit_depth=12, stride=8, flat_field=flat)
    with pytest.raises(InferenceError, match="the frame is dark"):
        prepare(frame, bit_depth=12, stride=8, dark=frame.astype(np.float32) - 2)
