"""What the plugin has to say beside the tests' own reports; told in one place, by the process that has the terminal.

Remarks travel on the next report, or with what an xdist worker leaves at its end (``workeroutput``), as plain lists.
"""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

import pytest


class ProcessReport(TypedDict):
    """News of one process since it last told."""

    kept: list[str]
    """How to open each database that was kept."""
    lost: list[list[str]]
    """Node id and message for each test whose lease turned out to be lost after the test had ended."""
    unreleased: list[str]
    """Leases that could not be given back."""
    offences: list[str]
    """Connections to what is no lease."""


class Reporter:
    """Gathers remarks, xdist workers' included, and tells them."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._kept: list[str] = []
        self._unreleased: list[str] = []
        self._offences: Counter[str] = Counter()

    def take(self, remarks: ProcessReport | None) -> None:
        """Take what a process had to say; a lost lease is an error of its test at once."""
        if remarks is None:
            return
        self._kept += remarks["kept"]
        self._unreleased += remarks["unreleased"]
        self._offences.update(remarks["offences"])
        for node_id, message in remarks["lost"]:
            self._config.hook.pytest_runtest_logreport(report=_error(node_id, message))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the remarks that came with a report."""
        self.take(getattr(report, "freshdb", None))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell what a person may want to act on."""
        for title, lines in (
            ("databases of failed tests, kept for an hour", self._kept),
            ("freshdb: leases that could not be given back; their TTL ends them", self._unreleased),
            (
                "freshdb guard: connections to what is no lease",
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
