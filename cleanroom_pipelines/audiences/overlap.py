"""How the seed audiences and the base audience meet.

Lives here: `overlap_statistics`, one row per type of seed audience, and the question that each row asks.
Add here when a row tells something more.
Keep out: what sets the matched users apart (insights), and how counts are released (privacy).

A row is one count: the released overlap. The match rate is that count over the ids that the advertiser brought;
only the advertiser may know how many those are, so only the advertiser gets it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cleanroom_pipelines.audiences.canonical import NAMES, canonical
from cleanroom_pipelines.audiences.definitions import (
    AttributeFilter,
    BaseRef,
    Definition,
    FilterOperator,
    Filters,
    MatchOperator,
    RuleBased,
    SeedRef,
)
from cleanroom_pipelines.audiences.relations import Relations
from cleanroom_pipelines.errors import NotFoundError, UsageError
from cleanroom_pipelines.privacy import COUNT, Price, Released, Releaser, ratio

_NO_VALUES: Mapping[str, str] = MappingProxyType({})
_COUNTS = """-- one row per type of seed audience
WITH ids AS (SELECT audience_type, count(*) AS n FROM room_seeds GROUP BY audience_type),
matched AS (SELECT audience_type, count(*) AS n FROM room_counted GROUP BY audience_type)
SELECT ids.audience_type, ids.n AS n_ids, coalesce(matched.n, 0) AS n_matched
FROM ids LEFT JOIN matched ON matched.audience_type = ids.audience_type
ORDER BY ids.audience_type"""


@dataclass(frozen=True)
class ReleasedOverlapRow:
    """How one type of seed audience and the base audience meet.

    Args:
        audience_type: The type, as the advertiser's file says it.
        n_seed_ids: Valid unique ids that the advertiser brought for it: exact, and for the advertiser only.
        overlap: Relevant users of the publisher that match, an id standing for one user.
        match_rate: Overlap ÷ valid unique seed ids, 0 to 1, for the advertiser only; None where too few match.
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
            "match_rate": self.match_rate if with_own_counts else None,
        }


@dataclass(frozen=True)
class ReleasedOverlap:
    """How the seed audiences and the base audience meet.

    Args:
        rows: One per type of seed audience, by type.
        questions: The canonical text of the question that each row answers.
        price: Of one row.
        noise: How far the numbers may be off, for JSON.
    """

    rows: tuple[ReleasedOverlapRow, ...]
    questions: tuple[str, ...]
    price: Price
    noise: dict[str, Any]

    def as_dict(self, *, with_own_counts: bool) -> dict[str, Any]:
        """The statistics as JSON.

        Args:
            with_own_counts: Whether the reader is the advertiser, who may see the counts of its own upload.
        """
        rows = [row.as_dict(with_own_counts=with_own_counts) for row in self.rows]
        return {"rows": rows, "noise": self.noise}


def overlap_statistics(
    relations: Relations, releaser: Releaser, seeds: Mapping[str, str] = NAMES
) -> ReleasedOverlap:
    """Count and release how the seed audiences and the base audience meet.

    Args:
        relations: The room.
        releaser: Releases the counts.
        seeds: Keyed digest of each type's ids.

    Returns:
        Released numbers, and the advertiser's own.

    Raises:
        EngineError: The engine failed.
    """
    rows, questions = [], []
    for counts in relations.engine.fetch(_COUNTS).to_pylist():
        question = question_about(counts["audience_type"], seeds=seeds)
        overlap = releaser.count(counts["n_matched"], question=question, price=COUNT)
        rows.append(
            ReleasedOverlapRow(counts["audience_type"], counts["n_ids"], overlap, ratio(overlap, counts["n_ids"]))
        )
        questions.append(question)
    return ReleasedOverlap(tuple(rows), tuple(questions), COUNT, releaser.noise_of(COUNT))


def question_about(
    audience_type: str | None, values: Mapping[str, str] = _NO_VALUES, *, seeds: Mapping[str, str] = NAMES
) -> str:
    """The canonical text of the question how many users of a source have certain values.

    It is that of the size of the audience with those filters, so that both get one answer; without values it is
    that of the remarketing audience, or of the whole base.

    Args:
        audience_type: The type of the seed audience; None for the base audience.
        values: A value by attribute.
        seeds: Keyed digest of each type's ids.
    """
    try:
        source = BaseRef() if audience_type is None else SeedRef(audience_type)
        filters = tuple(
            AttributeFilter(name, FilterOperator.CONTAINS_ANY, (value,)) for name, value in values.items()
        )
        return canonical(RuleBased(source, Filters(MatchOperator.MATCH_ALL, filters)), _no_audiences, seeds)
    except UsageError:
        # A file can hold a text that no definition can name (with a NUL). Then nobody can ask in another way.
        return json.dumps(["users", seeds.get(audience_type or "", audience_type), sorted(values.items())])


def _no_audiences(_: str) -> Definition:
    raise NotFoundError("There is no such audience.", remedy="Ask about seed audiences only.")
