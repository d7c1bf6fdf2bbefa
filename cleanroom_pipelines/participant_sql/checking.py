"""Check of a participant's query before it runs.

Lives here: `check_query`, which rejects a participant's SQL or rewrites it into SQL that is safe to run.
Add here when a rule needs more than one node of the tree.
Keep out: the allowed nodes and functions (allowed.py); running (running.py).

The text is parsed, every node of the tree is checked against an allowlist, and the SQL that runs is rendered from
the tree: names are quoted, comments removed, tables and CTEs renamed, parameters numbered. Participant text
reaches DuckDB only as a quoted name, a quoted string or a number.

The text is parsed in Spark's dialect, which AWS documents for SQL seeds: `backticks` quote names, 'single' and
"double quotes" texts, a backslash escapes. Functions keep their names in the tree, so that sqlglot decides nothing
about their meaning: functions.py and translating.py do, and tests compare the result with Spark.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.dialects.spark import Spark
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.parsers.spark import SparkParser

from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.participant_sql.allowed import ARGUMENTS, TYPES, UNITS, WORDS
from cleanroom_pipelines.participant_sql.functions import FUNCTIONS, MAX_PATTERN_CHARACTERS, similar_names
from cleanroom_pipelines.participant_sql.translating import NotAvailableError, translate

# The API accepts 500,000 characters, but parsing that many would block other callers for seconds. This limit takes
# half a second at worst. Longer lists of ids belong in a seed file.
MAX_CHARACTERS = 100_000
MAX_TOKENS = 20_000
MAX_NESTING = 20
# DuckDB's own limit for an expression
MAX_DEPTH = 1_000
# A table or CTE counts at each use after FROM or JOIN.
MAX_TABLES = 500

_REMEDY = "Write one SELECT with one output column in Spark SQL, over tables named database.table."

# Glue names (GlueDatabaseName and GlueTableName in the API).
_DATABASE_NAME = re.compile(r"[a-zA-Z0-9_](([a-zA-Z0-9_]+-)*([a-zA-Z0-9_]+))?")
_TABLE_NAME = re.compile(r"[a-zA-Z0-9_](([a-zA-Z0-9_ ]+-)*([a-zA-Z0-9_ ]+))?")
_MAX_NAME_CHARACTERS = 128
_MAX_SHOWN = 20
_PARAMETER_NAME = re.compile(r"[0-9a-zA-Z_]{1,100}")
_FUNCTION_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
_INTERVAL = re.compile(r" *[+-]?[0-9]+ *|(?: *[+-]?[0-9]+ *[a-zA-Z]+)+ *")
_MAX_INTERVAL_CHARACTERS = 100
_NUMBER = re.compile(r"[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?")
# Control characters except tab and line ends, and lone surrogates, which cannot be encoded.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_STARTS = {TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN}
# Arguments that must be names, not parameters or expressions.
_NAME_ARGUMENTS = {
    (exp.Alias, "alias"),
    (exp.Column, "this"),
    (exp.Column, "table"),
    (exp.Table, "db"),
    (exp.TableAlias, "this"),
    (exp.TableAlias, "columns"),
    (exp.Window, "alias"),
    (exp.Join, "using"),
}
_OPERANDS: Mapping[type[exp.Expr], type] = {exp.DataTypeParam: exp.Literal, exp.Any: exp.Query, exp.All: exp.Query}
# Names that DuckDB reads as functions where the nearest FROM has no such column, although they are quoted.
_NAMES_OF_VALUES = frozenset(
    {
        *(
            "current_catalog",
            "current_date",
            "current_role",
            "current_schema",
            "current_time",
            "current_timestamp",
        ),
        *("current_user", "localtime", "localtimestamp", "session_user", "user"),
    }
)
_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}

# sqlglot's warnings quote the query.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class CheckedQuery:
    """A query that passed all checks, rendered as SQL that is safe to run.

    Args:
        sql: SQL in DuckDB's dialect, rendered from the checked tree, over the views `view_name(0)`, ….
        tables: Database and table of each view, as written in the query, in the order of the views.
        parameters: Values of `$1`, `$2`, ….
    """

    sql: str = field(repr=False)
    tables: tuple[tuple[str, str], ...]
    parameters: tuple[str, ...] = field(default=(), repr=False)


def view_name(number: int) -> str:
    """Return the name of the view that represents a checked query's table; `number` counts from 0."""
    return f"table_{number + 1}"


