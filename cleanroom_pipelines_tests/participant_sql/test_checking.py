"""The check of a query.

Contract: one SELECT with one output column over tables named database.table, with allowed SQL only; all else is
rejected with SQL_NOT_ALLOWED, in bounded time, with a message that does not quote the query, and without a log
line. In the rendered SQL, tables and CTEs are renamed, and participant text is always quoted.
"""

import logging
import pickle
import re

import pytest

from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.participant_sql.checking import (
    MAX_CHARACTERS,
    MAX_NESTING,
    MAX_TABLES,
    MAX_TOKENS,
    CheckedQuery,
    check_query,
)

from ..cases import assert_each
from ..efforts import effort

CANARY = "kanarienvogel"
# Of the longest query that is honest. The check's worst takes twice as much as that.
MOST_TIMES = 10


def refusal(text: str, **parameters: str) -> SeedError:
    with pytest.raises(SeedError) as caught:
        check_query(text, parameters=parameters)
    error = caught.value
    assert error.status_code is StatusCode.SQL_NOT_ALLOWED
    assert error.remedy
    # neither a cause nor a context that quotes the query
    told = [error, error.__cause__, error.__context__]
    assert not any(CANARY in f"{exception} {vars(exception)}".lower() for exception in told if exception)
    return error


# --- What runs ---


def test_tables_are_renamed_and_names_quoted() -> None:
    checked = check_query("select O.id from Shop.Orders o join shop.users using (id) where shop = 'it''s'")
    assert checked.tables == (("Shop", "Orders"), ("shop", "users"))
    assert checked.sql == (
        'SELECT "O"."id" FROM "table_1" AS "o" JOIN "table_2" AS "users" USING ("id") WHERE "shop" = \'it\'\'s\''
    )


def test_a_table_named_twice_is_one_table() -> None:
    checked = check_query("SELECT a.id FROM shop.users a JOIN shop.users AS b ON a.id = b.id")
    assert checked.tables == (("shop", "users"),)


def test_names_that_tables_can_have() -> None:
    def is_a_name(name: str) -> None:
        checked = check_query(f'SELECT id FROM db."{name}"')
        assert checked.tables == (("db", name),)
        assert f'FROM "table_1" AS "{name}"' in checked.sql

    assert_each(is_a_name, ["ab-c", "a b", "1", "_", "select", "table_2", "cte_1", "duckdb_settings"])


def test_comments_go() -> None:
    checked = check_query(f"SELECT /* {CANARY} */ id -- {CANARY}\nFROM /*+ {CANARY} */ a.b")
    assert checked.sql == 'SELECT "id" FROM "table_1" AS "b"'


def test_what_looks_like_an_end_of_a_text_is_text() -> None:
    def is_text(quoted: str, text: str) -> None:
        assert check_query(f"SELECT x FROM a.b WHERE y = {quoted}").sql.endswith(f"WHERE \"y\" = '{text}'")

    assert_each(
        is_text,
        [
            (r'"\" OR reflect(1) --"', '" OR reflect(1) --'),
            (r"'\' OR reflect(1) --'", "'' OR reflect(1) --"),
            ("'`' ", "`"),
            ("'$' ", "$"),
            ('"a\'b"', "a''b"),
            ("'a''b'", "a''b"),
            ("'/*'", "/*"),
            (r"'\\'", "\\"),
            ("'${x}'", "${x}"),
            ("':x @y'", ":x @y"),
        ],
    )


def test_closing_semicolon_is_not_a_second_statement() -> None:
    assert check_query("SELECT id FROM a.b ;\n").sql == 'SELECT "id" FROM "table_1" AS "b"'


def test_it_can_be_sent_to_another_process() -> None:
    checked = check_query("SELECT id FROM a.b WHERE c = :value", parameters={"value": CANARY})
    assert pickle.loads(pickle.dumps(checked)) == checked
    assert CANARY not in repr(checked)


# --- CTEs ---


def test_a_cte_shadows_no_table() -> None:
    checked = check_query(
        "WITH users AS (SELECT id FROM shop.users) SELECT id FROM users JOIN shop.users USING (id)"
    )
    assert checked.tables == (("shop", "users"),)
    assert checked.sql == (
        'WITH "cte_1" AS (SELECT "id" FROM "table_1" AS "users") '
        'SELECT "id" FROM "cte_1" AS "users" JOIN "table_1" AS "users" USING ("id")'
    )


def test_the_nearest_cte_is_meant() -> None:
    checked = check_query(
        "WITH x AS (SELECT id FROM a.outside) "
        "SELECT id FROM (WITH x AS (SELECT id FROM a.inside) SELECT id FROM x) AS s WHERE id IN (SELECT id FROM X)"
    )
    inner, outer = re.findall(r'FROM "(cte_\d)" AS "[xX]"', checked.sql)
    assert inner != outer
    assert f'"{outer}" AS (SELECT "id" FROM "table_1" AS "outside")' in checked.sql
    assert f'"{inner}" AS (SELECT "id" FROM "table_2" AS "inside")' in checked.sql


def test_a_cte_named_like_a_view_of_ours_is_not_a_table() -> None:
    checked = check_query("WITH table_1 AS (SELECT 1 AS id) SELECT table_1.id FROM table_1, a.b")
    assert '"cte_1" AS (SELECT 1 AS "id")' in checked.sql
    assert 'FROM "cte_1" AS "table_1" CROSS JOIN "table_1" AS "b"' in checked.sql


UNSEEN = [
    "WITH x AS (SELECT id FROM x) SELECT id FROM x, a.b",
    "WITH x AS (SELECT id FROM y), y AS (SELECT id FROM a.b) SELECT id FROM x",
    "SELECT id FROM (WITH x AS (SELECT id FROM a.b) SELECT id FROM x) JOIN x USING (id)",
    "SELECT id FROM a.b WHERE id IN (WITH x AS (SELECT 1) SELECT * FROM x) AND EXISTS (SELECT 1 FROM x)",
    "WITH x AS (SELECT id FROM a.b), X AS (SELECT 1) SELECT id FROM x",
]


