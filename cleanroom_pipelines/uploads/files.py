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
from cleanroom_pipelines.uploads.cells import Column
from cleanroom_pipelines.uploads.checks import UploadKind
from cleanroom_pipelines.uploads.reading import (
    Checked,
    declare,
    distinct_ids,
    heavy_id_warnings,
    invalid_rows_reason,
    opened,
)
from cleanroom_pipelines.uploads.report import (
    MAX_RECORDED_ERRORS,
    MESSAGES,
    ColumnType,
    ErrorCode,
    Outcome,
    RecordedError,
    SchemaReport,
    TableReport,
    UniquenessReport,
    ValidationReport,
)
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_IDS, MIN_SEED_IDS, SEED_COLUMN
from cleanroom_pipelines.uploads.tally import Recorder, Tally, errors_of

BATCH_ROWS = 1_000_000

DeclaredColumns = Sequence[tuple[str, str]]

_SHARE_OF_BATCHES = 0.8
# Error codes of whole-upload problems. A missing file has none; its status code is enough.
_CODES: dict[str, ErrorCode | None] = {
    "missing": None,
    "empty": ErrorCode.EMPTY_FILE,
    "columns": ErrorCode.NOT_ENOUGH_COLUMNS,
    "times": ErrorCode.INVALID_NUMERIC_RANGE,
}


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

    def too_small(counts: "_Counts") -> "_Verdict | None":
        floors = [
            (counts.n_valid_rows, min_rows, "valid rows"),
            (counts.n_users, min_users, "users"),
            (counts.n_users_with_two, min_users_with_two, "users with at least two rows"),
        ]
        return next(
            (_too_few(checks.INTERACTIONS, n, least, unit) for n, least, unit in floors if n < least), None
        )

    task = _Task(_INTERACTIONS, declared, too_small, max_invalid_share, batch_rows, runtime)
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
    task = _Task(_USERS, declared, lambda counts: None, max_invalid_share, batch_rows, runtime)
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

    def wrong_size(counts: "_Counts") -> "_Verdict | None":
        # The reason becomes a job status that both sides can read, so it must not contain the counts.
        if counts.n_users < min_unique:
            message = f"The seed has fewer than the required {min_unique:,} unique ids."
            return _wrong_size(checks.SEED, "too small", message, "Provide more ids.")
        if counts.n_users > max_unique:
            message = f"The seed has more than the allowed {max_unique:,} unique ids."
            return _wrong_size(checks.SEED, "too large", message, "Provide a smaller seed.")
        return None

    kept: list[pa.ChunkedArray] = []

    def keep(engine: Engine, checked: Checked) -> None:
        kept.append(distinct_ids(engine, checked))

    task = _Task(_SEED, None, wrong_size, max_invalid_share, batch_rows, runtime, keep, is_strict, dataset_column)
    report = _validate(source, task)
    return report, kept[0] if report.passed else None


@dataclass(frozen=True)
class _KindRules:
    upload: UploadKind
    counts_duplicates: bool
    drops_duplicates: bool
    names_unknown_columns: bool


_INTERACTIONS = _KindRules(
    checks.INTERACTIONS, counts_duplicates=False, drops_duplicates=False, names_unknown_columns=True
)
_USERS = _KindRules(checks.USERS, counts_duplicates=True, drops_duplicates=True, names_unknown_columns=True)
_SEED = _KindRules(checks.SEED, counts_duplicates=True, drops_duplicates=False, names_unknown_columns=False)


@dataclass(frozen=True)
class _Verdict:
    """Why an upload fails; the code is None if row errors already show the reason."""

    code: ErrorCode | None
    error: InputError

    def on(self, report: ValidationReport) -> ValidationReport:
        return report.failed(self.error.status_code, str(self.error), self.code)


@dataclass(frozen=True)
class _Counts:
    n_valid_rows: int
    n_users: int
    n_users_with_two: int


@dataclass(frozen=True)
class _Task:
    rules: _KindRules
    # None for a seed, whose column is chosen from its file.
    declared: tuple[tuple[str, Role], ...] | None
    judge_size: Callable[[_Counts], _Verdict | None]
    max_invalid_share: float
    batch_rows: int
    runtime: Runtime
    # Called with the rows of a valid upload.
    on_valid: Callable[[Engine, Checked], None] = lambda engine, checked: None
    is_strict: bool = False
    dataset_column: str = ""


