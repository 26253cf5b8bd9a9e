"""Heartbeats renew leases and builds outside the caller's thread, and detect a loss.

There is one ``Heartbeat`` per lease or build. It makes its decisions without I/O. It renews after a third of the TTL,
or a little earlier by jitter. When an attempt fails, it retries soon, until the TTL has passed. It counts the TTL by
the client's monotonic clock (suspended time included), from *before* the request was sent. So the client never relies
on a lease for longer than the service does. A lease is lost when the service answers that it has ended or is unknown,
or when the TTL has passed. A loss is final.

One daemon thread sends the heartbeats of all blocking clients of the process (``process_heartbeats``). One task sends
those of an event loop (``loop_heartbeats``). Both start with the first heartbeat. They read the clock at least every
five seconds, to detect that the machine was suspended. A forked child starts without heartbeats, because its parent
renews the leases.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import random
import signal
import threading
from typing import TYPE_CHECKING, Final

from freshdb.clock import elapsed_seconds
from freshdb.errors import FreshdbError
from freshdb.messages import Answer, Failure, Send, ServiceCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from freshdb.clock import Clock

    Read = Callable[[Answer], "float | str"]
    """Reads the granted seconds from an answer, or the reason of a loss. Raises for any other problem."""

_log: Final = logging.getLogger("freshdb.heartbeat")

PART: Final = 1 / 3
"""Fraction of the TTL after which the next heartbeat is due."""
LONGEST_SLEEP_SECONDS: Final = 5.0
_LONGEST_ATTEMPT_SECONDS: Final = 5.0
_SHORTEST_ATTEMPT_SECONDS: Final = 0.2
_FIRST_RETRY_SECONDS: Final = 0.2
_LONGEST_RETRY_SECONDS: Final = 5.0


class Heartbeat:
    """The heartbeat of one lease or build: due time, last failure, loss. Thread-safe.

    Args:
        call: the request that renews.
        read: reads the answer of `call`.
        ttl_seconds: the granted TTL.
        counted_from: start of the TTL, by `clock`.
        due_at_once: renew at once, because the grant may be older than `counted_from`.
        on_lost: called once with the reason, by the thread that detects the loss.
    """

    def __init__(
        self,
        call: ServiceCall,
        read: Read,
        *,
        ttl_seconds: float,
        counted_from: float,
        on_lost: Callable[[str], None],
        due_at_once: bool = False,
        clock: Clock = elapsed_seconds,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.call = call
        self._read = read
        self._on_lost = on_lost
        self._clock = clock
        self._chance = jitter
        self._lock = threading.RLock()
        self._failures = 0
        self._last_failure = "no heartbeat was due yet"
        self._loss: str | None = None
        self._stopped = False
        self._grant(ttl_seconds, counted_from)
        if due_at_once:
            self.due_at = counted_from

    @property
    def ended(self) -> bool:
        """True after a stop or a loss: there is nothing to renew."""
        return self._stopped or self._loss is not None

    def stop(self) -> None:
        """End the heartbeat on purpose. It cannot be lost from now on. An earlier loss stays."""
        with self._lock:
            self.loss_reason()
            self._stopped = True

    def loss_reason(self) -> str | None:
        """Return the reason of the loss, if there is one. Also detect that the TTL has passed."""
        with self._lock:
            if not self._stopped and self._loss is None and self._clock() >= self._deadline:
                self._lose(
                    f"no heartbeat succeeded within its {self._ttl_seconds:g} s (last: {self._last_failure})"
                )
            return self._loss

    def attempt(self, base: str) -> Send:
        """Build the next attempt. Its timeout is a third of the time that is left, within limits."""
        left = self._deadline - self._clock()
        timeout = min(_LONGEST_ATTEMPT_SECONDS, max(_SHORTEST_ATTEMPT_SECONDS, left / 3))
        return Send(base, self.call, timeout)

    def record(self, outcome: Answer | Failure) -> None:
        """Record the outcome of an attempt."""
        with self._lock:
            if self.ended:
                return
            if isinstance(outcome, Failure):
                self._fail(outcome.reason)
                return
            try:
                granted = self._read(outcome)
            except FreshdbError as error:  # any other answer: nothing was renewed
                self._fail(str(error))
                return
            if isinstance(granted, str):
                self._lose(granted)
            else:
                self._failures = 0
                self._last_failure = "none failed"
                self._grant(granted, outcome.sent_at)

    def record_loss(self, reason: str) -> None:
        """Record a loss that the client has detected by another request."""
        with self._lock:
            if not self.ended:
                self._lose(reason)

    def _grant(self, ttl_seconds: float, counted_from: float) -> None:
        self._ttl_seconds = ttl_seconds
        self._deadline = counted_from + ttl_seconds
        self.due_at = counted_from + ttl_seconds * PART * (1 - self._chance() / 5)

    def _fail(self, reason: str) -> None:
        self._last_failure = reason
        pause = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2 ** min(self._failures, 10))
        self._failures += 1
        pause *= 1 - self._chance() / 2
        now = self._clock()
        self.due_at = min(now + pause, max(self._deadline, now))
        _log.warning("a heartbeat failed (%s); next attempt in %.1f s", reason, self.due_at - now)

    def _lose(self, reason: str) -> None:
        self._loss = reason
        try:
            self._on_lost(reason)
        except Exception:  # noqa: BLE001 - the thread also serves other leases
            _log.exception("the callback for a lost lease failed")


class HeartbeatQueue:
    """Heartbeats in the order of their due times. Ended ones are dropped when they come first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Heartbeat]] = []
        self._count = 0

    def put(self, beat: Heartbeat) -> None:
        """Add a heartbeat that is not in the queue."""
        self._count += 1  # breaks ties, because heartbeats have no order
        heapq.heappush(self._heap, (beat.due_at, self._count, beat))

    def take_due(self, now: float) -> Heartbeat | None:
        """Remove and return a heartbeat that is due."""
        self._drop_ended()
        if self._heap and self._heap[0][0] <= now:
            return heapq.heappop(self._heap)[2]
        return None

    def sleep_seconds(self, now: float) -> float | None:
        """Return the time until the next heartbeat is due, or ``None`` for an empty queue."""
        self._drop_ended()
        if not self._heap:
            return None
        return min(LONGEST_SLEEP_SECONDS, max(0.0, self._heap[0][0] - now))

    def _drop_ended(self) -> None:
        while self._heap and self._heap[0][2].ended:
            heapq.heappop(self._heap)


