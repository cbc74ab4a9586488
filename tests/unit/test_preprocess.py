"""Preprocessing: level, flat field, field stop, padding and resampling."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from livephase.errors import InferenceError
from livephase.phase.illumination import box_mean, erode, estimate_background, find_field_stop
from livephase.phase.modelfile import INPUT_GAIN, Architecture, ModelCard, ValidRange
from livephase.phase.preprocess import (
    HALO_PX,
    model_pixel_um,
    prepare,
    resample_area,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARED = Path(os.environ.get("LIVEPHASE_SHARED", Path(__file__).parents[3] / "shared"))


def specimen(shape: tuple[int, int], level: float = 120.0, seed: int = 0) -> NDArray[np.float64]:
    """Make an intensity of that level with zero-mean structure of a few per cent."""
    rng = np.random.default_rng(seed)
    structure = box_mean(rng.standard_normal(shape).astype(np.float32), 1).astype(np.float64)
    structure -= structure.mean()
    return level * (1 + 0.05 * structure / structure.std())


def octagon(shape: tuple[int, int], radius: float) -> NDArray[np.bool_]:
    """Mask of a regular octagon about the centre."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    u, v = np.abs(y - shape[0] / 2 + 0.5), np.abs(x - shape[1] / 2 + 0.5)
    return (np.maximum(u, v) < radius) & (u + v < radius * np.sqrt(2))


def test_counts_become_relative_contrast_about_the_mean() -> None:
    image = specimen((100, 130))
    pixels = np.round(image * 16).astype(np.uint16)
    prepared = prepare(pixels, bit_depth=12, stride=8)
    inner = prepared.intensity[prepared.inner]
    np.testing.assert_allclose(inner, INPUT_GAIN * (pixels / pixels.mean() - 1), atol=1e-4)
    assert prepared.valid is None
    assert prepared.intensity.dtype == np.float32


@pytest.mark.parametrize("shape", [(64, 64), (33, 47), (490, 647)])
@pytest.mark.parametrize("stride", [4, 8])
def test_padding_reflects_up_to_the_stride_and_is_cropped_again(shape: tuple[int, int], stride: int) -> None:
    pixels = specimen(shape).astype(np.uint8)
    prepared = prepare(pixels, bit_depth=8, stride=stride)
    height, width = prepared.intensity.shape
    assert height % stride == 0
    assert width % stride == 0
    assert min(prepared.inner[0].start, height - prepared.inner[0].stop) >= HALO_PX
    assert min(prepared.inner[1].start, width - prepared.inner[1].stop) >= HALO_PX
    row, column = prepared.inner[0].start, prepared.inner[1].start
    np.testing.assert_array_equal(prepared.intensity[row - 3], prepared.intensity[row + 3])
    np.testing.assert_array_equal(prepared.intensity[:, column - 3], prepared.intensity[:, column + 3])
    upsampled = prepared.intensity.repeat(4, axis=0).repeat(4, axis=1)
    out = np.full((shape[0] * 4, shape[1] * 4), np.nan, np.float32)
    prepared.crop(upsampled, 4, out)
    np.testing.assert_array_equal(out[::4, ::4], prepared.intensity[prepared.inner])


def test_flat_field_image_removes_uneven_light() -> None:
    image = specimen((120, 160))
    y, x = np.mgrid[-1:1:120j, -1:1:160j]
    light = 1.3 - 0.4 * x - 0.3 * (x**2 + y**2)
    pixels = np.round(image * light * 100).astype(np.uint16)
    flat = (3000 * light).astype(np.float32)
    plain = prepare(np.round(image * 100).astype(np.uint16), bit_depth=16, stride=8).intensity
    corrected = prepare(pixels, bit_depth=16, stride=8, flat_field=flat).intensity
    np.testing.assert_allclose(corrected, plain, atol=0.02)
    with pytest.raises(InferenceError, match="flat field has shape"):
        prepare(pixels, bit_depth=16, stride=8, flat_field=flat[:-1])
    with pytest.raises(InferenceError, match="not positive"):
        prepare(pixels, bit_depth=16, stride=8, flat_field=flat * 0)


