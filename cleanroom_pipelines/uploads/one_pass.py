"""Validation of the cells of a data-room file, in one pass over its rows.

Lives here: reading, besides `reading.read`, of files without column names whose ids must not be written.
Add here when the files of data rooms may be read in another way.
Keep out: which cells are usable (cells), the columns of each dataset (room_reading), file formats (room_files).

`reading.read` parses text into a file, and counts the facts about its ids before it reads them. Matching ids must
not be written, not even to scratch. So the cells are judged while they are read, assuming each fact to be true.
The facts about a column are counted only if an id occurs that depends on them: a decimal. Few files have one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.engine import Engine
from cleanroom_pipelines.identity import JudgedIds, judge_ids
from cleanroom_pipelines.uploads import cells
from cleanroom_pipelines.uploads.cells import Column, IdFacts, Rule
from cleanroom_pipelines.uploads.report import ErrorCode
from cleanroom_pipelines.uploads.tally import CellErrors, errors_of


@dataclass(frozen=True)
class JudgedRows:
    """Consecutive rows of a file, with their values and the errors of their cells.

    Args:
        values: By column name: numbers as DOUBLE, other cells as text; ids without blanks and decimal tails.
        errors: The unusable cells.
        matching: The matching ids in their normal form; None if there is no such column.
        changed: Whether each row has a usable matching id whose normal form differs from the upload.
    """

    values: dict[str, pa.Array]
    errors: list[CellErrors]
    matching: JudgedIds | None
    changed: npt.NDArray[np.bool_]

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Whether each row has only usable cells."""
        usable = np.ones(len(self.changed), np.bool_)
        for error in self.errors:
            usable[error.rows] = False
        return usable


class OnePass:
    """Reader of one file that validates the cells while it reads the rows.

    Args:
        engine: Engine with the view.
        view: View of the file's cells, with the names of `columns`.
        columns: All columns in order, with their types.
    """

    def __init__(self, engine: Engine, view: str, columns: Sequence[Column]) -> None:
        self._engine, self._view, self._columns = engine, view, tuple(columns)
        self._facts: dict[int, IdFacts] = {}
        for position, column in enumerate(columns):
            if column.role.is_id and column.is_number:
                self._facts[position] = self._count(position)

    @property
    def mixed(self) -> list[Column]:
        """Columns with ids like `7.0` and ids that are not whole numbers; the ids like `7.0` are invalid."""
        return [
            self._columns[position] for position, facts in self._facts.items() if facts.points and facts.others
        ]

    @property
    def misfits(self) -> list[Column]:
        """Columns whose type does not fit their role, and `mixed` columns of a float or decimal type."""
        mixed = [column for column in self.mixed if column.is_number]
        return [column for column in self._columns if not column.fits or column in mixed]

    def batches(self, n_rows: int) -> Iterator[JudgedRows]:
        """Read and validate the rows in batches of at most `n_rows`."""
        n_done, undecided = 0, [0]
        while undecided:
            judging, rules = self._judging()
            query = f"{judging} OFFSET {n_done}" if n_done else judging
            for batch in self._engine.batches(query, rows=n_rows):
                if undecided := self._undecided(batch):
                    break
                yield self._judged(rules, batch)
                n_done += batch.num_rows
            else:
                return
            self._facts |= {position: self._count(position) for position in undecided}
            self._engine.rejected_lines()  # these lines are found again

    def _judging(self) -> tuple[str, list[list[Rule]]]:
        """Return a query for values (v0, …), errors (e0, …) and flags of cleaned ids (x0, …), and its rules."""
        raw, odd, ids, judged, all_rules = [], ["*"], ["*"], ["*"], []
        for position, column in enumerate(self._columns):
            value, error, cell, is_odd = (f"{letter}{position}" for letter in "veco")
            if column.role.is_id:
                # An ordinary id costs only the condition whether it is odd. In layers: DuckDB would evaluate an
                # expression that occurs twice in one layer for every row.
                raw.append(f"{_text_sql(column)} AS {cell}")
                point = cells.decimal_sql(cell) if column.may_have_points else "false"
                odd.append(f"coalesce({cells.may_be_odd_sql(cell, point)}, true) AS {is_odd}")
                unknown = IdFacts(points=column.may_have_points, others=True)
                facts = self._facts.get(position, unknown)
                if column.form is not None:
                    facts = replace(facts, placeholders=False)  # `judge_ids` finds them
                id_, _ = cells.id_sql(cell, facts, column)
                ids.append(f"CASE WHEN {is_odd} THEN {id_} ELSE {cell} END AS {value}")
                _, rules = cells.id_sql(value, replace(facts, blanks=False), column)
                judged.append(f"{cells.error_sql(rules, f'NOT {is_odd}')} AS {error}")
                judged.append(f"coalesce({is_odd} AND {value} <> {cell}, false) AS x{position}")
            else:
                usable, rules = cells.rules_of(column)
                raw.append(f"{cells.value_sql(column)} AS {value}, {cells.error_sql(rules, usable)} AS {error}")
            all_rules.append(rules)
        query = f"SELECT {', '.join(raw)} FROM {self._view}"
        for layer in (odd, ids, judged):
            query = f"SELECT {', '.join(layer)} FROM ({query})"
        return query, all_rules

    def _undecided(self, batch: pa.RecordBatch) -> list[int]:
        """Return the id columns with decimal numbers in this batch whose `IdFacts` are still unknown."""
        return [
            position
            for position, column in enumerate(self._columns)
            if column.role.is_id
            and position not in self._facts
            and batch[f"e{position}"].null_count < batch.num_rows
            and pc.any(pc.equal(batch[f"e{position}"], cells.point_rule(column).key)).as_py()
        ]

    def _judged(self, rules: Sequence[Sequence[Rule]], batch: pa.RecordBatch) -> JudgedRows:
        keys = [batch[f"e{position}"] for position in range(len(rules))]
        errors = errors_of(rules, keys)
        values = {column.name: batch[f"v{position}"] for position, column in enumerate(self._columns)}
        changed, matching = np.zeros(batch.num_rows, np.bool_), None
        for position, column in enumerate(self._columns):
            if column.form is not None:
                matching = judge_ids(column.form, values[column.name])
                fits = np.asarray(keys[position].is_null())
                for problem, found in matching.problems().items():
                    if len(found := found[fits[found]]):
                        errors.append(CellErrors(position, ErrorCode(problem.value), found))
                if not column.is_number:
                    changed = np.asarray(batch[f"x{position}"])
                changed = matching.valid & (changed | matching.changed)
        return JudgedRows(values, errors, matching, changed)

    def _count(self, position: int) -> IdFacts:
        column = self._columns[position]
        aggregates = cells.id_facts_sql("c", is_number=column.is_number, is_complete=True)
        row = self._engine.fetch(
            f"-- one row\nSELECT {aggregates} FROM (SELECT {_text_sql(column)} AS c FROM {self._view})"
        )
        return IdFacts(*(value[0].as_py() for value in row.columns))


def _text_sql(column: Column) -> str:
    return f"CAST({cells.raw_id_sql(column)} AS VARCHAR)"
