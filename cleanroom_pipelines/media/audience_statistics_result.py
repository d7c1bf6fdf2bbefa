"""The statistics of a lookalike audience.

Lives here: `LalAudienceStatistics`, the points of its reach table, and its distinguishing values.
Keep out: computing them (`similarity`, on the server) and fetching them (`compute_job.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from cleanroom_pipelines.documents import ServerDocument


@dataclass(frozen=True)
class ReachPoint(ServerDocument):
    """Size and quality of a lookalike audience at one reach.

    Args:
        reach: In percent of all relevant users, 1 to 30.
        size: Released count of users; None if it is hidden or too small to publish.
        tpr: Share of held-out seed users found at this reach; None if they are too few to publish.
        fpr: Share of other users that are included; None if `tpr` is None.
    """

    reach: int
    size: int | None
    tpr: float | None
    fpr: float | None


@dataclass(frozen=True)
class DistinguishingValue(ServerDocument):
    """An attribute value that is more frequent in the audience than expected by chance.

    Args:
        attribute: `segments`, `age` or `gender`.
        value: One of the values that `get_data_attributes` returns.
        strength: Deviation from chance, in standard deviations; None in a room that hides sizes.
    """

    attribute: str
    value: str
    strength: float | None = None


@dataclass
class LalAudienceStatistics(ServerDocument):
    """How well a lookalike audience's ranking finds held-out seed users.

    Args:
        auc: Area under the ROC curve; None if too few seed users are known.
        fpr: False positive rate at each threshold, highest threshold first; empty if `auc` is None.
        tpr: True positive rate at each threshold, highest threshold first; empty if `auc` is None.
        reach: The whole reach table, 1 to 30 percent; empty if it is not published.
        seed_size: Released count of the source's matched users; None if hidden.
        addressable_size: Number of all relevant users; None if hidden.
        test_set_sizes: Numbers of users on which the curve was measured.
        explanation: Distinguishing values, strongest first; empty if there are none or they are not published.
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
        """Return the point of the reach table for one reach; None if the table lacks it."""
        return next((point for point in self.reach if point.reach == reach), None)

    def model_dump(self) -> dict[str, Any]:
        """Return the statistics as a JSON-serializable dictionary."""
        return self.as_dict()

    def model_dump_json(self, indent: int | None = None) -> str:
        """Return the statistics as JSON text."""
        return json.dumps(self.as_dict(), indent=indent, ensure_ascii=False)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Parse the output of `model_dump`, or the server's response; only `auc`, `fpr` and `tpr` are required."""
        return super().from_dict({name: value for name, value in d.items() if value is not None})
