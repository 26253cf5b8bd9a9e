from __future__ import annotations

from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from freshdb_service.api.client_ip import ClientAddresses, throttle_key
from freshdb_service.config import Settings

PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.5", [], "203.0.113.5"),
        ("203.0.113.5", ["198.51.100.1"], "203.0.113.5"),  # not a trusted proxy, so its header is ignored
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        (
            "10.0.0.1",
            ["192.0.2.9, 198.51.100.1"],
            "198.51.100.1",
        ),  # the client forged the addresses on the left
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.9", "198.51.100.1, 10.0.0.2", "10.1.2.3"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("::1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["2001:db8::7"], "2001:db8::7"),
        ("::1", ["fe80::1%eth0"], "fe80::1"),
        (None, ["198.51.100.1"], None),
    ],
)
def test_client_address_comes_from_trusted_proxies_only(
    peer: str | None, forwarded: list[str], address: str | None
) -> None:
    assert ClientAddresses(PROXIES).of(peer, forwarded) == address


def test_no_proxy_is_trusted_by_default() -> None:
    assert ClientAddresses(Settings().trusted_proxies).of("127.0.0.1", ["198.51.100.1"]) == "127.0.0.1"


def test_proxies_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHDB_TRUSTED_PROXIES", "10.0.0.7 10.1.2.3/16, ::1")
    assert [str(one) for one in Settings().trusted_proxies] == ["10.0.0.7/32", "10.1.0.0/16", "::1/128"]
    monkeypatch.setenv("FRESHDB_TRUSTED_PROXIES", "proxy.example")
    with pytest.raises(ValidationError, match="must be addresses or networks"):
        Settings()


def test_ipv6_addresses_of_one_customer_share_a_throttle_key() -> None:
    assert throttle_key("2001:db8:1:2:aaaa::1") == throttle_key("2001:db8:1:2:bbbb::2")
    assert throttle_key("2001:db8:1:2::1") != throttle_key("2001:db8:1:3::1")
    assert throttle_key("192.0.2.1") != throttle_key("192.0.2.2")
    assert throttle_key(None)
