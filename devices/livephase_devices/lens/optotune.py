"""Driver of an Optotune lens on a Lens Driver 4 or 4i: set-points that are confirmed, and survive a lost cable.

Nothing here writes the driver's EEPROM.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Self, TypeVar

from livephase_devices.errors import DeviceError, DeviceTimeoutError, PropertyError
from livephase_devices.lens import optotune_protocol as protocol
from livephase_devices.lens.optotune_connection import Connection, Mode
from livephase_devices.lens.optotune_link import LinkLostError, NoAnswerError
from livephase_devices.lens.optotune_protocol import LensStatus, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase_devices.lens.optotune_identity import Identity

T = TypeVar("T")
log = logging.getLogger(__name__)

UNITS: dict[Mode, str] = {"current": "mA", "focal_power": "dpt"}
_TRIES = 2
_FOCAL_POWER_ONLY = (
    LensStatus.NO_TEMPERATURE_LIMITS
    | LensStatus.FOCAL_POWER_UNREACHABLE
    | LensStatus.FOCAL_POWER_INVERTED
    | LensStatus.FOCAL_POWER_NOT_GUARANTEED
    | LensStatus.TEMPERATURE_OUTSIDE_LIMITS
)
"""Bits that say nothing in current mode."""
_PARTS = LensStatus.HARDWARE_MISSING | LensStatus.EEPROM_FAULTY
"""Bits of a lens that is not plugged into its driver; some lenses have no EEPROM and set one of them all the time."""


class OptotuneLens:
    """An Optotune tunable lens.

    Every call talks to the lens, and connects first where there is no connection. After a lost cable or a power cut
    the lens stands at 0 mA: the first call that reaches it again restores mode and set-point, and raises if it cannot.
    One thread at a time.

    Parameters
    ----------
    port : str
        ``COM3``, ``/dev/ttyACM0``, or a URL of pyserial such as ``socket://192.168.1.5:5000``.
    mode : str
        ``"current"`` (mA) or ``"focal_power"`` (dpt, which the driver corrects for the lens' temperature).
    temperature_limits_c : tuple of float
        Range of lens temperature in which focal-power mode has to work; the wider, the smaller the range in dpt.
    reply_timeout_s, call_timeout_s : float
        Longest wait for one reply, and for a whole call with its repetitions. Opening a port can take longer where
        the operating system takes longer.
    label : str, optional
        Name in messages; the port by default.

    Attributes
    ----------
    restorations : int
        How often mode or set-point had to be set again; the lens has moved each time.
    """

    def __init__(
        self,
        port: str,
        *,
        mode: Mode = "current",
        temperature_limits_c: tuple[float, float] = (20.0, 45.0),
        reply_timeout_s: float = 0.3,
        call_timeout_s: float = 2.0,
        label: str | None = None,
    ) -> None:
        self.port = port
        self.mode: Mode = mode
        self.restorations = 0
        self._label = label or port
        self._temperature_limits_c = temperature_limits_c
        self._reply_timeout_s = reply_timeout_s
        self._call_timeout_s = call_timeout_s
        self._connection: Connection | None = None
        self._serial_number: str | None = None
        self._limits: tuple[float, float] | None = None
        self._set_point: float | None = None
        self._reported = LensStatus(0)
        self._missing_at_first: LensStatus | None = None

    # -- life -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, learn what the driver is, and switch to the mode; the current is 0 afterwards.

        Raises
        ------
        DeviceError, DeviceTimeoutError
            No port, no driver on it, or the mode is not possible.
        """
        self._run(lambda connection: None)

    def close(self) -> None:
        """Close the port; the lens stays where it is. The next call connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- values -----------------------------------------------------------------------------------------------

    @property
    def current_ma(self) -> float:
        """Current in mA; in current mode confirmed to be the one that was set."""
        if self.mode == "current":
            return self._run(self._confirmed)
        return self._run(lambda connection: connection.identity.to_ma(connection.read_current()))

    @current_ma.setter
    def current_ma(self, value: float) -> None:
        self._set("current", value)

    @property
    def focal_power_dpt(self) -> float:
        """Focal power in dpt, confirmed to be the one that was set; in focal-power mode only."""
        self._require_mode("focal_power")
        return self._run(self._confirmed)

    @focal_power_dpt.setter
    def focal_power_dpt(self, value: float) -> None:
        self._set("focal_power", value)

    @property
    def temperature_c(self) -> float | None:
        """Temperature of the lens in degrees Celsius; None where it has no sensor."""
        return self._run(Connection.read_temperature_c)

    @property
    def status(self) -> LensStatus | None:
        """State of driver and lens; None where the firmware does not tell."""
        return self._run(Connection.read_status)

    @property
    def identity(self) -> Identity:
        """Firmware, serial number and currents, as the driver told them when it was connected."""
        return self._run(lambda connection: connection.identity)

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest set-point in the unit of the mode.

        In current mode the software limits that the driver holds, in focal-power mode what the lens can hold at every
        temperature within the limits.
        """
        return self._run(lambda connection: connection.limits)

    @property
    def unit(self) -> str:
        """Unit of the set-point, ``mA`` or ``dpt``."""
        return UNITS[self.mode]

    # -- calls ------------------------------------------------------------------------------------------------

    def _run(self, action: Callable[[Connection], T], *, restore: bool = True) -> T:
        """Carry out a call within its time; a line that is lost meanwhile is set up again once."""
        deadline_s = time.monotonic() + self._call_timeout_s
        tries = _TRIES
        while True:
            tries -= 1
            try:
                connection = self._connection or self._connect(deadline_s, restore)
                connection.deadline_s = deadline_s
                return action(connection)
            except RefusedError as error:
                raise DeviceError(str(error), self._label) from error
            except LinkLostError as error:
                self.close()
                if tries == 0 or time.monotonic() >= deadline_s:
                    kind = DeviceTimeoutError if isinstance(error, NoAnswerError) else DeviceError
                    raise kind(f"{error}{self._at_stake()}", self._label) from error

    def _at_stake(self) -> str:
        if self._set_point is None:
            return ""
        return (
            f". It may stand at 0 mA; {self._set_point:g} {self.unit} is set again when it answers. "
            "Check its cable and power"
        )

    def _connect(self, deadline_s: float, restore: bool) -> Connection:
        connection = Connection(
            self.port,
            self.mode,
            self._temperature_limits_c,
            self._reply_timeout_s,
            deadline_s,
            self._label,
        )
        try:
            now, before = connection.identity.serial_number, self._serial_number
            if before is not None and now != before:
                log.warning("%s: another lens answers: serial number %s, before %s", self._label, now, before)
            self._serial_number = now
            if self._missing_at_first is None and connection.first_status is not None:
                self._missing_at_first = connection.first_status & _PARTS
            self._limits = connection.limits
            if restore and self._set_point is not None:
                log.warning("%s: connected again; sets %g %s again", self._label, self._set_point, self.unit)
                self._restore(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    # -- set-point --------------------------------------------------------------------------------------------

    def _require_mode(self, mode: Mode) -> None:
        if mode != self.mode:
            raise DeviceError(
                f"is in {self.mode.replace('_', '-')} mode, where its set-point is in {self.unit}", self._label
            )

    def _set(self, mode: Mode, value: float) -> None:
        """Go to a set-point; one that is allowed but could not be reached is gone to when the lens answers again."""
        self._require_mode(mode)
        before = self._set_point
        if self._limits is not None:
            self._require_allowed(value, self._limits)
            self._set_point = value

        def move(connection: Connection) -> None:
            self._require_allowed(value, connection.limits)
            self._set_point = value
            self._apply(connection, value)

        try:
            # Straight to the new set-point, also on a new connection: the old one may be what keeps it from working.
            self._run(move, restore=False)
        except PropertyError:
            self._set_point = before
            raise

    def _require_allowed(self, value: float, limits: tuple[float, float]) -> None:
        low, high = limits
        if not (math.isfinite(value) and low - 1e-9 <= value <= high + 1e-9):
            raise PropertyError(
                f"cannot be set to {value:g} {self.unit}; the limits are {low:g} to {high:g} {self.unit}", self._label
            )

    def _apply(self, connection: Connection, value: float) -> None:
        """Send a set-point and read it back; a command that got lost is sent once more."""
        raw = held = connection.to_raw(value)
        for attempt in range(_TRIES):
            if attempt > 0 and not connection.is_in_mode():
                connection.enter_mode()
            connection.send_set_point(raw)
            held = connection.read_set_point()
            if abs(held - raw) <= protocol.READ_BACK_STEPS:
                self._watch_status(connection)
                return
        status = connection.read_status()
        raise DeviceError(
            f"was set to {value:g} {self.unit} but holds {connection.from_raw(held):g} {self.unit}; "
            f"its status: {'not told by this firmware' if status is None else status.words()}",
            self._label,
        )

    def _restore(self, connection: Connection) -> None:
        """Set the set-point again, if there is one."""
        self.restorations += 1
        if self._set_point is None:
            return
        try:
            self._require_allowed(self._set_point, connection.limits)
            self._apply(connection, self._set_point)
        except DeviceError as error:
            reason = str(error).removeprefix(f"{self._label}: ")
            raise DeviceError(f"its set-point could not be restored: {reason}", self._label) from error

    def _confirmed(self, connection: Connection) -> float:
        """Read the set-point from the driver; one that was lost (a power cut shows no other sign) is set again."""
        if not connection.is_in_mode():
            log.warning("%s: has left its mode, as after a power cut; mode and set-point are set again", self._label)
            connection.enter_mode()
            self._restore(connection)
        held, wanted = connection.read_set_point(), self._set_point
        if wanted is not None and abs(held - connection.to_raw(wanted)) > protocol.READ_BACK_STEPS:
            value = connection.from_raw(held)
            log.warning("%s: holds %g %s; sets %g again", self._label, value, self.unit, wanted)
            self._restore(connection)
            held = connection.read_set_point()
        self._watch_status(connection)
        return connection.from_raw(held)

    def _watch_status(self, connection: Connection) -> None:
        """Log what the status newly reports, and raise where the lens cannot be where it was sent."""
        status = connection.read_status()
        if status is None:
            return
        if self.mode == "current":
            status = status.without(_FOCAL_POWER_ONLY)
        new = status.without(self._reported)
        self._reported = status
        if new:
            log.warning("%s: its status reports: %s", self._label, new.words())
        if status.without(self._missing_at_first or 0) & _PARTS:
            raise DeviceError(
                f"its status reports: {status.words()}. Check the cable between the lens and its driver", self._label
            )
        if LensStatus.FOCAL_POWER_UNREACHABLE in status:
            raise DeviceError(
                f"cannot reach the focal power it was set to; its status: {status.words()}. "
                "Let it cool down, or choose a smaller focal power",
                self._label,
            )
