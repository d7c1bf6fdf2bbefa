"""Checking a query before anything of it runs.

Lives here: `check_query`, which turns the text a participant wrote into SQL of our own making, or refuses it.
Add here when a rule needs more than one node of the tree.
Keep out: which nodes and functions are allowed (allowed.py); running (running.py).

The text is parsed, every node of the tree is held against a closed list, and the SQL that runs is rendered from
the tree: names quoted, comments gone, tables and CTEs renamed to names of ours, parameters numbered. Nothing that
was typed reaches DuckDB but as a quoted name, a quoted text or a number.

The text is read in DuckDB's dialect, which is ANSI in what people use here: "double quotes" are names, 'single
quotes' are texts, || joins. Spark's dialect would take double quotes for texts and backslashes for escapes, so
that an ANSI query would quietly mean something else. And what is read in the dialect it is rendered in is not
translated: no function changes its meaning on the way.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot import Token, TokenType, exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.parsers.duckdb import DuckDBParser

from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.participant_sql.allowed import (
    ARGUMENTS,
    FORMATS,
    MAX_PADDED_CHARACTERS,
    MAX_PATTERN_CHARACTERS,
    PATTERNS,
    TYPES,
    UNITS,
    WORDS,
)

# The API takes 500,000 characters; reading that many would hold up other callers for seconds. These take half a
# second at worst. A list of more ids than that is a seed file.
MAX_CHARACTERS = 100_000
MAX_TOKENS = 20_000
MAX_NESTING = 20
# DuckDB's own limit for an expression
MAX_DEPTH = 1_000
# A table or CTE counts each time it is named after FROM or JOIN.
MAX_TABLES = 500

_REMEDY = "Write one SELECT with one output column in plain ANSI SQL, over tables named database.table."

# Glue's names (the API's GlueDatabaseName and GlueTableName).
_DATABASE_NAME = re.compile(r"[a-zA-Z0-9_](([a-zA-Z0-9_]+-)*([a-zA-Z0-9_]+))?")
_TABLE_NAME = re.compile(r"[a-zA-Z0-9_](([a-zA-Z0-9_ ]+-)*([a-zA-Z0-9_ ]+))?")
_MAX_NAME_CHARACTERS = 128
_PARAMETER_NAME = re.compile(r"[0-9a-zA-Z_]{1,100}")
_NUMBER = re.compile(r"[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?")
_SHORT_NUMBER = re.compile(r"[0-9]{1,6}")
# Control characters but tab and line ends, and halves of surrogate pairs, which no encoder takes.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_STARTS = {TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN}
# Where only a name may stand, and not, say, a parameter.
_OF_NAMES = {
    (exp.Alias, "alias"),
    (exp.Column, "this"),
    (exp.Column, "table"),
    (exp.Table, "db"),
    (exp.TableAlias, "this"),
    (exp.TableAlias, "columns"),
    (exp.Window, "alias"),
    (exp.Join, "using"),
}
_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE, TokenType.CASE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE, TokenType.END}

# sqlglot warns in words that quote the query.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class CheckedQuery:
    """A query that may run.

    Args:
        sql: In DuckDB's dialect, rendered from the checked tree, over the views `view_name(0)`, `view_name(1)`, ….
        tables: Database and table each view stands for, as they were written, in the order of the views.
        parameters: The values of `$1`, `$2`, ….
    """

    sql: str = field(repr=False)
    tables: tuple[tuple[str, str], ...]
    parameters: tuple[str, ...] = field(default=(), repr=False)


def view_name(number: int) -> str:
    """The name under which a checked query reads the table of this number, counted from 0."""
    return f"table_{number + 1}"


def check_query(text: str, *, parameters: Mapping[str, str] = {}) -> CheckedQuery:
    """Check a query and render what may run of it.

    Args:
        text: One SELECT with one output column over tables `database.table`; CTEs, joins, subqueries, set
            operations, aggregates and windows are allowed, and `:name` wherever a value may stand.
        parameters: A value for each `:name`; bound as text, which DuckDB compares with numbers and dates too.

    Raises:
        SeedError: It is not allowed (`SQL_NOT_ALLOWED`). The message quotes nothing of the text; the attribute
            `kind` names what was met, by the parser's word for it.
    """
    tree, names = _parse(text)
    _check_parameters(names, parameters)
    tables = _check_tree(tree)
    _check_output(tree)
    named = _rename(tables)
    return CheckedQuery(_render(tree), named, tuple(parameters[name] for name in names))


def _refused(message: str, *, remedy: str = _REMEDY, **attributes: Any) -> SeedError:
    return SeedError(message, remedy=remedy, status_code=StatusCode.SQL_NOT_ALLOWED, **attributes)


# --- From text to tree ---


class _Parser(DuckDBParser):
    """Counts its steps, since some texts make it try for a time exponential in their length."""

    steps_left = 0

    def _advance(self, times: int = 1) -> None:
        self.steps_left -= 1
        if self.steps_left < 0:
            raise RecursionError
        super()._advance(times)

    def _warn_unsupported(self) -> None:
        """Say nothing: the warning quotes the query."""


def _parse(text: str) -> tuple[exp.Expr, tuple[str, ...]]:
    """The tree, and the names of its parameters in the order of their first use."""
    if len(text) > MAX_CHARACTERS:
        raise _refused(
            f"The query is longer than {MAX_CHARACTERS:,} characters.",
            remedy="Shorten it; give a long list of ids as a seed file instead.",
        )
    if _UNREADABLE.search(text):
        raise _refused("The query holds control characters.", remedy="Remove them.")
    try:
        tokens = DuckDB().tokenize(text)
    except SqlglotError:
        tokens = []
    tokens, names = _take_parameters(_one_statement(tokens), text)
    return _parsed(tokens, text), names


def _one_statement(tokens: list[Token]) -> list[Token]:
    if tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens = tokens[:-1]
    if not tokens:
        raise _refused("The query cannot be read: it holds no statement, or a quote or comment that does not end.")
    if len(tokens) > MAX_TOKENS:
        raise _refused(
            f"The query has more than {MAX_TOKENS:,} words and signs.",
            remedy="Shorten it; give a long list of ids as a seed file instead.",
        )
    if any(token.token_type is TokenType.SEMICOLON for token in tokens):
        raise _refused("The query holds more than one statement.")
    if tokens[0].token_type not in _STARTS:
        raise _refused("The query is not a SELECT.")
    nesting = 0
    for token, following in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        if (
            token.token_type is TokenType.NUMBER
            and following.start == token.end + 1
            and following.text[:1].isalnum()
        ):
            raise _refused("The query cannot be read: it holds a number that goes on in letters.")
        nesting += (token.token_type in _OPENING) - (token.token_type in _CLOSING)
        if nesting > MAX_NESTING:
            raise _too_nested()
    return tokens


def _take_parameters(tokens: Sequence[Token], text: str) -> tuple[list[Token], tuple[str, ...]]:
    """Turn each `:name` into `$number`; a colon has no other use in what is allowed."""
    taken: list[Token] = []
    names: list[str] = []
    end = -1  # of the last parameter
    for token in tokens:
        if token.start <= end:
            if token.end > end:
                raise _no_parameter()
            continue
        if token.token_type is TokenType.PARAMETER:
            raise _no_parameter()
        if token.token_type is not TokenType.COLON:
            taken.append(token)
            continue
        match = _PARAMETER_NAME.match(text, token.end + 1)
        if match is None:
            raise _no_parameter()
        name, end = match.group(), match.end() - 1
        if name not in names:
            names.append(name)
        number = str(names.index(name) + 1)
        taken.append(_token_at(token, TokenType.PARAMETER, "$"))
        taken.append(_token_at(token, TokenType.NUMBER, number))
    return taken, tuple(names)


def _token_at(token: Token, kind: TokenType, text: str) -> Token:
    return Token(kind, text, line=token.line, col=token.col, start=token.start, end=token.end)


def _no_parameter() -> SeedError:
    return _refused(
        "The query holds a colon, a dollar or an at sign that begins no parameter.",
        remedy="Write a parameter as :name, with letters, digits and underscores.",
    )


def _parsed(tokens: list[Token], text: str) -> exp.Expr:
    place = ""
    try:
        parser = _Parser(dialect=DuckDB(), error_level=ErrorLevel.IMMEDIATE)
        # What is allowed takes one to two steps a word.
        parser.steps_left = 5 * len(tokens) + 1_000
        (tree,) = parser.parse(tokens, text)
        if tree is not None:
            return tree
    except RecursionError:
        raise _too_nested() from None
    except Exception as error:  # of texts that are no SQL the parser also makes errors of its own kinds
        found = getattr(error, "errors", None)
        if found and found[0].get("line"):
            place = f" near line {found[0]['line']}"
    # Outside the handler: the parser's errors quote the query, and __context__ would keep them.
    raise _refused(f"The query cannot be read{place}.")


def _too_nested() -> SeedError:
    return _refused(
        "The query is nested too deeply.", remedy=f"Nest at most {MAX_NESTING} deep; use WITH for the parts."
    )


def _check_parameters(names: Sequence[str], parameters: Mapping[str, str]) -> None:
    if set(names) - set(parameters):
        raise _refused("The query has a parameter without a value.", remedy="Give a value for each :name.")
    if set(parameters) - set(names):
        raise _refused(
            "A value is given for a parameter that the query does not have.",
            remedy="Give values for the :names of the query only.",
        )
    if any(_UNREADABLE.search(value) for value in parameters.values()):
        raise _refused("The value of a parameter holds control characters.", remedy="Remove them.")


# --- The tree against the list ---


def _check_tree(tree: exp.Expr) -> list[exp.Table]:
    """Check every node; return the tables and the uses of CTEs, in the order of the text."""
    tables: list[exp.Table] = []
    stack = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _too_nested()
        if type(node) not in ARGUMENTS:
            raise _not_allowed(node)
        for name, value in node.args.items():
            if value is None or value is False or value == []:
                continue
            if name not in ARGUMENTS[type(node)]:
                raise _refused_argument(node, name)
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, exp.Expr):
                    if (type(node), name) in _OF_NAMES and not isinstance(part, exp.Identifier | exp.Star):
                        raise _refused_argument(node, name)
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


def _not_allowed(node: exp.Expr) -> SeedError:
    kind = type(node).__name__
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        return _refused("The query calls a function that is not allowed.", kind=kind)
    if isinstance(node, exp.Func):
        return _refused(f"The query calls a function that is not allowed ({kind}).", kind=kind)
    return _refused(f"The query holds something that is not allowed ({kind}).", kind=kind)


def _refused_argument(node: exp.Expr, name: str) -> SeedError:
    kind = f"{type(node).__name__}, {name.strip('_')}"
    if isinstance(node, exp.Column):
        return _refused(
            "The query names a column together with its database.",
            remedy="Give the table an alias, and name the column with that.",
            kind=kind,
        )
    if isinstance(node, exp.Table) and name == "catalog":
        return _refused("The query names a table by more than database and table.", kind=kind)
    return _refused(f"The query holds something that is not allowed ({kind}).", kind=kind)


def _check_word(node: exp.Expr, name: str, value: Any) -> None:
    """What is neither absent nor a node is a yes, a text that is quoted, or one of our words."""
    if value is True or isinstance(node, exp.Identifier | exp.Literal):
        return
    if isinstance(node, exp.DataType):
        allowed = value in TYPES
    elif isinstance(node, exp.Placeholder):
        allowed = isinstance(value, str) and value.isdecimal()
    elif isinstance(node, exp.Var):
        allowed = isinstance(value, str) and value.upper() in UNITS
    else:
        allowed = isinstance(value, str) and value.upper() in WORDS
    if not allowed:
        raise _refused_argument(node, name)


def _check_node(node: exp.Expr) -> None:
    """What the list cannot say: what a piece must be made of, and where it may stand."""
    if isinstance(node, exp.Select):
        if not node.expressions:
            raise _refused("The query holds a SELECT without a column.", kind="Select")
    elif isinstance(node, exp.From | exp.Join):
        if not isinstance(node.this, exp.Table | exp.Subquery | exp.Values):
            raise _refused("The query reads from something that is no table.", kind=type(node.this).__name__)
    elif isinstance(node, exp.Alias):
        if not isinstance(node.parent, exp.Select) or node.arg_key != "expressions":
            raise _refused("The query names something that is no column of a SELECT.", kind="Alias")
    elif isinstance(node, exp.Star):
        if not _is_of_all_columns(node):
            raise _refused("The query holds a star that stands for no list of columns.", kind="Star")
    elif isinstance(node, exp.Distinct):
        if isinstance(node.parent, exp.Func) and len(node.expressions) != 1:
            raise _refused_argument(node, "expressions")
    else:
        _check_value(node)


def _check_value(node: exp.Expr) -> None:
    """Numbers and parameters are written as such; what a function makes of an argument is bounded."""
    if isinstance(node, exp.Literal):
        if not node.is_string and not _NUMBER.fullmatch(node.name):
            raise _not_allowed(node)
    elif isinstance(node, exp.Placeholder):
        if not node.name:
            raise _no_parameter()
    elif isinstance(node, PATTERNS):
        _check_literal(node, "expression", MAX_PATTERN_CHARACTERS)
    elif isinstance(node, FORMATS):
        _check_literal(node, "format", MAX_PATTERN_CHARACTERS)
    elif isinstance(node, exp.Pad):
        length = node.expression
        if (
            not isinstance(length, exp.Literal)
            or not _SHORT_NUMBER.fullmatch(length.name)
            or int(length.name) > MAX_PADDED_CHARACTERS
        ):
            raise _refused(
                "The query pads a text to a length that is no number, or too large a one.",
                remedy=f"Pad to at most {MAX_PADDED_CHARACTERS:,} characters.",
                kind="Pad",
            )
    elif isinstance(node, exp.SHA2) and node.text("length") not in {"", "256"}:
        raise _refused_argument(node, "length")


def _is_of_all_columns(star: exp.Star) -> bool:
    """Whether it is the star of count(*), or of a select list, with or without a table."""
    if isinstance(star.parent, exp.Count):
        return True
    whole = star.parent if isinstance(star.parent, exp.Column) else star
    return isinstance(whole.parent, exp.Select) and whole.arg_key == "expressions"


def _check_literal(node: exp.Expr, name: str, max_characters: int) -> None:
    value = node.args.get(name)
    if isinstance(value, exp.Escape):
        value = value.this
    if not isinstance(value, exp.Literal) or not value.is_string or len(value.name) > max_characters:
        raise _refused(
            "The query computes a pattern or a format, or has a very long one.",
            remedy=f"Write it as a text in quotes of at most {max_characters} characters.",
            kind=type(node).__name__,
        )


def _check_output(tree: exp.Expr) -> None:
    """Each SELECT whose rows are the query's has one column."""
    stack = [tree]
    while stack:
        query = stack.pop()
        if isinstance(query, exp.SetOperation):
            stack += [query.this, query.expression]
        elif isinstance(query, exp.Subquery):
            stack.append(query.this)
        elif not isinstance(query, exp.Select):
            raise _refused("The query is not a SELECT.", kind=type(query).__name__)
        elif any(column.is_star for column in query.expressions):
            raise _refused("The query returns a star.", remedy="Name the one column that holds the user ids.")
        elif len(query.expressions) != 1:
            raise _refused(
                f"The query returns {len(query.expressions)} columns; it must return one.",
                remedy="Return the column that holds the user ids.",
            )


