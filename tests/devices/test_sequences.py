"""Continuous acquisition loses no frame, tears none, and says so when a frame was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from livephase_devices.errors import DeviceError, DeviceTimeoutError
from livephase_devices.microscope import Microscope
from livephase_devices.sequence import BufferedSequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from devices.conftest import MakeConfig

    from livephase_devices.microscope import CameraFrame

MANY = 2000


def fetch(microscope: Microscope, count: int) -> list[CameraFrame]:
    frames: list[CameraFrame] = []
    while len(frames) < count:
        frame = microscope.next_frame(20)
        assert frame is not None, f"the sequence ended after {len(frames)} frames"
        frames.append(frame)
    return frames


def behind_its_back(microscope: Microscope, action: Callable[[Any], None]) -> None:
    """Do something with the core that the microscope does not know of, on the owner thread."""
    session, thread = microscope._session, microscope._thread
    assert session is not None
    assert thread is not None
    thread.call("Camera", "test", lambda: action(session.core))


def test_demo_camera_2000_full_frames(demo: Microscope) -> None:
    demo.set_property("Camera", "OnCameraCCDXSize", 647)
    demo.set_property("Camera", "OnCameraCCDYSize", 490)
    demo.set_property("Camera", "FastImage", 1)
    expected = demo.snap().pixels
    demo.start_sequence(MANY)
    for k in range(MANY):
        frame = demo.next_frame(20)
        assert frame is not None
        assert frame.index == k + 1
        if k % 10 == 0:  # FastImage sends one picture again and again
            assert np.array_equal(frame.pixels, expected)
    assert demo.next_frame(0) is None


def test_demo_camera_2000_frames_none_torn(demo: Microscope) -> None:
    """DemoCamera draws a wave whose phase is linear in x, y and the frame's number: half of another frame shows."""
    demo.set_property("Camera", "PixelType", "16bit")
    height, width = 80, 96
    x = 2 * np.pi * np.arange(width) / (width / 2)
    wave = np.exp(-1j * x)
    along_y = np.exp(-1j * np.pi / 2 * np.arange(height) / height)
    steps: list[complex] = []
    demo.start_sequence(MANY)
    for frame in fetch(demo, MANY):
        rows = (frame.pixels * wave).sum(axis=1) * along_y  # a matrix product would wake a thread for each frame
        rows /= np.abs(rows)
        assert np.abs(rows - rows.mean()).max() < 0.05, f"frame {frame.index} is torn"
        steps.append(complex(rows.mean()))
    # The same phase step from each frame to the next: none is missing and none came twice.
    turns = np.angle(np.array(steps[1:]) / np.array(steps[:-1]))
    assert np.abs(np.exp(1j * (turns - turns[0])) - 1).max() < 0.05
    assert abs(turns[0]) > 0.5


def test_python_camera_2000_frames(faulty: Microscope) -> None:
    """Every pixel of this camera holds the number of the exposure."""
    faulty.set_exposure_ms(0.05)
    faulty.start_sequence(MANY)
    for k, frame in enumerate(fetch(faulty, MANY)):
        assert frame.pixels.min() == frame.pixels.max() == k
        assert frame.properties == {"Camera.FrameNumber": k}
    assert faulty.next_frame(0) is None


def test_overflow_is_an_error_and_sticky(demo: Microscope) -> None:
    for name, value in (
        ("PixelType", "16bit"),
        ("OnCameraCCDXSize", 2588),
        ("OnCameraCCDYSize", 1960),
        ("FastImage", 1),
    ):
        demo.set_property("Camera", name, value)
    demo.start_sequence()
    running = [True]

    def look(core: Any) -> None:
        running[0] = core.isSequenceRunning()

    while running[0]:  # nobody fetches: the core's buffer fills up
        behind_its_back(demo, look)
    fetched = 0
    with pytest.raises(DeviceError, match=r"^Camera: the image buffer overflowed after \d+ frames"):  # noqa: PT012
        while True:
            frame = demo.next_frame(20)
            assert frame is not None
            assert frame.index == fetched
            fetched += 1
    assert fetched > 5
    with pytest.raises(DeviceError, match="overflowed"):
        demo.next_frame(20)
    assert "overflowed" in (demo.state().fault or "")
    demo.stop_sequence()
    assert demo.state().fault is None
    demo.start_sequence(3)
    assert len(fetch(demo, 3)) == 3


