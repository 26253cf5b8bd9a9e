"""Base class of all operations: one request, or a list of pages. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from freshdb import json_fields
from freshdb.messages import ServiceCall, decode, query
from freshdb.retry import RetryPolicy, exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from freshdb.messages import Flow

T = TypeVar("T")

_LARGEST_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class OperationsBase:
    """Sends requests by one retry policy. A request waits for at most `poll_seconds`."""

    policy: RetryPolicy
    poll_seconds: float

    def _ask(self, call: ServiceCall) -> Flow[object]:
        done = yield from exchange(call, self.policy)
        return decode(done.answer)

    def _list(
        self,
        address: str,
        pairs: Sequence[tuple[str, str | None]],
        limit: int | None,
        read: Callable[[json_fields.Members], T],
    ) -> Flow[list[T]]:
        found: list[T] = []
        cursor: str | None = None
        while True:
            left = None if limit is None else str(max(1, min(_LARGEST_PAGE, limit - len(found))))
            page = yield from self._ask(
                ServiceCall("GET", query(address, [*pairs, ("limit", left), ("cursor", cursor)]))
            )
            items, cursor = json_fields.items(page)
            found += [read(one) for one in items]
            if cursor is None or (limit is not None and len(found) >= limit):
                return found[:limit]
