"""Pandera schemas of uploads.

Lives here: the pandera schema of an upload, built from its declared columns, and the only function that reads
pandera's failures. Imports pandera, which takes seconds: import this module inside a function.
Add here when there is a new kind of upload.
Keep out: reading files, and any part of pandera's failures except column, code and row.

pandera imports pyspark.pandas if it is installed, on its own import and on the first check of a frame. Our code
does not use pyspark.pandas, which does not fully support pandas 3 and would warn on stderr in every command. The
parts of pyspark that the Spark engine uses do not warn.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from cleanroom_pipelines.errors import EngineError
from cleanroom_pipelines.uploads.cells import Rule
from cleanroom_pipelines.uploads.report import ErrorCode
from cleanroom_pipelines.uploads.tally import CellErrors

warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)

import pandera.pandas as pandera  # noqa: E402 - after the filter


def table_schema(position: int, rules: Sequence[Rule]) -> pandera.DataFrameSchema:
    """Build the schema of one error column (`c0`, `c1`, …), in which each cell is the key of the broken rule.

    Each rule becomes a check that carries its code. The engine evaluated the conditions, so the schema sees no
    cell, and a report counts exactly the rows that every other reader drops.
    """
    return pandera.DataFrameSchema(
        {f"c{position}": pandera.Column(nullable=True, checks=[_check(rule) for rule in rules])}
    )


def batch_errors(rules: Sequence[Sequence[Rule]], keys: Sequence[pa.Array]) -> list[CellErrors]:
    """Validate one batch with pandera, collecting all errors.

    Args:
        rules: Rules of each column.
        keys: For each column, the key of the rule that each cell breaks; null for a usable cell.

    Returns:
        Errors by column and code, without cell values.

    Raises:
        EngineError: pandera itself failed; the message holds only the class name of its error.
    """
    found = []
    for position, (of_column, broken) in enumerate(zip(rules, keys, strict=True)):
        if broken.null_count < len(broken):
            frame = pa.table({f"c{position}": broken}).to_pandas(types_mapper=pd.ArrowDtype)
            found += _column_errors(table_schema(position, of_column), frame, position)
    return found


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
        CellErrors(position, ErrorCode(str(check)), np.sort(group["index"].to_numpy(np.int64)))
        for check, group in cases.groupby("check")
    ]


def _check(rule: Rule) -> pandera.Check:
    return pandera.Check(lambda keys: keys.fillna("") != rule.key, name=rule.code.value)
