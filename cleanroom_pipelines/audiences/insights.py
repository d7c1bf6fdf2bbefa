"""Insights: characteristics of the matched users of each seed audience.

Lives here: `base_figures` (released figures of the base alone), and `insights`: tables by interest, age, gender
and pairs of these.
Add here when users are grouped in another way.
Keep out: total overlap (overlap), and releasing counts (privacy).

Cells. A user is counted once per cell. A user without an attribute is in none of its cells. Only five of a user's
interests count, the first by keyed hash and the same in every table. One person therefore enters at most 18 cells,
and every table has the same price whatever it contains. The set of cells does not depend on who matched: each
listed value (25 relevant users, see `attributes`) and each pair of these is a cell, shown if the released count of
its matchable users is large enough. A threshold on the true count of a pair would reveal single users. A cell with
too few users in the overlap is still shown, with nulls.

Noise. All cells of a table have the same noise. A cell is a different question from the size of the audience with
the same filters, so the two released counts may differ. A cell's addressable users are its matchable users scaled
by the ratio of the two totals.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple, Self

from cleanroom_pipelines.audiences.attributes import LEAST_USERS_OF_A_VALUE, in_reading_order
from cleanroom_pipelines.audiences.canonical import NAMES
from cleanroom_pipelines.audiences.overlap import question_about
from cleanroom_pipelines.audiences.relations import COUNTED, Relations, join_matched
from cleanroom_pipelines.privacy import INSIGHTS, Released, Releaser, affinity_ratio, error_of, ratio, released
from cleanroom_pipelines.privacy.prices import BASE_COUNT, BASE_TABLE, COUNT, MOST_INTERESTS

# In row order: single attributes first, then pairs.
_GROUPINGS = (("interest",), ("age",), ("gender",), ("interest", "age"), ("interest", "gender"), ("age", "gender"))
_COLUMN_OF = {"interest": "segments.segment", "age": "users.age", "gender": "users.gender"}
_NAMED = """-- one row per interest that has a name
CREATE OR REPLACE TEMP TABLE room_named AS
SELECT segments.segment FROM room_segments AS segments
SEMI JOIN room_users AS users ON users.user_id = segments.user_id
GROUP BY segments.segment HAVING count(*) >= ?"""
_INTERESTS = """-- one row per user and interest of hers that enters tables
CREATE OR REPLACE TEMP TABLE room_interests AS
SELECT segments.user_id, segments.segment
FROM room_segments AS segments SEMI JOIN room_named AS named ON named.segment = segments.segment
QUALIFY row_number() OVER (
  PARTITION BY segments.user_id ORDER BY md5(concat(?, segments.user_id, ' ', segments.segment)), segments.segment
) <= ?"""
_TOTALS = """-- one row: the relevant users, and those with a matching id
SELECT count(*) AS n_relevant, count(*) FILTER (WHERE is_matchable) AS n_matchable FROM room_users"""
_N_MATCHED = """-- one row per type of seed audience that has matched users
SELECT audience_type, count(*) AS n FROM room_counted GROUP BY audience_type"""
BASE_QUESTION = "figures of the base audience"


class _Cell(NamedTuple):
    interest: str | None
    age: str | None
    gender: str | None


@dataclass(frozen=True)
class ReleasedInsightsRow:
    """One cell: users who share an interest, an age, a gender or two of these.

    Args:
        interest: The segment; None for all.
        age: The age bracket; None for all.
        gender: The gender; None for all.
        overlap: Users of the overlap in the cell; not published itself.
        affinity_ratio: Share in the overlap ÷ share among the matchable users; None if too few.
        share_in_overlap: 0 to 1; None if too few.
        share_in_matchable: 0 to 1.
        addressable: Relevant users in the cell.
        errors: The ± of each shown figure with 90 % confidence, by the figure's name with `_error`; None if counts
            are hidden.
    """

    interest: str | None
    age: str | None
    gender: str | None
    overlap: Released
    affinity_ratio: float | None
    share_in_overlap: float | None
    share_in_matchable: float | None
    addressable: Released
    errors: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def is_indicative(self) -> bool:
        """Whether the row's count is so small that noise is a large part of it."""
        return self.overlap.is_indicative

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "interest": self.interest,
            "age": self.age,
            "gender": self.gender,
            "affinity_ratio": self.affinity_ratio,
            "share_in_overlap": self.share_in_overlap,
            "share_in_matchable": self.share_in_matchable,
            "addressable_size": self.addressable.value,
            **self.errors,
        }


