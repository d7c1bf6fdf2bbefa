"""Rule-based audiences: a source, filters on it, and other audiences combined with it.

Lives here: filters, combinators, the definition and the builders.
Add here when rules get a new element; add it to `audiences.definitions` first.
Keep out: the meaning of rules (`audiences.definitions`) and finding users (the server).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from cleanroom_pipelines.audiences import definitions
from cleanroom_pipelines.audiences.definitions import CombineOperator, FilterOperator, MatchOperator
from cleanroom_pipelines.media.api import AudienceType, reference
from cleanroom_pipelines.media.definition import AudienceBuilder, AudienceDefinition, definition_errors, member
from cleanroom_pipelines.media.errors import InvalidDefinitionError
from cleanroom_pipelines.media.participant import Participant

__all__ = [
    "AudienceCombinator",
    "AudienceCombinatorBuilder",
    "AudienceFilters",
    "CombineOperator",
    "Filter",
    "FilterOperator",
    "MatchOperator",
    "RuleBasedAudienceBuilder",
    "RuleBasedAudienceDefinition",
]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A condition on one attribute of a user.

    Args:
        attribute: `age`, `gender` or `segments`.
        values: The values to compare with; EMPTY and NOT_EMPTY ignore them.
        operator: The comparison.

    Raises:
        InvalidDefinitionError: The attribute or operator is unknown, or the values do not fit it.
    """

    attribute: str
    values: list[str] = field(default_factory=list)
    operator: FilterOperator

    def __post_init__(self) -> None:
        operator = member(FilterOperator, self.operator)
        object.__setattr__(self, "operator", operator)
        if isinstance(self.values, str) or not isinstance(self.values, Iterable):
            raise InvalidDefinitionError("The values of a filter must be a list.", remedy="Put them in brackets.")
        with definition_errors():
            checked = definitions.AttributeFilter(self.attribute, operator, tuple(self.values))
        object.__setattr__(self, "values", list(checked.values))

    def as_dict(self) -> dict[str, Any]:
        """Return the filter as JSON."""
        return {"attribute": self.attribute, "operator": self.operator.value, "values": list(self.values)}


@dataclass(frozen=True, kw_only=True)
class AudienceFilters:
    """Several conditions on a user, combined by one operator.

    Args:
        filters: The conditions.
        operator: Whether all conditions must hold, or any.
    """

    filters: list[Filter]
    operator: MatchOperator

    def __post_init__(self) -> None:
        object.__setattr__(self, "operator", member(MatchOperator, self.operator))
        object.__setattr__(self, "filters", list(self.filters))
        if not all(isinstance(each, Filter) for each in self.filters):
            raise InvalidDefinitionError(
                "An element of `filters` is not a `Filter`.", remedy="Give `Filter` objects."
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the conditions as JSON."""
        return {"operator": self.operator.value, "filters": [each.as_dict() for each in self.filters]}


@dataclass(frozen=True, kw_only=True)
class AudienceCombinator:
    """Another audience, and how to combine it with the result so far.

    Args:
        operator: How the two audiences are combined.
        source_audience: The other audience.
        filters: Conditions on the other audience's users, applied before combining.
    """

    operator: CombineOperator
    source_audience: AudienceType
    filters: AudienceFilters | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "operator", member(CombineOperator, self.operator))

    def as_dict(self) -> dict[str, Any]:
        """Return the combinator as JSON."""
        return {
            "operator": self.operator.value,
            "source": reference(self.source_audience),
            "filters": None if self.filters is None else self.filters.as_dict(),
        }


class AudienceCombinatorBuilder:
    """Builder of an `AudienceCombinator`.

    Args:
        operator: How the two audiences are combined.
        source_audience: The other audience.
    """

    def __init__(self, *, operator: CombineOperator, source_audience: AudienceType) -> None:
        self._operator = operator
        self._source_audience = source_audience
        self._filters: AudienceFilters | None = None

    def with_filters(self, filters: AudienceFilters) -> Self:
        """Keep only the other audience's users that meet the conditions."""
        self._filters = filters
        return self

    def build(self) -> AudienceCombinator:
        """Return the combinator."""
        return AudienceCombinator(
            operator=self._operator, source_audience=self._source_audience, filters=self._filters
        )


class RuleBasedAudienceDefinition(AudienceDefinition):
    """Definition of a rule-based audience: a source, filters, and combinators applied from left to right.

    Args:
        name: Name of the audience.
        source_audience: The audience to start from; `BaseAudience()` for all users.
        filters: Conditions on the source's users.
        combinators: Other audiences, combined in this order.
        shared_with: Participants to share the audience with.
    """

    def __init__(
        self,
        *,
        name: str,
        source_audience: AudienceType,
        filters: AudienceFilters | None = None,
        combinators: list[AudienceCombinator] | None = None,
        shared_with: list[Participant] | None = None,
    ) -> None:
        super().__init__(name, shared_with)
        self.source_audience = source_audience
        self.filters = filters
        self.combinators = list(combinators or ())
        self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Return the definition as JSON, without the name and the participants it is shared with."""
        return self._checked(
            {
                "kind": "rule_based",
                "source": reference(self.source_audience),
                "filters": None if self.filters is None else self.filters.as_dict(),
                "combinators": [each.as_dict() for each in self.combinators],
            }
        )


class RuleBasedAudienceBuilder(AudienceBuilder):
    """Builder of a `RuleBasedAudienceDefinition`.

    Args:
        name: Name of the audience.
        source_audience: The audience to start from; `BaseAudience()` for all users.
    """

    def __init__(self, *, name: str, source_audience: AudienceType) -> None:
        super().__init__(name=name)
        self._source_audience = source_audience
        self._filters: AudienceFilters | None = None
        self._combinators: list[AudienceCombinator] = []

    def with_filters(self, filters: AudienceFilters) -> Self:
        """Keep only the source's users that meet the conditions."""
        self._filters = filters
        return self

    def with_combinator(self, combinators: list[AudienceCombinator]) -> Self:
        """Combine other audiences with the source, strictly from left to right."""
        self._combinators = [combinators] if isinstance(combinators, AudienceCombinator) else list(combinators)
        return self

    def build(self) -> RuleBasedAudienceDefinition:
        """Return the definition.

        Raises:
            InvalidDefinitionError: The definition is invalid.
        """
        return RuleBasedAudienceDefinition(
            name=self._name,
            source_audience=self._source_audience,
            filters=self._filters,
            combinators=self._combinators,
            shared_with=self._shared_with,
        )
