"""Contract: the cells of insights, one person's contribution to them, and their noise.

The oracle counts with sets, user by user, and releases with the same releaser.
"""

import json
from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cleanroom_pipelines.audiences.canonical import NAMES
from cleanroom_pipelines.audiences.insights import (
    BASE_QUESTION,
    BaseFigures,
    ReleasedInsights,
    base_figures,
    insights,
)
from cleanroom_pipelines.audiences.overlap import overlap_statistics, question_about
from cleanroom_pipelines.audiences.relations import Relations
from cleanroom_pipelines.privacy import COUNT, INSIGHTS, Releaser, affinity_ratio, ratio
from cleanroom_pipelines.privacy.prices import BASE_COUNT, BASE_TABLE, BASE_TENTHS

from .plain_rooms import TYPES, PlainRoom, chosen_interests, counted_users, named_interests, random_room

KEY = bytes(range(32))
SALT = "salt"
Cell = tuple[str | None, str | None, str | None]


def users_by_cell(room: PlainRoom) -> dict[Cell, set[str]]:
    interests_of = chosen_interests(room, SALT)
    cells: dict[Cell, set[str]] = {}
    for row in room.relevant.itertuples(index=False):
        age = row.age if isinstance(row.age, str) else None
        gender = row.gender if isinstance(row.gender, str) else None
        interests = [None, *interests_of.get(row.user_id, ())]
        for cell in product(interests, {None, age}, {None, gender}):
            if 1 <= sum(value is not None for value in cell) <= 2:
                cells.setdefault(cell, set()).add(row.user_id)
    return cells


def asked(room: PlainRoom) -> dict[Cell, set[str]]:
    """The cells that are asked about: values of 25 users and all pairs of them, whoever is in those."""
    cells = users_by_cell(room)
    singles: list[Cell] = [(interest, None, None) for interest in named_interests(room)]
    singles += [c for c, users in cells.items() if not c[0] and None in c[1:] and len(users) >= 25]
    pairs = [
        tuple(one or other for one, other in zip(a, b, strict=True))
        for a, b in product(singles, singles)
        if not any(one and other for one, other in zip(a, b, strict=True))
    ]
    return {cell: cells.get(cell, set()) for cell in [*singles, *pairs]}  # type: ignore[misc]


def tables_of(relations: Relations, releaser: Releaser) -> ReleasedInsights:
    return insights(relations, releaser, base_figures(relations, releaser, SALT), SALT)


def expected(room: PlainRoom, type_: str, releaser: Releaser) -> dict[Cell, dict[str, object]]:
    matched = counted_users(room, type_)
    matchable = set(room.relevant.loc[room.relevant["is_matchable"], "user_id"])
    overlap = releaser.count(len(matched), question=question_about(type_), price=COUNT)

    def of_base(n: int, cell: str) -> object:
        return releaser.count(n, question=BASE_QUESTION, cell=cell, price=BASE_COUNT)

    all_relevant, all_matchable = of_base(len(room.relevant), "relevant"), of_base(len(matchable), "matchable")
    rows: dict[Cell, dict[str, object]] = {}
    for cell, users in asked(room).items():
        name = json.dumps(cell)
        of_cell = releaser.count(len(users & matchable), question=BASE_QUESTION, cell=name, price=BASE_TABLE)
        if not of_cell.is_enough():
            continue
        in_overlap = releaser.count(
            len(users & matched), question=f"insights of {question_about(type_)}", cell=name, price=INSIGHTS
        )
        rows[cell] = {
            "interest": cell[0],
            "age": cell[1],
            "gender": cell[2],
            "affinity_ratio": affinity_ratio(in_overlap, overlap, of_cell, all_matchable),  # type: ignore[arg-type]
            "share_in_overlap": ratio(in_overlap, overlap),
            "share_in_matchable": ratio(of_cell, all_matchable),  # type: ignore[arg-type]
            "addressable_size": of_cell.scaled(all_relevant, all_matchable).value,  # type: ignore[arg-type]
        }
    return rows


