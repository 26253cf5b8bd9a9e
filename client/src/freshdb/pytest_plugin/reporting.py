"""Messages of the plugin beside the tests' own reports: sections of pytest's terminal summary, and late errors.

Only the process with the terminal prints them. Other processes attach their messages to the next test report, or
an xdist worker attaches them to its ``workeroutput`` when it ends. They are plain lists, so that xdist can serialize them.
"""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

import pytest


class ProcessReport(TypedDict):
    """Messages of one process since its last report."""

    kept: list[str]
    """For each kept database, the command that opens it."""
    lost: list[list[str]]
    """Node id and message of each test whose lease proved to be lost after the test had ended."""
    unreleased: list[str]
    """Ids of the leases that could not be released."""
    offences: list[str]
    """Connections to databases that are not leased."""


class Reporter:
    """Collects the messages of this process and of xdist workers, and prints them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._kept: list[str] = []
        self._unreleased: list[str] = []
        self._offences: Counter[str] = Counter()
        self.warnings: tuple[str, ...] = ()
        """Warnings about the builds of this run's templates."""

    def add(self, report: ProcessReport | None) -> None:
        """Add the messages of a process. A lost lease is reported as an error of its test immediately."""
        if report is None:
            return
        self._kept += report["kept"]
        self._unreleased += report["unreleased"]
        self._offences.update(report["offences"])
        for node_id, message in report["lost"]:
            self._config.hook.pytest_runtest_logreport(report=_error(node_id, message))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the messages that are attached to a test report."""
        self.add(getattr(report, "freshdb", None))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print one section per kind of message."""
        if self.warnings:
            terminalreporter.section("freshdb: warnings about templates", yellow=True, bold=True)
            for warning in self.warnings:
                terminalreporter.write_line(warning, yellow=True)
        for title, lines in (
            ("databases of failed tests, kept for an hour", self._kept),
            ("freshdb: leases that could not be released; their TTL ends them", self._unreleased),
            (
                "freshdb guard: connections to databases that are not leased",
                [
                    f"{offence}, {times} times" if times > 1 else offence
                    for offence, times in self._offences.items()
                ],
            ),
        ):
            if lines:
                terminalreporter.section(title)
                for line in lines:
                    terminalreporter.write_line(line)


def _error(node_id: str, message: str) -> pytest.TestReport:
    path, _, name = node_id.partition("::")
    location = (path, None, name.replace("::", "."))
    return pytest.TestReport(node_id, location, {}, "failed", message, "teardown")
