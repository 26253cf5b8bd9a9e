"""Every operation of the client, as a flow: its requests, retries and results. No I/O.

``Client`` and ``AsyncClient`` take their methods from here, so that each operation has one signature and one docstring.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from freshdb import json_fields
from freshdb.lease_operations import LeaseOperations
from freshdb.messages import Answer, Send, ServiceCall, encode, path, read_json
from freshdb.models import Health, Pool
from freshdb.template_operations import TemplateOperations
from freshdb.token_operations import TokenOperations

if TYPE_CHECKING:
    from freshdb.messages import Flow


class Operations(LeaseOperations, TemplateOperations, TokenOperations):
    """All operations of a client: on leases, templates and tokens, and those on pools and the service below."""

    __slots__ = ()

    def pools(self) -> Flow[list[Pool]]:
        """List the pools."""
        return (yield from self._list("/v1/pools", [], None, Pool.from_wire))

    def pool(self, pool_id: str) -> Flow[Pool]:
        """Look a pool up.

        Raises:
            PoolNotFound: no pool has this id.
        """
        return Pool.from_wire(
            json_fields.members((yield from self._ask(ServiceCall("GET", path("/v1/pools/{}", pool_id)))))
        )

    def resize(
        self,
        pool_id: str,
        *,
        min_ready: int | None = None,
        max_size: int | None = None,
        idle_seconds: float | None = None,
    ) -> Flow[Pool]:
        """Change the sizes of a pool that are given."""
        sizes = {"min_ready": min_ready, "max_size": max_size, "idle_seconds": idle_seconds}
        body = encode({key: value for key, value in sizes.items() if value is not None})
        return Pool.from_wire(
            json_fields.members(
                (yield from self._ask(ServiceCall("PATCH", path("/v1/pools/{}", pool_id), body)))
            )
        )

    def health(self) -> Flow[Health]:
        """Return the health of the service. An unhealthy one is a result, not an error.

        Raises:
            UnexpectedAnswer: another program answers at this address.
        """
        alive = json_fields.members((yield from self._ask(ServiceCall("GET", "/livez"))))
        version = json_fields.maybe(json_fields.text, alive, "version")
        base = self.policy.addresses.current
        outcome = yield Send(base, ServiceCall("GET", "/readyz"), self.policy.timeout_seconds)
        if not isinstance(outcome, Answer):
            return Health(ok=False, status="unreachable", checks={}, version=version)
        return _health(outcome, version)


def _health(answer: Answer, version: str | None) -> Health:
    found = json_fields.members(read_json(answer))
    checks = found.get("checks")
    return Health(
        ok=answer.status == HTTPStatus.OK,
        status=str(found.get("status", "unknown")),
        checks=checks if isinstance(checks, dict) else {},
        version=version,
    )
