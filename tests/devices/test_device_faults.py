"""Devices that hang, fail and lie: what comes of it is an error that names the device, never a wrong frame."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from livephase_devices import faults, session
from livephase_devices import microscope as microscope_module
from livephase_devices.config import MicroscopeConfig
from livephase_devices.errors import DeviceError, DeviceTimeoutError, LivephaseError
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Callable

    from devices.conftest import MakeConfig

DEADLINE_S = 20.0
BOTH_KINDS_OF_LENS = pytest.mark.parametrize("faulty_lens", ["Lens", "Lens.Current-mA"])


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_hung_camera_refuses_every_call_until_it_returns(faulty: Microscope) -> None:
    number = int(faulty.snap().pixels[0, 0])
    faulty.set_property("Camera", "Fault", "hang")
    faulty.set_property("Camera", "FaultCount", 2)
    faulty.set_property("Camera", "FaultFrom", number + 1)
    with pytest.raises(DeviceTimeoutError, match=r"^Camera: did not answer within 0.6 s \(snap\)") as caught:
        faulty.snap()
    assert caught.value.device == "Camera"
    calls = (
        faulty.snap,
        faulty.start_sequence,
        faulty.stop_sequence,
        faulty.properties,
        lambda: faulty.next_frame(0.1),
        lambda: faulty.set_defocus_um(1.0),
        lambda: faulty.set_exposure_ms(1.0),
        lambda: faulty.set_property("Lens", "Fault", "none"),
    )
    for call in calls * 10:
        with pytest.raises(DeviceTimeoutError, match=r"^Camera: has not answered for \d+ s \(snap\)"):
            call()
    state = faulty.state()
    assert state.is_open
    assert "Camera: has not answered" in (state.fault or "")
    faults.release_hangs()
    until(lambda: faulty.state().fault is None)
    # Nothing was queued behind the hung call: the next exposure is the next number.
    faulty.set_property("Camera", "Fault", "none")
    assert int(faulty.snap().pixels[0, 0]) == number + 2


def test_callers_that_wait_behind_a_hung_call_are_told(faulty: Microscope) -> None:
    faulty.set_property("Camera", "Fault", "hang")
    errors: list[BaseException] = []

    def call() -> None:
        try:
            faulty.snap()
        except LivephaseError as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(errors) == 5
    for error in errors:
        assert isinstance(error, DeviceTimeoutError)
        assert error.device == "Camera"
    faults.release_hangs()
    until(lambda: faulty.state().fault is None)


def test_a_camera_that_hangs_in_a_sequence(faulty: Microscope) -> None:
    faulty.set_property("Camera", "Fault", "hang")
    faulty.set_property("Camera", "FaultFrom", 2)
    faulty.set_property("Camera", "FaultCount", 1)
    faulty.start_sequence(4)
    numbers: list[int] = []
    for _ in range(2):
        frame = faulty.next_frame(20)
        assert frame is not None
        numbers.append(int(frame.pixels[0, 0]))
    for _ in range(3):
        with pytest.raises(DeviceTimeoutError, match=r"^Camera: "):
            faulty.next_frame(20)
    faults.release_hangs()
    until(lambda: faulty.state().fault is None)
    # The camera delivers after all: the sequence goes on where it was, without a gap.
    for _ in range(2):
        frame = faulty.next_frame(20)
        assert frame is not None
        numbers.append(int(frame.pixels[0, 0]))
    assert numbers == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:Camera device did not provide an image buffer")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "snap failed: the camera's cable was pulled"),
        ("stale", "delivered no new image"),
        ("misshaped", r"delivered an image of \(40, 96\)"),
        ("tear", "snap failed: the camera lost the second half"),
        ("vanish", "(snap|read the exposure) failed: the camera's cable was pulled"),
    ],
)
def test_a_bad_exposure_is_never_an_old_frame(faulty: Microscope, fault: str, message: str) -> None:
    assert int(faulty.snap().pixels[0, 0]) == 0
    faulty.set_property("Camera", "Fault", fault)
    faulty.set_property("Camera", "FaultFrom", 1)
    faulty.set_property("Camera", "FaultCount", 1 if fault == "vanish" else 3)
    for _ in range(3):
        with pytest.raises(DeviceError, match=f"^Camera: {message}"):
            faulty.snap()
    faults.replug()
    frame = faulty.snap()
    assert int(frame.pixels[0, 0]) == (4 if fault != "vanish" else 2)  # a camera that is gone exposes nothing
    assert frame.index == 1


@pytest.mark.filterwarnings("ignore:Camera device did not provide an image buffer")
def test_a_stale_first_frame_is_refused(faulty: Microscope) -> None:
    faulty.set_property("Camera", "Fault", "stale")
    with pytest.raises(DeviceError, match=r"^Camera: "):
        faulty.snap()


@pytest.mark.parametrize(("fault", "old_rows"), [("old", 16), ("torn", 8)])
def test_an_old_or_torn_image_is_refused_where_it_has_structure(faulty: Microscope, fault: str, old_rows: int) -> None:
    """Noise makes every row of two exposures different; a dark or saturated row has nothing that could differ."""
    faulty.set_property("Camera", "Fault", fault)
    faulty.set_property("Camera", "FaultFrom", 2)
    faulty.set_property("Camera", "FaultCount", 2)
    numbers = [int(faulty.snap().pixels[-1, 0]) for _ in range(4)]
    assert numbers == ([0, 1, 1, 1] if fault == "old" else [0, 1, 1, 2])
    faulty.set_property("Camera", "Grain", 1)
    faulty.set_property("Camera", "FaultFrom", 6)
    assert [int(faulty.snap().pixels[-1, 0]) for _ in range(2)] == [4, 5]
    with pytest.raises(
        DeviceError, match=rf"^Camera: delivered an image of which {old_rows} of 16 rows .* old one or a"
    ):
        faulty.snap()
    faulty.set_property("Camera", "Fault", "none")
    assert int(faulty.snap().pixels[-1, 0]) == 7


def test_an_exposure_that_is_no_number_is_refused(faulty: Microscope, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out of a frame follows from it: with an endless one a hung camera would never be noticed."""
    for value in (float("inf"), float("nan"), -1.0):
        monkeypatch.setattr(faults.FaultyCamera, "get_exposure", lambda _camera, value=value: value)
        with pytest.raises(DeviceError, match=rf"^Camera: reports an exposure of {value} ms"):
            faulty.snap()


