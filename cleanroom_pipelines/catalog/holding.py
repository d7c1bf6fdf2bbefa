"""Keep a claim during the work, by renewing its lease.

Lives here: the thread that renews the lease.
Add here when something else must be done periodically while a claim is held.
Keep out: the work, and closing it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cleanroom_pipelines.catalog.claims import Claims
from cleanroom_pipelines.catalog.records import Claim
from cleanroom_pipelines.errors import ClaimLostError, CleanroomError


class Holding:
    """Renews one claim in its own thread.

    Attributes:
        claim: The claim.
        lost: Set when the claim is lost; the work should then stop.
    """

    def __init__(self, claims: Claims, claim: Claim) -> None:
        self.claim = claim
        self.lost = threading.Event()
        self._claims = claims
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease {claim.id}", daemon=True)

    def is_of(self, claim: Claim) -> bool:
        """Return whether this object renews the given claim."""
        held = self.claim
        return (held.id, held.number, held.run_id, held.attempt) == (
            claim.id,
            claim.number,
            claim.run_id,
            claim.attempt,
        )

    def start(self) -> None:
        """Start to renew the claim."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing; the claim stays valid until its lease expires."""
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
                wait = between / 10  # the lease may outlast the failure; if not, a later renewal reports the loss
            except BaseException:
                self.lost.set()  # no renewals from now on; the thread's own report shows the reason
                raise


@contextmanager
def holding(claims: Claims, claim: Claim) -> Iterator[Holding]:
    """Renew a claim in its own thread, every third of the lease's length, until the `with` body ends.

    Args:
        claims: The catalogue part that granted the claim.
        claim: The claim.

    Yields:
        The holding; check `lost` between steps of the work.
    """
    held = Holding(claims, claim)
    held.start()
    try:
        yield held
    finally:
        held.stop()
