"""Rate limits per account.

Lives here: one token bucket per account, in this process.
Add here when something else is limited per account and time.
Keep out: quotas on the number of resources (the operations).
"""

import time
from collections.abc import Callable
from threading import Lock

_BURST_SECONDS = 2.0


class RateLimit:
    """Token bucket per account: a steady request rate, with bursts of up to two seconds' worth of requests.

    Args:
        per_second: Requests per second and account.
        clock: Monotonic clock, in seconds.
        burst: Requests that may be sent at once; None for those of two seconds.
    """

    def __init__(
        self, per_second: float, clock: Callable[[], float] = time.monotonic, burst: float | None = None
    ) -> None:
        self._per_second = per_second
        self._most = burst or max(1.0, per_second * _BURST_SECONDS)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def allows(self, account_id: str) -> bool:
        """Check whether an account may send a request now, and count the request if so.

        All accounts are kept, because they are few.
        """
        with self._lock:
            now = self._clock()
            left, at = self._left.get(account_id, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_second)
            self._left[account_id] = (left - 1.0 if left >= 1.0 else left, now)
            return left >= 1.0
