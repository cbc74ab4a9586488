"""The simulated tunable lens: settles, can drift, has a scale of its own, and tells when it has arrived."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from pymmcore_plus.experimental.unicore import StageDevice

from livephase_devices.python_device import add_property
from livephase_devices.twin import world

if TYPE_CHECKING:
    from pymmcore_plus.experimental.unicore._proxy import CMMCoreProxy

RANGE = 20.0
"""The lens goes this far to both sides, unless its property ``Range`` says otherwise."""
_SETTLING_CONSTANTS = 5.0
"""Time constants in the settling time: e**-5 of the way is left when the lens counts as settled."""


class TwinLens(StageDevice):
    """Stage whose position is the defocus in um, unless its optical properties say otherwise.

    Its read-back does not know the thermal drift, like that of a real lens in current mode.

    Notes
    -----
    What a calibration has to find out: the true defocus is ``(position - TrueFocusPosition) *
    TrueScale-um-per-unit`` and the drift. ``Drift-um-per-h`` lets it grow in real time; ``Drift-um`` sets it, for
    simulations that compress time.

    ``stagePositionChanged`` is emitted by a thread of its own once the lens has settled: emitted from inside
    ``set_position_um``, under the device's lock, a slot that asks the core for the position would wait for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._start = 0.0
        self._target = 0.0
        self._range = RANGE
        self._scale_um_per_unit = 1.0
        self._focus_position = 0.0
        self._temperature_c = 25.0
        self._moved_s = -math.inf
        self._settling_s = 0.015
        self._drift_um_per_h = 0.0
        self._drift_um = 0.0
        self._drift_since_s = 0.0
        self._moves = 0
        self._bench: world.Bench | None = None
        add_property(self, "Position", float, self.get_position_um, self.set_position_um, limits=(-RANGE, RANGE))
        self._add_optical_properties()
        add_property(
            self,
            "SettlingTime-ms",
            float,
            lambda: self._settling_s * 1000,
            self._set_settling_ms,
            limits=(0.0, 10_000.0),
        )
        add_property(
            self,
            "Drift-um-per-h",
            float,
            lambda: self._drift_um_per_h,
            self._set_drift,
            limits=(-100_000.0, 100_000.0),
        )
        add_property(self, "Drift-um", float, self._drifted_um, self._set_drift_um, limits=(-10_000.0, 10_000.0))

    def _add_optical_properties(self) -> None:
        def scale(um_per_unit: float) -> None:
            self._scale_um_per_unit = um_per_unit

        def focus(position: float) -> None:
            self._focus_position = position

        def temperature(temperature_c: float) -> None:
            self._temperature_c = temperature_c

        def half_range(units: float) -> None:
            self._range = units
            self.set_property_limits("Position", (-units, units))

        add_property(
            self,
            "Range",
            float,
            lambda: self._range,
            half_range,
            limits=(1.0, 10_000.0),
            only_before=lambda: self._bench is None,
        )
        add_property(
            self, "TrueScale-um-per-unit", float, lambda: self._scale_um_per_unit, scale, limits=(-1000.0, 1000.0)
        )
        add_property(
            self, "TrueFocusPosition", float, lambda: self._focus_position, focus, limits=(-10_000.0, 10_000.0)
        )
        add_property(self, "Temperature-C", float, lambda: self._temperature_c, temperature, limits=(-20.0, 100.0))

    def initialize(self) -> None:
        """Put the lens on the bench of its core."""
        self._bench = world.join(self.core)
        self._bench.lens = self

    def shutdown(self) -> None:
        """Take the lens off the bench."""
        self._moves += 1  # a notice that is still waiting is not given
        if self._bench is not None:
            self._bench.lens = None
            self._bench = None
            world.leave(self.core)

    # -- Stage ------------------------------------------------------------------------------------------------

    def set_position_um(self, val: float) -> None:
        """Start moving to a position in the lens' unit; ``busy`` until settled."""
        target = float(val)
        if not -self._range <= target <= self._range:
            raise ValueError(f"{target:g} is outside -{self._range:g} to {self._range:g}")
        self._start = self.get_position_um()
        self._target = target
        self._moved_s = time.monotonic()
        self._moves += 1
        threading.Thread(
            target=self._tell, args=(self.core, self._moves, target), name="twin lens", daemon=True
        ).start()

    def get_position_um(self) -> float:
        """Return where the lens is, in its unit; exactly the target once it has settled."""
        elapsed_s = time.monotonic() - self._moved_s
        if elapsed_s >= self._settling_s:
            return self._target
        left = math.exp(-_SETTLING_CONSTANTS * elapsed_s / self._settling_s)
        return self._target + (self._start - self._target) * left

    def busy(self) -> bool:
        """Return whether the lens is still settling."""
        return time.monotonic() - self._moved_s < self._settling_s

    def home(self) -> None:
        """Go to the middle of the range."""
        self.set_position_um(0.0)

    def stop(self) -> None:
        """Stay where the lens is."""
        self.set_position_um(self.get_position_um())

    def set_origin(self) -> None:
        """Refuse: the middle of a tunable lens' range is given."""
        raise NotImplementedError("a tunable lens has no movable origin")

    # -- for the bench ----------------------------------------------------------------------------------------

    def optical_defocus_um(self) -> float:
        """Return the true defocus at this moment in um, drift included."""
        return (self.get_position_um() - self._focus_position) * self._scale_um_per_unit + self._drifted_um()

    # -- inside -----------------------------------------------------------------------------------------------

    def _drifted_um(self) -> float:
        hours = (time.monotonic() - self._drift_since_s) / 3600.0
        return self._drift_um + self._drift_um_per_h * hours if self._drift_um_per_h else self._drift_um

    def _set_drift(self, um_per_h: float) -> None:
        """Change the pace; 0 lets the lens return to its calibrated state."""
        self._drift_um = self._drifted_um() if um_per_h else 0.0
        self._drift_since_s = time.monotonic()
        self._drift_um_per_h = um_per_h

    def _set_drift_um(self, um: float) -> None:
        """Set what the lens has drifted so far; a pace that was set goes on from there."""
        self._drift_um = um
        self._drift_since_s = time.monotonic()

    def _set_settling_ms(self, ms: float) -> None:
        self._settling_s = ms / 1000.0

    def _tell(self, core: CMMCoreProxy, move: int, target: float) -> None:
        time.sleep(self._settling_s)
        if move == self._moves:
            core.events.stagePositionChanged.emit(self.get_label(), target)
