"""Ingesting the files in the inbox, on a sensor's tick or in `cleanroom run`.

Lives here: ingesting a list of drops, or all drops that are complete.
Add here when there is an inbox for something else.
Keep out: what happens to one file (inbox.py, room_inbox.py).
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.drops import Drop, RejectedDrop, StillWrittenError
from cleanroom_pipelines.runs.inbox import find_drops, register_drop
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.room_inbox import find_room_drops, provision_drop

_PAUSE_SECONDS = 1.0


@dataclass
class Ingestion:
    """How many dropped files an ingestion accepted and rejected, and which failures occurred.

    Args:
        n_accepted: Number of files that became a job or provisioned a room.
        n_rejected: Number of files that were rejected with a receipt.
        incomplete: Files that may still be incomplete.
        failed: Files that could not be accepted now, each with the class name of the error.
    """

    n_accepted: int = 0
    n_rejected: int = 0
    incomplete: list[Drop] = field(default_factory=list)
    failed: list[tuple[Drop, str]] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the counts in words, without names of files; empty if there were no files."""
        counts = (
            (self.n_accepted, "accepted"),
            (self.n_rejected, "rejected (a receipt in rejected/ says why)"),
            (len(self.incomplete), "may still be incomplete"),
            (len(self.failed), "could not be accepted now"),
        )
        return ", ".join(f"{n} {words}" for n, words in counts if n)


def ingest(
    installation: Installation, drops: Iterable[Drop], take: Callable[[Installation, Drop], object]
) -> Ingestion:
    """Ingest drops one by one; a file that cannot be accepted now does not delay the others.

    Args:
        installation: The installation.
        drops: The files.
        take: `register_drop` or `provision_drop`.
    """
    found = Ingestion()
    for drop in drops:
        try:
            taken = take(installation, drop)
        except StillWrittenError:
            found.incomplete.append(drop)
        except (CleanroomError, OSError) as error:
            found.failed.append((drop, type(error).__name__))
        else:
            is_rejected = isinstance(taken, RejectedDrop)
            found.n_rejected += is_rejected
            found.n_accepted += taken is not None and not is_rejected  # None: another process got there first
    return found


def ingest_all(installation: Installation, pause: Callable[[float], None] = time.sleep) -> Ingestion:
    """Ingest all complete files in the inboxes of seeds and data rooms.

    It pauses between finding and ingesting files, as a sensor does between two ticks, to detect files that are
    still growing.

    Args:
        installation: The installation.
        pause: Waits for a number of seconds.
    """
    seeds, rooms = [*find_drops(installation)], [*find_room_drops(installation)]
    if seeds or rooms:
        pause(_PAUSE_SECONDS)
    of_seeds = ingest(installation, seeds, register_drop)
    of_rooms = ingest(installation, rooms, provision_drop)
    return Ingestion(
        of_seeds.n_accepted + of_rooms.n_accepted,
        of_seeds.n_rejected + of_rooms.n_rejected,
        of_seeds.incomplete + of_rooms.incomplete,
        of_seeds.failed + of_rooms.failed,
    )
