"""Waits for the next frame of a sequence with a limit, without giving an exposure up half-way."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from livephase_devices.frame import CameraFrame
    from livephase_devices.owner_thread import Job, OwnerThread

_POLL_S = 0.001


class Fetcher:
    """Fetches frames for one consumer at a time.

    An exposure that outlasts the consumer's patience goes on, and the next call waits for the same one: no frame is
    lost because somebody asked with a short limit.

    Parameters
    ----------
    fetch : Callable
        Runs on the owner thread; gives ``(frame or None, whether the sequence has ended)``.
    device : str
        Label of the camera.
    """

    def __init__(self, fetch: Callable[[], tuple[CameraFrame | None, bool]], device: str) -> None:
        self._fetch = fetch
        self._device = device
        self._lock = threading.Lock()
        self._pending: Job[tuple[CameraFrame | None, bool]] | None = None

    def next_frame(self, thread: OwnerThread, timeout_s: float) -> CameraFrame | None:
        """Return the next frame; None when none came within ``timeout_s`` or the sequence has ended.

        Raises
        ------
        DeviceError
            What ``fetch`` raised, or a ``DeviceTimeoutError`` when a device hangs.
        """
        give_up_s = time.monotonic() + timeout_s
        with self._lock:
            while True:
                job = self._pending or thread.submit(self._device, "fetch a frame", self._fetch)
                self._pending = job
                try:
                    finished = thread.wait(job, max(0.0, give_up_s - time.monotonic()))
                finally:
                    if job.done:
                        self._pending = None
                if not finished:
                    return None
                frame, ended = job.outcome()
                left_s = give_up_s - time.monotonic()
                if frame is not None or ended or left_s <= 0:
                    return frame
                time.sleep(min(_POLL_S, left_s))

    def forget(self) -> None:
        """Give up an exposure that nobody waits for; called when a sequence starts."""
        self._pending = None
