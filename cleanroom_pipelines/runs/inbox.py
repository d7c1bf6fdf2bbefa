"""The seed inbox: a seed file dropped into a folder becomes a generation job, an export and a receipt.

Lives here: registering dropped seeds as jobs, and the receipts of these jobs; ingesting the files of both inboxes,
on a sensor's tick or in `cleanroom run`.
Add here when the inbox must accept something else.
Keep out: finding and rejecting files (drops.py); validating and ranking the seed, which the job does.

Once no process writes to a dropped file, it is copied, and all later steps use the copy. The copy's digest names
the seed in the vault and is checked whenever the seed is opened. The file is deleted once the copy is on disk, if
it is still the file that was copied.

A dropped file acts as the operator, on behalf of the configured model's owner. Its name determines only the format
and the words in the job's name, never a path; the receipts of rejected files and of failed jobs contain it. Every
step is repeatable: the job's row is found by the seed's keyed digest, so dropping the same content twice gives one
job. Dropping a seed whose job or export failed requests another attempt. A lock in the home lets one process at a
time accept, recover or close a drop.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
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
from cleanroom_pipelines.engine.packing import packing_of
from cleanroom_pipelines.engine.tables import format_of
from cleanroom_pipelines.errors import (
    CleanroomError,
    ConflictError,
    NotFoundError,
    SeedError,
    StatusCode,
    UsageError,
)
from cleanroom_pipelines.runs.drops import (
    ACCEPTED,
    REJECTED,
    CompleteDrop,
    Drop,
    RejectedDrop,
    StillWrittenError,
    complete_drop,
    drops_below,
    one_at_a_time,
    reject,
    write_receipt,
    write_rejection,
)
from cleanroom_pipelines.runs.inbox_folders import folder_of, owner_of_folder
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.room_inbox import find_room_drops, provision_drop
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, write_durably
from cleanroom_pipelines.storage.seed_parts import seed_suffix
from cleanroom_pipelines.ways_in import acting_for

_NOTE = "drop.json"


def find_drops(installation: Installation) -> Iterator[Drop]:
    """Find all files in the inbox, complete or not, except those in the folders of data rooms.

    Files in a wrong folder are found too, so that they are rejected with a receipt.
    """
    home = installation.home
    yield from drops_below(home, home.inbox, but=(home.inbox_seeds, home.inbox_rooms))
    yield from drops_below(home, home.inbox_seeds)


@acting_for("inbox")
def register_drop(installation: Installation, drop: Drop) -> Resource | RejectedDrop | None:
    """Register a complete drop as a generation job, or reject it with a receipt; either way, delete the file.

    If the seed's job or export failed before, it is retried. The file stays only while its job is being deleted.

    Returns:
        The new job, or the existing job for the same content; the receipt if the drop was rejected; None if the
        file no longer exists, or stays.

    Raises:
        StillWrittenError: A process may be writing the file; it stays.
        StorageFullError: The disk is full; the file stays.
    """
    with one_at_a_time(installation), ExitStack() as stack:
        try:
            complete = complete_drop(installation, drop)
        except FileNotFoundError:
            return None  # another process got there first
        configured_id = ""
        try:
            configured_id = owner_of_folder(installation, Kind.CONFIGURED_AUDIENCE_MODEL, drop.place, depth=2).id
            suffix = _suffix_of(drop.path)
            copy = stack.enter_context(_copying(installation, complete, suffix))
            slot, note = _identify(installation, drop, configured_id, copy)
        except FileNotFoundError:
            return None
        except (SeedError, UsageError) as error:
            entry = {"operation": "take_seed", "resource": configured_id}
            return reject(installation, complete, error, entry, what="seed", facts={"job": None})
        job = _job_of(installation, note)
        if job is None:
            _store(installation, copy, slot, note)
            complete.remove()
            return _register(installation, slot, note)
        if job.status in DELETING:
            return None
        newest = installation.catalog.resources.newest_version(Kind.GENERATION_JOB, job.id)
        if newest.status is Status.CREATE_FAILED:
            _store(installation, copy, slot, note | {"again": newest.run_key})
            complete.remove()
            _retry_job(installation, slot, job)
        else:
            _retry_exports(installation, job)
            complete.remove()  # same content, same job: its receipt stays
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
    """Whether a vault folder holds an accepted drop without a job, which `recover_drops` will register."""
    return (slot / _NOTE).is_file() and any(slot.glob("seed.*"))


def close_drop(installation: Installation, job_id: str) -> None:
    """Delete a dropped seed once its job has ended; write the receipt once its exports have ended too.

    Does nothing for other jobs, for unfinished jobs, and when the receipt exists.
    """
    with one_at_a_time(installation):
        _update_receipt(installation, job_id)


def close_all_drops(installation: Installation) -> None:
    """Write the receipts that interrupted runs should have written."""
    for job in installation.catalog.resources.jobs_owed_a_receipt():
        if job.status not in OPEN or _receipts(installation, job):
            close_drop(installation, job.id)


def forget_receipts(installation: Installation, job: GenerationJob) -> None:
    """Delete the receipt files of an inbox seed when its job is deleted; do nothing for other jobs."""
    with one_at_a_time(installation):
        for receipt in _receipts(installation, job):
            receipt.unlink(missing_ok=True)


def _update_receipt(installation: Installation, job_id: str) -> None:
    try:
        job = installation.catalog.get(GenerationJob, job_id)
    except NotFoundError:
        return
    if job.origin is not Origin.INBOX or job.status in DELETING:
        return
    newest = installation.catalog.resources.newest_version(Kind.GENERATION_JOB, job_id)
    note, before = _note_of(installation, job), _receipts(installation, job)
    folder = _folder_of(installation, job, note, before)
    has_ended = newest.status not in OPEN
    if has_ended and not job.keep_seed and _is_retry_requested(note, newest):
        return  # dropped again, but the process was interrupted: recover_drops continues from there
    exports = _exports_of(installation, job_id)
    ended = [
        newest,
        *(installation.catalog.resources.newest_version(Kind.EXPORT_JOB, export.id) for export in exports),
    ]
    failed = next((version for version in ended if version.status is Status.CREATE_FAILED), None)
    is_open = any(version.status in OPEN for version in ended)
    receipt_path = folder / (REJECTED if failed else ACCEPTED) / f"{job.id}.json"
    if is_open:
        receipt_path = folder / ACCEPTED / f".{job.id}"
        if has_ended:  # the note is deleted with the seed: remember the folder until the exports end
            write_receipt(receipt_path, {})
    else:
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
        if newest is failed:
            receipt = {"file": note.get("file") or _file_in(receipt_path)} | receipt
        write_receipt(receipt_path, receipt)
    for path in before:
        if path != receipt_path:
            path.unlink(missing_ok=True)
    if has_ended and job.seed_location and not job.keep_seed:
        installation.vault.delete(job.seed_location)
        installation.catalog.resources.forget_seed(job.id)
    if not is_open:
        installation.catalog.resources.mark_receipt_current(job_id, ended)


def _note_of(installation: Installation, job: GenerationJob) -> dict[str, Any]:
    """The note stored with a dropped seed; empty once the seed is deleted."""
    if not job.seed_location:
        return {}
    note = installation.vault.folder_of(job.seed_location.partition("/")[0]) / _NOTE
    return dict(json.loads(note.read_text())) if note.is_file() else {}


def _file_in(receipt: Path) -> str | None:
    """Return the name of the dropped file from its receipt; None if the receipt cannot be read.

    An interrupted process may have written the receipt before it deleted the seed and its note.
    """
    with suppress(OSError, ValueError):
        return str(json.loads(receipt.read_text())["file"])
    return None


def _suffix_of(path: Path) -> str:
    """Return the suffix for a seed's copy: the file's suffix, or else the suffix of the detected format."""
    with _reading_errors_explained():
        if path.suffix or (format_ := format_of(path)) is None:
            return seed_suffix(path)
        return f".{format_}" + {"none": "", "gzip": ".gz", "zstd": ".zst"}[packing_of(path)]


@contextmanager
def _copying(installation: Installation, complete: CompleteDrop, suffix: str) -> Iterator[Path]:
    """Copy a drop to where no other process can write; all later steps use the copy."""
    source = complete.drop.path
    with _reading_errors_explained():
        source.open("rb").close()
    with full_disk_is_an_error():
        folder = Path(tempfile.mkdtemp(prefix="drop-", dir=installation.home.scratch))
    try:
        copy = folder / f"seed{suffix}"
        with full_disk_is_an_error():
            shutil.copyfile(source, copy)
        complete.check()
        yield copy
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _identify(
    installation: Installation, drop: Drop, configured_id: str, copy: Path
) -> tuple[str, dict[str, Any]]:
    """Return the vault folder for a drop, named after a digest of its content, and a note about the file."""
    with _reading_errors_explained():
        digest = installation.vault.digest(copy)
    suffix = copy.name.removeprefix("seed")
    stem = drop.path.name[: -len(suffix)] if drop.path.suffix else drop.path.name
    words = re.sub(r"[^A-Za-z0-9]+", " ", stem).strip()[:40].strip() or "seed"
    note = {"configured_id": configured_id, "words": words, "bytes": copy.stat().st_size, "digest": digest}
    note |= {"file": drop.path.name, "folder": drop.path.parent.name}
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
    """Store a drop's note in its vault folder before moving the seed there, so that no seed is without a note."""
    folder = installation.vault.folder_of(slot)
    installation.catalog.deletion.announce(SEED, slot)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(folder / _NOTE, json.dumps(note).encode())
    if installation.vault.find(slot) is None:
        # otherwise an interrupted process already accepted the same content
        installation.vault.put(slot, copy, move=True)


