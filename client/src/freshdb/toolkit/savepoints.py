"""Several sessions in one transaction: the stack of their savepoints.

PostgreSQL keeps savepoints in a stack, but sessions may end in any order. If two sessions alternate, their ends have
these effects:

============================================  ===========================================================================
end of a session                              effect
============================================  ===========================================================================
commit                                        its changes stay, whichever session ends first
rollback, others have only read since         its changes are undone
rollback, it has only read                    none: the changes of others stay
rollback, it and others have written          ``SessionsEntangled``, because changes of others would be undone: nothing is
                                              sent
============================================  ===========================================================================

A statement that begins with ``SELECT`` counts as reading.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from freshdb.toolkit.engines import check_can_roll_back
from freshdb.toolkit.errors import InTransaction, SessionEnded, SessionsEntangled, WrongEventLoop

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPICursor

INFO_KEY: Final = "freshdb.toolkit.sessions"
"""Key of the `OuterTransaction` in a session's ``info``."""
_NO_OPERATION: Final = "SELECT 1"
_SAVEPOINT: Final = re.compile(r"(SAVEPOINT|ROLLBACK TO SAVEPOINT|RELEASE SAVEPOINT) (\w+)")
_READS: Final = re.compile(r"\s*(SELECT|VALUES|SHOW|EXPLAIN|PRAGMA)\b", re.IGNORECASE)


@dataclass(slots=True, eq=False)
class _Savepoint:
    """A savepoint in PostgreSQL's stack.

    Attributes:
        owner: connection of its session.
        name: name that the session uses.
        number: number that makes the name unique in the transaction.
        wrote: true if the session has written since the savepoint.
        others_wrote: true if another session has written since the savepoint.
    """

    owner: Connection
    name: str
    number: int
    wrote: bool = False
    others_wrote: bool = False

    def __str__(self) -> str:
        return f"{self.name}_{self.number}"  # the names of two sessions may be equal


