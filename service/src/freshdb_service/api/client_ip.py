"""The client address of a request.

It is the peer of the connection, unless the peer is a trusted proxy (``trusted_proxies``). Then it is the first address in
``X-Forwarded-For``, read from the right, that is not a trusted proxy. Addresses further left are ignored, because the client
can send any value there.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from freshdb_service.config import Network

_NEIGHBOURS: Final = 64
"""Prefix length of the IPv6 network of one customer, who can choose the other bits freely."""


class ClientAddresses:
    """Determines the client addresses of requests."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    @property
    def any_trusted(self) -> bool:
        """True if ``X-Forwarded-For`` can matter."""
        return bool(self._trusted)

    def of(self, peer: str | None, forwarded: Sequence[str]) -> str | None:
        """Return the client address, or ``None`` for a connection without one (a Unix socket).

        Args:
            peer: address of the connection's peer.
            forwarded: values of all ``X-Forwarded-For`` headers.
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


def throttle_key(address: str | None) -> str:
    """Return the key for counting failed attempts: the IPv4 address, or the /64 network of an IPv6 address."""
    parsed = None if address is None else _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, _NEIGHBOURS), strict=False))
    return address or "-"


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address with or without a port. An IPv4-mapped IPv6 address becomes an IPv4 address."""
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
