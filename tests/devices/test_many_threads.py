"""One microscope used from 16 threads at once: every frame has the exposure, defocus and number that it states."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from livephase_devices.microscope import CameraFrame, Microscope

if TYPE_CHECKING:
    from devices.conftest import MakeConfig

THREADS = 16
RECORDED = ("Camera.FrameNumber", "Camera.FrameExposure-ms", "Lens.Current-mA")


@pytest.mark.parametrize("snaps", [640, pytest.param(10_000, marks=pytest.mark.soak)])
def test_no_crossed_frames(make_config: MakeConfig, faulty_cfg: str, no_leaks: None, snaps: int) -> None:
    """Each thread has an exposure and a defocus of its own. Exposure and snap are one job, a move is another one.

    The camera's pixels hold the frame's number, and number and exposure of the last frame are recorded with it: one
    call of another thread between exposure and record, and they differ.
    """
    per_thread = snaps // THREADS
    start = threading.Barrier(THREADS)

    def exposure_of(thread: int) -> float:
        return 0.05 * (1 + thread)

    def work(thread: int) -> list[CameraFrame]:
        frames: list[CameraFrame] = []
        start.wait()
        for turn in range(per_thread):
            if turn % 10 == thread % 10:
                assert microscope.set_defocus_um(float(thread)) == thread
            if turn % 25 == thread:
                assert microscope.state().fault is None
            frames.append(microscope.snap(exposure_of(thread)))
        return frames

    with (
        Microscope(make_config(faulty_cfg, lens="Lens", recorded_properties=RECORDED)) as microscope,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        by_thread = list(pool.map(work, range(THREADS)))
    numbers: list[int] = []
    for thread, frames in enumerate(by_thread):
        assert len(frames) == per_thread
        indices = [frame.index for frame in frames]
        assert indices == sorted(indices)
        for frame in frames:
            number = int(frame.properties["Camera.FrameNumber"])
            assert np.all(frame.pixels == number)
            assert frame.index == number
            assert frame.exposure_ms == frame.properties["Camera.FrameExposure-ms"] == exposure_of(thread)
            assert frame.defocus_um == frame.properties["Lens.Current-mA"]
            numbers.append(number)
    assert sorted(numbers) == list(range(per_thread * THREADS))
    assert {frame.defocus_um for frames in by_thread for frame in frames} >= {float(one) for one in range(1, THREADS)}
