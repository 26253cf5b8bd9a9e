"""What tests want: read from their marks and the settings, for the tests that run and for those to come."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from freshdb.pytest_plugin.settings import parse_isolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freshdb.models import Isolation
    from freshdb.pytest_plugin.run import Run
    from freshdb.pytest_plugin.settings import Settings


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """What a test wants cloned, and how."""

    template: str
    isolation: Isolation


def wanted_by(node: pytest.Item | pytest.Collector, settings: Settings) -> CloneRequest:
    """What the marks say, the nearest first, then the settings.

    Raises:
        pytest.UsageError: a mark has something else than a template and an isolation, or no template is set.
    """
    marked: dict[str, object] = {}
    for mark in node.iter_markers("freshdb"):
        strange = mark.kwargs.keys() - {"template", "isolation"}
        if mark.args or strange or not all(isinstance(value, str) for value in mark.kwargs.values()):
            raise pytest.UsageError(
                f'freshdb: {node.nodeid}: the mark takes template="…" and isolation="…", not {mark}'
            )
        marked = {**mark.kwargs, **marked}
    template = marked.get("template", settings.template)
    if template is None:
        raise pytest.UsageError(
            f"freshdb: {node.nodeid or 'the session'} wants a clean database, but of which template? "
            'Name one: `template = "…"` in [tool.freshdb] of pyproject.toml, --freshdb-template, '
            'FRESHDB_TEMPLATE, or @pytest.mark.freshdb(template="…").'
        )
    isolation = str(marked.get("isolation", settings.isolation))
    return CloneRequest(str(template), parse_isolation(isolation, f"the mark of {node.nodeid}"))


def coming(
    session: pytest.Session, following: pytest.Item | None, run: Run
) -> list[tuple[str, CloneRequest]]:
    """Which of the next tests want a database of their own, and of what, as far ahead as the settings say.

    Under xdist no more is known than the next test.
    """
    number = run.settings.prefetch
    if following is None or number == 0:
        return []
    items = [following]
    if number > 1 and run.worker is None:
        with suppress(ValueError):  # not there, or not in that order: another plugin's doing
            run.position = session.items.index(following, run.position)
            items = session.items[run.position : run.position + number]
    return list(_wanting(items, run.settings))


def _wanting(items: list[pytest.Item], settings: Settings) -> Iterator[tuple[str, CloneRequest]]:
    for item in items:
        asks = isinstance(item, pytest.Function) and "freshdb" in item.fixturenames
        if asks and item.get_closest_marker("skip") is None:
            with suppress(pytest.UsageError):  # the test will tell
                yield item.nodeid, wanted_by(item, settings)
