"""pytest's fixtures for cleanup and sessions.

They are listed in the ``conftest.py`` at the root of one's tests::

    pytest_plugins = ["freshdb.toolkit.fixtures"]

===========================  ======================================================================================
``toolkit_dsn``              which database: freshdb's lease of the session, or what your own fixture of this name
                             returns (scope: session)
``clean_database``           a ``Cleanup``; after this test, the database is what it was before
``clean_database_class``     the same around the tests of a class
``clean_database_module``    the same around the tests of a module
``session_factory``          a ``TestSessionFactory`` for this test
===========================  ======================================================================================

The scopes can be used together: what a class's fixtures add after ``clean_database_class`` is there for each of its tests,
and gone after the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from freshdb.toolkit.cleanup import Cleanup
    from freshdb.toolkit.sessions import TestSessionFactory

# What these need is loaded by those who use it: sessions work without the service's package, which cleanup needs.


@pytest.fixture(scope="session")
def toolkit_dsn(request: pytest.FixtureRequest) -> str:
    """The database that the toolkit's fixtures work on."""
    url: str = request.getfixturevalue("freshdb_session").url
    return url


@pytest.fixture(scope="session")
def _toolkit_engine(toolkit_dsn: str) -> Iterator[Engine]:
    from freshdb.toolkit.engines import engine_of  # noqa: PLC0415 - see above

    engine = engine_of(toolkit_dsn, pool_size=2)  # one for cleaning, one for a test's sessions
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _toolkit_cleanups(_toolkit_engine: Engine) -> Mapping[str, Cleanup]:
    from freshdb.toolkit.cleanup import Cleanup  # noqa: PLC0415 - see above

    return {scope: Cleanup(_toolkit_engine) for scope in ("function", "class", "module")}


def _cleaned(request: pytest.FixtureRequest) -> Iterator[Cleanup]:
    cleanup: Cleanup = request.getfixturevalue("_toolkit_cleanups")[request.scope]
    cleanup.note_if_changed()
    yield cleanup
    cleanup.reset()


@pytest.fixture
def clean_database(request: pytest.FixtureRequest) -> Iterator[Cleanup]:
    """After this test, the database is what it was before."""
    yield from _cleaned(request)


@pytest.fixture(scope="class")
def clean_database_class(request: pytest.FixtureRequest) -> Iterator[Cleanup]:
    """After the last test of this class, the database is what it was before the first."""
    yield from _cleaned(request)


@pytest.fixture(scope="module")
def clean_database_module(request: pytest.FixtureRequest) -> Iterator[Cleanup]:
    """After the last test of this module, the database is what it was before the first."""
    yield from _cleaned(request)


@pytest.fixture
def session_factory(request: pytest.FixtureRequest, _toolkit_engine: Engine) -> Iterator[TestSessionFactory]:
    """Sessions of which nothing is left after this test."""
    from freshdb.toolkit.sessions import TestSessionFactory  # noqa: PLC0415 - see above

    with TestSessionFactory(_toolkit_engine, test=request.node.nodeid) as factory:
        yield factory
