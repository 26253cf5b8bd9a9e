"""Rate limit for wrong tokens, by client address.

A token cannot be guessed, but an attacker may try, or a job with a revoked token may retry in a loop. Each address has a
token bucket of attempts, which refills within a minute. While it is empty, wrong tokens get 429 and ``Retry-After`` instead
of 401. Valid tokens are checked first, so a client that shares its address with an attacker is not refused. The load of
attempts on the control plane is limited in :mod:`freshdb_service.auth.token_cache`.

Each replica has its own buckets, for the addresses that failed last.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

_WINDOW_SECONDS: Final = 60.0
_REMEMBERED: Final = 10_000
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Bucket:
    """Attempts left at an instant (monotonic seconds)."""

    left: float
    at: float
    warned: bool = False


class AuthThrottle:
    """Counts the failed attempts of each address."""

    def __init__(self, most: int, *, clock: Callable[[], float] = monotonic) -> None:
        self.most = most
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """Return the seconds until this address may try again. 0 if it may try now."""
        bucket = self._buckets.get(address)
        if bucket is None or (left := self._left(bucket)) >= 1:
            return 0.0
        if not bucket.warned:
            bucket.warned = True
            _log.warning("too many wrong tokens from %s: answering further ones with 429", address)
        return (1 - left) * _WINDOW_SECONDS / self.most

    def note(self, address: str) -> None:
        """Count a failed attempt."""
        bucket = self._buckets.pop(address, None) or _Bucket(float(self.most), self._clock())
        left = self._left(bucket)
        warned = bucket.warned and left < self.most / 2
        self._buckets[address] = _Bucket(max(0.0, left - 1), self._clock(), warned)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)

    def _left(self, bucket: _Bucket) -> float:
        return min(self.most, bucket.left + (self._clock() - bucket.at) * self.most / _WINDOW_SECONDS)
