"""Contract: an export holds exactly the users it was given, in their order, in parts of at most n, and a manifest
that is written last and is true; never a score. Its folder appears whole or not at all, takes the place of an
earlier attempt at the same export only, and what cannot be written says why."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.delivery.exports import ExportManifest, verify_export
from cleanroom_pipelines.errors import ArtifactError, CancelledError, DestinationError, StorageFullError
from cleanroom_pipelines.storage import ObjectPlace
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines_tests.delivery.exporting import exported as exported_as
from cleanroom_pipelines_tests.disks import small_disk

from ..examples import one_in
from ..offenders import offenders

FORMATS = ("jsonl", "csv", "parquet")
NASTY = [
    "a,b",
    'say "hi"',
    "two\nlines",
    "cr\rhere",
    "crlf\r\n",
    "🛒",
    " pad ",
    "",
    "NULL",
    "'",
    "\\",
    "\u2028",
    "=1+1",
]
USERS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


def place_in(folder: Path) -> ObjectPlace:
    key = "spring/0123456789ab"
    return ObjectPlace(f"s3://audiences/{key}", LocalBucket(folder), key)


@pytest.fixture
def place(tmp_path: Path) -> ObjectPlace:
    return place_in(tmp_path)


def export(
    place: ObjectPlace, users: Sequence[Sequence[str]], format_: str = "jsonl", **options: object
) -> ExportManifest:
    arguments = {"export": "e-1", "generation_job": "g-1", "requested": 100} | options
    return exported_as(place, users, format_=format_, **arguments)


def read_part(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        assert table.column_names == ["user_id"]
        return table.column("user_id").to_pylist()
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        assert header == ["user_id"]
        assert all(len(row) == 1 for row in rows)
        return [row[0] for row in rows]
    rows = [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]
    assert all(list(row) == ["user_id"] for row in rows)
    return [row["user_id"] for row in rows]


def read(folder: Path) -> list[str]:
    return [user for part in sorted(folder.glob("part-*")) for user in read_part(part)]


@pytest.mark.parametrize("format_", FORMATS)
@one_in(4)
@given(st.lists(st.lists(USERS, max_size=12), max_size=5), st.integers(1, 7))
@example([NASTY], 3)
@example([[]], 1)
@example([], 1)
def test_users_are_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, format_: str, batches: list[list[str]], rows_per_part: int
) -> None:
    place = place_in(tmp_path_factory.mktemp("export"))
    wanted = [user for batch in batches for user in batch]
    told: list[int] = []
    manifest = export(place, batches, format_, max_rows=rows_per_part, on_users=told.append)
    assert read(place.folder) == wanted
    assert manifest.delivered == len(wanted) == told[-1]
    sizes = [part.n_users for part in manifest.parts]
    assert [len(read_part(place.folder / part.name)) for part in manifest.parts] == sizes
    assert all(size == rows_per_part for size in sizes[:-1])
    assert sizes[-1] <= rows_per_part
    assert len(sizes) == max(1, -(-len(wanted) // rows_per_part))
    assert (
        verify_export(place)
        == verify_export(place.folder)
        == manifest.as_dict()
        == json.loads((place.folder / "manifest.json").read_text())
    )
    assert sorted(path.name for path in place.folder.iterdir()) == [
        "manifest.json",
        *(f"part-{number:05d}.{format_}" for number in range(len(sizes))),
    ]
    shutil.rmtree(place.folder)


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_pandas_reads_the_same_users(place: ObjectPlace, format_: str) -> None:
    users = [user for user in NASTY if "\r" not in user]
    export(place, [users], format_)
    path = place.folder / f"part-00000.{format_}"
    if format_ == "csv":
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    else:
        frame = pd.read_json(path, lines=True, dtype=str)
    assert list(frame["user_id"]) == users


def test_manifest_contains_only_counts_and_digests(place: ObjectPlace) -> None:
    export(place, [["anna@example.com"]], requested=7)
    text = (place.folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert "anna" not in text
    assert set(manifest) == {"export", "generationJob", "requested", "delivered", "format", "files"}
    assert (manifest["requested"], manifest["delivered"]) == (7, 1)
    assert set(manifest["files"][0]) == {"name", "users", "bytes", "sha256"}


@pytest.mark.parametrize("format_", FORMATS)
def test_same_users_give_the_same_bytes(tmp_path: Path, format_: str) -> None:
    first, second = place_in(tmp_path / "1"), place_in(tmp_path / "2")
    export(first, [["a", "b"], ["c"]], format_)
    export(second, [["a"], ["b", "c"]], format_)
    for path in first.folder.iterdir():
        assert path.read_bytes() == (second.folder / path.name).read_bytes()


def test_export_is_invisible_until_complete(place: ObjectPlace) -> None:
    def watching() -> Iterator[list[str]]:
        for user in "abc":
            assert not place.folder.exists()
            yield [user]

    rename = os.rename

    def renaming(source: str, target: str, **folders: int) -> None:
        assert (place.folder.parent / source / "manifest.json").exists()
        rename(source, target, **folders)

    with mock.patch.object(os, "rename", renaming):
        export(place, watching(), max_rows=1)
    assert read(place.folder) == ["a", "b", "c"]


def test_manifest_is_written_last(place: ObjectPlace) -> None:
    opened = list[str]()
    open_ = os.open

    def opening(path: str, flags: int, *arguments: int, **folders: int) -> int:
        if flags & os.O_CREAT:
            opened.append(path)
        return open_(path, flags, *arguments, **folders)

    with mock.patch.object(os, "open", opening):
        export(place, [["a", "b"]], max_rows=1)
    assert opened == ["part-00000.jsonl", "part-00001.jsonl", "manifest.json"]
    verify_export(place)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CancelledError("stop"), CancelledError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, os.strerror(28)), StorageFullError),
        (OSError(30, os.strerror(30)), DestinationError),
        (PermissionError(13, os.strerror(13)), DestinationError),
    ],
)
def test_failed_attempt_leaves_nothing(
    place: ObjectPlace, error: BaseException, expected: type[BaseException]
) -> None:
    def failing() -> Iterator[list[str]]:
        yield ["a"]
        raise error

    with pytest.raises(expected):
        export(place, failing(), max_rows=1)
    assert list(place.folder.parent.iterdir()) == []
    export(place, [["a"]])
    assert read(place.folder) == ["a"]


def test_cancelled_attempt_leaves_nothing(place: ObjectPlace) -> None:
    def cancel(n_users: int) -> None:
        raise CancelledError("stop")

    with pytest.raises(CancelledError):
        export(place, [["a"]], on_users=cancel)
    assert list(place.folder.parent.iterdir()) == []


@pytest.mark.parametrize("above", [0, 1])
def test_conflicting_file_is_reported_and_kept(place: ObjectPlace, above: int) -> None:
    in_the_way = [place.folder, *place.folder.parents][above]
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("theirs")
    with pytest.raises(DestinationError) as caught:
        export(place, [["a"]])
    assert caught.value.status_code == "DESTINATION_NOT_WRITABLE"
    assert caught.value.remedy
    assert in_the_way.read_text() == "theirs"
    assert [path.name for path in in_the_way.parent.iterdir()] == [in_the_way.name]


def test_unwritable_folder_is_reported(place: ObjectPlace) -> None:
    """Root may write everywhere, so the refusal of the operating system is played."""
    refusal = PermissionError(13, "Permission denied", str(place.folder))
    for function in ("mkdir", "open", "rename"):
        with mock.patch.object(os, function, side_effect=refusal), pytest.raises(DestinationError) as caught:
            export(place, [["a"]])
        assert "spring" not in str(caught.value)


def test_foreign_folder_is_not_replaced(place: ObjectPlace) -> None:
    place.folder.mkdir(parents=True)

    def check(theirs: str) -> None:
        (place.folder / "manifest.json").write_text(theirs)
        with pytest.raises(DestinationError):
            export(place, [["a"]])
        assert (place.folder / "manifest.json").read_text() == theirs
        assert [path.name for path in place.folder.parent.iterdir()] == [place.folder.name]

    assert offenders(["{}", '{"export": "e-2"}', "no json", "[]"], check) == []


def test_conflicting_link_is_not_followed(place: ObjectPlace, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    place.folder.parent.mkdir(parents=True)
    place.folder.symlink_to(other)
    with pytest.raises(DestinationError):
        export(place, [["a"]])
    assert list(other.iterdir()) == []


@pytest.mark.parametrize("is_empty", [False, True])
def test_interrupted_attempt_is_replaced(place: ObjectPlace, is_empty: bool) -> None:
    if is_empty:
        place.folder.mkdir(parents=True)
    else:
        export(place, [["old", "older"]], max_rows=1)
    export(place, [["new"]])
    assert read(place.folder) == ["new"]
    verify_export(place)
    assert [path.name for path in place.folder.parent.iterdir()] == [place.folder.name]


def test_earlier_attempt_is_kept_if_the_new_one_cannot_replace_it(place: ObjectPlace) -> None:
    export(place, [["old"]])
    rename = os.rename

    def failing(source: str, target: str, **folders: int) -> None:
        if target == place.folder.name and source.endswith("/new"):
            raise OSError(5, "Input/output error")
        rename(source, target, **folders)

    with mock.patch.object(os, "rename", failing), pytest.raises(DestinationError):
        export(place, [["new"]])
    assert read(place.folder) == ["old"]
    assert [path.name for path in place.folder.parent.iterdir()] == [place.folder.name]


def alter(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"a", b"b"))


def drop_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[1:]))


def add_part(path: Path) -> None:
    (path.parent / "part-00009.jsonl").write_text("{}")


@pytest.mark.parametrize("damage", [alter, drop_line, Path.unlink, add_part])
def test_damage_is_reported(place: ObjectPlace, damage: object) -> None:
    export(place, [["a", "b", "c"]], max_rows=2)
    verify_export(place)
    damage(place.folder / "part-00000.jsonl")
    with pytest.raises(ArtifactError):
        verify_export(place)


def test_altered_manifest_is_reported(place: ObjectPlace) -> None:
    changes: list[dict[str, object]] = [
        {"delivered": 4},
        {"files": []},
        {"files": 3},
        {"files": [{"name": "part-00000.jsonl"}]},
        {"files": ["part-00000.jsonl"]},
        {"files": [{"name": "../../../etc/hostname", "users": 3, "bytes": 1, "sha256": ""}]},
    ]
    export(place, [["a", "b", "c"]])
    path = place.folder / "manifest.json"
    manifest = json.loads(path.read_text())

    def check(change: dict[str, object]) -> None:
        path.write_text(json.dumps(manifest | change))
        with pytest.raises(ArtifactError):
            verify_export(place)

    assert offenders(changes, check) == []


def test_missing_manifest_is_reported(place: ObjectPlace) -> None:
    export(place, [["a"]])

    def check(content: bytes | None) -> None:
        (place.folder / "manifest.json").unlink(missing_ok=True)
        if content is not None:
            (place.folder / "manifest.json").write_bytes(content)
        with pytest.raises(ArtifactError, match="missing or incomplete"):
            verify_export(place)

    assert offenders([None, b"", b"[]", b"null", b"\xff"], check) == []


def test_marker_files_of_readers_are_ignored(place: ObjectPlace) -> None:
    export(place, [["a"]])
    (place.folder / "_SUCCESS").touch()
    verify_export(place)


@pytest.mark.parametrize("format_", FORMATS)
def test_full_disk_leaves_nothing(tmp_path: Path, format_: str) -> None:
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        many = [[f"{number * 7919 % 100_003:x}-user" for number in range(50_000)]]
        with pytest.raises(StorageFullError) as caught:
            export(place_in(disk), many, format_)
        assert caught.value.status_code == "STORAGE_FULL"
        assert [path for path in disk.rglob("*") if path.is_file()] == []
        export(place_in(disk), [["a"]], format_)
        verify_export(place_in(disk).folder)
