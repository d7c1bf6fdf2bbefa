"""Contract: a control group is the same at every refresh, has the requested share, and is independent of other
audiences' groups. A delivery without it and the group together are the whole audience, and a hash that belongs to
a user in the group is never delivered."""

import math
from fractions import Fraction
from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.delivery.exports import open_earlier_export, verify_export
from cleanroom_pipelines.delivery.holdouts import Holdout, holdout_salt
from cleanroom_pipelines.delivery.writing import Activation, Delivery, hash_ids
from cleanroom_pipelines.engine import open_engine
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage.buckets import folder_on_disk
from cleanroom_pipelines.terms import MatchingId

from ..examples import one_in
from ..offenders import offenders
from .exporting import delivered, holds_out

KEY = b"k" * 32
N_USERS = 20_000
USERS = [f"user-{number}" for number in range(N_USERS)]
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


def holdout(audience: str = "spring", share: str = "10%") -> Holdout:
    return Holdout.parse(share, holdout_salt(KEY, audience))


def group(chosen: Holdout) -> set[str]:
    return {user for user in USERS if holds_out(chosen, user)}


def write(folder: Path, users: list[str], chosen: Holdout | None, format_: str | Activation = "csv") -> Delivery:
    return delivered(
        folder_on_disk(folder / "delivered"),
        [pa.array(users, pa.string())],
        export="e-1",
        generation_job=None,
        requested=len(users),
        format_=format_,
        holdout=chosen,
        holdout_place=folder_on_disk(folder / "held-out") if chosen else None,
    )


def read(folder: Path) -> list[str]:
    verify_export(folder)
    return [row for batch in open_earlier_export(folder).rows(folder.parent) for row in batch]


def within_bounds(n_found: int, n_tries: int, share: float) -> bool:
    """Five standard deviations: of the fixed users here a fair hash fails this once in two million draws."""
    return abs(n_found - share * n_tries) <= 5 * math.sqrt(n_tries * share * (1 - share))


def test_group_has_the_requested_share() -> None:
    def check(audience: str, share: str) -> None:
        assert within_bounds(len(group(holdout(audience, share))), N_USERS, float(share.rstrip("%")) / 100)

    assert offenders(product(["spring", "summer", ""], ["1%", "10%", "12.5%", "50%"]), check) == []


def test_group_is_the_same_at_every_refresh() -> None:
    again = Holdout(Fraction(1, 10), holdout_salt(bytes(KEY), "spring"))
    assert group(again) == group(holdout())


def test_larger_group_contains_the_smaller_one() -> None:
    assert group(holdout(share="5%")) < group(holdout(share="10%")) < group(holdout(share="20%"))


def test_groups_of_two_audiences_are_independent() -> None:
    first, second = group(holdout("spring", "20%")), group(holdout("summer", "30%"))
    assert within_bounds(len(first & second), N_USERS, 0.06)
    assert within_bounds(len(first & second), len(first), 0.3)


def test_another_installation_holds_out_others() -> None:
    other = Holdout.parse("10%", holdout_salt(b"j" * 32, "spring"))
    assert within_bounds(len(group(other) & group(holdout())), N_USERS, 0.01)


