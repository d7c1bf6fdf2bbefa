"""How the seed audiences and the base audience meet.

Lives here: `overlap_statistics`, one row per type of seed audience, and the question that each row asks.
Add here when a row tells something more.
Keep out: what sets the matched users apart (insights), and how counts are released (privacy).

A row costs one unit of the privacy budget and tells two numbers. If each had noise of its own, a unit would buy
two draws on the same users. So the matched ids are released as matched users plus the rest (ids beyond one a user;
negative where an id stands for several users): the first part has the noise of the overlap size, and a user who
comes with one id is in no other part.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cleanroom_pipelines.audiences.canonical import canonical
from cleanroom_pipelines.audiences.definitions import (
    BaseRef,
    Definition,
    Filter,
    FilterOperator,
    Filters,
    MatchOperator,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.audiences.relations import Relations
from cleanroom_pipelines.errors import NotFoundError, UsageError
from cleanroom_pipelines.privacy import Released, Releaser, cost_of_rows, ratio

_NO_VALUES: Mapping[str, str] = MappingProxyType({})
_USERS, _IDS_BEYOND_USERS = "", "ids beyond one a user"

_COUNTS = """-- one row per type of seed audience
WITH known_ids AS (  -- one row per type and matching id that a relevant user has
    SELECT seeds.audience_type, seeds.digest
    FROM room_seeds AS seeds
    SEMI JOIN (
        SELECT matching.digest
        FROM room_matching AS matching
        SEMI JOIN room_users AS users ON users.user_id = matching.user_id
    ) AS known ON known.digest = seeds.digest
),
ids AS (SELECT audience_type, count(*) AS n FROM room_seeds GROUP BY audience_type),
matched_ids AS (SELECT audience_type, count(*) AS n FROM known_ids GROUP BY audience_type),
matched_users AS (SELECT audience_type, count(*) AS n FROM room_matched GROUP BY audience_type)
SELECT
    ids.audience_type,
    ids.n AS n_ids,
    coalesce(matched_ids.n, 0) AS n_matched_ids,
    coalesce(matched_users.n, 0) AS n_matched_users
FROM ids
LEFT JOIN matched_ids ON matched_ids.audience_type = ids.audience_type
LEFT JOIN matched_users ON matched_users.audience_type = ids.audience_type
ORDER BY ids.audience_type"""


@dataclass(frozen=True)
class OverlapRow:
    """How one type of seed audience and the base audience meet.

    Args:
        audience_type: The type, as the advertiser's file says it.
        n_seed_ids: Valid unique ids that the advertiser brought for it: exact, and for the advertiser only.
        overlap: Distinct relevant users of the publisher that match.
        match_rate: Matched seed ids ÷ valid unique seed ids, 0 to 1; None where too few match.
    """

    audience_type: str
    n_seed_ids: int
    overlap: Released
    match_rate: float | None

    def as_dict(self, *, with_own_counts: bool) -> dict[str, Any]:
        """The row as JSON.

        Args:
            with_own_counts: Whether the reader is the advertiser, who may see the count of its own upload.
        """
        return {
            "audience_type": self.audience_type,
            "advertiser_size": self.n_seed_ids if with_own_counts else None,
            "overlap_size": self.overlap.value,
            "is_empty": not self.overlap.is_enough(),
            "match_rate": self.match_rate,
        }


@dataclass(frozen=True)
class OverlapStatistics:
    """How the seed audiences and the base audience meet.

    Args:
        rows: One per type of seed audience, by type.
        noise: How far the numbers may be off, for JSON.
    """

    rows: tuple[OverlapRow, ...]
    noise: dict[str, Any]

    @property
    def cost(self) -> int:
        """Units of the privacy budget that asking for it takes."""
        return cost_of_rows(len(self.rows))

    def as_dict(self, *, with_own_counts: bool) -> dict[str, Any]:
        """The statistics as JSON.

        Args:
            with_own_counts: Whether the reader is the advertiser, who may see the counts of its own upload.
        """
        rows = [row.as_dict(with_own_counts=with_own_counts) for row in self.rows]
        return {"rows": rows, "noise": self.noise}


def overlap_statistics(relations: Relations, releaser: Releaser) -> OverlapStatistics:
    """Count and release how the seed audiences and the base audience meet.

    Args:
        relations: The room.
        releaser: Releases the counts.

    Returns:
        Released numbers, and the advertiser's own.

    Raises:
        EngineError: The engine failed.
    """
    rows = []
    for counts in relations.engine.fetch(_COUNTS).to_pylist():
        question = question_about(counts["audience_type"])
        n_users = counts["n_matched_users"]
        parts = {_USERS: n_users, _IDS_BEYOND_USERS: counts["n_matched_ids"] - n_users}
        rows.append(
            OverlapRow(
                counts["audience_type"],
                counts["n_ids"],
                releaser.count(n_users, question=question),
                ratio(releaser.total(parts, question=question), counts["n_ids"]),
            )
        )
    return OverlapStatistics(tuple(rows), releaser.policy.noise())


def question_about(audience_type: str | None, values: Mapping[str, str] = _NO_VALUES) -> str:
    """The canonical text of the question how many users of a source have certain values.

    It is that of the size of the audience with those filters, so that both get one answer; without values it is
    that of the remarketing audience, or of the whole base.

    Args:
        audience_type: The type of the seed audience; None for the base audience.
        values: A value by attribute.
    """
    try:
        source = BaseRef() if audience_type is None else SeedRef(audience_type)
        filters = tuple(Filter(name, FilterOperator.CONTAINS_ANY, (value,)) for name, value in values.items())
        return canonical(RuleBased(source, Filters(MatchOperator.MATCH_ALL, filters)), _no_audiences)
    except UsageError:
        # A file can hold a text that no definition can name (with a NUL). Then nobody can ask in another way.
        return json.dumps(["users", audience_type, sorted(values.items())])


def _no_audiences(_: str) -> Definition:
    raise NotFoundError("There is no such audience.", remedy="Ask about seed audiences only.")
