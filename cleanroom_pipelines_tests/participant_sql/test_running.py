"""Running a checked query in a separate process.

The task itself is tested without a process wherever the process does not matter.

Contract: the process writes ids in the seed reader's format, reads only the folders of the named tables, is
always ended in time, gets none of our environment, leaves no process or file behind, and its errors contain no
data.
"""

import json
import os
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.participant_sql import child
from cleanroom_pipelines.participant_sql.checking import CheckedQuery, check_query
from cleanroom_pipelines.participant_sql.running import Ask, QueryLimits, ask_process, run_query

from .. import damaged
from ..cases import assert_each
from ..worlds import wait_until

Run = Callable[..., list[str | None]]
soon = partial(wait_until, seconds=600, what="the next state of a process", every=0.02)

CANARY = "kanarienvogel"
# Enough for what ends by itself, also beside other tests.
LIMITS = QueryLimits(wall_seconds=60, threads=1, memory_bytes=256 << 20, max_rows=200_000)
# For what the test ends.
ENDURING = QueryLimits(wall_seconds=600, threads=1)
THREE = "shop.orders a, shop.orders b, shop.orders c"
# A thousand million rows, none of which is kept.
ENDLESS = f"SELECT a.user_id FROM {THREE} WHERE md5(a.user_id || b.user_id || c.user_id) = 'x'"


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "warehouse" / "shop"
    for name in ("orders", "users", "odd"):
        (folder / name).mkdir(parents=True)
    rows = "".join(f"u{n},{n}\n" for n in range(1_000))
    (folder / "orders" / "1.csv").write_text(f"user_id,amount\n{rows}")
    (folder / "orders" / "2.csv").write_text(f"user_id,amount\n,1\n{CANARY},{CANARY}\n")
    (folder / "users" / "users.parquet").parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "id": pa.array([1, 2, None, 2**62], pa.int64()),
                "name": ['Ä "q" \\ \n', "😀", None, ""],
                "big": pa.array([2**63, 1, 2, 3], pa.uint64()),
                "weight": [1.5, 2.0, None, 3.0],
                "day": pa.array([1, 2, 3, None], pa.date32()),
            }
        ),
        folder / "users" / "users.parquet",
    )
    (folder / "odd" / "it's [1]*.jsonl").write_text('{"user_id": 7}\n{"user_id": "8"}\nno json\n')
    return folder


def answer_here(task: Mapping[str, Any], own: Path, limits: QueryLimits) -> dict[str, Any]:
    """What the process would answer, from this one, which keeps its rights."""
    return child.answer(json.loads(json.dumps(task)), give_up=lambda **_: False)


@pytest.fixture
def run(warehouse: Path, tmp_path: Path) -> Run:
    """Runs a query over the warehouse and gives the ids it wrote; nothing may be left."""
    return runs(warehouse, tmp_path, answer_here)


@pytest.fixture
def run_apart(warehouse: Path, tmp_path: Path) -> Run:
    """The same in a process of its own."""
    return runs(warehouse, tmp_path, ask_process)


def runs(warehouse: Path, tmp_path: Path, ask: Ask) -> Run:
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    out = tmp_path / "out.jsonl"

    def run_one(
        text: str,
        *,
        limits: QueryLimits = LIMITS,
        tables: Mapping[tuple[str, str], Path] | None = None,
        types: Mapping[tuple[str, str], Mapping[str, str]] | None = None,
        **p: str,
    ) -> list[str | None]:
        checked = text if isinstance(text, CheckedQuery) else check_query(text, parameters=p)
        folders = {("shop", path.name): path for path in warehouse.iterdir()}
        before = set(psutil.Process().children(recursive=True))
        try:
            chosen = folders if tables is None else tables
            n_rows = run_query(checked, chosen, out, types=types or {}, limits=limits, scratch=scratch, ask=ask)
            lines = out.read_text().splitlines()
            assert len(lines) == n_rows
            return [json.loads(line)["user_id"] for line in lines]
        except SeedError:
            assert not out.exists()
            raise
        finally:
            out.unlink(missing_ok=True)
            assert list(scratch.iterdir()) == []
            assert set(psutil.Process().children(recursive=True)) <= before

    return run_one


def failure(run: Callable[..., object], text: object, **options: object) -> str:
    with pytest.raises(SeedError) as caught:
        run(text, **options)
    error = caught.value
    assert error.status_code is StatusCode.SQL_FAILED
    assert error.remedy
    assert error.__cause__ is None
    assert CANARY not in f"{error} {error.attributes} {error.__context__}"
    return str(error.attributes["problem"])


