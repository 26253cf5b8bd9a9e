"""The list of mutants fits the source and is complete. Two mutants are tried, other ones each day."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.mutants.mutants import STATEMENTS, Statement
from tests.mutants.running import STORE, Copy, mutated, names_of, source_of, spans

CHANGES = re.compile(
    r"(UPDATE|INSERT INTO|DELETE FROM) (databases|leases|templates)\b"
    r"|\b(update|insert|delete)\((databases|leases|templates)\)"
    r"|\b(databases|leases|templates)\.(update|insert|delete)\(\)"
)
STATES = re.compile(
    r"""(?<!label\()['"](creating|ready|leased|dirty|resetting|kept|failed|dropping|active|released|expired|revoked|building|retired)['"]"""
    r"|\b(DatabaseState|LeaseState|TemplateState)\.[A-Z]+\b"
)


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda one: one.name)
def test_every_mutant_fits_the_source(statement: Statement) -> None:
    for mutant in statement.mutants:
        ast.parse(mutated(statement, mutant))
    for equivalent in statement.equivalents:
        assert spans(statement, equivalent)


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda one: one.name)
def test_every_state_in_a_statement_is_part_of_a_mutant(statement: Statement) -> None:
    text, begin, end = source_of(statement)
    covered = [span for mutant in statement.mutants for span in spans(statement, mutant)]
    covered += [span for equivalent in statement.equivalents for span in spans(statement, equivalent)]
    for state in STATES.finditer(text, begin, end):
        assert any(low <= state.start() and state.end() <= high for low, high in covered), (
            f"{state.group()} in line {text.count(chr(10), 0, state.start()) + 1} of {statement.module}"
        )


def test_every_statement_that_changes_these_tables_has_mutants() -> None:
    listed = {statement.name for statement in STATEMENTS}
    for path in STORE.glob("*.py"):
        text = path.read_text()
        for node in ast.parse(text).body:
            if CHANGES.search(ast.get_source_segment(text, node) or ""):
                [name] = names_of(node)
                assert f"{path.stem}.{name}" in listed


def test_mutants_are_killed(tmp_path: Path) -> None:
    every = [(statement, mutant) for statement in STATEMENTS for mutant in statement.mutants]
    today = datetime.now(UTC).toordinal()
    with Copy(tmp_path / "copy") as copy:
        for nth in range(2):
            statement, mutant = every[(2 * today + nth) % len(every)]
            killed_by, _ = copy.attempt(statement, mutant)
            assert killed_by, f"survived: {statement.name}: {mutant}"
