"""What the clients do for a lease or a build while the caller's code runs, and at its end. No I/O."""

from __future__ import annotations

import logging
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from freshdb import json_fields
from freshdb.errors import BuildLost, LeaseEnded, LeaseLost, LeaseNotFound, TemplateNotFound
from freshdb.heartbeat import Heartbeat
from freshdb.messages import decode, problem
from freshdb.models import Renewal

if TYPE_CHECKING:
    from freshdb.clock import Clock
    from freshdb.errors import FreshdbError, ServiceError
    from freshdb.held_lease import HeldLeaseBase
    from freshdb.lease_operations import Granted
    from freshdb.messages import Answer
    from freshdb.models import BuildGrant
    from freshdb.operations import Operations

_log: Final = logging.getLogger("freshdb.client")

_RELEASE_SECONDS: Final = 5.0
_MESSAGE_CHARACTERS: Final = 4000


def lease_beat(operations: Operations, granted: Granted, held: HeldLeaseBase) -> Heartbeat:
    """Make the heartbeat of a lease that was just granted."""

    def renewed(answer: Answer) -> float:
        return Renewal.from_wire(json_fields.members(decode(answer))).ttl_seconds

    beat = Heartbeat(
        operations.renewal(held.id),
        lambda answer: _over(answer, LeaseEnded, LeaseNotFound) or renewed(answer),
        ttl_seconds=granted.ttl_seconds,
        counted_from=granted.counted_from,
        due_at_once=granted.repeated,
        on_lost=held.tell,
        clock=operations.policy.clock,
        chance=operations.policy.chance,
    )
    held.beats(beat)
    return beat


def build_beat(operations: Operations, template_id: str, grant: BuildGrant) -> Heartbeat:
    """Make the heartbeat of a build that was just granted.

    The builder cannot be stopped when it is lost; its verdict will be refused then.
    """
    clock: Clock = operations.policy.clock
    ttl_seconds = grant.renew_seconds * 3
    return Heartbeat(
        operations.build_renewal(template_id, grant.token),
        lambda answer: _over(answer, BuildLost, TemplateNotFound) or _granted(answer, ttl_seconds),
        ttl_seconds=ttl_seconds,
        counted_from=clock(),
        on_lost=lambda reason: _log.warning("the build of %s was lost: %s", grant.template, reason),
        clock=clock,
        chance=operations.policy.chance,
    )


def brief(operations: Operations, *, lost: bool = False) -> Operations:
    """Give the same operations with less patience, for the end of a block: the TTL does what cannot be done now.

    When the lease is `lost`, one attempt is enough: it may live on at a service that could not be reached.
    """
    patience = 0.0 if lost else min(operations.policy.retry_seconds, _RELEASE_SECONDS)
    return replace(operations, policy=replace(operations.policy, retry_seconds=patience))


def worth_raising(raised: BaseException | None) -> bool:
    """Whether a loss should be raised at the end of a block that ended with `raised`.

    An interrupt goes through as it is, and a loss is told once.
    """
    return raised is None or (isinstance(raised, Exception) and not isinstance(raised, LeaseLost))


def note_unreleased(lease_id: str, error: FreshdbError) -> None:
    """Log that a lease could not be released: no harm to the caller's work."""
    _log.warning("lease %s could not be released and ends by its TTL: %s", lease_id, error)


def note_unreported(grant: BuildGrant, error: FreshdbError) -> None:
    """Log that a failed build could not be reported."""
    _log.warning(
        "the failed build of %s was not reported and ends by its deadline: %s", grant.template, error
    )


def failure_message(grant: BuildGrant, error: BaseException) -> str:
    """Describe why a builder failed, without its password."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.replace(grant.password, "***")[-_MESSAGE_CHARACTERS:].replace("\x00", "")


def _granted(answer: Answer, ttl_seconds: float) -> float:
    decode(answer)
    return ttl_seconds


def _over(answer: Answer, *kinds: type[ServiceError]) -> str | None:
    if answer.status < HTTPStatus.BAD_REQUEST:
        return None
    error = problem(answer)
    return str(error) if isinstance(error, kinds) else None
