"""Heartbeats: leases and builds are renewed off the caller's thread, and a loss is noticed.

One ``Heartbeat`` per lease or build decides, without I/O: renew after a third of the time that was granted, a little
earlier by chance; when an attempt fails, try again soon, and go on until the time is over. The time is counted by
the client's own monotonic clock (suspended time included) from *before* the request that was granted was sent, so
that the client never believes in a lease for longer than the service does. A lease is lost when the service says so
(it ended, or is unknown), or when that time is over; nothing brings it back.

One daemon thread carries out the beats of all blocking clients of the process (``process_heart``), one task those of
an event loop (``loop_heart``); neither exists before there is something to renew. They look at the clock at least
every five seconds, which is how a machine that was suspended notices. A forked child starts without beats: what the
parent holds stays the parent's.
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
    """What an answer grants in seconds; or, as a sentence, why everything is over. Raises on any other problem."""

_log: Final = logging.getLogger("freshdb.heartbeat")

PART: Final = 1 / 3
"""Of the time that was granted: when this has gone by, the next heartbeat is due."""
LONGEST_SLEEP_SECONDS: Final = 5.0
_LONGEST_ATTEMPT_SECONDS: Final = 5.0
_SHORTEST_ATTEMPT_SECONDS: Final = 0.2
_FIRST_RETRY_SECONDS: Final = 0.2
_LONGEST_RETRY_SECONDS: Final = 5.0


class Heartbeat:
    """The heartbeat of one lease or build: when it is due, how it went, whether all is lost. Thread-safe.

    Args:
        call: the renewal.
        read: takes its answer.
        ttl_seconds: what was granted,
        counted_from: and since when, by `clock`.
        due_at_once: the grant may be older than it looks; ask before anything else.
        on_lost: called once, with the reason, by whichever thread notices.
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
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.call = call
        self._read = read
        self._on_lost = on_lost
        self._clock = clock
        self._chance = chance
        self._lock = threading.RLock()
        self._failures = 0
        self._last_failure = "no heartbeat was due yet"
        self._loss: str | None = None
        self._stopped = False
        self._grant(ttl_seconds, counted_from)
        if due_at_once:
            self.due_at = counted_from

    @property
    def over(self) -> bool:
        """Nothing more to renew: stopped, or lost."""
        return self._stopped or self._loss is not None

    def stop(self) -> None:
        """End it on purpose; from now on nothing can be lost (what is lost already, stays so)."""
        with self._lock:
            self.look()
            self._stopped = True

    def look(self) -> str | None:
        """Say why everything is lost, if it is; notices when the time is over."""
        with self._lock:
            if not self._stopped and self._loss is None and self._clock() >= self._deadline:
                self._lose(
                    f"no heartbeat got through within its {self._ttl_seconds:g} s (last: {self._last_failure})"
                )
            return self._loss

    def attempt(self, base: str) -> Send:
        """Make the next attempt, which takes no longer than what is left allows."""
        left = self._deadline - self._clock()
        timeout = min(_LONGEST_ATTEMPT_SECONDS, max(_SHORTEST_ATTEMPT_SECONDS, left / 3))
        return Send(base, self.call, timeout)

    def take(self, outcome: Answer | Failure) -> None:
        """Digest how an attempt went."""
        with self._lock:
            if self.over:
                return
            if isinstance(outcome, Failure):
                self._fail(outcome.reason)
                return
            try:
                granted = self._read(outcome)
            except FreshdbError as error:  # another problem, or no answer of freshdb's: it renewed nothing
                self._fail(str(error))
                return
            if isinstance(granted, str):
                self._lose(granted)
            else:
                self._failures = 0
                self._last_failure = "none failed"
                self._grant(granted, outcome.sent_at)

    def abandon(self, reason: str) -> None:
        """Give up for a reason of the client's own."""
        with self._lock:
            if not self.over:
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
        except Exception:  # noqa: BLE001 - the callback is the caller's, the thread serves others, too
            _log.exception("the callback for a lost lease failed")


