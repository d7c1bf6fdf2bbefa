"""The statistics of a lookalike audience.

Lives here: `LalAudienceStatistics`, the points of its reach table, and what sets the audience apart.
Keep out: working them out (`similarity`, on the server) and fetching them (`compute_job.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cleanroom_pipelines.documents import ServerDocument
from cleanroom_pipelines.media.results import Result


@dataclass(frozen=True)
class ReachPoint(ServerDocument):
    """What a lookalike of one reach would be.

    Args:
        reach: In percent of all relevant users, 1 to 30.
        size: Users by the released count; None where that is hidden or too small to be told.
        tpr: Share of held-out seed users that are found at this reach; None where they are too few to be told.
        fpr: Share of other users that are taken along; None where `tpr` is.
    """

    reach: int
    size: int | None
    tpr: float | None
    fpr: float | None


@dataclass(frozen=True)
class DistinguishingValue(ServerDocument):
    """A value that the audience has more often than chance would give it.

    Args:
        attribute: `segments`, `age` or `gender`.
        value: One of those that `get_data_attributes` names.
        strength: How far it stands out, in standard deviations; None in a room that hides sizes.
    """

    attribute: str
    value: str
    strength: float | None = None


@dataclass
class LalAudienceStatistics(Result):
    """How well a lookalike audience's ranking finds seed users that it was not shown.

    Args:
        auc: Area under the ROC curve; None where too few seed users are known.
        fpr: False positive rates, in order of decreasing threshold; empty where `auc` is None.
        tpr: True positive rates, in order of decreasing threshold; empty where `auc` is None.
        reach: The whole reach table, 1 to 30 percent; empty if it was not told.
        seed_size: Matched users of the source by the released count; None where hidden.
        addressable_size: All relevant users; None where hidden.
        test_set_sizes: How many users the curve was measured on.
        explanation: What sets the audience apart, the strongest first; empty where nothing does, or untold.
    """

    auc: float | None = None
    fpr: list[float] = field(default_factory=list)
    tpr: list[float] = field(default_factory=list)
    reach: list[ReachPoint] = field(default_factory=list, kw_only=True)
    seed_size: int | None = field(default=None, kw_only=True)
    addressable_size: int | None = field(default=None, kw_only=True)
    test_set_sizes: dict[str, Any] = field(default_factory=dict, kw_only=True)
    explanation: list[DistinguishingValue] = field(default_factory=list, kw_only=True)

    def __repr__(self) -> str:
        return f"LalAudienceStatistics(auc={self.auc!r}, {len(self.fpr)} points, {len(self.reach)} reaches)"

    def at_reach(self, reach: int) -> ReachPoint | None:
        """What a lookalike of this reach would be; None if the table does not hold it."""
        return next((point for point in self.reach if point.reach == reach), None)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Read `model_dump` back, or what the server tells; `auc`, `fpr` and `tpr` suffice."""
        return super().from_dict({name: value for name, value in d.items() if value is not None})
