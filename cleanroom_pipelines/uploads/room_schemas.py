"""Pandera schemas of data-room uploads.

Lives here: the columns of each dataset, their valid cells, and the normal form of an age.
Imports pandera: import this module inside the function that validates.
Add here when there is a new dataset or column.
Keep out: user ids and matching ids (validated by `identity`), files (`room_files`) and counting (`tally`).

- User ids are trimmed, and otherwise compared exactly. Segments, audience types and scopes are compared exactly,
  including case and white space. Segments and audience types have at most 128 characters, genders at most 64.
- An age is a bracket `18-24`, an open bracket `65+`, or one whole number. Numbers are from 0 to 150, and a bracket
  must not end below its start. Spaces and an en dash are accepted; the normal form has neither. Anything else is
  INVALID_NUMERIC_RANGE. Ages and genders may be missing in some or all rows.
- Numbers of an embedding must be finite and must not be missing.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.uploads import cells
from cleanroom_pipelines.uploads.quiet_pandera import pandera
from cleanroom_pipelines.uploads.report import ErrorCode

MAX_LABEL_CHARACTERS = 128
MAX_GENDER_CHARACTERS = 64
MAX_AGE = 150

_AGE = re.compile(r" *([0-9]{1,6}) *(?:([-\u2013]) *([0-9]{1,6})|(\+))? *")


# NaN is a missing cell. Above these, a float has lost digits of whole numbers.
_WHOLE_SQL = {
    cells.FLOAT: "isnan({0}) OR {0} = floor({0}) "
    f"AND abs({{0}}) < CASE typeof({{0}}) WHEN 'FLOAT' THEN {2**24} ELSE {2**53} END",
    cells.DECIMAL: "{0} = floor({0})",
}


class Cell(StrEnum):
    """Kind of cell in a column of a dataset."""

    USER_ID = "USER_ID"
    MATCHING_ID = "MATCHING_ID"
    LABEL = "LABEL"
    SCOPE = "SCOPE"
    AGE = "AGE"
    GENDER = "GENDER"
    NUMBER = "NUMBER"


@dataclass(frozen=True)
class RoomColumn:
    """A column of an uploaded file.

    Args:
        name: Name in reports; the file has no column names.
        cell: Kind of its cells.
        kind: Kind of its physical type (`uploads.cells`).
        is_whole: Whether all its numbers are known to be whole, though the type has decimals.
    """

    name: str
    cell: Cell
    kind: str
    is_whole: bool = False

    @property
    def is_id(self) -> bool:
        """Whether its cells are ids."""
        return self.cell in (Cell.USER_ID, Cell.MATCHING_ID)

    @property
    def may_be_whole(self) -> bool:
        """Whether the ids have a type with decimals, as columns of whole numbers with missing cells often do."""
        return self.is_id and self.kind in (cells.FLOAT, cells.DECIMAL)

    @property
    def fits(self) -> bool:
        """Whether this kind of physical type can hold these cells."""
        if self.cell is Cell.NUMBER:
            return self.kind in (cells.CELL, cells.INTEGER, cells.FLOAT, cells.DECIMAL)
        if self.cell is Cell.GENDER:
            return self.kind in (cells.CELL, cells.TEXT)
        return self.is_whole or self.kind in (cells.CELL, cells.TEXT, cells.INTEGER)

    @property
    def types_in_words(self) -> str:
        """Allowed types, for messages."""
        return {Cell.NUMBER: "a number", Cell.GENDER: "a string"}.get(self.cell, "a string or an integer")

    @property
    def select_sql(self) -> str:
        """SQL template to select the column: numbers of a typed file as DOUBLE, everything else as VARCHAR."""
        if self.is_whole:
            return "CAST(CAST(CASE WHEN NOT isnan({0}) THEN {0} END AS HUGEINT) AS VARCHAR) AS {0}"
        return "CAST({0} AS DOUBLE) AS {0}" if self._is_typed_number else "CAST({0} AS VARCHAR) AS {0}"

    @property
    def are_whole_sql(self) -> str:
        """SQL template to decide whether all numbers of the column are whole, and none has lost digits."""
        return f"coalesce(bool_and({_WHOLE_SQL[self.kind]}), true)"

    @property
    def _is_typed_number(self) -> bool:
        return self.cell is Cell.NUMBER and self.kind != cells.CELL


def room_schemas(columns: Sequence[RoomColumn]) -> list[pandera.DataFrameSchema]:
    """Build one schema per column of a batch; the columns are named c0, c1, … by position.

    Ids have no checks here: `identity` validates them.
    """
    optional = (Cell.AGE, Cell.GENDER, Cell.USER_ID, Cell.MATCHING_ID)
    return [
        pandera.DataFrameSchema(
            {f"c{i}": pandera.Column(nullable=column.cell in optional, checks=_checks(column))}
        )
        for i, column in enumerate(columns)
    ]


def normal_ages(ages: pa.Array) -> pa.Array:
    """Normalize ages to `18-24`, `65+` or `37`; null if missing or invalid."""
    if isinstance(ages, pa.ChunkedArray):
        ages = ages.combine_chunks()
    coded = ages.dictionary_encode()
    normal = pa.array([_normal_age(text) for text in coded.dictionary.to_pylist()], pa.string())
    return normal.take(coded.indices)


def numbers_of(texts: pa.Array) -> pa.Array:
    """Convert valid numbers to DOUBLE."""
    if pa.types.is_floating(texts.type):
        return texts
    return pc.utf8_trim(texts, characters=" ").cast(pa.float64())


def _normal_age(text: str | None) -> str | None:
    found = _AGE.fullmatch(text or "")
    if found is None:
        return None
    start = int(found[1])
    if start > MAX_AGE:
        return None
    if found[4]:
        return f"{start}+"
    if not found[2]:
        return str(start)
    end = int(found[3])
    return f"{start}-{end}" if start <= end <= MAX_AGE else None


def _checks(column: RoomColumn) -> list[pandera.Check]:
    out_of_range = ErrorCode.INVALID_NUMERIC_RANGE
    filled = _check(ErrorCode.EMPTY_CELL, lambda array: pc.not_equal(array, ""))
    if column.cell is Cell.NUMBER:
        if column.kind == cells.CELL:
            return [_check(ErrorCode.INVALID_FLOAT_FORMAT, _are_numbers)]
        return [_check(out_of_range, pc.is_finite)]
    return {
        Cell.USER_ID: [],
        Cell.SCOPE: [filled],
        Cell.LABEL: [filled, _check(out_of_range, lambda array: _at_most(array, MAX_LABEL_CHARACTERS))],
        Cell.GENDER: [_check(out_of_range, lambda array: _at_most(array, MAX_GENDER_CHARACTERS))],
        Cell.AGE: [_check(out_of_range, _are_ages)],
        Cell.MATCHING_ID: [],
    }[column.cell]


def _check(code: ErrorCode, is_valid: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> pandera.Check:
    def check(series: pd.Series) -> pd.Series:
        valid = is_valid(pa.array(series.array))
        return pd.Series(np.asarray(valid.fill_null(True)), index=series.index)

    return pandera.Check(check, name=code.value)


def _at_most(array: pa.ChunkedArray, n_characters: int) -> pa.ChunkedArray:
    return pc.less_equal(pc.utf8_length(array), n_characters)


def _are_ages(array: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.or_(pc.equal(array, ""), pc.is_valid(normal_ages(array)))


def _are_numbers(array: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.match_substring_regex(array, rf"\A(?:{cells.NUMBER_PATTERN})\z")
