"""The model that is in use: an inference client that can be exchanged for one of another model between two frames.

::

    switch ─▶ worker of the new model starts ─ ready ─▶ permit ─▶ frames go to it ─▶ the old one finishes its own, ends
                        └────────────── not ready, not permitted ──────────────▶ it ends, nothing has changed

Frames are computed by the old worker until the new one has loaded its model, so live mode has no gap and a model that
cannot be loaded costs nothing.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from livephase.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from livephase.frames import PhaseResult
    from livephase.inference.client import InferenceClient
    from livephase.inference.status import InferenceStatus
    from livephase.phase.modelfile import ModelCard

START_S: Final = 180.0
"""Longest wait for the worker of a new model."""
DRAIN_S: Final = 60.0
"""Longest wait for the frames that the old worker still has; the supervisor kills a stuck one by then."""
_POLL_S: Final = 0.02


class ActiveInference:
    """Computes phases with the model in use; an ``acquisition.ports.PhaseEngine``, from any thread.

    Parameters
    ----------
    make : callable
        Makes a client for a model file; ModelError where that is impossible.
    model_path : Path
        The first model.
    """

    def __init__(self, make: Callable[[Path], InferenceClient], model_path: Path) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._switching = threading.Lock()
        self._path = model_path
        self._client = make(model_path)
        self._coming: InferenceClient | None = None
        self._closed = False
        self._earlier_restarts = 0

    @property
    def card(self) -> ModelCard:
        """Card of the model in use."""
        return self._client.card

    def start(self) -> None:
        """Start the first worker and return at once."""
        self._client.start()

    def close(self) -> None:
        """End the worker, and the one that is being started; frames that are not done fail. May be called twice."""
        with self._lock:
            self._closed = True
            clients = [self._client, self._coming]
        for client in clients:
            if client is not None:
                client.close()

    def submit(
        self, pixels: NDArray[np.uint8] | NDArray[np.uint16], defocus_um: float, *, bit_depth: int
    ) -> Future[PhaseResult]:
        """Ask for the phase of a frame; see ``InferenceClient.submit``."""
        with self._lock:  # the old worker must not get a frame after it was counted out
            return self._client.submit(pixels, defocus_um, bit_depth=bit_depth)

    def status(self) -> InferenceStatus:
        """Describe the present state; restarts are those of all workers so far."""
        with self._lock:
            status = self._client.status()
            return replace(status, restarts=status.restarts + self._earlier_restarts)

    def remake(self) -> None:
        """Replace the worker by one that is made anew, at once; frames that it has fail. For the start of a service."""
        with self._lock:
            old, self._client = self._client, self._make(self._path)
            self._client.start()
        old.close()

    def renew(self, permit: Callable[[], AbstractContextManager[None]]) -> None:
        """Go over to a worker of the same model that is made anew, as ``switch`` does; its settings are other ones."""
        self._change(self._path, permit, always=True)

    def switch(self, model_path: Path, permit: Callable[[], AbstractContextManager[None]]) -> None:
        """Go over to another model; returns when new frames go to it and the old worker has ended.

        Parameters
        ----------
        model_path : Path
            The model file. Nothing happens if its model is the one in use.
        permit : callable
            Its context is entered for the moment of the change; it may refuse by raising.

        Raises
        ------
        ModelError
            The file is not a usable model.
        InferenceError
            Its worker did not start; the old model stays in use.
        ConflictError
            Another change is going on, or the service is stopping.
        """
        self._change(model_path, permit, always=False)

    def _change(self, model_path: Path, permit: Callable[[], AbstractContextManager[None]], *, always: bool) -> None:
        if not self._switching.acquire(blocking=False):
            raise ConflictError("another change of the model is going on; wait for its end")
        try:
            new = self._make(model_path)
            if not always and new.card.sha256 == self._client.card.sha256:
                new.close()
                return
            self._begin(new)
            try:
                new.wait_ready(START_S)
                with permit():
                    old = self._exchange(new)
                    self._path = model_path
            except BaseException:
                new.close()
                raise
            finally:
                self._coming = None
            _finish(old)
        finally:
            self._switching.release()

    def _begin(self, new: InferenceClient) -> None:
        with self._lock:
            self._refuse_when_closed()
            self._coming = new
            new.start()

    def _exchange(self, new: InferenceClient) -> InferenceClient:
        with self._lock:
            self._refuse_when_closed()
            old, self._client = self._client, new
            self._earlier_restarts += old.status().restarts
            return old

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise ConflictError("the model cannot be changed: the service is stopping")


def _finish(old: InferenceClient) -> None:
    """Let a client answer the frames that it has, then end its worker."""
    end_s = time.monotonic() + DRAIN_S
    while time.monotonic() < end_s:
        status = old.status()
        if status.pending == 0 or status.state == "stopped":
            break
        time.sleep(_POLL_S)
    old.close()
