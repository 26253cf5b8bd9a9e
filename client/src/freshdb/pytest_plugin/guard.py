"""The guard of a test run: switched on before pytest imports the project's code, switched off when the run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from freshdb.pytest_plugin.settings import read_guard

if TYPE_CHECKING:
    from pathlib import Path

    from freshdb.toolkit.guard import Guard

_GUARD: Final = pytest.StashKey["Guard"]()
_ADVICE: Final = (
    "Use the URL of a freshdb fixture in the code under test, or allow this URL (* matches anything): "
    "guard_allow = [{url!r}] in [tool.freshdb]. `pytest --freshdb-guard=report` lists all such connections, "
    "--freshdb-guard=off allows them."
)


def start_guard(config: pytest.Config) -> None:
    """Switch the guard on unless the settings say ``off``. It is switched off at the end of the run, also after an error."""
    settings = read_guard(config)
    if settings.mode == "off":
        return
    from freshdb.toolkit.guard import Guard  # noqa: PLC0415 - see the package

    guard = Guard(
        allow=settings.allow,
        report=settings.mode == "report",
        scratch=lambda: _scratch(config),
        advice=_ADVICE,
    )
    config.add_cleanup(guard.off)
    config.stash[_GUARD] = guard
    guard.on()


def take_offences(config: pytest.Config) -> list[str]:
    """Return the connections that were refused or reported since the last call."""
    guard: Guard | None = config.stash.get(_GUARD, None)
    if guard is None:
        return []
    found, guard.offences = guard.offences, []
    return [f"{one}{f' (in {one.test})' if one.test else ''}" for one in found]


def _scratch(config: pytest.Config) -> Path | None:
    """Return the base of the run's ``tmp_path`` directories, which xdist's workers share."""
    factory: pytest.TempPathFactory | None = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        return None
    own = factory.getbasetemp()
    return own.parent if hasattr(config, "workerinput") else own
