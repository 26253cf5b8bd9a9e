"""Random passwords for logins, and their SCRAM-SHA-256 verifiers (RFC 5803), computed in advance.

Hashing a password is the most expensive step of a reset in this process, and does not depend on the login. So a few
passwords are kept in stock, and another thread hashes several at a time. If the stock is empty, the caller waits for a new
one.
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
    """A password that no login has yet, and the verifier that the server stores instead of it."""

    secret: str = field(repr=False)
    verifier: str = field(repr=False)

    @classmethod
    def new(cls, iterations: int) -> Password:
        """Create a random password, and hash it with this number of iterations."""
        secret = secrets.token_hex(24)
        salt = secrets.token_bytes(16)
        # Takes half as long as ``hashlib.pbkdf2_hmac``, which copies an OpenSSL context in every iteration.
        salted = PBKDF2HMAC(SHA256(), hashlib.sha256().digest_size, salt, iterations).derive(secret.encode())
        stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        encoded = [b64encode(part).decode() for part in (salt, stored_key, server_key)]
        return cls(secret, f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}")


class Passwords:
    """The stock of passwords. Each is used once.

    Args:
        iterations: SCRAM iteration count.
    """

    def __init__(self, iterations: int) -> None:
        self._iterations = iterations
        self._stock: deque[Password] = deque()
        self._filling: asyncio.Task[None] | None = None

    async def take(self) -> Password:
        """Take a password out of the stock."""
        if len(self._stock) <= _MOST - _AT_ONCE and self._filling is None:
            self._filling = asyncio.create_task(self._fill())
        if self._stock:
            return self._stock.popleft()
        return await asyncio.to_thread(Password.new, self._iterations)

    async def close(self) -> None:
        """Wait for the thread that hashes."""
        if self._filling is not None:
            await self._filling

    async def _fill(self) -> None:
        try:
            self._stock += await asyncio.to_thread(self._several)
        finally:
            self._filling = None

    def _several(self) -> list[Password]:
        return [Password.new(self._iterations) for _ in range(_AT_ONCE)]
