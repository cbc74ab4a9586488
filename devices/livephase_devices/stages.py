"""Lens and focus drive in their own units: for calibration, which is what finds out what a unit is in um of defocus.

``session_*`` functions run on the owner thread; a ``Stage`` may be used from any thread.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from livephase_devices.errors import DeviceError, DeviceNotFoundError, PropertyError

if TYPE_CHECKING:
    from livephase_devices.microscope import Microscope
    from livephase_devices.session import CoreSession

TOLERANCE_UM = 0.5
"""A lens or drive that stops further than this from where it was sent has not arrived."""


def session_limits(session: CoreSession, label: str) -> tuple[float, float] | None:
    """Lowest and highest position, where the stage has a property ``Position`` with limits."""
    core = session.core
    with session.touching(label, "read the limits"):
        if not core.hasProperty(label, "Position") or not core.hasPropertyLimits(label, "Position"):
            return None
        return float(core.getPropertyLowerLimit(label, "Position")), float(
            core.getPropertyUpperLimit(label, "Position")
        )


def session_position(session: CoreSession, label: str) -> float:
    """Wait until the stage rests, and return its position."""
    session.wait_until_rests(label)
    with session.touching(label, "read the position"):
        return float(session.core.getPosition(label))


def session_go(session: CoreSession, label: str, position: float, settle_s: float, what: str) -> float:
    """Move, wait until the stage rests and has settled, and return the position that it confirms."""
    with session.touching(label, what):
        session.core.setPosition(label, position)
    session.wait_until_rests(label)
    with session.touching(label, "settle", settle_s + session.config.call_timeout_s):
        time.sleep(settle_s)
    return session_position(session, label)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of an open microscope.

    Attributes
    ----------
    microscope : Microscope
        Whose stage it is.
    label : str
        Of the device.
    um_per_unit : float
        As far as it is known; for the tolerance of a movement.
    settle_s : float
        Wait after it reports that it has arrived.
    """

    microscope: Microscope
    label: str
    um_per_unit: float
    settle_s: float

    @classmethod
    def lens(cls, microscope: Microscope) -> Self:
        """Return the lens; DeviceNotFoundError where there is none."""
        config = microscope.config
        if config.lens is None:
            raise DeviceNotFoundError('has no lens: add lens = "<label of a stage>" to its TOML', config.name)
        return cls(microscope, config.lens, config.lens_um_per_unit, config.lens_settle_s)

    @classmethod
    def z_drive(cls, microscope: Microscope) -> Self | None:
        """Return the focus drive, or None."""
        config = microscope.config
        return None if config.z_drive is None else cls(microscope, config.z_drive, config.z_drive_um_per_unit, 0.0)

    def position(self) -> float:
        """Wait until it rests; return where it is, in its own unit. DeviceError when it does not answer."""
        return self.microscope.call(self.label, "read the position", lambda s: session_position(s, self.label))

    def limits(self) -> tuple[float, float] | None:
        """Return the lowest and the highest position, None where the device states none."""
        return self.microscope.call(self.label, "read the limits", lambda s: session_limits(s, self.label))

    def move(self, position: float) -> float:
        """Move and return the confirmed position.

        Raises
        ------
        PropertyError
            The position is outside the limits of the device; nothing has moved.
        DeviceError
            The stage did not arrive.
        """

        def go(session: CoreSession) -> float:
            limits = session_limits(session, self.label)
            if not math.isfinite(position) or (limits is not None and not limits[0] <= position <= limits[1]):
                among = "a number" if limits is None else f"its range of {limits[0]:g} to {limits[1]:g}"
                raise PropertyError(f"the position {position:g} is outside {among}", self.label)
            confirmed = session_go(session, self.label, position, self.settle_s, f"move to position {position:g}")
            if abs(confirmed - position) * abs(self.um_per_unit) > TOLERANCE_UM:
                raise DeviceError(
                    f"was sent to position {position:g} but reports {confirmed:g}; "
                    "check that it is powered and not blocked",
                    self.label,
                )
            return confirmed

        return self.microscope.call(self.label, "move", go)
