"""Finds the background service of this machine, or starts it.

There is one service per data directory. It holds a lock on ``service.lock`` while it runs, and writes its address to
``service.json``. ``ensure_service`` reads this file and asks ``/livez``. If no service answers, it takes
``start.lock``, checks once more, and starts ``python -m freshdb_service`` in its own session, with the output in
``service.log``. When several processes need a service at the same time, one starts it and the others wait. An idle
service stops by itself.

A service of another version is replaced if it has no leases. If it has, that is an error.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from freshdb.errors import EmbeddedFailed, ServiceNotInstalled
from freshdb.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

IDLE_EXIT_SECONDS: Final = 1800.0
_START_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 60.0
_PROBE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.02
_QUIET_SECONDS: Final = 1.0
_TAIL_LINES: Final = 20
_ALREADY_RUNNING: Final = 3
_CLIENT_VARIABLES: Final = (
    "FRESHDB_URL",
    "FRESHDB_TOKEN",
    "FRESHDB_HOST",
    "FRESHDB_PORT",
    "FRESHDB_LEASE_ID",
)


@dataclass(frozen=True, slots=True)
class RunningService:
    """A background service that is running and answers."""

    url: str
    pid: int
    version: str


def default_data_directory() -> Path:
    """Return the data directory of the background service: ``FRESHDB_DATA``, or else one for this user."""
    given = os.environ.get("FRESHDB_DATA")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/freshdb")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "freshdb"
    data_home = os.environ.get("XDG_DATA_HOME", "").strip()
    return (Path(data_home) if data_home else Path.home() / ".local" / "share") / "freshdb"


def running_service(data: Path | None = None) -> RunningService | None:
    """Return the service of this data directory, or ``None`` if it does not answer."""
    found = _read_service_file(data or default_data_directory())
    return found if found is not None and _is_alive(found) else None


def ensure_service(data: Path | None = None, *, progress: Callable[[str], None] | None = None) -> str:
    """Find or start the background service and return its URL.

    Args:
        data: the data directory. Default: ``default_data_directory()``.
        progress: called with a message if the start takes more than a second.

    Raises:
        ServiceNotInstalled: the package ``freshdb-service`` is not installed.
        EmbeddedFailed: the service did not start. The message ends with its log.
    """
    directory = (data or default_data_directory()).absolute()
    found = running_service(directory)
    if found is not None and found.version == __version__:
        return found.url
    _require_service()
    with _start_lock(directory):
        found = running_service(directory)
        if found is not None and found.version != __version__:
            _stop_other_version(directory, found)
            found = None
        return (found or _start(directory, progress or (lambda _: None))).url


def stop_service(data: Path | None = None) -> bool:
    """Stop the background service and wait for its end. Return false if none was running.

    Raises:
        EmbeddedFailed: the service does not stop.
    """
    directory = (data or default_data_directory()).absolute()
    found = _read_service_file(directory)
    if not _is_locked(directory) or found is None:
        return False
    try:
        os.kill(found.pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError:
        message = f"the freshdb service in {directory} (process {found.pid}) belongs to another user"
        raise EmbeddedFailed(message) from None
    give_up_at = time.monotonic() + _STOP_SECONDS
    while _is_locked(directory):
        if time.monotonic() > give_up_at:
            message = f"the freshdb service (process {found.pid}) does not stop; see its log: {_log_path(directory)}"
            raise EmbeddedFailed(message, log_tail=_log_tail(directory))
        time.sleep(_POLL_SECONDS)
    return True


def _start(directory: Path, progress: Callable[[str], None]) -> RunningService:
    began_at = time.monotonic()
    announced = False
    process: subprocess.Popen[bytes] | None = None
    while True:
        found = running_service(directory)
        if found is not None:
            if process is not None:
                process.returncode = 0  # it outlives this process, which never waits for its end
            return found
        if process is None and not _is_locked(directory):
            process = _spawn(directory)
        exit_code = process.poll() if process is not None else None
        if exit_code == _ALREADY_RUNNING:
            process = None  # another process has started one, which will answer soon
        elif exit_code is not None:
            message = f"the embedded freshdb service ended with exit code {exit_code} while it started"
            raise EmbeddedFailed(f"{message} (log: {_log_path(directory)})", log_tail=_log_tail(directory))
        waited = time.monotonic() - began_at
        if waited > _START_SECONDS:
            message = f"the embedded freshdb service does not answer after {waited:.0f} s (log: {_log_path(directory)})"
            raise EmbeddedFailed(message, log_tail=_log_tail(directory))
        if waited > _QUIET_SECONDS and not announced:
            announced = True
            progress(f"starting the embedded freshdb service in {directory}…")
        time.sleep(_POLL_SECONDS)


def _spawn(directory: Path) -> subprocess.Popen[bytes]:
    options = ["--data", str(directory), "--host", "127.0.0.1", "--port", "0"]
    options += ["--idle-exit-seconds", f"{IDLE_EXIT_SECONDS:g}"]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    log = os.open(_log_path(directory), flags, 0o600)
    try:
        return subprocess.Popen(
            # -P: a project's modules must not replace modules that the service imports
            [sys.executable, "-P", "-m", "freshdb_service", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(os.environ),
            start_new_session=True,
        )
    finally:
        os.close(log)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Build the service's environment, without the variables of clients of freshdb and PostgreSQL, and with a short log."""
    kept = {
        key: value
        for key, value in given.items()
        if key not in _CLIENT_VARIABLES and not key.startswith("PG")
    }
    return {"FRESHDB_ACCESS_LOG": "false", "FRESHDB_LOG_FORMAT": "console", **kept}


