"""Attacks by a holder with the URL of a lease, and their required outcomes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import make_conninfo

from tests.hygiene.change import ISOLATIONS, Holder, Isolation
from tests.hygiene.pool import Lease, Pool
from tests.hygiene.snapshot import Snapshot, Subject, differences
from tests.services import with_database

FORBIDDEN: Final = "42501"
"""PostgreSQL's code for insufficient privilege."""
_SET_BETWEEN: Final = re.compile(r"\s*^SET default_table\w+ = .*;$", re.MULTILINE)
BOTH_ISOLATIONS: Final = frozenset[Isolation](ISOLATIONS)
DATABASE_ONLY: Final = frozenset[Isolation]({"database"})
SCHEMA_ONLY: Final = frozenset[Isolation]({"schema"})


class Outcome(StrEnum):
    """Outcome of an attack."""

    REFUSED = "refused"
    CLEANED = "cleaned"
    """The attack succeeds. The next holder sees no trace of it, and a neighbour sees none in the meantime."""
    NO_EFFECT = "no effect"
    """The attack is not refused, and has no effect."""


@dataclass(slots=True)
class LeasePair:
    """A pool of two databases: the attacker's and a neighbour's."""

    pool: Pool
    attacker: Lease
    neighbour: Lease
    baseline: Snapshot

    @classmethod
    def of(cls, pool: Pool) -> LeasePair:
        """Lease both databases, and record a clean one as the baseline."""
        attacker, neighbour = pool.acquire(), pool.acquire()
        return cls(pool, attacker, neighbour, _snapshot(pool, attacker, neighbour))

    def differences_for_next_holder(self) -> list[str]:
        """Release the attacked database, lease it again, and return the differences from the baseline."""
        self.attacker = self.pool.next_of(self.attacker)
        return differences(self.baseline, _snapshot(self.pool, self.attacker, self.neighbour))

    def differences_for_next_neighbour(self) -> list[str]:
        """Do the same with the neighbour's database, after a change that requires a rebuild."""
        with psycopg.connect(self.neighbour.subject.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE makes_a_rebuild ()")
        self.neighbour = self.pool.next_of(self.neighbour)
        return differences(self.baseline, _snapshot(self.pool, self.neighbour, self.attacker))


def _snapshot(pool: Pool, lease: Lease, other_lease: Lease) -> Snapshot:
    """Return the snapshot of a lease. In a shared database, it can show the names of the other lease.

    The order of the two leases, in a dump or a list, depends on their names. The snapshot leaves this order out.
    """
    subject = other_lease.subject
    names = re.compile(rf"\b(?:{subject.user}|{subject.schema or subject.database})\b")
    snapshot = {}
    for key, value in pool.snapshotter.snapshot(lease.subject).items():
        text = _SET_BETWEEN.sub("", value).strip()
        if names.search(text):
            text = " ".join(sorted(names.sub("{other}", text).replace(",", " ").split()))
        snapshot[names.sub("{other}", key)] = text
    return snapshot


@dataclass(slots=True)
class AttackContext:
    """The leases and names that an attack uses."""

    pair: LeasePair
    holder: Holder
    names: dict[str, str] = field(default_factory=dict)

    @property
    def attacker(self) -> Subject:
        """The attacker's lease."""
        return self.pair.attacker.subject

    @property
    def neighbour(self) -> Subject:
        """The neighbour's lease, of the same pool."""
        return self.pair.neighbour.subject

    def with_names(self, statement: str) -> str:
        """Return a statement with the names of this context."""
        names = {
            **self.names,
            "login": self.attacker.user,
            "database": self.attacker.database,
            "schema": self.attacker.schema or "public",
            "neighbour": self.neighbour.user,
            "their_database": self.neighbour.database,
            "their_schema": self.neighbour.schema or "public",
            "service": str(urlsplit(self.names["service_dsn"]).username),
        }
        if "_pid@" in statement:
            names |= {"their_pid": self._their_pid(), "service_pid": self._service_pid()}
        for name, value in names.items():
            statement = statement.replace(f"@{name}@", value)
        return statement

    def _their_pid(self) -> str:
        return str(self.as_neighbour().info.backend_pid)

    def _service_pid(self) -> str:
        with psycopg.connect(self.attacker.superuser) as connection:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'freshdb' AND usename = %s LIMIT 1",
                [urlsplit(self.names["service_dsn"]).username],
            ).fetchone()
        assert row is not None
        return str(row[0])

    def run(self, *statements: str) -> None:
        """Run each statement as the attacker, then close the connection."""
        self.holder.run(*map(self.with_names, statements))

    def run_and_stay_connected(self, *statements: str) -> psycopg.Connection:
        """Run statements in a connection that is still open when the lease is released."""
        connection = self.holder.connect()
        self.holder.run_in(connection, *map(self.with_names, statements))
        return connection

    def run_in_database(self, database: str, *statements: str) -> psycopg.Connection:
        """Run statements in another database, and leave the connection open."""
        connection = self.holder.connect_elsewhere(self.with_names(database))
        self.holder.run_in(connection, *map(self.with_names, statements))
        return connection

    def as_neighbour(self, database: str | None = None, **settings: str) -> psycopg.Connection:
        """Open a connection with the neighbour's login that outlives the attack."""
        url = self.neighbour.url if database is None else with_database(self.neighbour.url, database)
        return self.holder.keep(psycopg.connect(make_conninfo(url, **settings), autocommit=True))

    def check_neighbour_is_clean(self) -> None:
        """Check that the neighbour's database is reset to the template during the attack."""
        found = self.pair.differences_for_next_neighbour()
        assert not found, "\n".join(found)

    def superuser(self, query: str) -> object:
        """Return the result of a superuser's query in the attacker's database."""
        with psycopg.connect(self.attacker.inside, autocommit=True) as connection:
            row = connection.execute(self.with_names(query).encode()).fetchone()
        return None if row is None else row[0]


