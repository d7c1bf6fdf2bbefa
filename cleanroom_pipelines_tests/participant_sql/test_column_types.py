"""Types of the columns of text tables.

Contract: a `_schema.json` in Glue's form, or else a training dataset, gives the columns of CSV and JSON Lines
types; a cell that is not of its type is NULL, no row is lost, and nothing else of the file reaches the query; what
cannot be read is an error with a name, without data.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines.errors import SeedError
from cleanroom_pipelines.participant_sql import child
from cleanroom_pipelines.participant_sql.checking import check_query
from cleanroom_pipelines.participant_sql.column_types import declared_types
from cleanroom_pipelines.participant_sql.running import QueryLimits, ask_process, run_query
from cleanroom_pipelines.uploads.roles import Role

from ..cases import assert_each

CANARY = "kanarienvogel"
TABLE = ("shop", "visits")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "shop" / "visits"
    (folder / "day=2026-01-02").mkdir(parents=True)
    (folder / "day=2026-01-02" / "a.csv").write_text(
        "user_id,n,share,is_new,born,at\n"
        "007,9,0.5,true,2001-02-03,2026-01-02 03:04:05\n"
        "008,10,1e1,FALSE,2001-02-30,2026-01-02T03:04:05.5\n"
        f"009,1.5,{CANARY},1,epoch,infinity\n"
        "010,,,,,\n"
    )
    return folder


def write_schema(folder: Path, **types: str) -> None:
    columns = [{"Name": name, "Type": type_, "Comment": ""} for name, type_ in types.items()]
    (folder / "_schema.json").write_text(json.dumps(columns))


def here(task: Mapping[str, Any], own: Path, limits: QueryLimits) -> dict[str, Any]:
    return child.answer(json.loads(json.dumps(task)), give_up=lambda **_: False)


def users(table: Path, where: str, *, ask: Any = here, types: Mapping[str, str] | None = None) -> list[str]:
    """The users of the rows that satisfy a condition, or the problem of the query."""
    out = table.parent / "out.jsonl"
    scratch = table.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    text = f"SELECT user_id FROM shop.visits WHERE {where} ORDER BY user_id"
    given = {TABLE: types} if types else {}
    try:
        run_query(check_query(text, parameters={}), {TABLE: table}, out, types=given, scratch=scratch, ask=ask)
    except SeedError as error:
        assert CANARY not in f"{error} {error.remedy}"
        return [str(error.attributes["problem"])]
    lines = out.read_text().splitlines()
    out.unlink()
    return [json.loads(line)["user_id"] for line in lines]


def test_cells_get_the_types_of_the_schema(table: Path) -> None:
    write_schema(
        table,
        user_id="string",
        N="BIGINT",
        share="decimal(10, 2)",
        is_new="boolean",
        born="date",
        at="timestamp",
        day="date",
        not_there="int",
    )

    def is_so(where: str, expected: list[str]) -> None:
        assert users(table, where) == expected

    assert_each(
        is_so,
        [
            ("n > 8", ["007", "008"]),
            ("n IS NULL", ["009", "010"]),
            ("share >= 1", ["008"]),
            ("is_new", ["007"]),
            ("NOT is_new", ["008"]),
            ("born < DATE '2020-01-01'", ["007"]),
            ("at > TIMESTAMP '2026-01-02 03:04:05'", ["008"]),
            ("day = DATE '2026-01-02'", ["007", "008", "009", "010"]),
            ("not_there > 1", ["names"]),
        ],
    )


def test_in_a_process_of_its_own(table: Path) -> None:
    write_schema(table, n="int")
    assert users(table, "n > 8", ask=ask_process) == ["007", "008"]


def test_a_training_dataset_declares_numbers_and_the_schema_comes_first(table: Path) -> None:
    types = declared_types([("user_id", Role.USER_ID), ("n", Role.NUMERICAL_FEATURE), ("at", Role.TIMESTAMP)])
    assert types == {"n": "double"}
    assert users(table, "n < 9.5 AND at LIKE '2026%'", types=types) == ["007"]
    write_schema(table, n="string")
    assert users(table, "n = '9'", types=types) == ["007"]


def test_a_schema_that_cannot_be_read(table: Path) -> None:
    def has_a_name(content: str) -> None:
        (table / "_schema.json").write_text(content)
        assert users(table, "n IS NULL") == ["schema"]

    deep = "[" * 90_000
    assert_each(
        has_a_name,
        [
            *(CANARY, "7", "null", '"x"', '{"Name": "n"}', '["n"]', '[{"Name": "n"}]', deep, " " * 100_001),
            *(
                json.dumps([{"Name": "n", "Type": each}])
                for each in (CANARY, "int)", "array<int>", "decimal(39,1)", "decimal(2,3)", "INTEGER); --", 5)
            ),
            json.dumps([{"Name": 5, "Type": "int"}]),
        ],
    )


def test_names_of_the_schema_are_never_sql(table: Path) -> None:
    for name in ('n" AS x, (SELECT 1) AS "y', "n'; DROP TABLE x", "*"):
        write_schema(table, **{name: "int", "n": "int"})
        assert users(table, "n > 8") == ["007", "008"]


def test_a_schema_that_is_a_link_out_of_the_folder_is_not_read(table: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text(json.dumps([{"Name": "n", "Type": "int"}]))
    (table / "_schema.json").symlink_to(tmp_path / "elsewhere.json")
    assert users(table, "n > 8") == ["link"]
