"""A small world for queries: two tables, for plain engine queries and for checked queries."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from cleanroom_pipelines.engine import Engine, EngineSettings, open_engine, quote_identifier
from cleanroom_pipelines.participant_sql.checking import CheckedQuery, view_name
from cleanroom_pipelines.participant_sql.macros import create_macros

SETTINGS = EngineSettings(memory_bytes=256 << 20, threads=1)

_TABLES = {
    ("shop", "users"): """SELECT * FROM (VALUES
        (1, 'Ann', 'Oslo', DATE '2024-01-31', TIMESTAMP '2024-01-31 10:20:30', 1.5, true),
        (2, 'bob', 'Rome', DATE '2024-02-29', TIMESTAMP '2024-02-29 00:00:00', -2.25, false),
        (3, 'A%_x', NULL, DATE '2023-12-01', NULL, 0.0, NULL),
        (4, '', 'Oslo', NULL, TIMESTAMP '1999-05-06 07:08:09', NULL, true),
        (5, '3', 'O''Neil "q"', DATE '2024-06-15', TIMESTAMP '2024-06-15 12:00:00', 1e10, false)
        ) AS t(n, s, city, d, ts, f, b)""",
    ("shop", "orders"): """SELECT * FROM (VALUES
        (1, 'x', 3, 'Oslo'), (1, 'y', 5, 'Rome'), (2, 'x', NULL, NULL), (3, 'z', 7, 'Oslo'), (9, NULL, 1, 'Bonn')
        ) AS t(n, item, amount, city)""",
}


@contextmanager
def opened() -> Iterator[Engine]:
    """An engine in which a query runs as it was written."""
    with open_engine(SETTINGS) as engine:
        create_macros(engine)
        engine.execute("CREATE SCHEMA shop")
        for (database, name), sql in _TABLES.items():
            engine.execute(f"CREATE TABLE {quote_identifier(database)}.{quote_identifier(name)} AS {sql}")
        yield engine


def run_as_written(engine: Engine, text: str) -> list[str]:
    """The rows of a query in any order."""
    return _rows(engine.fetch(text))


def run_checked(engine: Engine, checked: CheckedQuery) -> list[str]:
    """The rows of a checked query in any order."""
    for number, (database, name) in enumerate(checked.tables):
        source = f"{quote_identifier(database)}.{quote_identifier(name)}"
        engine.execute(f"CREATE OR REPLACE TEMP VIEW {view_name(number)} AS SELECT * FROM {source}")
    return _rows(engine.fetch(checked.sql, checked.parameters))


def _rows(table: pa.Table) -> list[str]:
    return sorted(repr(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True))
