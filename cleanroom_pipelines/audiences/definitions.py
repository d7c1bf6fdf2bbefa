"""The audience definition language, as immutable objects that are checked when they are created.

Lives here: the kinds of definitions and sources, their enums with wire values, JSON parsing and serialisation, and
following references.
Add here when the language gets a new element; extend `canonical` and `compiling` too.
Keep out: equivalence of definitions (canonical), finding their users (compiling, evaluating), audience names and
sharing (catalogue).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.terms import Term

MIN_REACH, MAX_REACH = 1, 30
MAX_FILTERS = 100
MAX_VALUES = 1_000
MAX_VALUES_IN_ALL = 10_000
MAX_COMBINATORS = 100
MAX_TEXT = 1_024
# Limits when following references: depth, and total number of audiences.
MAX_DEPTH = 20
MAX_AUDIENCES = 200


class FilterOperator(Term):
    """Filter operators with their wire values."""

    CONTAINS_ANY = "CONTAINS_ANY_OF"
    CONTAINS_NONE = "CONTAINS_NONE_OF"
    CONTAINS_ALL = "CONTAINS_ALL_OF"
    EMPTY = "EMPTY"
    NOT_EMPTY = "NOT_EMPTY"


class MatchOperator(Term):
    """Whether a user must match all or any of the filters; the values are the wire values."""

    MATCH_ALL = "AND"
    MATCH_ANY = "OR"


class CombineOperator(Term):
    """Set operations between two audiences."""

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
        audience_type: The type, as in the advertiser's file.
    """

    kind: Literal["seed"] = field(default="seed", kw_only=True)
    audience_type: str

    def __post_init__(self) -> None:
        _check_text(self.audience_type, "An audience type")


@dataclass(frozen=True)
class CustomRef(Document):
    """A reference to a custom audience.

    Args:
        id: The id of the audience.
    """

    kind: Literal["custom"] = field(default="custom", kw_only=True)
    id: str

    def __post_init__(self) -> None:
        _check_text(self.id, "An audience's id")


@dataclass(frozen=True)
class FileRef(Document):
    """A parquet file of ids. Only set algebra over files can use it; a data room cannot.

    Args:
        path: File, folder or glob.
        column: The id column; None if the file has only one column.
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
        operator: How values are compared.
        values: The values to look for, 1 to 1,000; EMPTY and NOT_EMPTY need no values and ignore any given.

    Raises:
        UsageError: The attribute is unknown, or the values do not fit the operator.
    """

    attribute: str
    operator: FilterOperator
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.attribute not in ATTRIBUTES:
            raise UsageError("Unknown attribute.", remedy=f"Choose from: {', '.join(ATTRIBUTES)}.")
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
                f"CONTAINS_ALL with two values matches no user: a user has at most one {self.attribute}.",
                remedy="Give one value, or use CONTAINS_ANY.",
            )

    def _is_impossible(self) -> bool:
        is_all = self.operator is FilterOperator.CONTAINS_ALL
        return is_all and self.attribute in SINGLE_VALUED and len(set(self.values)) > 1


@dataclass(frozen=True)
class Filters(Document):
    """Several conditions on a user.

    Args:
        operator: Whether all or any of them must match.
        filters: The conditions, at most 100; an empty list keeps every user, whatever the operator.
    """

    operator: MatchOperator
    filters: tuple[AttributeFilter, ...]

    def __post_init__(self) -> None:
        _check_number(len(self.filters), MAX_FILTERS, "filters")


@dataclass(frozen=True)
class Combinator(Document):
    """A set operation with another audience, applied to the result so far.

    Args:
        operator: The set operation.
        source: The other audience.
        filters: Conditions on the other audience's users, applied before the two are combined.
    """

    operator: CombineOperator
    source: Ref
    filters: Filters | None = None


@dataclass(frozen=True)
class RuleBased(Document):
    """A filtered source, combined with other audiences strictly from left to right.

    Args:
        source: The audience to start from.
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
        exclude_seed_audience: Whether to exclude the source's own users and replace them by the next best.
    """

    kind: Literal["lookalike"] = field(default="lookalike", kw_only=True)
    source: Ref
    reach: int
    exclude_seed_audience: bool = False

    def __post_init__(self) -> None:
        is_whole = isinstance(self.reach, int) and not isinstance(self.reach, bool)
        if not is_whole or not MIN_REACH <= self.reach <= MAX_REACH:
            raise UsageError(
                "The reach of a lookalike is invalid.",
                remedy=f"Give a whole percentage from {MIN_REACH} to {MAX_REACH}.",
            )
        if isinstance(self.source, FileRef):
            raise UsageError(
                "A file cannot be the source of a lookalike.",
                remedy="Use an audience of a data room as the source.",
            )


