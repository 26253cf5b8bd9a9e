"""Logs, traces and metrics cost nearly nothing when they are disabled, measured in calls instead of time."""

from __future__ import annotations

import logging
import sys
from types import FrameType
from typing import Self

import pytest
from prometheus_client.metrics import MetricWrapperBase
from starlette.types import Message, Receive, Scope, Send

from freshdb_service.api.access_log import AccessLog
from freshdb_service.lifecycle import LEASE_LIVE, Isolation, LeaseState
from freshdb_service.observability.logs import ACCESS, JsonFormatter
from freshdb_service.observability.metrics import Metrics
from freshdb_service.observability.tracing import UNTRACED

SCOPE = {"type": "http", "method": "POST", "path": "/v1/leases", "headers": [(b"host", b"localhost")] * 8}


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 201, "headers": []})


async def unread(message: Message) -> None:
    del message


async def unsent() -> Message:
    raise AssertionError


class Calls:
    """Count the calls of Python functions during the block."""

    def __enter__(self) -> Self:
        self.number = 0
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        del frame, argument
        self.number += event == "call"


async def test_request_without_log_and_trace_costs_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    def formatted(*_: object) -> str:
        raise AssertionError("a line below the level was formatted")

    monkeypatch.setattr(JsonFormatter, "format", formatted)
    monkeypatch.setattr(logging.getLogger(ACCESS), "level", logging.WARNING)
    logging.getLogger(ACCESS).manager._clear_cache()  # type: ignore[attr-defined]  # it caches the enabled levels
    requests = AccessLog(nothing, Metrics(), UNTRACED)
    await requests(dict(SCOPE), unsent, unread)
    with Calls() as calls:
        await requests(dict(SCOPE), unsent, unread)
    assert calls.number <= 30


def test_metrics_of_every_lease_need_no_label_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked_up(*_: object) -> object:
        raise AssertionError

    metrics = Metrics()
    monkeypatch.setattr(MetricWrapperBase, "labels", looked_up)
    metrics.granted(Isolation.DATABASE, 0.001)
    metrics.cleaned("delete", Isolation.DATABASE, 0.001)
    metrics.heartbeat(ttl_seconds=30.0, left_seconds=20.0)
    for how in set(LeaseState) - LEASE_LIVE:
        metrics.ended(how)


def test_no_object_is_created_without_tracing() -> None:
    assert UNTRACED.request("GET", []) is UNTRACED.request("POST", [])
    assert UNTRACED.work("reset", {}) is UNTRACED.work("drop", {})
    call = UNTRACED.calls("redis", "redis")
    assert call("admit") is call("settle")
