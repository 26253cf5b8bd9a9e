"""Observe a database by the login of its lease: run all probes of its isolation and version, stage by stage.

Each group of probes has a connection of its own. One more connection holds a lock on the tables during the first two stages.
Autovacuum skips tables with this lock, so that it cannot change one twin in the middle of its observation. Other sessions
can read and write.

An error of a probe is its result. A probe that takes longer than ``STATEMENT_SECONDS`` is repeated, because on a busy
machine the time says nothing about the database. A lock that is not granted in ``LOCK_SECONDS`` is an error at once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Final

import psycopg

from tests.twins.probes import PROBES, Isolation, Json, Probe, Stage
from tests.twins.probes.session import APPLICATION_NAME, Session

STATEMENT_SECONDS: Final = 10
LOCK_SECONDS: Final = 3
_GUARD_LOCK_SECONDS: Final = 30
_ATTEMPTS: Final = 3
_TIMED_OUT: Final = "57014"


@dataclass(frozen=True, slots=True)
class Observed:
    """The results of the probes by name. It can be stored as JSON."""

    isolation: Isolation
    major: int
    results: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Observed:
        """Read what ``to_json`` wrote."""
        return cls(**json.loads(text))


def observe(dsn: str, isolation: Isolation, *, only: Collection[str] | None = None) -> Observed:
    """Run the probes with this login.

    Args:
        dsn: DSN of the lease.
        isolation: isolation of the lease.
        only: names of the probes to run, by default all. The last ones change the database.
    """
    chosen = [
        probe for probe in PROBES if isolation in probe.isolations and (only is None or probe.name in only)
    ]
    try:
        guard = _connect(dsn)
    except psycopg.OperationalError:
        return Observed(isolation, 0, {probe.name: {"error": "no connection"} for probe in chosen})
    with guard:
        observed = Observed(isolation, guard.info.server_version // 10000)
        stages: dict[Stage, list[Probe]] = {stage: [] for stage in Stage}
        for probe in chosen:
            if probe.since <= observed.major <= probe.until:
                stages[probe.stage].append(probe)
        schema = "public" if isolation == "database" else _current_schema(guard)
        guard.execute("BEGIN")
        _lock_tables(guard)
        observed.results.update(_run(dsn, isolation, schema, stages[Stage.READS]))
        observed.results.update(_run(dsn, isolation, schema, stages[Stage.ROLLED_BACK]))
        guard.execute("ROLLBACK")
        observed.results.update(_run(dsn, isolation, schema, stages[Stage.CHANGES]))
    return observed


def _connect(dsn: str) -> psycopg.Connection[tuple[Any, ...]]:
    connection = psycopg.connect(
        dsn, autocommit=True, prepare_threshold=None, application_name=APPLICATION_NAME, connect_timeout=30
    )
    connection.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    return connection


def _current_schema(guard: psycopg.Connection[tuple[Any, ...]]) -> str:
    row = guard.execute("SELECT coalesce(current_schema(), '(none)')").fetchone()
    assert row is not None
    return str(row[0])


def _lock_tables(guard: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Lock the login's own tables against autovacuum. If a lock is not granted, sessions.locks shows the reason."""
    guard.execute("SET LOCAL statement_timeout = 0")
    guard.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    guard.execute(f"SET LOCAL lock_timeout = '{_GUARD_LOCK_SECONDS}s'")
    tables = guard.execute(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE tableowner = current_user"
    ).fetchall()
    if tables:
        names = ", ".join(row[0] for row in tables)
        with suppress(psycopg.Error), guard.transaction():
            guard.execute(f"LOCK TABLE ONLY {names} IN SHARE UPDATE EXCLUSIVE MODE")


def _run(dsn: str, isolation: Isolation, schema: str, probes: Iterable[Probe]) -> dict[str, Json]:
    results: dict[str, Json] = {}
    for _, group in groupby(probes, key=lambda probe: probe.group):
        connection: psycopg.Connection[tuple[Any, ...]] | None = None
        for probe in group:
            try:
                if connection is None or connection.closed:
                    connection = _connect(dsn)
                results[probe.name] = _result(probe, Session.of(connection, isolation, schema))
            except psycopg.OperationalError:
                results[probe.name] = {"error": "no connection"}
        if connection is not None:
            connection.close()
    return results


def _result(probe: Probe, session: Session) -> Json:
    """Run a probe, and repeat it if it took too long."""
    for last in (*(False,) * (_ATTEMPTS - 1), True):
        try:
            return _attempt(probe, session)
        except psycopg.Error as error:
            if session.connection.closed:
                raise
            if last or error.sqlstate != _TIMED_OUT:
                return {"error": error.sqlstate}
    raise AssertionError


def _attempt(probe: Probe, session: Session) -> Json:
    if probe.stage is Stage.CHANGES:
        return probe.run(session)
    with session.connection.transaction(force_rollback=True):
        if probe.stage is Stage.READS:
            session.connection.execute("SET TRANSACTION READ ONLY")
        return probe.run(session)
