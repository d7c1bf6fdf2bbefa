"""Every node and function of the allowlist.

Contract: each one is accepted, keeps its meaning in DuckDB, and renders each argument only once (nested calls
would double the text each time). Every entry of the allowlist has a sample here.
"""

from collections.abc import Iterator

import pytest
import sqlglot
from sqlglot import exp

from cleanroom_pipelines.engine import Engine
from cleanroom_pipelines.participant_sql.allowed import ARGUMENTS
from cleanroom_pipelines.participant_sql.checking import _parse, check_query

from ..cases import assert_each
from .tables import opened, run_as_written, run_checked

# Columns of shop.users: n whole number, s and city texts, d date, ts timestamp, f number, b yes or no.
EXPRESSIONS = """
n + 2 * n - n % 2
f / n
-n % 3
+n
s || '-' || city
n = 1 AND b OR NOT b
n <> 1
n != 1
n < 2
n <= 2
n > 2
n >= 2
city IS NULL
city IS NOT NULL
city ISNULL
city NOTNULL
b IS TRUE
b IS NOT FALSE
city IS DISTINCT FROM s
city IS NOT DISTINCT FROM s
n IN (1, 2, n)
n NOT IN (1, 2)
(n, s) IN ((1, 'Ann'))
n BETWEEN 1 AND n
n NOT BETWEEN 1 AND 2
s LIKE 'A%'
s NOT LIKE 'A%'
s ILIKE 'a%'
s NOT ILIKE 'a%'
s LIKE 'A!%%' ESCAPE '!'
s LIKE city
s SIMILAR TO '[a-z]+'
CASE WHEN n = 1 THEN s WHEN n = 2 THEN city ELSE 'x' END
CASE n WHEN 1 THEN s END
IF(b, s, city)
n IN (SELECT o.n FROM shop.orders AS o)
n = ANY (SELECT o.n FROM shop.orders AS o)
n > ALL (SELECT 1)
EXISTS (SELECT * FROM shop.orders AS o WHERE o.n = users.n)
(SELECT max(o.amount) FROM shop.orders AS o WHERE o.n = users.n)
CAST(n AS VARCHAR)
CAST(n AS varchar(3))
CAST(n AS char(3))
CAST(f AS DECIMAL(13, 2))
CAST(n AS double precision)
CAST(n AS real)
CAST(n AS smallint)
CAST(n AS tinyint)
CAST(s AS string)
CAST(d AS timestamp)
CAST(n AS boolean)
n::bigint
TRY_CAST(s AS INTEGER)
DATE '2024-01-01'
TIMESTAMP '2024-01-01 10:00:00'
ts + INTERVAL '1 year'
NULL
true
n * 1.5
n * 1e3
n + .5
'it''s' || s
coalesce(city, s, 'x')
ifnull(city, s)
nullif(n, 1)
greatest(n, f, 2)
least(n, f, 2)
concat_ws('-', s, city)
contains(s, city)
ends_with(s, s)
starts_with(s, city)
left(s, n)
right(s, n)
length(s)
char_length(s)
lower(s)
upper(s)
md5(s)
sha256(s)
lpad(s, 5, city)
rpad(s, 5, 'x')
regexp_extract(s, '([a-z])(.)', 2)
regexp_matches(s, '^[A-Z]')
regexp_replace(s, '[a-z]', 'x', 'g')
replace(s, 'n', city)
reverse(s)
split_part(s, 'n', 2)
position('n' IN s)
strpos(s, city)
substring(s, 1, n)
substring(s FROM 1 FOR 2)
substr(s, n)
translate(s, 'An', 'Bm')
trim(s)
trim(BOTH 'A' FROM s)
trim(LEADING FROM s)
trim(TRAILING 'n' FROM s)
rtrim(s)
abs(f)
exp(n)
ln(n)
power(n, 2)
pow(n, n)
round(f)
round(f, 1)
sqrt(n)
current_date >= d
CAST(current_timestamp AS DATE) >= d
date(ts)
date_diff('day', d, ts)
datediff('week', d, ts)
date_trunc('month', ts)
date_trunc('week', d)
date_trunc('month', CAST(ts AS DATE))
make_date(2024, n, n)
day(d)
extract(year FROM d)
extract(epoch FROM ts)
hour(ts)
last_day(d)
month(d)
quarter(d)
week(d)
year(d)
strptime('2024010' || n, '%Y%m%d')
strftime(ts, '%d.%m.%Y')
epoch(ts)
epoch_ms(n)
approx_count_distinct(s)
avg(n)
count(*)
count(city)
count(DISTINCT city)
count(*) FILTER (WHERE n > 2)
bool_and(b)
bool_or(b)
max(n)
min(s)
median(n)
stddev(n)
stddev_pop(n)
stddev_samp(n)
sum(n)
sum(DISTINCT n)
var_pop(n)
variance(n)
var_samp(n)
cume_dist() OVER (ORDER BY n)
dense_rank() OVER (ORDER BY city DESC NULLS LAST)
first_value(s) OVER (PARTITION BY city ORDER BY n)
lag(s, 1, 'x') OVER (ORDER BY n)
last_value(city IGNORE NULLS) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
lead(s) OVER (ORDER BY n)
nth_value(s, 2) OVER (ORDER BY n)
ntile(2) OVER (ORDER BY n)
percent_rank() OVER (ORDER BY n)
rank() OVER (PARTITION BY b, city ORDER BY n)
row_number() OVER (ORDER BY n)
sum(n) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
sum(n) OVER (ORDER BY d RANGE BETWEEN INTERVAL '40' DAY PRECEDING AND CURRENT ROW)
sum(n) OVER (ORDER BY n groups 1 PRECEDING)
sum(n) FILTER (WHERE b) OVER (PARTITION BY city)
count(*) OVER ()
""".strip().splitlines()

