"""Settings, read once at the start from arguments and the environment (``FRESHDB_…``), and then passed in."""

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
WRITABLE_EXTENSIONS = (
    *("postgis", "postgis_topology", "postgis_tiger_geocoder", "address_standardizer_data_us"),
    *("pg_partman", "postgres_fdw", "dblink"),
)
OPEN_NAME = "anonymous"
"""The principal of all callers of a service without tokens."""
RESERVED_NAMES = frozenset({OPEN_NAME})
PRINCIPAL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Valid names of tokens of the control plane."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: frozenset[Scope] = frozenset({"read", "lease", "build"})


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A managed PostgreSQL server from the settings: ``name=DSN``, or a plain DSN, whose name is then ``host:port``."""

    name: str
    dsn: str

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Parse one ``--postgres`` value.

        Raises:
            ValueError: the value is not a PostgreSQL URL. The message never repeats a password.
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
            message = "must be postgresql://user:password@host:port/database, or name=postgresql://…"
            raise ValueError(message)
        return cls(name=head if named else f"{host}:{port or 5432}", dsn=dsn)

    def __repr__(self) -> str:
        """Show the name only, because the DSN may hold a password."""
        return f"ServerAddress({self.name!r})"


class Token(BaseModel):
    """A static token: ``name:secret`` or ``name:secret:scope+scope``."""

    model_config = ConfigDict(frozen=True)

    name: str
    secret: SecretStr
    scopes: frozenset[Scope] = DEFAULT_SCOPES


class Settings(BaseSettings):
    """All settings and their defaults. Durations are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="FRESHDB_", extra="ignore", frozen=True)

    host: str = "127.0.0.1"
    """Address to listen on. Any other than loopback needs tokens, and TLS or ``insecure``."""
    port: int = Field(default=8777, ge=0, le=65535)
    """TCP port to listen on. 0 picks a free one."""
    data: Path | None = None
    """Data directory of the embedded servers. The default is below the user's data directory."""
    postgres: Annotated[tuple[str, ...], NoDecode] = ()
    """PostgreSQL servers to manage: ``postgresql://…`` or ``name=postgresql://…``. Without any, it is embedded."""
    advertise: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses in the URLs of leases, as ``name=host`` or ``name=host:port``, where they differ from the servers' DSNs."""
    redis: SecretStr | None = None
    """URL of Redis or Valkey: ``redis://…``. Without it, an embedded one is started."""
    control: SecretStr | None = None
    """DSN of the control plane's database. The default is a database on the first managed server."""
    adopt: Annotated[tuple[str, ...], NoDecode] = ()
    """Names of servers that freshdb may manage although they hold databases that freshdb did not create."""
    deny: Annotated[tuple[str, ...], NoDecode] = DENY
    """Deny list: servers that freshdb must never manage, even if adopted. It has addresses, and patterns for the names of
    servers, hosts and databases."""
    tokens: Annotated[tuple[Token, ...], NoDecode] = ()
    """Static tokens besides those of ``freshdb token``: ``name:secret`` or ``name:secret:scope+scope``."""
    tls_certificate: Path | None = None
    """Certificate chain (PEM file) for HTTPS. A new one needs a restart."""
    tls_key: Path | None = None
    """Private key of the certificate (PEM file), without a passphrase."""
    insecure: bool = False
    """Listen on other addresses than loopback without TLS. Passwords travel in the clear unless a proxy encrypts them."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names (besides loopback) that a service without tokens answers to. Any other ``Host`` is refused, which protects
    against DNS rebinding."""
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    """Addresses or networks of proxies whose ``X-Forwarded-For`` is trusted."""
    token_refresh_seconds: Seconds = 5.0
    """Interval between reloads of the tokens by each replica, for when a Redis notification was missed."""
    failed_attempts: int = Field(default=20, ge=1)
    """Maximum attempts with a wrong token per client address, minute and replica. Further ones are answered with 429."""
    trail_seconds: Seconds = 30 * 86_400.0
    """Retention of audit log entries."""
    trail_flush_seconds: Seconds = 60.0
    """Interval between writes of the audit log's heartbeats and refusals. Equal ones within it become one entry."""
    prefix: str = Field(default="freshdb", pattern=r"^[a-z][a-z0-9]{0,15}$")
    """Prefix of the names of this installation's roles, databases and schemas."""

    log_format: LogFormat = "auto"
    """Format of log lines: ``json`` or ``console``. ``auto`` is ``console`` on a terminal, else ``json``."""
    log_level: LogLevel = "info"
    """Minimum level of log lines."""
    access_log: bool = True
    """Log one line for each request: at level info, and for probes and heartbeats at debug."""

    default_ttl_seconds: Seconds = 300.0
    """Default TTL of a lease."""
    min_ttl_seconds: Seconds = 1.0
    """Minimum TTL that a caller may ask for."""
    max_ttl_seconds: Seconds = 86_400.0
    """Maximum TTL, and maximum total life of a lease, renewals included."""
    default_wait_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    """Default time that an acquire waits in the queue."""
    max_wait_seconds: Seconds = 300.0
    """Maximum wait of one request. Clients that want to wait longer send several requests."""
    keep_ttl_seconds: Seconds = 3_600.0
    """Default TTL of a kept lease."""
    build_seconds: Seconds = 600.0
    """Default deadline of a build. A build that is not renewed within it goes to the next caller."""
    max_build_seconds: Seconds = 14_400.0
    """Maximum deadline that a builder may ask for."""

    min_ready: int = Field(default=2, ge=0, le=10_000)
    """Minimum ready databases per pool."""
    max_size: int = Field(default=50, ge=1, le=10_000)
    """Maximum databases per pool."""
    idle_seconds: Seconds = 300.0
    """Idle time after which ready databases beyond ``min_ready`` are dropped."""
    unused_template_seconds: Seconds = 7 * 86_400.0
    """Idle time after which a template is dropped."""
    history_seconds: Seconds = 86_400.0
    """Retention of ended leases, resets and idempotency keys."""
    history_flush_seconds: Seconds = 15.0
    """Interval between writes of a replica's history of pools and resets."""

    max_databases: int = Field(default=1_000, ge=1)
    """Maximum databases per server, counting those of both isolations but not templates."""
    max_disk_bytes: int = Field(default=50 * 2**30, ge=2**20)
    """Maximum disk space of freshdb's databases per server. Above it, no new database is created there."""
    provision_concurrency: int = Field(default=4, ge=1, le=64)
    """Maximum databases created or dropped at once, per server and replica. Resets in place get four times as many."""
    connection_limit: int = Field(default=50, ge=1)
    """Maximum connections per lease. It is capped at half of the server's connections for ordinary roles."""
    temp_file_bytes: int = Field(default=2 * 2**30, ge=0)
    """Maximum bytes of temporary files per connection of a lease, where freshdb's role may limit them. 0 keeps the server's
    limit."""
    clone_strategy: Literal["auto", "wal_log", "file_copy"] = "auto"
    """Strategy of ``CREATE DATABASE`` for copies. ``auto`` is ``file_copy`` where ``fsync`` is off, else ``wal_log``."""
    idle_sessions: int = Field(default=64, ge=0)
    """Maximum idle sessions kept open inside databases for their next reset, per server and replica."""
    scram_iterations: int = Field(default=4096, ge=1, le=1_000_000)
    """SCRAM iteration count for passwords of leases. Passwords are random and do not need more than 1, but some drivers
    require at least 4096."""
    audit_every: int = Field(default=1000, ge=0)
    """Interval of audits, in resets: each replica compares every Nth database in full with its template. 0 disables them."""
    command_timeout_seconds: Seconds = 60.0
    """Timeout for one statement of the service on a managed server. Building and copying have longer timeouts."""
    writable_extensions: Annotated[tuple[str, ...], NoDecode] = WRITABLE_EXTENSIONS
    """Extensions whose tables, sequences and foreign-data wrappers builders and holders may use. Name an extension only if
    no superuser (for example a background worker) acts on rows of its tables, and no wrapper of it reads files."""
    answer_seconds: Seconds = 10.0
    """Timeout for answers of the control plane and of Redis, and for probes of managed servers."""

    claim_seconds: Seconds = 5.0
    """Lifetime of a worker's claim on a row. A live worker renews it. When a worker hangs, another one takes over."""
    deaths_seconds: Seconds = 0.5
    """Interval between checks for dead workers. The work of a worker that is missing in two checks is taken over at once."""
    reaper_seconds: Seconds = 1.0
    """Interval between runs of the reaper, which ends expired leases."""
    janitor_seconds: Seconds = 2.0
    """Interval between runs of the janitor, which resets dirty databases whose notification was missed."""
    replenisher_seconds: Seconds = 2.0
    """Interval between runs of the replenisher, which fills and shrinks pools."""
    reconciler_seconds: Seconds = 10.0
    """Interval between runs of the reconciler, which compares the control plane with Redis and the servers."""
    failed_seconds: Seconds = 10.0
    """Delay before a failed database is dropped and recreated. Until then it is shown, and its pool is left alone."""

    max_body_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Maximum size of a request's body."""
    max_header_bytes: int = Field(default=32 * 2**10, ge=1024, le=2**20)
    """Maximum size of a request line and its headers together."""
    request_seconds: Seconds = 20.0
    """Timeout for the arrival of a whole request. A large body gets one more second per 64 KiB."""
    reader_seconds: Seconds = 20.0
    """Write timeout: connections whose client stops reading for this long are closed."""
    idle_connection_seconds: int = Field(default=75, ge=1)
    """Keep-alive timeout of idle connections."""
    max_connections: int = Field(default=10_000, ge=10)
    """Maximum client connections. Above it, the connection that has been idle longest is closed."""
    max_requests: int = Field(default=5_000, ge=1)
    """Maximum requests in progress, waiting ones included. Heartbeats and releases are never refused for this."""
    max_waiters: int = Field(default=2_000, ge=1)
    """Maximum callers in the queue of one pool. Further ones are refused at once and may retry."""
    max_event_streams: int = Field(default=500, ge=1)
    """Maximum open event streams."""
    max_batch: int = Field(default=50, ge=1, le=1000)
    """Maximum leases in one batch."""
    idle_exit_seconds: Seconds | None = None
    """Idle time (no request and no live lease) after which the service stops. By default it runs until it gets a signal."""

    @field_validator(
        "postgres", "advertise", "adopt", "deny", "allowed_hosts", "writable_extensions", mode="before"
    )
    @classmethod
    def _words(cls, value: object) -> object:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("postgres")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = [ServerAddress.parse(one).name for one in value]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            message = f"each server needs its own name; given twice: {', '.join(sorted(twice))}"
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
            message = f"must be addresses or networks, such as 10.0.0.7 or 10.0.0.0/8: {error}"
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
                message = "must be name:secret or name:secret:scope+scope (read, lease, build, admin)"
                raise ValueError(message)
            if parts[0] in RESERVED_NAMES:
                message = f"{parts[0]!r} is reserved for callers without a token; choose another name"
                raise ValueError(message)
            scopes = {"scopes": frozenset(parts[2].split("+"))} if len(parts) == 3 else {}  # noqa: PLR2004 - name, secret, scopes
            tokens.append({"name": parts[0], "secret": parts[1], **scopes})
        return tuple(tokens)

    @model_validator(mode="after")
    def _limits(self) -> Settings:
        if self.default_ttl_seconds > self.max_ttl_seconds:
            message = (
                f"FRESHDB_DEFAULT_TTL_SECONDS ({self.default_ttl_seconds:g}) exceeds FRESHDB_MAX_TTL_SECONDS "
                f"({self.max_ttl_seconds:g}); lower the first or raise the second"
            )
            raise ValueError(message)
        if self.min_ready > self.max_size:
            message = (
                f"FRESHDB_MIN_READY ({self.min_ready}) exceeds FRESHDB_MAX_SIZE ({self.max_size}); "
                "lower the first or raise the second"
            )
            raise ValueError(message)
        unknown = self.advertised.keys() - {one.name for one in self.servers}
        if unknown:
            message = (
                f"FRESHDB_ADVERTISE names servers that FRESHDB_POSTGRES does not: {', '.join(sorted(unknown))}; "
                "add them there (name=DSN) or correct the names"
            )
            raise ValueError(message)
        if (self.tls_certificate is None) != (self.tls_key is None):
            message = "FRESHDB_TLS_CERTIFICATE and FRESHDB_TLS_KEY go together: set both, or neither"
            raise ValueError(message)
        if not self.is_private and not self.insecure:
            message = (
                f"listening on {self.host} without TLS would send passwords in the clear: set FRESHDB_TLS_CERTIFICATE and "
                "FRESHDB_TLS_KEY, or, where a proxy or a private network protects them, FRESHDB_INSECURE=true"
            )
            raise ValueError(message)
        return self

    @property
    def is_private(self) -> bool:
        """True if no other machine can read the traffic: the service listens on loopback, or with TLS."""
        return self.host in LOOPBACK or self.tls_certificate is not None

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """The managed servers, in the order given."""
        return tuple(ServerAddress.parse(one) for one in self.postgres)

    @cached_property
    def advertised(self) -> dict[str, tuple[str, int | None]]:
        """Advertised host and port by the server's name. A port of ``None`` is the server's own.

        Raises:
            ValueError: a value of ``advertise`` is malformed.
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
        message = f"FRESHDB_ADVERTISE must be name=host or name=host:port, not {text!r}"
        raise ValueError(message)
    return name, (host, port)