# --- Names of ours ---


def _rename(tables: Sequence[exp.Table]) -> tuple[tuple[str, str], ...]:
    """Give tables and CTEs the names they have in what runs; return the tables that are read."""
    if len(tables) > MAX_TABLES:
        raise _refused(f"The query names more than {MAX_TABLES} tables.")
    named: list[tuple[str, str]] = []
    views: list[tuple[exp.Table, str]] = []
    uses: list[tuple[exp.Table, exp.CTE]] = []
    for table in tables:
        if not isinstance(table.this, exp.Identifier):
            raise _refused("The query reads from something that is no table.", kind=type(table.this).__name__)
        if table.args.get("db") is None:
            uses.append((table, _cte_of(table)))
            continue
        pair = _checked_name(table)
        if pair not in named:
            named.append(pair)
        views.append((table, view_name(named.index(pair))))
    if not named:
        raise _refused("The query reads no table.")
    # Only now: a name that has been changed would no longer be found.
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
    """Change what a table is called, and keep what its columns may be qualified with."""
    if not table.alias:
        table.set("alias", exp.TableAlias(this=table.this.copy()))
    table.set("this", exp.to_identifier(name, quoted=True))


def _checked_name(table: exp.Table) -> tuple[str, str]:
    database, name = table.db, table.name
    for part, pattern in ((database, _DATABASE_NAME), (name, _TABLE_NAME)):
        if len(part) > _MAX_NAME_CHARACTERS or not pattern.fullmatch(part):
            raise _refused(
                "The query holds a name that no database or table can have.",
                remedy="Use letters, digits, underscores and hyphens, at most 128 characters.",
            )
    return database, name


