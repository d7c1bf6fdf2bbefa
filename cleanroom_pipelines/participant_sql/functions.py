"""Functions of Spark that a participant's query may call, and their equivalents in DuckDB.

Lives here: the table of functions, their arguments, and finding the row of a call.
Add here when users need another function. It must be deterministic except for the date, read only its arguments,
return one value, not multiply data (no series, no repetition), and contain each argument once: nested calls would
double the text each time. Tests compare every row with Spark, except those that Spark does not have.
Keep out: functions without an exact DuckDB expression (macros.py); nodes that are not functions (allowed.py).
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ErrorLevel
from sqlglot.parsers.duckdb import DuckDBParser

from cleanroom_pipelines.participant_sql.macros import MAX_DIGITS
from cleanroom_pipelines.participant_sql.patterns import (
    n_groups,
    plain_separator,
    translated_format,
    translated_pattern,
    translated_replacement,
)

MAX_PATTERN_CHARACTERS = 500
MAX_PADDED_CHARACTERS = 1_000
# Filling a template takes time quadratic in their number, and templates are kept by number.
MAX_ARGUMENTS = 255
MAX_SIMILAR = 3

# `value` is any expression, `value...` any number of them; the others are literals, translated by `_LITERALS`.
# In a template, $1 is the first argument; $* stands for all,
# $text for all as texts, and $|| for all texts joined.
_TABLE = """
# missing values, greatest and least
coalesce(value...) = coalesce($*)
greatest(value, value...) = greatest($*)
ifnull(value, value) = coalesce($1, $2)
isnotnull(value) = $1 IS NOT NULL
isnull(value) = $1 IS NULL
least(value, value...) = least($*)
nullif(value, value) = nullif($1, $2)
nvl(value, value) = coalesce($1, $2)
nvl2(value, value, value) = CASE WHEN $1 IS NOT NULL THEN $2 ELSE $3 END
# text
btrim(value) = trim($1, ' ')
btrim(value, value) = trim($1, $2)
char_length(value) = length($1)
character_length(value) = length($1)
concat(value...) = ($||)
concat_ws(value, value...) = concat_ws($text)
contains(value, value) = contains($1, $2)
ends_with(value, value) = ends_with($1, $2)
endswith(value, value) = ends_with($1, $2)
instr(value, value) = strpos($1, $2)
lcase(value) = spark_lower($1)
left(value, value) = left($1, spark_not_negative($2))
len(value) = length($1)
length(value) = length($1)
locate(value, value) = strpos($2, $1)
lower(value) = spark_lower($1)
lpad(value, size) = lpad($1, $2, ' ')
lpad(value, size, value) = lpad($1, $2, $3)
ltrim(value) = ltrim($1, ' ')
md5(value) = md5($1)
position(value, value) = strpos($2, $1)
regexp(value, searched) = regexp_matches($1, $2)
regexp_extract(value, grouped) = regexp_extract($1, $2, 1)
regexp_extract(value, grouped, group) = regexp_extract($1, $2, $3)
regexp_like(value, searched) = regexp_matches($1, $2)
regexp_matches(value, searched) = regexp_matches($1, $2)
regexp_replace(value, pattern, replacement) = regexp_replace($1, $2, $3, 'g')
regexp_replace(value, pattern, replacement, all) = regexp_replace($1, $2, $3, $4)
replace(value, value) = replace($1, $2, '')
replace(value, value, value) = replace($1, $2, $3)
reverse(value) = spark_reverse($1)
right(value, value) = right($1, spark_not_negative($2))
rlike(value, searched) = regexp_matches($1, $2)
rpad(value, size) = rpad($1, $2, ' ')
rpad(value, size, value) = rpad($1, $2, $3)
rtrim(value) = rtrim($1, ' ')
sha(value) = sha1($1)
sha1(value) = sha1($1)
sha2(value, sha256) = sha256($1)
sha256(value) = sha256($1)
split_part(value, text, position) = split_part($1, $2, $3)
starts_with(value, value) = starts_with($1, $2)
startswith(value, value) = starts_with($1, $2)
strpos(value, value) = strpos($1, $2)
substr(value, value) = substring($1, spark_start($2))
substr(value, value, value) = substring($1, spark_start($2), spark_not_negative($3))
substring(value, value) = substring($1, spark_start($2))
substring(value, value, value) = substring($1, spark_start($2), spark_not_negative($3))
translate(value, value, value) = translate($1, $2, $3)
trim(value) = trim($1, ' ')
ucase(value) = spark_upper($1)
upper(value) = spark_upper($1)
# arrays
array_contains(value, value) = spark_contains($1, $2)
array_size(value) = len($1)
cardinality(value) = len($1)
size(value) = len($1)
split(value, separator) = string_split($1, $2)
# numbers
abs(value) = abs($1)
ceil(value) = spark_upwards($1)
ceiling(value) = spark_upwards($1)
exp(value) = exp($1)
floor(value) = spark_downwards($1)
ln(value) = ln(spark_positive($1))
log(value) = ln(spark_positive($1))
log10(value) = log10(spark_positive($1))
log2(value) = log2(spark_positive($1))
mod(value, value) = $1 % spark_not_zero($2)
pow(value, value) = pow(spark_double($1), spark_double($2))
power(value, value) = pow(spark_double($1), spark_double($2))
round(value) = spark_rounded_0($1)
round(value, digits) = spark_rounded_digits($1)
sign(value) = spark_double(sign($1))
signum(value) = spark_double(sign($1))
sqrt(value) = sqrt($1)
# dates and times
add_months(value, value) = CAST(spark_date($1) + to_months(CAST(spark_whole($2) AS INT)) AS DATE)
curdate() = current_date
current_date() = current_date
current_timestamp() = CAST(current_timestamp AS TIMESTAMP)
date(value) = spark_date($1)
date_add(value, interval) = spark_shifted($1, $2)
date_add(value, value) = spark_date($1) + CAST(spark_whole($2) AS INT)
date_diff(quoted_unit, value, value) = date_diff($1, $2, $3)
date_diff(unit, value, value) = date_sub($1, spark_timestamp($2), spark_timestamp($3))
date_diff(value, value) = spark_date($1) - spark_date($2)
date_format(value, format) = strftime(spark_timestamp($1), $2)
date_sub(value, value) = spark_date($1) - CAST(spark_whole($2) AS INT)
date_trunc(quoted_unit, value) = date_trunc($1, spark_timestamp($2))
dateadd(value, value) = spark_date($1) + CAST(spark_whole($2) AS INT)
datediff(quoted_unit, value, value) = date_diff($1, $2, $3)
datediff(unit, value, value) = date_sub($1, spark_timestamp($2), spark_timestamp($3))
datediff(value, value) = spark_date($1) - spark_date($2)
day(value) = day(spark_date($1))
dayofmonth(value) = day(spark_date($1))
dayofweek(value) = dayofweek(spark_date($1)) + 1
dayofyear(value) = dayofyear(spark_date($1))
epoch(value) = epoch($1)
epoch_ms(value) = epoch_ms($1)
from_unixtime(value) = strftime(make_timestamp(spark_whole($1) * 1000000), '%Y-%m-%d %H:%M:%S')
from_unixtime(value, format) = strftime(make_timestamp(spark_whole($1) * 1000000), $2)
hour(value) = hour(spark_timestamp($1))
last_day(value) = last_day(spark_date($1))
make_date(value, value, value) = make_date($1, $2, $3)
minute(value) = minute(spark_timestamp($1))
month(value) = month(spark_date($1))
months_between(value, value) = floor(spark_months(spark_timestamp($1), spark_timestamp($2)) * 1e8 + 0.5) / 1e8
months_between(value, value, false) = spark_months(spark_timestamp($1), spark_timestamp($2))
now() = CAST(current_timestamp AS TIMESTAMP)
quarter(value) = quarter(spark_date($1))
second(value) = second(spark_timestamp($1))
strftime(value, strftime) = strftime($1, $2)
strptime(value, strftime) = strptime($1, $2)
timestamp(value) = spark_timestamp($1)
timestampdiff(unit, value, value) = date_sub($1, spark_timestamp($2), spark_timestamp($3))
to_date(value) = spark_date($1)
to_date(value, read_format) = CAST(strptime($1, $2) AS DATE)
to_timestamp(value) = spark_timestamp($1)
to_timestamp(value, read_format) = strptime($1, $2)
to_unix_timestamp(value) = spark_whole(spark_timestamp($1))
trunc(value, quoted_unit) = CAST(date_trunc($2, spark_date($1)) AS DATE)
unix_timestamp(value) = spark_whole(spark_timestamp($1))
week(value) = week(spark_date($1))
weekday(value) = isodow(spark_date($1)) - 1
weekofyear(value) = week(spark_date($1))
year(value) = year(spark_date($1))
"""

_AGGREGATES = """
any(value) = bool_or($1)
approx_count_distinct(value) = count(DISTINCT $1)
avg(value) = avg(spark_number($1))
bool_and(value) = bool_and($1)
bool_or(value) = bool_or($1)
count(star) = count($1)
count(value) = count($1)
count_if(value) = count(nullif($1, false))
every(value) = bool_and($1)
max(value) = max($1)
mean(value) = avg(spark_number($1))
median(value) = quantile_cont(spark_double($1), 0.5)
min(value) = min($1)
percentile(value, fraction) = quantile_cont(spark_double($1), $2)
some(value) = bool_or($1)
std(value) = stddev_samp(spark_double($1))
stddev(value) = stddev_samp(spark_double($1))
stddev_pop(value) = stddev_pop(spark_double($1))
stddev_samp(value) = stddev_samp(spark_double($1))
sum(value) = sum($1)
var_pop(value) = var_pop(spark_double($1))
var_samp(value) = var_samp(spark_double($1))
variance(value) = var_samp(spark_double($1))
"""

_WINDOWS = """
cume_dist() = cume_dist()
dense_rank() = dense_rank()
first_value(value) = first_value($1)
lag(value) = lag($1)
lag(value, value) = lag($1, $2)
lag(value, value, value) = lag($1, $2, $3)
last_value(value) = last_value($1)
lead(value) = lead($1)
lead(value, value) = lead($1, $2)
lead(value, value, value) = lead($1, $2, $3)
nth_value(value, value) = nth_value($1, $2)
ntile(value) = ntile($1)
percent_rank() = percent_rank()
rank() = rank()
row_number() = row_number()
"""

# Spark's cast of a text to a type may stop with an error, try_cast gives NULL: by name of the type.
CASTS = {
    exp.DType.BIGINT: "spark_whole",
    exp.DType.BOOLEAN: "spark_boolean",
    exp.DType.DATE: "spark_date",
    exp.DType.DOUBLE: "spark_double",
    exp.DType.FLOAT: "spark_float",
    exp.DType.INT: "spark_whole",
    exp.DType.SMALLINT: "spark_whole",
    exp.DType.TEXT: "spark_text",
    exp.DType.TIMESTAMP: "spark_timestamp",
    exp.DType.TIMESTAMPNTZ: "spark_local_timestamp",
    exp.DType.TIMESTAMPTZ: "spark_timestamp",
    exp.DType.TINYINT: "spark_whole",
    exp.DType.DECIMAL: "spark_digits",
}

# The function that computes each field of EXTRACT.
FIELDS = {
    **dict.fromkeys(("YEAR", "YEARS"), "year"),
    **dict.fromkeys(("QUARTER",), "quarter"),
    **dict.fromkeys(("MONTH", "MONTHS"), "month"),
    **dict.fromkeys(("WEEK", "WEEKS"), "weekofyear"),
    **dict.fromkeys(("DAY", "DAYS"), "day"),
    **dict.fromkeys(("DOW", "DAYOFWEEK"), "dayofweek"),
    **dict.fromkeys(("DOY",), "dayofyear"),
    **dict.fromkeys(("HOUR", "HOURS"), "hour"),
    **dict.fromkeys(("MINUTE", "MINUTES"), "minute"),
    **dict.fromkeys(("EPOCH",), "epoch"),
}

_UNITS = {
    **dict.fromkeys(("YEAR", "YYYY", "YY"), "year"),
    **dict.fromkeys(("QUARTER",), "quarter"),
    **dict.fromkeys(("MONTH", "MM", "MON"), "month"),
    **dict.fromkeys(("WEEK",), "week"),
    **dict.fromkeys(("DAY", "DD"), "day"),
    **{unit: unit.lower() for unit in ("HOUR", "MINUTE", "SECOND")},
}
# Differences in whole units of these are the same in both engines; differences in months are not.
_SPANS = {"WEEK", "DAY", "HOUR", "MINUTE", "SECOND"}


@dataclass(frozen=True)
class Function:
    """One row of the table of functions: a Spark function with one of its argument lists.

    Args:
        kinds: The kinds of its arguments.
        template: The equivalent DuckDB expression, with `$1`, … as arguments.
        is_aggregate: Whether it takes DISTINCT.
    """

    kinds: tuple[str, ...]
    template: str
    is_aggregate: bool

    def takes(self, n_arguments: int) -> bool:
        """Return whether the function accepts this number of arguments."""
        if self.kinds and self.kinds[-1] == "value...":
            return len(self.kinds) <= n_arguments <= MAX_ARGUMENTS
        return n_arguments == len(self.kinds)


def _rows() -> Iterator[tuple[str, Function]]:
    for table in (_TABLE, _AGGREGATES, _WINDOWS):
        for line in table.strip().splitlines():
            if not line.startswith("#"):
                head, template = line.split(" = ", 1)
                name, arguments = head.rstrip(")").split("(")
                kinds = tuple(arguments.split(", ")) if arguments else ()
                yield name, Function(kinds, template, table is _AGGREGATES)


def _by_name() -> Mapping[str, tuple[Function, ...]]:
    found: dict[str, tuple[Function, ...]] = {}
    for name, function in _rows():
        found[name] = (*found.get(name, ()), function)
    return found


FUNCTIONS: Mapping[str, tuple[Function, ...]] = _by_name()
# Calls for which the parser has its own node types, and that a query may use too.
_OTHER_NAMES = ("cast", "exists", "extract", "if", "try_cast")


def similar_names(name: str) -> list[str]:
    """Return names of available functions that resemble the given name, the closest first."""
    return difflib.get_close_matches(name.lower(), [*FUNCTIONS, *_OTHER_NAMES], MAX_SIMILAR, 0.7)


def fitting(name: str, arguments: list[exp.Expr]) -> tuple[Function, list[exp.Expr]] | None:
    """Find the row of the function table that fits a call, and translate the call's literal arguments.

    Args:
        name: Name of the function, in any case.
        arguments: The arguments of the call.

    Returns:
        The row and the arguments for its template; None if no row fits.
    """
    for function in FUNCTIONS.get(name.lower(), ()):
        if function.takes(len(arguments)):
            kinds = [*function.kinds, *["value"] * (len(arguments) - len(function.kinds))]
            translated = [_translated(kind, node, arguments) for kind, node in zip(kinds, arguments, strict=True)]
            if None not in translated:
                return function, [node for node in translated if node is not None]
    return None


def _translated(kind: str, node: exp.Expr, arguments: list[exp.Expr]) -> exp.Expr | None:
    if kind in _NODES:
        return _NODES[kind](node)
    if not isinstance(node, exp.Literal) or len(node.name) > MAX_PATTERN_CHARACTERS:
        return None
    if kind in _NUMBERS:
        return node if not node.is_string and _NUMBERS[kind](node.name) else None
    has_no_group = kind == "grouped" and len(arguments) == 2 and n_groups(node.name) == 0
    text = _TEXTS[kind](node.name) if node.is_string and not has_no_group else None
    return None if text is None else exp.Literal.string(text)


def _span(node: exp.Expr) -> exp.Expr | None:
    is_word = isinstance(node, exp.Column) and not node.table and not node.this.args.get("quoted")
    return exp.Literal.string(node.name.lower()) if is_word and node.name.upper() in _SPANS else None


_NODES: Mapping[str, Callable[[exp.Expr], exp.Expr | None]] = {
    "value": lambda node: None if isinstance(node, exp.Star | exp.Interval) else node,
    "value...": lambda node: None if isinstance(node, exp.Star | exp.Interval) else node,
    "star": lambda node: node if isinstance(node, exp.Star) else None,
    "interval": lambda node: node if isinstance(node, exp.Interval) else None,
    "false": lambda node: node if isinstance(node, exp.Boolean) and not node.this else None,
    "unit": _span,
}
_NUMBERS: Mapping[str, Callable[[str], bool]] = {
    "size": lambda text: text.isdecimal() and len(text) <= 4 and int(text) <= MAX_PADDED_CHARACTERS,
    "digits": lambda text: text.isdecimal() and len(text) == 1 and int(text) <= MAX_DIGITS,
    "group": lambda text: text.isdecimal() and len(text) == 1,
    "position": lambda text: text.isdecimal() and 0 < len(text) <= 6 and int(text) > 0,
    "sha256": lambda text: text in {"0", "256"},
    "fraction": lambda text: re.fullmatch(r"0?\.[0-9]{1,15}|[01](\.0{0,15})?", text) is not None,
}
_TEXTS: Mapping[str, Callable[[str], str | None]] = {
    "all": lambda text: text if text == "g" else None,
    "format": lambda text: translated_format(text, is_read=False),
    "grouped": lambda text: translated_pattern(text, is_search=False),
    "pattern": lambda text: translated_pattern(text, is_search=False),
    "quoted_unit": lambda text: _UNITS.get(text.upper()),
    "read_format": lambda text: translated_format(text, is_read=True),
    "replacement": translated_replacement,
    "searched": lambda text: translated_pattern(text, is_search=True),
    "separator": plain_separator,
    "strftime": lambda text: text,
    "text": lambda text: text or None,
}


class _TemplateParser(DuckDBParser):
    """Parser of DuckDB templates that keeps function calls as they are written."""

    FUNCTIONS: ClassVar[dict[str, Callable[..., exp.Expr]]] = {}
    FUNCTION_PARSERS: ClassVar = {"CAST": DuckDBParser.FUNCTION_PARSERS["CAST"]}


@cache
def _parsed(template: str) -> exp.Expr:
    (tree,) = _TemplateParser(dialect=DuckDB(), error_level=ErrorLevel.IMMEDIATE).parse(
        DuckDB().tokenize(template), template
    )
    assert tree is not None
    return tree


def filled(function: Function, arguments: list[exp.Expr]) -> exp.Expr:
    """Return a function's template as a syntax tree, with the arguments in their places."""
    places = [f"${number + 1}" for number in range(len(arguments))]
    texts = [f"spark_text({place})" for place in places]
    template = function.template.replace("$*", ", ".join(places)).replace("$text", ", ".join(texts))
    template = template.replace("$||", " || ".join(texts))
    if "digits" in function.kinds:
        template = template.replace("digits", arguments[-1].name)
    tree = exp.Paren(this=_parsed(template).copy())
    for place in list(tree.find_all(exp.Placeholder)):
        argument = arguments[int(place.name) - 1]
        is_delimited = isinstance(place.parent, exp.Anonymous | exp.Cast | exp.Distinct)
        place.replace(argument if is_delimited else exp.Paren(this=argument))
    return tree.this.pop() if isinstance(tree.this, exp.Anonymous | exp.Cast) else tree