@dataclass(eq=False)
class OuterTransaction:
    """An outer transaction and the sessions in it.

    Attributes:
        outer: connection to the database.
        test: name of the test, for messages.
        settings: PostgreSQL settings for the transaction.
        loop: event loop of the connection.
        ended: true after the transaction was rolled back.
        ending_sessions: true while sessions are closed after a rollback. Their statements on savepoints are not sent then.
        numbers: counter for savepoints.
        savepoints: stack of the sessions' savepoints in PostgreSQL.
        connections: connection of each session.

    Each session has its own ``Connection`` object over the same connection to the database. So SQLAlchemy's record of
    savepoints is separate for each session.
    """

    outer: Connection
    test: str
    settings: Mapping[str, str]
    loop: asyncio.AbstractEventLoop | None = None
    ended: bool = False
    ending_sessions: bool = False
    numbers: Iterator[int] = field(default_factory=count)
    savepoints: list[_Savepoint] = field(default_factory=list)
    connections: MutableMapping[Session, Connection] = field(default_factory=WeakKeyDictionary)

    @property
    def name(self) -> str:
        """Name of the test for messages."""
        return f"the test {self.test}" if self.test else "its test"

    def connection_of(self, session: Session) -> Connection:
        """Return the connection of a session."""
        self._check()
        if session not in self.connections:
            self.connections[session] = self.new_connection()
        return self.connections[session]

    def new_connection(self) -> Connection:
        """Create another ``Connection`` object over the same connection to the database, inside the transaction."""
        self._check()
        # SQLAlchemy documents no way to do this without a second connection to the database
        connection = Connection(self.outer.engine, connection=self.outer.connection)
        connection.begin()  # sends nothing, because the transaction has begun
        event.listen(connection, "before_cursor_execute", self._rewrite, retval=True)
        return connection

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Run the block in the outer transaction, then roll it back and end all sessions."""
        if self.outer.in_transaction():
            raise InTransaction(
                "the connection already has an open transaction: commit it or roll it back first, or pass the engine"
            )
        check_can_roll_back(self.outer)
        raw = self.outer.connection.dbapi_connection
        with self.outer.begin() as transaction, self._prepared(raw):
            try:
                yield
            finally:
                transaction.rollback()
                self._end_sessions(self.savepoints)
                self.ended = True

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Roll back the changes of the block, and end the sessions whose transactions began in it."""
        self._check()
        below = len(self.savepoints)
        with self.outer.begin_nested() as savepoint:
            try:
                yield
            finally:
                above = self.savepoints[below:]
                savepoint.rollback()
                self._end_sessions(above)

    @contextmanager
    def _prepared(self, raw: Any) -> Iterator[None]:  # noqa: ANN401 - DBAPI connections have no common type
        event.listen(self.outer.engine, "handle_error", self._name_test)
        try:
            if self.outer.dialect.name == "postgresql":
                self.outer.exec_driver_sql(
                    _set_local(self.settings), execution_options={"no_parameters": True}
                )
                yield
            elif self.outer.dialect.name == "sqlite":
                before, raw.isolation_level = (
                    raw.isolation_level,
                    None,
                )  # otherwise the driver begins and commits transactions itself
                try:
                    self.outer.exec_driver_sql("BEGIN")
                    yield
                finally:
                    raw.isolation_level = before
            else:
                yield
        finally:
            event.remove(self.outer.engine, "handle_error", self._name_test)

    def _end_sessions(self, savepoints: list[_Savepoint]) -> None:
        """Close the sessions with these savepoints, after the database has rolled them back."""
        owners = {one.owner for one in savepoints}
        self.ending_sessions = True
        for session in [one for one, connection in self.connections.items() if connection in owners]:
            with suppress(DBAPIError):  # after a lost connection, nothing is left to undo
                session.close()
        self.ending_sessions = False

    def _check(self) -> None:
        if self.ended:
            raise SessionEnded(f"a session of {self.name} was used after the test; nothing was sent")
        if self.loop is not None and asyncio.get_running_loop() is not self.loop:
            raise WrongEventLoop(
                f"a session of {self.name} was used in another event loop than its own; nothing was sent. "
                "Let the fixture and the test share a loop (loop_scope), or create the factory in the test"
            )

    def _rewrite(
        self,
        connection: Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: object,
        *_: object,
    ) -> tuple[str, object]:
        """Return a statement unchanged, or its replacement for the stack of savepoints."""
        if not self.ending_sessions:
            self._check()
        command = _SAVEPOINT.fullmatch(statement)
        if command is None:
            self._move_savepoints(connection, cursor)
            if _READS.match(statement) is None:
                for one in self.savepoints:
                    one.wrote |= one.owner is connection
                    one.others_wrote |= one.owner is not connection
            return statement, parameters
        verb, name = command[1], command[2]
        if self.ending_sessions:
            return _NO_OPERATION, parameters
        if verb == "SAVEPOINT":
            self._move_savepoints(connection, cursor)
            self.savepoints.append(_Savepoint(connection, name, next(self.numbers)))
            return f"{verb} {self.savepoints[-1]}", parameters
        end = self._release if verb.startswith("RELEASE") else self._roll_back
        mine = [one for one in self.savepoints if one.owner is connection and one.name == name]
        return (end(mine[-1], cursor) if mine else statement), parameters

    def _move_savepoints(self, connection: Connection, cursor: DBAPICursor) -> None:
        """Renew the savepoints of a session that has only read after others have written: for it, this changes nothing."""
        mine = [one for one in self.savepoints if one.owner is connection]
        for one in [one for one in mine if one.others_wrote and not one.wrote]:
            self.savepoints.remove(one)
            self.savepoints.append(one)
            one.others_wrote = False
            cursor.execute(f"SAVEPOINT {one}")

    def _release(self, savepoint: _Savepoint, _cursor: DBAPICursor) -> str:
        youngest = self.savepoints[-1] is savepoint
        self.savepoints.remove(savepoint)
        return f"RELEASE SAVEPOINT {savepoint}" if youngest else _NO_OPERATION

    def _roll_back(self, savepoint: _Savepoint, cursor: DBAPICursor) -> str:
        if savepoint.others_wrote and savepoint.wrote:
            raise SessionsEntangled(
                f"two sessions of {self.name} wrote alternately, and a rollback of the older one would also undo changes of "
                "the other. End one session before the other begins, or use a lease instead of a rollback for this test"
            )
        at = self.savepoints.index(savepoint)
        younger = [one for one in self.savepoints[at + 1 :] if one.owner is not savepoint.owner]
        del self.savepoints[at:]
        if savepoint.others_wrote:
            self.savepoints += younger
            return _NO_OPERATION
        statement = f"ROLLBACK TO SAVEPOINT {savepoint}"
        for one in younger:  # these sessions have only read: their savepoints are recreated
            cursor.execute(statement)
            self.savepoints.append(one)
            statement = f"SAVEPOINT {one}"
        return statement

    def _name_test(self, context: ExceptionContext) -> None:
        if context.connection in {self.outer, *self.connections.values()}:
            error = context.sqlalchemy_exception or context.original_exception
            error.add_note(f"in {self.name}")


def _set_local(values: Mapping[str, str]) -> str:
    return "SELECT " + ", ".join(
        f"set_config('{name}', {_quoted(value)}, true)" for name, value in values.items()
    )


def _quoted(value: str) -> str:
    """Return a literal that does not depend on ``standard_conforming_strings``."""
    return "E'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def session_class(kind: type[Session]) -> type[Session]:
    """Return a subclass whose sessions use the `OuterTransaction` in their ``info``."""
    if kind not in _SESSION_CLASSES:

        class TransactionSession(kind):  # type: ignore[valid-type, misc]
            def get_bind(self, *_: object, **__: object) -> Connection:
                transaction: OuterTransaction = self.info[INFO_KEY]
                return transaction.connection_of(self)

        TransactionSession.__name__ = kind.__name__
        _SESSION_CLASSES[kind] = TransactionSession
    return _SESSION_CLASSES[kind]


_SESSION_CLASSES: Final[dict[type[Session], type[Session]]] = {}
