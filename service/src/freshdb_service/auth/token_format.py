"""What a token looks like: ``fdb_``, 40 random letters and digits, and 6 that check them.

The prefix is for people and for programs that look for secrets where none should be (``fdb_[0-9A-Za-z]{46}``); the
checksum tells a token from what only looks like one, without asking anybody. The random part has 238 bits, so that a
plain hash is all that it takes to store it: there is nothing that could be guessed. Its first eight characters are the
*hint*, which is stored and shown: the digest is looked up by it, and compared in constant time.
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
    """A token that nobody has seen before."""
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return PREFIX + body + _checksum(body)


def is_secret(text: str) -> bool:
    """Whether this was once made by :func:`new_secret`, as far as can be told without looking it up."""
    body, check = text[len(PREFIX) : -_CHECK], text[-_CHECK:]
    return (
        text.startswith(PREFIX)
        and len(text) == len(PREFIX) + _RANDOM + _CHECK
        and text.isascii()
        and check == _checksum(body)
    )


def hint_of(secret: str) -> str:
    """How it begins: enough to tell it from others, and no help in guessing the rest."""
    return secret[:_HINT]


def digest_of(secret: str) -> bytes:
    """What is stored of it."""
    return hashlib.sha256(secret.encode()).digest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
