"""Translation of SQL from DuckDB's dialect to Spark's.

Lives here: `to_spark`, which uses sqlglot, and the differences that sqlglot does not handle.
Add here when a query has another difference; explain it, and cover it in the contract suite.
Keep out: running statements (spark_engine), and engine-specific optimization (the query's own module).

Not translated, on purpose: `rowid` (files on a cluster have no row order), SQL's own `hash()` (the engines
differ), and unsigned types (Spark has none).
"""

from collections.abc import Callable
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from cleanroom_pipelines.errors import EngineError


@dataclass(frozen=True)
class Statement:
    """One SQL statement, translated for Spark.

    Args:
        sql: The query; for a CREATE, the query after AS.
        name: Name of the created view or table; None for a query.
        is_table: Whether the rows are stored, instead of computed at each use.
        n_parameters: Number of its values `:p1`, `:p2`, ….
        reads: Names of the relations it reads, in lower case.
        drops: Name of the dropped view or table; empty for other statements.
    """

    sql: str
    name: str | None = None
    is_table: bool = False
    n_parameters: int = 0
    reads: frozenset[str] = frozenset()
    drops: str = ""


def to_spark(sql: str) -> Statement:
    """Translate a statement from DuckDB's dialect to Spark's.

    Args:
        sql: A query, CREATE [OR REPLACE] TEMP VIEW … AS, CREATE [OR REPLACE] TEMP TABLE … AS, or DROP of one.

    Raises:
        EngineError: It is another kind of statement, or has parts that cannot be translated.
    """
    tree: exp.Expr | None
    try:
        numbered, n_parameters = _with_numbered_values(sql)
        tree = sqlglot.parse_one(numbered, read="duckdb")
    except sqlglot.errors.SqlglotError:
        tree = None
    # Outside the handler: the error quotes the statement, and __context__ would keep it.
    if tree is None:
        raise _not_translated()
    name, is_table = None, False
    if isinstance(tree, exp.Drop):
        target = tree.find(exp.Table)
        if target is None:
            raise _not_translated()
        return Statement("", drops=target.name)
    if isinstance(tree, exp.Create):
        target, query = tree.this, tree.expression
        if not isinstance(target, exp.Table) or not isinstance(query, exp.Query):
            raise _not_translated()
        name, is_table, tree = target.name, tree.kind == "TABLE", query
    if not isinstance(tree, exp.Query):
        raise _not_translated()
    reads = frozenset(table.name.lower() for table in tree.find_all(exp.Table))
    # Parameter names in Spark start with a letter.
    for value in list(tree.find_all(exp.Parameter, exp.Placeholder)):
        value.replace(exp.Placeholder(this=f"p{value.name}"))
    for kind, change in _CHANGES:
        # Inner nodes first, since outer ones are rebuilt from copies of them.
        for node in reversed(list(tree.find_all(kind))):
            new = change(node)
            if new is not None:
                node.replace(new)
    return Statement(tree.sql(dialect="spark", comments=False), name, is_table, n_parameters, reads)


def _not_translated() -> EngineError:
    return EngineError("This kind of statement is not supported on Spark.")


def _with_numbered_values(sql: str) -> tuple[str, int]:
    """Replace each `?` by a numbered parameter, because parsing loses the order of the parameters."""
    text, n_placeholders, largest, done = [], 0, 0, 0
    tokens = sqlglot.tokenize(sql, read="duckdb")
    for position, token in enumerate(tokens):
        if token.token_type is sqlglot.TokenType.PLACEHOLDER:
            n_placeholders += 1
            text += [sql[done : token.start], f"${n_placeholders}"]
            done = token.end + 1
        elif token.token_type is sqlglot.TokenType.PARAMETER and position + 1 < len(tokens):
            largest = max(largest, int(tokens[position + 1].text))
    return "".join([*text, sql[done:]]), max(n_placeholders, largest)


def _function(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=name, expressions=[argument.copy() for argument in arguments])


def _double(text: str) -> exp.Expr:
    return exp.cast(exp.Literal.string(text), exp.DataType.build("DOUBLE"))


# Converts Spark's text of a floating-point number, which is Java's, to DuckDB's: 1.0E7 to 10000000.0, 1.0E-4 to
# 0.0001, 1.5E20 to 1.5e+20, NaN to nan. For other types Spark's optimizer keeps only the first branch; all
# branches work on text, so they are valid for every type.
_TEXT = """CASE
    WHEN NOT typeof(:x) IN ('double', 'float') THEN :text
    WHEN :text IN ('NaN', 'Infinity', '-Infinity') THEN replace(lower(:text), 'inity', '')
    WHEN NOT contains(:text, 'E') THEN :text
    WHEN CAST(split_part(:text, 'E', 2) AS INT) BETWEEN -4 AND 15 THEN regexp_replace(regexp_replace(
        CAST(CAST(:text AS DECIMAL(38, 21)) AS STRING), '0+$', ''), '[.]$', '.0')
    ELSE concat(regexp_replace(split_part(:text, 'E', 1), '[.]0$', ''), 'e',
        CASE WHEN contains(:text, 'E-') THEN '-' ELSE '+' END,
        CASE WHEN length(replace(split_part(:text, 'E', 2), '-', '')) = 1 THEN '0' ELSE '' END,
        replace(split_part(:text, 'E', 2), '-', ''))
    END"""
