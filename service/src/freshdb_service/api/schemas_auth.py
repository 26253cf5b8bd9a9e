"""Bodies about tokens and the audit log. Durations are in seconds, instants in UTC (RFC 3339)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from freshdb_service.api.fields import Duration, number
from freshdb_service.auth.tokens import IssuedToken, TokenRequest
from freshdb_service.config import DEFAULT_SCOPES, PRINCIPAL, Scope
from freshdb_service.store.audit_log import AuditRow
from freshdb_service.store.tokens import Quotas, TokenRow, TokenUsage

TokenState = Literal["active", "expired", "revoked"]
_LONGEST = 10 * 365 * 86_400.0
_Count = Annotated[int, Field(ge=0, le=1_000_000), BeforeValidator(number)]
_Bytes = Annotated[int, Field(ge=0, le=2**62), BeforeValidator(number)]
_Life = Annotated[Duration, Field(gt=0, le=_LONGEST)]


class QuotasIn(BaseModel):
    """Quotas of a token. Null means that only the service's own limits apply."""

    model_config = ConfigDict(extra="forbid", strict=False)

    max_leases: _Count | None = Field(default=None, description="maximum live leases")
    max_databases: _Count | None = Field(
        default=None, description="maximum databases, in any state, of templates that the token registered"
    )
    max_ttl_seconds: Annotated[Duration, Field(ge=1, le=_LONGEST)] | None = Field(
        default=None, description="maximum TTL and life of its leases"
    )
    max_disk_bytes: _Bytes | None = Field(
        default=None, description="maximum disk space of its templates and their databases, as last measured"
    )

    def quotas(self) -> Quotas:
        """Convert to the type of the store."""
        return Quotas(self.max_leases, self.max_databases, self.max_ttl_seconds, self.max_disk_bytes)


class CreateTokenIn(QuotasIn):
    """A token to create."""

    name: str = Field(
        pattern=PRINCIPAL,
        description="name of the principal, which owns its leases: at most 100 letters, digits, `.`, `_`, `-`",
        examples=["ci"],
    )
    scopes: Annotated[Sequence[Scope], Field(min_length=1, max_length=4)] = tuple(sorted(DEFAULT_SCOPES))
    expires_seconds: _Life | None = Field(default=None, description="lifetime; null for no expiry")

    def wanted(self) -> TokenRequest:
        """Convert to the type of the registry."""
        return TokenRequest(self.name, frozenset(self.scopes), self.quotas(), self.expires_seconds)


class ChangeTokenIn(QuotasIn):
    """New quotas. Omitted quotas keep their values, and null removes a quota."""


class RotateTokenIn(BaseModel):
    """A new secret for a token."""

    model_config = ConfigDict(extra="forbid", strict=False)

    grace_seconds: Annotated[Duration, Field(ge=0, le=30 * 86_400)] = Field(
        default=0.0, description="time for which the previous secret still works"
    )


class UseOut(BaseModel):
    """Current use of a token's quotas."""

    leases: int
    databases: int
    disk_bytes: int


class TokenOut(BaseModel):
    """A token, without its secret."""

    id: UUID
    name: str
    state: TokenState
    scopes: list[str]
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
    use: UseOut | None = None

    @classmethod
    def of(cls, row: TokenRow, use: TokenUsage | None = None) -> TokenOut:
        """Convert a row, with the use of the quotas if given."""
        return cls.model_validate(_members(row, use))


class IssuedTokenOut(TokenOut):
    """A token with its secret, which is shown once."""

    token: str

    @classmethod
    def issued(cls, issued: IssuedToken) -> IssuedTokenOut:
        """Convert an issued token."""
        return cls.model_validate({**_members(issued.token, None), "token": issued.secret})


class RevokedTokenOut(TokenOut):
    """A revoked token, with the number of leases that were revoked with it."""

    revoked_leases: int

    @classmethod
    def after(cls, row: TokenRow, revoked_leases: int) -> RevokedTokenOut:
        """Convert the row of a revoked token."""
        return cls.model_validate({**_members(row, None), "revoked_leases": revoked_leases})


class TokensOut(BaseModel):
    """A page of tokens."""

    items: list[TokenOut]
    next: str | None


class RecordOut(BaseModel):
    """An audit log entry. Without a principal, freshdb itself or an unknown caller is the actor."""

    id: UUID
    at: datetime
    action: str
    principal: str | None
    address: str | None
    subject: UUID | None
    label: str | None
    details: Mapping[str, object]

    @classmethod
    def of(cls, row: AuditRow) -> RecordOut:
        """Convert a row."""
        return cls.model_validate(row, from_attributes=True)


class RecordsOut(BaseModel):
    """A page of the audit log."""

    items: list[RecordOut]
    next: str | None


def _members(row: TokenRow, use: TokenUsage | None) -> dict[str, object]:
    return {
        **asdict(row),
        **asdict(row.quotas),
        "state": row.state,
        "scopes": sorted(row.scopes),
        "use": None if use is None else asdict(use),
    }