QUERIES = """
SELECT DISTINCT city FROM shop.users
SELECT ALL s FROM shop.users
SELECT u.s FROM shop.users u JOIN shop.orders AS o ON u.n = o.n
SELECT users.s FROM shop.users LEFT JOIN shop.orders ON users.n = orders.n WHERE orders.n IS NULL
SELECT u.s FROM shop.users u RIGHT OUTER JOIN shop.orders o USING (n)
SELECT item FROM shop.users FULL JOIN shop.orders USING (n)
SELECT item FROM shop.users CROSS JOIN shop.orders
SELECT item FROM shop.users, shop.orders
SELECT item FROM shop.users NATURAL JOIN shop.orders
SELECT s FROM shop.users SEMI JOIN shop.orders USING (n)
SELECT s FROM shop.users ANTI JOIN shop.orders USING (n)
SELECT item FROM (shop.users JOIN shop.orders USING (n))
SELECT item FROM ((shop.orders))
SELECT x.c FROM (SELECT city FROM shop.users) AS x(c)
SELECT a FROM shop.orders AS o(a, b)
SELECT s FROM (SELECT * FROM shop.users) AS x
SELECT s FROM (SELECT u.* FROM shop.users AS u)
SELECT s FROM shop.users WHERE n IN (SELECT n FROM shop.orders GROUP BY n HAVING count(*) > 1)
SELECT city FROM shop.users GROUP BY city ORDER BY count(*) DESC, city NULLS FIRST LIMIT 2
SELECT city FROM shop.users GROUP BY ALL
SELECT city AS c FROM shop.users GROUP BY 1 ORDER BY c NULLS FIRST LIMIT 2 OFFSET 1
SELECT s FROM shop.users ORDER BY n FETCH FIRST 2 ROWS ONLY
SELECT s FROM shop.users QUALIFY row_number() OVER (PARTITION BY city ORDER BY n) = 1
SELECT sum(n) OVER w FROM shop.users WINDOW w AS (PARTITION BY city)
SELECT n FROM shop.users UNION SELECT n FROM shop.orders
SELECT n FROM shop.users UNION ALL SELECT n FROM shop.orders
SELECT n FROM shop.users EXCEPT SELECT n FROM shop.orders
SELECT n FROM shop.users INTERSECT SELECT n FROM shop.orders
SELECT n FROM shop.users EXCEPT SELECT n FROM shop.orders INTERSECT SELECT 1
SELECT n FROM shop.users UNION SELECT n FROM shop.orders ORDER BY 1 DESC LIMIT 3
(SELECT n FROM shop.users) UNION ALL (SELECT n FROM shop.orders ORDER BY n LIMIT 1)
(SELECT n FROM shop.users) ORDER BY 1 LIMIT 1
((SELECT n FROM shop.users))
WITH a AS (SELECT n FROM shop.users) SELECT a.n FROM a
WITH a(x) AS (SELECT n FROM shop.users), b AS (SELECT x + 1 AS y FROM a) SELECT y FROM b, a WHERE a.x = b.y
WITH a AS MATERIALIZED (SELECT n FROM shop.users) SELECT l.n FROM a AS l JOIN a AS r ON l.n < r.n
WITH a AS (SELECT 1 AS n UNION SELECT n FROM shop.users) SELECT n FROM a
SELECT s FROM shop.users JOIN (VALUES (1, 'x'), (2, 'y')) AS v(k, w) ON n = k
SELECT user_s FROM (WITH u AS (SELECT s AS user_s FROM shop.users) SELECT * FROM u)
SELECT s FROM shop.users -- and a comment
SELECT /* one */ s /*+ two */ FROM shop.users;
""".strip().splitlines()

