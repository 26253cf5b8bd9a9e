"""The errors of the toolkit.

::

    FreshdbError
    └── ToolkitError
        ├── WrongTarget        the call cannot use this engine, connection or DSN
        ├── UnknownTable       the database does not have this table or sequence
        ├── NotATable          this is a view or a partition, not a table
        ├── CircularTables     tables refer to each other in a cycle that cannot be broken
        ├── InTransaction      the connection already has an open transaction
        ├── DatabaseInUse      another connection has an open transaction that writes
        ├── NotNoted           ``note`` has not recorded the clean state
        ├── NotClean           the database differs from the recorded state, and cannot be restored
        ├── WouldCascade       tables that were not named would lose rows
        ├── DataInvalid        test data cannot be inserted
        ├── DataDiffers        the rows differ from the expected ones (also an AssertionError)
        ├── SessionEnded       a session was used after the end of its test
        ├── SessionsEntangled  a rollback would undo the work of another session
        └── WrongEventLoop     a connection was used in another event loop than its own
"""

from __future__ import annotations

from collections.abc import Sequence

from freshdb.errors import FreshdbError


class ToolkitError(FreshdbError):
    """Base class of the toolkit's errors."""


class WrongTarget(ToolkitError):
    """The call cannot use this engine, connection or DSN. The message says what it needs instead."""


class UnknownTable(ToolkitError):
    """The database does not have this table or sequence. The message lists similar ones."""


class NotATable(ToolkitError):
    """This is a view or a partition, not a table."""


class CircularTables(ToolkitError):
    """Tables refer to each other in a cycle, by columns that are NOT NULL and constraints that are not deferrable."""


class InTransaction(ToolkitError):
    """The connection already has an open transaction. End it first, or pass the engine."""


class SessionEnded(ToolkitError):
    """A session was used after the end of its test. Nothing was sent to the database."""


class SessionsEntangled(ToolkitError):
    """Two sessions of one test wrote alternately, and a rollback of the older one would also undo work of the other."""


class WrongEventLoop(ToolkitError):
    """A connection was used in another event loop than the one in which it was opened. Nothing was sent."""


class DatabaseInUse(ToolkitError):
    """Another connection has an open transaction that writes to the database. The message names the connection."""


class NotNoted(ToolkitError):
    """The clean state of the database is not recorded: call ``note`` first."""


class NotClean(ToolkitError):
    """The database differs from the recorded state.

    Attributes:
        differences: one sentence for each difference.
    """

    def __init__(self, differences: Sequence[str]) -> None:
        super().__init__("; ".join(differences))
        self.differences = tuple(differences)


class WouldCascade(ToolkitError):
    """Foreign keys connect the rows to be changed with tables that were not named. Nothing was done.

    Attributes:
        tables: the tables that were not named.
    """

    def __init__(self, message: str, tables: Sequence[str]) -> None:
        super().__init__(message)
        self.tables = tuple(tables)


class DataInvalid(ToolkitError):
    """Test data cannot be inserted. The message says where the problem is and how to fix it. Nothing was done."""


class DataDiffers(ToolkitError, AssertionError):
    """The rows in the database differ from the expected ones. The message shows the difference."""
