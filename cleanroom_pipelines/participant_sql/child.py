"""The child process that runs one checked query.

Lives here: the limits it sets on itself, the locked-down engine, writing rows, and its one-line result.
Add here when the process must drop another privilege before it runs untrusted SQL.
Keep out: user-facing messages (running.py); this process prints a number of rows or the name of a problem.

It reads one line of JSON from standard input, and ends when standard input is closed.
"""

import json
import math
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleanroom_pipelines.engine.sql import quote_identifier
from cleanroom_pipelines.participant_sql.column_types import SchemaError, schema_of, typed
from cleanroom_pipelines.participant_sql.confinement import confine

if TYPE_CHECKING:
    import pyarrow as pa

    from cleanroom_pipelines.engine import Engine
    from cleanroom_pipelines.engine.tables import TableFiles

_BATCH_ROWS = 100_000
_MAX_OPEN_FILES = 1_024
_SECONDS_AFTER_PARENT = 5
_AS_TEXT = " as text"  # the end of the name of a view with unconverted columns

# Names of problems by engine error.
_PROBLEMS = {
    "BadGzipFile": "table",
    "OutOfMemoryException": "memory",
    "BinderException": "names",
    "CatalogException": "names",
    "ParserException": "names",
    "ConversionException": "values",
    "InvalidInputException": "values",
    "OutOfRangeException": "values",
}
# Sources a query may read from, by DuckDB's names for the parts of a FROM.
_SOURCES = {"BASE_TABLE", "SUBQUERY", "JOIN", "EXPRESSION_LIST", "EMPTY"}


class ProblemError(Exception):
    """The query cannot be run; the argument names the problem."""


def main() -> None:
    """Read the task, run it, and print the result."""
    task = json.loads(_read_line())
    _limit(task["limits"])
    _end_with_parent()
    print(json.dumps(answer(task)), flush=True)  # noqa: T201 the answer


def _read_line() -> bytes:
    """Read the first line of standard input without buffering, because another thread reads the rest."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 1 << 20)
        if not part:
            break
        line += part
    return line


def _limit(limits: Mapping[str, Any]) -> None:
    os.umask(0o077)
    seconds = limits["wall_seconds"]
    # Kernel limits, in case the parent has died and this process's threads cannot run.
    signal.alarm(math.ceil(seconds) + _SECONDS_AFTER_PARENT)
    for kind, amount in (
        (resource.RLIMIT_CPU, math.ceil(seconds * limits["threads"]) + _SECONDS_AFTER_PARENT),
        (resource.RLIMIT_AS, limits["memory_bytes"] + limits["overhead_bytes"]),
        (resource.RLIMIT_FSIZE, max(limits["scratch_bytes"], limits["max_bytes"])),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (most, most))


def _end_with_parent() -> None:
    def wait() -> None:
        while os.read(0, 1 << 16):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def answer(task: Mapping[str, Any], *, give_up: Callable[..., object] = confine) -> dict[str, Any]:
    """Run the query of a task and write its rows.

    Args:
        task: Task from `running.run_query`.
        give_up: Drops the privileges that the query does not need.

    Returns:
        `rows`, the number of rows, or `problem`, the name of the problem.
    """
    from cleanroom_pipelines.errors import EngineError, InputError, StorageFullError

    try:
        return {"rows": _run(task, give_up)}
    except ProblemError as problem:
        return {"problem": problem.args[0]}
    except EngineError as error:
        return {"problem": _PROBLEMS.get(error.attributes.get("cause", ""), "failed")}
    except StorageFullError:
        return {"problem": "disk"}
    except InputError:
        return {"problem": "table"}
    except MemoryError:
        return {"problem": "memory"}


def _run(task: Mapping[str, Any], give_up: Callable[..., object]) -> int:
    from cleanroom_pipelines.engine import EngineSettings, find_tables, open_engine
    from cleanroom_pipelines.participant_sql.macros import create_macros
    from cleanroom_pipelines.uploads.checks import check_quotes

    limits, folder, types = task["limits"], Path(task["folder"]), task.get("types", {})
    for table in task["tables"].values():
        _check_links(Path(table))
    give_up(readable=[Path(table) for table in task["tables"].values()], writable=[folder])
    found = {view: find_tables(table) for view, table in task["tables"].items()}
    settings = EngineSettings(
        memory_bytes=limits["memory_bytes"],
        threads=limits["threads"],
        scratch=folder,
        scratch_bytes=limits["scratch_bytes"],
    )
    paths = [file for tables in found.values() for file in tables.files]
    with open_engine(settings, paths=paths) as engine:
        for view, tables in found.items():
            _scan(engine, view, tables, _types_of(Path(task["tables"][view]), types.get(view, {})))
        create_macros(engine)
        _check_sources(engine, task["sql"], set(found))
        n_rows = _write(engine, task["sql"], task["parameters"], folder / "rows.jsonl", limits)
        check_quotes(engine.rejected_lines())
        return n_rows


def _types_of(table: Path, declared: Mapping[str, str]) -> Mapping[str, str]:
    """Return the types of a text table's columns: those of its `_schema.json`, or else the declared ones."""
    try:
        return schema_of(table) or declared
    except SchemaError:
        raise ProblemError("schema") from None


