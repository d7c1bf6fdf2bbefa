"""Ingestion never exposes an id or a cell of an upload.

Contract: ids planted in every column of every dataset, in valid and invalid rows and files, are in no report, no
page, no exception (text, attributes, traceback, cause, context) and no log; and no file of a room contains
matching ids or their unkeyed hashes.
"""

import gzip
import hashlib
import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.errors import CleanroomError, EngineError, StorageFullError
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads.report import ValidationReport, report_markdown, report_sentence
from cleanroom_pipelines.uploads.rooms import Dataset, RoomUpload, ingest_base, ingest_seeds
from cleanroom_pipelines_tests.uploads.uploads import report_on

from ..offenders import offenders

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
KEY = b"k" * 32
CANARY = "kanarienvogel"
PHONE = "791234567"
HASH = hashlib.sha256(CANARY.encode()).hexdigest()
PLANTED = (CANARY, PHONE, HASH, HASH.upper())
IDS = {
    MatchingId.STRING: CANARY,
    MatchingId.EMAIL: f"{CANARY}@x.ch",
    MatchingId.HASHED_EMAIL: HASH,
    MatchingId.PHONE_NUMBER: f"+41{PHONE}",
    MatchingId.HASHED_PHONE_NUMBER: HASH.upper(),
}


def broken_lines(good: str) -> list[str]:
    """A good row, and what can be wrong with one."""
    cells = good.split(",")
    return [
        good,
        good,
        *(",".join([*cells[:i], "", *cells[i + 1 :]]) for i in range(len(cells))),
        *(",".join([*cells[:i], f"{CANARY} {PHONE} {HASH}", *cells[i + 1 :]]) for i in range(len(cells))),
        *(",".join([*cells[:i], CANARY * 20, *cells[i + 1 :]]) for i in range(len(cells))),
        f"{good},{CANARY}",
        CANARY,
        f'"{CANARY}"{CANARY},{good}',
        f"{CANARY}\udcff,{good}",
    ]


def uploads_of(folder: Path, kind: MatchingId) -> dict[Dataset, RoomUpload]:
    good = {
        Dataset.MATCHING: f"{CANARY}-user,{IDS[kind]}",
        Dataset.SEGMENTS: f"{CANARY}-user,{CANARY}-segment",
        Dataset.DEMOGRAPHICS: f"{CANARY}-user,18-24,{CANARY}",
        Dataset.EMBEDDINGS: f"{CANARY}-user,{CANARY},1,2",
        Dataset.SEED_AUDIENCES: f"{IDS[kind]},{CANARY}-type",
    }
    found = {}
    for dataset, row in good.items():
        path = folder / dataset.key
        # Good rows are the most, so that the file has the right number of columns; the last quote never ends.
        lines = [*[row] * 20, *broken_lines(row), f'"{row}']
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
        has_ids = dataset in (Dataset.MATCHING, Dataset.SEED_AUDIENCES)
        n_embeddings = 2 if dataset is Dataset.EMBEDDINGS else None
        found[dataset] = RoomUpload(dataset, path, kind if has_ids else None, n_embeddings)
    return found


def assert_silent(text: str) -> None:
    assert not [planted for planted in PLANTED if planted in text]


def assert_silent_report(report: ValidationReport) -> None:
    for text in (json.dumps(report.as_dict()), report_markdown(report), report_sentence(report), repr(report)):
        assert_silent(text)


def assert_silent_error(error: BaseException) -> None:
    told: BaseException | None = error
    while told is not None:
        lines = traceback.TracebackException.from_exception(told, capture_locals=False).format()
        assert_silent("".join(lines) + str(told) + repr(told) + repr(vars(told)))
        told = told.__cause__ or told.__context__
    assert_silent(pickle.dumps(error).decode("latin1"))


