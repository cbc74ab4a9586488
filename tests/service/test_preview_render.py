"""What a viewer is sent is the image: binning, casting, and the message around it."""

from __future__ import annotations

import dataclasses
import time
import warnings

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livephase.preview import Kind, PreviewFrame, View, wire
from livephase.preview.render import MAX_PIXELS, Region, bin_mean, region_of, render

RNG = np.random.default_rng(7)
PHASE = RNG.normal(2.0, 1.0, (196, 259)).astype(np.float32)


def make_frame(**changes: object) -> PreviewFrame:
    frame = PreviewFrame(
        sequence=3,
        phase_rad=PHASE,
        raw=RNG.integers(0, 4096, (49, 65)).astype(np.uint16),
        bit_depth=12,
        hr_pixel_um=0.65,
        time_utc_ns=1_780_000_000_123_456_789,
        time_monotonic_ns=time.monotonic_ns(),
        defocus_um=6.0,
        source="run",
        run_id="r-1",
        time_point=4,
        saturated_fraction=0.25,
        misfit=3.21098,
        misfit_threshold=2.0,
    )
    return dataclasses.replace(frame, **changes)


@given(
    size=st.integers(1, 9),
    image=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=24),
        elements=st.floats(-50, 50, width=32),
    ),
)
def test_every_bin_is_the_mean_of_its_pixels(size: int, image: np.ndarray) -> None:
    means = bin_mean(image, size)
    rows, columns = means.shape
    assert (rows, columns) == (-(-image.shape[0] // size), -(-image.shape[1] // size))
    for row in range(rows):
        for column in range(columns):
            block = image[row * size : (row + 1) * size, column * size : (column + 1) * size]
            assert means[row, column] == pytest.approx(block.mean(dtype=np.float64), abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_non_finite_pixel_makes_its_bin_non_finite_and_no_other(bad: float, size: int) -> None:
    image = PHASE.copy()
    image[100, 50] = bad
    image[101, 51] = -bad
    shown = render(image, Region(0, 0, size, -(-259 // size), -(-196 // size)))
    expected = np.zeros(shown.shape, bool)
    expected[100 // size, 50 // size] = expected[101 // size, 51 // size] = True
    assert np.array_equal(~np.isfinite(shown), expected)


def test_pixels_are_little_endian_float16_of_the_source() -> None:
    shown = render(PHASE, Region(x=17, y=23, bin=1, columns=100, rows=80))
    assert shown.dtype == np.dtype("<f2")
    assert shown.flags.c_contiguous
    assert np.array_equal(shown, PHASE[23:103, 17:117].astype(np.float16))


def test_counts_of_a_16_bit_camera_stay_finite() -> None:
    counts = np.array([[65535, 65504], [65519, 0]], np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = render(counts, Region(0, 0, 1, 2, 2))
    assert shown.tolist() == [[65504, 65504], [65504, 0]]


def test_eight_and_twelve_bit_counts_are_shown_exactly_to_2048() -> None:
    counts = np.arange(2049, dtype=np.uint16).reshape(1, -1)
    assert np.array_equal(render(counts, Region(0, 0, 1, 2049, 1)), counts)


def test_zooming_in_reaches_single_pixels_and_the_overview_fits_the_canvas() -> None:
    assert region_of(View("phase", 0, 0, 2588, 1960, 1100, 860), 2588, 1960) == Region(0, 0, 2, 1294, 980)
    assert region_of(View("phase", 100, 50, 400, 300, 1100, 860), 2588, 1960) == Region(100, 50, 1, 400, 300)


@given(
    full=st.tuples(st.integers(1, 6000), st.integers(1, 6000)),
    corner=st.tuples(st.integers(0, 7000), st.integers(0, 7000)),
    extent=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    canvas=st.tuples(st.integers(1, 8000), st.integers(1, 8000)),
)
@settings(max_examples=300)
def test_a_region_covers_the_visible_part_on_one_grid_within_the_cap(
    full: tuple[int, int], corner: tuple[int, int], extent: tuple[int, int], canvas: tuple[int, int]
) -> None:
    region = region_of(View("phase", *corner, *extent, *canvas), *full)
    size = region.bin
    assert region.x % size == 0
    assert region.y % size == 0
    assert region.columns * region.rows <= MAX_PIXELS + region.columns + region.rows + 1
    for axis, (start, count) in enumerate(((region.x, region.columns), (region.y, region.rows))):
        first = min(corner[axis], full[axis] - 1)
        last = max(min(corner[axis] + extent[axis], full[axis]), first + 1)
        assert 0 <= start <= first
        assert last <= start + count * size < last + size
        assert start + (count - 1) * size < full[axis]


@pytest.mark.parametrize("kind", ["phase", "raw"])
def test_a_message_comes_back_as_it_went(kind: Kind) -> None:
    frame = make_frame()
    image = frame.image(kind)
    assert image is not None
    region = region_of(View(kind, 5, 6, 40, 30, 40, 30), image.shape[1], image.shape[0])
    pixels = render(image, region)
    message = wire.encode(wire.header_of(frame, kind, region, age_ms=12.34, dropped=5), pixels.tobytes())
    assert message[:4] == b"LPH1"
    length = int.from_bytes(message[4:8], "little")
    assert length % 8 == 0

    header, back = wire.decode(message)
    assert np.array_equal(back, pixels)
    assert header["time_utc_ns"] == "1780000000123456789"
    assert {key: header[key] for key in ("seq", "kind", "x", "y", "bin", "width", "height")} == {
        "seq": 3, "kind": kind, "x": 5, "y": 6, "bin": 1, "width": 40, "height": 30,
    }  # fmt: skip
    assert (header["full_height"], header["full_width"]) == image.shape
    assert header["pixel_um"] == (0.65 if kind == "phase" else 2.6)
    assert (header["hr_pixel_um"], header["age_ms"], header["dropped"]) == (0.65, 12.3, 5)
    assert (header["source"], header["run_id"], header["time_point"]) == ("run", "r-1", 4)
    assert (header["out_of_range"], header["saturated_fraction"]) == (False, 0.25)
    assert (header["misfit"], header["misfit_threshold"]) == (3.211, 2.0)


@given(st.binary(max_size=64))
def test_other_bytes_are_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"preview message|Expecting|codec|bytes of pixels"):
        wire.decode(message)


def test_a_truncated_message_is_refused() -> None:
    region = Region(0, 0, 1, 10, 10)
    pixels = render(PHASE, region).tobytes()
    message = wire.encode(wire.header_of(make_frame(), "phase", region, age_ms=0, dropped=0), pixels)
    with pytest.raises(ValueError, match="198 bytes of pixels, expected 10 x 10"):
        wire.decode(message[:-2])


def test_a_frame_without_that_image_has_no_header() -> None:
    with pytest.raises(ValueError, match="has no image of kind 'phase'"):
        wire.header_of(make_frame(phase_rad=None), "phase", Region(0, 0, 1, 1, 1), age_ms=0, dropped=0)
