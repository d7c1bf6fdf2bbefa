"""What an audience is: the definition language, as frozen objects that cannot be wrong.

Lives here: the kinds of definitions and what they refer to, their enums with the values they have on the wire,
reading and writing them as JSON, and following their references.
Add here when a definition can say something new; `canonical` and `compiling` must then know it too.
Keep out: when two definitions ask the same (canonical), which users one finds (compiling, evaluating), names of
audiences and whom they are shared with (catalogue).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.errors import UsageError

MIN_REACH, MAX_REACH = 1, 30
MAX_FILTERS = 100
MAX_VALUES = 1_000
MAX_VALUES_IN_ALL = 10_000
MAX_COMBINATORS = 100
MAX_TEXT = 1_024
# Following references: how deep, and how many audiences in all.
MAX_DEPTH = 20
MAX_AUDIENCES = 200


class FilterOperator(StrEnum):
    """What must hold of a user's attribute; the values are those on the wire."""

    CONTAINS_ANY = "CONTAINS_ANY_OF"
    CONTAINS_NONE = "CONTAINS_NONE_OF"
    CONTAINS_ALL = "CONTAINS_ALL_OF"
    EMPTY = "EMPTY"
    NOT_EMPTY = "NOT_EMPTY"


class MatchOperator(StrEnum):
    """Whether all filters must hold or any; the values are those on the wire."""

    MATCH_ALL = "AND"
    MATCH_ANY = "OR"


class CombineOperator(StrEnum):
    """How two audiences become one."""

    INTERSECT = "INTERSECT"
    UNION = "UNION"
    DIFF = "DIFF"


AGE, GENDER, SEGMENTS = "age", "gender", "segments"
SINGLE_VALUED = (AGE, GENDER)
ATTRIBUTES = (AGE, GENDER, SEGMENTS)
_WITHOUT_VALUES = (FilterOperator.EMPTY, FilterOperator.NOT_EMPTY)


@dataclass(frozen=True)
class BaseRef(Document):
    """All relevant users of the publisher."""

    kind: Literal["base"] = field(default="base", kw_only=True)


@dataclass(frozen=True)
class SeedRef(Document):
    """The matched users of one type of seed audience.

    Args:
        audience_type: The type, as the advertiser's file says it.
    """

    kind: Literal["seed"] = field(default="seed", kw_only=True)
    audience_type: str

    def __post_init__(self) -> None:
        _check_text(self.audience_type, "An audience type")


@dataclass(frozen=True)
class CustomRef(Document):
    """An audience that was defined before.

    Args:
        id: Its id.
    """

    kind: Literal["custom"] = field(default="custom", kw_only=True)
    id: str

    def __post_init__(self) -> None:
        _check_text(self.id, "An audience's id")


@dataclass(frozen=True)
class FileRef(Document):
    """A parquet file of ids; only for the algebra over files, never in a data room.

    Args:
        path: File, folder or glob.
        column: Which column holds the ids; None where there is only one.
    """

    kind: Literal["file"] = field(default="file", kw_only=True)
    path: str
    column: str | None = None

    def __post_init__(self) -> None:
        _check_text(self.path, "A path")
        if self.column is not None:
            _check_text(self.column, "A column")


Ref = BaseRef | SeedRef | CustomRef | FileRef


@dataclass(frozen=True)
class AttributeFilter(Document):
    """A condition on one attribute of a user; texts are compared exactly.

    CONTAINS_NONE keeps users whose attribute is missing.

    Args:
        attribute: `age`, `gender` or `segments`.
        operator: What must hold of it.
        values: The values to look for, 1 to 1,000; EMPTY and NOT_EMPTY need none and ignore what is given.

    Raises:
        UsageError: There is no such attribute, or the values do not go with the operator.
    """

    attribute: str
    operator: FilterOperator
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.attribute not in ATTRIBUTES:
            raise UsageError("There is no such attribute.", remedy=f"Choose from: {', '.join(ATTRIBUTES)}.")
        if self.operator in _WITHOUT_VALUES:
            object.__setattr__(self, "values", ())
            return
        if not self.values:
            raise UsageError(f"A filter with {self.operator.name} has no values.", remedy="Give at least one.")
        _check_number(len(self.values), MAX_VALUES, "values")
        for value in self.values:
            _check_text(value, "A value")
        if self._is_impossible():
            raise UsageError(
                f"A user has one {self.attribute} at most: CONTAINS_ALL with two values holds of nobody.",
                remedy="Give one value, or take CONTAINS_ANY.",
            )

    def _is_impossible(self) -> bool:
        is_all = self.operator is FilterOperator.CONTAINS_ALL
        return is_all and self.attribute in SINGLE_VALUED and len(set(self.values)) > 1