@pytest.fixture(autouse=True)
def silent_log(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield
    assert_silent(caplog.text)
    assert_silent("".join(capfd.readouterr()))


@pytest.mark.parametrize("kind", list(MatchingId))
def test_broken_rows(tmp_path: Path, kind: MatchingId) -> None:
    uploads = uploads_of(tmp_path, kind)
    seed = uploads.pop(Dataset.SEED_AUDIENCES)
    if kind is not MatchingId.EMAIL:
        uploads = {Dataset.MATCHING: uploads[Dataset.MATCHING]}  # the others hold the same whatever the kind
    told: list[str] = []
    base = ingest_base(
        list(uploads.values()),
        room_key=KEY,
        out=tmp_path / "base",
        runtime=Runtime(ENGINE, progress=lambda share, stage: told.append(stage)),
    )
    seeds = ingest_seeds([seed], room_key=KEY, out=tmp_path / "seeds", runtime=Runtime(ENGINE))
    assert base.passed
    assert seeds.passed
    for report in [*base.reports.values(), seeds.report]:
        assert report.n_invalid_rows >= 6, "the rows were judged"
        assert_silent_report(report)
    assert_silent(repr(base.counts) + "".join(told))
    for name in ("base/base.json", "base/reports.json", "seeds/report.json"):
        assert_silent((tmp_path / name).read_text())
    # A user id stands in the room's files, for only the room's runs read them; a matching id in none.
    bare = hashlib.sha256(IDS[kind].encode()).hexdigest()
    for name in ("base/matching.parquet", "seeds/seeds.parquet"):
        digests = pq.read_table(tmp_path / name)["digest"].to_pylist()
        assert digests
        assert not {IDS[kind], bare, HASH} & set(digests)


def broken_files(good: bytes, folder: Path) -> dict[str, bytes]:
    """What can become of a file of good rows."""
    n_columns = good.count(b",") + 1

    def parquet(value: object) -> bytes:
        pq.write_table(pa.table({f"{CANARY}{i}": [value] * 1_000 for i in range(n_columns)}), folder / "parquet")
        return (folder / "parquet").read_bytes()

    whole = parquet(CANARY)
    no_row = b"," + good.replace(b",", b"") if n_columns == 2 else b"," * (n_columns - 1)
    return {
        "no row": b"\n".join([no_row] * 3),
        "columns": b"\n".join([good + b"," + good] * 3),
        "line ends": good + b"\r\n" + good + b"\n" + good + b"\r\n",
        "gzip": gzip.compress((good + b"\n") * 20_000)[:-20],
        "parquet": b"PAR1" + good + b"PAR1",
        "types": parquet({CANARY: [CANARY]}),
        "damaged": whole[:60] + bytes(40) + whole[100:],
        "utf16": good.decode().encode("utf-16"),
    }


def test_broken_files(tmp_path: Path) -> None:
    uploads = uploads_of(tmp_path, MatchingId.EMAIL)
    good = {dataset: upload.path.read_bytes().split(b"\n")[0] for dataset, upload in uploads.items()}

    def check(dataset: Dataset, how: str, content: bytes) -> None:
        uploads[dataset].path.write_bytes(content)
        report = report_on(uploads[dataset], runtime=Runtime(ENGINE))
        assert not report.passed
        assert_silent_report(report)

    cases = [
        (dataset, how, content)
        for dataset in Dataset
        for how, content in broken_files(good[dataset], tmp_path).items()
    ]
    assert offenders(cases, check) == []


@pytest.mark.parametrize("text", [f"{CANARY}: No space left on device", f"cannot write {CANARY}"])
def test_scratch_that_cannot_be_written(tmp_path: Path, text: str) -> None:
    upload = uploads_of(tmp_path, MatchingId.EMAIL)[Dataset.SEGMENTS]
    expected = StorageFullError if "space" in text else EngineError
    with (
        mock.patch.object(pq.ParquetWriter, "write_table", side_effect=OSError(text)),
        pytest.raises(expected) as caught,
    ):
        report_on(upload, runtime=Runtime(ENGINE))
    assert_silent_error(caught.value)


def test_errors(tmp_path: Path) -> None:
    upload = uploads_of(tmp_path, MatchingId.EMAIL)[Dataset.SEGMENTS]
    upload.path.write_bytes(gzip.compress((CANARY.encode() + b",x\n") * 100_000))
    engine = EngineSettings(memory_bytes=512 << 20, threads=1, unpacked_bytes=1_000)
    report = report_on(upload, runtime=Runtime(engine))
    assert not report.passed
    assert CANARY not in json.dumps(report.as_dict())
    upload.path.write_text(f"{CANARY},x\n")

    def stops(share: float, stage: str) -> None:
        raise CleanroomError("stopped")

    with pytest.raises(CleanroomError) as stopped:
        report_on(upload, runtime=Runtime(ENGINE, progress=stops))
    assert_silent_error(stopped.value)
