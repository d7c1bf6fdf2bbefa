"""What participants' queries mean, in Spark and here.

Contract: where Spark (its default, ANSI) has a result for a query that is allowed, it is ours: the same values of
the same kind, and the same text of each; on rows with NULLs, negative numbers, zeros, leap days, month ends, empty
texts and letters of several bytes. Where Spark stops with an error, ours may too.
"""

import math
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import Engine, EngineSettings, open_engine
from cleanroom_pipelines.participant_sql.checking import check_query
from cleanroom_pipelines.participant_sql.functions import FUNCTIONS
from cleanroom_pipelines.participant_sql.macros import create_macros

from ..cases import assert_each

pytestmark = pytest.mark.spark

# n and m whole numbers, f and f_ numbers, x a decimal, s and w texts, c text of numbers, d and e dates,
# t an instant, u a time without zone, b yes or no, l a list
EXPRESSIONS = r"""
n + m
n - m * 2
-n
+n
n * 1.5
x + 1
x * n
x - 0.25
n / 2
n / f_
m / 4
-7 div 2
n div 2
n % 3
m % 3
-n % 3
f % 2
x % 2
mod(n, 3)
abs(m)
abs(x)
abs(f)
ceil(f)
ceil(x)
ceiling(m)
floor(f)
floor(x)
floor(m)
round(f)
round(f, 1)
round(f, 2)
round(x, 1)
round(x)
round(m, 2)
round(2.675D, 2)
round(1.005D, 2)
round(-2.5D)
round(2.5)
sign(m)
signum(f)
sqrt(abs(m))
exp(1)
ln(n)
ln(m)
log(n)
log10(n)
log2(n)
pow(m, 2)
power(n, 0.5D)
greatest(n, m)
greatest(s, w)
least(n, m, 5)
coalesce(m, n)
coalesce(s, w, 'none')
nvl(s, 'x')
nvl2(s, 'x', 'y')
ifnull(m, 0)
nullif(n, 1)
nullif(s, '')
isnull(s)
isnotnull(s)
if(b, s, w)
if(m > 0, 'plus', 'not')
CASE WHEN m > 0 THEN 'plus' WHEN m = 0 THEN 'zero' ELSE 'minus' END
CASE n WHEN 1 THEN 'one' WHEN 2 THEN 'two' END
n = 1
n == 1
n <> 1
n != m
m < 0 OR b
m < 0 AND b
NOT b
!b
n <=> m
s <=> w
m <=> NULL
NOT s <=> w
s IS DISTINCT FROM w
s IS NOT DISTINCT FROM w
b IS TRUE
b IS NOT TRUE
b IS FALSE
s IS NULL
s IS NOT NULL
n BETWEEN 1 AND m
n NOT BETWEEN 2 AND 3
n IN (1, 2, m)
m NOT IN (1, NULL)
s IN ('Ann', '')
s = ''
s < w
s >= 'a'
s == "Ann"
'a' = 'a '
f > 1.5
f = 1.5
x = 1.5
x > 1
c = 7
n = '1'
d = '2024-02-29'
d >= '2024-01-31'
d BETWEEN '2024-01-01' AND '2024-12-31'
t >= '2024-01-31'
d < e
d = DATE '2024-02-29'
t > TIMESTAMP '2024-01-31 10:20:30'
t = u
d < t
if(n > 0, 'it''s', '')
if(n > 0, "say ""yes"" twice", '')
if(n > 0, 'tab\there', '')
if(n > 0, 'back\\slash', '')
if(n > 0, 'quote\'s', '')
if(n > 0, '\d\w', '')
if(n > 0, '100\%', '')
if(n > 0, "single ' in double", '')
if(n > 0, 'double " in single', '')
s || '-' || w
s || n
s || x
n || ''
b || ''
d || ''
t || ''
u || ''
concat(s, w)
concat(s, '-', n)
concat(s)
concat_ws('-', s, w)
concat_ws(',', s, n, d)
concat_ws(NULL, s, w)
length(s)
length(w)
char_length(w)
character_length(w)
len(w)
lower(s)
lower(w)
lcase(s)
upper(s)
upper(w)
ucase(w)
upper('straße')
trim(s)
trim(w)
trim('  a b  ')
trim(BOTH 'x' FROM 'xxaxx')
trim(LEADING 'x' FROM 'xxaxx')
trim(TRAILING 'x' FROM 'xxaxx')
trim('xy' FROM 'xyaxy')
trim(LEADING FROM '  a  ')
ltrim('  a  ')
rtrim('  a  ')
btrim('  a  ')
btrim('xyaxy', 'xy')
left(s, 2)
left(w, n)
left(s, m)
right(s, 2)
right(s, m)
substring(s, 2)
substring(s, 1, 2)
substring(s, 0, 2)
substring(s, 0)
substring(s, -2, 1)
substring(s, -5, 4)
substring(s, -2)
substring(w, m, 2)
substring(s, m, n)
substring(s, 2, -1)
substring(s, 2, 100)
substring(s FROM 2 FOR 1)
substring(s FROM 2)
substr(w, n)
substr(w, n, 2)
instr(s, 'n')
instr(s, '')
instr(w, 's')
locate('n', s)
position('n' IN s)
position('n', s)
replace(s, 'n', 'm')
replace(s, 'n')
replace(s, '', 'x')
replace(w, 'ß', 'ss')
translate(s, 'An', 'xy')
translate(s, 'Ann', 'x')
translate(w, 'ßé', 's')
reverse(s)
reverse(w)
lpad(s, 5)
lpad(s, 5, 'xy')
lpad(w, 2, 'x')
lpad(s, 0, 'x')
rpad(s, 5)
rpad(s, 5, 'xy')
rpad(w, 2, 'x')
split_part('a,b,c', ',', 2)
split_part('a,b,c', ',', 4)
split_part(s, 'n', 1)
startswith(s, 'A')
startswith(s, '')
endswith(s, 'n')
contains(s, 'nn')
contains(s, '')
s LIKE 'A%'
s NOT LIKE 'A%'
s LIKE '_n_'
s LIKE w
s LIKE ''
s LIKE 'A!%%' ESCAPE '!'
'A%x' LIKE 'A\%%'
'Abx' LIKE 'A\%%'
'A_x' LIKE 'A\\_x'
w LIKE '_tra%'
s ILIKE 'a%'
w ILIKE '%É%'
s NOT ILIKE 'a%'
s RLIKE '^A'
s RLIKE 'n$'
s REGEXP '^[a-z]+$'
NOT s RLIKE 'n'
regexp_like(s, 'n{2}')
regexp(s, '^b')
rlike(s, 'n')
regexp_like(w, '\\s')
regexp_like(w, '^\\w+$')
regexp_like('a.b', 'a\\.b')
regexp_like('axb', 'a\\.b')
regexp_like('a\nb', 'a.b')
regexp_like('a\rb', 'a.b')
regexp_like('a\n', 'a$')
regexp_like('a\nb', '^b')
regexp_like('', '^$')
regexp_like('(1)', '^\\(?1\\)?$')
regexp_like(s, '^[^\\s\\d]{2,3}?')
regexp_like('a b', 'a\\Sb|a\\sb')
regexp_like(s, '^(Ann|bob)$')
regexp_extract(s, '([A-Z])')
regexp_extract(s, '([A-Z])(n+)', 2)
regexp_extract(s, '[a-z]+', 0)
regexp_extract(s, '(x)?n', 1)
regexp_extract('user-17@shop', '-([0-9]+)@')
regexp_replace(s, 'n', 'm')
regexp_replace(s, '[a-z]+', '<$0>')
regexp_replace(s, '([A-Z])(n)', '$2$1')
regexp_replace(w, '[^a-z]', '')
regexp_replace('abc', 'x*', '-')
regexp_replace(s, '\\D', '')
md5(s)
md5(w)
sha1(s)
sha(s)
sha2(s, 256)
sha2(w, 0)
array_contains(l, 2)
array_contains(l, m)
array_contains(split(w, ','), 'b')
array_contains(split('a.b.', '\\.'), '')
size(l)
array_size(l)
cardinality(l)
size(split(s, 'n'))
size(split('', ','))
date_add(d, 1)
date_add(d, n)
date_add(d, m)
date_add('2024-02-28', 1)
date_add(t, 1)
date_sub(d, 1)
date_sub(d, m)
dateadd(d, 30)
datediff(d, e)
datediff(e, d)
datediff('2024-03-01', d)
datediff(t, d)
date_diff(d, e)
datediff(DAY, d, e)
datediff(HOUR, d, t)
datediff(WEEK, d, e)
datediff(DAY, t, u)
timestampdiff(MINUTE, u, t)
d + 1
d - 1
d + INTERVAL 1 DAY
d + INTERVAL '1' MONTH
d - INTERVAL 1 MONTH
d + INTERVAL '2 years'
d - INTERVAL '1' YEAR
d + INTERVAL '-3' DAY
INTERVAL 1 DAY + d
d + INTERVAL 1 HOUR
t + INTERVAL 1 DAY
t - INTERVAL 90 MINUTES
t + INTERVAL 1 MONTH
u - INTERVAL '1 month'
months_between(d, e)
months_between(e, d)
months_between(t, d)
months_between(t, u)
months_between('2024-02-29', '2024-01-31')
months_between(d, e, false)
add_months(d, 1)
add_months(d, -1)
add_months(d, m)
add_months('2024-01-31', 1)
to_date('2024-02-29')
to_date(t)
to_date('29.02.2024', 'dd.MM.yyyy')
to_date('20240229', 'yyyyMMdd')
to_timestamp('2024-02-29 01:02:03')
to_timestamp('29/02/2024 01:02', 'dd/MM/yyyy HH:mm')
to_timestamp(d)
date(t)
timestamp(d)
date_trunc('year', d)
date_trunc('quarter', t)
date_trunc('MONTH', d)
date_trunc('week', d)
date_trunc('DAY', t)
date_trunc('hour', t)
date_trunc('mm', u)
trunc(d, 'month')
trunc(d, 'YEAR')
trunc(d, 'week')
trunc(d, 'quarter')
date_format(d, 'yyyy-MM')
date_format(t, 'yyyy-MM-dd HH:mm:ss')
date_format(d, 'd.M.yy')
date_format(d, 'EEE')
date_format(d, 'EEEE')
date_format(d, 'MMM')
date_format(d, 'MMMM yyyy')
date_format(t, "yyyy-MM-dd'T'HH:mm:ss")
date_format(t, 'hh:mm a')
date_format(t, 'H:m:s')
date_format(t, 'SSS')
date_format(d, 'DDD')
date_format(u, 'yyyyMMdd')
year(d)
year(t)
year('2024-02-29')
month(d)
day(d)
dayofmonth(d)
dayofweek(d)
dayofyear(d)
weekday(d)
weekofyear(d)
quarter(d)
hour(t)
minute(t)
second(t)
hour(u)
last_day(d)
last_day('2024-02-01')
make_date(2024, 2, 29)
extract(YEAR FROM d)
extract(MONTH FROM t)
extract(DOW FROM d)
extract(DAYOFWEEK FROM d)
extract(DOY FROM d)
extract(WEEK FROM d)
extract(QUARTER FROM d)
extract(DAY FROM d)
extract(HOUR FROM t)
unix_timestamp(t)
to_unix_timestamp(u)
from_unixtime(0)
from_unixtime(n, 'yyyy-MM-dd')
from_unixtime(m)
current_date() >= d
current_date >= d
curdate() >= d
current_timestamp() > t
now() > u
CAST(c AS INT)
CAST(c AS BIGINT)
CAST(' 12 ' AS INT)
CAST(f_ AS INT)
CAST(f AS BIGINT)
CAST(x AS INT)
CAST(1.5 AS INT)
CAST(-1.5 AS INT)
CAST(2.5D AS INT)
CAST(b AS INT)
CAST(c AS DOUBLE)
CAST(n AS DOUBLE)
CAST(x AS DOUBLE)
CAST('1e3' AS DOUBLE)
CAST(c AS DECIMAL(10, 2))
CAST('1.005' AS DECIMAL(10, 2))
CAST(1.005D AS DECIMAL(10, 2))
CAST(f AS DECIMAL(12, 1))
CAST('-0.005' AS DECIMAL(5, 2))
CAST(x AS DECIMAL(10, 1))
CAST(n AS DECIMAL)
CAST(x AS DECIMAL)
CAST(n AS STRING)
CAST(n AS VARCHAR(1))
CAST(x AS STRING)
CAST(b AS STRING)
CAST(d AS STRING)
CAST(t AS STRING)
CAST(u AS STRING)
CAST(f_ AS STRING)
CAST('true' AS BOOLEAN)
CAST('no' AS BOOLEAN)
CAST(m AS BOOLEAN)
CAST('2024-02-29' AS DATE)
CAST('2024-2-9' AS DATE)
CAST(t AS DATE)
CAST(d AS TIMESTAMP)
CAST('2024-02-29 01:02:03.5' AS TIMESTAMP)
CAST(n AS SMALLINT)
CAST(n AS TINYINT)
n::STRING
c::INT
TRY_CAST(s AS INT)
TRY_CAST(c AS INT)
TRY_CAST('1.5' AS INT)
TRY_CAST('300' AS TINYINT)
TRY_CAST(s AS DATE)
TRY_CAST('x' AS DOUBLE)
TRY_CAST('1x' AS DECIMAL(5, 1))
TRY_CAST('2024' AS DATE)
TRY_CAST('2024-2' AS DATE)
TRY_CAST('2024-02-29T10' AS DATE)
TRY_CAST('2024-02-29 and more' AS DATE)
TRY_CAST('24-02-29' AS DATE)
TRY_CAST('2024/02/29' AS DATE)
TRY_CAST('\t2024-02-29\n' AS DATE)
TRY_CAST(s AS TIMESTAMP)
TRY_CAST(concat('2024-01-01 01:02:03+0', n, ':00') AS TIMESTAMP)
TRY_CAST('2024-01-01T01:02:03.123-0330' AS TIMESTAMP)
TRY_CAST('2024-01-01 01:02:03 Europe/Berlin' AS TIMESTAMP)
TRY_CAST('2024-01-01 01:02:03 +02:00' AS TIMESTAMP)
TRY_CAST('2024-01-01 01:02:03+02:00' AS TIMESTAMP_NTZ)
TRY_CAST('2024-01-01 01:02Z' AS TIMESTAMP)
TRY_CAST('2024-01-01 24:00:00' AS TIMESTAMP)
TRY_CAST('2024-01' AS TIMESTAMP)
TRY_CAST('2024-01-01T' AS TIMESTAMP)
TRY_CAST('2024-01-01 01' AS TIMESTAMP)
hour('2024-01-01 01:02:03+02:00')
TRY_CAST('\ttrue\n' AS BOOLEAN)
TRY_CAST('\t12\n' AS INT)
TRY_CAST('0x10' AS INT)
TRY_CAST('0_1' AS DOUBLE)
round(CAST(f AS FLOAT), 1)
t - INTERVAL '1 day 2 hours'
d - INTERVAL '1 year 2 months'
10L + n
n IN (SELECT o.n FROM shop.orders o WHERE o.n IS NOT NULL)
EXISTS (SELECT 1 FROM shop.orders o WHERE o.n = data.n)
(SELECT max(o.amount) FROM shop.orders o WHERE o.n = data.n)
(n, s) IN ((1, 'Ann'))
row_number() OVER (ORDER BY n)
row_number() OVER (PARTITION BY b ORDER BY m, n)
row_number() OVER (ORDER BY m DESC, n)
rank() OVER (ORDER BY m)
dense_rank() OVER (ORDER BY b DESC)
percent_rank() OVER (ORDER BY m)
cume_dist() OVER (ORDER BY m)
ntile(3) OVER (ORDER BY n)
lag(s) OVER (ORDER BY n)
lag(s, 2, 'none') OVER (ORDER BY n)
lead(m, 1) OVER (ORDER BY n)
first_value(s) OVER (PARTITION BY b ORDER BY n)
last_value(m) IGNORE NULLS OVER (ORDER BY n)
last_value(s) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
nth_value(s, 2) OVER (ORDER BY n)
sum(n) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
sum(n) OVER (PARTITION BY b)
avg(n) OVER (PARTITION BY b ORDER BY n)
count(*) OVER ()
count(m) OVER (ORDER BY m)
max(d) OVER (PARTITION BY b)
""".strip().splitlines()

