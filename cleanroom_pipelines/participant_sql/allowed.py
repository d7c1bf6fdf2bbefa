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

_FUNCTIONS: Mapping[type[exp.Expr], str] = {
    # missing values, greatest and least
    exp.Coalesce: "this expressions is_nvl is_null",
    exp.Nullif: _BINARY,
    exp.Greatest: "this expressions ignore_nulls",
    exp.Least: "this expressions ignore_nulls",
    # text
    exp.Concat: "expressions safe coalesce",
    exp.ConcatWs: "expressions safe coalesce",
    exp.Contains: _BINARY,
    exp.EndsWith: _BINARY,
    exp.Left: _BINARY,
    exp.Length: "this",
    exp.Lower: "this",
    exp.MD5: "this",
    exp.Pad: "this expression fill_pattern is_left",
    exp.RegexpExtract: "this expression group null_if_pos_overflow",
    exp.RegexpLike: _BINARY,
    exp.RegexpReplace: "this expression replacement modifiers single_replace",
    exp.Replace: "this expression replacement",
    exp.Reverse: "this",
    exp.Right: _BINARY,
    exp.SHA2: "this length",
    exp.SplitPart: "this delimiter part_index",
    exp.StartsWith: _BINARY,
    exp.StrPosition: "this substr",
    exp.Substring: "this start length",
    exp.Translate: "this from_ to",
    exp.Trim: "this expression position",
    exp.Upper: "this",
    # numbers
    exp.Abs: "this",
    exp.Ceil: "this",
    exp.Exp: "this",
    exp.Floor: "this",
    exp.Ln: "this",
    exp.Pow: _BINARY,
    exp.Round: "this decimals",
    exp.Sign: "this",
    exp.Sqrt: "this",
    # dates and times
    exp.CurrentDate: "",
    exp.CurrentTimestamp: "",
    exp.Date: "this",
    exp.DateAdd: "this expression",
    exp.DateDiff: "this expression unit date_part_boundary",
    exp.DateFromParts: "year month day",
    exp.DateTrunc: "this unit",
    exp.Day: "this",
    exp.DayOfWeek: "this",
    exp.Extract: _BINARY,
    exp.Hour: "this",
    exp.LastDay: "this",
    exp.Month: "this",
    exp.Quarter: "this",
    exp.StrToTime: "this format",
    exp.TimeToStr: "this format",
    exp.TimeToUnix: "this",
    exp.TimestampTrunc: "this unit input_type_preserved",
    exp.UnixToTime: "this scale",
    exp.Week: "this",
    exp.Year: "this",
    # aggregates
    exp.ApproxDistinct: "this",
    exp.Avg: "this",
    exp.Count: "this big_int",
    exp.CountIf: "this",
    exp.Filter: _BINARY,
    exp.LogicalAnd: "this",
    exp.LogicalOr: "this",
    exp.Max: "this",
    exp.Median: "this",
    exp.Min: "this",
    exp.Stddev: "this",
    exp.StddevPop: "this",
    exp.StddevSamp: "this",
    exp.Sum: "this",
    exp.Variance: "this",
    exp.VariancePop: "this",
    # windows
    exp.CumeDist: "",
    exp.DenseRank: "",
    exp.FirstValue: "this",
    exp.IgnoreNulls: "this",
    exp.Lag: "this offset default",
    exp.LastValue: "this",
    exp.Lead: "this offset default",
    exp.NthValue: "this offset",
    exp.Ntile: "this",
    exp.PercentRank: "",
    exp.Rank: "",
    exp.RowNumber: "",
}

ARGUMENTS: Mapping[type[exp.Expr], frozenset[str]] = {
    kind: frozenset(names.split()) for kind, names in {**_CLAUSES, **_EXPRESSIONS, **_FUNCTIONS}.items()
}

TYPES = frozenset(
    {
        DType.BIGINT,
        DType.BOOLEAN,
        DType.CHAR,
        DType.DATE,
        DType.DECIMAL,
        DType.DOUBLE,
        DType.FLOAT,
        DType.INT,
        DType.NCHAR,
        DType.NVARCHAR,
        DType.SMALLINT,
        DType.TEXT,
        DType.TIME,
        DType.TIMESTAMP,
        DType.TIMESTAMPNTZ,
        DType.TIMESTAMPTZ,
        DType.TINYINT,
        DType.VARCHAR,
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

# Their cost grows with their arguments, so patterns and formats must be literals of limited length.
PATTERNS = (exp.RegexpExtract, exp.RegexpLike, exp.RegexpReplace, exp.SimilarTo)
FORMATS = (exp.StrToTime, exp.TimeToStr)
MAX_PATTERN_CHARACTERS = 500
MAX_PADDED_CHARACTERS = 1_000
