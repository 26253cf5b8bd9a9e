"""What is wrong, why, and what to do about it: rules over what is known of pools, servers and templates.

Pure: the same facts give the same findings. An ``error`` means that somebody cannot get a database, or will not; a
``warning`` that this is near, or that somebody should look; ``info`` explains something that passes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from freshdb_service.lifecycle import DatabaseState, TemplateState
from freshdb_service.postgres import Activity
from freshdb_service.store.dashboard_queries import ServerDetails
from freshdb_service.store.rows import PoolRow, TemplateRow

Severity = Literal["info", "warning", "error"]
Status = Literal["ok", "attention", "failing"]
Subject = Literal["pool", "server", "template"]

PATIENCE_SECONDS: Final = 30.0
"""Waiting for longer than this is worth a look."""
_NEARLY: Final = 0.85
_HELD: Final = (DatabaseState.LEASED, DatabaseState.KEPT)
_CLEANING: Final = (DatabaseState.DIRTY, DatabaseState.RESETTING)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know.

    Attributes:
        severity: how bad it is.
        code: stable, for programs.
        subject: what kind of thing it is about.
        id: which one: the id of a pool or template, the name of a server.
        label: its name for people.
        message: what is the matter, and why.
        remedy: what to do.
    """

    severity: Severity
    code: str
    subject: Subject
    id: str
    label: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool, how many databases it has in each state, how many callers wait, and the first of them for how long."""

    pool: PoolRow
    databases: Mapping[DatabaseState, int]
    waiting: int
    longest_wait_seconds: float


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server, and how busy it is; without activity, why that is not known. Others than this replica may manage it, too."""

    server: ServerDetails
    activity: Activity | None
    error: str | None
    managed_here: bool = True


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the settings allow on one server."""

    max_databases: int
    max_disk_bytes: int


def findings(
    pools: Sequence[PoolStatus],
    servers: Sequence[ServerStatus],
    failed: Sequence[TemplateRow],
    limits: ServerLimits,
) -> list[Finding]:
    """Everything worth saying, the worst first. ``failed`` are templates whose build failed."""
    of_servers = {one.server.name: one for one in servers}
    found = [finding for one in servers for finding in _of_server(one, limits)]
    for one in pools:
        found += _of_pool(one, of_servers.get(one.pool.server), limits)
    found += [_of_template(one) for one in failed]
    order: Mapping[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    return sorted(found, key=lambda one: order[one.severity])


def status_of(found: Sequence[Finding]) -> Status:
    """The whole in one word."""
    severities = {one.severity for one in found}
    return "failing" if "error" in severities else "attention" if "warning" in severities else "ok"


def why_waiting(one: PoolStatus, server: ServerStatus | None, limits: ServerLimits) -> tuple[str, str, str]:
    """Why callers of this pool wait: a code, a sentence, and what to do."""
    pool, held = one.pool, one.databases
    total = sum(held.values())
    if server is not None and server.error is not None:
        return (
            "server_away",
            f"its server {pool.server} does not answer",
            "See that the server runs and can be reached from here: what waits goes on by itself then.",
        )
    if pool.last_error is not None:
        return (
            "provision_failing",
            f"making a database failed: {pool.last_error}",
            "Mend what the message names; freshdb tries again every few seconds.",
        )
    if total >= pool.max_size:
        in_use, cleaned = (sum(held.get(state, 0) for state in states) for states in (_HELD, _CLEANING))
        return (
            "pool_full",
            f"all {pool.max_size} databases that it may have are there: {in_use} in use, {cleaned} being cleaned",
            "Raise max_size of the pool, or look who holds a database for long, and revoke or shorten that.",
        )
    if server is not None and server.server.databases >= limits.max_databases:
        return (
            "server_full",
            f"the server {pool.server} holds {server.server.databases} databases, as many as it may",
            "Retire templates that nobody uses, raise FRESHDB_MAX_DATABASES, or add a server.",
        )
    if server is not None and server.server.disk_bytes >= limits.max_disk_bytes:
        return (
            "disk_full",
            f"freshdb's databases take as much of the disk of {pool.server} as they may",
            "Retire templates that nobody uses, raise FRESHDB_MAX_DISK_BYTES, or add a server.",
        )
    coming = sum(held.get(state, 0) for state in (*_CLEANING, DatabaseState.CREATING))
    return (
        "coming",
        f"{coming} databases are being made or cleaned at this moment",
        "Nothing, if this passes; else raise min_ready, so that more are ready for the next burst.",
    )


def _of_pool(one: PoolStatus, server: ServerStatus | None, limits: ServerLimits) -> Iterator[Finding]:
    pool = one.pool
    if pool.template_state is not TemplateState.READY:
        return
    about: tuple[Subject, str, str] = ("pool", str(pool.id), f"{pool.template} ({pool.isolation})")
    if pool.refusal:
        remedy = "Lease it with isolation database, or change the template."
        message = f"it cannot be leased as a schema: {'; '.join(pool.refusal)}"
        yield Finding("warning", "isolation_unsupported", *about, message, remedy)
    if one.waiting:
        code, why, remedy = why_waiting(one, server, limits)
        long = one.longest_wait_seconds >= PATIENCE_SECONDS
        severity: Severity = "error" if code not in {"pool_full", "coming"} else "warning" if long else "info"
        wait = f"{one.waiting} wait, the first for {one.longest_wait_seconds:.0f} s"
        yield Finding(severity, code, *about, f"{wait}: {why}", remedy)
    elif pool.last_error is not None:
        remedy = "Mend what the message names; freshdb tries again every few seconds."
        severity = "warning" if one.databases.get(DatabaseState.READY) else "error"
        yield Finding(
            severity, "provision_failing", *about, f"making a database failed: {pool.last_error}", remedy
        )


def _of_server(one: ServerStatus, limits: ServerLimits) -> Iterator[Finding]:
    server, busy = one.server, one.activity
    about: tuple[Subject, str, str] = ("server", server.name, server.name)
    if one.error is not None and not one.managed_here and server.databases + server.templates:
        remedy = f"Start this replica with it, too (--postgres {server.name}=postgresql://…), unless another one has it."
        yield Finding("warning", "server_unmanaged", *about, one.error, remedy)
    elif one.error is not None and server.databases + server.templates:
        remedy = (
            "See that it runs and can be reached from here; its databases are served again once it answers."
        )
        yield Finding("error", "server_away", *about, f"it does not answer: {one.error}", remedy)
    if server.disk_bytes >= _NEARLY * limits.max_disk_bytes:
        message = f"freshdb's databases take {server.disk_bytes / 2**30:.1f} of {limits.max_disk_bytes / 2**30:.1f} GiB"
        remedy = "Retire templates that nobody uses, raise FRESHDB_MAX_DISK_BYTES, or add a server."
        yield Finding("warning", "disk_nearly_full", *about, message, remedy)
    if server.databases >= _NEARLY * limits.max_databases:
        message = f"it holds {server.databases} of at most {limits.max_databases} databases"
        remedy = "Retire templates that nobody uses, raise FRESHDB_MAX_DATABASES, or add a server."
        yield Finding("warning", "server_nearly_full", *about, message, remedy)
    if busy is not None and busy.connections >= _NEARLY * busy.max_connections:
        message = f"{busy.connections} of {busy.max_connections} connections are open"
        remedy = "Raise max_connections of the server, or look which suites open so many."
        yield Finding("warning", "connections_nearly_used", *about, message, remedy)


def _of_template(one: TemplateRow) -> Finding:
    why = str((one.error or {}).get("message", "no reason was given"))
    remedy = "Mend it and register it again: the next caller gets the build. Retire it if nobody will."
    return Finding(
        "warning", "template_failed", "template", str(one.id), one.label, f"its build failed: {why}", remedy
    )
