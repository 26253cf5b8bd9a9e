"""``token create``, ``list``, ``show``, ``set``, ``rotate``, ``revoke``; and ``audit``.

With ``--control DSN`` the commands on tokens use the control plane's database directly, for an operator who can log in.
This creates the first token of an installation, and another one when all are lost.
"""

from __future__ import annotations

import getpass
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from freshdb.cli.connect import connect
from freshdb.cli.exits import UsageError
from freshdb.cli.output import print_json, print_message, print_result, print_table
from freshdb.cli.text import as_json, pairs, size
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
    """The operations on tokens that ``Client`` and the control plane's database have in common."""

    def create_token(
        self,
        name: str,
        *,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        expires_seconds: float | None = None,
        quotas: Mapping[str, float | int | None] | None = None,
    ) -> Token:
        """Create a token."""

    def tokens(self, *, states: Sequence[str] | None = None, limit: int | None = None) -> list[Token]:
        """List tokens."""

    def token(self, reference: str) -> Token:
        """Look a token up."""

    def change_token(self, reference: str, quotas: Mapping[str, float | int | None]) -> Token:
        """Change a token's quotas."""

    def rotate_token(self, reference: str, *, grace_seconds: float = 0.0) -> Token:
        """Replace a token's secret."""

    def revoke_token(self, reference: str, *, leases: bool = False) -> Token:
        """Revoke a token."""


def create(arguments: argparse.Namespace) -> int:
    """Create a token and print its secret."""
    with _tokens(arguments) as tokens:
        token = tokens.create_token(
            arguments.name,
            scopes=arguments.scopes,
            expires_seconds=arguments.expires,
            quotas=_quotas(arguments),
        )
    return _show_secret(arguments, token)


def rotate(arguments: argparse.Namespace) -> int:
    """Replace a token's secret and print the new one."""
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
    print_table(headings, rows, nothing="no tokens: create one with freshdb token create --name NAME")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Show a token and the use of its quotas."""
    with _tokens(arguments) as tokens:
        token = tokens.token(arguments.token)
    return _show(arguments, token)


def change(arguments: argparse.Namespace) -> int:
    """Change a token's quotas."""
    quotas = _quotas(arguments)
    if not quotas:
        message = "give a quota: --max-leases, --max-databases, --max-ttl or --max-disk, with a value or none"
        raise UsageError(message)
    with _tokens(arguments) as tokens:
        token = tokens.change_token(arguments.token, quotas)
    return _show(arguments, token)


def revoke(arguments: argparse.Namespace) -> int:
    """Revoke tokens permanently."""
    if arguments.leases and arguments.control:
        message = "--leases needs the service, which revokes the leases: leave --control out"
        raise UsageError(message)
    with _tokens(arguments) as tokens:
        found = [tokens.revoke_token(one, leases=arguments.leases) for one in arguments.tokens]
    if arguments.json:
        print_json([_without_secret(one) for one in found])
        return 0
    for one in found:
        ended = f", and {one.revoked_leases} of its leases" if one.revoked_leases else ""
        print_message(f"revoked {one.name}{ended}")
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Show the audit log, the newest entry last."""
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
        (one.at, one.action, one.principal, one.address, one.label, one.subject, _details(one))
        for one in reversed(found)
    ]
    headings = ("at", "action", "principal", "address", "label", "subject", "details")
    print_table(headings, rows, nothing="no entries")
    return 0


@contextmanager
def _tokens(arguments: argparse.Namespace) -> Iterator[Tokens]:
    """Open the service or, with ``--control``, the control plane's database."""
    if arguments.control is None:
        with connect(arguments) as client:
            yield client
        return
    with _direct(arguments.control) as direct:
        yield direct


@contextmanager
def _direct(dsn: str) -> Iterator[Tokens]:
    try:
        from freshdb_service.api.offline_tokens import OfflineTokens  # noqa: PLC0415 - another package, which may be missing
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
    """Tokens in the control plane's database, with the methods of the client."""

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
        """Create a token."""
        body = {"name": name, "scopes": list(scopes), "expires_seconds": expires_seconds, **(quotas or {})}
        return Token.from_wire(self._direct.create(body))

    def tokens(self, *, states: Sequence[str] | None = None, limit: int | None = None) -> list[Token]:
        """List tokens."""
        return [Token.from_wire(one) for one in self._direct.listing(states or ("active", "expired"))][:limit]

    def token(self, reference: str) -> Token:
        """Look a token up."""
        return Token.from_wire(self._direct.find(reference))

    def change_token(self, reference: str, quotas: Mapping[str, float | int | None]) -> Token:
        """Change a token's quotas."""
        return Token.from_wire(self._direct.change(reference, quotas))

    def rotate_token(self, reference: str, *, grace_seconds: float = 0.0) -> Token:
        """Replace a token's secret."""
        return Token.from_wire(self._direct.rotate(reference, {"grace_seconds": grace_seconds}))

    def revoke_token(self, reference: str, *, leases: bool = False) -> Token:
        """Revoke a token. Its leases expire."""
        del leases
        return Token.from_wire(self._direct.revoke(reference))


def _quotas(arguments: argparse.Namespace) -> dict[str, float | int | None]:
    """Collect the quotas that were given."""
    options = {"max_leases": "max_leases", "max_databases": "max_databases"}
    options |= {"max_ttl": "max_ttl_seconds", "max_disk": "max_disk_bytes"}
    return {quota: getattr(arguments, option) for option, quota in options.items() if option in arguments}


def _show_secret(arguments: argparse.Namespace, token: Token) -> int:
    if arguments.json:
        print_json({**_without_secret(token), "token": token.secret})
        return 0
    print_result(token.secret or "")
    ends = f", until {token.expires_at:%Y-%m-%d %H:%M}Z" if token.expires_at else ""
    print_message(
        f"the token of {token.name} ({', '.join(token.scopes)}{ends}); it is shown only once. Set FRESHDB_TOKEN to it"
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
            print_result(f"{key:<16} {'-' if value in (None, []) else value}{of_quota.get(key, '')}")
    return 0


def _limits(token: Token) -> str:
    given = {name.removeprefix("max_"): getattr(token, name) for name in _QUOTAS}
    if given["disk_bytes"] is not None:
        given["disk_bytes"] = size(given["disk_bytes"]).replace(" ", "")
    return pairs({key: value for key, value in given.items() if value is not None})


def _details(record: AuditRecord) -> str:
    shown = {key: value for key, value in record.details.items() if value not in (None, {}, [])}
    return pairs({key: pairs(value) if isinstance(value, dict) else value for key, value in shown.items()})


def _without_secret(token: Token) -> dict[str, object]:
    found = as_json(token)
    return {key: value for key, value in found.items() if key != "secret"} if isinstance(found, dict) else {}
