"""Contract: an export lists the changes since an earlier one: applied to the earlier list, they give the new one,
whatever the formats, the order and the control group. An earlier export that is damaged, or has ids of another
kind, is rejected; no error quotes an id."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.delivery.exports import open_earlier_export, verify_export
from cleanroom_pipelines.delivery.formats import LISTS_OF_USERS, FileFormat
from cleanroom_pipelines.delivery.holdouts import Holdout, holdout_salt
from cleanroom_pipelines.delivery.writing import Activation, Delivery, hash_ids
from cleanroom_pipelines.engine import EngineSettings
from cleanroom_pipelines.errors import ArtifactError, UsageError
from cleanroom_pipelines.storage.buckets import folder_on_disk
from cleanroom_pipelines.terms import MatchingId

from ..examples import one_in
from .exporting import delivered

FORMATS = sorted(LISTS_OF_USERS)
NASTY = [
    "a,b",
    'say "hi"',
    "two\nlines",
    "cr\rhere",
    "crlf\r\n",
    "🛒",
    " pad ",
    "NULL",
    "\\",
    "\u2028",
    "=1+1",
    "é",
    "é",
]
IDS = st.one_of(
    st.sampled_from(NASTY), st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6)
)
LISTS = st.lists(IDS, unique=True, max_size=25)


def write(
    folder: Path,
    users: Sequence[str],
    *,
    since: Path | None = None,
    format_: str | Activation = "csv",
    share: str | None = None,
    **options: object,
) -> Delivery:
    return delivered(
        folder_on_disk(folder),
        [pa.array(users[:7], pa.string()), pa.array(users[7:], pa.string())],
        export=folder.name,
        generation_job="g-1",
        requested=len(users),
        format_=format_,
        holdout=Holdout.parse(share, holdout_salt(b"key", "spring")) if share else None,
        holdout_place=folder_on_disk(folder.with_name(f"{folder.name}-held-out")) if share else None,
        delta_from=since,
        **options,  # type: ignore[arg-type]
    )


def parts(folder: Path) -> list[str]:
    return [row for batch in open_earlier_export(folder).rows(folder.parent) for row in batch]


def changes(folder: Path, name: str) -> list[str]:
    manifest = verify_export(folder)
    format_ = LISTS_OF_USERS.get(manifest["format"]) or FileFormat(
        "hashes", "csv", tuple(manifest["columns"]), False
    )
    return [
        row
        for file in manifest["changes"][f"{name}Files"]
        for batch in format_.read(folder / file["name"], gzip_=bool(manifest.get("gzip")))
        for row in batch
    ]


def hashes_of(users: Sequence[str]) -> Activation:
    batch = hash_ids(
        AdDestination.GOOGLE,
        MatchingId.EMAIL,
        pa.array(users),
        pa.array([f"{user}@example.com" for user in users]),
    )
    return Activation(AdDestination.GOOGLE, (MatchingId.EMAIL,), [batch])


@pytest.mark.parametrize("format_", FORMATS)
@one_in(8)
@given(lists=st.tuples(LISTS, LISTS), since=st.sampled_from(FORMATS), gzip=st.booleans(), n=st.integers(1, 9))
def test_changes_turn_the_earlier_list_into_the_new_one(
    tmp_path_factory: pytest.TempPathFactory,
    format_: str,
    *,
    lists: tuple[list[str], list[str]],
    since: str,
    gzip: bool,
    n: int,
) -> None:
    folder, (earlier, later) = tmp_path_factory.mktemp("delta"), lists
    write(folder / "1", earlier, format_=since, gzip=gzip and since != "parquet")
    written = write(
        folder / "2",
        later,
        since=folder / "1",
        format_=format_,
        gzip=gzip and format_ != "parquet",
        max_rows=n,
    )
    assert parts(folder / "2") == later
    assert changes(folder / "2", "added") == [user for user in later if user not in earlier]
    assert changes(folder / "2", "removed") == [user for user in earlier if user not in later]
    told = written.manifest.as_dict()["changes"]
    assert told["since"] == "1"
    assert (told["added"], told["removed"]) == (len(set(later) - set(earlier)), len(set(earlier) - set(later)))
    assert all(file["users"] <= n for file in told["addedFiles"] + told["removedFiles"])


def test_no_changes_give_empty_files(tmp_path: Path) -> None:
    write(tmp_path / "1", ["a", "b"])
    write(tmp_path / "2", ["b", "a"], since=tmp_path / "1")
    assert (tmp_path / "2" / "added-00000.csv").read_text() == "user_id\n"
    assert (tmp_path / "2" / "removed-00000.csv").read_text() == "user_id\n"


def test_unchanged_control_group_is_in_neither_list(tmp_path: Path) -> None:
    users = [f"user-{number}" for number in range(600)]
    write(tmp_path / "1", users[:400], share="20%")
    write(tmp_path / "2", users[200:], since=tmp_path / "1", share="20%")
    held_out = set(parts(tmp_path / "1-held-out")) | set(parts(tmp_path / "2-held-out"))
    moved = {*changes(tmp_path / "2", "added"), *changes(tmp_path / "2", "removed")}
    assert held_out
    assert moved == {*users[:200], *users[400:]} - held_out


@pytest.mark.parametrize(("before", "after"), [(None, "20%"), ("10%", "30%"), ("30%", "10%"), ("20%", None)])
def test_changed_control_group_gives_the_new_list(tmp_path: Path, before: str | None, after: str | None) -> None:
    users = [f"user-{number}" for number in range(500)]
    write(tmp_path / "1", users[:400], share=before)
    write(tmp_path / "2", users[100:], since=tmp_path / "1", share=after)
    there = set(parts(tmp_path / "1")) - set(changes(tmp_path / "2", "removed"))
    assert there | set(changes(tmp_path / "2", "added")) == set(parts(tmp_path / "2"))
    if after:
        assert not there & set(parts(tmp_path / "2-held-out"))


def test_hashes_are_compared_with_hashes(tmp_path: Path) -> None:
    users = [f"user-{number}" for number in range(60)]
    write(tmp_path / "1", users[:40], format_=hashes_of(users))
    write(tmp_path / "2", users[20:], since=tmp_path / "1", format_=hashes_of(users))
    first, second = set(parts(tmp_path / "1")), set(parts(tmp_path / "2"))
    assert len(first) == len(second) == 40
    assert set(changes(tmp_path / "2", "added")) == second - first
    assert set(changes(tmp_path / "2", "removed")) == first - second


def test_user_ids_in_destination_files_are_compared_as_user_ids(tmp_path: Path) -> None:
    liveramp = Activation(AdDestination.LIVERAMP, (MatchingId.STRING,))
    write(tmp_path / "1", ["a,b", "c"], format_="jsonl")
    write(tmp_path / "2", ["c", "d"], since=tmp_path / "1", format_=liveramp)
    assert (tmp_path / "2" / "removed-00000.csv").read_text() == 'CUSTOMID\n"a,b"\n'
    write(tmp_path / "3", ["a,b", "c"], since=tmp_path / "2", format_="plain")
    assert (changes(tmp_path / "3", "added"), changes(tmp_path / "3", "removed")) == (["a,b"], ["d"])


def test_different_kinds_of_ids_are_not_compared(tmp_path: Path) -> None:
    users = ["anna", "bert"]
    meta = Activation(
        AdDestination.META,
        (MatchingId.EMAIL,),
        [
            hash_ids(
                AdDestination.META, MatchingId.EMAIL, pa.array(users), pa.array(["a@x.example", "b@x.example"])
            )
        ],
    )
    write(tmp_path / "users", users)
    write(tmp_path / "google", users, format_=hashes_of(users))
    for since, format_ in (("users", hashes_of(users)), ("google", "csv"), ("google", meta)):
        with pytest.raises(UsageError, match="different kind of ids"):
            write(tmp_path / "new", users, since=tmp_path / since, format_=format_)
    assert not (tmp_path / "new").exists()


def damage_part(folder: Path) -> None:
    path = folder / "part-00000.jsonl"
    path.write_bytes(path.read_bytes().replace(b"anna", b"otto"))


def damage_count(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"delivered": 1}))


def forge_part(folder: Path) -> None:
    """The digest is right, and the file is not what its format says."""
    import hashlib

    content = b'{"user_id": "anna-secret"\n'
    (folder / "part-00000.jsonl").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def remove_part(folder: Path) -> None:
    (folder / "part-00000.jsonl").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [damage_part, damage_count, forge_part, remove_part, remove_manifest])
def test_damaged_earlier_export_is_rejected_and_nothing_written(tmp_path: Path, damage: object) -> None:
    write(tmp_path / "1", ["anna-secret", "bert-secret"], format_="jsonl")
    damage(tmp_path / "1")  # type: ignore[operator]
    with pytest.raises(ArtifactError) as caught:
        write(tmp_path / "2", ["bert-secret"], since=tmp_path / "1", format_="jsonl")
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in repr(error) + repr(getattr(error, "doc", ""))
        error = error.__context__
    assert not (tmp_path / "2").exists()


def test_damaged_changes_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "1", ["a", "b"])
    write(tmp_path / "2", ["b", "c"], since=tmp_path / "1")
    verify_export(tmp_path / "2")
    (tmp_path / "2" / "removed-00000.csv").write_text("user_id\nb\n")
    with pytest.raises(ArtifactError):
        verify_export(tmp_path / "2")


def test_added_change_files_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "1", ["a", "b"])
    (tmp_path / "1" / "added-00000.csv").write_text("user_id\nb\n")
    with pytest.raises(ArtifactError):
        verify_export(tmp_path / "1")


def test_no_user_data_remains_in_the_scratch_folder(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    write(tmp_path / "1", ["a", "b"], share="50%", engine=EngineSettings(scratch=scratch))
    write(tmp_path / "2", ["b", "c"], since=tmp_path / "1", engine=EngineSettings(scratch=scratch))
    assert list(scratch.iterdir()) == []


def test_many_users_need_little_memory(tmp_path: Path) -> None:
    users = [f"{number * 7919 % 1_000_003:07d}-{'x' * 40}" for number in range(300_000)]
    settings_ = EngineSettings(memory_bytes=40 << 20, threads=1, scratch=tmp_path)
    write(tmp_path / "1", users[:200_000], format_="parquet", engine=settings_)
    write(tmp_path / "2", users[100_000:], since=tmp_path / "1", share="10%", format_="parquet", engine=settings_)
    manifest = verify_export(tmp_path / "2")
    assert manifest["delivered"] + manifest["holdout"]["users"] == 200_000
    assert manifest["delivered"] == 200_000 - manifest["changes"]["removed"] + manifest["changes"]["added"]
