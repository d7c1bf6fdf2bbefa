"""Contract: folders with special characters in their names work for the engine's own files and for tables:
scratch, uploads of a data room, the process of a query. No link to them is left."""

import gzip
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import EngineSettings, Runtime, find_tables, open_engine
from cleanroom_pipelines.engine.plain_paths import is_plain, plain_folder
from cleanroom_pipelines.errors import ConfigurationError, EngineError
from cleanroom_pipelines.participant_sql.checking import check_query
from cleanroom_pipelines.participant_sql.running import run_query
from cleanroom_pipelines.uploads.room_reading import Dataset, RoomUpload
from cleanroom_pipelines_tests.uploads.uploads import report_on

LAB = b"id-1,cars\nid-2,boats\n"
NAMES = ("[x]", "*", "a?", "50%", "it's", "a[!b", "x\\y", "\\x", "[x] \\")

DECOYS = ("x", "ab", "a1", "x/y")


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with decoys: what each name would mean as a pattern."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for decoy in DECOYS:
        (tmp_path / decoy).mkdir(exist_ok=True)
        (tmp_path / decoy / "1.csv").write_text("a\n2\n")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_scratch_and_tables(around: Path, name: str) -> None:
    folder = around / name
    (folder / "scratch").mkdir(parents=True)
    pq.write_table(pa.table({"a": ["1"]}), folder / "1.parquet")
    (folder / "1.parquet.gz").write_bytes(gzip.compress((folder / "1.parquet").read_bytes()))
    (folder / "1.csv").write_text("a\n1\n")
    (folder / "1.jsonl.gz").write_bytes(gzip.compress(b'{"a": "1"}\n'))
    with open_engine(EngineSettings(scratch=folder / "scratch"), paths=[folder]) as engine:
        for file in sorted(folder.glob("1.*")):
            engine.scan("t", find_tables(file))
            assert engine.fetch("SELECT * FROM t").to_pylist() == [{"a": "1"}], file.name
        engine.write_parquet("SELECT 1 AS a", folder / "out.parquet")
        for decoy in DECOYS:
            with pytest.raises(EngineError):
                engine.fetch("SELECT * FROM read_csv(?)", [str(around / decoy / "1.csv")])
    assert pq.read_table(folder / "out.parquet").num_rows == 1
    assert list((folder / "scratch").iterdir()) == list((around / "temporary").iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_uploads_of_a_data_room(around: Path, name: str) -> None:
    scratch = around / name
    scratch.mkdir()
    for file, content in (("plain", LAB), ("packed", gzip.compress(LAB))):
        (around / file).write_bytes(content)
        report = report_on(
            RoomUpload(Dataset.SEGMENTS, around / file), runtime=Runtime(EngineSettings(scratch=scratch))
        )
        assert (report.n_rows, report.passed) == (2, True)
    assert list(scratch.iterdir()) == list((around / "temporary").iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_process_of_a_query(around: Path, name: str) -> None:
    folder = around / name / "table"
    scratch = around / name / "scratch"
    folder.mkdir(parents=True)
    scratch.mkdir()
    (folder / "[1].csv").write_text("user_id\nu1\n")
    checked = check_query("SELECT user_id FROM shop.orders")
    n_rows = run_query(checked, dict.fromkeys(checked.tables, folder), around / "rows", scratch=scratch)
    assert n_rows == 1
    assert (around / "rows").read_text() == '{"user_id": "u1"}\n'
    assert list(scratch.iterdir()) == list((around / "temporary").iterdir()) == []


def test_a_plain_folder_is_its_own(around: Path) -> None:
    with plain_folder(around) as plain:
        assert plain == around


def test_a_temporary_folder_with_special_characters_is_not_used(
    around: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = around / "*"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with plain_folder(odd) as plain:
        assert is_plain(plain)
        assert plain.resolve() == odd.resolve()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigurationError, match="TMPDIR"), plain_folder(odd):
        pass
