"""The options of ``token`` and ``audit``."""

from __future__ import annotations

import argparse
import math
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from freshdb.cli.parser import Commands

_SCOPES: Final = ("read", "lease", "build", "admin")
_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_BYTES: Final = {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}


def add_token_commands(commands: Commands) -> None:
    """Add the commands on tokens and the audit log."""
    group = commands.group("token", "create, rotate and revoke tokens")
    create = group.add(
        "create",
        "create a token and print it once; from the first token on, every client needs one",
        "freshdb.cli.tokens:create",
    )
    create.add_argument(
        "--name",
        required=True,
        help="name of the token; its leases belong to this name (letters, digits, . _ -)",
    )
    create.add_argument(
        "--scopes",
        type=_scopes,
        metavar="SCOPE,…",
        default=("read", "lease", "build"),
        help="some of read, lease, build and admin; admin includes the others (default read,lease,build)",
    )
    create.add_argument(
        "--expires",
        type=_duration,
        metavar="TIME",
        help="lifetime from now: 90d, 12h, 30m, seconds (default: no end)",
    )
    _add_quotas(create, lambda read: read)
    listing = group.add("list", "list tokens", "freshdb.cli.tokens:listing")
    listing.add_argument("--all", action="store_true", help="revoked tokens, too")
    show = group.add("show", "show a token and the use of its quotas", "freshdb.cli.tokens:show")
    show.add_argument("token", metavar="TOKEN", help="name or id")
    change = group.add(
        "set",
        "change the quotas that are given; `none` removes one",
        "freshdb.cli.tokens:change",
    )
    change.add_argument("token", metavar="TOKEN", help="name or id")
    _add_quotas(change, _or_none)
    rotate = group.add(
        "rotate", "replace a token's secret and print the new one once", "freshdb.cli.tokens:rotate"
    )
    rotate.add_argument("token", metavar="TOKEN", help="name or id")
    rotate.add_argument(
        "--grace",
        type=_duration,
        metavar="TIME",
        default=0.0,
        help="time for which the old secret still works: 1h, 10m, seconds (default 0)",
    )
    revoke = group.add("revoke", "revoke tokens permanently", "freshdb.cli.tokens:revoke")
    revoke.add_argument("tokens", metavar="TOKEN", nargs="+", help="name or id")
    revoke.add_argument(
        "--leases",
        action="store_true",
        help="revoke their leases, too; otherwise these expire, because no client can renew them",
    )
    for one in (create, listing, show, change, rotate, revoke):
        one.add_argument(
            "--control",
            metavar="DSN",
            help="use the control plane's database directly, without the service: for the first token",
        )
    _add_audit(commands)


def _add_audit(commands: Commands) -> None:
    audit = commands.add(
        "audit", "show the audit log: principal, action, address and time", "freshdb.cli.tokens:audit"
    )
    audit.add_argument("--action", help="for example lease.revoked, or lease.* for all actions on leases")
    audit.add_argument("--principal", metavar="NAME", help="name of the token that did it")
    audit.add_argument("--address", help="IP address of the client")
    audit.add_argument("--subject", metavar="ID", help="id of the lease, template, pool or token")
    audit.add_argument("--label", metavar="NAME", help="name of the subject")
    for name, what in (("since", "not before"), ("until", "before")):
        audit.add_argument(
            f"--{name}",
            type=_instant,
            metavar="WHEN",
            help=f"{what}: 2026-05-01T12:00Z, or 2h for 2 hours ago",
        )
    audit.add_argument(
        "--limit", type=int, default=100, help="maximum number of entries, the newest (default 100)"
    )


def _add_quotas(
    parser: argparse.ArgumentParser, of: Callable[[Callable[[str], object]], Callable[[str], object]]
) -> None:
    for name, read, metavar, what in (
        ("leases", _count, "N", "maximum active leases"),
        ("databases", _count, "N", "maximum databases of its templates"),
        ("ttl", _duration, "TIME", "maximum TTL and lifetime of its leases"),
        (
            "disk",
            _bytes,
            "SIZE",
            "maximum disk space of its templates and their databases: 20GB, 500MB, bytes",
        ),
    ):
        parser.add_argument(
            f"--max-{name}", type=of(read), metavar=metavar, default=argparse.SUPPRESS, help=f"quota: {what}"
        )


def _or_none(read: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: None if text == "none" else read(text)


def _scopes(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(word for word in re.split(r"[,+\s]+", text) if word))
    if not found or set(found) - set(_SCOPES):
        raise argparse.ArgumentTypeError(
            f"{text!r} are not scopes: some of {', '.join(_SCOPES)}, with commas"
        )
    return found


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]?)", text.strip().lower())
    if (
        match is None
        or match[2] not in _UNITS
        or not math.isfinite(value := float(match[1]) * _UNITS[match[2]])
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: 90d, 12h, 30m, or seconds")
    return value


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: 20GB, 500MB, or bytes")
    return int(match[1]) * _BYTES[match[2]]


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _instant(text: str) -> datetime:
    try:
        return datetime.now(UTC) - timedelta(seconds=_duration(text))
    except argparse.ArgumentTypeError:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time: 2026-05-01T12:00Z, or 2h for 2 hours ago"
        ) from None
    return found if found.tzinfo is not None else found.astimezone()
