"""Lens and focus drive in their own units: for calibration, which is what finds out what a unit is in um of defocus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from livephase_devices.errors import DeviceError, DeviceNotFoundError, PropertyError
from livephase_devices.lens.role import TOLERANCE_UM

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase_devices.lens.role import Lens
    from livephase_devices.microscope import Microscope
    from livephase_devices.session import CoreSession


@dataclass(frozen=True, slots=True)
class Stage:
    """The lens or the focus drive of an open microscope; may be used from any thread.

    Attributes
    ----------
    microscope : Microscope
        Whose it is.
    label : str
        Its name in the configuration.
    um_per_unit : float
        As far as it is known; for the tolerance of a movement.
    device : callable
        Gives it, of the loaded session.
    """

    microscope: Microscope
    label: str
    um_per_unit: float
    device: Callable[[CoreSession], Lens]

    @classmethod
    def lens(cls, microscope: Microscope) -> Self:
        """Return the lens; DeviceNotFoundError where there is none."""
        config = microscope.config
        if config.lens is None:
            raise DeviceNotFoundError('has no lens: add lens = "<label of a stage>" to its TOML', config.name)
        return cls(microscope, config.lens, config.lens_um_per_unit, lambda session: session.require_lens())

    @classmethod
    def z_drive(cls, microscope: Microscope) -> Self | None:
        """Return the focus drive, or None."""
        config = microscope.config
        if config.z_drive is None:
            return None
        return cls(microscope, config.z_drive, config.z_drive_um_per_unit, lambda session: session.require_z_drive())

    def position(self) -> float:
        """Wait until it rests; return where it is, in its own unit. DeviceError when it does not answer."""
        return self.microscope.call(self.label, "read the position", lambda s: self.device(s).position())

    def limits(self) -> tuple[float, float] | None:
        """Return the lowest and the highest position, None where the device states none."""
        return self.microscope.call(self.label, "read the limits", lambda s: self.device(s).limits())

    def move(self, position: float) -> float:
        """Move and return the confirmed position.

        Raises
        ------
        PropertyError
            The position is outside the limits of the device; nothing has moved.
        DeviceError
            It did not arrive.
        """

        def go(session: CoreSession) -> float:
            device = self.device(session)
            limits = device.limits()
            if not math.isfinite(position) or (limits is not None and not limits[0] <= position <= limits[1]):
                among = "a number" if limits is None else f"its range of {limits[0]:g} to {limits[1]:g}"
                raise PropertyError(f"the position {position:g} is outside {among}", device.label)
            confirmed = device.go(position, f"move to position {position:g}")
            if abs(confirmed - position) * abs(self.um_per_unit) > TOLERANCE_UM:
                raise DeviceError(
                    f"was sent to position {position:g} but reports {confirmed:g}; "
                    "check that it is powered and not blocked",
                    device.label,
                )
            return confirmed

        return self.microscope.call(self.label, "move", go)
