"""Results of jobs: overlap, insights, data attributes, sizes and user lists.

Lives here: one class per result, each with its rows, its noise and its JSON form.
Add here when a job gets a new result; lookalike statistics are in `audience_statistics_result.py`, as they are in
the API that this one follows.
Keep out: computation. A number that is None is hidden, or too small to publish.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cleanroom_pipelines.documents import ServerDocument


class Result(ServerDocument):
    """A result that can be written as JSON."""

    def model_dump(self) -> dict[str, Any]:
        """Return the result as a JSON-serializable dictionary."""
        return self.as_dict()

    def model_dump_json(self, indent: int | None = None) -> str:
        """Return the result as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, ensure_ascii=False)


@dataclass(frozen=True)
class OverlapRow(Result):
    """The overlap of one type of seed audience with the base audience.

    Args:
        audience_type: Type of the seed audience.
        advertiser_size: Number of ids that the advertiser provided; visible to the advertiser only.
        overlap_size: Number of distinct matched users of the publisher.
        is_empty: Whether the number of matched users is too small to publish.
        match_rate: Share of the advertiser's valid unique ids that matched, 0 to 1.
    """

    audience_type: str
    advertiser_size: int | None = None
    overlap_size: int | None = None
    is_empty: bool | None = None
    match_rate: float | None = None


@dataclass(frozen=True)
class OverlapStatistics(Result):
    """The overlap of the seed audiences with the base audience.

    Args:
        rows: One per type of seed audience.
        noise: Error bounds of the numbers, as stated by the server.
    """

    rows: tuple[OverlapRow, ...]
    noise: Mapping[str, Any] = field(default_factory=dict)

    def of(self, audience_type: str) -> OverlapRow | None:
        """Return the row of one type of seed audience; None if the type does not exist."""
        return next((row for row in self.rows if row.audience_type == audience_type), None)


@dataclass(frozen=True)
class InsightsRow(Result):
    """One group of users, compared between the overlap and all matchable users.

    Args:
        interest: The segment; None for all.
        age: The age bracket; None for all.
        gender: The gender; None for all.
        affinity_ratio: The group's share in the overlap divided by its share among all matchable users.
        share_in_overlap: The group's share in the overlap, 0 to 1.
        share_in_matchable: The group's share among all matchable users, 0 to 1.
        addressable_size: Number of the publisher's users in the group.
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
    """What distinguishes the matched users of each seed audience.

    Args:
        audiences: One per type of seed audience.
        noise: Error bounds of the numbers, as stated by the server.
    """

    audiences: tuple[AudienceInsights, ...]
    noise: Mapping[str, Any] = field(default_factory=dict)

    def of(self, audience_type: str) -> AudienceInsights | None:
        """Return the insights on one type of seed audience; None if the type does not exist."""
        return next((each for each in self.audiences if each.audience_type == audience_type), None)


@dataclass(frozen=True)
class DataAttribute(Result):
    """An attribute that filters can use.

    Args:
        name: `age`, `gender` or `segments`.
        type: `NUMERIC_RANGE` or `CATEGORICAL`.
        values: Its values in the base audience.
        operators: Wire values of the filter operators that it supports.
    """

    name: str
    type: str
    values: tuple[str, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class DataAttributes(Result):
    """The attributes that filters can use."""

    attributes: tuple[DataAttribute, ...]

    def of(self, name: str) -> DataAttribute | None:
        """Return the attribute with a name; None if the base audience lacks it."""
        return next((each for each in self.attributes if each.name == name), None)


@dataclass(frozen=True)
class AudienceSize(Result):
    """The size of an audience.

    Args:
        size: Released count of users; None if it is withheld.
        reason: Why it is withheld: `hidden` or `too_few`; None if it is published.
        noise: Error bounds of the number, as stated by the server.
    """

    size: int | None = None
    reason: str | None = None
    noise: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UserListFile(Result):
    """A file of a user list.

    Args:
        name: Its name.
        n_users: Number of users in it.
        n_bytes: Its size in bytes.
        sha256: SHA-256 of its content, in hex.
    """

    name: str
    n_users: int
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class UserListDelivery(Result):
    """The files of an exported user list.

    Args:
        files: The files, in order.
        manifest: The export's description of itself.
        reveals: What the list discloses by design: `REMARKETING`, `EXCLUSION`, `seed`, `ensemble`; may be empty.
    """

    files: tuple[UserListFile, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    reveals: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrivacyBudget(Result):
    """The privacy budget of the two organisations that provide a room's data.

    Args:
        spent: Units spent.
        total: Units in total.
        pair: The two organisations.
        period: `month` if the units are renewed every month, else None.
        bound: How often the best possible attacker is right, in words and figures.
        share: Largest number of units that the caller's organisation may spend; None for no limit.
        left: Units that the caller's organisation can still spend; None if the server does not report it.
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
        """The budget units that remain."""
        if self.left is not None:
            return self.left
        return max(0, round(self.total - self.spent, 1))


@dataclass(frozen=True)
class PriceEstimate(Result):
    """The price of a query.

    Args:
        units: Its price in units.
        is_at_most: Whether the price is an upper bound, because the size that determines it has not been paid yet.
        left: Units remaining now.
        is_affordable: Whether the remaining units suffice.
    """

    units: int | float
    is_at_most: bool
    left: int | float
    is_affordable: bool


@dataclass(frozen=True)
class BudgetProposal(Result):
    """A proposal that both of a room's data providers must approve.

    Args:
        id: Its id.
        kind: `refill`, `period`, `share` or `full_lookalike`.
        units: Units of a refill or a share.
        approved_by: Organisations that approved it.
        is_effective: Whether it is in force.
        bound: The current privacy bound.
        bound_then: The privacy bound with the proposal in force.
        organization: The organisation whose share it is.
    """

    id: str
    kind: str
    units: int | float
    approved_by: tuple[str, ...]
    is_effective: bool
    bound: Mapping[str, Any]
    bound_then: Mapping[str, Any]
    organization: str | None = None
