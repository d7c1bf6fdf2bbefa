"""Meaning of checked queries.

Contract: the rendered SQL has the same result in DuckDB as the query as written: precedence, scopes, NULLs,
quoting and parameters are kept.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from cleanroom_pipelines.engine import Engine, quote_identifier, quote_literal
from cleanroom_pipelines.errors import EngineError
from cleanroom_pipelines.participant_sql.checking import check_query

from .tables import opened, run_as_written, run_checked

Texts = st.SearchStrategy[str]

NUMBERS = st.sampled_from(["n", "u.n", "f", "0", "1", "2.5", "-3", "NULL", "length(s)"])
TEXTS = st.sampled_from(
    ["s", "u.city", "city", "'x'", "'A%'", "''", "NULL", "upper(s)", "'it''s \"q\" -- /* ; :p'"]
)
DATES = st.sampled_from(["d", "DATE '2024-02-29'", "CAST(ts AS DATE)", "CURRENT_DATE"])
TRUTHS = st.sampled_from(["b", "true", "false", "NULL", "n IN (1, 2, NULL)", "city IS NULL"])

# Without a bracket too many, so that a difference in precedence is met.
TEMPLATES: dict[str, list[str]] = {
    "number": [
        "{number} + {number}",
        "{number} - {number} * {number}",
        "{number} * - {number}",
        "{number} % {number}",
        "- {number}",
        "({number} - {number}) * {number}",
        "coalesce({number}, {number}, 0)",
        "CASE WHEN {truth} THEN {number} ELSE {number} END",
        "CASE {number} WHEN {number} THEN {number} END",
        "CASE WHEN {truth} THEN CASE WHEN {truth} THEN {number} END ELSE {number} END",
        "strpos({text}, {text})",
        "date_diff('day', {date}, {date})",
        "extract(month FROM {date})",
        "(SELECT count(*) FROM shop.orders AS o WHERE o.n = u.n AND o.amount > {number})",
        "sum({number}) OVER (PARTITION BY city ORDER BY u.n)",
        "CAST({truth} AS INTEGER) + 1",
    ],
    "text": [
        "{text} || {text}",
        "{text} || length({text})",
        "lower({text}) || '-' || {text}",
        "substring({text}, 1, 2)",
        "replace({text}, 'n', {text})",
        "CASE WHEN {truth} THEN {text} WHEN {truth} THEN {text} END",
        "CAST(length({text}) AS VARCHAR)",
        "nullif({text}, {text})",
        "trim({text})",
    ],
    "date": [
        "CAST({date} + INTERVAL '1' MONTH AS DATE)",
        "CAST({date} - INTERVAL 3 DAY AS DATE)",
        "CAST(date_trunc('month', {date}) AS DATE)",
    ],
    "truth": [
        "{truth} AND {truth}",
        "{truth} OR {truth} AND NOT {truth}",
        "NOT {truth}",
        "NOT {truth} OR {truth}",
        "({truth} OR {truth}) AND {truth}",
        "{number} = {number}",
        "{number} <> {number} AND {truth}",
        "{number} + {number} < {number} * {number}",
        "NOT {number} = {number}",
        "{number} BETWEEN {number} AND {number} AND {truth}",
        "{number} NOT BETWEEN {number} AND {number}",
        "NOT {number} BETWEEN {number} AND {number}",
        "{text} LIKE {text}",
        "{text} NOT LIKE {text} || '%'",
        "NOT {text} LIKE {text}",
        "{text} IS NULL",
        "NOT {text} IS NULL",
        "{text} IS NOT NULL AND {truth}",
        "{truth} IS NOT TRUE",
        "{number} IS DISTINCT FROM {number}",
        "{number} IN ({number}, {number})",
        "{number} NOT IN ({number}, {number})",
        "u.n IN (SELECT n FROM shop.orders WHERE amount > {number})",
        "NOT EXISTS (SELECT 1 FROM shop.orders AS o WHERE o.n = u.n AND {truth})",
        "{date} >= {date}",
        "{number} = {number} = {truth}",
        "{number} < {number} IS NULL",
        "{truth} = {truth} OR {truth}",
    ],
}
LEAVES = {"number": NUMBERS, "text": TEXTS, "date": DATES, "truth": TRUTHS}


@st.composite
def expressions(draw: Callable[[st.SearchStrategy[str]], str], kind: str, depth: int = 3) -> str:
    if depth == 0 or draw(st.sampled_from(["leaf", "tree", "tree"])) == "leaf":
        return draw(LEAVES[kind])
    text = draw(st.sampled_from(TEMPLATES[kind]))
    for inner in TEMPLATES:
        while f"{{{inner}}}" in text:
            text = text.replace(f"{{{inner}}}", draw(expressions(inner, depth - 1)), 1)
    return text


@st.composite
def queries(draw: Callable[[st.SearchStrategy[str]], str]) -> str:
    kind = draw(st.sampled_from(["number", "text", "date", "truth"]))
    # in brackets, since a text alone is rejected: it may be meant as a name
    column = f"({draw(expressions(kind))})"
    where = draw(expressions("truth"))
    return draw(st.sampled_from(_QUERIES)).format(
        column=column, where=where, other=f"({draw(expressions(kind, 1))})"
    )


_QUERIES = [
    "SELECT {column} FROM shop.users AS u WHERE {where}",
    "SELECT DISTINCT {column} AS x FROM shop.users u WHERE {where} ORDER BY x NULLS FIRST LIMIT 10",
    "SELECT {column} FROM shop.users u LEFT JOIN shop.orders AS l USING (n, city) WHERE {where}",
    "SELECT {column} FROM shop.users u UNION SELECT {other} FROM shop.users AS u WHERE {where}",
    "SELECT {column} FROM shop.users u EXCEPT SELECT {other} FROM shop.users AS u UNION ALL "
    "SELECT {other} FROM shop.users AS u",
    "WITH u AS (SELECT *, n AS k FROM shop.users AS u WHERE {where}) SELECT {column} FROM u",
    "WITH users AS (SELECT n FROM shop.orders) SELECT {column} FROM shop.users AS u "
    "WHERE u.n IN (SELECT n FROM users) OR {where}",
    "SELECT x FROM (SELECT {column} AS x, {where} AS y FROM shop.users AS u) AS u WHERE y",
    "SELECT max(x) FROM (SELECT {column} AS x, city FROM shop.users AS u WHERE {where}) GROUP BY city",
    "SELECT count(DISTINCT x) FROM (SELECT {column} AS x FROM shop.users AS u) HAVING count(*) > 1",
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with opened() as engine:
        yield engine


@given(text=queries())
def test_it_means_what_was_written(engine: Engine, text: str) -> None:
    checked = check_query(text)
    note(text)
    note(checked.sql)
    try:
        meant = run_as_written(engine, text)
    except EngineError:
        return  # types that do not go together: nothing to compare with
    assert run_checked(engine, checked) == meant


def test_most_of_what_is_tried_can_run(engine: Engine) -> None:
    can_run: list[bool] = []

    @settings(database=None)
    @given(text=queries())
    def try_one(text: str) -> None:
        can_run.append(runs(engine, text))

    try_one()
    assert sum(can_run) > len(can_run) / 2


def runs(engine: Engine, text: str) -> bool:
    try:
        run_as_written(engine, text)
    except EngineError:
        return False
    return True


ANY_TEXT = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), max_size=40)


@given(text=ANY_TEXT, name=ANY_TEXT.filter(bool))
def test_any_text_is_a_text_and_any_name_a_name(engine: Engine, text: str, name: str) -> None:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    in_sparks = "`" + name.replace("`", "``") + "`"
    query = f"SELECT s || '{escaped}' AS {in_sparks} FROM shop.users AS {in_sparks}"
    meant = f"SELECT s || {quote_literal(text)} AS {quote_identifier(name)} FROM shop.users"
    assert run_checked(engine, check_query(query)) == run_as_written(engine, meant)


@given(text=ANY_TEXT)
def test_any_text_is_a_parameter(engine: Engine, text: str) -> None:
    checked = check_query("SELECT :p || s || :p FROM shop.users", parameters={"p": text})
    assert text not in checked.sql or len(text) < 30
    literal = quote_literal(text)
    assert run_checked(engine, checked) == run_as_written(
        engine, f"SELECT {literal} || s || {literal} FROM shop.users"
    )


@pytest.mark.parametrize(
    ("parameter", "literal"), [("3", "3"), ("2024-02-29", "'2024-02-29'"), ("true", "true"), ("Oslo", "'Oslo'")]
)
def test_a_parameter_is_compared_as_what_it_is_compared_with(engine: Engine, parameter: str, literal: str) -> None:
    column = {"3": "n", "2024-02-29": "d", "true": "b", "Oslo": "city"}[parameter]
    text = f"SELECT s FROM shop.users WHERE {column} >= "
    checked = check_query(f"{text} :p", parameters={"p": parameter})
    assert run_checked(engine, checked) == run_as_written(engine, text + literal) != []
