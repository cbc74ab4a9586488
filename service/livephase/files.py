"""Renames that Windows refuses now and then."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

RENAME_PATIENCE_S: Final = 5.0
"""How long a rename is retried: on Windows it fails while a reader or a virus scanner has the target open."""


def replace(source: Path, target: Path) -> None:
    """``os.replace`` that waits while Windows refuses because the target is open elsewhere."""
    deadline_s = time.monotonic() + RENAME_PATIENCE_S
    pause_s = 0.001
    while True:
        try:
            os.replace(source, target)
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > deadline_s:
                raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)
        else:
            return
