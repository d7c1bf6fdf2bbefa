"""Holding a claim while the work goes on.

Lives here: the thread that renews the lease.
Add here when something else must be done at intervals while a claim is held.
Keep out: the work, and what is done when it ends.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cleanroom_pipelines.catalog.claims import Claims
from cleanroom_pipelines.catalog.records import Claim
from cleanroom_pipelines.errors import ClaimLostError, CleanroomError


class Holding:
    """A claim that is being renewed.

    Attributes:
        claim: The claim.
        lost: Set when the claim is not held any more; the work is then in vain.
    """

    def __init__(self, claims: Claims, claim: Claim) -> None:
        self.claim = claim
        self.lost = threading.Event()
        self._claims = claims
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {claim.id}", daemon=True)

    def is_of(self, claim: Claim) -> bool:
        """Whether this renews the very claim."""
        held = self.claim
        return (held.id, held.number, held.run_id, held.attempt) == (
            claim.id,
            claim.number,
            claim.run_id,
            claim.attempt,
        )

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no more; the claim stands until its lease runs out."""
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        between = wait = self.claim.lease_seconds / 3
        while not self._done.wait(wait):
            try:
                self._claims.renew(self.claim)
                wait = between
            except ClaimLostError:
                self.lost.set()
                return
            except CleanroomError:
                wait = between / 10  # the lease may outlast it; if not, a later renewal says so
            except BaseException:
                self.lost.set()  # nobody renews any more; the thread's own report says why
                raise


@contextmanager
def holding(claims: Claims, claim: Claim) -> Iterator[Holding]:
    """Renew a claim's lease every third of it, in a thread of its own, until the body ends.

    Args:
        claims: Where the claim was taken.
        claim: The claim.

    Yields:
        The holding; look at `lost` between steps of the work.
    """
    held = Holding(claims, claim)
    held.start()
    try:
        yield held
    finally:
        held.stop()
