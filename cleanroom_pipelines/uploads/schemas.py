"""Pandera schemas of uploads.

Lives here: the pandera schema of an upload, built from its declared columns, and the only function that reads
pandera's failures. Imports pandera: import this module inside the function that validates.
Add here when there is a new kind of upload.
Keep out: reading files, and any part of pandera's failures except column, code and row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.errors import EngineError
from cleanroom_pipelines.uploads import cells
from cleanroom_pipelines.uploads.cells import Column
from cleanroom_pipelines.uploads.quiet_pandera import pandera
from cleanroom_pipelines.uploads.report import ErrorCode
from cleanroom_pipelines.uploads.roles import Role

_FORMAT_CODES = {
    Role.TIMESTAMP: ErrorCode.INVALID_INTEGER_FORMAT,
    Role.NUMERICAL_FEATURE: ErrorCode.INVALID_FLOAT_FORMAT,
}
_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_LAST_INT64 = 2**63 - 1


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


def table_schemas(columns: Sequence[Column]) -> list[pandera.DataFrameSchema]:
    """Build one schema per declared column of a batch; the columns are named c0, c1, ….

    One schema for all columns would fail: pandera puts the invalid values of a schema into a single column, and
    pandas cannot combine an integer of 2^63 - 1 with a double.
    """
    return [
        pandera.DataFrameSchema({f"c{i}": pandera.Column(nullable=not column.role.is_id, checks=_checks(column))})
        for i, column in enumerate(columns)
    ]


def batch_errors(parts: Sequence[pandera.DataFrameSchema], batch: pa.RecordBatch) -> list[CellErrors]:
    """Validate one batch lazily.

    Args:
        parts: Schemas from `table_schemas`.
        batch: Rows, with columns named c0, c1, ….

    Returns:
        Errors by column and code, without cell values.

    Raises:
        EngineError: pandera itself failed; the message holds only the class name of its error.
    """
    frame = pa.Table.from_batches([batch]).to_pandas(types_mapper=pd.ArrowDtype)
    return [error for i, part in enumerate(parts) for error in _column_errors(part, frame[[f"c{i}"]], i)]


def _column_errors(part: pandera.DataFrameSchema, frame: pd.DataFrame, position: int) -> list[CellErrors]:
    try:
        part.validate(frame, lazy=True)
        return []
    except pandera.errors.SchemaErrors as error:
        cases, failure = error.failure_cases[["check", "index"]], ""
        if cases["index"].isna().any():
            # pandera reports a check that raised as one failure without a row.
            cases, failure = None, "SchemaErrors"
    except Exception as error:
        cases, failure = None, type(error).__name__
    if cases is None:
        # Raised outside the handler: pandera's error quotes cells, and __context__ would keep it.
        raise EngineError(f"The validation failed ({failure}).")
    return [
        CellErrors(position, _code_of(str(check)), np.sort(group["index"].to_numpy(np.int64)))
        for check, group in cases.groupby("check")
    ]


def _code_of(check: str) -> ErrorCode:
    return ErrorCode.EMPTY_CELL if check == "not_nullable" else ErrorCode(check)


def _checks(column: Column) -> list[pandera.Check]:
    checks = []
    if column.role.is_id and column.kind in (cells.CELL, cells.TEXT):
        checks.append(_check(ErrorCode.EMPTY_CELL, lambda array: pc.not_equal(array, "")))
    if pattern := column.pattern:
        code = _FORMAT_CODES[column.role]
        checks.append(_check(code, lambda array: _matches_or_empty(array, pattern)))
        if within := column.range_pattern:
            checks.append(
                _check(
                    ErrorCode.INVALID_NUMERIC_RANGE,
                    lambda array: pc.or_(pc.invert(_matches(array, pattern)), _matches(array, within)),
                )
            )
    if column.role is Role.TIMESTAMP and column.kind == cells.INTEGER:
        checks.append(_check(ErrorCode.INVALID_NUMERIC_RANGE, _are_seconds))
    if column.role is Role.TIMESTAMP and column.kind == cells.TIME:
        checks.append(_check(ErrorCode.INVALID_NUMERIC_RANGE, _are_times))
    if column.role is Role.NUMERICAL_FEATURE and column.kind == cells.FLOAT:
        checks.append(_check(ErrorCode.INVALID_NUMERIC_RANGE, lambda array: pc.invert(pc.is_inf(array))))
    return checks


def _check(code: ErrorCode, is_valid: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pandera.Check:
    def check(series: pd.Series) -> pd.Series:
        valid = is_valid(pa.array(series.array))
        return pd.Series(np.asarray(valid.fill_null(True)), index=series.index)

    return pandera.Check(check, name=code.value)


def _matches(array: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(array, rf"\A(?:{pattern})\z")


def _matches_or_empty(array: pa.ChunkedArray, pattern: str) -> pa.ChunkedArray:
    return pc.or_(pc.equal(array, ""), _matches(array, pattern))


def _are_seconds(array: pa.ChunkedArray) -> pa.ChunkedArray:
    low, high = -cells.MAX_SECONDS, cells.MAX_SECONDS
    if pa.types.is_signed_integer(array.type):
        return pc.and_(pc.greater(array, low), pc.less(array, high))
    return pc.less(array, high)


def _are_times(array: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    # DuckDB uses the extreme values of the type as infinities.
    high = min(cells.MAX_SECONDS * _UNITS_PER_SECOND[array.type.unit], _LAST_INT64)
    ticks = array.cast(pa.int64())
    return pc.and_(pc.greater(ticks, -high), pc.less(ticks, high))
