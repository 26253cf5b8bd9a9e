"""Environment variables for programs that tests start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NO_PLUGINS: Final[Mapping[str, str]] = {
    "PYTEST_ADDOPTS": "-p no:schemathesis -p no:hypothesispytest -p no:anyio -p no:faker -p no:django"
}
"""Variables for a pytest that a test starts. It loads none of our plugins, which take ten times as long as pytest itself."""

WARNINGS_AS_ERRORS: Final[dict[str, str]] = {"PYTHONWARNINGS": "error"}
"""Variables for services and commands of freshdb. A warning, for example of a newer Python, is an error there, too."""