def test_the_default_notices_a_fault_within_5_s_or_5_exposures(make_config: MakeConfig, faulty_cfg: str) -> None:
    given = make_config(faulty_cfg).model_dump(exclude={"call_timeout_s"})
    config = MicroscopeConfig.model_validate(given)
    with Microscope(config) as microscope:
        loaded = microscope._session
        assert loaded is not None
        for exposure_ms in (1.0, 100.0, 1000.0, 2500.0, 60_000.0):
            assert loaded.frame_limit_s(exposure_ms) == max(5.0, 5 * exposure_ms / 1000)
    assert config.call_timeout_s == 5.0


@BOTH_KINDS_OF_LENS
def test_a_lens_that_hangs_is_named_by_the_move(faulty: Microscope) -> None:
    faulty.set_property("Lens", "Fault", "hang")
    with pytest.raises(DeviceTimeoutError, match=r"^Lens: did not answer within 0.6 s \(move to 3 um\)"):
        faulty.set_defocus_um(3.0)
    with pytest.raises(DeviceTimeoutError, match=r"^Lens: has not answered"):
        faulty.snap()
    faults.release_hangs()
    until(lambda: faulty.state().fault is None)
    assert faulty.snap().defocus_um == 3.0


@BOTH_KINDS_OF_LENS
def test_a_lens_that_hangs_is_named_by_the_snap(faulty: Microscope) -> None:
    faulty.set_property("Lens", "Fault", "hang-read")
    with pytest.raises(DeviceTimeoutError, match=r"^Lens: did not answer within 0.6 s \(read the position\)"):
        faulty.snap()
    faults.release_hangs()
    until(lambda: "Lens: has not answered" not in (faulty.state().fault or ""))
    faults.release_hangs()


@BOTH_KINDS_OF_LENS
@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("raise", DeviceError, "move to 3 um failed: the lens driver reports error 42"),
        ("ignore", DeviceError, "was sent to a defocus of 3 um but reports 0 um"),
        ("busy", DeviceTimeoutError, "is still moving after 0.6 s"),
    ],
)
def test_a_lens_that_does_not_arrive(faulty: Microscope, fault: str, kind: type[DeviceError], message: str) -> None:
    if fault == "busy":
        with pytest.raises(DeviceTimeoutError):  # the device is waited for after the property is set
            faulty.set_property("Lens", "Fault", fault)
    else:
        faulty.set_property("Lens", "Fault", fault)
    with pytest.raises(kind, match=f"^Lens: {message}"):
        faulty.set_defocus_um(3.0)
    if fault == "busy":
        # No frame under a focus that is not confirmed.
        with pytest.raises(DeviceTimeoutError, match=r"^Lens: is still moving"):
            faulty.snap()
    else:
        assert faulty.snap().defocus_um == 0.0


