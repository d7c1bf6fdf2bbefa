"""Random rooms and definitions, and a slow evaluator that nobody can get wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import (
    BaseRef,
    Combinator,
    CombineOperator,
    CustomRef,
    Definition,
    Exclusion,
    Filter,
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


def holds(condition: Filter, user: str, room: Room) -> bool:
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


texts = st.sampled_from(TEXTS)
some_users = st.frozensets(st.sampled_from(USERS))
digests = st.sampled_from([f"{number:064x}" for number in range(12)])


@st.composite
def conditions(draw: st.DrawFn) -> Filter:
    attribute = draw(st.sampled_from(("age", "gender", "segments")))
    operator = draw(st.sampled_from(FilterOperator))
    is_single = operator is FilterOperator.CONTAINS_ALL and attribute != "segments"
    # With repetitions: a list is not yet a set.
    values = draw(st.lists(texts, min_size=1, max_size=1 if is_single else 4))
    return Filter(attribute, operator, tuple(values))


condition_sets = st.none() | st.builds(
    Filters, st.sampled_from(MatchOperator), st.lists(conditions(), max_size=3).map(tuple)
)


def refs(ids: tuple[str, ...]) -> st.SearchStrategy[Ref]:
    of_data = st.just(BaseRef()) | st.builds(SeedRef, st.sampled_from((*TYPES, "nobody's")))
    return of_data | st.sampled_from(ids).map(CustomRef) if ids else of_data


def rules(ids: tuple[str, ...]) -> st.SearchStrategy[RuleBased]:
    combinators = st.builds(Combinator, st.sampled_from(CombineOperator), refs(ids), condition_sets)
    return st.builds(RuleBased, refs(ids), condition_sets, st.lists(combinators, max_size=4).map(tuple))


def definitions(ids: tuple[str, ...]) -> st.SearchStrategy[Definition]:
    others = (
        st.builds(Lookalike, refs(ids), st.integers(1, 30), st.booleans())
        | st.builds(Remarketing, st.sampled_from(TYPES))
        | st.builds(Exclusion, st.sampled_from(TYPES))
    )
    return rules(ids) | rules(ids) | others


@st.composite
def rooms(draw: st.DrawFn) -> Room:
    """A room with audiences that refer to those before them."""
    audiences: dict[str, Definition] = {}
    for number in range(draw(st.integers(1, 6))):
        audiences[f"a{number}"] = draw(definitions(tuple(audiences)))
    attributes = st.dictionaries(st.sampled_from(USERS), st.none() | texts)
    return Room(
        relevant=draw(some_users),
        ages=draw(attributes),
        genders=draw(attributes),
        segments=draw(st.frozensets(st.tuples(st.sampled_from(USERS), texts), max_size=25)),
        matching=draw(st.frozensets(st.tuples(digests, st.sampled_from(USERS)), max_size=20)),
        seeds=draw(st.frozensets(st.tuples(digests, st.sampled_from(TYPES)), max_size=20)),
        audiences=audiences,
        lookalike_users=tuple(draw(st.lists(some_users, min_size=2, max_size=3))),
    )
