"""The site is built without a warning, is complete, and loads nothing from other sites."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import freshdb
from freshdb_service.api.problems import STATUS
from freshdb_service.config import Settings
from tests.docs.pages import PAGES, ROOT, name
from tools import reference
from tools.rest import openapi

pytestmark = [
    pytest.mark.xdist_group("site"),
    pytest.mark.timeout(900),
]  # built once, also by a machine that is busy
LOADED: Final = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]*)\"|<link\b[^>]*\bhref=\"([^\"]*)\""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as ``make docs`` builds it: a warning is an error."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(site)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return site


def text_of(site: Path, page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", (site / f"{page}.html").read_text()))


def test_site_has_every_page(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).exists()


def test_site_loads_nothing_from_other_sites(site: Path) -> None:
    pages = [one.read_text() for one in site.rglob("*.html")]
    styles = [one.read_text() for one in site.rglob("*.css")]
    loaded = [one for page in pages for found in LOADED.findall(page) for one in found if one]
    loaded += [one for style in styles for one in re.findall(r"(?:@import|url\()\s*[\"']?([^\"');]+)", style)]
    assert len(loaded) > len(pages)
    assert [one for one in loaded if re.match(r"(?:https?:)?//", one)] == []


def everything() -> Iterator[tuple[str, str]]:
    """Each name that the reference must have, with its page."""
    for path, methods in openapi()["paths"].items():
        yield from (("reference/rest", f"{method.upper()} {path}") for method in methods)
    yield from (("reference/cli", f"usage: {command}") for command in reference.commands())
    yield from (("reference/settings", f"FRESHDB_{setting.upper()}") for setting in Settings.model_fields)
    yield from (("reference/errors", code) for code in STATUS)
    yield from (("reference/client", f"freshdb.{one}") for one in freshdb.__all__ if not one.startswith("__"))
    yield from (
        ("reference/client", f"{method}(")
        for method in ("lease", "acquire", "renew", "build", "create_token")
    )
    for fixture in ("freshdb", "freshdb_class", "freshdb_module", "freshdb_session"):
        yield "reference/pytest", fixture
    yield from (("reference/pytest", option) for option in ("--freshdb-prefetch", "--freshdb-keep"))
    yield from (("metrics", metric) for metric in re.findall(r"`(freshdb_\w+)`", reference.metrics()))
    yield "lifecycle", "resetting"


def test_reference_names_every_documented_name(site: Path) -> None:
    wanted = list(everything())
    texts = {page: text_of(site, page) for page in {page for page, _ in wanted}}
    assert [(page, documented) for page, documented in wanted if documented not in texts[page]] == []


@pytest.mark.parametrize("page", [one for one in PAGES if one.parent == ROOT], ids=name)
def test_links_into_the_documentation_are_not_dead(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (ROOT / target).exists(), target
