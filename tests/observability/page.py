"""The list of metrics in ``docs/metrics.md``, made from the registry; ``python -m tests.observability.page`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from prometheus_client.metrics import MetricWrapperBase

from freshdb_service.cluster import Cause
from freshdb_service.lifecycle import DatabaseState
from freshdb_service.metrics import Metrics
from freshdb_service.metrics.facts import PoolFacts, ServerFacts

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
BEGIN: Final = "<!-- made by tests/observability/page.py -->\n"
END: Final = "<!-- end -->\n"
_SUFFIX: Final = {"counter": "_total", "info": "_info"}


def full() -> Metrics:
    """Metrics that show one of everything."""
    metrics = Metrics(Cause)
    pool = PoolFacts("shop@1", "database", {DatabaseState.READY: 1}, 0, 0.0, 1, 1, 1)
    metrics.show([pool], [ServerFacts("pg", 1, 1, 1, 1)])
    return metrics


def labels_of(metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """The names of the labels of each family."""
    found: dict[str, tuple[str, ...]] = {}
    for collector in metrics.registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            found[collector._name] = tuple(collector._labelnames)
            continue
        for family in collector.collect():
            found[family.name] = tuple(family.samples[0].labels) if family.samples else ()
    return found


def table() -> str:
    """One row for each metric of freshdb's own."""
    metrics = full()
    labels = labels_of(metrics)
    lines = ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for family in sorted(metrics.registry.collect(), key=lambda one: one.name):
        if not family.name.startswith("freshdb_"):
            continue
        names = ", ".join(f"`{name}`" for name in labels[family.name]) or "-"
        name = f"{family.name}{_SUFFIX.get(family.type, '')}"
        lines.append(f"| `{name}` | {family.type} | {names} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """The page with the list of now."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
