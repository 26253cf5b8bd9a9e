"""``freshdb serve``: one replica of the service, from start to shutdown.

Without ``--postgres`` it starts an embedded PostgreSQL, and without ``--redis`` an embedded Redis, in the data directory. On
SIGINT or SIGTERM it grants no more leases, finishes the requests, builds and loop runs in progress, and stops everything in
reverse order. A second signal cancels this and exits at once.

This module imports only the code that starts the embedded servers. It imports the rest (``replica``) while they start,
because that is most of the time of a warm start.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import uvloop
from pydantic import SecretStr, ValidationError

from freshdb_service import __version__
from freshdb_service.config import Settings
from freshdb_service.embedded import (
    EmbeddedPostgres,
    EmbeddedRedis,
    default_data_directory,
    postgres_binaries,
)
from freshdb_service.errors import ConfigurationError, FreshdbError
from freshdb_service.observability.logs import LogFormat, LogLevel, configure

if TYPE_CHECKING:
    from freshdb_service.postgres import ResetEngine

_log = logging.getLogger("freshdb")
_WARN_SECONDS = 60.0
EXIT_USAGE = 2
EXIT_RUNNING = 3
EXIT_CANCELLED = 130


class AlreadyRunning(FreshdbError):
    """Another process serves from this data directory."""

    code = "already_running"


async def serve(
    settings: Settings, *, ready: Callable[[str], None] | None = None, engine: ResetEngine | None = None
) -> None:
    """Serve until a signal arrives, or until the service was idle for ``idle_exit_seconds``.

    Args:
        settings: settings of the replica.
        ready: called with the URL once the service answers requests.
        engine: reset engine. One other than freshdb's own is for benchmarks.

    Raises:
        AlreadyRunning: another process serves from this data directory.
        ConfigurationError: a setting cannot work.
        ServerRefused: freshdb must not or cannot manage a server.
        BackendUnavailable: PostgreSQL or Redis is unavailable.
        EmbeddedError: an embedded server cannot start.
    """
    stop = asyncio.Event()
    task = asyncio.current_task()

    def end() -> None:
        if stop.is_set() and task is not None:  # the second signal
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, end)
    async with AsyncExitStack() as stack:
        _check_tls(settings)
        listener = stack.enter_context(_listening(settings.host, settings.port))
        data = _data_directory(settings)
        if data is not None:
            stack.enter_context(_locked(data))
        own_servers = not settings.postgres
        loading = asyncio.create_task(asyncio.to_thread(import_module, "freshdb_service.replica"))
        if data is not None:
            settings = await _with_embedded(settings, data, stack)
        if stop.is_set():
            return
        await loading
        # The module is already loaded by the thread above.
        from freshdb_service.replica import answer, replica_of  # noqa: PLC0415

        replica = await stack.enter_async_context(
            replica_of(settings, own_servers=own_servers, pg_dump=_pg_dump(), engine=engine)
        )
        if settings.idle_exit_seconds is not None:
            idle = asyncio.create_task(replica.stop_when_idle(settings.idle_exit_seconds, end))
            stack.callback(idle.cancel)
        url = _url(listener, tls=settings.tls_certificate is not None)
        stack.enter_context(_warned(settings))
        if data is not None:
            stack.enter_context(_announced(data, url))
        answering = asyncio.create_task(answer(replica.context, listener, stop))
        if ready is not None and not stop.is_set():
            ready(url)
        await answering


def _data_directory(settings: Settings) -> Path | None:
    """Create the data directory and return it, or return ``None`` if no server is embedded and no directory is set."""
    if settings.data is None and settings.postgres and settings.redis is not None:
        return None
    data = settings.data or default_data_directory()
    _make_directory(data)
    return data


async def _with_embedded(settings: Settings, data: Path, stack: AsyncExitStack) -> Settings:
    """Start the embedded servers concurrently, for those that the settings do not name."""

    async def postgres() -> dict[str, object]:
        if settings.postgres:
            return {}
        server = EmbeddedPostgres(data / "postgres-18")
        stack.push_async_callback(server.stop)
        return {"postgres": (f"embedded={await server.start()}",)}

    async def redis() -> dict[str, object]:
        if settings.redis is not None:
            return {}
        server = EmbeddedRedis(data / "redis")
        stack.push_async_callback(server.stop)
        return {"redis": SecretStr(await server.start())}

    started = await asyncio.gather(postgres(), redis(), return_exceptions=True)
    given: dict[str, object] = {}
    for one in started:
        if isinstance(one, BaseException):
            raise one
        given |= one
    return settings.model_copy(update=given)


def _pg_dump() -> Path | None:
    """Return the path of ``pg_dump`` 18, which can dump all older servers, or ``None``."""
    binaries = postgres_binaries(18)
    return binaries / "pg_dump" if binaries is not None else None


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        message = f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port (0 picks a free one)"
        raise ConfigurationError(message) from error
    with listener:
        yield listener


def _check_tls(settings: Settings) -> None:
    """Load the certificate and key before the service starts, to report errors early."""
    if settings.tls_certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:  # including ``ssl.SSLError``
        message = (
            f"cannot use FRESHDB_TLS_CERTIFICATE {settings.tls_certificate} with FRESHDB_TLS_KEY {settings.tls_key}: "
            f"{error}; both must be PEM files: the certificate with its chain, the key without a passphrase"
        )
        raise ConfigurationError(message) from error


@contextmanager
def _warned(settings: Settings) -> Iterator[None]:
    """Repeat a warning while the service listens without TLS on other addresses than loopback."""
    warning = None if settings.is_private else asyncio.create_task(_warn(settings.host))
    try:
        yield
    finally:
        if warning is not None:
            warning.cancel()


async def _warn(host: str) -> None:
    while True:
        _log.warning("listening on %s without TLS (insecure): passwords of leases travel in the clear", host)
        await asyncio.sleep(_WARN_SECONDS)


def _make_directory(data: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True)
        probe = data / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        message = f"cannot write to the data directory {data}: {error.strerror}; choose another with --data"
        raise ConfigurationError(message) from error


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Hold the lock that allows only one process to serve from this directory."""
    with (data / "service.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            message = (
                f"another freshdb serves from {data}{_whose(data)}; "
                "use it, stop it (freshdb stop), or choose another directory with --data"
            )
            raise AlreadyRunning(message) from None
        yield