def _cte_of(table: exp.Table) -> exp.CTE:
    """The CTE that a name without database means where it stands."""
    wanted = _folded(table.name)
    for scope in _scopes(table):
        for cte in scope:
            if _folded(cte.alias) == wanted:
                return cte
    raise _refused("The query names a table without its database.")


def _scopes(node: exp.Expr) -> Iterator[list[exp.CTE]]:
    """The CTEs visible at a node, nearest first: of a list it stands in, only those before it."""
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
    """All CTEs of the tree the tables stand in."""
    root = tables[0].root()
    found: list[exp.CTE] = []
    for with_ in root.find_all(exp.With):
        names = {_folded(cte.alias) for cte in with_.expressions}
        if len(names) != len(with_.expressions):
            raise _refused("The query defines two CTEs of one name.")
        found += with_.expressions
    return found


def _folded(name: str) -> str:
    """As DuckDB compares names: upper and lower case of ASCII are the same."""
    return "".join(character.lower() if character.isascii() else character for character in name)


def _render(tree: exp.Expr) -> str:
    try:
        return DuckDB().generate(
            tree, identify=True, comments=False, unsupported_level=ErrorLevel.IMMEDIATE, copy=False
        )
    except RecursionError:
        raise _too_nested() from None
    except Exception as error:
        kind = type(error).__name__
    raise _refused("The query holds something that cannot be run here.", kind=kind)