# --- What it writes ---


def test_functions_of_spark_run_in_the_process(run_apart: Run) -> None:
    query = (
        "SELECT concat('u', `big`) FROM shop.users WHERE date_add(day, 1) > '1970-01-03' AND length(name) >= :n"
    )
    assert run_apart(f"{query} OR id div 2 = 0", n="0") == ["u9223372036854775808", "u1"]


def test_text_is_written_as_it_is(run_apart: Run) -> None:
    names = ['Ä "q" \\ \n', "😀", ""]
    assert run_apart("SELECT name FROM shop.users WHERE name IS NOT NULL ORDER BY length(name) DESC") == names


def test_whole_numbers_are_written_as_text_and_null_as_null(run: Run) -> None:
    assert run("SELECT id FROM shop.users ORDER BY id NULLS LAST") == ["1", "2", str(2**62), None]
    assert str(2**63) in run("SELECT big FROM shop.users")
    assert run("SELECT count(*) FROM shop.users") == ["4"]


def test_the_order_of_the_query_is_kept(run: Run) -> None:
    ids = run("SELECT user_id FROM shop.orders WHERE TRY_CAST(amount AS INTEGER) < :n ORDER BY 1 DESC", n="20")
    assert ids == [*sorted((f"u{n}" for n in range(20)), reverse=True), None]


def test_no_row_is_an_empty_file(run: Run) -> None:
    assert run("SELECT user_id FROM shop.orders WHERE user_id = 'nobody'") == []


def test_a_cell_that_is_not_a_number_is_null_and_no_row_is_lost(run: Run) -> None:
    assert run("SELECT TRY_CAST(amount AS INTEGER) FROM shop.orders").count(None) == 1
    assert len(run("SELECT TRY_CAST(user_id AS INTEGER) FROM shop.orders")) == 1_002


def test_files_with_odd_names(run: Run) -> None:
    assert run("SELECT user_id FROM shop.odd WHERE user_id IS NOT NULL ORDER BY 1") == ["7", "8"]


def test_several_tables(run: Run) -> None:
    text = (
        "WITH u AS (SELECT 'u' || id AS user_id FROM shop.users) "
        "SELECT user_id FROM u JOIN shop.orders USING (user_id) UNION SELECT o.user_id FROM shop.odd AS o"
    )
    assert set(run(text)) == {"u1", "u2", "7", "8", None}


