"""Metrics of calls to PostgreSQL and Redis (times and errors), and of liveness probes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType

from prometheus_client import Counter, Gauge, Histogram

from freshdb_service.errors import BackendUnavailable
from freshdb_service.observability.instrumentation import Instrument


class MeasuredCalls:
    """Instrumentation that records the times of calls by operation, and counts their errors."""

    def __init__(self, histogram: Histogram, errors: Counter, traced: Instrument, *labels: str) -> None:
        self._histogram = histogram
        self._errors = errors
        self._traced = traced
        self._labels = labels
        self._by_operation: dict[str, Histogram] = {}

    def __call__(self, what: str) -> AbstractContextManager[object]:
        """Return the context manager around one call."""
        child = self._by_operation.get(what)
        if child is None:
            child = self._by_operation[what] = self._histogram.labels(*self._labels, what)
        return _Call(child, self._errors, self._traced(what))


class _Call:
    __slots__ = ("_began", "_errors", "_histogram", "_traced")

    def __init__(self, histogram: Histogram, errors: Counter, traced: AbstractContextManager[object]) -> None:
        self._histogram = histogram
        self._errors = errors
        self._traced = traced

    def __enter__(self) -> None:
        self._traced.__enter__()
        self._began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._histogram.observe(perf_counter() - self._began)
        if isinstance(error, BackendUnavailable):
            self._errors.inc()
        self._traced.__exit__(kind, error, traceback)


class LivenessMetrics:
    """Records the liveness probes of one server."""

    def __init__(self, answer: Histogram, up: Gauge) -> None:
        self._answer = answer
        self._up = up
        up.set(1)  # the replica has just connected to it

    def __call__(self, seconds: float | None) -> None:
        """Record the seconds until an answer, or ``None`` for no answer."""
        self._up.set(seconds is not None)
        if seconds is not None:
            self._answer.observe(seconds)
