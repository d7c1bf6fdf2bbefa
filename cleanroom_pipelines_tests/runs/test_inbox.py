"""Contract: a complete file in the folder of a configured model becomes one generation job with its seed, or is
rejected with a receipt; either way the file is deleted. After an interruption between any two steps, a repetition
ends with exactly one job and its seed. The same content twice gives one job; dropped again after a failure, it is
retried. A job that has ended has one receipt, which is kept up to date and has no ids or cells; its seed is
deleted."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from unittest import mock

import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import ExportJobSpec, GenerationJob, Kind, Origin, Status
from cleanroom_pipelines.catalog.creation import Creation
from cleanroom_pipelines.catalog.resources import Resources
from cleanroom_pipelines.catalog.work import Scheduling
from cleanroom_pipelines.errors import StatusCode, StorageFullError
from cleanroom_pipelines.runs import drops as drops_module
from cleanroom_pipelines.runs import inbox as inbox_module
from cleanroom_pipelines.runs.drops import ACCEPTED, REJECTED, Drop
from cleanroom_pipelines.runs.inbox import (
    close_all_drops,
    close_drop,
    find_drops,
    recover_drops,
    register_drop,
)
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage import SeedVault

from .building import CANARY, SEED, Inbox, make_room


@contextmanager
def cut_off(owner: object, name: str, after: bool) -> Iterator[None]:
    """Stop the process, as far as a test can, before or after one step."""
    step = getattr(owner, name)

    def stopping(*arguments: Any, **options: Any) -> Any:
        if after:
            step(*arguments, **options)
        raise KeyboardInterrupt

    with mock.patch.object(owner, name, stopping), pytest.raises(KeyboardInterrupt):
        yield


def test_drop_becomes_a_job_with_its_seed(inbox: Inbox) -> None:
    inbox.drop("Loyal  members (spring).CSV")
    (job,) = inbox.register()
    assert inbox.jobs() == [job]
    assert inbox.lying() == []
    assert job.origin is Origin.INBOX
    assert job.export_size == "largest"
    assert job.configured_audience_model_id == inbox.configured.id
    assert job.name.startswith("Loyal members spring ")
    assert (job.seed_name, job.seed_bytes) == ("Loyal members spring", len(SEED))
    with inbox.installation.vault.opening(job.seed_location) as path:
        assert path.read_bytes() == SEED
        assert path.name == "seed.csv"


def test_file_state_changes_while_a_file_is_written(inbox: Inbox) -> None:
    path = inbox.drop()
    (first,) = inbox.drops()
    assert inbox.drops() == [first]
    with path.open("ab") as stream:
        stream.write(b"more\n")
    (second,) = inbox.drops()
    assert second.path == first.path
    assert second.signature != first.signature


def test_same_content_twice_gives_one_job(inbox: Inbox) -> None:
    inbox.drop("a.csv")
    inbox.drop("b.csv")
    first, second = inbox.register()
    assert first == second
    inbox.drop("c.csv")
    assert inbox.register() == [first]
    assert inbox.jobs() == [first]
    assert inbox.lying() == []
    assert inbox.seeds() == [SEED]
    inbox.drop("a.csv", SEED + b"x\n")
    (other,) = inbox.register()
    assert other.id != first.id


def test_same_content_for_two_models_gives_two_jobs(inbox: Inbox) -> None:
    other = Inbox(inbox.installation, make_room(inbox.catalog, "Others"))
    inbox.drop()
    other.drop()
    first, second = inbox.register()
    assert {first.configured_audience_model_id, second.configured_audience_model_id} == {
        inbox.configured.id,
        other.configured.id,
    }
    assert first.name != second.name
    assert inbox.seeds() == [SEED, SEED]


def test_concurrent_threads_create_one_job(inbox: Inbox) -> None:
    inbox.drop()
    (drop,) = inbox.drops()
    found: list[object] = []
    threads = [Thread(target=lambda: found.append(register_drop(inbox.installation, drop))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    (job,) = inbox.jobs()
    assert {each.id for each in found if each} == {job.id}
    assert inbox.seeds() == [SEED]
    assert not (inbox.folder / REJECTED).exists()


@pytest.mark.parametrize(
    "name",
    [
        "a...csv",
        "'; DROP TABLE generation_jobs; --.csv",
        'say "hi".jsonl.gz',
        "two\nlines.csv",
        "🛒.parquet",
        "%2e%2e%2fetc.csv",
        "-rf.csv",
        "x" * 200 + ".csv",
        " .csv",
        "CON.csv",
        "a\\b.csv",
        f"{CANARY}.csv",
    ],
)
def test_job_name_uses_only_words_and_format_of_the_file_name(inbox: Inbox, name: str) -> None:
    before = {path for path in inbox.installation.home.root.rglob("*") if path.is_file()}
    inbox.drop(name)
    (job,) = inbox.register()
    assert set(job.seed_name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ")
    assert 1 <= len(job.seed_name) <= 40
    new = {path for path in inbox.installation.home.root.rglob("*") if path.is_file()} - before
    seeds = [path for path in new if path.parent.parent == inbox.installation.home.seeds]
    assert sorted(path.name.partition(".")[0] for path in seeds) == ["drop", "seed"]
    assert inbox.lying() == []


def test_undecodable_file_name(inbox: Inbox) -> None:
    path = os.fsencode(inbox.drop()) + b"\xff.csv"
    os.rename(os.fsencode(inbox.folder / "members.csv"), path)
    (job,) = inbox.register()
    assert job.seed_name == "members csv"


def test_links_folders_and_hidden_files_are_ignored(inbox: Inbox, tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_bytes(SEED)
    inbox.folder.mkdir(parents=True)
    (inbox.folder / "linked.csv").symlink_to(outside)
    (inbox.folder / "broken.csv").symlink_to("nowhere")
    (inbox.folder / "folder.csv").mkdir()
    os.mkfifo(inbox.folder / "pipe.csv")
    for name in (".hidden.csv", ".members.csv.Xa81", "members.csv.part", "members.csv.PART", "members.crdownload"):
        inbox.drop(name)
    (inbox.folder.parent / "linked").symlink_to(tmp_path)
    assert inbox.drops() == []
    assert outside.read_bytes() == SEED


@pytest.mark.parametrize(
    "name", ["members.ods", "members.csv.zip", "readme.md", "members.parquet.zst", "members.xlsx.csv.docx"]
)
def test_unsupported_format_is_rejected(inbox: Inbox, name: str) -> None:
    inbox.drop(name)
    assert inbox.register() == [None]
    (receipt,) = inbox.receipts(REJECTED)
    assert (receipt["job"], receipt["status"], receipt["statusCode"]) == (None, "CREATE_FAILED", "SEED_INVALID")
    assert "Use .parquet, .csv, .tsv, .txt or .jsonl" in receipt["message"]
    assert receipt["seed"]["bytes"] == len(SEED)
    assert inbox.lying() == []
    assert inbox.jobs() == []
    assert inbox.drops() == []


@pytest.mark.parametrize("folder", ["nosuch-0123456789ab", "Others", "two\nlines", "🛒", "x" * 200, "'; --"])
def test_unknown_folder_is_rejected(inbox: Inbox, folder: str) -> None:
    path = inbox.folder.parent / folder / "members.csv"
    path.parent.mkdir()
    path.write_bytes(SEED)
    assert inbox.register() == [None]
    (receipt,) = (path.parent / REJECTED).iterdir()
    assert "The file's folder does not belong to a configured audience model." in receipt.read_text()
    assert json.loads(receipt.read_text())["statusCode"] == "PARENT_NOT_ACTIVE"
    assert not path.exists()
    assert inbox.drops() == []


def test_folder_with_undecodable_name_is_rejected(inbox: Inbox) -> None:
    folder = os.fsencode(inbox.folder.parent) + b"/\xff"
    path = Path(os.fsdecode(folder), "members.csv")
    path.parent.mkdir()
    path.write_bytes(SEED)
    assert inbox.register() == [None]
    assert [each.name for each in path.parent.iterdir()] == [REJECTED]


def test_folder_of_another_kind_is_rejected(inbox: Inbox) -> None:
    other = inbox.folder.parent / inbox.configured.audience_model_id
    other.mkdir()
    (other / "members.csv").write_bytes(SEED)
    assert inbox.register() == [None]
    assert [path.name for path in other.iterdir()] == [REJECTED]


def test_unreadable_file_is_rejected(inbox: Inbox) -> None:
    """Root may read everything, so the refusal of the operating system is played."""
    inbox.drop()
    with mock.patch.object(SeedVault, "digest", side_effect=PermissionError(13, "denied", CANARY)):
        assert inbox.register() == [None]
    (receipt,) = inbox.receipts(REJECTED)
    assert "cannot be read (PermissionError)" in receipt["message"]
    assert inbox.lying() == []


def test_file_deleted_meanwhile_is_ignored(inbox: Inbox) -> None:
    for name in ("members.csv", "members.xlsx"):
        path = inbox.drop(name)
        (drop,) = inbox.drops()
        path.unlink()
        assert register_drop(inbox.installation, drop) is None
    assert inbox.jobs() == []
    assert not (inbox.folder / REJECTED).exists()


def test_full_disk_keeps_the_drop_for_the_next_tick(inbox: Inbox) -> None:
    inbox.drop()
    with (
        mock.patch.object(SeedVault, "put", side_effect=StorageFullError("full")),
        pytest.raises(StorageFullError),
    ):
        inbox.register()
    assert inbox.lying() == ["members.csv"]
    recover_drops(inbox.installation)
    assert inbox.jobs() == []
    (job,) = inbox.register()
    assert job is not None


STEPS: list[tuple[object, str]] = [
    (Path, "mkdir"),
    (inbox_module, "write_durably"),
    (SeedVault, "put"),
    (Creation, "create"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("owner, name", STEPS)
@pytest.mark.parametrize("again", ["recover", "register", "both"])
def test_interruption_anywhere_ends_in_one_job_with_its_seed(
    inbox: Inbox, owner: object, name: str, after: bool, again: str
) -> None:
    inbox.drop()
    with cut_off(owner, name, after):
        inbox.register()
    if again != "register":
        recover_drops(inbox.installation)
    if again != "recover" or inbox.lying():
        inbox.register()
    recover_drops(inbox.installation)
    (job,) = inbox.jobs()
    assert inbox.lying() == []
    assert inbox.seeds() == [SEED]
    with inbox.installation.vault.opening(job.seed_location) as path:
        assert path.read_bytes() == SEED
    assert inbox.newest(job).status is Status.CREATE_PENDING


@pytest.mark.parametrize("after_copy", [False, True])
def test_interruption_while_moving_between_disks(inbox: Inbox, after_copy: bool) -> None:
    path, replace = inbox.drop(), os.replace

    def across(source: Path, target: Path) -> None:
        if Path(source) == path:
            raise OSError(18, "Invalid cross-device link")
        replace(source, target)

    owner, name = (Path, "unlink") if after_copy else (inbox_module.shutil, "copyfile")
    unlink = Path.unlink

    def stopping(first: Path, *arguments: Any, **options: Any) -> None:
        if name == "unlink" and first != path:
            unlink(first, *arguments, **options)
            return
        if name == "copyfile":
            Path(arguments[0]).write_bytes(SEED[:5])
        raise KeyboardInterrupt

    with (
        mock.patch.object(os, "replace", across),
        mock.patch.object(owner, name, stopping),
        pytest.raises(KeyboardInterrupt),
    ):
        inbox.register()
    assert inbox.lying() == ["members.csv"]
    recover_drops(inbox.installation)
    inbox.register()
    assert len(inbox.jobs()) == 1
    assert inbox.seeds() == [SEED]
    assert inbox.lying() == []


def test_same_content_in_another_format_after_an_interruption(inbox: Inbox) -> None:
    inbox.drop("members.csv")
    with cut_off(Creation, "create", after=False):
        inbox.register()
    inbox.drop("members.jsonl")
    inbox.register()
    assert len(inbox.jobs()) == 1
    assert inbox.seeds() == [SEED]
    assert inbox.lying() == []


def test_model_deleted_meanwhile_is_reported(inbox: Inbox) -> None:
    inbox.drop()
    with cut_off(Creation, "create", after=False):
        inbox.register()
    inbox.catalog.deletion.request_delete(Kind.CONFIGURED_AUDIENCE_MODEL, inbox.configured.id)
    recover_drops(inbox.installation)
    recover_drops(inbox.installation)
    (receipt,) = inbox.receipts(REJECTED)
    assert receipt["statusCode"] == "PARENT_NOT_ACTIVE"
    assert inbox.seeds() == []
    assert list(inbox.installation.home.seeds.iterdir()) == []


def test_taken_job_name_gets_a_suffix(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    other = Inbox(inbox.installation, make_room(inbox.catalog, "Others"))
    with mock.patch.object(type(inbox.installation.key), "digest", return_value=job.name[-8:] + "0" * 56):
        other.drop(content=SEED + b"x\n")
        with mock.patch.object(SeedVault, "digest", return_value="ab" * 32):
            (second,) = other.register()
    assert second.name == f"{job.name}00000000"


# --- receipts


def test_success_leaves_a_receipt_and_deletes_the_seed(inbox: Inbox) -> None:
    inbox.drop("Anna Maria.csv")
    (job,) = inbox.register()
    close_drop(inbox.installation, job.id)
    assert inbox.receipts(ACCEPTED) == inbox.receipts(REJECTED) == []
    inbox.finish(job)
    assert inbox.receipts(ACCEPTED) == []  # its export is still to be made
    assert inbox.seeds() == []
    inbox.finish(inbox.export_of(job))
    (receipt,) = inbox.receipts(ACCEPTED)
    assert receipt["job"] == job.id
    assert (receipt["status"], receipt["statusCode"]) == ("ACTIVE", None)
    assert receipt["message"] == "Finds twice as many."
    assert receipt["exports"] == ["s3://audiences/x/1"]
    assert receipt["seed"] == {"bytes": len(SEED), "digest": job.seed_digest}
    assert inbox.receipts(REJECTED) == []
    assert inbox.catalog.get(GenerationJob, job.id).seed_location is None


def test_failure_leaves_a_report_and_deletes_the_seed(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.fail(job)
    (receipt,) = inbox.receipts(REJECTED)
    assert (receipt["status"], receipt["statusCode"]) == ("CREATE_FAILED", "SEED_TOO_SMALL")
    assert receipt["message"] == "The seed is too small. Give a larger one."
    assert receipt["report"] == {"passed": False, "rows": 2, "outcome": {"usable": False}}
    assert inbox.seeds() == []
    assert inbox.receipts(ACCEPTED) == []


def test_failed_export_gives_a_rejection_receipt(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.finish(job)
    inbox.fail(inbox.export_of(job), StatusCode.DESTINATION_NOT_WRITABLE)
    (receipt,) = inbox.receipts(REJECTED)
    assert receipt["statusCode"] == "DESTINATION_NOT_WRITABLE"
    assert receipt["exports"] == []
    close_all_drops(inbox.installation)
    assert inbox.receipts(REJECTED) == [receipt]


@pytest.mark.parametrize("name", [f"{CANARY}.csv", "Zweitname_7f3a.csv", 'say "hi"\n<b>🛒.csv'])
def test_rejection_receipt_has_the_file_name_and_no_ids(inbox: Inbox, name: str) -> None:
    inbox.drop(name)
    inbox.drop(f"{name}.xlsx", SEED + b"x\n")
    jobs = [job for job in inbox.register() if job]
    inbox.fail(jobs[0])
    receipts = [path for path in inbox.folder.rglob("*") if path.is_file()]
    assert len(receipts) == 2
    for path in receipts:
        receipt = json.loads(path.read_text())
        assert receipt.pop("file") in (name, f"{name}.xlsx")
        assert CANARY not in json.dumps(receipt)
        assert "Zweitname_7f3a" not in json.dumps(receipt)
        assert "berta" not in json.dumps(receipt)
        assert path.name == f"{jobs[0].id}.json" or re.fullmatch(r"[\w.-]{1,40}-[0-9a-f]{12}\.json", path.name)
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0


def test_missing_receipt_of_an_interrupted_run_is_written_later(inbox: Inbox) -> None:
    inbox.drop("a.csv")
    inbox.drop("b.csv", SEED + b"x\n")
    failed, well = inbox.register()
    inbox.fail(failed, settle=False)
    inbox.finish(well, settle=False)
    inbox.finish(inbox.export_of(well), settle=False)
    close_all_drops(inbox.installation)
    assert [receipt["job"] for receipt in inbox.receipts(REJECTED)] == [failed.id]
    assert [receipt["job"] for receipt in inbox.receipts(ACCEPTED)] == [well.id]
    assert inbox.seeds() == []
    before = {path: path.stat().st_mtime_ns for path in inbox.folder.rglob("*.json")}
    close_all_drops(inbox.installation)
    assert {path: path.stat().st_mtime_ns for path in inbox.folder.rglob("*.json")} == before


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "owner, name", [(SeedVault, "delete"), (Resources, "forget_seed"), (drops_module, "write_durably")]
)
def test_interrupted_settling_is_finished_later(inbox: Inbox, owner: object, name: str, after: bool) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.fail(job, settle=False)
    with cut_off(owner, name, after):
        inbox.settle(job)
    close_all_drops(inbox.installation)
    assert [receipt["file"] for receipt in inbox.receipts(REJECTED)] == ["members.csv"]
    assert inbox.receipts(ACCEPTED) == []
    assert inbox.seeds() == []
    assert inbox.catalog.get(GenerationJob, job.id).seed_location is None


def test_damaged_report_does_not_prevent_the_receipt(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.fail(job, settle=False)
    for path in inbox.installation.home.artifacts.rglob("report.json"):
        path.write_text("{")
    close_all_drops(inbox.installation)
    (receipt,) = inbox.receipts(REJECTED)
    assert receipt["report"] is None


def test_other_jobs_get_no_receipt(inbox: Inbox, tmp_path: Path) -> None:
    from cleanroom_pipelines.runs.seeds import start_job_from_file

    (tmp_path / "members.csv").write_bytes(SEED)
    job = start_job_from_file(
        inbox.installation, configured=inbox.configured.id, seed=tmp_path / "members.csv", name="By hand"
    )
    inbox.fail(job)
    close_all_drops(inbox.installation)
    close_drop(inbox.installation, "gone-0123456789ab")
    assert not inbox.folder.exists()
    assert inbox.seeds() == [SEED]  # materialised again, it is wanted


# --- the same seed again


@pytest.mark.parametrize("name", ["members.csv", "mended.jsonl"])
def test_drop_repeated_after_a_failure_is_retried(inbox: Inbox, name: str) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.fail(job)
    inbox.drop(name)
    (again,) = inbox.register()
    assert again.id == job.id
    assert inbox.lying() == []
    version = inbox.newest(job)
    assert (version.number, version.status, version.queue_generation) == (1, Status.CREATE_PENDING, 1)
    assert inbox.receipts(REJECTED) == []
    with inbox.installation.vault.opening(again.seed_location) as path:
        assert path.read_bytes() == SEED
        assert path.suffix == Path(name).suffix
    inbox.finish(job)
    inbox.finish(inbox.export_of(job))
    assert len(inbox.receipts(ACCEPTED)) == 1
    assert inbox.receipts(REJECTED) == []
    assert inbox.seeds() == []


def test_drop_repeated_during_or_after_the_job_gives_one_job(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.drop()
    inbox.register()
    claim = inbox.claim(job)
    inbox.drop()
    inbox.register()
    assert inbox.newest(job).queue_generation == 0
    inbox.catalog.work.finish(claim, {"sentence": "Made."})
    inbox.drop()
    inbox.register()
    inbox.finish(inbox.export_of(job))
    inbox.drop()
    inbox.register()
    assert [each.id for each in inbox.jobs()] == [job.id]
    assert inbox.newest(job).number == 1
    assert inbox.lying() == []
    assert len(inbox.receipts(ACCEPTED)) == 1
    assert inbox.seeds() == []


def test_drop_repeated_after_a_failed_export_is_exported_again(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.finish(job)
    inbox.fail(inbox.export_of(job), StatusCode.DESTINATION_NOT_WRITABLE)
    inbox.drop()
    inbox.register()
    assert inbox.lying() == []
    assert inbox.seeds() == []
    assert inbox.receipts(REJECTED) == []
    assert inbox.newest(inbox.export_of(job)).status is Status.CREATE_PENDING
    assert inbox.newest(job).number == 1
    inbox.finish(inbox.export_of(job))
    assert len(inbox.receipts(ACCEPTED)) == 1


AGAIN: list[tuple[object, str]] = [
    (inbox_module, "write_durably"),
    (SeedVault, "put"),
    (Resources, "place_seed"),
    (Scheduling, "retry"),
    (Path, "unlink"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("owner, name", AGAIN)
@pytest.mark.parametrize("first", [recover_drops, close_all_drops])
def test_interrupted_retry_is_completed(
    inbox: Inbox, owner: object, name: str, after: bool, first: Callable[[Installation], None]
) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.fail(job)
    inbox.drop()
    with cut_off(owner, name, after):
        inbox.register()
    first(inbox.installation)
    recover_drops(inbox.installation)
    inbox.register()
    close_all_drops(inbox.installation)
    assert inbox.lying() == []
    assert inbox.newest(job).queue_generation == 1
    assert inbox.newest(job).status is Status.CREATE_PENDING
    assert inbox.seeds() == [SEED]
    assert inbox.receipts(REJECTED) == []
    # what was asked for once is done once
    inbox.fail(job)
    recover_drops(inbox.installation)
    assert inbox.newest(job).queue_generation == 1
    assert inbox.seeds() == []


def test_drop_waits_while_its_job_is_deleted(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.fail(job)
    inbox.catalog.deletion.request_delete(Kind.GENERATION_JOB, job.id)
    inbox.drop()
    assert inbox.register() == [None]
    close_all_drops(inbox.installation)
    assert inbox.lying() == ["members.csv"]
    inbox.catalog.deletion.begin_delete(Kind.GENERATION_JOB, job.id)
    inbox.catalog.deletion.finish_delete(Kind.GENERATION_JOB, job.id)
    (new,) = inbox.register()
    assert new.id != job.id
    assert inbox.lying() == []


def test_drop_repeated_after_a_cancellation_is_retried(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.catalog.work.request_cancel(Kind.GENERATION_JOB, job.id)
    close_all_drops(inbox.installation)
    assert inbox.receipts(REJECTED)[0]["statusCode"] == "CANCELLED"
    assert inbox.seeds() == []
    inbox.drop()
    inbox.register()
    assert inbox.newest(job).status is Status.CREATE_PENDING
    assert inbox.seeds() == [SEED]


def test_catalogue_contains_nothing_of_the_seed(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.fail(job)
    home = inbox.installation.home.root
    assert not [path for path in home.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_manual_second_export_counts_too(inbox: Inbox) -> None:
    inbox.drop()
    (job,) = inbox.register()
    inbox.finish(job)
    inbox.finish(inbox.export_of(job))
    more = inbox.catalog.resources.create(
        ExportJobSpec(name="more", generation_job_id=job.id, size=AudienceSize.parse("1%"))
    )
    inbox.fail(more, StatusCode.STORAGE_FULL)
    (receipt,) = inbox.receipts(REJECTED)
    assert (receipt["statusCode"], len(receipt["exports"])) == ("STORAGE_FULL", 1)
    assert inbox.receipts(ACCEPTED) == []


def test_drops_are_accepted_in_the_order_of_their_names(inbox: Inbox) -> None:
    for name in ("c.csv", "a.csv", "b.csv"):
        inbox.drop(name)
    assert [drop.path.name for drop in find_drops(inbox.installation)] == ["a.csv", "b.csv", "c.csv"]
    assert all(isinstance(drop, Drop) and drop.place == ("seeds", inbox.configured.id) for drop in inbox.drops())


def test_job_with_a_receipt_is_skipped_until_new_work(inbox: Inbox) -> None:
    def due_receipts() -> list[str]:
        return [job.id for job in inbox.catalog.resources.jobs_owed_a_receipt()]

    inbox.drop()
    (job,) = inbox.register()
    inbox.finish(job)
    assert due_receipts() == [job.id], "its export is not made"
    inbox.fail(inbox.export_of(job), StatusCode.DESTINATION_NOT_WRITABLE)
    assert due_receipts() == []
    told = [inbox.newest(job), inbox.newest(inbox.export_of(job))]
    inbox.catalog.work.retry(Kind.EXPORT_JOB, inbox.export_of(job).id)
    assert due_receipts() == [job.id]
    inbox.catalog.resources.mark_receipt_current(job.id, told)  # by a process that looked before
    assert due_receipts() == [job.id]
    close_all_drops(inbox.installation)
    assert inbox.receipts(REJECTED) == []
    inbox.finish(inbox.export_of(job))
    assert (due_receipts(), len(inbox.receipts(ACCEPTED))) == ([], 1)
