"""Random commands and faults: the driver ends every call in its time and never accepts a wrong value.

1,000 sequences run with the tests; more with ``LIVEPHASE_OPTOTUNE_SEQUENCES=10000``.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from livephase_devices.errors import DeviceError, PropertyError
from livephase_devices.lens.optotune import OptotuneLens
from livephase_devices.lens.optotune_simulator import FAULTS, OptotuneSimulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from livephase_devices.lens.optotune_connection import Mode
    from livephase_devices.lens.optotune_simulated_driver import Firmware

SEQUENCES = int(os.environ.get("LIVEPHASE_OPTOTUNE_SEQUENCES", "1000"))
REPLY_S = 0.02
CALL_S = 0.3
HANG_S = 10.0
"""A call that takes this long hangs; the machine may be so busy that CALL_S itself cannot be asked for."""
STEP_MA = 292.84 / 4095
RIGS: list[tuple[Firmware, Mode]] = [("A", "current"), ("A", "focal_power"), ("F", "focal_power"), ("old", "current")]


@dataclass
class Rig:
    """A lens with its simulator, and what is known of both."""

    simulator: OptotuneSimulator
    lens: OptotuneLens
    rng: random.Random
    offset_dpt: float
    wanted: float | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0

    def run(self) -> None:
        """One sequence, at whose end the faults are healed and the lens must be right again."""
        for _ in range(self.rng.randint(1, 4)):
            self.disturb()
            self.step(self.rng.choice([self.move, self.move, self.read, self.read, self.temperature, self.status]))
        self.simulator.heal()
        end_s = time.monotonic() + 60
        while not self.step(self.read, "recovery "):
            assert time.monotonic() < end_s, "does not recover"

    def disturb(self) -> None:
        """Inject faults, or pull the cable."""
        chance = self.rng.random()
        if chance < 0.6:
            self.simulator.inject(self.rng.choice(FAULTS), self.rng.choice([1, 1, 1, 2, 3]), self.rng.randrange(3))
        elif chance < 0.66:
            self.simulator.unplug()
        elif chance < 0.72:
            self.simulator.plug()
        elif chance < 0.76:
            self.simulator.power_cycle()
        self.simulator.slow_s = self.rng.choice([0.5, 1.5, 4.0]) * REPLY_S
        # another temperature before every call: a late reply would show
        self.simulator.set_temperature(round(self.rng.uniform(21, 39) * 16) / 16)

    def step(self, call: Callable[[], None], prefix: str = "") -> bool:
        """Carry out a call; whether it succeeded."""
        began_s = time.monotonic()
        try:
            call()
        except PropertyError:
            raise
        except DeviceError as error:
            outcome = "reported" if str(error).startswith("Lens: ") else "reported without a name"
        else:
            outcome = "right"
        took_s = time.monotonic() - began_s
        assert took_s < HANG_S
        self.longest_s = max(self.longest_s, took_s)
        self.outcomes[prefix + outcome] += 1
        return outcome == "right"

    def truth(self) -> float:
        """Return what the simulated driver holds, in the unit of the mode."""
        with self.simulator.lock:
            driver = self.simulator.driver
            if self.lens.mode == "current":
                assert driver.mode == 1
                return driver.current_raw * STEP_MA
            assert driver.mode == 5
            return driver.focal_power_raw / 200 - self.offset_dpt

    def move(self) -> None:
        """A move that succeeds has arrived."""
        low, high = (-290.0, 290.0) if self.lens.mode == "current" else (-1.4, 3.4)
        self.wanted = self.rng.uniform(low, high)
        if self.lens.mode == "current":
            self.lens.current_ma = self.wanted
        else:
            self.lens.focal_power_dpt = self.wanted
        assert self.truth() == pytest.approx(self.wanted, abs=self.step_size())

    def read(self) -> None:
        """A value that is read is the one that the driver holds, and the one that was set."""
        value = self.lens.current_ma if self.lens.mode == "current" else self.lens.focal_power_dpt
        assert value == pytest.approx(self.truth(), abs=1e-9)
        if self.wanted is not None:
            assert value == pytest.approx(self.wanted, abs=self.step_size())

    def temperature(self) -> None:
        """The temperature of now."""
        assert self.lens.temperature_c == self.simulator.driver.temperature_c

    def status(self) -> None:
        """The status of now."""
        status = self.lens.status
        with self.simulator.lock:
            assert status == (None if self.simulator.driver.firmware == "old" else self.simulator.driver.status())

    def step_size(self) -> float:
        """Half a step of the driver, which is how well a set-point can be kept."""
        return (STEP_MA if self.lens.mode == "current" else 1 / 200) / 2 + 1e-9


@pytest.fixture(params=RIGS, ids=lambda rig: "-".join(rig))
def rig(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[Rig]:
    firmware, mode = request.param
    seed = 1 + RIGS.index(request.param)
    with OptotuneSimulator(firmware=firmware, seed=seed) as simulator:
        lens = OptotuneLens(
            simulator.port,
            mode=mode,
            temperature_limits_c=(20, 35),
            reply_timeout_s=REPLY_S,
            call_timeout_s=CALL_S,
            label="Lens",
        )
        rng = random.Random(seed)  # noqa: S311 - a reproducible test
        rig = Rig(simulator, lens, rng, 5.0 if firmware == "A" else 0.0)
        until_s = time.monotonic() + 60
        while not rig.step(lens.open, "opening "):  # REPLY_S is short for a busy machine
            assert time.monotonic() < until_s, "does not open"
        yield rig
        lens.close()


@pytest.mark.timeout(3600)
def test_random_commands_and_faults(rig: Rig) -> None:
    count = SEQUENCES // len(RIGS)
    for number in range(count):
        try:
            rig.run()
        except AssertionError as error:
            raise AssertionError(f"sequence {number}: {error}") from error
    print(f"\n{count} sequences, longest call {rig.longest_s:.2f} s: {dict(rig.outcomes)}")
    assert rig.outcomes["reported without a name"] == 0
    assert rig.outcomes["recovery right"] == count
    assert rig.outcomes["right"] > 0.3 * count
    assert rig.outcomes["reported"] > 0.1 * count
    assert rig.simulator.driver.eeprom_writes == 0
