"""Passwords that are hashed in advance: each is used once, and its verifier is the one that PostgreSQL would store."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from base64 import b64decode, b64encode

from freshdb_service.postgres.server.passwords import Password, Passwords

ITERATIONS = 4096


async def test_each_password_is_used_once() -> None:
    passwords = Passwords(ITERATIONS)
    at_once = await asyncio.gather(*(passwords.take() for _ in range(40)))
    one_by_one = [await passwords.take() for _ in range(40)]
    await passwords.close()
    taken = [*at_once, *one_by_one]
    assert len({one.secret for one in taken}) == len({one.verifier for one in taken}) == 80
    assert all(one.verifier == _verifier(one) for one in taken)


def test_password_is_not_in_repr() -> None:
    password = Password.new(1)
    assert password.secret not in repr(password)
    assert password.verifier not in repr(password)


def _verifier(password: Password) -> str:
    """Compute the verifier with the standard library only."""
    salt = b64decode(password.verifier.partition(":")[2].partition("$")[0])
    salted = hashlib.pbkdf2_hmac("sha256", password.secret.encode(), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = [b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"