def check_query(
    text: str,
    *,
    parameters: Mapping[str, str] = {},
    databases: Sequence[str] = (),
    is_authors: bool = False,
) -> CheckedQuery:
    """Check a query and render it as SQL that is safe to run.

    Args:
        text: One SELECT with one output column over tables `database.table`, in Spark's dialect; CTEs, joins,
            subqueries, set operations, aggregates and windows are allowed, and `:name` in place of any value.
        parameters: A value for each `:name`; bound as text, which DuckDB also compares with numbers and dates.
        databases: The databases of the tables' owner; a table without a database is in the only one.
        is_authors: Whether only the author of the query sees the message, which may then quote function names
            of the query and name the databases.

    Raises:
        SeedError: The query is not allowed (`SQL_NOT_ALLOWED`). The message quotes the query only where
            `is_authors` allows it; the attribute `kind` is the parser's name for the rejected part.
    """
    tree, names = _parse(text)
    _check_parameters(names, parameters)
    tables = _check_tree(tree, is_authors)
    _check_output(tree)
    named = _rename(tables, databases, is_authors)
    _qualify(tree)
    _translate(tree, is_authors)
    return CheckedQuery(_render(tree), named, tuple(parameters[name] for name in names))


def _rejected(message: str, *, remedy: str = _REMEDY, **attributes: Any) -> SeedError:
    return SeedError(message, remedy=remedy, status_code=StatusCode.SQL_NOT_ALLOWED, **attributes)


# --- From text to tree ---


class _Dialect(Spark):
    """Spark's dialect, except that it reads hints as comments, because hints do not change a result."""

    class Tokenizer(Spark.Tokenizer):
        """Spark's tokenizer without hints."""

        KEYWORDS: ClassVar = {
            word: kind for word, kind in Spark.Tokenizer.KEYWORDS.items() if kind is not TokenType.HINT
        }


class _Parser(SparkParser):
    """Parser that keeps functions as they are written, and numbers the parameters.

    It has a step limit, since some texts take time exponential in their length.
    """

    FUNCTIONS: ClassVar[dict[str, Callable[..., exp.Expr]]] = {}
    FUNCTION_PARSERS: ClassVar = {
        name: parser
        for name, parser in SparkParser.FUNCTION_PARSERS.items()
        if name in {"CAST", "EXTRACT", "POSITION", "SUBSTR", "SUBSTRING", "TRIM", "TRY_CAST"}
    }
    NO_PAREN_FUNCTION_PARSERS: ClassVar = {
        name: parser for name, parser in SparkParser.NO_PAREN_FUNCTION_PARSERS.items() if name in {"CASE", "IF"}
    }
    PLACEHOLDER_PARSERS: ClassVar = {TokenType.PARAMETER: lambda self: self._parse_number_of_parameter()}
    STRICT_CAST = True

    steps_left = 0

    def _parse_interval_span(self, this: exp.Expr, *args: Any, **kwargs: Any) -> exp.Interval:
        """Reject unknown forms of interval, because the parser would skip over them in quadratic time."""
        if this.is_string and not (len(this.name) <= _MAX_INTERVAL_CHARACTERS and _INTERVAL.fullmatch(this.name)):
            self.raise_error("Invalid interval")
        return super()._parse_interval_span(this, *args, **kwargs)

    def _parse_number_of_parameter(self) -> exp.Expr | None:
        return exp.Placeholder(this=self._prev.text) if self._match(TokenType.NUMBER) else None

    def _advance(self, times: int = 1) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise RecursionError
        super()._advance(times)

    def _warn_unsupported(self) -> None:
        """Suppress sqlglot's warning about unsupported syntax, because it quotes the query."""


