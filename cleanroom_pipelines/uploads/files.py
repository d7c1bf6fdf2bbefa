"""Validation of whole uploads: interactions tables, users tables and seeds.

Lives here: reading an upload in batches through its pandera schema, totals over batches and files, the verdict.
Add here when there is a new kind of upload, or a new reason for one to fail.
Keep out: valid cells (`uploads.cells`, `schemas`), reasons that reject a whole upload in every use
(`uploads.checks`), and the format of reports (`report`).

`reading.read` judges the cells in the engine. Rows with errors are read in batches of 1,000,000, from which
pandera collects row numbers and codes; then one query counts users, uniqueness and duplicates.

Measured on one thread of a 2-core machine, idle to busy, without imports (pandera: 2 to 3 s): Complete Journey
(1.5 million rows of parquet, four columns) 0.2 to 0.4 s; 20 million rows of four columns, 6 to 17 s as parquet
and 14 to 28 s as CSV; 5 million as JSON Lines, 14 to 20 s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from cleanroom_pipelines.engine import Engine, Runtime, TableFiles
from cleanroom_pipelines.errors import EngineError, InputError
from cleanroom_pipelines.uploads import cells, checks
from cleanroom_pipelines.uploads.checks import UploadKind
from cleanroom_pipelines.uploads.reading import (
    Checked,
    declare,
    distinct_ids,
    heavy_id_warnings,
    opened,
    reject_invalid_rows,
)
from cleanroom_pipelines.uploads.report import (
    ErrorCode,
    Outcome,
    TableReport,
    UniquenessReport,
    ValidationReport,
)
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.room_counts import UniqueKey, recorded_duplicates
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_IDS, MIN_SEED_IDS, SEED_COLUMN
from cleanroom_pipelines.uploads.tally import Recorder, Tally, errors_of

BATCH_ROWS = 1_000_000

DeclaredColumns = Sequence[tuple[str, str]]

_SHARE_OF_BATCHES = 0.8


def validate_interactions(
    source: str | Path,
    columns: DeclaredColumns,
    *,
    max_invalid_share: float = 0.05,
    min_users: int = 100,
    min_rows: int = 1_000,
    min_users_with_two: int = 0,
    batch_rows: int = BATCH_ROWS,
    runtime: Runtime = Runtime(),  # noqa: B008 frozen
) -> ValidationReport:
    """Validate an interactions table against its declared columns.

    Args:
        source: File, folder or glob of parquet, CSV (header) or JSON Lines.
        columns: Declared column names and roles: exactly one USER_ID and ITEM_ID, at most one TIMESTAMP.
        max_invalid_share: Maximum share of invalid rows, 0 to 1.
        min_users: Minimum number of users, counted over the valid rows.
        min_rows: Minimum number of valid rows.
        min_users_with_two: Minimum number of users with at least two valid rows.
        batch_rows: Rows per batch.
        runtime: Engine, progress and cancellation.

    Returns:
        The report. Invalid files fail the report, not the call.

    Raises:
        UsageError: The declaration is invalid.
        EngineError: The engine failed for a reason other than the files, such as lack of memory.
    """
    declared = cells.check_declaration(columns, needs=[Role.USER_ID, Role.ITEM_ID])

    def check_size(report: ValidationReport) -> None:
        floors = [
            (report.n_valid_rows, min_rows, "valid rows"),
            (report.table.n_users, min_users, "users"),
            (report.table.n_users_with_two, min_users_with_two, "users with at least two rows"),
        ]
        for n_found, least, unit in floors:
            if n_found < least:
                raise checks.INTERACTIONS.rejection(
                    f"The interactions table has {n_found:,} {unit}; at least {least:,} are required.",
                    remedy="Provide more data.",
                    problem="too small",
                )

    task = _Task(checks.INTERACTIONS, declared, check_size, max_invalid_share, batch_rows, runtime)
    return _validate(source, task)


def validate_users(
    source: str | Path,
    columns: DeclaredColumns,
    *,
    max_invalid_share: float = 0.05,
    batch_rows: int = BATCH_ROWS,
    runtime: Runtime = Runtime(),  # noqa: B008 frozen
) -> ValidationReport:
    """Validate a users table, which has one row per user.

    Later rows of the same user are dropped and counted as DUPLICATE_VALUES.

    Args:
        source: File, folder or glob of parquet, CSV (header) or JSON Lines.
        columns: Declared column names and roles: exactly one USER_ID, and features.
        max_invalid_share: Maximum share of invalid rows, 0 to 1; duplicates do not count.
        batch_rows: Rows per batch.
        runtime: Engine, progress and cancellation.

    Returns:
        The report. Invalid files fail the report, not the call.

    Raises:
        UsageError: The declaration is invalid.
        EngineError: The engine failed for a reason other than the files, such as lack of memory.
    """
    declared = cells.check_declaration(columns, needs=[Role.USER_ID])
    task = _Task(checks.USERS, declared, lambda report: None, max_invalid_share, batch_rows, runtime)
    return _validate(source, task)


def check_seed(
    source: str | Path,
    *,
    max_invalid_share: float = 0.05,
    min_unique: int = MIN_SEED_IDS,
    max_unique: int = MAX_SEED_IDS,
    is_strict: bool = False,
    dataset_column: str = "",
    batch_rows: int = BATCH_ROWS,
    runtime: Runtime = Runtime(),  # noqa: B008 frozen
) -> tuple[ValidationReport, pa.ChunkedArray | None]:
    """Validate a seed, a list of user ids, and return its ids. Duplicates are counted, but are not errors.

    Args:
        source: File, folder or glob of JSON Lines, CSV (header) or parquet, with a column of ids
            (`checks.choose_seed_column`); other columns are ignored, and not named.
        max_invalid_share: Maximum share of invalid rows, 0 to 1.
        min_unique: Minimum number of unique ids.
        max_unique: Maximum number of unique ids.
        is_strict: Whether to raise the error of an invalid seed instead of reporting it.
        dataset_column: Name of the training dataset's USER_ID column; empty if unknown.
        batch_rows: Rows per batch.
        runtime: Engine, progress and cancellation.

    Returns:
        The report, and the unique usable ids as sorted strings; None if the report failed. Invalid files fail the
        report, not the call, unless it is strict.

    Raises:
        SeedError: The seed is invalid, and the call is strict.
        EngineError: The engine failed for a reason other than the files, such as lack of memory.
    """

    def check_size(report: ValidationReport) -> None:
        # The reason becomes a job status that both sides can read, so it must not contain the counts.
        if report.table.n_users < min_unique:
            message = f"The seed has fewer than the required {min_unique:,} unique ids."
            raise checks.SEED.rejection(message, remedy="Provide more ids.", problem="too small")
        if report.table.n_users > max_unique:
            message = f"The seed has more than the allowed {max_unique:,} unique ids."
            raise checks.SEED.rejection(message, remedy="Provide a smaller seed.", problem="too many")

    kept: list[pa.ChunkedArray] = []

    def keep(engine: Engine, checked: Checked) -> None:
        kept.append(distinct_ids(engine, checked))

    task = _Task(
        checks.SEED, None, check_size, max_invalid_share, batch_rows, runtime, keep, is_strict, dataset_column
    )
    report = _validate(source, task)
    return report, kept[0] if report.passed else None


@dataclass(frozen=True)
class _Task:
    upload: UploadKind
    # None for a seed, whose column is chosen from its file.
    declared: tuple[tuple[str, Role], ...] | None
    check_size: Callable[[ValidationReport], None]
    max_invalid_share: float
    batch_rows: int
    runtime: Runtime
    # Called with the rows of a valid upload.
    on_valid: Callable[[Engine, Checked], None] = lambda engine, checked: None
    is_strict: bool = False
    dataset_column: str = ""


def _validate(source: str | Path, task: _Task) -> ValidationReport:
    upload = task.upload
    report = ValidationReport(upload.what, Outcome.PASSED)
    try:
        tables = checks.find_upload(source, upload)
        declared = task.declared or ((SEED_COLUMN, Role.USER_ID),)
        report = replace(report, table=_table_report(tables, declared, task.upload))
        if task.declared is None:
            declared = ((checks.choose_seed_column(tables, task.dataset_column), Role.USER_ID),)
            report = replace(report, table=_table_report(tables, declared, task.upload))
        found = declare(tables, declared, upload)
        misfits = [column for column in found.columns if not column.fits]
        sentence = "The role {role} requires {types}."
        report = replace(report, schema=checks.schema_report(found.columns, misfits, sentence))
        task.runtime.report_progress(0.0, "reading the files")
        with opened(found, task.runtime.engine, keeps_rejected=True) as (engine, checked):
            return _validate_rows(engine, checked, task, report)
    except InputError as error:
        return _failed(report, error, task)


def _failed(report: ValidationReport, error: InputError, task: _Task) -> ValidationReport:
    if task.is_strict:
        raise error
    return report.failed(error.status_code, str(error), checks.code_of(error))


def _validate_rows(engine: Engine, checked: Checked, task: _Task, report: ValidationReport) -> ValidationReport:
    upload = task.upload
    tally = _tally_rows(engine, checked, report.table, task)
    if tally.n_rows == 0:
        raise upload.rejection(
            f"The {upload.what} has no rows.", remedy="Upload a file with at least one row.", problem="empty"
        )
    report = tally.added_to(report, [column.name for column in checked.columns])
    report = _with_counts(engine, checked, tally, report, task)
    try:
        _check_times(engine, checked, report)
        # Duplicates do not count.
        invalid = (tally.n_invalid_rows, tally.n_rows)
        reject_invalid_rows(engine, checked, invalid, task.max_invalid_share)
        task.check_size(report)
    except InputError as error:
        report = _failed(report, error, task)
    else:
        task.on_valid(engine, checked)
        report = replace(report, n_rows_dropped=report.n_invalid_rows)
    task.runtime.report_progress(1.0, "validated")
    return report


# --- Reading the rows ---


def _tally_rows(engine: Engine, checked: Checked, table: TableReport, task: _Task) -> Tally:
    tally = Tally([Recorder() for _ in checked.columns])
    n_rows = max(1, engine.fetch(f"SELECT count(*) AS n FROM {checked.name}")["n"][0].as_py())
    select = ", ".join(f"e{i}" for i in range(len(checked.columns)))
    for batch in engine.batches(f"SELECT {select} FROM {checked.name}", rows=task.batch_rows):
        tally.add_batch(errors_of(checked.rules, batch.columns), batch.num_rows)
        task.runtime.report_progress(_SHARE_OF_BATCHES * tally.n_readable_rows / n_rows, "validating rows")
    for file, part in zip(checked.tables.files, checked.rejected, strict=False):
        n_header_lines = checked.tables.shape_of(file).n_above + 1 if table.format == "csv" else 0
        tally.add_rejected(part.lines, part.n_rows_before, n_header_lines)
    return tally


# --- Counts over the whole file ---


def _with_counts(
    engine: Engine, checked: Checked, tally: Tally, report: ValidationReport, task: _Task
) -> ValidationReport:
    task.runtime.report_progress(_SHARE_OF_BATCHES, "counting users")
    user = checked.value(Role.USER_ID)
    row = engine.fetch(
        # one row: the valid rows, their users, the users with at least two, and the most rows of one user
        f"WITH per_user AS (SELECT {user} AS user_id, count(*) AS n_rows FROM {checked.name} "
        f"WHERE {checked.usable} GROUP BY 1) "
        "SELECT CAST(coalesce(sum(n_rows), 0) AS BIGINT) AS n_rows, count(*) AS n_users, "
        "count(*) FILTER (n_rows >= 2) AS n_users_with_two, max(n_rows) AS n_most FROM per_user"
    ).to_pylist()[0]
    n_rows, n_users = row["n_rows"], row["n_users"]
    if n_rows != report.n_valid_rows:
        # Both passes give the same count on the same bytes.
        raise EngineError("The files changed while they were read.", remedy="Try again once they are complete.")
    table = replace(
        report.table,
        n_users=n_users,
        n_users_with_two=row["n_users_with_two"],
        warnings=heavy_id_warnings(row["n_most"] or 0, n_rows),
    )
    report = replace(report, table=table)
    if task.upload is not checks.INTERACTIONS:
        key = next(column.name for column in checked.columns if column.role is Role.USER_ID)
        uniqueness = UniquenessReport(key_columns=(key,), n_unique=n_users, n_duplicates=n_rows - n_users)
        report = replace(report, uniqueness=uniqueness)
        if task.upload is checks.USERS and uniqueness.n_duplicates:
            report = _with_duplicates_dropped(engine, checked, tally, report)
    return report


def _with_duplicates_dropped(
    engine: Engine, checked: Checked, tally: Tally, report: ValidationReport
) -> ValidationReport:
    code, n_duplicates = ErrorCode.DUPLICATE_VALUES, report.uniqueness.n_duplicates
    engine.execute(
        f"CREATE TEMP VIEW valid AS SELECT row_number, {checked.value(Role.USER_ID)} AS user_id "
        f"FROM (SELECT *, row_number() OVER () AS row_number FROM {checked.name}) WHERE {checked.usable}"
    )
    key = UniqueKey(("user_id",), report.uniqueness.key_columns)
    recorded = recorded_duplicates(engine, key, tally.row_number)
    return replace(
        report,
        n_invalid_rows=report.n_invalid_rows + n_duplicates,
        n_invalid_rows_by_code={**report.n_invalid_rows_by_code, code: n_duplicates},
        uniqueness=replace(report.uniqueness, n_errors=n_duplicates, recorded=recorded),
    )


def _check_times(engine: Engine, checked: Checked, report: ValidationReport) -> None:
    position = next((i for i, column in enumerate(checked.columns) if column.role is Role.TIMESTAMP), None)
    if position is None or cells.TIME in checked.columns[position].kind:
        return
    # Query the size of the times only if many cells are unusable.
    if report.columns[position].n_errors * 2 <= report.n_rows:
        return
    found = engine.fetch(
        # one row: times too large to be seconds
        f"SELECT count(*) AS n_too_large, min(v{position}) AS smallest FROM {checked.name} "
        f"WHERE v{position} >= {cells.MAX_SECONDS}"
    ).to_pylist()[0]
    checks.check_times(checked.columns[position].name, checked.upload, n_rows=report.n_rows, **found)


def _table_report(tables: TableFiles, declared: DeclaredColumns, upload: UploadKind) -> TableReport:
    names = {name for name, _ in declared}
    unknown = [name for name in tables.columns if name not in names]
    named = upload is not checks.SEED and names <= set(tables.columns)
    return TableReport(
        n_files=len(tables.files),
        n_bytes=tables.n_bytes,
        format=tables.format,
        n_unknown_columns=len(unknown),
        unknown_columns=tuple(unknown) if named else (),
    )
