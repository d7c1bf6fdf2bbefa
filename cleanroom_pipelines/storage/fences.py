"""What is asked immediately before something becomes visible outside.

Lives here: the fence that every delivery goes through, and the one of writers whom nobody can stop.
Add here when a delivery has to ask something more.
Keep out: who holds a claim and who cancelled it (catalogue).

Decided 2026-11-29, on what may happen between asking and acting, since no two systems share one transaction.

`commit` is one guarded UPDATE in the catalogue: the claim is held, nobody cancelled, the resource is not being
deleted. It is the moment of the delivery. A cancel that comes later is refused, also after the holder was lost:
the next attempt delivers instead. Only the rename or the upload of the manifest follows, then the version is
closed. A process may still be stopped between the two. What happens if it goes on after its lease:

- Another attempt took over, on a disk: it first took away, by one rename, what older attempts had staged. The late
  rename has no source any more.
- Another attempt took over, on an object store: the files of each attempt have names of their own, and the
  manifest is written only if it is as it was when the writer last looked (If-None-Match, If-Match). The store
  refuses the late upload. A store that ignores these headers leaves a window of one request.
- The resource was deleted, or the version given up after its last attempt: the export appears after all. It is
  whole and holds what was asked for, as if it had been delivered just before; what an export wrote stays at its
  place anyway. Nothing newer is replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass


def _nobody_asks() -> None:
    return None


@dataclass(frozen=True)
class Fence:
    """The permission to let something become visible.

    Args:
        attempt: Number of the writer's attempt, from 1; rises with each attempt at the same thing. 0 for a writer
            that holds no claim.
        check: Raises ClaimLostError or CancelledError if nobody wants the work any more. Asked before each step.
        commit: The same, and from then on nobody can cancel. Asked once, immediately before the last step.
    """

    attempt: int = 0
    check: Callable[[], None] = _nobody_asks
    commit: Callable[[], None] = _nobody_asks


UNFENCED = Fence()
