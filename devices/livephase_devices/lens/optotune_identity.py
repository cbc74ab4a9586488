"""What an Optotune lens driver says it is, and what its raw numbers mean because of that."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from livephase_devices.lens import optotune_protocol as protocol
from livephase_devices.lens.optotune_protocol import RefusedError

if TYPE_CHECKING:
    from livephase_devices.lens.optotune_link import Link
    from livephase_devices.lens.optotune_protocol import Query


@dataclass(frozen=True, slots=True)
class Identity:
    """A lens driver.

    Attributes
    ----------
    firmware_type, firmware_version, serial_number : str or None
        None where the firmware does not tell.
    max_current_ma : float
        Maximum output current.
    current_limits_ma : tuple of float
        Lowest and highest current: the software limits stored in the driver, within the maximum current.
    """

    firmware_type: str | None
    firmware_version: str | None
    serial_number: str | None
    max_current_ma: float
    current_limits_ma: tuple[float, float]

    def to_ma(self, raw: int) -> float:
        """Return a raw current in mA."""
        return raw * self.max_current_ma / protocol.FULL_SCALE

    def from_ma(self, current_ma: float) -> int:
        """Return a current in mA as raw number, rounded to the nearest step."""
        return round(current_ma * protocol.FULL_SCALE / self.max_current_ma)

    def to_dpt(self, raw: int) -> float:
        """Return a raw focal power in dpt."""
        return raw / protocol.FOCAL_POWER_PER_DPT - self._offset_dpt

    def from_dpt(self, focal_power_dpt: float) -> int:
        """Return a focal power in dpt as raw number, rounded to the nearest step."""
        return round((focal_power_dpt + self._offset_dpt) * protocol.FOCAL_POWER_PER_DPT)

    @property
    def _offset_dpt(self) -> float:
        return protocol.TYPE_A_OFFSET_DPT if self.firmware_type == "A" else 0.0


def identify(link: Link, deadline_s: float) -> Identity:
    """Ask a driver what it is.

    Parameters
    ----------
    deadline_s : float
        ``time.monotonic`` at which to give up.

    Raises
    ------
    RefusedError, LinkLostError
        It does not answer a command that every firmware has.
    ValueError
        Its limits leave no range.
    """
    kind, version, serial = (
        ask_if_known(link, query, deadline_s)
        for query in (protocol.READ_TYPE, protocol.READ_VERSION, protocol.READ_SERIAL)
    )
    max_ma = protocol.from_int16(link.query(protocol.READ_MAX_CURRENT, deadline_s)) / 100.0
    low_raw = protocol.from_int16(link.query(protocol.READ_LOWER_LIMIT, deadline_s))
    high_raw = protocol.from_int16(link.query(protocol.READ_UPPER_LIMIT, deadline_s))
    low_ma, high_ma = (min(max(raw / protocol.FULL_SCALE, -1.0), 1.0) * max_ma for raw in (low_raw, high_raw))
    if not low_ma < high_ma:
        raise ValueError(
            f"reports current limits of {low_ma:g} to {high_ma:g} mA, which leave no range; "
            "set them with the vendor's program"
        )
    return Identity(
        firmware_type=None if kind is None else _text(kind),
        firmware_version=None if version is None else ".".join(map(str, struct.unpack(">BBHH", version))),
        serial_number=None if serial is None else _text(serial),
        max_current_ma=max_ma,
        current_limits_ma=(low_ma, high_ma),
    )


def ask_if_known(link: Link, query: Query, deadline_s: float) -> bytes | None:
    """Ask what old firmware may not know; None where the command is refused."""
    try:
        data = link.query(query, deadline_s)
    except RefusedError as error:
        if error.code == protocol.ERROR_CRC:
            raise
        return None
    link.note_known(query)
    return data


def _text(data: bytes) -> str:
    return data.decode("ascii", errors="replace").strip("\0 ")
