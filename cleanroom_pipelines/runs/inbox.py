"""The seed inbox: a seed file dropped into a folder becomes a generation job, an export and a receipt.

Lives here: finding complete files, registering them as jobs, writing receipts.
Add here when the inbox must accept something else.
Keep out: validating or ranking the seed; a dropped seed is a job like any other.

Once no process writes to a dropped file, it is copied, and all later steps use the copy. The copy's digest names
the seed in the vault and is checked whenever the seed is opened. The file is deleted once the copy is on disk, if
it is still the file that was copied.

A dropped file acts as the operator, on behalf of the configured model's owner. Its name determines only the format
and the words in the job's name, never a path. Every step is repeatable: the job's row is found by the seed's keyed
digest, so dropping the same content twice gives one job. Dropping a seed whose job or export failed requests
another attempt. A lock in the home lets one process at a time accept, recover or settle a drop.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cleanroom_pipelines.catalog import (
    SEED,
    ConfiguredAudienceModel,
    ExportJob,
    GenerationJob,
    GenerationJobSpec,
    Kind,
    Origin,
    Resource,
    Status,
    Version,
)
from cleanroom_pipelines.catalog.records import DELETING, OPEN
from cleanroom_pipelines.errors import (
    CleanroomError,
    ConflictError,
    NotFoundError,
    SeedError,
    StatusCode,
    UsageError,
)
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, write_durably
from cleanroom_pipelines.storage.layout import path_of_partition
from cleanroom_pipelines.storage.open_files import FileState, may_still_be_written
from cleanroom_pipelines.storage.processes import locked
from cleanroom_pipelines.storage.seed_parts import seed_suffix
from cleanroom_pipelines.ways_in import acting_for

ACCEPTED, REJECTED = "accepted", "rejected"
_NOTE = "drop.json"
# Suffixes that copy programs and browsers give to incomplete files.
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")


@dataclass(frozen=True)
class Drop:
    """A file in the inbox.

    Args:
        configured_id: Partition key of the configured model, the name of the folder.
        path: The file.
        signature: Size in bytes and modification time in nanoseconds; unchanged one tick later: complete.
    """

    configured_id: str
    path: Path
    signature: tuple[int, int]


class StillWrittenError(CleanroomError):
    """A process may still be writing a dropped file; it stays in the inbox until it is complete."""


@dataclass(frozen=True)
class RestingDrop:
    """A drop that no process was writing to when it was checked.

    Args:
        drop: The drop.
        state: State of its file at that time.
        clock: Gives the time in UTC.
    """

    drop: Drop
    state: FileState
    clock: Callable[[], datetime]

    def check(self) -> None:
        """Reject content read from a file that has since changed, been replaced, or is being written.

        Raises:
            StillWrittenError: The file has changed or is being written.
        """
        path = self.drop.path
        try:
            is_written = may_still_be_written(path, self.clock().timestamp())
        except FileNotFoundError:
            is_written = True
        if is_written or not self.state.still_is(path):
            raise _still_written()

    def remove(self) -> None:
        """Delete the dropped file, unless another file (a different drop) now has its name.

        The file could be replaced between check and deletion; no system call deletes only a specific file.
        """
        if self.state.still_is(self.drop.path):
            self.drop.path.unlink(missing_ok=True)


def rest(installation: Installation, drop: Drop) -> RestingDrop:
    """Check that no process is writing a drop, and record its file's state before reading.

    Raises:
        StillWrittenError: A process may be writing it.
        FileNotFoundError: The file no longer exists.
    """
    state = FileState.of(drop.path)
    if (state.n_bytes, state.modified_ns) != drop.signature:
        raise _still_written()
    if may_still_be_written(drop.path, installation.clock().timestamp()):
        raise _still_written()
    return RestingDrop(drop, state, installation.clock)


def find_drops(installation: Installation) -> Iterator[Drop]:
    """Find all files in the seed inbox, complete or not.

    Links, hidden files and files named like incomplete downloads (`.part`, `.tmp`, …) are ignored.
    """
    for folder in sorted(installation.home.inbox_seeds.iterdir()):
        yield from drops_in(folder, folder.name)


def drops_in(folder: Path, configured_id: str) -> Iterator[Drop]:
    """Find the files in one inbox folder, ignoring links, hidden files and files named as incomplete."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or path.name.startswith(".") or path.name.lower().endswith(_UNFINISHED):
            continue
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.is_file():
                yield Drop(configured_id, path, (status.st_size, status.st_mtime_ns))