@dataclass(frozen=True)
class Filters(Document):
    """Several conditions on a user.

    Args:
        operator: Whether all of them must hold or any.
        filters: The conditions, at most 100; none of them keeps every user, whatever the operator.
    """

    operator: MatchOperator
    filters: tuple[AttributeFilter, ...]

    def __post_init__(self) -> None:
        _check_number(len(self.filters), MAX_FILTERS, "filters")


@dataclass(frozen=True)
class Combinator(Document):
    """Another audience, and how it is combined with everything that stands before it.

    Args:
        operator: How the two are combined.
        source: The other audience.
        filters: Conditions on the other audience's users, applied before the two are combined.
    """

    operator: CombineOperator
    source: Ref
    filters: Filters | None = None


@dataclass(frozen=True)
class RuleBased(Document):
    """A source, filters on it, and other audiences combined with it strictly from left to right.

    Args:
        source: The audience that it starts from.
        filters: Conditions on the source's users.
        combinators: Other audiences, at most 100.
    """

    kind: Literal["rule_based"] = field(default="rule_based", kw_only=True)
    source: Ref
    filters: Filters | None = None
    combinators: tuple[Combinator, ...] = ()

    def __post_init__(self) -> None:
        _check_number(len(self.combinators), MAX_COMBINATORS, "combinators")
        sets = [self.filters, *(combinator.filters for combinator in self.combinators)]
        n_values = sum(len(each.values) for filters in sets if filters for each in filters.filters)
        _check_number(n_values, MAX_VALUES_IN_ALL, "values in all filters together")


@dataclass(frozen=True)
class Lookalike(Document):
    """The users most like those of another audience.

    Args:
        source: The other audience.
        reach: Size in percent of all relevant users, a whole number from 1 to 30.
        exclude_seed_audience: Whether the source's own users are left out and their places given to others.
    """

    kind: Literal["lookalike"] = field(default="lookalike", kw_only=True)
    source: Ref
    reach: int
    exclude_seed_audience: bool = False

    def __post_init__(self) -> None:
        is_whole = isinstance(self.reach, int) and not isinstance(self.reach, bool)
        if not is_whole or not MIN_REACH <= self.reach <= MAX_REACH:
            raise UsageError(
                "The reach of a lookalike cannot be used.",
                remedy=f"Give a whole number of percent from {MIN_REACH} to {MAX_REACH}.",
            )
        if isinstance(self.source, FileRef):
            raise UsageError("A lookalike cannot be made of a file.", remedy="Name an audience of a data room.")


@dataclass(frozen=True)
class Remarketing(Document):
    """The matched users of one type of seed audience.

    Args:
        audience_type: The type, as the advertiser's file says it.
    """

    kind: Literal["remarketing"] = field(default="remarketing", kw_only=True)
    audience_type: str

    def __post_init__(self) -> None:
        _check_text(self.audience_type, "An audience type")


@dataclass(frozen=True)
class Exclusion(Document):
    """All relevant users but the matched users of one type of seed audience.

    Args:
        audience_type: The type, as the advertiser's file says it.
    """

    kind: Literal["exclusion"] = field(default="exclusion", kw_only=True)
    audience_type: str

    def __post_init__(self) -> None:
        _check_text(self.audience_type, "An audience type")


Definition = RuleBased | Lookalike | Remarketing | Exclusion
Resolve = Callable[[str], Definition]
"""Gives the definition of a custom audience by its id; raises what it likes for an unknown one."""


def parse_definition(value: object, *, with_files: bool = False) -> Definition:
    """Read a definition from its JSON.

    Args:
        value: What `json.loads` gives, or `as_dict` gave.
        with_files: Whether sources may be files (and nothing of a data room), for the algebra over files.

    Returns:
        The definition; it can be compiled once its references are resolved.

    Raises:
        UsageError: Something in it is wrong; the message names the place, never a value, and the attribute `place`
            holds it.
    """
    reader = _Reader(with_files)
    with _at("definition"):
        return reader.definition(value)


def as_rule(definition: Remarketing | Exclusion) -> RuleBased:
    """The rule that a remarketing or an exclusion audience is short for."""
    seed = SeedRef(definition.audience_type)
    if isinstance(definition, Remarketing):
        return RuleBased(seed)
    return RuleBased(BaseRef(), combinators=(Combinator(CombineOperator.DIFF, seed),))


