"""One connection to an Optotune lens driver: from ``Start`` in the wanted mode, until the line is lost."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

from livephase_devices.errors import DeviceError
from livephase_devices.lens import optotune_protocol as protocol
from livephase_devices.lens.optotune_identity import ask_if_known, identify
from livephase_devices.lens.optotune_link import Link
from livephase_devices.lens.optotune_protocol import LensStatus

if TYPE_CHECKING:
    from livephase_devices.lens.optotune_identity import Identity
    from livephase_devices.lens.optotune_protocol import Query

Mode = Literal["current", "focal_power"]


class Connection:
    """A lens driver that has been started, asked what it is, and switched to a mode.

    Every method may raise ``LinkLostError`` and ``RefusedError``; after the first the connection is of no more use.

    Parameters
    ----------
    port : str
        See ``OptotuneLens``.
    mode : str
        ``"current"`` or ``"focal_power"``.
    temperature_limits_c : tuple of float
        Lowest and highest temperature of the lens, for focal-power mode.
    reply_timeout_s : float
        Longest wait for one reply.
    deadline_s : float
        ``time.monotonic`` at which to give up; the attribute of this name is set before each later call.
    label : str
        Name in messages.

    Attributes
    ----------
    identity : Identity
        What the driver is.
    limits : tuple of float
        Lowest and highest set-point, in the unit of the mode.
    first_status : LensStatus or None
        Status when the connection was made; None where the firmware does not tell.

    Raises
    ------
    DeviceError
        The mode is not possible with this driver, or its limits leave no range.
    """

    def __init__(
        self,
        port: str,
        mode: Mode,
        temperature_limits_c: tuple[float, float],
        reply_timeout_s: float,
        deadline_s: float,
        label: str,
    ) -> None:
        self.deadline_s = deadline_s
        self._mode: Mode = mode
        self._temperature_limits_c = temperature_limits_c
        self._label = label
        # What the firmware knows is asked once; a command that it refuses later is an error, no sign of old firmware.
        self._temperature_query: Query | None = None
        self._tells_mode: bool | None = None
        self._link = Link(port, reply_timeout_s)
        try:
            self._link.start(deadline_s)
            self.identity = self._identify()
            self.limits = self.identity.current_limits_ma
            self.enter_mode()
            status = ask_if_known(self._link, protocol.READ_STATUS, deadline_s)
            self.first_status = None if status is None else LensStatus(int.from_bytes(status, "big"))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the port; the lens stays where it is."""
        self._link.close()

    # -- mode -------------------------------------------------------------------------------------------------

    def is_in_mode(self) -> bool:
        """Ask whether the driver is in the mode; one whose firmware does not tell counts as being in it."""
        if self._tells_mode is None:
            self._tells_mode = ask_if_known(self._link, protocol.READ_MODE, self.deadline_s) is not None
        if not self._tells_mode:
            return True  # the switch itself was acknowledged
        return self._ask(protocol.READ_MODE)[0] == (
            protocol.MODE_CURRENT if self._mode == "current" else protocol.MODE_FOCAL_POWER
        )

    def enter_mode(self) -> None:
        """Switch to the mode, and check it."""
        if self._mode == "current":
            self._ask(protocol.CURRENT_MODE)
        else:
            self.limits = self._enter_focal_power_mode()
        if not self.is_in_mode():
            raise DeviceError(f"does not switch to {self._mode.replace('_', '-')} mode", self._label)

    def _enter_focal_power_mode(self) -> tuple[float, float]:
        if self.identity.firmware_type is None:
            raise DeviceError(
                "does not tell its firmware type, on which the meaning of dioptres depends; use current mode",
                self._label,
            )
        low_c, high_c = self._temperature_limits_c
        status = self._ask(protocol.set_temperature_limits(low_c, high_c))[0]
        if status != 0:
            raise DeviceError(
                f"refuses temperature limits of {low_c:g} to {high_c:g} C (status {status:#04x}); "
                "choose others or use current mode",
                self._label,
            )
        status, high_raw, low_raw = struct.unpack(">Bhh", self._ask(protocol.FOCAL_POWER_MODE))
        if status != 0:
            raise DeviceError(
                f"refuses focal-power mode (status {status:#04x}); check that the lens is plugged into its driver, "
                "or use current mode",
                self._label,
            )
        low, high = self.identity.to_dpt(low_raw), self.identity.to_dpt(high_raw)
        if not low < high:
            raise DeviceError(
                f"has no focal power that it can hold from {low_c:g} to {high_c:g} C; narrow the temperature limits",
                self._label,
            )
        return low, high

    # -- values -----------------------------------------------------------------------------------------------

    def send_set_point(self, raw: int) -> None:
        """Send a set-point in raw steps of the mode; whether it arrived has to be read."""
        payload = protocol.set_current(raw) if self._mode == "current" else protocol.set_focal_power(raw)
        self._link.send(payload, self.deadline_s)

    def read_set_point(self) -> int:
        """Read the set-point in raw steps of the mode."""
        return self.read_current() if self._mode == "current" else self._number(protocol.READ_FOCAL_POWER)

    def read_current(self) -> int:
        """Read the current in raw steps."""
        return self._number(protocol.READ_CURRENT)

    def from_raw(self, raw: int) -> float:
        """Return a set-point in the unit of the mode."""
        return self.identity.to_ma(raw) if self._mode == "current" else self.identity.to_dpt(raw)

    def to_raw(self, value: float) -> int:
        """Return a set-point in raw steps of the mode."""
        return self.identity.from_ma(value) if self._mode == "current" else self.identity.from_dpt(value)

    def read_temperature_c(self) -> float | None:
        """Read the temperature of the lens in degrees Celsius; None where it has no sensor."""
        if self._temperature_query is None:
            known = ask_if_known(self._link, protocol.READ_TEMPERATURE, self.deadline_s) is not None
            self._temperature_query = protocol.READ_TEMPERATURE if known else protocol.READ_TEMPERATURE_OLD
        data = self._ask(self._temperature_query)
        raw = protocol.from_int16(data[-2:])
        return None if raw == protocol.NO_SENSOR else raw * protocol.TEMPERATURE_LSB_C

    def read_status(self) -> LensStatus | None:
        """Read the status; None where the firmware does not tell."""
        if self.first_status is None:
            return None
        data = self._ask(protocol.READ_STATUS)
        return LensStatus(int.from_bytes(data, "big"))

    # -- inside -----------------------------------------------------------------------------------------------

    def _identify(self) -> Identity:
        try:
            return identify(self._link, self.deadline_s)
        except ValueError as error:
            raise DeviceError(str(error), self._label) from error

    def _ask(self, query: Query) -> bytes:
        return self._link.query(query, self.deadline_s)

    def _number(self, query: Query) -> int:
        return protocol.from_int16(self._ask(query))
