"""The page over a long time: restarts of the service, hidden tabs, and large installations."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import DESKTOP, PHONE, SETTINGS, Open, shoot
from tests.dashboard.site import Site, a_crowd, a_day_of_history, eventually
from tests.faults.proxy import Proxy
from tests.servers import PostgresServer
from tests.services import start_service

pytestmark = pytest.mark.xdist_group("dashboard-staying")

TRIES = 4
DRAWS = 5
MOST_NODES = 4_000
NOTE_WHAT_IS_ASKED = """() => {
    window.asked = {};
    const real = window.fetch;
    window.fetch = (...given) => {
        (asked[new URL(given[0], location).pathname] ??= []).push(performance.now() / 1000);
        return real.apply(window, given);
    };
}"""
"""Requests with times by the page's own clock, because this process sees them later on a busy machine."""


@pytest.fixture
def own_site(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Site]:
    """A service for one test."""
    running = start_service([postgres_18.dsn], service_redis_url, settings=SETTINGS)
    site = Site(running)
    yield site
    assert site.service.stop() == 0


def test_page_reconnects_with_backoff_after_a_restart(
    own_site: Site, open_page: Open, postgres_18: PostgresServer, service_redis_url: str
) -> None:
    template = own_site.template()
    first = own_site.acquire(template)
    page = open_page(own_site, tolerate="ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET")
    expect(page.locator("[data-number=leases]")).to_have_text("1")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    before = own_site.service
    page.clock.install()
    page.evaluate(NOTE_WHAT_IS_ASKED)
    assert before.stop() == 0
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    expect(page.get_by_text("Reconnecting…")).to_be_visible()
    expect(page.locator("[data-number=leases]")).to_have_text("1")  # the last known state stays

    def asked_later(path: str) -> list[float]:
        page.clock.fast_forward(200)  # less than the first pause
        times: list[float] = page.evaluate("path => asked[path] ?? []", path)
        return times

    streams = eventually(lambda: asked_later("/v1/events"), lambda times: len(times) >= TRIES)
    views = eventually(lambda: asked_later("/v1/overview"), bool)
    # with growing gaps; the first request may have been sent before the stop
    for seen in (streams, views[1:]):
        gaps = [then - first for first, then in pairwise(seen)]
        assert all(gap > 0.2 * 2**nth for nth, gap in enumerate(gaps)), gaps
    own_site.service = start_service(
        [postgres_18.dsn],
        service_redis_url,
        settings=SETTINGS,
        replica_of=before,
        arguments=["--port", str(urlsplit(before.url).port)],
    )
    page.clock.fast_forward(60_000)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    own_site.release(first)
    expect(page.locator("[data-number=leases]")).to_have_text("0")  # from events of the new replica


def test_page_names_the_unavailable_backend_and_recovers(
    postgres_18: PostgresServer, service_redis_url: str, open_page: Open
) -> None:
    with Proxy(service_redis_url) as proxy:
        service = start_service([postgres_18.dsn], proxy.url, settings=SETTINGS)
        try:
            site = Site(service)
            lease = site.acquire(site.template())
            page = open_page(site, tolerate="503")
            expect(page.locator("[data-number=leases]")).to_have_text("1")
            proxy.refuse()
            expect(page.get_by_role("alert")).to_contain_text("Redis")
            expect(page.locator("[data-number=leases]")).to_have_text("1")
            proxy.pass_on()
            expect(page.get_by_role("alert")).to_have_count(0)
            expect(page.get_by_text("Live", exact=True)).to_be_visible()
            site.release(lease)
            expect(page.locator("[data-number=leases]")).to_have_text("0")
        finally:
            assert service.stop() == 0


