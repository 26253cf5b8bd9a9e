"""The deny list: servers that must never be managed.

An entry is one of:

* A pattern for names, with ``*``, ``?`` and ``[…]`` (``*prod*``). It applies to the server's name, its host and the host's
  other names in the DNS, its ``cluster_name``, and its databases. It has to match a whole name, or one of the words in it:
  ``prod`` matches ``db-prod1.example.org`` and ``shop_prod``, but not ``products``.
* A host. A server with one of its addresses is denied.
* An address or a network (``10.1.0.0/16``). It applies to the addresses of the server.

Case does not matter.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

_LOOK_UP_SECONDS: Final = 3.0


async def find_denied(
    patterns: Sequence[str], *, host: str, said: Iterable[tuple[str, str | None]]
) -> str | None:
    """Return the reason why a server is on the deny list, or ``None`` if it is not.

    Args:
        patterns: entries of the list.
        host: host of the server's DSN.
        said: other names and addresses of the server, each with its kind.
    """
    names = [(kind, name) for kind, name in said if name]
    if not patterns or (found := match_names(patterns, names)) is not None:
        return found if patterns else None
    addresses = await _addresses(host)
    names = [("its address", one) for one in addresses]
    names += [("its host", one) for one in await _other_names(host, addresses)]
    if (found := match_names(patterns, names)) is not None:
        return found
    for pattern in patterns:
        if _is_host(pattern) and (same := addresses & await _addresses(pattern)):
            return f"its address {min(same)} is also that of {pattern}, which is on the deny list"
    return None


def match_names(patterns: Iterable[str], names: Iterable[tuple[str, str]]) -> str | None:
    """Describe the first name that a pattern matches."""
    for kind, name in names:
        for pattern in patterns:
            if _matches(pattern, name):
                also = "" if name == pattern else f" ({pattern})"
                return f"{kind} {name} is on the deny list{also}"
    return None


def _matches(pattern: str, name: str) -> bool:
    network = _network(pattern)
    if network is not None:
        try:
            return ip_address(name) in network
        except ValueError:
            return False
    pattern, name = pattern.lower(), name.lower()
    words = re.findall(r"[^\W_]+", name)
    return any(
        fnmatchcase(one, pattern) for one in (name, *words, *(one.rstrip("0123456789") for one in words))
    )


def _network(pattern: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(pattern, strict=False)
    except ValueError:
        return None


def _is_host(pattern: str) -> bool:
    return not set(pattern) & set("*?[") and "." in pattern and _network(pattern) is None


async def _addresses(host: str) -> set[str]:
    """Return the addresses of a host. There are none if they cannot be resolved, or it is a directory of sockets."""
    if host.startswith(("/", "@")):
        return set()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_LOOK_UP_SECONDS):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(one[4][0]) for one in found}


async def _other_names(host: str, addresses: set[str]) -> set[str]:
    """Return the other names of a host: its canonical name, and the names of its addresses."""
    loop = asyncio.get_running_loop()
    names: set[str] = set()
    try:
        async with asyncio.timeout(_LOOK_UP_SECONDS):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
            names |= {one[3] for one in found}
            for address in addresses:
                if not ip_address(address.partition("%")[0]).is_loopback:
                    name, _ = await loop.getnameinfo((address, 0), socket.NI_NAMEREQD)
                    names.add(name)
    except (OSError, UnicodeError):
        pass  # a server without other names has none on the list
    return names - {""}
