"""Translation of a checked syntax tree from Spark's SQL to DuckDB's.

Lives here: what an operator, cast, function or clause of Spark is in DuckDB.
Add here when a node of the tree means something else in DuckDB.
Keep out: what is allowed at all (allowed.py, checking.py); the functions (functions.py).

Nodes are replaced from the leaves up. No argument is copied, so that the result is not longer than the query.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from sqlglot import exp

from cleanroom_pipelines.participant_sql.functions import CASTS, FIELDS, Function, filled, fitting

_DATE_UNITS = re.compile(r"(?:[+-]?[0-9]{1,9} *(?:day|week|month|quarter|year)s? *)+", re.IGNORECASE)
_TIME_UNITS = re.compile(r"(?:[+-]?[0-9]{1,9} *(?:second|minute|hour|day|week)s? *)+", re.IGNORECASE)
_NULLS_IGNORED: Mapping[str, type[exp.Expr]] = {
    "first_value": exp.FirstValue,
    "last_value": exp.LastValue,
    "nth_value": exp.NthValue,
    "lag": exp.Lag,
    "lead": exp.Lead,
}
_ESCAPE = "\\"


class NotAvailableError(Exception):
    """The query uses SQL that has no exact equivalent in DuckDB.

    Args:
        what: What it is, without quoting the query.
        remedy: What to write instead.
        function: The name of the function in question, as in the query.
    """

    def __init__(self, what: str, remedy: str = "", function: str = "") -> None:
        super().__init__(what)
        self.what, self.remedy, self.function = what, remedy, function


def translate(tree: exp.Expr) -> None:
    """Translate a syntax tree in place.

    Args:
        tree: A SELECT or a set operation, checked.

    Raises:
        NotAvailableError: A function is not available, or something has no exact meaning in DuckDB.
    """
    stack, nodes = [tree], []
    while stack:
        nodes.append(node := stack.pop())
        stack += node.iter_expressions()
    for node in reversed(nodes):
        handler = _HANDLERS.get(type(node))
        if handler is not None:
            old = node.parent
            key, index = node.arg_key, node.index
            new = handler(node)
            if new is not node and old is not None and key is not None:
                old.set(key, new, index)


def _call(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=list(arguments))


# --- Functions ---


def _function(node: exp.Expr) -> exp.Expr:
    name, arguments = node.name, list(node.expressions)
    mark = (
        arguments[0] if len(arguments) > 0 and isinstance(arguments[0], exp.Distinct | exp.IgnoreNulls) else None
    )
    if isinstance(mark, exp.Distinct):
        arguments[0:1] = mark.expressions
    elif mark is not None:
        arguments[0] = mark.this
    function, arguments = _row(name, arguments)
    called = filled(function, arguments)
    if isinstance(mark, exp.Distinct):
        return _distinct(name, function, called)
    return _ignoring_nulls(name, called) if mark is not None else called


def _row(name: str, arguments: list[exp.Expr]) -> tuple[Function, list[exp.Expr]]:
    odd = (exp.Order, exp.Distinct, exp.IgnoreNulls, exp.Where, exp.Limit, exp.Alias)
    found = None if any(isinstance(argument, odd) for argument in arguments) else fitting(name, arguments)
    if found is None:
        raise NotAvailableError("a function", function=name)
    return found


def _distinct(name: str, function: Function, called: exp.Expr) -> exp.Expr:
    if not function.is_aggregate or len(called.expressions) != 1:
        raise NotAvailableError("DISTINCT in a function that does not take it", function=name)
    argument = called.expressions[0]
    if not isinstance(argument, exp.Distinct):
        called.set("expressions", [exp.Distinct(expressions=[argument])])
    return called


def _ignoring_nulls(name: str, called: exp.Expr) -> exp.Expr:
    kind = _NULLS_IGNORED.get(name.lower())
    if kind is None:
        raise NotAvailableError("IGNORE NULLS in a function that does not take it", function=name)
    arguments = dict(zip(("this", "offset", "default"), called.expressions, strict=False))
    return exp.IgnoreNulls(this=kind(**arguments))


def _ignore_nulls(node: exp.Expr) -> exp.Expr:
    """Translate IGNORE NULLS that follows a call; inside a call, the call's own translation handles it."""
    is_after = isinstance(node.this, exp.Anonymous) and not isinstance(node.parent, exp.Anonymous)
    return _ignoring_nulls(node.this.name, node.this) if is_after else node


