"""Contract: an export written by a cluster equals one written by one machine, byte for byte.

This holds for every seed mode, format, file size and layout of the ranking, on a DuckDB that behaves like a
cluster and on Spark. Staged files are deleted, and an altered staged file is rejected.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode, SizeType
from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.delivery.parts import StagedPart
from cleanroom_pipelines.engine import EngineSettings
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.similarity.rankings import RANKING_SCHEMA, ranking_metadata, select_audience
from cleanroom_pipelines.storage.buckets import folder_on_disk
from cleanroom_pipelines_tests.delivery.exporting import delivered
from cleanroom_pipelines_tests.delivery.exporting import exported as exported_as
from cleanroom_pipelines_tests.similarity.cluster_like import use_cluster_like

N_USERS = 300


@pytest.fixture(params=[(N_USERS,), (1, 120, 0, 79, 100)], ids=["one part", "several parts"])
def ranking(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a ranking of users with all kinds of ids, in parts of these lengths."""
    ids = [f"{'é,“' if number % 11 == 0 else 'u'}{number}" for number in range(N_USERS)]
    seed = [number % 7 == 3 for number in range(N_USERS)]
    folder = tmp_path / "ranking.parquet"
    folder.mkdir()
    first = 0
    for number, n_rows in enumerate(request.param):
        some = slice(first, first + n_rows)
        columns = [ids[some], range(first + 1, first + n_rows + 1), [0.5] * n_rows, seed[some]]
        table = pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, RANKING_SCHEMA, strict=True)],
            schema=RANKING_SCHEMA,
        ).replace_schema_metadata(ranking_metadata(sum(seed[some])))
        pq.write_table(table, folder / f"part-{number:05d}.parquet", row_group_size=50)
        first += n_rows
    return folder


def exported(
    ranking: Path, mode: SeedMode, n_users: int, out: Path, engine: EngineSettings | None, **options: object
) -> dict[str, bytes]:
    audience = select_audience(ranking, AudienceSize(SizeType.ABSOLUTE, n_users), mode)
    delivered(
        folder_on_disk(out),
        audience.user_ids(),
        export="e",
        generation_job="g",
        requested=audience.requested,
        engine=engine,
        slices=audience.slices,
        **options,  # type: ignore[arg-type]
    )
    verify_export(out)
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize("mode", list(SeedMode))
@pytest.mark.parametrize("sizes", [(100, 30), (1, 30), (260, 1_000), (N_USERS, 1), (43, 43)])
def test_files_of_any_length_contain_the_same_bytes(
    ranking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: SeedMode, sizes: tuple[int, int]
) -> None:
    n_users, max_rows = sizes
    cluster = use_cluster_like(monkeypatch)
    options = {"format_": "csv", "max_rows": max_rows}
    expected = exported(ranking, mode, n_users, tmp_path / "one", None, **options)
    assert exported(ranking, mode, n_users, tmp_path / "cluster", cluster, **options) == expected
    assert len(expected) == -(-json.loads(expected["manifest.json"])["delivered"] // max_rows) + 1


@pytest.mark.parametrize(
    ("format_", "gzip"), [("jsonl", True), ("csv", True), ("parquet", False), ("plain", False)]
)
def test_every_format_is_reproducible_to_the_byte(
    ranking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str, gzip: bool
) -> None:
    cluster = use_cluster_like(monkeypatch)
    options = {"format_": format_, "max_rows": 70, "gzip": gzip}
    expected = exported(ranking, SeedMode.FIRST, 200, tmp_path / "one", None, **options)
    assert exported(ranking, SeedMode.FIRST, 200, tmp_path / "cluster", cluster, **options) == expected


@pytest.mark.spark
def test_spark_writes_the_same_bytes(spark_here: str, ranking: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = {"format_": "jsonl", "max_rows": 40}
    spark = EngineSettings(url=spark_here, scratch=scratch)
    for mode in SeedMode:
        expected = exported(ranking, mode, 150, tmp_path / f"one {mode}", None, **options)
        assert exported(ranking, mode, 150, tmp_path / f"spark {mode}", spark, **options) == expected
    assert list(scratch.iterdir()) == []


def test_an_altered_staged_file_is_rejected(tmp_path: Path) -> None:
    staged = tmp_path / "00000.staged"
    staged.write_text("user_id\nx\n")
    part = StagedPart(staged, 1, staged.stat().st_size, "0" * 64)
    with pytest.raises(ArtifactError):
        exported_as(
            folder_on_disk(tmp_path / "out"),
            (),
            staged=[part],
            export="e",
            generation_job=None,
            requested=1,
            format_="csv",
        )
    assert not (tmp_path / "out").exists()
