"""Compare audience definitions for equivalence, and find out what a definition reveals about membership.

Lives here: `canonical`, the same text for all equivalent definitions; `is_membership_revealing` and
`what_it_needs`, which decide about exports.
Add here when more equivalent forms must be recognised.
Keep out: the language (definitions), SQL (compiling), the ledger and the noise keyed by the text (privacy).

Membership in an audience is a Boolean formula over facts about a single user: in this seed audience, in that
lookalike, of this age, in that segment. A reduced ordered binary decision diagram (Bryant 1986) normalises the
formula: two formulas that agree for every combination of facts give the same text, whatever the order, nesting or
repetition of their parts. Mutual exclusion of facts (two ages) is not used.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from cleanroom_pipelines.audiences.definitions import (
    AttributeFilter,
    BaseRef,
    CombineOperator,
    CustomRef,
    Definition,
    DefinitionPath,
    Exclusion,
    FileRef,
    FilterOperator,
    Filters,
    Lookalike,
    MatchOperator,
    Ref,
    Remarketing,
    Resolve,
    RuleBased,
    SeedRef,
    as_rule,
    reachable,
)

Fact = tuple[str, ...]
NAMES: Mapping[str, str] = MappingProxyType({})
"""Without digests of seed audiences; a canonical text then contains their names."""

# Larger formulas get no diagram, which could explode; their parts are only sorted, merged and deduplicated.
_MAX_FACTS = 300
_MAX_NODES = 20_000
_MAX_STEPS = 100_000


class Need(StrEnum):
    """Room features that must be enabled before an audience may be exported."""

    REMARKETING = "REMARKETING"
    EXCLUSION = "EXCLUSION"


def canonical(definition: Definition, resolve: Resolve, seeds: Mapping[str, str] = NAMES) -> str:
    """Return the canonical JSON text of an audience definition; equivalent definitions give equal texts.

    Args:
        definition: The definition.
        resolve: Returns the definition of a referenced custom audience, which is substituted.
        seeds: Keyed digest of the ids of each type of seed audience, so that two types with the same ids count as
            one source; a type without a digest is identified by its name.

    Returns:
        JSON text. Definitions with equal texts have the same users in any data. It contains the definition's
        values: use it only as a key, never in a message.

    Raises:
        UsageError: References are circular or too deep.
    """
    return _Questions(resolve, seeds).text(definition)


def lookalikes_of(definition: Definition, resolve: Resolve) -> Mapping[str, Lookalike]:
    """Return the lookalikes needed to evaluate a definition, by their canonical text.

    The sources of these lookalikes are not followed. To build a lookalike, call this again for its source.

    Args:
        definition: The definition; a lookalike needs itself.
        resolve: Returns the definition of a referenced custom audience.

    Raises:
        UsageError: References are circular or too deep.
    """
    questions = _Questions(resolve)
    refs = reachable(definition, resolve, through_lookalikes=False)
    candidates = [definition, *(resolve(ref.id) for ref in refs if isinstance(ref, CustomRef))]
    found = [each for each in candidates if isinstance(each, Lookalike)]
    return {questions.text(each): each for each in found}


def is_membership_revealing(definition: Definition, resolve: Resolve) -> bool:
    """Whether a definition uses a seed audience directly, not only as the source of a lookalike.

    Such an audience includes or excludes matched users, so it reveals whether a single user matches.

    Args:
        definition: The definition.
        resolve: Returns the definition of a referenced custom audience.

    Raises:
        UsageError: References are circular or too deep.
    """
    refs = reachable(definition, resolve, through_lookalikes=False)
    if isinstance(definition, Remarketing | Exclusion):
        return True
    return any(isinstance(ref, SeedRef) for ref in refs)


def what_it_needs(definition: Definition, resolve: Resolve, seeds: Mapping[str, str] = NAMES) -> frozenset[Need]:
    """Return the room features that an export of the audience needs, in addition to the export permission.

    Args:
        definition: The definition.
        resolve: Returns the definition of a referenced custom audience.
        seeds: Keyed digest of the ids of each type of seed audience.

    Returns:
        Empty if no membership is revealed; EXCLUSION for the base minus whole seed audiences, with or without
        filters on the publisher's attributes; REMARKETING for all other audiences that reveal membership.

    Raises:
        UsageError: References are circular or too deep.
    """
    if not is_membership_revealing(definition, resolve):
        return frozenset()
    formula = _Questions(resolve, seeds).formula(definition)
    parts = formula.parts if formula.kind is _Kind.ALL else (formula,)
    excluded = [part for part in parts if _is_seed_exclusion(part)]
    is_exclusion = bool(excluded) and all(part in excluded or _is_of_attributes(part) for part in parts)
    return frozenset({Need.EXCLUSION if is_exclusion else Need.REMARKETING})


class _Kind(StrEnum):
    FACT = "fact"
    NOT = "not"
    ALL = "all"
    ANY = "any"


@dataclass(frozen=True, eq=False)
class _Formula:
    """A Boolean formula over facts about a user; an empty ANY matches no user, an empty ALL matches every user.

    Args:
        key: Digest of the formula; equal keys mean equal formulas.
        facts: All facts in the formula.
    """

    kind: _Kind
    parts: "tuple[_Formula, ...]" = ()
    fact: Fact = ()
    key: str = field(init=False)
    facts: frozenset[Fact] = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([self.kind, self.fact, [part.key for part in self.parts]])
        object.__setattr__(self, "key", hashlib.sha256(text.encode()).hexdigest())
        facts = frozenset([self.fact] if self.kind is _Kind.FACT else ()).union(*(p.facts for p in self.parts))
        object.__setattr__(self, "facts", facts)


_NO_USERS = _Formula(_Kind.ANY)
_ALL_USERS = _Formula(_Kind.ALL)


def _fact(*fact: str) -> _Formula:
    return _Formula(_Kind.FACT, fact=fact)


def _not(formula: _Formula) -> _Formula:
    if formula.kind is _Kind.NOT:
        return formula.parts[0]
    if not formula.parts and formula.kind is not _Kind.FACT:
        return _ALL_USERS if formula.kind is _Kind.ANY else _NO_USERS
    if formula.kind is _Kind.ANY:
        # De Morgan: excluding any of them is excluding each of them.
        return _all(_not(part) for part in formula.parts)
    return _Formula(_Kind.NOT, (formula,))


def _all(formulas: Iterable[_Formula]) -> _Formula:
    return _joined(_Kind.ALL, formulas, neutral=_ALL_USERS, absorbing=_NO_USERS)


def _any(formulas: Iterable[_Formula]) -> _Formula:
    return _joined(_Kind.ANY, formulas, neutral=_NO_USERS, absorbing=_ALL_USERS)


def _joined(kind: _Kind, formulas: Iterable[_Formula], *, neutral: _Formula, absorbing: _Formula) -> _Formula:
    parts: dict[str, _Formula] = {}
    for formula in formulas:
        parts |= {part.key: part for part in (formula.parts if formula.kind is kind else (formula,))}
    if absorbing.key in parts or any(p.kind is _Kind.NOT and p.parts[0].key in parts for p in parts.values()):
        return absorbing
    if len(parts) == 1:
        return next(iter(parts.values()))
    return _Formula(kind, tuple(parts[key] for key in sorted(parts))) if parts else neutral


def _is_seed_exclusion(formula: _Formula) -> bool:
    return formula.kind is _Kind.NOT and formula.parts[0].fact[:1] == ("seed",)


def _is_of_attributes(formula: _Formula) -> bool:
    return all(fact[0] in ("has", "empty") for fact in formula.facts)


class _Questions:
    """Translates definitions into formulas and canonical texts; each referenced audience is translated once."""

    def __init__(self, resolve: Resolve, seeds: Mapping[str, str] = NAMES) -> None:
        self._resolve = resolve
        self._seeds = seeds
        self._of_audiences: dict[str, _Formula] = {}

    def text(self, definition: Definition) -> str:
        return _text(self.formula(definition))

    def formula(self, definition: Definition) -> _Formula:
        return self._formula(definition, DefinitionPath(self._resolve))

    def _formula(self, definition: Definition, trail: DefinitionPath) -> _Formula:
        if isinstance(definition, Lookalike):
            source = _text(self._source(definition.source, trail))
            return _fact("lookalike", source, str(definition.reach), str(definition.exclude_seed_audience))
        rule = definition if isinstance(definition, RuleBased) else as_rule(definition)
        users = _all([self._source(rule.source, trail), _condition(rule.filters)])
        for combinator in rule.combinators:
            other = _all([self._source(combinator.source, trail), _condition(combinator.filters)])
            if combinator.operator is CombineOperator.UNION:
                users = _any([users, other])
            elif combinator.operator is CombineOperator.INTERSECT:
                users = _all([users, other])
            else:
                users = _all([users, _not(other)])
        return users

    def _source(self, ref: Ref, trail: DefinitionPath) -> _Formula:
        if isinstance(ref, BaseRef):
            return _ALL_USERS
        if isinstance(ref, SeedRef):
            return _fact("seed", self._seeds.get(ref.audience_type, ref.audience_type))
        if isinstance(ref, FileRef):
            return _fact("file", ref.path, *([] if ref.column is None else [ref.column]))
        definition, below = trail.enter(ref.id)
        if ref.id not in self._of_audiences:
            self._of_audiences[ref.id] = self._formula(definition, below)
        return self._of_audiences[ref.id]


def _condition(filters: Filters | None) -> _Formula:
    if filters is None or not filters.filters:
        return _ALL_USERS
    join = _all if filters.operator is MatchOperator.MATCH_ALL else _any
    return join(_single(each) for each in filters.filters)


def _single(condition: AttributeFilter) -> _Formula:
    values = [_fact("has", condition.attribute, value) for value in condition.values]
    if condition.operator is FilterOperator.CONTAINS_ANY:
        return _any(values)
    if condition.operator is FilterOperator.CONTAINS_NONE:
        return _not(_any(values))
    if condition.operator is FilterOperator.CONTAINS_ALL:
        return _all(values)
    empty = _fact("empty", condition.attribute)
    return empty if condition.operator is FilterOperator.EMPTY else _not(empty)


def _text(formula: _Formula) -> str:
    try:
        found = _Diagram(formula).as_json()
    except _TooLargeError:
        found = {"formula": formula.key}
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


class _TooLargeError(Exception):
    """The decision diagram exceeds its size limits."""


class _Diagram:
    """A reduced ordered binary decision diagram: equivalent formulas have the same diagram.

    Nodes are numbers: 0 is the leaf "no", 1 the leaf "yes", others branch on a fact. Facts are sorted by text.
    """

    def __init__(self, formula: _Formula) -> None:
        if len(formula.facts) > _MAX_FACTS:
            raise _TooLargeError
        self._facts = sorted(formula.facts)
        self._levels = {fact: level for level, fact in enumerate(self._facts)}
        self._nodes: list[tuple[int, int, int]] = [(len(self._facts), 0, 0), (len(self._facts), 1, 1)]
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._known: dict[tuple[int, int, int], int] = {}
        self._root = self._built(formula)

    def as_json(self) -> dict[str, object]:
        """Return the diagram as JSON, with the facts that it uses, and nodes numbered in traversal order."""
        order: dict[int, int] = {0: 0, 1: 1}
        pending = [self._root]
        while pending:
            node = pending.pop()
            if node not in order:
                order[node] = len(order)
                pending += self._nodes[node][:0:-1]
        met = [self._nodes[node] for node in order if node > 1]
        used = sorted({level for level, _, _ in met})
        return {
            "facts": [self._facts[level] for level in used],
            "nodes": [[used.index(level), order[no], order[yes]] for level, no, yes in met],
            "root": order[self._root],
        }

    def _built(self, formula: _Formula) -> int:
        # Iterative: a long chain of combinators is deeper than Python's recursion limit.
        built: dict[str, int] = {}
        pending = [formula]
        while pending:
            current = pending[-1]
            missing = [part for part in current.parts if part.key not in built]
            if missing:
                pending += missing
                continue
            pending.pop()
            built[current.key] = self._joined(current, [built[part.key] for part in current.parts])
        return built[formula.key]

    def _joined(self, formula: _Formula, parts: list[int]) -> int:
        if formula.kind is _Kind.FACT:
            return self._node(self._levels[formula.fact], 0, 1)
        if formula.kind is _Kind.NOT:
            return self._choice(parts[0], 0, 1)
        # From the last fact to the first, so that each step only adds a node on top.
        result = 1 if formula.kind is _Kind.ALL else 0
        for part in sorted(parts, key=lambda node: -self._nodes[node][0]):
            result = self._choice(part, result, 0) if formula.kind is _Kind.ALL else self._choice(part, 1, result)
        return result

    def _choice(self, condition: int, then: int, otherwise: int) -> int:
        if condition <= 1:
            return then if condition else otherwise
        if then == otherwise:
            return then
        if (then, otherwise) == (1, 0):
            return condition
        key = (condition, then, otherwise)
        if key not in self._known:
            level = min(self._nodes[node][0] for node in key)
            no = self._choice(*(self._side(node, level, 1) for node in key))
            yes = self._choice(*(self._side(node, level, 2) for node in key))
            if len(self._known) >= _MAX_STEPS:
                raise _TooLargeError
            self._known[key] = self._node(level, no, yes)
        return self._known[key]

    def _side(self, node: int, level: int, side: int) -> int:
        return self._nodes[node][side] if self._nodes[node][0] == level else node

    def _node(self, level: int, no: int, yes: int) -> int:
        if no == yes:
            return no
        key = (level, no, yes)
        if key not in self._numbers:
            if len(self._nodes) >= _MAX_NODES:
                raise _TooLargeError
            self._numbers[key] = len(self._nodes)
            self._nodes.append(key)
        return self._numbers[key]
