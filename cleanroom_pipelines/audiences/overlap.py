"""Overlap statistics of the seed audiences and the base audience.

Lives here: `overlap_statistics`, one row per type of seed audience, and the canonical question of each row.
Add here when a row gets a new figure.
Keep out: characteristics of the matched users (insights), and releasing counts (privacy).

Each row releases one count: the overlap. The match rate is that count divided by the number of ids the advertiser
uploaded. Only the advertiser may know that number, so only the advertiser sees the match rate.
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
from cleanroom_pipelines.audiences.relations import COUNTED, Relations, join_matched
from cleanroom_pipelines.errors import NotFoundError, UsageError
from cleanroom_pipelines.privacy import COUNT, Price, Released, Releaser, error_of, ratio

_NO_VALUES: Mapping[str, str] = MappingProxyType({})
_COUNTS = """-- one row per type of seed audience
WITH ids AS (SELECT audience_type, count(*) AS n FROM room_seeds GROUP BY audience_type),
matched AS (SELECT audience_type, count(*) AS n FROM room_counted GROUP BY audience_type)
SELECT ids.audience_type, ids.n AS n_ids, coalesce(matched.n, 0) AS n_matched
FROM ids LEFT JOIN matched ON matched.audience_type = ids.audience_type
ORDER BY ids.audience_type"""


@dataclass(frozen=True)
class ReleasedOverlapRow:
    """Overlap of one type of seed audience with the base audience.

    Args:
        audience_type: The type, as in the advertiser's file.
        n_seed_ids: Valid unique ids that the advertiser uploaded for it: exact, and for the advertiser only.
        overlap: Matching relevant users of the publisher, one user per id.
        match_rate: Overlap ÷ valid unique seed ids, 0 to 1, for the advertiser only; None if too few match.
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
            "match_rate_error": error_of(self.match_rate, self.overlap) if with_own_counts else None,
        }


@dataclass(frozen=True)
class ReleasedOverlap:
    """Overlap of all seed audiences with the base audience.

    Args:
        rows: One row per type of seed audience, sorted by type.
        questions: The canonical question of each row.
        price: The price of one row.
        noise: The error bounds of the numbers, as a JSON object.
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
    """Count and release the overlap of the seed audiences with the base audience.

    Args:
        relations: The room's relations.
        releaser: Releases the counts.
        seeds: Keyed digest of each type's ids.

    Returns:
        Released overlaps, and the advertiser's own id counts.

    Raises:
        EngineError: The engine failed.
    """
    rows, questions = [], []
    join_matched(relations.engine, COUNTED)
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
    """Return the canonical text of the question: how many users of a source have these attribute values?

    It equals the size question of the audience with those filters, so that both get the same released count.
    Without values it is the question of the remarketing audience, or of the whole base.

    Args:
        audience_type: The type of the seed audience; None for the base audience.
        values: One value per attribute.
        seeds: Keyed digest of each type's ids.
    """
    try:
        source = BaseRef() if audience_type is None else SeedRef(audience_type)
        filters = tuple(
            AttributeFilter(name, FilterOperator.CONTAINS_ANY, (value,)) for name, value in values.items()
        )
        return canonical(RuleBased(source, Filters(MatchOperator.MATCH_ALL, filters)), _no_audiences, seeds)
    except UsageError:
        # A file can contain a text that no definition accepts (with a NUL), so no equivalent question exists.
        return json.dumps(["users", seeds.get(audience_type or "", audience_type), sorted(values.items())])


def _no_audiences(_: str) -> Definition:
    raise NotFoundError("Only seed audiences have statistics.", remedy="Give a type of seed audience.")
