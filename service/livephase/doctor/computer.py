"""Checks the data folder (room and speed) and the computer's clock."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import livephase
from livephase.clock import UtcAnchor, iso_utc
from livephase.doctor.finding import Finding
from livephase.storage.layout import estimated_bytes
from livephase.storage.spec import RunSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_FREE_BYTES: Final = 5_000_000_000
LEAST_BYTES_PER_S: Final = 20e6
"""A phase image of 2588 x 1960 pixels is 20 MB before compression; below this a second is not enough for one."""
WRITTEN_BYTES: Final = 64 << 20
_CHUNK: Final = 4 << 20
_JUMP_S: Final = 0.1
"""NTP turns the clock by 0.5 ms in a second at most; more than this while the doctor looks is a jump."""


def check_disk(data: Path, state: dict[str, Any] | None, scale: int) -> Iterator[Finding]:
    """Look at the room and the speed of the folder of the runs; a file is written there and removed.

    Parameters
    ----------
    data : Path
        Folder of the runs; where it does not exist yet, the folder that it will be made in is looked at.
    state : dict or None
        State of the microscope, where it is known.
    scale : int
        HR pixels per LR pixel along one axis.
    """
    folder = data.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    where = str(data) if folder == data.absolute() else f"{data} (not made yet, in {folder})"
    text = f"{where}: {free / 1e9:.1f} GB free"
    if state is not None and state["sensor_shape"] is not None:
        needed = estimated_bytes(_one_time_point(state, scale))
        text += f", room for {free // needed} time points of {needed / 1e6:.1f} MB"
    if free < LEAST_FREE_BYTES:
        yield Finding.wrong("disk", text, "free some space, or choose another folder: data = in the table [service]")
    else:
        yield Finding.ok("disk", text)
    if free < 2 * WRITTEN_BYTES:
        return
    try:
        bytes_per_s = _write_speed(folder)
    except OSError as error:
        yield Finding.wrong(
            "disk",
            f"{folder} cannot be written ({error.strerror})",
            "choose another folder: data = in the table [service], or --data",
        )
        return
    speed = f"{folder} takes {bytes_per_s / 1e6:.0f} MB/s, each write safe on disk"
    if bytes_per_s < LEAST_BYTES_PER_S:
        yield Finding.wrong("disk", speed, "a run would fall behind: use a disk of this computer instead of a share")
    else:
        yield Finding.ok("disk", speed)


def check_clock(start: UtcAnchor) -> Iterator[Finding]:
    """Look whether the clock can be right, and whether it has jumped since ``start``."""
    now_ns = time.time_ns()
    jump_s = start.jump_s(now_ns, time.monotonic_ns())
    # The package was written before it is used; a computer whose battery is empty starts in the past.
    installed_ns = Path(livephase.__file__).stat().st_mtime_ns
    text = f"{iso_utc(now_ns)}, time zone {time.strftime('%Z %z')}"
    if now_ns < installed_ns:
        text = f"the clock says {text}, which is before livephase was installed"
        yield Finding.wrong("clock", text, "set the clock; time stamps of runs come from it")
    elif abs(jump_s) > _JUMP_S:
        yield Finding.wrong(
            "clock",
            f"the clock jumped by {jump_s:.2f} s while this was looked at ({text})",
            "let one program set the clock (NTP), and wait until it has; time stamps of runs are read from it once",
        )
    else:
        yield Finding.ok("clock", text)


def _one_time_point(state: dict[str, Any], scale: int) -> RunSpec:
    return RunSpec(
        run_id="doctor",
        name="doctor",
        frames=1,
        interval_s=0.0,
        lr_shape=tuple(state["sensor_shape"]),
        dtype="uint8" if state["bit_depth"] <= 8 else "uint16",
        scale=scale,
        lr_pixel_um=state["lr_pixel_um"],
        defocus_um=0.0,
    )


def _write_speed(folder: Path) -> float:
    """Write a file as a run does, every chunk synchronised; return bytes per s."""
    probe = folder / f".livephase-doctor-{os.getpid()}"
    chunk = os.urandom(_CHUNK)  # what compresses would flatter a disk that compresses
    try:
        with probe.open("xb", buffering=0) as file:
            begin_s = time.perf_counter()
            for _ in range(WRITTEN_BYTES // _CHUNK):
                file.write(chunk)
                os.fsync(file.fileno())
            return WRITTEN_BYTES / (time.perf_counter() - begin_s)
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
