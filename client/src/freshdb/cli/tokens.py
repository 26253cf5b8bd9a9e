"""``token create``, ``list``, ``show``, ``set``, ``rotate``, ``revoke``; and ``audit``.

With ``--control DSN`` the commands on tokens work on the control plane's database itself, for whoever may log in there:
so the first token of an installation is made, and a new one when all are lost.
"""

from __future__ import annotations

import getpass
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from freshdb.cli.connect import connect
from freshdb.cli.output import as_json, pairs, print_json, print_table, result, say, size
from freshdb.cli.usage import UsageError
from freshdb.errors import FreshdbError, ServiceNotInstalled
from freshdb.token_models import Token
from freshdb.token_operations import DEFAULT_SCOPES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from freshdb.token_models import AuditRecord
    from freshdb_service.api.offline_tokens import OfflineTokens

_QUOTAS: Final = ("max_leases", "max_databases", "max_ttl_seconds", "max_disk_bytes")


class Tokens(Protocol):
    """What ``Client`` can do with tokens; and so can the control plane's database."""

    def create_token(
        self,
        name: str,
        *,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        expires_seconds: float | None = None,
        quotas: Mapping[str, float | int | None] | None = None,
    ) -> Token:
        """Make one."""

    def tokens(self, *, states: Sequence[str] | None = None, limit: int | None = None) -> list[Token]:
        """List them."""

    def token(self, reference: str) -> Token:
        """Look one up."""

    def change_token(self, reference: str, quotas: Mapping[str, float | int | None]) -> Token:
        """Change its quotas."""

    def rotate_token(self, reference: str, *, grace_seconds: float = 0.0) -> Token:
        """Give it another secret."""

    def revoke_token(self, reference: str, *, leases: bool = False) -> Token:
        """End it."""


def create(arguments: argparse.Namespace) -> int:
    """Make a token and print its secret."""
    with _tokens(arguments) as tokens:
        token = tokens.create_token(
            arguments.name,
            scopes=arguments.scopes,
            expires_seconds=arguments.expires,
            quotas=_quotas(arguments),
        )
    return _show_secret(arguments, token)


def rotate(arguments: argparse.Namespace) -> int:
    """Give a token another secret and print it."""
    with _tokens(arguments) as tokens:
        token = tokens.rotate_token(arguments.token, grace_seconds=arguments.grace)
    return _show_secret(arguments, token)


def listing(arguments: argparse.Namespace) -> int:
    """List tokens."""
    with _tokens(arguments) as tokens:
        found = tokens.tokens(states=("active", "expired", "revoked") if arguments.all else None)
    if arguments.json:
        print_json([_without_secret(one) for one in found])
        return 0
    rows = [
        (
            one.name,
            one.state,
            ",".join(one.scopes),
            _limits(one),
            f"{one.hint}…",
            one.created_at,
            one.last_used_at,
            one.expires_at,
            one.id,
        )
        for one in found
    ]
    headings = ("name", "state", "scopes", "quotas", "token", "created", "last used", "expires", "id")
    print_table(headings, rows, nothing="no tokens: make one with freshdb token create --name NAME")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Show a token, and how much of its quotas it uses."""
    with _tokens(arguments) as tokens:
        token = tokens.token(arguments.token)
    return _show(arguments, token)


def change(arguments: argparse.Namespace) -> int:
    """Change a token's quotas."""
    given = _quotas(arguments)
    if not given:
        message = (
            "say which quota: --max-leases, --max-databases, --max-ttl or --max-disk, each a number or none"
        )
        raise UsageError(message)
    with _tokens(arguments) as tokens:
        token = tokens.change_token(arguments.token, given)
    return _show(arguments, token)


def revoke(arguments: argparse.Namespace) -> int:
    """End tokens for good."""
    if arguments.leases and arguments.control:
        message = "--leases needs the service, which ends them: leave --control out"
        raise UsageError(message)
    with _tokens(arguments) as tokens:
        found = [tokens.revoke_token(one, leases=arguments.leases) for one in arguments.tokens]
    if arguments.json:
        print_json([_without_secret(one) for one in found])
        return 0
    for one in found:
        ended = f", and {one.revoked_leases} of its leases" if one.revoked_leases else ""
        say(f"revoked {one.name}{ended}")
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Show who did what, from where; the newest last."""
    with connect(arguments) as client:
        found = client.audit(
            action=arguments.action,
            principal=arguments.principal,
            address=arguments.address,
            subject=arguments.subject,
            label=arguments.label,
            since=arguments.since,
            until=arguments.until,
            limit=arguments.limit,
        )
    if arguments.json:
        print_json(found)
        return 0
    rows = [
        (one.at, one.action, one.principal, one.address, one.label, one.subject, _said(one))
        for one in reversed(found)
    ]
    headings = ("at", "action", "principal", "address", "label", "subject", "details")
    print_table(headings, rows, nothing="no records")
    return 0


@contextmanager
def _tokens(arguments: argparse.Namespace) -> Iterator[Tokens]:
    """The service, or the control plane's database itself."""
    if arguments.control is None:
        with connect(arguments) as client:
            yield client
        return
    with _direct(arguments.control) as direct:
        yield direct


