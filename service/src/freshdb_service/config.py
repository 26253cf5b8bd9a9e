"""Settings: read once at the start from arguments and the environment (``FRESHDB_…``), then passed in; nothing is global."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from freshdb_service.observability.logs import LogFormat, LogLevel

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scope = Literal["read", "lease", "build", "admin"]
Network = IPv4Network | IPv6Network

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
DENY = ("prod", "*prod", "proddb", "prd", "*production*")
OPEN_NAME = "anonymous"
"""The principal of everybody, where no token is asked for."""
RESERVED_NAMES = frozenset({OPEN_NAME})
PRINCIPAL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What tokens of the control plane can be called."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: frozenset[Scope] = frozenset({"read", "lease", "build"})


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One managed PostgreSQL server, as it was given: ``name=DSN`` or a plain DSN (the name is then ``host:port``)."""

    name: str
    dsn: str

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Read one ``--postgres`` value.

        Raises:
            ValueError: if it is no PostgreSQL URL; the message never repeats a password.
        """
        head, separator, tail = text.partition("=")
        named = separator and "://" not in head
        dsn = tail if named else text
        try:
            parts = urlsplit(dsn)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
            parts = urlsplit("")
        if parts.scheme not in {"postgresql", "postgres"} or not host:
            message = "a server is given as postgresql://user:password@host:port/database, or as name=postgresql://…"
            raise ValueError(message)
        return cls(name=head if named else f"{host}:{port or 5432}", dsn=dsn)

    def __repr__(self) -> str:
        """Name the server; the DSN may hold a password."""
        return f"ServerAddress({self.name!r})"


class Token(BaseModel):
    """A caller who may use the service: ``name:secret`` or ``name:secret:scope+scope``."""

    model_config = ConfigDict(frozen=True)

    name: str
    secret: SecretStr
    scopes: frozenset[Scope] = DEFAULT_SCOPES


class Settings(BaseSettings):
    """Everything that can be set, with its default. Durations are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="FRESHDB_", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    """The address to listen on; others than loopback need tokens, and TLS or ``insecure``."""
    port: int = Field(default=8777, ge=0, le=65535)
    """The port; 0 for any that is free."""
    data: Path | None = None
    """Where the embedded servers keep their data; by default in the user's data directory."""
    postgres: Annotated[tuple[str, ...], NoDecode] = ()
    """Servers to manage: ``postgresql://…`` or ``name=postgresql://…``; embedded without."""
    advertise: Annotated[tuple[str, ...], NoDecode] = ()
    """Where callers reach servers, as ``name=host`` or ``name=host:port``, if that is not what the servers' DSNs say."""
    redis: SecretStr | None = None
    """Redis, or Valkey: ``redis://…``; embedded without."""
    control: SecretStr | None = None
    """DSN of the server for the control plane's own database; by default the first managed server."""
    adopt: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of servers that may be managed although they hold databases that freshdb did not make."""
    deny: Annotated[tuple[str, ...], NoDecode] = DENY
    """Servers that must not be managed, adopted or not: patterns for their names, hosts and databases, and addresses."""
    tokens: Annotated[tuple[Token, ...], NoDecode] = ()
    """``name:secret`` or ``name:secret:scope+scope``: tokens besides those of ``freshdb token``."""
    tls_certificate: Path | None = None
    """The certificate, with its chain, to answer with HTTPS (PEM); for a new one the service is restarted."""
    tls_key: Path | None = None
    """Its key (PEM), without a passphrase."""
    insecure: bool = False
    """Listen on other addresses than loopback without TLS: passwords travel in the clear, unless a proxy sees to that."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names, besides those of loopback, by which an open service may be called (``Host``): a browser on this machine must
    not be talked into calling it by a name of somebody else's."""
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    """Addresses or networks of proxies whose ``X-Forwarded-For`` says where a request came from."""
    token_refresh_seconds: Seconds = 5.0
    """A replica that did not hear of it knows of a new, rotated or revoked token after so long."""
    failed_attempts: int = Field(default=20, ge=1)
    """Wrong tokens from one address in a minute, before more of them are told to come back later; per replica."""
    trail_seconds: Seconds = 30 * 86_400.0
    """How long the audit trail is kept."""
    trail_flush_seconds: Seconds = 60.0
    """Heartbeats and refusals of so long are one record in it."""
    prefix: str = Field(default="freshdb", pattern=r"^[a-z][a-z0-9]{0,15}$")
    """What the names of this installation's roles, databases and schemas begin with."""

    log_format: LogFormat = "auto"
    """``json`` or ``console``; ``auto`` is ``console`` on a terminal, and ``json`` elsewhere."""
    log_level: LogLevel = "info"
    """From which on lines are logged."""
    access_log: bool = True
    """A line for each request, at info; of probes and heartbeats at debug."""

    default_ttl_seconds: Seconds = 300.0
    """A lease's TTL, if the caller names none."""
    min_ttl_seconds: Seconds = 1.0
    """The shortest TTL that can be asked for."""
    max_ttl_seconds: Seconds = 86_400.0
    """The longest TTL, and the longest that a lease can live, renewed or not."""
    default_wait_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """How long an acquire waits, if the caller does not say."""
    max_wait_seconds: Seconds = 300.0
    """The longest wait of one request; clients ask for longer ones in slices."""
    keep_ttl_seconds: Seconds = 3_600.0
    """How long a lease is kept for a look, if the caller does not say."""
    build_seconds: Seconds = 600.0
    """How long a build may go unrenewed before the next caller gets it."""
    max_build_seconds: Seconds = 14_400.0
    """The longest that a caller may ask for instead."""

    min_ready: int = Field(default=2, ge=0, le=10_000)
    """Databases that a pool keeps ready."""
    max_size: int = Field(default=50, ge=1, le=10_000)
    """The most that a pool has."""
    idle_seconds: Seconds = 300.0
    """A pool unused for so long shrinks."""
    unused_template_seconds: Seconds = 7 * 86_400.0
    """A template unused for so long is dropped."""
    history_seconds: Seconds = 86_400.0
    """How long ended leases and resets stay listed, and idempotency keys remembered."""
    history_flush_seconds: Seconds = 15.0
    """How often a replica writes what it saw of pools and resets."""

    max_databases: int = Field(default=1_000, ge=1)
    """Most databases (of either isolation, templates not counted) on one server."""
    max_disk_bytes: int = Field(default=50 * 2**30, ge=2**20)
    """No new database is made on a server where freshdb's databases take more than this."""
    provision_concurrency: int = Field(default=4, ge=1, le=64)
    """Most databases made or dropped at once, per server and replica; of those that are only cleaned, four times as many."""
    connection_limit: int = Field(default=50, ge=1)
    """Most connections of one lease; on no server more than half of those that it has for everybody."""
    temp_file_bytes: int = Field(default=2 * 2**30, ge=0)
    """Most disk for temporary files of one connection of a lease, where freshdb's role may limit that; 0 leaves it to the
    server."""
    clone_strategy: Literal["auto", "wal_log", "file_copy"] = "auto"
    """PostgreSQL's way of copying databases; ``auto`` is ``file_copy`` where the server runs with ``fsync`` off, else
    ``wal_log``."""
    idle_sessions: int = Field(default=64, ge=0)
    """Most sessions inside databases that are kept open for the next reset, per server and replica."""
    scram_iterations: int = Field(default=4096, ge=1, le=1_000_000)
    """How often a lease's password is hashed. It is random, and needs none of it; but some drivers accept no less."""
    audit_every: int = Field(default=1000, ge=0)
    """One in so many cleaned databases is compared in full with its template, by every replica; 0 for none."""
    command_timeout_seconds: Seconds = 60.0
    """How long one statement of the service on a managed server may take; building and copying get longer."""
    answer_seconds: Seconds = 10.0
    """How long the control plane and Redis may take to answer, and a managed server to give a sign of life."""

    claim_seconds: Seconds = 5.0
    """How long a worker that cannot go on keeps a row from the others; one that lives prolongs it."""
    deaths_seconds: Seconds = 0.5
    """A worker that cannot be seen at two such looks is dead, and what it was at is taken over at once."""
    reaper_seconds: Seconds = 1.0
    """How often expired leases are ended."""
    janitor_seconds: Seconds = 2.0
    """How often dirty databases are looked for that nobody was told of."""
    replenisher_seconds: Seconds = 2.0
    """How often pools are filled and shrunk."""
    reconciler_seconds: Seconds = 10.0
    """How often rows, Redis and the servers are compared."""
    failed_seconds: Seconds = 10.0
    """How long a failed database is shown, and its pool left alone, before it is dropped and made anew."""

    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Most bytes of a request's body."""
    max_header_bytes: int = Field(default=32 * 2**10, ge=1024, le=2**20)
    """Most bytes of a request line and its headers together."""
    request_seconds: Seconds = 20.0
    """A request has to arrive within this time (a large body gets a second more for every 64 KiB)."""
    reader_seconds: Seconds = 20.0
    """Whoever reads nothing of an answer, or of a stream of events, for so long is cut off."""
    idle_connection_seconds: int = Field(default=75, ge=1)
    """How long a connection may be kept between two requests."""
    max_connections: int = Field(default=10_000, ge=10)
    """Most connections; when there are more, the one that idled longest is closed."""
    max_requests: int = Field(default=5_000, ge=1)
    """Most requests in progress, those that wait included; heartbeats and releases are never refused for this."""
    max_waiters: int = Field(default=2_000, ge=1)
    """Most callers in the queue of one pool; who comes then is told at once to come again."""
    max_event_streams: int = Field(default=500, ge=1)
    """Most followers of events."""
    max_batch: int = Field(default=50, ge=1, le=1000)
    """Most leases in one batch."""
    idle_exit_seconds: Seconds | None = None
    """The service stops itself when nobody asked for anything and nothing was leased for so long."""

    @field_validator("postgres", "advertise", "adopt", "deny", "allowed_hosts", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("postgres")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [ServerAddress.parse(one).name for one in value]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            message = f"servers are named once each; given twice: {', '.join(sorted(twice))}"
            raise ValueError(message)
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return tuple(ip_network(word, strict=False) for word in value.replace(",", " ").split())
        except ValueError as error:
            message = f"a proxy is given as an address or a network, such as 10.0.0.7 or 10.0.0.0/8: {error}"
            raise ValueError(message) from None

    @field_validator("tokens", mode="before")
    @classmethod
    def _tokens(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        tokens = []
        for word in value.split():
            parts = word.split(":")
            if len(parts) not in {2, 3} or not all(parts):
                message = (
                    "a token is given as name:secret or name:secret:scope+scope (read, lease, build, admin)"
                )
                raise ValueError(message)
            if parts[0] in RESERVED_NAMES:
                message = f"the name {parts[0]!r} stands for callers without a token; choose another"
                raise ValueError(message)
            scopes = {"scopes": frozenset(parts[2].split("+"))} if len(parts) == 3 else {}  # noqa: PLR2004 - name, secret, scopes
            tokens.append({"name": parts[0], "secret": parts[1], **scopes})
        return tuple(tokens)

    @model_validator(mode="after")
    def _limits(self) -> Settings:
        if self.default_ttl_seconds > self.max_ttl_seconds:
            message = "default_ttl_seconds is longer than max_ttl_seconds"
            raise ValueError(message)
        if self.min_ready > self.max_size:
            message = "min_ready is larger than max_size"
            raise ValueError(message)
        unknown = self.advertised.keys() - {one.name for one in self.servers}
        if unknown:
            message = f"advertise names servers that postgres does not: {', '.join(sorted(unknown))}"
            raise ValueError(message)
        if (self.tls_certificate is None) != (self.tls_key is None):
            message = "tls_certificate and tls_key go together: give both, or neither"
            raise ValueError(message)
        if not self.is_private and not self.insecure:
            message = (
                f"listening on {self.host} without TLS would send passwords in the clear: give tls_certificate and tls_key, "
                "or, where a proxy or a private network protects them, say insecure"
            )
            raise ValueError(message)
        return self

    @property
    def is_private(self) -> bool:
        """Whether nobody can listen to what is said."""
        return self.host in LOOPBACK or self.tls_certificate is not None

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """The managed servers, in the order given."""
        return tuple(ServerAddress.parse(one) for one in self.postgres)

    @cached_property
    def advertised(self) -> dict[str, tuple[str, int | None]]:
        """Where callers reach servers, by name, as far as it was given; without a port, it is the server's own.

        Raises:
            ValueError: if it cannot be read.
        """
        return dict(_advertised(one) for one in self.advertise)


def _advertised(text: str) -> tuple[str, tuple[str, int | None]]:
    name, _, address = text.partition("=")
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
        more = parts.path or parts.query or parts.fragment or parts.username
    except ValueError:
        host, port, more = None, None, None
    if not name or not host or more:
        message = f"an address to advertise is given as name=host or name=host:port, not {text!r}"
        raise ValueError(message)
    return name, (host, port)
