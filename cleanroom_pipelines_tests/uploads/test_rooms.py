"""The files written for a room, and cases in which none are written.

Contract: the files and columns that all parts of a room read; relevant users are those in embeddings, else in
segments, else in matching; matchable users also have a matching id; one room may have several kinds of ids; kept
datasets of an earlier base audience are copied unchanged; a dataset that fails leaves no files; equal uploads
give equal bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.engine import EngineSettings, Runtime, stable_hash
from cleanroom_pipelines.errors import ArtifactError, CancelledError, EngineError, UsageError
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.uploads.report import ValidationReport, report_markdown
from cleanroom_pipelines.uploads.rooms import (
    BaseReport,
    Dataset,
    RoomUpload,
    ingest_base,
    ingest_seeds,
    validate_base,
)
from cleanroom_pipelines_tests.uploads.uploads import report_on

from ..offenders import offenders

ENGINE = EngineSettings(memory_bytes=512 << 20, threads=1)
KEY = b"k" * 32

Give = Callable[..., RoomUpload]


def giving(folder: Path) -> Give:
    def write(
        dataset: Dataset, text: str, kind: MatchingId | None = None, n_embeddings: int | None = None
    ) -> RoomUpload:
        path = folder / f"upload-{len(list(folder.glob('upload-*')))}"
        path.write_text(text)
        return RoomUpload(dataset, path, kind, n_embeddings)

    return write


@pytest.fixture
def give(tmp_path: Path) -> Give:
    return giving(tmp_path)


@pytest.fixture
def everything(give: Give) -> list[RoomUpload]:
    return give_everything(give)


@dataclass(frozen=True)
class Ingested:
    """All four datasets taken in, once for all tests that only look at it.

    Attributes:
        uploads: The datasets.
        folder: What was written.
        report: What was told of it.
        progress: The shares done that were told meanwhile.
    """

    uploads: list[RoomUpload]
    folder: Path
    report: BaseReport
    progress: list[float]


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("ingested")
    uploads = give_everything(giving(folder))
    told: list[float] = []
    report = ingest(folder / "out", uploads, runtime=Runtime(ENGINE, lambda share, stage: told.append(share)))
    return Ingested(uploads, folder / "out", report, told)


def give_everything(give: Give) -> list[RoomUpload]:
    return [
        give(Dataset.MATCHING, "u1,a@x.ch\nu2,b@x.ch\nu2,B@X.ch\nu5,e@x.ch\n", MatchingId.EMAIL),
        give(Dataset.SEGMENTS, "u1,Sport\nu1,sport\nu3,Sport\nu5,Sport\n"),
        give(Dataset.DEMOGRAPHICS, "u1,18-24,f\nu4,,\nu1,65+,m\n"),
        give(Dataset.EMBEDDINGS, "u1,all,1,2\nu3,all,0.5,-1\n", n_embeddings=2),
    ]


def ingest(folder: Path, uploads: list[RoomUpload], **options: Any) -> BaseReport:
    return ingest_base(uploads, room_key=KEY, out=folder, **({"runtime": Runtime(ENGINE)} | options))


def rows(file: Path) -> list[dict[str, Any]]:
    return pq.read_table(file).to_pylist()


def users(folder: Path) -> dict[str, tuple[Any, ...]]:
    return {row["user_id"]: tuple(row.values())[2:] for row in rows(folder / "users.parquet")}


def digests(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows(folder / "matching.parquet"):
        found.setdefault(row["user_id"], set()).add(row["digest"])
    return found


# --- The files of a base audience ---


def test_the_files_of_a_base_audience(ingested: Ingested) -> None:
    report, out = ingested.report, ingested.folder
    assert report.passed
    schemas = {
        file.name: [(field.name, str(field.type)) for field in pq.read_schema(file)]
        for file in out.glob("*.parquet")
    }
    assert schemas == {
        "users.parquet": [
            ("user_id", "string"),
            ("stable_hash", "int64"),
            ("age", "string"),
            ("gender", "string"),
            ("is_relevant", "bool"),
            ("is_matchable", "bool"),
        ],
        "matching.parquet": [("digest", "string"), ("user_id", "string")],
        "segments.parquet": [("user_id", "string"), ("segment", "string")],
        "embeddings.parquet": [("user_id", "string"), ("scope", "string"), ("e0", "double"), ("e1", "double")],
    }
    assert users(out) == {
        "u1": ("18-24", "f", True, True),
        "u2": (None, None, False, False),
        "u3": (None, None, True, False),
        "u4": (None, None, False, False),
        "u5": (None, None, False, False),
    }
    found = rows(out / "users.parquet")
    assert [row["stable_hash"] for row in found] == sorted(stable_hash(row["user_id"]) for row in found)
    counts = json.loads((out / "base.json").read_text())
    assert counts == report.counts
    assert counts == {
        "has_matching": True,
        "has_segments": True,
        "has_demographics": True,
        "has_embeddings": True,
        "n_embeddings": 2,
        "n_users": 5,
        "n_relevant_users": 2,
        "n_matchable_users": 1,
        "n_users_by_dataset": {"matching": 3, "segments": 3, "demographics": 2, "embeddings": 2},
        "n_segments": 2,
        "n_matching_ids": {"EMAIL": 3},
    }
    reports = json.loads((out / "reports.json").read_text())
    assert {name: ValidationReport.from_dict(value) for name, value in reports.items()} == report.reports
    assert report.reports["matching"].table.n_ids_changed == 1
    assert reports["matching"]["report"]["table"]["numIdsChanged"] == 1
    assert reports["matching"]["report"]["uniqueness"]["keyColumns"] == ["user_id", "matching_id"]


def test_who_is_relevant(tmp_path: Path, everything: list[RoomUpload]) -> None:
    def check(given_: tuple[int, ...], relevant: set[str]) -> None:
        out = tmp_path / f"out {given_}"
        report = ingest(out, [everything[i] for i in given_])
        found = users(out)
        assert {user for user, row in found.items() if row[2]} == relevant
        assert {user for user, row in found.items() if row[3]} == relevant & {"u1", "u2", "u5"}
        assert (out / "segments.parquet").exists()
        assert (out / "embeddings.parquet").exists() is (3 in given_)
        assert report.counts["has_segments"] is (1 in given_)
        assert set(report.reports) == {everything[i].dataset.key for i in given_}

    relevant = {
        (0, 2): {"u1", "u2", "u5"},
        (0, 1): {"u1", "u3", "u5"},
        (0, 1, 3): {"u1", "u3"},
        (0, 3): {"u1", "u3"},
    }
    assert offenders(relevant.items(), check) == []


def test_several_kinds_of_ids(tmp_path: Path, give: Give) -> None:
    hashed = hashlib.sha256(b"a@x.ch").hexdigest().upper()
    uploads = [
        give(Dataset.MATCHING, "u1,a@x.ch\n", MatchingId.EMAIL),
        give(Dataset.MATCHING, f"u1,{hashed}\nu2,{hashed}\n", MatchingId.HASHED_EMAIL),
        give(Dataset.MATCHING, "u1,+41791234567\n", MatchingId.PHONE_NUMBER),
        give(Dataset.MATCHING, "u3,a@x.ch\n", MatchingId.STRING),
    ]
    report = ingest(tmp_path / "out", uploads)
    found = digests(tmp_path / "out")
    assert found["u2"] < found["u1"]
    assert len(found["u1"]) == 2
    assert not found["u3"] & found["u1"], "an e-mail as a plain string is another id"
    assert report.counts["n_matching_ids"] == {
        "EMAIL": 1,
        "HASHED_EMAIL": 1,
        "PHONE_NUMBER": 1,
        "STRING": 1,
    }
    assert [error.row for error in report.reports["matching"].uniqueness.recorded] == [2]


def test_seeds_match_a_base_of_the_same_room_only(tmp_path: Path, give: Give) -> None:
    ingest(tmp_path / "base", [give(Dataset.MATCHING, "u1,+41 79 123 45 67\n", MatchingId.PHONE_NUMBER)])
    hashed = hashlib.sha256(b"+41791234567").hexdigest()
    seeds = [
        give(Dataset.SEED_AUDIENCES, "0041791234567,Lapsed\n41791234567,Lapsed\n", MatchingId.PHONE_NUMBER),
        give(
            Dataset.SEED_AUDIENCES, f"{hashed},Lapsed\n{hashed},New\nnobody,New\n", MatchingId.HASHED_PHONE_NUMBER
        ),
    ]
    report = ingest_seeds(seeds, room_key=KEY, out=tmp_path / "seeds", runtime=Runtime(ENGINE))
    ingest_seeds(seeds, room_key=KEY[::-1] + b"!", out=tmp_path / "other", runtime=Runtime(ENGINE))
    (digest,) = digests(tmp_path / "base")["u1"]
    assert rows(tmp_path / "seeds" / "seeds.parquet") == [
        {"digest": digest, "audience_type": "Lapsed"},
        {"digest": digest, "audience_type": "New"},
    ]
    assert digest not in {row["digest"] for row in rows(tmp_path / "other" / "seeds.parquet")}
    expected = {
        "n_unique_ids": 1,
        "by_type": {"Lapsed": {"n_unique_ids": 1}, "New": {"n_unique_ids": 1}},
    }
    assert report.counts == json.loads((tmp_path / "seeds" / "seeds.json").read_text()) == expected
    stored = ValidationReport.from_dict(json.loads((tmp_path / "seeds" / "report.json").read_text()))
    assert stored == report.report
    # Rows are numbered over both files.
    assert [error.row for error in stored.columns[0].recorded] == [5]
    assert [error.row for error in stored.uniqueness.recorded] == [2, 3]


def test_equal_uploads_give_equal_bytes(tmp_path: Path, ingested: Ingested, give: Give) -> None:
    matching, segments, *others = ingested.uploads
    reordered = segments.path.read_text().splitlines(keepends=True)[::-1]
    ingest(tmp_path / "again", [*others[::-1], give(Dataset.SEGMENTS, "".join(reordered)), matching])
    for file in ingested.folder.glob("*.parquet"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_no_id_is_written(tmp_path: Path, give: Give) -> None:
    upload = give(Dataset.MATCHING, "u1,kanarienvogel@x.ch\n", MatchingId.EMAIL)
    ingest(tmp_path / "out", [upload])
    bare = hashlib.sha256(b"kanarienvogel@x.ch").hexdigest()
    for file in (tmp_path / "out").iterdir():
        assert b"kanarienvogel" not in file.read_bytes()
        assert bare.encode() not in file.read_bytes()


def test_scratch_is_left_empty(tmp_path: Path, everything: list[RoomUpload]) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    engine = EngineSettings(memory_bytes=512 << 20, threads=1, scratch=scratch)
    ingest_base(everything, room_key=KEY, out=tmp_path / "out", runtime=Runtime(engine))
    with pytest.raises(CancelledError):
        ingest_base(
            everything, room_key=KEY, out=tmp_path / "no", runtime=Runtime(engine, should_cancel=lambda: True)
        )
    assert not list(scratch.iterdir())


# --- What is kept ---


def test_new_segments_keep_the_rest(tmp_path: Path, ingested: Ingested, give: Give) -> None:
    keep = {Dataset.MATCHING, Dataset.DEMOGRAPHICS, Dataset.EMBEDDINGS}
    new = give(Dataset.SEGMENTS, "u9,Neu\n")
    second = ingest(tmp_path / "two", [new], previous=ingested.folder, keep=keep)
    # The same as if everything had been given anew.
    ingest(tmp_path / "three", [ingested.uploads[0], new, *ingested.uploads[2:]])
    for name in ("users", "matching", "segments", "embeddings"):
        assert rows(tmp_path / "two" / f"{name}.parquet") == rows(tmp_path / "three" / f"{name}.parquet")
    assert (tmp_path / "two" / "base.json").read_text() == (tmp_path / "three" / "base.json").read_text()
    assert second.reports == {**ingested.report.reports, "segments": second.reports["segments"]}


def test_what_is_not_kept_goes(tmp_path: Path, ingested: Ingested) -> None:
    report = ingest(tmp_path / "two", [], previous=ingested.folder, keep=[Dataset.MATCHING])
    assert users(tmp_path / "two") == dict.fromkeys(("u1", "u2", "u5"), (None, None, True, True))
    assert set(report.reports) == {"matching"}
    assert not (tmp_path / "two" / "embeddings.parquet").exists()
    assert report.counts["n_embeddings"] == 0


def test_what_cannot_be_kept(tmp_path: Path, everything: list[RoomUpload], ingested: Ingested) -> None:
    options: list[tuple[list[RoomUpload], dict[str, Any]]] = [
        ([], {"keep": [Dataset.MATCHING]}),
        (everything[:1], {"previous": tmp_path / "one", "keep": [Dataset.MATCHING]}),
        (everything[:1], {"previous": tmp_path / "one", "keep": [Dataset.SEGMENTS]}),
        (everything[:1], {"previous": tmp_path / "one", "keep": [Dataset.SEED_AUDIENCES]}),
    ]
    ingest(tmp_path / "one", everything[:1])
    for uploads, keeping in options:
        with pytest.raises(UsageError):
            ingest(tmp_path / "two", uploads, **keeping)
    for damaged in ("base.json", "matching.parquet"):
        shutil.copytree(ingested.folder, tmp_path / f"without {damaged}")
        (tmp_path / f"without {damaged}" / damaged).unlink()
        with pytest.raises(ArtifactError):
            ingest(
                tmp_path / "two",
                everything[1:],
                previous=tmp_path / f"without {damaged}",
                keep=[Dataset.MATCHING],
            )


# --- Hashes for ad destinations ---


def test_hashes_for_ad_destinations(tmp_path: Path, give: Give) -> None:
    seen: list[tuple[MatchingId, list[str]]] = []

    def google(kind: MatchingId, ids: pa.Array) -> pa.Array:
        seen.append((kind, ids.to_pylist()))
        return pa.array([f"hash of {len(text)}" for text in ids.to_pylist()], pa.string())

    def phones_only(kind: MatchingId, ids: pa.Array) -> pa.Array:
        return pa.array(["p" if kind is MatchingId.PHONE_NUMBER else None] * len(ids), pa.string())

    uploads = [
        give(Dataset.MATCHING, "u1, A@x.ch\nu1,a@x.ch\nu2,bad\n", MatchingId.EMAIL),
        give(Dataset.MATCHING, "u2,0041 79 123 45 67\n", MatchingId.PHONE_NUMBER),
    ]
    activation = {"google": google, "meta": phones_only}
    ingest(tmp_path / "out", uploads, activation=activation, activation_out=tmp_path / "sealed")
    assert seen == [(MatchingId.EMAIL, ["A@x.ch", "a@x.ch"]), (MatchingId.PHONE_NUMBER, ["0041 79 123 45 67"])]
    assert rows(tmp_path / "sealed" / "activation.parquet") == [
        {"user_id": "u1", "destination": "google", "hash": "hash of 6"},
        {"user_id": "u2", "destination": "google", "hash": "hash of 17"},
        {"user_id": "u2", "destination": "meta", "hash": "p"},
    ]
    assert not (tmp_path / "out" / "activation.parquet").exists()


def test_hashes_need_a_folder_of_their_own(tmp_path: Path, everything: list[RoomUpload]) -> None:
    with pytest.raises(UsageError):
        ingest(tmp_path / "out", everything, activation={"google": lambda kind, ids: ids})
    ingest(tmp_path / "out", everything[:1], activation_out=tmp_path / "sealed")
    assert not (tmp_path / "sealed").exists()


def test_an_error_of_a_hasher_quotes_no_id(tmp_path: Path, give: Give) -> None:
    def fails(kind: MatchingId, ids: pa.Array) -> pa.Array:
        raise ValueError(ids[0].as_py())

    upload = give(Dataset.MATCHING, "u1,kanarienvogel@x.ch\n", MatchingId.EMAIL)
    with pytest.raises(EngineError) as caught:
        ingest(tmp_path / "out", [upload], activation={"google": fails}, activation_out=tmp_path / "sealed")
    assert "kanarienvogel" not in repr(caught.value)
    assert caught.value.__context__ is None
    assert not (tmp_path / "sealed").exists()


# --- When nothing is written ---


def test_a_dataset_that_fails_leaves_nothing(tmp_path: Path, everything: list[RoomUpload]) -> None:
    def check(broken: int, whole: int) -> None:
        before = everything[broken].path.read_text()
        everything[broken].path.write_text("a,b,c,d,e,f,g\n")
        both = [everything[number] for number in sorted((broken, whole))]
        report = ingest(tmp_path / "out", both, activation={}, activation_out=tmp_path / "sealed")
        everything[broken].path.write_text(before)
        assert not report.passed
        assert report.counts == {}
        failed = [name for name, found in report.reports.items() if not found.passed]
        assert failed == [everything[broken].dataset.key]
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "sealed").exists()

    assert offenders([(0, 1), (1, 0), (2, 0), (3, 0)], check) == []


def test_one_bad_file_of_two_fails_the_dataset(tmp_path: Path, give: Give) -> None:
    uploads = [
        give(Dataset.SEED_AUDIENCES, "a@x.ch,New\n", MatchingId.EMAIL),
        give(Dataset.SEED_AUDIENCES, "", MatchingId.EMAIL),
    ]
    report = ingest_seeds(uploads, room_key=KEY, out=tmp_path / "out", runtime=Runtime(ENGINE))
    assert not report.passed
    assert report.counts == {}
    assert not (tmp_path / "out").exists()


def test_uploads_that_cannot_be_meant(tmp_path: Path, everything: list[RoomUpload], give: Give) -> None:
    seed = give(Dataset.SEED_AUDIENCES, "a@x.ch,New\n", MatchingId.EMAIL)
    for uploads in ([], everything[1:], [*everything, seed], [*everything, everything[1]]):
        with pytest.raises(UsageError):
            ingest(tmp_path / "out", list(uploads))
    for uploads in ([], everything[:1]):
        with pytest.raises(UsageError):
            ingest_seeds(uploads, room_key=KEY, out=tmp_path / "out", runtime=Runtime(ENGINE))
    with pytest.raises(UsageError):
        ingest_seeds([seed], room_key=b"short", out=tmp_path / "out", runtime=Runtime(ENGINE))
    with pytest.raises(UsageError):
        RoomUpload(Dataset.MATCHING, tmp_path)
    with pytest.raises(UsageError):
        RoomUpload(Dataset.SEGMENTS, tmp_path, MatchingId.EMAIL)
    with pytest.raises(UsageError):
        RoomUpload(Dataset.EMBEDDINGS, tmp_path, n_embeddings=0)
    with pytest.raises(UsageError):
        RoomUpload(Dataset.SEGMENTS, tmp_path, n_embeddings=2)
    assert not (tmp_path / "out").exists()


# --- Validation alone, progress and cancelling ---


def test_validation_says_the_same_and_writes_nothing(
    tmp_path: Path, everything: list[RoomUpload], ingested: Ingested
) -> None:
    before = sorted(tmp_path.iterdir())
    alone = {upload.dataset.key: report_on(upload, runtime=Runtime(ENGINE)) for upload in everything}
    together = validate_base(everything, runtime=Runtime(ENGINE))
    assert sorted(tmp_path.iterdir()) == before
    assert together.reports == alone == ingested.report.reports
    assert together.counts == ingested.report.counts
    everything[0].path.write_text("")
    assert validate_base(everything[:1], runtime=Runtime(ENGINE)).counts == {}


def test_progress_rises_to_the_end(ingested: Ingested) -> None:
    told = ingested.progress
    assert told == sorted(told)
    assert 0 <= told[0] < 0.5
    assert told[-1] == 1.0


def test_it_can_be_cancelled(tmp_path: Path, everything: list[RoomUpload]) -> None:
    asked = 0

    def later() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    with pytest.raises(CancelledError):
        ingest(tmp_path / "out", everything, runtime=Runtime(ENGINE, should_cancel=later))
    with pytest.raises(CancelledError):
        report_on(everything[0], runtime=Runtime(ENGINE, should_cancel=lambda: True))
    assert not (tmp_path / "out").exists()


# --- Tables without common users ---


def strangers(give: Give) -> list[RoomUpload]:
    matching = "".join(f"u{n},{n}@x.ch\n" for n in range(30))
    segments = "".join(f"U{n},Sport\n" for n in range(30))
    return [give(Dataset.MATCHING, matching, MatchingId.EMAIL), give(Dataset.SEGMENTS, segments)]


def test_tables_without_common_users_are_a_warning_with_its_cause(tmp_path: Path, give: Give) -> None:
    uploads = strangers(give)
    sentence = (
        "None of the 30 users of the segments table are in the matching table (user ids with matching ids). "
        "They would match without regard to letter case."
    )
    for report in (ingest(tmp_path / "out", uploads), validate_base(uploads, runtime=Runtime(ENGINE))):
        assert report.passed
        assert report.counts["n_matchable_users"] == 0
        assert report.reports["segments"].table.warnings == (sentence,)
        assert sentence in report_markdown(report.reports["segments"]).splitlines()[0]
        assert report.reports["matching"].table.warnings == ()


def test_a_kept_table_does_not_warn_of_one_that_was_replaced(tmp_path: Path, give: Give) -> None:
    ingest(tmp_path / "first", strangers(give))
    matching = give(Dataset.MATCHING, "U1,a@x.ch\n", MatchingId.EMAIL)
    again = ingest(tmp_path / "second", [matching], previous=tmp_path / "first", keep=[Dataset.SEGMENTS])
    assert again.reports["segments"].table.warnings == ()
    matching = give(Dataset.MATCHING, "x1,a@x.ch\n", MatchingId.EMAIL)
    again = ingest(tmp_path / "third", [matching], previous=tmp_path / "second", keep=[Dataset.SEGMENTS])
    assert "different kinds of ids" in again.reports["segments"].table.warnings[0]
