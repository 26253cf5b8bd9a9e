from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tools.reference import every_metric


def test_metric_names_follow_the_conventions() -> None:
    for family in every_metric().registry.collect():
        if family.name.startswith("freshdb_"):
            assert family.documentation.endswith("."), family.name
            if family.type == "histogram":
                assert family.name.endswith(("_seconds", "_ratio")), family.name


def test_series_of_a_removed_pool_disappear() -> None:
    metrics = every_metric()
    assert "shop@1" in metrics.text().decode()
    metrics.show([], [])
    assert "shop@1" not in metrics.text().decode()


def test_two_pools_with_one_name_do_not_fail_the_scrape() -> None:
    metrics = every_metric()
    [pool] = metrics._facts._pools
    metrics.show([pool, pool], [])
    ready = [
        sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name == "freshdb_databases" and sample.labels["state"] == "ready"
    ]
    assert ready == [2.0]


def test_counters_start_at_zero() -> None:
    text = every_metric().text().decode()
    for series in (
        'freshdb_audits_total{isolation="database",result="different"} 0.0',
        'freshdb_leases_ended_total{how="expired"} 0.0',
        'freshdb_refusals_total{code="internal_error"} 0.0',
        'freshdb_failures_total{work="provision"} 0.0',
        'freshdb_rebuilds_total{isolation="schema",reason="catalogs"} 0.0',
    ):
        assert series in text


def test_delay_is_recorded_for_late_heartbeats_only() -> None:
    metrics = every_metric()
    metrics.heartbeat(ttl_seconds=30, left_seconds=20)
    metrics.heartbeat(ttl_seconds=30, left_seconds=2)
    text = metrics.text().decode()
    assert "freshdb_heartbeat_lateness_seconds_sum 18.0" in text
    assert 'freshdb_heartbeat_ttl_left_ratio_bucket{le="0.1"} 1.0' in text
    assert 'freshdb_heartbeat_ttl_left_ratio_bucket{le="0.6"} 1.0' in text
    assert 'freshdb_heartbeat_ttl_left_ratio_bucket{le="0.7"} 2.0' in text
