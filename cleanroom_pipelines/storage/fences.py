"""Fences: check, immediately before results become visible, that the run may still publish them.

Lives here: the fence of every delivery, and the no-op fence of writers without a claim.
Add here when a delivery needs another check.
Keep out: claims and cancellations (catalogue).

Decided 2026-11-29, on races between check and action, since catalogue and storage share no transaction.

`commit` is one guarded UPDATE in the catalogue: the claim is held, the work is not cancelled, the resource is not
being deleted. This is the moment of delivery. Later cancellations are rejected, even if the claim holder dies: the
next attempt delivers instead. Only the rename or the manifest upload follows, then the version is closed. The
process may be suspended between the two. If it resumes after its lease has expired:

- Another attempt took over, on disk: that attempt first moved away, by one rename, everything that older attempts
  had staged. The late rename fails because its source is missing.
- Another attempt took over, on an object store: each attempt uses its own file names, and the manifest is written
  only if it has not changed since the writer last read it (If-None-Match, If-Match). The store rejects the late
  upload. A store that ignores these headers leaves a race of one request.
- The resource was deleted, or the version failed after its last attempt: the export still appears. It is complete
  and correct, as if it had been delivered just before; exported files are kept in any case. Nothing newer is
  replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass


def _no_check() -> None:
    return None


@dataclass(frozen=True)
class Fence:
    """Checks that a run may still make its result visible.

    Args:
        attempt: Number of the writer's attempt, from 1, increasing with each retry. 0 for a writer without a
            claim.
        check: Raises ClaimLostError or CancelledError if the work is no longer needed. Called before each step.
        commit: The same, and prevents cancellation from then on. Called once, immediately before the last step.
    """

    attempt: int = 0
    check: Callable[[], None] = _no_check
    commit: Callable[[], None] = _no_check


UNFENCED = Fence()