@acting_for("inbox")
def register_drop(installation: Installation, drop: Drop) -> Resource | None:
    """Register a complete drop as a generation job, or reject it with a receipt; either way, delete the file.

    If the seed's job or export failed before, it is retried. The file stays only while its job is being deleted.

    Returns:
        The job: a new one, or the existing one for the same content; None when the drop was rejected or stays.

    Raises:
        StillWrittenError: A process may be writing the file; it stays.
        StorageFullError: The disk is full; the file stays.
    """
    with one_at_a_time(installation), ExitStack() as stack:
        try:
            resting = rest(installation, drop)
        except FileNotFoundError:
            return None  # another process got there first
        try:
            suffix, configured_id = seed_suffix(drop.path), _configured(installation, drop)
            copy = stack.enter_context(_copying(installation, resting, suffix))
            slot, note = _identify(installation, drop, configured_id, copy)
        except FileNotFoundError:
            return None
        except (SeedError, UsageError) as error:
            _reject(installation, resting, error)
            return None
        job = _job_of(installation, note)
        if job is None:
            _store(installation, copy, slot, note)
            resting.remove()
            return _register(installation, slot, note)
        if job.status in DELETING:
            return None
        newest = installation.catalog.resources.newest_version(Kind.GENERATION_JOB, job.id)
        if newest.status is Status.CREATE_FAILED:
            _store(installation, copy, slot, note | {"again": newest.run_key})
            resting.remove()
            _retry_job(installation, slot, job)
        else:
            _retry_exports(installation, job)
            resting.remove()  # same content, same job: its receipt stays
        return _job_of(installation, note)


@acting_for("inbox")
def recover_drops(installation: Installation) -> None:
    """Register drops that an interrupted process accepted without creating their job."""
    if not any((folder / _NOTE).is_file() for folder in installation.home.seeds.iterdir()):
        return
    with one_at_a_time(installation):
        for folder in sorted(installation.home.seeds.iterdir()):
            if not (folder / _NOTE).is_file() or installation.vault.find(folder.name) is None:
                continue
            note = json.loads((folder / _NOTE).read_text())
            job = _job_of(installation, note)
            if job is None:
                _register(installation, folder.name, note)
            elif note.get("again"):
                newest = installation.catalog.resources.newest_version(Kind.GENERATION_JOB, job.id)
                if _is_retry_requested(note, newest):
                    _retry_job(installation, folder.name, job)


def is_accepted_drop(slot: Path) -> bool:
    """Whether a slot of the vault holds a drop without a job yet; `recover_drops` handles it."""
    return (slot / _NOTE).is_file() and any(slot.glob("seed.*"))


def close_drop(installation: Installation, job_id: str) -> None:
    """Write the receipt of a dropped seed once its job has ended, exported or failed, and delete the seed.

    Does nothing for other jobs, for unfinished jobs, and when the receipt exists.
    """
    with one_at_a_time(installation):
        _settle(installation, job_id)


def close_all_drops(installation: Installation) -> None:
    """Write due receipts that an interrupted run did not write."""
    for job in installation.catalog.resources.jobs_owed_a_receipt():
        if job.status not in OPEN or any(path.exists() for path in _receipt_paths(installation, job)):
            close_drop(installation, job.id)


def forget_receipts(installation: Installation, job: GenerationJob) -> None:
    """Delete the receipts of a dropped seed whose job is deleted; do nothing for other jobs."""
    with one_at_a_time(installation):
        for receipt in _receipt_paths(installation, job):
            receipt.unlink(missing_ok=True)


def forget_inbox(installation: Installation, configured_id: str, older_than: datetime | None = None) -> bool:
    """Delete the inbox folder of a deleted configured model, with its receipts.

    A folder that holds a seed stays until the seed has been rejected with a receipt.

    Args:
        installation: Where.
        configured_id: Partition key of the configured model, the name of the folder.
        older_than: UTC; delete only if nothing in the folder changed since.

    Returns:
        Whether a folder was deleted.
    """
    folder = installation.home.inbox_seeds / configured_id
    with one_at_a_time(installation):
        if not folder.is_dir() or folder.is_symlink():
            return False
        inside = [folder, *folder.rglob("*")]
        if any(path.parent == folder and path.name not in (ACCEPTED, REJECTED) for path in inside[1:]):
            return False
        if older_than and any(path.lstat().st_mtime > older_than.timestamp() for path in inside):
            return False
        for receipts in (ACCEPTED, REJECTED):
            shutil.rmtree(folder / receipts, ignore_errors=True)
        with suppress(OSError):  # a seed was dropped in the meantime
            folder.rmdir()
        return not folder.exists()


