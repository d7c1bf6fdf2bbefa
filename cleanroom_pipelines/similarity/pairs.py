"""Aggregate interactions to distinct (user, item) pairs, in limited memory.

Lives here: spilling packed interactions to shards of users, sorting each shard, counting pairs, the vocabulary.
Add here when a pair gets another number.
Keep out: SQL (reading) and weights (representation).

One interaction is one 64-bit number: user (28 bits), candidate item (20), days before the newest event (16).
Sorting a shard groups equal pairs, newest first. numpy sorts 20 million numbers in a second, several times faster
than grouping the same rows in SQL, and interactions may arrive in any order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cleanroom_pipelines.similarity.reading import DAY_BITS, ITEM_BITS

UInt64 = npt.NDArray[np.uint64]
MAX_USERS = 1 << (64 - ITEM_BITS - DAY_BITS)
"""Maximum number of users, given by the bits for user numbers in a packed interaction: 268,435,456."""
_MAX_COUNT = 255


@dataclass(frozen=True)
class ShardPairs:
    """The distinct (user, item) pairs of one shard, sorted by user and then by item number.

    Args:
        first_user: Number of the shard's first user.
        users: User of each pair.
        items: Candidate item of each pair.
        counts: Interactions of each pair, at most 255.
        days: Days from the pair's latest event to the newest event of all; 65,535 if unknown.
    """

    first_user: int
    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    counts: npt.NDArray[np.uint8]
    days: npt.NDArray[np.uint16]


class PairSpill:
    """Interactions that are written to disk, packed into numbers, in one file per shard of consecutive users.

    Args:
        folder: Existing empty directory.
        boundaries: First user of each shard, then the number of users.
    """

    def __init__(self, folder: Path, boundaries: list[int]) -> None:
        self._folder = folder
        self._boundaries = boundaries
        self._edges = np.array([user << (ITEM_BITS + DAY_BITS) for user in boundaries[1:-1]], dtype=np.uint64)
        self._files = [(folder / f"{shard}.packed").open("wb") for shard in range(len(boundaries) - 1)]

    def add(self, packed: UInt64) -> None:
        """Add interactions, in any order."""
        if len(self._files) == 1:
            packed.tofile(self._files[0])
            return
        packed = np.sort(packed)
        cuts = [0, *np.searchsorted(packed, self._edges).tolist(), len(packed)]
        for file, start, stop in zip(self._files, cuts[:-1], cuts[1:], strict=True):
            packed[start:stop].tofile(file)

    def finish(self) -> None:
        """Close the files; call this before reading shards."""
        for file in self._files:
            file.close()

    def shards(self) -> Iterator[ShardPairs]:
        """Iterate over the shards in user order; the first iteration sorts them and keeps the result."""
        for shard, first_user in enumerate(self._boundaries[:-1]):
            kept = self._folder / f"{shard}.npz"
            if not kept.exists():
                path = self._folder / f"{shard}.packed"
                _sort(path, kept)
                path.unlink()
            with np.load(kept) as arrays:
                yield _unpacked(first_user, arrays["pairs"], arrays["counts"], arrays["days"])


def distinct_pairs(packed: UInt64) -> ShardPairs:
    """Reduce packed interactions, in any order, to their distinct (user, item) pairs."""
    return _unpacked(0, *_distinct(packed.copy()))


def _sort(path: Path, kept: Path) -> None:
    pairs, counts, days = _distinct(np.fromfile(path, dtype=np.uint64))
    np.savez(kept, pairs=pairs, counts=counts, days=days)


def _unpacked(
    first_user: int, pairs: UInt64, counts: npt.NDArray[np.uint8], days: npt.NDArray[np.uint16]
) -> ShardPairs:
    return ShardPairs(
        first_user=first_user,
        users=(pairs >> np.uint64(ITEM_BITS)).astype(np.int64),
        items=(pairs & np.uint64((1 << ITEM_BITS) - 1)).astype(np.int64),
        counts=counts,
        days=days,
    )


def _distinct(packed: UInt64) -> tuple[UInt64, npt.NDArray[np.uint8], npt.NDArray[np.uint16]]:
    packed.sort()
    pairs = packed >> np.uint64(DAY_BITS)
    is_first = np.empty(len(pairs), dtype=bool)
    is_first[:1] = True
    np.not_equal(pairs[1:], pairs[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first)
    counts = np.diff(np.append(starts, len(pairs)))
    return (
        pairs[starts],
        np.minimum(counts, _MAX_COUNT).astype(np.uint8),
        (packed[starts] & np.uint64((1 << DAY_BITS) - 1)).astype(np.uint16),
    )


def shard_boundaries(n_users: int, users_per_shard: int) -> list[int]:
    """Split users into shards of similar size: return the first user of each shard, then the number of users."""
    n_shards = max(1, -(-n_users // max(1, users_per_shard)))
    return [n_users * shard // n_shards for shard in range(n_shards + 1)]


def choose_vocabulary(
    spill: PairSpill, n_candidates: int, max_items: int, min_users: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Choose the vocabulary: the items with most users; among equals, those with more interactions.

    Returns:
        Candidate numbers of the vocabulary in its order, and the users of each.
    """
    n_users = np.zeros(n_candidates, dtype=np.int64)
    for shard in spill.shards():
        n_users += np.bincount(shard.items, minlength=n_candidates)
    order = np.argsort(-n_users, kind="stable")[:max_items]
    order = order[n_users[order] >= min_users]
    return order, n_users[order]
