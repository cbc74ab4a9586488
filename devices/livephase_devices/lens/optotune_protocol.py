r"""Frames of the Optotune Lens Driver 4 and 4i: bytes to commands, bytes to values, no input or output.

A command is ASCII letters and big-endian integers, then a CRC-16/ARC with its low byte first. A reply echoes letters
of its command, then data, CRC and ``\r\n``. Data may contain the byte 0x0A, so a reply is known by its length, never by
its line end.

Sources: the vendor's manual of 2016 and protocol sheet. Where they disagree the constant says what was chosen and why.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag

BAUD = 115_200
START = b"Start"
READY = b"Ready\r\n"
"""The handshake has no CRC. It sets the current to 0."""

FULL_SCALE = 4095
"""Raw value of the maximum output current.

The vendor's sheet and two open drivers say 4095, the vendor's manual 4096. The two differ by 0.024 %, one step of
the output at most; with 4095 the greatest current that is asked for is never above the maximum.
"""
READ_BACK_STEPS = 1
"""Raw steps by which the driver's read-back may differ from what was sent before it counts as another value."""
FOCAL_POWER_PER_DPT = 200
TYPE_A_OFFSET_DPT = 5.0
"""Firmware of type ``A`` (asked for with ``H``) counts focal power from -5 dpt, every other from 0."""
TEMPERATURE_LSB_C = 0.0625
NO_SENSOR = 4095
"""Raw temperature of a lens without a sensor."""
TEMPERATURE_LIMIT_PER_C = 16
MODE_CURRENT = 1
MODE_FOCAL_POWER = 5
ERROR_CRC = 1
_REASONS = {
    ERROR_CRC: "command arrived damaged",
    2: "command not available",
    3: "command unknown",
    4: "command incompatible with the firmware",
}
_INT16 = (-32768, 32767)
_OLD_ERROR = b"N\r\n"
_ERROR_BYTES = 6  # E, code, CRC, \r\n
_TAIL = 4  # CRC, \r\n
SHORTEST_REPLY = len(_OLD_ERROR)


class GarbledReplyError(Exception):
    """What came is not the reply of the command: wrong letters, wrong CRC, cut off, or nothing at all."""


class RefusedError(Exception):
    """The driver answered with an error.

    Attributes
    ----------
    code : int or None
        1 CRC, 2 unavailable, 3 unknown, 4 incompatible; None from old firmware, which gives no reason.
    """

    def __init__(self, purpose: str, code: int | None) -> None:
        if code is None:
            reason = "no reason given, as by old firmware"
        else:
            reason = f"error {code}, {_REASONS.get(code, 'of unknown meaning')}"
        super().__init__(f"refuses to {purpose} ({reason})")
        self.code = code


class LensStatus(IntFlag):
    """State of driver and lens, as ``Sr`` reports it; 0 is well."""

    HARDWARE_MISSING = 1 << 0
    EEPROM_FAULTY = 1 << 1
    NO_TEMPERATURE_LIMITS = 1 << 2
    FOCAL_POWER_UNREACHABLE = 1 << 3
    FOCAL_POWER_INVERTED = 1 << 4
    TEMPERATURE_OUT_OF_SPECIFICATION = 1 << 5
    FOCAL_POWER_NOT_GUARANTEED = 1 << 6
    TEMPERATURE_OUTSIDE_LIMITS = 1 << 7

    def without(self, other: int) -> LensStatus:
        """Return the bits that are not in ``other``; ``&`` and ``~`` of an IntFlag lose bits that have no name."""
        return LensStatus(int(self) & ~int(other))

    def words(self) -> str:
        """Return the set bits in words, ``"ok"`` where there are none; a bit without a name is given by its number."""
        names = [flag.name.lower().replace("_", " ") for flag in LensStatus if flag in self and flag.name]
        named = sum(LensStatus)
        names += [f"bit {bit}" for bit in range(32) if int(self) >> bit & 1 and not named >> bit & 1]
        return ", ".join(names) or "ok"


@dataclass(frozen=True, slots=True)
class Query:
    """A command that is answered.

    Attributes
    ----------
    purpose : str
        What it asks for, for messages.
    payload : bytes
        Command without CRC.
    echo : bytes
        First bytes of its reply.
    data_bytes : int
        Length of the reply between echo and CRC.
    """

    purpose: str
    payload: bytes
    echo: bytes
    data_bytes: int

    @property
    def reply_bytes(self) -> int:
        """Length of the whole reply."""
        return len(self.echo) + self.data_bytes + _TAIL