def _parse(text: str) -> tuple[exp.Expr, tuple[str, ...]]:
    """Parse a query; return its tree and its parameter names in order of first use."""
    if len(text) > MAX_CHARACTERS:
        raise _rejected(
            f"The query is longer than {MAX_CHARACTERS:,} characters.",
            remedy="Shorten it; upload a long list of ids as a seed file instead.",
        )
    if _UNREADABLE.search(text):
        raise _rejected("The query contains control characters.", remedy="Remove them.")
    if any("--" in line and line.rstrip("\r").endswith("\\") for line in text.split("\n")):
        # in Spark, the comment goes on in the next line
        raise _rejected("A comment line of the query ends with a backslash.", remedy="Remove the backslash.")
    try:
        tokens = _Dialect().tokenize(text)
    except SqlglotError:
        tokens = []
    tokens, names = _extract_parameters(_whole_texts(_one_statement(tokens), text), text)
    return _parsed(tokens, text), names


def _one_statement(tokens: list[Token]) -> list[Token]:
    if tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens = tokens[:-1]
    if not tokens:
        raise _rejected("The query cannot be parsed: it is empty, or has an unclosed quote or comment.")
    if len(tokens) > MAX_TOKENS:
        raise _rejected(
            f"The query has more than {MAX_TOKENS:,} tokens.",
            remedy="Shorten it; upload a long list of ids as a seed file instead.",
        )
    if any(token.token_type is TokenType.SEMICOLON for token in tokens):
        raise _rejected("The query contains more than one statement.")
    if any(token.token_type is TokenType.PIPE_GT for token in tokens):
        raise _rejected("The query uses the pipe syntax.", remedy="Write SELECT … FROM … WHERE ….")
    if tokens[0].token_type not in _STARTS:
        raise _rejected("The query is not a SELECT.")
    nesting = 0
    for token, following in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        if (
            token.token_type is TokenType.NUMBER
            and following.start == token.end + 1
            and following.text[:1].isalnum()
        ):
            raise _rejected("The query cannot be parsed: a number is followed directly by letters.")
        nesting += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        if nesting > MAX_NESTING:
            raise _nested_too_deeply()
    return tokens


def _whole_texts(tokens: Sequence[Token], text: str) -> list[Token]:
    """Join string tokens that the tokenizer splits at a doubled quote; a doubled quote stands for one quote."""
    whole: list[Token] = []
    for token in tokens:
        before = whole[-1] if whole else None
        if (
            before is not None
            and token.token_type is before.token_type is TokenType.STRING
            and before.end + 1 == token.start
            and text[before.end] == text[token.start]
        ):
            joined = f"{before.text}{text[token.start]}{token.text}"
            whole[-1] = Token(
                TokenType.STRING, joined, line=token.line, col=token.col, start=before.start, end=token.end
            )
        else:
            whole.append(token)
    return whole


def _extract_parameters(tokens: Sequence[Token], text: str) -> tuple[list[Token], tuple[str, ...]]:
    """Replace each `:name` with `$number`; colons have no other use in allowed queries."""
    taken: list[Token] = []
    names: list[str] = []
    end = -1  # of the last parameter
    for token in tokens:
        if token.start <= end:
            if token.end > end:
                raise _invalid_parameter()
            continue
        if token.token_type is TokenType.PARAMETER:
            raise _invalid_parameter()
        if token.token_type is not TokenType.COLON:
            taken.append(token)
            continue
        match = _PARAMETER_NAME.match(text, token.end + 1)
        if match is None:
            raise _invalid_parameter()
        name, end = match.group(), match.end() - 1
        if name not in names:
            names.append(name)
        number = str(names.index(name) + 1)
        taken.append(_token_at(token, TokenType.PARAMETER, "$"))
        taken.append(_token_at(token, TokenType.NUMBER, number))
    return taken, tuple(names)


