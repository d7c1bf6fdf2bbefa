"""Contract: contracts/media.md sections 1, 4 and 5, insights: cells, affinity, shares, and what a table costs.

The oracle counts with sets, user by user, and releases with the same releasers.
"""

from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from cleanroom_pipelines.audiences.insights import insights
from cleanroom_pipelines.audiences.overlap import overlap_statistics, question_about
from cleanroom_pipelines.privacy import Releaser, affinity_ratio, ratio

from .plain_rooms import SEGMENTS, TYPES, PlainRoom, matched_users, random_room

KEY = bytes(range(32))
Cell = tuple[str | None, str | None, str | None]


def users_by_cell(room: PlainRoom) -> dict[Cell, set[str]]:
    segments: dict[str, set[str]] = {}
    for user, segment in room.segments.itertuples(index=False):
        segments.setdefault(user, set()).add(segment)
    cells: dict[Cell, set[str]] = {}
    for row in room.relevant.itertuples(index=False):
        age = row.age if isinstance(row.age, str) else None
        gender = row.gender if isinstance(row.gender, str) else None
        interests = [None, *segments.get(row.user_id, ())]
        for cell in product(interests, {None, age}, {None, gender}):
            if 1 <= sum(value is not None for value in cell) <= 2:
                cells.setdefault(cell, set()).add(row.user_id)
    return cells


def values_of(cell: Cell) -> dict[str, str]:
    names = ("segments", "age", "gender")
    return {name: value for name, value in zip(names, cell, strict=True) if value is not None}


def expected(room: PlainRoom, type_: str, releaser: Releaser, of_base: Releaser) -> dict[Cell, dict[str, object]]:
    matched = matched_users(room, type_)
    matchable = set(room.relevant.loc[room.relevant["is_matchable"], "user_id"])
    overlap = releaser.count(len(matched), question=question_about(type_))
    all_matchable = of_base.count(len(matchable), question=question_about(None), cell="matchable")
    rows: dict[Cell, dict[str, object]] = {}
    for cell, users in users_by_cell(room).items():
        of_base_question = question_about(None, values_of(cell))
        of_cell = of_base.count(len(users & matchable), question=of_base_question, cell="matchable")
        if len(users) < 25 or not of_cell.is_enough():
            continue
        in_overlap = releaser.count(len(users & matched), question=question_about(type_, values_of(cell)))
        rows[cell] = {
            "interest": cell[0],
            "age": cell[1],
            "gender": cell[2],
            "affinity_ratio": affinity_ratio(in_overlap, overlap, of_cell, all_matchable),
            "share_in_overlap": ratio(in_overlap, overlap),
            "share_in_matchable": ratio(of_cell, all_matchable),
            "addressable_size": of_base.count(len(users), question=of_base_question).value,
        }
    return rows


@pytest.mark.parametrize(("seed", "hide"), [(0, False), (1, False), (2, False), (3, True)])
def test_tables_are_those_of_a_plain_count(seed: int, hide: bool, tmp_path: Path) -> None:
    room = random_room(seed, 900)
    releaser, of_base = Releaser(KEY, f"room {seed}", hide), Releaser(KEY, f"base {seed}", hide)
    with room.opened(tmp_path) as relations:
        found = insights(relations, releaser, of_base).as_dict()
    assert [table["audience_type"] for table in found["audiences"]] == sorted(TYPES)
    for table in found["audiences"]:
        rows = {(row["interest"], row["age"], row["gender"]): row for row in table["rows"]}
        assert len(rows) == len(table["rows"]), "no cell twice"
        assert rows == expected(room, table["audience_type"], releaser, of_base)
        assert all(row["share_in_matchable"] is not None for row in table["rows"])
        assert any(row["addressable_size"] is not None for row in table["rows"]) != hide


def test_the_oracle_sees_told_and_too_few() -> None:
    releaser = Releaser(KEY, "v", False)
    rows = expected(random_room(0, 900), "it's", releaser, releaser).values()
    assert {row["affinity_ratio"] is None for row in rows} == {True, False}