_TEXT_OF_A_FLOAT = sqlglot.parse_one(_TEXT, read="spark")


def _as_text(value: exp.Expr) -> exp.Expr:
    """Return an expression that converts a value of unknown type to text as DuckDB does."""
    text = exp.cast(value.copy(), exp.DataType.build("VARCHAR"))
    parts = {"x": value, "text": text}
    return exp.paren(
        _TEXT_OF_A_FLOAT.transform(
            lambda node: parts[node.name].copy() if isinstance(node, exp.Placeholder) else node
        )
    )


def _cast(node: exp.Cast) -> exp.Expr | None:
    to = node.to
    if to.is_type(exp.DataType.Type.VARCHAR, exp.DataType.Type.TEXT):
        return _as_text(node.this) if isinstance(node.this, exp.Column | exp.Cast) else None
    if to.is_type(exp.DataType.Type.INT128):
        # Spark's widest integer is a decimal; sums of them are exact in any order, as HUGEINT's are.
        return exp.Cast(this=node.this.copy(), to=exp.DataType.build("DECIMAL(38, 0)", dialect="spark"))
    source = node.this
    if to.is_type(exp.DataType.Type.BIGINT) and isinstance(source, exp.DPipe) and source.this.name == "0x":
        # Spark cannot parse hexadecimal text; conv returns the decimal text of up to 64 bits, unsigned.
        ten, sixteen = exp.Literal.number(10), exp.Literal.number(16)
        return exp.cast(_function("conv", source.expression, sixteen, ten), exp.DataType.build("BIGINT"))
    return None


def _try_cast(node: exp.TryCast) -> exp.Expr | None:
    # Unlike DuckDB, Spark's TRY_CAST rejects "881250949.0" as an integer; via a decimal both round fractions.
    if node.to.is_type(exp.DataType.Type.BIGINT):
        decimal = exp.DataType.build("DECIMAL(38, 0)", dialect="spark")
        return exp.TryCast(
            this=exp.TryCast(this=node.this.copy(), to=decimal, safe=True),
            to=exp.DataType.build("BIGINT"),
            safe=True,
        )
    return None


def _epoch(node: exp.TimeToUnix) -> exp.Expr:
    # Spark's UNIX_TIMESTAMP drops the fraction; dates and times without a zone are first converted to UTC.
    time = exp.cast(node.this.copy(), exp.DataType.build("TIMESTAMP", dialect="spark"))
    micros = exp.cast(_function("unix_micros", time), exp.DataType.build("DOUBLE"))
    return exp.paren(exp.Div(this=micros, expression=_double("1e6"), typed=False))


def _whole(node: exp.Floor | exp.Ceil) -> exp.Expr:
    # Spark's FLOOR and CEIL return integers, and saturate.
    return exp.cast(node.copy(), exp.DataType.build("DOUBLE"))


def _is_inf(node: exp.IsInf) -> exp.Expr:
    # Spark has no isinf; its NaN is larger than infinity and equal only to itself.
    return exp.paren(exp.EQ(this=_function("abs", node.this), expression=_double("Infinity")))


def _full_match(node: exp.RegexpFullMatch) -> exp.Expr:
    # RLIKE searches the pattern anywhere, and Java's $ also matches before a trailing line break.
    anchored = exp.Literal.string(rf"\A(?:{node.expression.name})\z")
    return exp.paren(exp.RegexpLike(this=node.this.copy(), expression=anchored))


def _is_finite(value: exp.Expr) -> exp.Expr:
    return exp.paren(exp.LT(this=_function("abs", value), expression=_double("Infinity")))


def _byte_length(value: exp.Expr) -> exp.Expr:
    return _function("octet_length", value)


_FUNCTIONS: dict[str, Callable[..., exp.Expr]] = {
    "ISFINITE": _is_finite,
    # DuckDB's strlen counts bytes.
    "STRLEN": _byte_length,
}


def _anonymous(node: exp.Anonymous) -> exp.Expr | None:
    change = _FUNCTIONS.get(node.name.upper())
    return change(*node.expressions) if change else None


def _star(node: exp.Star) -> exp.Expr | None:
    # Spark can exclude columns from a star, but not replace them in place: they are added after it.
    replaced = node.args.get("replace")
    if not replaced:
        return None
    node.set("replace", None)
    node.set("except_", [exp.to_identifier(each.alias, quoted=True) for each in replaced])
    select = node.find_ancestor(exp.Select)
    if select is None:
        raise _not_translated()
    select.set("expressions", [*select.expressions, *(each.copy() for each in replaced)])
    return None


def _try(node: exp.Try) -> exp.Expr | None:
    # Only TRY(decode(x)): the text of bytes, or NULL if they are not UTF-8.
    if not isinstance(node.this, exp.Decode):
        raise _not_translated()
    return _function("try_validate_utf8", exp.cast(node.this.this.copy(), exp.DataType.build("VARCHAR")))


_CHANGES: tuple[tuple[type[exp.Expr], Callable[..., exp.Expr | None]], ...] = (
    (exp.Star, _star),
    (exp.TimeToUnix, _epoch),
    (exp.Floor, _whole),
    (exp.Ceil, _whole),
    (exp.IsInf, _is_inf),
    (exp.RegexpFullMatch, _full_match),
    (exp.Anonymous, _anonymous),
    (exp.Try, _try),
    (exp.TryCast, _try_cast),
    (exp.Cast, _cast),
)
