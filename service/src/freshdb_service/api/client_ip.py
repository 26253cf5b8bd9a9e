"""Where a request comes from.

The peer of the connection, unless that is a proxy that is trusted (``trusted_proxies``): then what it says in
``X-Forwarded-For``, read from the right for as long as the next one is a trusted proxy, too. What stands further to the
left is whatever the caller chose to send, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from freshdb_service.config import Network

_NEIGHBOURS: Final = 64
"""Bits of an IPv6 address that one customer cannot choose: the rest is as good as random."""


class ClientAddresses:
    """Finds out where requests come from."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    @property
    def any_trusted(self) -> bool:
        """Whether ``X-Forwarded-For`` is worth a look."""
        return bool(self._trusted)

    def of(self, peer: str | None, forwarded: Sequence[str]) -> str | None:
        """The caller's address; ``None`` where the connection has none (a Unix socket).

        Args:
            peer: of the connection.
            forwarded: the values of all ``X-Forwarded-For`` headers.
        """
        if not self._trusted or peer is None:
            return peer
        address = _parsed(peer)
        hops = [hop for value in forwarded for hop in value.split(",")]
        while address is not None and self._is_trusted(address) and hops:
            before = _parsed(hops.pop())
            if before is None:
                break
            address = before
        return peer if address is None else str(address)

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address.version == network.version and address in network for network in self._trusted)


def neighbourhood(address: str | None) -> str:
    """What failed attempts are counted by: the address; of IPv6, the network that one customer gets."""
    parsed = None if address is None else _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, _NEIGHBOURS), strict=False))
    return address or "-"


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address, with or without a port; one of IPv4 that is written as one of IPv6 is the former."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
