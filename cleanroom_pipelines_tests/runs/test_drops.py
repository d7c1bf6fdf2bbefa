"""Contract: no file stays in the inbox without an explanation. A file in a wrong folder, or in an unsupported
format, is rejected with a receipt next to it that has the file's name, the reason and the remedy. The name occurs
nowhere else. On an encrypted volume the file is kept next to its receipt for a day. One call ingests both
inboxes."""

import gzip
import io
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest

from cleanroom_pipelines.catalog import DataRoom, Kind
from cleanroom_pipelines.engine import tables
from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.runs import drops
from cleanroom_pipelines.runs.deleting import clean_up_deleted, delete_pending
from cleanroom_pipelines.runs.drops import KEPT, REJECTED, Drop, RejectedDrop, StillWrittenError
from cleanroom_pipelines.runs.inbox import ingest_all
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.retention import delete_superseded
from cleanroom_pipelines.runs.room_inbox import close_room_drop, find_room_drops, make_room_inbox, provision_drop
from cleanroom_pipelines.storage import SeedVault
from cleanroom_pipelines.storage.audit import AuditLog
from cleanroom_pipelines.storage.seed_parts import SeedTooLarge, format_of_part, merge_parts, seed_suffix
from cleanroom_pipelines.uploads.files import check_seed
from cleanroom_pipelines.uploads.report import Outcome

from .. import worlds
from ..conftest import StandingClock
from .building import CANARY, SEED, Inbox, make_room
from .delivery_worlds import make_data_room

NAME = "Zweitname 7f3a.csv"


def put(inbox: Inbox, *parts: str, content: bytes = SEED) -> Path:
    """Put a file somewhere below the inbox."""
    path = inbox.installation.home.inbox.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def receipt_next_to(path: Path) -> dict[str, object]:
    (receipt,) = (path.parent / REJECTED).glob("*.json")
    return dict(json.loads(receipt.read_text()))


def ingest(inbox: Inbox) -> str:
    return str(ingest_all(inbox.installation, pause=lambda _: None))


@pytest.fixture
def room(inbox: Inbox) -> DataRoom:
    record = make_data_room(inbox.catalog)
    make_room_inbox(inbox.installation, record)
    return record


_DIRECTLY = (
    "Put the file directly into inbox/seeds/NAME/. NAME is the configured audience model's name or partition key."
)
WRONG_PLACES: list[tuple[tuple[str, ...], str]] = [
    ((), _DIRECTLY),
    (("seeds",), _DIRECTLY),
    (("Seeds",), _DIRECTLY),
    (("seeds", "{model}", "spring"), "Did you mean inbox/seeds/{model}/?"),
    (("seeds", "{model}", "part.csv"), "Did you mean inbox/seeds/{model}/?"),
    (("{model}",), "Did you mean inbox/seeds/Partners/?"),
    (("Partners",), "Did you mean inbox/seeds/Partners/?"),
    (("seeds", "seeds", "{model}"), "Did you mean inbox/seeds/Partners/?"),
    (("seeds", "Parnters"), "Did you mean inbox/seeds/Partners/?"),
    (("seeds", "partner"), "Did you mean inbox/seeds/Partners/?"),
    (("seeds", "unknown-0123456789ab"), _DIRECTLY),
]


@pytest.mark.parametrize(("place", "remedy"), WRONG_PLACES, ids=lambda value: "/".join(value)[:30])
def test_a_seed_in_a_wrong_folder_is_rejected(inbox: Inbox, place: tuple[str, ...], remedy: str) -> None:
    path = put(inbox, *(part.format(model=inbox.configured.id) for part in place), NAME)
    assert inbox.register() == [None]
    receipt = receipt_next_to(path)
    assert (receipt["file"], receipt["status"], receipt["statusCode"], receipt["kept"]) == (
        NAME,
        "CREATE_FAILED",
        "PARENT_NOT_ACTIVE",
        None,
    )
    remedy = remedy.format(model=inbox.configured.id)
    assert receipt["message"] == f"The file's folder does not belong to a configured audience model. {remedy}"
    assert not path.exists()
    assert (inbox.drops(), inbox.jobs()) == ([], [])


