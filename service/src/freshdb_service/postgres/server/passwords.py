"""Random passwords of logins, and what PostgreSQL stores for them (SCRAM-SHA-256, RFC 5803), made ahead.

To hash a password is the dearest single thing that a reset does in this process, and nothing about it depends on the login.
So a few are kept in stock, hashed several at a time on another thread. Whoever finds none waits for one of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from base64 import b64encode
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

_MOST: Final = 16
_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Password:
    """A password that nobody has yet, and what the server is told instead of it."""

    secret: str = field(repr=False)
    verifier: str = field(repr=False)

    @classmethod
    def new(cls, iterations: int) -> Password:
        """Make one up, and hash it so often."""
        secret = secrets.token_hex(24)
        salt = secrets.token_bytes(16)
        # Half of what ``hashlib.pbkdf2_hmac`` takes, which copies a context of OpenSSL's in every iteration.
        salted = PBKDF2HMAC(SHA256(), hashlib.sha256().digest_size, salt, iterations).derive(secret.encode())
        stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        encoded = [b64encode(part).decode() for part in (salt, stored_key, server_key)]
        return cls(secret, f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}")


class Passwords:
    """The stock. Each password is given away once.

    Args:
        iterations: of the hash.
    """

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations
        self._stock: deque[Password] = deque()
        self._filling: asyncio.Task[None] | None = None

    async def take(self) -> Password:
        """A password that nobody else has."""
        if len(self._stock) <= _MOST - _AT_ONCE and self._filling is None:
            self._filling = asyncio.create_task(self._fill())
        if self._stock:
            return self._stock.popleft()
        return await asyncio.to_thread(Password.new, self._iterations)

    async def close(self) -> None:
        """Wait for what is being made."""
        if self._filling is not None:
            await self._filling

    async def _fill(self) -> None:
        try:
            self._stock += await asyncio.to_thread(self._several)
        finally:
            self._filling = None

    def _several(self) -> list[Password]:
        return [Password.new(self._iterations) for _ in range(_AT_ONCE)]