def _token_at(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, line=token.line, col=token.col, start=token.start, end=token.end)


def _invalid_parameter() -> SeedError:
    return _rejected(
        "The query contains a colon, dollar sign or at sign that does not start a parameter.",
        remedy="Write a parameter as :name, with letters, digits and underscores.",
    )


def _parsed(tokens: list[Token], text: str) -> exp.Expr:
    place = ""
    try:
        parser = _Parser(dialect=_Dialect(), error_level=ErrorLevel.IMMEDIATE)
        # Allowed queries take one to two steps per token.
        parser.steps_left = 5 * len(tokens) + 1_000
        (tree,) = parser.parse(tokens, text)
        if tree is not None:
            return tree
    except RecursionError:
        raise _nested_too_deeply() from None
    except Exception as error:  # invalid SQL also raises other kinds of errors in the parser
        found = getattr(error, "errors", None)
        if found and found[0].get("line"):
            place = f" near line {found[0]['line']}"
    # Outside the handler: the parser's errors quote the query, and __context__ would keep them.
    raise _rejected(f"The query cannot be parsed{place}.")


def _nested_too_deeply() -> SeedError:
    return _rejected(
        "The query is nested too deeply.", remedy=f"Nest at most {MAX_NESTING} levels; use WITH for the parts."
    )


def _check_parameters(names: Sequence[str], parameters: Mapping[str, str]) -> None:
    if set(names) - set(parameters):
        raise _rejected("A query parameter has no value.", remedy="Give a value for each :name.")
    if set(parameters) - set(names):
        raise _rejected(
            "A value was given for a parameter that is not in the query.",
            remedy="Give values only for the :names in the query.",
        )
    if any(_UNREADABLE.search(value) for value in parameters.values()):
        raise _rejected("A parameter value contains control characters.", remedy="Remove them.")


# --- Checking the tree ---


def _check_tree(tree: exp.Expr, is_authors: bool) -> list[exp.Table]:
    """Check every node of a query; return its references to tables and CTEs in the order of the text."""
    tables: list[exp.Table] = []
    stack = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _nested_too_deeply()
        if type(node) not in ARGUMENTS:
            raise _not_allowed(node, is_authors)
        for name, value in node.args.items():
            if value is None or value is False or value == []:
                continue
            if name not in ARGUMENTS[type(node)]:
                raise _rejected_argument(node, name)
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, exp.Expr):
                    if (type(node), name) in _NAME_ARGUMENTS and not isinstance(part, exp.Identifier | exp.Star):
                        raise _rejected_argument(node, name)
                    stack.append((part, depth + 1))
                else:
                    _check_word(node, name, part)
        _check_node(node)
        if isinstance(node, exp.Table):
            tables.append(node)
    return sorted(tables, key=_place)


def _place(table: exp.Table) -> int:
    start = table.this.meta.get("start", 0)
    return int(start)


def _not_allowed(node: exp.Expr, is_authors: bool = False) -> SeedError:
    kind = type(node).__name__
    if isinstance(node, exp.Func):
        return _unavailable(node.sql_name(), is_authors, kind)
    return _rejected(f"The query uses SQL that is not allowed ({kind}).", kind=kind)


def _unavailable(name: str, is_authors: bool, kind: str = "Anonymous") -> SeedError:
    """Return the error for a function that is not available; its name is shown only to the query's author."""
    functions = FUNCTIONS.get(name.lower(), ())
    shown = f"`{name}`" if is_authors and _FUNCTION_NAME.fullmatch(name) else "A function in the query"
    if not functions:
        similar = similar_names(name) if is_authors else []
        remedy = f"Similar: {', '.join(similar)}." if similar else "Use another function."
        return _rejected(f"{shown} is not available.", remedy=remedy, kind=kind)
    forms = ", ".join(sorted({f"{name.lower()}({', '.join(function.kinds)})" for function in functions}))
    return _rejected(
        f"{shown} is not available with these arguments.",
        remedy=f"{f'Available: {forms}. ' if is_authors else ''}Write patterns, formats and sizes as constants.",
        kind=kind,
    )


