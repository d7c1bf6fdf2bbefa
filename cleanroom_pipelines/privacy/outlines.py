"""What is kept of a delivered list, so that a later one is compared with it without opening it.

Lives here: the outline of a list, and how far apart two lists are at least.
Add here when more must be known of a list that is not opened.
Keep out: which lists are compared (`execution`), what follows (`deliveries.py`), and storing outlines (`catalog`).

An outline counts the users of a list in buckets of a keyed hash. Where two lists put different numbers of users
into a bucket, at least that many users are in only one of them; the sum over all buckets can only be too small.
Lists that differ by many users are therefore told apart by their outlines, and only those that may be near are
opened.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

N_BUCKETS = 64
_DIGEST_BYTES = 16
_PERSON = b"outlines"  # the key has other uses


@dataclass(frozen=True)
class Outline:
    """The outline of a list.

    Args:
        n_users: How many users it holds.
        digest: Keyed digest of the set of its users, 32 hex digits.
        counts: Users by bucket.
    """

    n_users: int
    digest: str
    counts: tuple[int, ...]


def outline_of(users: Iterable[str], key: bytes) -> Outline:
    """Make the outline of a list.

    Args:
        users: Its user ids, each once, in any order.
        key: The room's key, at most 64 bytes: outlines of other rooms cannot be compared.
    """
    counts = [0] * N_BUCKETS
    total = 0
    for user in users:
        mark = hashlib.blake2b(user.encode(), digest_size=_DIGEST_BYTES, key=key, person=_PERSON).digest()
        counts[mark[0] % N_BUCKETS] += 1
        total += int.from_bytes(mark, "big")
    digest = total % (1 << 8 * _DIGEST_BYTES)
    return Outline(sum(counts), f"{digest:0{2 * _DIGEST_BYTES}x}", tuple(counts))


def least_difference(one: Outline, other: Outline) -> int:
    """The users that are in only one of two lists: at least so many, and none if their digests are equal."""
    return sum(abs(here - there) for here, there in zip(one.counts, other.counts, strict=True))