def _whose(data: Path) -> str:
    try:
        there = json.loads((data / "service.json").read_text())
        return f" at {there['url']} (process {there['pid']})"
    except (OSError, ValueError, KeyError):
        return ""


@contextmanager
def _announced(data: Path, url: str) -> Iterator[None]:
    """Keep a file with the service's URL in the data directory while it listens."""
    path = data / "service.json"
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"url": url, "pid": os.getpid(), "version": __version__, "token": None}))
    new.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _url(listener: socket.socket, *, tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0 after a normal stop, 1 if the start failed, 2 for wrong usage, 3 if a service already runs from the
        data directory, 130 after a second signal.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for one in error.errors():
            message = one["msg"].removeprefix("Value error, ")
            print(f"freshdb serve: {_place(one['loc'], given)}{message}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    configure(settings.log_format, settings.log_level, requests=settings.access_log)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, ready=_say_ready))
    except asyncio.CancelledError:
        return EXIT_CANCELLED
    except AlreadyRunning as error:
        print(f"freshdb serve: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_RUNNING
    except FreshdbError as error:
        print(f"freshdb serve: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _place(location: tuple[int | str, ...], arguments: Mapping[str, object]) -> str:
    """Name the option or environment variable of a wrong value. A message about several of them has their names."""
    if not location:
        return ""
    name = str(location[0])
    return f"--{name.replace('_', '-')}: " if name in arguments else f"FRESHDB_{name.upper()}: "


def _say_ready(url: str) -> None:
    _log.info("freshdb %s listens on %s", __version__, url)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="freshdb serve",
        description="Serve clean PostgreSQL databases over HTTP. Without --postgres or --redis, embedded servers start.",
        epilog="Other settings are environment variables (FRESHDB_…), which the documentation lists.",
    )
    parser.add_argument(
        "--host", help="address to listen on (127.0.0.1); any other than loopback needs tokens and TLS"
    )
    parser.add_argument("--port", type=int, help="port to listen on (8777); 0 picks a free one")
    parser.add_argument("--data", type=Path, metavar="DIR", help="data directory of the embedded servers")
    parser.add_argument(
        "--postgres",
        action="append",
        metavar="DSN",
        help="PostgreSQL server to manage: postgresql://… or name=postgresql://…; can be repeated",
    )
    parser.add_argument("--redis", metavar="URL", help="URL of Redis (6.2 or newer) or Valkey: redis://…")
    parser.add_argument(
        "--control",
        metavar="DSN",
        help="DSN of the control plane's database (by default on the first server)",
    )
    parser.add_argument(
        "--adopt",
        action="append",
        metavar="NAME",
        help="manage this server although it holds databases that freshdb did not create; can be repeated",
    )
    parser.add_argument("--tls-certificate", type=Path, metavar="PEM", help="certificate chain, for HTTPS")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="private key of the certificate")
    parser.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="listen on other addresses than loopback without TLS, for example behind a proxy; logged every minute",
    )
    parser.add_argument(
        "--idle-exit-seconds", type=float, help="stop after this idle time (no request and no live lease)"
    )
    parser.add_argument(
        "--log-format",
        choices=get_args(LogFormat),
        help="format of log lines (auto: console on a terminal, else json)",
    )
    level = parser.add_mutually_exclusive_group()
    level.add_argument("--log-level", choices=get_args(LogLevel), help="minimum level of log lines (info)")
    level.add_argument(
        "--verbose", action="store_const", const="debug", dest="log_level", help="same as --log-level debug"
    )
    return parser
