"""Reader of uploaded tables, used for every kind of upload.

Lives here: `declare`, which finds a table's declared columns, and `read`, which judges each of their cells, once.
Add here when a table may be stored in another way.
Keep out: which cells are usable (cells), whether an upload as a whole can be used (checks, files), file formats
(engine), files of data rooms, whose columns have no declared names (one_pass).

Two layers. The first one is the files' cells: text is parsed once, into a parquet file; parquet is a view. Files
whose columns have different types are read separately, and meet as values, so no file's type is forced on another.
Then the facts about each column of ids are counted. They decide how the second layer, a view, reads the ids.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from cleanroom_pipelines.engine import (
    Engine,
    EngineSettings,
    TableFiles,
    encoding_error,
    find_tables,
    open_engine,
    quote_identifier,
    quote_literal,
    type_runs,
)
from cleanroom_pipelines.uploads import cells, checks
from cleanroom_pipelines.uploads.cells import Column, IdFacts, Rule
from cleanroom_pipelines.uploads.checks import CommonError, UploadKind
from cleanroom_pipelines.uploads.report import ErrorCode
from cleanroom_pipelines.uploads.roles import Role


@dataclass(frozen=True)
class Rejected:
    """Lines of one text file that could not be parsed.

    Args:
        lines: In the form of `Engine.rejected_lines`.
        n_rows_before: Readable rows before the file.
    """

    lines: pa.Table
    n_rows_before: int


@dataclass(frozen=True)
class Declared:
    """A table whose declared columns have been found in its files.

    Args:
        tables: The files.
        upload: Kind of upload, for messages.
        columns: The declared columns with their types, which may not fit their roles.
        runs: Consecutive files with the same types, each with its columns.
    """

    tables: TableFiles
    upload: UploadKind
    columns: tuple[Column, ...]
    runs: "_Runs" = field(repr=False)


@dataclass(frozen=True)
class Checked(Declared):
    """A table whose cells have been validated; its rows are a view in the engine.

    The view has for each declared column, by position, the value `v0`, `v1`, … (VARCHAR for ids, or integers where
    all files have integers; BIGINT seconds; DOUBLE; VARCHAR or VARCHAR[]) and `e0`, `e1`, …: the key of the broken
    rule (`cells.Rule.key`), NULL where the cell is usable.

    Args:
        name: Name of the view.
        facts: What each column of ids contains; None for other columns and for integers.
        rules: The rules of each column, as they were applied.
        n_rejected: Lines that could not be parsed; the view does not contain them.
        rejected: These lines by file, if `keeps_rejected` is set.
    """

    name: str
    facts: tuple[IdFacts | None, ...]
    rules: tuple[tuple[Rule, ...], ...]
    n_rejected: int
    rejected: tuple[Rejected, ...] = ()

    @property
    def usable(self) -> str:
        """SQL condition for usable rows; never NULL."""
        return " AND ".join(f"e{position} IS NULL" for position in range(len(self.columns)))

    def value(self, role: Role) -> str | None:
        """Return the name of the view's value column for a role; None if no column has the role."""
        return next((f"v{i}" for i, column in enumerate(self.columns) if column.role is role), None)

    @property
    def is_assumed(self) -> bool:
        """Whether ids were assumed to be plain, so that queries must check them (`cells.plain_id_sql`)."""
        return any(facts is not None and facts.assumed for facts in self.facts)

    @property
    def types(self) -> dict[str, str]:
        """Type of each declared column in the files."""
        return {column.name: column.type for column in self.columns}


def declare(tables: TableFiles, declared: Sequence[tuple[str, Role]], upload: UploadKind) -> Declared:
    """Find the declared columns in a table's files, with their types; the types are not checked.

    Args:
        tables: The files.
        declared: Names and roles of the needed columns; all others are ignored.
        upload: Kind of upload, for messages.

    Raises:
        TrainingDataError: Or SeedError: a column is missing or occurs twice.
    """
    checks.check_columns(tables, declared, upload)
    runs = _typed_runs(tables, declared)
    return Declared(tables, upload, _merged(runs), runs)


@contextmanager
def opened(
    declared: Declared, settings: EngineSettings | None, *, name: str = "upload", keeps_rejected: bool = False
) -> Iterator[tuple[Engine, Checked]]:
    """Open an engine and `read` a table with it; for the duration of the `with` block.

    Raises:
        TrainingDataError: Or SeedError: as in `read`, or the files could not be read to their end.
    """
    with (
        tempfile.TemporaryDirectory(prefix="upload-", dir=settings.scratch if settings else None) as scratch,
        checks.reading_of(declared.upload),
        open_engine(settings, paths=[*declared.tables.files, Path(scratch)]) as engine,
    ):
        yield engine, read(engine, name, declared, scratch=Path(scratch), keeps_rejected=keeps_rejected)