def test_the_file_is_its_owners_only(warehouse: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    checked = check_query("SELECT user_id FROM shop.orders LIMIT 3")
    run_query(checked, {("shop", "orders"): warehouse / "orders"}, out, limits=LIMITS, scratch=tmp_path)
    assert out.stat().st_mode & 0o777 == 0o600


# --- How it fails ---


PROBLEMS = [
    ("SELECT weight FROM shop.users", "type"),
    ("SELECT day FROM shop.users", "type"),
    ("SELECT sum(id) FROM shop.users", "type"),
    ("SELECT id = 1 FROM shop.users", "type"),
    ("SELECT u FROM shop.users AS u", "type"),
    ("SELECT kanarienvogel FROM shop.users", "names"),
    ("SELECT filename FROM shop.users", "names"),
    ("SELECT file_row_number FROM shop.users", "names"),
    ("SELECT id FROM shop.users WHERE name > day + id", "names"),
    ("SELECT id FROM shop.users AS u(a, b)", "names"),
    ("SELECT CAST(amount AS INTEGER) FROM shop.orders", "values"),
    ("SELECT id * id FROM shop.users", "values"),
    ("SELECT user_id FROM kanarienvogel.orders", "missing"),
    ("SELECT user_id FROM shop.kanarienvogel", "missing"),
    ("SELECT value FROM information_schema.tables", "missing"),
    ("SELECT value FROM main.duckdb_settings", "missing"),
    ("SELECT value FROM temp.reject_errors", "missing"),
    ("SELECT a.user_id FROM shop.orders a, shop.orders b, shop.orders c, shop.orders d", "rows"),
]


def test_failures_have_names(run: Run) -> None:
    def has_a_name(text: str, problem: str) -> None:
        assert failure(run, text) == problem

    assert_each(has_a_name, PROBLEMS)


def test_a_failure_of_the_process_has_its_name(run_apart: Run) -> None:
    assert failure(run_apart, f"SELECT {CANARY} FROM shop.users") == "names"


def test_limits_of_the_result(run: Run) -> None:
    text = "SELECT user_id FROM shop.orders"
    assert failure(run, text, limits=QueryLimits(max_rows=1_001)) == "rows"
    assert failure(run, text, limits=QueryLimits(max_bytes=10_000)) == "bytes"
    assert len(run(text, limits=QueryLimits(max_rows=1_002))) == 1_002


def test_tables_that_cannot_be_read(run: Run, warehouse: Path) -> None:
    (warehouse / "empty").mkdir()
    (warehouse / "torn").mkdir()
    (warehouse / "torn" / "a.parquet").write_text(CANARY)
    (warehouse / "mixed").mkdir()
    for name in ("a.csv", "b.jsonl"):
        (warehouse / "mixed" / name).write_text(CANARY)
    for name in ("empty", "torn", "mixed"):
        assert failure(run, f"SELECT user_id FROM shop.{name}") == "table"


def test_tables_that_are_damaged(run: Run, warehouse: Path) -> None:
    text = ("user_id,age\n" + "".join(f"{CANARY}{number},30\n" for number in range(1_000))).encode()
    files = {f"t{number}.csv.gz": damage(text) for number, damage in enumerate(damaged.GZIPS.values())}
    files["quote.csv"] = damaged.with_open_quote(text)
    for name, content in files.items():
        folder = warehouse / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(content)
        assert failure(run, f"SELECT user_id FROM shop.{folder.name}") == "table"


# --- What it may read ---


def test_links_that_lead_out(run: Run, run_apart: Run, warehouse: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.csv").write_text(f"user_id\n{CANARY}\n")
    (warehouse / "linked").symlink_to(tmp_path / "other")
    (warehouse / "file").mkdir()
    (warehouse / "file" / "a.csv").symlink_to(tmp_path / "other" / "a.csv")
    (warehouse / "partition" / "day=1" / "hour=2").mkdir(parents=True)
    (warehouse / "partition" / "day=1" / "hour=2" / "a.csv").symlink_to(tmp_path / "other" / "a.csv")
    (warehouse / "loop").mkdir()
    (warehouse / "loop" / "a.csv").symlink_to("a.csv")
    around = {("shop", "orders"): warehouse / "orders" / ".." / "orders"}
    relative = {("shop", "orders"): Path(os.path.relpath(warehouse / "orders"))}
    for name in ("linked", "file", "partition"):
        assert failure(run, f"SELECT user_id FROM shop.{name}") == "link"
    assert failure(run_apart, "SELECT user_id FROM shop.loop") in {"link", "failed", "table"}
    for tables in (around, relative):
        assert failure(run, "SELECT user_id FROM shop.orders", tables=tables) == "link"


def test_a_link_within_the_folder(run_apart: Run, warehouse: Path) -> None:
    (warehouse / "inside" / "versions").mkdir(parents=True)
    (warehouse / "inside" / "versions" / "1.csv").write_text("user_id\na\n")
    (warehouse / "inside" / "now.csv").symlink_to("versions/1.csv")
    assert run_apart("SELECT user_id FROM shop.inside") == ["a"]


def test_partitions_are_columns(run_apart: Run, warehouse: Path) -> None:
    for country in ("CH", "DE"):
        (warehouse / "parts" / f"country={country}").mkdir(parents=True)
        (warehouse / "parts" / f"country={country}" / "a.csv").write_text(f"user_id\n{country}1\n")
    assert run_apart("SELECT user_id FROM shop.parts WHERE country = 'DE'") == ["DE1"]


FORGED = [
    "SELECT content FROM read_text('{outside}')",
    "SELECT user_id FROM '{outside}'",
    "SELECT user_id FROM table_1, read_text('{outside}')",
    "SELECT user_id FROM (SELECT * FROM query('SELECT 1 AS user_id')), table_1",
    "SELECT value FROM duckdb_settings(), table_1",
    "SELECT table_name FROM information_schema.tables, table_1",
    "SELECT line FROM reject_errors, table_1",
    "SELECT user_id FROM memory.main.table_1, table_1",
    "COPY table_1 TO '{inside}'",
    "ATTACH '{outside}'",
    "SELECT user_id FROM table_1; COPY table_1 TO '{outside}'",
    "",
]


def test_what_the_check_would_have_rejected_is_rejected_again(
    run: Run, run_apart: Run, warehouse: Path, tmp_path: Path
) -> None:
    outside, inside = tmp_path / "outside.csv", warehouse / "orders" / "1.csv"
    outside.write_text(f"user_id\n{CANARY}\n")
    was = inside.read_bytes()

    def is_rejected(sql: str, runs: Run) -> None:
        forged = CheckedQuery(sql.format(outside=outside, inside=inside), (("shop", "orders"),))
        assert failure(runs, forged) in {"failed", "names"}
        assert inside.read_bytes() == was
        assert outside.read_text() == f"user_id\n{CANARY}\n"

    assert_each(
        is_rejected,
        [*((sql, run) for sql in FORGED), (FORGED[0], run_apart), ("COPY table_1 TO '{inside}'", run_apart)],
    )


# --- How it ends ---


def test_what_does_not_end_is_ended(run_apart: Run) -> None:
    assert failure(run_apart, ENDLESS, limits=QueryLimits(wall_seconds=1, threads=1)) == "time"


GREEDY = {
    "cross join": f"SELECT count(*) FROM {THREE}, shop.orders d, shop.orders e, shop.orders f",
    "groups": f"SELECT count(DISTINCT a.user_id || b.user_id || c.user_id) FROM {THREE}",
    "sort": f"SELECT a.user_id FROM {THREE} ORDER BY md5(a.user_id || b.user_id || c.user_id)",
    "doubling text": "WITH "
    + ", ".join(
        f"c{n} AS (SELECT x || x AS x FROM {f'c{n - 1}' if n else '(SELECT user_id AS x FROM shop.orders)'})"
        for n in range(60)
    )
    + " SELECT length(x) FROM c59",
}


def test_what_needs_too_much_memory_is_ended(run_apart: Run) -> None:
    limits = QueryLimits(memory_bytes=160 << 20, overhead_bytes=1 << 30, scratch_bytes=32 << 20)

    def is_ended(_: str, text: str) -> None:
        assert failure(run_apart, text, limits=limits) in {"memory", "disk", "values"}

    assert_each(is_ended, GREEDY.items())


def test_the_process_is_alone_and_limited_and_killed_it_is_a_failure(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    monkeypatch.setenv("CLEANROOM_HOME", CANARY)
    tables = {("shop", "orders"): warehouse / "orders"}
    before = set(psutil.Process().children())
    problems: list[str] = []

    def run_endless() -> None:
        try:
            run_query(check_query(ENDLESS), tables, tmp_path / "out", limits=ENDURING, scratch=tmp_path)
        except SeedError as error:
            problems.append(error.attributes["problem"])

    thread = threading.Thread(target=run_endless)
    thread.start()
    (process,) = soon(lambda: set(psutil.Process().children()) - before)
    # the limits come before anything of the query does
    soon(lambda: resource.prlimit(process.pid, resource.RLIMIT_CORE)[1] == 0)
    assert CANARY not in str(process.environ())
    assert not {"AWS_SECRET_ACCESS_KEY", "CLEANROOM_HOME"} & set(process.environ())
    assert CANARY not in str(process.cmdline())
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert resource.prlimit(process.pid, resource.RLIMIT_AS)[1] == ENDURING.memory_bytes + ENDURING.overhead_bytes
    assert resource.prlimit(process.pid, resource.RLIMIT_CPU)[1] <= ENDURING.wall_seconds * ENDURING.threads + 5
    assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1] <= ENDURING.scratch_bytes
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[1] <= 1_024
    process.kill()
    thread.join()
    assert problems == ["failed"]
    assert not process.is_running()


def test_it_ends_when_its_parent_is_killed(warehouse: Path, tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from cleanroom_pipelines.participant_sql.checking import check_query
        from cleanroom_pipelines.participant_sql.running import QueryLimits, run_query
        run_query(check_query({ENDLESS!r}), {{("shop", "orders"): Path({str(warehouse / "orders")!r})}},
            Path("out"), limits=QueryLimits(wall_seconds=600), scratch=Path({str(tmp_path)!r}))
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=Path(__file__).parents[2])
    (process,) = soon(lambda: psutil.Process(parent.pid).children())
    # it waits for the end of its input once it has limited itself
    soon(lambda: process.num_threads() > 1)
    parent.kill()
    parent.wait()
    soon(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
