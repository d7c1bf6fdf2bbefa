"""Contract: two lists differ by at least as many users as their outlines say; equal digests mean equal lists."""

from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.privacy import ReleasePolicy
from cleanroom_pipelines.privacy.outlines import least_difference, outline_of

KEY = bytes(range(32))
USERS = st.sets(st.integers(0, 300).map("user {}".format), max_size=200)


@given(USERS, USERS)
def test_the_difference_is_never_overstated(one: set[str], other: set[str]) -> None:
    first, second = outline_of(one, KEY), outline_of(other, KEY)
    assert least_difference(first, second) <= len(one ^ other)
    assert (first.digest == second.digest) == (one == other)
    assert abs(first.n_users - second.n_users) <= least_difference(first, second)


@given(st.permutations([f"user {n}" for n in range(40)]))
def test_the_order_does_not_matter(users: list[str]) -> None:
    assert outline_of(users, KEY) == outline_of(sorted(users), KEY)


def test_lists_of_one_size_are_told_apart() -> None:
    lists = [outline_of((f"user {i}" for i in range(200 * n, 200 * n + 200)), KEY) for n in range(60)]
    near = [
        (one, other)
        for one in range(60)
        for other in range(one)
        if least_difference(lists[one], lists[other]) < ReleasePolicy().least_difference
    ]
    assert near == []


def test_another_room_has_other_outlines() -> None:
    users = [f"user {n}" for n in range(40)]
    mine, theirs = outline_of(users, KEY), outline_of(users, bytes(32))
    assert mine.digest != theirs.digest
    assert mine.counts != theirs.counts
