"""Looking for changed properties: what is read, what is told, and what a device that hangs may cost."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from livephase.api.properties import Properties
from livephase_devices import faults
from livephase_devices.config import MicroscopeConfig
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEADLINE_S = 30.0
CFG = """
#py pyDevice,Camera,livephase_devices.faults,FaultyCamera
#py pyDevice,Lens,livephase_devices.faults,FaultyLens
Property,Core,Initialize,1
"""


class Watched:
    """A faulty microscope without the role lens, and what is told of its properties."""

    def __init__(self, microscope: Microscope) -> None:
        self.microscope = microscope
        self.told: queue.Queue[dict[str, Any]] = queue.Queue()
        self.may_poll = threading.Event()
        self.properties = Properties(microscope, self._tell, self.may_poll.is_set)

    def _tell(self, kind: str, content: Mapping[str, Any]) -> None:
        assert kind == "property"
        self.told.put(dict(content))

    def change_elsewhere(self, value: int) -> None:
        """Set a property behind the back, and wait until it was found."""
        self.microscope.set_property("Camera", "FaultFrom", value)
        event = self.told.get(timeout=DEADLINE_S)
        assert (event["device"], event["name"], event["value"]) == ("Camera", "FaultFrom", value)


@pytest.fixture
def watched(tmp_path: Path, no_leaks: None) -> Iterator[Watched]:
    (tmp_path / "faulty.cfg").write_text(CFG)
    config = MicroscopeConfig(
        name="faulty",
        cfg=tmp_path / "faulty.cfg",
        camera="Camera",
        wavelength_um=0.55,
        objective_na=0.4,
        coherence=0.3,
        lr_pixel_um=2.6,
        call_timeout_s=0.5,
    )
    with Microscope(config) as microscope:
        watched = Watched(microscope)
        watched.properties.start()
        yield watched
        watched.properties.close()
        faults.release_hangs()


def test_changes_are_found_while_somebody_watches(watched: Watched) -> None:
    watched.properties.read("Camera", "FaultFrom")
    watched.may_poll.set()
    for value in (1, 2, 3):
        watched.change_elsewhere(value)
    assert watched.told.empty()


def test_nothing_is_read_while_nobody_watches_or_a_run_goes_on(watched: Watched) -> None:
    watched.microscope.set_property("Lens", "Fault", "hang-read")
    time.sleep(1.5)  # three looks at whether there is anything to do
    watched.microscope.set_property("Lens", "Fault", "none")
    assert watched.microscope.state().fault is None
    assert watched.told.empty()


def test_a_property_that_hangs_is_asked_once(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    watched.properties.read("Camera", "FaultFrom")
    watched.microscope.set_property("Lens", "Fault", "hang-read")
    watched.may_poll.set()
    end = time.monotonic() + DEADLINE_S
    while "is not looked at for changes any more" not in caplog.text:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "'Current-mA'" in caplog.text
    faults.release_hangs()
    while watched.microscope.state().fault is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    for value in (1, 2, 3):  # at least two whole rounds; a second reading would hang until the end of the test
        watched.change_elsewhere(value)
    assert watched.microscope.state().fault is None


def test_a_client_that_reads_brings_a_property_back(watched: Watched) -> None:
    assert watched.properties.set("Lens", "Current-mA", 5.0).value == 5.0
    assert watched.told.get(timeout=DEADLINE_S)["value"] == 5.0
    watched.microscope.set_property("Lens", "Current-mA", 6.0)
    assert watched.properties.read("Lens", "Current-mA").value == 6.0
    assert watched.told.get(timeout=DEADLINE_S)["value"] == 6.0
    assert watched.properties.read("Lens", "Current-mA").value == 6.0
    assert watched.told.empty()


def test_events_of_one_property_come_in_the_order_of_its_values(watched: Watched) -> None:
    """The last event tells the value that the device has, whoever sets it meanwhile."""
    watched.may_poll.set()
    start = threading.Barrier(4)

    def turn(first: int) -> None:
        start.wait()
        for value in range(first, first + 25):
            watched.properties.set("Camera", "FaultCount", value)
            watched.properties.read("Camera", "FaultCount")

    threads = [threading.Thread(target=turn, args=(100 * one,)) for one in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watched.may_poll.clear()
    last = watched.microscope.get_property("Camera", "FaultCount")
    values: list[int] = []
    while not watched.told.empty():
        values.append(watched.told.get()["value"])
    assert values[-1] == last
    assert all(before != after for before, after in itertools.pairwise(values))
