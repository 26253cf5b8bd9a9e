"""Wrong tokens, limited by address.

Nobody guesses a token; but somebody may try, or a job with a revoked one may ask again and again. Each address has a bucket
of attempts, which fills up again in a minute. Once it is empty, wrong tokens are answered with 429 and when to come back,
instead of 401. A right token is recognised before anybody looks into the bucket: whoever shares an address with somebody who
tries is let in. What trying costs the control plane is bounded elsewhere (:mod:`freshdb_service.auth.token_cache`).

The buckets are those of one replica, and of the last addresses that tried.
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
    """Attempts left, as of an instant (monotonic seconds)."""

    left: float
    at: float
    told: bool = False


class AuthThrottle:
    """The failed attempts of each address."""

    def __init__(self, most: int, *, clock: Callable[[], float] = monotonic) -> None:
        self.most = most
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """How long until another attempt from this address is answered with 401; 0 for at once."""
        bucket = self._buckets.get(address)
        if bucket is None or (left := self._left(bucket)) >= 1:
            return 0.0
        if not bucket.told:
            bucket.told = True
            _log.warning(
                "too many wrong tokens from %s: more of them are refused unseen for a while", address
            )
        return (1 - left) * _WINDOW_SECONDS / self.most

    def note(self, address: str) -> None:
        """Count a failed attempt."""
        bucket = self._buckets.pop(address, None) or _Bucket(float(self.most), self._clock())
        left = self._left(bucket)
        told = bucket.told and left < self.most / 2
        self._buckets[address] = _Bucket(max(0.0, left - 1), self._clock(), told)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)

    def _left(self, bucket: _Bucket) -> float:
        return min(self.most, bucket.left + (self._clock() - bucket.at) * self.most / _WINDOW_SECONDS)