def read(
    engine: Engine,
    name: str,
    declared: Declared,
    *,
    scratch: Path,
    keeps_rejected: bool = False,
    assumes_plain: bool = False,
) -> Checked:
    """Open a table as the view `name`, with the value and the error of each cell (see `Checked`).

    Args:
        engine: Engine that may read the files, and read and write in `scratch`.
        name: Name of the view; names that start with it and `_` are used too.
        declared: The table.
        scratch: Existing folder.
        keeps_rejected: Whether to keep the lines that could not be parsed, by file.
        assumes_plain: Whether to read ids of type text without looking at them first. If the result `is_assumed`,
            queries must check the ids with `cells.plain_id_sql`; after a failure, `look` at the ids and repeat
            the query. Ignored on a cluster.

    Raises:
        TrainingDataError: Or SeedError: a column has an unsuitable type, or a quote is not closed.
    """
    tables, upload, columns, runs = declared.tables, declared.upload, declared.columns, declared.runs
    checks.check_types(columns, upload)
    raw = f"{name}_raw"
    n_rejected, rejected = 0, tuple[Rejected, ...]()
    if tables.format == "parquet":
        _scan_runs(engine, raw, runs, columns)
    else:
        n_rejected, rejected = _parse(
            engine, raw, runs[0][0], columns, upload, scratch=scratch, by_file=keeps_rejected
        )
    facts = _facts(engine, raw, columns, assumes_plain=assumes_plain and not engine.is_cluster)
    return _viewed(engine, Checked(tables, upload, columns, runs, name, facts, (), n_rejected, rejected), facts)


def look(engine: Engine, checked: Checked) -> Checked:
    """Inspect the ids of a table that was read with `assumes_plain`, and redefine its view to suit these ids."""
    if not checked.is_assumed:
        return checked
    return _viewed(engine, checked, _facts(engine, f"{checked.name}_raw", checked.columns))


def _viewed(engine: Engine, checked: Checked, facts: tuple[IdFacts | None, ...]) -> Checked:
    judged = [_judged(position, column, facts[position]) for position, column in enumerate(checked.columns)]
    select = ", ".join(sql for sql, _ in judged)
    engine.execute(f"CREATE OR REPLACE TEMP VIEW {checked.name} AS SELECT {select} FROM {checked.name}_raw")
    return replace(checked, facts=facts, rules=tuple(rules for _, rules in judged))


# --- First layer: the files' cells ---

_Runs = list[tuple[TableFiles, tuple[Column, ...]]]


def _typed_runs(tables: TableFiles, declared: Sequence[tuple[str, Role]]) -> _Runs:
    names = [name for name, _ in declared]
    if tables.format != "parquet":
        return [(tables.select(names), tuple(Column(name, role, cells.CELL, "text") for name, role in declared))]
    runs = type_runs(tables, names)
    if len(runs) > 1:
        # The types of a file without rows mean nothing: pandas writes them as doubles.
        filled = tuple(file for file in tables.files if _n_rows(file))
        runs = type_runs(replace(tables, files=filled or tables.files[:1]), names)
    return [
        (
            run,
            tuple(
                Column(name, role, cells.kind_of(types[name]), cells.type_name(types[name]))
                for name, role in declared
            ),
        )
        for run, types in runs
    ]


def _merged(runs: _Runs) -> tuple[Column, ...]:
    """Merge the types of each column in all files into one `Column`, whatever the order of the files."""
    merged = []
    for columns in zip(*(typed for _, typed in runs), strict=True):
        known = [column for column in columns if column.kind != cells.NULL] or columns
        kinds, types = sorted({column.kind for column in known}), sorted({column.type for column in known})
        merged.append(replace(columns[0], kind=", ".join(kinds), type=", ".join(types)))
    return tuple(merged)


def _scan_runs(engine: Engine, raw: str, runs: _Runs, columns: Sequence[Column]) -> None:
    as_text = {
        position for position, column in enumerate(columns) if column.role.is_id and not _is_integer(column)
    }
    parts = []
    for number, (run, typed) in enumerate(runs):
        engine.scan(f"{raw}_{number}", run)
        select = ", ".join(
            _nothing(position, columns[position], is_text=position in as_text)
            if column.kind == cells.NULL
            else _raw(position, column, is_text=position in as_text)
            for position, column in enumerate(typed)
        )
        parts.append(f"SELECT {select} FROM {raw}_{number}")
    engine.execute(f"CREATE OR REPLACE TEMP VIEW {raw} AS {' UNION ALL '.join(parts)}")


