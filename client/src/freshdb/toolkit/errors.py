"""Every error that the toolkit raises on purpose.

::

    FreshdbError
    └── ToolkitError
        ├── WrongTarget        this is no engine, connection or DSN that the call can use
        ├── UnknownTable       the database has no such table, or sequence
        ├── NotATable          it is a view, or something else that holds no rows of its own
        ├── CircularTables     tables refer to each other in a circle that nothing loosens
        ├── InTransaction      the connection has a transaction open already
        ├── DatabaseInUse      another connection writes in a transaction that it has not ended
        ├── NotNoted           nobody noted what clean is
        ├── NotClean           the database is another than was noted, and cannot be put back
        ├── WouldCascade       tables that were not named would lose rows, too
        ├── DataInvalid        test data that cannot be set up
        ├── DataDiffers        what is in the database is not what was expected; an AssertionError, too
        ├── SessionEnded       a session was used after its test
        ├── SessionsEntangled  a rollback would take another session's work along
        └── WrongEventLoop     a connection was used in another event loop than its own
"""

from __future__ import annotations

from collections.abc import Sequence

from freshdb.errors import FreshdbError


class ToolkitError(FreshdbError):
    """Root of what the toolkit raises on purpose."""


class WrongTarget(ToolkitError):
    """This is no engine, connection or DSN that the call can use; the text says what is wanted instead."""


class UnknownTable(ToolkitError):
    """The database has no such table, or sequence; the text says which there are."""


class NotATable(ToolkitError):
    """It is a view, or something else that holds no rows of its own."""


class CircularTables(ToolkitError):
    """Tables refer to each other in a circle, by columns that may not be null and are checked at once."""


class InTransaction(ToolkitError):
    """The connection has a transaction open already: end it first, or hand over the engine."""


class SessionEnded(ToolkitError):
    """A session was used after its test; nothing was sent to the database."""


class SessionsEntangled(ToolkitError):
    """Two sessions of one test wrote in turn, and now the older rolls back: that would undo the younger one's work, too."""


class WrongEventLoop(ToolkitError):
    """A connection was used in another event loop than the one it was opened in; nothing was sent."""


class DatabaseInUse(ToolkitError):
    """Another connection writes to the database in a transaction that it has not ended; the text says who."""


class NotNoted(ToolkitError):
    """Nobody has noted what a clean database is like: call ``note`` first."""


class NotClean(ToolkitError):
    """The database is another than was noted.

    Attributes:
        differences: one sentence each.
    """

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = tuple(differences)


class WouldCascade(ToolkitError):
    """Tables that were not named refer to rows that would go, or are referred to by rows that would come; nothing was done.

    Attributes:
        tables: these tables.
    """

    def __init__(self, message: str, tables: Sequence[str]) -> None:
        super().__init__(message)
        self.tables = tuple(tables)


class DataInvalid(ToolkitError):
    """Test data that cannot be set up; the text says where, and what would do. Nothing was done."""


class DataDiffers(ToolkitError, AssertionError):
    """What is in the database is not what was expected; the text shows the difference."""