def _settle(installation: Installation, job_id: str) -> None:
    try:
        job = installation.catalog.get(GenerationJob, job_id)
    except NotFoundError:
        return
    if job.origin is not Origin.INBOX or job.status in DELETING:
        return
    accepted, rejected = _receipt_paths(installation, job)
    newest = installation.catalog.resources.newest_version(Kind.GENERATION_JOB, job_id)
    if newest.status not in OPEN and job.seed_location and not job.keep_seed:
        note = installation.vault.folder_of(job.seed_location.partition("/")[0]) / _NOTE
        if note.is_file() and _is_retry_requested(json.loads(note.read_text()), newest):
            return  # dropped again, but the process was interrupted: recover_drops continues from there
        installation.vault.delete(job.seed_location)
        installation.catalog.resources.forget_seed(job.id)
    exports = _exports_of(installation, job_id)
    ended = [
        newest,
        *(installation.catalog.resources.newest_version(Kind.EXPORT_JOB, export.id) for export in exports),
    ]
    if any(version.status in OPEN for version in ended):
        for stale in (accepted, rejected):
            stale.unlink(missing_ok=True)
        return
    failed = next((version for version in ended if version.status is Status.CREATE_FAILED), None)
    receipt = {
        "job": job.id,
        "configuredAudienceModel": job.configured_audience_model_id,
        "status": (Status.CREATE_FAILED if failed else Status.ACTIVE).value,
        "statusCode": failed.status_code if failed else None,
        "message": failed.status_message if failed else newest.summary.get("sentence"),
        "exports": [export.output_location for export in exports if export.output_location],
        "seed": {"bytes": job.seed_bytes, "digest": job.seed_digest},
        "report": _report(installation, newest),
    }
    right, wrong = (rejected, accepted) if failed else (accepted, rejected)
    wrong.unlink(missing_ok=True)
    _write_receipt(right, receipt)
    installation.catalog.resources.settle_receipt(job_id, ended)


def _configured(installation: Installation, drop: Drop) -> str:
    try:
        path_of_partition(drop.configured_id)
        return installation.catalog.get(ConfiguredAudienceModel, drop.configured_id).id
    except (NotFoundError, UsageError):
        raise _no_such_model() from None


@contextmanager
def _copying(installation: Installation, resting: RestingDrop, suffix: str) -> Iterator[Path]:
    """Copy a drop to where no other process can write; all later steps use the copy."""
    source = resting.drop.path
    with _reading_errors_explained():
        source.open("rb").close()
    with full_disk_is_an_error():
        folder = Path(tempfile.mkdtemp(prefix="drop-", dir=installation.home.scratch))
    try:
        copy = folder / f"seed{suffix}"
        with full_disk_is_an_error():
            shutil.copyfile(source, copy)
        resting.check()
        yield copy
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _identify(
    installation: Installation, drop: Drop, configured_id: str, copy: Path
) -> tuple[str, dict[str, Any]]:
    """The slot of a drop, and the note to store with it."""
    with _reading_errors_explained():
        digest = installation.vault.digest(copy)
    stem = drop.path.name[: -len(seed_suffix(drop.path))]
    words = re.sub(r"[^A-Za-z0-9]+", " ", stem).strip()[:40].strip() or "seed"
    note = {"configured_id": configured_id, "words": words, "bytes": copy.stat().st_size, "digest": digest}
    return f"{configured_id[-12:]}-{digest[:32]}", note


@contextmanager
def _reading_errors_explained() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SeedError(
            f"The seed cannot be read ({type(error).__name__}).",
            remedy="Check its permissions and drop it again.",
        ) from None


def _still_written() -> StillWrittenError:
    return StillWrittenError(
        "The file may still be incomplete.", remedy="It will be accepted once it stops changing."
    )


def _job_of(installation: Installation, note: Mapping[str, Any]) -> GenerationJob | None:
    return installation.catalog.resources.find_generation_job_by_seed(
        note["configured_id"], note["digest"], Origin.INBOX
    )


def _exports_of(installation: Installation, job_id: str) -> list[ExportJob]:
    page = installation.catalog.resources.list(
        Kind.EXPORT_JOB, parent_id=job_id, limit=1000
    )  # 25 sizes are allowed
    return [export for export in page.items if isinstance(export, ExportJob)]


def _store(installation: Installation, copy: Path, slot: str, note: Mapping[str, Any]) -> None:
    """Move the copy of a drop into its slot, after its note, so that a slot with a seed always has a note."""
    folder = installation.vault.folder_of(slot)
    installation.catalog.deletion.announce(SEED, slot)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(folder / _NOTE, json.dumps(note).encode())
    if installation.vault.find(slot) is None:
        # otherwise an interrupted process already accepted the same content
        installation.vault.put(slot, copy, move=True)


