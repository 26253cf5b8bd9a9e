"""Whether a call to an open service comes from where it seems to come from.

A service without tokens trusts whoever reaches it, and listens on loopback alone. But a browser on the same machine reaches
it, too, and does what any website tells it. Two things give such a website away. It has an ``Origin``, or says by
``Sec-Fetch-Site``, that is not the service's own: then nothing is changed for it (it could not read the answer either, but
by then it would be done). Or its own name was made to point to this machine (DNS rebinding), so that for the browser it *is*
the service's origin: then ``Host`` names something that is not this machine, and it gets no answer at all.

With tokens none of this matters: no browser adds a token to a call by itself.
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
"""``none``: a person typed the address, or followed a bookmark."""


class OriginCheck:
    """Knows the names of the service itself."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = LOOPBACK | {name.lower() for name in names}

    def check(self, request: Request) -> None:
        """See that a call to an open service is not one that another website has sent.

        Raises:
            Forbidden: it is, or may be.
        """
        headers = request.headers
        host = headers.get("host")
        if host is not None and _name(f"//{host}") not in self._names:
            message = (
                f"this service is open (it has no tokens), and answers to its own names alone, not to {host[:100]!r}: "
                "call it by http://127.0.0.1, make a token, or name it in FRESHDB_ALLOWED_HOSTS"
            )
            raise Forbidden(message)
        if request.method in _SAFE:
            return
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != host
        if foreign or headers.get("sec-fetch-site", "none") not in _OWN:
            message = (
                "a page of another website must not change anything here: this service is open (it has no tokens); "
                "make a token, and call it with that"
            )
            raise Forbidden(message)


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
