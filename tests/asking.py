"""HTTP without TLS, for tests: ``httpx.get`` and its like read all certificate authorities in every call, for 0.1 s.

Each call has a connection of its own, as these have.
"""

from __future__ import annotations

import ssl
from typing import Final

import httpx

PLAIN: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For ``verify``: trusts nobody, and costs nothing."""

_CLIENT: Final = httpx.Client(verify=PLAIN, limits=httpx.Limits(max_keepalive_connections=0))

delete: Final = _CLIENT.delete
get: Final = _CLIENT.get
post: Final = _CLIENT.post
request: Final = _CLIENT.request