@dataclass(frozen=True)
class ReleasedAudienceInsights:
    """The insights table of one type of seed audience.

    Args:
        audience_type: The type.
        rows: Sorted by grouping (interest, age, gender, interest and age, interest and gender, age and gender),
            then by value.
    """

    audience_type: str
    rows: tuple[ReleasedInsightsRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON."""
        return {"audience_type": self.audience_type, "rows": [row.as_dict() for row in self.rows]}


@dataclass(frozen=True)
class ReleasedInsights:
    """Insights tables of all seed audiences.

    Args:
        audiences: One table per type of seed audience, sorted by type.
        questions: The canonical question of each table.
        noise: The error bounds of the underlying counts, as a JSON object.
    """

    audiences: tuple[ReleasedAudienceInsights, ...]
    questions: tuple[str, ...]
    noise: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The insights as JSON."""
        return {"audiences": [audience.as_dict() for audience in self.audiences], "noise": self.noise}


@dataclass(frozen=True)
class BaseFigures:
    """Released counts of the base audience alone; they are reused until privacy budget is spent on new ones.

    Args:
        addressable: Relevant users.
        matchable: Relevant users with a matching id.
        cells: Matchable users by cell.
    """

    addressable: Released
    matchable: Released
    cells: Mapping["_Cell", Released]

    def addressable_in(self, cell: "_Cell") -> Released:
        """Estimate a cell's relevant users: its matchable users times the base's relevant-to-matchable ratio."""
        return self.cells[cell].scaled(self.addressable, self.matchable)

    def as_dict(self) -> dict[str, Any]:
        """The figures as stored in the artifact, including counts that the room does not show."""
        return {
            "addressable": self.addressable.kept(),
            "matchable": self.matchable.kept(),
            "cells": [[*cell, count.kept()] for cell, count in self.cells.items()],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], *, is_hidden: bool) -> Self:
        """Read the figures from the output of `as_dict`; `is_hidden` hides their counts again."""

        def count(kept: int | None, price: Any) -> Released:
            return released(kept or 0, price=price, is_hidden=is_hidden)

        return cls(
            count(value["addressable"], BASE_COUNT),
            count(value["matchable"], BASE_COUNT),
            {_Cell(*cell[:3]): count(cell[3], BASE_TABLE) for cell in value["cells"]},
        )


def base_figures(relations: Relations, releaser: Releaser, salt: str) -> BaseFigures:
    """Count and release the figures about the base audience alone.

    Args:
        relations: The room's relations.
        releaser: Releases the counts.
        salt: Secret text that selects each user's interests for the tables.

    Raises:
        EngineError: The engine failed.
    """
    (totals,) = relations.engine.fetch(_TOTALS).to_pylist()

    def total(name: str) -> Released:
        return releaser.count(totals[f"n_{name}"], question=BASE_QUESTION, cell=name, price=BASE_COUNT)

    cells = {}
    for cell, n_matchable in _matchable_cells(relations, salt).items():
        count = releaser.count(n_matchable, question=BASE_QUESTION, cell=_name_of(cell), price=BASE_TABLE)
        if count.is_enough():
            cells[cell] = count
    ordered = {cell: cells[cell] for cell in sorted(cells, key=_row_order)}
    return BaseFigures(total("relevant"), total("matchable"), ordered)


def insights(
    relations: Relations, releaser: Releaser, figures: BaseFigures, salt: str, seeds: Mapping[str, str] = NAMES
) -> ReleasedInsights:
    """Count and release the insights of each seed audience.

    Args:
        relations: The room's relations.
        releaser: Releases counts of the overlap.
        figures: Released figures of the base.
        salt: The same as for `figures`.
        seeds: Keyed digest of each type's ids.

    Raises:
        EngineError: The engine failed.
    """
    _choose_interests(relations, salt)
    join_matched(relations.engine, COUNTED)
    n_matched = {row["audience_type"]: row["n"] for row in relations.engine.fetch(_N_MATCHED).to_pylist()}
    n_in_cell = _overlap_cells(relations)
    tables, questions = [], []
    for audience_type in relations.audience_types:
        of_overlap = question_about(audience_type, seeds=seeds)
        question = f"insights of {of_overlap}"
        overlap = releaser.count(n_matched.get(audience_type, 0), question=of_overlap, price=COUNT)
        rows = []
        for cell in figures.cells:
            in_overlap = releaser.count(
                n_in_cell.get((audience_type, cell), 0), question=question, cell=_name_of(cell), price=INSIGHTS
            )
            rows.append(_row(cell, in_overlap, overlap, figures))
        tables.append(ReleasedAudienceInsights(audience_type, tuple(rows)))
        questions.append(question)
    return ReleasedInsights(tuple(tables), tuple(questions), releaser.noise_of(INSIGHTS))