def test_a_cte_is_seen_only_where_it_is_defined() -> None:
    def is_rejected(text: str) -> None:
        refusal(text)

    assert_each(is_rejected, UNSEEN)


# --- Parameters ---


def test_parameters_are_bound() -> None:
    checked = check_query(
        "SELECT id FROM a.b WHERE x >= :from AND y < CAST(:2 AS INTEGER) AND x <= :to OR z IN (:from, :select)",
        parameters={"to": "3", "2": "2", "from": "'; DROP TABLE b", "select": "4"},
    )
    assert checked.parameters == ("'; DROP TABLE b", "2", "3", "4")
    assert checked.sql.endswith(
        'WHERE "x" >= $1 AND "y" < CAST(SPARK_WHOLE($2) AS INT) AND "x" <= $3 OR "z" IN ($1, $4)'
    )


def test_a_parameter_in_a_text_is_text() -> None:
    assert check_query("SELECT id FROM a.b WHERE x = ':name'").parameters == ()


WRONG_PARAMETERS = [
    ("SELECT id FROM a.b WHERE x = :kanarienvogel", {}),
    ("SELECT id FROM a.b", {"kanarienvogel": "1"}),
    ("SELECT id FROM a.b WHERE x = :name", {"Name": "kanarienvogel"}),
    ("SELECT id FROM a.b WHERE x = :name", {"name": "kanarien\x00vogel"}),
    ("SELECT id FROM a.b WHERE x = :name", {"name": "\ud800"}),
    ("SELECT id FROM :kanarienvogel", {"kanarienvogel": "a.b"}),
    ("SELECT id FROM a.:kanarienvogel", {"kanarienvogel": "b"}),
    ("SELECT id AS :kanarienvogel FROM a.b", {"kanarienvogel": "b"}),
]


def test_parameters_that_are_rejected() -> None:
    def is_rejected(text: str, parameters: dict[str, str]) -> None:
        refusal(text, **parameters)

    assert_each(is_rejected, WRONG_PARAMETERS)


NO_PARAMETERS = [
    "$1",
    "$name",
    "?",
    "@name",
    ": name",
    ":'name'",
    ':"name"',
    ":1.5",
    "$$name$$",
    ":",
    "x[1:2]",
    "x::",
]


def test_what_is_not_a_parameter() -> None:
    def is_rejected(value: str) -> None:
        refusal(f"SELECT id FROM a.b WHERE x = {value}", name="1")

    assert_each(is_rejected, NO_PARAMETERS)


# --- What is refused ---


