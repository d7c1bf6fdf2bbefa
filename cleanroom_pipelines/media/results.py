"""What jobs work out: overlap, insights, data attributes, sizes and lists.

Lives here: one class per answer, each with its rows, its noise and its JSON form.
Add here when a job gets a new answer; lookalike statistics stand in `audience_statistics_result.py`, as they do
in the API that this one follows.
Keep out: working anything out. A number that is None is hidden, or too small to be told.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cleanroom_pipelines.documents import ServerDocument


class Result(ServerDocument):
    """Something that can be written as JSON."""

    def model_dump(self) -> dict[str, Any]:
        """The answer as a dictionary that JSON can hold."""
        return self.as_dict()

    def model_dump_json(self, indent: int | None = None) -> str:
        """The answer as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, ensure_ascii=False)


@dataclass(frozen=True)
class OverlapRow(Result):
    """How one type of seed audience and the base audience meet.

    Args:
        audience_type: Type of the seed audience.
        advertiser_size: Ids that the advertiser brought; only the advertiser is told.
        overlap_size: Distinct users of the publisher that matched.
        is_empty: Whether too few matched to be told.
        match_rate: Matched seed ids among the advertiser's valid unique ids, 0 to 1.
    """

    audience_type: str
    advertiser_size: int | None = None
    overlap_size: int | None = None
    is_empty: bool | None = None
    match_rate: float | None = None


@dataclass(frozen=True)
class OverlapStatistics(Result):
    """How the seed audiences and the base audience meet.

    Args:
        rows: One per type of seed audience.
        noise: How far the numbers may be off, as the server states it.
    """

    rows: tuple[OverlapRow, ...]
    noise: Mapping[str, Any] = field(default_factory=dict)

    def of(self, audience_type: str) -> OverlapRow | None:
        """The row of one type; None if there is no such type."""
        return next((row for row in self.rows if row.audience_type == audience_type), None)


@dataclass(frozen=True)
class InsightsRow(Result):
    """One group of users, seen in the overlap and among all matchable users.

    Args:
        interest: The segment; None for all.
        age: The age bracket; None for all.
        gender: The gender; None for all.
        affinity_ratio: Share in the overlap divided by the share among the matchable users.
        share_in_overlap: 0 to 1.
        share_in_matchable: 0 to 1.
        addressable_size: Users of the publisher in the group.
    """

    interest: str | None = None
    age: str | None = None
    gender: str | None = None
    affinity_ratio: float | None = None
    share_in_overlap: float | None = None
    share_in_matchable: float | None = None
    addressable_size: int | None = None


@dataclass(frozen=True)
class AudienceInsights(Result):
    """The insights on one type of seed audience.

    Args:
        audience_type: Type of the seed audience.
        rows: One per interest, age, gender and pair of them.
    """

    audience_type: str
    rows: tuple[InsightsRow, ...]


@dataclass(frozen=True)
class Insights(Result):
    """What sets the matched users of each seed audience apart.

    Args:
        audiences: One per type of seed audience.
        noise: How far the numbers may be off, as the server states it.
    """

    audiences: tuple[AudienceInsights, ...]
    noise: Mapping[str, Any] = field(default_factory=dict)

    def of(self, audience_type: str) -> AudienceInsights | None:
        """The insights on one type; None if there is no such type."""
        return next((each for each in self.audiences if each.audience_type == audience_type), None)


@dataclass(frozen=True)
class DataAttribute(Result):
    """An attribute that filters can be set on.

    Args:
        name: `age`, `gender` or `segments`.
        type: `NUMERIC_RANGE` or `CATEGORICAL`.
        values: The values it has in the base audience.
        operators: Wire values of the filter operators that it allows.
    """

    name: str
    type: str
    values: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class DataAttributes(Result):
    """The attributes that filters can be set on."""

    attributes: tuple[DataAttribute, ...]

    def of(self, name: str) -> DataAttribute | None:
        """The attribute of a name; None if the base audience has none such."""
        return next((each for each in self.attributes if each.name == name), None)


@dataclass(frozen=True)
class AudienceSize(Result):
    """How many users an audience has.

    Args:
        size: Users by the released count; None where it is not told.
        reason: Why it is not told: `hidden` or `too_few`; None where it is.
        noise: How far the number may be off, as the server states it.
    """

    size: int | None = None
    reason: str | None = None
    noise: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UserListFile(Result):
    """A file of a user list.

    Args:
        name: Its name.
        n_users: Users in it.
        n_bytes: Its size.
        sha256: Of its bytes, in hex.
    """

    name: str
    n_users: int
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class UserListDelivery(Result):
    """What was delivered for a user list.

    Args:
        files: The files, in order.
        manifest: What the export says of itself.
        reveals: What the list tells by design: `REMARKETING`, `EXCLUSION`, `seed`, `ensemble`; empty for none.
    """

    files: tuple[UserListFile, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    reveals: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrivacyBudget(Result):
    """What the two organisations that provide a room's data can still ask.

    Args:
        spent: Units that were spent.
        total: Units that may be spent.
        pair: The two organisations.
        period: `month` where the units are given every month, else None.
        bound: How often the best attacker is right, in plain words and figures.
        share: The most units that the caller's organisation may spend; None where none was set.
        left: Units that the caller's organisation can still spend; None where the server does not say.
    """

    spent: int | float
    total: int | float
    pair: tuple[str, ...] = ()
    period: str | None = None
    bound: Mapping[str, Any] = field(default_factory=dict)
    share: int | float | None = None
    left: int | float | None = None

    @property
    def remaining(self) -> float:
        """Units that are left."""
        if self.left is not None:
            return self.left
        return max(0, round(self.total - self.spent, 1))


@dataclass(frozen=True)
class PriceEstimate(Result):
    """What a question would cost.

    Args:
        units: Its price.
        is_at_most: Whether that is the most it can cost: what decides the price was not paid yet.
        left: Units that are left now.
        is_affordable: Whether it can be paid.
    """

    units: int | float
    is_at_most: bool
    left: int | float
    is_affordable: bool


@dataclass(frozen=True)
class BudgetProposal(Result):
    """What both organisations that provide a room's data must approve.

    Args:
        id: Its id.
        kind: `refill`, `period`, `share` or `full_lookalike`.
        units: Of a refill or a share.
        approved_by: Organisations that approved it.
        is_effective: Whether it is in force.
        bound: The bound now.
        bound_then: The bound with it.
        organization: Whose share it is.
    """

    id: str
    kind: str
    units: int | float
    approved_by: tuple[str, ...]
    is_effective: bool
    bound: Mapping[str, Any]
    bound_then: Mapping[str, Any]
    organization: str | None = None
