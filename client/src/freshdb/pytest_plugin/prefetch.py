"""What is done beside the tests of one process: the next test's lease is acquired, the last one's is given back.

Two daemon threads, so that neither waits for the other. One gives back what tests have finished with, in the order in
which they finished; a test that finds several still to be given back waits for them. The other acquires the leases of the
tests to come, as *spares*. A test takes the spare that was acquired in its name, and no other: the holder in the list
of leases is right.

A spare does no harm:

- It is acquired without a wait: when nothing is ready, or others queue, there is none. That is asked again a few times,
  less and less often, while the test before it runs; then nobody is told.
- While it lies unused we look, less and less often, whether anybody waits for a database of its pool. If so it is given
  back, and for some seconds none is acquired. After two seconds it is given back in any case: a test that takes so long
  does not notice an acquire.
- Before this process waits for a database itself, its spares are given back (`recall`).
- When its test has gone by without it (a skipped test, a fixture of the suite under the same name), it is given back,
  and none is acquired until a test asks by itself again.
- It is renewed like any held lease. One that was lost is not handed to the test, which acquires its own then.

A lease that turns out to be lost when it is released is a `LostLease`, and is reported as an error of the test that held it.
A lease that could not be given back is tried again at the end of the run, and told about if that fails, too: its TTL
ends it. A forked child has no such threads: it must leave its parent's errands alone.
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

    _Step = tuple[Callable[[], None] | None, float | None]
    """The next errand; or how long there is none, ``None`` for until further notice."""

_ASK_AGAIN_SECONDS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_LOOK_SECONDS: Final = (0.1, 0.3, 0.7, 1.5)
_KEEP_SECONDS: Final = 2.0
_CONTENDED_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 60.0
_MOST_RETURNS: Final = 4


@dataclass(frozen=True, slots=True)
class LeaseOrder:
    """A lease to acquire in the name of one test."""

    test: str
    template: str
    isolation: Isolation


@dataclass(slots=True, eq=False)
class TestLease:
    """A lease that is held, and what ends its heartbeat."""

    held: HeldLease
    ending: ExitStack


@dataclass(frozen=True, slots=True)
class LostLease:
    """A test's lease was lost while it held it, which came out when it was given back."""

    test: str
    lease_id: str
    database: str
    reason: str


@dataclass(slots=True)
class _Spare:
    in_hand: TestLease
    since: float
    looks: int = 0

    @property
    def due_at(self) -> float:
        """When to look after it next."""
        looks = _LOOK_SECONDS[self.looks] if self.looks < len(_LOOK_SECONDS) else _KEEP_SECONDS
        return self.since + looks


@dataclass(slots=True)
class _Asking:
    due_at: float
    times: int = 0


@dataclass(frozen=True, slots=True)
class _Return:
    lease_id: str
    database: str
    ending: ExitStack
    test: str | None
    """Who held it; nobody held a spare."""


@dataclass(slots=True)
class PrefetchReport:
    """What came out beside the tests, to be told by whoever talks to pytest."""

    losses: list[LostLease] = field(default_factory=list)
    unreleased: list[str] = field(default_factory=list)


