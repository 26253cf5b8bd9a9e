"""The deny list: names and addresses that it matches."""

from __future__ import annotations

import pytest

from freshdb_service.config import DENY, Settings
from freshdb_service.postgres.server.deny_list import find_denied, match_names

PRODUCTION = (
    "prod",
    "PROD",
    "db-prod1.example.org",
    "shop_prod",
    "prod-eu-west.example.org",
    "mainprod",
    "proddb",
    "production",
    "shop_production_2",
    "prd",
    "db.prd.example.org",
)
OTHERS = (
    "products",
    "product_catalog",
    "reproducer",
    "producer-test",
    "staging",
    "postgres",
    "localhost",
    "127.0.0.1",
)


@pytest.mark.parametrize("name", PRODUCTION)
def test_production_names_are_denied_by_default(name: str) -> None:
    said = match_names(DENY, [("its host", name)])
    assert said is not None
    assert f"its host {name} is on the deny list" in said


@pytest.mark.parametrize("name", OTHERS)
def test_similar_names_are_not_denied(name: str) -> None:
    assert match_names(DENY, [("its database", name)]) is None


def test_reason_names_matching_pattern() -> None:
    assert (
        match_names(["*prod*"], [("its database", "products")])
        == "its database products is on the deny list (*prod*)"
    )


@pytest.mark.parametrize(
    ("entry", "address", "meant"),
    [
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("2001:db8::/32", "2001:db8::1", True),
        ("10.1.0.0/16", "a-name", False),
    ],
)
def test_addresses_and_networks_are_denied(entry: str, address: str, *, meant: bool) -> None:
    assert (match_names([entry], [("its address", address)]) is not None) == meant


async def test_host_is_denied_by_its_address_and_address_by_its_host() -> None:
    said = await find_denied(["127.0.0.0/8"], host="localhost", said=[("its host", "localhost")])
    assert said is not None
    assert "its address 127.0.0.1" in said
    said = await find_denied(["localhost.localdomain", "::1", "127.0.0.1"], host="127.0.0.1", said=[])
    assert said is not None


async def test_empty_list_denies_nothing_and_resolves_nothing() -> None:
    assert await find_denied([], host="no.such.host.invalid", said=[("its host", "prod")]) is None


async def test_unresolvable_host_is_not_denied() -> None:
    assert (
        await find_denied(DENY, host="no.such.host.invalid", said=[("its host", "no.such.host.invalid")])
        is None
    )
    assert await find_denied(DENY, host="/run/postgresql", said=[("its host", "/run/postgresql")]) is None


def test_deny_list_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHDB_DENY", raising=False)
    assert Settings().deny == DENY
    monkeypatch.setenv("FRESHDB_DENY", "live *-eu 10.0.0.0/8")
    assert Settings().deny == ("live", "*-eu", "10.0.0.0/8")
    monkeypatch.setenv("FRESHDB_DENY", "")
    assert Settings().deny == ()
