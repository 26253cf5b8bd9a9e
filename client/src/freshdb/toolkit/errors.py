"""Every error that the toolkit raises on purpose.

::

    FreshdbError
    └── ToolkitError
        ├── WrongTarget        this is no engine, connection or DSN that the call can use
        ├── UnknownTable       the database has no such table
        ├── NotATable          it is a view, or something else that holds no rows of its own
        └── CircularTables     tables refer to each other in a circle that nothing loosens
"""

from __future__ import annotations

from freshdb.errors import FreshdbError


class ToolkitError(FreshdbError):
    """Root of what the toolkit raises on purpose."""


class WrongTarget(ToolkitError):
    """This is no engine, connection or DSN that the call can use; the text says what is wanted instead."""


class UnknownTable(ToolkitError):
    """The database has no such table."""


class NotATable(ToolkitError):
    """It is a view, or something else that holds no rows of its own."""


class CircularTables(ToolkitError):
    """Tables refer to each other in a circle, by columns that may not be null and are checked at once."""
