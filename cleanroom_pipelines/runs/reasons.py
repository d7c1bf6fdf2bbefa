"""Reasons: why a version failed, and what to do about it.

Lives here: finding the failure that caused a version's failure, its sentence and its remedy.
Add here when a version can fail because of another one in a new way.
Keep out: Dagster, which takes seconds to load (failures.py), and retries (catalog).
"""

from dataclasses import dataclass
from urllib.parse import quote

from cleanroom_pipelines.catalog import RECORDS, Catalog, GenerationJob, Kind, Resource, Status, Version
from cleanroom_pipelines.errors import NotFoundError, StatusCode
from cleanroom_pipelines.runs.kinds import ASSETS_OF

RETRY_JOB = "retry_failed"
"""The job that retries all failed work, for a click instead of a command."""
START_JOB = "start_generation_job"
RETRY_ALL, APPLY = "cleanroom retry --failed", "cleanroom apply FILE.yaml"

_DATA_CODES = (
    StatusCode.TRAINING_DATA_NOT_FOUND,
    StatusCode.TRAINING_DATA_INVALID,
    StatusCode.TRAINING_DATA_TOO_SMALL,
)
_SEED_CODES = (
    StatusCode.SEED_INVALID,
    StatusCode.SEED_TOO_SMALL,
    StatusCode.SEED_TOO_LARGE,
    StatusCode.INSUFFICIENT_MATCHING_SEED,
    StatusCode.SEED_COVERS_POPULATION,
)


@dataclass(frozen=True)
class Failure:
    """Why a version failed, as shown on the Dagster page of its partition.

    Args:
        record: The resource.
        version: Its newest version, which failed.
        root: The resource whose failure is the cause; the same one unless a parent failed.
        reason: What happened and what to do, without data.
        code: The status code of the root.
    """

    record: Resource
    version: Version
    root: Resource
    reason: str
    code: StatusCode | None

    @property
    def sentence(self) -> str:
        """The reason for the failure; if a parent failed first, the parent's name and reason."""
        if self.root.id == self.record.id:
            return self.reason
        return f"The {self.root.kind.words} '{self.root.name}' failed: {self.reason}"

    @property
    def remedy(self) -> str:
        """What to do: the click or the command that retries."""
        if self.needs_new_seed:
            return (
                f"Correct the seed. Then launch the job {START_JOB}, or run `{APPLY}` if FILE.yaml declares the "
                "generation job."
            )
        if self.root.id != self.record.id:
            return f"Solve the problem. Then launch the job {RETRY_JOB}, or run `{RETRY_ALL}`."
        here = f"this {self.record.kind.words}"
        return f"Solve the problem. Then click Materialize on {here}, or run `cleanroom retry {self.record.id}`."

    @property
    def needs_new_seed(self) -> bool:
        """Whether a retry requires a new seed, because the job's copy of its seed is unusable or deleted."""
        job = self.root
        if not isinstance(job, GenerationJob) or job.requested_seed:
            return False
        return job.seed_location is None or self.code in _SEED_CODES


def failure_of(catalog: Catalog, kind: Kind, partition: str) -> Failure | None:
    """Return why a resource's newest version failed, or None if it did not fail or does not exist."""
    try:
        record, version = catalog.get(RECORDS[kind], partition), catalog.resources.newest_version(kind, partition)
        if version.status is not Status.CREATE_FAILED:
            return None
        root, cause = _root_of(catalog, record, version)
    except NotFoundError:
        return None
    return Failure(record, version, root, cause.status_message or "The work failed.", cause.status_code)


def link_to(record: Resource, *, is_failed: bool = False) -> str:
    """Return a Markdown link to a resource's partition page in Dagster.

    Args:
        record: The resource.
        is_failed: Link to the events of the partition. Without a materialisation, Dagster's page of a partition
            shows that its run failed, and not why; the page of its events starts with the reason.
    """
    key = quote(record.id)
    view = f"events&partitions%5B0%5D={key}" if is_failed else "partitions"
    return f"[{escaped(record.name)}](/assets/{ASSETS_OF[record.kind][-1]}?view={view}&partition={key})"


def escaped(text: str) -> str:
    """Escape user-supplied text for Markdown."""
    return "".join(f"\\{character}" if character in "\\`*_{}[]()<>#+-!|~" else character for character in text)


def _root_of(catalog: Catalog, record: Resource, version: Version) -> tuple[Resource, Version]:
    """Return the resource whose failure is the cause (this one or a parent), and its failed version."""
    while record.parent_kind is not None and record.parent_id is not None:
        if version.status_code not in (StatusCode.PARENT_NOT_ACTIVE, *_DATA_CODES):
            break
        above = catalog.resources.newest_version(record.parent_kind, record.parent_id)
        if above.status is not Status.CREATE_FAILED:
            break
        record, version = catalog.get(RECORDS[record.parent_kind], record.parent_id), above
    return record, version
