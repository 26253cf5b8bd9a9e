"""The guard of a run: on before the project's own code is imported, off when the run has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from freshdb.pytest_plugin.settings import read_guard

if TYPE_CHECKING:
    from pathlib import Path

    from freshdb.toolkit.guard import Guard

_GUARD: Final = pytest.StashKey["Guard"]()
_MEND: Final = (
    "Have the code under test use the URL of a freshdb fixture; or allow this one, where * stands for anything: "
    "guard_allow = [{url!r}] in [tool.freshdb]. `pytest --freshdb-guard=report` lists all such connections, "
    "--freshdb-guard=off lets them pass."
)


def start_guard(config: pytest.Config) -> None:
    """Put it on, if the settings say so; the run's end takes it off, however it ends."""
    settings = read_guard(config)
    if settings.mode == "off":
        return
    from freshdb.toolkit.guard import Guard  # noqa: PLC0415 - see the package

    guard = Guard(
        allow=settings.allow,
        report=settings.mode == "report",
        scratch=lambda: _scratch(config),
        mend=_MEND,
    )
    config.add_cleanup(guard.off)
    config.stash[_GUARD] = guard
    guard.on()


def take_offences(config: pytest.Config) -> list[str]:
    """What was refused, or only noted, since the last time."""
    guard: Guard | None = config.stash.get(_GUARD, None)
    if guard is None:
        return []
    found, guard.offences = guard.offences, []
    return [f"{one}{f' (in {one.test})' if one.test else ''}" for one in found]


def _scratch(config: pytest.Config) -> Path | None:
    """The run's own temporary directory: what ``tmp_path`` is made in, and what xdist's workers share."""
    factory: pytest.TempPathFactory | None = getattr(config, "_tmp_path_factory", None)
    if factory is None:
        return None
    own = factory.getbasetemp()
    return own.parent if hasattr(config, "workerinput") else own
