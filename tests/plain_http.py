"""HTTP without TLS, for tests. ``httpx.get`` and similar functions read all certificate authorities each time (0.1 s).

Each call has a connection of its own, as with these functions.
"""

from __future__ import annotations

import ssl
from typing import Final

import httpx

NO_CERTIFICATES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For ``verify``: trusts no certificate, and is created without delay."""

_CLIENT: Final = httpx.Client(verify=NO_CERTIFICATES, limits=httpx.Limits(max_keepalive_connections=0))

delete: Final = _CLIENT.delete
get: Final = _CLIENT.get
post: Final = _CLIENT.post
request: Final = _CLIENT.request
