"""``Client``: the operations as blocking methods.

Each operation is written once, in ``operations``, for both ``Client`` and ``AsyncClient``. Only the methods that stay open
while the caller's code runs are written twice: a lease, a build, a stream of events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from freshdb.configuration import Configuration
from freshdb.errors import BuildLost, FreshdbError, LeaseEnded, LeaseLost, LeaseNotFound
from freshdb.events import EventReader
from freshdb.heartbeat import Heartbeat, process_heartbeats
from freshdb.held_lease import HeldLease
from freshdb.lease_upkeep import (
    build_heartbeat,
    failure_message,
    lease_heartbeat,
    log_text,
    log_unreleased,
    log_unreported,
    should_raise_loss,
    with_short_retries,
)
from freshdb.messages import Failure
from freshdb.methods import Blocking
from freshdb.models import DEFAULT_TTL_SECONDS, DEFAULT_WAIT_SECONDS, LeaseRequest
from freshdb.operations import Operations
from freshdb.template_operations import DEFAULT_BUILD_SECONDS, DEFAULT_BUILD_WAIT_SECONDS
from freshdb.transport import StreamBroken, Transport

if TYPE_CHECKING:
    from types import TracebackType

    from freshdb.extensions import AnyExtension
    from freshdb.lease_operations import Granted
    from freshdb.messages import Flow
    from freshdb.models import BuildGrant, Event, Isolation, Lease, Leftovers, Template

T = TypeVar("T")


class Client(Configuration):
    """Client of a freshdb service with blocking methods. Thread-safe.

    Args:
        url: ``http://host:port``. Several, or one string with commas, for failover. Default: ``FRESHDB_URL``.
        token: the token to send. Default: ``FRESHDB_TOKEN``.
        timeout_seconds: timeout for one answer, in addition to a wait that the request asks for.
        retry_seconds: maximum time from the first attempt of a call to its last.
        poll_seconds: maximum wait of one request, at most the service's 300. Longer waits take several requests.

    Raises:
        NotConfigured: no URL is given, or one is invalid.
    """

    def _open_transport(self) -> None:
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
    build_log = Blocking(Operations.build_log)
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
        """Close the connections. Leases that are still held expire."""
        self._transport.close()

    def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
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

        The arguments are those of ``acquire``. The heartbeat's thread calls `on_lost`.

        Raises:
            LeaseLost: the lease was lost. Raised at each use of the lease, and at the end of the block.
        """
        request = LeaseRequest(template, isolation, ttl_seconds, wait_seconds, holder or {}, labels or {})
        granted = self.run(self.operations.grant(request, idempotency_key))
        with self._holding(granted, on_lost) as held:
            yield held

    @contextmanager
    def hold(
        self, lease: Lease, *, on_lost: Callable[[LeaseLost], None] | None = None
    ) -> Iterator[HeldLease]:
        """Hold a lease that was acquired before: renew it now and in the background, release it at the end.

        Raises:
            LeaseEnded: the lease has ended already.
            LeaseLost: as in ``lease``.
        """
        granted = self.run(self.operations.resume(lease))
        with self._holding(granted, on_lost) as held:
            yield held

    def build(
        self,
        name: str,
        fingerprint: str,
        builder: Callable[[BuildGrant], object],
        *,
        extensions: AnyExtension | Sequence[AnyExtension] = (),
        build_seconds: float = DEFAULT_BUILD_SECONDS,
        wait_seconds: float = DEFAULT_BUILD_WAIT_SECONDS,
    ) -> Template:
        """Return the template once it is ready. Build it by `builder` unless another client has built it or is building it.

        Of any number of clients, exactly one builds, and the others wait. A builder without a heartbeat for
        `build_seconds` is replaced. An error of `builder` is reported to the service and raised.
        A `str` that `builder` returns becomes the build's log (``build_log``).

        Raises:
            TemplateFailed: the build of another client failed.
            TemplateBuilding: another client is still building it after `wait_seconds`.
        """
        claim = self.operations.claim_build(
            name, fingerprint, extensions=extensions, build_seconds=build_seconds, wait_seconds=wait_seconds
        )
        template = self.run(claim)
        if template.build is None:
            return template
        try:
            with self._heartbeat(build_heartbeat(self.operations, template.id, template.build)):
                output = builder(template.build)
        except BaseException as error:
            self._report_failed(template.id, template.build, error)
            raise
        try:
            return self.build_ready(template.id, template.build.token, log=log_text(template.build, output))
        except BuildLost:  # another builder took over, because our heartbeats did not reach the service
            return self.wait_template(template.id, wait_seconds=wait_seconds)

    def events(self, *, follow: bool = True, since: str | None = None) -> Generator[Event, None, None]:
        """Yield every state transition as an event. After a broken connection, continue at the same event.

        Args:
            follow: wait for future events. If false, end after the past events.
            since: id of the event to start after, or ``0`` for all stored events. By default only future events.

        Raises:
            ServiceUnreachable: the connection broke, and no service answered for `retry_seconds`.
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
                reader.record_failure(broken.failure)
            time.sleep(reader.pause_seconds())

    @contextmanager
    def _holding(self, granted: Granted, on_lost: Callable[[LeaseLost], None] | None) -> Iterator[HeldLease]:
        held = HeldLease(granted.lease, on_lost, self._release, self.keep, self.reset)
        try:
            with self._heartbeat(lease_heartbeat(self.operations, granted, held)):
                yield held
        except BaseException as error:
            self._end(held, error)
            raise
        self._end(held, None)

    def _release(self, lease_id: str) -> Leftovers | None:
        return self.run(self.operations.release_only(lease_id))

    def _end(self, held: HeldLease, raised: BaseException | None) -> None:
        if held.ended or held.inherited:
            return
        loss = held.loss
        try:
            self.run(with_short_retries(self.operations, lost=loss is not None).release_only(held.id))
        except (LeaseEnded, LeaseNotFound) as over:
            loss = loss or LeaseLost(held.id, str(over))
        except FreshdbError as error:
            log_unreleased(held.id, error)
        if loss is not None and should_raise_loss(raised):
            raise loss

    def _report_failed(self, template_id: str, grant: BuildGrant, error: BaseException) -> None:
        message = failure_message(grant, error)
        log = log_text(grant, getattr(error, "output", None))
        try:
            self.run(
                with_short_retries(self.operations).build_failed(
                    template_id, grant.token, message=message, log=log
                )
            )
        except FreshdbError as unreported:
            log_unreported(grant, unreported)

    @contextmanager
    def _heartbeat(self, beat: Heartbeat) -> Iterator[None]:
        heartbeats = process_heartbeats()
        heartbeats.add(beat, self._attempt)
        try:
            yield
        finally:
            heartbeats.remove(beat)

    def _attempt(self, beat: Heartbeat) -> None:
        step = beat.attempt(self.policy.addresses.current)
        outcome = self._transport.send(step)
        if isinstance(outcome, Failure):
            self.policy.addresses.leave(step.base)
        beat.record(outcome)