def references(definition: Definition) -> tuple[Ref, ...]:
    """What a definition itself names, each once, in order of appearance; not what those name in turn."""
    if isinstance(definition, Lookalike):
        return (definition.source,)
    rule = definition if isinstance(definition, RuleBased) else as_rule(definition)
    named = [rule.source, *(combinator.source for combinator in rule.combinators)]
    return tuple(dict.fromkeys(named))


def filter_values(definition: Definition) -> Mapping[str, frozenset[str]]:
    """The values that a definition's own filters look for, by attribute: what can disappear with new data."""
    found: dict[str, set[str]] = {}
    if isinstance(definition, RuleBased):
        sets = [definition.filters, *(combinator.filters for combinator in definition.combinators)]
        for each in (each for filters in sets if filters for each in filters.filters if each.values):
            found.setdefault(each.attribute, set()).update(each.values)
    return {attribute: frozenset(values) for attribute, values in found.items()}


def reachable(
    definition: Definition, resolve: Resolve, *, own_id: str | None = None, through_lookalikes: bool = True
) -> tuple[Ref, ...]:
    """Everything that a definition refers to, over any number of steps, each once.

    Args:
        definition: Where to start.
        resolve: Gives the definition of a custom audience.
        own_id: The id that the definition has or will have, so that a cycle through it is seen.
        through_lookalikes: Whether to follow the sources of lookalikes too.

    Returns:
        References, in order of first appearance, depth first.

    Raises:
        UsageError: A cycle, references more than 20 deep, or more than 200 audiences.
    """
    found: dict[Ref, None] = {}
    start = DefinitionPath(resolve, () if own_id is None else (own_id,))

    def follow(each: Definition, trail: DefinitionPath) -> None:
        if isinstance(each, Lookalike) and not through_lookalikes:
            return
        for ref in references(each):
            if isinstance(ref, CustomRef):
                inner, below = trail.enter(ref.id)
                if ref in found:
                    continue
                found[ref] = None
                _check_number(len(found), MAX_AUDIENCES, "audiences that it refers to")
                follow(inner, below)
            else:
                found[ref] = None

    follow(definition, start)
    return tuple(found)


@dataclass(frozen=True)
class DefinitionPath:
    """The custom audiences on the way to where one stands, so that a cycle is seen.

    Args:
        resolve: Gives the definition of a custom audience.
        ids: Those on the way.
    """

    resolve: Resolve
    ids: tuple[str, ...] = ()

    def enter(self, id_: str) -> "tuple[Definition, DefinitionPath]":
        """Follow a reference.

        Raises:
            UsageError: It was followed already on the way here, or the way is too long.
        """
        if id_ in self.ids:
            raise UsageError(
                "Audiences refer to each other in a circle.",
                remedy="Take one of the references out.",
                problem="cycle",
            )
        _check_number(len(self.ids) + 1, MAX_DEPTH, "references, one behind the other")
        return self.resolve(id_), DefinitionPath(self.resolve, (*self.ids, id_))


class _Reader:
    """Reads JSON; knows which sources are allowed."""

    def __init__(self, with_files: bool) -> None:
        self._with_files = with_files

    def definition(self, value: object) -> Definition:
        kind = _kind_of(value, "definition")
        if kind != "rule_based" and self._with_files:
            raise UsageError("Of files there are only rule-based definitions.", remedy="Give the kind rule_based.")
        if kind == "rule_based":
            keys = _keys(value, kind, needed=("source",), optional=("filters", "combinators"))
            combinators = keys.get("combinators")
            return RuleBased(
                self._source(keys),
                self._filters(keys),
                () if combinators is None else tuple(_items(combinators, "combinators", self._combinator)),
            )
        if kind == "lookalike":
            keys = _keys(value, kind, needed=("source", "reach"), optional=("exclude_seed_audience",))
            exclude = keys.get("exclude_seed_audience", False)
            if not isinstance(exclude, bool):
                raise UsageError(
                    "`exclude_seed_audience` is neither true nor false.", remedy="Give true or false."
                )
            return Lookalike(self._source(keys), keys["reach"], exclude)
        if kind in ("remarketing", "exclusion"):
            keys = _keys(value, kind, needed=("audience_type",))
            return (Remarketing if kind == "remarketing" else Exclusion)(keys["audience_type"])
        raise UsageError(
            "There is no such kind of definition.",
            remedy="Choose from: rule_based, lookalike, remarketing, exclusion.",
        )

    def _source(self, keys: Mapping[str, Any]) -> Ref:
        with _at("source"):
            return self._ref(keys["source"])

    def _ref(self, value: object) -> Ref:
        kind = _kind_of(value, "reference")
        if kind == "custom":
            return CustomRef(_keys(value, kind, needed=("id",))["id"])
        if kind == "file" and self._with_files:
            keys = _keys(value, kind, needed=("path",), optional=("column",))
            return FileRef(keys["path"], keys.get("column"))
        if kind == "base" and not self._with_files:
            _keys(value, kind)
            return BaseRef()
        if kind == "seed" and not self._with_files:
            return SeedRef(_keys(value, kind, needed=("audience_type",))["audience_type"])
        kinds = "file, custom" if self._with_files else "seed, custom, base"
        raise UsageError("There is no such kind of source here.", remedy=f"Choose from: {kinds}.")

    def _combinator(self, value: object) -> Combinator:
        keys = _keys(value, "combinator", needed=("operator", "source"), optional=("filters",))
        return Combinator(_member(CombineOperator, keys["operator"]), self._source(keys), self._filters(keys))

    def _filters(self, keys: Mapping[str, Any]) -> Filters | None:
        if keys.get("filters") is None:
            return None
        with _at("filters"):
            if self._with_files:
                raise UsageError("Ids in files have no attributes.", remedy="Leave the filters out.")
            return _filters(keys["filters"])


