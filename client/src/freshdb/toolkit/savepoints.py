"""Several sessions in one transaction: the stack of their savepoints.

Savepoints are a stack, and sessions are not. When two of them take turns, this is what their ends do:

============================================  ===========================================================================
the session                                   what happens
============================================  ===========================================================================
commits                                       what it wrote stays, whichever session ends first
rolls back, and others have only read since   what it wrote is undone
rolls back, and has only read itself          nothing: what others wrote meanwhile stays
rolls back, both have written since it began  ``SessionsEntangled``: others' work would go, too; nothing is done
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

from freshdb.toolkit.engines import see_that_it_can_be_undone
from freshdb.toolkit.errors import InTransaction, SessionEnded, SessionsEntangled, WrongEventLoop

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPICursor

SCOPE: Final = "freshdb.toolkit.sessions"
"""Under this key, a session's ``info`` has its scope."""
_NOTHING: Final = "SELECT 1"
_SAVEPOINT: Final = re.compile(r"(SAVEPOINT|ROLLBACK TO SAVEPOINT|RELEASE SAVEPOINT) (\w+)")
_READS: Final = re.compile(r"\s*(SELECT|VALUES|SHOW|EXPLAIN|PRAGMA)\b", re.IGNORECASE)


@dataclass(slots=True, eq=False)
class _Savepoint:
    """In PostgreSQL's stack of savepoints.

    Attributes:
        owner: the session's connection.
        name: as its owner knows it.
        number: of the scope's savepoints.
        wrote: its owner has written since.
        others_wrote: others have.
    """

    owner: Connection
    name: str
    number: int
    wrote: bool = False
    others_wrote: bool = False

    def __str__(self) -> str:
        return f"{self.name}_{self.number}"  # sessions count from one, each


