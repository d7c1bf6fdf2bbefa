"""Random rooms and definitions, and a slow, obviously correct evaluator."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import md5
from itertools import product
from pathlib import Path
from random import Random
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import (
    AttributeFilter,
    BaseRef,
    Combinator,
    CombineOperator,
    CustomRef,
    Definition,
    Exclusion,
    FilterOperator,
    Filters,
    Lookalike,
    MatchOperator,
    Ref,
    Remarketing,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.engine import stable_hash

# quotes, emoji, case variants, the words of SQL, one letter in two Unicode forms, blanks
TEXTS = ("Sport", "sport", "it's", '"; DROP TABLE x; --', "🏃‍♀️", "é", "e\u0301", " a ", "NULL", "$1")
USERS = tuple(f"{name}{number}" for number in range(3) for name in ("u", "U", "o'x", "👤"))
TYPES = ("Buyers", "buyers", "it's")


Item = TypeVar("Item")


@dataclass(frozen=True)
class Room:
    """What the files of a room say."""

    relevant: frozenset[str]
    ages: Mapping[str, str | None]
    genders: Mapping[str, str | None]
    segments: frozenset[tuple[str, str]]
    matching: frozenset[tuple[str, str]]
    seeds: frozenset[tuple[str, str]]
    audiences: Mapping[str, Definition]
    lookalike_users: tuple[frozenset[str], ...]

    def resolve(self, id_: str) -> Definition:
        return self.audiences[id_]

    def users_of_lookalike(self, definition: Lookalike) -> frozenset[str]:
        """Some relevant users, the same for the same question."""
        return self.users_of_question(canonical(definition, self.resolve))

    def users_of_question(self, text: str) -> frozenset[str]:
        """The same by a lookalike's canonical text."""
        return self.lookalike_users[stable_hash(text) % len(self.lookalike_users)] & self.relevant

    def counting(self) -> "Room":
        """As counts see it: of several relevant users with an id, the one whose digest with the id is smallest."""
        holders: dict[str, list[str]] = {}
        for digest, user in self.matching:
            if user in self.relevant:
                holders.setdefault(digest, []).append(user)
        chosen = (
            (digest, min(users, key=lambda user: md5(f"{digest} {user}".encode()).hexdigest()))
            for digest, users in holders.items()
        )
        return replace(self, matching=frozenset(chosen))

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the folders of the base audience and of the seed audiences."""
        base, seeds = folder / "base", folder / "seeds"
        base.mkdir()
        seeds.mkdir()
        text = pa.string()
        columns = {
            "user_id": pa.array(USERS, text),
            "stable_hash": pa.array([stable_hash(user) for user in USERS], pa.int64()),
            "age": pa.array([self.ages.get(user) for user in USERS], text),
            "gender": pa.array([self.genders.get(user) for user in USERS], text),
            "is_relevant": pa.array([user in self.relevant for user in USERS]),
            "is_matchable": pa.array(
                [user in self.relevant and any(user == row[1] for row in self.matching) for user in USERS]
            ),
        }
        pq.write_table(pa.table(columns), base / "users.parquet")
        write_pairs(base / "segments.parquet", ("user_id", "segment"), self.segments)
        write_pairs(base / "matching.parquet", ("digest", "user_id"), self.matching)
        write_pairs(seeds / "seeds.parquet", ("digest", "audience_type"), self.seeds)
        return base, seeds


def write_pairs(file: Path, names: tuple[str, str], pairs: frozenset[tuple[str, str]]) -> None:
    columns = {name: pa.array([pair[at] for pair in sorted(pairs)], pa.string()) for at, name in enumerate(names)}
    pq.write_table(pa.table(columns), file)


def users_of(definition: Definition, room: Room) -> frozenset[str]:
    """The users of a definition, by the contract's words."""
    if isinstance(definition, Lookalike):
        return room.users_of_lookalike(definition)
    if isinstance(definition, Remarketing):
        return source_of(SeedRef(definition.audience_type), room)
    if isinstance(definition, Exclusion):
        return room.relevant - source_of(SeedRef(definition.audience_type), room)
    users = filtered(source_of(definition.source, room), definition.filters, room)
    for combinator in definition.combinators:
        other = filtered(source_of(combinator.source, room), combinator.filters, room)
        if combinator.operator is CombineOperator.UNION:
            users |= other
        elif combinator.operator is CombineOperator.INTERSECT:
            users &= other
        else:
            users -= other
    return users