class HeartbeatThread:
    """One daemon thread that renews the leases and builds of blocking clients."""

    def __init__(self, clock: Clock = elapsed_seconds) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._queue = HeartbeatQueue()
        self._senders: dict[Heartbeat, Callable[[Heartbeat], None]] = {}
        self._busy: Heartbeat | None = None
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None

    def add(self, beat: Heartbeat, send: Callable[[Heartbeat], None]) -> None:
        """Add a heartbeat. `send` makes one attempt and records its outcome."""
        with self._condition:
            self._senders[beat] = send
            self._queue.put(beat)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="freshdb-heartbeat", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def remove(self, beat: Heartbeat) -> None:
        """Remove a heartbeat. Wait for the end of a running attempt, so that its connection can be closed."""
        if self._pid != os.getpid():
            return  # a forked child: a lock that a thread of the parent holds is never released here
        beat.stop()
        with self._condition:
            self._senders.pop(beat, None)
            if threading.current_thread() is not self._thread:
                self._condition.wait_for(lambda: self._busy is not beat)

    def _run(self) -> None:
        # signals belong to the main thread: its sigwait must not lose any to this thread
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._condition:
                beat = self._queue.take_due(self._clock())
                if beat is None:
                    self._condition.wait(self._queue.sleep_seconds(self._clock()))
                    continue
                send = self._senders.get(beat)
                self._busy = beat if send is not None else None
            if send is not None and beat.loss_reason() is None:
                try:
                    send(beat)
                except Exception as error:  # noqa: BLE001 - the thread also serves other leases, and this one retries
                    beat.record(Failure(repr(error), delivered=False, sent_at=self._clock()))
            with self._condition:
                self._busy = None
                self._condition.notify_all()
                if not beat.ended and beat in self._senders:
                    self._queue.put(beat)


class HeartbeatTask:
    """One task of an event loop that renews the leases and builds of its clients, concurrently."""

    def __init__(self, on_idle: Callable[[], object], clock: Clock = elapsed_seconds) -> None:
        self._on_idle = on_idle
        self._clock = clock
        self._queue = HeartbeatQueue()
        self._senders: dict[Heartbeat, Callable[[Heartbeat], Awaitable[None]]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sending: dict[Heartbeat, asyncio.Task[None]] = {}

    def add(self, beat: Heartbeat, send: Callable[[Heartbeat], Awaitable[None]]) -> None:
        """Add a heartbeat. `send` makes one attempt and records its outcome."""
        self._senders[beat] = send
        self._queue.put(beat)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="freshdb-heartbeat")
        self._changed.set()

    async def remove(self, beat: Heartbeat) -> None:
        """Remove a heartbeat. Wait for the end of a running attempt. The task ends with the last heartbeat."""
        beat.stop()
        self._senders.pop(beat, None)
        self._changed.set()
        if not self._senders:
            self._on_idle()
        sending = self._sending.get(beat)
        if sending is not None and sending is not asyncio.current_task():
            await asyncio.wait([sending])

    async def _run(self) -> None:
        while self._senders:
            beat = self._queue.take_due(self._clock())
            if beat is not None:
                self._sending[beat] = asyncio.create_task(self._renew(beat), name="freshdb-renewal")
                continue
            self._changed.clear()
            try:
                async with asyncio.timeout(self._queue.sleep_seconds(self._clock())):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _renew(self, beat: Heartbeat) -> None:
        send = self._senders.get(beat)
        if send is not None and beat.loss_reason() is None:
            try:
                await send(beat)
            except Exception as error:  # noqa: BLE001 - this heartbeat retries after any error
                beat.record(Failure(repr(error), delivered=False, sent_at=self._clock()))
        del self._sending[beat]
        if not beat.ended and beat in self._senders:
            self._queue.put(beat)
            self._changed.set()


_process_heartbeats: Final[dict[int, HeartbeatThread]] = {}
_loop_heartbeats: Final[dict[asyncio.AbstractEventLoop, HeartbeatTask]] = {}
_guard = threading.Lock()


def process_heartbeats() -> HeartbeatThread:
    """Return the heartbeats of this process."""
    with _guard:
        return _process_heartbeats.setdefault(os.getpid(), HeartbeatThread())


def loop_heartbeats() -> HeartbeatTask:
    """Return the heartbeats of the running event loop."""
    loop = asyncio.get_running_loop()
    heartbeats = _loop_heartbeats.get(loop)
    if heartbeats is None:
        heartbeats = _loop_heartbeats[loop] = HeartbeatTask(on_idle=lambda: _loop_heartbeats.pop(loop, None))
    return heartbeats


def _drop_inherited() -> None:
    global _guard  # noqa: PLW0603 - a thread of the parent may hold this lock
    _guard = threading.Lock()
    _process_heartbeats.clear()
    _loop_heartbeats.clear()


os.register_at_fork(after_in_child=_drop_inherited)
