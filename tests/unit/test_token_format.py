from __future__ import annotations

import re

import pytest

from freshdb_service.auth.token_format import digest_of, hint_of, is_secret, new_secret


def test_token_matches_the_pattern_of_secret_scanners() -> None:
    secrets = {new_secret() for _ in range(1000)}
    assert len(secrets) == 1000
    assert all(re.fullmatch(r"fdb_[0-9A-Za-z]{46}", one) for one in secrets)
    assert all(is_secret(one) for one in secrets)


def test_token_with_a_wrong_checksum_is_invalid() -> None:
    secret = new_secret()
    for place in range(4, len(secret)):
        other = "a" if secret[place] != "a" else "b"
        assert not is_secret(secret[:place] + other + secret[place + 1 :])
    assert not is_secret(secret.swapcase())
    assert not is_secret(secret + "0")


@pytest.mark.parametrize("text", ["", "fdb_", "ci-secret", "fdb_" + "0" * 46, "fdb_" + "é" * 46, "\x00" * 50])
def test_other_text_is_not_a_token(text: str) -> None:
    assert not is_secret(text)


def test_hint_and_digest_do_not_reveal_the_token() -> None:
    secret = new_secret()
    assert len(hint_of(secret)) == 12
    assert len(secret) - len(hint_of(secret)) >= 38
    assert len(digest_of(secret)) == 32
    assert secret.encode() not in digest_of(secret)