REJECTED = [
    # files, in all the ways DuckDB reads them
    "SELECT * FROM read_csv('kanarienvogel')",
    "SELECT a FROM read_csv('kanarienvogel')",
    "SELECT a FROM read_csv_auto('kanarienvogel') AS t(a)",
    "SELECT content FROM read_text('kanarienvogel')",
    "SELECT content FROM read_blob('kanarienvogel')",
    "SELECT a FROM read_parquet(['kanarienvogel'])",
    "SELECT a FROM parquet_scan('kanarienvogel')",
    "SELECT a FROM read_json_auto('kanarienvogel')",
    "SELECT a FROM read_ndjson_objects('kanarienvogel')",
    "SELECT a FROM sniff_csv('kanarienvogel')",
    "SELECT file FROM glob('/*kanarienvogel')",
    "SELECT a FROM 'kanarienvogel.csv'",
    "SELECT a FROM '/kanarienvogel/*.parquet'",
    'SELECT a FROM "kanarienvogel.csv"',
    "SELECT a FROM kanarienvogel.csv.gz",
    "SELECT a FROM 's3://kanarienvogel/x.parquet'",
    'SELECT a FROM a."../kanarienvogel"',
    'SELECT a FROM ".."."kanarienvogel"',
    'SELECT a FROM "kanarienvogel/b".c',
    'SELECT a FROM b."kanarienvogel.csv"',
    'SELECT a FROM "/"."kanarienvogel"',
    'SELECT a FROM b.""',
    "SELECT a FROM 'kanarienvogel.db'.'c.d'",
    'SELECT a FROM b."kanarienvogel"""',
    'SELECT a FROM b."kanarien\nvogel"',
    'SELECT a FROM b."kanarienvögel"',
    f'SELECT a FROM b."{"kanarienvogel" * 10}"',
    'SELECT a FROM b."kanarienvogel%2F.."',
    'SELECT a FROM b."kanarienvogel\\.."',
    # names
    "SELECT a FROM kanarienvogel",
    "SELECT a FROM main.kanarienvogel.b",
    "SELECT a FROM kanarienvogel.a.b.c",
    "SELECT a FROM b.c, kanarienvogel",
    "SELECT a FROM b.c WHERE a IN (SELECT x FROM kanarienvogel)",
    "SELECT b.c.kanarienvogel FROM b.c",
    # what the engine knows of itself
    "SELECT current_setting('kanarienvogel') FROM a.b",
    "SELECT getenv('KANARIENVOGEL') FROM a.b",
    "SELECT getvariable('kanarienvogel') FROM a.b",
    "SELECT value FROM duckdb_settings()",
    "SELECT sql FROM duckdb_views()",
    "SELECT a FROM pragma_table_info('kanarienvogel')",
    "SELECT a FROM query('SELECT kanarienvogel')",
    "SELECT a FROM query_table('kanarienvogel')",
    "SELECT name FROM sqlite_master",
    "SELECT a FROM sql_auto_complete('kanarienvogel')",
    "SELECT version() FROM a.b",
    "SELECT current_user FROM a.b",
    "SELECT session_user FROM a.b",
    "SELECT current_database() FROM a.b",
    "SELECT nextval('kanarienvogel') FROM a.b",
    "SELECT txid_current() FROM a.b",
    "SELECT random() FROM a.b",
    "SELECT uuid() FROM a.b",
    "SELECT hash(kanarienvogel) FROM a.b",
    "SELECT error('kanarienvogel') FROM a.b",
    "SELECT kanarienvogel(x) FROM a.b",
    'SELECT "kanarienvogel"(x) FROM a.b',
    "SELECT main.kanarienvogel(x) FROM a.b",
    "SELECT x.kanarienvogel() FROM a.b",
    "SELECT sleep_ms(100000) FROM a.b",
    # out of nothing
    "SELECT range FROM range(100000000000)",
    "SELECT generate_series FROM generate_series(1, 100000000000)",
    "SELECT unnest(range(100000000000)) FROM a.b",
    "SELECT unnest([1, 2]) FROM a.b",
    "SELECT x FROM a.b, unnest(range(100000000000)) AS t(x)",
    "SELECT repeat('x', 1000000000) FROM a.b",
    "SELECT lpad(x, 1000000000, 'y') FROM a.b",
    "SELECT rpad(x, n, 'y') FROM a.b",
    f"SELECT rpad(x, {'9' * 5_000}, 'y') FROM a.b",
    f"SELECT sha2(x, {'9' * 5_000}) FROM a.b",
    f"SELECT x FROM a.b LIMIT {'9' * 5_000}",
    "SELECT x FROM repeat('y', 1000000000)",
    "SELECT x FROM repeat_row(1, num_rows=100000000)",
    "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT n FROM x, a.b",
    "WITH RECURSIVE x AS (SELECT id FROM a.b) SELECT id FROM x",
    "WITH x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x) SELECT n FROM x, a.b",
    "SELECT id FROM a.b GROUP BY CUBE (c, d, e, f, g, h, i, j, k)",
    "SELECT id FROM a.b GROUP BY ROLLUP (c)",
    "SELECT id FROM a.b GROUP BY GROUPING SETS ((c), (d))",
    "SELECT regexp_matches(x, kanarienvogel) FROM a.b",
    f"SELECT regexp_matches(x, '{'(a|aa)+' * 100}') FROM a.b",
    "SELECT x SIMILAR TO y FROM a.b",
    "SELECT strptime(x, kanarienvogel) FROM a.b",
    "SELECT string_agg(x, ',') FROM a.b",
    "SELECT list(x) FROM a.b",
    "SELECT array_agg(x) FROM a.b",
    "SELECT histogram(x) FROM a.b",
    # lambdas, lists, structs, JSON
    "SELECT list_transform(x, y -> y + kanarienvogel) FROM a.b",
    "SELECT list_filter(x, lambda y: y) FROM a.b",
    "SELECT [y FOR y IN x] FROM a.b",
    "SELECT [1, 2][1] FROM a.b",
    "SELECT x[1] FROM a.b",
    "SELECT {'kanarienvogel': x} FROM a.b",
    "SELECT MAP {'kanarienvogel': x} FROM a.b",
    "SELECT struct_pack(kanarienvogel := x) FROM a.b",
    "SELECT row(x, y) FROM a.b",
    "SELECT x -> 'kanarienvogel' FROM a.b",
    "SELECT x ->> '$.kanarienvogel[[[' FROM a.b",
    "SELECT json_extract(x, 'kanarienvogel') FROM a.b",
    "SELECT CAST(x AS JSON) FROM a.b",
    "SELECT CAST(x AS kanarienvogel) FROM a.b",
    "SELECT CAST(x AS INTEGER[]) FROM a.b",
    "SELECT CAST(x AS STRUCT(kanarienvogel INTEGER)) FROM a.b",
    "SELECT CAST(x AS ENUM('kanarienvogel')) FROM a.b",
    "SELECT CAST(x AS BLOB) FROM a.b",
    "SELECT x::regclass FROM a.b",
    # DuckDB's and others' own clauses
    "SELECT x INTO kanarienvogel FROM a.b",
    "SELECT x FROM a.b FOR UPDATE",
    "SELECT x FROM a.b FOR SHARE OF kanarienvogel",
    "SELECT x FROM a.b TABLESAMPLE 10 PERCENT",
    "SELECT x FROM a.b USING SAMPLE 3",
    "SELECT x FROM a.b PIVOT (sum(x) FOR kanarienvogel IN (1, 2))",
    "SELECT x FROM a.b UNPIVOT (x FOR y IN (kanarienvogel))",
    "PIVOT a.b ON kanarienvogel USING sum(x)",
    "SELECT x FROM a.b ASOF JOIN c.d ON a.b >= c.d",
    "SELECT x FROM a.b, LATERAL (SELECT 1) AS l",
    "SELECT x FROM a.b AT (VERSION => 1)",
    "SELECT x FROM ONLY a.b",
    "SELECT x FROM a.b WITH ORDINALITY",
    "SELECT DISTINCT ON (kanarienvogel) x FROM a.b",
    "SELECT x FROM a.b ORDER BY ALL",
    "SELECT x FROM a.b LIMIT 10 PERCENT",
    "SELECT x FROM a.b LIMIT 10%",
    "SELECT x FROM a.b FETCH FIRST 3 ROWS WITH TIES",
    "SELECT x FROM a.b UNION ALL BY NAME SELECT y FROM c.d",
    "SELECT x COLLATE kanarienvogel FROM a.b",
    "SELECT x AT TIME ZONE 'kanarienvogel' FROM a.b",
    "SELECT x GLOB 'kanarienvogel' FROM a.b",
    "SELECT x & 1 FROM a.b",
    "SELECT #1 FROM a.b",
    "SELECT kanarienvogel: x FROM a.b",
    "SELECT x FROM kanarienvogel: a.b",
    "SELECT COLUMNS('kanarienvogel') FROM a.b",
    "SELECT * EXCLUDE (kanarienvogel) FROM a.b",
    "SELECT x FROM (SELECT * REPLACE (1 AS kanarienvogel) FROM a.b)",
    "SELECT x FROM (SELECT * RENAME (x AS kanarienvogel) FROM a.b)",
    "SELECT count(DISTINCT x, kanarienvogel) FROM a.b",
    "SELECT max(x, 3) FROM a.b",
    "SELECT sum(x ORDER BY kanarienvogel) FROM a.b",
    "SELECT x BETWEEN SYMMETRIC 1 AND 2 FROM a.b",
    "SELECT e'\\x6b' FROM a.b",
    "SELECT x'6b' FROM a.b",
    "SELECT b'01' FROM a.b",
    "SELECT $$kanarienvogel$$ FROM a.b",
    "SELECT $kanarienvogel$x$kanarienvogel$ FROM a.b",
    "SELECT sha2(x, 512) FROM a.b",
    "SELECT extract(kanarienvogel FROM x) FROM a.b",
    "SELECT INTERVAL '1' kanarienvogel FROM a.b",
    # files and tables of Spark's
    "SELECT x FROM parquet.`/kanarienvogel`",
    "SELECT x FROM csv.`../kanarienvogel`",
    "SELECT x FROM delta.`s3://kanarienvogel/x`",
    "SELECT x FROM text.`file:///kanarienvogel`",
    "SELECT x FROM `a`.`b/../kanarienvogel`",
    "SELECT x FROM `../kanarienvogel`.b",
    "SELECT x FROM `a``b`.kanarienvogel",
    "SELECT x FROM `a.b`.kanarienvogel",
    "SELECT x FROM `kanarienvogel.csv`",
    "SELECT x FROM `a`.`b`.`kanarienvogel`",
    'SELECT x FROM a.`kanarienvogel"`',
    "SELECT x FROM a.`kanarien'vogel`",
    "SELECT x FROM a.``",
    "SELECT x FROM a.`kanarienvogel",
    "SELECT x FROM read_files('/kanarienvogel')",
    "SELECT x FROM READ_FILES('/kanarienvogel', format => 'csv')",
    "SELECT x FROM TABLE(kanarienvogel())",
    "SELECT x FROM table_changes('kanarienvogel', 1)",
    "SELECT x FROM range(10)",
    "SELECT id FROM a.b, LATERAL explode(kanarienvogel)",
    "SELECT x FROM a.b LATERAL VIEW explode(kanarienvogel) t AS x",
    "SELECT x FROM a.b LATERAL VIEW OUTER posexplode(array(1, 2)) t AS p, x",
    "SELECT explode(array(1, 2)) FROM a.b",
    "SELECT stack(2, x, kanarienvogel) FROM a.b",
    "SELECT sequence(1, 1000000000) FROM a.b",
    "SELECT x FROM a.b TIMESTAMP AS OF '2024-01-01'",
    "SELECT x FROM a.b VERSION AS OF 1",
    "SELECT x FROM a.b FOR SYSTEM_TIME AS OF 'kanarienvogel'",
    # what Spark runs for a query
    "SELECT TRANSFORM(x) USING 'cat /kanarienvogel' AS (y) FROM a.b",
    "SELECT TRANSFORM(x) USING 'sh -c kanarienvogel' FROM a.b",
    "FROM a.b MAP x USING 'kanarienvogel' AS y",
    "FROM a.b REDUCE x USING 'kanarienvogel' AS y",
    "SELECT reflect('java.lang.Runtime', 'exec', 'kanarienvogel') FROM a.b",
    "SELECT java_method('java.lang.System', 'getenv', 'KANARIENVOGEL') FROM a.b",
    "SELECT try_reflect('java.lang.System', 'getProperty', 'kanarienvogel') FROM a.b",
    "SELECT `reflect`('java.lang.System', 'exit', '0') FROM a.b",
    "SELECT /*+ kanarienvogel */ reflect('a', 'b') FROM a.b",
    "SELECT re/**/flect('kanarienvogel', 'b') FROM a.b",
    "SELECT raise_error('kanarienvogel') FROM a.b",
    "SELECT assert_true(x = kanarienvogel) FROM a.b",
    "SELECT ai_query('kanarienvogel', x) FROM a.b",
    "SELECT http_request('kanarienvogel') FROM a.b",
    # what Spark knows of itself
    "SELECT input_file_name() FROM a.b",
    "SELECT input_file_block_start() FROM a.b",
    "SELECT _metadata.file_path.kanarienvogel FROM a.b",
    "SELECT current_user() FROM a.b",
    "SELECT session_user() FROM a.b",
    "SELECT user() FROM a.b",
    "SELECT current_catalog() FROM a.b",
    "SELECT current_schema() FROM a.b",
    "SELECT spark_partition_id() FROM a.b",
    "SELECT monotonically_increasing_id() FROM a.b",
    "SELECT secret('kanarienvogel', 'x') FROM a.b",
    "SELECT rand() FROM a.b",
    "SELECT shuffle(x) FROM a.b",
    # the macros of the engine, which are ours alone
    "SELECT spark_text(kanarienvogel) FROM a.b",
    "SELECT SPARK_WHOLE(x) FROM a.b",
    "SELECT `spark_shifted_by_type`(x, x, y) FROM a.b",
    # variables and substitution
    "SELECT ${kanarienvogel} FROM a.b",
    "SELECT x FROM ${kanarienvogel}",
    "SELECT x FROM a.${hiveconf:kanarienvogel}",
    "SELECT x FROM a.b WHERE y = ${env:KANARIENVOGEL}",
    "SELECT @@kanarienvogel FROM a.b",
    "SELECT IDENTIFIER('kanarienvogel') FROM a.b",
    "SELECT x FROM IDENTIFIER('a.kanarienvogel')",
    "SELECT x FROM IDENTIFIER(:a)",
    "DECLARE kanarienvogel = 1",
    "SET VAR kanarienvogel = 1",
    "EXECUTE IMMEDIATE 'SELECT kanarienvogel'",
    "BEGIN SELECT x FROM a.b; END",
    "ADD JAR kanarienvogel",
    "CACHE TABLE kanarienvogel AS SELECT x FROM a.b",
    "REFRESH TABLE a.kanarienvogel",
    "MSCK REPAIR TABLE kanarienvogel",
    "INSERT OVERWRITE DIRECTORY '/kanarienvogel' SELECT x FROM a.b",
    "CREATE TEMPORARY VIEW kanarienvogel USING csv OPTIONS (path '/x')",
    # quotes, escapes and comments
    "SELECT x FROM a.b WHERE y = 'it\\'s kanarienvogel",
    "SELECT x FROM a.b WHERE y = '\\' OR reflect('kanarienvogel') --'",
    "SELECT x FROM a.b WHERE y = '\\0'",
    "SELECT x FROM a.b WHERE y = '\\u0000'",
    "SELECT x FROM a.b WHERE y = '\\ud800'x",
    "SELECT x FROM a.b WHERE y = r'kanarienvogel'",
    "SELECT x FROM a.b WHERE y = X'6B'",
    "SELECT x FROM a.b WHERE y = 'a' 'kanarienvogel'",
    "SELECT x FROM a.b /* /* */ kanarienvogel",
    "SELECT x FROM a.b /* /* */ */ kanarienvogel */",
    "SELECT x FROM a.b -- \\\nkanarienvogel, c.d",
    'SELECT "kanarienvogel" FROM a.b',
    'SELECT x FROM a.b UNION SELECT "kanarienvogel" FROM a.b',
    'SELECT u."kanarienvogel" FROM a.b u',
    # intervals of which a part would be lost
    "SELECT d + INTERVAL '- 1 day' FROM a.b",
    "SELECT d + INTERVAL '1 day kanarienvogel;' FROM a.b",
    "SELECT d + INTERVAL '1 day 2' FROM a.b",
    "SELECT d - INTERVAL 1 DAY 2 HOURS FROM a.b",
    "SELECT date_add(d, INTERVAL 1 YEAR 2 MONTHS) FROM a.b",
    "SELECT date_format(d, 'y') FROM a.b",
    "SELECT to_timestamp(x, 'HH:mm') FROM a.b",
    # columns that could be functions
    "SELECT user FROM a.b, c.d",
    "SELECT (SELECT `CURRENT_SCHEMA`) FROM a.b",
    "SELECT x FROM a.b UNION SELECT y FROM c.d ORDER BY session_user",
    "SELECT coalesce(" + ",".join(["kanarienvogel"] * 256) + ") FROM a.b",
    "SELECT CAST(x AS DECIMAL(5, (SELECT 1))) FROM a.b",
    # clauses of Spark's
    "SELECT x FROM a.b TABLESAMPLE (10 PERCENT)",
    "SELECT x FROM a.b TABLESAMPLE (BUCKET 1 OUT OF 10 ON kanarienvogel)",
    "SELECT x FROM a.b TABLESAMPLE (3 ROWS) REPEATABLE (1)",
    "SELECT x FROM a.b DISTRIBUTE BY kanarienvogel",
    "SELECT x FROM a.b CLUSTER BY kanarienvogel",
    "SELECT x FROM a.b SORT BY kanarienvogel",
    "SELECT x FROM a.b GROUP BY x WITH CUBE",
    "SELECT x FROM a.b GROUP BY x, y GROUPING SETS ((x), (y))",
    "SELECT * FROM (SELECT x, y FROM a.b) PIVOT (sum(x) FOR y IN (1, kanarienvogel))",
    "SELECT v FROM a.b UNPIVOT (v FOR n IN (kanarienvogel))",
    "FROM a.b |> SELECT kanarienvogel",
    "SELECT x FROM a.b |> WHERE kanarienvogel",
    "SELECT x FROM a.b RIGHT ANTI JOIN c.d ON kanarienvogel",
    "SELECT transform(x, y -> y + kanarienvogel) FROM a.b",
    "SELECT aggregate(x, 0, (acc, y) -> acc + y) FROM a.b",
    "SELECT x.kanarienvogel.y.z FROM a.b",
    "SELECT x[kanarienvogel] FROM a.b",
    "SELECT from_json(x, 'kanarienvogel STRING') FROM a.b",
    "SELECT x:kanarienvogel FROM a.b",
    "SELECT named_struct('kanarienvogel', x) FROM a.b",
    "SELECT CAST(x AS BINARY) FROM a.b",
    "SELECT CAST(x AS ARRAY<STRING>) FROM a.b",
    "SELECT CAST(x AS MAP<STRING, INT>) FROM a.b",
    "SELECT CAST(x AS VARIANT) FROM a.b",
    "SELECT CAST(x AS INTERVAL DAY) FROM a.b",
    # without an exact meaning here
    "SELECT x / 2.0 FROM a.b",
    "SELECT x // 2 FROM a.b",
    "SELECT CAST(x AS TIME) FROM a.b",
    "SELECT percentile_approx(x, 0.5) FROM a.b",
    "SELECT percentile(x, kanarienvogel) FROM a.b",
    "SELECT percentile(x, 2) FROM a.b",
    "SELECT hash(x), xxhash64(kanarienvogel) FROM a.b",
    "SELECT collect_list(x) FROM a.b",
    "SELECT collect_set(kanarienvogel) FROM a.b",
    "SELECT first(x) FROM a.b",
    "SELECT any_value(x) FROM a.b",
    "SELECT extract(SECOND FROM x) FROM a.b",
    "SELECT date_format(x, kanarienvogel) FROM a.b",
    "SELECT date_format(x, 'QQQ kanarienvogel') FROM a.b",
    "SELECT date_trunc('kanarienvogel', x) FROM a.b",
    "SELECT datediff(MONTH, x, y) FROM a.b",
    "SELECT datediff(kanarienvogel, x, y) FROM a.b",
    "SELECT x + INTERVAL '1-2' YEAR TO MONTH FROM a.b",
    "SELECT x + INTERVAL '1 month 2 hours' FROM a.b",
    "SELECT INTERVAL '1' DAY * 3 FROM a.b",
    "SELECT x RLIKE '(?=kanarienvogel)' FROM a.b",
    "SELECT x RLIKE '(a+)+\\\\1' FROM a.b",
    "SELECT x RLIKE '[[:alpha:]]' FROM a.b",
    "SELECT x RLIKE '[a-z&&[^kanarienvogel]]' FROM a.b",
    "SELECT x RLIKE '(?i)kanarienvogel' FROM a.b",
    "SELECT regexp_extract(x, 'kanarienvogel') FROM a.b",
    "SELECT regexp_replace(x, 'a$', 'b') FROM a.b",
    "SELECT regexp_replace(x, 'a', kanarienvogel) FROM a.b",
    "SELECT regexp_replace(x, 'a', '$10') FROM a.b",
    "SELECT split(x, '[,;]') FROM a.b",
    "SELECT x LIKE ANY ('a', 'kanarienvogel') FROM a.b",
    "SELECT x LIKE ALL ('a', 'kanarienvogel') FROM a.b",
    "SELECT lower(DISTINCT x) FROM a.b",
    "SELECT lower(x) IGNORE NULLS FROM a.b",
    "SELECT sum(x, y) FROM a.b",
    "SELECT round(x, 40) FROM a.b",
    "SELECT round(x, -1) FROM a.b",
    "SELECT lpad(x, 1001) FROM a.b",
    "SELECT repeat(x, 2) FROM a.b",
    "SELECT space(1000000000) FROM a.b",
    "SELECT to_date(x, 'yy kanarienvogel') FROM a.b",
    # no SELECT
    "",
    " ",
    "-- kanarienvogel",
    ";",
    "kanarienvogel",
    "FROM a.b",
    "FROM a.b SELECT x",
    "TABLE a.b",
    "VALUES (1)",
    "PRAGMA kanarienvogel",
    "PRAGMA database_list",
    "ATTACH 'kanarienvogel'",
    "DETACH kanarienvogel",
    "USE kanarienvogel",
    "COPY a.b TO 'kanarienvogel'",
    "COPY (SELECT x FROM a.b) TO 'kanarienvogel'",
    "EXPORT DATABASE 'kanarienvogel'",
    "IMPORT DATABASE 'kanarienvogel'",
    "INSTALL kanarienvogel",
    "LOAD 'kanarienvogel'",
    "SET kanarienvogel = 1",
    "RESET kanarienvogel",
    "CALL kanarienvogel()",
    "CREATE TABLE kanarienvogel AS SELECT x FROM a.b",
    "CREATE MACRO kanarienvogel(x) AS x",
    "CREATE SECRET kanarienvogel (TYPE s3)",
    "INSERT INTO a.b VALUES (1)",
    "UPDATE a.b SET x = 1",
    "DELETE FROM a.b",
    "DROP TABLE a.b",
    "DESCRIBE a.b",
    "SUMMARIZE a.b",
    "EXPLAIN SELECT x FROM a.b",
    "SHOW TABLES",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "PREPARE kanarienvogel AS SELECT 1",
    "EXECUTE kanarienvogel",
    "(INSERT INTO a.b VALUES (1))",
    "(PRAGMA kanarienvogel)",
    "WITH x AS (INSERT INTO a.b VALUES (1) RETURNING y) SELECT y FROM x",
    "WITH x AS (DELETE FROM a.b RETURNING y) SELECT y FROM x",
    "WITH x AS (COPY a.b TO 'kanarienvogel') SELECT 1 FROM x, a.b",
    "SELECT x FROM (DESCRIBE a.b)",
    "SELECT x FROM (SHOW kanarienvogel)",
    "SELECT x FROM (FROM a.b) UNION (VALUES (1))",
    # several
    "SELECT x FROM a.b; SELECT y FROM a.b",
    "SELECT x FROM a.b; DROP TABLE kanarienvogel",
    "SELECT x FROM a.b;;",
    "; SELECT x FROM a.b",
    "SELECT x FROM a.b; -- kanarienvogel\nPRAGMA kanarienvogel",
    # columns
    "SELECT x, kanarienvogel FROM a.b",
    "SELECT * FROM a.b",
    "SELECT b.* FROM a.b",
    "SELECT x FROM a.b UNION SELECT y, kanarienvogel FROM a.b",
    "(SELECT x, y FROM a.b)",
    "WITH c AS (SELECT x FROM a.b) SELECT * FROM c",
    "SELECT FROM a.b",
    "SELECT (*) FROM a.b",
    "SELECT x FROM a.b WHERE * = 1",
    "SELECT min(*) FROM a.b",
    "SELECT count(b.*) FROM a.b",
    # no table
    "SELECT 1",
    "SELECT x FROM (VALUES (1)) AS t(x)",
    "WITH c AS (SELECT 1 AS x) SELECT x FROM c",
    # no SQL
    "SELECT 'kanarienvogel FROM a.b",
    'SELECT "kanarienvogel FROM a.b',
    "SELECT x FROM a.b /* kanarienvogel",
    "SELECT x FROM a.b WHERE (kanarienvogel",
    "SELECT x FROM a.b WHERE kanarienvogel)",
    "SELECT x x x FROM a.b",
    "SELECT x FROM a.b kanarienvogel vogel",
    "SELECT x FROM SELECT y FROM a.b",
    "SELECT (x AS kanarienvogel) FROM a.b",
    "SELECT x FROM (SELECT FROM a.b)",
    "SELECT x FROM kanarienvogel (SELECT y FROM (SELECT * FROM a.b)) .c",
    "SELECT 0x41 FROM a.b",
    'SELECT x FROM b."a-b"',
    "SELECT 1e9999 FROM a.b",
    # characters
    "SELECT x\x00 FROM a.b",
    "SELECT '\x1b[31m' FROM a.b",
    "SELECT '\ud800' FROM a.b",
    "SELECT x FROM a.\x00",
    "SELECT x FROM a.b\uff1b DROP TABLE kanarienvogel",  # a full-width semicolon
    "SELECT x FROM a\u2024b",  # one dot leader
    "SELECT x FROM \uff41.b",  # a full-width letter
    "SELECT x FROM a.b\u200b",  # a space without width
]


