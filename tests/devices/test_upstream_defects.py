"""Defects that were reproduced in pymmcore-plus 0.18 and Micro-Manager's devices, and what keeps each one out.

===================================================  ==================================================================
defect                                               kept out by
===================================================  ==================================================================
1 sequence ring buffer of Python cameras drops       design: never used (here), 2,000 stamped frames
  unread frames or ends the run at wrap-around       (``test_sequences.test_python_camera_2000_frames``)
2 frames torn while it overwrites                    same; C++: ``test_demo_camera_2000_frames_none_torn``
3 errors of ``initialize`` are only logged           ``test_device_faults.test_a_device_that_does_not_initialise...``
4 exception in a Python camera's sequence vanishes;  ``test_sequences.test_a_fault_in_a_python_sequence...``;
  ``getImage`` after a failed snap: the old frame    ``test_device_faults.test_a_bad_exposure_is_never_an_old_frame``
5 orphaned acquisition thread feeds the next         design: no acquisition thread for a Python camera (here)
  sequence
6 second start, snap, setROI during a sequence       ``test_camera_contract.test_a_running_sequence_excludes...``
  accepted (DemoCamera, too, accepts setROI and      ``test_sequences.test_a_camera_that_stops_by_itself_is_an_error``
  silently ends its sequence)
7 a slot that calls the core deadlocks               design: no slots (here); the twin's lens emits outside its lock
                                                     (``test_twin.test_a_slot_may_ask_for_the_position``)
8 no change events of Python devices                 design: nothing depends on events; values are read back
9 cfg values stay strings; limits leak to all        here
  instances of a class
10 snap metadata is discarded                        design: values are recorded as properties after the exposure
                                                     (``test_sequences.test_python_camera_2000_frames``)
abort at exit ("FATAL: exception not rethrown")      ``test_exit``; design: no Python callbacks from the core (here)
exit waits for ever for a hung Python device         ``test_exit.test_a_hung_device_does_not_keep_the_process``
===================================================  ==================================================================
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from livephase_devices.errors import MicroscopeConfigError
from livephase_devices.microscope import Microscope
from livephase_devices.twin.camera import TwinCamera
from livephase_devices.twin.lens import TwinLens

if TYPE_CHECKING:
    from collections.abc import Callable

    from devices.conftest import MakeConfig


def on_owner_thread(microscope: Microscope, function: Callable[[Any], Any]) -> Any:
    session, thread = microscope._session, microscope._thread
    assert session is not None
    assert thread is not None
    return thread.call("Camera", "test", lambda: function(session.core))


def test_the_python_sequence_buffer_and_thread_are_never_used(faulty: Microscope) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        faulty.start_sequence()
        for _ in range(5):
            assert faulty.next_frame(20) is not None
            assert not on_owner_thread(faulty, lambda core: core.isSequenceRunning())
            assert on_owner_thread(faulty, lambda core: core.getRemainingImageCount()) == 0
        assert set(threading.enumerate()) == before
        faulty.stop_sequence()


def test_nothing_listens_to_the_core(faulty: Microscope) -> None:
    def slots(core: Any) -> dict[str, int]:
        names = ("stagePositionChanged", "propertyChanged", "imageSnapped", "exposureChanged")
        return {name: len(getattr(core.events, name)) for name in names}

    faulty.snap()
    assert set(on_owner_thread(faulty, slots).values()) == {0}


def test_the_core_calls_no_python_from_its_own_threads(demo: Microscope) -> None:
    """Such a callback, in a process that ends, is what aborts it."""
    heard: list[object] = []
    told_by: set[str] = set()

    def slot(*arguments: object) -> None:
        heard.append(arguments)
        told_by.add(threading.current_thread().name)

    def connect(core: Any) -> None:
        core.events.exposureChanged.connect(slot)
        core.events.propertyChanged.connect(slot)
        core.events.stagePositionChanged.connect(slot)

    on_owner_thread(demo, connect)
    demo.set_exposure_ms(2.0)
    demo.set_defocus_um(4.0)
    demo.set_property("Camera", "Gain", 1)
    demo.snap()
    # What pymmcore-plus emits by itself comes from the thread that called it.
    assert told_by <= {f"microscope {demo.config.name}"}


def test_limits_of_one_device_are_its_own() -> None:
    first, second = TwinLens(), TwinLens()
    first.set_property_limits("Position", (-1.0, 1.0))
    assert second.get_property_info("Position").limits == (-20.0, 20.0)
    assert TwinLens().get_property_info("Position").limits == (-20.0, 20.0)


def test_values_from_a_cfg_are_converted() -> None:
    camera = TwinCamera()
    camera.set_property_value("Coherence", "0.5")
    camera.set_property_value("OnCameraCCDXSize", "64")
    assert camera.get_property_value("Coherence") == 0.5
    assert camera.sensor_shape() == (490, 64)
    for name, value in (("OnCameraCCDXSize", "64.5"), ("Coherence", "high"), ("PixelType", "9bit"), ("Seed", "-1")):
        with pytest.raises(ValueError, match=r"."):
            camera.set_property_value(name, value)


def test_what_shapes_the_specimen_is_fixed_after_loading(make_config: MakeConfig, twin_cfg: str) -> None:
    late = twin_cfg + "#py Property,Camera,Seed,5\n"
    with pytest.raises(MicroscopeConfigError, match=r"Seed,5.*can only be set before the device is initialised"):
        Microscope(make_config(late)).open()
