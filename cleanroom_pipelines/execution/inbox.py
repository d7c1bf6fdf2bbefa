"""The inbox: a seed dropped into a folder becomes a generation job, an export and a receipt.

Lives here: finding complete drops, registering them as jobs, leaving receipts.
Add here when something else may be dropped.
Keep out: validating or ranking the seed; a drop is a job like any other.

A drop acts as the operator on behalf of the configured model's owner. Its name gives only its format and the words
of the job's name; no path is made of it. Every step can be cut off and done again: the job's row is found by the
seed's keyed digest, so the same content twice is one job.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom_pipelines.catalog import ExportJob, GenerationJob, GenerationJobSpec, Kind, Origin, Version
from cleanroom_pipelines.catalog.records import OPEN
from cleanroom_pipelines.errors import CleanroomError, ConflictError, NotFoundError, SeedError, UsageError
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.storage.artifacts import write_durably
from cleanroom_pipelines.storage.seed_vault import seed_suffix

ACCEPTED, REJECTED = "accepted", "rejected"
_NOTE = "drop.json"


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


def find_drops(installation: Installation) -> Iterator[Drop]:
    """All files that lie in the seed inbox, whether complete or not; links and hidden files are left alone."""
    for folder in sorted(installation.home.inbox_seeds.iterdir()):
        if folder.is_dir() and not folder.is_symlink():
            for path in sorted(folder.iterdir()):
                if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                    status = path.stat()
                    yield Drop(folder.name, path, (status.st_size, status.st_mtime_ns))


def register_drop(installation: Installation, drop: Drop) -> GenerationJob | None:
    """Make a complete drop a generation job, or refuse it with a receipt; either way the file is gone.

    Returns:
        The job: a new one, or the one that the same content made before; None when the drop was refused.
    """
    try:
        suffix = seed_suffix(drop.path)
        configured = installation.catalog.get(Kind.CONFIGURED_AUDIENCE_MODEL, drop.configured_id)
    except SeedError as error:
        _refuse(installation, drop, error)
        return None
    except (NotFoundError, UsageError):
        remedy = "Drop into the folder named after the partition key of a configured audience model."
        _refuse(installation, drop, UsageError("No configured audience model has this folder's name.", remedy=remedy))
        return None
    digest = installation.vault.digest(drop.path)
    slot = f"{configured.id[-12:]}-{digest[:32]}"
    words = re.sub(r"[^A-Za-z0-9]+", " ", drop.path.name[: -len(suffix)]).strip()[:40] or "seed"
    note = {"configured_id": configured.id, "words": words, "bytes": drop.signature[0], "digest": digest}
    if _job_of(installation, note) is not None:
        drop.path.unlink(missing_ok=True)  # the same content again: it is one job, whose receipt stays
    else:
        installation.vault.folder_of(slot).mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(installation.vault.folder_of(slot) / _NOTE, json.dumps(note).encode())
        installation.vault.put(slot, drop.path, keep=False, move=True)
    return _register(installation, slot, note)


def recover_drops(installation: Installation) -> None:
    """Register the drops that were taken in by a process that was cut off before it made their job."""
    for folder in sorted(installation.home.seeds.iterdir()):
        if (folder / _NOTE).is_file():
            note = json.loads((folder / _NOTE).read_text())
            if _job_of(installation, note) is None and any(folder.glob("seed.*")):
                _register(installation, folder.name, note)


def settle_drop(installation: Installation, job_id: str) -> None:
    """Leave the receipt of a dropped seed once its job has ended: exported, or failed.

    Does nothing for other jobs, for jobs under way, and when the receipt lies there already.
    """
    job = installation.catalog.get(Kind.GENERATION_JOB, job_id)
    if not isinstance(job, GenerationJob) or job.origin is not Origin.INBOX:
        return
    newest = installation.catalog.newest_version(Kind.GENERATION_JOB, job_id)
    if newest.status in OPEN:
        return
    exports = installation.catalog.children(Kind.GENERATION_JOB, job_id)
    last = [installation.catalog.newest_version(Kind.EXPORT_JOB, export.id) for export in exports]
    if any(version.status in OPEN for version in last):
        return
    ended = [newest, *last]
    failed = next((version for version in ended if version.status == "CREATE_FAILED"), None)
    receipt = {
        "job": job.id,
        "configuredAudienceModel": job.configured_audience_model_id,
        "status": "CREATE_FAILED" if failed else "ACTIVE",
        "statusCode": failed.status_code if failed else None,
        "message": failed.status_message if failed else newest.summary.get("sentence"),
        "exports": [export.output_location for export in exports if isinstance(export, ExportJob)],
        "seed": {"bytes": job.seed_bytes, "digest": job.seed_digest},
        "report": _report(installation, newest),
    }
    folder = _receipts(installation, job.configured_audience_model_id, REJECTED if failed else ACCEPTED)
    if failed and newest.status == "CREATE_FAILED":
        installation.vault.delete(job.seed_location)
        installation.catalog.forget_seed(job.id)
    write_durably(folder / f"{job.id}.json", json.dumps(receipt, indent=1, default=str).encode())
    other = _receipts(installation, job.configured_audience_model_id, ACCEPTED if failed else REJECTED)
    (other / f"{job.id}.json").unlink(missing_ok=True)


def settle_all_drops(installation: Installation) -> None:
    """Leave the receipts that a cut-off run did not get to."""
    for job in installation.catalog.iterate(Kind.GENERATION_JOB):
        if isinstance(job, GenerationJob) and job.origin is Origin.INBOX and job.status not in OPEN:
            configured = job.configured_audience_model_id
            names = (installation.home.inbox_seeds / configured / state / f"{job.id}.json" for state in (ACCEPTED, REJECTED))
            if not any(name.exists() for name in names):
                settle_drop(installation, job.id)


def _job_of(installation: Installation, note: Mapping[str, Any]) -> GenerationJob | None:
    return installation.catalog.find_generation_job_by_seed(note["configured_id"], note["digest"], Origin.INBOX)


def _register(installation: Installation, slot: str, note: Mapping[str, Any]) -> GenerationJob:
    if (job := _job_of(installation, note)) is not None:
        return job
    (seed,) = installation.vault.folder_of(slot).glob("seed.*")
    spec = GenerationJobSpec(
        name=f"{note['words']} {note['digest'][:8]}",
        description="Dropped into the inbox.",
        configured_audience_model_id=note["configured_id"],
        seed_location=f"{slot}/{seed.name}",
        seed_name=note["words"],
        seed_bytes=note["bytes"],
        seed_digest=note["digest"],
        export_size="largest",
        origin=Origin.INBOX,
    )
    try:
        job = installation.catalog.start_generation_job(spec)
    except ConflictError:
        job = _job_of(installation, note)  # another process was faster
    assert isinstance(job, GenerationJob)
    return job


def _refuse(installation: Installation, drop: Drop, error: CleanroomError) -> None:
    digest = installation.vault.digest(drop.path)
    receipt = {
        "job": None,
        "status": "CREATE_FAILED",
        "statusCode": error.status_code,
        "message": str(error),
        "seed": {"bytes": drop.signature[0], "digest": digest},
    }
    folder = drop.path.parent / REJECTED
    folder.mkdir(mode=0o700, exist_ok=True)
    write_durably(folder / f"refused-{digest[:12]}.json", json.dumps(receipt, indent=1).encode())
    drop.path.unlink(missing_ok=True)


def _receipts(installation: Installation, configured_id: str, state: str) -> Path:
    folder = installation.home.inbox_seeds / configured_id / state
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _report(installation: Installation, version: Version) -> Mapping[str, Any] | None:
    artifact = version.artifacts.get("seed_validation_report")
    if artifact is None:
        return None
    reference = ArtifactReference("seed_validation_report", version.resource_id, artifact)
    with installation.store.opening(reference) as folder:
        return dict(json.loads((folder / "report.json").read_text())) | {
            "outcome": json.loads((folder / "outcome.json").read_text())
        }
