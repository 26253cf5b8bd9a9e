"""Heartbeats of leases and builds while the caller's code runs, and the end of its block. No I/O."""

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
_LOG_CHARACTERS: Final = 150_000
"""A character takes up to six bytes in JSON, and proxies such as nginx refuse bodies of more than 1 MB by default."""


def lease_heartbeat(operations: Operations, granted: Granted, held: HeldLeaseBase) -> Heartbeat:
    """Create the heartbeat of a lease that was just granted."""

    def renewed(answer: Answer) -> float:
        return Renewal.from_wire(json_fields.members(decode(answer))).ttl_seconds

    beat = Heartbeat(
        operations.renewal(held.id),
        lambda answer: _loss_reason(answer, LeaseEnded, LeaseNotFound) or renewed(answer),
        ttl_seconds=granted.ttl_seconds,
        counted_from=granted.counted_from,
        due_at_once=granted.repeated,
        on_lost=held.mark_lost,
        clock=operations.policy.clock,
        jitter=operations.policy.jitter,
    )
    held.attach(beat)
    return beat


def build_heartbeat(operations: Operations, template_id: str, grant: BuildGrant) -> Heartbeat:
    """Create the heartbeat of a build that was just granted.

    A loss cannot stop the builder, but the service will refuse its result.
    """
    clock: Clock = operations.policy.clock
    ttl_seconds = grant.renew_seconds * 3
    return Heartbeat(
        operations.build_renewal(template_id, grant.token),
        lambda answer: _loss_reason(answer, BuildLost, TemplateNotFound) or _granted(answer, ttl_seconds),
        ttl_seconds=ttl_seconds,
        counted_from=clock(),
        on_lost=lambda reason: _log.warning("the build of %s was lost: %s", grant.template, reason),
        clock=clock,
        jitter=operations.policy.jitter,
    )


def with_short_retries(operations: Operations, *, lost: bool = False) -> Operations:
    """Return the operations with a short `retry_seconds`, for the end of a block. The TTL ends what they cannot end.

    For a `lost` lease, one attempt is enough. The service may still have it, if it could not be reached.
    """
    seconds = 0.0 if lost else min(operations.policy.retry_seconds, _RELEASE_SECONDS)
    return replace(operations, policy=replace(operations.policy, retry_seconds=seconds))


def should_raise_loss(raised: BaseException | None) -> bool:
    """Return true if a block that ended with `raised` must raise the loss of its lease.

    An interrupt is never replaced, and a loss is raised once.
    """
    return raised is None or (isinstance(raised, Exception) and not isinstance(raised, LeaseLost))


def log_unreleased(lease_id: str, error: FreshdbError) -> None:
    """Log that a lease could not be released. The caller's work is not affected."""
    _log.warning("lease %s could not be released and will expire: %s", lease_id, error)


def log_unreported(grant: BuildGrant, error: FreshdbError) -> None:
    """Log that a failed build could not be reported."""
    _log.warning(
        "the failed build of %s could not be reported and ends at its deadline: %s", grant.template, error
    )


def failure_message(grant: BuildGrant, error: BaseException) -> str:
    """Describe the error of a builder, without its password."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.replace(grant.password, "***")[-_MESSAGE_CHARACTERS:].replace("\x00", "")


def log_text(grant: BuildGrant, output: object) -> str | None:
    """Return the log of a build without its password, or ``None`` if `output` is no text."""
    if not isinstance(output, str) or not output:
        return None
    return output.replace(grant.password, "***").replace("\x00", "")[-_LOG_CHARACTERS:]


def _granted(answer: Answer, ttl_seconds: float) -> float:
    decode(answer)
    return ttl_seconds


def _loss_reason(answer: Answer, *kinds: type[ServiceError]) -> str | None:
    if answer.status < HTTPStatus.BAD_REQUEST:
        return None
    error = problem(answer)
    return str(error) if isinstance(error, kinds) else None