def _register(installation: Installation, slot: str, note: Mapping[str, Any]) -> Resource | RejectedDrop | None:
    """Create the generation job of a seed in a vault folder, or reject the seed with a receipt."""
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
            rejection = UsageError(
                "The configured audience model of the file's folder was deleted.",
                remedy="Put the file into the folder of another model.",
                status_code=StatusCode.PARENT_NOT_ACTIVE,
            )
        except UsageError as error:
            rejection = error
        break
    else:
        rejection = ConflictError("All names for this seed's job are already in use.", remedy="Rename the file.")
    folder = _noted_folder(installation, note) or installation.home.inbox_seeds / note["configured_id"]
    facts = {"job": None, "seed": {"bytes": note["bytes"], "digest": note["digest"]}}
    receipt = write_rejection(installation, folder, note.get("file"), rejection, facts)
    shutil.rmtree(installation.vault.folder_of(slot), ignore_errors=True)
    return RejectedDrop(receipt)


def _retry_job(installation: Installation, slot: str, job: GenerationJob) -> None:
    location = installation.vault.find(slot)
    assert location is not None
    installation.catalog.resources.place_seed(job.id, location)
    with suppress(ConflictError):  # another process requested the retry in the meantime
        installation.catalog.work.retry(Kind.GENERATION_JOB, job.id)
    _update_receipt(installation, job.id)  # deletes the receipt of the failure


