"""Unloads what is still loaded when the process ends: a core that dies with devices loaded aborts it."""

from __future__ import annotations

import atexit
import weakref
from contextlib import suppress
from typing import Protocol

from livephase_devices.errors import LivephaseError
from livephase_devices.session import loaded_sessions


class Closable(Protocol):
    """A microscope."""

    def close(self) -> None:
        """Unload its devices."""
        ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_at_end(microscope: Closable) -> None:
    """Close a microscope when the process ends, unless it is forgotten before; may be called twice."""
    _open.add(microscope)
    # The exit function registered last runs first: before UniMMCore's own, which would unload the Python devices
    # under a running exposure.
    atexit.unregister(_close_all)
    atexit.register(_close_all)


def forget(microscope: Closable) -> None:
    """Let a microscope be that was closed."""
    _open.discard(microscope)


def _close_all() -> None:
    for microscope in list(_open):
        with suppress(LivephaseError):
            microscope.close()
    for session in list(loaded_sessions):  # one of its devices hangs; the process must end all the same
        session.abandon()