def test_a_missing_image_number_is_an_error(demo: Microscope) -> None:
    demo.start_sequence()
    fetch(demo, 3)
    behind_its_back(demo, lambda core: _pop_one(core))
    with pytest.raises(DeviceError, match=r"^Camera: lost 1 frame\(s\) before frame 3 of the sequence"):
        demo.next_frame(20)
    with pytest.raises(DeviceError, match="lost 1 frame"):
        demo.next_frame(20)


def _pop_one(core: Any) -> None:
    while core.getRemainingImageCount() == 0:
        pass
    core.popNextImage()


def test_a_camera_that_stops_by_itself_is_an_error(demo: Microscope) -> None:
    """Setting a region in a sequence is accepted by the C++ core and kills DemoCamera's sequence without a word."""
    demo.start_sequence(10_000)
    fetch(demo, 2)
    behind_its_back(demo, lambda core: core.setROI(0, 0, 10, 10))
    with pytest.raises(DeviceError, match=r"^Camera: (ended the sequence by itself after \d+ frames of 10000|lost)"):
        fetch(demo, 10_000)


def test_a_camera_that_sends_nothing_is_an_error(make_config: MakeConfig, demo_cfg: str, no_leaks: None) -> None:
    with Microscope(make_config(demo_cfg, call_timeout_s=1.5)) as microscope:
        microscope.set_exposure_ms(3_000.0)
        microscope.start_sequence()
        sequence = microscope._sequence
        assert isinstance(sequence, BufferedSequence)
        sequence._exposure_ms = 1.0  # as if the exposure had been short and the trigger never came
        with pytest.raises(DeviceTimeoutError, match=r"^Camera: has sent no frame"):
            fetch(microscope, 1)
        microscope.stop_sequence()
        microscope.set_exposure_ms(1.0)
        assert microscope.snap().pixels.shape == (80, 96)


def test_a_fault_in_a_python_sequence_is_an_error_and_sticky(faulty: Microscope) -> None:
    """In pymmcore-plus' own sequence the exception of a camera reaches only threading.excepthook."""
    faulty.set_property("Camera", "Fault", "raise")
    faulty.set_property("Camera", "FaultFrom", 4)
    faulty.set_property("Camera", "FaultCount", 1)
    faulty.start_sequence(10)
    assert [int(frame.pixels[0, 0]) for frame in fetch(faulty, 4)] == [0, 1, 2, 3]
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"^Camera: snap failed: the camera's cable was pulled"):
            faulty.next_frame(20)
    assert "cable" in (faulty.state().fault or "")
    faulty.stop_sequence()
    faulty.start_sequence(2)
    assert [int(frame.pixels[0, 0]) for frame in fetch(faulty, 2)] == [5, 6]


def test_changes_in_a_fast_sequence_cost_no_frame(demo: Microscope) -> None:
    demo.start_sequence()
    frames: list[CameraFrame] = []
    for k in range(1, 6):
        frames += fetch(demo, 60)
        demo.set_defocus_um(float(k))
        demo.set_exposure_ms(1.0 + k / 10)
    while frames[-1].defocus_um != 5.0 or len(frames) < 400:
        frames += fetch(demo, 1)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    stated = [(frame.defocus_um, frame.exposure_ms) for frame in frames]
    assert stated == sorted(stated)
    times = [frame.time_monotonic_ns for frame in frames]
    assert times == sorted(times)
