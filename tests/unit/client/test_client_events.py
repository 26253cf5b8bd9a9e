"""Server-sent events: built from lines, and continued after a broken stream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from freshdb import Client, Forbidden, ServiceUnreachable
from freshdb.events import EventReader
from tests.unit.client.scripted import Reply, Script, methods, problem

FIRST = 'id: 1-0\nevent: lease.acquired\ndata: {"lease": "a"}\n\n'
SECOND = ': still here\n\nid: 2-0\nevent: lease.released\ndata: {"lease":\ndata: "a"}\n\n'
HALF = "id: 3-0\nevent: lost\ndata: {"


def _stream(text: str) -> Reply:
    return Reply(200, text, content_type="text/event-stream")


def test_events_are_built_from_lines(client: Client, script: Script) -> None:
    script.play(_stream(FIRST + SECOND + HALF))
    events = list(client.events(follow=False, since="0"))
    assert [(event.id, event.kind, event.data) for event in events] == [
        ("1-0", "lease.acquired", {"lease": "a"}),
        ("2-0", "lease.released", {"lease": "a"}),
    ]
    assert methods(script.asked) == ["GET /v1/events?follow=false&since=0"]


def test_broken_stream_continues_after_last_event(client: Client, script: Script) -> None:
    script.play(
        _stream(FIRST + HALF), problem(503, "backend_unavailable"), Reply(hang_up=True), _stream(SECOND)
    )
    following = client.events()
    assert [next(following).id, next(following).id] == ["1-0", "2-0"]
    following.close()
    assert (
        methods(script.asked) == ["GET /v1/events?follow=true"] + ["GET /v1/events?follow=true&since=1-0"] * 3
    )


def test_stream_that_cannot_be_opened_raises_after_retry_seconds(script: Script) -> None:
    script.play(Reply(hang_up=True))
    with Client(script.url, retry_seconds=0.3) as client, pytest.raises(ServiceUnreachable, match="events"):
        next(client.events())


def test_refused_stream_raises_at_once(client: Client, script: Script) -> None:
    script.play(problem(403, "forbidden"))
    with pytest.raises(Forbidden):
        next(client.events())


def test_pauses_before_reopening_a_stream_double_up_to_five_seconds(client: Client) -> None:
    reader = EventReader(None, replace(client.policy, jitter=lambda: 0.0))
    assert [reader.pause_seconds() for _ in range(7)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    reader.feed(": alive")
    assert reader.pause_seconds() == pytest.approx(0.2)


def test_event_without_json_is_ignored(client: Client) -> None:
    reader = EventReader(None, client.policy)
    lines = ["id: 1", "data: not json", "", "data: [1]", ""]
    assert [event.data for event in map(reader.feed, lines) if event] == [{"data": [1]}]
