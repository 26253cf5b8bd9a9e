"""A real Prometheus and a real service with traffic: scrapes, rules, and queries of the dashboard."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests import screenshots
from tests.observability.prometheus import ROOT, Labels, Prometheus
from tests.servers import PostgresServer
from tests.services import Service, start_service

DASHBOARD: Final[dict[str, Any]] = json.loads((ROOT / "deploy" / "grafana" / "freshdb.json").read_text())
PANELS: Final = [one for one in DASHBOARD["panels"] if one["type"] != "row"]
PAGE: Final = screenshots.DOCS / "grafana.md"
MOST_SERIES: Final = 6
INTRODUCTION: Final = """# The dashboard for Grafana

[`deploy/grafana/freshdb.json`](../deploy/grafana/freshdb.json): in Grafana, *Dashboards → New → Import*; the compose file
with `deploy/grafana/provisioning` installs it. It needs a Prometheus that scrapes the service ([metrics](metrics.md)), and
has two variables, pool and isolation.

Below are all panels with the results of their queries at one instant, for all pools together. They come from a real
Prometheus and a real service with traffic (`tests/observability`, where each query must return data). Of many series, the
largest are shown. Grafana itself did not take part.
"""
pytestmark = pytest.mark.xdist_group("prometheus")


def queries() -> Iterator[tuple[str, str]]:
    """Return title and query, with the variables replaced as in Grafana for "All"."""
    for panel in PANELS:
        for query in of_panel(panel):
            yield panel["title"], query


def of_panel(panel: dict[str, Any]) -> list[str]:
    """Return the queries of a panel."""
    filled = (one["expr"].replace("$pool", ".*").replace("$isolation", ".*") for one in panel["targets"])
    return [query.replace("$__rate_interval", "20s") for query in filled]


def test_prometheus_scrapes_the_service(prometheus: Prometheus) -> None:
    [target] = prometheus.get("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_all_rules_are_evaluated_without_an_error(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    prometheus.until(lambda: all(rule["health"] != "unknown" for rule in rules()), "rules are not evaluated")
    assert [(rule["name"], rule.get("lastError")) for rule in rules() if rule["health"] != "ok"] == []


def test_all_metrics_follow_the_conventions_of_prometheus(prometheus: Prometheus) -> None:
    for name, said in prometheus.get("metadata").items():
        if name.startswith("freshdb_"):
            assert said[0]["help"], name
            assert (said[0]["type"] == "counter") == name.endswith("_total"), name


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_all_queries_of_the_dashboard_have_data(prometheus: Prometheus, title: str, query: str) -> None:
    prometheus.until(lambda: prometheus.values(query), f"{title}: no data for {query}")


def test_panels_are_documented_with_their_values(prometheus: Prometheus) -> None:
    if screenshots.requested():
        PAGE.write_text(page(prometheus))
    shown = PAGE.read_text()
    for panel in PANELS:
        assert f"| {panel['title']} | {panel['description']} |" in shown


def page(prometheus: Prometheus) -> str:
    """Return the page with all panels and the results of their queries."""
    lines = []
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            lines += ["", f"## {panel['title']}", "", "| panel | what it shows | seen |", "|---|---|---|"]
            continue
        found = [
            (value, legend(target, labels))
            for target, query in zip(panel["targets"], of_panel(panel), strict=True)
            for labels, value in prometheus.instant(query)
            if math.isfinite(value)
        ]
        unit = panel["fieldConfig"]["defaults"]["unit"]
        most = [f"{name}{readable(value, unit)}" for value, name in sorted(found, reverse=True)[:MOST_SERIES]]
        lines.append(f"| {panel['title']} | {panel['description']} | {', '.join(most)} |")
    return "\n".join([INTRODUCTION.rstrip(), *lines, ""])


def readable(value: float, unit: str) -> str:
    """Format a value in a unit of Grafana."""
    match unit:
        case "s":
            return f"{value:,.1f} s" if value >= 1 else f"{value * 1000:,.1f} ms"
        case "bytes":
            return f"{value / 2**20:,.0f} MiB"
        case "percentunit":
            return f"{value:.0%}"
        case "ops" | "reqps":
            return f"{value:.2f}/s"
        case _:
            return f"{value:,.4g}"


def legend(target: dict[str, Any], labels: Labels) -> str:
    """Return Grafana's name of the series."""
    said = target.get("legendFormat", "")
    for name, value in labels.items():
        said = said.replace(f"{{{{{name}}}}}", value.partition("@")[0])
    return f"{said}: " if said else ""


def test_variables_of_the_dashboard_list_the_pools(prometheus: Prometheus, traffic: str) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            label = variable["definition"].removeprefix("label_values(freshdb_databases, ").rstrip(")")
            found = prometheus.get(f"label/{label}/values", **{"match[]": "freshdb_databases"})
            assert any(traffic in one or one in {"database", "schema"} for one in found)


def test_all_panels_have_a_description_and_a_unit() -> None:
    assert len({one["id"] for one in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"


def test_panels_equal_the_rest_api(prometheus: Prometheus, observed: Service, traffic: str) -> None:
    """The sum of a pool's databases is stable while their states change."""

    def agree() -> bool:
        shown = prometheus.instant(f'sum(freshdb_databases{{template=~"{traffic}.*", isolation="database"}})')
        most = prometheus.instant(
            f'max(freshdb_pool_max_size{{template=~"{traffic}.*", isolation="database"}})'
        )
        return bool(shown) and most[0][1] == 3 and 0 < shown[0][1] <= 4

    prometheus.until(agree, f"{observed.url} and Prometheus differ")


def test_alerts_fire_when_the_last_replica_dies(
    tmp_path: Path, postgres_18: PostgresServer, redis_url: str
) -> None:
    service = start_service([postgres_18.dsn], redis_url)
    watching = Prometheus.start(tmp_path, [service.url])

    def alarmed() -> set[str]:
        return {labels["alertname"] for labels, _ in watching.instant("ALERTS")}

    try:
        watching.until(lambda: watching.instant("up == 1"), "it is not scraped")
        watching.until(lambda: "FreshdbGone" not in alarmed(), "it is not seen")
        service.kill()
        watching.until(lambda: {"FreshdbReplicaDown", "FreshdbGone"} <= alarmed(), "the alerts did not fire")
    finally:
        watching.stop()
        service.stop()
