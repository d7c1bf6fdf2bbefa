"""Contract: counts use one base user per seed id.

With one id of a seed more or less, every count changes by at most one user and every table by at most its stated
sensitivity, however many users share ids and however many ids a user has.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from hypothesis import given

from cleanroom_pipelines.audiences import insights as insights_module
from cleanroom_pipelines.audiences.definitions import Remarketing
from cleanroom_pipelines.audiences.evaluating import count
from cleanroom_pipelines.audiences.insights import base_figures, insights
from cleanroom_pipelines.audiences.overlap import overlap_statistics
from cleanroom_pipelines.audiences.relations import (
    COUNTED,
    MATCHED,
    Relations,
    join_matched,
    open_room_relations,
)
from cleanroom_pipelines.engine import open_engine
from cleanroom_pipelines.privacy import COUNT, INSIGHTS, Price, ReleasePolicy, Releaser

from ..examples import one_in
from .definition_worlds import Inventing, randoms, users_of
from .plain_rooms import PlainRoom, chosen_interests, counted_users, matched_users, random_room

KEY = bytes(range(32))
BARE = ReleasePolicy(threshold=1, rounding=1)
NO_NOISE = Price(10**9)


def rows(relations: Relations, name: str) -> Counter[tuple[str, str]]:
    join_matched(relations.engine, name)
    table = relations.engine.fetch(f"SELECT audience_type, user_id FROM {name}")
    return Counter(zip(table["audience_type"].to_pylist(), table["user_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_use_one_user_per_id_and_lists_use_all(seed: int, tmp_path: Path) -> None:
    room = random_room(seed)
    with room.opened(tmp_path) as relations:
        counted, matched = rows(relations, COUNTED), rows(relations, MATCHED)
    for type_ in set(room.seeds["audience_type"]):
        assert {user for each, user in counted if each == type_} == counted_users(room, type_)
        assert {user for each, user in matched if each == type_} == matched_users(room, type_)
    assert set(counted.values()) == set(matched.values()) == {1}, "distinct"
    assert counted.keys() < matched.keys()


def test_the_user_counted_for_an_id_depends_on_the_base_alone(tmp_path: Path) -> None:
    # One id of 30 users, alone in a seed audience, and among all others in another, in another order.
    room = random_room(2)
    users = sorted(set(room.relevant["user_id"]))[:30]
    shared = pd.DataFrame({"digest": "ab" * 32, "user_id": users})
    matching = pd.concat([room.matching[~room.matching["user_id"].isin(users)], shared])
    alone = pd.DataFrame({"digest": ["ab" * 32], "audience_type": "alone"})
    among = pd.DataFrame({"digest": sorted(set(matching["digest"])), "audience_type": "among"})
    found = []
    for number, seeds in enumerate((alone, pd.concat([among, alone]))):
        other = PlainRoom(room.users, room.segments, matching.sample(frac=1, random_state=number), seeds)
        with other.opened(tmp_path / f"{number}") as relations:
            counted = rows(relations, COUNTED)
        types = {type_ for type_, _ in counted}
        found += [{user for each, user in counted if each == type_} & set(users) for type_ in types]
    assert len(found) == 3
    assert all(each == found[0] for each in found)
    assert len(found[0]) == 1
    assert found[0] < set(users), "all of whom a list takes"


# ---- neighbouring seeds


def neighbouring_rooms(seed: int) -> PlainRoom:
    """Types "00", "01", …, each with one id more than the last: of many users, of none, of who has many ids."""
    room = random_room(seed)
    digests = room.matching["digest"].value_counts()
    ids_of_users = room.matching["user_id"].value_counts()
    busiest = room.matching.loc[room.matching["user_id"] == ids_of_users.index[0], "digest"]
    random = Random(seed)
    added = [*digests.index[:12], *busiest, *random.sample(sorted(digests.index), 12), "f" * 64]
    added = list(dict.fromkeys(added))
    others = random.sample(sorted(set(digests.index) - set(added)), 150)
    seeds = [(each, f"{n:02}") for n in range(len(added) + 1) for each in (*others, *added[:n])]
    return PlainRoom(
        room.users, room.segments, room.matching, pd.DataFrame(seeds, columns=["digest", "audience_type"])
    )


@contextmanager
def opened_exactly(room: PlainRoom, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Relations]:
    """Opened so that what is released is exact."""
    for name in ("INSIGHTS", "COUNT", "BASE_TABLE", "BASE_COUNT"):
        patch.setattr(insights_module, name, replace(NO_NOISE, tenths=10**9))
    patch.setattr("cleanroom_pipelines.audiences.overlap.COUNT", NO_NOISE)
    with room.opened(folder) as relations:
        yield relations


def squared_distance(one: Mapping[object, int], other: Mapping[object, int]) -> int:
    return sum((one.get(key, 0) - other.get(key, 0)) ** 2 for key in {*one, *other})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_id_changes_an_overlap_and_a_table_by_at_most_their_sensitivity(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = neighbouring_rooms(seed)
    exact = Releaser(KEY, "v", False, BARE)
    with opened_exactly(room, tmp_path, monkeypatch) as relations:
        overlaps = [row.overlap.value or 0 for row in overlap_statistics(relations, exact).rows]
        figures = base_figures(relations, exact, "salt")
        tables = [
            {(row.interest, row.age, row.gender): row.overlap.value or 0 for row in table.rows}
            for table in insights(relations, exact, figures, "salt").audiences
        ]
    moves = [(other - one) ** 2 for one, other in pairwise(overlaps)]
    assert set(moves) == {0, COUNT.sensitivity}, "and ids of nobody, or of one who is counted, move nothing"
    distances = [squared_distance(one, other) for one, other in pairwise(tables)]
    assert max(distances) <= INSIGHTS.sensitivity
    assert max(distances) >= 6, "somebody enters many cells"


@cache
def busiest_room() -> PlainRoom:
    """100 users of an age and a gender with the same 30 interests, of whom the seed has all but one."""
    ids = [f"u{n}" for n in range(100)]
    pairs = [(user, f"i{n}") for user in ids for n in range(30)]
    seeds = [(each, type_) for type_, n in (("all", 100), ("but one", 99)) for each in ids[:n]]
    return PlainRoom(
        pd.DataFrame({"user_id": ids, "age": "18-24", "gender": "f", "is_relevant": True}),
        pd.DataFrame(pairs, columns=["user_id", "segment"]),
        pd.DataFrame({"digest": ids, "user_id": ids}),
        pd.DataFrame(seeds, columns=["digest", "audience_type"]),
    )


@pytest.mark.parametrize("most", [5, 30])
def test_the_bound_of_a_table_is_reached_and_held_by_five_interests(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insights_module, "MOST_INTERESTS", most)
    exact = Releaser(KEY, "v", False, BARE)
    with opened_exactly(busiest_room(), tmp_path, monkeypatch) as relations:
        figures = base_figures(relations, exact, "salt")
        with_all, but_one = (
            {(row.interest, row.age, row.gender): row.overlap.value or 0 for row in table.rows}
            for table in insights(relations, exact, figures, "salt").audiences
        )
    distance = squared_distance(with_all, but_one)
    assert (distance == INSIGHTS.sensitivity) == (most == 5)
    assert most == 5 or distance == 3 * most + 3, "without the cap a person enters more than is paid for"
    if most == 5:
        mine = chosen_interests(busiest_room(), "salt")["u99"]
        assert {cell[0] for cell in with_all if with_all[cell] != but_one[cell]} == {None, *mine}


@one_in(8)
@given(randoms)
def test_one_seed_id_changes_any_count_by_at_most_one(random: Random) -> None:
    room = Inventing(random).room()
    held = sorted({digest for digest, _ in room.matching})
    if not held:
        return
    target = random.choice(held)
    types = [type_ for type_ in ("Buyers", "buyers", "it's") if random.random() < 0.7]
    # The id is in some of the types, or in none: definitions may combine them as they like.
    without = replace(room, seeds=frozenset(pair for pair in room.seeds if pair[0] != target))
    with_it = replace(room, seeds=without.seeds | {(target, type_) for type_ in types})
    for definition in room.audiences.values():
        one, other = (users_of(definition, each.counting()) for each in (with_it, without))
        assert abs(len(one) - len(other)) <= 1
        assert len(one ^ other) <= 1


def test_engine_counts_match_the_simple_rooms(tmp_path: Path) -> None:
    # So that the property above is one of the product's counts.
    room = Inventing(Random(11)).room()
    base, seeds = room.write(tmp_path)
    with open_engine(paths=[tmp_path]) as engine:
        open_room_relations(engine, base, seeds)
        for type_ in ("Buyers", "buyers", "it's"):
            definition = Remarketing(type_)
            n = count(engine, definition, room.resolve, {})
            assert n == len(users_of(definition, room.counting()))
