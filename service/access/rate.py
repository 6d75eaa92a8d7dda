"""Request rates per key: one token bucket per key, in memory."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

__all__ = ["RateLimiter"]


class RateLimiter:
    """One bucket per name: initially full, one token per request, refilled evenly over a minute.

    Args:
        per_minute: the size of a bucket, and its refill per minute.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait(self, name: str, cost: float = 1.0) -> int:
        """Take ``cost`` tokens and return 0; if there are too few, take none and return the seconds until there are enough."""
        rate = self.per_minute / 60
        with self._lock:
            now = self._clock()
            tokens, last = self._buckets.get(name, (float(self.per_minute), now))
            tokens = min(float(self.per_minute), tokens + max(0.0, now - last) * rate)
            # A client that waited for Retry-After must not be refused because of rounding.
            if tokens >= cost - 1e-9:
                self._buckets[name] = tokens - cost, now
                return 0
            self._buckets[name] = tokens, now
            return math.ceil((cost - tokens) / rate)
