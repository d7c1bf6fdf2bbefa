"""How often an account may ask.

Lives here: one bucket of tokens per account, in this process.
Add here when something else is limited per account and time.
Keep out: quotas of what exists (the operations).
"""

import time
from collections.abc import Callable
from threading import Lock

_BURST_SECONDS = 2.0


class RateLimit:
    """Lets each account through at a steady rate, with a burst of two seconds' worth.

    Args:
        per_second: Requests per second and account.
        clock: Monotonic seconds.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second * _BURST_SECONDS)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def allows(self, account_id: str) -> bool:
        """Whether one more request is let through now; accounts are few, so all are remembered."""
        with self._lock:
            now = self._clock()
            left, at = self._left.get(account_id, (self._most, now))
            left = min(self._most, left + (now - at) * self._per_second)
            self._left[account_id] = (left - 1.0 if left >= 1.0 else left, now)
            return left >= 1.0