def test_estimated_background_follows_the_light_and_not_the_cells() -> None:
    shape = (240, 320)
    y, x = np.mgrid[-1:1:240j, -1:1:320j]
    light = 100 * (1.1 + 0.2 * x - 0.15 * y - 0.2 * (x**2 + y**2))
    image = light * specimen(shape, level=1.0)
    rng = np.random.default_rng(5)
    for row, column in zip(rng.uniform(-1, 1, 12), rng.uniform(-1, 1, 12), strict=True):
        image *= 1 - 0.1 * np.exp(-(((y - row) * 120) ** 2 + ((x - column) * 160) ** 2) / (2 * 8**2))
    background = estimate_background(image.astype(np.float32), None)
    error = background / light - 1
    assert np.sqrt((error**2).mean()) < 0.008
    assert np.abs(error).max() < 0.04
    flat = prepare(np.round(image * 100).astype(np.uint16), bit_depth=16, stride=8, flat_field="auto")
    blocks = flat.intensity[flat.inner].reshape(12, 20, 16, 20).mean(axis=(1, 3))
    assert np.abs(np.median(blocks, axis=0)).max() < 0.02 * INPUT_GAIN


def test_field_stop_is_found_filled_and_kept_out_of_the_phase() -> None:
    shape = (256, 256)
    lit = octagon(shape, 100)
    image = np.where(lit, specimen(shape), 0) + 9
    pixels = np.round(image * 100).astype(np.uint16)
    found = find_field_stop(pixels)
    assert found is not None
    assert (found != lit).mean() < 0.001
    prepared = prepare(pixels, bit_depth=16, stride=8)
    assert prepared.valid is not None
    inner = prepared.intensity[prepared.inner]
    assert not inner[~lit].any()
    assert not prepared.valid[~lit].any()
    # The dark level behind the stop (9 counts) is taken off: contrast inside is that of the specimen alone.
    deep = erode(lit, 12)
    expected = INPUT_GAIN * (specimen(shape) / specimen(shape)[prepared.valid].mean() - 1)
    np.testing.assert_allclose(inner[deep], expected[deep], atol=0.01)
    edge = np.abs(np.diff(inner, axis=0)).max()
    assert edge <= np.abs(np.diff(expected, axis=0)).max()
    phase = np.ones((prepared.intensity.shape[0] * 4, prepared.intensity.shape[1] * 4), np.float32)
    out = np.empty((shape[0] * 4, shape[1] * 4), np.float32)
    prepared.crop(phase, 4, out)
    np.testing.assert_array_equal(np.isfinite(out[::4, ::4]), prepared.valid)


def test_dark_things_that_are_no_field_stop_stay_in_the_image() -> None:
    image = specimen((200, 200))
    assert find_field_stop(image) is None
    speck = image.copy()
    speck[80:120, 80:120] = 0
    assert find_field_stop(speck) is None
    dirt = image.copy()
    dirt[:6, 50:56] = 0
    assert find_field_stop(dirt) is None
    shade = image.copy()
    shade[:, :60] *= 0.4
    assert find_field_stop(shade) is None
    # The stripes of Micro-Manager's DemoCamera.
    stripes = 13 + 10 * np.sin(np.arange(200) / 9)[None, :] * np.ones((200, 1))
    assert find_field_stop(stripes) is None


def test_field_stop_follows_dark_regions_around_corners() -> None:
    image = np.full((60, 60), 100.0)
    image[5:55, 5:8] = image[52:55, 5:40] = image[30:55, 38:40] = image[30:33, 38:60] = 0
    lit = find_field_stop(image)
    assert lit is not None
    np.testing.assert_array_equal(lit, image > 0)


def test_dark_and_small_frames_are_refused() -> None:
    with pytest.raises(InferenceError, match="dark"):
        prepare(np.full((64, 64), 3, np.uint16), bit_depth=12, stride=8)
    with pytest.raises(InferenceError, match="31 x 64"):
        prepare(np.full((31, 64), 100, np.uint8), bit_depth=8, stride=8)