def _scan(engine: "Engine", view: str, tables: "TableFiles", types: Mapping[str, str]) -> None:
    """Create the view of a table; it converts text columns to their declared types."""
    if tables.format == "parquet" or not types:
        engine.scan(view, tables)
        return
    engine.scan(f"{view}{_AS_TEXT}", tables)
    query = typed(f"{view}{_AS_TEXT}", tables.columns, types)
    engine.execute(f"CREATE TEMP VIEW {quote_identifier(view)} AS {query}")


def _check_links(folder: Path) -> None:
    """Check that the symbolic links of a folder and of its partitions stay inside it."""
    from cleanroom_pipelines.engine.partitions import files_below

    for file in (*folder.iterdir(), *files_below(folder)):
        if file.is_symlink() and folder not in file.resolve().parents:
            raise ProblemError("link")


def _check_sources(engine: "Engine", sql: str, views: set[str]) -> None:
    """Check with DuckDB's own parser, before the query runs, that it reads only the allowed sources."""
    rows = engine.fetch("SELECT CAST(json_serialize_sql(CAST(? AS VARCHAR)) AS VARCHAR) AS tree", [sql])
    tree = json.loads(rows["tree"][0].as_py())
    if tree.get("error") or len(tree["statements"]) != 1:
        raise ProblemError("names")
    sources = list(_sources_in(tree))
    tables = [source for source in sources if source["type"] == "BASE_TABLE"]
    ours = all(
        (table["table_name"] in views or table["table_name"].startswith("cte_"))
        and not table["schema_name"]
        and not table["catalog_name"]
        for table in tables
    )
    seen = {table["table_name"] for table in tables}
    if not ours or not views <= seen or not {source["type"] for source in sources} <= _SOURCES:
        raise ProblemError("failed")


def _sources_in(tree: Any) -> Iterator[dict[str, Any]]:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if {"type", "alias", "sample"} <= node.keys():
                yield node
            stack += node.values()
        elif isinstance(node, list):
            stack += node


def _write(engine: "Engine", sql: str, parameters: Sequence[str], out: Path, limits: Mapping[str, Any]) -> int:
    n_rows = n_bytes = 0
    with out.open("w", encoding="ascii") as file:
        for batch in engine.batches(sql, parameters, rows=_BATCH_ROWS):
            if batch.num_columns != 1:
                raise ProblemError("columns")
            if not _is_id_type(batch.column(0).type):
                raise ProblemError("type")
            n_rows += batch.num_rows
            if n_rows > limits["max_rows"]:
                raise ProblemError("rows")
            lines = "".join(_line(value) for value in batch.column(0).to_pylist())
            n_bytes += len(lines)
            if n_bytes > limits["max_bytes"]:
                raise ProblemError("bytes")
            file.write(lines)
    return n_rows


def _is_id_type(type_: "pa.DataType") -> bool:
    """Check whether the seed reader accepts a column type: text or whole numbers (`uploads.cells`)."""
    import pyarrow as pa

    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)
    return any(test(type_) for test in (*tests, pa.types.is_null))


def _line(value: str | int | None) -> str:
    return f'{{"user_id": {"null" if value is None else encode_basestring_ascii(str(value))}}}\n'


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        # without a traceback, which could quote data
        sys.exit(1)
