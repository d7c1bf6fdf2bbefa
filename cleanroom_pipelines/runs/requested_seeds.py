"""Seeds requested over HTTP: fetched from a bucket or with a query when the job runs.

Lives here: fetching a job's requested seed into the vault, deleting it again, and describing the form of its ids
to its owner.
Add here when a seed can be requested in another way.
Keep out: access rights (the APIs), reading buckets (storage), running queries (participant_sql).
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom_pipelines.catalog import SEED, GenerationJob, Kind, RequestedSeed, Status, TrainingDataset
from cleanroom_pipelines.errors import SeedError, StatusCode, UsageError
from cleanroom_pipelines.participant_sql.checking import check_query
from cleanroom_pipelines.participant_sql.column_types import declared_types
from cleanroom_pipelines.participant_sql.running import run_query
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.seeds import forget_seed
from cleanroom_pipelines.storage.objects import BucketForbiddenError
from cleanroom_pipelines.storage.warehouse import warehouse_databases, warehouse_table
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_BYTES

if TYPE_CHECKING:
    import pyarrow as pa


def fetch_requested_seed(installation: Installation, job: GenerationJob) -> GenerationJob:
    """Fetch a job's requested seed into the vault, unless it is already there.

    Args:
        installation: The installation to work on.
        job: The job; it reads with the rights of the account that started it.

    Returns:
        The updated job.

    Raises:
        SeedError: The seed is missing, unreadable or too large, or its query is not allowed or failed.
    """
    requested = job.requested_seed
    if requested is None or job.seed_location is not None:
        return job
    account = job.started_by or job.account_id
    with tempfile.TemporaryDirectory(prefix="seed-", dir=installation.home.scratch) as folder:
        try:
            if requested.s3_uri is not None:
                place = installation.buckets.locate(account, requested.s3_uri)
                file = place.fetch(Path(folder) / "seed", max_bytes=MAX_SEED_BYTES)
            else:
                file = Path(folder) / "seed.jsonl"
                _query(installation, account, requested, file)
        except (BucketForbiddenError, UsageError) as error:
            # access was allowed when the job started
            raise SeedError(
                f"The seed can no longer be read. {error.message}",
                remedy=error.remedy,
                status_code=StatusCode.SEED_NOT_FOUND,
            ) from None
        digest, n_bytes = installation.vault.digest(file), file.stat().st_size
        slot = installation.token_hex(12)
        installation.catalog.deletion.announce(SEED, slot)
        location = installation.vault.put(slot, file, move=True)
    try:
        installation.catalog.resources.place_seed(job.id, location, digest=digest, n_bytes=n_bytes)
    except BaseException:
        installation.vault.delete(location)
        raise
    return installation.catalog.get(GenerationJob, job.id)


def forget_seeds_from(
    installation: Installation, account_id: str, s3_uris: Sequence[str]
) -> tuple[GenerationJob, ...]:
    """Delete failed jobs' copies of seeds whose source objects were deleted; return all jobs with such seeds.

    A running job deletes its copy when it ends. Results built from a seed stay until their job is deleted.

    Args:
        installation: The installation to work on.
        account_id: The account that owns the objects.
        s3_uris: The objects. A seed that is a folder counts if one of the objects is in it.

    Returns:
        The jobs, in order of creation.
    """
    locations = sorted({location for s3_uri in s3_uris for location in _locations_with(s3_uri)})
    jobs = installation.catalog.resources.jobs_with_seed_at(account_id, locations)
    for job in jobs:
        if job.seed_location is not None and job.status is Status.CREATE_FAILED and not job.keep_seed:
            forget_seed(installation, job)
    return jobs


def _locations_with(s3_uri: str) -> list[str]:
    """Return the URLs of an object and of all its parent folders, each folder with and without a final slash."""
    parts = s3_uri.removeprefix("s3://").split("/")
    folders = [f"s3://{'/'.join(parts[:n])}" for n in range(1, len(parts))]
    return [s3_uri, *folders, *(f"{folder}/" for folder in folders)]


def form_of_ids(requested: RequestedSeed | None, user_ids: "pa.ChunkedArray", installation: Installation) -> str:
    """Describe what most ids of a seed look like, for the job's status; empty for a seed from a query.

    An analysis template queries its owner's tables with parameters from another account. That account must not
    learn about their rows from the form of the ids.
    """
    from cleanroom_pipelines.similarity.seeds import form_of_seed

    if requested is not None and requested.is_sql:
        return ""
    return form_of_seed(user_ids, engine=installation.engine_settings)


def _query(installation: Installation, account: str, requested: RequestedSeed, out: Path) -> None:
    """Run the account's query, or the analysis template that it names, and write the rows as the seed."""
    text = requested.query
    if requested.template_arn is not None:
        template = installation.catalog.parties.template(requested.template_arn)
        if template is None:
            raise SeedError("The analysis template was deleted.", remedy="Give another template.")
        account, text = template.account_id, template.sql
    databases = warehouse_databases(installation.home, account)
    checked = check_query(text or "", parameters=requested.parameters, databases=databases)
    tables = {names: warehouse_table(installation.home, account, *names) for names in checked.tables}
    types = _declared_types(installation, account, tables)
    run_query(checked, tables, out, types=types, scratch=installation.home.scratch)


def _declared_types(
    installation: Installation, account: str, tables: Mapping[tuple[str, str], Path]
) -> dict[tuple[str, str], dict[str, str]]:
    """Return the column types that an account's newest training datasets declare for the given tables."""
    names_of = {str(folder): names for names, folder in tables.items()}
    found: dict[tuple[str, str], dict[str, str]] = {}
    after: str | None = None
    while True:
        page = installation.catalog.resources.list(Kind.TRAINING_DATASET, account, limit=1000, after=after)
        for dataset in page.items:
            if isinstance(dataset, TrainingDataset) and dataset.source in names_of:
                found[names_of[dataset.source]] = declared_types(dataset.columns)
        after = page.after
        if after is None:
            return found