@dataclass(frozen=True)
class Remarketing(Document):
    """The matched users of one type of seed audience.

    Args:
        audience_type: The type, as in the advertiser's file.
    """

    kind: Literal["remarketing"] = field(default="remarketing", kw_only=True)
    audience_type: str

    def __post_init__(self) -> None:
        _check_text(self.audience_type, "An audience type")


@dataclass(frozen=True)
class Exclusion(Document):
    """All relevant users except the matched users of one type of seed audience.

    Args:
        audience_type: The type, as in the advertiser's file.
    """

    kind: Literal["exclusion"] = field(default="exclusion", kw_only=True)
    audience_type: str

    def __post_init__(self) -> None:
        _check_text(self.audience_type, "An audience type")


Definition = RuleBased | Lookalike | Remarketing | Exclusion
Resolve = Callable[[str], Definition]
"""Returns the definition of a custom audience by its id; may raise any error for an unknown id."""


def parse_definition(value: object, *, with_files: bool = False) -> Definition:
    """Parse a definition from its JSON.

    Args:
        value: The result of `json.loads` or `as_dict`.
        with_files: Whether sources are files instead of audiences of a data room, for set algebra over files.

    Returns:
        The definition, ready to compile once its references are resolved.

    Raises:
        UsageError: The definition is invalid. The message names the place, never a value; the attribute `place`
            has it too.
    """
    reader = _DefinitionReader(with_files)
    with _at("definition"):
        return reader.definition(value)


def as_rule(definition: Remarketing | Exclusion) -> RuleBased:
    """Expand a remarketing or exclusion audience to the equivalent rule-based audience."""
    seed = SeedRef(definition.audience_type)
    if isinstance(definition, Remarketing):
        return RuleBased(seed)
    return RuleBased(BaseRef(), combinators=(Combinator(CombineOperator.DIFF, seed),))


def references(definition: Definition) -> tuple[Ref, ...]:
    """The audiences or files that a definition refers to directly, without duplicates, in order of appearance."""
    if isinstance(definition, Lookalike):
        return (definition.source,)
    rule = definition if isinstance(definition, RuleBased) else as_rule(definition)
    named = [rule.source, *(combinator.source for combinator in rule.combinators)]
    return tuple(dict.fromkeys(named))


def filter_values(definition: Definition) -> Mapping[str, frozenset[str]]:
    """The values in a definition's own filters, by attribute; new data may no longer contain them."""
    found: dict[str, set[str]] = {}
    if isinstance(definition, RuleBased):
        sets = [definition.filters, *(combinator.filters for combinator in definition.combinators)]
        for each in (each for filters in sets if filters for each in filters.filters if each.values):
            found.setdefault(each.attribute, set()).update(each.values)
    return {attribute: frozenset(values) for attribute, values in found.items()}


