"""Readers of the files in ``deploy/``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
_SETTING = re.compile(r"^(\w+)\s*=\s*('[^']*'|[^\s#]+)", re.MULTILINE)


def compose(variables: dict[str, str]) -> dict[str, Any]:
    """Return the compose file, with these variables.

    Raises:
        KeyError: a variable without a default is missing.
    """

    def value(found: re.Match[str]) -> str:
        name, operator, default = found.groups()
        return variables[name] if name in variables or operator != ":-" else default

    read: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(value, (DEPLOY / "compose.yaml").read_text()))
    return read


def postgres_settings(name: str) -> dict[str, str]:
    """Return the settings in a configuration file for PostgreSQL."""
    text = (DEPLOY / "postgres" / name).read_text()
    return {name: value.strip("'") for name, value in _SETTING.findall(text)}


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Return every object of the Kubernetes base, with the name of its file."""
    return [
        (path.name, one)
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for one in yaml.safe_load_all(path.read_text())
    ]
