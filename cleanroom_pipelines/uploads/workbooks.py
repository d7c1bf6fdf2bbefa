"""Excel workbooks: converting the first sheet of an `.xlsx` file to CSV.

Lives here: starting the process that reads a workbook, and its failures in words.
Add here when another format of spreadsheets is converted.
Keep out: reading the workbook (`workbook_child.py`) and judging the table.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cleanroom_pipelines.errors import InputError
from cleanroom_pipelines.storage.vault import chunks_of
from cleanroom_pipelines.uploads import workbook_child as child

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
MAGIC = b"PK\x03\x04"
_FAILURES = {
    child.NOT_A_WORKBOOK: (
        "The file is an archive or a document, not an Excel workbook (.xlsx).",
        "Unpack it, and choose the table in it: CSV, Excel (.xlsx) or Parquet.",
    ),
    child.HAS_PASSWORD: ("The Excel workbook has a password.", "Remove the password, or save the sheet as CSV."),
    child.NO_SHEET: ("The Excel workbook has no sheet with cells.", "Put the table on the first sheet."),
}
_TOO_LARGE = ("The Excel workbook is too large or damaged.", "Save its first sheet as CSV.")
_BUSY = ("The server is busy with other Excel workbooks.", "Try again in a minute, or save the sheet as CSV.")
# each process may use a GiB of memory; a request that waits long would hold a thread that all requests share
_TURNS = threading.BoundedSemaphore(2)
_SECONDS_TO_WAIT = 2.0


def csv_of_workbook(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the first sheet of a workbook as CSV; formulas have the values that Excel stored.

    Args:
        stream: The workbook, a file on disk.

    Raises:
        InputError: It is not a workbook, has a password, or exceeds the limits on size, memory or time.
    """
    stream.flush()
    os.lseek(stream.fileno(), 0, os.SEEK_SET)
    command = [sys.executable, "-s", "-P", "-B", "-m", child.__name__]
    with (
        _turn(),
        subprocess.Popen(  # noqa: S603 our own interpreter and module; the command has no user input
            command, stdin=stream.fileno(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield from chunks_of(process.stdout)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        message, remedy = _FAILURES.get(process.returncode, _TOO_LARGE)
        raise InputError(message, remedy=remedy, problem="workbook")


@contextmanager
def _turn() -> Iterator[None]:
    if not _TURNS.acquire(timeout=_SECONDS_TO_WAIT):
        raise InputError(_BUSY[0], remedy=_BUSY[1], problem="workbook")
    try:
        yield
    finally:
        _TURNS.release()


def _environment() -> dict[str, str]:
    """Build the child process's environment, without the settings and credentials of the parent process."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "PYTHONPATH": str(_PACKAGE_ROOT), "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "2"}
