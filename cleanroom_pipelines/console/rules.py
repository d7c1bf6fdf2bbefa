"""Definitions of audiences as people read and edit them: sentences, and forms made of blocks.

Lives here: the sentence that a definition means, and reading a rule from a form and back.
Add here when definitions get a new element.
Keep out: what is valid (`audiences.definitions`, by the handlers) and HTML (`templates/audiences`).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

from markupsafe import Markup

from cleanroom_pipelines.audiences.definitions import (
    ATTRIBUTES,
    MAX_COMBINATORS,
    MAX_FILTERS,
    SINGLE_VALUED,
    CombineOperator,
    FilterOperator,
    MatchOperator,
)
from cleanroom_pipelines.console.forms import Form

Text = Callable[..., Markup]
_ANY, _NONE, _ALL = FilterOperator.CONTAINS_ANY, FilterOperator.CONTAINS_NONE, FilterOperator.CONTAINS_ALL
_WITHOUT_VALUES = (FilterOperator.EMPTY.value, FilterOperator.NOT_EMPTY.value)
_PLACE = re.compile(r"definition(?:\.combinators\[(\d+)\])?(?:\.filters\.filters\[(\d+)\])?")


@dataclass
class RuleCondition:
    """A condition on one attribute.

    Args:
        attribute: The attribute.
        operator: Wire value of a `FilterOperator`.
        values: The values to look for.
        problem: What is wrong with it; empty if nothing is known.
    """

    attribute: str
    operator: str = _ANY.value
    values: list[str] = field(default_factory=list)
    problem: str = ""

    @property
    def operators(self) -> list[str]:
        """The operators that fit the attribute, as they are written in the API."""
        return [each.value for each in FilterOperator if each is not _ALL or self.attribute not in SINGLE_VALUED]

    @property
    def has_values(self) -> bool:
        """Whether the condition's operator needs values."""
        return self.operator not in _WITHOUT_VALUES

    def as_dict(self) -> dict[str, Any]:
        """Return the condition as the JSON of a definition."""
        return {
            "attribute": self.attribute,
            "operator": self.operator,
            "values": self.values if self.has_values else [],
        }