def _validate(source: str | Path, task: _Task) -> ValidationReport:
    upload = task.rules.upload
    report = ValidationReport(upload.what, Outcome.PASSED)
    try:
        tables = checks.find_upload(source, upload)
        declared = task.declared or ((SEED_COLUMN, Role.USER_ID),)
        report = replace(report, table=_table_report(tables, declared, task.rules))
        if task.declared is None:
            declared = ((checks.choose_seed_column(tables, task.dataset_column), Role.USER_ID),)
            report = replace(report, table=_table_report(tables, declared, task.rules))
        found = declare(tables, declared, upload)
        report = replace(report, schema=_schema_report(found.columns))
        task.runtime.report_progress(0.0, "reading the files")
        with opened(found, task.runtime.engine, keeps_rejected=True) as (engine, checked):
            return _validate_rows(engine, checked, task, report)
    except InputError as error:
        if task.is_strict:
            raise
        return _verdict_of(error).on(report)


def _validate_rows(engine: Engine, checked: Checked, task: _Task, report: ValidationReport) -> ValidationReport:
    upload = task.rules.upload
    tally = _tally_rows(engine, checked, report.table, task)
    if tally.n_rows == 0:
        raise upload.rejection(
            f"The {upload.what} has no rows.", remedy="Upload a file with at least one row.", problem="empty"
        )
    report = tally.added_to(report, [column.name for column in checked.columns])
    report, counts = _with_counts(engine, checked, tally, report, task)
    verdict = (
        _wrong_time_unit(engine, checked, report, upload)
        or _too_many_invalid(engine, checked, tally, task)
        or task.judge_size(counts)
    )
    if not verdict:
        task.on_valid(engine, checked)
    elif task.is_strict:
        raise verdict.error
    task.runtime.report_progress(1.0, "validated")
    return verdict.on(report) if verdict else replace(report, n_rows_dropped=report.n_invalid_rows)


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
) -> tuple[ValidationReport, _Counts]:
    task.runtime.report_progress(_SHARE_OF_BATCHES, "counting users")
    user = checked.value(Role.USER_ID)
    row = engine.fetch(
        # one row: the valid rows, their users, the users with at least two, and the most rows of one user
        f"WITH per_user AS (SELECT {user} AS user_id, count(*) AS n_rows FROM {checked.name} "
        f"WHERE {checked.usable} GROUP BY 1) "
        "SELECT CAST(coalesce(sum(n_rows), 0) AS BIGINT) AS n_rows, count(*) AS n_users, "
        "count(*) FILTER (n_rows >= 2) AS n_users_with_two, max(n_rows) AS n_most FROM per_user"
    ).to_pylist()[0]
    counts = _Counts(row["n_rows"], row["n_users"], row["n_users_with_two"])
    if counts.n_valid_rows != report.n_valid_rows:
        # Both passes give the same count on the same bytes.
        raise EngineError("The files changed while they were read.", remedy="Try again once they are complete.")
    table = replace(
        report.table,
        n_users=counts.n_users,
        n_users_with_two=counts.n_users_with_two,
        warnings=heavy_id_warnings(row["n_most"] or 0, counts.n_valid_rows),
    )
    report = replace(report, table=table)
    if task.rules.counts_duplicates:
        n_duplicates = counts.n_valid_rows - counts.n_users
        key = next(column.name for column in checked.columns if column.role is Role.USER_ID)
        uniqueness = UniquenessReport(key_columns=(key,), n_unique=counts.n_users, n_duplicates=n_duplicates)
        report = replace(report, uniqueness=uniqueness)
        if task.rules.drops_duplicates and n_duplicates:
            report = _with_duplicates_dropped(engine, checked, tally, report)
    return report, counts


