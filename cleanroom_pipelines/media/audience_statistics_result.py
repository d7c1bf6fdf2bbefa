"""The statistics of a lookalike audience.

Lives here: `LalAudienceStatistics`, the points of its reach table, and what sets the audience apart.
Keep out: working them out (`similarity`, on the server) and fetching them (`compute_job.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from cleanroom_pipelines.documents import ServerDocument


@dataclass(frozen=True)
class ReachPoint(ServerDocument):
    """What a lookalike of one reach would be.

    Args:
        reach: In percent of all relevant users, 1 to 30.
        size: Users by the released count; None where that is hidden or too small to be told.
        tpr: Share of held-out seed users that are found at this reach.
        fpr: Share of other users that are taken along.
    """

    reach: int
    size: int | None
    tpr: float
    fpr: float


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


class LalAudienceStatistics:
    """How well a lookalike audience's ranking finds seed users that it was not shown.

    Args:
        auc: Area under the ROC curve.
        fpr: False positive rates, in order of decreasing threshold.
        tpr: True positive rates, in order of decreasing threshold.
        reach: The whole reach table, 1 to 30 percent; empty if it was not told.
        seed_size: Matched users of the source by the released count; None where hidden.
        addressable_size: All relevant users; None where hidden.
        test_set_sizes: How many users the curve was measured on.
        explanation: What sets the audience apart, the strongest first; empty where nothing does, or untold.
    """

    def __init__(
        self,
        auc: float,
        fpr: list[float],
        tpr: list[float],
        *,
        reach: Sequence[ReachPoint] = (),
        seed_size: int | None = None,
        addressable_size: int | None = None,
        test_set_sizes: Mapping[str, Any] | None = None,
        explanation: Sequence[DistinguishingValue] = (),
    ) -> None:
        self.auc = auc
        self.fpr = list(fpr)
        self.tpr = list(tpr)
        self.reach = list(reach)
        self.seed_size = seed_size
        self.addressable_size = addressable_size
        self.test_set_sizes = dict(test_set_sizes or {})
        self.explanation = list(explanation)

    def __repr__(self) -> str:
        return f"LalAudienceStatistics(auc={self.auc!r}, {len(self.fpr)} points, {len(self.reach)} reaches)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LalAudienceStatistics):
            return NotImplemented
        return self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    def at_reach(self, reach: int) -> ReachPoint | None:
        """What a lookalike of this reach would be; None if the table does not hold it."""
        return next((point for point in self.reach if point.reach == reach), None)

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Read `model_dump` back, or what the server tells; `auc`, `fpr` and `tpr` suffice."""
        return cls(
            auc=d["auc"],
            fpr=d["fpr"],
            tpr=d["tpr"],
            reach=[ReachPoint.from_dict(point) for point in d.get("reach") or ()],
            seed_size=d.get("seed_size"),
            addressable_size=d.get("addressable_size"),
            test_set_sizes=d.get("test_set_sizes"),
            explanation=[DistinguishingValue.from_dict(value) for value in d.get("explanation") or ()],
        )

    def model_dump(self) -> dict[str, Any]:
        """The statistics as a dictionary that JSON can hold."""
        return {
            "auc": self.auc,
            "fpr": list(self.fpr),
            "tpr": list(self.tpr),
            "reach": [point.as_dict() for point in self.reach],
            "seed_size": self.seed_size,
            "addressable_size": self.addressable_size,
            "test_set_sizes": dict(self.test_set_sizes),
            "explanation": [value.as_dict() for value in self.explanation],
        }

    def model_dump_json(self, indent: int | None = None) -> str:
        """The statistics as JSON text.

        Args:
            indent: Spaces of indentation; None for one line.
        """
        return json.dumps(self.model_dump(), indent=indent, ensure_ascii=False)
