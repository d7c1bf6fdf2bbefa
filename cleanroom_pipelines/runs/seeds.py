"""Seeds of generation jobs: ingested from an operator's file, and deleted when the job has ended.

Lives here: ingesting a seed and registering its job, for Dagster's launchpad and for commands; deleting seeds.
Add here when starting a job gets another option.
Keep out: seeds from the inbox (inbox.py) and declarations (declarations).
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Literal

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode
from cleanroom_pipelines.catalog import LARGEST, SEED, GenerationJob, GenerationJobSpec, Kind, Origin, Resource
from cleanroom_pipelines.errors import NotFoundError, SeedError, StatusCode, UsageError
from cleanroom_pipelines.runs.installation import Installation

# How long a job that failed for a reason other than its seed can be retried manually.
_ATTEMPT_AGAIN_WITHIN = timedelta(days=1)
_MOST_LISTED = 20  # names in a message


def start_job_from_file(
    installation: Installation,
    *,
    configured: str,
    seed: Path,
    name: str,
    seed_mode: str = "excluded",
    export_size: str = "",
    origin: Origin = Origin.UI,
) -> Resource:
    """Register a generation job whose seed is a file on this machine.

    Args:
        installation: The installation to work on.
        configured: Name or partition key of the configured audience model.
        seed: The file; a copy is kept until the job ends.
        name: The job's name.
        seed_mode: `excluded`, `first` or `in_place`.
        export_size: `largest`, a size such as `5%`, or empty for no export.
        origin: How the job was started.

    Raises:
        SeedError: The file does not exist.
        UsageError: A field is invalid, or the configured model does not allow the size.
        ConflictError: The name is already in use.
        NotFoundError: The configured model does not exist.
    """
    configured = _configured_model(installation, configured).id
    if seed_mode not in set(SeedMode):
        raise UsageError("The seed mode is invalid.", remedy="Use excluded, first or in_place.")
    if not seed.is_file():
        raise SeedError("The seed was not found.", remedy="Check its path.", status_code=StatusCode.SEED_NOT_FOUND)
    size: AudienceSize | Literal["largest"] | None = None
    if export_size:
        size = LARGEST if export_size == LARGEST else AudienceSize.parse(export_size)
    slot, digest = installation.token_hex(12), installation.vault.digest(seed)
    installation.catalog.deletion.announce(SEED, slot)
    location = installation.vault.put(slot, seed, digest=digest)
    try:
        with installation.vault.opening(location) as copy:
            n_bytes = copy.stat().st_size
        job = installation.catalog.resources.create(
            GenerationJobSpec(
                name=name,
                configured_audience_model_id=configured,
                seed_location=location,
                seed_name=name,
                seed_bytes=n_bytes,
                seed_digest=digest,
                seed_mode=SeedMode(seed_mode),
                export_size=size,
                origin=origin,
            )
        )
    except BaseException:
        installation.vault.delete(location)
        raise
    return job


def _configured_model(installation: Installation, name_or_key: str) -> Resource:
    """Find a configured audience model of any account by its name or partition key, for the operator."""
    models = [*installation.catalog.resources.iterate(Kind.CONFIGURED_AUDIENCE_MODEL)]
    found = [model for model in models if name_or_key in (model.id, model.name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFoundError(
            f"{len(found)} configured audience models have this name.",
            remedy=f"Give a partition key: {_listed(model.id for model in found)}.",
        )
    remedy = f"Choose one of: {_listed(model.name for model in models)}." if models else "Declare one first."
    raise NotFoundError("There is no configured audience model with this name or partition key.", remedy=remedy)


def _listed(texts: Iterable[str]) -> str:
    every = list(texts)
    shown, others = every[:_MOST_LISTED], every[_MOST_LISTED:]
    return ", ".join(map(repr, shown)) + (f" and {len(others)} more" if others else "")


def forget_seed(installation: Installation, job: GenerationJob) -> None:
    """Delete a job's seed; its name, size, keyed digest and report stay."""
    installation.vault.delete(job.seed_location)
    installation.catalog.resources.forget_seed(job.id)


def forget_spent_seeds(installation: Installation) -> None:
    """Delete seeds that killed runs left behind, and seeds of jobs that failed for good."""
    for job in installation.catalog.resources.spent_seeds(installation.clock() - _ATTEMPT_AGAIN_WITHIN):
        forget_seed(installation, job)