def _parse(
    engine: Engine,
    raw: str,
    tables: TableFiles,
    columns: Sequence[Column],
    upload: UploadKind,
    *,
    scratch: Path,
    by_file: bool,
) -> tuple[int, tuple[Rejected, ...]]:
    """Parse text files once into parquet, since several queries follow; return the lines that cannot be parsed."""
    select = ", ".join(_raw(position, column, is_text=True) for position, column in enumerate(columns))
    if engine.is_cluster:  # a cluster writes many files in parallel, instead of one
        engine.scan(f"{raw}_cells", tables)
        engine.execute(f"CREATE OR REPLACE TEMP TABLE {raw} AS SELECT {select} FROM {raw}_cells")
        lines = engine.rejected_lines()
        checks.check_quotes(lines, upload)
        return lines.num_rows, ()
    rejected, written, n_rows = [], [], 0
    # Rejected lines are numbered per file.
    for number, part in enumerate(map(tables.one, tables.files) if by_file else [tables]):
        engine.rejected_lines()
        engine.scan(f"{raw}_cells", part)
        path = scratch / f"{raw}-{number:05d}.parquet"
        engine.write_parquet(f"SELECT {select} FROM {raw}_cells", path)
        lines = engine.rejected_lines()
        checks.check_quotes(lines, upload)
        rejected.append(Rejected(lines, n_rows))
        written.append(path)
        if by_file:
            n_rows += _n_rows(path)
    engine.scan(raw, replace(find_tables(written[0]), files=tuple(written)))
    return sum(part.lines.num_rows for part in rejected), tuple(rejected) if by_file else ()


def _n_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def _raw(position: int, column: Column, *, is_text: bool) -> str:
    """Return SQL that reads a column's cells: raw ids as `c0`, other cells as value `v0` and error `e0`."""
    if not column.role.is_id:
        usable, rules = cells.rules_of(column)
        return f"{cells.value_sql(column)} AS v{position}, {cells.error_sql(rules, usable)} AS e{position}"
    id_ = cells.raw_id_sql(column)
    if is_text and column.kind == cells.INTEGER:
        id_ = f"CAST({quote_identifier(column.name)} AS VARCHAR)"
    return f"{id_} AS c{position}"


def _nothing(position: int, column: Column, *, is_text: bool) -> str:
    """Return SQL for a column that is all NULL in these files; its type is known only from other files."""
    if column.role.is_id:
        return f"CAST(NULL AS {'VARCHAR' if is_text else 'BIGINT'}) AS c{position}"
    types = {str(Role.TIMESTAMP): "BIGINT", str(Role.NUMERICAL_FEATURE): "DOUBLE"}
    type_ = types.get(column.role, "VARCHAR")
    array = "[]" if column.kind == cells.LIST else ""
    return f"CAST(NULL AS {type_}{array}) AS v{position}, CAST(NULL AS VARCHAR) AS e{position}"


# --- Second layer: ids ---


def _facts(
    engine: Engine, raw: str, columns: Sequence[Column], *, assumes_plain: bool = False
) -> tuple[IdFacts | None, ...]:
    """Return `IdFacts` for each column of ids that needs them; None for all other columns.

    Args:
        engine: Engine with the first layer.
        raw: Its name.
        columns: The declared columns.
        assumes_plain: Whether to assume, instead of looking, that ids of type text are plain.
    """
    facts = dict[int, IdFacts]()
    for position, column in enumerate(columns):
        if not column.role.is_id or _is_integer(column) or _is_exact(column):
            continue
        if assumes_plain and not column.is_number:
            facts[position] = IdFacts(blanks=False, placeholders=False, assumed=True)
            continue
        # Items are few: looking at the distinct ones costs less, but for users it costs up to half as much again.
        repeats = column.role is Role.ITEM_ID and not engine.is_cluster
        ids = f"(SELECT DISTINCT c{position} FROM {raw})" if repeats else raw
        for is_complete in (False, True):
            aggregates = cells.id_facts_sql(f"c{position}", is_number=column.is_number, is_complete=is_complete)
            row = engine.fetch(f"-- one row: what a column of ids contains\nSELECT {aggregates} FROM {ids}")
            facts[position] = IdFacts(*(value[0].as_py() for value in row.columns))
            if not facts[position].blanks and not facts[position].points:
                break
    return tuple(facts.get(position) for position in range(len(columns)))


def _is_exact(column: Column) -> bool:
    """Whether the column contains item ids as text, which are read unchanged."""
    return column.role is Role.ITEM_ID and column.kind == cells.TEXT


def _is_integer(column: Column) -> bool:
    """Whether the ids are integers of one common type in all files; otherwise they are read as text."""
    return column.kind == cells.INTEGER and (column.type == "uint64" or "uint64" not in column.type)