def test_rejected(caplog: pytest.LogCaptureFixture) -> None:
    def is_rejected(text: str) -> None:
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            refusal(text)
        assert not caplog.records

    assert_each(is_rejected, REJECTED)


def test_the_message_names_the_problem() -> None:
    assert refusal("SELECT x INTO y FROM a.b").attributes["kind"] == "Select, into"
    assert refusal("SELECT x FROM read_csv('y')").attributes["kind"] == "Anonymous"
    assert "near line 3" in str(refusal("SELECT x\nFROM a.b\nWHERE WHERE"))
    assert "returns 2 columns" in str(refusal("SELECT x, y FROM a.b"))


UNAVAILABLE = [
    ("date_ad(x, 1)", "`date_ad` is not available. Similar: date_add, dateadd"),
    ("PERCENTIL(x, 0.5)", "`PERCENTIL` is not available. Similar: percentile"),
    ("reflect('a', 'b')", "`reflect` is not available. Use another function."),
    ("current_user()", "`current_user` is not available."),
    (
        "lpad(x, y)",
        "`lpad` is not available with these arguments. Available: lpad(value, size), lpad(value, size, ",
    ),
    ("`kanarien vogel`(x)", "A function in the query is not available."),
]


def test_a_function_is_named_to_the_author_alone() -> None:
    def is_named(call: str, message: str) -> None:
        with pytest.raises(SeedError) as caught:
            check_query(f"SELECT {call} FROM a.b", is_authors=True)
        assert str(caught.value).startswith(message)
        assert call.partition("(")[0] not in str(refusal(f"SELECT {call} FROM a.b"))

    assert_each(is_named, UNAVAILABLE)


