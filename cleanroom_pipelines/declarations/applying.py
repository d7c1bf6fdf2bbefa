"""Apply a declaration to the catalogue.

Lives here: comparing a declaration with the catalogue, and creating and updating resources.
Add here when another kind of resource can be declared.
Keep out: the schema of the file (form.py), the parties (parties.py) and the catalogue's rules.
"""

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from cleanroom_pipelines.audiences.sizes import AudienceSize, check_sizes
from cleanroom_pipelines.catalog import (
    LOCAL_ACCOUNT,
    RECORDS,
    SEED,
    AudienceModelSpec,
    Catalog,
    ConfiguredAudienceModel,
    ConfiguredAudienceModelSpec,
    ExportFormat,
    ExportJobSpec,
    GenerationJob,
    GenerationJobSpec,
    Kind,
    Origin,
    Resource,
    ShareMetrics,
    Spec,
    Status,
    TrainingDatasetSpec,
    spec_digest,
)
from cleanroom_pipelines.catalog.names import MAX_NAME, check_account
from cleanroom_pipelines.catalog.records import DELETING, OPEN
from cleanroom_pipelines.declarations.form import Declaration, JobForm
from cleanroom_pipelines.declarations.parties import ApplyingParties, PartyKind
from cleanroom_pipelines.declarations.sources import check_dataset, check_seed_header, find_seed, source_of
from cleanroom_pipelines.engine import EngineSettings, Runtime
from cleanroom_pipelines.errors import (
    CleanroomError,
    ConflictError,
    NotFoundError,
    UsageError,
)
from cleanroom_pipelines.storage import SeedVault
from cleanroom_pipelines.storage.seed_parts import seed_suffix
from cleanroom_pipelines.uploads.files import check_seed
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_IDS
from cleanroom_pipelines.uploads.sources import Sources, is_remote

_R = TypeVar("_R", bound=Resource)
# Placeholder id of a parent that a dry run would create.
_NEW = "new"

Action = Literal["create", "update", "retry", "keep"]


@dataclass(frozen=True)
class DeclaredChange:
    """A change to a resource or other object, made by applying a declaration or predicted by a dry run.

    Args:
        action: `create`, `update` (a new version if the content changes), `retry` (unchanged, but its newest
            version failed) or `keep`.
        kind: The kind of the resource or party object.
        name: Its name.
        id: The partition key, or the id or ARN of a party object; empty if a dry run would create it.
        warning: Why the work on it will fail, as far as a dry run can see; else empty.
    """

    action: Action
    kind: Kind | PartyKind
    name: str
    id: str
    warning: str = ""


def apply_declaration(
    catalog: Catalog,
    vault: SeedVault,
    declaration: Declaration,
    *,
    new_slot: Callable[[], str],
    sources_of: Callable[[str], Sources] | None = None,
    dry_run: bool = False,
    check_tables: bool = False,
) -> list[DeclaredChange]:
    """Create missing resources, update changed ones and retry failed ones, parents first; delete nothing.

    A dry run checks the whole declaration first, so an invalid declaration changes nothing.

    Args:
        catalog: The catalogue.
        vault: Stores seeds until their jobs have run.
        declaration: The declared state.
        new_slot: Returns random hex that names a seed's slot.
        sources_of: Returns the places that tables of an account are read from; None: local files only, and a dry
            run does not read them.
        dry_run: Return the changes without making them, check the headers of all tables, and warn of seeds that
            are too small.
        check_tables: Before making changes, check the headers of the tables and seeds that are new or changed.

    Returns:
        One change for each declared party and resource, parents first.

    Raises:
        UsageError: A parent is not declared, or a rule of the catalogue is violated.
        SeedError: A seed is missing.
        TrainingDataError: A table that is checked is missing, cannot be read, or lacks a declared column.
        ConflictError: A name belongs to a resource that was not declared, or that is being deleted.
    """
    with ExitStack() as stack:
        seeds = _Seeds(sources_of, stack)
        planned = _Applying(catalog, vault, declaration, new_slot, seeds, dry_run=True)
        changes = planned.run()
        if dry_run:
            planned.check_tables()
            return planned.with_warnings()
        if check_tables:
            planned.check_tables({change.name for change in changes if change.action != "keep"})
        return _Applying(catalog, vault, declaration, new_slot, seeds, dry_run=False).run()