@pytest.mark.parametrize("ratio", [1.0, 2.0, 4.0, 2.5, 11.183])
def test_area_averaging_conserves_the_mean_and_linear_ramps(ratio: float) -> None:
    y, x = np.mgrid[:90, :121]
    image = 50 + 0.3 * (y + 0.5) - 0.2 * (x + 0.5)
    result = resample_area(image, 0.5, 0.5 * ratio)
    rows, columns = int(90 / ratio + 1e-6), int(121 / ratio + 1e-6)
    assert result.shape == (rows, columns)
    centre_y = (np.arange(rows) + 0.5)[:, None] * ratio
    centre_x = (np.arange(columns) + 0.5)[None, :] * ratio
    # Pixels are squares of one value: where a target edge cuts one, a ramp is off by at most an eighth of a step.
    step = (0.3 + 0.2) / 8 if ratio % 1 else 1e-4
    np.testing.assert_allclose(result, 50 + 0.3 * centre_y - 0.2 * centre_x, rtol=0, atol=step)
    covered = image[: int(rows * ratio), : int(columns * ratio)]
    assert result.mean() == pytest.approx(covered.mean(), rel=2e-3)


def test_area_averaging_by_whole_numbers_is_binning() -> None:
    image = np.random.default_rng(1).integers(0, 255, (64, 96)).astype(np.uint8)
    binned = image.reshape(16, 4, 24, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(resample_area(image, 0.65, 2.6), binned, rtol=1e-5)
    with pytest.raises(ValueError, match="finer"):
        resample_area(image, 2.6, 0.65)


def test_only_finer_pixels_are_resampled() -> None:
    valid = ValidRange(
        defocus_um=(1, 13), wavelength_um=(0.5, 0.6), lr_pixel_um=(2.4, 2.8), coherence=(0, 1), noise_sd=(0, 1)
    )
    architecture = Architecture(name="subpixel-unet", width=8)
    card = ModelCard(name="m", version="1", architecture=architecture, scale=4, valid=valid, training={}, figures={})
    # Whole pixels are averaged where a multiple lies in the range, the one nearest to its centre.
    assert model_pixel_um(card, 0.93) == pytest.approx(3 * 0.93)
    assert model_pixel_um(card, 0.2325) == pytest.approx(11 * 0.2325)
    assert model_pixel_um(card, 1.7) == pytest.approx(2.6)
    assert model_pixel_um(card, 2.45) == 2.45
    assert model_pixel_um(card, 5.0) == 5.0


@pytest.mark.real_data
@pytest.mark.parametrize("pixel_um", [0.2325, 0.93, 2.6])
def test_measured_frame_is_masked_along_its_octagonal_stop(pixel_um: float) -> None:
    path = SHARED / "data" / "tie_hela" / "Iz.tif"
    if not path.is_file():
        pytest.skip(f"the measured data set is absent ({path})")
    import tifffile

    recorded = tifffile.imread(path)
    image = resample_area(recorded, 0.2325, pixel_um)
    prepared = prepare(np.round(image * 256).astype(np.uint16), bit_depth=16, stride=8, flat_field="auto")
    assert prepared.valid is not None
    # Corners of the stop in the recorded frame, read off the picture: (row, column), clockwise from the top.
    corners = np.array(
        [(82, 610), (175, 890), (1065, 895), (1172, 640), (1015, 240), (635, 72), (262, 215)], dtype=float
    )
    inside = _polygon(prepared.valid.shape, corners * 0.2325 / pixel_um)
    lit_um2 = inside.sum() * pixel_um**2
    assert lit_um2 > 30_000
    assert (prepared.valid & ~inside).sum() < 0.02 * inside.sum()
    margin = 3 + int(np.ceil(6 / pixel_um))
    missed = erode(inside, margin) & ~prepared.valid
    assert missed.sum() < 0.01 * inside.sum()
    inner = prepared.intensity[prepared.inner]
    assert not inner[~prepared.valid].any()
    # No ring: next to the edge of the valid region the input is not stronger than in its middle.
    rim = prepared.valid & ~erode(prepared.valid, 3)
    assert np.abs(inner[rim]).mean() <= np.abs(inner[erode(prepared.valid, 6)]).mean()


def _polygon(shape: tuple[int, int], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of a convex polygon given clockwise as (row, column)."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.ones(shape, dtype=bool)
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside &= (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) >= 0
    return inside