def test_group_is_independent_of_sampling() -> None:
    from cleanroom_pipelines.engine import stable_hash

    sampled = {user for user in USERS if stable_hash(user) % 10 == 0 or stable_hash(user) < (1 << 60) // 10}
    assert within_bounds(len(group(holdout()) & sampled), len(sampled), 0.1)


def test_sql_condition_selects_the_same_users() -> None:
    with open_engine() as engine:

        @given(st.lists(TEXTS, unique=True, min_size=1, max_size=40), st.sampled_from(["10%", "50%"]))
        def check(users: list[str], share: str) -> None:
            chosen = holdout(share=share)
            condition, parameters = chosen.condition("user_id")
            engine.register("users", pa.table({"user_id": pa.array(users, pa.string())}))
            found = engine.fetch(f"SELECT user_id FROM users WHERE {condition}", parameters)
            assert set(found["user_id"].to_pylist()) == {user for user in users if holds_out(chosen, user)}

        check()


def test_invalid_share_is_rejected() -> None:
    def check(text: str) -> None:
        with pytest.raises(UsageError) as caught:
            holdout(share=text)
        assert caught.value.remedy

    texts = ["0%", "50.1%", "100%", "10", "-1%", "x", "", "1e1%", "10 % of all"]
    assert offenders(texts, check) == []


def test_missing_salt_is_rejected() -> None:
    with pytest.raises(UsageError):
        Holdout(Fraction(1, 10), "")


def test_salt_is_not_displayed() -> None:
    chosen = holdout()
    assert chosen.salt not in repr(chosen)
    assert "spring" not in chosen.salt


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "plain"])
def test_delivery_and_group_together_are_the_audience(tmp_path: Path, format_: str) -> None:
    users = USERS[:3_000]
    delivery = write(tmp_path, users, holdout(), format_)
    delivered, held_out = read(tmp_path / "delivered"), read(tmp_path / "held-out")
    assert held_out == [user for user in users if holds_out(holdout(), user)]
    assert delivered == [user for user in users if not holds_out(holdout(), user)]
    assert delivery.manifest.as_dict()["holdout"] == {"share": "10%", "users": len(held_out)}
    assert (delivery.manifest.requested, delivery.manifest.delivered) == (3_000, len(delivered))
    assert delivery.holdout is not None
    assert delivery.holdout.delivered == len(held_out)


def test_refresh_holds_out_the_same_remaining_users(tmp_path: Path) -> None:
    write(tmp_path / "1", USERS[:2_000], holdout())
    write(tmp_path / "2", USERS[1_000:3_000][::-1], holdout())
    first, second = set(read(tmp_path / "1" / "held-out")), set(read(tmp_path / "2" / "held-out"))
    stay = set(USERS[1_000:2_000])
    assert first & stay == second & stay != set()
    assert not second & set(read(tmp_path / "1" / "delivered"))


@one_in(8)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 15)), max_size=80))
def test_hashes_of_the_group_are_not_delivered(
    tmp_path_factory: pytest.TempPathFactory, owners: list[tuple[int, int]]
) -> None:
    """n:m: some users share an address, some have several, some none."""
    folder = tmp_path_factory.mktemp("shared")
    users, chosen = USERS[:25], holdout(share="40%")
    batch = hash_ids(
        AdDestination.META,
        MatchingId.EMAIL,
        pa.array([USERS[owner] for owner, _ in owners], pa.string()),
        pa.array([f"a{address}@example.com" for _, address in owners], pa.string()),
    )
    delivery = write(folder, users, chosen, Activation(AdDestination.META, (MatchingId.EMAIL,), [batch]))
    rows = [(row["user_id"], row["hash"]) for row in batch.to_pylist() if row["user_id"] in users]
    of_group = {hash_ for user, hash_ in rows if holds_out(chosen, user)}
    kept = {(user, hash_) for user, hash_ in rows if not holds_out(chosen, user) and hash_ not in of_group}
    assert read(folder / "delivered") == sorted({hash_ for _, hash_ in kept})
    assert delivery.manifest.delivered == len({user for user, _ in kept})
    facts = delivery.manifest.as_dict()
    accounted = facts["holdout"]["users"] + facts["usersWithoutHash"] + facts["usersSharedWithHoldout"]
    assert accounted + facts["delivered"] == len(users)


def test_delivery_does_not_reveal_the_group(tmp_path: Path) -> None:
    write(tmp_path, USERS[:500], holdout())
    held_out = read(tmp_path / "held-out")
    everything = b"".join(path.read_bytes() for path in (tmp_path / "delivered").iterdir()).decode().split("\n")
    assert held_out
    assert not set(held_out) & set(everything)
    assert holdout().salt not in "".join(everything)
