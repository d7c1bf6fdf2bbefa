"""Running a checked query in a separate process.

Lives here: `run_query`, the limits of the process, starting and ending it, and the messages for its failures.
Add here when there is a new limit, or a new way for a query to fail.
Keep out: the work of the process (child.py).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cleanroom_pipelines.engine.plain_paths import plain_folder
from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.participant_sql.checking import CheckedQuery, view_name

Ask = Callable[[Mapping[str, Any], Path, "QueryLimits"], dict[str, Any]]

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_MAX_ANSWER_BYTES = 10_000


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    """Limits of one query.

    Args:
        wall_seconds: Time from its start to its last row.
        threads: Worker threads; the process may use `threads` times `wall_seconds` of CPU time.
        memory_bytes: DuckDB's memory; beyond it, DuckDB spills to scratch.
        overhead_bytes: Additional address space of the process for code, stacks and buffers.
        scratch_bytes: Total size of spill files.
        max_rows: Rows of the result.
        max_bytes: Size of the result file.
    """

    wall_seconds: float = 60.0
    threads: int = 2
    memory_bytes: int = 1 << 30
    overhead_bytes: int = 2 << 30
    scratch_bytes: int = 4 << 30
    max_rows: int = 5_000_000
    max_bytes: int = 1 << 30


def run_query(
    checked: CheckedQuery,
    tables: Mapping[tuple[str, str], Path],
    out: Path,
    *,
    types: Mapping[tuple[str, str], Mapping[str, str]] = MappingProxyType({}),
    limits: QueryLimits = QueryLimits(),
    scratch: Path,
    ask: Ask | None = None,
) -> int:
    """Run a checked query and write its rows as JSON Lines `{"user_id": "…"}`, with NULL as null.

    When this returns or raises, the process has ended and its folder in `scratch` is deleted. `out` exists only if
    it holds all rows. A process whose parent dies ends by itself.

    Args:
        checked: Result of `check_query`.
        tables: Folder of each readable table, by database and table as in `checked.tables`. Folders must be
            absolute and without symbolic links on the way or leading out.
        out: Output file, readable by its owner only.
        types: Declared types of columns (`column_types.py`), for text tables without a `_schema.json`.
        limits: Limits of the query.
        scratch: Existing folder for the process's own files.
        ask: Runs a task and returns its result; default: `ask_process`, a separate process.

    Returns:
        Rows written.

    Raises:
        SeedError: The query failed (`SQL_FAILED`). The message quotes neither the query nor data; the attribute
            `problem` is the kind of failure.
    """
    folders = {view_name(number): _real_folder(tables.get(pair)) for number, pair in enumerate(checked.tables)}
    with (
        tempfile.TemporaryDirectory(prefix="query-", dir=scratch) as name,
        plain_folder(Path(name).resolve()) as own,  # here, since the process itself cannot create links elsewhere
    ):
        task = {
            "sql": checked.sql,
            "parameters": checked.parameters,
            "tables": {view: str(folder) for view, folder in folders.items()},
            "types": {
                view_name(number): dict(types[pair]) for number, pair in enumerate(checked.tables) if pair in types
            },
            "folder": str(own),
            "limits": asdict(limits),
        }
        answer = (ask or ask_process)(task, own, limits)
        if "rows" not in answer:
            raise _failed(str(answer.get("problem")), limits)
        shutil.move(own / "rows.jsonl", out)
    return int(answer["rows"])


def _real_folder(folder: Path | None) -> Path:
    """Check that a table's folder exists, and is not reached through a symbolic link."""
    if folder is None or not folder.is_dir():
        raise _failed("missing", QueryLimits())
    if not folder.is_absolute() or folder.resolve() != folder:
        raise _failed("link", QueryLimits())
    return folder


