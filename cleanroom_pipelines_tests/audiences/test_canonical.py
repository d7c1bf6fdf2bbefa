"""Contract: equivalent definitions have one canonical text, and membership-revealing ones are detected.

What a definition reveals decides who may export it. A hundred equivalent definitions are one question. A question
is identified by the keyed digest of its seeds' ids, so that renamed and repeated seed types ask nothing new.
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

    def condition(self, condition: AttributeFilter) -> AttributeFilter:
        values = tuple(str(value) for value in self.shuffled(condition.values))
        operator = condition.operator
        one = (FilterOperator.CONTAINS_ANY, FilterOperator.CONTAINS_ALL)
        if operator in one and len(set(values)) == 1:
            operator = self.random.choice(one)
        return AttributeFilter(condition.attribute, operator, values)

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


@one_in(4)
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
def test_the_text_determines_the_users(room: Room) -> None:
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
        return holds(AttributeFilter(rest[0], FilterOperator.EMPTY), user, room)
    assert kind == "has"
    return holds(AttributeFilter(rest[0], FilterOperator.CONTAINS_ANY, (rest[1],)), user, room)


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


def test_equivalent_definitions_have_one_text() -> None:
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
            RuleBased(BASE, Filters(MatchOperator.MATCH_ALL, (AttributeFilter("segments", operator, ("a", "A")),)))
            for operator in FilterOperator
        ),
        RuleBased(
            BASE,
            Filters(MatchOperator.MATCH_ALL, (AttributeFilter("age", FilterOperator.CONTAINS_ANY, ("a", "A")),)),
        ),
    ]
    assert len({canonical(each, resolve) for each in different}) == len(different)


@one_in(4)
@given(st.lists(condition_sets, min_size=1, max_size=3), randoms)
def test_a_question_too_large_for_a_diagram_has_one_text_too(sets: list[Filters], random: Random) -> None:
    large = Filters(
        MatchOperator.MATCH_ANY,
        tuple(
            AttributeFilter(
                "segments", FilterOperator.CONTAINS_ALL, tuple(f"{part}-{number}" for number in range(80))
            )
            for part in range(5)
        ),
    )
    rule = RuleBased(SEED, large, tuple(Combinator(UNION, BASE, each) for each in sets))
    question = canonical(rule, resolve)
    phrasing = Phrasing(random)
    assert canonical(phrasing.rule(rule), phrasing.audiences.__getitem__) == question
    assert len(question) < 100, "it is no diagram"


LIKE = CustomRef("like")
YOUNG = Filters(MatchOperator.MATCH_ALL, (AttributeFilter("age", FilterOperator.CONTAINS_ANY, ("18-24",)),))


def test_audiences_that_reveal_membership_need_a_room_feature() -> None:
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


def test_the_lookalikes_that_an_audience_depends_on() -> None:
    both = anything(CustomRef("on like"), (UNION, CustomRef("like rule")), (DIFF, CustomRef("like excluding")))
    found = lookalikes_of(both, resolve)
    assert len(found) == 2, "two of the three are one question"
    assert found.keys() == {canonical(each, resolve) for each in found.values()}
    outer = Lookalike(CustomRef("like"), 7)
    assert list(lookalikes_of(outer, resolve).values()) == [outer], "what lies behind it is asked for apart"


# ---- seed audiences by the digests of their ids

# "t" and "again" have the same ids; so it is as if there were one type alone.
DIGESTS = {"t": "d1", "again": "d1", "u": "d2"}
AGAIN = SeedRef("again")


def renamed(definition: Definition) -> Definition:
    """With "again" in place of "t"."""

    def ref(source: Ref) -> Ref:
        return AGAIN if source == SEED else source

    if isinstance(definition, Remarketing | Exclusion):
        return type(definition)("again" if definition.audience_type == "t" else definition.audience_type)
    if isinstance(definition, Lookalike):
        return Lookalike(ref(definition.source), definition.reach, definition.exclude_seed_audience)
    combinators = tuple(
        Combinator(each.operator, ref(each.source), each.filters) for each in definition.combinators
    )
    return RuleBased(ref(definition.source), definition.filters, combinators)


def test_two_types_with_the_same_ids_are_one_question() -> None:
    definitions: list[Definition] = [
        Remarketing("t"),
        Exclusion("t"),
        Lookalike(SEED, 5),
        Lookalike(SEED, 5, exclude_seed_audience=True),
        RuleBased(SEED, YOUNG),
        anything(SEED, (DIFF, OTHER)),
        anything(BASE, (DIFF, SEED), (UNION, OTHER)),
    ]

    def check(definition: Definition) -> None:
        other = renamed(definition)
        assert canonical(definition, resolve) != canonical(other, resolve), "names alone are two"
        assert canonical(definition, resolve, DIGESTS) == canonical(other, resolve, DIGESTS)
        assert canonical(definition, resolve, DIGESTS) != canonical(definition, resolve, DIGESTS | {"t": "d3"})
        assert what_it_needs(definition, resolve, DIGESTS) == what_it_needs(other, resolve, DIGESTS)

    assert offenders(definitions, check) == []


def test_types_with_the_same_ids_combine_as_one_type_with_itself() -> None:
    ways: list[tuple[Definition, Definition]] = [
        (anything(SEED, (UNION, AGAIN)), RuleBased(SEED)),
        (anything(SEED, (INTERSECT, AGAIN)), RuleBased(SEED)),
        (anything(BASE, (DIFF, SEED), (DIFF, AGAIN)), Exclusion("t")),
        (anything(SEED, (DIFF, AGAIN)), anything(OTHER, (DIFF, OTHER))),  # nobody, whoever they are
        (anything(BASE, (DIFF, SEED), (UNION, AGAIN)), RuleBased(BASE)),
    ]
    found = [canonical(one, resolve, DIGESTS) == canonical(other, resolve, DIGESTS) for one, other in ways]
    assert found == [True] * len(ways)
    assert not any(canonical(one, resolve) == canonical(other, resolve) for one, other in ways)


def test_a_renamed_type_is_the_same_question_and_new_ids_are_another() -> None:
    before = canonical(Remarketing("t"), resolve, {"t": "d1"})
    assert canonical(Remarketing("new name"), resolve, {"new name": "d1"}) == before
    assert canonical(Remarketing("t"), resolve, {"t": "uploaded with one id more"}) != before
    assert "again" not in canonical(Remarketing("again"), resolve, DIGESTS)
    # A type without ids in the room goes by its name, and by no other's digest.
    assert canonical(Remarketing("w"), resolve, DIGESTS) == canonical(Remarketing("w"), resolve)


def test_ids_not_names_decide_what_reveals_membership() -> None:
    needs_both = anything(BASE, (DIFF, SEED), (INTERSECT, AGAIN))  # nobody: the names hide that
    assert is_membership_revealing(needs_both, resolve)
    assert what_it_needs(anything(BASE, (DIFF, SEED), (DIFF, AGAIN)), resolve, DIGESTS) == {Need.EXCLUSION}
    crossed = anything(LIKE, (DIFF, AGAIN))
    assert what_it_needs(crossed, resolve, DIGESTS) == {Need.REMARKETING}


@one_in(2)
@given(rules)
def test_digests_are_a_renaming_and_nothing_else(rule: RuleBased) -> None:
    # With another digest for each type, texts agree exactly where they agreed by names.
    types = {"Buyers": "d1", "buyers": "d2", "it's": "d3"}
    text = canonical(rule, resolve, types)
    back = {digest: type_ for type_, digest in types.items()}

    def renamed_back(ref: Ref) -> Ref:
        return SeedRef(types.get(ref.audience_type, ref.audience_type)) if isinstance(ref, SeedRef) else ref

    combinators = tuple(
        Combinator(each.operator, renamed_back(each.source), each.filters) for each in rule.combinators
    )
    assert canonical(RuleBased(renamed_back(rule.source), rule.filters, combinators), resolve) == text
    assert len(back) == len(types)