@pytest.mark.parametrize("folder", ["Partners", "partners", "PARTNERS"])
def test_a_folder_with_the_name_of_a_model_is_its_inbox(inbox: Inbox, folder: str) -> None:
    put(inbox, "seeds", folder, NAME)
    (job,) = inbox.register()
    assert job.configured_audience_model_id == inbox.configured.id  # type: ignore[attr-defined]
    (entry,) = [entry for entry in inbox.installation.audit.entries() if entry.get("way") == "inbox"]
    assert entry["resource"] == job.id  # type: ignore[attr-defined]
    root = inbox.installation.home.inbox_seeds
    inbox.finish(job)
    assert not list(root.rglob("*.json")), "the export is not written yet, and the seed's note is deleted"
    assert inbox.seeds() == []
    inbox.folder.mkdir(exist_ok=True)  # another folder of the same model
    for export in inbox.catalog.resources.iterate(Kind.EXPORT_JOB):
        inbox.finish(export)
    assert [path.relative_to(root).parts for path in root.rglob("*") if path.is_file()] == [
        (folder, "accepted", f"{job.id}.json")  # type: ignore[attr-defined]
    ]


def test_a_failed_seed_has_its_receipt_in_the_folder_of_the_newest_drop(inbox: Inbox) -> None:
    root = inbox.installation.home.inbox_seeds
    inbox.drop(NAME)
    (job,) = inbox.register()
    inbox.fail(job)
    assert [path.parent for path in root.rglob("*.json")] == [inbox.folder / REJECTED]
    put(inbox, "seeds", "Partners", NAME)
    assert inbox.register() == [job] or len(inbox.jobs()) == 1
    assert not list(root.rglob("*.json"))
    inbox.fail(job)
    assert [path.parent for path in root.rglob("*.json")] == [root / "Partners" / REJECTED]


def test_a_name_that_two_models_have_is_refused_with_their_keys(inbox: Inbox) -> None:
    other = make_room(inbox.catalog, "partners")
    path = put(inbox, "seeds", "Partners", NAME)
    assert inbox.register() == [None]
    receipt = receipt_next_to(path)
    assert receipt["message"] == (
        "2 configured audience models have the name of the file's folder. Put the file into a folder named after "
        f"a partition key: inbox/seeds/{inbox.configured.id}/, inbox/seeds/{other.id}/."
    )
    assert receipt["statusCode"] == "PARENT_NOT_ACTIVE"


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [
        ("Spring 2027 (EU), new & old", True),
        ("Übersicht", True),
        ("../../outside", False),
        ("a/b", False),
        (".hidden", False),
        ("rejected", False),
        ("other-0123456789ab", False),
        ("ends in a dot.", False),
    ],
)
def test_a_model_has_a_folder_of_its_name_only_if_it_is_safe(inbox: Inbox, name: str, *, is_folder: bool) -> None:
    model, root = make_room(inbox.catalog, name), inbox.installation.home.inbox_seeds
    assert folder_of(inbox.installation, model) == root / (name if is_folder else model.id)


def test_a_key_wins_over_a_name_that_looks_like_it(inbox: Inbox) -> None:
    make_room(inbox.catalog, inbox.configured.id)
    inbox.drop(NAME)
    (job,) = inbox.register()
    assert job.configured_audience_model_id == inbox.configured.id  # type: ignore[attr-defined]


def test_a_model_that_had_a_folder_keeps_it(inbox: Inbox, tmp_path: Path) -> None:
    root = inbox.installation.home.inbox_seeds
    assert folder_of(inbox.installation, inbox.configured) == root / "Partners"
    (root / "Partners").symlink_to(tmp_path)
    assert folder_of(inbox.installation, inbox.configured) == inbox.folder, "links are not followed"
    (root / "Partners").unlink()
    inbox.folder.mkdir()
    assert folder_of(inbox.installation, inbox.configured) == inbox.folder, "from an earlier release"
    (root / "partners").mkdir()
    assert folder_of(inbox.installation, inbox.configured) == root / "partners"


