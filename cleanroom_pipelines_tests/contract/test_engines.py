"""Contract: every engine returns the same rows, with the same types, for everything in the protocol.

All of this is tested on DuckDB and on Spark in this process; what depends on where an engine runs is also tested
on Spark Connect and on a standalone cluster (conftest.py explains why). Errors quote no cell; scratch is left
empty.
"""

import gzip
import json
import math
import os
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import (
    Engine,
    EngineSettings,
    find_tables,
    open_configured_engine,
    open_engine,
    quote_identifier,
    spark_sessions,
    stable_hash,
    stable_hash_sql,
)
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, EngineError, SeedError
from cleanroom_pipelines.uploads.checks import INTERACTIONS
from cleanroom_pipelines.uploads.reading import declare, read
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines_tests import damaged
from cleanroom_pipelines_tests.contract.clusters import java_processes_of, standalone_cluster
from cleanroom_pipelines_tests.contract.conftest import GIVEN_URL, Opening, wherever_it_runs

CANARY = "kanarienvogel"
NASTY = [
    "",
    " ",
    "a",
    "A",
    "é",
    "e\u0301",
    "😀",
    "ß",
    "'; DROP TABLE t; --",
    'say "no"',
    "`back`",
    "back\\slash",
    "\\n",
    "two\nlines",
    "tab\there",
    "%_",
    "${x}",
    ":p1",
    "$1",
    "?",
    "a.b",
    "NULL",
    "NaN",
    "\u0000nul",
    "\ufeffmark",
]