def test_a_device_that_does_not_initialise_is_named(make_config: MakeConfig, faulty_cfg: str, no_leaks: None) -> None:
    """pymmcore-plus only logs it, and the dead device accepts commands."""
    broken = faulty_cfg.replace("Property,Core", "#py Property,Camera,InitFault,raise\nProperty,Core")
    microscope = Microscope(make_config(broken))
    with pytest.raises(DeviceError, match=r"^Camera: could not be initialised: the camera's sensor does not answer"):
        microscope.open()
    assert not microscope.state().is_open
    with pytest.raises(DeviceError, match="is not open"):
        microscope.snap()


def test_a_device_that_hangs_while_it_initialises(make_config: MakeConfig, faulty_cfg: str, no_leaks: None) -> None:
    hanging = faulty_cfg.replace("Property,Core", "#py Property,Camera,InitFault,hang\nProperty,Core")
    microscope = Microscope(make_config(hanging, call_timeout_s=0.05))
    with pytest.raises(DeviceTimeoutError, match=r"^Camera: did not answer within 0.6 s \(initialise\)"):
        microscope.open()
    faults.release_hangs()


@pytest.mark.parametrize("kind", ["hang", "raise", "vanish"])
@pytest.mark.parametrize("label", ["Camera", "Lens"])
def test_a_fault_at_every_call_while_loading(
    make_config: MakeConfig,
    faulty_cfg: str,
    no_leaks: None,
    monkeypatch: pytest.MonkeyPatch,
    label: str,
    kind: str,
) -> None:
    """The device is named, and nothing stays loaded."""
    monkeypatch.setattr(microscope_module, "_HUNG_CLOSE_S", 0.05)
    monkeypatch.setattr(session, "LOAD_FACTOR", 1)
    cfg = faulty_cfg + f"#py Property,{label},Current-mA,0\n" * (label == "Lens") + "#py Property,Camera,Exposure,1\n"

    def changed(index: int) -> MicroscopeConfig:
        fault = "".join(
            f"#py Property,{label},{name},{value}\n" for name, value in (("EventFault", kind), ("EventFaultAt", index))
        )
        text = cfg.replace("Property,Core", f"{fault}Property,Core")
        recorded = ("Camera.FrameNumber",)
        timeout_s = 0.3 if kind == "hang" else 30.0
        return make_config(text, lens="Lens", call_timeout_s=timeout_s, recorded_properties=recorded)

    with Microscope(make_config(cfg, lens="Lens", recorded_properties=("Camera.FrameNumber",))):
        calls = [event.call for event in faults.history if event.device == label]
    calls = calls[len(calls) - 1 - calls[::-1].index("initialise") :]
    assert len(calls) > 5
    for index, call in enumerate(calls):
        microscope = Microscope(changed(index))
        error = None
        try:
            microscope.open()
        except DeviceError as raised:
            error = raised
        if error is not None:
            assert error.device == label or (kind != "hang" and label in str(error)), f"{call}: {error}"
            assert not microscope.state().is_open
        else:
            # Loading reads every property once; one that cannot be read is no reason to refuse the microscope.
            assert kind == "raise"
            assert call.startswith("read ")
            microscope.close()
        faults.release_hangs()
        faults.replug()


def test_closing_while_a_call_hangs(make_config: MakeConfig, faulty_cfg: str, no_leaks: None) -> None:
    microscope = Microscope(make_config(faulty_cfg, call_timeout_s=0.2))
    microscope.open()
    microscope.set_property("Camera", "Fault", "hang")
    with pytest.raises(DeviceTimeoutError):
        microscope.snap()
    with pytest.raises(DeviceTimeoutError, match=r"^Camera: could not be unloaded"):
        microscope.close()
    assert not microscope.state().is_open
    faults.release_hangs()  # no_leaks then waits for the owner thread, which unloads and ends


def test_an_error_leaves_nothing_loaded_and_no_thread(make_config: MakeConfig, faulty_cfg: str, no_leaks: None) -> None:
    microscope = Microscope(make_config(faulty_cfg))

    def fail() -> None:
        with microscope:
            microscope.start_sequence()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not microscope.state().is_open