def test_hidden_tab_sends_no_requests(own_site: Site, open_page: Open) -> None:
    page, other = open_page(own_site), open_page(own_site)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.locator("[data-number=leases]")).to_have_text("0")
    _hide(page, hidden=True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    lease = own_site.acquire(own_site.template())
    expect(other.locator("[data-number=leases]")).to_have_text("1")
    assert asked == []
    _hide(page, hidden=False)
    expect(page.locator("[data-number=leases]")).to_have_text("1")
    own_site.release(lease)
    expect(page.locator("[data-number=leases]")).to_have_text("0")


def _hide(page: Page, *, hidden: bool) -> None:
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')) }",
        hidden,
    )


def test_page_stays_responsive_with_2000_databases_and_500_leases(own_site: Site, open_page: Open) -> None:
    template = own_site.template()
    a_crowd(own_site)
    page = open_page(own_site, "/leases")
    listed = page.locator("[data-number=listed]")
    expect(listed).to_have_text("500")
    page.locator("tbody tr").first.evaluate("row => { row.mine = true }")
    page.evaluate(
        "window.long = []; new PerformanceObserver(list => long.push(...list.getEntries().map(one => one.duration)))"
        ".observe({type: 'longtask'}); performance.clearMeasures()"
    )
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            own_site.release(own_site.acquire(template))

    traffic = threading.Thread(target=come_and_go)
    traffic.start()
    try:
        _look_around(page)
    finally:
        stop.set()
        traffic.join()
    figures: dict[str, Any] = page.evaluate(
        "(() => { const took = performance.getEntriesByName('freshdb draw').map(one => one.duration).sort((a, b) => a - b);"
        " return {draws: took.length, median: took[took.length >> 1], most: took.at(-1), longTasks: long.length,"
        " longest: Math.max(0, ...long), nodes: document.querySelectorAll('*').length,"
        " heap: Math.round(performance.memory.usedJSHeapSize / 2 ** 20)} })()"
    )
    print(f"drawing with 2,000 databases, 500 leases and traffic: {figures}")  # noqa: T201 - for the docs


def _look_around(page: Page) -> None:
    draws = "performance.getEntriesByName('freshdb draw').length"
    eventually(lambda: page.evaluate(draws), lambda count: count >= DRAWS)
    # The data was fetched and drawn several times, but the unchanged row is still the same element.
    assert page.locator("tbody tr").first.evaluate("row => row.mine") is True
    assert page.evaluate("document.querySelectorAll('*').length") < MOST_NODES
    pager = page.get_by_role("navigation", name="Pages of Leases")
    expect(pager).to_contain_text("1\N{EN DASH}50 of 50")
    pager.get_by_role("button", name="Next").click()
    expect(pager).to_contain_text("51\N{EN DASH}100 of 50")
    page.get_by_label("Search by holder").fill("runner-42")
    expect(page.locator("[data-number=listed]")).to_have_text("5")
    page.get_by_role("link", name="Databases", exact=True).click()
    expect(page.locator("[data-number=listed]")).to_contain_text("2,0")
    assert page.evaluate("document.querySelectorAll('*').length") < MOST_NODES
    page.get_by_role("navigation", name="Databases by state").get_by_role("link", name="dirty").click()
    expect(page.locator("[data-number=listed]")).to_have_text("100")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator("[data-number=leases]")).to_contain_text("50")
    shoot(page, "load")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(site: Site, open_page: Open, scheme: str) -> None:
    lease = site.acquire(site.template())
    a_day_of_history(site, lease["pool_id"])
    page = open_page(site, scheme=scheme)
    routes = ["/", "/leases", f"/leases/{lease['id']}", "/pools", f"/pools/{lease['pool_id']}", "/databases"]
    routes += [f"/databases/{lease['database_id']}", "/templates", "/servers", "/left-behind", "/events"]
    for route in routes:
        page.goto(f"{site.url}/#{route}")
        expect(page.locator("[aria-busy]")).to_have_count(0)
        for size in (PHONE, DESKTOP):
            page.set_viewport_size(size)
            assert serious(page) == [], (route, size)
    page.goto(f"{site.url}/#/leases/{lease['id']}")
    page.get_by_role("button", name="Revoke").click()
    assert serious(page) == [], "the dialog"


def serious(page: Page) -> list[str]:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for one in found
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]