READ_CURRENT = Query("read the current", b"Ar\0\0", b"A", 2)
READ_MAX_CURRENT = Query("read the maximum current", b"CrMA\0\0", b"CMA", 2)
READ_UPPER_LIMIT = Query("read the upper current limit", b"CrUA\0\0", b"CUA", 2)
READ_LOWER_LIMIT = Query("read the lower current limit", b"CrLA\0\0", b"CLA", 2)
CURRENT_MODE = Query("switch to current mode", b"MwDA", b"MDA", 0)
FOCAL_POWER_MODE = Query("switch to focal-power mode", b"MwCA", b"MCA", 5)
READ_FOCAL_POWER = Query("read the focal power", b"PrDA\0\0\0\0", b"PD", 2)
READ_MODE = Query("read the mode", b"MMA", b"MMA", 1)
READ_TEMPERATURE = Query("read the temperature", b"TCA", b"TCA", 2)
READ_TEMPERATURE_OLD = Query("read the temperature", b"TA", b"TA", 3)
"""Old firmware: one byte (a status or the channel, the sources differ; not used), then the temperature."""
READ_TYPE = Query("read the firmware type", b"H", b"H", 1)
READ_VERSION = Query("read the firmware version", b"V", b"V", 6)
READ_SERIAL = Query("read the serial number", b"X", b"X", 8)
READ_STATUS = Query("read the status", b"Sr", b"S", 4)


def set_temperature_limits(low_c: float, high_c: float) -> Query:
    """Return the command that sets the temperature range for focal-power mode; its reply has the range in dpt."""
    limits = [int16(round(value * TEMPERATURE_LIMIT_PER_C)) for value in (high_c, low_c)]
    return Query("set the temperature limits", b"PwTA" + b"".join(limits), b"PT", 5)


def set_current(raw: int) -> bytes:
    """Return the payload that sets the current; nothing is answered."""
    return b"Aw" + int16(raw)


def set_focal_power(raw: int) -> bytes:
    """Return the payload that sets the focal power; nothing is answered."""
    return b"PwDA" + int16(raw) + b"\0\0"


def int16(value: int) -> bytes:
    """Return a big-endian signed 16-bit integer.

    Raises
    ------
    ValueError
        It does not fit.
    """
    if not _INT16[0] <= value <= _INT16[1]:
        raise ValueError(f"{value} does not fit into 16 bits")
    return struct.pack(">h", value)


def from_int16(data: bytes) -> int:
    """Return the value of a big-endian signed 16-bit integer."""
    return int(struct.unpack(">h", data)[0])


def crc16(data: bytes) -> int:
    """Return the CRC-16/ARC: polynomial 0x8005 reflected, initial value 0, no final exclusive or."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def frame(payload: bytes) -> bytes:
    """Append the CRC to a payload, low byte first."""
    return payload + struct.pack("<H", crc16(payload))


def missing_bytes(query: Query, start: bytes) -> int:
    """Return how many more bytes belong to a reply that begins with ``start`` (``SHORTEST_REPLY`` bytes or more).

    Raises
    ------
    GarbledReplyError
        No reply of this command, and no error reply, begins so.
    """
    if start.startswith(_OLD_ERROR):
        return len(_OLD_ERROR) - len(start)
    if start.startswith(b"E"):
        return _ERROR_BYTES - len(start)
    head = query.echo[: len(start)]
    if not start.startswith(head):
        raise GarbledReplyError(f"got {shown(start)} where the reply begins with {shown(head)}")
    return query.reply_bytes - len(start)


def parse(query: Query, reply: bytes) -> bytes:
    """Return the data of a whole reply.

    Raises
    ------
    RefusedError
        It is an error reply.
    GarbledReplyError
        Length, echo, CRC or end are wrong.
    """
    if reply == _OLD_ERROR:
        raise RefusedError(query.purpose, None)
    is_error = reply.startswith(b"E")
    if len(reply) != (_ERROR_BYTES if is_error else query.reply_bytes):
        raise GarbledReplyError(f"got {len(reply)} bytes instead of {query.reply_bytes}: {shown(reply)}")
    if not reply.endswith(b"\r\n") or crc16(reply[:-2]) != 0:
        raise GarbledReplyError(f"the checksum or the end of the reply is wrong: {shown(reply)}")
    if is_error:
        raise RefusedError(query.purpose, reply[1])
    if not reply.startswith(query.echo):
        raise GarbledReplyError(f"got {shown(reply)} where the reply begins with {shown(query.echo)}")
    return reply[len(query.echo) : -_TAIL]


def find_reply(query: Query, stream: bytes) -> int | None:
    """Return where the first whole good reply of ``query`` ends in a stream that may hold anything else, or None."""
    start = stream.find(query.echo)
    while start >= 0:
        end = start + query.reply_bytes
        if end <= len(stream) and stream[end - 2 : end] == b"\r\n" and crc16(stream[start : end - 2]) == 0:
            return end
        start = stream.find(query.echo, start + 1)
    return None


def shown(data: bytes) -> str:
    """Return bytes for a message: hexadecimal, shortened."""
    return data[:24].hex(" ") + (" ..." if len(data) > 24 else "") if data else "nothing"