class _Seeds:
    """Finds the seeds of a declaration; fetches each remote seed only once."""

    def __init__(self, sources_of: Callable[[str], Sources] | None, stack: ExitStack) -> None:
        self.sources_of = sources_of
        self._stack = stack
        self._found: dict[str, Path] = {}

    def find(self, form: JobForm, folder: Path, account_id: str) -> Path:
        if form.seed not in self._found:
            sources = self.sources_of(account_id) if self.sources_of and is_remote(form.seed) else None
            self._found[form.seed] = find_seed(form, folder, sources, self._stack)
        return self._found[form.seed]


class _Applying:
    """Applies a declaration, or lists the changes that applying it would make."""

    def __init__(
        self,
        catalog: Catalog,
        vault: SeedVault,
        declaration: Declaration,
        new_slot: Callable[[], str],
        seeds: _Seeds,
        *,
        dry_run: bool,
    ) -> None:
        self._catalog = catalog
        self._vault = vault
        self._declaration = declaration
        self._new_slot = new_slot
        self._seeds = seeds
        self._dry_run = dry_run
        self._ids: dict[tuple[Kind, str], str] = {}
        self._changes: list[DeclaredChange] = []
        self._parties = ApplyingParties(catalog, declaration, self._note_party, dry_run=dry_run)
        self._account_id, self._region = "", declaration.region

    def run(self) -> list[DeclaredChange]:
        self._apply_parties()
        self._apply_resources("training_datasets", self._datasets())
        self._apply_resources("audience_models", self._models())
        self._apply_resources("configured_audience_models", self._configured_models())
        for form, place in self._declaration.placed("generation_jobs"):
            with _at(place):
                sizes = _sizes(form.exports)
                self._check_sizes(form, sizes)
                job = self._create_or_update(self._job(form), seed=self._seed(form))
                for size in sizes:
                    # the name includes the size; names have at most 63 characters
                    name = f"{form.name[: 62 - len(str(size))]} {size}"
                    self._create_or_update(ExportJobSpec(name=name, generation_job_id=job, size=size))
        return self._changes

    def check_tables(self, names: Collection[str] | None = None) -> None:
        """Check the headers of tables and seeds. Do a dry run first: it finds the account that reads them.

        Args:
            names: Check only the datasets and jobs with these names; all if not given.
        """
        if self._seeds.sources_of is None:
            return
        sources, folder = self._seeds.sources_of(self._account_id), self._declaration.folder
        for dataset, place in self._declaration.placed("training_datasets"):
            with _at(place):
                if names is None or dataset.name in names:
                    check_dataset(dataset, folder, sources)
        for job, place in self._declaration.placed("generation_jobs"):
            with _at(place):
                if names is None or job.name in names:
                    check_seed_header(self._seed(job), self._id_column(job))

    def with_warnings(self) -> list[DeclaredChange]:
        """Return the changes, with a warning on each new, changed or retried job whose seed is unusable.

        The seed is compared with the minimum, not with the model: the result depends on the seed alone.
        """
        if self._seeds.sources_of is None:
            return self._changes
        runtime = Runtime(EngineSettings(scratch=self._seeds.sources_of(self._account_id).scratch))
        jobs = {form.name: form for form in self._declaration.generation_jobs}
        return [
            replace(change, warning=self._warning(jobs[change.name], runtime))
            if change.kind is Kind.GENERATION_JOB and change.action != "keep"
            else change
            for change in self._changes
        ]

    def _warning(self, form: JobForm, runtime: Runtime) -> str:
        report, user_ids = check_seed(self._seed(form), dataset_column=self._id_column(form), runtime=runtime)
        minimum = self._minimum(form.configured_audience_model)
        if user_ids is None:
            return report.reason
        if len(user_ids) >= minimum:
            return ""
        return (
            f"The seed has fewer unique ids than the {minimum:,} users that must match. Give a larger seed, or "
            "lower minimum_matching_seed_size."
        )

    def _apply_parties(self) -> None:
        parties, declaration = self._parties, self._declaration
        for account, place in declaration.placed("accounts"):
            with _at(place):
                parties.apply_account(account)
        with _at("account"):
            self._account_id = parties.account_of(declaration.account)
        with _at("region"):
            check_account(LOCAL_ACCOUNT, self._region)
        for collaboration, place in declaration.placed("collaborations"):
            with _at(place):
                parties.apply_collaboration(collaboration)
        for template, place in declaration.placed("templates"):
            with _at(place):
                parties.apply_template(template)
        for bucket, place in declaration.placed("buckets"):
            with _at(place):
                parties.apply_bucket(bucket)
        for notice, place in declaration.placed("notices"):
            with _at(place):
                parties.apply_notice(notice)

    def _note_party(self, kind: PartyKind, name: str, party_id: str, is_new: bool | None) -> None:
        action: Action = "update" if is_new is None else "create" if is_new else "keep"
        self._changes.append(DeclaredChange(action, kind, name, party_id))

    def _apply_resources(self, section: str, specs: Iterator[Spec]) -> None:
        for _, place in self._declaration.placed(section):
            with _at(place):
                self._create_or_update(next(specs))

    def _datasets(self) -> Iterator[Spec]:
        for form in self._declaration.training_datasets:
            users = form.users
            yield TrainingDatasetSpec(
                name=form.name,
                description=form.description,
                tags=form.tags,
                source=self._source(form.source),
                columns=tuple(form.columns.items()),
                users_source=self._source(users.source) if users else None,
                users_columns=tuple(users.columns.items()) if users else (),
                max_invalid_share=form.max_invalid_share,
            )

    def _models(self) -> Iterator[Spec]:
        for form in self._declaration.audience_models:
            refresh = form.refresh
            yield AudienceModelSpec(
                name=form.name,
                description=form.description,
                tags=form.tags,
                training_dataset_id=self._id_of(Kind.TRAINING_DATASET, form.training_dataset),
                window_start=form.window.start,
                window_end=form.window.end,
                refresh_every_seconds=refresh.every if refresh else None,
                refresh_window_seconds=refresh.window if refresh else None,
            )

    def _configured_models(self) -> Iterator[Spec]:
        for form in self._declaration.configured_audience_models:
            yield ConfiguredAudienceModelSpec(
                name=form.name,
                description=form.description,
                tags=form.tags,
                audience_model_id=self._id_of(Kind.AUDIENCE_MODEL, form.audience_model),
                sizes=_sizes(form.sizes),
                output_url=form.output,
                min_matching_seed_size=form.minimum_matching_seed_size,
                share_metrics=ShareMetrics.ALL if form.share_metrics else ShareMetrics.NONE,
                share_explanation=form.share_explanation,
                export_format=ExportFormat(form.export_format),
                delivery=form.delivery.model_dump() if form.delivery else None,
            )

    def _job(self, form: JobForm) -> Spec:
        seed = self._seed(form)
        seed_suffix(seed)
        return GenerationJobSpec(
            name=form.name,
            description=form.description,
            tags=form.tags,
            configured_audience_model_id=self._id_of(
                Kind.CONFIGURED_AUDIENCE_MODEL, form.configured_audience_model
            ),
            seed_location=None,
            seed_name=form.name,
            seed_bytes=seed.stat().st_size,
            seed_digest=self._vault.digest(seed),
            seed_mode=form.seed_mode,
            keep_seed=self._keeps_seed(form),
            origin=Origin.APPLY,
        )

    def _create_or_update(self, spec: Spec, seed: Path | None = None) -> str:
        """Create, update, retry or keep one resource and return its id."""
        spec.validate()
        self._check_seed_floor(spec)
        # The digest leaves out the seed's location, which is not declared. The location is set before the job is
        # created: otherwise the job could start before its seed is stored.
        digest = spec_digest(spec)
        existing = self._existing(spec)
        if existing is not None and existing.spec_digest == digest:
            newest = self._catalog.resources.newest_version(spec.kind, existing.id)
            if newest.status is not Status.CREATE_FAILED:
                return self._note("keep", spec, existing.id)
            if not self._dry_run:
                self._retry(existing, seed)
            return self._note("retry", spec, existing.id)
        if self._dry_run:
            return self._note("update" if existing else "create", spec, existing.id if existing else "")
        location = None
        if seed is not None and isinstance(spec, GenerationJobSpec):
            location = self._store(seed, spec.seed_digest)
            spec = replace(spec, seed_location=location)
        try:
            if existing is None:
                record = self._catalog.resources.create(
                    spec, account_id=self._account_id, region=self._region, declared=True, digest=digest
                )
                return self._note("create", spec, record.id)
            self._catalog.resources.update_declared(spec.kind, existing.id, spec, digest)
        except BaseException:
            self._vault.delete(location)
            raise
        if location is not None and isinstance(existing, GenerationJob):
            self._place_seed(existing, location)
        return self._note("update", spec, existing.id)

    def _retry(self, failed: Resource, seed: Path | None) -> None:
        """Retry a failed resource; if the failed job's seed was deleted, store the seed again."""
        if seed is not None and isinstance(failed, GenerationJob) and failed.seed_location is None:
            self._catalog.resources.place_seed(failed.id, self._store(seed, failed.seed_digest))
        self._catalog.work.retry(failed.kind, failed.id)

    def _store(self, seed: Path, digest: str | None) -> str:
        slot = self._new_slot()
        self._catalog.deletion.announce(SEED, slot)
        return self._vault.put(slot, seed, digest=digest)

    def _place_seed(self, before: GenerationJob, location: str) -> None:
        """Record an updated job's new seed if the job will read it; delete copies that are no longer needed."""
        job = self._catalog.get(GenerationJob, before.id)
        newest = self._catalog.resources.newest_version(Kind.GENERATION_JOB, before.id)
        if job.keep_seed or newest.status in OPEN:
            if job.seed_location != location:
                self._catalog.resources.place_seed(job.id, location)
        else:
            self._catalog.resources.forget_seed(job.id)
            self._vault.delete(location)
        if before.seed_location != location:
            self._vault.delete(before.seed_location)

    def _existing(self, spec: Spec) -> Resource | None:
        scope = spec.generation_job_id if isinstance(spec, ExportJobSpec) else ""
        try:
            existing = self._named(RECORDS[spec.kind], spec.name, scope)
        except NotFoundError:
            return None
        if not existing.declared:
            raise ConflictError(
                f"Another {spec.kind.words} has this name, and was not created by a declaration.",
                remedy="Choose another name, or delete the existing one first.",
            )
        _reject_deleting(existing)
        return existing

    def _check_seed_floor(self, spec: Spec) -> None:
        if not isinstance(spec, ConfiguredAudienceModelSpec):
            return
        floor = self._catalog.database.seed_floor
        if not floor <= spec.min_matching_seed_size <= MAX_SEED_IDS:
            raise UsageError(
                "The minimum matching seed size is out of range.",
                remedy=f"Give {floor} to {MAX_SEED_IDS:,}; only the operator can allow less.",
            )

    def _check_sizes(self, form: JobForm, sizes: Iterable[AudienceSize]) -> None:
        allowed = self._allowed_sizes(form.configured_audience_model)
        if allowed is not None and not set(sizes) <= set(allowed):
            raise UsageError(
                "An export has a size that the configured audience model does not allow.",
                remedy=f"Give one of {', '.join(map(str, allowed))}.",
            )

    def _allowed_sizes(self, configured: str) -> tuple[AudienceSize, ...] | None:
        for form in self._declaration.configured_audience_models:
            if form.name == configured:
                return _sizes(form.sizes)
        try:
            found = self._named(ConfiguredAudienceModel, configured)
        except NotFoundError:
            return None  # reported when the parent is looked up
        return found.sizes

    def _minimum(self, configured: str) -> int:
        for form in self._declaration.configured_audience_models:
            if form.name == configured:
                return form.minimum_matching_seed_size
        return self._named(ConfiguredAudienceModel, configured).min_matching_seed_size

    def _id_column(self, form: JobForm) -> str:
        """Return the name of the USER_ID column of the dataset that a job's model is trained on."""
        declaration = self._declaration
        model_of = {each.name: each.audience_model for each in declaration.configured_audience_models}
        dataset_of = {each.name: each.training_dataset for each in declaration.audience_models}
        columns_of = {each.name: each.columns for each in declaration.training_datasets}
        dataset = dataset_of.get(model_of.get(form.configured_audience_model, ""), "")
        if dataset in columns_of:
            return next((name for name, role in columns_of[dataset].items() if role == Role.USER_ID), "")
        with suppress(NotFoundError):
            configured = self._named(ConfiguredAudienceModel, form.configured_audience_model)
            return self._catalog.user_id_column(configured)
        return ""

    def _keeps_seed(self, form: JobForm) -> bool:
        if form.keep_seed is not None:
            return form.keep_seed
        models = {
            configured.audience_model
            for configured in self._declaration.configured_audience_models
            if configured.name == form.configured_audience_model
        }
        return any(
            model.refresh.keep_seed
            for model in self._declaration.audience_models
            if model.refresh is not None and model.name in models
        )

    def _note(self, action: Action, spec: Spec, resource_id: str) -> str:
        self._changes.append(DeclaredChange(action, spec.kind, spec.name, resource_id))
        resource_id = resource_id or _NEW
        self._ids[spec.kind, spec.name] = resource_id
        return resource_id

    def _id_of(self, kind: Kind, name: str) -> str:
        """Return the id of a parent resource with this name, from the same declaration or from the catalogue."""
        if (kind, name) in self._ids:
            return self._ids[kind, name]
        try:
            parent = self._named(RECORDS[kind], name)
        except NotFoundError:
            declared = (declared for of_kind, declared in self._ids if of_kind is kind)
            close = difflib.get_close_matches(name, declared, n=1)
            guess = f"Did you mean {close[0]!r}? " if close else ""
            raise UsageError(
                f"This entry refers to the {kind.words} {name[:MAX_NAME]!r}, which is not declared.",
                remedy=f"{guess}Declare it in the same file, or apply its file first.",
            ) from None
        _reject_deleting(parent)
        return parent.id

    def _named(self, record_type: type[_R], name: str, generation_job_id: str = "") -> _R:
        return self._catalog.resources.get_by_name(
            record_type, name, self._account_id, self._region, generation_job_id
        )

    def _seed(self, form: JobForm) -> Path:
        return self._seeds.find(form, self._declaration.folder, self._account_id)

    def _source(self, text: str) -> str:
        return source_of(self._declaration.folder, text)


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say, in errors that the `with` body raises, which entry of the declaration is wrong."""
    try:
        yield
    except CleanroomError as error:
        raise type(error)(
            f"The declaration is wrong at {place}: {error.message}",
            remedy=error.remedy,
            status_code=error.status_code,
            **error.attributes,
        ) from None


def _sizes(texts: Iterable[str]) -> tuple[AudienceSize, ...]:
    sizes = tuple(AudienceSize.parse(text) for text in texts)
    return check_sizes(sizes) if sizes else sizes


def _reject_deleting(record: Resource) -> None:
    if record.status in DELETING:
        raise ConflictError(
            f"The {record.kind.words} {record.id} is being deleted.",
            remedy="Wait until it is deleted, then apply again.",
        )
