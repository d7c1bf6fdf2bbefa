"""How much work a call is, compared with another call: no test depends on how fast a machine is.

Keep out: what may take how much (the tests).
"""

import gc
import time
from collections.abc import Callable

_LONG_SECONDS = 2.0


def effort(call: Callable[[], object]) -> float:
    """How long this thread computes for a call: the least of three times, of a very long one the first.

    A number of its own says nothing; divide it by another call's. Garbage is not collected meanwhile: a collection
    visits everything that the tests before have left in memory, and took ten times as long as the call itself.
    """
    efforts: list[float] = []
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while len(efforts) < 3 and sum(efforts) < _LONG_SECONDS:
            began = time.thread_time()
            call()
            efforts.append(time.thread_time() - began)
    finally:
        if collects:
            gc.enable()
    return min(efforts)
