"""What sets the matched users of each seed audience apart.

Lives here: `insights`, tables by interest, age, gender and their pairs, and what they cost.
Add here when users are grouped in a further way.
Keep out: how many match in all (overlap), and how counts are released (privacy).

Cells. A user is counted once in each cell; one without an attribute is in no cell of it. Which cells there are
does not depend on who matched: a cell is listed if at least 25 relevant users are in it (as for values, see
`attributes`) and the released count of its matchable users is told. Other cells would be rows of nothing, and
there are as many as there are rare segments. A listed cell with too few users in the overlap stays, with nulls:
the other side learns no more than from a missing row, and its size is still of use.

Noise. A cell of the overlap is the same question as the size of the audience with those filters on the same
source, so asking both ways gives one answer. Counts of the publisher's users alone are released by `of_base`:
their noise changes with the base and not with every new seed, or an advertiser could average it away.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from cleanroom_pipelines.audiences.attributes import LEAST_USERS_OF_A_VALUE, in_reading_order
from cleanroom_pipelines.audiences.definitions import AGE, GENDER, SEGMENTS
from cleanroom_pipelines.audiences.overlap import question_about
from cleanroom_pipelines.audiences.relations import Relations
from cleanroom_pipelines.privacy import Released, Releaser, affinity_ratio, cost_of_table, ratio

_MATCHABLE = "matchable"

# In the order of the rows: of one attribute first, then pairs.
_GROUPINGS = (("interest",), ("age",), ("gender",), ("interest", "age"), ("interest", "gender"), ("age", "gender"))
_COLUMN_OF = {"interest": "segments.segment", "age": "users.age", "gender": "users.gender"}
_ATTRIBUTE_OF = {"interest": SEGMENTS, "age": AGE, "gender": GENDER}

_N_USERS = """-- one row: the relevant users with a matching id
SELECT count(*) FILTER (WHERE is_matchable) AS n_matchable FROM room_users"""

_N_MATCHED = """-- one row per type of seed audience that has matched users
SELECT audience_type, count(*) AS n FROM room_matched GROUP BY audience_type"""


class _Cell(NamedTuple):
    interest: str | None
    age: str | None
    gender: str | None


_EVERYBODY = _Cell(None, None, None)


@dataclass(frozen=True)
class InsightsRow:
    """One cell: users that share an interest, an age, a gender or two of these.

    Args:
        interest: The segment; None for all.
        age: The age bracket; None for all.
        gender: The gender; None for all.
        overlap: Users of the overlap in the cell; not told by itself.
        affinity_ratio: Share in the overlap ÷ share among the matchable; None where too few.
        share_in_overlap: 0 to 1; None where too few.
        share_in_matchable: 0 to 1.
        addressable: Relevant users in the cell.
    """

    interest: str | None
    age: str | None
    gender: str | None
    overlap: Released
    affinity_ratio: float | None
    share_in_overlap: float | None
    share_in_matchable: float | None
    addressable: Released

    @property
    def is_indicative(self) -> bool:
        """Whether the row is told though so few users are behind it that the noise matters much."""
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
        }


@dataclass(frozen=True)
class AudienceInsights:
    """The table of one type of seed audience.

    Args:
        audience_type: The type.
        rows: By interest, age, gender, interest and age, interest and gender, age and gender; then by value.
    """

    audience_type: str
    rows: tuple[InsightsRow, ...]

    def as_dict(self) -> dict[str, Any]:
        """The table as JSON."""
        return {"audience_type": self.audience_type, "rows": [row.as_dict() for row in self.rows]}


@dataclass(frozen=True)
class Insights:
    """What sets the matched users of each seed audience apart.

    Args:
        audiences: One table per type of seed audience, by type.
        cost_of_table: Units of the privacy budget that one of the tables takes.
        noise: How far the counts behind the numbers may be off, for JSON.
    """

    audiences: tuple[AudienceInsights, ...]
    cost_of_table: int
    noise: dict[str, Any]

    @property
    def cost(self) -> int:
        """Units of the privacy budget that asking for all tables takes."""
        return self.cost_of_table * len(self.audiences)

    def as_dict(self) -> dict[str, Any]:
        """The insights as JSON."""
        return {"audiences": [audience.as_dict() for audience in self.audiences], "noise": self.noise}


def insights(relations: Relations, releaser: Releaser, of_base: Releaser) -> Insights:
    """Count and release what sets the matched users of each seed audience apart.

    Args:
        relations: The room.
        releaser: Releases counts of the overlap.
        of_base: Releases counts of the publisher's users alone: the same key and policy, its data version that of
            the base audience.

    Raises:
        EngineError: The engine failed.
    """
    base = _base_cells(relations, of_base)
    n_matchable = relations.engine.fetch(_N_USERS)["n_matchable"][0].as_py()
    matchable = of_base.count(n_matchable, question=_question(None), cell=_MATCHABLE)
    n_matched = {row["audience_type"]: row["n"] for row in relations.engine.fetch(_N_MATCHED).to_pylist()}
    n_in_cell = _overlap_cells(relations)
    tables = []
    for audience_type in relations.audience_types:
        overlap = releaser.count(n_matched.get(audience_type, 0), question=_question(audience_type))
        rows = []
        for cell, (of_cell, addressable) in base.items():
            question = _question(audience_type, cell)
            in_overlap = releaser.count(n_in_cell.get((audience_type, cell), 0), question=question)
            rows.append(
                InsightsRow(
                    *cell,
                    overlap=in_overlap,
                    affinity_ratio=affinity_ratio(in_overlap, overlap, of_cell, matchable),
                    share_in_overlap=ratio(in_overlap, overlap),
                    share_in_matchable=ratio(of_cell, matchable),
                    addressable=addressable,
                )
            )
        tables.append(AudienceInsights(audience_type, tuple(rows)))
    return Insights(tuple(tables), cost_of_table(_n_cells_of_a_user(base)), releaser.policy.noise())


def _base_cells(relations: Relations, of_base: Releaser) -> dict[_Cell, tuple[Released, Released]]:
    """The cells that are listed, in order, each with its matchable and its relevant users."""
    found = {}
    for grouping in _GROUPINGS:
        query = _cells_query(
            grouping,
            "count(*) FILTER (WHERE users.is_matchable) AS n_matchable, count(*) AS n_relevant",
            having="HAVING count(*) >= ?",
        )
        for row in relations.engine.fetch(query, [LEAST_USERS_OF_A_VALUE]).to_pylist():
            cell = _cell_of(row)
            question = _question(None, cell)
            matchable = of_base.count(row["n_matchable"], question=question, cell=_MATCHABLE)
            if matchable.is_enough():
                found[cell] = matchable, of_base.count(row["n_relevant"], question=question)
    return {cell: found[cell] for cell in sorted(found, key=_row_order)}


def _overlap_cells(relations: Relations) -> Mapping[tuple[str, _Cell], int]:
    found = {}
    for grouping in _GROUPINGS:
        query = _cells_query(grouping, "matched.audience_type, count(*) AS n", of_matched=True)
        for row in relations.engine.fetch(query).to_pylist():
            found[row["audience_type"], _cell_of(row)] = row["n"]
    return found


def _cells_query(grouping: tuple[str, ...], counts: str, *, having: str = "", of_matched: bool = False) -> str:
    columns = [f"{_COLUMN_OF[name]} AS {name}" for name in grouping]
    keys = [_COLUMN_OF[name] for name in grouping]
    # room_users, room_segments and room_matched are distinct, so their joins count a user once per cell and type.
    joins = "JOIN room_matched AS matched ON matched.user_id = users.user_id " if of_matched else ""
    if "interest" in grouping:
        joins += "JOIN room_segments AS segments ON segments.user_id = users.user_id "
    present = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    by = ", ".join([*keys, "matched.audience_type"] if of_matched else keys)
    return (
        f"-- one row per {' and '.join(grouping)}{' and type of seed audience' if of_matched else ''}\n"
        f"SELECT {', '.join(columns)}, {counts} FROM room_users AS users {joins}"
        f"WHERE {present} GROUP BY {by} {having}"
    )


def _cell_of(row: Mapping[str, Any]) -> _Cell:
    return _Cell(row.get("interest"), row.get("age"), row.get("gender"))


def _row_order(cell: _Cell) -> tuple[int, str, tuple[int, str], str]:
    grouping = tuple(name for name, value in cell._asdict().items() if value is not None)
    return _GROUPINGS.index(grouping), cell.interest or "", in_reading_order(cell.age or ""), cell.gender or ""


def _question(audience_type: str | None, cell: _Cell = _EVERYBODY) -> str:
    present = {_ATTRIBUTE_OF[name]: value for name, value in cell._asdict().items() if value is not None}
    return question_about(audience_type, present)


def _n_cells_of_a_user(cells: Iterable[_Cell]) -> int:
    """How many cells of the table one user can enter: any number of interests, but one age and one gender."""
    listed = list(cells)
    n_interests = sum(cell.interest is not None and cell.age is None and cell.gender is None for cell in listed)
    has_age, has_gender = any(cell.age for cell in listed), any(cell.gender for cell in listed)
    return n_interests * (1 + has_age + has_gender) + has_age + has_gender + (has_age and has_gender)