AGGREGATES = r"""
count(*)
count(m)
count(DISTINCT b)
approx_count_distinct(b)
count_if(m > 0)
count(*) FILTER (WHERE m > 0)
sum(n)
sum(DISTINCT m)
sum(x)
avg(n)
avg(DISTINCT m)
mean(f_)
min(s)
max(w)
max(t)
median(n)
median(m)
percentile(n, 0.5)
percentile(m, 0.3)
percentile(n, 0)
percentile(n, 1.0)
percentile(x, 0.25)
stddev(n)
std(m)
stddev_samp(m)
stddev_pop(m)
variance(m)
var_samp(n)
var_pop(n)
bool_and(b)
bool_or(b)
every(b)
any(b)
some(n > 2)
round(avg(m), 1)
CAST(sum(n) AS INT)
sum(n) / count(*)
""".strip().splitlines()

QUERIES = r"""
SELECT stddev(n) FROM shop.data WHERE n = 1
SELECT max(n) - min(n) FROM shop.data GROUP BY b HAVING count(*) > 1
SELECT concat('n', max(n)) FROM shop.data GROUP BY b
SELECT sum(n) FROM shop.data WHERE n < 0
SELECT count(*) FROM shop.data WHERE n < 0
SELECT count_if(b) FROM shop.data WHERE n < 0
SELECT s FROM shop.data ORDER BY m LIMIT 3
SELECT s FROM shop.data ORDER BY m DESC, n LIMIT 3
SELECT s FROM shop.data ORDER BY s, n LIMIT 4
SELECT s FROM shop.data ORDER BY s DESC, n LIMIT 4
SELECT s FROM shop.data ORDER BY m NULLS LAST, n LIMIT 3
SELECT s FROM shop.data ORDER BY n LIMIT 2 OFFSET 1
SELECT DISTINCT b FROM shop.data
SELECT `s` FROM `shop`.`data` AS `the data` WHERE `the data`.`n` = 1
SELECT u.s FROM shop.data u JOIN shop.orders o ON u.n = o.n
SELECT u.s FROM shop.data u LEFT JOIN shop.orders o ON u.n = o.n WHERE o.n IS NULL
SELECT o.item FROM shop.data u RIGHT JOIN shop.orders o ON u.n = o.n
SELECT o.item FROM shop.data u FULL OUTER JOIN shop.orders o ON u.m = o.amount
SELECT s FROM shop.data LEFT SEMI JOIN shop.orders ON data.n = orders.n
SELECT s FROM shop.data LEFT ANTI JOIN shop.orders ON data.n = orders.n
SELECT s FROM shop.data ANTI JOIN shop.orders USING (n)
SELECT s FROM shop.data SEMI JOIN shop.orders USING (n)
SELECT s FROM shop.data a JOIN shop.orders o ON a.m <=> o.amount
SELECT item FROM shop.data CROSS JOIN shop.orders
SELECT item FROM shop.data NATURAL JOIN shop.orders
SELECT n FROM shop.data UNION SELECT n FROM shop.orders
SELECT n FROM shop.data UNION ALL SELECT n FROM shop.orders
SELECT n FROM shop.data EXCEPT SELECT n FROM shop.orders
SELECT n FROM shop.data MINUS SELECT n FROM shop.orders
SELECT n FROM shop.data INTERSECT SELECT n FROM shop.orders
SELECT n FROM shop.data UNION SELECT n FROM shop.orders INTERSECT SELECT amount FROM shop.orders
WITH a AS (SELECT n, s FROM shop.data WHERE m > 0), b AS (SELECT n FROM a) SELECT a.s FROM a JOIN b ON a.n = b.n
WITH data AS (SELECT n FROM shop.orders) SELECT n FROM data
SELECT s FROM (SELECT s, row_number() OVER (PARTITION BY b ORDER BY n DESC) AS r FROM shop.data) x WHERE r = 1
SELECT s FROM shop.data WHERE n IN (SELECT n FROM shop.orders GROUP BY n HAVING sum(amount) > 3)
SELECT s FROM shop.data WHERE n NOT IN (SELECT n FROM shop.orders WHERE n IS NOT NULL)
SELECT b FROM shop.data GROUP BY b ORDER BY count(*) DESC, b LIMIT 2
SELECT b FROM shop.data GROUP BY ALL
SELECT k.a FROM VALUES (1, 'x'), (2, 'y') AS k(a, c) JOIN shop.data ON data.n = k.a
SELECT /*+ BROADCAST(o) */ u.s FROM shop.data u JOIN shop.orders o ON u.n = o.n
SELECT DISTINCT upper(s) AS big FROM shop.data WHERE length(s) > 0
SELECT CASE WHEN grouped.total > 5 THEN 'many' ELSE 'few' END FROM (SELECT sum(n) AS total FROM shop.data) grouped
""".strip().splitlines()

