"""The protocol of the lens driver, byte for byte: this package's encoder and the simulated driver, each on its own.

The commands are those of the vendor's sheet and manual. Of replies they print the payload; the bytes here carry the
CRC that ``opto``, an independent public driver, computes for it.
"""

from __future__ import annotations

import pytest
from opto import Opto

from livephase_devices.lens import optotune_protocol as protocol
from livephase_devices.lens import optotune_simulated_driver as simulated
from livephase_devices.lens.optotune_protocol import GarbledReplyError, LensStatus, Query, RefusedError
from livephase_devices.lens.optotune_simulated_driver import SimulatedDriver

COMMANDS: dict[str, tuple[bytes, str]] = {
    "set the current to 1402 steps": (protocol.set_current(1402), "41 77 05 7A 26 95"),
    "read the current": (protocol.READ_CURRENT.payload, "41 72 00 00 B4 27"),
    "read the maximum current": (protocol.READ_MAX_CURRENT.payload, "43 72 4D 41 00 00 71 80"),
    "read the upper limit": (protocol.READ_UPPER_LIMIT.payload, "43 72 55 41 00 00 77 20"),
    "read the lower limit": (protocol.READ_LOWER_LIMIT.payload, "43 72 4C 41 00 00 70 7C"),
    "current mode": (protocol.CURRENT_MODE.payload, "4D 77 44 41 54 46"),
    "focal-power mode": (protocol.FOCAL_POWER_MODE.payload, "4D 77 43 41 56 76"),
    "temperature limits 20-35 C": (
        protocol.set_temperature_limits(20.0, 35.0).payload,
        "50 77 54 41 02 30 01 40 32 37",
    ),
    "set 5 dpt on type A": (protocol.set_focal_power(2000), "50 77 44 41 07 D0 00 00 31 FD"),
    "read the focal power": (protocol.READ_FOCAL_POWER.payload, "50 72 44 41 00 00 00 00 64 70"),
    "read the mode": (protocol.READ_MODE.payload, "4D 4D 41 65 77"),
    "read the temperature": (protocol.READ_TEMPERATURE.payload, "54 43 41 B0 D0"),
    "type": (protocol.READ_TYPE.payload, "48 00 36"),
    "version": (protocol.READ_VERSION.payload, "56 80 3E"),
    "serial number": (protocol.READ_SERIAL.payload, "58 01 FA"),
    "status": (protocol.READ_STATUS.payload, "53 72 BC D5"),
    "old temperature": (protocol.READ_TEMPERATURE_OLD.payload, "54 41 FE F0"),
}
REPLIES: list[tuple[Query, str, bytes]] = [
    (protocol.READ_CURRENT, "41 05 7A D2 A7 0D 0A", b"\x05\x7a"),
    (protocol.READ_CURRENT, "41 0D 0A D4 83 0D 0A", b"\r\n"),  # a line end inside
    (protocol.READ_MAX_CURRENT, "43 4D 41 72 64 27 FC 0D 0A", b"\x72\x64"),
    (protocol.READ_UPPER_LIMIT, "43 55 41 0F FF 41 A7 0D 0A", b"\x0f\xff"),
    (protocol.READ_LOWER_LIMIT, "43 4C 41 F0 01 86 8B 0D 0A", b"\xf0\x01"),
    (protocol.CURRENT_MODE, "4D 44 41 63 27 0D 0A", b""),
    (protocol.FOCAL_POWER_MODE, "4D 43 41 00 06 A4 02 BC F9 C6 0D 0A", b"\x00\x06\xa4\x02\xbc"),
    (protocol.set_temperature_limits(20, 35), "50 54 00 06 A4 02 BC 1C 6B 0D 0A", b"\x00\x06\xa4\x02\xbc"),
    (protocol.READ_FOCAL_POWER, "50 44 07 D0 52 B9 0D 0A", b"\x07\xd0"),
    (protocol.READ_MODE, "4D 4D 41 01 76 EB 0D 0A", b"\x01"),
    (protocol.READ_MODE, "4D 4D 41 05 77 28 0D 0A", b"\x05"),
    (protocol.READ_TEMPERATURE, "54 43 41 01 A0 75 B4 0D 0A", b"\x01\xa0"),
    (protocol.READ_TEMPERATURE, "54 43 41 0F FF 31 EC 0D 0A", b"\x0f\xff"),
    (protocol.READ_TEMPERATURE_OLD, "54 41 00 01 A0 24 18 0D 0A", b"\x00\x01\xa0"),
    (protocol.READ_TYPE, "48 41 F6 30 0D 0A", b"A"),
    (protocol.READ_VERSION, "56 01 08 01 2C 00 07 57 E2 0D 0A", b"\x01\x08\x01\x2c\x00\x07"),
    (protocol.READ_SERIAL, "58 41 42 41 42 30 30 34 32 D3 3F 0D 0A", b"ABAB0042"),
    (protocol.READ_STATUS, "53 00 00 00 04 85 CF 0D 0A", b"\x00\x00\x00\x04"),
]
ERRORS = {1: "45 01 F3 50 0D 0A", 2: "45 02 B3 51 0D 0A", 3: "45 03 72 91 0D 0A", 4: "45 04 33 53 0D 0A"}


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def answers(driver: SimulatedDriver, text: str) -> str:
    """Return what the simulated driver answers to these bytes."""
    replies = b"".join(driver.execute(command) for command in driver.take(raw(text)))
    return replies.hex(" ").upper()