def _stop_other_version(directory: Path, found: RunningService) -> None:
    if _has_leases(found):
        message = (
            f"the freshdb service at {found.url} is version {found.version}, this is {__version__}, and clients "
            "hold leases from it: stop it with `freshdb stop`, or use another directory with FRESHDB_DATA"
        )
        raise EmbeddedFailed(message)
    stop_service(directory)


def _has_leases(found: RunningService) -> bool:
    page = _get(found.url, "/v1/leases?limit=1")
    return page is None or page.get("items") != []  # a service that requires a token may have leases


def _read_service_file(directory: Path) -> RunningService | None:
    found: object
    try:
        found = json.loads((directory / "service.json").read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    url, pid, version = found.get("url"), found.get("pid"), found.get("version")
    if isinstance(url, str) and isinstance(pid, int) and isinstance(version, str):
        return RunningService(url, pid, version)
    return None


def _is_alive(found: RunningService) -> bool:
    answer = _get(found.url, "/livez")
    return answer is not None and answer.get("status") == "ok" and answer.get("version") == found.version


def _get(url: str, path: str) -> Mapping[str, object] | None:
    """Send a request without httpx, because its import takes longer than the request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_PROBE_SECONDS)
    found: object
    try:
        connection.request("GET", path)
        found = json.loads(connection.getresponse().read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return found if isinstance(found, dict) else None


def _is_locked(directory: Path) -> bool:
    import fcntl  # noqa: PLC0415 - missing on Windows, which has no embedded service either

    try:
        with (directory / "service.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _start_lock(directory: Path) -> Iterator[None]:
    import fcntl  # noqa: PLC0415 - as above

    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "start.lock").open("ab")
    except OSError as error:
        message = (
            f"cannot write to the data directory {directory}: {error.strerror}; set another with FRESHDB_DATA"
        )
        raise EmbeddedFailed(message) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require_service() -> None:
    if importlib.util.find_spec("freshdb_service") is None:
        message = (
            "no freshdb service is configured, and none can be started here: "
            "set FRESHDB_URL, or install one with pip install 'freshdb[service]'"
        )
        raise ServiceNotInstalled(message)


def _log_path(directory: Path) -> Path:
    return directory / "service.log"


def _log_tail(directory: Path) -> str:
    try:
        lines = _log_path(directory).read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-_TAIL_LINES:])
