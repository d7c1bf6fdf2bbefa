"""The pandera schemas of what is uploaded for a data room.

Lives here: the columns of each dataset, what a valid cell of each is, and the normal form of an age.
Imports pandera: import this module inside the function that validates.
Add here when a dataset or a column is added.
Keep out: matching ids (`identity` judges them), files (`room_files`) and counting (`tally`).

- A user id, a segment, an audience type and a scope are exact texts: case and white space count. Segments and
  audience types have at most 128 characters, a gender at most 64.
- An age is a bracket `18-24`, open at the top as `65+`, or one whole number, each from 0 to 150 and the bracket's
  end not below its start; spaces and an en dash are understood, the normal form has neither. Anything else is
  INVALID_NUMERIC_RANGE. An age or a gender may be missing, in some rows or in all.
- A number of an embedding is finite; it may not be missing.
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
from cleanroom_pipelines.uploads.roles import Role

MAX_LABEL_CHARACTERS = 128
MAX_GENDER_CHARACTERS = 64
MAX_AGE = 150

_NUMBER = cells.Column("number", Role.NUMERICAL_FEATURE, cells.CELL, "text").pattern
_AGE = re.compile(r" *([0-9]{1,6}) *(?:([-\u2013]) *([0-9]{1,6})|(\+))? *")


class Cell(StrEnum):
    """What a column of a dataset holds."""

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
        name: What reports call it; the file has no names.
        cell: What it holds.
        kind: Its kind of physical type (`uploads.cells`).
    """

    name: str
    cell: Cell
    kind: str

    @property
    def fits(self) -> bool:
        """Whether a column of this kind of type can hold this."""
        if self.cell is Cell.NUMBER:
            return self.kind in (cells.CELL, cells.INTEGER, cells.FLOAT, cells.DECIMAL)
        if self.cell is Cell.GENDER:
            return self.kind in (cells.CELL, cells.TEXT)
        return self.kind in (cells.CELL, cells.TEXT, cells.INTEGER)

    @property
    def types_in_words(self) -> str:
        """The types it can have."""
        return {Cell.NUMBER: "a number", Cell.GENDER: "a string"}.get(self.cell, "a string or an integer")

    @property
    def select_sql(self) -> str:
        """How it is read, for a name: numbers of a typed file as DOUBLE, everything else as VARCHAR."""
        return "CAST({0} AS DOUBLE) AS {0}" if self._is_typed_number else "CAST({0} AS VARCHAR) AS {0}"

    @property
    def _is_typed_number(self) -> bool:
        return self.cell is Cell.NUMBER and self.kind != cells.CELL


def room_schemas(columns: Sequence[RoomColumn]) -> list[pandera.DataFrameSchema]:
    """The schema of one batch, a part per column; the columns are named c0, c1, … by position.

    A matching id has no checks here: `identity.judge_ids` has judged it.
    """
    optional = (Cell.AGE, Cell.GENDER, Cell.MATCHING_ID)
    return [
        pandera.DataFrameSchema(
            {f"c{i}": pandera.Column(nullable=column.cell in optional, checks=_checks(column))}
        )
        for i, column in enumerate(columns)
    ]


def normal_ages(ages: pa.Array) -> pa.Array:
    """The normal form of ages: `18-24`, `65+` or `37`; null where there is none, or not a valid one."""
    if isinstance(ages, pa.ChunkedArray):
        ages = ages.combine_chunks()
    coded = ages.dictionary_encode()
    normal = pa.array([_normal_age(text) for text in coded.dictionary.to_pylist()], pa.string())
    return normal.take(coded.indices)


def numbers_of(texts: pa.Array) -> pa.Array:
    """Numbers that were judged valid, as DOUBLE."""
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
        Cell.USER_ID: [filled],
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
    return pc.match_substring_regex(array, rf"\A(?:{_NUMBER})\z")