def _named(name: str, *arguments: exp.Expr | None) -> exp.Expr:
    return filled(*_row(name, [argument for argument in arguments if argument is not None]))


def _substring(node: exp.Expr) -> exp.Expr:
    return _named("substring", node.this, node.args.get("start"), node.args.get("length"))


def _position(node: exp.Expr) -> exp.Expr:
    return _named("strpos", node.this, node.args["substr"])


def _trim(node: exp.Expr) -> exp.Expr:
    names = {"LEADING": "ltrim", "TRAILING": "rtrim"}
    place = str(node.args.get("position") or "").upper()
    return _call(names.get(place, "trim"), node.this, node.args.get("expression") or exp.Literal.string(" "))


def _extract(node: exp.Expr) -> exp.Expr:
    field = FIELDS.get(node.name.upper())
    if field is None:
        raise NotAvailableError("a field of EXTRACT that is not available", "Use a function such as second().")
    return _named(field, node.expression)


def _rlike(node: exp.Expr) -> exp.Expr:
    return _named("rlike", node.this, node.expression)


# --- Operators ---


def _divide(node: exp.Expr) -> exp.Expr:
    for operand in (node.this, node.expression):
        if isinstance(operand, exp.Literal) and not operand.is_string and _is_decimal(operand.name):
            raise NotAvailableError(
                "a division with a DECIMAL, whose result would have other digits in Spark",
                "Write a whole number, or CAST it AS DOUBLE.",
            )
    divisor = _call("spark_number", node.expression)
    return exp.Paren(this=exp.Div(this=_call("spark_number", node.this), expression=_not_zero(divisor)))


def _is_decimal(number: str) -> bool:
    return "." in number and "e" not in number.lower()


def _not_zero(divisor: exp.Expr) -> exp.Expr:
    value = divisor.expressions[0] if isinstance(divisor, exp.Anonymous) and divisor.expressions else divisor
    is_number = isinstance(value, exp.Literal) and not value.is_string
    return divisor if is_number and float(value.name) != 0 else _call("spark_not_zero", divisor)


def _divide_whole(node: exp.Expr) -> exp.Expr:
    divisor = _call("spark_whole_operand", node.expression)
    dividend = _call("spark_whole_operand", node.this)
    return exp.Paren(this=exp.IntDiv(this=dividend, expression=_not_zero(divisor)))


def _modulo(node: exp.Expr) -> exp.Expr:
    node.set("expression", _not_zero(node.expression))
    return node


def _join_texts(node: exp.Expr) -> exp.Expr:
    for name in ("this", "expression"):
        operand = node.args[name]
        if not isinstance(operand, exp.DPipe) and not (isinstance(operand, exp.Literal) and operand.is_string):
            node.set(name, _call("spark_text", operand))
    return exp.DPipe(this=node.this, expression=node.expression)


def _shift(node: exp.Expr) -> exp.Expr:
    """Add an interval to a date or time; a date plus days or longer units stays a date."""
    value, interval = node.this, node.expression
    if isinstance(value, exp.Interval) and isinstance(node, exp.Add):
        value, interval = interval, value
    if not isinstance(interval, exp.Interval) or isinstance(value, exp.Interval):
        return node
    if _is_of(interval, _DATE_UNITS):
        return _call("spark_shifted", value, exp.Neg(this=interval) if isinstance(node, exp.Sub) else interval)
    if not _is_of(interval, _TIME_UNITS):
        raise NotAvailableError("an interval of mixed or unknown units", "Add one interval for each unit.")
    return exp.Paren(this=type(node)(this=_call("spark_timestamp", value), expression=interval))


def _is_of(interval: exp.Expr, units: re.Pattern[str]) -> bool:
    value, unit = interval.this, interval.text("unit")
    if isinstance(value, exp.Literal):
        return units.fullmatch(f"{value.name} {unit}".strip()) is not None
    return units.fullmatch(f"1 {unit}") is not None


