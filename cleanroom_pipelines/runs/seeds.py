"""Seeds of generation jobs: registered from an operator's file, validated, and deleted when the job has ended.

Lives here: ingesting a seed and registering its job, for Dagster's launchpad and for commands; judging a seed once
and handing it on to the ranking; deleting seeds.
Add here when starting a job gets another option.
Keep out: seeds from the inbox (inbox.py) and declarations (declarations).
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode
from cleanroom_pipelines.catalog import (
    LARGEST,
    SEED,
    ConfiguredAudienceModel,
    GenerationJob,
    GenerationJobSpec,
    Kind,
    Origin,
    Resource,
    Version,
)
from cleanroom_pipelines.engine import Runtime
from cleanroom_pipelines.errors import SeedError, StatusCode, UsageError
from cleanroom_pipelines.privacy import BudgetSpentError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.private_jobs import PrivateJob
from cleanroom_pipelines.runs.resources import resource_named
from cleanroom_pipelines.runs.work import Work
from cleanroom_pipelines.storage import ArtifactStore, Input

if TYPE_CHECKING:
    import pyarrow as pa

    from cleanroom_pipelines.similarity.seeds import MatchedSeed
    from cleanroom_pipelines.uploads.report import ValidationReport

# How long a job that failed for a reason other than its seed can be retried manually.
_ATTEMPT_AGAIN_WITHIN = timedelta(days=1)


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
    configured = resource_named(installation.catalog, configured, Kind.CONFIGURED_AUDIENCE_MODEL).id
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


@dataclass(frozen=True)
class JudgedSeed:
    """A job's seed after its validation and, if the seed is valid, its match with the model.

    Args:
        report: The validation report.
        matched: The seed's users of the model; None if the seed is invalid.
        ids_digest: Keyed digest of its distinct ids, in any order and format; empty if the seed is invalid.
        user_ids: All ids of the seed; None if it is invalid, or was judged earlier and handed on.
    """

    report: "ValidationReport"
    matched: "MatchedSeed | None" = None
    ids_digest: str = ""
    user_ids: "pa.ChunkedArray | None" = None


def judge_seed(work: Work[GenerationJob], model: Version) -> JudgedSeed:
    """Validate a job's seed and match it with the model, unless an earlier step stored the result.

    Args:
        work: The work on the job, whose seed is in the vault.
        model: The model's version.

    Raises:
        SeedError: The seed was deleted or altered.
        ArtifactError: The model cannot be read.
    """
    from cleanroom_pipelines.similarity.seeds import SeedUsers, match_seed
    from cleanroom_pipelines.uploads.files import check_seed

    if judged := handed_on(work, model):
        return judged
    installation, job = work.installation, work.record
    with installation.vault.opening(job.seed_location, job.seed_digest) as seed:
        report, user_ids = check_seed(
            seed, dataset_column=_dataset_column(work), runtime=Runtime(installation.engine_settings)
        )
    if user_ids is None:
        return JudgedSeed(report)
    with work.opening_input(model.artifact("audience_model")) as folder:
        users = SeedUsers.of(report, user_ids)
        matched = match_seed(folder, users, engine=installation.engine_settings)
    return JudgedSeed(report, matched, _digest_of_ids(installation, user_ids), user_ids)


def _digest_of_ids(installation: Installation, user_ids: "pa.ChunkedArray") -> str:
    digest = hashlib.sha256()
    for user_id in sorted(set(user_ids.to_pylist())):
        digest.update(f"{len(user_id)}:{user_id}".encode())
    return installation.key.digest("ids of a seed", digest.digest())


def _dataset_column(work: Work[GenerationJob]) -> str:
    """Return the name of the dataset's USER_ID column; empty for another account, which may not see it."""
    job, catalog = work.record, work.installation.catalog
    if (job.started_by or job.account_id) != job.account_id:
        return ""
    return catalog.user_id_column(catalog.get(ConfiguredAudienceModel, job.configured_audience_model_id))


