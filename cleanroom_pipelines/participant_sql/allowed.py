"""Allowlist of SQL: the syntax-tree nodes that a participant's query may use.

Lives here: node types and functions with their allowed arguments, cast types, words and units.
Add here when users need another function. It must be deterministic except for the date, read only its arguments,
return one value, not multiply data (no series, no repetition), and render each argument only once: nested calls
would double the text each time. A test checks every entry for the last rule.
Keep out: rules that need more than one node (checking.py).

Arguments that are not listed here are rejected, so unknown options are rejected like unknown functions.
"""

from collections.abc import Mapping

from sqlglot import exp
from sqlglot.expressions import DType

_BINARY = "this expression"
_QUERY = "with_ order limit offset"

_CLAUSES: Mapping[type[exp.Expr], str] = {
    exp.Select: f"{_QUERY} expressions distinct from_ joins where group having qualify windows",
    exp.Union: f"{_QUERY} {_BINARY} distinct",
    exp.Intersect: f"{_QUERY} {_BINARY} distinct",
    exp.Except: f"{_QUERY} {_BINARY} distinct",
    exp.Subquery: f"{_QUERY} this alias",
    exp.With: "expressions",
    exp.CTE: "this alias materialized",
    exp.From: "this",
    exp.Table: "this db alias joins",
    exp.TableAlias: "this columns",
    exp.Values: "expressions alias",
    exp.Join: "this on side kind using method",
    exp.Where: "this",
    exp.Group: "expressions all",
    exp.Having: "this",
    exp.Qualify: "this",
    exp.Order: "expressions",
    exp.Ordered: "this desc nulls_first",
    exp.Limit: "expression",
    exp.Offset: "expression",
    exp.Fetch: "direction count limit_options",
    exp.LimitOptions: "rows",
    exp.Distinct: "expressions",
    exp.Window: "this partition_by order spec alias over",
    exp.WindowSpec: "kind start start_side end end_side",
}

_EXPRESSIONS: Mapping[type[exp.Expr], str] = {
    exp.Identifier: "this quoted",
    exp.Column: "this table",
    exp.Star: "",
    exp.Alias: "this alias",
    exp.Literal: "this is_string",
    exp.Placeholder: "this",
    exp.Null: "",
    exp.Boolean: "this",
    exp.Var: "this",
    exp.Paren: "this",
    exp.Tuple: "expressions",
    exp.And: _BINARY,
    exp.Or: _BINARY,
    exp.Not: "this",
    exp.EQ: _BINARY,
    exp.NEQ: _BINARY,
    exp.GT: _BINARY,
    exp.GTE: _BINARY,
    exp.LT: _BINARY,
    exp.LTE: _BINARY,
    exp.NullSafeEQ: _BINARY,
    exp.NullSafeNEQ: _BINARY,
    exp.Is: f"{_BINARY} negate",
    exp.In: "this expressions query",
    exp.Between: "this low high",
    exp.Like: f"{_BINARY} negate",
    exp.ILike: f"{_BINARY} negate",
    exp.Escape: _BINARY,
    exp.SimilarTo: _BINARY,
    exp.Exists: "this",
    exp.Any: "this",
    exp.All: "this",
    exp.Case: "this ifs default",
    exp.If: "this true false",
    exp.Add: _BINARY,
    exp.Sub: _BINARY,
    exp.Mul: _BINARY,
    exp.Div: f"{_BINARY} typed safe",
    exp.IntDiv: _BINARY,
    exp.Mod: _BINARY,
    exp.Neg: "this",
    exp.DPipe: f"{_BINARY} safe",
    exp.Cast: "this to",
    exp.TryCast: "this to safe requires_string",
    exp.DataType: "this expressions nested",
    exp.DataTypeParam: "this",
    exp.Interval: "this unit",
}

# Functions for which the parser has its own node types; the others are `Anonymous` (functions.py).
_FUNCTIONS: Mapping[type[exp.Expr], str] = {
    exp.Anonymous: "this expressions",
    exp.CurrentDate: "",
    exp.CurrentTimestamp: "",
    exp.Extract: _BINARY,
    exp.Filter: _BINARY,
    exp.IgnoreNulls: "this",
    exp.RegexpLike: _BINARY,
    exp.StrPosition: "this substr",
    exp.Substring: "this start length",
    exp.Trim: "this expression position",
}

ARGUMENTS: Mapping[type[exp.Expr], frozenset[str]] = {
    kind: frozenset(names.split()) for kind, names in {**_CLAUSES, **_EXPRESSIONS, **_FUNCTIONS}.items()
}

TYPES = frozenset(
    {
        DType.BIGINT,
        DType.BOOLEAN,
        DType.DATE,
        DType.DECIMAL,
        DType.DOUBLE,
        DType.FLOAT,
        DType.INT,
        DType.SMALLINT,
        DType.TEXT,
        DType.TIMESTAMP,
        DType.TIMESTAMPNTZ,
        DType.TIMESTAMPTZ,
        DType.TINYINT,
    }
)

# Words in upper case that the parser keeps as plain text and the renderer writes unchanged.
WORDS = frozenset(
    {
        *("INNER", "LEFT", "RIGHT", "FULL", "OUTER", "CROSS", "SEMI", "ANTI", "NATURAL"),
        *("OVER", "ROWS", "RANGE", "GROUPS", "UNBOUNDED", "PRECEDING", "FOLLOWING", "CURRENT ROW"),
        *("LEADING", "TRAILING", "BOTH"),
        *("FIRST", "NEXT"),
    }
)

_UNITS = ("SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "QUARTER", "YEAR")
UNITS = frozenset(
    {*_UNITS, *(f"{unit}S" for unit in _UNITS), "DAYOFWEEK", "DAYOFYEAR", "DOW", "DOY", "EPOCH", "ISODOW"}
)