class HeartbeatQueue:
    """Beats by when they are due; one that is over is forgotten when its turn comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Heartbeat]] = []
        self._count = 0

    def put(self, beat: Heartbeat) -> None:
        """Add one that is not in it."""
        self._count += 1  # breaks ties: beats have no order
        heapq.heappush(self._heap, (beat.due_at, self._count, beat))

    def take_due(self, now: float) -> Heartbeat | None:
        """Take one out whose time has come."""
        self._forget()
        if self._heap and self._heap[0][0] <= now:
            return heapq.heappop(self._heap)[2]
        return None

    def sleep_seconds(self, now: float) -> float | None:
        """How long nothing is due; ``None`` when there is nothing at all."""
        self._forget()
        if not self._heap:
            return None
        return min(LONGEST_SLEEP_SECONDS, max(0.0, self._heap[0][0] - now))

    def _forget(self) -> None:
        while self._heap and self._heap[0][2].over:
            heapq.heappop(self._heap)


class HeartbeatThread:
    """One daemon thread that renews what blocking clients hold."""

    def __init__(self, clock: Clock = elapsed_seconds) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._queue = HeartbeatQueue()
        self._senders: dict[Heartbeat, Callable[[Heartbeat], None]] = {}
        self._busy: Heartbeat | None = None
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None

    def add(self, beat: Heartbeat, send: Callable[[Heartbeat], None]) -> None:
        """Keep it beating; `send` makes one attempt and gives the outcome to the beat."""
        with self._condition:
            self._senders[beat] = send
            self._queue.put(beat)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="freshdb-heartbeat", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def remove(self, beat: Heartbeat) -> None:
        """Let it rest; an attempt that is under way comes to its end first, so that its connection can be closed."""
        if self._pid != os.getpid():
            return  # a forked child's copy: its locks may be held by a thread that the child does not have
        beat.stop()
        with self._condition:
            self._senders.pop(beat, None)
            if threading.current_thread() is not self._thread:
                self._condition.wait_for(lambda: self._busy is not beat)

    def _run(self) -> None:
        # signals are the main thread's: one that waits for them by sigwait must not lose any to this thread
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._condition:
                beat = self._queue.take_due(self._clock())
                if beat is None:
                    self._condition.wait(self._queue.sleep_seconds(self._clock()))
                    continue
                send = self._senders.get(beat)
                self._busy = beat if send is not None else None
            if send is not None and beat.look() is None:
                try:
                    send(beat)
                except Exception as error:  # noqa: BLE001 - the thread serves others, too; this beat tries again
                    beat.take(Failure(repr(error), delivered=False, sent_at=self._clock()))
            with self._condition:
                self._busy = None
                self._condition.notify_all()
                if not beat.over and beat in self._senders:
                    self._queue.put(beat)


class HeartbeatTask:
    """One task of an event loop that renews what its asynchronous clients hold, concurrently."""

    def __init__(self, on_idle: Callable[[], object], clock: Clock = elapsed_seconds) -> None:
        self._on_idle = on_idle
        self._clock = clock
        self._queue = HeartbeatQueue()
        self._senders: dict[Heartbeat, Callable[[Heartbeat], Awaitable[None]]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sending: dict[Heartbeat, asyncio.Task[None]] = {}

    def add(self, beat: Heartbeat, send: Callable[[Heartbeat], Awaitable[None]]) -> None:
        """Keep it beating; `send` makes one attempt and gives the outcome to the beat."""
        self._senders[beat] = send
        self._queue.put(beat)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="freshdb-heartbeat")
        self._changed.set()

    async def remove(self, beat: Heartbeat) -> None:
        """Let it rest; an attempt that is under way comes to its end first. Without beats the task ends."""
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
        if send is not None and beat.look() is None:
            try:
                await send(beat)
            except Exception as error:  # noqa: BLE001 - whatever it was: this beat tries again
                beat.take(Failure(repr(error), delivered=False, sent_at=self._clock()))
        del self._sending[beat]
        if not beat.over and beat in self._senders:
            self._queue.put(beat)
            self._changed.set()


_process_hearts: Final[dict[int, HeartbeatThread]] = {}
_loop_hearts: Final[dict[asyncio.AbstractEventLoop, HeartbeatTask]] = {}
_guard = threading.Lock()


def process_heart() -> HeartbeatThread:
    """Give this process's heart."""
    with _guard:
        return _process_hearts.setdefault(os.getpid(), HeartbeatThread())


def loop_heart() -> HeartbeatTask:
    """Give the running event loop's heart."""
    loop = asyncio.get_running_loop()
    heart = _loop_hearts.get(loop)
    if heart is None:
        heart = _loop_hearts[loop] = HeartbeatTask(on_idle=lambda: _loop_hearts.pop(loop, None))
    return heart


def _forget_the_parent() -> None:
    global _guard  # noqa: PLW0603 - the lock may have been held by a thread that the child does not have
    _guard = threading.Lock()
    _process_hearts.clear()
    _loop_hearts.clear()


os.register_at_fork(after_in_child=_forget_the_parent)
