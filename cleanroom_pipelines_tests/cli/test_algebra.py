"""`cleanroom algebra` combines lists in files; `cleanroom benchmark algebra` measures it.

Contract: exit code 0, or 2 with one clear sentence on stderr, no partial output and no value of
the definition in it; the benchmark rejects a missing peer, and checks that all methods give the same result.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.benchmarks import algebra as benchmark

from ..cases import assert_each
from .commands import Commands

SECRET = "o'hidden"


def file(name: str, **more: str) -> dict[str, str]:
    return {"kind": "file", "path": name, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lists = {"a": ["1", "2", "3", "3", None], "b": ["3", "4"], "c": ["4", "5", "1"]}
    for name, ids in lists.items():
        pq.write_table(pa.table({"user_id": pa.array(ids, pa.string())}), tmp_path / f"{name}.parquet")
    two = {"id": pa.array([1, 2, 9], pa.int64()), "other": pa.array(["x"] * 3)}
    pq.write_table(pa.table(two), tmp_path / "two columns.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "mixed.csv").write_text("user_id\n1.0\nx\n")
    return tmp_path


def write(folder: Path, value: Any) -> Path:
    definition = folder / "definition.json"
    definition.write_text(value if isinstance(value, str) else json.dumps(value))
    return definition


def rule(source: Any, *combinators: tuple[str, Any]) -> dict[str, Any]:
    return {
        "kind": "rule_based",
        "source": source,
        "combinators": [{"operator": operator, "source": other} for operator, other in combinators],
    }


COMBINED = [
    (rule(file("a.parquet")), {"1", "2", "3"}),
    (rule(file("a.parquet"), ("UNION", file("b.parquet")), ("DIFF", file("c.parquet"))), {"2", "3"}),
    (rule(file("a.parquet"), ("DIFF", file("c.parquet")), ("UNION", file("b.parquet"))), {"2", "3", "4"}),
    (rule(file("a.parquet"), ("INTERSECT", file("two columns.parquet", column="id"))), {"1", "2"}),
    (
        {
            "definition": rule(file("a.parquet"), ("DIFF", {"kind": "custom", "id": "x"})),
            "audiences": {"x": rule(file("c.parquet"), ("UNION", file("b.parquet")))},
        },
        {"2"},
    ),
]


@pytest.mark.parametrize(
    ("operator", "ids", "warning"),
    [
        (
            "DIFF",
            ["01", "02"],
            "None of the 2 ids of a list are in the source. They would match with leading zeros",
        ),
        ("INTERSECT", ["01", "8"], "1 of them would match with leading zeros removed."),
        ("DIFF", ["01", "2"], ""),
        ("DIFF", ["8", "9"], ""),
        ("UNION", ["01", "02"], ""),
    ],
)
def test_a_list_written_in_another_way_is_named(
    command: Commands, folder: Path, operator: str, ids: list[str], warning: str
) -> None:
    for name, texts in (("source", ["1", "2", "3"]), ("list", ids)):
        pq.write_table(pa.table({"user_id": texts}), folder / f"{name}.parquet")
    definition = write(folder, rule(file("source.parquet"), (operator, file("list.parquet"))))
    ended = command("algebra", "--definition", definition, "--out", folder / "out.parquet")
    assert ended.code == 0
    assert (warning in ended.out, "Warning: " in ended.out) == (True, bool(warning)), ended.out


def test_lists_are_combined(command: Commands, folder: Path) -> None:
    def is_combined(value: Any, expected: set[str]) -> None:
        out = folder / "out.parquet"
        ended = command("algebra", "--definition", write(folder, value), "--out", out)
        assert (ended.code, ended.out, ended.err) == (0, f"Wrote {len(expected)} ids.\n", "")
        table = pq.read_table(out)
        assert table.schema.names == ["user_id"]
        assert table.schema.field("user_id").type == pa.string()
        assert sorted(table["user_id"].to_pylist()) == sorted(expected)

    assert_each(is_combined, COMBINED)


def test_json_output_is_machine_readable(command: Commands, folder: Path) -> None:
    out = folder / "out.parquet"
    out.write_text("what was here before is replaced")
    ended = command(
        "algebra", "--definition", write(folder, rule(file("b.parquet"))), "--out", out, "--threads", "1",
        "--memory", "1GB", "--json",
    )  # fmt: skip
    assert json.loads(ended.out) == {"n_users": 2, "out": str(out), "n_bytes": out.stat().st_size}


BASE = {"kind": "base"}
CUSTOM = {"kind": "custom", "id": SECRET}


WRONG = [
    ("{", "not valid JSON"),
    ("[" * 100_000, "not valid JSON"),
    ('{"a":' * 700 + "1" + "}" * 700, "not valid JSON"),
    ("\ufeff\udcff", "not valid JSON"),
    (rule(file("missing.parquet")), "not found"),
    (rule(file("broken.parquet")), "cannot be read"),
    (rule(file("mixed.csv")), "decimal point"),
    (rule(file("two columns.parquet")), "several columns"),
    (rule(file("a.parquet", column=SECRET)), "not in the source's file"),
    (rule(BASE), "definition.source"),
    (rule(file("a.parquet")) | {"filters": {"operator": "AND", "filters": [SECRET]}}, "Filters do not apply"),
    (rule(file("a.parquet"), (SECRET, file("b.parquet"))), "combinators[0]"),
    (rule(CUSTOM), "missing in the definition file"),
    ({"definition": rule(CUSTOM), "audiences": {SECRET: rule(CUSTOM)}}, "cycle"),
    ({"definition": rule(CUSTOM), "audiences": [SECRET]}, "unknown"),
    ({"definition": rule(CUSTOM), SECRET: {}}, "unknown"),
]


ONE_TO_THREE = {
    "int8": pa.array([1, 2, 3], pa.int8()),
    "uint64": pa.array([1, 2, 3], pa.uint64()),
    "double": pa.array([1.0, 2.0, 3.0, None]),
    "decimal(38,0)": pa.array([1, 2, 3]).cast(pa.decimal128(38, 0)),
    "decimal(10,2)": pa.array([1, 2, 3]).cast(pa.decimal128(21, 2)),
    "text of floats": pa.array(["1.0", "2.0", "3.0"]),
    "text with blanks": pa.array([" 1", "2\u00a0", "3\ufeff", ""] + ["3"] * 30),
    "bytes": pa.array([b"1", b"2", b"3"]),
    "dictionary": pa.array(["1", "2", "3"]).dictionary_encode(),
    "large text": pa.array(["1", "2", "3"], pa.large_string()),
}


@pytest.mark.parametrize("form", ONE_TO_THREE)
def test_ids_match_whatever_their_physical_type(command: Commands, folder: Path, form: str) -> None:
    pq.write_table(pa.table({"id": ONE_TO_THREE[form]}), folder / "form.parquet")
    out = folder / "out.parquet"
    definition = write(folder, rule(file("c.parquet"), ("DIFF", file("form.parquet"))))
    assert command("algebra", "--definition", definition, "--out", out).code == 0
    assert set(pq.read_table(out)["user_id"].to_pylist()) == {"4", "5"}


def test_a_list_in_another_format_is_read(command: Commands, folder: Path) -> None:
    (folder / "list.csv").write_text("user_id;x\n1.0;a\n4.0;b\n")
    out = folder / "out.parquet"
    definition = write(folder, rule(file("c.parquet"), ("INTERSECT", file("list.csv", column="user_id"))))
    assert command("algebra", "--definition", definition, "--out", out).code == 0
    assert set(pq.read_table(out)["user_id"].to_pylist()) == {"1", "4"}


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([[1], [2]]),
        pa.array([True, False]),
        pa.array([{"secret@x.example": 1}]),
        pa.array([1, 2], pa.timestamp("s")),
        pa.array([1.5, 2.0]),
        pa.array(["1.0", "b"]),
    ],
    ids=["list", "boolean", "struct", "time", "fractions", "mixed"],
)
def test_a_column_that_cannot_hold_ids_is_rejected(command: Commands, folder: Path, ids: pa.Array) -> None:
    """Left out without a word, an exclusion would deliver the people it should exclude."""
    pq.write_table(pa.table({"id": ids}), folder / "form.parquet")
    definition = write(folder, rule(file("c.parquet"), ("DIFF", file("form.parquet"))))
    ended = command("algebra", "--definition", definition, "--out", folder / "out.parquet")
    assert ended.code == 2
    assert "secret" not in ended.err and "combinators" not in ended.err
    assert not (folder / "out.parquet").exists()


def test_invalid_definition_is_one_sentence(command: Commands, folder: Path) -> None:
    def is_one_sentence(value: Any, words: str) -> None:
        definition = folder / "definition.json"
        text = value if isinstance(value, str) else json.dumps(value)
        definition.write_bytes(text.encode(errors="surrogateescape"))
        before = {path.name for path in folder.iterdir()}
        ended = command("algebra", "--definition", definition, "--out", folder / "out.parquet")
        assert ended.code == 2
        assert ended.err.startswith("cleanroom: ")
        assert ended.err.count("\n") == 1
        assert words in ended.err
        assert SECRET not in ended.err
        assert {path.name for path in folder.iterdir()} == before

    assert_each(is_one_sentence, WRONG)


def test_unusable_paths_are_rejected(command: Commands, folder: Path) -> None:
    definition = write(folder, rule(file("a.parquet")))
    for out in (folder, folder / "no such folder" / "out.parquet"):
        ended = command("algebra", "--definition", definition, "--out", out)
        assert (ended.code, ended.err.count("\n")) == (2, 1)
    ended = command("algebra", "--definition", folder / "none.json", "--out", folder / "out.parquet")
    assert (ended.code, ended.err.count("\n")) == (2, 1)


with_polars = pytest.mark.skipif(find_spec("polars") is None, reason="polars is in the extra `benchmark`")


@with_polars
def test_benchmark_compares_equal_results(command: Commands, tmp_path: Path) -> None:
    result_file = tmp_path / "result.json"
    ended = command(
        "benchmark", "algebra", "--rows", "2000", "--repetitions", "1", "--questions", "mixed",
        "--scratch", tmp_path, "--json", result_file,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    result = json.loads(result_file.read_text())
    assert result["questions"].keys() == {"mixed"}
    question = result["questions"]["mixed"]
    assert question["is_same"]
    assert 0 < question["n_found"] <= 2000
    assert question["ways"].keys() == {benchmark.OURS, *benchmark.HAND_WRITTEN, *benchmark.POLARS}
    assert all(way["seconds"] > 0 and way["peak_bytes"] > 1 << 20 for way in question["ways"].values())
    for compared in ("to_sql", "to_polars"):
        assert question[compared]["seconds"] > 0
        assert question[compared]["cpu_seconds"] > 0
    assert "the better polars engine" in ended.out
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_benchmark_accepts_exactly_five_questions(command: Commands) -> None:
    asked = {"intersections", "differences", "unions", "mixed", "matching"}
    assert set(benchmark.AlgebraSettings().questions) == asked
    assert "unknown kind of query" in command("benchmark", "algebra", "--questions", f"mixed,{SECRET}").err


def answer(folder: Path, way: str, question: str) -> list[str]:
    """What a way answers, in this process."""
    out = folder / "out.parquet"
    arguments = {
        "way": way, "question": question, "folder": str(folder), "out": str(out), "threads": 1,
        "scratch": str(folder),
    }  # fmt: skip
    assert json.loads(benchmark.main(json.dumps(arguments)))["seconds"] > 0
    found: list[str] = pq.read_table(out)["user_id"].to_pylist()
    return sorted(found)


@with_polars
def test_every_benchmark_implementation_is_correct(tmp_path: Path) -> None:
    settings = benchmark.AlgebraSettings(n_ids=500, threads=1)
    benchmark.write_lists(tmp_path, settings)
    lists = [pq.read_table(path)["user_id"].to_pylist() for path in sorted(tmp_path.glob("list-*.parquet"))]
    assert all(len(ids) > len(set(ids)) for ids in lists), "some ids are repeated"

    def is_right(question: str, operators: str, way: str) -> None:
        expected, *others = map(set, lists)
        for operator, ids in zip(operators, others, strict=True):
            expected = {"&": expected & ids, "-": expected - ids, "|": expected | ids}[operator]
        assert answer(tmp_path, way, question) == sorted(expected)

    operators = {"intersections": "&&&&", "differences": "----", "unions": "||||", "mixed": "&|-&"}
    ways = (benchmark.OURS, *benchmark.HAND_WRITTEN, *benchmark.POLARS)
    assert_each(is_right, ((*each, way) for each in operators.items() for way in ways))


@with_polars
def test_every_benchmark_implementation_matches_the_same_users(tmp_path: Path) -> None:
    benchmark.write_room(tmp_path, benchmark.AlgebraSettings(n_ids=2000, threads=1))
    found = {way: answer(tmp_path, way, benchmark.MATCHING) for way in (benchmark.OURS, *benchmark.POLARS)}
    users = pq.read_table(tmp_path / "matching.parquet").to_pylist()
    seeds = {row["digest"] for row in pq.read_table(tmp_path / "seeds.parquet").to_pylist()}
    expected = sorted(row["user_id"] for row in users if row["digest"] in seeds)
    assert len(expected) == 100
    assert found == dict.fromkeys(found, expected)


def test_missing_peer_is_reported(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    from cleanroom_pipelines.cli import benchmarks

    monkeypatch.setattr(benchmarks, "find_spec", lambda name: None if name == "polars" else object())
    ended = command("benchmark", "algebra")
    assert ended.code == 2
    assert "`polars` is not installed" in ended.err