_ROWS: list[dict[str, Any]] = [
    {
        "n": 1,
        "m": 3,
        "f": 1.5,
        "f_": 0.5,
        "x": "1.50",
        "s": "Ann",
        "w": "Straße",
        "c": "7",
        "b": True,
        "l": [1, 2],
    },
    {
        "n": 2,
        "m": -4,
        "f": -2.25,
        "f_": 2.0,
        "x": "-2.25",
        "s": "bob",
        "w": "a,b",
        "c": "-12",
        "b": False,
        "l": [],
    },
    {
        "n": 3,
        "m": 0,
        "f": 0.0,
        "f_": -1.25,
        "x": "0.00",
        "s": "",
        "w": "é🙂s x",
        "c": "0",
        "b": None,
        "l": [1, None],
    },
    {"n": 4, "m": None, "f": None, "f_": 1.0, "x": None, "s": None, "w": None, "c": None, "b": True, "l": None},
    {
        "n": 5,
        "m": 7,
        "f": 1e10,
        "f_": 3.5,
        "x": "12345678.99",
        "s": "Anna%_",
        "w": " A\ta ",
        "c": "999",
        "b": False,
    },
    {"n": 6, "m": -1, "f": 2.5, "f_": 4.0, "x": "0.35", "s": "nan", "w": "ANN", "c": "+5", "b": True, "l": [2, 2]},
]
_DATES = [
    ("2024-01-31", "2024-02-29", "2024-01-31 10:20:30", "2024-02-29 00:00:00"),
    ("2024-02-29", "2023-02-28", "2024-02-29 00:00:00", "2024-03-31 23:59:59"),
    ("2023-12-31", "2024-01-01", "1999-05-06 07:08:09.500", "2000-02-29 12:00:00"),
    (None, None, None, None),
    ("1969-07-20", "2024-06-15", "2024-06-15 12:00:00", "2024-05-15 13:01:00"),
    ("2100-02-28", "2096-02-29", "2024-12-30 00:00:01", "2025-01-01 00:00:00"),
]
_TYPES = pa.schema(
    [
        *(("n", pa.int32()), ("m", pa.int32()), ("f", pa.float64()), ("f_", pa.float64())),
        *(("x", pa.decimal128(10, 2)), ("s", pa.string()), ("w", pa.string()), ("c", pa.string())),
        *(("b", pa.bool_()), ("l", pa.list_(pa.int32())), ("d", pa.date32()), ("e", pa.date32())),
        *(("t", pa.timestamp("us", "UTC")), ("u", pa.timestamp("us"))),
    ]
)
_ORDERS = {"n": [1, 1, 2, 3, 9, None], "item": ["x", "y", "x", "z", None, "w"], "amount": [3, 5, None, 7, 1, 3]}
# Of Spark alone, or of DuckDB alone: a call of Spark's has another row in the table.
_NOT_SPARKS = {"bool_and", "ends_with", "epoch", "epoch_ms", "regexp_matches", "sha256", "starts_with", "strftime"}
_NOT_SPARKS |= {"strptime", "strpos", "week"}


