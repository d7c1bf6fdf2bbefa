"""Evaluate definitions: find or count their users.

Lives here: `evaluate` and `count` in a data room, `evaluate_files` over files of ids.
Add here when users come from another source.
Keep out: the query (compiling), and releasing numbers: the counts here are exact and for internal use only.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cleanroom_pipelines.audiences.canonical import lookalikes_of
from cleanroom_pipelines.audiences.compiling import Query, compile_definition
from cleanroom_pipelines.audiences.definitions import (
    Combinator,
    CombineOperator,
    Definition,
    FileRef,
    Resolve,
    RuleBased,
    reachable,
)
from cleanroom_pipelines.audiences.relations import COUNTED, MATCHED, join_matched, lookalike_relation
from cleanroom_pipelines.engine import (
    Engine,
    EngineSettings,
    TableFiles,
    find_tables,
    open_configured_engine,
    quote_identifier,
    stable_hash_sql,
)
from cleanroom_pipelines.errors import EngineError, InputError, StorageFullError, UsageError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.uploads.cells import plain_id_sql
from cleanroom_pipelines.uploads.checks import IDS, find_upload, reading_of
from cleanroom_pipelines.uploads.likely_causes import no_match
from cleanroom_pipelines.uploads.reading import Checked, declare, look, read, reject_ambiguous_ids
from cleanroom_pipelines.uploads.roles import Role


def evaluate(
    engine: Engine, definition: Definition, resolve: Resolve, lookalikes: Mapping[str, Path], out: Path
) -> int:
    """Write the users of a definition, one row each: user_id VARCHAR, in an order that reveals nothing.

    Args:
        engine: Engine with the room's relations (`relations.open_room_relations`); its paths must include the
            lookalike files and the folder of `out`.
        definition: The definition.
        resolve: Returns the definition of a referenced custom audience.
        lookalikes: A parquet file with distinct `user_id`s of each lookalike in `canonical.lookalikes_of`, by its
            canonical text.
        out: The parquet file to write, ordered by stable_hash and user_id.

    Returns:
        The number of users: exact, so for internal use only.

    Raises:
        UsageError: References are circular or too deep, or a lookalike is missing.
        EngineError: The engine failed.
    """
    query = _in_room(engine, definition, resolve, lookalikes)
    order = f"{stable_hash_sql('user_id')}, user_id"
    ordered = f"SELECT user_id FROM ({query.sql}) ORDER BY {order}"
    engine.write_parquet(ordered, out, query.parameters, repeats=False)
    return _rows_of(out)


def evaluate_counted(
    engine: Engine, definition: Definition, resolve: Resolve, lookalikes: Mapping[str, Path], out: Path
) -> int:
    """Write only one user per matching id, so that each person counts once; otherwise like `evaluate`."""
    query = _in_room(engine, definition, resolve, lookalikes, COUNTED)
    ordered = f"SELECT user_id FROM ({query.sql}) ORDER BY user_id"
    engine.write_parquet(ordered, out, query.parameters, repeats=False)
    return _rows_of(out)


def count(engine: Engine, definition: Definition, resolve: Resolve, lookalikes: Mapping[str, Path]) -> int:
    """Count a definition's users, one per matching id; arguments and errors as in `evaluate`.

    The count is exact: release it before publishing it.
    """
    query = _in_room(engine, definition, resolve, lookalikes, COUNTED)
    found = engine.fetch(f"SELECT count(*) AS n_users FROM ({query.sql})", query.parameters)
    return int(found["n_users"][0].as_py())


def evaluate_files(
    definition: Definition,
    resolve: Resolve,
    out: Path,
    settings: EngineSettings | None = None,
    *,
    warn: Callable[[str], None] | None = None,
) -> int:
    """Write the ids of a definition over files: `user_id` VARCHAR, distinct, in no particular order.

    Args:
        definition: A rule-based definition over files; it may refer to other such definitions.
        resolve: Returns the definition of a referenced custom audience.
        out: The parquet file to write atomically; an existing file is replaced.
        settings: Engine to use, and its memory and threads.
        warn: Called with a sentence about each list that shares no id with the source only because the ids are
            written in another form.

    Returns:
        The number of ids.

    Raises:
        UsageError: The definition needs something that only a data room has.
        InputError: A file is unusable.
        EngineError: The engine failed.
    """
    refs = _files_of(definition, resolve)
    tables = {ref: _table_of(ref) for ref in refs}
    relations = {ref: f"file_{number + 1}" for number, ref in enumerate(refs)}
    with _appearing(out) as draft:
        paths = [file for table, _ in tables.values() for file in table.files]
        with open_configured_engine(settings, paths=[*paths, draft.parent]) as engine:
            opened = {
                ref: _open_ids(engine, relations[ref], table, column, draft.parent)
                for ref, (table, column) in tables.items()
            }
            n_rows = {ref: reject_ambiguous_ids(engine, checked) for ref, checked in opened.items()}
            query = compile_definition(definition, resolve, files=relations, n_rows=n_rows)
            lists = {relations[ref]: checked for ref, checked in opened.items()}
            _write_combined(engine, query, draft, lists, only_adds=_only_adds(definition))
            if warn is not None:
                for pair in _without_effect(definition, n_rows, _rows_of(draft)):
                    ids, source = (f"SELECT user_id AS id FROM {relations[ref]}" for ref in pair)
                    reason = no_match(
                        engine, ids, source, what="ids of a list", where="are in the source", needs_cause=True
                    )
                    if reason:
                        warn(reason)
        return _rows_of(draft)


def _without_effect(
    definition: Definition, n_rows: Mapping[FileRef, int], n_found: int
) -> list[tuple[FileRef, FileRef]]:
    """Return (list, source) pairs to warn about: subtracting lists removed no id, or an intersection is empty."""
    if not isinstance(definition, RuleBased) or not isinstance(definition.source, FileRef):
        return []
    operators = [each.operator for each in definition.combinators]
    pairs = [
        (each.source, definition.source) for each in definition.combinators if isinstance(each.source, FileRef)
    ]
    is_whole = set(operators) == {CombineOperator.DIFF} and n_found == n_rows[definition.source]
    is_empty = operators == [CombineOperator.INTERSECT] and n_found == 0
    return pairs if is_whole or is_empty else []


def _in_room(
    engine: Engine,
    definition: Definition,
    resolve: Resolve,
    lookalikes: Mapping[str, Path],
    matched: str = MATCHED,
) -> Query:
    join_matched(engine, matched)
    # Only the lookalikes that the definition needs: the engine may lack access to the other paths.
    needed = [key for key in lookalikes_of(definition, resolve) if key in lookalikes]
    for key in needed:
        engine.scan(lookalike_relation(key), find_tables(lookalikes[key], what="lookalike audience"))
    relations = {key: lookalike_relation(key) for key in needed}
    return compile_definition(definition, resolve, lookalikes=relations, matched=matched)


def _files_of(definition: Definition, resolve: Resolve) -> tuple[FileRef, ...]:
    return tuple(ref for ref in reachable(definition, resolve) if isinstance(ref, FileRef))


def _table_of(ref: FileRef) -> tuple[TableFiles, str]:
    table = find_upload(ref.path, IDS)
    if ref.column is None and len(table.columns) > 1:
        raise InputError(
            "The file of a source has several columns.",
            remedy="Choose one with the `column` of the source.",
            problem="columns",
        )
    if ref.column is not None and ref.column not in table.columns:
        raise InputError(
            "The `column` of a source is not in the source's file.",
            remedy="Give a column of the file.",
            problem="columns",
        )
    return table, ref.column or table.columns[0]


def _only_adds(definition: Definition) -> bool:
    """Whether a definition only combines lists by union, so that its result contains all of their ids."""
    if not isinstance(definition, RuleBased) or any(
        part.operator is not CombineOperator.UNION for part in definition.combinators
    ):
        return False
    parts: tuple[RuleBased | Combinator, ...] = (definition, *definition.combinators)
    return all(isinstance(part.source, FileRef) and not (part.filters and part.filters.filters) for part in parts)


def _write_combined(
    engine: Engine, query: Query, out: Path, lists: Mapping[str, Checked], *, only_adds: bool
) -> None:
    # Checking ids while combining them takes less than half the time of looking at all lists beforehand. If the
    # result contains each id, checking the result is enough: five overlapping lists took 4.5 instead of 5.2 s.
    at_end = only_adds and all(checked.is_assumed for checked in lists.values())
    for relation, checked in lists.items():
        _view_ids(engine, relation, checked, checks=checked.is_assumed and not at_end)
    sql = f"SELECT {plain_id_sql('user_id')} AS user_id FROM ({query.sql})" if at_end else query.sql
    try:
        engine.write_parquet(sql, out, query.parameters, repeats=False)
    except EngineError:
        pass  # some ids are not plain, or a file is damaged: looking at the ids finds out
    else:
        return
    with reading_of(IDS):
        for relation, checked in lists.items():
            looked = look(engine, checked)
            reject_ambiguous_ids(engine, looked)
            _view_ids(engine, relation, looked, checks=False)
    engine.write_parquet(query.sql, out, query.parameters, repeats=False)


def _open_ids(engine: Engine, relation: str, table: TableFiles, column: str, scratch: Path) -> Checked:
    """Read a file's ids.

    Raises:
        InputError: The column cannot hold ids, or holds decimals among other ids.
    """
    with reading_of(IDS):
        declared = declare(table, ((column, Role.USER_ID),), IDS)
        return read(engine, f"{relation}_rows", declared, scratch=scratch, assumes_plain=True)


def _view_ids(engine: Engine, relation: str, checked: Checked, *, checks: bool) -> None:
    id_ = plain_id_sql("v0") if checks else "CAST(v0 AS VARCHAR)"
    engine.execute(
        f"CREATE OR REPLACE TEMP VIEW {quote_identifier(relation)} AS "
        f"SELECT {id_} AS user_id FROM {checked.name} WHERE {checked.usable}"
    )


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which is renamed to `out` if the `with` body succeeds."""
    try:
        # A folder, because the engine first writes under another name.
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UsageError(
            f"Writing the output failed ({type(error).__name__}).", remedy="Check the output path."
        ) from None
    draft = folder / "ids.parquet"
    try:
        with full_disk_is_an_error():
            yield draft
            draft.replace(out)
    except OSError as error:
        if isinstance(error, StorageFullError):
            raise
        raise UsageError(
            f"Writing the output failed ({type(error).__name__}).", remedy="Check the output path."
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rows_of(file: Path) -> int:
    import pyarrow.parquet as pq

    return int(pq.read_metadata(file).num_rows)
