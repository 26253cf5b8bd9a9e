"""Plain English: the three measured rates are held in docstrings and pages, and the measure counts correctly."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.docs.english import GROUPS, ROOT, rates

PRONOUNS_PER_1000: Final = 0.2
QUESTIONS_PERCENT: Final = 0.8
SEMICOLONS_PER_1000: Final = 2.2
_SHOWN: Final = 20

MODULE: Final = '''"""Return the leases; nobody else may.

How a lease ends is in ``end; whoever``. Who ends it?

Args:
    seconds: what remains, which somebody set
    name: of the lease

For example::

    somebody(); what = whoever

The janitor resets it.
"""


def end() -> None:
    """End the lease.

    Example::

        nobody(); what

    Whether it was live is ignored.
    """
'''
PAGE: Final = """# What somebody sees; a heading

<!-- example: run; nobody -->
```sh
somebody; whoever
```

| what it is | meaning |
|---|---|
| `nobody; somebody` | whoever asks; the caller |

What a caller gets: see [the page](who;somebody.md). (How does it work?) It is
renewed by everybody.

> nobody answers; wait

- Whether it lives; `what; nobody`.
"""


@pytest.mark.parametrize("group", GROUPS)
def test_group_holds_the_rates(group: str) -> None:
    found = rates(ROOT / path for path in GROUPS[group])
    assert found.words > 1000
    rules = (
        ("pronouns per 1,000 words", found.pronouns_per_1000, PRONOUNS_PER_1000, found.pronouns),
        ("statements with a question word, %", found.questions_percent, QUESTIONS_PERCENT, found.questions),
        ("semicolons per 1,000 words", found.semicolons_per_1000, SEMICOLONS_PER_1000, found.semicolons),
    )
    broken = [
        "\n".join(
            [f"{group}: {rule}: {rate:.2f}, hold < {limit}; the first of {len(places)}:", *places[:_SHOWN]]
        )
        for rule, rate, limit, places in rules
        if rate >= limit
    ]
    assert broken == [], "\n\n".join(broken)


def test_docstrings_are_counted_without_code(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    found = rates([tmp_path], tmp_path)
    assert found.pronouns == [
        "module.py:1: Return the leases; nobody else may.",
        "module.py:6: what remains, which somebody set",
    ]
    assert found.questions == [
        "module.py:3: How a lease ends is in `code`.",
        "module.py:6: what remains, which somebody set",
        "module.py:24: Whether it was live is ignored.",
    ]
    assert found.semicolons == ["module.py:1: Return the leases; nobody else may."]


def test_pages_are_counted_without_code_headings_and_quotes_but_with_cells(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    found = rates([tmp_path], tmp_path)
    assert found.pronouns == [
        "page.md:10: whoever asks; the caller",
        "page.md:12: It is renewed by everybody.",
    ]
    assert found.questions == [
        "page.md:8: what it is",
        "page.md:12: What a caller gets: see [the page].",
        "page.md:17: Whether it lives;",
    ]
    assert found.semicolons == ["page.md:10: whoever asks; the caller", "page.md:17: Whether it lives;"]


def test_rates_are_per_1000_words_and_per_100_statements(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Nobody waits; a lease ends.\n\nWho ends it is known.\n")
    found = rates([tmp_path], tmp_path)
    assert (found.words, found.sentences) == (10, 2)
    assert (found.pronouns_per_1000, found.questions_percent, found.semicolons_per_1000) == (100, 50, 100)