def _retry_exports(installation: Installation, job: GenerationJob) -> None:
    for export in _exports_of(installation, job.id):
        newest = installation.catalog.resources.newest_version(Kind.EXPORT_JOB, export.id)
        if newest.status is Status.CREATE_FAILED:
            installation.catalog.work.retry(Kind.EXPORT_JOB, export.id)
            _update_receipt(installation, job.id)


def _is_retry_requested(note: Mapping[str, Any], newest: Version) -> bool:
    # the run key changes with each attempt, so each request is carried out once
    return newest.status is Status.CREATE_FAILED and newest.run_key == note.get("again")


def _folder_of(
    installation: Installation, job: GenerationJob, note: Mapping[str, Any], receipts: Sequence[Path]
) -> Path:
    """Return the folder in which a job's seed was dropped."""
    if (noted := _noted_folder(installation, note)) is not None:
        return noted
    if receipts:
        return receipts[0].parents[1]
    with suppress(NotFoundError):
        return folder_of(
            installation, installation.catalog.get(ConfiguredAudienceModel, job.configured_audience_model_id)
        )
    return installation.home.inbox_seeds / job.configured_audience_model_id


def _noted_folder(installation: Installation, note: Mapping[str, Any]) -> Path | None:
    return next(
        (
            path
            for path in installation.home.inbox_seeds.iterdir()
            if path.name == note.get("folder") and path.is_dir()
        ),
        None,
    )


