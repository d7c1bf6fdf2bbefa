"""Running a checked query in a process of its own.

Lives here: `run_query`, the limits of such a process, its start, its end, and what its failures mean in words.
Add here when a query may use more of something, or can fail in a further way.
Keep out: what the process does (child.py).
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
from typing import Any

from cleanroom_pipelines.engine.plain_paths import plain_folder
from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.participant_sql.checking import CheckedQuery, view_name

Ask = Callable[[Mapping[str, Any], Path, "QueryLimits"], dict[str, Any]]

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_MAX_ANSWER_BYTES = 10_000


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    """What one query may use.

    Args:
        wall_seconds: From its start to its last row.
        threads: Worker threads; the process may use `threads` times `wall_seconds` of processor time.
        memory_bytes: DuckDB's own memory; beyond it, it spills to scratch.
        overhead_bytes: Address space that the process may take beside that, for code, stacks and buffers.
        scratch_bytes: Spill files.
        max_rows: Rows of the result.
        max_bytes: The file they are written to.
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
    limits: QueryLimits = QueryLimits(),
    scratch: Path,
    ask: Ask | None = None,
) -> int:
    """Run a checked query and write its rows as JSON Lines `{"user_id": "…"}`, a NULL as null.

    Whatever happens, the process is gone and its folder in `scratch` is deleted when this returns, and `out` is
    there only if all rows are in it. A process whose parent dies ends by itself.

    Args:
        checked: What `check_query` returned.
        tables: The folder of each table that may be read, by database and table as `checked.tables` has them. A
            folder is absolute and real, and nothing in it leads out of it.
        out: The file to write, readable by its owner only.
        limits: What it may use.
        scratch: Existing folder for the process's own files.
        ask: Gives a task to what answers it; a process of its own, `ask_process`, if not given.

    Returns:
        Rows written.

    Raises:
        SeedError: It failed (`SQL_FAILED`). The message quotes neither the query nor data; the attribute `problem`
            says which kind of failure it was.
    """
    folders = {view_name(number): _real_folder(tables.get(pair)) for number, pair in enumerate(checked.tables)}
    with (
        tempfile.TemporaryDirectory(prefix="query-", dir=scratch) as name,
        plain_folder(Path(name).resolve()) as own,  # here: the process itself may make no link elsewhere
    ):
        task = {
            "sql": checked.sql,
            "parameters": checked.parameters,
            "tables": {view: str(folder) for view, folder in folders.items()},
            "folder": str(own),
            "limits": asdict(limits),
        }
        answer = (ask or ask_process)(task, own, limits)
        if "rows" not in answer:
            raise _failed(str(answer.get("problem")), limits)
        shutil.move(own / "rows.jsonl", out)
    return int(answer["rows"])


def _real_folder(folder: Path | None) -> Path:
    """The folder itself; one that is reached through a symbolic link could be anybody's."""
    if folder is None or not folder.is_dir():
        raise _failed("missing", QueryLimits())
    if not folder.is_absolute() or folder.resolve() != folder:
        raise _failed("link", QueryLimits())
    return folder


def ask_process(task: Mapping[str, Any], own: Path, limits: QueryLimits) -> dict[str, Any]:
    """Start a process for a task, and end it: by its answer, by the clock, or with whatever is raised here.

    Args:
        task: What it reads.
        own: Its folder.
        limits: What it may use.

    Returns:
        Its answer: the number of rows, or the name of the problem.
    """
    # not the folder of whoever started us, and no user's site: only what is installed, and this package
    command = [sys.executable, "-s", "-P", "-B", "-m", "cleanroom_pipelines.participant_sql.child"]
    process = subprocess.Popen(  # noqa: S603 our own interpreter and module, and nothing of the query
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
        # A child that died tells it by its answer, which is none. Its input stays open until it has ended, since
        # it takes the end of its input for the end of this process.
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
    """Nothing of ours, least of all credentials; what libraries write goes to the process's own folder."""
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
    """Kill what is left of the process and of all it may have started, and say whether anything was left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
        if late is not None:
            late.set()


def _failed(problem: str, limits: QueryLimits) -> SeedError:
    sentences = {
        "time": (
            f"The query took longer than {limits.wall_seconds:,.0f} seconds.",
            "Join or read less, or give a seed file.",
        ),
        "memory": ("The query needs more memory than it may use.", "Aggregate before joining, or read less."),
        "disk": ("The query needs more disk space than it may use.", "Aggregate before joining, or read less."),
        "rows": (
            f"The query returns more than {limits.max_rows:,} rows.",
            "Return each user once: SELECT DISTINCT.",
        ),
        "bytes": (f"The query returns more than {limits.max_bytes:,} bytes.", "Return nothing but user ids."),
        "type": ("The query's column is neither text nor a whole number.", "CAST it AS VARCHAR."),
        "columns": ("The query does not return exactly one column.", "Return the column that holds the user ids."),
        "missing": ("A table that the query names was not found.", "Check the names of databases and tables."),
        "link": ("A table that the query names leads out of its folder.", "Put its files into the folder itself."),
        "table": (
            "The files of a table that the query names cannot be read.",
            "Give complete .parquet, .csv or .jsonl files of one format with the same columns.",
        ),
        "names": (
            "The query names a column that its tables do not have, or mixes types that do not go together.",
            "Check the columns' names; CAST the columns of CSV and JSON Lines, which are text.",
        ),
        "values": (
            "The query converts a value that cannot be converted, or computes one that is out of range.",
            "Use TRY_CAST, or leave such rows out.",
        ),
    }
    message, remedy = sentences.get(problem, ("The query could not be run.", "Simplify it, or give a seed file."))
    problem = problem if problem in sentences else "failed"
    return SeedError(message, remedy=remedy, status_code=StatusCode.SQL_FAILED, problem=problem)