def test_which_cells_there_are_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    room = random_room(0, 900)
    without = PlainRoom(
        room.users, room.segments, room.matching, room.seeds[room.seeds["audience_type"] == "it's"]
    )
    with room.opened(tmp_path / "with") as relations:
        tables = insights(relations, Releaser(KEY, "room 1", False), Releaser(KEY, "base", False)).audiences
    with without.opened(tmp_path / "without") as relations:
        (table,) = insights(relations, Releaser(KEY, "room 2", False), Releaser(KEY, "base", False)).audiences

    def of_publisher(rows: tuple) -> list[tuple]:  # type: ignore[type-arg]
        return [(r.interest, r.age, r.gender, r.share_in_matchable, r.addressable.value) for r in rows]

    assert len(tables) == len(TYPES)
    assert all(of_publisher(each.rows) == of_publisher(table.rows) for each in tables)
    assert any(row.affinity_ratio is None for row in table.rows), "too few is told with nulls"


def test_rows_stand_in_a_fixed_order(tmp_path: Path) -> None:
    room = random_room(2, 900)
    shuffled = PlainRoom(*(frame.sample(frac=1, random_state=1) for frame in vars(room).values()))
    releaser = Releaser(KEY, "v", False)
    with room.opened(tmp_path / "a") as relations:
        first = insights(relations, releaser, releaser).as_dict()
    with shuffled.opened(tmp_path / "b") as relations:
        assert insights(relations, releaser, releaser).as_dict() == first
    rows = first["audiences"][0]["rows"]
    kinds = [tuple(name for name in ("interest", "age", "gender") if row[name] is not None) for row in rows]
    order = [("interest",), ("age",), ("gender",), ("interest", "age"), ("interest", "gender"), ("age", "gender")]
    assert list(dict.fromkeys(kinds)) == order
    assert next(row["age"] for row, kind in zip(rows, kinds, strict=True) if kind == ("age",)) == "5-9"


def test_the_overlap_behind_shares_is_that_of_the_overlap_statistics(tmp_path: Path) -> None:
    # Everybody is in the segment, so its cell in the overlap is the overlap, with noise of its own.
    room = random_room(3, 900)
    room = PlainRoom(
        room.users,
        pd.DataFrame({"user_id": room.users["user_id"], "segment": "all"}),
        *[
            room.matching,
            room.seeds,
        ],
    )
    releaser = Releaser(KEY, "v", False)
    with room.opened(tmp_path) as relations:
        overlap = {row.audience_type: row.overlap for row in overlap_statistics(relations, releaser).rows}
        tables = insights(relations, releaser, releaser).audiences
    told = 0
    for table in tables:
        row = next(row for row in table.rows if row.interest == "all" and not row.age and not row.gender)
        assert row.share_in_overlap == ratio(row.overlap, overlap[table.audience_type])
        told += row.share_in_overlap is not None
    assert told >= 2


@pytest.mark.parametrize(
    ("segments", "ages", "genders", "cost"),
    [
        (SEGMENTS, ("18-24", None), ("f", "m"), 10),  # more than ten cells: at most 10
        (SEGMENTS[:1], ("18-24", None), ("f", "m"), 6),  # 1 interest, its 2 pairs, age, gender and their pair
        (SEGMENTS[:2], (None,), ("f", "m"), 5),  # 2 interests, 2 pairs, gender
        ((), ("18-24",), (None,), 1),
        ((), (None,), (None,), 1),  # an empty table is an answer too
    ],
)
def test_a_table_costs_the_cells_that_a_user_can_enter(
    segments: tuple[str, ...],
    ages: tuple[str | None, ...],
    genders: tuple[str | None, ...],
    cost: int,
    tmp_path: Path,
) -> None:
    ids = [f"u{n}" for n in range(400)]
    users = pd.DataFrame(
        {
            "user_id": ids,
            "age": pd.Series([ages[n % len(ages)] for n in range(400)], dtype=object),
            "gender": pd.Series([genders[n // 2 % len(genders)] for n in range(400)], dtype=object),
            "is_relevant": True,
        }
    )
    pairs = pd.DataFrame([(user, name) for user in ids for name in segments], columns=["user_id", "segment"])
    matching = pd.DataFrame({"digest": ids, "user_id": ids})
    seeds = pd.DataFrame({"digest": ids * 2, "audience_type": ["T"] * 400 + ["U"] * 400})
    releaser = Releaser(KEY, "v", False)
    with PlainRoom(users, pairs, matching, seeds).opened(tmp_path) as relations:
        found = insights(relations, releaser, releaser)
    assert (found.cost_of_table, found.cost) == (cost, 2 * cost)
    assert [
        row.interest for row in found.audiences[0].rows if row.interest and not row.age and not row.gender
    ] == (sorted(segments)), "awkward texts come through exactly"
