"""A lens with a simulated driver behind a real port."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import pytest

from livephase_devices.lens.optotune import OptotuneLens
from livephase_devices.lens.optotune_simulator import OptotuneSimulator

if TYPE_CHECKING:
    from collections.abc import Iterator

REPLY_S = 0.15
LINES: list[Literal["pty", "tcp"]] = ["pty", "tcp"] if os.name == "posix" else ["tcp"]


@pytest.fixture
def simulator(no_leaks: None) -> Iterator[OptotuneSimulator]:
    with OptotuneSimulator(slow_s=2 * REPLY_S) as simulator:
        yield simulator


@pytest.fixture
def lens(simulator: OptotuneSimulator) -> Iterator[OptotuneLens]:
    with OptotuneLens(simulator.port, label="Lens", reply_timeout_s=REPLY_S) as lens:
        yield lens


@pytest.fixture
def focal(simulator: OptotuneSimulator) -> Iterator[OptotuneLens]:
    with OptotuneLens(simulator.port, mode="focal_power", temperature_limits_c=(20, 35), label="Lens") as lens:
        yield lens


@pytest.fixture(params=LINES)
def on_each_line(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[tuple[OptotuneSimulator, OptotuneLens]]:
    with OptotuneSimulator(request.param) as simulator, OptotuneLens(simulator.port, label="Lens") as lens:
        yield simulator, lens