@contextmanager
def _direct(dsn: str) -> Iterator[Tokens]:
    try:
        from freshdb_service.api.offline_tokens import OfflineTokens  # noqa: PLC0415 - another package, which need not be there
        from freshdb_service.errors import FreshdbError as ServiceError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("freshdb_service"):
            raise
        message = "--control needs the service's package: pip install 'freshdb[service]'"
        raise ServiceNotInstalled(message) from None
    try:
        yield _Direct(OfflineTokens(dsn, who=f"{getpass.getuser()}@{socket.gethostname()}"))
    except ServiceError as error:
        raise FreshdbError(str(error)) from None


class _Direct:
    """Tokens in the control plane's database, in the client's words."""

    def __init__(self, direct: OfflineTokens) -> None:
        self._direct = direct

    def create_token(
        self,
        name: str,
        *,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        expires_seconds: float | None = None,
        quotas: Mapping[str, float | int | None] | None = None,
    ) -> Token:
        """Make one."""
        body = {"name": name, "scopes": list(scopes), "expires_seconds": expires_seconds, **(quotas or {})}
        return Token.from_wire(self._direct.create(body))

    def tokens(self, *, states: Sequence[str] | None = None, limit: int | None = None) -> list[Token]:
        """List them."""
        return [Token.from_wire(one) for one in self._direct.listing(states or ("active", "expired"))][:limit]

    def token(self, reference: str) -> Token:
        """Look one up."""
        return Token.from_wire(self._direct.find(reference))

    def change_token(self, reference: str, quotas: Mapping[str, float | int | None]) -> Token:
        """Change its quotas."""
        return Token.from_wire(self._direct.change(reference, quotas))

    def rotate_token(self, reference: str, *, grace_seconds: float = 0.0) -> Token:
        """Give it another secret."""
        return Token.from_wire(self._direct.rotate(reference, {"grace_seconds": grace_seconds}))

    def revoke_token(self, reference: str, *, leases: bool = False) -> Token:
        """End it; its leases end by their TTL."""
        del leases
        return Token.from_wire(self._direct.revoke(reference))


def _quotas(arguments: argparse.Namespace) -> dict[str, float | int | None]:
    """Those that were given."""
    options = {"max_leases": "max_leases", "max_databases": "max_databases"}
    options |= {"max_ttl": "max_ttl_seconds", "max_disk": "max_disk_bytes"}
    return {quota: getattr(arguments, option) for option, quota in options.items() if option in arguments}


def _show_secret(arguments: argparse.Namespace, token: Token) -> int:
    if arguments.json:
        print_json({**_without_secret(token), "token": token.secret})
        return 0
    result(token.secret or "")
    ends = f", until {token.expires_at:%Y-%m-%d %H:%M}Z" if token.expires_at else ""
    say(
        f"the token of {token.name} ({', '.join(token.scopes)}{ends}); it is shown this once. Use it: FRESHDB_TOKEN=…"
    )
    return 0


def _show(arguments: argparse.Namespace, token: Token) -> int:
    if arguments.json:
        print_json(_without_secret(token))
        return 0
    use = {"leases": "max_leases", "databases": "max_databases", "disk_bytes": "max_disk_bytes"}
    of_quota = {quota: f" ({token.use[one]} used)" for one, quota in use.items()} if token.use else {}
    for key, value in _without_secret(token).items():
        if key not in {"use", "revoked_leases"}:
            result(f"{key:<16} {'-' if value in (None, []) else value}{of_quota.get(key, '')}")
    return 0


def _limits(token: Token) -> str:
    given = {name.removeprefix("max_"): getattr(token, name) for name in _QUOTAS}
    if given["disk_bytes"] is not None:
        given["disk_bytes"] = size(given["disk_bytes"]).replace(" ", "")
    return pairs({key: value for key, value in given.items() if value is not None})


def _said(record: AuditRecord) -> str:
    shown = {key: value for key, value in record.details.items() if value not in (None, {}, [])}
    return pairs({key: pairs(value) if isinstance(value, dict) else value for key, value in shown.items()})


def _without_secret(token: Token) -> dict[str, object]:
    found = as_json(token)
    return {key: value for key, value in found.items() if key != "secret"} if isinstance(found, dict) else {}