def _register(installation: Installation, slot: str, note: Mapping[str, Any]) -> Resource | None:
    """Create the job of a seed in its slot; on failure, write a receipt and return None."""
    location = installation.vault.find(slot)
    # The same content may be dropped for two models, and names must be unique: the slot depends on both.
    mark = installation.key.digest("names of drops", slot.encode())
    for length in (8, 16):
        try:
            return installation.catalog.resources.create(
                GenerationJobSpec(
                    name=f"{note['words']} {mark[:length]}",
                    description="Dropped into the inbox.",
                    configured_audience_model_id=note["configured_id"],
                    seed_location=location,
                    seed_name=note["words"],
                    seed_bytes=note["bytes"],
                    seed_digest=note["digest"],
                    export_size="largest",
                    origin=Origin.INBOX,
                )
            )
        except ConflictError as error:
            if error.attributes.get("reason") == "seed":
                return _job_of(installation, note)
            if error.attributes.get("reason") == "name":
                continue
            rejection: CleanroomError = error
        except NotFoundError:
            rejection = _no_such_model()
        except UsageError as error:
            rejection = error
        break
    else:
        rejection = ConflictError("All names for this seed's job are already in use.", remedy="Rename the file.")
    folder = installation.home.inbox_seeds / note["configured_id"]
    _write_rejection(folder, rejection, note["bytes"], note["digest"])
    shutil.rmtree(installation.vault.folder_of(slot), ignore_errors=True)
    return None


def _retry_job(installation: Installation, slot: str, job: GenerationJob) -> None:
    location = installation.vault.find(slot)
    assert location is not None
    installation.catalog.resources.place_seed(job.id, location)
    with suppress(ConflictError):  # another process requested the retry in the meantime
        installation.catalog.work.retry(Kind.GENERATION_JOB, job.id)
    _settle(installation, job.id)  # deletes the receipt of the failure


def _retry_exports(installation: Installation, job: GenerationJob) -> None:
    for export in _exports_of(installation, job.id):
        newest = installation.catalog.resources.newest_version(Kind.EXPORT_JOB, export.id)
        if newest.status is Status.CREATE_FAILED:
            installation.catalog.work.retry(Kind.EXPORT_JOB, export.id)
            _settle(installation, job.id)


def _is_retry_requested(note: Mapping[str, Any], newest: Version) -> bool:
    # the run key changes with each attempt, so each request is carried out once
    return newest.status is Status.CREATE_FAILED and newest.run_key == note.get("again")


def _no_such_model() -> UsageError:
    return UsageError(
        "The folder's name is not a configured audience model.",
        remedy="Use a folder named after the partition key of a configured audience model.",
        status_code=StatusCode.PARENT_NOT_ACTIVE,
    )


def _reject(installation: Installation, resting: RestingDrop, error: CleanroomError) -> None:
    installation.check()
    drop = resting.drop
    try:
        digest = installation.vault.digest(drop.path)
    except FileNotFoundError:
        return  # another process got there first
    except OSError:
        digest = installation.key.digest("unreadable drops", repr(drop.path.name).encode())
    _write_rejection(drop.path.parent, error, drop.signature[0], digest)
    entry = {"way": "inbox", "operation": "take_seed", "outcome": "refused", "error": type(error).__name__}
    with suppress(UsageError):  # other folder names must not reach the log
        path_of_partition(drop.configured_id)
        entry["resource"] = drop.configured_id
    installation.audit.write(entry)
    resting.remove()


def _write_rejection(folder: Path, error: CleanroomError, n_bytes: int, digest: str) -> None:
    receipt = {
        "job": None,
        "status": Status.CREATE_FAILED.value,
        "statusCode": error.status_code,
        "message": str(error),
        "seed": {"bytes": n_bytes, "digest": digest},
    }
    _write_receipt(folder / REJECTED / f"refused-{digest[:12]}.json", receipt)


def _receipt_paths(installation: Installation, job: GenerationJob) -> tuple[Path, Path]:
    folder = installation.home.inbox_seeds / job.configured_audience_model_id
    return folder / ACCEPTED / f"{job.id}.json", folder / REJECTED / f"{job.id}.json"


def _write_receipt(path: Path, receipt: Mapping[str, Any]) -> None:
    content = json.dumps(receipt, indent=1, default=str).encode()
    if path.parent.is_file():
        path.parent.unlink()  # a file in the place of the receipts folder
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != content:
        write_durably(path, content)


def _report(installation: Installation, version: Version) -> Mapping[str, Any] | None:
    if "seed_validation_report" not in version.artifacts:
        return None
    try:
        with installation.store.opening(version.artifact("seed_validation_report")) as folder:
            return dict(json.loads((folder / "report.json").read_text())) | {
                "outcome": json.loads((folder / "outcome.json").read_text())
            }
    except (CleanroomError, OSError, ValueError):
        return None  # damaged: rematerialising the job reports it


@contextmanager
def one_at_a_time(installation: Installation) -> Iterator[None]:
    """Ensure that only one process of this home accepts, recovers or settles drops at a time."""
    with locked(installation.home.inbox / ".lock"):
        yield