def _judged(position: int, column: Column, facts: IdFacts | None) -> tuple[str, tuple[Rule, ...]]:
    """Return the SQL for a column's final value and error, and the column's rules; `facts` matter only for ids."""
    if not column.role.is_id:
        return f"v{position}, e{position}", tuple(cells.rules_of(column)[1])
    value = f"c{position}"
    if _is_integer(column):
        rules = [Rule(ErrorCode.EMPTY_CELL, f"{value} IS NULL")]
    elif facts is None or (column.role is Role.ITEM_ID and not column.is_number and not facts.are_whole):
        rules = [Rule(ErrorCode.EMPTY_CELL, f"coalesce({value} = '', true)")]
    else:
        value, rules = cells.id_sql(value, facts, column)
    return f"{value} AS v{position}, {cells.error_sql(rules)} AS e{position}", tuple(rules)


# --- Facts about the rows ---

HEAVY_SHARE, HEAVY_ROWS = 0.2, 25
"""An id with at least this share of the rows, and this number of them, is unlikely to be one person."""


def heavy_id_warnings(n_most: int, n_rows: int) -> tuple[str, ...]:
    """A warning if one id is on at least a fifth of the valid rows: it may represent unknown users."""
    if n_most < HEAVY_ROWS or n_most < HEAVY_SHARE * n_rows:
        return ()
    return (
        f"One id is on {n_most / n_rows:.0%} of the valid rows. If it represents unknown users, remove its rows.",
    )


def distinct_ids(engine: Engine, checked: Checked) -> pa.ChunkedArray:
    """The distinct usable ids of a table with one column, as sorted strings."""
    ids = engine.fetch(
        f"""-- one row per usable id
        SELECT DISTINCT CAST(v0 AS VARCHAR) AS user_id FROM {checked.name}
        WHERE {checked.usable} ORDER BY user_id"""
    )
    return ids["user_id"]


def reject_invalid_rows(
    engine: Engine, checked: Checked, counts: tuple[int, int], max_invalid_share: float
) -> None:
    """Reject a table with too many invalid rows.

    Args:
        engine: Engine with the table.
        checked: The table.
        counts: Invalid rows and all rows, both with the lines that could not be parsed.
        max_invalid_share: The largest allowed share of invalid rows, 0 to 1.

    Raises:
        InputError: Of the upload's kind.
    """
    n_invalid, n_rows = counts
    if not n_rows or not checks.exceeds(n_invalid, n_rows, max_invalid_share):
        return
    common = common_error(engine, checked)
    encoding = encoding_error(checked.tables, checked.upload.what) if common is None else None
    if encoding is not None:
        message, remedy = encoding.message, encoding.remedy
    else:
        message, remedy = checks.invalid_rows_reason(checked.upload, *counts, max_invalid_share, common)
    raise checked.upload.rejection(message, remedy=remedy, problem="rows")


def reject_ambiguous_ids(engine: Engine, checked: Checked) -> int:
    """Reject a list in which some ids or lines cannot be read exactly; missing ids and placeholders are allowed.

    If such ids were silently left out of an exclusion, the people whom it should exclude would be delivered.

    Args:
        engine: Engine with the table.
        checked: The table; its first column has the ids.

    Returns:
        The number of rows.

    Raises:
        InputError: Some ids are decimals among other ids, or a line could not be parsed.
    """
    key = cells.point_rule(checked.columns[0]).key
    ambiguous = f"SELECT 1 FROM {checked.name} WHERE e0 = {quote_literal(key)} LIMIT 1"
    facts = checked.facts[0]
    if facts is not None and facts.points and facts.others and engine.fetch(ambiguous).num_rows:
        raise checked.upload.rejection(
            f"Some ids of the {checked.upload.what} are fractions, or have a decimal point that other ids lack.",
            remedy="Save the column as text.",
            problem="rows",
        )
    if checked.n_rejected:
        raise checked.upload.rejection(
            f"{checked.n_rejected:,} lines of the {checked.upload.what} could not be split into columns.",
            remedy="Quote cells that contain the separator.",
            problem="rows",
        )
    # From the footers of parquet files; the judged view would read all ids.
    return int(engine.fetch(f"SELECT count(*) AS n FROM {checked.name}_raw")["n"][0].as_py())


def common_error(engine: Engine, checked: Checked) -> CommonError | None:
    """The most common error in the cells of a table; None if unparsed lines are more common."""
    counts = ", ".join(
        f"(SELECT count(*) FROM {checked.name} WHERE e{position} = {quote_literal(rule.key)})"
        for position, rules in enumerate(checked.rules)
        for rule in rules
    )
    found = [column[0].as_py() for column in engine.fetch(f"-- one row\nSELECT {counts}").columns]
    errors = [
        CommonError(column.name, rule, 0)
        for column, rules in zip(checked.columns, checked.rules, strict=True)
        for rule in rules
    ]
    common = max(
        (replace(error, n_rows=n_rows) for error, n_rows in zip(errors, found, strict=True)),
        key=lambda error: error.n_rows,
        default=None,
    )
    return None if common is None or common.n_rows < max(1, checked.n_rejected) else common
