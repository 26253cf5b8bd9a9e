"""The configuration of both clients: the service's addresses, the token, the timeouts."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from urllib.parse import urlsplit

from freshdb.clock import elapsed_seconds
from freshdb.errors import NotConfigured
from freshdb.operations import Operations
from freshdb.retry import RetryPolicy, ServiceAddresses
from freshdb.transport import ConnectionSettings
from freshdb.version import __version__


class Configuration:
    """Addresses, token and timeouts of a client. Its ``repr`` does not show the token.

    Raises:
        NotConfigured: no URL is given, or one is invalid.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        token: str | None = None,
        *,
        timeout_seconds: float = 10.0,
        retry_seconds: float = 30.0,
        poll_seconds: float = 50.0,
    ) -> None:
        urls = service_urls(url)
        self.clock = elapsed_seconds
        self.policy = RetryPolicy(
            ServiceAddresses(urls), timeout_seconds, retry_seconds, elapsed_seconds, random.random
        )
        self.operations = Operations(self.policy, poll_seconds)
        given = os.environ.get("FRESHDB_TOKEN") if token is None else token
        self.connection = ConnectionSettings(urls, given or None, user_agent=f"freshdb/{__version__}")
        self._open_transport()

    def _open_transport(self) -> None:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The current address."""
        return self.policy.addresses.current

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.policy.addresses)!r})"


def service_urls(given: str | Sequence[str] | None) -> list[str]:
    """Return the addresses that are given, or those of ``FRESHDB_URL``.

    Raises:
        NotConfigured: there are none, or one is not a URL.
    """
    source = "url" if given is not None else "FRESHDB_URL"
    found = os.environ.get("FRESHDB_URL", "") if given is None else given
    words = found.split(",") if isinstance(found, str) else list(found)
    urls = [word.strip() for word in words if word.strip()]
    if not urls:
        message = (
            "no freshdb service is configured: set FRESHDB_URL (http://host:8777), pass url=, "
            "or start an embedded one with freshdb.ensure_service()"
        )
        raise NotConfigured(message)
    for url in urls:
        _check(url, source)
    return urls


def _check(url: str, source: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        message = f"{source}: {url!r} is not the address of a freshdb service, such as http://host:8777"
        raise NotConfigured(message)
