"""An Optotune Lens Driver 4 without the line: bytes of commands in, bytes of replies out.

Written from the vendor's protocol sheet and independent of this package's own driver, whose CRC and encoding it does
not use: what both would get wrong in the same way would otherwise pass every test. Where the sheet is silent (what
an incomplete command does, which error belongs to what) it does one plausible thing; the driver must not rely on it.
"""

from __future__ import annotations

from typing import Final, Literal

Firmware = Literal["A", "F", "old"]
"""Type ``A`` counts focal power from -5 dpt, ``F`` stands for the types that do not, ``old`` for early firmware."""

_CRC_TABLE: Final[list[int]] = []
for _index in range(256):
    _entry = _index
    for _ in range(8):
        _entry = (_entry >> 1) ^ (0xA001 if _entry & 1 else 0)
    _CRC_TABLE.append(_entry)

_LENGTHS: Final[dict[bytes, tuple[int, ...]]] = {
    b"Aw": (4,),
    b"Ar": (4,),
    b"CrMA": (6,),
    b"CrUA": (6,),
    b"CrLA": (6,),
    b"CwMA": (6,),
    b"CwUA": (6,),
    b"CwLA": (6,),
    b"MwDA": (4,),
    b"MwCA": (4,),
    b"MMA": (3,),
    b"PwTA": (8,),
    b"PwDA": (8,),
    b"PrDA": (8,),
    b"TCA": (3,),
    b"TA": (2,),
    b"H": (1,),
    b"V": (1, 2),  # one open driver sends a zero after it
    b"X": (1,),
    b"Sr": (2,),
    b"IR": (10,),
}
"""Payload lengths of the commands."""
_NOT_IN_OLD = (b"MMA", b"MwCA", b"PwTA", b"PwDA", b"PrDA", b"TCA", b"H", b"Sr", b"IR")
_START = b"Start"
_CRC, _UNAVAILABLE, _UNKNOWN = 1, 2, 3
_SPECIFIED_C = (-20.0, 65.0)
_REFERENCE_SPAN_C = 15.0


