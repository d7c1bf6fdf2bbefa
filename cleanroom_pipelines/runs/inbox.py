"""The inbox: a seed dropped into a folder becomes a generation job, an export and a receipt.

Lives here: finding complete drops, registering them as jobs, leaving receipts.
Add here when something else may be dropped.
Keep out: validating or ranking the seed; a drop is a job like any other.

A drop that nobody is writing any more is copied, and all that follows is done with the copy: its digest is the
seed's name in the vault and is checked whenever the seed is opened. The file goes when the copy is on the disk, if
it is still the one that was copied.

A drop acts as the operator on behalf of the configured model's owner. Its name gives only its format and the words
of the job's name; no path is made of it. Every step can be cut off and done again: the job's row is found by the
seed's keyed digest, so the same content twice is one job. Dropping a seed again whose job or export failed asks
for another attempt at it. A lock of the home lets one process at a time take, recover or settle a drop.
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
# What copying programs and browsers call a file that is not whole yet.
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart")


@dataclass(frozen=True)
class Drop:
    """A file in the inbox.

    Args:
        configured_id: Partition key of the configured model, the name of the folder.
        path: The file.
        signature: Size in bytes and time of last change in nanoseconds; still the same a tick later: complete.
    """

    configured_id: str
    path: Path
    signature: tuple[int, int]


class StillWrittenError(CleanroomError):
    """Somebody may be writing a dropped file; it stays until it rests."""


@dataclass(frozen=True)
class RestingDrop:
    """A drop that nobody was writing when it was looked at.

    Args:
        drop: The drop.
        state: How its file was then.
        clock: Gives the time in UTC.
    """

    drop: Drop
    state: FileState
    clock: Callable[[], datetime]

    def check(self) -> None:
        """Refuse what was read of a file if it was changed or replaced meanwhile, or somebody writes it now.

        Raises:
            StillWrittenError: It was.
        """
        path = self.drop.path
        try:
            is_written = may_still_be_written(path, self.clock().timestamp())
        except FileNotFoundError:
            is_written = True
        if is_written or not self.state.still_is(path):
            raise _still_written()

    def remove(self) -> None:
        """Delete the file, unless another one has its name by now: that is another drop.

        Between the look and the deletion a file could still be replaced; nothing deletes only a certain file.
        """
        if self.state.still_is(self.drop.path):
            self.drop.path.unlink(missing_ok=True)


def rest(installation: Installation, drop: Drop) -> RestingDrop:
    """See that nobody is writing a drop, and how its file is before it is read.

    Raises:
        StillWrittenError: Somebody may be writing it.
        FileNotFoundError: It is gone.
    """
    state = FileState.of(drop.path)
    if (state.n_bytes, state.modified_ns) != drop.signature:
        raise _still_written()
    if may_still_be_written(drop.path, installation.clock().timestamp()):
        raise _still_written()
    return RestingDrop(drop, state, installation.clock)


def find_drops(installation: Installation) -> Iterator[Drop]:
    """All files that lie in the seed inbox, whether complete or not.

    Links, hidden files and those named like unfinished downloads (`.part`, `.tmp`, …) are left alone.
    """
    for folder in sorted(installation.home.inbox_seeds.iterdir()):
        yield from drops_in(folder, folder.name)


def drops_in(folder: Path, configured_id: str) -> Iterator[Drop]:
    """The files of one folder of an inbox; links, hidden files and those named as unfinished are left out."""
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
    """Make a complete drop a generation job, or refuse it with a receipt; either way the file is gone.

    A seed whose job, or whose export, failed is attempted again. Only while its job is being deleted, the file
    stays.

    Returns:
        The job: a new one, or the one that the same content made before; None when the drop was refused or stays.

    Raises:
        StillWrittenError: Somebody may be writing the file; it stays.
        StorageFullError: The disk is full; the file stays.
    """
    with one_at_a_time(installation), ExitStack() as stack:
        try:
            resting = rest(installation, drop)
        except FileNotFoundError:
            return None  # another process was faster
        try:
            suffix, configured_id = seed_suffix(drop.path), _configured(installation, drop)
            copy = stack.enter_context(_copying(installation, resting, suffix))
            slot, note = _identify(installation, drop, configured_id, copy)
        except FileNotFoundError:
            return None
        except (SeedError, UsageError) as error:
            _refuse(installation, resting, error)
            return None
        job = _job_of(installation, note)
        if job is None:
            _take(installation, copy, slot, note)
            resting.remove()
            return _register(installation, slot, note)
        if job.status in DELETING:
            return None
        newest = installation.catalog.resources.newest_version(Kind.GENERATION_JOB, job.id)
        if newest.status is Status.CREATE_FAILED:
            _take(installation, copy, slot, note | {"again": newest.run_key})
            resting.remove()
            _try_again(installation, slot, job)
        else:
            _retry_exports(installation, job)
            resting.remove()  # the same content again: it is one job, whose receipt stays
        return _job_of(installation, note)


@acting_for("inbox")
def recover_drops(installation: Installation) -> None:
    """Register the drops that were taken in by a process that was cut off before it made their job."""
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
                if _is_asked_again(note, newest):
                    _try_again(installation, folder.name, job)


def is_accepted_drop(slot: Path) -> bool:
    """Whether a slot of the vault holds a drop; `recover_drops` knows what becomes of it."""
    return (slot / _NOTE).is_file() and any(slot.glob("seed.*"))


def close_drop(installation: Installation, job_id: str) -> None:
    """Leave the receipt of a dropped seed once its job has ended: exported, or failed; its seed goes.

    Does nothing for other jobs, for jobs under way, and when the receipt lies there already.
    """
    with one_at_a_time(installation):
        _settle(installation, job_id)


def close_all_drops(installation: Installation) -> None:
    """Leave the receipts that are due and that a cut-off run did not get to."""
    for job in installation.catalog.resources.jobs_owed_a_receipt():
        if job.status not in OPEN or any(path.exists() for path in _receipt_paths(installation, job)):
            close_drop(installation, job.id)


def forget_receipts(installation: Installation, job: GenerationJob) -> None:
    """Delete the receipts of a dropped seed whose job is deleted; nothing happens for other jobs."""
    with one_at_a_time(installation):
        for receipt in _receipt_paths(installation, job):
            receipt.unlink(missing_ok=True)


def forget_inbox(installation: Installation, configured_id: str, older_than: datetime | None = None) -> bool:
    """Delete the folder of a configured model that is gone, with its receipts.

    A folder in which a seed lies stays, until the seed was refused with a receipt.

    Args:
        installation: Where.
        configured_id: Partition key of the configured model, the name of the folder.
        older_than: UTC; only if nothing in it was changed since.

    Returns:
        Whether there was one, and it went.
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
        with suppress(OSError):  # a seed was dropped meanwhile
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
        if note.is_file() and _is_asked_again(json.loads(note.read_text()), newest):
            return  # dropped again by a process that was cut off: recover_drops goes on from there
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
    """Give a copy of a drop that nobody else can write to: what is done from here on is done with it."""
    source = resting.drop.path
    with _telling_of_reading():
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
    """The slot of a drop and what is to be noted of it."""
    with _telling_of_reading():
        digest = installation.vault.digest(copy)
    stem = drop.path.name[: -len(seed_suffix(drop.path))]
    words = re.sub(r"[^A-Za-z0-9]+", " ", stem).strip()[:40].strip() or "seed"
    note = {"configured_id": configured_id, "words": words, "bytes": copy.stat().st_size, "digest": digest}
    return f"{configured_id[-12:]}-{digest[:32]}", note


