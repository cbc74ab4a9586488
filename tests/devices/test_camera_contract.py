"""What every microscope promises, tested over Micro-Manager's DemoCamera, the simulated microscope and a replay.

The first two also with a lens that is a property instead of a stage.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from livephase_devices.errors import (
    DeviceBusyError,
    DeviceError,
    DeviceNotFoundError,
    PropertyError,
    PropertyNotFoundError,
)
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from devices.conftest import Rig

SHAPE = (80, 96)


@pytest.fixture
def microscope(rig: Rig) -> Iterator[Microscope]:
    with Microscope(rig.config) as microscope:
        yield microscope


def test_a_snap_is_a_whole_frame_of_the_stated_kind(microscope: Microscope, rig: Rig) -> None:
    frames = [microscope.snap() for _ in range(3)]
    assert [frame.index for frame in frames] == [0, 1, 2]
    for frame in frames:
        assert frame.pixels.shape == SHAPE
        assert frame.pixels.dtype == rig.dtype
        assert frame.bit_depth == rig.bit_depth
        assert int(frame.pixels.max()) < 2**frame.bit_depth
        assert frame.exposure_ms == microscope.get_property("Camera", "Exposure")
    assert frames[0].time_monotonic_ns < frames[1].time_monotonic_ns < frames[2].time_monotonic_ns
    assert frames[0].time_utc_ns <= frames[1].time_utc_ns <= frames[2].time_utc_ns


def test_pixels_belong_to_the_receiver(microscope: Microscope) -> None:
    first = microscope.snap()
    kept = first.pixels.copy()
    second = microscope.snap()
    microscope.start_sequence(2)
    third, fourth = microscope.next_frame(20), microscope.next_frame(20)
    assert third is not None
    assert fourth is not None
    np.testing.assert_array_equal(first.pixels, kept)
    frames = [first, second, third, fourth]
    for frame in frames:
        assert frame.pixels.flags.owndata
        assert frame.pixels.flags.c_contiguous
        assert frame.pixels.flags.writeable
    for other in frames[1:]:
        assert not np.shares_memory(first.pixels, other.pixels)


def test_a_counted_sequence_gives_so_many_frames_and_ends(microscope: Microscope) -> None:
    microscope.snap()
    microscope.start_sequence(7)
    frames = [microscope.next_frame(20) for _ in range(7)]
    assert [frame.index if frame else None for frame in frames] == [1, 2, 3, 4, 5, 6, 7]
    times = [frame.time_monotonic_ns for frame in frames if frame]
    assert times == sorted(times)
    assert microscope.next_frame(0) is None
    assert not microscope.state().sequence_running
    assert microscope.snap().index == 8


def test_a_running_sequence_excludes_what_would_break_it(microscope: Microscope) -> None:
    microscope.start_sequence()
    assert microscope.state().sequence_running
    for refused in (
        microscope.start_sequence,
        microscope.snap,
        lambda: microscope.set_roi((0, 0, 32, 32)),
        lambda: microscope.set_roi(None),
    ):
        with pytest.raises(DeviceBusyError, match=r"^Camera: .*sequence is running"):
            refused()
    frame = microscope.next_frame(20)
    assert frame is not None
    assert frame.pixels.shape == SHAPE
    microscope.stop_sequence()
    microscope.stop_sequence()
    assert microscope.next_frame(0) is None
    assert microscope.snap().pixels.shape == SHAPE


def test_frames_of_a_stopped_sequence_do_not_show_up_in_the_next(microscope: Microscope) -> None:
    microscope.start_sequence()
    while microscope.next_frame(20) is None:
        pass
    microscope.stop_sequence()
    stopped_ns = microscope.snap().time_monotonic_ns
    microscope.start_sequence(3)
    for _ in range(3):
        frame = microscope.next_frame(20)
        assert frame is not None
        assert frame.time_monotonic_ns > stopped_ns


def test_asking_impatiently_loses_no_frame(microscope: Microscope) -> None:
    microscope.set_exposure_ms(20.0)
    microscope.start_sequence(5)
    indices: list[int] = []
    while len(indices) < 5:
        frame = microscope.next_frame(0.001)
        if frame is not None:
            indices.append(frame.index)
    assert indices == [0, 1, 2, 3, 4]


def test_a_frame_states_the_defocus_of_its_exposure(microscope: Microscope) -> None:
    if microscope.config.lens is None:
        with pytest.raises(DeviceNotFoundError, match="has no lens"):
            microscope.set_defocus_um(1.0)
        assert microscope.snap().defocus_um is None
        return
    assert microscope.snap().defocus_um == 0.0
    assert microscope.set_defocus_um(6.0) == pytest.approx(6.0, abs=1e-3)
    assert microscope.snap().defocus_um == pytest.approx(6.0, abs=1e-3)
    microscope.start_sequence()
    stated: list[float | None] = []
    while stated[-3:] != [-2.0] * 3:
        if len(stated) == 5:
            microscope.set_defocus_um(-2.0)
        frame = microscope.next_frame(20)
        assert frame is not None
        stated.append(frame.defocus_um)
    assert set(stated) == {6.0, -2.0}
    # What was exposed before the move keeps its value, and nothing after the move has it.
    assert stated == sorted(stated, reverse=True, key=lambda um: um or 0.0)
    assert stated[:5] == [6.0] * 5
    assert microscope.state().defocus_um == -2.0


def test_a_defocus_out_of_range_is_refused(microscope: Microscope, rig: Rig) -> None:
    if rig.lens is None:
        pytest.skip("this microscope has no lens")
    with pytest.raises(DeviceError, match=f"^{rig.lens}: .*nan"):
        microscope.set_defocus_um(float("nan"))
    with pytest.raises(DeviceError, match=f"^{rig.lens}: "):
        microscope.set_defocus_um(1e6)
    assert microscope.state().defocus_um == 0.0


def test_settings_change_between_two_frames_of_a_sequence(microscope: Microscope) -> None:
    microscope.start_sequence()
    exposures: list[float] = []
    while exposures[-3:] != [3.0] * 3:
        if len(exposures) == 4:
            microscope.set_exposure_ms(3.0)
        frame = microscope.next_frame(20)
        assert frame is not None
        exposures.append(frame.exposure_ms)
    assert 3.0 not in exposures[:4]
    assert exposures == sorted(exposures, key=lambda ms: ms == 3.0)
    assert microscope.state().exposure_ms == 3.0
    with pytest.raises(PropertyError, match=r"^Camera: an exposure of -1 ms"):
        microscope.set_exposure_ms(-1.0)


def test_a_region_of_interest_and_back(microscope: Microscope) -> None:
    microscope.set_roi((8, 16, 40, 24))
    assert microscope.snap().pixels.shape == (24, 40)
    assert microscope.state().sensor_shape == (24, 40)
    for outside in ((0, 0, 4000, 4000), (80, 0, 40, 24), (-1, 0, 10, 10), (0, 0, 0, 10)):
        with pytest.raises(PropertyError, match=r"^Camera: the region .* does not lie on the sensor of 96 x 80"):
            microscope.set_roi(outside)
    microscope.set_roi(None)
    assert microscope.snap().pixels.shape == SHAPE


def test_properties_are_typed_and_checked(microscope: Microscope) -> None:
    listed = microscope.properties()
    exposure = next(info for info in listed if (info.device, info.name) == ("Camera", "Exposure"))
    assert exposure.kind == "float"
    assert isinstance(exposure.value, float)
    assert microscope.set_property("Camera", "Exposure", 2) == 2.0
    assert microscope.snap().exposure_ms == 2.0
    with pytest.raises(PropertyError, match=r"^Camera: has no property 'Nonsense'"):
        microscope.set_property("Camera", "Nonsense", 1)
    with pytest.raises(DeviceNotFoundError, match=r"^Nobody: "):
        microscope.get_property("Nobody", "Exposure")
    with pytest.raises(PropertyError, match="must be a number"):
        microscope.set_property("Camera", "Exposure", "long")
    fixed = next(info for info in listed if info.device == "Camera" and info.read_only)
    with pytest.raises(PropertyError, match="is read-only"):
        microscope.set_property("Camera", fixed.name, fixed.value)
    for info in listed:
        if info.limits and not info.pre_init:
            with pytest.raises(PropertyError, match="must lie between"):
                microscope.set_property(info.device, info.name, int(info.limits[1] * 2 + 1))
        if info.allowed and not info.pre_init and not info.read_only:
            with pytest.raises(PropertyError, match="it can be"):
                microscope.set_property(info.device, info.name, "impossible")
        if info.pre_init and not info.read_only:
            with pytest.raises(PropertyError, match="configuration file"):
                microscope.set_property(info.device, info.name, info.value)


def test_devices_and_their_properties_are_the_same_by_every_way(microscope: Microscope, rig: Rig) -> None:
    devices = {device.label: device for device in microscope.devices()}
    assert devices["Camera"].type == "Camera"
    assert set(devices) == {"Camera"} | ({rig.lens} if rig.lens else set())
    if rig.lens:
        assert devices[rig.lens].type == "Stage"
    assert microscope.state().devices == {one.label: f"{one.library}.{one.name}" for one in devices.values()}
    listed = {(info.device, info.name): info for info in microscope.properties()}
    named = {(label, name) for label in devices for name in microscope.property_names(label)}
    assert set(listed) == named
    with pytest.raises(DeviceNotFoundError, match=r"^Nobody: .*Camera"):
        microscope.property_names("Nobody")
    with pytest.raises(PropertyNotFoundError, match=r"^Camera: has no property 'Nonsense'; it has .*Exposure"):
        microscope.describe_property("Camera", "Nonsense")


def test_every_number_and_choice_can_be_set_to_what_it_is(microscope: Microscope) -> None:
    kinds = {"int": int, "float": float, "str": str}
    for info in microscope.properties():
        assert isinstance(info.value, kinds[info.kind]) or info.value == ""
        if info.read_only or info.pre_init or (info.kind == "str" and not info.allowed):
            continue
        back = microscope.set_property(info.device, info.name, info.value)
        assert (back, type(back)) == (info.value, kinds[info.kind]), info
        # as text, as it stands in a cfg, and as a float, as JavaScript sends every number
        assert microscope.set_property(info.device, info.name, str(info.value)) == info.value, info
        if info.kind == "int":
            assert microscope.set_property(info.device, info.name, float(info.value)) == info.value, info
        if info.kind != "str":
            for wrong in ("nan", "inf", ""):
                with pytest.raises(PropertyError, match=info.name.split("(")[0]):
                    microscope.set_property(info.device, info.name, wrong)
            assert microscope.get_property(info.device, info.name) == info.value


def test_the_lens_and_its_position_are_one(microscope: Microscope, rig: Rig) -> None:
    if rig.lens is None:
        pytest.skip("this microscope has no lens")
    assert microscope.set_property(rig.lens, "Position", 3.0) == pytest.approx(3.0, abs=1e-3)
    assert microscope.state().defocus_um == pytest.approx(3.0, abs=1e-3)
    microscope.set_defocus_um(-1.5)
    assert microscope.get_property(rig.lens, "Position") == pytest.approx(-1.5, abs=1e-3)
    assert microscope.snap().defocus_um == pytest.approx(-1.5, abs=1e-3)


def test_a_snap_with_its_own_exposure(microscope: Microscope) -> None:
    assert microscope.snap(3.0).exposure_ms == 3.0
    assert microscope.snap().exposure_ms == 3.0
    with pytest.raises(PropertyError, match=r"^Camera: an exposure of -1 ms"):
        microscope.snap(-1.0)
    assert microscope.snap().exposure_ms == 3.0


def test_calls_from_many_threads_take_turns(microscope: Microscope) -> None:
    """Without one owner, setExposure + snap + getImage of two threads gave each other's image 1 time in 4."""
    start = threading.Barrier(4)

    def work(_: int) -> list[int]:
        start.wait()
        return [microscope.snap().index for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        indices = [index for indices in pool.map(work, range(4)) for index in indices]
    assert sorted(indices) == list(range(40))


def test_state_before_during_and_after(rig: Rig) -> None:
    microscope = Microscope(rig.config)
    assert not microscope.state().is_open
    assert microscope.state().sensor_shape is None
    for _ in range(2):
        with microscope:
            state = microscope.state()
            assert state.is_open
            assert state.fault is None
            assert state.sensor_shape == SHAPE
            assert state.bit_depth == rig.bit_depth
            assert "Camera" in state.devices
            assert state.versions["micro-manager core"].startswith("MMCore version")
            assert state.frames_taken == 0
            microscope.snap()
            assert microscope.state().frames_taken == 1
            with pytest.raises(DeviceBusyError, match="open already"):
                microscope.open()
        assert not microscope.state().is_open
        for refused in (microscope.snap, microscope.properties, lambda: microscope.next_frame(0)):
            with pytest.raises(DeviceError, match="is not open"):
                refused()


def test_a_frame_without_a_sequence_is_refused(microscope: Microscope) -> None:
    with pytest.raises(DeviceError, match="no sequence was started"):
        microscope.next_frame(0.1)
    with pytest.raises(PropertyError, match="a sequence of 0 frames"):
        microscope.start_sequence(0)
