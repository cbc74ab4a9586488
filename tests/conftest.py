"""Fixtures of all tests."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAK_DEADLINE_S = 20.0


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves threads or processes behind which it has started."""
    threads = set(threading.enumerate())
    processes = _children()
    yield
    end = time.monotonic() + LEAK_DEADLINE_S
    while True:
        left = [thread.name for thread in set(threading.enumerate()) - threads if thread.is_alive()]
        left += [f"process {process}" for process in sorted(_children() - processes)]
        if not left:
            return
        assert time.monotonic() < end, f"left behind: {', '.join(left)}"
        time.sleep(0.02)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}
