"""The light that reaches the simulated camera, recomputed only when the specimen or the optics changed.

A full field takes seconds. While only time goes by, the field that is there is shown and the next one is computed in
the background, so live view keeps the camera's rate; the frame says which specimen time it shows. After a change of
the lens or the optics the exposure waits for its own field: a frame never shows another defocus than the lens had.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from livephase_devices.optics import bin_pixels, intensity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase_devices.optics import OpticalSetup
    from livephase_devices.twin.specimen import Specimen

_LEAST_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class FieldKey:
    """What a field depends on.

    Attributes
    ----------
    time_s : float
        Specimen time.
    epoch : int
        Counts the times at which somebody set the specimen time: a field of another epoch is no older or newer one.
    defocus_um : float
        True defocus.
    setup : OpticalSetup
        Optics.
    kappa_per_rad : float
        Coupling of amplitude to phase.
    """

    time_s: float
    epoch: int
    defocus_um: float
    setup: OpticalSetup
    kappa_per_rad: float

    def differs_only_in_time(self, other: FieldKey) -> bool:
        """Return whether the two are the same view of one running specimen."""
        return replace(self, time_s=other.time_s) == other


@dataclass(frozen=True, slots=True)
class Field:
    """Relative intensity (Y, X) float32 on the camera's grid, 1 for an empty field, and what it shows."""

    key: FieldKey
    light: NDArray[np.float32]
    asked_s: float
    took_s: float


class FieldSource:
    """Computes and keeps the latest field; used by one camera, closed with it.

    Parameters
    ----------
    specimen : Specimen
        Gives the true phase.
    """

    def __init__(self, specimen: Specimen) -> None:
        self._specimen = specimen
        self._render_lock = threading.Lock()
        self._rendered: tuple[int, float, float, NDArray[np.float32]] | None = None
        self._changed = threading.Condition()
        self._current: Field | None = None
        self._wanted: FieldKey | None = None
        self._error: BaseException | None = None
        self._at_work = False
        self._closed = False
        self._warm_up: threading.Thread | None = None
        self._worker = threading.Thread(target=self._work, name="twin field", daemon=True)
        self._worker.start()

    def get(self, key: FieldKey) -> Field:
        """Return the field to expose now: that of ``key``, or a slightly older one of the same view."""
        with self._changed:
            if self._error is not None:
                raise self._error
            field = self._current
            if field is not None and field.key == key:
                return field
            if field is not None and field.key.differs_only_in_time(key):
                # While the worker is at it, a newer field cannot be had sooner. When it rests and the field is old,
                # nobody has looked for a while, and this exposure shall not show the past.
                if self._at_work or time.monotonic() - field.asked_s < _patience_s(field):
                    self._wanted = key
                    self._changed.notify_all()
                    return field
        field = self._compute(self._with_recent_time(key))
        with self._changed:
            self._current, self._wanted = field, None
        return field

    def warm_up(self, key: FieldKey) -> None:
        """Render the phase of ``key`` in the background, so that the first exposure waits less."""
        self._warm_up = threading.Thread(target=self._phase, args=(key,), name="twin warm-up", daemon=True)
        self._warm_up.start()

    def close(self) -> None:
        """End the background thread; waits for a computation that is going on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join()
        if self._warm_up is not None:
            self._warm_up.join()

    def _with_recent_time(self, key: FieldKey) -> FieldKey:
        """Reuse a phase that was rendered a moment ago: after a move of the lens only the optics is computed."""
        current, rendered = self._current, self._rendered
        if current is None or rendered is None or rendered[0] != key.epoch:
            return key
        _, time_s, rendered_s, _ = rendered
        return replace(key, time_s=time_s) if time.monotonic() - rendered_s < _patience_s(current) else key

    def _phase(self, key: FieldKey) -> NDArray[np.float32]:
        with self._render_lock:
            if self._rendered is None or self._rendered[:2] != (key.epoch, key.time_s):
                asked_s = time.monotonic()
                self._rendered = key.epoch, key.time_s, asked_s, self._specimen.phase_rad(key.time_s)
            return self._rendered[3]

    def _compute(self, key: FieldKey) -> Field:
        asked_s = time.monotonic()
        phase_rad = self._phase(key)
        image = intensity(phase_rad, key.setup, key.defocus_um, key.kappa_per_rad)
        light = np.asarray(bin_pixels(image, key.setup.binning), np.float32)
        return Field(key, light, asked_s, time.monotonic() - asked_s)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._wanted is not None)
                if self._closed or self._wanted is None:
                    return
                key, self._wanted = self._wanted, None
                self._at_work = True
            try:
                field = self._compute(key)
            except Exception as error:  # noqa: BLE001 - raised by the next exposure, which has somebody to tell
                with self._changed:
                    self._error = error
                return
            with self._changed:
                if self._current is not None and self._current.key.differs_only_in_time(key):
                    self._current = field
                # Half of the time at most: the simulation shares the machine with the program that it feeds.
                self._changed.wait_for(lambda: self._closed, timeout=field.took_s)
                self._at_work = False


def _patience_s(field: Field) -> float:
    """How old the shown field may be when the worker is idle: computing and resting makes twice its time."""
    return max(_LEAST_PATIENCE_S, 3 * field.took_s)