def _rejected_argument(node: exp.Expr, name: str) -> SeedError:
    kind = f"{type(node).__name__}, {name.strip('_')}"
    if isinstance(node, exp.Column):
        return _rejected(
            "The query qualifies a column with a database.",
            remedy="Give the table an alias, and qualify the column with the alias.",
            kind=kind,
        )
    if isinstance(node, exp.Table) and name == "catalog":
        return _rejected("A table name has more parts than database and table.", kind=kind)
    return _rejected(f"The query uses SQL that is not allowed ({kind}).", kind=kind)


def _check_word(node: exp.Expr, name: str, value: Any) -> None:
    """Check a plain value in a node, such as a keyword or a unit; only names, texts and allowed words pass."""
    if value is True or isinstance(node, exp.Identifier | exp.Literal):
        return
    if isinstance(node, exp.DataType):
        allowed = value in TYPES
    elif isinstance(node, exp.Placeholder):
        allowed = isinstance(value, str) and value.isdecimal()
    elif isinstance(node, exp.Anonymous):
        allowed = True  # translation replaces each call, or rejects it
    elif isinstance(node, exp.Var):
        allowed = isinstance(value, str) and value.upper() in UNITS
    else:
        allowed = isinstance(value, str) and value.upper() in WORDS
    if not allowed:
        raise _rejected_argument(node, name)


def _check_node(node: exp.Expr) -> None:
    """Check a node by rules that the allowlist cannot express: required children and allowed positions."""
    if isinstance(node, exp.Select):
        if not node.expressions:
            raise _rejected("A SELECT in the query has no columns.", kind="Select")
    elif isinstance(node, exp.From | exp.Join):
        if not isinstance(node.this, exp.Table | exp.Subquery | exp.Values):
            raise _rejected("The query reads from something other than a table.", kind=type(node.this).__name__)
    elif isinstance(node, exp.Alias):
        if not isinstance(node.parent, exp.Select) or node.arg_key != "expressions":
            raise _rejected("The query has an alias outside of a SELECT list.", kind="Alias")
    elif isinstance(node, exp.Star):
        if not _is_column_list_star(node):
            raise _rejected("The query has a star outside of a column list.", kind="Star")
    elif isinstance(node, exp.Distinct):
        if isinstance(node.parent, exp.Func) and len(node.expressions) != 1:
            raise _rejected_argument(node, "expressions")
    else:
        _check_value(node)


def _check_value(node: exp.Expr) -> None:
    """Check the form of texts, numbers, parameters and patterns."""
    if isinstance(node, exp.Literal):
        if node.is_string and _UNREADABLE.search(node.name):
            raise _rejected("The query contains control characters.", remedy="Remove them.")
        if not node.is_string and not _NUMBER.fullmatch(node.name):
            raise _not_allowed(node)
    elif isinstance(node, exp.Placeholder):
        if not node.name:
            raise _invalid_parameter()
    elif isinstance(node, exp.SimilarTo):
        _check_literal(node, "expression", MAX_PATTERN_CHARACTERS)
    elif not isinstance(node.this, _OPERANDS.get(type(node), object)):
        raise _not_allowed(node)


def _is_column_list_star(star: exp.Star) -> bool:
    """Check whether a star is in count(*), or in a SELECT list as `*` or `table.*`."""
    if isinstance(star.parent, exp.Anonymous):  # only count takes it
        return True
    whole = star.parent if isinstance(star.parent, exp.Column) else star
    return isinstance(whole.parent, exp.Select) and whole.arg_key == "expressions"


