"""Tries every mutant, and writes which test killed it: ``python -m tests.mutants [STATEMENT …]`` (``make mutants``).

With statements named (``databases._STRAYS``), only their mutants are tried, and nothing is written.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.mutants import STATEMENTS, Mutant, Statement
from tests.mutants.running import ROOT, Copy, InvalidMutant, Verdict

PAGE = ROOT / "docs" / "mutants.md"
WORKERS = int(os.environ.get("WORKERS", "2"))

TEXT = """# Mutants of the statements that change a state

`make mutants` wrote this page. Triggers in the control plane's database refuse [illegal transitions](lifecycle.md). They
cannot refuse a legal transition under a wrong condition. Therefore each statement that changes a database, a lease or a
template is changed in one place at a time: a state is swapped, or a condition is removed. The tests of the statement run on
a copy of the package with this change, and one of them must fail.

{total} mutants, all killed.

| statement | mutants | killed |
|---|---:|---:|
{summary}

## Each mutant

| statement | source | mutant | killed by | seconds |
|---|---|---|---|---:|
{rows}

## Not tried

These conditions can be removed without a change of what the statement does.

| statement | condition | reason |
|---|---|---|
{equivalents}
"""


def main(names: list[str]) -> int:
    """Try the mutants, and write the page if all are killed."""
    chosen = [one for one in STATEMENTS if not names or one.name in names]
    verdicts, invalid = verdicts_of(chosen)
    survivors = [one for one in verdicts if not one.killed_by]
    for verdict in survivors:
        print(f"SURVIVED {verdict.statement.name}: {_change(verdict.mutant)}")  # noqa: T201 - a command prints
    for problem in invalid:
        print(f"INVALID {problem}")  # noqa: T201 - a command prints
    print(f"{len(verdicts) - len(survivors)} of {len(verdicts) + len(invalid)} mutants killed")  # noqa: T201
    if survivors or invalid:
        return 1
    if not names:
        PAGE.write_text(_page(verdicts))
    return 0


def verdicts_of(statements: list[Statement]) -> tuple[list[Verdict], list[InvalidMutant]]:
    """Try every mutant of these statements, in parallel. Their tests must pass without a mutant."""
    verdicts: list[Verdict] = []
    invalid: list[InvalidMutant] = []
    copies: SimpleQueue[Copy] = SimpleQueue()

    def try_mutant(statement: Statement, mutant: Mutant | None) -> None:
        copy = copies.get()
        try:
            killed_by, seconds = copy.attempt(statement, mutant)
        except InvalidMutant as error:
            invalid.append(error)
        else:
            if mutant is not None:
                verdicts.append(Verdict(statement, mutant, killed_by, seconds))
                result = f"{killed_by or 'SURVIVED'} ({seconds:.1f} s)"
                print(f"{statement.name}: {_change(mutant)}: {result}", flush=True)  # noqa: T201 - a command prints
            elif killed_by:
                invalid.append(InvalidMutant(f"{statement.name}: {killed_by} fails without a mutant"))
        finally:
            copies.put(copy)

    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(WORKERS):
            copies.put(stack.enter_context(Copy(directory / str(number))))
        pool = stack.enter_context(ThreadPoolExecutor(WORKERS))
        for done in [pool.submit(try_mutant, *one) for one in _work(statements)]:
            done.result()
    order = {(one.name, mutant): n for n, (one, mutant) in enumerate(_work(statements))}
    return sorted(verdicts, key=lambda one: order[one.statement.name, one.mutant]), invalid


def _work(statements: list[Statement]) -> Iterator[tuple[Statement, Mutant | None]]:
    for statement in statements:
        yield statement, None
        for mutant in statement.mutants:
            yield statement, mutant


def _change(mutant: Mutant) -> str:
    return "; ".join(f"{_code(find)} → {_code(replacement)}" for find, replacement in mutant.edits)


def _code(text: str) -> str:
    words = " ".join(text.split()).replace("|", "\\|")
    return f"`{words}`" if words else "nothing"


def _page(verdicts: list[Verdict]) -> str:
    summary = [f"| `{one.name}` | {len(one.mutants)} | {len(one.mutants)} |" for one in STATEMENTS]
    rows = [
        f"| `{one.statement.name}` | {', '.join(_code(find) for find, _ in one.mutant.edits)} "
        f"| {', '.join(_code(replacement) for _, replacement in one.mutant.edits)} | `{one.killed_by.partition(' ')[0]}`"
        f"{''.join(one.killed_by.partition(' ')[1:])} | {one.seconds:.1f} |"
        for one in verdicts
    ]
    equivalents = [
        f"| `{statement.name}` | {_code(one.find)} | {one.reason} |"
        for statement in STATEMENTS
        for one in statement.equivalents
    ]
    return TEXT.format(
        total=len(verdicts),
        summary="\n".join(summary),
        rows="\n".join(rows),
        equivalents="\n".join(equivalents),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