CheckAfterRelease: TypeAlias = Callable[[], None] | None
AttackFunction: TypeAlias = Callable[[AttackContext], CheckAfterRelease]


@dataclass(frozen=True, slots=True)
class Attack:
    """A row of the table.

    Attributes:
        name: the description of the attack.
        outcome: the required outcome.
        sql: statements, each of which must be refused, for ``Outcome.REFUSED``.
        codes: the accepted PostgreSQL codes of a refusal.
        act: the attack as a function. It may check the outcome itself. It returns the check to run when the next holder has
            the database.
        isolations: the isolations in which the attack is possible.
        superuser: only where the service is a superuser. Elsewhere the operator is responsible.
        since: the first PostgreSQL version in which the attack is possible.
        slow: it takes seconds, and is left out by default.
    """

    name: str
    outcome: Outcome
    sql: tuple[str, ...] = ()
    codes: frozenset[str] = frozenset({FORBIDDEN})
    function: AttackFunction | None = None
    isolations: frozenset[Isolation] = BOTH_ISOLATIONS
    superuser: bool = False
    since: int = 15
    slow: bool = False

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def run_attack(self, context: AttackContext) -> CheckAfterRelease:
        """Run the attack.

        Returns:
            the check to run when the next holder has the database.

        Raises:
            AssertionError: a statement was not refused, or failed with another code.
        """
        for statement in self.sql:
            refusal = _refusal(context, statement)
            assert refusal in self.codes, f"{statement}: {refusal}"
        return None if self.function is None else self.function(context)


def refused(
    name: str,
    *sql: str,
    codes: tuple[str, ...] = (),
    isolations: frozenset[Isolation] = BOTH_ISOLATIONS,
    superuser: bool = False,
) -> Attack:
    """Return an attack by statements that PostgreSQL must refuse."""
    return Attack(
        name, Outcome.REFUSED, sql, frozenset({FORBIDDEN, *codes}), isolations=isolations, superuser=superuser
    )


def refused_by_function(name: str, function: AttackFunction, *, superuser: bool = False) -> Attack:
    """Return an attack that must be refused, by a function that checks the refusal."""
    return Attack(name, Outcome.REFUSED, function=function, superuser=superuser)


def cleaned(
    name: str,
    function: AttackFunction,
    *,
    isolations: frozenset[Isolation] = BOTH_ISOLATIONS,
    slow: bool = False,
) -> Attack:
    """Return an attack that succeeds until the lease has ended."""
    return Attack(name, Outcome.CLEANED, function=function, isolations=isolations, slow=slow)


def _refusal(context: AttackContext, statement: str) -> str:
    try:
        context.run(statement)
    except psycopg.Error as error:
        return error.sqlstate or str(error)
    return "was not refused"