def _check_literal(node: exp.Expr, name: str, max_characters: int) -> None:
    value = node.args.get(name)
    if isinstance(value, exp.Escape):
        value = value.this
    if not isinstance(value, exp.Literal) or not value.is_string or len(value.name) > max_characters:
        raise _rejected(
            "The query has a pattern or format that is computed or too long.",
            remedy=f"Write it as a quoted text of at most {max_characters} characters.",
            kind=type(node).__name__,
        )


def _check_output(tree: exp.Expr) -> None:
    """Check that the query returns exactly one named column."""
    stack = [tree]
    while stack:
        query = stack.pop()
        if isinstance(query, exp.SetOperation):
            stack += [query.this, query.expression]
        elif isinstance(query, exp.Subquery):
            stack.append(query.this)
        elif not isinstance(query, exp.Select):
            raise _rejected("The query is not a SELECT.", kind=type(query).__name__)
        elif any(column.is_star for column in query.expressions):
            raise _rejected("The query returns a star (*).", remedy="Name the column with the user ids.")
        elif len(query.expressions) != 1:
            raise _rejected(
                f"The query returns {len(query.expressions)} columns; it must return one.",
                remedy="Return only the column with the user ids.",
            )
        elif query.expressions[0].unalias().is_string:
            raise _rejected(
                "The query returns a constant text.",
                remedy="Select the column of user ids by its name. Quote a name with `backticks`: text in double "
                "quotes is a string.",
            )


# --- Renaming ---


def _rename(
    tables: Sequence[exp.Table], databases: Sequence[str], is_authors: bool
) -> tuple[tuple[str, str], ...]:
    """Rename tables and CTEs for the rendered SQL; return the tables that are read."""
    if len(tables) > MAX_TABLES:
        raise _rejected(f"The query names more than {MAX_TABLES} tables.")
    named: list[tuple[str, str]] = []
    views: list[tuple[exp.Table, str]] = []
    uses: list[tuple[exp.Table, exp.CTE]] = []
    for table in tables:
        if not isinstance(table.this, exp.Identifier):
            raise _rejected("The query reads from something other than a table.", kind=type(table.this).__name__)
        cte = _cte_of(table) if table.args.get("db") is None else None
        if cte is not None:
            uses.append((table, cte))
            continue
        database = table.db if table.args.get("db") is not None else _only_database(databases, is_authors)
        pair = _checked_name(database, table.name)
        if pair not in named:
            named.append(pair)
        views.append((table, view_name(named.index(pair))))
    if not named:
        raise _rejected("The query reads no table.")
    # Last, since the lookups above need the original names.
    ctes = {id(cte): (cte, f"cte_{number + 1}") for number, cte in enumerate(_ctes(tables))}
    for table, view in views:
        _name(table, view)
        table.set("db", None)
    for table, cte in uses:
        _name(table, ctes[id(cte)][1])
    for cte, name in ctes.values():
        cte.args["alias"].set("this", exp.to_identifier(name, quoted=True))
    return tuple(named)


def _name(table: exp.Table, name: str) -> None:
    """Rename a table, and keep its old name as its alias, so that column references still work."""
    if not table.alias:
        table.set("alias", exp.TableAlias(this=table.this.copy()))
    table.set("this", exp.to_identifier(name, quoted=True))


def _qualify(tree: exp.Expr) -> None:
    """Put the table's name before columns such as `user`, which SQL would otherwise read as a built-in value."""
    assert isinstance(tree, exp.Query)
    stack: list[tuple[exp.Expr, exp.Query, bool]] = [(tree, tree, False)]
    while stack:
        node, query, is_order = stack.pop()
        if isinstance(node, exp.Query):
            query, is_order = node, False
        elif isinstance(node, exp.Column) and not node.table and _folded(node.name) in _NAMES_OF_VALUES:
            is_selected = is_order and _folded(node.name) in map(_folded, query.named_selects)
            if not is_selected:
                node.set("table", exp.to_identifier(_only_source(query), quoted=True))
        is_order = is_order and not isinstance(node, exp.Window)
        stack += [
            (child, query, is_order or (child.arg_key == "order" and child.parent is query))
            for child in node.iter_expressions()
        ]


