"""A replay delivers exactly the recorded pixels, in order, and ends with a clear error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr

from livephase_devices.errors import DeviceError
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from devices.conftest import MakeConfig


def _tiff(folder: Path, frames: np.ndarray) -> Path:
    path = folder / "pages.tif"
    with tifffile.TiffWriter(path) as file:
        for frame in frames:
            file.write(frame, photometric="minisblack", compression="zlib")
    return path


def _ome_tiff(folder: Path, frames: np.ndarray) -> Path:
    path = folder / "image.ome.tif"
    tifffile.imwrite(path, frames[:, None], photometric="minisblack", metadata={"axes": "TCYX"}, ome=True)
    return path


def _folder(folder: Path, frames: np.ndarray) -> Path:
    path = folder / "frames"
    path.mkdir()
    for k, frame in enumerate(frames):
        tifffile.imwrite(path / f"frame-{k:04d}.tif", frame, photometric="minisblack")
    (path / "notes.txt").write_text("not a frame", encoding="utf-8")
    return path


def _ome_zarr(folder: Path, frames: np.ndarray) -> Path:
    path = folder / "image.ome.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    _fill(group, frames)
    return path


def _fill(group: Any, frames: np.ndarray) -> None:
    group.create_array("0", data=frames[:, None], chunks=(1, 1, *frames.shape[1:]))
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}


def _ome_zarr_04(folder: Path, frames: np.ndarray) -> Path:
    path = folder / "old.zarr"
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("s0", data=frames, chunks=(1, *frames.shape[1:]))
    axes = [{"name": "t", "type": "time"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "s0"}]}]
    return path


def _plain_zarr(folder: Path, frames: np.ndarray) -> Path:
    path = folder / "array.zarr"
    zarr.create_array(str(path), data=frames)
    return path


@pytest.mark.parametrize("write", [_tiff, _ome_tiff, _folder, _ome_zarr, _ome_zarr_04, _plain_zarr])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exact_pixels_in_order(
    write: Callable[[Path, np.ndarray], Path],
    dtype: type[np.generic],
    tmp_path: Path,
    make_config: MakeConfig,
    replay_cfg: str,
) -> None:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256 ** np.dtype(dtype).itemsize, (6, 33, 47)).astype(dtype)
    cfg = replay_cfg.format(path=write(tmp_path, frames)).replace("Loop,1", "Loop,0")
    cfg = cfg.replace("#py Property,Camera,BitDepth,12\n", "")
    with Microscope(make_config(cfg, recorded_properties=("Camera.Frame",))) as microscope:
        assert microscope.get_property("Camera", "FrameCount") == 6
        assert microscope.state().sensor_shape == (33, 47)
        seen = [microscope.snap() for _ in range(2)]
        microscope.start_sequence(4)
        for _ in range(4):
            frame = microscope.next_frame(20)
            assert frame is not None
            seen.append(frame)
        for k, frame in enumerate(seen):
            assert frame.pixels.dtype == dtype
            assert frame.bit_depth == 8 * np.dtype(dtype).itemsize
            assert frame.properties["Camera.Frame"] == k
            np.testing.assert_array_equal(frame.pixels, frames[k])
        with pytest.raises(DeviceError, match=r"^Camera: snap failed: the recording .* ended after 6 frames"):
            microscope.snap()
        microscope.set_property("Camera", "NextFrame", 4)
        np.testing.assert_array_equal(microscope.snap().pixels, frames[4])


def test_loop(recorded: tuple[Path, np.ndarray], make_config: MakeConfig, replay_cfg: str) -> None:
    path, frames = recorded
    with Microscope(make_config(replay_cfg.format(path=path))) as microscope:
        for k in range(12):
            frame = microscope.snap()
            assert frame.bit_depth == 12
            np.testing.assert_array_equal(frame.pixels, frames[k % 5])


def test_the_raw_frames_of_a_run_without_the_missing_ones(
    tmp_path: Path, make_config: MakeConfig, replay_cfg: str
) -> None:
    """A frame that a run recorded as missing reads as zeros; it is left out, not shown."""
    rng = np.random.default_rng(4)
    frames = rng.integers(1, 200, (4, 20, 30)).astype(np.uint8)
    path = tmp_path / "run.ome.zarr"
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    _fill(root, np.zeros((4, 80, 120), np.float32))
    raw = frames.copy()
    raw[2] = 0
    _fill(root.create_group("raw"), raw)
    table = root.create_group("frames")
    codes = {"not_there": 0, "written": 1, "backfilled": 2, "missing": 3}
    table.attrs["livephase"] = {"validity_codes": codes}
    table.create_array("raw_valid", data=np.array([1, 1, 3, 1], np.uint8))
    with Microscope(make_config(replay_cfg.format(path=path).replace("BitDepth,12", "BitDepth,8"))) as microscope:
        assert microscope.get_property("Camera", "FrameCount") == 3
        for k in (0, 1, 3):
            np.testing.assert_array_equal(microscope.snap().pixels, frames[k])


def _rgb(folder: Path) -> Path:
    path = folder / "rgb.tif"
    tifffile.imwrite(path, np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    return path


def _float(folder: Path) -> Path:
    path = folder / "phase.tif"
    tifffile.imwrite(path, np.zeros((8, 9), np.float32))
    return path


def _no_tiff(folder: Path) -> Path:
    path = folder / "text.tif"
    path.write_text("no image", encoding="utf-8")
    return path


def _unequal(folder: Path) -> Path:
    path = folder / "unequal"
    path.mkdir()
    for k in (8, 9):
        tifffile.imwrite(path / f"{k}.tif", np.zeros((k, 9), np.uint8))
    return path


def _two_channels(folder: Path) -> Path:
    path = folder / "channels.ome.tif"
    tifffile.imwrite(path, np.zeros((3, 2, 8, 9), np.uint8), metadata={"axes": "TCYX"}, ome=True)
    return path


def _no_image(folder: Path) -> Path:
    path = folder / "group.zarr"
    zarr.open_group(str(path), mode="w")
    return path


def _empty(folder: Path) -> Path:
    path = folder / "empty"
    path.mkdir()
    return path


def _nothing(folder: Path) -> Path:
    return folder / "nothing.tif"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_rgb, "only grey-level frames"),
        (_float, "holds float32 pixels"),
        (_no_tiff, "is not a TIFF file"),
        (_unequal, "differ"),
        (_two_channels, "has 2 channels"),
        (_no_image, "no OME-Zarr image"),
        (_empty, "holds no TIFF files"),
        (_nothing, "does not exist"),
    ],
)
def test_what_cannot_be_replayed(
    write: Callable[[Path], Path], message: str, tmp_path: Path, make_config: MakeConfig, replay_cfg: str
) -> None:
    microscope = Microscope(make_config(replay_cfg.format(path=write(tmp_path))))
    with pytest.raises(DeviceError, match=f"^Camera: could not be initialised: .*{message}") as caught:
        microscope.open()
    assert "\n" not in str(caught.value)
    assert not microscope.state().is_open
