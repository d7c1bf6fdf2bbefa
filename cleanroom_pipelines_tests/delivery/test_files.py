"""Contract: a delivery's files are, byte for byte, what the destination documents; gzip and splitting change
neither the rows nor, from one run to the next, the bytes. The folder is whole or not there, its manifest is true
and holds no user data, damage is told, and what cannot be written says why without an id."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.delivery.exports import open_earlier_export, verify_export
from cleanroom_pipelines.delivery.holdouts import Holdout, holdout_salt
from cleanroom_pipelines.delivery.writing import Activation, Delivery, hash_ids
from cleanroom_pipelines.errors import (
    ArtifactError,
    CancelledError,
    CleanroomError,
    DestinationError,
    StorageFullError,
    UsageError,
)
from cleanroom_pipelines.storage.buckets import folder_on_disk
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines_tests.disks import small_disk

from ..offenders import offenders
from .exporting import delivered

USERS = ["u1", "u2", "u3"]
EMAIL, PHONE, STRING = MatchingId.EMAIL, MatchingId.PHONE_NUMBER, MatchingId.STRING
# u2 has two addresses and no phone, u3 has nothing; x is not in the audience.
EMAILS = [("u1", "A.B+c@gmail.com"), ("u2", "two@example.com"), ("u2", "2@example.com"), ("x", "x@example.com")]
PHONES = [("u1", "+41 79 123 45 67"), ("x", "+41 79 123 45 68")]
# SHA-256, as sha256sum gives them, of ab@gmail.com, a.b+c@gmail.com, two@example.com, 2@example.com,
# +41791234567 and 41791234567.
AB = "86ca2ad27318696b41cfc650acfad97bb32194c43e119e465a16359ea74c7105"
A_B_C = "e198e141d59812b694904a22b36eba74a65e8197cb00a11b8a146c954d09c4ed"
TWO = "1f6c1f35fba8e0f461ef40adaec3cbda883f6a5bcfa5fddef2df80af49fc0832"
DIGIT_2 = "130edf8092d7d88aa09ce460b61bd544f82d63b525805c290b38632e0373afb6"
PLUS_41 = "1a08ef565c13a1e790d8501276243c2c7907e1f6d093cdaec4f23c87e4ea1303"
ONLY_41 = "641b2674c7b3d41f0c5167c163c845f3d899639ebc622d0d3b4632abeb14e6b0"


def hashes(destination: AdDestination, *kinds: MatchingId) -> Iterator[pa.RecordBatch]:
    for kind in kinds:
        users, ids = zip(*{EMAIL: EMAILS, PHONE: PHONES}[kind], strict=True)
        yield hash_ids(destination, kind, pa.array(users), pa.array(ids))


def activation(name: str, *kinds: MatchingId) -> Activation:
    destination = AdDestination(name)
    return Activation(destination, kinds, hashes(destination, *(kind for kind in kinds if kind is not STRING)))


def write(
    folder: Path, users: Sequence[str] = USERS, format_: str | Activation = "csv", **options: object
) -> Delivery:
    arguments = {"export": "e-1", "generation_job": None, "requested": len(users)} | options
    return delivered(folder_on_disk(folder), [pa.array(users, pa.string())], format_=format_, **arguments)  # type: ignore


def read(folder: Path) -> list[str]:
    return [row for batch in open_earlier_export(folder).rows(folder.parent) for row in batch]


def test_files_equal_the_golden_files(tmp_path: Path) -> None:
    files: list[tuple[str, list[MatchingId], str]] = [
        ("plain", [], "u1\nu2\nu3\n"),
        ("google", [EMAIL], f"Email\n{DIGIT_2}\n{TWO}\n{AB}\n"),
        ("google", [EMAIL, PHONE], f"Email,Phone\n,{PLUS_41}\n{DIGIT_2},\n{TWO},\n{AB},\n"),
        ("meta", [PHONE], f"phone\n{ONLY_41}\n"),
        ("meta", [PHONE, EMAIL], f"email,phone\n,{ONLY_41}\n{DIGIT_2},\n{TWO},\n{A_B_C},\n"),
        ("tiktok", [EMAIL, PHONE], f"Email_SHA256,Phone_SHA256\n,{PLUS_41}\n{DIGIT_2},\n{TWO},\n{A_B_C},\n"),
        ("liveramp", [EMAIL], f"EMAIL1_SHA-256\n{DIGIT_2}\n{TWO}\n{A_B_C}\n"),
        ("liveramp", [STRING], "CUSTOMID\nu1\nu2\nu3\n"),
    ]

    def check(number: int, name: str, kinds: list[MatchingId], golden: str) -> None:
        folder = tmp_path / f"{number}"
        written = write(folder, format_=activation(name, *kinds))
        assert (folder / "part-00000.csv").read_bytes().decode() == golden
        assert verify_export(folder) == written.manifest.as_dict()
        assert written.manifest.destination == name

    assert offenders([(number, *file) for number, file in enumerate(files)], check) == []


def test_a_user_is_counted_once_and_each_hash_is_a_row(tmp_path: Path) -> None:
    manifest = write(tmp_path / "x", format_=activation("google", EMAIL, PHONE)).manifest.as_dict()
    assert (manifest["requested"], manifest["delivered"], manifest["usersWithoutHash"]) == (3, 2, 1)
    assert manifest["rows"] == sum(file["rows"] for file in manifest["files"]) == 4
    assert manifest["columns"] == ["Email", "Phone"]
    assert "users" not in manifest["files"][0]


def test_users_who_share_an_address_are_one_row(tmp_path: Path) -> None:
    batch = hash_ids(AdDestination.META, EMAIL, pa.array(["u1", "u2"]), pa.array(["a@x.example", "A@x.example "]))
    written = write(tmp_path / "x", format_=Activation(AdDestination.META, (EMAIL,), [batch, batch]))
    assert (written.manifest.n_rows, written.manifest.delivered) == (1, 2)


def test_audience_without_hashes(tmp_path: Path) -> None:
    written = write(tmp_path / "x", ["u3"], activation("google", EMAIL))
    assert (tmp_path / "x" / "part-00000.csv").read_text() == "Email\n"
    assert (written.manifest.n_rows, written.manifest.delivered) == (0, 0)
    verify_export(tmp_path / "x")


def test_manifest_contains_no_user_data(tmp_path: Path) -> None:
    write(tmp_path / "1", format_=activation("google", EMAIL))
    salt = holdout_salt(b"key", "spring")
    write(
        tmp_path / "2",
        ["user-of-a-kind", *USERS],
        activation("google", EMAIL),
        holdout=Holdout.parse("50%", salt),
        holdout_place=folder_on_disk(tmp_path / "held-out"),
        delta_from=tmp_path / "1",
    )
    for folder in ("1", "2", "held-out"):
        text = (tmp_path / folder / "manifest.json").read_text()
        assert not any(told in text for told in (AB, TWO, DIGIT_2, "user-of-a-kind", '"u1"', salt, "example.com"))


@pytest.mark.parametrize("format_", ["jsonl", "csv", "plain"])
def test_gzip_changes_only_the_compression(tmp_path: Path, format_: str) -> None:
    users = [f"user-{number}" for number in range(2_500)]
    write(tmp_path / "plain", users, format_, max_rows=1_000)
    write(tmp_path / "packed", users, format_, max_rows=1_000, gzip=True)
    manifest = verify_export(tmp_path / "packed")
    assert manifest["gzip"] is True
    assert [file["users"] for file in manifest["files"]] == [1_000, 1_000, 500]
    for file in manifest["files"]:
        packed = tmp_path / "packed" / file["name"]
        assert packed.suffix == ".gz"
        assert packed.stat().st_size == file["bytes"]
        assert gzip.decompress(packed.read_bytes()) == (tmp_path / "plain" / packed.stem).read_bytes()
    assert read(tmp_path / "packed") == users


def test_gzip_gives_the_same_bytes_at_another_time_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    write(tmp_path / "1", gzip=True)
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    write(tmp_path / "2" / "elsewhere", gzip=True)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / "elsewhere" / path.name).read_bytes()


def test_parquet_is_not_compressed_twice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already compressed"):
        write(tmp_path / "x", format_="parquet", gzip=True)
    assert not (tmp_path / "x").exists()


def test_file_sizes(tmp_path: Path) -> None:
    def check(max_rows: int) -> None:
        folder = tmp_path / f"{max_rows}"
        manifest = write(folder, format_=activation("google", EMAIL, PHONE), max_rows=max_rows).manifest
        sizes = [part.n_users for part in manifest.parts]
        assert sum(sizes) == 4
        assert all(size == min(max_rows, 4) for size in sizes[:-1])
        assert 0 < sizes[-1] <= max_rows
        assert [part.name for part in manifest.parts] == [f"part-{number:05d}.csv" for number in range(len(sizes))]
        assert read(folder) == [f",{PLUS_41}", f"{DIGIT_2},", f"{TWO},", f"{AB},"]
        assert all((folder / part.name).read_text().startswith("Email,Phone\n") for part in manifest.parts)

    assert offenders([1, 2, 3, 4, 100], check) == []


def test_rows_per_file_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write(tmp_path / "x", max_rows=0)


def test_unknown_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such export format"):
        write(tmp_path / "x", format_="xlsx")


def test_order_of_hashes_is_independent_of_the_order_of_users(tmp_path: Path) -> None:
    write(tmp_path / "1", USERS, activation("meta", EMAIL))
    write(tmp_path / "2", USERS[::-1], activation("meta", EMAIL))
    assert read(tmp_path / "1") == read(tmp_path / "2")


@pytest.mark.parametrize("damage", ["alter", "cut", "remove", "add"])
def test_damage_is_reported(tmp_path: Path, damage: str) -> None:
    write(tmp_path / "x", format_=activation("google", EMAIL), gzip=True, max_rows=2)
    path = tmp_path / "x" / "part-00000.csv.gz"
    if damage == "alter":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"1", b"2")))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        path.with_name("part-00009.csv.gz").write_bytes(b"")
    with pytest.raises(ArtifactError):
        verify_export(tmp_path / "x")


@pytest.mark.parametrize("change", [{"rows": 3}, {"files": []}, {"files": [{"name": "part-00000.csv"}]}])
def test_altered_manifest_is_reported(tmp_path: Path, change: dict[str, object]) -> None:
    write(tmp_path / "x", format_=activation("google", EMAIL, PHONE))
    path = tmp_path / "x" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError):
        verify_export(tmp_path / "x")


def test_conflicting_file_is_reported_and_nothing_delivered(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("theirs")
    with pytest.raises(DestinationError) as caught:
        write(tmp_path / "x", format_=activation("google", EMAIL))
    assert caught.value.remedy
    assert (tmp_path / "x").read_text() == "theirs"


def test_unwritable_control_group_prevents_the_delivery(tmp_path: Path) -> None:
    (tmp_path / "held-out").write_text("theirs")
    with pytest.raises(DestinationError):
        write(
            tmp_path / "x",
            holdout=Holdout.parse("10%", holdout_salt(b"", "spring")),
            holdout_place=folder_on_disk(tmp_path / "held-out"),
        )
    assert not (tmp_path / "x").exists()


def test_retry_replaces_only_its_own_attempt(tmp_path: Path) -> None:
    write(tmp_path / "x", format_=activation("google", EMAIL), max_rows=1)
    write(tmp_path / "x", format_=activation("google", EMAIL))
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["manifest.json", "part-00000.csv"]
    with pytest.raises(DestinationError):
        write(tmp_path / "x", format_=activation("google", EMAIL), export="e-2")


@pytest.mark.parametrize("error", [CancelledError, KeyboardInterrupt])
def test_stopped_attempt_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def stop(n_rows: int) -> None:
        raise error("stop")

    with pytest.raises(error):
        write(tmp_path / "x", format_=activation("google", EMAIL), on_users=stop)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    users = [f"secret-{number * 7919 % 100_003:x}" for number in range(50_000)]
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        for options in ({}, {"gzip": True}):
            with pytest.raises(StorageFullError) as caught:
                write(disk / "x", users, "plain", **options)
            assert "secret" not in str(caught.value)
            assert [path for path in disk.rglob("*") if path.is_file()] == []


def test_errors_quote_no_ids(tmp_path: Path) -> None:
    batch = hash_ids(AdDestination.META, PHONE, pa.array(["secret"]), pa.array(["+41791234567"]))
    wrong = [
        lambda: write(tmp_path / "x", ["secret"], Activation(AdDestination.META, (STRING,), [batch])),
        lambda: write(tmp_path / "x", ["secret"], Activation(AdDestination.LIVERAMP, (PHONE,), [batch])),
        lambda: write(tmp_path / "x", ["secret"], delta_from=tmp_path / "none"),
    ]
    for attempt in wrong:
        with pytest.raises(CleanroomError) as caught:
            attempt()
        assert "secret" not in repr(caught.value) + str(caught.value.__context__)
    assert list(tmp_path.iterdir()) == []