def source_of(ref: Ref, room: Room) -> frozenset[str]:
    if isinstance(ref, BaseRef):
        return room.relevant
    if isinstance(ref, CustomRef):
        return users_of(room.audiences[ref.id], room)
    assert isinstance(ref, SeedRef)
    digests = {digest for digest, type_ in room.seeds if type_ == ref.audience_type}
    return frozenset(user for digest, user in room.matching if digest in digests) & room.relevant


def filtered(users: frozenset[str], filters: Filters | None, room: Room) -> frozenset[str]:
    if filters is None or not filters.filters:
        return users
    join = all if filters.operator is MatchOperator.MATCH_ALL else any
    return frozenset(user for user in users if join(holds(each, user, room) for each in filters.filters))


def holds(condition: AttributeFilter, user: str, room: Room) -> bool:
    if condition.attribute == "segments":
        found = {segment for owner, segment in room.segments if owner == user}
    else:
        value = (room.ages if condition.attribute == "age" else room.genders).get(user)
        found = set() if value is None else {value}
    values = set(condition.values)
    return {
        FilterOperator.CONTAINS_ANY: bool(found & values),
        FilterOperator.CONTAINS_NONE: not found & values,
        FilterOperator.CONTAINS_ALL: values <= found,
        FilterOperator.EMPTY: not found,
        FilterOperator.NOT_EMPTY: bool(found),
    }[condition.operator]


class Inventing:
    """Invents rooms and definitions in which much happens: every operator meets users whom it tells apart.

    Built-in strategies prefer the empty and the small; with them an error that needs a missing age, a filter and a
    source with users was not found in a hundred examples.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.texts = random.sample(TEXTS, 4)

    def some(self, items: Iterable[Item], share: float) -> list[Item]:
        return [item for item in items if self.random.random() < share]

    def condition(self) -> AttributeFilter:
        attribute = self.random.choice(("age", "gender", "segments"))
        operator = self.random.choice(list(FilterOperator))
        is_single = operator is FilterOperator.CONTAINS_ALL and attribute != "segments"
        # With repetitions: a list is not yet a set.
        values = self.random.choices([*self.texts, "nobody's"], k=1 if is_single else self.random.randint(1, 3))
        return AttributeFilter(attribute, operator, tuple(values))

    def filters(self) -> Filters | None:
        if self.random.random() < 0.4:
            return None
        conditions = [self.condition() for _ in range(self.random.choice((0, 1, 1, 2, 3)))]
        return Filters(self.random.choice(list(MatchOperator)), tuple(conditions))

    def ref(self, ids: Iterable[str]) -> Ref:
        refs: list[Ref] = [BaseRef(), BaseRef(), SeedRef(self.random.choice((*TYPES, "nobody's")))]
        return self.random.choice([*refs, *map(CustomRef, ids)])

    def rule(self, ids: Iterable[str] = ()) -> RuleBased:
        ids = list(ids)
        combinators = [
            Combinator(self.random.choice(list(CombineOperator)), self.ref(ids), self.filters())
            for _ in range(self.random.randint(0, 4))
        ]
        return RuleBased(self.ref(ids), self.filters(), tuple(combinators))

    def definition(self, ids: Iterable[str]) -> Definition:
        kind = self.random.random()
        if kind < 0.7:
            return self.rule(ids)
        if kind < 0.85:
            return Lookalike(self.ref(ids), self.random.randint(1, 30), self.random.random() < 0.5)
        return self.random.choice((Remarketing, Exclusion))(self.random.choice(TYPES))

    def room(self) -> Room:
        """A room with audiences that refer to those before them."""
        audiences: dict[str, Definition] = {}
        for number in range(8):
            audiences[f"a{number}"] = self.definition(tuple(audiences))
        digests = [f"{number:064x}" for number in range(12)]
        one_of = (*self.texts, None, None)
        return Room(
            relevant=frozenset(self.some(USERS, self.random.choice((0.0, 0.7, 0.7, 1.0)))),
            ages={user: self.random.choice(one_of) for user in USERS},
            genders={user: self.random.choice(one_of) for user in USERS},
            segments=frozenset(self.some(product(USERS, self.texts), 0.3)),
            matching=frozenset(self.some(product(digests, USERS), 0.12)),
            seeds=frozenset(self.some(product(digests, TYPES), 0.3)),
            audiences=audiences,
            lookalike_users=tuple(frozenset(self.some(USERS, 0.4)) for _ in range(3)),
        )


randoms = st.integers(0, 1 << 32).map(Random)
rooms = randoms.map(lambda random: Inventing(random).room())
rules = randoms.map(lambda random: Inventing(random).rule())
condition_sets = randoms.map(lambda random: Inventing(random).filters())