@pytest.mark.parametrize("crc", [protocol.crc16, simulated.crc])
def test_the_crc_is_crc_16_arc(crc: object) -> None:
    assert callable(crc)
    assert crc(b"123456789") == 0xBB3D  # the check value in catalogues of CRCs
    assert crc(b"Start") == 0xA5EA  # from the tests of another public driver
    assert crc(b"\x00A") == 0x30C0
    assert crc(b"") == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_commands(name: str) -> None:
    payload, expected = COMMANDS[name]
    assert protocol.frame(payload) == raw(expected)
    assert protocol.crc16(raw(expected)) == 0


def test_the_handshake_has_no_crc() -> None:
    assert protocol.START == raw("53 74 61 72 74")
    assert protocol.READY == raw("52 65 61 64 79 0D 0A")


@pytest.mark.parametrize(("query", "text", "data"), REPLIES)
def test_replies(query: Query, text: str, data: bytes) -> None:
    reply = raw(text)
    assert Opto().calc_crc(reply[:-4]) == reply[-4:-2]
    assert len(reply) == query.reply_bytes
    assert protocol.parse(query, reply) == data
    for length in range(protocol.SHORTEST_REPLY, len(reply) + 1):
        assert protocol.missing_bytes(query, reply[:length]) == len(reply) - length


@pytest.mark.parametrize(("query", "text", "data"), REPLIES)
def test_no_spoilt_reply_is_accepted(query: Query, text: str, data: bytes) -> None:
    reply = raw(text)
    spoilt = [reply[:length] for length in range(len(reply))] + [reply + b"\n", b"\0" + reply, b""]
    # every single flipped bit
    spoilt += [
        bytes(b ^ (1 << bit if i == at else 0) for i, b in enumerate(reply))
        for at in range(len(reply))
        for bit in range(8)
    ]
    spoilt += [raw(other) for asked, other, _ in REPLIES if asked.echo != query.echo]
    for wrong in spoilt:
        with pytest.raises(GarbledReplyError):
            protocol.parse(query, wrong)
    assert protocol.find_reply(query, b"\xff" + reply[:-1] + reply + b"\0") == 2 * len(reply)
    assert protocol.find_reply(query, reply[:-1]) is None


@pytest.mark.parametrize("code", ERRORS)
def test_error_replies(code: int) -> None:
    with pytest.raises(RefusedError, match=f"refuses to read the status .error {code}, command") as caught:
        protocol.parse(protocol.READ_STATUS, raw(ERRORS[code]))
    assert caught.value.code == code
    damaged = raw(ERRORS[code][:-5] + "0D 0B")
    with pytest.raises(GarbledReplyError):
        protocol.parse(protocol.READ_STATUS, damaged)
    assert protocol.missing_bytes(protocol.READ_STATUS, damaged[:3]) == 3


def test_the_error_of_old_firmware() -> None:
    with pytest.raises(RefusedError, match="no reason given") as caught:
        protocol.parse(protocol.READ_TEMPERATURE, b"N\r\n")
    assert caught.value.code is None
    assert protocol.missing_bytes(protocol.READ_TEMPERATURE, b"N\r\n") == 0


def test_status_in_words() -> None:
    assert LensStatus(0).words() == "ok"
    assert LensStatus(0xA0).words() == "temperature out of specification, temperature outside limits"
    assert LensStatus(0x0000_0901).words() == "hardware missing, bit 8, bit 11"
    assert LensStatus(0x0100_0901).without(LensStatus.HARDWARE_MISSING | 0x800).words() == "bit 8, bit 24"


# -- the simulated driver, from literal bytes only ------------------------------------------------------------


