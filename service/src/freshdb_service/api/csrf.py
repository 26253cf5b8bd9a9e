"""Protection of an open service against other websites in a browser (CSRF and DNS rebinding).

A service without tokens trusts all callers and listens on loopback only. But a browser on the same machine can send requests
to it on behalf of any website. Two checks detect them:

- CSRF: ``Origin`` or ``Sec-Fetch-Site`` show another origin. Such a request must not change anything. The website could not
  read the response, but the change would be done.
- DNS rebinding: the website's own name resolves to this machine, so that the browser takes the service for the same origin.
  Then ``Host`` has a name that is not this machine's, and the request is refused.

A service with tokens needs no checks, because a browser does not add a token by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request

from freshdb_service.config import LOOPBACK
from freshdb_service.errors import Forbidden

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN: Final = frozenset({"same-origin", "none"})
"""``none``: the user typed the address or opened a bookmark."""


class OriginCheck:
    """Checks requests to an open service against the service's own names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = LOOPBACK | {name.lower() for name in names}

    def check(self, request: Request) -> None:
        """Refuse a request that another website may have sent.

        Raises:
            Forbidden: ``Host`` is not allowed, or the request comes from another origin and is not read-only.
        """
        headers = request.headers
        host = headers.get("host")
        if host is not None and _name(f"//{host}") not in self._names:
            message = (
                f"this service has no tokens, so it does not answer to the host name {host[:100]!r}: "
                "use http://127.0.0.1, create a token, or add the name to FRESHDB_ALLOWED_HOSTS"
            )
            raise Forbidden(message)
        if request.method in _SAFE:
            return
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != host
        if foreign or headers.get("sec-fetch-site", "none") not in _OWN:
            message = (
                "this service has no tokens, so it refuses changes from pages of other websites: "
                "create a token and send it"
            )
            raise Forbidden(message)


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