@pytest.mark.parametrize("name", ["members.xlsx", "members.XLS", "members.xlsm", "members.xlsb"])
@pytest.mark.parametrize("kind", ["seeds", "rooms"])
def test_a_workbook_is_rejected_with_a_hint(inbox: Inbox, room: DataRoom, kind: str, name: str) -> None:
    place = ("seeds", inbox.configured.id) if kind == "seeds" else ("rooms", room.id, "matching")
    path = put(inbox, *place, name)
    assert ingest(inbox) == "1 rejected (a receipt in rejected/ says why)"
    receipt = receipt_next_to(path)
    assert receipt["message"] == "Excel workbooks are not read. Save the first sheet as CSV UTF-8."
    assert (receipt["file"], receipt["statusCode"]) == (name, "SEED_INVALID")
    assert not path.exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            ("rooms",),
            "Put the file directly into inbox/rooms/NAME/DATASET/. NAME is the data room's name or partition key.",
        ),
        (("rooms", "{room}"), "does not belong to a data room. Did you mean inbox/rooms/Spring/DATASET/?"),
        (("rooms", "unknown-0123456789ab", "matching"), "The file's folder does not belong to a data room. Put"),
        (("rooms", "{room}", "matching", "more"), "Did you mean inbox/rooms/Spring/DATASET/?"),
        (("rooms", "sprnig", "matching"), "Did you mean inbox/rooms/Spring/DATASET/?"),
        (("rooms", "{room}", "people"), "The inbox folder is not named after a dataset. Use matching,"),
        (
            ("rooms", "spring", "segment"),
            "The inbox folder is not named after a dataset. Did you mean segments? Use",
        ),
        (
            ("rooms", "{room}", "matching-PHONE_NUMBER_E164"),
            "named after a kind of matching ids that the room does",
        ),
        (("rooms", "spring"), "Did you mean inbox/rooms/Spring/DATASET/?"),
    ],
    ids=lambda value: "/".join(value) if isinstance(value, tuple) else "",
)
def test_a_file_of_a_room_in_a_wrong_folder_is_rejected(
    inbox: Inbox, room: DataRoom, place: tuple[str, ...], message: str
) -> None:
    path = put(inbox, *(part.format(room=room.id) for part in place), NAME)
    for drop in find_room_drops(inbox.installation):
        assert isinstance(provision_drop(inbox.installation, drop), RejectedDrop)
    receipt = receipt_next_to(path)
    assert message.format(room=room.id) in str(receipt["message"])
    assert (receipt["file"], receipt["upload"]["bytes"]) == (NAME, len(SEED))  # type: ignore[index]
    assert not path.exists()
    assert inbox.catalog.rooms.uploads() == ()
    assert list(find_room_drops(inbox.installation)) == []


@pytest.mark.parametrize("folder", ["Spring", "spring"])
def test_a_folder_with_the_name_of_a_room_is_its_inbox(inbox: Inbox, room: DataRoom, folder: str) -> None:
    assert (inbox.installation.home.inbox_rooms / "Spring" / "matching").is_dir()
    path = put(inbox, "rooms", folder, "matching", NAME, content=b"a@b.example\n")
    assert ingest(inbox) == "1 accepted"
    (upload_id,) = inbox.catalog.get(DataRoom, room.id).inputs.values()
    close_room_drop(inbox.installation, upload_id, StatusCode.SEED_INVALID, "The file is damaged.")
    assert (receipt_next_to(path)["file"], receipt_next_to(path)["message"]) == (NAME, "The file is damaged.")
    assert list(path.parent.glob("accepted/*")) == []


def test_two_rooms_with_one_name_have_folders_of_their_keys(inbox: Inbox, room: DataRoom) -> None:
    other = make_data_room(inbox.catalog, "SPRING")
    make_room_inbox(inbox.installation, other)
    rooms = inbox.installation.home.inbox_rooms
    assert all((rooms / each.id / "matching").is_dir() for each in (room, other))
    path = put(inbox, "rooms", "Spring", "matching", NAME)
    assert ingest(inbox) == "1 rejected (a receipt in rejected/ says why)"
    message = str(receipt_next_to(path)["message"])
    assert message.startswith("2 data rooms have the name of the file's folder. Put the file into a folder named")
    assert all(f"inbox/rooms/{each.id}/DATASET/" in message for each in (room, other))


def test_hidden_and_incomplete_files_and_links_stay_anywhere(inbox: Inbox, room: DataRoom, tmp_path: Path) -> None:
    (tmp_path / "outside.csv").write_bytes(SEED)
    for place in ((), ("seeds",), ("seeds", "x"), ("rooms",), ("rooms", room.id), (".trash",)):
        for name in (".hidden.csv", "seed.csv.part", "seed.csv.TMP"):
            put(inbox, *place, name)
        put(inbox, *place, ".x").with_name("link.csv").symlink_to(tmp_path / "outside.csv")
    put(inbox, ".trash", "seed.csv")
    assert ingest(inbox) == ""
    assert not list(inbox.installation.home.inbox.rglob(REJECTED))


