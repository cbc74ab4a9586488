"""One viewer of the stream: credits, what it looks at, what it was sent and what it missed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from livephase.preview.events import Event, EventQueue
from livephase.preview.render import region_of
from livephase.preview.wire import encode, header_of

if TYPE_CHECKING:
    from livephase.preview.hub import PreviewHub, Slot
    from livephase.preview.render import View

CREDITS = 2
EVENTS_KEPT = 64
# A page that heard nothing for longer than twice this knows that the connection is gone.
HEARTBEAT_S = 5.0
_HEARTBEAT = Event.of({"kind": "heartbeat"}).text


class Viewer:
    """The hub's side of one viewer; lives on the event loop.

    At most `CREDITS` frames are on their way to a viewer. A credit is taken first and the newest frame
    after it, so that what a slow viewer gets is late by its own delay only, and nothing piles up.
    """

    def __init__(self, hub: PreviewHub) -> None:
        self._hub = hub
        self._wake = asyncio.Event()
        self._events = EventQueue(EVENTS_KEPT)
        self._view: View | None = None
        self._view_is_new = False
        self._last_index: int | None = None
        # sequence number and time of the frames on their way, oldest first
        self._unacknowledged: deque[tuple[int, float]] = deque()
        self.sent = 0
        self.dropped = 0

    @property
    def in_flight(self) -> int:
        """Frames sent and not yet acknowledged."""
        return len(self._unacknowledged)

    @property
    def events_dropped(self) -> int:
        """Events that this viewer did not get because it was busy."""
        return self._events.dropped

    def look_at(self, view: View) -> None:
        """Show this from now on; the newest frame is sent again, even if it was sent before."""
        if self._view is None or view.kind != self._view.kind:
            self._last_index = None
        self._view = view
        self._view_is_new = True
        self._wake.set()

    def acknowledge(self, sequence: int) -> None:
        """Give back the credits of that frame and of those sent before it; unknown numbers are ignored."""
        if all(sent != sequence for sent, _ in self._unacknowledged):
            return
        while self._unacknowledged.popleft()[0] != sequence:
            pass
        self._wake.set()

    def waiting_s(self) -> float:
        """Return for how long the oldest frame on its way has not been acknowledged, 0 without one."""
        return time.monotonic() - self._unacknowledged[0][1] if self._unacknowledged else 0.0

    def notify(self, event: Event | None = None) -> None:
        """Queue an event, or just say that there is a new frame; called by the hub on the event loop."""
        if event is not None:
            self._events.put(event)
        self._wake.set()

    async def next_message(self) -> str | bytes:
        """Wait for what this viewer is to be sent next: the text of an event, or a frame as bytes."""
        while True:
            self._wake.clear()
            event = self._events.get()
            if event is not None:
                return event.text
            frame = await self._next_frame()
            if frame is not None:
                return frame
            try:
                await asyncio.wait_for(self._wake.wait(), HEARTBEAT_S)
            except TimeoutError:
                return _HEARTBEAT

    async def _next_frame(self) -> bytes | None:
        view = self._view
        if view is None or self.in_flight >= CREDITS:
            return None
        slot = self._hub.newest(view.kind)
        if slot is None or (slot.index == self._last_index and not self._view_is_new):
            return None
        self._unacknowledged.append((slot.frame.sequence, time.monotonic()))
        if self._last_index is not None:
            self.dropped += max(0, slot.index - self._last_index - 1)
        self._last_index = slot.index
        self._view_is_new = False
        return await self._encode(slot, view)

    async def _encode(self, slot: Slot, view: View) -> bytes:
        height, width = slot.image.shape
        region = region_of(view, width, height)
        pixels = await self._hub.pixels(slot, region)
        age_ms = (time.monotonic_ns() - slot.frame.time_monotonic_ns) / 1e6
        header = header_of(slot.frame, slot.kind, region, age_ms=age_ms, dropped=self.dropped)
        self.sent += 1
        return encode(header, pixels)
