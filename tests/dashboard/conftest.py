"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize, expect, sync_playwright

from tests import screenshots
from tests.dashboard.site import TOKENS, Site
from tests.limits import LIMIT_SECONDS
from tests.servers import ALL_MAJORS_REQUIRED, PostgresServer
from tests.services import start_service

CHROMIUM = shutil.which("chromium")
PHONE: ViewportSize = {"width": 360, "height": 740}
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
TIMEOUT_MS = LIMIT_SECONDS * 1000
SETTINGS = {"min_ready": 2, "max_size": 3, "history_flush_seconds": 0.5}

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module, because Playwright keeps an event loop that would conflict with those of other tests."""
    if CHROMIUM is None:
        why = "there is no Chromium, in which the dashboard is tested: apt-get install chromium (as root, on Debian)"
        if ALL_MAJORS_REQUIRED and os.geteuid() == 0:
            pytest.fail(f"{why}; .ci/run does so")
        pytest.skip(why)
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def closed_site(postgres_18: PostgresServer, service_redis_url: str) -> Iterator[Site]:
    """A service with tokens."""
    running = start_service([postgres_18.dsn], service_redis_url, settings={**SETTINGS, "tokens": TOKENS})
    yield Site(running, "admin-secret")
    assert running.stop() == 0


@pytest.fixture
def site(closed_site: Site) -> Iterator[Site]:
    """The same service, without leases of the previous test."""
    yield closed_site
    closed_site.clear()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open the page with a token. Errors and warnings of the browser fail the test.

    `size`, `scheme`: size and color scheme of the window. `tolerate`: pattern of messages that the test provokes.
    """
    with ExitStack() as stack:

        def opened(
            site: Site,
            route: str = "/",
            *,
            token: str | None = None,
            size: ViewportSize = DESKTOP,
            scheme: str = "light",
            tolerate: str = "(?!)",
        ) -> Page:
            options: dict[str, Any] = {"viewport": size, "color_scheme": scheme, "reduced_motion": "reduce"}
            context = browser.new_context(**options, permissions=["clipboard-read", "clipboard-write"])
            stack.callback(context.close)
            secret = site.token if token is None else token
            if secret:
                context.add_init_script(
                    f"if (!sessionStorage.getItem('kept')) {{ sessionStorage.setItem('freshdb.token', '{secret}');"
                    " sessionStorage.setItem('kept', 'x') }"
                )
            page = context.new_page()
            page.set_default_timeout(TIMEOUT_MS)
            wrong: list[str] = []

            def note(message: ConsoleMessage) -> None:
                if message.type in {"error", "warning"} and not re.search(tolerate, message.text):
                    wrong.append(message.text)

            page.on("console", note)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(f"{site.url}/#{route}")
            stack.callback(lambda: _nothing(wrong))
            return page

        yield opened


def _nothing(wrong: list[str]) -> None:
    assert wrong == []


def shoot(page: Page, name: str) -> None:
    """Take a picture for the docs, if this run takes pictures."""
    if not screenshots.requested():
        return
    screenshots.IMAGES.mkdir(parents=True, exist_ok=True)
    path = screenshots.IMAGES / f"dashboard-{name}.png"
    page.screenshot(path=path)
    screenshots.check_size(path)