def _filters(value: object) -> Filters:
    keys = _keys(value, "set of filters", needed=("operator", "filters"))
    operator = _member(MatchOperator, keys["operator"])
    return Filters(operator, tuple(_items(keys["filters"], "filters", _filter)))


def _filter(value: object) -> AttributeFilter:
    keys = _keys(value, "filter", needed=("attribute", "operator"), optional=("values",))
    values = keys.get("values")
    if values is not None and not isinstance(values, list | tuple):
        raise UsageError("The values of a filter are no list.", remedy="Put them in brackets.")
    return AttributeFilter(keys["attribute"], _member(FilterOperator, keys["operator"]), tuple(values or ()))


def _items(value: object, name: str, read: Callable[[object], Any]) -> Iterator[Any]:
    with _at(name):
        if not isinstance(value, list | tuple):
            raise UsageError("A list is missing.", remedy="Put what stands here in brackets.")
        _check_number(len(value), MAX_COMBINATORS if name == "combinators" else MAX_FILTERS, name)
    for number, item in enumerate(value):
        with _at(f"{name}[{number}]"):
            yield read(item)


def _kind_of(value: object, what: str) -> object:
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise UsageError(f"A {what} is no object with a `kind`.", remedy="Give the JSON of one.")
    return value["kind"]


def _keys(
    value: object, what: object, *, needed: Sequence[str] = (), optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"A {what} is no object.", remedy="Give the JSON of one.")
    missing = [name for name in needed if name not in value]
    if missing:
        raise UsageError(f"`{missing[0]}` is missing.", remedy=f"A {what} needs it.")
    # What is not understood might change what is meant; its name is the caller's text, so it is not repeated.
    if set(value) - {"kind", *needed, *optional}:
        known = ", ".join((*needed, *optional)) or "nothing else"
        raise UsageError(f"A {what} holds something unknown.", remedy=f"It may hold: {known}.")
    return value


_Member = TypeVar("_Member", bound=StrEnum)


def _member(kind: type[_Member], value: object) -> _Member:
    # Compared one by one: what is no text may not even be hashable.
    for member in kind:
        if member.value == value:
            return member
    raise UsageError(
        f"There is no such {kind.__name__}.", remedy=f"Choose from: {', '.join(each.value for each in kind)}."
    )


def _check_text(value: object, what: str) -> None:
    """A text that every file and every engine can hold."""
    if not isinstance(value, str):
        raise UsageError(f"{what} is no text.", remedy="Put it in quotes.")
    if not value or len(value) > MAX_TEXT:
        raise UsageError(f"{what} is empty or too long.", remedy=f"Give 1 to {MAX_TEXT:,} characters.")
    # A lone surrogate is no character: it comes from JSON such as "\ud800" and cannot be written anywhere.
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{what} holds something that is no character.", remedy="Give plain Unicode text.")


def _check_number(number: int, limit: int, what: str) -> None:
    if number > limit:
        raise UsageError(f"There are more than {limit:,} {what}.", remedy="Split the audience into several.")


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say where an error was made: `definition.combinators[2].filters.filters[0]`."""
    try:
        yield
    except UsageError as error:
        below = error.attributes.get("place")
        where = f"{place}.{below}" if below else place
        problem = error.attributes.get("problem_text", error.message)
        # Only the outermost message counts: the places above join what was said below.
        raise UsageError(
            f"At {where}: {problem}", remedy=error.remedy, place=where, problem_text=problem
        ) from None
