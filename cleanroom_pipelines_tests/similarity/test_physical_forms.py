"""Contract: one logical table gives the same model, byte for byte, in whatever form it is written.

Forms differ in types, row order, files, format, encoding and compression. A form that mixes types that have no
common meaning is rejected, in every order of its files.
"""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import Runtime
from cleanroom_pipelines.errors import TrainingDataError
from cleanroom_pipelines.similarity.specs import TrainingTables
from cleanroom_pipelines.similarity.training import train

from .planted import ENGINE, SCHEMA, SMALL, make_world

Write = Callable[[pd.DataFrame, Path], None]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Return rows with whole numbers as ids, so that every type can store them."""
    frame = make_world(n_users=110).interactions
    return frame.assign(
        user_id=frame.user_id.str[1:].astype("int64") + 7, item_id=frame.item_id.str[1:].astype("int64")
    )


@pytest.fixture(scope="module")
def model(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return trained(rows, plain, tmp_path_factory.mktemp("plain"))


def trained(rows: pd.DataFrame, write: Write, folder: Path, *, is_cached: bool = False) -> dict[str, bytes]:
    """Return the files of a model trained on the rows in one form, with or without a cache of each file."""
    table, out, cache = folder / "table", folder / "model", folder / "cache"
    for each in (table, out, cache):
        each.mkdir()
    write(rows, table)
    tables, day_cache = TrainingTables(table, SCHEMA), cache if is_cached else None
    train(tables, out, settings=SMALL, day_cache=day_cache, runtime=Runtime(ENGINE))
    return {
        path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


def plain(rows: pd.DataFrame, folder: Path) -> None:
    rows.to_parquet(folder / "rows.parquet", index=False)


def typed(type_: pa.DataType) -> Write:
    def write(rows: pd.DataFrame, folder: Path) -> None:
        pq.write_table(table_of(rows, type_), folder / "rows.parquet")

    return write


def table_of(rows: pd.DataFrame, type_: pa.DataType) -> pa.Table:
    table = pa.Table.from_pandas(rows, preserve_index=False)
    for name in ("user_id", "item_id"):
        ids = table[name] if not pa.types.is_binary(type_) else table[name].cast(pa.string())
        position = table.column_names.index(name)
        cast = ids.cast(pa.string()).dictionary_encode() if pa.types.is_dictionary(type_) else ids.cast(type_)
        table = table.set_column(position, name, cast)
    return table


def two_types(first: pa.DataType, second: pa.DataType) -> Write:
    def write(rows: pd.DataFrame, folder: Path) -> None:
        half = len(rows) // 2
        pq.write_table(table_of(rows[:half], first), folder / "a.parquet")
        pq.write_table(table_of(rows[half:], second), folder / "b.parquet")

    return write


def shuffled(rows: pd.DataFrame, folder: Path) -> None:
    plain(rows.sample(frac=1, random_state=5), folder)


def many_files(rows: pd.DataFrame, folder: Path) -> None:
    for number in range(7):
        rows[number::7].to_parquet(folder / f"{random.Random(number).random()}.parquet", index=False)


def empty_part(rows: pd.DataFrame, folder: Path) -> None:
    plain(rows, folder)
    rows[:0].astype("float64").to_parquet(folder / "part.parquet", index=False)


def partitions(rows: pd.DataFrame, folder: Path) -> None:
    for item, part in rows.groupby("item_id"):
        (folder / f"item_id={item}").mkdir()
        part.drop(columns="item_id").to_parquet(folder / f"item_id={item}" / "0.parquet", index=False)


def no_suffix(rows: pd.DataFrame, folder: Path) -> None:
    rows.to_parquet(folder / "20261130_00001_x", index=False)


def times(dtype: str) -> Write:
    return lambda rows, folder: plain(rows.assign(ts=pd.to_datetime(rows.ts, unit="s").astype(dtype)), folder)


def iso_times(rows: pd.DataFrame, folder: Path) -> None:
    text = pd.to_datetime(rows.ts, unit="s", utc=True).dt.tz_convert("Asia/Kolkata")
    rows.assign(ts=text.map(lambda time: time.isoformat())).to_csv(folder / "rows.csv", index=False)


def csv(name: str, **options: object) -> Write:
    return lambda rows, folder: rows.to_csv(folder / name, index=False, **options)  # type: ignore[call-overload]


def indexed(rows: pd.DataFrame, folder: Path) -> None:
    rows.to_csv(folder / "rows.csv")


def floats(rows: pd.DataFrame, folder: Path) -> None:
    rows.astype({"user_id": "float64", "item_id": "float64"}).to_csv(folder / "rows.csv", index=False)


def blanks(rows: pd.DataFrame, folder: Path) -> None:
    rows.assign(user_id=" " + rows.user_id.astype(str) + "\u00a0").to_csv(folder / "rows.csv", index=False)


def spark_quotes(rows: pd.DataFrame, folder: Path) -> None:
    lines = [f'{row.user_id},{row.item_id},{row.ts},"5\\" screen, new"' for row in rows.itertuples()]
    (folder / "rows.csv").write_text("\n".join(["user_id,item_id,ts,title", *lines]))


def json_lines(name: str, dtype: str) -> Write:
    def write(rows: pd.DataFrame, folder: Path) -> None:
        text = rows.astype({"user_id": dtype}).to_json(orient="records", lines=True)
        opened = gzip.open if name.endswith(".gz") else open
        with opened(folder / name, "wt") as stream:
            stream.write(text)

    return write


FORMS: dict[str, Write] = {
    "int32": typed(pa.int32()),
    "uint64": typed(pa.uint64()),
    "text": typed(pa.string()),
    "large text": typed(pa.large_string()),
    "double": typed(pa.float64()),
    "decimal(38, 0)": typed(pa.decimal128(38, 0)),
    "decimal(21, 2)": typed(pa.decimal128(21, 2)),
    "bytes": typed(pa.binary()),
    "dictionary": typed(pa.dictionary(pa.int32(), pa.string())),
    "int64 and text": two_types(pa.int64(), pa.string()),
    "text and int64": two_types(pa.string(), pa.int64()),
    "int64 and double": two_types(pa.int64(), pa.float64()),
    "double and int64": two_types(pa.float64(), pa.int64()),
    "int32 and int64": two_types(pa.int32(), pa.int64()),
    "rows in another order": shuffled,
    "seven files": many_files,
    "a part without rows": empty_part,
    "Hive partitions": partitions,
    "no suffix": no_suffix,
    "times": times("datetime64[us]"),
    "nanoseconds": times("datetime64[ns]"),
    "ISO times": iso_times,
    "zstd in parquet": lambda rows, folder: rows.to_parquet(folder / "r.parquet", index=False, compression="zstd"),
    "CSV": csv("rows.csv"),
    "CSV with semicolons": csv("rows.CSV", sep=";"),
    "tabs": csv("rows.tsv", sep="\t"),
    "Excel's CSV": csv("rows.csv", sep=";", encoding="utf-8-sig", lineterminator="\r\n"),
    "quoted CSV": csv("rows.csv", quoting=1),
    "gzipped CSV": csv("rows.csv.gz"),
    "zstd": csv("rows.csv.zst"),
    "unnamed index": indexed,
    "floats in CSV": floats,
    "blanks around ids": blanks,
    "quotes of Spark": spark_quotes,
    "JSON Lines": json_lines("rows.jsonl", "int64"),
    "text in JSON": json_lines("rows.ndjson", "str"),
    "floats in JSON": json_lines("rows.jsonl.gz", "float64"),
}


@pytest.mark.parametrize("is_cached", [False, True], ids=["read", "cached"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_model(
    rows: pd.DataFrame, model: dict[str, bytes], tmp_path: Path, form: str, *, is_cached: bool
) -> None:
    assert trained(rows, FORMS[form], tmp_path, is_cached=is_cached) == model


@pytest.mark.parametrize("other", [pa.list_(pa.int64()), pa.bool_(), pa.timestamp("us")], ids=str)
@pytest.mark.parametrize("name", ["a.parquet", "z.parquet"])
def test_types_without_a_common_meaning_are_rejected_in_every_order(
    rows: pd.DataFrame, tmp_path: Path, other: pa.DataType, name: str
) -> None:
    plain(rows, tmp_path)
    ids = pa.array([None, None], other)
    times = pa.array([1_700_000_000] * 2)
    pq.write_table(pa.table({"user_id": ids, "item_id": [1, 2], "ts": times}), tmp_path / name)
    (tmp_path / "out").mkdir()
    with pytest.raises(TrainingDataError) as caught:
        train(TrainingTables(tmp_path, SCHEMA), tmp_path / "out", runtime=Runtime(ENGINE))
    assert "'user_id'" in caught.value.message
    assert "int64" in caught.value.message
    assert not list((tmp_path / "out").iterdir())
