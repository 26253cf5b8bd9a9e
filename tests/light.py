"""What a pytest that a test starts need not load: plugins of our own, which take ten times as long as pytest itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LIGHT: Final[Mapping[str, str]] = {
    "PYTEST_ADDOPTS": "-p no:schemathesis -p no:hypothesispytest -p no:anyio -p no:faker -p no:django"
}
"""Variables for its environment."""
