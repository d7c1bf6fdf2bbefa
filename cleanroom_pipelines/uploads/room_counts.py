"""Counts over a whole dataset of a data room: duplicates, users, and ids on suspiciously many rows.

Lives here: the queries over the valid rows of a dataset, after all its files were read.
Add here when a dataset's report gets another figure of all its rows.
Keep out: reading files (`room_reading`), and figures of several datasets (`rooms`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from cleanroom_pipelines.engine import Engine, EngineSettings, TableFiles, open_engine
from cleanroom_pipelines.uploads.reading import HEAVY_ROWS, HEAVY_SHARE
from cleanroom_pipelines.uploads.report import (
    MAX_RECORDED_ERRORS,
    MESSAGES,
    ErrorCode,
    RecordedError,
    UniquenessReport,
    ValidationReport,
)

# An id on a fifth of all rows is on a tenth of a sample of this size, unless it is distributed like the sample.
_HEAVY_SAMPLE_ROWS = 20_000


@dataclass(frozen=True)
class UniqueKey:
    """The unique key of a dataset.

    Args:
        columns: Its columns among the valid rows.
        names: Their names in reports.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]


def with_counts(
    report: ValidationReport,
    rows: TableFiles,
    key: UniqueKey,
    row_number: Callable[[int], int],
    settings: EngineSettings,
) -> ValidationReport:
    """Add figures of all valid rows to a report: duplicates, users, and warnings about ids on too many rows.

    Args:
        report: The report on the rows.
        rows: The valid rows, with `row_number` among the readable rows.
        key: The unique key; later rows with an equal key are duplicates.
        row_number: Converts a row number among readable rows into one among all rows.
        settings: Settings of the engine.

    Returns:
        The report with duplicates, users, and warnings of ids that hold at least a fifth of the rows.
    """
    columns = ", ".join(key.columns)
    with open_engine(settings, paths=rows.files) as engine:
        engine.scan("valid", rows)
        counts = engine.fetch(
            # one row: distinct keys, distinct values of the first column, and those of them with at least two rows
            f"WITH keys AS (SELECT {columns}, count(*) AS n_rows FROM valid GROUP BY {columns}), "
            f"named AS (SELECT {key.columns[0]}, sum(n_rows) AS n_rows FROM keys GROUP BY {key.columns[0]}) "
            "SELECT (SELECT count(*) FROM keys) AS n_unique, count(*) AS n_users, "
            "count(*) FILTER (n_rows >= 2) AS n_users_with_two FROM named"
        ).to_pylist()[0]
        n_duplicates = report.n_valid_rows - counts["n_unique"]
        recorded = recorded_duplicates(engine, key, row_number) if n_duplicates else ()
        warnings = _heavy_ids(engine, key, report.n_valid_rows)
    code = ErrorCode.DUPLICATE_VALUES
    by_code = dict(report.n_invalid_rows_by_code) | ({code: n_duplicates} if n_duplicates else {})
    return replace(
        report,
        n_invalid_rows=report.n_invalid_rows + n_duplicates,
        n_invalid_rows_by_code=dict(sorted(by_code.items())),
        table=replace(
            report.table,
            n_users=counts["n_users"],
            n_users_with_two=counts["n_users_with_two"],
            warnings=(*report.table.warnings, *warnings),
        ),
        uniqueness=UniquenessReport(
            n_duplicates,
            recorded,
            key_columns=key.names,
            n_unique=counts["n_unique"],
            n_duplicates=n_duplicates,
        ),
    )


def recorded_duplicates(
    engine: Engine, key: UniqueKey, row_number: Callable[[int], int]
) -> tuple[RecordedError, ...]:
    """Return the errors of the first 500 rows in the view `valid` that repeat the key of an earlier row."""
    columns = ", ".join(key.columns)
    rows = engine.fetch(
        # one row per later duplicate, the first 500 of them
        f"WITH repeated AS (SELECT {columns}, min(row_number) AS first_row FROM valid GROUP BY {columns} "
        "HAVING count(*) > 1) "
        f"SELECT row_number FROM valid JOIN repeated USING ({columns}) WHERE row_number > first_row "
        "ORDER BY row_number LIMIT ?",
        [MAX_RECORDED_ERRORS],
    )["row_number"].to_pylist()
    code = ErrorCode.DUPLICATE_VALUES
    # The error concerns the row, so it names a column only if the key has just one.
    column = key.names[0] if len(key.names) == 1 else None
    return tuple(RecordedError(code, MESSAGES[code], row_number(row), column) for row in rows)


def _heavy_ids(engine: Engine, key: UniqueKey, n_rows: int) -> tuple[str, ...]:
    """Return a warning for each column in which one id is on too many rows: it shows the share, never the id."""
    names = {column: name for column, name in zip(key.columns, key.names, strict=True) if name.endswith("_id")}
    step = max(1, n_rows // _HEAVY_SAMPLE_ROWS)
    if n_rows < HEAVY_ROWS:
        return ()
    sample = engine.fetch(f"SELECT {', '.join(names)} FROM valid WHERE row_number % ? = 0", [step])
    found = []
    for column, name in names.items():
        n_of_one = _rows_of_heaviest(engine, column, sample[column])
        if n_of_one >= max(HEAVY_ROWS, HEAVY_SHARE * n_rows):
            found.append(
                f"One {name} is on {n_of_one:,} of {n_rows:,} rows ({n_of_one / n_rows:.0%}). "
                "It may represent a missing value."
            )
    return tuple(found)


def _rows_of_heaviest(engine: Engine, column: str, sample: pa.ChunkedArray) -> int:
    """Return the number of rows with the id that is most frequent in a sample; 0 if it is rare in the sample."""
    counts = pc.value_counts(sample).flatten() if len(sample) else None
    if counts is None or pc.max(counts[1]).as_py() < HEAVY_SHARE / 2 * len(sample):
        return 0
    heaviest = counts[0][int(pc.index(counts[1], pc.max(counts[1])).as_py())]
    counted = engine.fetch(f"SELECT count(*) AS n FROM valid WHERE {column} = ?", [heaviest.as_py()])
    return int(counted["n"][0].as_py())
