"""Background work of one pytest process: acquire the lease of the next test, release the lease of the last one.

There are two daemon threads, so that neither kind of work waits for the other. One thread releases the leases of finished
tests, in the order in which the tests finished. If `_MAX_PENDING_RELEASES` are pending, a test waits. The other thread
acquires leases for the next tests: these are the *spares*. A test takes only the spare that was acquired in its
name, so that the holder in the list of leases is right.

A spare must not cost other clients a database:

- It is acquired without waiting. If no database is ready, or if other clients queue, the thread tries again a few times
  with growing delays while the current test runs. Then it gives up silently.
- While a spare is unused, the thread checks with growing delays whether other clients wait for a database of its pool. If
  so, it releases the spare and acquires none for some seconds. After two seconds it releases the spare in any case. Compared
  with a test that runs so long, the time of an acquire is insignificant.
- Before this process itself waits for a database, it releases its spares (`Prefetcher.release_spares`).
- When a test has run without taking its spare (it was skipped, or the suite overrides the fixture), the spare is
  released. The next one is acquired only after a test has acquired a lease by itself.
- A spare is renewed like any held lease. A spare that was lost is not given to its test, which then acquires a lease itself.

If the service reports at the release that a lease was lost, this is a `LostLease`. It is reported as an error of the test
that held it. A release that fails is tried again at the end of the run. If that fails, too, the lease is reported, and its
TTL ends it. A forked child has no such threads and must not use its parent's `Prefetcher`.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from freshdb.errors import LeaseEnded, LeaseNotFound, PoolExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from freshdb.client import Client
    from freshdb.clock import Clock
    from freshdb.held_lease import HeldLease
    from freshdb.models import Isolation

    _Next = tuple[Callable[[], None] | None, float | None]
    """The next task of a thread, or the seconds until it has one. Both are ``None`` to wait for a notification."""

_RETRY_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_CHECK_SECONDS: Final = (0.1, 0.3, 0.7, 1.5)
_MAX_SPARE_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = 60.0
_MAX_PENDING_RELEASES: Final = 4


@dataclass(frozen=True, slots=True)
class LeaseOrder:
    """A lease to acquire in the name of one test."""

    test: str
    template: str
    isolation: Isolation


@dataclass(slots=True, eq=False)
class FixtureLease:
    """A held lease, and the exit stack that ends its heartbeat."""

    held: HeldLease
    exit_stack: ExitStack


@dataclass(frozen=True, slots=True)
class LostLease:
    """A lease that was lost while a test held it, as the service reported at the release."""

    test: str
    lease_id: str
    database: str
    reason: str


@dataclass(slots=True)
class _Spare:
    lease: FixtureLease
    acquired_at: float
    checks: int = 0

    @property
    def due_at(self) -> float:
        """The time of the next check."""
        age = _CHECK_SECONDS[self.checks] if self.checks < len(_CHECK_SECONDS) else _MAX_SPARE_SECONDS
        return self.acquired_at + age


@dataclass(slots=True)
class _Attempt:
    due_at: float
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _Release:
    lease_id: str
    database: str
    exit_stack: ExitStack
    test: str | None
    """The test that held the lease, or ``None`` for a spare."""


@dataclass(slots=True)
class PrefetchReport:
    """Problems of the background work since the last report."""

    lost: list[LostLease] = field(default_factory=list)
    unreleased: list[str] = field(default_factory=list)


class Prefetcher:
    """Acquires and releases leases in its own threads.

    Args:
        client: used by these threads alone. Its retries are short, because a test may wait for a task of these threads.
        describe: returns the holder of a lease for the node id of a test.
        ttl_seconds: TTL of the leases.
    """

    def __init__(
        self, client: Client, describe: Callable[[str], dict[str, str]], *, ttl_seconds: float
    ) -> None:
        self._client = client
        self._describe = describe
        self._ttl_seconds = ttl_seconds
        self._clock: Clock = client.clock
        self._changed = threading.Condition()
        self._releases: deque[_Release] = deque()
        self._orders: dict[LeaseOrder, _Attempt] = {}
        self._spares: dict[LeaseOrder, _Spare] = {}
        self._running = 0
        self._acquiring: LeaseOrder | None = None
        self._failed_releases: list[_Release] = []
        self._report = PrefetchReport()
        self._paused_until = 0.0
        self._spare_unused = False
        self._closing = False
        self._threads: list[threading.Thread] = []

    # Called by the tests' thread

    def prefetch(self, orders: Sequence[LeaseOrder]) -> None:
        """Acquire spares for these orders, and release all other spares."""
        with self._changed:
            for order in [one for one in self._spares if one not in orders]:
                self._spare_unused = True
                self._drop(order)
            self._orders.clear()
            if self._acquiring not in orders:
                self._acquiring = None
            now = self._clock()
            if self._spare_unused or now < self._paused_until:
                return
            known = {*self._spares, self._acquiring}
            self._orders = {order: _Attempt(now) for order in orders if order not in known}
            self._notify()

    def take(self, order: LeaseOrder) -> FixtureLease | None:
        """Return the spare of this test, or ``None`` if there is none and the test has to acquire a lease itself."""
        with self._changed:
            self._changed.wait_for(lambda: self._acquiring != order)
            self._orders.pop(order, None)
            spare = self._spares.pop(order, None)
            if spare is None:
                self._spare_unused = False
                return None
            if spare.lease.held.loss is not None:
                self._releases.append(_end(spare.lease, None))
                self._notify()
                return None
            return spare.lease

    def release(self, lease: FixtureLease, test: str) -> None:
        """Release the lease of a finished test in the background. Its address is unavailable from now on."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._releases) < _MAX_PENDING_RELEASES, _DRAIN_SECONDS)
            self._releases.append(_end(lease, test))
            self._notify()

    def release_spares(self) -> None:
        """Release all spares, and acquire none until the next `prefetch`."""
        with self._changed:
            self._release_spares()

    def drain(self) -> PrefetchReport:
        """Release everything, spares included, wait until that is done, and return the problems since the last report."""
        with self._changed:
            self._release_spares()
            self._wait_until_idle()
            if self._failed_releases:
                self._releases.extend(self._failed_releases)
                self._failed_releases.clear()
                self._notify()
                self._wait_until_idle()
                self._report.unreleased += [one.lease_id for one in self._failed_releases]
                self._failed_releases.clear()
        return self.take_report()

    def take_report(self) -> PrefetchReport:
        """Return the problems since the last report."""
        with self._changed:
            report, self._report = self._report, PrefetchReport()
            return report

    def close(self) -> None:
        """Release everything, and end the threads."""
        self.drain()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_DRAIN_SECONDS)

    # Called with the lock held

    def _drop(self, order: LeaseOrder) -> None:
        self._releases.append(_end(self._spares.pop(order).lease, None))
        self._notify()

    def _release_spares(self) -> None:
        self._orders.clear()
        self._acquiring = None  # the lease that is being acquired now will be released at once
        for order in list(self._spares):
            self._drop(order)

    def _notify(self) -> None:
        if not self._threads:
            for name, find_next in (("release", self._next_release), ("prefetch", self._next_spare)):
                self._threads.append(
                    threading.Thread(target=self._run, args=[find_next], name=f"freshdb-{name}", daemon=True)
                )
                self._threads[-1].start()
        self._changed.notify_all()

    def _wait_until_idle(self) -> None:
        self._changed.wait_for(lambda: not (self._releases or self._running), _DRAIN_SECONDS)

    def _next_release(self) -> _Next:
        return (
            (partial(self._send_release, self._releases.popleft()), None) if self._releases else (None, None)
        )

    def _next_spare(self) -> _Next:
        now = self._clock()
        for order, attempt in self._orders.items():
            if attempt.due_at <= now:
                del self._orders[order]
                self._acquiring = order
                return partial(self._acquire, order, attempt), None
        for order, spare in self._spares.items():
            if spare.due_at <= now:
                return partial(self._check_spare, order, spare), None
        due = [one.due_at for one in self._orders.values()] + [one.due_at for one in self._spares.values()]
        return None, (max(0.0, min(due) - now) if due else None)

    # Called by the background threads

    def _run(self, find_next: Callable[[], _Next]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the main thread handles signals
        while True:
            with self._changed:
                task, sleep_seconds = find_next()
                if task is None:
                    if self._closing:
                        return
                    self._changed.wait(sleep_seconds)
                    continue
                self._running += 1
                self._changed.notify_all()  # `release` waits for a shorter queue
            task()
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def _send_release(self, release: _Release) -> None:
        try:
            release.exit_stack.close()
            self._client.run(self._client.operations.release_only(release.lease_id))
        except (LeaseEnded, LeaseNotFound) as ended:
            if release.test is not None:
                lost = LostLease(release.test, release.lease_id, release.database, str(ended))
                with self._changed:
                    self._report.lost.append(lost)
        except Exception:  # noqa: BLE001 - a test may have patched anything; at the end of the run this is undone
            with self._changed:
                self._failed_releases.append(release)

    def _acquire(self, order: LeaseOrder, attempt: _Attempt) -> None:
        exit_stack = ExitStack()
        context = self._client.lease(
            order.template,
            isolation=order.isolation,
            ttl_seconds=self._ttl_seconds,
            wait_seconds=0.0,
            holder=self._describe(order.test),
        )
        lease: FixtureLease | None = None
        retry = False
        try:
            lease = FixtureLease(exit_stack.enter_context(context), exit_stack)
        except PoolExhausted:
            retry = attempt.failures < len(_RETRY_SECONDS)
        except Exception:  # noqa: BLE001 - the test acquires a lease itself and reports its own error
            retry = False
        with self._changed:
            wanted, self._acquiring = self._acquiring is order, None
            if lease is not None and wanted:
                self._spares[order] = _Spare(lease, self._clock())
            elif retry and wanted:
                due_at = self._clock() + _RETRY_SECONDS[attempt.failures]
                self._orders[order] = _Attempt(due_at, attempt.failures + 1)
            elif lease is not None:
                self._releases.append(_end(lease, None))
            self._changed.notify_all()

    def _check_spare(self, order: LeaseOrder, spare: _Spare) -> None:
        expired = spare.checks >= len(_CHECK_SECONDS)
        spare.checks += 1
        contended = False
        try:
            contended = not expired and self._client.pool(spare.lease.held.lease.pool_id).waiting > 0
        except Exception:  # noqa: BLE001 - the queue is unknown: release the spare, to be safe
            expired = True
        with self._changed:
            if contended:
                self._paused_until = self._clock() + _PAUSE_SECONDS
                self._orders.clear()
            if (contended or expired) and self._spares.get(order) is spare:
                self._drop(order)


def _end(lease: FixtureLease, test: str | None) -> _Release:
    record = lease.held.lease
    lease.held.mark_ended("released")
    return _Release(record.id, record.database, lease.exit_stack, test)
