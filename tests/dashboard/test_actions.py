"""Actions on the page, which the scopes of the token limit, and which other websites cannot trigger."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import SETTINGS, Open
from tests.dashboard.site import ANN, GUEST, Site, eventually
from tests.servers import PostgresServer
from tests.services import start_service

pytestmark = pytest.mark.xdist_group("dashboard-acting")


@pytest.fixture(scope="module")
def open_site(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Site]:
    """A service without tokens."""
    running = start_service([postgres_18.dsn], service_redis_url, settings=SETTINGS)
    yield Site(running)
    assert running.stop() == 0


def confirm(page: Page, name: str) -> None:
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=name, exact=True).click()
    expect(dialog).to_have_count(0)


def state_of(site: Site, lease_id: str) -> str:
    state: str = site.get(f"/v1/leases/{lease_id}")["state"]
    return state


def test_admin_revokes_a_lease_after_confirmation(site: Site, open_page: Open) -> None:
    lease = site.acquire(site.template(), token=ANN)
    page = open_page(site, f"/leases/{lease['id']}")
    page.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert state_of(site, lease["id"]) == "active"
    page.get_by_role("button", name="Revoke").click()
    confirm(page, "Revoke")
    expect(page.get_by_role("heading", level=1)).to_contain_text("revoked")
    expect(page.locator("#said")).to_have_text("Lease revoked.")
    assert state_of(site, lease["id"]) == "revoked"


def test_holder_keeps_and_releases_its_own_lease(site: Site, open_page: Open) -> None:
    lease = site.acquire(site.template(), token=ANN)
    page = open_page(site, f"/leases/{lease['id']}", token=ANN)
    expect(page.get_by_role("button", name="Keep")).to_be_visible()
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
    page.get_by_role("button", name="Keep").click()
    page.get_by_label("Minutes").fill("90")
    page.get_by_label("Reason").fill("look at the cart")
    confirm(page, "Keep")
    expect(page.get_by_role("heading", level=1)).to_contain_text("kept")
    kept = site.get(f"/v1/leases/{lease['id']}")
    assert (kept["state"], kept["ttl_seconds"], kept["end_reason"]) == ("kept", 5400, "look at the cart")
    page.get_by_role("button", name="Release").click()
    confirm(page, "Release")
    expect(page.get_by_role("heading", level=1)).to_contain_text("released")
    assert state_of(site, lease["id"]) == "released"


def test_refused_action_shows_the_error_and_can_be_corrected(site: Site, open_page: Open) -> None:
    lease = site.acquire(site.template(), token=ANN)
    page = open_page(site, f"/leases/{lease['id']}", token=ANN, tolerate="422")
    page.get_by_role("button", name="Keep").click()
    page.get_by_label("Minutes").fill("9999999")
    page.get_by_role("dialog").get_by_role("button", name="Keep").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("must be from 1 to 86400 seconds")
    page.get_by_label("Minutes").fill("5")
    confirm(page, "Keep")
    assert state_of(site, lease["id"]) == "kept"


def test_reader_has_no_buttons_for_changes(site: Site, open_page: Open) -> None:
    lease = site.acquire(site.template(), token=ANN)
    page = open_page(site, f"/leases/{lease['id']}", token=GUEST)
    expect(page.get_by_role("button", name="Copy psql command")).to_be_visible()
    assert page.locator("main button").all_inner_texts() == ["Copy psql command"]
    page.get_by_role("button", name="Copy psql command").click()
    expect(page.locator("#said")).to_contain_text("only the token that acquired the lease gets it")
    line = page.evaluate("navigator.clipboard.readText()")
    assert line.startswith(f"psql 'postgresql://{lease['user']}@{lease['host']}:{lease['port']}/")
    assert lease["password"] not in line
    for route in (f"/pools/{lease['pool_id']}", "/templates"):
        page.goto(f"{site.url}/#{route}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_role("button", name="Change the sizes")).to_have_count(0)
        expect(page.get_by_role("button", name="Retire")).to_have_count(0)


def test_psql_command_of_an_own_lease_opens_its_database(site: Site, open_page: Open) -> None:
    lease = site.acquire(site.template(), token=ANN)
    page = open_page(site, "/leases", token=ANN)
    page.get_by_role("row", name=lease["id"][:8]).get_by_role("button", name="Copy psql command").click()
    expect(page.locator("#said")).to_have_text("psql command copied.")
    url = page.evaluate("navigator.clipboard.readText()").removeprefix("psql '").removesuffix("'")
    with psycopg.connect(url) as connection:
        [name] = connection.execute("select name from item").fetchone() or [None]
    assert name == "one"
    assert lease["password"] not in page.content()


def test_admin_changes_the_sizes_of_a_pool(site: Site, open_page: Open) -> None:
    pool = site.acquire(site.template())["pool_id"]
    page = open_page(site, f"/pools/{pool}", tolerate="422")
    page.get_by_role("button", name="Change the sizes").click()
    page.get_by_label("min_ready").fill("9")
    page.get_by_label("max_size").fill("4")
    page.get_by_role("dialog").get_by_role("button", name="Change").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text(
        "min_ready would be larger than max_size"
    )
    page.get_by_label("min_ready").fill("1")
    confirm(page, "Change")
    expect(page.locator("dl.facts").first).to_contain_text("max_size4")
    changed = site.get(f"/v1/pools/{pool}")
    assert (changed["min_ready"], changed["max_size"]) == (1, 4)


def test_admin_retires_a_template_with_live_leases(site: Site, open_page: Open) -> None:
    template = site.template()
    site.acquire(template)
    page = open_page(site, "/templates", tolerate="409")
    row = page.get_by_role("row", name=template)
    row.get_by_role("button", name="Retire").click()
    page.get_by_role("dialog").get_by_role("button", name="Retire").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("lease")
    page.get_by_label("Also with live leases").check()
    confirm(page, "Retire")
    eventually(
        lambda: [one["state"] for one in site.get("/v1/templates", name=template)["items"]],
        lambda states: states in ([], ["retired"]),
    )


def test_token_is_requested_and_kept_in_the_tab_but_not_in_the_url(site: Site, open_page: Open) -> None:
    asked: list[str] = []
    page = open_page(site, token="", tolerate="401")
    page.on("request", lambda request: asked.append(request.url))
    heading = page.get_by_role("heading", name="This service needs a token")
    expect(heading).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_label("Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("unknown token")
    page.get_by_label("Token").fill(ANN)
    page.keyboard.press("Enter")
    expect(page.get_by_text("ann (read, lease)")).to_be_visible()
    page.reload()
    expect(page.get_by_text("ann (read, lease)")).to_be_visible()
    assert not [url for url in asked if ANN in url]
    assert ANN not in page.evaluate("JSON.stringify([location.href, document.cookie, {...localStorage}])")
    page.get_by_role("button", name="Sign out").click()
    expect(heading).to_be_visible()
    assert ANN not in page.evaluate("JSON.stringify({...sessionStorage})")


def test_open_service_needs_no_token(open_site: Site, open_page: Open) -> None:
    lease = open_site.acquire(open_site.template())
    page = open_page(open_site, f"/leases/{lease['id']}")
    expect(page.get_by_text("anonymous (open service)")).to_be_visible()
    page.get_by_role("button", name="Release").click()
    confirm(page, "Release")
    expect(page.get_by_role("heading", level=1)).to_contain_text("released")


def test_another_website_cannot_use_an_open_service(open_site: Site, site: Site, open_page: Open) -> None:
    lease = open_site.acquire(open_site.template())
    # The other service stands for another website, because another port is another origin.
    page = open_page(site, "/servers", tolerate="CORS|ERR_FAILED|Content Security Policy|violates")
    page.route("**/evil", lambda route: route.fulfill(body="<p>evil</p>", content_type="text/html"))
    page.goto(f"{site.url}/evil")
    for path in (f"/v1/leases/{lease['id']}/keep", f"/v1/leases/{lease['id']}/reset"):
        done = page.evaluate(
            "url => fetch(url, {method: 'POST', mode: 'no-cors'}).then(answer => answer.type, () => 'blocked')",
            open_site.url + path,
        )
        assert done in {"opaque", "blocked"}  # it was sent
    now = open_site.get(f"/v1/leases/{lease['id']}")
    assert (now["state"], now["generation"]) == ("active", lease["generation"])