def reachable(
    definition: Definition, resolve: Resolve, *, own_id: str | None = None, through_lookalikes: bool = True
) -> tuple[Ref, ...]:
    """All audiences or files that a definition refers to, directly or through other audiences, without duplicates.

    Args:
        definition: The definition to start from.
        resolve: Returns the definition of a custom audience.
        own_id: The definition's current or future id, so that a cycle through it is detected.
        through_lookalikes: Whether to follow the sources of lookalikes too.

    Returns:
        References, in order of first appearance, depth first.

    Raises:
        UsageError: There is a cycle, or references are more than 20 deep or lead to more than 200 audiences.
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
                _check_number(len(found), MAX_AUDIENCES, "referenced audiences")
                follow(inner, below)
            else:
                found[ref] = None

    follow(definition, start)
    return tuple(found)


@dataclass(frozen=True)
class DefinitionPath:
    """The custom audiences followed so far, to detect cycles of references.

    Args:
        resolve: Returns the definition of a custom audience.
        ids: Ids of the audiences in the chain.
    """

    resolve: Resolve
    ids: tuple[str, ...] = ()

    def enter(self, id_: str) -> "tuple[Definition, DefinitionPath]":
        """Follow a reference to a custom audience; return its definition, and this path with the reference added.

        Raises:
            UsageError: The reference closes a cycle, or the chain is too long.
        """
        if id_ in self.ids:
            raise UsageError(
                "The audiences refer to each other in a cycle.",
                remedy="Remove one of the references.",
                problem="cycle",
            )
        _check_number(len(self.ids) + 1, MAX_DEPTH, "levels of references")
        return self.resolve(id_), DefinitionPath(self.resolve, (*self.ids, id_))


class _DefinitionReader:
    """Parser for JSON definitions with either room or file sources."""

    def __init__(self, with_files: bool) -> None:
        self._with_files = with_files

    def definition(self, value: object) -> Definition:
        kind = _kind_of(value, "definition")
        if kind != "rule_based" and self._with_files:
            raise UsageError("Definitions over files must be rule-based.", remedy="Set `kind` to rule_based.")
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
                raise UsageError("`exclude_seed_audience` is not a boolean.", remedy="Give true or false.")
            return Lookalike(self._source(keys), keys["reach"], exclude)
        if kind in ("remarketing", "exclusion"):
            keys = _keys(value, kind, needed=("audience_type",))
            return (Remarketing if kind == "remarketing" else Exclusion)(keys["audience_type"])
        raise UsageError(
            "Unknown kind of definition.",
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
        raise UsageError("This kind of source is not allowed here.", remedy=f"Choose from: {kinds}.")

    def _combinator(self, value: object) -> Combinator:
        keys = _keys(value, "combinator", needed=("operator", "source"), optional=("filters",))
        return Combinator(_member(CombineOperator, keys["operator"]), self._source(keys), self._filters(keys))

    def _filters(self, keys: Mapping[str, Any]) -> Filters | None:
        if keys.get("filters") is None:
            return None
        with _at("filters"):
            if self._with_files:
                raise UsageError("Filters do not apply to files of ids.", remedy="Remove the filters.")
            return _filters(keys["filters"])


def _filters(value: object) -> Filters:
    keys = _keys(value, "set of filters", needed=("operator", "filters"))
    operator = _member(MatchOperator, keys["operator"])
    return Filters(operator, tuple(_items(keys["filters"], "filters", _filter)))


def _filter(value: object) -> AttributeFilter:
    keys = _keys(value, "filter", needed=("attribute", "operator"), optional=("values",))
    values = keys.get("values")
    if values is not None and not isinstance(values, list | tuple):
        raise UsageError("The values of a filter must be a list.", remedy="Put them in brackets.")
    return AttributeFilter(keys["attribute"], _member(FilterOperator, keys["operator"]), tuple(values or ()))


def _items(value: object, name: str, read: Callable[[object], Any]) -> Iterator[Any]:
    with _at(name):
        if not isinstance(value, list | tuple):
            raise UsageError("This must be a list.", remedy="Put the value in brackets.")
        _check_number(len(value), MAX_COMBINATORS if name == "combinators" else MAX_FILTERS, name)
    for number, item in enumerate(value):
        with _at(f"{name}[{number}]"):
            yield read(item)


def _kind_of(value: object, what: str) -> object:
    if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
        raise UsageError(f"A {what} is not a JSON object with a `kind`.", remedy="Give an object with a `kind`.")
    return value["kind"]


def _keys(
    value: object, what: object, *, needed: Sequence[str] = (), optional: Sequence[str] = ()
) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"A {what} is not a JSON object.", remedy="Give a JSON object.")
    missing = [name for name in needed if name not in value]
    if missing:
        raise UsageError(f"`{missing[0]}` is missing.", remedy=f"Add it to the {what}.")
    # Ignoring an unknown key could change the meaning. Its name is the caller's text, so the message omits it.
    if set(value) - {"kind", *needed, *optional}:
        known = ", ".join((*needed, *optional)) or "nothing else"
        raise UsageError(f"A {what} has an unknown key.", remedy=f"Allowed keys: {known}.")
    return value


_Member = TypeVar("_Member", bound=StrEnum)


def _member(kind: type[_Member], value: object) -> _Member:
    # Compared one by one, because the value may not be hashable.
    for member in kind:
        if member.value == value:
            return member
    raise UsageError(f"Unknown {kind.__name__}.", remedy=f"Choose from: {', '.join(each.value for each in kind)}.")


def _check_text(value: object, what: str) -> None:
    """Check that a value is a text that every file format and engine can store."""
    if not isinstance(value, str):
        raise UsageError(f"{what} is not a string.", remedy="Put it in quotes.")
    if not value or len(value) > MAX_TEXT:
        raise UsageError(f"{what} is empty or too long.", remedy=f"Give 1 to {MAX_TEXT:,} characters.")
    # JSON such as "\ud800" yields a lone surrogate, which is not a character and cannot be encoded.
    if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{what} contains invalid characters.", remedy="Give plain Unicode text.")


def _check_number(number: int, limit: int, what: str) -> None:
    if number > limit:
        raise UsageError(f"There are more than {limit:,} {what}.", remedy="Split the audience into several.")


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Prefix an error's message with its location: `definition.combinators[2].filters.filters[0]`."""
    try:
        yield
    except UsageError as error:
        below = error.attributes.get("place")
        where = f"{place}.{below}" if below else place
        problem = error.attributes.get("problem_text", error.message)
        # Each level prepends its place, so only the outermost message is shown.
        raise UsageError(
            f"At {where}: {problem}", remedy=error.remedy, place=where, problem_text=problem
        ) from None