@contextmanager
def _telling_of_reading() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SeedError(
            f"The seed cannot be read ({type(error).__name__}).", remedy="Check who may read it and drop it again."
        ) from None


def _still_written() -> StillWrittenError:
    return StillWrittenError("The file may still be being written.", remedy="It is taken when it rests.")


def _job_of(installation: Installation, note: Mapping[str, Any]) -> GenerationJob | None:
    return installation.catalog.resources.find_generation_job_by_seed(
        note["configured_id"], note["digest"], Origin.INBOX
    )


def _exports_of(installation: Installation, job_id: str) -> list[ExportJob]:
    page = installation.catalog.resources.list(
        Kind.EXPORT_JOB, parent_id=job_id, limit=1000
    )  # 25 sizes are allowed
    return [export for export in page.items if isinstance(export, ExportJob)]


def _take(installation: Installation, copy: Path, slot: str, note: Mapping[str, Any]) -> None:
    """Move the copy of a drop into its slot, the note first: whoever finds both knows what they are for."""
    folder = installation.vault.folder_of(slot)
    installation.catalog.deletion.announce(SEED, slot)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(folder / _NOTE, json.dumps(note).encode())
    if installation.vault.find(slot) is None:
        # otherwise the same content was taken in before, by a process that was cut off
        installation.vault.put(slot, copy, move=True)


