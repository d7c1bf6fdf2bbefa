"""Contract: in overlap statistics every number about both parties is released with noise.

The oracle counts with sets and releases with the same releaser.
"""

from pathlib import Path

import pandas as pd
import pytest

from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import (
    AttributeFilter,
    FilterOperator,
    Filters,
    MatchOperator,
    Remarketing,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.audiences.overlap import overlap_statistics, question_about
from cleanroom_pipelines.privacy import COUNT, Releaser, error_of, ratio

from .plain_rooms import TYPES, PlainRoom, counted_users, matched_users, random_room

KEY = bytes(range(32))


def expected(room: PlainRoom, releaser: Releaser) -> list[dict[str, object]]:
    rows = []
    for type_ in sorted(set(room.seeds["audience_type"])):
        ids = set(room.seeds.loc[room.seeds["audience_type"] == type_, "digest"])
        overlap = releaser.count(len(counted_users(room, type_)), question=question_about(type_), price=COUNT)
        rows.append(
            {
                "audience_type": type_,
                "advertiser_size": len(ids),
                "overlap_size": overlap.value,
                "is_empty": not overlap.is_enough(),
                "match_rate": ratio(overlap, len(ids)),
                "match_rate_error": error_of(ratio(overlap, len(ids)), overlap),
            }
        )
    return rows


@pytest.mark.parametrize(("seed", "hide"), [*((seed, False) for seed in range(4)), (4, True), (5, True)])
def test_rows_match_a_simple_count(seed: int, hide: bool, tmp_path: Path) -> None:
    room = random_room(seed)
    releaser = Releaser(KEY, f"content {seed}", hide)
    with room.opened(tmp_path) as relations:
        found = overlap_statistics(relations, releaser)
    assert found.as_dict(with_own_counts=True) == {
        "rows": expected(room, releaser),
        "noise": releaser.noise_of(COUNT),
    }
    errors = {row["match_rate_error"] is None for row in found.as_dict(with_own_counts=True)["rows"]}
    assert errors == {True} if hide else False in errors, "an error would show a hidden count"
    assert found.questions == tuple(question_about(type_) for type_ in sorted(TYPES))
    assert found.price == COUNT


def test_the_oracle_covers_every_case() -> None:
    rows = [row for seed in range(6) for row in expected(random_room(seed), Releaser(KEY, "v", False))]
    assert {row["is_empty"] for row in rows} == {True, False}
    assert any(row["match_rate"] not in (None, 1.0) for row in rows)
    room = random_room(0)
    ids = set(room.seeds.loc[room.seeds["audience_type"] == "Buyers", "digest"]) & set(room.matching["digest"])
    n_counted, n_matched = len(counted_users(room, "Buyers")), len(matched_users(room, "Buyers"))
    assert n_counted < n_matched, "ids of several users"
    assert n_counted < len(ids), "users of several ids"


def test_only_the_advertiser_sees_its_size_and_match_rate(tmp_path: Path) -> None:
    with random_room(1).opened(tmp_path) as relations:
        found = overlap_statistics(relations, Releaser(KEY, "v", False))
    mine, others = found.as_dict(with_own_counts=True), found.as_dict(with_own_counts=False)
    assert all(row["advertiser_size"] > 0 for row in mine["rows"])
    assert any(row["match_rate"] is not None for row in mine["rows"])
    assert all(row["match_rate_error"] is None for row in others["rows"])
    # Size and rate together would tell how many ids the advertiser brought.
    assert all((row["advertiser_size"], row["match_rate"]) == (None, None) for row in others["rows"])
    assert [row["overlap_size"] for row in others["rows"]] == [row["overlap_size"] for row in mine["rows"]]


def test_a_room_without_seeds_has_no_rows(tmp_path: Path) -> None:
    room = random_room(1, 50)
    room = PlainRoom(room.users, room.segments, room.matching, room.seeds[:0])
    with room.opened(tmp_path) as relations:
        found = overlap_statistics(relations, Releaser(KEY, "v", False))
    assert found.as_dict(with_own_counts=True)["rows"] == []
    assert found.questions == ()


def test_a_row_is_one_draw_of_noise(tmp_path: Path) -> None:
    # A second number with noise of its own, or the number of ids instead of users, would tell more than is paid.
    ids = [f"{n:064x}" for n in range(400)]
    users = pd.DataFrame({"user_id": ids, "age": None, "gender": None, "is_relevant": True})
    both = pd.DataFrame({"digest": ids, "user_id": ids})
    seeds = pd.DataFrame({"digest": ids[:300], "audience_type": "T"})
    with PlainRoom(users, both[:0].rename(columns={"digest": "segment"}), both, seeds).opened(
        tmp_path
    ) as relations:
        (row,) = overlap_statistics(relations, Releaser(KEY, "v", False)).rows
    assert row.overlap == Releaser(KEY, "v", False).count(300, question=question_about("T"), price=COUNT)
    assert row.match_rate == ratio(row.overlap, 300)


def test_types_with_equal_ids_share_one_question_and_one_result(tmp_path: Path) -> None:
    room = random_room(1)
    ids = room.seeds.loc[room.seeds["audience_type"] == "Buyers", "digest"]
    seeds = pd.concat([pd.DataFrame({"digest": ids, "audience_type": name}) for name in ("T", "U")])
    digests = {"T": "5eed", "U": "5eed"}
    with PlainRoom(room.users, room.segments, room.matching, seeds).opened(tmp_path) as relations:
        same = [overlap_statistics(relations, Releaser(KEY, f"{n}", False), digests) for n in range(20)]
        apart = [overlap_statistics(relations, Releaser(KEY, f"{n}", False)) for n in range(20)]
    assert all(len(set(found.questions)) == 1 for found in same)
    assert all(found.rows[0].overlap == found.rows[1].overlap for found in same)
    assert any(found.rows[0].overlap != found.rows[1].overlap for found in apart), "names alone are two questions"


def test_the_overlap_is_the_size_of_the_remarketing_audience() -> None:
    def nobody(_: str) -> RuleBased:
        raise AssertionError

    assert question_about("it's") == canonical(Remarketing("it's"), nobody)
    digests = {"it's": "5eed"}
    assert question_about("it's", seeds=digests) == canonical(Remarketing("it's"), nobody, digests)
    asked = Filters(
        MatchOperator.MATCH_ANY, (AttributeFilter("age", FilterOperator.CONTAINS_ALL, ("65+", "65+")),)
    )
    assert question_about("T", {"age": "65+"}) == canonical(RuleBased(SeedRef("T"), asked), nobody)


def test_types_with_texts_invalid_in_definitions_still_get_a_question() -> None:
    texts = [question_about("a\x00"), question_about("b\x00"), question_about("T", {"segments": "a\x00"})]
    assert len(set(texts)) == 3
    digests = {"a\x00": "5eed", "b\x00": "5eed"}
    assert len({question_about(type_, seeds=digests) for type_ in digests}) == 1
