"""The simulated focus drive: a motor stage that moves the objective, with the backlash of its gear."""

from __future__ import annotations

import time

from pymmcore_plus.experimental.unicore import StageDevice

from livephase_devices.python_device import add_property
from livephase_devices.twin import world

LIMIT_UM = 500.0
SPEED_UM_PER_S = 2000.0


class TwinDrive(StageDevice):
    """Stage in um whose movement adds to the defocus of the bench.

    ``Backlash-um`` is how far the motor turns before the objective follows when the direction changes: the read-back
    does not know of it, as that of a real drive without an encoder. ``Direction`` -1 is a drive whose larger
    positions lower the focus.
    """

    def __init__(self) -> None:
        super().__init__()
        self._position_um = 0.0
        self._optical_um = 0.0
        self._arrives_s = 0.0
        self._backlash_um = 0.0
        self._direction = 1
        self._bench: world.Bench | None = None
        add_property(self, "Position", float, self.get_position_um, self.set_position_um, limits=(-LIMIT_UM, LIMIT_UM))
        add_property(self, "Backlash-um", float, lambda: self._backlash_um, self._set_backlash, limits=(0.0, 20.0))
        add_property(self, "Direction", int, lambda: self._direction, self._set_direction, allowed=("-1", "1"))

    def initialize(self) -> None:
        """Put the drive on the bench of its core."""
        self._bench = world.join(self.core)
        self._bench.drive = self

    def shutdown(self) -> None:
        """Take the drive off the bench."""
        if self._bench is not None:
            self._bench.drive = None
            self._bench = None
            world.leave(self.core)

    # -- Stage ------------------------------------------------------------------------------------------------

    def set_position_um(self, val: float) -> None:
        """Start moving; ``busy`` until there."""
        target_um = float(val)
        if not -LIMIT_UM <= target_um <= LIMIT_UM:
            raise ValueError(f"{target_um:g} um is outside -{LIMIT_UM:g} to {LIMIT_UM:g} um")
        self._arrives_s = time.monotonic() + abs(target_um - self._position_um) / SPEED_UM_PER_S
        self._position_um = target_um
        # The objective follows the motor as soon as the play is taken up, from the side from which it is pushed.
        self._optical_um = min(max(self._optical_um, target_um - self._backlash_um), target_um)

    def get_position_um(self) -> float:
        """Return where the motor is."""
        return self._position_um

    def busy(self) -> bool:
        """Return whether the drive is still moving."""
        return time.monotonic() < self._arrives_s

    def home(self) -> None:
        """Go to the middle of the range."""
        self.set_position_um(0.0)

    def stop(self) -> None:
        """Do nothing: the simulated drive is where it was sent."""

    def set_origin(self) -> None:
        """Refuse: positions are those of the motor."""
        raise NotImplementedError("the simulated drive has no movable origin")

    # -- for the bench ----------------------------------------------------------------------------------------

    def optical_defocus_um(self) -> float:
        """Return what the drive adds to the true defocus in um."""
        return self._direction * self._optical_um

    # -- inside -----------------------------------------------------------------------------------------------

    def _set_backlash(self, um: float) -> None:
        self._backlash_um = um

    def _set_direction(self, direction: int) -> None:
        self._direction = direction
