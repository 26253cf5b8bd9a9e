"""Draw states and their transitions, as SVG in the colours of the page. The positions of states are chosen by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import hypot
from typing import Final

_PLACES: Final = {
    "creating": (0.0, 0.0),
    "ready": (1.2, 0.0),
    "leased": (2.4, 0.0),
    "kept": (3.6, 0.0),
    "failed": (0.0, 1.0),
    "resetting": (1.8, 1.0),
    "dirty": (3.0, 1.0),
    "dropping": (1.1, 2.0),
    "active": (2.4, 0.0),
    "released": (1.8, 1.0),
    "revoked": (3.0, 1.0),
    "expired": (4.2, 1.0),
    "building": (0.0, 0.0),
    "retired": (1.2, 1.0),
}
_ACROSS, _DOWN = 150, 90
_WIDTH, _HEIGHT = 100, 32
_ASIDE = 6
"""Offset of the two transitions between a pair of states, which are drawn side by side."""
_HEAD: Final = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 8 4 0 8z" fill="currentColor"/></marker>'
)


def drawing(title: str, ways: Mapping[str, frozenset[str]]) -> str:
    """Return the drawing of the given states and transitions.

    Raises:
        KeyError: a state has no position in ``_PLACES``.
    """
    places = {
        state: (_ACROSS * x + 60, _DOWN * y + 20) for state, (x, y) in ((one, _PLACES[one]) for one in ways)
    }
    left, right = min(x for x, _ in places.values()) - 60, max(x for x, _ in places.values()) + 60
    bottom = max(y for _, y in places.values()) + 20
    lines = [
        _line(places[old], places[new]) for old, news in ways.items() for new in sorted(news) if new != old
    ]
    boxes = [part for state, (x, y) in places.items() for part in _box(state, x, y)]
    return (
        f'<svg viewBox="{left:g} 0 {right - left:g} {bottom:g}" width="{right - left:g}" role="img" '
        f'aria-label="{title}: its states; the table below says the same" font-size="14">'
        f"<defs>{_HEAD}</defs>{''.join(lines)}{''.join(boxes)}</svg>\n"
    )


def _box(state: str, x: float, y: float) -> Iterator[str]:
    yield (
        f'<rect x="{x - _WIDTH / 2:g}" y="{y - _HEIGHT / 2:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" '
        'fill="var(--color-background-secondary)" stroke="currentColor"/>'
    )
    yield f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" fill="currentColor">{state}</text>'


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    across, down = end[0] - start[0], end[1] - start[1]
    length = hypot(across, down)
    aside = (-_ASIDE * down / length, _ASIDE * across / length)
    inside = min(
        (_WIDTH / 2 + 2) / abs(across) if across else 1.0, (_HEIGHT / 2 + 2) / abs(down) if down else 1.0
    )
    (x1, y1), (x2, y2) = (
        (start[0] + aside[0] + share * across, start[1] + aside[1] + share * down)
        for share in (inside, 1 - inside)
    )
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" marker-end="url(#head)"/>'