def _tables() -> dict[str, pa.Table]:
    kinds = {"d": date, "e": date, "t": datetime, "u": datetime}
    rows = [
        {
            **row,
            "x": None if row["x"] is None else Decimal(row["x"]),
            **{
                name: None if text is None else kinds[name].fromisoformat(text)
                for name, text in zip(kinds, dates, strict=True)
            },
        }
        for row, dates in zip(_ROWS, _DATES, strict=True)
    ]
    return {"data": pa.Table.from_pylist(rows, _TYPES), "orders": pa.table(_ORDERS)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tables")
    for name, table in _tables().items():
        pq.write_table(table, folder / f"{name}.parquet")
    return {name: folder / f"{name}.parquet" for name in _tables()}


@pytest.fixture(scope="module")
def spark(spark_here: str, files: dict[str, Path]) -> Any:
    from pyspark.sql import SparkSession

    session = SparkSession.builder.getOrCreate().newSession()
    session.conf.set("spark.sql.session.timeZone", "UTC")
    session.conf.set("spark.sql.ansi.enabled", "true")
    session.conf.set("spark.sql.shuffle.partitions", "1")
    # interpreted: compiling hundreds of expressions takes longer than all else
    session.conf.set("spark.sql.codegen.wholeStage", "false")
    session.conf.set("spark.sql.codegen.factoryMode", "NO_CODEGEN")
    for name, file in files.items():
        session.read.parquet(str(file)).createOrReplaceTempView(name)
    return session


@pytest.fixture(scope="module")
def ours(files: dict[str, Path]) -> Iterator[Engine]:
    settings = EngineSettings(memory_bytes=256 << 20, threads=1)
    with open_engine(settings, paths=[*files.values()]) as engine:
        create_macros(engine)
        for name, file in files.items():
            engine.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{file}')")
        yield engine


def in_spark(spark: Any, query: str) -> list[list[Any]]:
    rows = spark.sql(query.replace("shop.", "").replace("`shop`.", "")).collect()
    return [[_plain(value) for value in row] for row in rows]


def columns_in_spark(spark: Any, expressions: list[str], end: str) -> dict[str, list[Any]]:
    """The values of each expression, by one query for all, since Spark takes long for any."""
    columns = ", ".join(f"{expression} AS c{number}" for number, expression in enumerate(expressions))
    by_row = in_spark(spark, f"SELECT {columns} FROM data {end}")
    return {expression: [row[number] for row in by_row] for number, expression in enumerate(expressions)}


def here(engine: Engine, query: str) -> list[Any]:
    checked = check_query(query)
    for number, (_, name) in enumerate(checked.tables):
        engine.execute(f"CREATE OR REPLACE TEMP VIEW table_{number + 1} AS SELECT * FROM {name}")
    (column,) = engine.fetch(checked.sql, checked.parameters).columns
    return [_plain(value) for value in column.to_pylist()]


def _in_text(value: Any) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    if isinstance(value, float):
        return float(f"{value:.13g}") if math.isfinite(value) else repr(value)
    return value


def is_the_same(values: list[Any], theirs: list[Any]) -> None:
    assert values == theirs
    assert [type(value) for value in values] == [type(value) for value in theirs]


def test_expressions(spark: Any, ours: Engine) -> None:
    theirs = columns_in_spark(spark, EXPRESSIONS, "ORDER BY n")
    assert_each(
        lambda expression: is_the_same(
            here(ours, f"SELECT {expression} FROM shop.data ORDER BY n"), theirs[expression]
        ),
        EXPRESSIONS,
    )


def test_aggregates(spark: Any, ours: Engine) -> None:
    theirs = columns_in_spark(spark, AGGREGATES, "")
    assert_each(
        lambda expression: is_the_same(here(ours, f"SELECT {expression} FROM shop.data"), theirs[expression]),
        AGGREGATES,
    )


def test_queries(spark: Any, ours: Engine) -> None:
    parts = [
        f"SELECT {number} AS number, CAST(v AS STRING) AS v FROM ({query}) AS q(v)"
        for number, query in enumerate(QUERIES)
    ]
    rows = in_spark(spark, " UNION ALL ".join(parts))

    def is_the_same_set(number: int, query: str) -> None:
        values = [_in_text(value) for value in here(ours, query)]
        theirs = [row[1] for row in rows if row[0] == number]
        assert sorted(values, key=repr) == sorted(theirs, key=repr)

    assert_each(is_the_same_set, enumerate(QUERIES))


def test_order(spark: Any, ours: Engine) -> None:
    """NULLs come first, or last where the order is descending."""

    def is_in_order(order: str) -> None:
        query = f"SELECT n FROM shop.data ORDER BY {order}"
        assert here(ours, query) == [row[0] for row in in_spark(spark, query)]

    assert_each(is_in_order, ["m", "m DESC", "s, n DESC", "s DESC, n", "m NULLS LAST", "b DESC NULLS FIRST, n"])


def test_every_function_of_spark_is_compared() -> None:
    text = "\n".join([*EXPRESSIONS, *AGGREGATES, *QUERIES]).lower()
    assert [name for name in FUNCTIONS if f"{name}(" not in text and name not in _NOT_SPARKS] == []
