"""The format of tokens: ``fdb_``, 40 random letters and digits, and 6 of a checksum.

The prefix lets people and secret scanners recognize tokens (``fdb_[0-9A-Za-z]{46}``). The checksum tells a mistyped token
from a real one without a lookup. The random part has 238 bits and cannot be guessed, so a plain hash is enough to store it.
The prefix and the first eight random characters are the *hint*, which is stored and shown. Digests are looked up by the hint
and compared in constant time.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from typing import Final

PREFIX: Final = "fdb_"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM: Final = 40
_CHECK: Final = 6
_HINT: Final = len(PREFIX) + 8


def new_secret() -> str:
    """Generate a random token."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return PREFIX + body + _checksum(body)


def is_secret(text: str) -> bool:
    """True if the text has the format and checksum of :func:`new_secret`."""
    body, check = text[len(PREFIX) : -_CHECK], text[-_CHECK:]
    return (
        text.startswith(PREFIX)
        and len(text) == len(PREFIX) + _RANDOM + _CHECK
        and text.isascii()
        and check == _checksum(body)
    )


def hint_of(secret: str) -> str:
    """Return the first characters, which identify the token and do not help to guess the rest."""
    return secret[:_HINT]


def digest_of(secret: str) -> bytes:
    """Return the digest for storage."""
    return hashlib.sha256(secret.encode()).digest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