@dataclass
class RuleBlock:
    """A source with its conditions: the start of a rule, or an audience that is combined with it.

    Args:
        source: `base`, `seed:<type>` or `custom:<id>`.
        operator: Wire value of a `CombineOperator`; without effect in the first block.
        match: Wire value of a `MatchOperator`.
        conditions: The conditions.
        problem: What is wrong with it; empty if nothing is known.
    """

    source: str = "base"
    operator: str = CombineOperator.INTERSECT.value
    match: str = MatchOperator.MATCH_ALL.value
    conditions: list[RuleCondition] = field(default_factory=list)
    problem: str = ""

    @property
    def filters(self) -> dict[str, Any] | None:
        """The conditions as the JSON of a definition."""
        if not self.conditions:
            return None
        return {"operator": self.match, "filters": [each.as_dict() for each in self.conditions]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Read a block from a definition's JSON: the start of a rule, or one of its combinators."""
        filters = value.get("filters") or {"operator": MatchOperator.MATCH_ALL.value, "filters": []}
        conditions = [
            RuleCondition(each["attribute"], each["operator"], list(each.get("values") or ()))
            for each in filters["filters"]
        ]
        operator = value.get("operator") or CombineOperator.INTERSECT.value
        return cls(key_of(value["source"]), operator, filters["operator"], conditions)


@dataclass
class RuleForm:
    """A rule while a user edits it; it always has at least one block."""

    blocks: list[RuleBlock] = field(default_factory=lambda: [RuleBlock()])

    @classmethod
    def read(cls, form: Form) -> Self:
        """Read a rule from the fields of a submitted form."""
        return cls([_read_block(form, f"b{n}") for n in _present(form, "b{}-source")] or [RuleBlock()])

    @classmethod
    def from_definition(cls, definition: Mapping[str, Any]) -> Self:
        """Convert a rule-based definition to a rule that can be edited."""
        return cls([RuleBlock.from_dict(each) for each in (definition, *(definition.get("combinators") or ()))])

    def definition(self) -> dict[str, Any]:
        """Return the definition as JSON, valid or not."""
        start, *others = self.blocks
        return {
            "kind": "rule_based",
            "source": source_of(start.source),
            "filters": start.filters,
            "combinators": [
                {"operator": each.operator, "source": source_of(each.source), "filters": each.filters}
                for each in others
            ],
        }

    def edit(self, action: str) -> bool:
        """Add or remove a block or a condition.

        Args:
            action: `add-block`, `remove-block:<n>`, `add:<n>:<attribute>` or `remove:<n>:<condition>`.

        Returns:
            Whether the action is known; an edit of what does not exist changes nothing.
        """
        name, *places = action.split(":")
        if name not in ("add-block", "remove-block", "add", "remove"):
            return False
        if name == "add-block":
            if len(self.blocks) <= MAX_COMBINATORS:
                self.blocks.append(RuleBlock())
            return True
        block = _number(places, 0)
        if block is not None and block < len(self.blocks):
            self._edit_block(name, block, places)
        return True

    def note(self, place: str, problem: str, without_values: str) -> None:
        """Attach an error to the block or condition that caused it.

        Args:
            place: The place in the definition, as the error names it.
            problem: The error's words.
            without_values: The words for a condition that has no values yet.
        """
        found = _PLACE.match(place)
        block = 0 if found is None or found[1] is None else int(found[1]) + 1
        if found is None or block >= len(self.blocks):
            return
        if found[2] is not None and int(found[2]) < len(self.blocks[block].conditions):
            condition = self.blocks[block].conditions[int(found[2])]
            is_empty = condition.has_values and not condition.values
            condition.problem = without_values if is_empty else problem
        else:
            self.blocks[block].problem = problem

    def _edit_block(self, name: str, block: int, places: list[str]) -> None:
        conditions = self.blocks[block].conditions
        if name == "remove-block" and block:
            del self.blocks[block]
        elif name == "add" and places[1:2] and places[1] in ATTRIBUTES and len(conditions) < MAX_FILTERS:
            conditions.append(RuleCondition(places[1]))
        elif name == "remove" and (n := _number(places, 1)) is not None and n < len(conditions):
            del conditions[n]


def key_of(source: Mapping[str, Any]) -> str:
    """Convert a reference in a definition to the value of a form's field."""
    return {"base": "base", "seed": f"seed:{source.get('audience_type')}", "custom": f"custom:{source.get('id')}"}[
        source["kind"]
    ]


def source_of(key: str) -> dict[str, str]:
    """Convert the value of a form's field to a reference in a definition."""
    kind, _, name = key.partition(":")
    if kind == "seed":
        return {"kind": "seed", "audience_type": name}
    return {"kind": "custom", "id": name} if kind == "custom" else {"kind": "base"}


def sentence(t: Text, definition: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    """Explain a definition in sentences.

    Args:
        t: The texts.
        definition: The definition as JSON.
        names: Names of the audiences that the reader can see, by id.
    """
    kind = definition["kind"]
    if kind in ("remarketing", "exclusion"):
        return t(f"audiences.means.{kind}", name=definition["audience_type"])
    if kind == "lookalike":
        source = name_of(t, definition["source"], names)
        said = t("audiences.means.lookalike", reach=definition["reach"], source=source)
        return said + " " + t("audiences.means.excluding") if definition.get("exclude_seed_audience") else said
    parts = [t("audiences.means.start", users=_users(t, definition, names))]
    parts += [
        t(f"audiences.means.{each['operator']}", users=_users(t, each, names))
        for each in definition.get("combinators") or ()
    ]
    return Markup(" ").join(parts)


def name_of(t: Text, source: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    """Describe a reference in a definition in words."""
    if source["kind"] == "base":
        return t("audiences.source.base")
    if source["kind"] == "seed":
        return t("audiences.source.seed", name=source["audience_type"])
    name = names.get(source["id"])
    return t("audiences.source.unknown") if name is None else t("audiences.source.custom", name=name)


def _users(t: Text, block: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    source, filters = name_of(t, block["source"], names), block.get("filters")
    if not filters or not filters["filters"]:
        return source
    is_all = filters["operator"] == MatchOperator.MATCH_ALL.value
    joint = t("audiences.means.and" if is_all else "audiences.means.or")
    conditions = joint.join(_condition(t, each) for each in filters["filters"])
    return t("audiences.means.whose", source=source, conditions=conditions)


def _condition(t: Text, condition: Mapping[str, Any]) -> Markup:
    joint = t("audiences.means.and" if condition["operator"] == _ALL.value else "audiences.means.or")
    values = joint.join(t("audiences.means.value", value=each) for each in condition.get("values") or ("…",))
    kind = "segments" if condition["attribute"] == "segments" else "single"
    attribute = t(f"audiences.attribute.{condition['attribute']}")
    return t(f"audiences.{kind}.{condition['operator']}", values=values, attribute=attribute)


def _read_block(form: Form, name: str) -> RuleBlock:
    conditions = [_read_condition(form, f"{name}-c{n}") for n in _present(form, f"{name}-c{{}}-attribute")]
    return RuleBlock(
        form.secret(f"{name}-source"),
        _one_of(CombineOperator, form.text(f"{name}-operator")),
        _one_of(MatchOperator, form.text(f"{name}-match")),
        [each for each in conditions if each.attribute in ATTRIBUTES],
    )


def _read_condition(form: Form, name: str) -> RuleCondition:
    operator = _one_of(FilterOperator, form.text(f"{name}-operator"))
    return RuleCondition(form.text(f"{name}-attribute"), operator, form.texts(f"{name}-values"))


def _present(form: Form, name: str) -> Iterator[int]:
    """Yield 0, 1, … as long as the form has a field whose name contains the number."""
    given = {key for key, _ in form.fields}
    for n in count():
        if name.format(n) not in given:
            return
        yield n


def _one_of(kind: type[CombineOperator | MatchOperator | FilterOperator], value: str) -> str:
    """Return the value if the enum has it, or else the enum's first value."""
    known = [each.value for each in kind]
    return value if value in known else known[0]


def _number(places: list[str], place: int) -> int | None:
    text = places[place] if place < len(places) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None
