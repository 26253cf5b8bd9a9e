"""Management of tokens directly in the control plane's database, without a running service.

It creates the first token of an installation, or a new one when all are lost. The caller needs a login for the control
plane's database. Changes are in the audit log, with the user of the machine as principal. Running replicas reload the tokens
within ``token_refresh_seconds``.

The database must already be a control plane of this version, so that a wrong DSN does not create tables in another database.
The first start of the service creates the control plane, even if it then fails with "there is no token".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from freshdb_service import migrations
from freshdb_service.api.schemas_auth import (
    ChangeTokenIn,
    CreateTokenIn,
    IssuedTokenOut,
    RevokedTokenOut,
    RotateTokenIn,
    TokenOut,
)
from freshdb_service.auth.tokens import TokenRegistry
from freshdb_service.errors import ConfigurationError, InvalidRequest
from freshdb_service.store.audit_log import Actor
from freshdb_service.store.connection import Store

T = TypeVar("T")
Wire = dict[str, object]
_MOST: Final = 100_000


class OfflineTokens:
    """Blocking access to the tokens in a control plane's database, with the results of the REST API.

    Args:
        dsn: DSN of the control plane's database.
        who: principal for the audit log.
    """

    def __init__(self, dsn: str, *, who: str) -> None:
        if urlsplit(dsn).scheme not in {"postgresql", "postgres"}:
            message = "the DSN of the control plane must be postgresql://user:password@host:port/database"
            raise ConfigurationError(message)
        self._dsn = dsn
        self._by = Actor(f"{who} (control plane)")

    def create(self, body: Mapping[str, object]) -> Wire:
        """As ``POST /v1/tokens``."""
        wanted = _read(lambda: CreateTokenIn.model_validate(body)).wanted()
        issued = self._with(lambda registry: registry.create(wanted, self._by))
        return IssuedTokenOut.issued(issued).model_dump(mode="json")

    def listing(self, states: Sequence[str]) -> list[Wire]:
        """As ``GET /v1/tokens``, all pages."""
        rows = self._with(
            lambda registry: registry.listing(states=frozenset(states), limit=_MOST, after=None)
        )
        return [TokenOut.of(row).model_dump(mode="json") for row in rows]

    def find(self, reference: str) -> Wire:
        """As ``GET /v1/tokens/{reference}``."""
        token, use = self._with(lambda registry: registry.find(reference))
        return TokenOut.of(token, use).model_dump(mode="json")

    def change(self, reference: str, body: Mapping[str, object]) -> Wire:
        """As ``PATCH /v1/tokens/{reference}``."""
        quotas = _read(lambda: ChangeTokenIn.model_validate(body)).model_dump(exclude_unset=True)
        token = self._with(lambda registry: registry.change(reference, quotas, self._by))
        return TokenOut.of(token).model_dump(mode="json")

    def rotate(self, reference: str, body: Mapping[str, object]) -> Wire:
        """As ``POST /v1/tokens/{reference}/rotate``."""
        grace_seconds = _read(lambda: RotateTokenIn.model_validate(body)).grace_seconds
        issued = self._with(
            lambda registry: registry.rotate(reference, self._by, grace_seconds=grace_seconds)
        )
        return IssuedTokenOut.issued(issued).model_dump(mode="json")

    def revoke(self, reference: str) -> Wire:
        """As ``DELETE /v1/tokens/{reference}``. Leases of the token end by their TTL."""
        token = self._with(lambda registry: registry.revoke(reference, self._by))
        return RevokedTokenOut.after(token, 0).model_dump(mode="json")

    def _with(self, work: Callable[[TokenRegistry], Awaitable[T]]) -> T:
        return asyncio.run(self._connected(work))

    async def _connected(self, work: Callable[[TokenRegistry], Awaitable[T]]) -> T:
        store = Store(self._dsn, pool_size=1)
        try:
            step = await migrations.step_of(store)
            if step != migrations.newest_step():
                found = "no control plane" if step is None else f"one of another version (step {step})"
                message = (
                    f"this database is {found}: give the DSN of the right one (freshdb_control on the first server, unless "
                    "FRESHDB_CONTROL names another), and start this version of the service once, which creates or upgrades "
                    "it, even if it then refuses to listen without a token"
                )
                raise ConfigurationError(message)
            return await work(TokenRegistry(store))
        finally:
            await store.close()


def _read(read: Callable[[], T]) -> T:
    try:
        return read()
    except ValidationError as error:
        fields = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
        )
        raise InvalidRequest(fields) from None
