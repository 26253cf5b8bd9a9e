"""The plugin's settings, and the sources of each.

The first source that has a value wins:

1. the command line (``--freshdb-url`` and so on),
2. the project: the ini option of pytest's own configuration (``freshdb_url``), then ``[tool.freshdb]``,
3. the environment (``FRESHDB_URL`` and so on),
4. the default.

The token has only one source, ``FRESHDB_TOKEN``, because command lines show in process lists and a project's
files are committed.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import pytest

if TYPE_CHECKING:
    from freshdb.models import Isolation
    from freshdb.project import Project

ISOLATIONS: Final = ("database", "schema")
_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"", "0", "false", "no", "off"})
_GUARDS: Final = ("on", "report", "off")
_PROJECT_KEYS: Final = ("url", "template", "isolation", "prefetch", "guard")


class _Option(NamedTuple):
    name: str
    metavar: str
    help: str


_OPTIONS: Final = (
    _Option("url", "URL", "URL of the freshdb service (default: start an embedded service and keep it)"),
    _Option("template", "NAME", "template to clone: NAME or NAME@FINGERPRINT"),
    _Option("isolation", "KIND", "isolation of each clone: database (the default) or schema"),
    _Option("wait", "SECONDS", "timeout of a test that waits for a database (default 30)"),
    _Option("ttl", "SECONDS", "TTL of the leases: how long one outlives a run that was killed (default 300)"),
    _Option(
        "prefetch",
        "NUMBER",
        "number of leases to acquire before their tests start (default 1); 0: acquire and release while the test waits",
    ),
    _Option(
        "guard",
        "MODE",
        "connections to databases that are not leased: on (refuse; the default if a template is set), report (list) or off",
    ),
)
_ALLOW: Final = "URLs without passwords that the guard allows; * matches anything"


@dataclass(frozen=True, slots=True)
class Settings:
    """The effective settings of the plugin."""

    url: str | None
    template: str | None
    isolation: Isolation
    wait_seconds: float
    ttl_seconds: float
    keep: bool
    prefetch: int
    project: Project | None


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Mode and allowed URLs of the guard."""

    mode: str
    allow: tuple[str, ...]


def add_options(parser: pytest.Parser) -> None:
    """Declare the command-line options and the ini options of the same names."""
    group = parser.getgroup("freshdb", "clean PostgreSQL databases")
    for option in _OPTIONS:
        name = f"freshdb_{option.name}"
        group.addoption(f"--freshdb-{option.name}", dest=name, metavar=option.metavar, help=option.help)
        parser.addini(name, option.help, type="string", default=None)
    keep = "keep the database of a failed test for an hour and print how to open it with psql"
    group.addoption("--freshdb-keep", dest="freshdb_keep", action="store_const", const="true", help=keep)
    parser.addini("freshdb_keep", keep, type="string", default=None)
    parser.addini("freshdb_guard_allow", _ALLOW, type="linelist", default=[])


def read_settings(config: pytest.Config) -> Settings:
    """Read every setting from its first source that has a value.

    Raises:
        pytest.UsageError: a value or ``[tool.freshdb]`` is malformed. The message names the source.
    """
    project = _load_project(config)
    isolation, source = _find(config, project, "isolation") or ("database", "default")
    return Settings(
        url=_value(_find(config, project, "url")),
        template=_value(_find(config, project, "template")),
        isolation=parse_isolation(isolation, source),
        wait_seconds=_seconds(_find(config, project, "wait"), default=30.0),
        ttl_seconds=_seconds(_find(config, project, "ttl"), default=300.0),
        keep=_flag(_find(config, project, "keep")),
        prefetch=_count(_find(config, project, "prefetch"), default=1),
        project=project,
    )


def read_guard(config: pytest.Config) -> GuardSettings:
    """Read the guard's settings, before the command line is parsed completely. The lists of allowed URLs add up.

    Raises:
        pytest.UsageError: a value or ``[tool.freshdb]`` is malformed. The message names the source.
    """
    project = _load_project(config)
    found = _find(config, project, "guard")
    if found is None:
        mode = "off" if _find(config, project, "template") is None else "on"
    elif found.value in _GUARDS:
        mode = found.value
    else:
        raise pytest.UsageError(
            f"freshdb: {found.source}: {found.value!r} must be one of {', '.join(_GUARDS)}"
        )
    named = os.environ.get("FRESHDB_GUARD_ALLOW", "").split()
    allowed = (*config.getini("freshdb_guard_allow"), *(project.guard_allow if project else ()), *named)
    return GuardSettings(mode, allowed)


def parse_isolation(text: str, source: str) -> Isolation:
    """Check an isolation that comes from `source`.

    Raises:
        pytest.UsageError: the text is neither ``database`` nor ``schema``.
    """
    if text not in ISOLATIONS:
        raise pytest.UsageError(f"freshdb: {source}: {text!r} is not an isolation: use database or schema")
    return cast("Isolation", text)


class _Found(NamedTuple):
    value: str
    source: str


def _find(config: pytest.Config, project: Project | None, name: str) -> _Found | None:
    given = config.getoption(f"freshdb_{name}", default=None)
    if given is None:  # the command line is not parsed completely yet
        given = getattr(config.known_args_namespace, f"freshdb_{name}", None)
    if given is not None:
        return _Found(str(given), f"--freshdb-{name}")
    given = config.getini(f"freshdb_{name}")
    if given:
        return _Found(str(given), f"freshdb_{name} in {config.inipath or 'the ini options'}")
    if project is not None and name in _PROJECT_KEYS:
        value: object = getattr(project, name)
        if value is not None:
            return _Found(str(value), f"[tool.freshdb] {name}")
    variable = f"FRESHDB_{name.upper()}"
    text = os.environ.get(variable)
    return _Found(text, variable) if text else None


def _value(found: _Found | None) -> str | None:
    return None if found is None else found.value


def _seconds(found: _Found | None, *, default: float) -> float:
    if found is None:
        return default
    try:
        seconds = float(found.value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise pytest.UsageError(f"freshdb: {found.source}: {found.value!r} is not a number of seconds")
    return seconds


def _count(found: _Found | None, *, default: int) -> int:
    if found is None:
        return default
    if not found.value.isdecimal():
        raise pytest.UsageError(f"freshdb: {found.source}: {found.value!r} is not a whole number >= 0")
    return int(found.value)


def _flag(found: _Found | None) -> bool:
    text = "" if found is None else found.value.lower()
    if text not in _YES | _NO:
        source = "" if found is None else found.source
        raise pytest.UsageError(f"freshdb: {source}: {text!r} is not a boolean: use true or false")
    return text in _YES


def _load_project(config: pytest.Config) -> Project | None:
    from freshdb.errors import ProjectInvalid  # noqa: PLC0415 - loaded by every pytest run: see the package
    from freshdb.project import load_project  # noqa: PLC0415

    try:
        return load_project(config.rootpath)
    except ProjectInvalid as error:
        raise pytest.UsageError(f"freshdb: {error}") from error