def ask_process(task: Mapping[str, Any], own: Path, limits: QueryLimits) -> dict[str, Any]:
    """Run a task in a new process and return its result; on a timeout or an error, kill the process.

    Args:
        task: Input of the process.
        own: Folder of the process.
        limits: Limits of the query.

    Returns:
        Its result: the number of rows, or the name of the problem.
    """
    # no working directory and no user site on the path: only installed packages and this one
    command = [sys.executable, "-s", "-P", "-B", "-m", "cleanroom_pipelines.participant_sql.child"]
    process = subprocess.Popen(  # noqa: S603 our own interpreter and module; the command has no user input
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=own,
        env=_environment(own),
        start_new_session=True,
    )
    late = threading.Event()
    clock = threading.Timer(limits.wall_seconds, _kill, (process, late))
    clock.start()
    try:
        return _answer_of(process, task, late)
    finally:
        clock.cancel()
        _kill(process)
        process.wait()


def _answer_of(process: subprocess.Popen[bytes], task: Mapping[str, Any], late: threading.Event) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # A dead child shows by its missing result. Its input stays open until it has ended, since it reads the end
        # of its input as the death of this process.
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
        process.wait()
        answer = _answer_in(process.stdout.read(_MAX_ANSWER_BYTES))
    finally:
        process.stdout.close()
        with suppress(BrokenPipeError):
            process.stdin.close()
    if late.is_set() or process.returncode in {-signal.SIGXCPU, -signal.SIGALRM}:
        return {"problem": "time"}
    return answer


def _environment(own: Path) -> dict[str, str]:
    """Build the child's environment: without this process's variables and credentials, and with its own folder."""
    folder = str(own)
    return {
        "PYTHONPATH": str(_PACKAGE_ROOT),
        "PYTHONUTF8": "1",
        "HOME": folder,
        "TMPDIR": folder,
        # each arena of glibc reserves address space, which is limited
        "MALLOC_ARENA_MAX": "2",
    }


def _answer_in(output: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(output)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _kill(process: subprocess.Popen[bytes], late: threading.Event | None = None) -> None:
    """Kill the process and its children if they are still running, and in that case also set `late`."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
        if late is not None:
            late.set()


def _failed(problem: str, limits: QueryLimits) -> SeedError:
    sentences = {
        "time": (
            f"The query took longer than {limits.wall_seconds:,.0f} seconds.",
            "Join or read less data, or upload a seed file.",
        ),
        "memory": ("The query exceeds its memory limit.", "Aggregate before joining, or read less data."),
        "disk": ("The query exceeds its disk space limit.", "Aggregate before joining, or read less data."),
        "rows": (
            f"The query returns more than {limits.max_rows:,} rows.",
            "Return each user once: SELECT DISTINCT.",
        ),
        "bytes": (f"The query returns more than {limits.max_bytes:,} bytes.", "Return only user ids."),
        "type": ("The query's column is neither text nor a whole number.", "CAST it AS VARCHAR."),
        "columns": ("The query does not return exactly one column.", "Return only the column with the user ids."),
        "missing": ("A table in the query was not found.", "Check the names of databases and tables."),
        "link": (
            "A table in the query links to files outside its folder.",
            "Put its files into the folder itself.",
        ),
        "table": (
            "The files of a table in the query cannot be read.",
            "Provide complete .parquet, .csv or .jsonl files of one format with the same columns.",
        ),
        "schema": (
            "The _schema.json of a table in the query cannot be read.",
            'Give a list of {"Name": "…", "Type": "…"} with the types string, int, bigint, double, decimal(p,s), '
            "boolean, date and timestamp.",
        ),
        "names": (
            "The query uses a column that its tables do not have, or mixes incompatible types.",
            "Check the column names; CAST the columns of CSV and JSON Lines, which are text without a "
            "_schema.json.",
        ),
        "values": (
            "A value in the query cannot be converted or is out of range, or the query divides by zero or by a "
            "DECIMAL.",
            "Use TRY_CAST, CAST a DECIMAL AS DOUBLE before dividing, or filter such rows out.",
        ),
    }
    message, remedy = sentences.get(
        problem, ("The query could not be run.", "Simplify it, or upload a seed file.")
    )
    problem = problem if problem in sentences else "failed"
    return SeedError(message, remedy=remedy, status_code=StatusCode.SQL_FAILED, problem=problem)