def without_errors(row: Mapping[str, Any], is_hidden: bool) -> dict[str, Any]:
    """Check that exactly the shown figures have an error, none in a room that hides counts; return the others."""
    for name in ("affinity", "share_in_overlap", "share_in_matchable", "addressable"):
        figure = row.get({"affinity": "affinity_ratio", "addressable": "addressable_size"}.get(name, name))
        assert (row[f"{name}_error"] is not None) is (figure is not None and not is_hidden), name
    return {key: value for key, value in row.items() if not key.endswith("_error")}


@pytest.mark.parametrize(("seed", "hide"), [(0, False), (1, False), (2, False), (3, True)])
def test_tables_match_a_simple_count(seed: int, hide: bool, tmp_path: Path) -> None:
    room = random_room(seed, 900)
    releaser = Releaser(KEY, f"room {seed}", hide)
    with room.opened(tmp_path) as relations:
        found = tables_of(relations, releaser).as_dict()
    assert [table["audience_type"] for table in found["audiences"]] == sorted(TYPES)
    assert found["noise"] == releaser.noise_of(INSIGHTS)
    for table in found["audiences"]:
        rows = {(row["interest"], row["age"], row["gender"]): without_errors(row, hide) for row in table["rows"]}
        assert len(rows) == len(table["rows"]), "no cell twice"
        assert rows == expected(room, table["audience_type"], releaser)
        assert all(row["share_in_matchable"] is not None for row in table["rows"])
        assert any(row["addressable_size"] is not None for row in table["rows"]) != hide


def test_the_oracle_covers_every_case() -> None:
    room = random_room(0, 900)
    rows = expected(room, "it's", Releaser(KEY, "v", False)).values()
    assert {row["affinity_ratio"] is None for row in rows} == {True, False}
    interests = chosen_interests(room, SALT)
    n_interests = room.segments.groupby("user_id").size()
    assert max(map(len, interests.values())) == 5 < n_interests.max(), "somebody has more than enter"
    assert interests != chosen_interests(room, "other"), "and the salt chooses"


def test_the_set_of_cells_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    room = random_room(0, 900)
    without = PlainRoom(
        room.users, room.segments, room.matching, room.seeds[room.seeds["audience_type"] == "it's"]
    )
    with room.opened(tmp_path / "with") as relations:
        tables = tables_of(relations, Releaser(KEY, "base", False)).audiences
    with without.opened(tmp_path / "without") as relations:
        (table,) = tables_of(relations, Releaser(KEY, "base", False)).audiences

    def of_publisher(rows: tuple) -> list[tuple]:  # type: ignore[type-arg]
        return [(r.interest, r.age, r.gender, r.share_in_matchable, r.addressable.value) for r in rows]

    assert len(tables) == len(TYPES)
    assert all(of_publisher(each.rows) == of_publisher(table.rows) for each in tables)
    assert any(row.affinity_ratio is None for row in table.rows), "too few is told with nulls"


def test_noised_counts_alone_decide_which_pairs_are_listed(tmp_path: Path) -> None:
    # 24 or 25 users are in a pair of values that all have many: no threshold on their true number tells which.
    def cells(n: int, folder: Path) -> list[set[Cell]]:
        ids = [f"u{number}" for number in range(200)]
        users = pd.DataFrame({"user_id": ids, "age": "18-24", "gender": "f", "is_relevant": True})
        users.loc[n:99, "gender"] = "m"  # n of age 18-24 and f
        users.loc[100:, "age"] = "65+"
        both = pd.DataFrame({"digest": ids, "user_id": ids})
        nobody = pd.DataFrame({"user_id": [], "segment": []})
        seeds = pd.DataFrame({"digest": ids, "audience_type": "T"})
        with PlainRoom(users, nobody, both, seeds).opened(folder) as relations:
            return [set(base_figures(relations, Releaser(KEY, f"{v}", False), SALT).cells) for v in range(20)]

    with_25, with_24, with_none = (cells(n, tmp_path / f"{n}") for n in (25, 24, 0))
    pair: Cell = (None, "18-24", "f")
    n_listed = [sum(pair in each for each in found) for found in (with_25, with_24, with_none)]
    assert abs(n_listed[0] - n_listed[1]) <= 2, "the same noise decides both"
    assert 0 < n_listed[2] < n_listed[1], "a pair that nobody is in is listed at times too"


