"""Tokens and entries of the audit log, read from the service's JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from freshdb import json_fields
from freshdb.errors import UnexpectedAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from freshdb.json_fields import Members


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the service's control plane.

    `secret` is set only by ``create_token`` and ``rotate_token``, `use` only by ``token``. For a quota of ``None``,
    the service's own limit applies.
    """

    id: str
    name: str
    state: str
    scopes: tuple[str, ...]
    hint: str
    max_leases: int | None
    max_databases: int | None
    max_ttl_seconds: float | None
    max_disk_bytes: int | None
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    rotated_at: datetime | None
    previous_until: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    last_used_at: datetime | None
    use: Mapping[str, int] | None = None
    revoked_leases: int | None = None
    secret: str | None = field(default=None, repr=False)

    @classmethod
    def from_wire(cls, source: Members) -> Token:
        """Read the service's JSON."""
        secret = json_fields.maybe(json_fields.text, source, "token")
        return json_fields.read(cls, source, secret=secret)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An entry of the audit log: the action of `principal` from `address` on the `subject` (an id) with the name `label`.

    Without a principal, freshdb itself acted, or a client without a known token.
    """

    id: str
    at: datetime
    action: str
    principal: str | None
    address: str | None
    subject: str | None
    label: str | None
    details: Mapping[str, object]

    @classmethod
    def from_wire(cls, source: Members) -> AuditRecord:
        """Read the service's JSON."""
        details = source.get("details")
        if not isinstance(details, dict):
            message = "the answer's 'details' must be an object"
            raise UnexpectedAnswer(message)
        return json_fields.read(cls, source, details=details)