def _interval(node: exp.Expr) -> exp.Expr:
    if not isinstance(node.parent, exp.Add | exp.Sub | exp.WindowSpec | exp.Anonymous):
        raise NotAvailableError(
            "an interval that is not added to or subtracted from a date", "Write date + INTERVAL '3' DAY."
        )
    operands = [node.parent.args.get(name) for name in ("this", "expression")]
    if all(isinstance(operand, exp.Interval) for operand in operands):
        raise NotAvailableError(
            "an interval of several parts", "Write all parts in one string: INTERVAL '1 day 2 hours'."
        )
    return node


def _like(node: exp.Expr) -> exp.Expr:
    pattern = node.expression
    if isinstance(pattern, exp.Any | exp.All):
        raise NotAvailableError("LIKE ANY or LIKE ALL", "Write one LIKE for each pattern, with OR or AND.")
    if isinstance(node, exp.ILike):
        lower = exp.Literal.string(pattern.name.lower()) if _is_ascii(pattern) else _call("spark_lower", pattern)
        node = exp.Like(this=_call("spark_lower", node.this), expression=lower, negate=node.args.get("negate"))
    elif isinstance(node.parent, exp.Escape) and node.arg_key == "this":
        return node
    if isinstance(pattern, exp.Literal) and _ESCAPE not in pattern.name:
        return node
    return exp.Paren(this=exp.Escape(this=node, expression=exp.Literal.string(_ESCAPE)))


def _is_ascii(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and node.name.isascii()


def _escape(node: exp.Expr) -> exp.Expr:
    if not isinstance(node.this, exp.Like) or not _is_ascii(node.expression) or len(node.expression.name) != 1:
        raise NotAvailableError("an ESCAPE without LIKE, or with several characters", "Write LIKE '…' ESCAPE '!'.")
    return node


# --- Casts ---


def _cast(node: exp.Expr) -> exp.Expr:
    value, to, is_try = node.this, node.args["to"], isinstance(node, exp.TryCast)
    kind = to.this
    if kind is exp.DType.DECIMAL and not to.expressions:
        to.set("expressions", [exp.DataTypeParam(this=exp.Literal.number(digits)) for digits in (10, 0)])
    if kind in {exp.DType.TIMESTAMPTZ, exp.DType.TIMESTAMPNTZ}:
        to.set("this", exp.DType.TIMESTAMP)
    if isinstance(value, exp.Literal) and value.is_string and kind is exp.DType.DATE and not is_try:
        return node
    converted = _call(f"{CASTS[kind]}{'_or_null' if is_try else ''}", value)
    if kind in _NARROWER:
        return exp.TryCast(this=converted, to=to) if is_try else exp.Cast(this=converted, to=to)
    return converted


_NARROWER = {exp.DType.INT, exp.DType.SMALLINT, exp.DType.TINYINT, exp.DType.DECIMAL}


# --- Clauses ---


def _join(node: exp.Expr) -> exp.Expr:
    if node.text("kind").upper() in {"SEMI", "ANTI"}:
        if node.text("side").upper() not in {"", "LEFT"}:
            raise NotAvailableError("a right SEMI or ANTI JOIN", "Write LEFT SEMI JOIN or LEFT ANTI JOIN.")
        node.set("side", None)
    return node


def _now(node: exp.Expr) -> exp.Expr:
    return exp.Cast(this=node.copy(), to=exp.DataType(this=exp.DType.TIMESTAMP))


_HANDLERS: Mapping[type[exp.Expr], Callable[[Any], exp.Expr]] = {
    exp.Anonymous: _function,
    exp.IgnoreNulls: _ignore_nulls,
    exp.Substring: _substring,
    exp.StrPosition: _position,
    exp.Trim: _trim,
    exp.Extract: _extract,
    exp.RegexpLike: _rlike,
    exp.Div: _divide,
    exp.IntDiv: _divide_whole,
    exp.Mod: _modulo,
    exp.DPipe: _join_texts,
    exp.Add: _shift,
    exp.Sub: _shift,
    exp.Interval: _interval,
    exp.Like: _like,
    exp.ILike: _like,
    exp.Escape: _escape,
    exp.Cast: _cast,
    exp.TryCast: _cast,
    exp.Join: _join,
    exp.CurrentTimestamp: _now,
}