def _only_source(query: exp.Query) -> str:
    source = query.args["from_"].this if query.args.get("from_") else None
    if source is None or not source.alias or source.args.get("joins") or query.args.get("joins"):
        raise _rejected(
            "The query has an unqualified column with the name of a built-in value, such as user or current_date.",
            remedy="Write the alias of the table before the column, as in t.user.",
        )
    return str(source.alias)


def _only_database(databases: Sequence[str], is_authors: bool) -> str:
    if len(databases) == 1:
        return databases[0]
    remedy = "Write database.table."
    if databases and is_authors:
        shown = ", ".join(sorted(databases)[:_MAX_SHOWN])
        remedy = f"{remedy} Your databases: {shown}{', …' if len(databases) > _MAX_SHOWN else ''}."
    raise _rejected("The query names a table without its database.", remedy=remedy)


def _checked_name(database: str, name: str) -> tuple[str, str]:
    for part, pattern in ((database, _DATABASE_NAME), (name, _TABLE_NAME)):
        if len(part) > _MAX_NAME_CHARACTERS or not pattern.fullmatch(part):
            raise _rejected(
                "The query has an invalid database or table name.",
                remedy="Use letters, digits, underscores and hyphens, at most 128 characters.",
            )
    return database, name


def _cte_of(table: exp.Table) -> exp.CTE | None:
    """Find the CTE that a name without a database refers to, if there is one."""
    name = _folded(table.name)
    for scope in _scopes(table):
        for cte in scope:
            if _folded(cte.alias) == name:
                return cte
    return None


def _scopes(node: exp.Expr) -> Iterator[list[exp.CTE]]:
    """Yield the CTEs visible at a node, innermost WITH first; inside a WITH, only preceding CTEs are visible."""
    child, parent = node, node.parent
    while parent is not None:
        with_ = parent.args.get("with_")
        if isinstance(parent, exp.With):
            before = []
            for cte in parent.expressions:
                if cte is child:
                    break
                before.append(cte)
            yield before
        elif with_ is not None and with_ is not child:
            yield with_.expressions
        child, parent = parent, parent.parent


def _ctes(tables: Sequence[exp.Table]) -> list[exp.CTE]:
    """List all CTEs of the query that contains the tables; reject two with the same name in one WITH."""
    root = tables[0].root()
    found: list[exp.CTE] = []
    for with_ in root.find_all(exp.With):
        names = {_folded(cte.alias) for cte in with_.expressions}
        if len(names) != len(with_.expressions):
            raise _rejected("The query defines two CTEs with the same name.")
        found += with_.expressions
    return found


def _folded(name: str) -> str:
    """Convert ASCII letters of a name to lower case, because DuckDB ignores their case."""
    return "".join(character.lower() if character.isascii() else character for character in name)


# --- From tree to SQL ---


def _translate(tree: exp.Expr, is_authors: bool) -> None:
    try:
        translate(tree)
    except NotAvailableError as error:
        found = error
    else:
        return
    if found.function:
        raise _unavailable(found.function, is_authors)
    raise _rejected(f"The query has {found.what}.", remedy=found.remedy or _REMEDY, kind="translation")


def _render(tree: exp.Expr) -> str:
    try:
        return DuckDB().generate(
            tree, identify=True, comments=False, unsupported_level=ErrorLevel.IMMEDIATE, copy=False
        )
    except RecursionError:
        raise _nested_too_deeply() from None
    except Exception as error:
        kind = type(error).__name__
    raise _rejected("The query uses SQL that cannot be run here.", kind=kind)
