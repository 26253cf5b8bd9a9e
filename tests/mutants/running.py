"""Tries one mutant: in a copy of the package, which stands first on the path of its tests."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.mutants.mutants import Equivalent, Mutant, Statement

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "service" / "src" / "freshdb_service"
STORE: Final = PACKAGE / "store"
_PLUGINS: Final = ("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout")
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) \S*?test_(\w+\.py::\S+)", re.MULTILINE)
_INVALID_SQL: Final = re.compile(
    r"syntax error|UndefinedColumn|UndefinedTable|DatatypeMismatch|AmbiguousParameter|NameError"
)


class InvalidMutant(Exception):
    """A mutant does not fit the source: its text is not found exactly once."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one mutant. ``killed_by`` is empty if it survived."""

    statement: Statement
    mutant: Mutant
    killed_by: str
    seconds: float


def source_of(statement: Statement) -> tuple[str, int, int]:
    """Return the text of a statement's module, and the statement's first and last character in it."""
    text = (STORE / f"{statement.module}.py").read_text()
    wanted = statement.name.partition(".")[2]
    for node in ast.parse(text).body:
        if wanted in names_of(node):
            lines = text.splitlines(keepends=True)
            end = node.end_lineno or node.lineno
            return text, len("".join(lines[: node.lineno - 1])), len("".join(lines[:end]))
    raise InvalidMutant(f"{statement.name}: no such statement")


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name]
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return [target.id for target in targets if isinstance(target, ast.Name)]


def spans(statement: Statement, change: Mutant | Equivalent) -> list[tuple[int, int]]:
    """Return where in its module a change is made.

    Raises:
        Misfit: a text is not found exactly once.
    """
    text, begin, end = source_of(statement)
    found = []
    for find in [one for one, _ in change.edits] if isinstance(change, Mutant) else [change.find]:
        if (times := text.count(find, begin, end)) != 1:
            raise InvalidMutant(f"{statement.name}: {find!r} is found {times} times")
        at = text.index(find, begin, end)
        found.append((at, at + len(find)))
    return found


def mutated(statement: Statement, mutant: Mutant) -> str:
    """Return the text of the module with the mutant in it."""
    text, _, _ = source_of(statement)
    edits = [
        (span, replacement)
        for span, (_, replacement) in zip(spans(statement, mutant), mutant.edits, strict=True)
    ]
    for (begin, end), replacement in sorted(edits, reverse=True):
        text = text[:begin] + replacement + text[end:]
    return text


class Copy:
    """A copy of the package, for one mutant at a time, and a process that runs tests on it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        shutil.copytree(PACKAGE, directory / PACKAGE.name)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self._tests = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.child"],
            cwd=ROOT,
            env={
                **environment,
                "PYTHONPATH": str(directory),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tests.communicate()

    def attempt(self, statement: Statement, mutant: Mutant | None) -> tuple[str, float]:
        """Run a statement's tests on a mutant, or on the unchanged package.

        Returns:
            The test that failed, or nothing if all passed, and the duration in seconds.

        Raises:
            Misfit: the tests did not run, or the mutant is no valid SQL.
        """
        module = self._directory / PACKAGE.name / "store" / f"{statement.module}.py"
        original = module.read_text()
        began = time.monotonic()
        try:
            if mutant is not None:
                module.write_text(mutated(statement, mutant))
            return self._run(statement), time.monotonic() - began
        finally:
            module.write_text(original)

    def _run(self, statement: Statement) -> str:
        tests = "leases" if statement.module == "pools" else statement.module
        output = self._directory / "output"
        arguments = [
            "-x",
            "-q",
            "--no-header",
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
            *_PLUGINS,
        ]
        arguments += [f"tests/integration/store/test_{tests}.py", "-k", statement.tests]
        assert self._tests.stdin is not None
        assert self._tests.stdout is not None
        self._tests.stdin.write(json.dumps([str(output), *arguments]) + "\n")
        self._tests.stdin.flush()
        code = int(self._tests.stdout.readline())
        if code == 0:
            return ""
        output_text = output.read_text()
        failed = _FAILED.search(output_text)
        if code != 1 or failed is None or _INVALID_SQL.search(output_text):
            raise InvalidMutant(f"{statement.name}: its tests did not run:\n{output_text[-3000:]}")
        refused = " (refused by the trigger)" if "IllegalTransition" in output_text else ""
        return f"test_{failed[1]}{refused}"
