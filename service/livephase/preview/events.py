"""A bounded queue of events in which news of one thing replaces older news of the same thing."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Event:
    """One event, already encoded: what it is about, and the text that is sent."""

    subject: tuple[str, str]
    text: str

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Event:
        """Encode an event.

        Parameters
        ----------
        content : mapping
            JSON-able, with ``kind``; ``id`` where several things of that kind exist (runs).
        """
        text = json.dumps({"type": "event", "event": dict(content)}, separators=(",", ":"), allow_nan=False)
        return cls((str(content["kind"]), str(content.get("id", ""))), text)


class EventQueue:
    """First in, first out; never longer than `limit`.

    A full queue first gives up the oldest event about the same subject as the new one (progress of a run:
    the newer one says all), otherwise its oldest event.
    """

    def __init__(self, limit: int) -> None:
        self._events: deque[Event] = deque()
        self._limit = limit
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> None:
        """Append an event, giving up an older one if the queue is full."""
        if len(self._events) >= self._limit:
            self.dropped += 1
            same = next((old for old in self._events if old.subject == event.subject), self._events[0])
            self._events.remove(same)
        self._events.append(event)

    def get(self) -> Event | None:
        """Take the oldest event, None from an empty queue."""
        return self._events.popleft() if self._events else None
