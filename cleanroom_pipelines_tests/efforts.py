"""How much work a call is, beside another call: no test depends on how fast a machine is.

Keep out: what may take how much (the tests).
"""

import time
from collections.abc import Callable

_LONG_SECONDS = 0.02


def effort(call: Callable[[], object]) -> float:
    """How long this thread computes for a call; of a short one the least of three times.

    A number of its own says nothing; divide it by another call's.
    """
    efforts: list[float] = []
    while len(efforts) < 3 and sum(efforts) < _LONG_SECONDS:
        began = time.thread_time()
        call()
        efforts.append(time.thread_time() - began)
    return min(efforts)
