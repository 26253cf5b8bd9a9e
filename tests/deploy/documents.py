"""Reads what ``deploy/`` has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}")
_SETTING = re.compile(r"^(\w+)\s*=\s*('[^']*'|[^\s#]+)", re.MULTILINE)


def compose(variables: dict[str, str]) -> dict[str, Any]:
    """The compose file, with these variables.

    Raises:
        KeyError: one that has no default is not given.
    """

    def value(found: re.Match[str]) -> str:
        name, operator, default = found.groups()
        return variables[name] if name in variables or operator != ":-" else default

    read: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(value, (DEPLOY / "compose.yaml").read_text()))
    return read


def postgres_settings(name: str) -> dict[str, str]:
    """What a configuration file for PostgreSQL sets."""
    text = (DEPLOY / "postgres" / name).read_text()
    return {name: value.strip("'") for name, value in _SETTING.findall(text)}


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Every object of the Kubernetes base, and the file it is in."""
    return [
        (path.name, one)
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for one in yaml.safe_load_all(path.read_text())
    ]