class SimulatedDriver:
    """State and firmware of one driver with a lens.

    Attributes
    ----------
    temperature_c : float or None
        Of the lens; None is a lens without a sensor.
    current_raw, focal_power_raw : int
        What is set.
    attached : bool
        Whether the lens is plugged into the driver.
    mode : int
        1 current, 5 focal power.
    unreachable : bool
        The lens cannot reach its focal power; also set by a focal power outside the range.
    eeprom_writes : int
        Commands so far that wear the EEPROM.
    received : list of bytes
        Payloads of the commands carried out, newest last, 1000 at most.
    """

    def __init__(self, firmware: Firmware = "A", serial: bytes = b"ABAB0042", max_current_x100: int = 29284) -> None:
        self.firmware: Firmware = firmware
        self.temperature_c: float | None = 26.0
        self.attached = True
        self.eeprom_writes = 0
        self.received: list[bytes] = []
        self._serial = serial
        self._max_current_x100 = max_current_x100
        self._limits_raw = [-4095, 4095]
        self._buffer = b""
        self.power_cycle()

    def power_cycle(self) -> None:
        """Lose everything that is not in the EEPROM."""
        self.mode = 1
        self.current_raw = 0
        self.focal_power_raw = 0
        self.unreachable = False
        self._temperature_limits: tuple[int, int] | None = None
        self._buffer = b""

    # -- line -------------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> list[bytes]:
        """Take bytes from the line; return the whole commands among them: ``Start``, or a payload without CRC.

        ``b"!1"`` and ``b"!3"`` stand for a damaged and an unknown command.
        """
        self._buffer += data
        commands: list[bytes] = []
        while self._buffer:
            command, used = self._first_command()
            if not used:
                break
            self._buffer = self._buffer[used:]
            commands.append(command)
        return commands

    def idle(self) -> list[bytes]:
        """Give up an incomplete command, because nothing has come for a while."""
        if not self._buffer:
            return []
        self._buffer = b""
        return [b"!1"]

    def _first_command(self) -> tuple[bytes, int]:
        """Return the first command in the buffer and its length; (b"", 0) while it is incomplete."""
        if self._buffer.startswith(_START):
            return _START, len(_START)
        for letters, lengths in _LENGTHS.items():
            if not self._buffer.startswith(letters):
                continue
            for length in lengths:
                if len(self._buffer) >= length + 2 and crc(self._buffer[: length + 2]) == 0:
                    return self._buffer[:length], length + 2
            complete = len(self._buffer) >= max(lengths) + 2
            return (b"!1", len(self._buffer)) if complete else (b"", 0)
        if any(known.startswith(self._buffer) for known in (_START, *_LENGTHS)):
            return b"", 0
        return b"!3", len(self._buffer)

    def error(self, code: int) -> bytes:
        """Return an error reply as this firmware sends it."""
        return b"N\r\n" if self.firmware == "old" else sealed(b"E" + bytes([code]))

    # -- commands ---------------------------------------------------------------------------------------------

    def execute(self, command: bytes) -> bytes:
        """Carry out a command from ``take``; return its reply, b"" where there is none."""
        if command == _START:
            self.current_raw = 0
            return b"Ready\r\n"
        if command.startswith(b"!"):
            return self.error(int(command[1:]))
        letters = next(known for known in _LENGTHS if command.startswith(known))
        if (letters in _NOT_IN_OLD) if self.firmware == "old" else (letters == b"TA"):
            return self.error(_UNKNOWN)
        self.received = [*self.received[-999:], command]
        number = int.from_bytes(command[len(letters) : len(letters) + 2], "big", signed=True)
        if letters in (b"Aw", b"PwDA"):
            return self._set_point(letters, number)
        if letters.startswith(b"C"):
            return self._calibration(letters, number)
        return sealed(self._answer(letters, command))

    def _set_point(self, letters: bytes, number: int) -> bytes:
        if self.mode != (1 if letters == b"Aw" else 5):
            return self.error(_UNAVAILABLE)
        if letters == b"Aw":
            self.current_raw = min(max(number, self._limits_raw[0]), self._limits_raw[1])
            return b""
        low, high = self._focal_power_range()
        self.focal_power_raw = number
        self.unreachable = not low <= number <= high
        return b""

    def _calibration(self, letters: bytes, number: int) -> bytes:
        which = letters[2:3]
        if letters[1:2] == b"w":
            self.eeprom_writes += 1
            if which == b"M":
                self._max_current_x100 = number
            else:
                self._limits_raw["LU".index(which.decode())] = number
        value = self._max_current_x100 if which == b"M" else self._limits_raw["LU".index(which.decode())]
        return sealed(b"C" + which + b"A" + _int16(value))

    def _answer(self, letters: bytes, command: bytes) -> bytes:
        old = self.firmware == "old"
        match letters:
            case b"Ar":
                return b"A" + _int16(self.current_raw if self.mode == 1 else self.focal_power_raw)
            case b"MwDA":
                self.mode = 1
                return b"MDA"
            case b"MwCA":
                ready = self._temperature_limits is not None
                self.mode = 5 if ready else self.mode
                return b"MCA" + (b"\x00" if ready else b"\x04") + self._range()
            case b"MMA":
                return b"MMA" + bytes([self.mode])
            case b"PwTA":
                high, low = (int.from_bytes(command[at : at + 2], "big", signed=True) for at in (4, 6))
                self._temperature_limits = (low, high)
                return b"PT\x00" + self._range()
            case b"PrDA":
                return b"PD" + _int16(self.focal_power_raw)
            case b"TCA":
                return b"TCA" + self._temperature()
            case b"TA":
                return b"TA\x00" + self._temperature()
            case b"H":
                return b"H" + self.firmware.encode()
            case b"V":
                return b"V" + (b"\x01\x06\x00\x0c\x00\x03" if old else b"\x01\x08\x01\x2c\x00\x07")
            case b"X":
                return b"X" + self._serial
            case b"IR":
                return b"IR" + b"SIMULATE"
            case _:
                return b"S" + self.status().to_bytes(4, "big")

    # -- values -----------------------------------------------------------------------------------------------

    def status(self) -> int:
        """Return the status bits."""
        bits = 0 if self.attached else 0x02
        measured = self.temperature_c if self.attached else None
        if self._temperature_limits is None:
            bits |= 0x04
        if self.mode == 5 and self.unreachable:
            bits |= 0x08
        if measured is not None and not _SPECIFIED_C[0] <= measured <= _SPECIFIED_C[1]:
            bits |= 0x20
        if measured is not None and self._temperature_limits is not None:
            low, high = self._temperature_limits
            if not low <= measured * 16 <= high:
                bits |= 0x80 | (0x40 if self.mode == 5 else 0)
        return bits

    def _temperature(self) -> bytes:
        measured = self.temperature_c if self.attached else None
        return _int16(4095 if measured is None else round(measured / 0.0625))

    def _focal_power_range(self) -> tuple[int, int]:
        """Raw range; it only has to shrink when the temperature limits widen, it is no model of a lens."""
        low, high = self._temperature_limits or (0, 0)
        lost_dpt = 0.02 * max(0.0, (high - low) / 16 - _REFERENCE_SPAN_C)
        offset_dpt = 5.0 if self.firmware == "A" else 0.0
        return round((-1.5 + lost_dpt + offset_dpt) * 200), round((3.5 - lost_dpt + offset_dpt) * 200)

    def _range(self) -> bytes:
        low, high = self._focal_power_range()
        return _int16(high) + _int16(low)


def crc(data: bytes) -> int:
    """Return the CRC-16/ARC by table."""
    value = 0
    for byte in data:
        value = (value >> 8) ^ _CRC_TABLE[(value ^ byte) & 0xFF]
    return value


def sealed(payload: bytes) -> bytes:
    """Return a reply with its CRC, low byte first, and its end."""
    return payload + crc(payload).to_bytes(2, "little") + b"\r\n"


def _int16(value: int) -> bytes:
    return value.to_bytes(2, "big", signed=True)
