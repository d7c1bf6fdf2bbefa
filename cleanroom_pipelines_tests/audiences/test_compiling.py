"""Contract: a definition of any size and depth compiles to one query without user text.

The query is built from sqlglot's expressions, with semi and anti joins. test_algebra_oracle compares its results
with a plain evaluator.
"""

import re
from pathlib import Path

import pytest
import sqlglot
from hypothesis import given
from sqlglot import exp

from cleanroom_pipelines.audiences import compiling
from cleanroom_pipelines.audiences.canonical import canonical, lookalikes_of
from cleanroom_pipelines.audiences.compiling import compile_definition
from cleanroom_pipelines.audiences.definitions import (
    MAX_COMBINATORS,
    MAX_DEPTH,
    AttributeFilter,
    BaseRef,
    Combinator,
    CombineOperator,
    CustomRef,
    Definition,
    FileRef,
    FilterOperator,
    Filters,
    Lookalike,
    MatchOperator,
    Ref,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.audiences.evaluating import count, evaluate
from cleanroom_pipelines.audiences.relations import lookalike_relation, open_room_relations
from cleanroom_pipelines.engine import open_engine
from cleanroom_pipelines.errors import UsageError

from ..examples import one_in
from ..offenders import offenders
from .definition_worlds import USERS, Room, rooms

OPERATORS = (CombineOperator.UNION, CombineOperator.INTERSECT, CombineOperator.DIFF)
SEED = SeedRef("t")
# everything that the compiler writes itself; a digest names a lookalike
OUR_WORDS = re.compile(
    r"\s*(SELECT|DISTINCT|FROM|WHERE|AND|OR|NOT|NULL|IN|IS|AS|ON|SEMI|ANTI|JOIN|UNION|ALL|WITH|GROUP|BY|HAVING|COUNT|"
    r'"(users|user_id|age|gender|segment|audience_type|other_\d+|step_\d+|room_(users|segments|matched)|'
    r'lookalike_[0-9a-f]{24})"|users|other_\d+|step_\d+|\$\d+|\d+|[(),.=])'
)


def nothing(id_: str) -> Definition:
    raise AssertionError("nothing is referred to")


@one_in(5)
@given(rooms)
def test_a_query_contains_no_user_text(room: Room) -> None:
    for definition in room.audiences.values():
        relations = {key: lookalike_relation(key) for key in lookalikes_of(definition, room.resolve)}
        query = compile_definition(definition, room.resolve, lookalikes=relations)
        rest = query.sql
        while match := OUR_WORDS.match(rest):
            rest = rest[match.end() :]
        assert rest == ""
        parsed = sqlglot.parse_one(query.sql, dialect="duckdb")
        assert not list(parsed.find_all(exp.Except, exp.Intersect))
        numbers = {int(number) for number in re.findall(r"\$(\d+)", query.sql)}
        assert numbers == set(range(1, len(query.parameters) + 1))


@pytest.fixture
def room() -> Room:
    age = {user: "18-24" if number % 2 else None for number, user in enumerate(USERS)}
    segments = frozenset((user, "v1") for user in USERS[:4])
    return Room(frozenset(USERS), age, {}, segments, frozenset(), frozenset(), {}, (frozenset(),))


def count_in(room: Room, folder: Path, definition: Definition, audiences: dict[str, Definition]) -> int:
    base, seeds = room.write(folder)
    with open_engine(paths=[base, seeds]) as engine:
        open_room_relations(engine, base, seeds)
        return count(engine, definition, audiences.__getitem__, {})


def test_the_longest_chain_compiles_and_runs(room: Room, tmp_path: Path) -> None:
    some = Filters(
        MatchOperator.MATCH_ANY, (AttributeFilter("segments", FilterOperator.CONTAINS_NONE, ("v1", "v2")),)
    )
    combinators = tuple(
        Combinator(OPERATORS[number % 3], BaseRef() if number % 3 else SEED, None if number % 3 else some)
        for number in range(MAX_COMBINATORS - 1)
    )
    last = Combinator(CombineOperator.UNION, BaseRef(), some)
    assert count_in(room, tmp_path, RuleBased(BaseRef(), None, (*combinators, last)), {}) == len(USERS) - 4


def test_an_audience_that_doubles_at_each_step_stays_small(room: Room, tmp_path: Path) -> None:
    audiences: dict[str, Definition] = {}
    ref: Ref = BaseRef()
    for number in range(MAX_DEPTH):
        again = Combinator(CombineOperator.UNION, ref)
        audiences[str(number)] = RuleBased(ref, None, (again, again))
        ref = CustomRef(str(number))
    top = RuleBased(ref)
    # 3 to the 20th rows, were they not made distinct where an audience is referred to
    assert count_in(room, tmp_path, top, audiences) == len(USERS)
    assert canonical(top, audiences.__getitem__) == canonical(RuleBased(BaseRef()), nothing)


def test_an_audience_that_is_used_twice_is_compiled_once() -> None:
    audiences: dict[str, Definition] = {
        "x": RuleBased(SEED, None, (Combinator(CombineOperator.DIFF, SeedRef("u")),))
    }
    rule = RuleBased(CustomRef("x"), None, (Combinator(CombineOperator.UNION, CustomRef("x")),))
    query = compile_definition(rule, audiences.__getitem__)
    assert query.parameters == ("t", "u")


def test_subtractions_between_two_unions_are_one_join() -> None:
    diffs = tuple(Combinator(CombineOperator.DIFF, SeedRef(f"{number}")) for number in range(4))
    union = Combinator(CombineOperator.UNION, SeedRef("u"))
    sql = compile_definition(RuleBased(BaseRef(), None, (*diffs, union, *diffs)), nothing).sql
    assert sql.count("ANTI JOIN") == 2


def test_the_largest_of_overlapping_lists_comes_first() -> None:
    refs = [FileRef(f"{number}.parquet") for number in range(3)]
    rule = RuleBased(refs[1], None, tuple(Combinator(CombineOperator.UNION, ref) for ref in (refs[0], refs[2])))

    def check(n_rows: tuple[int, ...], is_first: bool) -> None:
        sql = compile_definition(
            rule,
            nothing,
            files={ref: f"file_{number}" for number, ref in enumerate(refs)},
            n_rows=dict(zip(refs, n_rows, strict=False)),
        ).sql
        assert ("ANTI JOIN" in sql) == is_first
        assert not is_first or sql.count('"file_0"') == 2

    sizes = {(10, 6, 5): True, (10, 9, 1): True, (10, 6, 3): False, (10, 0, 30): False, (10,): False}
    assert offenders(sizes.items(), check) == []


def test_there_is_a_limit_to_values_of_all_audiences_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "MAX_PARAMETERS", 25)
    values = tuple(f"{number}" for number in range(10))
    filters = Filters(MatchOperator.MATCH_ALL, (AttributeFilter("segments", FilterOperator.CONTAINS_ANY, values),))
    audiences: dict[str, Definition] = {f"{number}": RuleBased(BaseRef(), filters) for number in range(3)}
    combinators = tuple(Combinator(CombineOperator.UNION, CustomRef(id_)) for id_ in audiences)
    compile_definition(RuleBased(BaseRef(), None, combinators[:2]), audiences.__getitem__)
    with pytest.raises(UsageError, match="more than 25 filter values"):
        compile_definition(RuleBased(BaseRef(), None, combinators), audiences.__getitem__)


def test_missing_files_and_lookalikes_are_reported() -> None:
    with pytest.raises(UsageError, match="lookalike"):
        compile_definition(Lookalike(SEED, 3), nothing)
    with pytest.raises(UsageError, match="file"):
        compile_definition(RuleBased(FileRef("secret.parquet")), nothing)
    circle: dict[str, Definition] = {"a": RuleBased(CustomRef("a"))}
    for follow in (compile_definition, canonical):
        with pytest.raises(UsageError, match="cycle"):
            follow(circle["a"], circle.__getitem__)


def test_a_failed_query_leaves_no_partial_output(room: Room, tmp_path: Path) -> None:
    base, _ = room.write(tmp_path)
    with open_engine(paths=[base]) as engine:
        open_room_relations(engine, base)
        with pytest.raises(UsageError):
            evaluate(engine, Lookalike(SEED, 3), nothing, {}, base / "out.parquet")
    assert not (base / "out.parquet").exists()