@dataclass(eq=False)
class OuterTransaction:
    """One outer transaction, and the sessions in it.

    Attributes:
        outer: the connection to the database.
        test: whose it is, for messages.
        settings: PostgreSQL's, for the transaction.
        loop: the event loop that the connection belongs to.
        over: the transaction was rolled back.
        undone: what sessions say of savepoints has no meaning any more.
        numbers: of savepoints.
        savepoints: PostgreSQL's stack, as far as they are sessions'.
        joined: each session's connection.

    Each session has a ``Connection`` object of its own over the one connection to the database, so that what SQLAlchemy
    remembers of its savepoints is its own, too.
    """

    outer: Connection
    test: str
    settings: Mapping[str, str]
    loop: asyncio.AbstractEventLoop | None = None
    over: bool = False
    undone: bool = False
    numbers: Iterator[int] = field(default_factory=count)
    savepoints: list[_Savepoint] = field(default_factory=list)
    joined: MutableMapping[Session, Connection] = field(default_factory=WeakKeyDictionary)

    @property
    def named(self) -> str:
        """The test, in messages."""
        return f"the test {self.test}" if self.test else "its test"

    def join(self, session: Session) -> Connection:
        """Give a session its connection."""
        self._check()
        if session not in self.joined:
            self.joined[session] = self.another()
        return self.joined[session]

    def another(self) -> Connection:
        """One more ``Connection`` over the one connection to the database, inside the transaction."""
        self._check()
        # SQLAlchemy documents no other way than to open a second connection to the database.
        connection = Connection(self.outer.engine, connection=self.outer.connection)
        connection.begin()  # sends nothing: the transaction is there
        event.listen(connection, "before_cursor_execute", self._before, retval=True)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """The outer transaction, around the block; rolled back at its end, and no session goes on after it."""
        if self.outer.in_transaction():
            raise InTransaction(
                "the connection has a transaction open already, whose end would be another one's: "
                "commit it or roll it back first, or give the engine"
            )
        see_that_it_can_be_undone(self.outer)
        raw = self.outer.connection.dbapi_connection
        with self.outer.begin() as transaction, self._set_up(raw):
            try:
                yield
            finally:
                transaction.rollback()
                self._end_sessions(self.savepoints)
                self.over = True

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Undo what the block does, and end the transactions of sessions that began in it."""
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
    def _set_up(self, raw: Any) -> Iterator[None]:  # noqa: ANN401 - a DBAPI connection: no two have a type in common
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
                )  # or the driver begins and commits as it likes
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
        """Close those that these are of, after the database has forgotten it all."""
        owners = {one.owner for one in savepoints}
        self.undone = True
        for session in [one for one, connection in self.joined.items() if connection in owners]:
            with suppress(DBAPIError):  # the connection is gone, say: there is nothing left to undo
                session.close()
        self.undone = False

    def _check(self) -> None:
        if self.over:
            raise SessionEnded(f"a session of {self.named} was used after it; nothing was sent")
        if self.loop is not None and asyncio.get_running_loop() is not self.loop:
            raise WrongEventLoop(
                f"a session of {self.named} was used in another event loop than its own; nothing was sent. "
                "Let the fixture and the test share a loop (loop_scope), or make the factory in the test"
            )

    def _before(
        self,
        connection: Connection,
        cursor: DBAPICursor,
        statement: str,
        parameters: object,
        *_: object,
    ) -> tuple[str, object]:
        """Let a statement through, or something in its place."""
        if not self.undone:
            self._check()
        command = _SAVEPOINT.fullmatch(statement)
        if command is None:
            self._catch_up(connection, cursor)
            if _READS.match(statement) is None:
                for one in self.savepoints:
                    one.wrote |= one.owner is connection
                    one.others_wrote |= one.owner is not connection
            return statement, parameters
        verb, name = command[1], command[2]
        if self.undone:
            return _NOTHING, parameters
        if verb == "SAVEPOINT":
            self._catch_up(connection, cursor)
            self.savepoints.append(_Savepoint(connection, name, next(self.numbers)))
            return f"{verb} {self.savepoints[-1]}", parameters
        end = self._release if verb.startswith("RELEASE") else self._roll_back
        mine = [one for one in self.savepoints if one.owner is connection and one.name == name]
        return (end(mine[-1], cursor) if mine else statement), parameters

    def _catch_up(self, connection: Connection, cursor: DBAPICursor) -> None:
        """Move savepoints of one who has only read to after what others have written since: that is the same to it."""
        mine = [one for one in self.savepoints if one.owner is connection]
        for one in [one for one in mine if one.others_wrote and not one.wrote]:
            self.savepoints.remove(one)
            self.savepoints.append(one)
            one.others_wrote = False
            cursor.execute(f"SAVEPOINT {one}")

    def _release(self, savepoint: _Savepoint, cursor: DBAPICursor) -> str:
        del cursor
        youngest = self.savepoints[-1] is savepoint
        self.savepoints.remove(savepoint)
        return f"RELEASE SAVEPOINT {savepoint}" if youngest else _NOTHING

    def _roll_back(self, savepoint: _Savepoint, cursor: DBAPICursor) -> str:
        if savepoint.others_wrote and savepoint.wrote:
            raise SessionsEntangled(
                f"two sessions of {self.named} wrote in turn, and the older one rolls back: that would undo what the other "
                "wrote since. End one before the other begins, or test this on a database of its own, without rollback"
            )
        at = self.savepoints.index(savepoint)
        younger = [one for one in self.savepoints[at + 1 :] if one.owner is not savepoint.owner]
        del self.savepoints[at:]
        if savepoint.others_wrote:
            self.savepoints += younger
            return _NOTHING
        statement = f"ROLLBACK TO SAVEPOINT {savepoint}"
        for one in younger:  # others that have only read since: their savepoints went with it
            cursor.execute(statement)
            self.savepoints.append(one)
            statement = f"SAVEPOINT {one}"
        return statement

    def _name_test(self, context: ExceptionContext) -> None:
        if context.connection in {self.outer, *self.joined.values()}:
            error = context.sqlalchemy_exception or context.original_exception
            error.add_note(f"in {self.named}")


def _set_local(values: Mapping[str, str]) -> str:
    return "SELECT " + ", ".join(
        f"set_config('{name}', {_quoted(value)}, true)" for name, value in values.items()
    )


def _quoted(value: str) -> str:
    """A constant that means the same whatever ``standard_conforming_strings`` is."""
    return "E'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def joining(kind: type[Session]) -> type[Session]:
    """Make a class of sessions of this kind that join the scope which their ``info`` has."""
    if kind not in _KINDS:

        class JoiningSession(kind):  # type: ignore[valid-type, misc]
            def get_bind(self, *_: object, **__: object) -> Connection:
                scope: OuterTransaction = self.info[SCOPE]
                return scope.join(self)

        JoiningSession.__name__ = kind.__name__
        _KINDS[kind] = JoiningSession
    return _KINDS[kind]


_KINDS: Final[dict[type[Session], type[Session]]] = {}