def _with_duplicates_dropped(
    engine: Engine, checked: Checked, tally: Tally, report: ValidationReport
) -> ValidationReport:
    (key,) = report.uniqueness.key_columns
    first = engine.fetch(
        # one row per later duplicate, the first 500 in file order; invalid rows are ignored
        "WITH numbered AS (SELECT row_number() OVER () AS row_number, "
        f"CASE WHEN {checked.usable} THEN {checked.value(Role.USER_ID)} END AS user_id FROM {checked.name}), "
        "repeated AS (SELECT user_id, min(row_number) AS first_row FROM numbered WHERE user_id IS NOT NULL "
        "GROUP BY user_id HAVING count(*) > 1) "
        "SELECT row_number FROM numbered JOIN repeated USING (user_id) WHERE row_number > first_row "
        f"ORDER BY row_number LIMIT {MAX_RECORDED_ERRORS}"
    )
    code = ErrorCode.DUPLICATE_VALUES
    n_duplicates = report.uniqueness.n_duplicates
    recorded = tuple(
        RecordedError(code, MESSAGES[code], tally.row_number(row), key) for row in first["row_number"].to_pylist()
    )
    return replace(
        report,
        n_invalid_rows=report.n_invalid_rows + n_duplicates,
        n_invalid_rows_by_code={**report.n_invalid_rows_by_code, code: n_duplicates},
        uniqueness=replace(report.uniqueness, n_errors=n_duplicates, recorded=recorded),
    )


# --- Verdicts ---


def _verdict_of(error: InputError) -> _Verdict:
    return _Verdict(_CODES.get(error.attributes.get("problem", ""), ErrorCode.INVALID_FILE_TYPE), error)


def _wrong_time_unit(
    engine: Engine, checked: Checked, report: ValidationReport, upload: UploadKind
) -> _Verdict | None:
    position = next((i for i, column in enumerate(checked.columns) if column.role is Role.TIMESTAMP), None)
    if position is None or cells.TIME in checked.columns[position].kind:
        return None
    # Query the size of the times only if many cells are unusable.
    if report.columns[position].n_errors * 2 <= report.n_rows:
        return None
    found = engine.fetch(
        # one row: times too large to be seconds
        f"SELECT count(*) AS n, min(v{position}) AS smallest FROM {checked.name} "
        f"WHERE v{position} >= {cells.MAX_SECONDS}"
    ).to_pylist()[0]
    try:
        checks.check_times(
            checked.columns[position].name,
            upload,
            n_too_large=found["n"],
            smallest=found["smallest"],
            n_rows=report.n_rows,
        )
    except InputError as error:
        return _verdict_of(error)
    return None


def _too_many_invalid(engine: Engine, checked: Checked, tally: Tally, task: _Task) -> _Verdict | None:
    # Duplicates do not count.
    if not checks.exceeds(tally.n_invalid_rows, tally.n_rows, task.max_invalid_share):
        return None
    upload = task.rules.upload
    counts = (tally.n_invalid_rows, tally.n_rows)
    message, remedy = invalid_rows_reason(engine, checked, counts, task.max_invalid_share)
    return _Verdict(None, upload.rejection(message, remedy=remedy, problem="rows"))


def _too_few(upload: UploadKind, n_found: int, n_least: int, unit: str) -> _Verdict:
    message = f"The {upload.what} has {n_found:,} {unit}; at least {n_least:,} are required."
    return _wrong_size(upload, "too small", message, "Provide more data.")


def _wrong_size(upload: UploadKind, problem: str, message: str, remedy: str) -> _Verdict:
    return _Verdict(ErrorCode.INVALID_NUMBER_OF_ROWS, upload.rejection(message, remedy=remedy, problem=problem))


def _table_report(tables: TableFiles, declared: DeclaredColumns, rules: _KindRules) -> TableReport:
    names = {name for name, _ in declared}
    unknown = [name for name in tables.columns if name not in names]
    named = rules.names_unknown_columns and names <= set(tables.columns)
    return TableReport(
        n_files=len(tables.files),
        n_bytes=tables.n_bytes,
        format=tables.format,
        n_unknown_columns=len(unknown),
        unknown_columns=tuple(unknown) if named else (),
    )


def _schema_report(columns: Sequence[Column]) -> SchemaReport:
    misfits = tuple(
        RecordedError(
            ErrorCode.INVALID_FILE_TYPE,
            f"The role {column.role} requires {cells.TYPES_IN_WORDS[column.role]}.",
            column=column.name,
        )
        for column in columns
        if not column.fits
    )
    described = tuple(ColumnType(column.name, column.role, column.type) for column in columns)
    return SchemaReport(len(misfits), misfits, described)