# What DuckDB writes in another way.
SYNONYMS = {
    "nvl(city, s)": "coalesce(city, s)",
    "sha2(s, 256)": "sha256(s)",
    "regexp_like(s, '^[A-Z]')": "regexp_matches(s, '^[A-Z]')",
    "char_length(s)": "length(s)",
    "n div 2": "n // 2",
    "s RLIKE '^[A-Z]'": "regexp_matches(s, '^[A-Z]')",
    "d + INTERVAL '3' DAY": "CAST(d + INTERVAL '3' DAY AS DATE)",
    "d - INTERVAL 2 MONTH": "CAST(d - INTERVAL 2 MONTH AS DATE)",
    "d + INTERVAL (n) day": "CAST(d + INTERVAL (n) day AS DATE)",
    "date_add(d, INTERVAL '1' DAY)": "CAST(d + INTERVAL '1' DAY AS DATE)",
    "concat(s, city, n)": "s || city || n",
    "regexp_extract(s, '([A-Z])')": "regexp_extract(s, '([A-Z])', 1)",
    "regexp_replace(s, '[a-z]', 'x')": "regexp_replace(s, '[a-z]', 'x', 'g')",
    "count_if(b)": "count(*) FILTER (WHERE b)",
    "ceil(f)": "CAST(ceil(f) AS BIGINT)",
    "floor(f)": "CAST(floor(f) AS BIGINT)",
    "sign(f)": "CAST(sign(f) AS DOUBLE)",
    "dayofweek(d)": "dayofweek(d) + 1",
    "to_timestamp(n)": "CAST(to_timestamp(n) AS TIMESTAMP)",
    '"double quotes" || s': "'double quotes' || s",
    "`s`": '"s"',
}

# Without a row of their own: a value has another form in these samples, or stands for a value from outside.
ELSEWHERE = {exp.Placeholder, exp.Literal, exp.Identifier}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened() as engine:
        yield engine


def test_a_query_means_the_same_in_duckdb(engine: Engine) -> None:
    def means_the_same(text: str) -> None:
        checked = check_query(text)
        assert run_checked(engine, checked) == run_as_written(engine, text)

    assert_each(means_the_same, [*(f"SELECT {sample} FROM shop.users" for sample in EXPRESSIONS), *QUERIES])


def test_synonym(engine: Engine) -> None:
    def means_the_same(sample: str, meaning: str) -> None:
        checked = check_query(f"SELECT {sample} FROM shop.users")
        assert run_checked(engine, checked) == run_as_written(engine, f"SELECT {meaning} FROM shop.users")

    assert_each(means_the_same, SYNONYMS.items())


def test_no_argument_is_rendered_twice() -> None:
    def is_rendered_once(sample: str) -> None:
        text = f"SELECT {sample} FROM shop.users"
        rendered = sqlglot.parse_one(check_query(text).sql, read="duckdb")
        assert n_columns(rendered) == n_columns(parsed(text))

    assert_each(is_rendered_once, [*EXPRESSIONS, *SYNONYMS])


def test_nothing_is_allowed_that_no_sample_uses() -> None:
    texts = [*(f"SELECT {sample} FROM shop.users" for sample in [*EXPRESSIONS, *SYNONYMS]), *QUERIES]
    used = {type(node) for text in texts for node in parsed(text).walk()}
    assert set(ARGUMENTS) - used - ELSEWHERE == set()


def n_columns(tree: exp.Expr) -> int:
    return sum(1 for _ in tree.find_all(exp.Column))


def parsed(text: str) -> exp.Expr:
    return _parse(text)[0]