def _register(installation: Installation, slot: str, note: Mapping[str, Any]) -> Resource | None:
    """Make the job of a seed that lies in its slot; None when it cannot be made, of which a receipt is left."""
    location = installation.vault.find(slot)
    # The same content may be dropped for two models, and names are taken once: the slot knows both.
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
            refused: CleanroomError = error
        except NotFoundError:
            refused = _no_such_model()
        except UsageError as error:
            refused = error
        break
    else:
        refused = ConflictError("The names that this seed's job could have are taken.", remedy="Rename the file.")
    folder = installation.home.inbox_seeds / note["configured_id"]
    _write_refusal(folder, refused, note["bytes"], note["digest"])
    shutil.rmtree(installation.vault.folder_of(slot), ignore_errors=True)
    return None


def _try_again(installation: Installation, slot: str, job: GenerationJob) -> None:
    location = installation.vault.find(slot)
    assert location is not None
    installation.catalog.resources.place_seed(job.id, location)
    with suppress(ConflictError):  # somebody asked for another attempt meanwhile
        installation.catalog.work.retry(Kind.GENERATION_JOB, job.id)
    _settle(installation, job.id)  # the receipt of the failure goes


def _retry_exports(installation: Installation, job: GenerationJob) -> None:
    for export in _exports_of(installation, job.id):
        newest = installation.catalog.resources.newest_version(Kind.EXPORT_JOB, export.id)
        if newest.status is Status.CREATE_FAILED:
            installation.catalog.work.retry(Kind.EXPORT_JOB, export.id)
            _settle(installation, job.id)


def _is_asked_again(note: Mapping[str, Any], newest: Version) -> bool:
    # the run key changes with each attempt: what was asked for once is done once
    return newest.status is Status.CREATE_FAILED and newest.run_key == note.get("again")


def _no_such_model() -> UsageError:
    return UsageError(
        "No configured audience model has this folder's name.",
        remedy="Drop into the folder named after the partition key of a configured audience model.",
        status_code=StatusCode.PARENT_NOT_ACTIVE,
    )


def _refuse(installation: Installation, resting: RestingDrop, error: CleanroomError) -> None:
    installation.check()
    drop = resting.drop
    try:
        digest = installation.vault.digest(drop.path)
    except FileNotFoundError:
        return  # another process was faster
    except OSError:
        digest = installation.key.digest("unreadable drops", repr(drop.path.name).encode())
    _write_refusal(drop.path.parent, error, drop.signature[0], digest)
    entry = {"way": "inbox", "operation": "take_seed", "outcome": "refused", "error": type(error).__name__}
    with suppress(UsageError):  # whatever else a folder is called does not reach the log
        path_of_partition(drop.configured_id)
        entry["resource"] = drop.configured_id
    installation.audit.write(entry)
    resting.remove()


def _write_refusal(folder: Path, error: CleanroomError, n_bytes: int, digest: str) -> None:
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
        path.parent.unlink()  # a file where the folder of receipts belongs
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
        return None  # damaged: materialising the job again says so


@contextmanager
def one_at_a_time(installation: Installation) -> Iterator[None]:
    """Let one process of this home at a time take, recover or settle a drop."""
    with locked(installation.home.inbox / ".lock"):
        yield
