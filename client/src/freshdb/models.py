"""The answers of the service as frozen dataclasses, read from its JSON.

``from_wire`` ignores unknown members, so that a newer service can add some. Times are aware ``datetime`` objects by the
*service's* clock. They are for display: the client makes no decision by them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from freshdb import json_fields
from freshdb.credentials import Connectable, Credentials
from freshdb.errors import NoCredentials
from freshdb.extensions import Extension

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from freshdb.json_fields import Members

Isolation: TypeAlias = Literal["database", "schema"]

DEFAULT_TTL_SECONDS = 300.0
DEFAULT_WAIT_SECONDS = 30.0
DEFAULT_KEEP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Sessions, locks and objects that the holder left in its database at the release.

    `objects` names some of the objects that were created or redefined. For these the service recreates the database,
    which takes longer than a reset.
    """

    connections: int = 0
    prepared_transactions: int = 0
    advisory_locks: int = 0
    objects: tuple[str, ...] = ()

    @classmethod
    def of(cls, answer: Members) -> Leftovers | None:
        """Read the member `leftovers`, if there is one. Missing counts are 0."""
        if answer.get("leftovers") is None:
            return None
        return json_fields.read(cls, json_fields.members(answer["leftovers"], "'leftovers'"))


@dataclass(frozen=True, slots=True)
class Lease(Connectable):
    """The right of one holder to one database until `expires_at`."""

    id: str
    state: str
    template: str
    template_id: str
    pool_id: str
    database_id: str | None
    isolation: str
    server: str
    host: str
    port: int
    database: str
    schema: str | None
    user: str
    password: str | None = field(repr=False)
    generation: int
    holder: Mapping[str, str]
    labels: Mapping[str, str]
    ttl_seconds: float
    granted_at: datetime
    expires_at: datetime | None
    max_expires_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    leftovers: Leftovers | None = None

    @classmethod
    def from_wire(cls, source: Members) -> Lease:
        """Read the service's JSON."""
        return json_fields.read(cls, source, leftovers=Leftovers.of(source))

    def credentials(self) -> Credentials:
        """Return the address and login of the database.

        Raises:
            NoCredentials: the lease was looked up, not acquired, so that its password is unknown.
        """
        if self.password is None:
            message = f"lease {self.id} was looked up, not acquired here: only the client that acquired it has its password"
            raise NoCredentials(message)
        return Credentials(self.host, self.port, self.database, self.user, self.password)


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a renewal."""

    id: str
    ttl_seconds: float
    expires_at: datetime
    max_expires_at: datetime | None

    @classmethod
    def from_wire(cls, source: Members) -> Renewal:
        """Read the service's JSON."""
        return json_fields.read(cls, source)


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A request for one lease. Times are in seconds."""

    template: str
    isolation: Isolation = "database"
    ttl_seconds: float = DEFAULT_TTL_SECONDS
    wait_seconds: float = DEFAULT_WAIT_SECONDS
    holder: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_wire(self, *, wait_seconds: float) -> dict[str, object]:
        """Return the JSON body. `wait_seconds` is the wait of this one request."""
        return {
            "template": self.template,
            "isolation": self.isolation,
            "ttl_seconds": self.ttl_seconds,
            "wait_seconds": wait_seconds,
            "holder": dict(self.holder),
            "labels": dict(self.labels),
        }


@dataclass(frozen=True, slots=True)
class BuildGrant(Connectable):
    """The right to fill a new template, with any program, until `deadline_at`."""

    template: str
    host: str
    port: int
    database: str
    user: str
    password: str = field(repr=False)
    deadline_at: datetime
    token: str = field(repr=False)
    renew_seconds: float

    @classmethod
    def from_wire(cls, source: Members, template: str) -> BuildGrant:
        """Read the service's JSON."""
        return json_fields.read(cls, source, template=template)

    def credentials(self) -> Credentials:
        """Return the address and login of the database."""
        return Credentials(self.host, self.port, self.database, self.user, self.password)


