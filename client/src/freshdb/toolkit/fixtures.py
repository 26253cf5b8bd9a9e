"""pytest fixtures for cleanup and sessions.

Load them in the ``conftest.py`` at the root of your tests::

    pytest_plugins = ["freshdb.toolkit.fixtures"]

===========================  ======================================================================================
``toolkit_dsn``              DSN of the database: freshdb's lease of the session, or the value of your own fixture of this
                             name (scope: session)
``clean_database``           a ``Cleanup`` that restores the database after this test
``clean_database_class``     the same after the last test of a class
``clean_database_module``    the same after the last test of a module
``session_factory``          a ``TestSessionFactory`` for this test
===========================  ======================================================================================

The scopes can be combined. Rows that the fixtures of a class add after ``clean_database_class`` exist in each of its tests,
and are removed after the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from freshdb.toolkit.cleanup import Cleanup
    from freshdb.toolkit.sessions import TestSessionFactory

# Each fixture imports its own module, because cleanup needs the service's package, and sessions do not.


@pytest.fixture(scope="session")
def toolkit_dsn(request: pytest.FixtureRequest) -> str:
    """DSN of the database that the toolkit's fixtures use."""
    url: str = request.getfixturevalue("freshdb_session").url
    return url


@pytest.fixture(scope="session")
def _toolkit_engine(toolkit_dsn: str) -> Iterator[Engine]:
    from freshdb.toolkit.engines import engine_of  # noqa: PLC0415 - see above

    engine = engine_of(toolkit_dsn, pool_size=2)  # one connection for cleanup, one for the sessions of a test
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _toolkit_cleanups(_toolkit_engine: Engine) -> Mapping[str, Cleanup]:
    from freshdb.toolkit.cleanup import Cleanup  # noqa: PLC0415 - see above

    return {scope: Cleanup(_toolkit_engine) for scope in ("function", "class", "module")}


def _restored(request: pytest.FixtureRequest) -> Iterator[Cleanup]:
    cleanup: Cleanup = request.getfixturevalue("_toolkit_cleanups")[request.scope]
    cleanup.note_if_changed()
    yield cleanup
    cleanup.reset()


@pytest.fixture
def clean_database(request: pytest.FixtureRequest) -> Iterator[Cleanup]:
    """Restore the database after this test to its state before."""
    yield from _restored(request)


@pytest.fixture(scope="class")
def clean_database_class(request: pytest.FixtureRequest) -> Iterator[Cleanup]:
    """Restore the database after the last test of this class to its state before the first."""
    yield from _restored(request)


@pytest.fixture(scope="module")
def clean_database_module(request: pytest.FixtureRequest) -> Iterator[Cleanup]:
    """Restore the database after the last test of this module to its state before the first."""
    yield from _restored(request)


@pytest.fixture
def session_factory(request: pytest.FixtureRequest, _toolkit_engine: Engine) -> Iterator[TestSessionFactory]:
    """A factory of sessions whose changes are rolled back after this test."""
    from freshdb.toolkit.sessions import TestSessionFactory  # noqa: PLC0415 - see above

    with TestSessionFactory(_toolkit_engine, test=request.node.nodeid) as factory:
        yield factory
