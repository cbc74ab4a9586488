"""The hub between threads and the event loop: newest wins, nothing piles up, nothing is encoded twice."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import livephase.preview.viewer as viewer_module
from livephase.preview import PreviewFrame, PreviewHub, TooManyViewersError, View, Viewer, wire
from livephase.preview.events import Event, EventQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

DEADLINE_S = 20.0
WHOLE = View("phase", 0, 0, 64, 48, 64, 48)


def frame(sequence: int, *, phase: bool = True, raw: bool = True, time_monotonic_ns: int | None = None) -> PreviewFrame:
    return PreviewFrame(
        sequence=sequence,
        phase_rad=np.full((48, 64), sequence, np.float32) if phase else None,
        raw=np.full((12, 16), sequence % 256, np.uint8) if raw else None,
        bit_depth=8,
        hr_pixel_um=0.65,
        time_utc_ns=1_780_000_000_000_000_000,
        time_monotonic_ns=time.monotonic_ns() if time_monotonic_ns is None else time_monotonic_ns,
        defocus_um=6.0,
        source="live",
    )


def run(scenario: Callable[[PreviewHub], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        hub = PreviewHub()
        hub.attach()
        try:
            await asyncio.wait_for(scenario(hub), DEADLINE_S)
        finally:
            hub.close()

    asyncio.run(main())


async def next_frame(viewer: Viewer) -> dict[str, Any]:
    while True:
        message = await viewer.next_message()
        if isinstance(message, bytes):
            header, pixels = wire.decode(message)
            assert pixels[0, 0] == header["seq"]
            return header


async def nothing_to_send(viewer: Viewer) -> bool:
    """Whether the viewer neither sends nor takes a credit after everything that is ready has run."""
    before = viewer.in_flight
    task = asyncio.create_task(viewer.next_message())
    for _ in range(10):
        await asyncio.sleep(0)
    idle = not task.done() and viewer.in_flight == before
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return idle


def test_frames_of_another_thread_arrive_and_the_newest_wins() -> None:
    async def scenario(hub: PreviewHub) -> None:
        viewer = hub.subscribe()
        viewer.look_at(WHOLE)

        def publish() -> None:
            for sequence in range(1, 101):
                hub.publish(frame(sequence))

        thread = threading.Thread(target=publish)
        thread.start()
        while (header := await next_frame(viewer))["seq"] < 100:
            viewer.acknowledge(header["seq"])
        thread.join()
        assert viewer.sent + header["dropped"] <= 100
        assert hub.counts().frames_published == 100
        # the viewer may have begun at a later frame than the first; from there on all are accounted for
        assert viewer.dropped == header["dropped"]

    run(scenario)


def test_what_was_not_sent_is_counted() -> None:
    async def scenario(hub: PreviewHub) -> None:
        viewer = hub.subscribe()
        viewer.look_at(WHOLE)
        hub.publish(frame(1))
        assert (await next_frame(viewer))["seq"] == 1
        for sequence in range(2, 8):
            hub.publish(frame(sequence))
        header = await next_frame(viewer)
        assert (header["seq"], header["dropped"]) == (7, 5)
        counts = hub.counts()
        assert (counts.frames_published, counts.frames_sent, counts.frames_dropped) == (7, 2, 5)
        hub.unsubscribe(viewer)
        assert hub.counts().frames_dropped == 5
        assert hub.counts().viewers == 0

    run(scenario)


def test_two_frames_are_under_way_at_most_and_a_credit_brings_the_newest() -> None:
    async def scenario(hub: PreviewHub) -> None:
        viewer = hub.subscribe()
        viewer.look_at(WHOLE)
        for sequence in (1, 2):
            hub.publish(frame(sequence))
            assert (await next_frame(viewer))["seq"] == sequence
        for sequence in range(3, 9):
            hub.publish(frame(sequence))
        assert viewer.in_flight == 2
        assert await nothing_to_send(viewer)
        viewer.acknowledge(99)
        assert await nothing_to_send(viewer)
        viewer.acknowledge(1)
        assert (await next_frame(viewer))["seq"] == 8
        assert viewer.in_flight == 2
        viewer.acknowledge(8)
        assert viewer.in_flight == 0

    run(scenario)


def test_a_new_view_sends_the_same_frame_again_and_an_old_one_does_not() -> None:
    async def scenario(hub: PreviewHub) -> None:
        hub.publish(frame(5))
        viewer = hub.subscribe()
        viewer.look_at(WHOLE)
        assert (await next_frame(viewer))["seq"] == 5
        viewer.acknowledge(5)
        assert await nothing_to_send(viewer)
        viewer.look_at(View("phase", 10, 10, 8, 8, 64, 64))
        header = await next_frame(viewer)
        assert (header["seq"], header["x"], header["width"], header["dropped"]) == (5, 10, 8, 0)
        viewer.acknowledge(5)
        viewer.look_at(View("raw", 0, 0, 16, 12, 64, 64))
        header = await next_frame(viewer)
        assert (header["kind"], header["width"], header["pixel_um"]) == ("raw", 16, 2.6)

    run(scenario)


def test_without_phase_the_raw_image_goes_on() -> None:
    async def scenario(hub: PreviewHub) -> None:
        hub.publish(frame(1))
        hub.publish(frame(2, phase=False))
        viewer = hub.subscribe()
        viewer.look_at(WHOLE)
        assert (await next_frame(viewer))["seq"] == 1
        viewer.look_at(View("raw", 0, 0, 16, 12, 16, 12))
        assert (await next_frame(viewer))["seq"] == 2
        latest = hub.latest("phase")
        assert latest is not None
        assert latest.sequence == 1

    run(scenario)


def test_an_exposure_that_comes_late_does_not_replace_a_later_one() -> None:
    async def scenario(hub: PreviewHub) -> None:
        now = time.monotonic_ns()
        hub.publish(frame(1, time_monotonic_ns=now))
        hub.publish(frame(2, time_monotonic_ns=now - 1_000_000))
        viewer = hub.subscribe()
        viewer.look_at(WHOLE)
        assert (await next_frame(viewer))["seq"] == 1
        assert await nothing_to_send(viewer)

    run(scenario)


def test_the_age_is_that_of_the_exposure_whatever_the_wall_clock_says() -> None:
    async def scenario(hub: PreviewHub) -> None:
        hub.publish(frame(1, time_monotonic_ns=time.monotonic_ns() - 5_000_000_000))
        viewer = hub.subscribe()
        viewer.look_at(WHOLE)
        assert 5000 <= (await next_frame(viewer))["age_ms"] < 5000 + 1000 * DEADLINE_S

    run(scenario)


def test_equal_views_are_encoded_once_and_others_are_not_mixed_up() -> None:
    async def scenario(hub: PreviewHub) -> None:
        viewers = [hub.subscribe() for _ in range(5)]
        for viewer in viewers:
            viewer.look_at(WHOLE)
        viewers[-1].look_at(View("phase", 0, 0, 32, 48, 64, 48))
        for sequence in (1, 2, 3):
            hub.publish(frame(sequence))
            headers = await asyncio.gather(*(next_frame(viewer) for viewer in viewers))
            assert [header["width"] for header in headers] == [64, 64, 64, 64, 32]
            for viewer in viewers:
                viewer.acknowledge(sequence)
        assert hub.counts().frames_encoded == 3 * 2
        assert hub.counts().frames_sent == 3 * 5

    run(scenario)


def test_a_viewer_that_leaves_does_not_take_the_encoding_with_it() -> None:
    async def scenario(hub: PreviewHub) -> None:
        hub.publish(frame(1))
        one, other = hub.subscribe(), hub.subscribe()
        one.look_at(WHOLE)
        other.look_at(WHOLE)
        first = asyncio.create_task(one.next_message())
        second = asyncio.create_task(next_frame(other))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second)["seq"] == 1
        assert hub.counts().frames_encoded == 1

    run(scenario)


def test_events_reach_every_viewer_in_order_before_frames() -> None:
    async def scenario(hub: PreviewHub) -> None:
        viewers = [hub.subscribe(), hub.subscribe()]
        viewers[0].look_at(WHOLE)
        hub.publish(frame(1))
        thread = threading.Thread(
            target=lambda: [hub.publish_event({"kind": "live", "running": flag}) for flag in (True, False)]
        )
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        for viewer in viewers:
            texts = [await viewer.next_message() for _ in range(2)]
            assert [json.loads(text) for text in texts] == [
                {"type": "event", "event": {"kind": "live", "running": flag}} for flag in (True, False)
            ]
        assert (await next_frame(viewers[0]))["seq"] == 1

    run(scenario)


def test_a_viewer_that_hears_nothing_gets_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_module, "HEARTBEAT_S", 0.01)

    async def scenario(hub: PreviewHub) -> None:
        viewer = hub.subscribe()
        assert json.loads(await viewer.next_message())["event"] == {"kind": "heartbeat"}

    run(scenario)


def test_a_full_event_queue_gives_up_old_progress_before_anything_else() -> None:
    queue = EventQueue(limit=4)
    queue.put(Event.of({"kind": "run", "id": "a", "state": "completed"}))
    queue.put(Event.of({"kind": "fault", "message": "lens"}))
    for time_point in range(50):
        queue.put(Event.of({"kind": "run", "id": "b", "time_point": time_point}))
    kept = []
    while (event := queue.get()) is not None:
        kept.append(json.loads(event.text)["event"])
    assert [(event["kind"], event.get("id"), event.get("time_point")) for event in kept] == [
        ("run", "a", None), ("fault", None, None), ("run", "b", 48), ("run", "b", 49),
    ]  # fmt: skip
    assert queue.dropped == 48


def test_a_full_event_queue_of_other_subjects_gives_up_the_oldest() -> None:
    queue = EventQueue(limit=2)
    for kind in ("a", "b", "c"):
        queue.put(Event.of({"kind": kind}))
    assert [queue.get(), queue.get()] == [Event.of({"kind": "b"}), Event.of({"kind": "c"})]


def test_viewers_are_limited() -> None:
    async def scenario(_: PreviewHub) -> None:
        hub = PreviewHub(max_viewers=2)
        first, _second = hub.subscribe(), hub.subscribe()
        with pytest.raises(TooManyViewersError, match="2 viewers are watching"):
            hub.subscribe()
        hub.unsubscribe(first)
        hub.subscribe()
        hub.close()

    run(scenario)


def test_publishing_before_and_after_the_event_loop_does_no_harm() -> None:
    hub = PreviewHub()
    hub.publish(frame(1))
    hub.publish_event({"kind": "fault", "message": "before anybody watched"})

    async def watch() -> None:
        viewer = hub.subscribe()
        viewer.look_at(WHOLE)
        hub.attach()
        await asyncio.sleep(0)
        assert "before anybody watched" in str(await viewer.next_message())
        assert (await next_frame(viewer))["seq"] == 1

    asyncio.run(watch())
    hub.publish(frame(2))
    hub.publish_event({"kind": "live", "running": False})
    hub.close()
    hub.publish(frame(3))
    assert hub.counts().frames_published == 3


def test_an_event_that_is_no_json_is_refused_where_it_is_published() -> None:
    hub = PreviewHub()
    with pytest.raises(ValueError, match="JSON compliant"):
        hub.publish_event({"kind": "run", "remaining_s": float("nan")})
    hub.close()
