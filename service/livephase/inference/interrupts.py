"""Hold Ctrl-C back where it must not strike: while a lock is held, between a flag and its message."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def interrupts_held() -> Generator[None]:
    """Let the main thread finish a short piece of work; a Ctrl-C that came meanwhile is raised after it.

    Python raises ``KeyboardInterrupt`` in the main thread after almost any call, also inside ``Condition.__enter__``
    once the lock is taken: nobody gives such a lock back, and the next thread that wants it waits for ever. Other
    threads are never interrupted, and a process that ignores Ctrl-C needs nothing.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    held: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[0])
