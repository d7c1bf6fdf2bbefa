"""Contract: contracts/media.md sections 1, 4 and 5, overlap: every two-sided number is a released one.

The oracle counts with sets and releases with the same releaser.
"""

from pathlib import Path

import pandas as pd
import pytest

from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import (
    Filter,
    FilterOperator,
    Filters,
    MatchOperator,
    Remarketing,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.audiences.overlap import overlap_statistics, question_about
from cleanroom_pipelines.privacy import ReleasePolicy, Releaser, ratio

from .plain_rooms import TYPES, PlainRoom, matched_users, random_room

KEY = bytes(range(32))


def expected(room: PlainRoom, releaser: Releaser) -> list[dict[str, object]]:
    rows = []
    for type_ in sorted(set(room.seeds["audience_type"])):
        ids = set(room.seeds.loc[room.seeds["audience_type"] == type_, "digest"])
        relevant = set(room.relevant["user_id"])
        known = {d for d, user in room.matching.itertuples(index=False) if user in relevant}
        n_users, n_ids = len(matched_users(room, type_)), len(ids & known)
        question = question_about(type_)
        overlap = releaser.count(n_users, question=question)
        matched = releaser.total({"": n_users, "ids beyond one a user": n_ids - n_users}, question=question)
        rows.append(
            {
                "audience_type": type_,
                "advertiser_size": len(ids),
                "overlap_size": overlap.value,
                "is_empty": not overlap.is_enough(),
                "match_rate": ratio(matched, len(ids)),
            }
        )
    return rows


@pytest.mark.parametrize(("seed", "hide"), [*((seed, False) for seed in range(4)), (4, True), (5, True)])
def test_rows_are_those_of_a_plain_count(seed: int, hide: bool, tmp_path: Path) -> None:
    room = random_room(seed)
    releaser = Releaser(KEY, f"version {seed}", hide)
    with room.opened(tmp_path) as relations:
        found = overlap_statistics(relations, releaser)
    assert found.as_dict(with_own_counts=True) == {
        "rows": expected(room, releaser),
        "noise": ReleasePolicy().noise(),
    }
    assert found.cost == len(TYPES)


def test_the_oracle_sees_every_case() -> None:
    rows = [row for seed in range(6) for row in expected(random_room(seed), Releaser(KEY, "v", False))]
    assert {row["is_empty"] for row in rows} == {True, False}
    assert any(row["match_rate"] not in (None, 1.0) for row in rows)
    room = random_room(0)
    ids = set(room.seeds.loc[room.seeds["audience_type"] == "Buyers", "digest"])
    assert len(matched_users(room, "Buyers")) != len(ids & set(room.matching["digest"])), "n:m"


def test_an_advertiser_alone_sees_its_own_size(tmp_path: Path) -> None:
    with random_room(1).opened(tmp_path) as relations:
        found = overlap_statistics(relations, Releaser(KEY, "v", False))
    mine, others = found.as_dict(with_own_counts=True), found.as_dict(with_own_counts=False)
    assert all(row["advertiser_size"] > 0 for row in mine["rows"])
    assert all(row["advertiser_size"] is None for row in others["rows"])


def test_a_room_without_seeds_has_no_rows(tmp_path: Path) -> None:
    room = random_room(1, 50)
    room = PlainRoom(room.users, room.segments, room.matching, room.seeds[:0])
    with room.opened(tmp_path) as relations:
        found = overlap_statistics(relations, Releaser(KEY, "v", False))
    assert found.as_dict(with_own_counts=True)["rows"] == []
    assert found.cost == 0


def test_users_with_one_id_show_in_one_draw_of_noise(tmp_path: Path) -> None:
    # One id a user and one user an id: the second part of the matched ids is then 0 whoever matches, so the match
    # rate differs from overlap size ÷ ids by noise that knows nothing of the users.
    ids = [f"{n:064x}" for n in range(400)]
    users = pd.DataFrame({"user_id": ids, "age": None, "gender": None, "is_relevant": True})
    both = pd.DataFrame({"digest": ids, "user_id": ids})
    seeds = pd.DataFrame({"digest": ids[:300], "audience_type": "T"})
    with PlainRoom(users, both[:0].rename(columns={"digest": "segment"}), both, seeds).opened(
        tmp_path
    ) as relations:
        (row,) = overlap_statistics(relations, Releaser(KEY, "v", False)).rows
    releaser, question = Releaser(KEY, "v", False), question_about("T")
    assert row.match_rate == ratio(releaser.total({"": 300, "ids beyond one a user": 0}, question=question), 300)
    assert row.overlap == releaser.count(300, question=question)


def test_the_overlap_is_the_size_of_the_remarketing_audience() -> None:
    def nobody(_: str) -> RuleBased:
        raise AssertionError

    assert question_about("it's") == canonical(Remarketing("it's"), nobody)
    asked = Filters(MatchOperator.MATCH_ANY, (Filter("age", FilterOperator.CONTAINS_ALL, ("65+", "65+")),))
    assert question_about("T", {"age": "65+"}) == canonical(RuleBased(SeedRef("T"), asked), nobody)


def test_texts_that_no_definition_can_name_are_asked_about_all_the_same() -> None:
    texts = [question_about("a\x00"), question_about("b\x00"), question_about("T", {"segments": "a\x00"})]
    assert len(set(texts)) == 3