def _row(cell: _Cell, in_overlap: Released, overlap: Released, figures: BaseFigures) -> ReleasedInsightsRow:
    matchable, addressable = figures.cells[cell], figures.addressable_in(cell)
    affinity = affinity_ratio(in_overlap, overlap, matchable, figures.matchable)
    share, share_of_all = ratio(in_overlap, overlap), ratio(matchable, figures.matchable)
    totals = (figures.addressable, figures.matchable)
    return ReleasedInsightsRow(
        *cell,
        overlap=in_overlap,
        affinity_ratio=affinity,
        share_in_overlap=share,
        share_in_matchable=share_of_all,
        addressable=addressable,
        errors={
            "affinity_error": error_of(affinity, in_overlap, overlap, matchable, figures.matchable),
            "share_in_overlap_error": error_of(share, in_overlap, overlap),
            "share_in_matchable_error": error_of(share_of_all, matchable, figures.matchable),
            "addressable_error": error_of(addressable.value, matchable, *totals),
        },
    )


def _matchable_cells(relations: Relations, salt: str) -> Mapping[_Cell, int]:
    """Count the matchable users of each listed value and of each pair of listed values; a count can be 0."""
    _choose_interests(relations, salt)
    found: dict[_Cell, int] = {}
    # All segments with enough relevant users, not only those that are among some user's five: the number of users
    # who have a segment among their five must stay secret.
    named = {"interest": relations.engine.fetch("SELECT segment FROM room_named")["segment"].to_pylist()}
    for grouping in _GROUPINGS:
        counts = "count(*) AS n_relevant, count(*) FILTER (WHERE users.is_matchable) AS n_matchable"
        rows = relations.engine.fetch(_cells_query(grouping, counts)).to_pylist()
        counted = {_cell_of(row): row["n_matchable"] for row in rows}
        if grouping in (("age",), ("gender",)):
            (name,) = grouping
            named[name] = [row[name] for row in rows if row["n_relevant"] >= LEAST_USERS_OF_A_VALUE]
        for values in product(*(named[name] for name in grouping)):
            cell = _cell_of(dict(zip(grouping, values, strict=True)))
            found[cell] = counted.get(cell, 0)
    return found


def _choose_interests(relations: Relations, salt: str) -> None:
    relations.engine.execute(_NAMED, [LEAST_USERS_OF_A_VALUE])
    relations.engine.execute(_INTERESTS, [salt, MOST_INTERESTS])


def _overlap_cells(relations: Relations) -> Mapping[tuple[str, _Cell], int]:
    found = {}
    for grouping in _GROUPINGS:
        query = _cells_query(grouping, "matched.audience_type, count(*) AS n", of_matched=True)
        for row in relations.engine.fetch(query).to_pylist():
            found[row["audience_type"], _cell_of(row)] = row["n"]
    return found


def _cells_query(grouping: tuple[str, ...], counts: str, *, of_matched: bool = False) -> str:
    columns = [f"{_COLUMN_OF[name]} AS {name}" for name in grouping]
    keys = [_COLUMN_OF[name] for name in grouping]
    # room_users, room_interests and room_counted are distinct, so their joins count a user once per cell and type.
    joins = "JOIN room_counted AS matched ON matched.user_id = users.user_id " if of_matched else ""
    if "interest" in grouping:
        joins += "JOIN room_interests AS segments ON segments.user_id = users.user_id "
    present = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    by = ", ".join([*keys, "matched.audience_type"] if of_matched else keys)
    return (
        f"-- one row per {' and '.join(grouping)}{' and type of seed audience' if of_matched else ''}\n"
        f"SELECT {', '.join(columns)}, {counts} FROM room_users AS users {joins}"
        f"WHERE {present} GROUP BY {by}"
    )


def _cell_of(row: Mapping[str, Any]) -> _Cell:
    return _Cell(row.get("interest"), row.get("age"), row.get("gender"))


def _row_order(cell: _Cell) -> tuple[int, str, tuple[int, str], str]:
    grouping = tuple(name for name, value in cell._asdict().items() if value is not None)
    return _GROUPINGS.index(grouping), cell.interest or "", in_reading_order(cell.age or ""), cell.gender or ""


def _name_of(cell: _Cell) -> str:
    return json.dumps(cell)
