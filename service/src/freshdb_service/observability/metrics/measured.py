"""How long visits to PostgreSQL and Redis take, how many fail, and whether servers give signs of life."""

from __future__ import annotations

from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType

from prometheus_client import Counter, Gauge, Histogram

from freshdb_service.errors import BackendUnavailable
from freshdb_service.observability.instrumentation import Visiting


class MeasuredVisits:
    """What surrounds visits: their time goes into a histogram, by what they are for, and failures are counted."""

    def __init__(self, histogram: Histogram, errors: Counter, traced: Visiting, *labels: str) -> None:
        self._histogram = histogram
        self._errors = errors
        self._traced = traced
        self._labels = labels
        self._by_what: dict[str, Histogram] = {}

    def __call__(self, what: str) -> AbstractContextManager[object]:
        """Surround one visit."""
        child = self._by_what.get(what)
        if child is None:
            child = self._by_what[what] = self._histogram.labels(*self._labels, what)
        return _Visit(child, self._errors, self._traced(what))


class _Visit:
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
    """Notes the signs of life of one server."""

    def __init__(self, answer: Histogram, up: Gauge) -> None:
        self._answer = answer
        self._up = up
        up.set(1)  # it was connected to a moment ago

    def __call__(self, seconds: float | None) -> None:
        """It answered after so long; with ``None``, it did not."""
        self._up.set(seconds is not None)
        if seconds is not None:
            self._answer.observe(seconds)
