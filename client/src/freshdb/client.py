"""``Client``: the operations, blocking.

What an operation asks and how it goes on is written once, in ``operations``; ``Client`` and ``AsyncClient`` take it
from there. Written twice is only what stays open while the caller's code runs: a lease, a build, a stream of events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from freshdb.configuration import Configuration
from freshdb.errors import BuildLost, FreshdbError, LeaseEnded, LeaseLost, LeaseNotFound
from freshdb.events import EventReader
from freshdb.heartbeat import Heartbeat, process_heart
from freshdb.held_lease import HeldLease
from freshdb.lease_upkeep import (
    brief,
    build_beat,
    failure_message,
    lease_beat,
    note_unreleased,
    note_unreported,
    worth_raising,
)
from freshdb.messages import Failure
from freshdb.methods import Blocking
from freshdb.models import DEFAULT_TTL_SECONDS, DEFAULT_WAIT_SECONDS, LeaseRequest
from freshdb.operations import Operations
from freshdb.template_operations import DEFAULT_BUILD_SECONDS, DEFAULT_BUILD_WAIT_SECONDS
from freshdb.transport import StreamBroken, Transport

if TYPE_CHECKING:
    from types import TracebackType

    from freshdb.lease_operations import Granted
    from freshdb.messages import Flow
    from freshdb.models import BuildGrant, Event, Isolation, Lease, Leftovers, Template

T = TypeVar("T")


class Client(Configuration):
    """Talks to a freshdb service, blocking; thread-safe.

    Args:
        url: ``http://host:port``; several (or one string with commas) for failover. Default: ``FRESHDB_URL``.
        token: default ``FRESHDB_TOKEN``.
        timeout_seconds: for one answer, beyond what the service was asked to wait.
        retry_seconds: how long to go on trying when nobody answers.
        poll_seconds: longest wait per request, at most the service's 300; a longer one is asked for in slices.

    Raises:
        NotConfigured: no URL was given, or one that is none.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        token: str | None = None,
        *,
        timeout_seconds: float = 10.0,
        retry_seconds: float = 30.0,
        poll_seconds: float = 50.0,
    ) -> None:
        super().__init__(
            url,
            token,
            timeout_seconds=timeout_seconds,
            retry_seconds=retry_seconds,
            poll_seconds=poll_seconds,
        )
        self._transport = Transport(self.connection)

    acquire = Blocking(Operations.acquire)
    acquire_batch = Blocking(Operations.acquire_batch)
    renew = Blocking(Operations.renew)
    release = Blocking(Operations.release)
    revoke = Blocking(Operations.revoke)
    keep = Blocking(Operations.keep)
    reset = Blocking(Operations.reset)
    get_lease = Blocking(Operations.get_lease)
    leases = Blocking(Operations.leases)
    register = Blocking(Operations.register)
    template = Blocking(Operations.template)
    wait_template = Blocking(Operations.wait_template)
    templates = Blocking(Operations.templates)
    ensure_sql = Blocking(Operations.ensure_sql)
    claim_build = Blocking(Operations.claim_build)
    build_ready = Blocking(Operations.build_ready)
    build_failed = Blocking(Operations.build_failed)
    retire = Blocking(Operations.retire)
    pools = Blocking(Operations.pools)
    pool = Blocking(Operations.pool)
    resize = Blocking(Operations.resize)
    health = Blocking(Operations.health)
    create_token = Blocking(Operations.create_token)
    tokens = Blocking(Operations.tokens)
    token = Blocking(Operations.token)
    change_token = Blocking(Operations.change_token)
    rotate_token = Blocking(Operations.rotate_token)
    revoke_token = Blocking(Operations.revoke_token)
    audit = Blocking(Operations.audit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; leases that are still held run out."""
        self._transport.close()

    def run(self, flow: Flow[T]) -> T:
        """Carry a flow out."""
        return self._transport.run(flow)

    @contextmanager
    def lease(
        self,
        template: str,
        *,
        isolation: Isolation = "database",
        ttl_seconds: float = DEFAULT_TTL_SECONDS,
        wait_seconds: float = DEFAULT_WAIT_SECONDS,
        holder: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        on_lost: Callable[[LeaseLost], None] | None = None,
    ) -> Iterator[HeldLease]:
        """Hold a clean database during the block: acquire, renew in the background, release.

        The arguments are those of ``acquire``; `on_lost` is called from the heartbeat's thread.

        Raises:
            LeaseLost: at the end of the block (and at any use of the lease), if it was lost meanwhile.
        """
        request = LeaseRequest(template, isolation, ttl_seconds, wait_seconds, holder or {}, labels or {})
        granted = self.run(self.operations.grant(request, idempotency_key))
        with self._holding(granted, on_lost) as held:
            yield held

    @contextmanager
    def hold(
        self, lease: Lease, *, on_lost: Callable[[LeaseLost], None] | None = None
    ) -> Iterator[HeldLease]:
        """Hold a lease that was acquired before, as ``lease`` does: renew it now and on, release it at the end.

        Raises:
            LeaseEnded: it is over already.
            LeaseLost: as with ``lease``.
        """
        granted = self.run(self.operations.take_up(lease))
        with self._holding(granted, on_lost) as held:
            yield held

    def build(
        self,
        name: str,
        fingerprint: str,
        builder: Callable[[BuildGrant], object],
        *,
        extensions: Sequence[str] = (),
        build_seconds: float = DEFAULT_BUILD_SECONDS,
        wait_seconds: float = DEFAULT_BUILD_WAIT_SECONDS,
    ) -> Template:
        """Have a template that is ready: built by `builder`, unless somebody else has built it or is at it.

        Of any number of callers exactly one builds; the others wait. A builder that falls silent for
        `build_seconds` is replaced. An error of `builder` is reported to the service and raised.

        Raises:
            TemplateFailed: somebody else built it, and failed.
            TemplateBuilding: somebody else is still building it after `wait_seconds`.
        """
        claim = self.operations.claim_build(
            name, fingerprint, extensions=extensions, build_seconds=build_seconds, wait_seconds=wait_seconds
        )
        template = self.run(claim)
        if template.build is None:
            return template
        try:
            with self._beating(build_beat(self.operations, template.id, template.build)):
                builder(template.build)
        except BaseException as error:
            self._report_failed(template.id, template.build, error)
            raise
        try:
            return self.build_ready(template.id, template.build.token)
        except BuildLost:  # somebody took over, because our heartbeats did not get through
            return self.wait_template(template.id, wait_seconds=wait_seconds)

    def events(self, *, follow: bool = True, since: str | None = None) -> Generator[Event, None, None]:
        """Follow what happens: every transition, as it comes; goes on where it was when the connection breaks.

        Args:
            follow: go on with what is to come; without, end with what has happened.
            since: an event's id, or ``0`` for all that are kept. By default only what is to come.

        Raises:
            ServiceUnreachable: the connection broke, and nobody answered for `retry_seconds`.
        """
        reader = EventReader(since, self.policy)
        while True:
            try:
                with self._transport.stream(reader.request(follow=follow)) as lines:
                    for line in lines:
                        event = reader.feed(line)
                        if event is not None:
                            yield event
                if not follow:
                    return
            except StreamBroken as broken:
                reader.broke(broken.failure)
            time.sleep(reader.pause_seconds())

    @contextmanager
    def _holding(self, granted: Granted, on_lost: Callable[[LeaseLost], None] | None) -> Iterator[HeldLease]:
        held = HeldLease(granted.lease, on_lost, self._give_back, self.keep, self.reset)
        try:
            with self._beating(lease_beat(self.operations, granted, held)):
                yield held
        except BaseException as error:
            self._end(held, error)
            raise
        self._end(held, None)

    def _give_back(self, lease_id: str) -> Leftovers | None:
        return self.run(self.operations.give_back(lease_id))

    def _end(self, held: HeldLease, raised: BaseException | None) -> None:
        if held.ended or held.inherited:
            return
        loss = held.loss
        try:
            self.run(brief(self.operations, lost=loss is not None).give_back(held.id))
        except (LeaseEnded, LeaseNotFound) as over:
            loss = loss or LeaseLost(held.id, str(over))
        except FreshdbError as error:
            note_unreleased(held.id, error)
        if loss is not None and worth_raising(raised):
            raise loss

    def _report_failed(self, template_id: str, grant: BuildGrant, error: BaseException) -> None:
        message = failure_message(grant, error)
        try:
            self.run(brief(self.operations).build_failed(template_id, grant.token, message=message))
        except FreshdbError as unreported:
            note_unreported(grant, unreported)

    @contextmanager
    def _beating(self, beat: Heartbeat) -> Iterator[None]:
        heart = process_heart()
        heart.add(beat, self._attempt)
        try:
            yield
        finally:
            heart.remove(beat)

    def _attempt(self, beat: Heartbeat) -> None:
        step = beat.attempt(self.policy.addresses.current)
        outcome = self._transport.send(step)
        if isinstance(outcome, Failure):
            self.policy.addresses.leave(step.base)
        beat.take(outcome)
