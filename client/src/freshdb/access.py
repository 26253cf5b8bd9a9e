"""Who may do what, and who did it: tokens and records of the audit trail, read from the service's JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from freshdb import wire
from freshdb.errors import UnexpectedAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from freshdb.wire import Members


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the service's control plane.

    `secret` is there only in the answer that made it, or rotated it; `use` only where one token was looked up. A quota
    that is ``None`` is no limit but the service's own.
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
        return cls(
            id=wire.text(source, "id"),
            name=wire.text(source, "name"),
            state=wire.text(source, "state"),
            scopes=wire.texts(source, "scopes"),
            hint=wire.text(source, "hint"),
            max_leases=wire.maybe(wire.whole, source, "max_leases"),
            max_databases=wire.maybe(wire.whole, source, "max_databases"),
            max_ttl_seconds=wire.maybe(wire.number, source, "max_ttl_seconds"),
            max_disk_bytes=wire.maybe(wire.whole, source, "max_disk_bytes"),
            created_at=wire.instant(source, "created_at"),
            created_by=wire.maybe(wire.text, source, "created_by"),
            expires_at=wire.maybe(wire.instant, source, "expires_at"),
            rotated_at=wire.maybe(wire.instant, source, "rotated_at"),
            previous_until=wire.maybe(wire.instant, source, "previous_until"),
            revoked_at=wire.maybe(wire.instant, source, "revoked_at"),
            revoked_by=wire.maybe(wire.text, source, "revoked_by"),
            last_used_at=wire.maybe(wire.instant, source, "last_used_at"),
            use=wire.maybe(wire.whole_map, source, "use"),
            revoked_leases=wire.maybe(wire.whole, source, "revoked_leases"),
            secret=wire.maybe(wire.text, source, "token"),
        )


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What somebody did: `principal` from `address`, to the `subject` (an id) that is called `label`.

    Without a principal, freshdb itself did it, or somebody without a token that is known.
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
            message = "the answer's 'details' should be an object"
            raise UnexpectedAnswer(message)
        return cls(
            id=wire.text(source, "id"),
            at=wire.instant(source, "at"),
            action=wire.text(source, "action"),
            principal=wire.maybe(wire.text, source, "principal"),
            address=wire.maybe(wire.text, source, "address"),
            subject=wire.maybe(wire.text, source, "subject"),
            label=wire.maybe(wire.text, source, "label"),
            details=details,
        )
