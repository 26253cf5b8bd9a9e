"""The template and isolation that a test requests, by its markers and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from freshdb.pytest_plugin.settings import parse_isolation

if TYPE_CHECKING:
    from freshdb.models import Isolation
    from freshdb.pytest_plugin.settings import Settings


@dataclass(frozen=True, slots=True)
class CloneRequest:
    """The template to clone for a test, and the isolation of the clone."""

    template: str
    isolation: Isolation


def clone_request(node: pytest.Item | pytest.Collector, settings: Settings) -> CloneRequest:
    """Return the request of a test, class, module or session: the nearest marker wins, then the settings.

    Raises:
        pytest.UsageError: a marker has other arguments than a template and an isolation, or no template is set.
    """
    marked: dict[str, object] = {}
    for mark in node.iter_markers("freshdb"):
        unknown = mark.kwargs.keys() - {"template", "isolation"}
        if mark.args or unknown or not all(isinstance(value, str) for value in mark.kwargs.values()):
            raise pytest.UsageError(
                f'freshdb: {node.nodeid}: the marker takes template="…" and isolation="…", not {mark}'
            )
        marked = {**mark.kwargs, **marked}
    template = marked.get("template", settings.template)
    if template is None:
        raise pytest.UsageError(
            f"freshdb: {node.nodeid or 'the session'} needs a clean database, but no template is set. "
            'Name one: `template = "…"` in [tool.freshdb] of pyproject.toml, --freshdb-template, '
            'FRESHDB_TEMPLATE, or @pytest.mark.freshdb(template="…").'
        )
    isolation = str(marked.get("isolation", settings.isolation))
    return CloneRequest(str(template), parse_isolation(isolation, f"the marker of {node.nodeid}"))