def test_a_table_without_a_database_is_in_the_only_one() -> None:
    checked = check_query("WITH c AS (SELECT id FROM users) SELECT id FROM c JOIN orders o", databases=["shop"])
    assert checked.tables == (("shop", "users"), ("shop", "orders"))


def test_the_author_alone_is_shown_the_databases() -> None:
    for databases in ([], ["shop", "web"]):
        with pytest.raises(SeedError) as caught:
            check_query("SELECT id FROM users", databases=databases)
        assert "shop" not in str(caught.value)
    with pytest.raises(SeedError, match=r"its database\. Write database\.table\. Your databases: shop, web\."):
        check_query("SELECT id FROM users", databases=["web", "shop"], is_authors=True)


def test_a_column_with_the_name_of_a_function_is_a_column() -> None:
    """DuckDB would give a column `user` that the nearest table lacks the name of its own user."""

    def is_qualified(text: str, sql: str) -> None:
        assert check_query(text).sql == sql

    inner = 'SELECT 1 FROM "table_2" AS "d" WHERE "d"."user" = \'x\''
    assert_each(
        is_qualified,
        [
            ("SELECT User FROM a.b", 'SELECT "b"."User" FROM "table_1" AS "b"'),
            ("SELECT max(`localtime`) FROM a.b AS t", 'SELECT MAX("t"."localtime") FROM "table_1" AS "t"'),
            (
                "SELECT t.user FROM a.b t, c.d",
                'SELECT "t"."user" FROM "table_1" AS "t" CROSS JOIN "table_2" AS "d"',
            ),
            (
                "SELECT x AS user FROM a.b ORDER BY user",
                'SELECT "x" AS "user" FROM "table_1" AS "b" ORDER BY "user" NULLS FIRST',
            ),
            (
                "SELECT x FROM a.b WHERE EXISTS (SELECT 1 FROM c.d WHERE user = 'x')",
                f'SELECT "x" FROM "table_1" AS "b" WHERE EXISTS({inner})',
            ),
        ],
    )