class Prefetcher:
    """Acquires ahead and gives back, in threads of its own.

    Args:
        client: used by those threads alone; impatient, since the tests may come to wait for an errand.
        describe: who holds a lease, by the test's node id.
        ttl_seconds: of the leases.
    """

    def __init__(
        self, client: Client, describe: Callable[[str], dict[str, str]], *, ttl_seconds: float
    ) -> None:
        self._client = client
        self._describe = describe
        self._ttl_seconds = ttl_seconds
        self._clock: Clock = client.clock
        self._changed = threading.Condition()
        self._returns: deque[_Return] = deque()
        self._orders: dict[LeaseOrder, _Asking] = {}
        self._spares: dict[LeaseOrder, _Spare] = {}
        self._busy = 0
        self._under_way: LeaseOrder | None = None
        self._again: list[_Return] = []
        self._found = PrefetchReport()
        self._idle_until = 0.0
        self._unwanted = False
        self._closing = False
        self._threads: list[threading.Thread] = []

    # For the tests' thread

    def look_ahead(self, orders: Sequence[LeaseOrder]) -> None:
        """Have these leases at hand, and no others."""
        with self._changed:
            for order in [one for one in self._spares if one not in orders]:
                self._unwanted = True
                self._drop(order)
            self._orders.clear()
            if self._under_way not in orders:
                self._under_way = None
            now = self._clock()
            if self._unwanted or now < self._idle_until:
                return
            known = {*self._spares, self._under_way}
            self._orders = {order: _Asking(now) for order in orders if order not in known}
            self._wake()

    def take(self, order: LeaseOrder) -> TestLease | None:
        """Take the spare of this test, if there is one; the test acquires by itself otherwise."""
        with self._changed:
            self._changed.wait_for(lambda: self._under_way != order)
            self._orders.pop(order, None)
            spare = self._spares.pop(order, None)
            if spare is None:
                self._unwanted = False
                return None
            if spare.in_hand.held.loss is not None:
                self._returns.append(_return(spare.in_hand, None))
                self._wake()
                return None
            return spare.in_hand

    def give_back(self, in_hand: TestLease, test: str) -> None:
        """Release what `test` has finished with; from now on its address can no longer be had."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._returns) < _MOST_RETURNS, _SETTLE_SECONDS)
            self._returns.append(_return(in_hand, test))
            self._wake()

    def recall(self) -> None:
        """Give back all spares, and acquire none until told again."""
        with self._changed:
            self._recall()

    def settle(self) -> PrefetchReport:
        """Wait until everything is given back, spares included; tell what was found out since the last time."""
        with self._changed:
            self._recall()
            self._wait_until_idle()
            if self._again:
                self._returns.extend(self._again)
                self._again.clear()
                self._wake()
                self._wait_until_idle()
                self._found.unreleased += [one.lease_id for one in self._again]
                self._again.clear()
        return self.found()

    def found(self) -> PrefetchReport:
        """Tell what was found out since the last time."""
        with self._changed:
            found, self._found = self._found, PrefetchReport()
            return found

    def close(self) -> None:
        """Give everything back, and end the threads."""
        self.settle()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_SETTLE_SECONDS)

    # With the lock

    def _drop(self, order: LeaseOrder) -> None:
        self._returns.append(_return(self._spares.pop(order).in_hand, None))
        self._wake()

    def _recall(self) -> None:
        self._orders.clear()
        self._under_way = None  # what comes of it now, nobody waits for
        for order in list(self._spares):
            self._drop(order)

    def _wake(self) -> None:
        if not self._threads:
            for name, step in (("returns", self._next_return), ("spares", self._next_spare)):
                self._threads.append(
                    threading.Thread(target=self._run, args=[step], name=f"freshdb-{name}", daemon=True)
                )
                self._threads[-1].start()
        self._changed.notify_all()

    def _wait_until_idle(self) -> None:
        self._changed.wait_for(lambda: not (self._returns or self._busy), _SETTLE_SECONDS)

    def _next_return(self) -> _Step:
        return (partial(self._release, self._returns.popleft()), None) if self._returns else (None, None)

    def _next_spare(self) -> _Step:
        now = self._clock()
        for order, asking in self._orders.items():
            if asking.due_at <= now:
                del self._orders[order]
                self._under_way = order
                return partial(self._acquire, order, asking), None
        for order, spare in self._spares.items():
            if spare.due_at <= now:
                return partial(self._look_after, order, spare), None
        due = [one.due_at for one in self._orders.values()] + [one.due_at for one in self._spares.values()]
        return None, (max(0.0, min(due) - now) if due else None)

    # In the threads

    def _run(self, step: Callable[[], _Step]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        while True:
            with self._changed:
                errand, sleep_seconds = step()
                if errand is None:
                    if self._closing:
                        return
                    self._changed.wait(sleep_seconds)
                    continue
                self._busy += 1
                self._changed.notify_all()  # there is one less to be done
            errand()
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _release(self, done: _Return) -> None:
        try:
            done.ending.close()
            self._client.run(self._client.operations.release_only(done.lease_id))
        except (LeaseEnded, LeaseNotFound) as over:
            if done.test is not None:
                with self._changed:
                    self._found.losses.append(LostLease(done.test, done.lease_id, done.database, str(over)))
        except Exception:  # noqa: BLE001 - tests replace parts of the world; at the end of the run it is whole again
            with self._changed:
                self._again.append(done)

    def _acquire(self, order: LeaseOrder, asking: _Asking) -> None:
        ending = ExitStack()
        context = self._client.lease(
            order.template,
            isolation=order.isolation,
            ttl_seconds=self._ttl_seconds,
            wait_seconds=0.0,
            holder=self._describe(order.test),
        )
        in_hand: TestLease | None = None
        again = False
        try:
            in_hand = TestLease(ending.enter_context(context), ending)
        except PoolExhausted:
            again = asking.times < len(_ASK_AGAIN_SECONDS)
        except Exception:  # noqa: BLE001 - whatever it was: the test acquires by itself, and tells
            again = False
        with self._changed:
            wanted, self._under_way = self._under_way is order, None
            if in_hand is not None and wanted:
                self._spares[order] = _Spare(in_hand, self._clock())
            elif again and wanted:
                due_at = self._clock() + _ASK_AGAIN_SECONDS[asking.times]
                self._orders[order] = _Asking(due_at, asking.times + 1)
            elif in_hand is not None:
                self._returns.append(_return(in_hand, None))
            self._changed.notify_all()

    def _look_after(self, order: LeaseOrder, spare: _Spare) -> None:
        kept_too_long = spare.looks >= len(_LOOK_SECONDS)
        spare.looks += 1
        contended = False
        try:
            contended = not kept_too_long and self._client.pool(spare.in_hand.held.lease.pool_id).waiting > 0
        except Exception:  # noqa: BLE001 - not to be known: give it back, to be safe
            kept_too_long = True
        with self._changed:
            if contended:
                self._idle_until = self._clock() + _CONTENDED_SECONDS
                self._orders.clear()
            if (contended or kept_too_long) and self._spares.get(order) is spare:
                self._drop(order)


def _return(in_hand: TestLease, test: str | None) -> _Return:
    lease = in_hand.held.lease
    in_hand.held.mark_ended("released")
    return _Return(lease.id, lease.database, in_hand.ending, test)