def test_simulated_handshake_sets_the_current_to_0() -> None:
    driver = SimulatedDriver()
    driver.current_raw = 1402
    assert answers(driver, "53 74 61 72 74") == "52 65 61 64 79 0D 0A"
    assert answers(driver, "41 72 00 00 B4 27") == "41 00 00 50 14 0D 0A"


def test_simulated_current() -> None:
    driver = SimulatedDriver()
    assert answers(driver, "41 77 05 7A 26 95") == ""
    assert answers(driver, "41 72 00 00 B4 27") == "41 05 7A D2 A7 0D 0A"
    assert answers(driver, "43 72 4D 41 00 00 71 80") == "43 4D 41 72 64 27 FC 0D 0A"
    assert answers(driver, "43 72 55 41 00 00 77 20") == "43 55 41 0F FF 41 A7 0D 0A"
    assert answers(driver, "43 72 4C 41 00 00 70 7C") == "43 4C 41 F0 01 86 8B 0D 0A"
    assert answers(driver, "4D 77 44 41 54 46") == "4D 44 41 63 27 0D 0A"
    assert answers(driver, "4D 4D 41 65 77") == "4D 4D 41 01 76 EB 0D 0A"


def test_simulated_focal_power() -> None:
    driver = SimulatedDriver()
    assert answers(driver, "4D 77 43 41 56 76").startswith("4D 43 41 04")  # refused: no temperature limits yet
    assert answers(driver, "4D 4D 41 65 77") == "4D 4D 41 01 76 EB 0D 0A"
    assert answers(driver, "50 77 54 41 02 30 01 40 32 37") == "50 54 00 06 A4 02 BC 1C 6B 0D 0A"
    assert answers(driver, "4D 77 43 41 56 76") == "4D 43 41 00 06 A4 02 BC F9 C6 0D 0A"
    assert answers(driver, "4D 4D 41 65 77") == "4D 4D 41 05 77 28 0D 0A"
    assert answers(driver, "50 77 44 41 07 D0 00 00 31 FD") == ""
    assert answers(driver, "50 72 44 41 00 00 00 00 64 70") == "50 44 07 D0 52 B9 0D 0A"
    assert answers(driver, "53 72 BC D5") == "53 00 00 00 08 85 CA 0D 0A"  # 5 dpt are out of its reach


def test_simulated_identity_temperature_and_status() -> None:
    driver = SimulatedDriver()
    assert answers(driver, "48 00 36") == "48 41 F6 30 0D 0A"
    assert answers(driver, "56 80 3E") == "56 01 08 01 2C 00 07 57 E2 0D 0A"
    assert answers(driver, "56 00 3F A0") == "56 01 08 01 2C 00 07 57 E2 0D 0A"  # as another public driver asks
    assert answers(driver, "58 01 FA") == "58 41 42 41 42 30 30 34 32 D3 3F 0D 0A"
    assert answers(driver, "54 43 41 B0 D0") == "54 43 41 01 A0 75 B4 0D 0A"
    driver.temperature_c = None
    assert answers(driver, "54 43 41 B0 D0") == "54 43 41 0F FF 31 EC 0D 0A"
    assert answers(driver, "53 72 BC D5") == "53 00 00 00 04 85 CF 0D 0A"


def test_simulated_errors() -> None:
    driver = SimulatedDriver()
    assert answers(driver, "53 72 BC D6") == ERRORS[1]
    assert answers(driver, "51 51 51") == ERRORS[3]
    assert answers(driver, "50 77 44 41 07 D0 00 00 31 FD") == ERRORS[2]  # in current mode
    old = SimulatedDriver("old")
    assert answers(old, "53 72 BC D6") == "4E 0D 0A"
    assert answers(old, "54 43 41 B0 D0") == "4E 0D 0A"
    assert answers(old, "54 41 FE F0") == "54 41 00 01 A0 24 18 0D 0A"


def test_simulated_framing() -> None:
    driver = SimulatedDriver()
    assert answers(driver, "41 72") == ""
    assert answers(driver, "00 00 B4 27 48 00 36 54") == "41 00 00 50 14 0D 0A 48 41 F6 30 0D 0A"
    assert answers(driver, "43 41 B0 D0") == "54 43 41 01 A0 75 B4 0D 0A"
    assert answers(driver, "41 72 00") == ""
    assert b"".join(driver.execute(command) for command in driver.idle()) == raw(ERRORS[1])
    assert answers(driver, "48 00 36") == "48 41 F6 30 0D 0A"
    assert driver.eeprom_writes == 0
    assert answers(driver, "43 77 55 41 07 D0 B8 8C") == "43 55 41 07 D0 07 BB 0D 0A"
    assert driver.eeprom_writes == 1
