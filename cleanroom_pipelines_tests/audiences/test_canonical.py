"""One question has one text, however it is phrased, and what reveals membership is seen.

Contract: `contracts/media.md` section 5.7 (a rewritten question is a stored answer), section 3 (what a definition
reveals decides who may export it), issue "Done means": a hundred phrasings of one question.
"""

import json
from collections.abc import Callable
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.audiences.canonical import (
    Need,
    canonical,
    is_membership_revealing,
    lookalikes_of,
    what_it_needs,
)
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

from ..examples import one_in
from ..offenders import offenders
from .definition_worlds import Room, condition_sets, holds, randoms, rooms, rules, source_of, users_of

UNION, INTERSECT, DIFF = CombineOperator.UNION, CombineOperator.INTERSECT, CombineOperator.DIFF
BASE, SEED, OTHER = BaseRef(), SeedRef("t"), SeedRef("u")


class Phrasing:
    """Says the same otherwise; keeps the audiences that it invents."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.audiences: dict[str, Definition] = {}

    def often(self) -> bool:
        return self.random.random() < 0.5

    def shuffled(self, items: tuple[object, ...]) -> list[object]:
        """In another order, some of them twice."""
        more = [*items, *(item for item in items if self.often())]
        self.random.shuffle(more)
        return more

    def source(self, ref: Ref) -> Ref:
        if not self.often():
            return ref
        definition: Definition = RuleBased(self.source(ref))
        if isinstance(ref, SeedRef) and self.often():
            definition = Remarketing(ref.audience_type)
        id_ = f"invented{len(self.audiences)}"
        self.audiences[id_] = definition
        return CustomRef(id_)

    def filters(self, filters: Filters | None) -> Filters | None:
        if filters is None or not filters.filters:
            return self.random.choice([None, Filters(MatchOperator.MATCH_ANY, ()), filters])
        operator = filters.operator
        if len(filters.filters) == 1 and self.often():
            operator = self.random.choice(list(MatchOperator))
        conditions = [self.condition(each) for each in self.shuffled(filters.filters)]  # type: ignore[arg-type]
        return Filters(operator, tuple(conditions))

    def condition(self, condition: Filter) -> Filter:
        values = tuple(str(value) for value in self.shuffled(condition.values))
        operator = condition.operator
        one = (FilterOperator.CONTAINS_ANY, FilterOperator.CONTAINS_ALL)
        if operator in one and len(set(values)) == 1:
            operator = self.random.choice(one)
        return Filter(condition.attribute, operator, values)

    def rule(self, rule: RuleBased) -> RuleBased:
        source, filters = self.source(rule.source), self.filters(rule.filters)
        combinators: list[Combinator] = []
        if filters is not None and filters.filters and self.often():
            combinators.append(Combinator(INTERSECT, self.source(BASE), filters))
            filters = None
        for run in runs_of(rule.combinators):
            phrased = [
                Combinator(each.operator, self.source(each.source), self.filters(each.filters))
                for each in self.shuffled(run)
                if isinstance(each, Combinator)
            ]
            combinators += phrased
            if self.often():
                combinators.append(Combinator(INTERSECT, self.source(BASE)))
        return RuleBased(source, filters, tuple(combinators))


def runs_of(combinators: tuple[Combinator, ...]) -> list[tuple[Combinator, ...]]:
    runs: list[tuple[Combinator, ...]] = []
    for each in combinators:
        if runs and runs[-1][0].operator is each.operator:
            runs[-1] += (each,)
        else:
            runs.append((each,))
    return runs


@one_in(2)
@given(rules, randoms)
def test_a_hundred_phrasings_are_one_question(rule: RuleBased, random: Random) -> None:
    question = canonical(rule, {}.__getitem__)  # type: ignore[arg-type]
    for _ in range(100):
        phrasing = Phrasing(random)
        other = phrasing.rule(rule)
        assert canonical(other, phrasing.audiences.__getitem__) == question
        phrasing.audiences |= {"rule": rule, "other": other}
        liked = [Lookalike(CustomRef(id_), 3) for id_ in ("rule", "other")]
        assert len({canonical(each, phrasing.audiences.__getitem__) for each in liked}) == 1


@given(rooms)
def test_the_text_alone_says_who_is_meant(room: Room) -> None:
    # So equal texts find equal users in any data.
    for definition in room.audiences.values():
        text = canonical(definition, room.resolve)
        assert users_of_text(text, room) == users_of(definition, room)


def users_of_text(text: str, room: Room) -> frozenset[str]:
    diagram = json.loads(text)
    meant = set()
    for user in room.relevant:
        node = diagram["root"]
        while node > 1:
            fact, no, yes = diagram["nodes"][node - 2]
            node = yes if is_true(diagram["facts"][fact], user, room) else no
        if node:
            meant.add(user)
    return frozenset(meant)


def is_true(fact: list[str], user: str, room: Room) -> bool:
    kind, *rest = fact
    if kind == "seed":
        return user in source_of(SeedRef(rest[0]), room)
    if kind == "lookalike":
        alone = {"facts": [fact], "nodes": [[0, 0, 1]], "root": 2}
        text = json.dumps(alone, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        return user in room.users_of_question(text)
    if kind == "empty":
        return holds(Filter(rest[0], FilterOperator.EMPTY), user, room)
    assert kind == "has"
    return holds(Filter(rest[0], FilterOperator.CONTAINS_ANY, (rest[1],)), user, room)


def anything(ref: Ref, *combinators: tuple[CombineOperator, Ref]) -> RuleBased:
    return RuleBased(ref, None, tuple(Combinator(operator, other) for operator, other in combinators))


AUDIENCES: dict[str, Definition] = {
    "seed": RuleBased(SEED),
    "remarketing": Remarketing("t"),
    "exclusion": Exclusion("t"),
    "like": Lookalike(SEED, 5),
    "like rule": Lookalike(CustomRef("seed"), 5),
    "like excluding": Lookalike(SEED, 5, exclude_seed_audience=True),
    "on like": RuleBased(CustomRef("like")),
}
resolve: Callable[[str], Definition] = AUDIENCES.__getitem__


def test_ways_of_saying_the_same() -> None:
    ways: list[list[Definition]] = [
        [Remarketing("t"), RuleBased(SEED), RuleBased(CustomRef("seed")), anything(SEED, (UNION, SEED))],
        [Exclusion("t"), anything(BASE, (DIFF, SEED)), anything(BASE, (DIFF, SEED), (DIFF, CustomRef("seed")))],
        [anything(SEED, (DIFF, OTHER)), anything(SEED, (INTERSECT, SEED), (DIFF, OTHER), (DIFF, OTHER))],
        [anything(SEED, (INTERSECT, OTHER)), anything(OTHER, (INTERSECT, SEED))],
        [anything(SEED, (UNION, OTHER), (UNION, SEED)), anything(OTHER, (UNION, SEED))],
        # absorption, and what is taken away comes from the left part alone
        [RuleBased(SEED), anything(SEED, (UNION, OTHER), (INTERSECT, SEED))],
        [anything(SEED, (INTERSECT, OTHER)), anything(SEED, (DIFF, CustomRef("exclusion")), (INTERSECT, OTHER))],
        [RuleBased(BASE), anything(SEED, (UNION, BASE)), anything(SEED, (UNION, CustomRef("exclusion")))],
        [AUDIENCES["like"], AUDIENCES["like rule"], AUDIENCES["on like"], RuleBased(CustomRef("like rule"))],
    ]
    assert [same for same in ways if len({canonical(each, resolve) for each in same}) != 1] == []


def test_different_questions_have_different_texts() -> None:
    different = [
        anything(OTHER, (DIFF, SEED)),
        anything(SEED, (DIFF, OTHER)),
        anything(SEED, (DIFF, OTHER), (UNION, OTHER)),
        anything(SEED, (DIFF, OTHER), (INTERSECT, OTHER)),
        AUDIENCES["like"],
        AUDIENCES["like excluding"],
        Lookalike(SEED, 6),
        Lookalike(OTHER, 5),
        *(
            RuleBased(BASE, Filters(MatchOperator.MATCH_ALL, (Filter("segments", operator, ("a", "A")),)))
            for operator in FilterOperator
        ),
        RuleBased(
            BASE, Filters(MatchOperator.MATCH_ALL, (Filter("age", FilterOperator.CONTAINS_ANY, ("a", "A")),))
        ),
    ]
    assert len({canonical(each, resolve) for each in different}) == len(different)


@one_in(2)
@given(st.lists(condition_sets, min_size=1, max_size=3), randoms)
def test_a_question_too_large_for_a_diagram_has_one_text_too(sets: list[Filters], random: Random) -> None:
    large = Filters(
        MatchOperator.MATCH_ANY,
        tuple(
            Filter("segments", FilterOperator.CONTAINS_ALL, tuple(f"{part}-{number}" for number in range(80)))
            for part in range(5)
        ),
    )
    rule = RuleBased(SEED, large, tuple(Combinator(UNION, BASE, each) for each in sets))
    question = canonical(rule, resolve)
    phrasing = Phrasing(random)
    assert canonical(phrasing.rule(rule), phrasing.audiences.__getitem__) == question
    assert len(question) < 100, "it is no diagram"


LIKE = CustomRef("like")
YOUNG = Filters(MatchOperator.MATCH_ALL, (Filter("age", FilterOperator.CONTAINS_ANY, ("18-24",)),))


def test_what_reveals_membership_needs_a_switch() -> None:
    definitions: list[tuple[Definition, Need | None]] = [
        (RuleBased(BASE, YOUNG), None),
        (AUDIENCES["like"], None),
        (AUDIENCES["like excluding"], None),
        (AUDIENCES["like rule"], None),
        (anything(LIKE, (DIFF, CustomRef("like excluding"))), None),
        (Lookalike(CustomRef("remarketing"), 5), None),
        (RuleBased(SEED), Need.REMARKETING),
        (RuleBased(SEED, YOUNG), Need.REMARKETING),
        (Remarketing("t"), Need.REMARKETING),
        (RuleBased(CustomRef("seed")), Need.REMARKETING),
        (anything(LIKE, (DIFF, SEED)), Need.REMARKETING),
        (anything(LIKE, (INTERSECT, CustomRef("exclusion"))), Need.REMARKETING),
        (anything(BASE, (DIFF, SEED), (UNION, SEED)), Need.REMARKETING),
        (anything(BASE, (DIFF, CustomRef("exclusion"))), Need.REMARKETING),
        (anything(BASE, (INTERSECT, OTHER), (DIFF, SEED)), Need.REMARKETING),
        (RuleBased(BASE, None, (Combinator(DIFF, SEED, YOUNG),)), Need.REMARKETING),
        (Exclusion("t"), Need.EXCLUSION),
        (RuleBased(CustomRef("exclusion"), YOUNG), Need.EXCLUSION),
        (anything(BASE, (DIFF, SEED), (DIFF, OTHER)), Need.EXCLUSION),
        (anything(BASE, (DIFF, CustomRef("remarketing"))), Need.EXCLUSION),
        (RuleBased(BASE, YOUNG, (Combinator(DIFF, SEED),)), Need.EXCLUSION),
    ]

    def check(definition: Definition, needs: Need | None) -> None:
        assert is_membership_revealing(definition, resolve) == (needs is not None)
        assert what_it_needs(definition, resolve) == (frozenset() if needs is None else {needs})

    assert offenders(definitions, check) == []


def test_the_lookalikes_that_an_audience_is_made_of() -> None:
    both = anything(CustomRef("on like"), (UNION, CustomRef("like rule")), (DIFF, CustomRef("like excluding")))
    found = lookalikes_of(both, resolve)
    assert len(found) == 2, "two of the three are one question"
    assert found.keys() == {canonical(each, resolve) for each in found.values()}
    outer = Lookalike(CustomRef("like"), 7)
    assert list(lookalikes_of(outer, resolve).values()) == [outer], "what lies behind it is asked for apart"
