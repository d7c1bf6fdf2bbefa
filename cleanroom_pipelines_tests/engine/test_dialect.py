"""Translating statements from DuckDB's dialect to Spark's.

Contract: values keep their positions, names show what is read, created and dropped, and errors for
untranslatable statements do not quote them. contract/test_engines checks the meaning of translated statements on
both engines.
"""

import pytest
import sqlglot

from cleanroom_pipelines.engine.dialect import Statement, to_spark
from cleanroom_pipelines.engine.sql import stable_hash_sql
from cleanroom_pipelines.errors import EngineError

from ..offenders import offenders

CANARY = "kanarienvogel"


def test_values_keep_their_places() -> None:
    statements = [
        ("SELECT ? AS a, ? AS b", "SELECT :p1 AS a, :p2 AS b", 2),
        ("SELECT $2 AS a, $1 AS b, $2 AS c", "SELECT :p2 AS a, :p1 AS b, :p2 AS c", 2),
        ("SELECT '?' AS a, ? AS b -- why?", "SELECT '?' AS a, :p1 AS b", 1),
        ("/* $9 */ SELECT '$1' AS a", "SELECT '$1' AS a", 0),
        # The step comes first in the text, and not in every order of walking the tree.
        (
            "WITH s AS (SELECT ? AS a) SELECT ? AS b FROM s WHERE a = ?",
            "WITH s AS (SELECT :p1 AS a) SELECT :p2 AS b FROM s WHERE a = :p3",
            3,
        ),
    ]

    def check(sql: str, carried: str, n_parameters: int) -> None:
        assert to_spark(sql) == Statement(carried, n_parameters=n_parameters, reads=to_spark(sql).reads)

    assert offenders(statements, check) == []


def test_what_is_made() -> None:
    statements = [
        ("-- one row\nCREATE OR REPLACE TEMP VIEW v AS SELECT 1 AS a", "v", False),
        ("CREATE TEMP TABLE t AS SELECT 1 AS a", "t", True),
        ('CREATE OR REPLACE TEMPORARY TABLE "a b" AS WITH s AS (SELECT 1 AS a) SELECT a FROM s', "a b", True),
        ("SELECT 1 AS a", None, False),
    ]

    def check(sql: str, name: str | None, is_table: bool) -> None:
        statement = to_spark(sql)
        assert (statement.name, statement.is_table, statement.drops) == (name, is_table, "")
        assert statement.sql.endswith(("SELECT 1 AS a", "SELECT a FROM s"))

    assert offenders(statements, check) == []


def test_what_is_dropped() -> None:
    statements = ["DROP VIEW v", "DROP TABLE IF EXISTS v", "DROP VIEW IF EXISTS v"]
    assert [sql for sql in statements if to_spark(sql).drops != "v"] == []


def test_what_is_read() -> None:
    sql = 'CREATE TEMP VIEW v AS SELECT * FROM a SEMI JOIN B ON a.x = b.x WHERE x IN (SELECT x FROM "c d")'
    assert to_spark(sql).reads == {"a", "b", "c d"}


def test_what_is_rejected() -> None:
    statements = [
        f"DELETE FROM t WHERE a = '{CANARY}'",
        f"INSERT INTO t VALUES ('{CANARY}')",
        f"COPY (SELECT '{CANARY}') TO 'x'",
        f"SELECT '{CANARY}",
        f"SELECT FROM WHERE '{CANARY}'",
        f"SET x = '{CANARY}'",
        f"CREATE TEMP TABLE t ({CANARY} INTEGER)",
        f"SELECT 1; SELECT '{CANARY}'",
    ]

    def check(sql: str) -> None:
        with pytest.raises(EngineError) as caught:
            to_spark(sql)
        assert CANARY not in f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"

    assert offenders(statements, check) == []


def test_what_is_carried_is_sql_of_spark() -> None:
    sql = f"""SELECT {stable_hash_sql("user_id")} AS h, CAST(CAST(x AS HUGEINT) AS VARCHAR) AS s,
        CAST(TRY_CAST(TRY_CAST(y AS BIGINT) AS VARCHAR) AS VARCHAR) AS t, TRY_CAST(floor(epoch(at)) AS BIGINT) AS e
        FROM users"""
    carried = to_spark(sql).sql
    assert sqlglot.parse_one(carried, read="spark")
    # The inner of two, too.
    assert "HUGEINT" not in carried
    assert "INT128" not in carried
    assert carried.count("DECIMAL(38, 0)") >= 2
