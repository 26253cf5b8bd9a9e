"""``make platforms``: write docs/platforms.md, the Pythons and platforms on which every dependency has a wheel."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

from tests.packaging.platforms import CHECKOUT, FREE_THREADED, PLATFORMS, PYTHONS, without_wheel

_PAGE = """# Pythons and platforms

`make platforms` wrote this page on {day}. It resolves the pinned version of every dependency of the client and the service,
extras included, from wheels alone. "Yes" means that `pip install 'freshdb[service]'` needs no compiler there. Otherwise the
table names the packages without a wheel: pip builds them from source, or fails.

| Python | {titles} |
|---|{rule}
{rows}

A Python with a `t` is the free-threaded build. The client alone (`pip install freshdb`) needs httpx, which is pure Python,
and installs everywhere. On Alpine Linux (musl) the service cannot be installed: the embedded PostgreSQL has no wheel for it.
"""


def main() -> None:
    """Resolve every target, several at a time, and write the page."""
    pythons = (*PYTHONS, *FREE_THREADED)
    with ThreadPoolExecutor(4) as pool:
        answers = {
            (python, platform): pool.submit(without_wheel, python, platform)
            for python in pythons
            for platform in PLATFORMS
        }
    rows = []
    for python in pythons:
        cells = [", ".join(sorted(answers[python, platform].result())) or "yes" for platform in PLATFORMS]
        rows.append(f"| {python} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)  # noqa: T201 - a command reports
    page = _PAGE.format(
        day=dt.datetime.now(dt.UTC).date(),
        titles=" | ".join(platform.title for platform in PLATFORMS),
        rule="---|" * len(PLATFORMS),
        rows="\n".join(rows),
    )
    (CHECKOUT / "docs" / "platforms.md").write_text(page)


if __name__ == "__main__":
    main()
