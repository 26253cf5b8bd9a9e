"""Rules that diagnose pools, servers and templates: each finding has a problem, its reason and its remedy.

The rules are pure functions of the current state. An ``error`` means that callers cannot get databases now or soon. A
``warning`` means that a limit is near, or that an operator has to act. ``info`` explains a temporary state.
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

LONG_WAIT_SECONDS: Final = 30.0
"""Wait in a queue that becomes a warning."""
_NEARLY: Final = 0.85
_HELD: Final = (DatabaseState.LEASED, DatabaseState.KEPT)
_CLEANING: Final = (DatabaseState.DIRTY, DatabaseState.RESETTING)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem or notice about one object.

    Attributes:
        severity: error, warning or info.
        code: stable identifier of the kind of finding.
        subject: kind of the object.
        id: id of the pool or template, or name of the server.
        label: name of the object for people.
        message: the problem and its reason.
        remedy: action that solves it.
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
    """A pool, with its databases by state, the callers in its queue, and the wait of the first one."""

    pool: PoolRow
    databases: Mapping[DatabaseState, int]
    waiting: int
    longest_wait_seconds: float


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server and its activity, or the error if the activity is unknown. Only another replica may manage it."""

    server: ServerDetails
    activity: Activity | None
    error: str | None
    managed_here: bool = True


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of one server from the settings."""

    max_databases: int
    max_disk_bytes: int


def findings(
    pools: Sequence[PoolStatus],
    servers: Sequence[ServerStatus],
    templates: Sequence[TemplateRow],
    limits: ServerLimits,
) -> list[Finding]:
    """Return all findings, most severe first. ``templates`` are those that failed, have warnings, or are outdated."""
    of_servers = {one.server.name: one for one in servers}
    found = [finding for one in servers for finding in _of_server(one, limits)]
    for one in pools:
        found += _of_pool(one, of_servers.get(one.pool.server), limits)
    found += [_of_template(one) for one in templates]
    order: Mapping[Severity, int] = {"error": 0, "warning": 1, "info": 2}
    return sorted(found, key=lambda one: order[one.severity])


def status_of(found: Sequence[Finding]) -> Status:
    """Summarize findings as one status."""
    severities = {one.severity for one in found}
    return "failing" if "error" in severities else "attention" if "warning" in severities else "ok"


def why_waiting(one: PoolStatus, server: ServerStatus | None, limits: ServerLimits) -> tuple[str, str, str]:
    """Return the reason why callers wait for this pool: a code, a message and a remedy."""
    pool, held = one.pool, one.databases
    total = sum(held.values())
    if server is not None and server.error is not None:
        return (
            "server_away",
            f"its server {pool.server} does not answer",
            "Check that the server runs and can be reached from here. Callers then get their databases without a retry.",
        )
    if pool.last_error is not None:
        return (
            "provision_failing",
            f"creating a database failed: {pool.last_error}",
            "Fix the cause that the message names. freshdb retries every few seconds.",
        )
    if total >= pool.max_size:
        in_use, cleaned = (sum(held.get(state, 0) for state in states) for states in (_HELD, _CLEANING))
        return (
            "pool_full",
            f"the pool has its maximum of {pool.max_size} databases: {in_use} in use, {cleaned} being reset",
            "Raise max_size of the pool, or find leases that are held for long, and revoke or shorten them.",
        )
    if server is not None and server.server.databases >= limits.max_databases:
        return (
            "server_full",
            f"the server {pool.server} has {server.server.databases} databases, its maximum",
            "Retire unused templates, raise FRESHDB_MAX_DATABASES, or add a server.",
        )
    if server is not None and server.server.disk_bytes >= limits.max_disk_bytes:
        return (
            "disk_full",
            f"freshdb's databases on {pool.server} use their maximum disk space",
            "Retire unused templates, raise FRESHDB_MAX_DISK_BYTES, or add a server.",
        )
    coming = sum(held.get(state, 0) for state in (*_CLEANING, DatabaseState.CREATING))
    return (
        "coming",
        f"{coming} databases are being created or reset",
        "Wait. If this happens often, raise min_ready, so that more databases are ready for the next burst.",
    )


def _of_pool(one: PoolStatus, server: ServerStatus | None, limits: ServerLimits) -> Iterator[Finding]:
    pool = one.pool
    if pool.template_state is not TemplateState.READY:
        return
    about: tuple[Subject, str, str] = ("pool", str(pool.id), f"{pool.template} ({pool.isolation})")
    if pool.refusal:
        remedy = "Lease it with isolation database, or change the template."
        message = f"it cannot be leased with isolation schema: {'; '.join(pool.refusal)}"
        yield Finding("warning", "isolation_unsupported", *about, message, remedy)
    if one.waiting:
        code, why, remedy = why_waiting(one, server, limits)
        long = one.longest_wait_seconds >= LONG_WAIT_SECONDS
        severity: Severity = "error" if code not in {"pool_full", "coming"} else "warning" if long else "info"
        wait = f"{one.waiting} waiting, the first for {one.longest_wait_seconds:.0f} s"
        yield Finding(severity, code, *about, f"{wait}: {why}", remedy)
    elif pool.last_error is not None:
        remedy = "Fix the cause that the message names. freshdb retries every few seconds."
        severity = "warning" if one.databases.get(DatabaseState.READY) else "error"
        yield Finding(
            severity, "provision_failing", *about, f"creating a database failed: {pool.last_error}", remedy
        )


def _of_server(one: ServerStatus, limits: ServerLimits) -> Iterator[Finding]:
    server, busy = one.server, one.activity
    about: tuple[Subject, str, str] = ("server", server.name, server.name)
    if one.error is not None and not one.managed_here and server.databases + server.templates:
        remedy = (
            f"Add --postgres {server.name}=postgresql://… to this replica, unless another replica manages it."
        )
        yield Finding("warning", "server_unmanaged", *about, one.error, remedy)
    elif one.error is not None and server.databases + server.templates:
        remedy = "Check that it runs and can be reached from here. Its databases can be leased again once it answers."
        yield Finding("error", "server_away", *about, f"it does not answer: {one.error}", remedy)
    if server.disk_bytes >= _NEARLY * limits.max_disk_bytes:
        message = f"freshdb's databases use {server.disk_bytes / 2**30:.1f} of {limits.max_disk_bytes / 2**30:.1f} GiB"
        remedy = "Retire unused templates, raise FRESHDB_MAX_DISK_BYTES, or add a server."
        yield Finding("warning", "disk_nearly_full", *about, message, remedy)
    if server.databases >= _NEARLY * limits.max_databases:
        message = f"it has {server.databases} of at most {limits.max_databases} databases"
        remedy = "Retire unused templates, raise FRESHDB_MAX_DATABASES, or add a server."
        yield Finding("warning", "server_nearly_full", *about, message, remedy)
    if busy is not None and busy.connections >= _NEARLY * busy.max_connections:
        message = f"{busy.connections} of {busy.max_connections} connections are open"
        remedy = "Raise max_connections of the server, or find the test suites that open so many."
        yield Finding("warning", "connections_nearly_used", *about, message, remedy)


def _of_template(one: TemplateRow) -> Finding:
    about: tuple[Subject, str, str] = ("template", str(one.id), one.label)
    if one.state is TemplateState.READY:
        remedy = (
            f"See its build log (freshdb template log {one.name}), fix the build, and retire the template."
        )
        return Finding("warning", "template_warnings", *about, "; ".join(one.warnings), remedy)
    why = str((one.error or {}).get("message", "no reason given"))
    if one.state is TemplateState.BUILDING:
        message = "the server's collations changed, and freshdb builds it again from its SQL"
        return Finding("info", "template_rebuilding", *about, message, "Wait until it is ready.")
    if one.state is TemplateState.RETIRED:
        remedy = (
            "Run freshdb template build, pytest, or freshdb run with the build command. A template that is not needed any "
            "more is forgotten when it was unused for a week."
        )
        return Finding("warning", "template_outdated", *about, f"it was retired: {why}", remedy)
    remedy = "Fix it and register it again, which starts a new build. Retire it if it is no longer needed."
    return Finding("warning", "template_failed", *about, f"its build failed: {why}", remedy)