@dataclass(frozen=True, slots=True)
class TemplateError:
    """The error of a template, with its position in the SQL, if it was built from SQL. `sql_index` counts scripts from 0."""

    message: str
    sql_index: int | None = None
    statement: str | None = None
    position: int | None = None
    line: int | None = None
    sqlstate: str | None = None
    hint: str | None = None

    @classmethod
    def from_wire(cls, source: Members) -> TemplateError:
        """Read the service's JSON."""
        return json_fields.read(cls, source)


def _extensions(source: Members) -> tuple[str | Extension, ...]:
    """Read extensions: a string where only the name is set."""
    given = source.get("extensions") or []
    if not isinstance(given, list):
        return json_fields.texts(source, "extensions")  # raises
    return tuple(
        one if isinstance(one, str) else json_fields.read(Extension, json_fields.members(one, "an extension"))
        for one in given
    )


@dataclass(frozen=True, slots=True)
class Template:
    """A named schema with its seed data. `build` is set for the one client that must fill it.

    `warnings` are doubts of the service about a build that succeeded: it created nothing, or its log shows an error.
    In `extensions`, each is a string if only its name is set.
    """

    id: str
    name: str
    fingerprint: str
    state: str
    extensions: tuple[str | Extension, ...]
    size_bytes: int | None
    error: TemplateError | None
    created_at: datetime | None
    ready_at: datetime | None
    last_used_at: datetime | None
    build_deadline_at: datetime | None
    server: str | None
    warnings: tuple[str, ...] = ()
    build: BuildGrant | None = None

    @classmethod
    def from_wire(cls, source: Members) -> Template:
        """Read the service's JSON."""
        reference = f"{json_fields.text(source, 'name')}@{json_fields.text(source, 'fingerprint')}"
        error, build = source.get("error"), source.get("build")
        return json_fields.read(
            cls,
            source,
            error=None if error is None else TemplateError.from_wire(json_fields.members(error, "error")),
            extensions=_extensions(source),
            build=None
            if build is None
            else BuildGrant.from_wire(json_fields.members(build, "build"), reference),
        )

    @property
    def reference(self) -> str:
        """``name@fingerprint``: exactly this template, even if a newer one is registered."""
        return f"{self.name}@{self.fingerprint}"

    @property
    def warning_lines(self) -> list[str]:
        """`warnings` for people, each with the template's name and the command that prints the log."""
        log = f"freshdb template log {self.name}"
        return [f"template {self.name}: {warning}; see: {log}" for warning in self.warnings]


@dataclass(frozen=True, slots=True)
class BuildLog:
    """The log of a template's last build that has ended: the output of its command, or PostgreSQL's messages.

    `log` is ``None`` if the builder sent none.
    """

    id: str
    name: str
    fingerprint: str
    state: str
    error: TemplateError | None
    log: str | None
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_wire(cls, source: Members) -> BuildLog:
        """Read the service's JSON."""
        error = source.get("error")
        return json_fields.read(
            cls,
            source,
            error=None if error is None else TemplateError.from_wire(json_fields.members(error, "error")),
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """The databases of one template and one isolation. `databases` counts them by state.

    `refusal` has the reasons why the template does not support this isolation, if there are any.
    """

    id: str
    template: str
    template_id: str
    isolation: str
    server: str | None
    min_ready: int
    max_size: int
    idle_seconds: float
    databases: Mapping[str, int]
    waiting: int
    refusal: tuple[str, ...]
    last_error: str | None
    last_acquired_at: datetime | None

    @classmethod
    def from_wire(cls, source: Members) -> Pool:
        """Read the service's JSON."""
        return json_fields.read(cls, source)


@dataclass(frozen=True, slots=True)
class Health:
    """State of the service, with the result of each check."""

    ok: bool
    status: str
    checks: Mapping[str, object]
    version: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One state transition, as published by the service."""

    id: str | None
    kind: str
    data: Mapping[str, object]
