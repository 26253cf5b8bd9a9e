"""The number of acquires in progress is limited, so that they do not delay other requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from starlette.types import Message, Receive, Scope, Send

from freshdb_service.api import request_limits
from freshdb_service.api.request_limits import SLOT, AcquireLimit, RequestLimit
from freshdb_service.observability.metrics import Metrics


@dataclass
class Work:
    """An application whose requests stay in progress until the test releases them."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    at_work: int = 0
    most: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        if not scope["path"].endswith("/renew"):
            await self.go.wait()
        self.at_work -= 1


async def _nothing() -> Message:
    raise AssertionError


def call(
    app: Callable[[Scope, Receive, Send], Awaitable[None]], path: str, method: str = "POST"
) -> tuple[Scope, list[Message], asyncio.Task[None]]:
    scope: Scope = {"type": "http", "path": path, "method": method, "headers": []}
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async def run() -> None:
        await app(scope, _nothing, send)

    return scope, said, asyncio.create_task(run())


async def test_heartbeat_overtakes_a_thousand_acquires() -> None:
    work = Work()
    entrance = AcquireLimit(work, Metrics())
    acquires = [call(entrance, "/v1/leases") for _ in range(1_000)]
    _, _, heartbeat = call(entrance, "/v1/leases/x/renew")
    await heartbeat
    assert work.at_work == work.most - 1 == request_limits._AT_ONCE
    work.go.set()
    await asyncio.gather(*(task for _, _, task in acquires))
    assert work.most == request_limits._AT_ONCE + 1


async def test_waiting_acquire_frees_its_slot_once() -> None:
    work = Work()
    entrance = AcquireLimit(work, Metrics())
    acquires = [call(entrance, "/v1/leases/batch") for _ in range(request_limits._AT_ONCE + 3)]
    await asyncio.sleep(0)
    resting = acquires[0][0][SLOT]
    resting.release()
    resting.release()
    for _ in range(3):
        await asyncio.sleep(0)
    assert work.at_work == request_limits._AT_ONCE + 1
    work.go.set()
    await asyncio.gather(*(task for _, _, task in acquires))
    assert entrance._slots._value == request_limits._AT_ONCE


async def test_acquire_without_a_slot_in_time_is_refused_and_may_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request_limits, "_ENTRANCE_SECONDS", 0.01)
    work = Work()
    entrance = AcquireLimit(work, Metrics())
    acquires = [call(entrance, "/v1/leases") for _ in range(request_limits._AT_ONCE + 1)]
    _, said, task = acquires[-1]
    await task
    assert said[0]["status"] == 503
    assert (b"retry-after", b"1") in said[0]["headers"]
    assert json.loads(said[1]["body"])["code"] == "backend_unavailable"
    work.go.set()
    await asyncio.gather(*(task for _, _, task in acquires))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/leases/x/renew"),
        ("DELETE", "/v1/leases/x"),
        ("POST", "/v1/templates/x/renew"),
        ("GET", "/livez"),
        ("GET", "/metrics"),
    ],
)
async def test_urgent_requests_are_never_refused(method: str, path: str) -> None:
    work = Work()
    limit = RequestLimit(work, 1, Metrics())
    _, _, first = call(limit, "/v1/leases")
    await asyncio.sleep(0)
    _, refused, second = call(limit, "/v1/leases")
    await second
    assert refused[0]["status"] == 503
    _, said, task = call(limit, path, method)
    await asyncio.sleep(0)
    assert work.at_work + task.done() == 2
    assert said == []
    work.go.set()
    await asyncio.gather(first, task)