def test_rows_have_a_fixed_order(tmp_path: Path) -> None:
    room = random_room(2, 900)
    shuffled = PlainRoom(*(frame.sample(frac=1, random_state=1) for frame in vars(room).values()))
    releaser = Releaser(KEY, "v", False)
    with room.opened(tmp_path / "a") as relations:
        first = tables_of(relations, releaser).as_dict()
    with shuffled.opened(tmp_path / "b") as relations:
        assert tables_of(relations, releaser).as_dict() == first
    rows = first["audiences"][0]["rows"]
    kinds = [tuple(name for name in ("interest", "age", "gender") if row[name] is not None) for row in rows]
    order = [("interest",), ("age",), ("gender",), ("interest", "age"), ("interest", "gender"), ("age", "gender")]
    assert list(dict.fromkeys(kinds)) == order
    assert next(row["age"] for row, kind in zip(rows, kinds, strict=True) if kind == ("age",)) == "5-9"


def test_the_overlap_behind_shares_is_that_of_the_overlap_statistics(tmp_path: Path) -> None:
    # Everybody is in the segment, so its cell in the overlap is the overlap, with noise of its own.
    room = random_room(3, 900)
    everybody = pd.DataFrame({"user_id": room.users["user_id"], "segment": "all"})
    room = PlainRoom(room.users, everybody, room.matching, room.seeds)
    releaser = Releaser(KEY, "v", False)
    with room.opened(tmp_path) as relations:
        overlap = {row.audience_type: row.overlap for row in overlap_statistics(relations, releaser).rows}
        tables = tables_of(relations, releaser).audiences
    told, differ = 0, 0
    for table in tables:
        row = next(row for row in table.rows if row.interest == "all" and not row.age and not row.gender)
        assert row.share_in_overlap == ratio(row.overlap, overlap[table.audience_type])
        told += row.share_in_overlap is not None
        # A cell is another question than the size of the audience with its filter: equal sets, other noise.
        other = releaser.count(
            len(counted_users(room, table.audience_type)),
            question=question_about(table.audience_type, {"segments": "all"}),
            price=INSIGHTS,
        )
        differ += row.overlap != other
    assert told >= 2
    assert differ >= 2


def test_two_types_with_the_same_ids_are_one_table(tmp_path: Path) -> None:
    room = random_room(1, 900)
    ids = room.seeds.loc[room.seeds["audience_type"] == "Buyers", "digest"]
    seeds = pd.concat([pd.DataFrame({"digest": ids, "audience_type": name}) for name in ("T", "U")])
    releaser = Releaser(KEY, "v", False)
    with PlainRoom(room.users, room.segments, room.matching, seeds).opened(tmp_path) as relations:
        figures = base_figures(relations, releaser, SALT)
        same = insights(relations, releaser, figures, SALT, {"T": "5eed", "U": "5eed"})
        apart = insights(relations, releaser, figures, SALT, NAMES)
    assert len(set(same.questions)) == 1
    assert same.audiences[0].rows == same.audiences[1].rows
    assert len(set(apart.questions)) == 2
    assert apart.audiences[0].rows != apart.audiences[1].rows


def test_figures_of_the_base_do_not_change_once_released(tmp_path: Path) -> None:
    releaser = Releaser(KEY, "v", False)
    with random_room(1, 900).opened(tmp_path) as relations:
        figures = base_figures(relations, releaser, SALT)
        again = BaseFigures.from_dict(json.loads(json.dumps(figures.as_dict())), is_hidden=False)
        assert again == figures
        later = Releaser(KEY, "new seeds", False)
        tables = [insights(relations, later, each, SALT).as_dict() for each in (figures, again)]
    assert tables[0] == tables[1]
    assert 2 * BASE_COUNT.tenths + BASE_TABLE.tenths == BASE_TENTHS
    assert BASE_TABLE.sensitivity == INSIGHTS.sensitivity == Fraction(18)
