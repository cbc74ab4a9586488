"""Lists the serial ports, and on request asks each whether an Optotune lens driver answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from livephase.doctor.finding import Finding
from livephase.doctor.process import ChildDiedError, results

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECK: Final = "ports"
READY: Final = "Ready\r\n"
_SILENCE_S: Final = 20.0
"""Opening a port of a Bluetooth device that is away takes long on Windows."""


def check_ports(*, probe: bool) -> Iterator[Finding]:
    """List the ports; with ``probe`` send ``Start`` to each, which sets the current of an Optotune lens to 0."""
    ports: list[dict[str, Any]] = []
    try:
        for result in results("ports", "probe" if probe else "list", silence_s=_SILENCE_S):
            if "ports" not in result:
                yield _answered(result)
                continue
            ports = result["ports"]
            listed = ", ".join(f"{one['port']} ({one['text']})" for one in ports)
            yield Finding.note(CHECK, f"serial ports: {listed or 'none'}")
    except ChildDiedError as error:
        yield Finding.wrong(
            CHECK,
            f"{error.begun or 'listing the serial ports'}: {error.how}",
            "unplug what is at that port, or end the program that uses it, and try again",
        )
    if ports and not probe:
        yield Finding.note(
            CHECK,
            "no port was asked who answers",
            "--probe-ports sends 'Start' to every port: an Optotune driver then sets its current to 0, other devices"
            " get the five bytes too",
        )


def _answered(result: dict[str, Any]) -> Finding:
    port, error = result["port"], result.get("error")
    if error is not None:
        advice = "end the program that uses it"
        if sys.platform.startswith("linux"):
            advice += ", or let your user use serial ports: sudo usermod -aG dialout $USER, then log in again"
        return Finding.note(CHECK, f"{port} cannot be opened: {error}", advice)
    if result["answer"] == READY:
        return Finding.ok(CHECK, f"{port}: an Optotune lens driver answers; its current is 0 now")
    said = f"it says {result['answer']!r}" if result["answer"] else "it says nothing"
    return Finding.note(CHECK, f"{port}: no Optotune lens driver ({said})")
