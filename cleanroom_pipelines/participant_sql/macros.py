"""DuckDB macros for functions of Spark that no single DuckDB expression reproduces exactly.

Lives here: the macros, and creating them in an engine.
Add here when a function of Spark depends on the type of its argument, or needs an argument more than once.
Keep out: names and arguments in queries (functions.py).

A macro's text contains each argument once, in a list of one element: nested calls would double the text each time.
Types are known only when DuckDB reads the tables, so macros look at `typeof`. Where Spark stops with an error (in
ANSI mode, its default), so does the macro: it makes an impossible cast, which DuckDB evaluates for that row alone.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cleanroom_pipelines.engine import Engine

_IS_TEXT = "typeof(v) = 'VARCHAR'"
_IS_FLOAT = "typeof(v) IN ('DOUBLE', 'FLOAT')"
_IS_DECIMAL = "starts_with(typeof(v), 'DECIMAL')"
_IS_WHOLE = (
    "typeof(v) IN ('TINYINT', 'SMALLINT', 'INTEGER', 'BIGINT', 'HUGEINT', "
    "'UTINYINT', 'USMALLINT', 'UINTEGER', 'UBIGINT')"
)
_IS_TIME = "starts_with(typeof(v), 'TIMESTAMP')"
_FAIL = "CAST('impossible ' || CAST(v AS VARCHAR) AS INTEGER)"
_FAIL_AS_TEXT = f"CAST({_FAIL} AS VARCHAR)"
_TEXT, _TIME = "CAST(v AS VARCHAR)", "CAST(v AS TIMESTAMP)"
# Texts of floating-point numbers that Java and DuckDB write alike.
_ALIKE = "-?([1-9][0-9]{0,6}[.][0-9]+|0[.]0|0[.]0{0,2}[1-9][0-9]*)"
# Java and Spark take all control characters for spaces here.
_TRIMMED = f"regexp_replace({_TEXT}, '\\A[\\x00-\\x20\\x7F]+|[\\x00-\\x20\\x7F]+\\z', '', 'g')"
_NO_UNDERSCORE = f"replace({_TRIMMED}, '_', '?')"
# Of a date, Spark reads a year, a year and a month, or a day with anything after it.
_DAY = (
    f"regexp_extract({_TRIMMED}, '(?s)\\A[+]?([0-9]{{4,6}}(-[0-9]{{1,2}})?|"
    "[0-9]{4,6}-[0-9]{1,2}-[0-9]{1,2}([ T].*)?)\\z', 1)"
)
_DATE = (
    f"CAST(regexp_replace(regexp_replace(split_part(split_part({_DAY}, ' ', 1), 'T', 1), "
    "'\\A([0-9]+)\\z', '\\1-01'), '\\A([0-9]+-[0-9]+)\\z', '\\1-01') AS DATE)"
)
# A time of day may end after the hour or the minute; a time zone may follow the second.
_HAS_HOUR = (
    f"regexp_matches({_TRIMMED}, '\\A[+]?[0-9]{{4,6}}-[0-9]{{1,2}}-[0-9]{{1,2}}[ T]([01]?[0-9]|2[0-3])"
    "(:[0-9]{1,2}(:|\\z)|\\z)')"
)
_CLOCK = (
    f"ltrim(regexp_replace(regexp_replace({_TRIMMED}, '([ T][0-9]{{1,2}})\\z', '\\1:00'), "
    "'([0-9]) +([+-][0-9:]+)\\z', '\\1\\2'), '+')"
)
_HAS_NO_HOUR = f"regexp_full_match({_TRIMMED}, '[+]?[0-9]{{4,6}}(-[0-9]{{1,2}}){{0,2}}')"
# Letters whose other case Java writes with several letters, or chooses by their neighbours.
_UPPER_ODD = (
    r"[\x{0149}\x{019B}\x{01F0}\x{0264}\x{0390}\x{03B0}\x{0587}\x{1C8A}\x{1E96}-\x{1E9A}\x{1F50}-\x{1FFC}"
    r"\x{A7CD}-\x{A7DB}\x{FB00}-\x{FB17}\x{10D70}-\x{10D85}\x{16EBB}-\x{16ED3}]"
)
_LOWER_ODD = r"\x{03A3}(\PL|\z)|[\x{0130}\x{1C89}\x{A7CB}-\x{A7DC}\x{10D50}-\x{10D65}\x{16EA0}-\x{16EB8}]"


def _timestamp(clock: str) -> str:
    return (
        f"CASE WHEN NOT {_IS_TEXT} THEN CASE WHEN {_IS_WHOLE} THEN make_timestamp(CAST(v AS BIGINT) * 1000000) "
        f"ELSE {_TIME} END WHEN {_HAS_NO_HOUR} THEN CAST({_DATE} AS TIMESTAMP) "
        f"WHEN {_HAS_HOUR} THEN {clock} ELSE CAST({_FAIL} AS TIMESTAMP) END"
    )


# Bodies over `v`, the macro's only argument. Each also exists as `…_or_null`, which is NULL instead of an error.
_CASTS = {
    "text": f"CASE WHEN {_IS_FLOAT} AND NOT regexp_full_match({_TEXT}, '{_ALIKE}') THEN {_FAIL_AS_TEXT} "
    f"WHEN {_IS_TIME} THEN CAST({_TIME} AS VARCHAR) "
    f"WHEN {_IS_TEXT} OR {_IS_FLOAT} OR {_IS_DECIMAL} OR {_IS_WHOLE} "
    f"OR typeof(v) IN ('BOOLEAN', 'DATE', '\"NULL\"') THEN {_TEXT} ELSE {_FAIL_AS_TEXT} END",
    "whole": f"CASE WHEN {_IS_TEXT} THEN CAST(regexp_replace({_TRIMMED}, '[^0-9+-]', '?', 'g') AS BIGINT) "
    f"WHEN {_IS_FLOAT} THEN CAST(trunc(CAST(v AS DOUBLE)) AS BIGINT) "
    f"WHEN {_IS_DECIMAL} THEN CAST(split_part({_TEXT}, '.', 1) AS BIGINT) "
    f"WHEN {_IS_TIME} THEN CAST(floor(epoch({_TIME})) AS BIGINT) ELSE CAST(v AS BIGINT) END",
    "double": f"CASE WHEN {_IS_TEXT} THEN CAST({_NO_UNDERSCORE} AS DOUBLE) ELSE CAST(v AS DOUBLE) END",
    "float": f"CASE WHEN {_IS_TEXT} THEN CAST({_NO_UNDERSCORE} AS FLOAT) ELSE CAST(v AS FLOAT) END",
    "digits": f"CASE WHEN {_IS_TEXT} THEN {_NO_UNDERSCORE} ELSE {_TEXT} END",
    "boolean": f"CASE WHEN {_IS_TEXT} THEN CAST({_TRIMMED} AS BOOLEAN) ELSE CAST(v AS BOOLEAN) END",
    "date": f"CASE WHEN {_IS_TEXT} THEN {_DATE} "
    f"WHEN {_IS_TIME} THEN CAST({_TIME} AS DATE) ELSE CAST(v AS DATE) END",
    "timestamp": _timestamp(f"CAST(CAST({_CLOCK} AS TIMESTAMPTZ) AS TIMESTAMP)"),
    "local_timestamp": _timestamp(f"CAST({_CLOCK} AS TIMESTAMP)"),
}
_ONE = {
    # an operand of / and avg, whose result for decimals has another number of digits in Spark
    "number": f"CASE WHEN {_IS_DECIMAL} THEN {_FAIL} "
    f"WHEN {_IS_TEXT} THEN CAST({_NO_UNDERSCORE} AS DOUBLE) ELSE CAST(v AS DOUBLE) END",
    "not_zero": f"CASE WHEN v = 0 THEN {_FAIL} ELSE v END",
    "whole_operand": f"CASE WHEN {_IS_WHOLE} THEN CAST(v AS BIGINT) ELSE CAST({_FAIL} AS BIGINT) END",
    "positive": "CASE WHEN CAST(v AS DOUBLE) > 0 THEN CAST(v AS DOUBLE) END",
    "not_negative": "CASE WHEN v < 0 THEN 0 ELSE v END",
    "start": "CASE WHEN v = 0 THEN 1 ELSE v END",
    "upper": f"CASE WHEN regexp_matches(v, '{_UPPER_ODD}') THEN {_FAIL_AS_TEXT} "
    "ELSE upper(replace(v, 'ß', 'SS')) END",
    "lower": f"CASE WHEN regexp_matches(v, '{_LOWER_ODD}') THEN {_FAIL_AS_TEXT} ELSE lower(v) END",
    "reverse": "array_to_string(list_reverse(regexp_extract_all(v, '(?s).')), '')",
    "upwards": f"CASE WHEN {_IS_WHOLE} THEN CAST(v AS BIGINT) WHEN {_IS_DECIMAL} "
    "THEN CAST(ceil(CAST(v AS DECIMAL(38, 10))) AS BIGINT) ELSE CAST(ceil(CAST(v AS DOUBLE)) AS BIGINT) END",
    "downwards": f"CASE WHEN {_IS_WHOLE} THEN CAST(v AS BIGINT) WHEN {_IS_DECIMAL} "
    "THEN CAST(floor(CAST(v AS DECIMAL(38, 10))) AS BIGINT) ELSE CAST(floor(CAST(v AS DOUBLE)) AS BIGINT) END",
    "magnitude": "abs(v)",
}
_SEVERAL = {
    "contains(l, e)": "list_transform([{'l': l, 'e': e}], lambda v: CASE WHEN v.l IS NULL OR v.e IS NULL "
    "THEN NULL WHEN list_contains(v.l, v.e) THEN true WHEN list_count(v.l) < len(v.l) THEN NULL "
    "ELSE false END)[1]",
    "months(a, b)": "list_transform([{'a': CAST(a AS TIMESTAMP), 'b': CAST(b AS TIMESTAMP)}], lambda v: "
    "(year(v.a) - year(v.b)) * 12 + month(v.a) - month(v.b) + CASE WHEN day(v.a) = day(v.b) OR "
    "(last_day(v.a) = CAST(v.a AS DATE) AND last_day(v.b) = CAST(v.b AS DATE)) THEN CAST(0 AS DOUBLE) "
    "ELSE ((day(v.a) - day(v.b)) * 86400 + floor(epoch(v.a) - epoch(CAST(CAST(v.a AS DATE) AS TIMESTAMP))) "
    "- floor(epoch(v.b) - epoch(CAST(CAST(v.b AS DATE) AS TIMESTAMP)))) / 2678400.0::DOUBLE END)[1]",
    # The first argument chooses the variant by its type.
    "shifted_by_type": "(k DATE, v, i) AS CAST(v + i AS DATE), (k TIMESTAMP, v, i) AS v + i, "
    "(k TIMESTAMPTZ, v, i) AS CAST(v AS TIMESTAMP) + i",
    "shifted(x, i)": "list_transform([x], lambda v: spark_shifted_by_type(v, v, i))[1]",
}
MAX_DIGITS = 9


def create_macros(engine: "Engine") -> None:
    """Create the macros `spark_…` in an engine."""
    for statement in _statements():
        engine.execute(statement)


def _statements() -> Iterator[str]:
    for name, body in _CASTS.items():
        yield _macro(f"{name}(x)", f"list_transform([x], lambda v: {body})[1]")
        yield _macro(f"{name}_or_null(x)", f"list_transform([x], lambda v: TRY({body}))[1]")
    for name, body in _ONE.items():
        yield _macro(f"{name}(x)", f"list_transform([x], lambda v: {body})[1]")
    for name, body in _SEVERAL.items():
        yield _macro(name, body)
    for digits in range(MAX_DIGITS + 1):
        yield from _rounding(digits)


def _macro(name: str, body: str) -> str:
    return f"CREATE TEMP MACRO spark_{name} {'' if body.startswith('(k ') else 'AS '}{body}"


def _rounding(digits: int) -> Iterator[str]:
    """Yield macros that round half up; floating-point numbers are rounded in their shortest decimal form."""
    exact = f"CAST(CAST(CAST(v AS VARCHAR) AS DECIMAL(38, {digits})) AS DOUBLE)"
    name = f"rounded_{digits}"
    yield _macro(
        f"{name}_by_type",
        f"(k DOUBLE, v) AS {exact}, (k FLOAT, v) AS CAST({exact} AS FLOAT), (k BIGINT, v) AS v, "
        f"(k HUGEINT, v) AS v, (k DECIMAL, v) AS round(v, {digits})",
    )
    yield _macro(f"{name}(x)", f"list_transform([x], lambda v: spark_{name}_by_type(v, v))[1]")