def rows(engine: Engine, sql: str, parameters: list[Any] | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.fetch(sql, parameters or []).to_pylist()
    return found


def value(engine: Engine, expression: str, parameters: list[Any] | None = None) -> Any:
    return rows(engine, f"SELECT {expression} AS value", parameters)[0]["value"]


# --- Values ---


@wherever_it_runs
def test_values_are_bound_unchanged(engine: Engine) -> None:
    engine.register("t", pa.table({"text": NASTY}))
    names = [f"c{number}" for number in range(len(NASTY))]
    same = ", ".join(f"? AS {name}" for name in names)
    assert rows(engine, f"SELECT {same}, ? AS n", [*NASTY, 7]) == [dict(zip(names, NASTY, strict=True)) | {"n": 7}]
    found = ", ".join(f"count(*) FILTER (text = ?) AS {name}" for name in names)
    assert rows(engine, f"SELECT {found} FROM t", NASTY) == [dict.fromkeys(names, 1)]
    places = ", ".join("?" for _ in names)
    assert rows(engine, f"SELECT count(*) AS n FROM t WHERE text IN ({places}, ?)", [*NASTY, "x"]) == [
        {"n": len(NASTY)}
    ]


@wherever_it_runs
def test_parameters_may_be_positional_or_numbered(engine: Engine) -> None:
    # A value stands where the text says, also before the step that is computed first.
    sql = "WITH s AS (SELECT ? AS a) SELECT a, ? AS b, (SELECT ?) AS c FROM s WHERE a <> ? ORDER BY ? || a LIMIT ?"
    assert rows(engine, sql, ["1", "2", "3", "4", "5", 6]) == [{"a": "1", "b": "2", "c": "3"}]
    assert rows(engine, "SELECT $2 AS a, $1 AS b, $2 AS c", ["x", "y"]) == [{"a": "y", "b": "x", "c": "y"}]
    assert rows(engine, "-- what? and $1\nSELECT '?' AS a, ? AS b -- why?", ["x"]) == [{"a": "?", "b": "x"}]


@wherever_it_runs
def test_values_of_other_types(engine: Engine) -> None:
    assert value(engine, "?", [None]) is None
    assert value(engine, "?", [True]) is True
    assert value(engine, "?", [0.1]) == 0.1
    assert value(engine, "?", [2**60]) == 2**60


@wherever_it_runs
def test_types_of_a_result(engine: Engine) -> None:
    engine.register("t", pa.table({"i": [1, 2], "f": [0.5, 1.5], "s": ["a", "b"], "d": [date(2026, 1, 1)] * 2}))
    found = engine.fetch(
        "SELECT count(*) AS n, CAST(sum(i) AS BIGINT) AS i, max(f) AS f, min(s) AS s, bool_or(i > 1) AS b, "
        "min(d) AS d, avg(i) AS a, count(*) FILTER (i > 1) / count(*) AS share FROM t"
    )
    types = {field.name: field.type for field in found.schema}
    whole, real = pa.int64(), pa.float64()
    assert types == {
        "n": whole,
        "i": whole,
        "f": real,
        "s": pa.string(),
        "b": pa.bool_(),
        "d": pa.date32(),
        "a": real,
        "share": real,
    }
    assert found.to_pylist() == [
        {"n": 2, "i": 3, "f": 1.5, "s": "a", "b": True, "d": date(2026, 1, 1), "a": 1.5, "share": 0.5}
    ]


# --- The dialect ---


def test_stable_hash(engine: Engine) -> None:
    texts = [*NASTY, "x" * 10_000, *map(str, range(1_000))]
    engine.register("t", pa.table({"text": texts}))
    found = engine.fetch(f"SELECT text, {stable_hash_sql('text')} AS h FROM t")
    assert found["h"].type == pa.int64()
    assert {row["text"]: row["h"] for row in found.to_pylist()} == {text: stable_hash(text) for text in texts}


EXPRESSIONS = [
    ("7 // 2", 3),
    ("(3 - 10) // 2", -3),
    ("7 / 2", 3.5),
    ("7 % 4", 3),
    ("(0 - 7) % 4", -3),
    ("CAST(1 AS BIGINT) << 40", 1 << 40),
    ("(CAST(5 AS BIGINT) << 20) | 3", (5 << 20) | 3),
    ("(CAST(-1 AS BIGINT) >> 3) & 7", 7),
    ("xor(12, 10)", 6),
    ("CAST('a' || 'b' AS VARCHAR)", "ab"),
    ("'a' || CAST(NULL AS VARCHAR)", None),
    ("'back\\slash'", "back\\slash"),
    ("'it''s'", "it's"),
    ("'line\nbreak'", "line\nbreak"),
    ("substr('é😀x', 2, 1)", "😀"),
    ("length('é😀')", 2),
    ("strlen('é😀')", 6),
    ("lower('ÄÉ')", "äé"),
    ("trim('  a  ')", "a"),
    # Spaces only, on both engines.
    ("trim('\t a ')", "\t a"),
    ("nullif('', '')", None),
    ("coalesce(NULL, 'x')", "x"),
    ("greatest(1, NULL, 3)", 3),
    ("least(1, NULL, 3)", 1),
    ("regexp_full_match('a\n', 'a')", False),
    ("regexp_full_match('xay', 'a')", False),
    ("regexp_full_match('ab', 'a|ab')", True),
    ("regexp_full_match('\u0661', '[0-9]')", False),
    ("regexp_full_match(CAST(NULL AS VARCHAR), 'a')", None),
    ("TRY_CAST('12' AS BIGINT)", 12),
    ("TRY_CAST('881250949.0' AS BIGINT)", 881250949),
    ("TRY_CAST('x' AS BIGINT)", None),
    ("TRY_CAST('' AS BIGINT)", None),
    ("TRY_CAST('99999999999999999999' AS BIGINT)", None),
    ("TRY_CAST('1e3' AS DOUBLE)", 1000.0),
    ("TRY_CAST('0.1' AS DOUBLE)", 0.1),
    ("TRY_CAST('x' AS DOUBLE)", None),
    ("TRY_CAST('.5' AS DOUBLE)", 0.5),
    ("CAST(round(CAST(2.5 AS DOUBLE)) AS BIGINT)", 3),
    ("CAST(sum(CAST(round(x * 1099511627776.0) AS HUGEINT)) AS DOUBLE) FROM (SELECT 0.5 AS x)", 2.0**39),
    ("floor(CAST(-1.5 AS DOUBLE))", -2.0),
    ("ceil(CAST(1.2 AS DOUBLE))", 2.0),
    ("abs(-3)", 3),
    ("ln(exp(CAST(1 AS DOUBLE)))", 1.0),
    ("sqrt(CAST(16 AS DOUBLE))", 4.0),
    ("isinf(CAST('Infinity' AS DOUBLE))", True),
    ("isinf(CAST('-Infinity' AS DOUBLE))", True),
    ("isinf(CAST('NaN' AS DOUBLE))", False),
    ("isfinite(CAST('NaN' AS DOUBLE))", False),
    ("isfinite(CAST(1 AS DOUBLE))", True),
    ("isfinite(CAST('-Infinity' AS DOUBLE))", False),
    ("isnan(CAST('NaN' AS DOUBLE))", True),
    ("CAST('NaN' AS DOUBLE) = CAST('NaN' AS DOUBLE)", True),
    ("CAST('NaN' AS DOUBLE) > CAST('Infinity' AS DOUBLE)", True),
    ("epoch(TIMESTAMP '2026-01-01 00:00:01.5')", 1767225601.5),
    ("CAST(CAST('0.1' AS FLOAT) AS VARCHAR)", "0.1"),
    ("CAST(CAST('12345678' AS FLOAT) AS VARCHAR)", "12345678.0"),
    ("epoch(DATE '2026-01-01')", 1767225600.0),
    ("epoch(TIMESTAMP '1969-12-31 23:59:59.5')", -0.5),
    ("TRY_CAST(floor(epoch(TIMESTAMP '1969-12-31 23:59:59.5')) AS BIGINT)", -1),
    ("md5('é')", "66ddcd97cfdeabb2f6fb8a999b4bc76f"),
    ("list_contains(['a', 'b'], 'b')", True),
    ("list_contains(['a', 'b'], 'c')", False),
    ("list_contains(CAST(NULL AS VARCHAR[]), 'c')", None),
    ("CASE WHEN CAST(NULL AS BOOLEAN) THEN 1 ELSE 2 END", 2),
    ("(NULL AND false)", False),
    ("1 IN (1, NULL)", True),
    ("2 IN (1, NULL)", None),
    ("CAST(true AS VARCHAR)", "true"),
    ("CAST(12 AS VARCHAR)", "12"),
    *(
        (f"CAST(CAST('{text}' AS DOUBLE) AS VARCHAR)", text)
        for text in (
            *("0.0", "1.0", "-1.5", "0.1", "12345678.0", "1234567.25", "123456789012345.0", "0.001", "0.00025"),
            *("0.0001", "1e-05", "1.5e-07", "1e+16", "-2.5e+20", "1e+100", "1.25e-300", "nan", "inf", "-inf"),
        )
    ),
    ("CAST(CAST(1 AS DOUBLE) AS BIGINT)", 1),
    ("count(*) FILTER (WHERE x > 1) FROM (SELECT 1 AS x UNION ALL SELECT 2)", 1),
    ("count(DISTINCT x) FROM (SELECT 1 AS x UNION ALL SELECT 1)", 1),
    ("sum(x) FROM (SELECT 1 AS x WHERE false)", None),
]


@wherever_it_runs
def test_expressions(engine: Engine) -> None:
    # In one query each for those that stand alone: a query costs Spark a good part of a second.
    alone = [(expression, expected) for expression, expected in EXPRESSIONS if " FROM " not in expression]
    sql = ", ".join(f"{expression} AS e{number}" for number, (expression, _) in enumerate(alone))
    found = list(rows(engine, f"SELECT {sql}")[0].values())
    differing = {
        expression: value
        for value, (expression, expected) in zip(found, alone, strict=True)
        if value != expected or type(value) is not type(expected)
    }
    assert differing == {}


def test_aggregates(engine: Engine) -> None:
    differing = {}
    for expression, expected in EXPRESSIONS:
        head, from_, tail = expression.partition(" FROM ")
        if from_:
            found = rows(engine, f"SELECT {head} AS value FROM {tail}")[0]["value"]
            if found != expected or type(found) is not type(expected):
                differing[expression] = found
    assert differing == {}


def test_order_by_puts_nulls_last(engine: Engine) -> None:
    engine.register("t", pa.table({"a": [2, None, 1], "s": ["b", None, "B"]}))
    assert [row["a"] for row in rows(engine, "SELECT a FROM t ORDER BY a")] == [1, 2, None]
    assert [row["a"] for row in rows(engine, "SELECT a FROM t ORDER BY a DESC")] == [2, 1, None]
    assert [row["s"] for row in rows(engine, "SELECT s FROM t ORDER BY s")] == ["B", "b", None]
    ranked = rows(engine, "SELECT a, row_number() OVER (ORDER BY a DESC) AS rank FROM t")
    assert {row["a"]: row["rank"] for row in ranked} == {2: 1, 1: 2, None: 3}


def test_texts_sort_by_their_bytes(engine: Engine) -> None:
    engine.register("t", pa.table({"text": NASTY}))
    found = [row["text"] for row in rows(engine, "SELECT text FROM t ORDER BY text")]
    assert found == sorted(NASTY, key=str.encode)
    assert rows(engine, "SELECT min(text) AS a, max(text) AS b FROM t") == [{"a": found[0], "b": found[-1]}]


def test_texts_that_look_alike_are_different_values(engine: Engine) -> None:
    engine.register("t", pa.table({"text": [*NASTY, *NASTY]}))
    found = rows(engine, "SELECT text, count(*) AS n FROM t GROUP BY text")
    assert {row["text"]: row["n"] for row in found} == dict.fromkeys(NASTY, 2)
    assert len(rows(engine, "SELECT DISTINCT text FROM t")) == len(NASTY)


def test_nan_values_form_one_group(engine: Engine) -> None:
    engine.register("t", pa.table({"x": [math.nan, math.nan, 0.0, None, None]}))
    assert rows(engine, "SELECT count(*) AS n FROM (SELECT DISTINCT x FROM t) AS d") == [{"n": 3}]
    assert rows(engine, "SELECT count(x) AS n FROM t") == [{"n": 3}]


def test_joins(engine: Engine) -> None:
    engine.register("a", pa.table({"user_id": ["1", "2", "2", None]}))
    engine.register("b", pa.table({"user_id": ["2", "3", None, "2"]}))

    def users(sql: str) -> list[str | None]:
        return sorted((row["user_id"] for row in rows(engine, sql)), key=str)

    assert users("SELECT a.user_id FROM a SEMI JOIN b ON a.user_id = b.user_id") == ["2", "2"]
    assert users("SELECT a.user_id FROM a ANTI JOIN b ON a.user_id = b.user_id") == ["1", None]
    assert users("SELECT a.user_id FROM a LEFT JOIN b USING (user_id)") == ["1", "2", "2", "2", "2", None]
    assert users("SELECT user_id FROM a INTERSECT SELECT user_id FROM b") == ["2", None]
    assert users("SELECT user_id FROM a EXCEPT SELECT user_id FROM b") == ["1"]
    assert users("SELECT user_id FROM a WHERE user_id IN (SELECT user_id FROM b)") == ["2", "2"]
    assert users("SELECT user_id FROM a UNION SELECT user_id FROM b") == ["1", "2", "3", None]


def test_lists(engine: Engine) -> None:
    engine.register("t", pa.table({"tags": pa.array([["a", "b"], [], None, ["a"]], pa.list_(pa.string()))}))
    sql = "WITH c AS (SELECT unnest(tags) AS tag FROM t WHERE tags IS NOT NULL) SELECT tag, count(*) AS n FROM c"
    assert rows(engine, f"{sql} GROUP BY tag ORDER BY n DESC, tag") == [{"tag": "a", "n": 2}, {"tag": "b", "n": 1}]
    found = rows(engine, "SELECT count(*) FILTER (coalesce(list_contains(tags, ?), false)) AS n FROM t", ["b"])
    assert found == [{"n": 1}]


def test_star_with_a_replaced_column(engine: Engine) -> None:
    engine.register("t", pa.table({"a": [1], "b": [None]}, pa.schema({"a": pa.int64(), "b": pa.int64()})))
    assert rows(engine, "SELECT t.* REPLACE (coalesce(b, 0) AS b), 'x' AS c FROM t") == [
        {"a": 1, "b": 0, "c": "x"}
    ]


def test_integer_sums_are_exact(engine: Engine) -> None:
    engine.register("t", pa.table({"x": [2**62, 2**62, 2**62, -1]}))
    found = rows(engine, "SELECT CAST(sum(CAST(x AS HUGEINT)) AS VARCHAR) AS s FROM t")
    assert found == [{"s": str(3 * 2**62 - 1)}]


@wherever_it_runs
def test_odd_column_names(engine: Engine, tmp_path: Path) -> None:
    names = ["a b", "a.b", 'a"b', "a`b", "é", "SELECT", "a'b", "a\nb", "?", "$1", ":p1", "n"]
    pq.write_table(pa.table({name: [f"x{name}", f"y{name}"] for name in names}), tmp_path / "t.parquet")
    first, second = ({name: f"{letter}{name}" for name in names} for letter in "xy")
    engine.scan("t", find_tables(tmp_path / "t.parquet"))
    quoted = ", ".join(quote_identifier(name) for name in names)
    assert rows(engine, f"SELECT {quoted} FROM t WHERE n = ?", ["yn"]) == [second]
    found = engine.run_groups(
        f"SELECT CASE n WHEN 'xn' THEN 1 ELSE 2 END AS \"k.`\", {quoted} FROM t",
        "k.`",
        lambda _, group: group.select(names),
    )
    assert [table.to_pylist() for table in found] == [[first], [second]]
    for name in names:
        out = tmp_path / f"out{names.index(name)}"
        out.mkdir()
        if name in ("a.b", "a`b", "n"):
            (part,) = engine.write_sorted("SELECT * FROM t", [(name, True)], out)
            assert pq.read_table(part.path).to_pylist() == [second, first]


# --- Cells of tables: what is usable, and what it means ---

TEXT_CELLS = [
    None,
    *NASTY,
    "1",
    " 1 ",
    "1.0",
    "1.",
    "1.5",
    "-1",
    "+1",
    "1e3",
    "1E-3",
    "1e400",
    ".5",
    "-.5",
    ".",
    "-",
    "0x1f",
    "\uff11",
    "\u0661",
    "1_000",
    "1,5",
    "1 2",
    "\t1",
    "1\n",
    "Infinity",
    "-inf",
    "nan",
    "true",
    "99999999999",
    "100000000000",
    "1767225600000",
    "-99999999999",
    "0000000000000001",
    "1" * 100,
    "1" * 101,
    "12d",
    "1f",
    "1L",
]
PARQUET_COLUMNS = {
    "text": pa.array(TEXT_CELLS, pa.string()),
    "integer": pa.array([None, 0, 1, -1, 10**11 - 1, 10**11, -(10**11), 2**63 - 1, -(2**63)], pa.int64()),
    "small": pa.array([None, 1, -1], pa.int16()),
    "unsigned": pa.array([None, 1, 2**32 - 1], pa.uint32()),
    "large": pa.array([None, 1, 2**64 - 1], pa.uint64()),
    "real": pa.array([None, 0.0, -1.5, math.nan, math.inf, -math.inf, 1e300], pa.float64()),
    "short": pa.array([None, 0.1, math.nan], pa.float32()),
    "decimal": pa.array([None, Decimal("1.50"), Decimal("-2.25")], pa.decimal128(10, 2)),
    "truth": pa.array([None, True, False]),
    "seconds": pa.array([None, 0, 1767225600], pa.timestamp("s")),
    "micros": pa.array([None, -1, 1767225600_500_000, -500_000], pa.timestamp("us")),
    "nanos": pa.array([None, -1, 1767225600_500_000_000], pa.timestamp("ns")),
    "zoned": pa.array([None, 1767225600_500_000], pa.timestamp("us", "Europe/Berlin")),
    "day": pa.array([None, date(1969, 12, 31), date(2026, 1, 1)], pa.date32()),
    "list": pa.array([None, [], ["a", None, "b"]], pa.list_(pa.string())),
}


def write_cells(folder: Path, kind: str) -> Path:
    """Write all cells, those of each type in one column; shorter columns are filled with NULL."""
    if kind == "jsonl":
        file = folder / "t.jsonl"
        file.write_text("".join(json.dumps({"cell": text}) + "\n" for text in TEXT_CELLS))
        return file
    pq.write_table(side_by_side(PARQUET_COLUMNS), folder / "t.parquet")
    return folder / "t.parquet"


def side_by_side(columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return columns of different lengths as one table."""
    n_rows = max(map(len, columns.values()))
    return pa.table(
        {
            name: pa.concat_arrays([column, pa.nulls(n_rows - len(column), column.type)])
            for name, column in columns.items()
        }
    )


def cells_in(engine: Engine, file: Path) -> dict[str, Counter[tuple[bool, str]]]:
    """Return, for each role and column that fits it, whether each cell is usable, and its value if it is."""
    tables = find_tables(file)
    engine.scan("cells", tables)
    found = {}
    for number, role in enumerate(Role):
        declared = [(name, role) for name in tables.columns]
        fitting = [
            (column.name, role) for column in declare(tables, declared, INTERACTIONS).columns if column.fits
        ]
        scratch = file.with_name(f"{file.stem}-{id(engine)}-{number}")
        scratch.mkdir()
        checked = read(engine, f"cells{number}", declare(tables, fitting, INTERACTIONS), scratch=scratch)
        cells = rows(engine, f"SELECT * FROM {checked.name}")
        for position, column in enumerate(checked.columns):
            found[f"{role}: {column.name} {column.kind}"] = Counter(
                (cell[f"e{position}"], repr(cell[f"v{position}"]) if cell[f"e{position}"] is None else "")
                for cell in cells
            )
    return found


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_cells_are_equally_usable_and_have_equal_values(engine: Engine, tmp_path: Path, kind: str) -> None:
    file = write_cells(tmp_path, kind)
    with open_engine(EngineSettings(memory_bytes=1 << 28), paths=[tmp_path]) as judge:
        expected = cells_in(judge, file)
    assert {name.partition(":")[0] for name in expected} == set(Role)
    assert cells_in(engine, file) == expected


# --- Views, tables, names ---


@wherever_it_runs
def test_views_and_tables(engine: Engine) -> None:
    engine.register("t", pa.table({"a": [1, 2, 3]}))
    engine.execute("-- one row per a\nCREATE OR REPLACE TEMP VIEW v AS SELECT a + 1 AS a FROM t")
    engine.execute("CREATE TEMP TABLE kept AS SELECT a FROM v WHERE a > ?", [2])
    engine.execute("CREATE OR REPLACE TEMP VIEW V AS SELECT 7 AS a")
    assert sorted(row["a"] for row in rows(engine, "SELECT a FROM kept")) == [3, 4]
    assert rows(engine, 'SELECT A FROM "v"')[0].popitem()[1] == 7, "names do not differ by case"
    engine.execute("CREATE OR REPLACE TEMP TABLE kept AS SELECT a * 10 AS a FROM kept")
    assert sorted(row["a"] for row in rows(engine, "SELECT a FROM kept")) == [30, 40]
    engine.execute("CREATE OR REPLACE TEMP TABLE none AS SELECT a FROM t WHERE false")
    assert engine.fetch("SELECT a FROM none").schema.field("a").type == pa.int64()


@wherever_it_runs
def test_dropped_tables_no_longer_exist(engine: Engine) -> None:
    engine.execute("CREATE TEMP VIEW v AS SELECT 1 AS a")
    engine.execute("CREATE TEMP TABLE t AS SELECT 1 AS a")
    engine.execute("DROP VIEW v")
    engine.execute("DROP TABLE IF EXISTS t")
    for name in "vt":
        with pytest.raises(EngineError):
            engine.fetch(f"SELECT a FROM {name}")


@wherever_it_runs
def test_two_engines_do_not_share_names(open_here: Opening) -> None:
    with open_here() as first, open_here() as second:
        first.register("t", pa.table({"a": [1]}))
        second.register("t", pa.table({"a": [2]}))
        assert rows(first, "SELECT a FROM t") == [{"a": 1}]
        assert rows(second, "SELECT a FROM t") == [{"a": 2}]
        second.unregister("t")
        with pytest.raises(EngineError):
            second.fetch("SELECT a FROM t")
        assert rows(first, "SELECT a FROM t") == [{"a": 1}]


@wherever_it_runs
def test_registered_tables_keep_their_values(engine: Engine) -> None:
    # What lies below a microsecond goes, and not to the same side on both.
    columns = PARQUET_COLUMNS | {"nanos": pa.array([None, -1_000, 1767225600_500_000_000], pa.timestamp("ns"))}
    table = side_by_side(columns)
    engine.register("t", table)
    found = engine.fetch("SELECT * FROM t")
    for name in columns:
        assert Counter(map(_plain, found[name].to_pylist())) == Counter(map(_plain, table[name].to_pylist())), name


def _plain(cell: Any) -> str:
    if hasattr(cell, "to_pydatetime"):
        cell = cell.to_pydatetime(warn=False)
    if isinstance(cell, datetime):
        return repr((cell if cell.tzinfo else cell.replace(tzinfo=UTC)).astimezone(UTC))
    return repr(cell)


# --- Files in ---


@wherever_it_runs
def test_odd_file_names_are_taken_literally(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "day=1"
    folder.mkdir()
    odd = ["*", "[a]", "{a,b}", "a b", "é?", "a%20b", "back\\slash", "a=1,b", "a:b"]
    plain = ["a", "b", "ab", "éx", "a b c", "other"]
    for number, name in enumerate(odd + plain):
        pq.write_table(pa.table({"a": [number]}), folder / f"{name}.parquet")
    for number, name in enumerate(odd):
        engine.scan(f"t{number}", find_tables(folder / f"{name}.parquet"))
    scans = " UNION ALL ".join(f"SELECT {number} AS t, a FROM t{number}" for number in range(len(odd)))
    found = [(odd[row["t"]], row["a"]) for row in rows(engine, f"{scans} ORDER BY t, a")]
    assert found == [(name, number) for number, name in enumerate(odd)]


def test_many_files(engine: Engine, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [2, 1], "b": ["x", None]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["y"], "a": [3]}), tmp_path / "2.parquet")
    engine.scan("t", find_tables(tmp_path))
    assert rows(engine, "SELECT * FROM t ORDER BY a") == [
        {"a": 1, "b": None},
        {"a": 2, "b": "x"},
        {"a": 3, "b": "y"},
    ]


@wherever_it_runs
def test_gzipped_parquet(engine: Engine, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress((tmp_path / "t.parquet").read_bytes()))
    engine.scan("t", find_tables(tmp_path / "t.parquet.gz"))
    assert rows(engine, "SELECT * FROM t") == [{"a": 1}]


CSVS = {
    "cells": b'a,b\n1,\n"", x \n"2,3","line\nbreak"\nNULL,\xc3\xa9\xf0\x9f\x98\x80\n"say ""no""",back\\slash\n',
    "ends": b"a,b\r\n1,2\r\n3,4\r\n",
    "broken": b'a,b\n1,2\n3\n4,5,6\n"7"x,8\n\xff,9\n10,11\n',
    "mark": b"\xef\xbb\xbfa,b\n1,2\n",
    "semicolons": b"a;b\n1;2,5\n",
    "unclosed": b'a,b\n1,2\n3,"4\n' + b"5,6\n" * 20,
    "blank": b"a,b\n1,2\n\n3,4\n",
    "one column": b"a\n1\n\n2\n",
}
JSONS = {
    "cells": b'{"a": "x", "b": 1}\n\n{"a": 2.50, "b": true}\r\n{"a": null, "b": "\\ud83d\\ude00"}\n{"b": "y"}\n',
    "broken": b'{"a": "x"}\nno json\n[1]\n{"a": {"x": 1}}\n{"a": [1]}\n{"a": "\xff"}\n{"a": "y", }\n{"a": 1e2}\n',
    "numbers": b'{"a": 12345678901234567890123}\n{"a": 0.10}\n{"a": -0}\n{"a": 1E+2}\n{"a": NaN}\n',
    "odd keys": b'{"a b": "x", "c\\"d": 1, "e\\nf": true, "g.h": "i"}\n',
}


@wherever_it_runs
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_text_files(engine: Engine, tmp_path: Path, kind: str) -> None:
    files = []
    for name, content in (CSVS if kind == "csv" else JSONS).items():
        packed = name in ("cells", "unclosed")
        files.append(tmp_path / f"{name}.{kind}{'.gz' if packed else ''}")
        files[-1].write_bytes(gzip.compress(content, mtime=0) if packed else content)
    with open_engine(EngineSettings(memory_bytes=1 << 28), paths=[tmp_path]) as judge:
        expected = {file.name: text_in(judge, file) for file in files}
    found = {file.name: text_in(engine, file) for file in files}
    assert [name for name in expected if found[name] != expected[name]] == []


def text_in(engine: Engine, file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the rows of a text file, and its invalid lines."""
    engine.scan("t", find_tables(file))
    table = engine.fetch("SELECT * FROM t")
    assert all(field.type == pa.string() for field in table.schema), file.name
    return sorted(map(repr, table.to_pylist())), engine.rejected_lines().to_pylist()


@wherever_it_runs
def test_skipped_lines_are_reported_once_by_the_queries_that_skip_them(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3\n4,5\n")
    engine.scan("t", find_tables(tmp_path / "t.csv"))
    engine.execute("CREATE OR REPLACE TEMP VIEW v AS SELECT a, b FROM t WHERE a <> '4'")
    assert engine.rejected_lines().num_rows == 0, "nothing was read yet"
    assert rows(engine, "SELECT count(*) AS n FROM v") == [{"n": 1}]
    assert engine.rejected_lines().to_pylist() == [{"line": 3, "reason": "MISSING COLUMNS", "runs_on": False}]
    assert engine.rejected_lines().num_rows == 0, "told once"
    engine.write_parquet("SELECT * FROM v", tmp_path / "out.parquet")
    assert engine.rejected_lines().num_rows == 1, "skipped again"
    assert rows(engine, "SELECT 1 AS a") == [{"a": 1}]
    assert engine.rejected_lines().num_rows == 0, "not read"


def test_a_folder_of_text_files(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.csv").write_text(f"a,b\n{number},x\nbad\n")
    engine.scan("t", find_tables(folder))
    assert sorted(row["a"] for row in rows(engine, "SELECT a FROM t")) == list("01234")
    assert engine.rejected_lines()["line"].to_pylist() == [3] * 5


# --- Results out ---


@wherever_it_runs
def test_batches_keep_order_and_size(engine: Engine) -> None:
    engine.register("t", pa.table({"a": range(10_000)}))
    found = list(engine.batches("SELECT a FROM t WHERE a >= ? ORDER BY a DESC", [100], rows=1_000))
    assert [number for batch in found for number in batch["a"].to_pylist()] == list(range(9_999, 99, -1))
    assert max(batch.num_rows for batch in found) <= 1_000


@wherever_it_runs
def test_batches_closed_early(engine: Engine) -> None:
    engine.register("t", pa.table({"a": range(10_000)}))
    stream = engine.batches("SELECT a FROM t", rows=100)
    next(stream)
    stream.close()
    assert rows(engine, "SELECT count(*) AS n FROM t") == [{"n": 10_000}]


@wherever_it_runs
def test_a_written_file_keeps_the_query_s_order(engine: Engine, tmp_path: Path) -> None:
    engine.register("t", pa.table({"a": range(50_000), "s": [f"u{n}" for n in range(50_000)]}))
    out = tmp_path / "out.parquet"
    engine.write_parquet("SELECT a, s FROM t ORDER BY a % 7, a DESC", out)
    assert pq.read_table(out)["a"].to_pylist() == sorted(range(50_000), key=lambda n: (n % 7, -n))
    metadata = pq.read_metadata(out)
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert [field.type for field in pq.read_schema(out)] == [pa.int64(), pa.string()]


def test_a_file_without_rows_has_its_columns(engine: Engine, tmp_path: Path) -> None:
    engine.register("t", pa.table({"a": [1], "s": ["x"]}))
    engine.write_parquet("SELECT a, s FROM t WHERE false", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").schema.types == [pa.int64(), pa.string()]


@wherever_it_runs
def test_sorted_parts(engine: Engine, tmp_path: Path) -> None:
    n = 20_000
    # Few scores, so that many rows are equal in the first column.
    table = pa.table({"user_id": [f"u{i}" for i in range(n)], "score": [(i * 7919 % 50) / 50 for i in range(n)]})
    engine.register("t", table)
    out = tmp_path / "out"
    out.mkdir()
    parts = engine.write_sorted("SELECT * FROM t", [("score", True), ("user_id", False)], out)
    assert [part.path.name for part in parts] == [f"part-{number:05d}.parquet" for number in range(len(parts))]
    assert sorted(path.name for path in out.iterdir()) == [part.path.name for part in parts]
    found = []
    for part in parts:
        rows_of_part = pq.read_table(part.path).to_pylist()
        assert len(rows_of_part) == part.n_rows
        found.append(rows_of_part)
    assert [row for some in found for row in some] == sorted(
        table.to_pylist(), key=lambda row: (-row["score"], row["user_id"])
    )
    scores = [{row["score"] for row in some} for some in found]
    assert sum(map(len, scores)) == len(set().union(*scores)), "rows equal in the first column share a file"


def test_sorted_parts_of_nothing(engine: Engine, tmp_path: Path) -> None:
    engine.register("t", pa.table({"a": [1]}))
    out = tmp_path / "out"
    out.mkdir()
    parts = engine.write_sorted("SELECT a FROM t WHERE a > ?", [("a", False)], out, [1])
    assert sum(part.n_rows for part in parts) == 0
    assert all(pq.read_schema(part.path).names == ["a"] for part in parts)


# --- Functions on other machines ---


@wherever_it_runs
def test_task_results_keep_the_order_of_tasks(engine: Engine) -> None:
    factor = 3
    found = engine.run_tasks(lambda number: pa.table({"n": [number * factor]}), [5, 1, 4, 1])
    assert [table["n"].to_pylist() for table in found] == [[15], [3], [12], [3]]
    assert list(engine.run_tasks(lambda _: pa.table({}), [])) == []


@wherever_it_runs
def test_tasks_of_any_kind_and_size(engine: Engine) -> None:
    found = list(
        engine.run_tasks(
            lambda task: pa.table({"s": [task["s"]] * task["n"]}),
            [{"s": "é", "n": 0}, {"s": "x" * 100, "n": 20_000}],
        )
    )
    assert [table.num_rows for table in found] == [0, 20_000]
    assert found[0].schema.names == ["s"]


@wherever_it_runs
def test_a_large_function(engine: Engine) -> None:
    weight = os.urandom(20_000_000)
    found = engine.run_tasks(lambda number: pa.table({"n": [len(weight) + number]}), [1, 2])
    assert [table["n"][0].as_py() for table in found] == [20_000_001, 20_000_002]


@wherever_it_runs
def test_groups(engine: Engine) -> None:
    engine.register("t", pa.table({"k": [i % 5 for i in range(1_000)], "x": range(1_000)}))

    def add(key: int, group: pa.Table) -> pa.Table:
        assert group.schema.names == ["k", "x"]
        return pa.table({"k": [key], "sum": [sum(group["x"].to_pylist())]})

    found = [table.to_pylist()[0] for table in engine.run_groups("SELECT * FROM t WHERE x < ?", "k", add, [500])]
    assert found == [{"k": k, "sum": sum(range(k, 500, 5))} for k in range(5)]
    assert list(engine.run_groups("SELECT * FROM t WHERE x < ?", "k", add, [0])) == []


@wherever_it_runs
@pytest.mark.parametrize("keys", [[*NASTY, "x", "y"], [-1, 0, 1, 2, 1 << 60]], ids=["text", "numbers"])
def test_groups_may_contain_many_keys(engine: Engine, keys: list[Any]) -> None:
    table = pa.table({"x": range(len(keys) * 40), "a.`b": keys * 40})
    engine.register("t", table)

    def tell(group: int, rows: pa.Table) -> pa.Table:
        assert rows.schema.names == ["x", "a.`b"]
        return rows.append_column("group", pa.array([group] * rows.num_rows))

    sql = "SELECT * FROM t WHERE x < ?"
    for n_groups in (1, 3, 50):
        found = list(engine.run_groups(sql, "a.`b", tell, [table.num_rows - 1], n_groups=n_groups))
        assert all(part.num_rows for part in found)
        groups = [part["group"].unique().to_pylist() for part in found]
        assert groups == sorted(groups), "in their order, and each in one piece"
        assert all(len(numbers) == 1 and 0 <= numbers[0] < n_groups for numbers in groups)
        together = pa.concat_tables(found).to_pylist()
        assert sorted(row["x"] for row in together) == list(range(table.num_rows - 1))
        assert all(row["a.`b"] == keys[row["x"] % len(keys)] for row in together)
        assert len({(row["a.`b"], row["group"]) for row in together}) == len(keys)
    assert list(engine.run_groups(sql, "a.`b", tell, [0], n_groups=3)) == []


WAYS = ["tasks", "groups", "groups of keys"]


def fail_as_ours(_: Any, __: Any = None) -> pa.Table:
    raise SeedError("The seed is too small.", remedy="Give more.", n_users=3)


def fail_as_theirs(_: Any, __: Any = None) -> pa.Table:
    raise ValueError(CANARY)


@wherever_it_runs
def test_our_own_errors_are_returned_from_tasks(engine: Engine) -> None:
    for way in WAYS:
        with pytest.raises(SeedError) as caught:
            list(_run(engine, fail_as_ours, way))
        assert (caught.value.message, caught.value.remedy) == ("The seed is too small.", "Give more."), way
        assert caught.value.attributes == {"n_users": 3}, way


@wherever_it_runs
def test_the_text_of_other_errors_is_dropped(engine: Engine) -> None:
    if not engine.is_cluster:
        pytest.skip("on one machine the function's own error is raised as it is")
    for way in WAYS:
        with pytest.raises(EngineError) as caught:
            list(_run(engine, fail_as_theirs, way))
        assert caught.value.attributes["cause"] == "ValueError", way
        assert CANARY not in _whole(caught.value), way


def _run(engine: Engine, function: Callable[..., pa.Table], way: str) -> Any:
    if way == "tasks":
        return engine.run_tasks(function, [1, 2])
    engine.register("t", pa.table({"k": [1]}))
    return engine.run_groups("SELECT * FROM t", "k", function, n_groups=2 if way == "groups of keys" else None)


def _whole(error: BaseException | None) -> str:
    return "" if error is None else f"{error!r} {error} {_whole(error.__cause__)} {_whole(error.__context__)}"


# --- Errors and what stays behind ---

BAD_STATEMENTS = [
    f"SELECT '{CANARY}' FROM nowhere",
    f"SELECT {CANARY} FROM t",
    f"SELECT FROM WHERE '{CANARY}'",
    f"SELECT nowhere('{CANARY}')",
    f"DELETE FROM t WHERE a = '{CANARY}'",
    f"SELECT a FROM t WHERE a = ? AND '{CANARY}' = ?",
]


@wherever_it_runs
def test_errors_quote_no_cell(
    engine: Engine, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    engine.register("t", pa.table({"a": [CANARY]}))
    for sql in BAD_STATEMENTS:
        if sql.startswith("DELETE") and not engine.is_cluster:
            continue  # DuckDB runs it
        with pytest.raises(CleanroomError) as caught:
            engine.fetch(sql, ["x"] if "?" in sql else [])
        assert CANARY not in _whole(caught.value), sql
        printed = capfd.readouterr()
        assert CANARY not in printed.out + printed.err + caplog.text, sql
    assert rows(engine, "SELECT a FROM t") == [{"a": CANARY}], "and it goes on"


@wherever_it_runs
def test_damaged_files(engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [f"{CANARY}{i}" for i in range(50_000)]}), file)
    tables = find_tables(file)
    content = file.read_bytes()
    file.write_bytes(content[:1_000] + b"\x00" * (len(content) // 2) + content[1_000 + len(content) // 2 :])
    with pytest.raises(EngineError) as caught:
        engine.scan("t", tables)
        engine.fetch("SELECT a FROM t")
    assert CANARY not in _whole(caught.value)
    printed = capfd.readouterr()
    assert CANARY not in printed.out + printed.err


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_damaged_gzipped_text_is_not_read_as_a_shorter_table(
    engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    line, header = ('{"a": "%s%d"}\n', "") if kind == "jsonl" else ("%s%d\n", "a\n")
    text = header + "".join(line % (CANARY, i) for i in range(20_000))
    for how, damage in damaged.GZIPS.items():
        file = tmp_path / f"{how}.{kind}.gz"
        file.write_bytes(damage(text.encode()))
        with pytest.raises(EngineError) as caught:
            engine.scan("t", find_tables(file))
        assert caught.value.attributes["cause"] == "BadGzipFile", how
        assert CANARY not in _whole(caught.value), how
        printed = capfd.readouterr()
        assert CANARY not in printed.out + printed.err, how


def test_an_unclosed_quote_is_reported(engine: Engine, tmp_path: Path) -> None:
    text = "a,b\n" + "".join(f"{i},x\n" for i in range(1_000))
    (tmp_path / "t.csv").write_bytes(damaged.with_open_quote(text.encode()))
    engine.scan("t", find_tables(tmp_path / "t.csv"))
    assert rows(engine, "SELECT count(*) AS n FROM t") == [{"n": 499}]
    assert engine.rejected_lines()["runs_on"].to_pylist() == [True]


@wherever_it_runs
def test_engines_print_nothing_and_leave_nothing_behind(
    open_here: Opening,
    scratch: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "t.csv").write_text("a\n1\n")
    with open_here() as engine:
        engine.register("t", pa.table({"a": range(1_000)}))
        engine.execute("CREATE TEMP TABLE kept AS SELECT a FROM t")
        engine.scan("text", find_tables(tmp_path / "t.csv"))
        assert rows(engine, "SELECT count(*) AS n FROM kept, text") == [{"n": 1_000}]
        stream = engine.batches("SELECT a FROM t ORDER BY a", rows=10)
        next(stream)
        list(engine.run_tasks(lambda n: pa.table({"s": ["x" * 200_000]}), [1, 2]))
    stream.close()
    assert list(scratch.iterdir()) == []
    assert list((tmp_path / "here").iterdir()) == []
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


# --- Clusters ---


@pytest.mark.spark
def test_invalid_engine_addresses() -> None:
    urls = [
        "",
        "duckdb://x",
        "yarn",
        "local[0x]",
        "spark://",
        "spark://host",
        "http://127.0.0.1:1",
        "sc://127.0.0.1:x",
    ]
    for url in urls:
        with (
            pytest.raises(ConfigurationError, match=r"CLEANROOM_ENGINE_URL|spark://host:port"),
            open_configured_engine(EngineSettings(url=url)),
        ):
            pytest.fail(f"{url!r} was taken for an address")


@pytest.mark.spark
def test_an_unreachable_cluster() -> None:
    from cleanroom_pipelines_tests.ports import free_port

    for scheme in ("spark", "sc"):
        url = f"{scheme}://127.0.0.1:{free_port()}"
        with (
            pytest.raises(ConfigurationError, match="does not respond"),
            open_configured_engine(EngineSettings(url=url)),
        ):
            pytest.fail(f"somebody answers by {scheme}")


# In a process of its own, since this one may have a Spark application already: opens an engine in an empty folder,
# prints what went wrong, or nothing, and then what lies in the folder.
OPENING = """
import os, sys
from cleanroom_pipelines.engine import EngineSettings, open_configured_engine, spark_sessions
from cleanroom_pipelines.errors import ConfigurationError

spark_sessions.EXECUTOR_SECONDS = float(sys.argv[2])
try:
    with open_configured_engine(EngineSettings(url=sys.argv[1])) as engine:
        engine.fetch("SELECT 1")
except ConfigurationError as error:
    print(error)
print(os.listdir())
"""


def opening(folder: Path, url: str, seconds: int = 120, **environment: str) -> list[str]:
    """Return the error of opening an engine with other environment variables."""
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "PYSPARK_PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", OPENING, url, str(seconds)],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.spark
def test_starting_prints_nothing_and_leaves_no_files(tmp_path: Path) -> None:
    assert opening(tmp_path / "here", "local[1]") == ["[]"]


@pytest.mark.spark
def test_without_java(tmp_path: Path) -> None:
    said = opening(tmp_path / "here", "local[1]", PATH=str(tmp_path), JAVA_HOME=str(tmp_path))
    assert len(said) == 2
    assert "Java 17" in said[0]


@pytest.mark.spark
def test_executors_without_our_package(tmp_path: Path) -> None:
    # A Python of the same version that has nothing installed.
    venv.create(tmp_path / "bare", symlinks=True)
    said = opening(tmp_path / "here", "local[1]", PYSPARK_PYTHON=str(tmp_path / "bare" / "bin" / "python"))
    assert len(said) == 2
    assert "cleanroom_pipelines" in said[0]


@pytest.mark.spark
def test_a_cluster_without_executors(tmp_path: Path) -> None:
    with standalone_cluster(tmp_path / "cluster", workers=0) as url:
        said = opening(tmp_path / "here", url, seconds=5)
    assert len(said) == 2
    assert "did not start an executor" in said[0]


@pytest.mark.spark
def test_without_pyspark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_sessions, "find_spec", lambda _: None)
    with (
        pytest.raises(ConfigurationError, match=r"cleanroom-pipelines\[spark\]"),
        open_configured_engine(EngineSettings(url="local[1]")),
    ):
        pass


@pytest.mark.spark
@pytest.mark.skipif(GIVEN_URL in os.environ, reason="this is the process that the test starts")
def test_on_a_standalone_cluster(tmp_path: Path) -> None:
    with standalone_cluster(tmp_path) as url:
        command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-k", "given", __file__]
        environment = os.environ | {GIVEN_URL: url}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout[-5_000:]
        logs = [*tmp_path.rglob("stderr"), *tmp_path.rglob("stdout"), *tmp_path.glob("*.log")]
        assert logs
        assert not [log for log in logs if CANARY in log.read_text(errors="replace")], "no row in a log"
    assert java_processes_of(tmp_path) == []
