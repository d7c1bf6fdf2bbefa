"""Rules for usable cells by column role: types, patterns, values.

Lives here: the physical types each role accepts, and the only definition of a usable cell and of its value, in
SQL. Reports (pandera), training, seeds and lists of ids all use it, through `reading.read`; files of data rooms,
through `one_pass`.
Add here when a role or a file format has a new kind of cell.
Keep out: opening tables (reading), counting and reporting.

Files of data rooms have further roles. Their labels (segments, audience types) and scopes are taken exactly as
they are. An age is a bracket `18-24`, an open bracket `65+`, or one whole number; its numbers are from 0 to 150,
and a bracket must not end below its start. Spaces and an en dash are accepted in an age; its value has neither.
Ages and genders may be missing. Numbers of an embedding must be finite, and must not be missing. The syntax of
matching ids, such as e-mail addresses, and their placeholders are judged by `identity.judging`.

A row is dropped if an id is empty or a placeholder, its line cannot be parsed, or a cell has the wrong type: a
time that is neither a whole number of seconds nor an ISO 8601 time, or is out of range; a number that is not
finite. A missing time or feature does not drop the row. NaN in a float column counts as missing.

Ids of users are text: white space and invisible characters around them are ignored, and `7.0` is `7` if every id
of the column is a whole number. That depends on the whole column, so it is decided by `IdFacts`. A column without
such cells costs nothing extra. Items are names: they are taken exactly as they are, except that a column of whole
numbers is read as such.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from cleanroom_pipelines.engine import quote_identifier, quote_literal
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.identity.decimals import DECIMAL_TAIL, WHOLE_NUMBER
from cleanroom_pipelines.identity.placeholders import PLACEHOLDERS
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads.report import ErrorCode
from cleanroom_pipelines.uploads.roles import Role, RoomRole

# Seconds since 1970 stay below this until the year 5138; milliseconds have been above it since 1973.
MAX_SECONDS = 100_000_000_000

# Kinds of physical type. "cell" is unparsed text (CSV, JSON Lines); the others are parquet types. A column that is
# empty in a file has type null there, which suits every role if another file has a type.
CELL, TEXT, INTEGER, FLOAT, DECIMAL, BOOLEAN, TIME, LIST, UUID, BINARY, NULL, OTHER = (
    "cell",
    "text",
    "integer",
    "float",
    "decimal",
    "boolean",
    "time",
    "list",
    "uuid",
    "binary",
    "null",
    "other",
)

_IDS = {CELL, TEXT, INTEGER, FLOAT, DECIMAL, UUID, BINARY}
_KINDS_OF_ROLE = {
    Role.USER_ID: _IDS,
    Role.ITEM_ID: _IDS,
    Role.TIMESTAMP: {CELL, INTEGER, TIME},
    Role.CATEGORICAL_FEATURE: {CELL, TEXT, INTEGER, FLOAT, DECIMAL, BOOLEAN, LIST},
    Role.NUMERICAL_FEATURE: {CELL, INTEGER, FLOAT, DECIMAL},
    Role.ITEM_NAME: {CELL, TEXT, INTEGER},
    RoomRole.MATCHING_ID: _IDS,
    RoomRole.LABEL: {CELL, TEXT, INTEGER},
    RoomRole.SCOPE: {CELL, TEXT, INTEGER},
    RoomRole.AGE: {CELL, TEXT, INTEGER},
    RoomRole.GENDER: {CELL, TEXT},
    RoomRole.NUMBER: {CELL, INTEGER, FLOAT, DECIMAL},
}
# Kinds of one column that may differ between files, because the values are the same in each.
_SAME_VALUES: dict[Role | RoomRole, set[str]] = {
    Role.USER_ID: _IDS,
    Role.ITEM_ID: _IDS,
    Role.TIMESTAMP: {INTEGER, TIME},
    Role.CATEGORICAL_FEATURE: {TEXT, INTEGER},
    Role.NUMERICAL_FEATURE: {INTEGER, FLOAT, DECIMAL},
    Role.ITEM_NAME: {TEXT, INTEGER},
}
TYPES_IN_WORDS = {
    Role.USER_ID: "a string, an integer or a UUID",
    Role.ITEM_ID: "a string, an integer or a UUID",
    Role.TIMESTAMP: "an integer (epoch seconds) or a timestamp",
    Role.CATEGORICAL_FEATURE: "a string, number, boolean or list",
    Role.NUMERICAL_FEATURE: "a number",
    Role.ITEM_NAME: "a string or an integer",
    RoomRole.MATCHING_ID: "a string, an integer or a UUID",
    RoomRole.LABEL: "a string or an integer",
    RoomRole.SCOPE: "a string or an integer",
    RoomRole.AGE: "a string or an integer",
    RoomRole.GENDER: "a string",
    RoomRole.NUMBER: "a number",
}

# Whole numbers, also as pandas writes them for a column with missing values ("881250949.0").
_INTEGER_PATTERN = r" *-?[0-9]+(\.0*)? *"
_SECONDS_PATTERN = r" *-?0*[0-9]{1,11}(\.0*)? *"
_ISO_PATTERN = (
    r" *[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]{1,9})?)?"
    r"(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)? *"
)
# Bounded so that every match is finite as a DOUBLE.
NUMBER_PATTERN = r" *-?([0-9]{1,100}(\.[0-9]*)?|\.[0-9]+)([eE](-[0-9]{1,3}|\+?[0-9]{1,2}))? *"

# White space and invisible characters that surround ids: spaces of any script, the no-break space, zero-width
# characters, the byte order mark.
_BLANKS = (
    " \t\r\n\v\f\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\u2028\u2029\u202f\u205f\u3000\u200b\u200c\u200d\u2060\ufeff"
)
_WITH_POINT = r"-?[0-9]+[.]0+"
_DECIMAL = r"-?[0-9]+[.][0-9]+"
# Larger integers have no exact double, or no exact number of a shorter type.
_MAX_EXACT = 1 << 53
_MAX_EXACT_OF_TYPE = {"halffloat": 1 << 11, "float": 1 << 24}
# Placeholders up to this length are words; longer ones are UUIDs, of digits only, and hashes.
_MAX_WORD, _HASH_LENGTH = 4, 64
_HASH_SIZES = (20, 32, 48, 64)
_LONG_LENGTHS = ", ".join(str(length) for length in sorted({*map(len, PLACEHOLDERS)}) if length > _MAX_WORD)
_PLACEHOLDER = f"(?i:{'|'.join(sorted(map(re.escape, PLACEHOLDERS)))})"

MAX_LABEL_CHARACTERS, MAX_GENDER_CHARACTERS, MAX_AGE = 128, 64, 150
_AGE = r" *([0-9]{1,6}) *(?:([-\x{2013}]) *([0-9]{1,6})|(\+))? *"
# Most ages in their normal form.
_PLAIN_AGE = r"(?:[0-9]|[1-9][0-9]|1[0-4][0-9]|150)\+?|[1-9][0-9]-[1-9][0-9]"


@dataclass(frozen=True)
class Rule:
    """A reason why a cell is unusable: an SQL condition with its error code.

    Args:
        code: The error of the report.
        condition: SQL that is true for such cells; NULL and false mean that the rule does not apply.
        seen: What such cells look like, in words; empty if there is nothing to say.
    """

    code: ErrorCode
    condition: str
    seen: str = ""

    @property
    def key(self) -> str:
        """Text that identifies the rule in a column of errors."""
        return f"{self.code.value} {self.seen}".rstrip()


@dataclass(frozen=True)
class IdFacts:
    """The kinds of values in a column of ids, which decide how its cells are read.

    Args:
        blanks: Whether white space or invisible characters surround some ids.
        placeholders: Whether some ids may be placeholders.
        points: Whether some whole numbers have a decimal point.
        others: Whether some ids are not whole numbers; known only if there are points.
        assumed: Whether the other values are assumed, not counted; `plain_id_sql` checks them.
    """

    blanks: bool = True
    placeholders: bool = True
    points: bool = False
    others: bool = False
    assumed: bool = False

    @property
    def are_whole(self) -> bool:
        """Whether all ids are whole numbers, and at least one has a decimal point (`7.0`)."""
        return self.points and not self.others


@dataclass(frozen=True)
class Column:
    """A declared column with its type in the files.

    Args:
        name: Its name in the files.
        role: Its role.
        kind: Kind of its physical type; kinds that differ between files are separated by commas.
        type: Name of its physical type, for reports; never the field names of a nested type.
        form: Kind of its matching ids; None for other roles.
    """

    name: str
    role: Role | RoomRole
    kind: str
    type: str
    form: MatchingId | None = None

    @property
    def fits(self) -> bool:
        """Whether the role accepts this type. Source: AWS Clean Rooms ML, training data requirements."""
        kinds = set(self.kind.split(", "))
        return all(takes(self.role, kind) for kind in kinds) and (
            len(kinds) == 1 or kinds <= _SAME_VALUES[self.role]
        )

    @property
    def is_number(self) -> bool:
        """Whether the column has a fractional type (float or decimal) in at least one file."""
        return bool({FLOAT, DECIMAL} & set(self.kind.split(", ")))

    @property
    def may_have_points(self) -> bool:
        """Whether the ids may be whole numbers such as `7.0`, which cannot be read without `IdFacts`."""
        return self.form in (None, MatchingId.STRING, MatchingId.PHONE_NUMBER)


def takes(role: Role | RoomRole, kind: str) -> bool:
    """Whether a column with this role may have this kind of physical type."""
    return kind in _KINDS_OF_ROLE[role]


def check_declaration(
    columns: Sequence[tuple[str, str]], *, needs: Sequence[Role]
) -> tuple[tuple[str, Role], ...]:
    """Check a declaration of columns, and return it with typed roles.

    Args:
        columns: Column names and roles.
        needs: Roles that must occur exactly once.

    Returns:
        The same columns with their roles as `Role`.

    Raises:
        UsageError: A role is unknown, a column is repeated, or a required role is missing or repeated.
    """
    if any(role not in set(Role) for _, role in columns):
        raise UsageError("A column has an unknown role.", remedy=f"Use one of {', '.join(Role)}.")
    declared = tuple((name, Role(role)) for name, role in columns)
    roles = [role for _, role in declared]
    # SQL treats "id" and "ID" as the same name.
    if len({name.lower() for name, _ in declared}) != len(declared):
        raise UsageError("A column is declared twice.", remedy="Give each column one role.")
    for role in needs:
        if roles.count(role) != 1:
            raise UsageError(f"Exactly one column must have the role {role}.")
    for role in (Role.TIMESTAMP, Role.ITEM_NAME):
        if roles.count(role) > 1:
            raise UsageError(f"At most one column can have the role {role}.")
    return declared


def kind_of(type_: pa.DataType) -> str:
    """Return the kind of an Arrow type, such as text, integer or float."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    tests = {
        TEXT: (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        INTEGER: (pa.types.is_integer,),
        FLOAT: (pa.types.is_floating,),
        DECIMAL: (pa.types.is_decimal,),
        BOOLEAN: (pa.types.is_boolean,),
        NULL: (pa.types.is_null,),
        TIME: (pa.types.is_timestamp, pa.types.is_date),
        LIST: (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
        UUID: (lambda found: isinstance(found, pa.UuidType),),
        BINARY: (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_fixed_size_binary,
            pa.types.is_binary_view,
        ),
    }
    return next((kind for kind, is_kinds in tests.items() if any(is_kind(type_) for is_kind in is_kinds)), OTHER)


def type_name(type_: pa.DataType) -> str:
    """Name of a physical type, without the field names of a nested one, which may be data."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_nested(type_):
        return type(type_).__name__.removesuffix("Type").lower()
    if isinstance(type_, pa.BaseExtensionType):
        return "uuid" if isinstance(type_, pa.UuidType) else "extension"
    return {TEXT: "string", BINARY: "binary"}.get(kind_of(type_), str(type_))


# --- Ids ---


def raw_id_sql(column: Column) -> str:
    """SQL expression that reads ids before their `IdFacts` are known: integers unchanged, all others as VARCHAR.

    Grouping and joining integers is several times faster than text.
    """
    name = quote_identifier(column.name)
    limit = _MAX_EXACT_OF_TYPE.get(column.type, _MAX_EXACT)
    return {
        UUID: f"CAST({name} AS VARCHAR)",
        BINARY: _bytes_sql(name),
        # A number that may have lost digits is marked, so that it is not a whole one. NaN becomes NULL in any
        # branch: DuckDB decides comparisons by the statistics of a parquet file, which ignore it.
        FLOAT: f"CASE WHEN abs({name}) >= {limit} THEN nullif(CAST({name} AS VARCHAR), 'nan') || 'e0' "
        f"WHEN {name} = floor({name}) THEN CAST(TRY_CAST({name} AS BIGINT) AS VARCHAR) || '.0' "
        f"ELSE nullif(CAST({name} AS VARCHAR), 'nan') END",
        DECIMAL: f"CASE WHEN {name} = floor({name}) THEN CAST(CAST({name} AS HUGEINT) AS VARCHAR) "
        f"ELSE CAST({name} AS VARCHAR) END",
    }.get(column.kind, name)


def _bytes_sql(name: str) -> str:
    """SQL expression that reads bytes as text: UTF-8 without control characters, else a UUID or a hash in hex."""
    text, code = f"TRY(decode({name}))", f"lower(hex({name}))"
    groups = ", ".join(
        f"substr({code}, {start}, {n})" for start, n in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    )
    return (
        f"CASE WHEN NOT regexp_matches({text}, '[\\x00-\\x1F\\x7F]') THEN {text} "
        f"WHEN octet_length({name}) = 16 THEN concat_ws('-', {groups}) "
        f"WHEN octet_length({name}) IN {_HASH_SIZES} THEN {code} END"
    )


def id_facts_sql(cell: str, *, is_number: bool, is_complete: bool) -> str:
    """SQL aggregates that compute the fields of `IdFacts`, in their order, over a column of raw ids as text.

    Args:
        cell: Expression for the raw id.
        is_number: Whether the column has a type of fractions in some file.
        is_complete: Whether to ignore blanks around the ids, and to look for ids that are not whole numbers. This
            is slower, and needed only if there are blanks or points.
    """
    id_ = _trimmed(cell) if is_complete else cell
    blanks = " OR ".join(f"ascii({end}) <= 32 OR ascii({end}) >= 128" for end in (cell, f"right({cell}, 1)"))
    points = f"contains({id_}, '.0') AND regexp_full_match({id_}, '{_WITH_POINT}')"
    if is_number:
        points = f"{id_} IS NOT NULL"
    others = f"NOT regexp_full_match({id_}, '{WHOLE_NUMBER}') AND {id_} <> '' AND NOT ({_is_placeholder(id_)})"
    tests = [blanks, _is_placeholder(id_), points, others if is_complete else "false"]
    if not is_complete and not is_number:  # so that ordinary ids cost little
        tests = [f"CASE WHEN {may_be_odd_sql(cell)} THEN {test} ELSE false END" for test in tests]
    return ", ".join(f"coalesce(bool_or({test}), false)" for test in tests)


def decimal_sql(cell: str) -> str:
    """Cheap SQL prefilter for ids with a decimal point, as in `7.0`; it finds all of them and a few other ids."""
    return f"right({cell}, 1) <= '9' AND contains({cell}, '.')"


def _trimmed(cell: str) -> str:
    return f"trim({cell}, {quote_literal(_BLANKS)})"


def id_sql(cell: str, facts: IdFacts, column: Column) -> tuple[str, list[Rule]]:
    """SQL expression for the id in a text cell, and the rules for unusable cells.

    Args:
        cell: Expression for the raw id as text.
        facts: What the column contains. If that is assumed, the expression is the unchecked cell.
        column: The column.
    """
    if facts.assumed:
        return cell, [Rule(ErrorCode.EMPTY_CELL, f"{cell} IS NULL")]
    id_ = _trimmed(cell) if facts.blanks else cell
    rules = [Rule(ErrorCode.EMPTY_CELL, f"coalesce({id_} = '', true)")]
    if facts.placeholders:
        rules.append(Rule(ErrorCode.PLACEHOLDER, _is_placeholder(id_), PLACEHOLDER_IDS))
    if facts.points and facts.others:
        condition = "true" if column.is_number else f"regexp_full_match({id_}, '{_DECIMAL}')"
        rules.append(point_rule(column, condition))
    elif facts.are_whole:
        id_ = f"regexp_replace({id_}, '{DECIMAL_TAIL}', '')"
    return id_, rules


DECIMAL_IDS = "ids with a decimal point"
PLACEHOLDER_IDS = "no real ids"


def point_rule(column: Column, condition: str = "false") -> Rule:
    """Build the rule that rejects decimal numbers in a column whose ids are not all whole numbers."""
    is_phone = column.form is MatchingId.PHONE_NUMBER
    code = ErrorCode.INVALID_PHONE_E164_NUMBER if is_phone else ErrorCode.INVALID_INTEGER_FORMAT
    return Rule(code, condition, DECIMAL_IDS)


def _is_placeholder(id_: str) -> str:
    """SQL condition for placeholder ids in any letter case; most ordinary ids are ruled out by length alone."""
    # Not IN with many values: DuckDB would turn it into a join, and evaluate its terms for every row.
    return (
        f"((strlen({id_}) <= {_MAX_WORD} OR strlen({id_}) IN ({_LONG_LENGTHS})) "
        f"AND regexp_full_match({id_}, {quote_literal(_PLACEHOLDER)}))"
    )


def plain_id_sql(cell: str) -> str:
    """SQL expression for an id that was assumed to be plain; the query fails if the id may need cleaning."""
    return f"CASE WHEN {may_be_odd_sql(cell)} THEN error('odd id') ELSE {cell} END"


def may_be_odd_sql(cell: str, point: str = "") -> str:
    """Cheap SQL prefilter for ids that cannot be read without `IdFacts`; it finds all of them and a few other ids.

    Args:
        cell: Expression for the raw id.
        point: SQL condition for ids that may have a decimal point; by default, one with zeros only.
    """
    point = point or f"contains({cell}, '.0')"
    long = sorted(text for text in PLACEHOLDERS if len(text) > _MAX_WORD)
    uuids = ", ".join(quote_literal(text) for text in long if len(text) < _HASH_LENGTH)
    starts = " ".join(sorted({text[:2] for text in long if len(text) == _HASH_LENGTH}))
    return (
        f"strlen({cell}) <= {_MAX_WORD} OR {cell} IN ({uuids}) "
        # Blanks sort before all visible characters. `right` takes twice as long.
        f"OR {cell} < '!' OR substr({cell}, -1) < '!' OR {point} OR length({cell}) <> strlen({cell}) "
        # CASE, because DuckDB may evaluate the sides of AND in any order, also for ids of other lengths.
        f"OR CASE WHEN strlen({cell}) = {_HASH_LENGTH} THEN contains('{starts}', lower(left({cell}, 2))) "
        "ELSE false END"
    )


# --- Other cells ---


def rules_of(column: Column) -> tuple[str, list[Rule]]:
    """For a column without ids: return an SQL condition for cells that are surely valid, and rules for all others.

    A rule applies to cells for which neither the condition nor an earlier rule does.
    """
    name = quote_identifier(column.name)
    if isinstance(column.role, RoomRole):
        return _room_rules(column, column.role)
    if column.role is Role.TIMESTAMP:
        out_of_range = {
            CELL: f"regexp_full_match({name}, '{_INTEGER_PATTERN}')",
            INTEGER: f"{name} <= -{MAX_SECONDS} OR {name} >= {MAX_SECONDS}",
            # The epoch of an infinite time is NULL.
            TIME: f"{name} IS NOT NULL AND NOT coalesce(epoch({name}) > -{MAX_SECONDS} "
            f"AND epoch({name}) < {MAX_SECONDS}, false)",
        }
        rules = [Rule(ErrorCode.INVALID_NUMERIC_RANGE, out_of_range[column.kind])]
        if column.kind != CELL:
            return "false", rules
        readable = (
            f"regexp_full_match({name}, '{_SECONDS_PATTERN}') "
            f"OR regexp_full_match({name}, '{_ISO_PATTERN}') AND TRY_CAST(trim({name}) AS TIMESTAMPTZ) IS NOT NULL"
        )
        return f"coalesce({name}, '') = '' OR {readable}", rules + _seen(column.role, name)
    if column.role is Role.NUMERICAL_FEATURE and column.kind == FLOAT:
        return "false", [Rule(ErrorCode.INVALID_NUMERIC_RANGE, f"isinf({name})")]
    if column.role is Role.NUMERICAL_FEATURE and column.kind == CELL:
        usable = f"coalesce({name}, '') = '' OR regexp_full_match({name}, '{NUMBER_PATTERN}')"
        return usable, _seen(column.role, name)
    return "true", []


def _room_rules(column: Column, role: RoomRole) -> tuple[str, list[Rule]]:
    text, code = _as_text(column), ErrorCode.INVALID_NUMERIC_RANGE
    empty = Rule(ErrorCode.EMPTY_CELL, f"coalesce({text} = '', true)")
    if role is RoomRole.NUMBER:
        if column.kind == CELL:
            return f"regexp_full_match({text}, '{NUMBER_PATTERN}')", [
                empty,
                Rule(ErrorCode.INVALID_FLOAT_FORMAT, "true"),
            ]
        name = quote_identifier(column.name)
        infinite = [Rule(code, f"NOT isfinite({name})")] if column.kind == FLOAT else []
        return "false", [Rule(ErrorCode.EMPTY_CELL, f"{name} IS NULL"), *infinite]
    if role is RoomRole.AGE:
        return f"coalesce({text} = '', true)", [Rule(code, f"{_age_sql(text)} IS NULL")]
    if role is RoomRole.GENDER:
        return "false", [_too_long(text, MAX_GENDER_CHARACTERS)]
    if role is RoomRole.LABEL:
        return "false", [empty, _too_long(text, MAX_LABEL_CHARACTERS), _id(text)]
    return "false", [empty]


def _as_text(column: Column) -> str:
    name = quote_identifier(column.name)
    return name if column.kind in (CELL, TEXT) else f"CAST({name} AS VARCHAR)"


def _id(text: str) -> Rule:
    """Reject ids in the place of labels, such as in swapped columns: everyone in the room sees labels."""
    pattern = r"[^@\s]+@[^@\s]+\.[^@\s]+|\+[0-9]{8,15}|[0-9a-fA-F]{64}"
    first = f"(contains({text}, '@') OR starts_with({text}, '+') OR strlen({text}) = 64)"
    return Rule(ErrorCode.UNEXPECTED_ID, f"{first} AND regexp_full_match({text}, '{pattern}')")


def _too_long(text: str, n_characters: int) -> Rule:
    # In bytes first, which are counted already.
    condition = f"strlen({text}) > {n_characters} AND length({text}) > {n_characters}"
    return Rule(ErrorCode.INVALID_NUMERIC_RANGE, condition)


def _age_sql(text: str) -> str:
    """SQL for an age in its normal form; NULL if it is missing or invalid."""
    start, end = (f"TRY_CAST(regexp_extract({text}, '^{_AGE}$', {group}) AS INTEGER)" for group in (1, 3))
    is_open = f"regexp_extract({text}, '^{_AGE}$', 4) <> ''"
    return (
        f"CASE WHEN regexp_full_match({text}, '{_PLAIN_AGE}') "
        f"AND (NOT contains({text}, '-') OR left({text}, 2) <= right({text}, 2)) THEN {text} "
        f"WHEN coalesce({start} > {MAX_AGE}, true) THEN NULL "
        f"WHEN {is_open} THEN {start} || '+' "
        f"WHEN {end} IS NULL THEN CAST({start} AS VARCHAR) "
        f"WHEN {end} BETWEEN {start} AND {MAX_AGE} THEN {start} || '-' || {end} END"
    )


REMEDIES = {
    "a decimal comma": "Write numbers with a decimal point and without separators, such as 1234.5.",
    "a currency sign or unit": "Write the number alone; put currencies and units into another column.",
    "a date that does not start with the year": "Write times as ISO 8601, such as 2026-11-30T12:00:00Z, or as "
    "whole seconds since 1970.",
    "a fraction of a second": "Round times to whole seconds, or write them as ISO 8601.",
    DECIMAL_IDS: "Save the column of ids as text.",
    PLACEHOLDER_IDS: "Remove the rows whose id is a word such as NULL, or the hash of an empty text.",
}
"""The remedy for each kind of unreadable cell (`Rule.seen`)."""


def _seen(role: Role, name: str) -> list[Rule]:
    """Return rules for unreadable cells: one per common mistake (decimal comma, …), and one for other mistakes."""
    comma = ("a decimal comma", f"regexp_full_match({name}, '[-+ 0-9.]*,[0-9]+ *')")
    if role is Role.TIMESTAMP:
        code = ErrorCode.INVALID_INTEGER_FORMAT
        date = f"regexp_matches({name}, '^ *[0-9]{{1,2}}[./-][0-9]{{1,2}}[./-][0-9]{{2,4}}')"
        point = f"regexp_full_match({name}, '{NUMBER_PATTERN}')"
        seen = [("a date that does not start with the year", date), comma, ("a fraction of a second", point)]
    else:
        code = ErrorCode.INVALID_FLOAT_FORMAT
        unit = f"regexp_matches({name}, '[$€£¥%]|^ *[A-Z]{{3}} *[0-9]|[0-9] *[A-Z]{{3}} *$')"
        seen = [("a currency sign or unit", unit), comma]
    return [*(Rule(code, condition, words) for words, condition in seen), Rule(code, "true")]


def value_sql(column: Column) -> str:
    """SQL for the value of a cell in a column without ids; it raises no error if the cell is unusable.

    Types: BIGINT epoch seconds for times, DOUBLE for numbers, VARCHAR or VARCHAR[] for categories. Missing values
    are NULL.
    """
    name = quote_identifier(column.name)
    if isinstance(column.role, RoomRole):
        text, typed = _as_text(column), "TRY_CAST" if column.kind == CELL else "CAST"
        values = {
            RoomRole.NUMBER: f"{typed}({name} AS DOUBLE)",
            RoomRole.AGE: _age_sql(text),
            RoomRole.GENDER: f"nullif({text}, '')",
        }
        return values.get(column.role, text)
    if column.role is Role.TIMESTAMP:
        return {
            # Casts ignore spaces around numbers.
            CELL: f"coalesce(TRY_CAST({name} AS BIGINT), {_iso_seconds(name)})",
            TIME: f"TRY_CAST(floor(epoch({name})) AS BIGINT)",
        }.get(column.kind, f"TRY_CAST({name} AS BIGINT)")
    if column.role is Role.NUMERICAL_FEATURE:
        finite = f"CASE WHEN isfinite({name}) THEN CAST({name} AS DOUBLE) END"
        return finite if column.kind == FLOAT else f"TRY_CAST({name} AS DOUBLE)"
    if column.kind in (CELL, TEXT):
        return f"nullif({name}, '')"
    return f"CAST({name} AS {'VARCHAR[]' if column.kind == LIST else 'VARCHAR'})"


def _iso_seconds(name: str) -> str:
    return (
        f"CASE WHEN regexp_full_match({name}, '{_ISO_PATTERN}') "
        f"THEN CAST(floor(epoch(TRY_CAST(trim({name}) AS TIMESTAMPTZ))) AS BIGINT) END"
    )


def error_sql(rules: Sequence[Rule], usable: str = "false") -> str:
    """SQL expression for the key of the first rule that applies to a cell; NULL if the cell is usable.

    Args:
        rules: The rules in order.
        usable: Condition that skips them.
    """
    cases = "".join(f" WHEN {rule.condition} THEN {quote_literal(rule.key)}" for rule in rules)
    return f"CASE WHEN {usable} THEN NULL{cases} END" if cases else "CAST(NULL AS VARCHAR)"
