"""Totals of an upload's errors, added up batch by batch.

Lives here: the errors of a batch, exact totals, and the first 500 errors with their row numbers in file order.
Add here when a report needs another total over batches.
Keep out: validating rows (`schemas`) and reading files.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.uploads.cells import Rule
from cleanroom_pipelines.uploads.report import (
    MAX_RECORDED_ERRORS,
    MESSAGES,
    ColumnReport,
    ErrorCode,
    RecordedError,
    TableReport,
    ValidationReport,
)


@dataclass(frozen=True)
class CellErrors:
    """Rows of a batch in which one column has one kind of error.

    Args:
        column: Position of the column in the declaration.
        code: The error.
        rows: Row positions in the batch, from 0, ascending.
    """

    column: int
    code: ErrorCode
    rows: npt.NDArray[np.int64]


def errors_of(rules: Sequence[Sequence[Rule]], keys: Sequence[pa.Array]) -> list[CellErrors]:
    """Validate a batch with `schemas.batch_errors`; pandera is imported only if the batch has errors."""
    if all(broken.null_count == len(broken) for broken in keys):
        return []
    from cleanroom_pipelines.uploads import schemas

    return schemas.batch_errors(rules, keys)


@dataclass
class Recorder:
    """Error count of one column, and its first 500 errors with their rows."""

    n_total: int = 0
    first: list[tuple[int, ErrorCode]] = field(default_factory=list)

    def add(self, errors: Sequence[CellErrors], offset: int) -> None:
        """Add a column's errors from a batch whose first row has the number `offset`."""
        self.n_total += sum(len(error.rows) for error in errors)
        room = MAX_RECORDED_ERRORS - len(self.first)
        found = [(int(row) + offset, error.code) for error in errors for row in error.rows[:room]]
        self.first += sorted(found)[:room]


@dataclass
class Tally:
    """Totals over batches. Rows are numbered from 1, counting only readable rows."""

    columns: list[Recorder]
    n_readable_rows: int = 0
    n_invalid_rows: int = 0
    n_rows_by_code: Counter[ErrorCode] = field(default_factory=Counter)
    rejected_codes: list[ErrorCode] = field(default_factory=list)
    # For each rejected line, the number of readable rows before it.
    rejected_after: list[int] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """All data rows, including lines that could not be parsed."""
        return self.n_readable_rows + len(self.rejected_after)

    def add_batch(self, errors: Sequence[CellErrors], n_rows: int) -> None:
        """Add a batch of readable rows and their errors."""
        for position, recorder in enumerate(self.columns):
            recorder.add([error for error in errors if error.column == position], self.n_readable_rows + 1)
        self.n_invalid_rows += _n_distinct(error.rows for error in errors)
        for code in {error.code for error in errors}:
            self.n_rows_by_code[code] += _n_distinct(error.rows for error in errors if error.code is code)
        self.n_readable_rows += n_rows

    def add_rejected(self, lines: pa.Table, n_rows_before_file: int, n_header_lines: int) -> None:
        """Add the rejected lines of a file whose readable rows were added just before."""
        for i, (line, reason) in enumerate(
            zip(lines["line"].to_pylist(), lines["reason"].to_pylist(), strict=True)
        ):
            # Line numbers include blank lines, which are not rows; the file's last row limits the error.
            after = n_rows_before_file + line - n_header_lines - 1 - i
            self.rejected_after.append(min(after, self.n_readable_rows))
            code = ErrorCode.TOO_MANY_COLUMNS if reason == "TOO MANY COLUMNS" else ErrorCode.NOT_ENOUGH_COLUMNS
            self.rejected_codes.append(code)
            self.n_rows_by_code[code] += 1
            self.n_invalid_rows += 1

    def row_number(self, readable: int) -> int:
        """Convert the number of a readable row into its number among all data rows."""
        return readable + bisect_left(self.rejected_after, readable)

    def added_to(self, report: ValidationReport, names: Sequence[str]) -> ValidationReport:
        """Return a copy of a report with these totals: rows, errors of the named columns, and rejected lines."""
        return replace(
            report,
            n_rows=self.n_rows,
            n_invalid_rows=self.n_invalid_rows,
            n_invalid_rows_by_code=dict(sorted(self.n_rows_by_code.items())),
            columns=tuple(self._column_report(position, name) for position, name in enumerate(names)),
            table=self._with_lines(report.table),
        )

    def _column_report(self, position: int, name: str) -> ColumnReport:
        recorder = self.columns[position]
        recorded = (
            RecordedError(code, MESSAGES[code], self.row_number(row), name) for row, code in recorder.first
        )
        return ColumnReport(name, recorder.n_total, tuple(recorded))

    def _with_lines(self, table: TableReport) -> TableReport:
        found = list(zip(self.rejected_after, self.rejected_codes, strict=True))[:MAX_RECORDED_ERRORS]
        recorded = (RecordedError(code, MESSAGES[code], after + i) for i, (after, code) in enumerate(found, 1))
        return replace(table, n_errors=len(self.rejected_after), recorded=tuple(recorded))


def _n_distinct(rows: Iterable[npt.NDArray[np.int64]]) -> int:
    arrays = list(rows)
    if len(arrays) < 2:
        return sum(len(array) for array in arrays)
    return len(np.unique(np.concatenate(arrays)))
