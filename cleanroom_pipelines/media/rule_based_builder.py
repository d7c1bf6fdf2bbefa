"""Rule-based audiences: a source, filters on it, and other audiences combined with it.

Lives here: filters, combinators, the definition and the builders.
Add here when a rule can say something new; `audiences.definitions` must know it first.
Keep out: what a rule means (`audiences.definitions`) and which users it finds (the server).
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
        values: The values to look for; EMPTY and NOT_EMPTY need none and ignore what is given.
        operator: What must hold of them.

    Raises:
        InvalidDefinitionError: There is no such attribute or operator, or the values do not go with it.
    """

    attribute: str
    values: list[str] = field(default_factory=list)
    operator: FilterOperator

    def __post_init__(self) -> None:
        operator = member(FilterOperator, self.operator)
        object.__setattr__(self, "operator", operator)
        if isinstance(self.values, str) or not isinstance(self.values, Iterable):
            raise InvalidDefinitionError("The values of a filter are a list.", remedy="Put them in brackets.")
        with definition_errors():
            checked = definitions.AttributeFilter(self.attribute, operator, tuple(self.values))
        object.__setattr__(self, "values", list(checked.values))

    def as_dict(self) -> dict[str, Any]:
        """The filter as JSON."""
        return {"attribute": self.attribute, "operator": self.operator.value, "values": list(self.values)}


@dataclass(frozen=True, kw_only=True)
class AudienceFilters:
    """Several conditions on a user.

    Args:
        filters: The conditions.
        operator: Whether all of them must hold or any.
    """

    filters: list[Filter]
    operator: MatchOperator

    def __post_init__(self) -> None:
        object.__setattr__(self, "operator", member(MatchOperator, self.operator))
        object.__setattr__(self, "filters", list(self.filters))
        if not all(isinstance(each, Filter) for each in self.filters):
            raise InvalidDefinitionError("What was given as a filter is none.", remedy="Give objects of `Filter`.")

    def as_dict(self) -> dict[str, Any]:
        """The conditions as JSON."""
        return {"operator": self.operator.value, "filters": [each.as_dict() for each in self.filters]}


@dataclass(frozen=True, kw_only=True)
class AudienceCombinator:
    """Another audience, and how it is combined with what stands before it.

    Args:
        operator: How the two are combined.
        source_audience: The other audience.
        filters: Conditions on the other audience's users, applied before the two are combined.
    """

    operator: CombineOperator
    source_audience: AudienceType
    filters: AudienceFilters | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "operator", member(CombineOperator, self.operator))

    def as_dict(self) -> dict[str, Any]:
        """The combinator as JSON."""
        return {
            "operator": self.operator.value,
            "source": reference(self.source_audience),
            "filters": None if self.filters is None else self.filters.as_dict(),
        }


class AudienceCombinatorBuilder:
    """Puts an `AudienceCombinator` together.

    Args:
        operator: How the two audiences are combined.
        source_audience: The other audience.
    """

    def __init__(self, *, operator: CombineOperator, source_audience: AudienceType) -> None:
        self._operator = operator
        self._source_audience = source_audience
        self._filters: AudienceFilters | None = None

    def with_filters(self, filters: AudienceFilters) -> Self:
        """Keep only those users of the other audience that meet the conditions."""
        self._filters = filters
        return self

    def build(self) -> AudienceCombinator:
        """The combinator."""
        return AudienceCombinator(
            operator=self._operator, source_audience=self._source_audience, filters=self._filters
        )


class RuleBasedAudienceDefinition(AudienceDefinition):
    """What a rule-based audience is: its source, filters, and what is combined with it from left to right.

    Args:
        name: Name of the audience.
        source_audience: The audience that it starts from; `BaseAudience()` for all users.
        filters: Conditions on the source's users.
        combinators: Other audiences, combined one after the other.
        shared_with: Participants that see the audience too.
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
        """The definition as JSON; it knows neither the name nor whom the audience is shared with."""
        return self._checked(
            {
                "kind": "rule_based",
                "source": reference(self.source_audience),
                "filters": None if self.filters is None else self.filters.as_dict(),
                "combinators": [each.as_dict() for each in self.combinators],
            }
        )


class RuleBasedAudienceBuilder(AudienceBuilder):
    """Puts a `RuleBasedAudienceDefinition` together.

    Args:
        name: Name of the audience.
        source_audience: The audience that it starts from; `BaseAudience()` for all users.
    """

    def __init__(self, *, name: str, source_audience: AudienceType) -> None:
        super().__init__(name=name)
        self._source_audience = source_audience
        self._filters: AudienceFilters | None = None
        self._combinators: list[AudienceCombinator] = []

    def with_filters(self, filters: AudienceFilters) -> Self:
        """Keep only those users of the source that meet the conditions."""
        self._filters = filters
        return self

    def with_combinator(self, combinators: list[AudienceCombinator]) -> Self:
        """Combine other audiences with the source, strictly from left to right."""
        self._combinators = [combinators] if isinstance(combinators, AudienceCombinator) else list(combinators)
        return self

    def build(self) -> RuleBasedAudienceDefinition:
        """The definition.

        Raises:
            InvalidDefinitionError: It cannot mean anything.
        """
        return RuleBasedAudienceDefinition(
            name=self._name,
            source_audience=self._source_audience,
            filters=self._filters,
            combinators=self._combinators,
            shared_with=self._shared_with,
        )