def test_a_file_in_a_wrong_folder_is_rejected_only_when_it_is_complete(inbox: Inbox) -> None:
    path = put(inbox, NAME)
    with path.open("ab"):
        with pytest.raises(StillWrittenError):
            inbox.register()
        assert ingest(inbox) == "1 may still be incomplete"
    assert ingest(inbox) == "1 rejected (a receipt in rejected/ says why)"


def test_the_same_content_under_two_names_has_two_receipts(inbox: Inbox) -> None:
    for name in ("a.docx", "b.docx", "a.docx"):
        inbox.drop(name)
        inbox.register()
    assert sorted(str(receipt["file"]) for receipt in inbox.receipts(REJECTED)) == ["a.docx", "b.docx"]


def test_the_name_is_in_the_receipt_and_in_no_other_place(
    inbox: Inbox, room: DataRoom, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{CANARY} Zweitname.xlsx"
    put(inbox, name)
    put(inbox, "seeds", "{CANARY}", name)
    put(inbox, "rooms", CANARY, "matching", name)
    inbox.drop(name)
    put(inbox, "rooms", room.id, "matching", name)
    inbox.drop("Zweitname few.csv")
    assert ingest(inbox) == "1 accepted, 5 rejected (a receipt in rejected/ says why)"
    (job,) = inbox.jobs()
    inbox.fail(job)
    assert "Zweitname" not in caplog.text
    assert CANARY not in caplog.text
    home = inbox.installation.home
    holding = [
        path
        for path in home.root.rglob("*")
        if path.is_file() and path.name != "catalog.db" and b"Zweitname" in path.read_bytes()
    ]
    assert len(holding) == 6
    assert {path.parent.name for path in holding} == {REJECTED}
    for path in holding:
        receipt = json.loads(path.read_text())
        assert "Zweitname" in receipt.pop("file")
        assert "Zweitname" not in json.dumps(receipt)
        assert CANARY not in json.dumps(receipt)


def test_the_audit_log_says_what_was_rejected(inbox: Inbox, room: DataRoom) -> None:
    put(inbox, "seeds", CANARY, NAME)
    put(inbox, "rooms", room.id, "people", NAME)
    put(inbox, "rooms", CANARY, "matching", NAME)
    inbox.drop("members.xlsx")
    ingest(inbox)
    entries = [entry for entry in inbox.installation.audit.entries() if entry.get("outcome") == "refused"]
    told = [
        {name: entry.get(name) for name in ("operation", "resource", "room", "error") if name in entry}
        for entry in entries
    ]
    assert {"operation": "take_seed", "resource": inbox.configured.id, "error": "SeedError"} in told
    assert {"operation": "take_seed", "error": "UsageError"} in told
    assert {"operation": "provision", "room": room.id, "error": "InputError"} in told
    assert {"operation": "provision", "error": "UsageError"} in told
    assert CANARY not in json.dumps(told)


# --- Accepted formats ---

IDS = b"user_id\n" + b"".join(b"user-%02d\n" % number for number in range(30))
LINES = b"".join(b'{"user_id": "user-%02d"}\n' % number for number in range(30))


def zstd(content: bytes) -> bytes:
    import pyarrow as pa

    return pa.compress(content, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table({"user_id": [f"user-{number:02d}" for number in range(30)]}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "kept_suffix", "content"),
    [
        ("members.tsv", ".tsv", IDS.replace(b"\n", b"\tx\n")),
        ("members.TXT", ".txt", IDS),
        ("members.ndjson", ".ndjson", LINES),
        ("members.Pq", ".pq", parquet()),
        ("members.CSV.GZ", ".csv.gz", gzip.compress(IDS, mtime=0)),
        ("members.csv.zst", ".csv.zst", zstd(IDS)),
        ("members.tsv.ZST", ".tsv.zst", zstd(IDS.replace(b"\n", b"\tx\n"))),
        ("members.jsonl.zst", ".jsonl.zst", zstd(LINES)),
        ("members", ".csv", IDS),
        ("20261130_members", ".csv.gz", gzip.compress(IDS, mtime=0)),
        ("part-00000", ".jsonl.zst", zstd(LINES)),
        ("members_0", ".parquet", parquet()),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_every_format_of_the_file_layer_is_accepted(
    inbox: Inbox, name: str, kept_suffix: str, content: bytes
) -> None:
    inbox.drop(name, content)
    (job,) = inbox.register()
    assert job is not None
    with inbox.installation.vault.opening(job.seed_location, job.seed_digest) as copy:
        assert copy.name == f"seed{kept_suffix}"
        report = check_seed(copy)[0]
    assert (report.outcome, report.n_valid_rows, report.table.n_files) == (Outcome.PASSED, 30, 1)
    assert job.seed_name == {"20261130_members": "20261130 members", "part-00000": "part 00000"}.get(
        name, "members 0" if name == "members_0" else "members"
    )


def test_seeds_have_the_suffixes_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    suffixes = [*tables._SUFFIXES, ".docx", ".zip"]
    for suffix in [end + packed for end in suffixes for packed in ("", ".gz", ".zst", ".GZ")]:
        path = path.with_name(f"seed{suffix}")
        is_seed = True
        try:
            assert seed_suffix(path) == suffix.lower()
        except SeedError:
            is_seed = False
        assert is_seed is (tables.format_of(path) is not None), suffix
        if suffix[:4] != ".txt":
            assert format_of_part(path.name) == tables.format_of(path), suffix


@pytest.mark.parametrize("cut", [0, 5])
def test_zstd_parts_are_merged(tmp_path: Path, cut: int) -> None:
    parts = [tmp_path / "0.csv.zst", tmp_path / "1.csv"]
    packed = zstd(IDS)
    parts[0].write_bytes(packed[: len(packed) - cut])
    parts[1].write_bytes(b"user_id\nlast\n")
    if cut:
        with pytest.raises(SeedError, match="cannot be read"):
            merge_parts(parts, tmp_path / "seed.csv", max_bytes=1_000_000)
        return
    merge_parts(parts, tmp_path / "seed.csv", max_bytes=1_000_000)
    assert (tmp_path / "seed.csv").read_bytes() == IDS + b"last\n"
    with pytest.raises(SeedTooLarge):
        merge_parts(parts, tmp_path / "seed.csv", max_bytes=100)


# --- Kept files ---


@pytest.fixture
def encrypted(inbox: Inbox, clock: StandingClock) -> Inbox:
    """The inbox of a home on an encrypted volume."""
    settings = Settings(inbox.installation.settings.home, seed_floor=1, encryption="volume")
    return Inbox(Installation(settings, clock=clock), inbox.configured)


def test_without_an_encrypted_volume_nothing_is_kept(inbox: Inbox) -> None:
    inbox.drop("members.xlsx")
    inbox.register()
    assert [path.suffix for path in (inbox.folder / REJECTED).iterdir()] == [".json"]


@pytest.mark.parametrize("name", ["members.xlsx", "a\\..\\b\n%2f.docx", "refused-0.kept"])
def test_on_an_encrypted_volume_a_rejected_file_is_kept_for_a_day(
    encrypted: Inbox, clock: StandingClock, name: str
) -> None:
    path = encrypted.drop(name)
    os.utime(path, (0, 0))  # the day begins with the rejection
    encrypted.register()
    (receipt,) = encrypted.receipts(REJECTED)
    kept = encrypted.folder / REJECTED / str(receipt["kept"])
    assert kept.name.startswith(
        {"members.xlsx": "members.xlsx-", "refused-0.kept": "refused-0.kept-"}.get(name, "a-")
    )
    assert kept.name.endswith(KEPT)
    assert kept.read_bytes() == SEED
    assert not path.exists()
    assert (encrypted.drops(), encrypted.jobs()) == ([], [])
    for hours, is_kept in ((23, True), (2, False)):
        clock.turn(hours=hours)
        delete_superseded(encrypted.installation)
        assert kept.exists() is is_kept
    assert len(encrypted.receipts(REJECTED)) == 1


def test_a_file_with_the_name_of_the_receipts_folder_is_not_kept(encrypted: Inbox) -> None:
    path = put(encrypted, "seeds", "unknown", REJECTED)
    encrypted.register()
    assert (receipt_next_to(path)["file"], receipt_next_to(path)["kept"]) == (REJECTED, None)


def test_a_file_that_is_replaced_while_it_is_rejected_is_another_drop(encrypted: Inbox) -> None:
    path = encrypted.drop("members.xlsx")
    digest = SeedVault.digest

    def replacing(vault: SeedVault, file: Path) -> str:
        found = digest(vault, file)
        path.with_name(".other").write_bytes(b"other")
        path.with_name(".other").rename(path)
        return found

    with mock.patch.object(SeedVault, "digest", replacing):
        encrypted.register()
    assert path.read_bytes() == b"other"


# --- Deleted resources ---


def test_the_receipts_of_a_deleted_room_are_deleted(inbox: Inbox, room: DataRoom, tmp_path: Path) -> None:
    installation, folder = inbox.installation, inbox.installation.home.inbox_rooms / room.id
    put(inbox, "rooms", "Spring", "matching", "people.xlsx")
    put(inbox, "rooms", room.id, "matching", "members.xlsx")
    ingest(inbox)
    with worlds.dagster_at(tmp_path / "dagster", one_file=True) as instance:
        inbox.catalog.deletion.request_delete(Kind.DATA_ROOM, room.id)
        late = put(inbox, "rooms", room.id, "segments", NAME)
        assert delete_pending(installation, instance) == 1
        assert not (installation.home.inbox_rooms / "Spring").exists()
        assert late.exists(), "no file is deleted without a receipt"
        ingest(inbox)
        assert receipt_next_to(late)["statusCode"] == "PARENT_NOT_ACTIVE"
        assert folder.is_dir()
        clean_up_deleted(installation, instance, now=installation.clock() + timedelta(days=4_000))
    assert not folder.exists()


# --- Both inboxes at once ---


def test_one_call_ingests_both_inboxes(inbox: Inbox, room: DataRoom) -> None:
    inbox.drop()
    upload = put(inbox, "rooms", room.id, "matching", "people.csv", content=b"a@b.example\n")
    pauses: list[float] = []
    found = ingest_all(inbox.installation, pause=pauses.append)
    assert (str(found), pauses) == ("2 accepted", [1.0])
    assert not upload.exists()
    assert len(inbox.jobs()) == 1
    assert set(inbox.catalog.get(DataRoom, room.id).inputs) == {"matching:EMAIL"}
    assert ingest_all(inbox.installation, pause=pauses.append).n_accepted == 0
    assert pauses == [1.0], "an empty inbox takes no time"


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_bytes(SEED * 2), lambda path: os.utime(path, ns=(1, 1))],
    ids=["size", "time"],
)
def test_a_file_that_changes_in_the_pause_is_left(inbox: Inbox, change: Callable[[Path], None]) -> None:
    path = inbox.drop()
    found = ingest_all(inbox.installation, pause=lambda _: change(path))
    assert (str(found), inbox.lying()) == ("1 may still be incomplete", ["members.csv"])


@pytest.mark.parametrize("name", ["members.csv", "members.xlsx"])
def test_a_file_that_another_process_takes_in_the_pause_is_not_counted(inbox: Inbox, name: str) -> None:
    inbox.drop(name)
    assert str(ingest_all(inbox.installation, pause=lambda _: inbox.register())) == ""


def test_a_file_that_fails_does_not_delay_the_others(inbox: Inbox) -> None:
    inbox.drop("a.csv")
    inbox.drop("b.csv", SEED + b"x\n")
    put_seed, left = SeedVault.put, [OSError(5, CANARY)]

    def failing_once(vault: SeedVault, *arguments: object, **options: object) -> str:
        if left:
            raise left.pop()
        return put_seed(vault, *arguments, **options)  # type: ignore[arg-type]

    with mock.patch.object(SeedVault, "put", failing_once):
        found = ingest_all(inbox.installation, pause=lambda _: None)
    assert str(found) == "1 accepted, 1 could not be accepted now"
    ((drop, error),) = found.failed
    assert isinstance(drop, Drop)
    assert error == "OSError"
    assert inbox.lying() == ["a.csv"]


# --- Interruptions ---


@pytest.mark.parametrize("is_encrypted", [False, True])
@pytest.mark.parametrize("comes", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"), [(drops, "write_durably"), (AuditLog, "write"), (drops.CompleteDrop, "remove")]
)
def test_a_rejection_cut_off_anywhere_is_completed(
    inbox: Inbox, encrypted: Inbox, owner: object, name: str, comes: str, *, is_encrypted: bool
) -> None:
    chosen = encrypted if is_encrypted else inbox
    chosen.drop("members.xlsx")
    step = getattr(owner, name)

    def cut(*arguments: object, **options: object) -> None:
        if comes == "after":
            step(*arguments, **options)
        raise KeyboardInterrupt

    with mock.patch.object(owner, name, cut), pytest.raises(KeyboardInterrupt):
        chosen.register()
    chosen.register()
    (receipt,) = chosen.receipts(REJECTED)
    assert receipt["file"] == "members.xlsx"
    assert chosen.lying() == []
    kept = [path.name for path in (chosen.folder / REJECTED).glob(f"*{KEPT}")]
    assert kept == ([receipt["kept"]] if is_encrypted else [])