def _receipts(installation: Installation, job: GenerationJob) -> list[Path]:
    """Return a job's receipts in all inbox folders, and the hidden marker file where its seed was dropped."""
    names = (f"{ACCEPTED}/{job.id}.json", f"{REJECTED}/{job.id}.json", f"{ACCEPTED}/.{job.id}")
    return [path for name in names for path in installation.home.inbox_seeds.glob(f"*/{name}")]


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


_PAUSE_SECONDS = 1.0


@dataclass
class Ingestion:
    """How many dropped files an ingestion accepted and rejected, and which failures occurred.

    Args:
        n_accepted: Number of files that became a job or provisioned a room.
        n_rejected: Number of files that were rejected with a receipt.
        incomplete: Files that may still be incomplete.
        failed: Files that could not be accepted now, each with the class name of the error.
    """

    n_accepted: int = 0
    n_rejected: int = 0
    incomplete: list[Drop] = field(default_factory=list)
    failed: list[tuple[Drop, str]] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the counts in words, without names of files; empty if there were no files."""
        counts = (
            (self.n_accepted, "accepted"),
            (self.n_rejected, "rejected (a receipt in rejected/ says why)"),
            (len(self.incomplete), "may still be incomplete"),
            (len(self.failed), "could not be accepted now"),
        )
        return ", ".join(f"{n} {words}" for n, words in counts if n)


def ingest(
    installation: Installation, drops: Iterable[Drop], take: Callable[[Installation, Drop], object]
) -> Ingestion:
    """Ingest drops one by one; a file that cannot be accepted now does not delay the others.

    Args:
        installation: The installation.
        drops: The files.
        take: `register_drop` or `provision_drop`.
    """
    found = Ingestion()
    for drop in drops:
        try:
            taken = take(installation, drop)
        except StillWrittenError:
            found.incomplete.append(drop)
        except (CleanroomError, OSError) as error:
            found.failed.append((drop, type(error).__name__))
        else:
            is_rejected = isinstance(taken, RejectedDrop)
            found.n_rejected += is_rejected
            found.n_accepted += taken is not None and not is_rejected  # None: another process got there first
    return found


def ingest_all(installation: Installation, pause: Callable[[float], None] = time.sleep) -> Ingestion:
    """Ingest all complete files in the inboxes of seeds and data rooms.

    It pauses between finding and ingesting files, as a sensor does between two ticks, to detect files that are
    still growing.

    Args:
        installation: The installation.
        pause: Waits for a number of seconds.
    """
    seeds, rooms = [*find_drops(installation)], [*find_room_drops(installation)]
    if seeds or rooms:
        pause(_PAUSE_SECONDS)
    of_seeds = ingest(installation, seeds, register_drop)
    of_rooms = ingest(installation, rooms, provision_drop)
    return Ingestion(
        of_seeds.n_accepted + of_rooms.n_accepted,
        of_seeds.n_rejected + of_rooms.n_rejected,
        of_seeds.incomplete + of_rooms.incomplete,
        of_seeds.failed + of_rooms.failed,
    )
