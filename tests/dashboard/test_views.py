"""Contents of the page: the numbers of the API, reasons, histories, and accessibility."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import PHONE, Open, shoot
from tests.dashboard.site import HOLDER, Site, a_day_of_history, eventually
from tests.limits import LIMIT_SECONDS

pytestmark = pytest.mark.xdist_group("dashboard-looking")

HOSTILE = {
    "name": '<img src=x onerror="window.hacked=1">',
    "test": "</td></tr></table><script>window.hacked=1</script>",
    "run": "javascript:window.hacked=1",
    '"><b>key': "' onmouseover='window.hacked=1",
}


def numbers(page: Page) -> dict[str, int]:
    found: dict[str, int] = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('[data-number]')].map(one =>"
        " [one.dataset.number, Number(one.textContent.replaceAll(',', ''))]))"
    )
    return found


def expected(site: Site) -> dict[str, int]:
    seen = site.get("/v1/overview")
    held = seen["databases"]
    return {
        "ready": held["ready"],
        "leases": sum(seen["leases"].values()),
        "waiting": seen["waiting"],
        "cleaning": held["dirty"] + held["resetting"],
        "creating": held["creating"],
        "failed": held["failed"],
    }


def states(page: Page, label: str) -> dict[str, int]:
    """Return the numbers beside the bar of a pool."""
    texts = page.locator("tr", has_text=label).locator("[data-state]").all_inner_texts()
    return {text.split()[1]: int(text.split()[0]) for text in texts}


def same(page: Page, site: Site, template: str) -> bool:
    """True if the page has the numbers of the API, before and after reading the page."""
    pools = [one for one in site.get("/v1/pools")["items"] if one["template"].startswith(template)]
    before = (expected(site), pools[0]["databases"] if pools else {})
    shown = (numbers(page), states(page, template))
    return shown == before


def test_numbers_equal_the_api_while_leases_change(site: Site, open_page: Open) -> None:
    template = site.template()
    page = open_page(site)
    held: list[dict[str, Any]] = []
    for step in ("acquire", "acquire", "release", "acquire", "release", "release"):
        if step == "acquire":
            held.append(site.acquire(template))
        else:
            site.release(held.pop(0))
        eventually(
            lambda: (numbers(page), expected(site), states(page, template)),
            lambda _: same(page, site, template),
        )
        assert numbers(page)["leases"] == len(held)
    expect(page.get_by_role("heading", name="Healthy")).to_be_visible()
    expect(page.get_by_text("No leases.")).to_be_visible()


def test_queue_shows_callers_with_wait_and_reason(site: Site, open_page: Open) -> None:
    template = site.template()
    held = [site.acquire(template) for _ in range(3)]
    page = open_page(site)
    holder = {**HOLDER, "test": "tests/test_late.py::test_that_waits"}
    body = {"template": template, "wait_seconds": LIMIT_SECONDS, "holder": holder}
    waiter = threading.Thread(
        target=lambda: site.held.append(site.ask("POST", "/v1/leases", body).json()["id"])
    )
    waiter.start()
    row = page.get_by_role("region", name="Queue").get_by_role("row", name="test_that_waits")
    expect(row).to_contain_text("the pool has its maximum of 3 databases: 3 in use")
    expect(row).to_contain_text("Raise max_size")
    expect(row.get_by_role("link", name="ci.example.com")).to_have_attribute("href", HOLDER["run"])
    expect(page.get_by_role("list", name="Findings")).to_contain_text("1 waiting, the first for")
    expect(page.locator("[data-number=waiting]")).to_have_text("1")
    site.release(held[0])
    waiter.join()
    expect(page.get_by_text("Empty: requests are served immediately.")).to_be_visible()


def test_lease_shows_its_history_and_database_its_leases(site: Site, open_page: Open) -> None:
    lease = site.acquire(site.template())
    page = open_page(site, f"/leases/{lease['id']}")
    expect(page.get_by_role("link", name="ci.example.com")).to_have_attribute("href", HOLDER["run"])
    expect(page.get_by_text(HOLDER["test"], exact=True)).to_be_visible()
    assert lease["password"] not in page.content()
    connection = psycopg.connect(lease["url"], autocommit=True)
    connection.execute("create table left_over (id int)")
    site.release(lease)
    expect(page.get_by_role("heading", level=1)).to_contain_text("revoked")
    life = page.locator(".life")
    expect(life).to_contain_text("leftovers: 1 open connection, ")
    expect(life).to_contain_text("left_over")
    expect(life).to_contain_text("revoked (revoked by admin) after")
    connection.close()
    page.get_by_role("link", name=lease["database"]).first.click()
    expect(page.get_by_role("region", name="Leases of this database")).to_contain_text("test_cart.py")
    expect(page.get_by_role("region", name="Resets")).to_contain_text("rebuild")
    page.get_by_role("link", name="Leftovers").click()
    expect(page.get_by_role("region", name="Resets")).to_contain_text("left_over")


def test_history_of_a_pool_is_readable_by_keyboard_and_as_table(site: Site, open_page: Open) -> None:
    template = site.template()
    pool = site.acquire(template)["pool_id"]
    a_day_of_history(site, pool)
    page = open_page(site, f"/pools/{pool}")
    waits = page.get_by_role("figure", name="Time to get a database")

    def same(**query: str) -> bool:
        """Return whether page and API agree. A new lease, or a new minute, changes one before the other."""
        history = site.get(f"/v1/pools/{pool}/history", **query)
        rows = waits.get_by_role("row").count()  # none while the table is closed
        same_rows = rows in {0, len(history["items"]) + 1}
        return same_rows and f"{history['waits']['count']:,} leases" in (waits.text_content() or "")

    eventually(same, bool)
    chart = waits.locator("svg[tabindex]")
    chart.focus()
    legend = waits.locator(".legend b").first
    page.keyboard.press("ArrowLeft")
    expect(legend).not_to_have_text("")
    if legend.text_content() == "\N{EN DASH}":  # a new minute has begun without a lease
        page.keyboard.press("ArrowLeft")
    expect(legend).to_contain_text("s")
    page.keyboard.press("Escape")
    expect(legend).to_have_text("")
    waits.get_by_text("As a table").click()
    expect(waits.get_by_role("row").last).to_be_visible()
    eventually(same, bool)
    page.get_by_role("link", name="24 hours").click()
    expect(page.get_by_role("link", name="24 hours")).to_have_attribute("aria-current", "true")
    eventually(partial(same, seconds="86400"), bool)
    shoot(page, "pool")


def test_hostile_names_stay_text(site: Site, open_page: Open) -> None:
    lease = site.acquire(site.template(), holder=HOSTILE, labels={"<script>": "</script>"})
    page = open_page(site)
    expect(page.get_by_text(HOSTILE["name"]).first).to_be_visible()
    for route in ("/leases", f"/leases/{lease['id']}", f"/databases/{lease['database_id']}", "/events"):
        page.goto(f"{site.url}/#{route}")
        expect(page.get_by_text(HOSTILE["test"]).first).to_be_visible()
        assert page.locator("main img, main script, a[href^='javascript']").count() == 0
    assert page.evaluate("window.hacked") is None


def test_events_are_filtered_by_kind_and_object(site: Site, open_page: Open) -> None:
    lease = site.acquire(site.template())
    page = open_page(site, "/events")
    page.get_by_label("Object").fill(lease["id"])
    page.get_by_role("button", name="Filter").click()
    rows = page.get_by_role("region", name="Events").locator("tbody tr")
    expect(rows).to_have_count(1)
    site.release(lease)
    expect(rows).to_have_count(2)
    page.get_by_label("Kind").select_option("lease.revoked")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("lease.revoked")


def test_leases_are_found_by_values_of_their_holders(site: Site, open_page: Open) -> None:
    template = site.template()
    site.acquire(template, holder={"test": "test_apples"})
    site.acquire(template, holder={"test": "test_pears"})
    page = open_page(site, "/leases")
    rows = page.get_by_role("region", name="Leases").locator("tbody tr")
    expect(rows).to_have_count(2)
    page.get_by_label("Search by holder").press_sequentially("PEARS")
    expect(rows).to_have_count(1)
    site.acquire(template, holder={"test": "test_more_pears"})
    expect(rows).to_have_count(2)
    expect(page.get_by_label("Search by holder")).to_be_focused()
    expect(page.get_by_label("Search by holder")).to_have_value("PEARS")


def test_failed_template_shows_its_error(site: Site, open_page: Open) -> None:
    answer = site.ask("POST", "/v1/templates", {"name": "broken", "sql": ["create tabel item ()"]})
    assert answer.status_code == 422
    page = open_page(site)
    findings = page.get_by_role("list", name="Findings")
    expect(findings).to_contain_text("syntax error")
    findings.get_by_role("link", name="broken").click()
    expect(page.get_by_role("heading", name="broken")).to_be_visible()
    expect(page.get_by_label("Build log")).to_contain_text("syntax error")
    page.get_by_role("link", name="Templates").click()
    expect(page.get_by_role("row", name="broken")).to_contain_text("syntax error")
    site.ask("DELETE", f"/v1/templates/{answer.json().get('template_id', 'broken')}")


def test_template_shows_its_warnings_and_build_log(site: Site, open_page: Open) -> None:
    started = site.ask("POST", "/v1/templates", {"name": "doubtful", "fingerprint": "1"}).json()
    log = "psql:schema.sql:1: ERROR:  no such <b>thing</b>\nlast line"
    report = {"token": started["build"]["token"], "log": log}
    site.ask("POST", f"/v1/templates/{started['id']}/ready", report)
    page = open_page(site)
    findings = page.get_by_role("list", name="Findings")
    expect(findings).to_contain_text("created no table")
    findings.get_by_role("link", name="doubtful").click()
    expect(page.get_by_label("Build log")).to_have_text(log)
    expect(page.get_by_role("main")).to_contain_text("printed an error")
    page.get_by_role("link", name="Templates").click()
    expect(page.get_by_role("row", name="doubtful")).to_contain_text("printed an error")
    site.ask("DELETE", f"/v1/templates/{started['id']}")


def test_page_can_be_used_by_keyboard_only(site: Site, open_page: Open) -> None:
    page = open_page(site)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.textContent") == "Servers":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Servers")
    expect(page.get_by_text("Connections")).to_be_visible()


@pytest.mark.parametrize(
    "route",
    ["/", "/leases", "/pools", "/databases", "/templates", "/servers", "/left-behind", "/events", "pool"],
)
def test_pages_fit_on_a_phone(site: Site, open_page: Open, route: str) -> None:
    lease = site.acquire(site.template("a-template-with-quite-a-long-name-for-a-small-screen"))
    page = open_page(site, f"/pools/{lease['pool_id']}" if route == "pool" else route, size=PHONE)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("[aria-busy]")).to_have_count(0)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]


def test_pictures_for_the_docs(site: Site, open_page: Open) -> None:
    template = site.template("shop")
    site.acquire(template)
    site.acquire(
        template, holder={**HOLDER, "worker": "gw2", "test": "tests/test_orders.py::test_an_order_ships"}
    )
    for name, options in (
        ("light", {}),
        ("dark", {"scheme": "dark"}),
        ("phone", {"size": PHONE}),
    ):
        page = open_page(site, **options)
        expect(page.locator("[data-number=leases]")).to_have_text("2")
        shoot(page, name)
