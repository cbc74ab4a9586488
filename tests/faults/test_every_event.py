"""A camera or lens that fails at any call that a run makes to it: noticed, survived, and no frame at a wrong place.

The calls of a clean run of 30 time points are counted first; then every fault is placed at each of them, against the
real core, the real runner and a real store. The camera writes the number of its exposure into every pixel and the
devices note when they were called, so that what is stored can be held against what was exposed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from faults.conftest import Outcome, Rig

NOTICE_S = 5.0
"""The promise, max(5 s, 5 exposures); the time-out of these runs is a tenth of it."""
LONG = 40
"""Calls that fail one after the other: more than the attempts of one time point make."""


@dataclass(frozen=True)
class Scenario:
    """A fault of a device: what happens, in how many calls, and whether it is mended when it has been noticed.

    ``calls`` are those where it can happen; empty means all. ``noticed`` is whether software can notice it.
    """

    name: str
    device: str
    kind: str
    calls: tuple[str, ...] = ()
    count: int = 1
    mended: bool = False
    noticed: bool = True


ANYWHERE = [
    Scenario(f"{device} {name}", device, kind, count=count, mended=mended, noticed=kind != "stall")
    for device in ("Camera", "Lens")
    for name, kind, count, mended in (
        ("hangs and answers later", "hang", 1, True),
        ("hangs for good", "hang", 1, False),
        ("raises once", "raise", 1, False),
        ("raises for a while", "raise", LONG, False),
        ("vanishes and comes back", "vanish", 1, True),
        ("vanishes for good", "vanish", 1, False),
        ("stalls", "stall", 1, False),
    )
]
IMAGES = [
    Scenario(f"Camera image {kind}", "Camera", kind, ("snap",), noticed=kind != "overwritten")
    for kind in ("stale", "misshaped", "tear", "torn", "old", "overwritten")
]
POSITIONS = [
    Scenario("Lens reports a wrong position", "Lens", "lie", ("read the position",)),
    Scenario("Lens reports no number", "Lens", "nan", ("read the position",)),
    Scenario("Lens never rests again", "Lens", "busy", ("ask whether it rests",)),
]
SCENARIOS = ANYWHERE + IMAGES + POSITIONS
FIRST_MOVE = [
    Scenario("Lens does not move", "Lens", "ignore", ("move",)),
    Scenario("Lens does not move and says it has", "Lens", "lie", ("move",), noticed=False),
]


def check(rig: Rig, scenario: Scenario, outcome: Outcome) -> float | None:
    """Hold what was stored and told against what happened; return after how many seconds the fault was noticed."""
    assert outcome.fired, "the fault did not happen"
    first = outcome.fired[0]
    assert outcome.state in ("completed", "failed")
    assert sorted(outcome.written + list(outcome.missing)) == list(range(outcome.time_points))
    # The first image of all has none before it to be compared with.
    unseen = scenario.kind in ("torn", "old") and first.frame == 0
    check_frames(rig, outcome, allow_torn=scenario.kind == "torn" and unseen)
    device = f"{scenario.device}: "
    if outcome.missing:
        assert all(device in reason for reason in outcome.missing.values())
        assert any(device in told for told in outcome.faults) or outcome.state == "failed"
    if outcome.state == "failed":
        assert device in (outcome.reason or "")
    if unseen or not scenario.noticed:
        assert outcome.state == "completed"
        assert outcome.written == list(range(outcome.time_points))
        assert not outcome.notice.lines
        return None
    assert outcome.notice.at_s is not None, f"nothing in the log names {scenario.device}: {outcome.notice.lines}"
    notice_s = outcome.notice.at_s - first.began_s
    assert 0 <= notice_s < max(NOTICE_S, 5 * rig.exposure_ms / 1000)
    return notice_s


def check_frames(rig: Rig, outcome: Outcome, *, allow_torn: bool) -> None:
    """Every stored frame is whole, and was exposed at its own time point under the defocus of the plan."""
    exposed = {event.frame: event.began_s for event in outcome.events if event.call == "snap"}
    times_s = {index: outcome.table["time_monotonic_ns"][index] / 1e9 for index in outcome.written}
    last = -1
    for index in outcome.written:
        pixels = outcome.numbers[index][:, :48]  # the other half is the grain
        number = int(pixels[0, 0])
        if not (pixels == number).all():
            assert allow_torn
            assert [event.frame for event in outcome.fired] == [number]
        assert number > last, f"time point {index} holds exposure {number} again"
        last = number
        assert times_s[index] <= exposed[number], f"time point {index} holds an exposure from before it"
        later = [at for at in outcome.written if at > index]
        if later:
            assert exposed[number] < times_s[later[0]], f"time point {index} holds an exposure of a later one"
        recorded = outcome.table["Camera.FrameNumber"][index]
        assert recorded in (number, -1) or np.isnan(recorded)
        assert abs(outcome.table["defocus_um"][index] - rig.defocus_um) <= 0.5


@pytest.mark.filterwarnings("ignore:Camera device did not provide an image buffer")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize(
    ("rig", "every"),
    [(False, False), pytest.param(True, True, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])],
    indirect=["rig"],
    ids=["chosen", "every"],
)
def test_a_fault_at_every_event_of_a_run(rig: Rig, every: bool, scenario: Scenario) -> None:
    """A fault at every call of the run (a soak), or at each call of some time point drawn by lot."""
    rng = np.random.default_rng(11)
    places = rig.places(scenario)
    calls = len(places) // rig.time_points
    assert calls >= 1
    chosen = places if every else [int(rng.choice(places[call::calls])) for call in range(calls)]
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    slowest_s, gaps = 0.0, 0
    for index in chosen:
        outcome = rig.run(scenario, index)
        try:
            noticed_s = check(rig, scenario, outcome)
        except AssertionError as error:
            wrong.append(f"at call {index} ({rig.calls[scenario.device][index]}): {error}")
            continue
        slowest_s = max(slowest_s, noticed_s or 0.0)
        outcomes[outcome.state if not outcome.missing else f"{outcome.state} with gaps"] += 1
        gaps += len(outcome.missing)
    print(
        f"{scenario.name}: {len(chosen)} faults, {dict(outcomes)}, {gaps} gaps, slowest {slowest_s:.3f} s", flush=True
    )
    assert not wrong, f"{len(wrong)} faults: " + "\n".join(wrong)


@pytest.mark.parametrize("scenario", FIRST_MOVE, ids=lambda scenario: scenario.name)
def test_a_lens_that_stays_at_the_first_move(rig: Rig, scenario: Scenario) -> None:
    """A lens that lies about its position cannot be noticed: the frame is stored under what the lens says."""
    outcome = rig.run(scenario, rig.places(scenario)[0])
    check(rig, scenario, outcome)
    true_um = outcome.table["Lens.TruePosition-um"]
    assert outcome.written == list(range(outcome.time_points))
    assert true_um[0] == (rig.defocus_um if scenario.noticed else 0.0)
    assert (true_um[1:] == rig.defocus_um).all()