def hand_on(work: Work[GenerationJob], seed: JudgedSeed, model: Version) -> None:
    """Store a usable seed's report and matches, encrypted; later steps and attempts do not read the seed again."""
    assert seed.matched is not None
    known = json.dumps({"report": seed.report.as_dict(), "ids": seed.ids_digest}).encode()
    content = b"".join([_purpose(work, model), known, b"\n", seed.matched.to_bytes()])
    work.installation.vault.put_matched(work.record.seed_location, content)


def handed_on(work: Work[GenerationJob], model: Version) -> JudgedSeed | None:
    """Read the report and matches that `hand_on` stored; None if seed, model version or release has changed."""
    from cleanroom_pipelines.similarity.seeds import MatchedSeed
    from cleanroom_pipelines.uploads.report import ValidationReport

    content = work.installation.vault.read_matched(work.record.seed_location)
    if content is None or not content.startswith(purpose := _purpose(work, model)):
        return None
    line, _, matched = content.removeprefix(purpose).partition(b"\n")
    known = json.loads(line)
    if "ids" not in known:  # stored by an earlier release
        return None
    return JudgedSeed(ValidationReport.from_dict(known["report"]), MatchedSeed.from_bytes(matched), known["ids"])


def why_unusable(
    work: Work[GenerationJob], seed: JudgedSeed, configured: ConfiguredAudienceModel, model: Version
) -> tuple[StatusCode, str] | None:
    """Return why a job cannot use its seed, as a status code and a message; None if it can.

    Args:
        work: The work on the job.
        seed: The job's seed.
        configured: The configured model, whose minimum applies.
        model: The model's version.
    """
    report, minimum = seed.report, configured.min_matching_seed_size
    if seed.matched is None:
        return report.status_code or StatusCode.SEED_INVALID, report.reason
    n_matched = seed.matched.counts.n_matched
    private = PrivateJob.of(work.installation, work.record, configured, model, ids_digest=seed.ids_digest)
    if private is not None:
        try:
            with work.opening_input(model.artifact("audience_model")) as folder:
                private.check_seed_size(folder, n_matched, minimum)
        except (SeedError, BudgetSpentError) as error:
            return error.status_code, str(error)
    elif n_matched < minimum:
        message = "The seed has fewer matched users than the configured model requires. Give a larger seed."
        if work.record.origin is Origin.APPLY:  # its owner declared both the seed and the minimum
            message = (
                f"The seed has fewer matched users than the configured model requires ({minimum:,}). Give a "
                "larger seed, check that it uses the training data's ids, or lower minimum_matching_seed_size."
            )
        return StatusCode.INSUFFICIENT_MATCHING_SEED, message
    return None


def seed_input(job: GenerationJob) -> Input:
    """Return a job's seed as an input of its artifacts."""
    return Input("seed", job.id, "", job.seed_digest or "")


def inputs_of(store: ArtifactStore, job: GenerationJob, model: Version) -> tuple[Input, ...]:
    """Return the inputs of a job's audience."""
    return store.as_input(model.artifact("audience_model")), seed_input(job)


def _purpose(work: Work[GenerationJob], model: Version) -> bytes:
    """Return a keyed digest of seed, model and release, which shows whether a stored match is still valid."""
    inputs = inputs_of(work.installation.store, work.record, model)
    return bytes.fromhex(work.data_version("audience", inputs, {"release": version("cleanroom-pipelines")}))


def end_use_of_seed(installation: Installation, job: GenerationJob) -> None:
    """Delete the seed of a finished job; if it is kept for refreshes, delete only the stored match."""
    if job.keep_seed:
        installation.vault.delete_matched(job.seed_location)
    else:
        forget_seed(installation, job)


def forget_seed(installation: Installation, job: GenerationJob) -> None:
    """Delete the file of a job's seed; its name, size, keyed digest and report are kept."""
    installation.vault.delete(job.seed_location)
    installation.catalog.resources.forget_seed(job.id)


def forget_spent_seeds(installation: Installation) -> None:
    """Delete seeds that killed runs left behind, and seeds of jobs that failed for good."""
    for job in installation.catalog.resources.spent_seeds(installation.clock() - _ATTEMPT_AGAIN_WITHIN):
        forget_seed(installation, job)