# --- Bounded work ---


BOMBS = [
    "SELECT " + "(" * 50_000,
    "SELECT " + "(" * 21 + "x" + ")" * 21 + " FROM a.b",
    "SELECT " + "[" * 50_000,
    "SELECT " + "x(" * 30_000 + ")" * 30_000 + " FROM a.b",
    "SELECT " + "- " * 9_000 + "x FROM a.b",
    "SELECT " + "NOT " * 9_000 + "x FROM a.b",
    "SELECT " + "CASE WHEN x THEN " * 900 + "1" + " END" * 900 + " FROM a.b",
    "SELECT x" + "::int" * 9_000 + " FROM a.b",
    "SELECT x FROM a.b WHERE " + " OR ".join(["x = 1"] * 4_000),
    "SELECT " + " || ".join(["x"] * 9_000) + " FROM a.b",
    "SELECT CAST(x AS " + "decimal(" * 18 + "1" + ")" * 18 + ") FROM a.b",
    "SELECT " + "date(" * 19 + "decimal(" * 20,
    "SELECT " + "x.y" * 9_000 + " FROM a.b",
    "SELECT " + "x." * 9_000 + "y FROM a.b",
    "SELECT x FROM " + "(SELECT x FROM " * 900 + "a.b" + ")" * 900,
    "SELECT x FROM " + "(a.b JOIN " * 900,
    "SELECT x FROM a.b " + "JOIN a.b ON x = x " * 2_000,
    "SELECT x FROM a.b" + " UNION SELECT x FROM a.b" * 3_000,
    "SELECT x FROM a.b" + ", a.b" * 4_900 + " WHERE x(",
    "WITH " + ", ".join(f"c{n} AS (SELECT x FROM c{n})" for n in range(1_800)) + " SELECT x FROM a.b",
    "SELECT x FROM " + ", ".join(f"a.t{n}" for n in range(MAX_TABLES + 1)),
    "SELECT x FROM a.b WHERE x IN (" + ",".join(["1"] * MAX_TOKENS) + ")",
    "SELECT x FROM a.b --" + "x" * MAX_CHARACTERS,
    "SELECT '" + "x" * 10_000_000,
    "," * 100_000,
    "/*" * 50_000,
    "''" * 50_000,
    "SELECT '" + "''" * 49_000,
    "$" * 100_000,
    ":a" * 50_000,
    "SELECT x FROM a.b WHERE " + ":a" * 9_000,
    "SELECT " + "9" * 99_000 + " FROM a.b",
    "SELECT x LIKE " * 3_000 + "y FROM a.b",
    "SELECT " + "x BETWEEN " * 3_000,
    "SELECT " + "INTERVAL " * 9_000,
    "SELECT " + "x IN (" * 19 + "SELECT " * 900,
    "SELECT " + "`x`." * 9_000 + "y FROM a.b",
    "SELECT " + "x / " * 9_000 + "y FROM a.b",
    "SELECT " + "x div " * 3_000 + "y FROM a.b",
    "SELECT " + "date_add(" * 25 + "x" + ", 1)" * 25 + " FROM a.b",
    "SELECT x RLIKE '" + "(" * 400 + "a" + ")+" * 400 + "' FROM a.b",
    "SELECT x FROM a.b WHERE x RLIKE '" + "[" * 90_000 + "'",
    "SELECT x FROM a.b WHERE x = '" + "\\\\" * 45_000,
    "SELECT " + "kanarienvogel" * 7_000 + "(x) FROM a.b",
    "SELECT x FROM a.b " + "LATERAL VIEW explode(x) t AS y " * 2_000,
    "SELECT x FROM a.b WHERE x = " + "'a'" * 9_000 + " 'b'",
    "SELECT d + INTERVAL '" + "1" * 90_000 + "' DAY FROM a.b",
    "SELECT d + INTERVAL 1 DAY '" + " " * 90_000 + "' FROM a.b",
    "SELECT coalesce(" + ",".join("x" * 9_000) + ") FROM a.b",
    "SELECT " + "user + " * 9_000 + "user FROM a.b",
]


