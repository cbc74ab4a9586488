"""The only crossing between threads and the event loop: newest frame and events, from any thread to viewers.

::

    acquisition thread ── publish(frame) ──► newest slot per kind ─┐ call_soon_threadsafe, at most
    any thread ────────── publish_event() ─► bounded queue ────────┤ one wake-up under way
                                                                   ▼
    event loop                                   Viewer 1 … n: credits, own event queue
                                                                   │ encode once per equal region
    encoder thread ◄───────────────────────────────────────────────┘

Publishing never blocks and never fails for a viewer's sake: a frame that nobody could take in time is
replaced by the next one.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from livephase.preview.events import Event, EventQueue
from livephase.preview.render import render
from livephase.preview.viewer import Viewer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from livephase.preview.frame import Kind, PreviewFrame
    from livephase.preview.render import Region

MAX_VIEWERS = 32
_EVENTS_PENDING = 256
# Encodings kept per frame. Viewers of the same place share one; more than eight different places at once
# only cost time, not memory without bound.
_ENCODINGS_KEPT = 8


class TooManyViewersError(Exception):
    """The hub serves as many viewers as it may."""


@dataclass(slots=True, eq=False)
class Slot:
    """The newest image of one kind, its number among those of its kind, and what was encoded of it."""

    frame: PreviewFrame
    kind: Kind
    image: NDArray[np.float32 | np.uint8 | np.uint16]
    index: int
    encodings: OrderedDict[Region, asyncio.Future[bytes]] = field(default_factory=lambda: OrderedDict())


@dataclass(frozen=True, slots=True)
class HubCounts:
    """What the hub did since it was made; `viewers` is the present number."""

    frames_published: int
    frames_sent: int
    frames_dropped: int
    frames_encoded: int
    events_published: int
    events_dropped: int
    viewers: int


class PreviewHub:
    """Hands the newest frame and the events of any thread to viewers on one event loop.

    Parameters
    ----------
    max_viewers : int
        How many viewers may watch at once.
    """

    def __init__(self, max_viewers: int = MAX_VIEWERS) -> None:
        self._lock = threading.Lock()
        self._slots: dict[Kind, Slot] = {}
        self._pending = EventQueue(_EVENTS_PENDING)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake_under_way = False
        self._viewers: list[Viewer] = []
        self._max_viewers = max_viewers
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preview-encoder")
        self._frames_published = 0
        self._events_published = 0
        self._frames_encoded = 0
        self._past_sent = 0
        self._past_dropped = 0
        self._past_events_dropped = 0

    # ------------------------------------------------------------------ any thread

    def publish(self, frame: PreviewFrame) -> None:
        """Make a frame the newest one, unless a later exposure is shown already. From any thread.

        Its arrays must not change any more.
        """
        kinds: tuple[Kind, ...] = ("phase", "raw")
        with self._lock:
            self._frames_published += 1
            for kind in kinds:
                image = frame.image(kind)
                before = self._slots.get(kind)
                # a single frame waits for its phase beside live mode, and may come after a newer frame
                overtaken = before is not None and frame.time_monotonic_ns < before.frame.time_monotonic_ns
                if image is not None and not overtaken:
                    self._slots[kind] = Slot(frame, kind, image, before.index + 1 if before else 1)
            self._wake()

    def publish_event(self, event: Mapping[str, Any]) -> None:
        """Tell every viewer. From any thread.

        Parameters
        ----------
        event : mapping
            JSON-able, with a ``kind``, and an ``id`` where several things of that kind exist.
        """
        encoded = Event.of(event)
        with self._lock:
            self._events_published += 1
            self._pending.put(encoded)
            self._wake()

    def newest(self, kind: Kind) -> Slot | None:
        """Return the newest image of that kind, None before the first. From any thread."""
        with self._lock:
            return self._slots.get(kind)

    def latest(self, kind: Kind) -> PreviewFrame | None:
        """Return the newest frame that has an image of that kind, None before the first. From any thread."""
        slot = self.newest(kind)
        return slot.frame if slot else None

    def counts(self) -> HubCounts:
        """Return what was published, sent and dropped so far. From any thread."""
        viewers = tuple(self._viewers)
        with self._lock:
            return HubCounts(
                frames_published=self._frames_published,
                frames_sent=self._past_sent + sum(viewer.sent for viewer in viewers),
                frames_dropped=self._past_dropped + sum(viewer.dropped for viewer in viewers),
                frames_encoded=self._frames_encoded,
                events_published=self._events_published,
                events_dropped=self._pending.dropped
                + self._past_events_dropped
                + sum(viewer.events_dropped for viewer in viewers),
                viewers=len(viewers),
            )

    def _wake(self) -> None:
        # called with the lock held; one wake-up under way serves all that is published meanwhile
        if self._loop is None or self._wake_under_way:
            return
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop has ended: nobody watches any more
            self._loop = None
        else:
            self._wake_under_way = True

    # ------------------------------------------------------------------ the event loop

    def attach(self) -> None:
        """Deliver on the running event loop from now on."""
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._wake_under_way = False
            if len(self._pending):
                self._wake()

    def close(self) -> None:
        """End the encoder's thread; publishing goes on without effect."""
        with self._lock:
            self._loop = None
        self._encoder.shutdown(wait=True, cancel_futures=True)

    def subscribe(self) -> Viewer:
        """Add a viewer.

        Raises
        ------
        TooManyViewersError
            As many viewers as allowed are watching.
        """
        if len(self._viewers) >= self._max_viewers:
            raise TooManyViewersError(f"{self._max_viewers} viewers are watching, which is the limit")
        viewer = Viewer(self)
        self._viewers.append(viewer)
        return viewer

    def unsubscribe(self, viewer: Viewer) -> None:
        """Remove a viewer; its counts stay in the totals."""
        self._viewers.remove(viewer)
        self._past_sent += viewer.sent
        self._past_dropped += viewer.dropped
        self._past_events_dropped += viewer.events_dropped

    async def pixels(self, slot: Slot, region: Region) -> bytes:
        """Return the float16 bytes of a region, encoded once for all viewers that look at it."""
        encoding = slot.encodings.get(region)
        if encoding is None:
            loop = asyncio.get_running_loop()
            encoding = loop.run_in_executor(self._encoder, _encode, slot.image, region)
            self._frames_encoded += 1
            while len(slot.encodings) >= _ENCODINGS_KEPT:
                slot.encodings.popitem(last=False)
            slot.encodings[region] = encoding
        # shielded: a viewer that leaves must not cancel what the others wait for
        return await asyncio.shield(encoding)

    def _deliver(self) -> None:
        with self._lock:
            self._wake_under_way = False
            events: list[Event] = []
            while (event := self._pending.get()) is not None:
                events.append(event)
        for viewer in self._viewers:
            for event in events:
                viewer.notify(event)
            viewer.notify()


def _encode(image: NDArray[np.float32 | np.uint8 | np.uint16], region: Region) -> bytes:
    return render(image, region).tobytes()
