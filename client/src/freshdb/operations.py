"""Every operation of the client, as a flow: what to ask, when again, and what the answers mean. No I/O.

``Client`` and ``AsyncClient`` take their methods from here, so that there is one list of them, with one signature
and one docstring each.
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
    """All operations under one policy: those on leases, templates and tokens, and these on pools and the service."""

    __slots__ = ()

    def pools(self) -> Flow[list[Pool]]:
        """List the pools."""
        return (yield from self._list("/v1/pools", [], None, Pool.from_wire))

    def pool(self, pool_id: str) -> Flow[Pool]:
        """Look one pool up.

        Raises:
            PoolNotFound: there is none with this id.
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
        """Change what is given of a pool's sizes."""
        sizes = {"min_ready": min_ready, "max_size": max_size, "idle_seconds": idle_seconds}
        body = encode({key: value for key, value in sizes.items() if value is not None})
        return Pool.from_wire(
            json_fields.members(
                (yield from self._ask(ServiceCall("PATCH", path("/v1/pools/{}", pool_id), body)))
            )
        )

    def health(self) -> Flow[Health]:
        """Ask whether the service can work; that it cannot is an answer, not an error.

        Raises:
            UnexpectedAnswer: somebody else answers there.
        """
        alive = json_fields.members((yield from self._ask(ServiceCall("GET", "/livez"))))
        base = self.policy.addresses.current
        outcome = yield Send(base, ServiceCall("GET", "/readyz"), self.policy.timeout_seconds)
        if not isinstance(outcome, Answer):
            return Health(
                ok=False,
                status="unreachable",
                checks={},
                version=json_fields.maybe(json_fields.text, alive, "version"),
            )
        return _health(outcome, json_fields.maybe(json_fields.text, alive, "version"))


def _health(answer: Answer, version: str | None) -> Health:
    found = json_fields.members(read_json(answer))
    checks = found.get("checks")
    return Health(
        ok=answer.status == HTTPStatus.OK,
        status=str(found.get("status", "unknown")),
        checks=checks if isinstance(checks, dict) else {},
        version=version,
    )