def test_a_bomb_is_rejected_in_time() -> None:
    most = MOST_TIMES * effort(lambda: check_query(HONEST[0]))

    def is_rejected(text: str) -> None:
        parameters = {"a": "1"} if ":a" in text else {}
        assert effort(lambda: refusal(text, **parameters)) < most

    assert_each(is_rejected, BOMBS)


HONEST = [
    "SELECT x FROM a.b WHERE x IN (" + ",".join(f"'{n:06d}'" for n in range(9_000)) + ")",
    "SELECT x FROM a.b WHERE " + " OR ".join(f"x = {n}" for n in range(900)),
    "SELECT x FROM a.b" + " UNION ALL SELECT x FROM a.b" * 300,
    "SELECT " + "lower(" * (MAX_NESTING - 1) + "x" + ")" * (MAX_NESTING - 1) + " FROM a.b",
    "SELECT x FROM " + "(SELECT x FROM " * (MAX_NESTING - 1) + "a.b" + ")" * (MAX_NESTING - 1),
    "SELECT x FROM a.b WHERE " + "x IN (SELECT x FROM a.b WHERE " * 15 + "x = 1" + ")" * 15,
    "SELECT " + "CASE WHEN x = 1 THEN 2 ELSE " * 18 + "3" + " END" * 18 + " FROM a.b",
    "WITH " + ", ".join(f"c{n} AS (SELECT x FROM a.b)" for n in range(400)) + " SELECT x FROM c399",
    "SELECT x FROM a.b WHERE x = '" + "x" * 90_000 + "'",
    "SELECT " + "substring(" * (MAX_NESTING - 1) + "x" + ", x, 2)" * (MAX_NESTING - 1) + " FROM a.b",
    "SELECT x FROM a.b WHERE " + " OR ".join(f"date_add(x, {n}) = y" for n in range(900)),
    "SELECT x FROM a.b WHERE x = '" + "''" * 9_000 + "'",
    "SELECT x FROM a.b WHERE " + " AND ".join(f"x RLIKE '^a{n}.*[b-z]$'" for n in range(900)),
]


def test_what_is_long_but_honest_is_taken() -> None:
    most = MOST_TIMES * effort(lambda: check_query(HONEST[0]))

    def is_taken(text: str) -> None:
        checked: list[CheckedQuery] = []
        assert effort(lambda: checked.append(check_query(text))) < most
        assert isinstance(checked[0], CheckedQuery)

    assert_each(is_taken, HONEST)
