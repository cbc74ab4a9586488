"""All checks in order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from livephase.clock import UtcAnchor
from livephase.config import ServerTable, ServiceConfig
from livephase.doctor.adapters import check_adapters, needed_by
from livephase.doctor.computer import check_clock, check_disk
from livephase.doctor.finding import Finding
from livephase.doctor.installation import check_installation
from livephase.doctor.microscope import check_microscope, check_models
from livephase.doctor.ports import check_ports
from livephase_devices.errors import LivephaseError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_SCALE = 4
"""Of the bundled models."""


def examine(path: Path | None, *, probe_ports: bool) -> Iterator[Finding]:
    """Look at everything; findings come as they are made.

    Parameters
    ----------
    path : Path or None
        A microscope's TOML; None looks at the computer and the installation only.
    probe_ports : bool
        Ask every serial port who is there; see ``doctor.ports``.
    """
    start = UtcAnchor.now()
    yield from check_installation()
    config: ServiceConfig | None = None
    if path is not None:
        try:
            config = ServiceConfig.load(path)
        except LivephaseError as error:
            yield Finding.wrong("configuration", str(error), "correct the file; README.md shows one")
        else:
            yield Finding.ok("configuration", f"{path} can be read; its cfg is {config.microscope.cfg}")
    yield from check_adapters(set() if config is None else needed_by(config.microscope.cfg))
    states: list[dict[str, Any]] = []
    if path is not None and config is not None:
        yield from check_microscope(path, config, states)
    yield from check_models(config)
    data = Path.cwd() / ServerTable().data if config is None else config.service.data
    yield from check_disk(data, states[0] if states else None, DEFAULT_SCALE)
    yield from check_ports(probe=probe_ports)
    yield from check_clock(start)
