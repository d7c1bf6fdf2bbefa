"""Build the assets of the lookalike API: compute and store their artifacts, and finish the version.

Lives here: one function per asset, free of Dagster, so that runs, workers and tests share the same code.
Add here when a lookalike asset is added.
Keep out: charts and metadata (defs), computation (the core), claims (work.py).
"""

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cleanroom_pipelines.audiences.sizes import SeedMode
from cleanroom_pipelines.catalog import (
    AudienceModel,
    Catalog,
    ConfiguredAudienceModel,
    ExportJob,
    GenerationJob,
    Kind,
    Origin,
    Status,
    TrainingDataset,
    Version,
    configured_at_start,
)
from cleanroom_pipelines.delivery.exports import (
    ROWS_PER_PART,
    ExportHooks,
    ExportManifest,
    ExportOptions,
    verify_export,
)
from cleanroom_pipelines.delivery.holdouts import Holdout, holdout_salt
from cleanroom_pipelines.delivery.writing import ControlGroup, deliver
from cleanroom_pipelines.errors import (
    ArtifactError,
    CancelledError,
    CleanroomError,
    NotFoundError,
    SeedError,
    StatusCode,
    TrainingDataError,
    UsageError,
)
from cleanroom_pipelines.runs.artifact_documents import read_documents, write_documents
from cleanroom_pipelines.runs.budgets import write_down_reveals
from cleanroom_pipelines.runs.building import AssetResult, builds, built
from cleanroom_pipelines.runs.drift import drift_of_audience, drift_of_export
from cleanroom_pipelines.runs.inbox import close_drop
from cleanroom_pipelines.runs.inbox_folders import folder_of, same_named
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.private_jobs import (
    PrivateJob,
    ensemble_statement,
    in_keyed_order,
    mark_seed,
    reveals_by_ensemble,
)
from cleanroom_pipelines.runs.requested_seeds import fetch_requested_seed, form_of_ids
from cleanroom_pipelines.runs.seeds import (
    JudgedSeed,
    end_use_of_seed,
    forget_seed,
    hand_on,
    handed_on,
    inputs_of,
    judge_seed,
    seed_input,
    why_unusable,
)
from cleanroom_pipelines.runs.shared_scoring import shared_scoring
from cleanroom_pipelines.runs.sources import day_cache, opened_tables, table_inputs
from cleanroom_pipelines.runs.work import Run, Work
from cleanroom_pipelines.storage import (
    InstallationKey,
    Manifest,
    ObjectPlace,
)
from cleanroom_pipelines.storage.buckets import Buckets, folder_on_disk

if TYPE_CHECKING:
    from cleanroom_pipelines.similarity.rankings import Audience
    from cleanroom_pipelines.similarity.seeds import MatchedSeed
    from cleanroom_pipelines.similarity.specs import SizeProfile, TrainingTables


@builds(TrainingDataset, "training_dataset")
def build_training_dataset(work: Work[TrainingDataset]) -> AssetResult:
    """Validate the interactions against their declared columns and profile them.

    A table that fails validation still gets a report. Its version becomes CREATE_FAILED, and models that need it
    fail.
    """
    from cleanroom_pipelines.similarity.specs import SizeProfile
    from cleanroom_pipelines.uploads.files import validate_interactions, validate_users
    from cleanroom_pipelines.uploads.profile import profile_interactions

    installation = work.installation
    with opened_tables(installation, work.record, work.runtime.part(0.0, 0.0)) as dataset:
        report = validate_interactions(
            dataset.source,
            dataset.columns,
            max_invalid_share=dataset.max_invalid_share,
            runtime=work.runtime.part(0.0, 0.7),
            **_population_floors(SizeProfile(installation.settings.size_profile)),
        )
        documents: dict[str, Any] = {"report": report.as_dict()}
        if report.passed and dataset.users_source:
            users = validate_users(
                dataset.users_source, dataset.users_columns, runtime=work.runtime.part(0.7, 0.75)
            )
            documents["users_report"] = users.as_dict()
            report = report if users.passed else users
        if report.passed:
            work.report_progress(0.75, "profiling")
            documents["profile"] = profile_interactions(
                dataset.source, dataset.columns, engine_settings=installation.engine_settings
            )
        inputs = table_inputs(installation.key, dataset)
        with work.drafting("training_dataset", inputs, _columns_of(dataset)) as draft:
            write_documents(draft.path, documents)
            draft.facts["passed"] = report.passed
        sentence = _dataset_sentence(documents)
        made = built(work, "training_dataset", sentence, documents)
        if report.passed:
            work.finish(sentence)
        else:
            work.fail(report.status_code or StatusCode.TRAINING_DATA_INVALID, report.reason)
            made = replace(made, failure=report.reason)
        return made


@builds(AudienceModel, "audience_model")
def build_audience_model(work: Work[AudienceModel]) -> AssetResult:
    """Train the similarity model on a dataset's interactions in the training window, without any seed."""
    from cleanroom_pipelines.similarity.private_representation import keep_representation
    from cleanroom_pipelines.similarity.specs import SizeProfile, Window
    from cleanroom_pipelines.similarity.training import train

    installation, model = work.installation, work.record
    declared, parent = _usable_dataset(installation.catalog, model.training_dataset_id)
    with opened_tables(installation, declared, work.runtime.part(0.0, 0.0)) as dataset:
        inputs = (
            *table_inputs(installation.key, dataset),
            installation.store.as_input(parent.artifact("training_dataset")),
        )
        window = _window_of(model, work.version)
        with work.drafting("audience_model", inputs, {"window": window, **_columns_of(dataset)}) as draft:
            report = train(
                _tables_of(dataset),
                draft.path,
                window=Window(window["start"], window["end"]),
                window_seconds=window["seconds"],
                day_cache=day_cache(installation, dataset),
                size_profile=SizeProfile(installation.settings.size_profile),
                runtime=work.runtime,
            )
            earlier = installation.catalog.resources.current_version(Kind.AUDIENCE_MODEL, model.id)
            if earlier is not None and "audience_model" in earlier.artifacts:
                with (
                    installation.store.opening(earlier.artifact("audience_model")) as before,
                    suppress(ArtifactError),
                ):
                    keep_representation(draft.path, before)  # artifacts in an older format have none
            documents = {"training": report.as_dict()}
            write_documents(draft.path, documents)
            draft.facts.update(n_users=report.n_users, n_items=report.n_items)
        sentence = (
            f"Trained on {report.n_users:,} users, {report.n_items:,} items "
            f"and {report.n_interactions:,} interactions."
        )
        made = built(work, "audience_model", sentence, documents)
        work.finish(sentence, (parent.ref,), n_users=report.n_users, n_items=report.n_items)
        return made


@builds(ConfiguredAudienceModel, "configured_audience_model")
def build_configured_audience_model(work: Work[ConfiguredAudienceModel]) -> AssetResult:
    """Store the permitted uses of a configured audience model, and the model version to which they apply."""
    installation, configured = work.installation, work.record
    model = _current(installation.catalog, Kind.AUDIENCE_MODEL, configured.audience_model_id)
    configuration: dict[str, Any] = {
        "sizes": [str(size) for size in configured.sizes],
        "minMatchingSeedSize": configured.min_matching_seed_size,
        "shareMetrics": configured.share_metrics.value,
        "shareExplanation": configured.share_explanation,
        "exportFormat": configured.export_format.value,
        **({"delivery": dict(configured.delivery)} if configured.delivery else {}),
        "outputUrl": configured.output_url,
    }
    _destination(installation.buckets, configured)
    inputs = (installation.store.as_input(model.artifact("audience_model")),)
    with work.drafting("configured_audience_model", inputs, configuration) as draft:
        documents = {"configuration": configuration}
        write_documents(draft.path, documents)
    sentence = (
        f"Allows audiences of {', '.join(configuration['sizes'])} from seeds with at least "
        f"{configured.min_matching_seed_size:,} matched users."
    )
    made = built(work, "configured_audience_model", sentence, documents)
    for each in same_named(installation, configured):  # they can no longer use one folder with this name
        folder_of(installation, each).mkdir(mode=0o700, parents=True, exist_ok=True)
    work.finish(sentence, (model.ref,))
    return made


@builds(GenerationJob, "seed_validation_report")
def build_seed_validation_report(work: Work[GenerationJob], *, audience_follows: bool = True) -> AssetResult:
    """Validate a seed and write a report that contains only counts.

    Args:
        work: The claimed version of the generation job.
        audience_follows: Whether the same run builds the audience next; otherwise the job is requeued.
    """
    made, _ = _build_report(work)
    if not audience_follows and work.is_open:
        work.release()
    if not work.is_open:
        close_drop(work.installation, work.record.id)
    return made


def build_audience(installation: Installation, partition: str, run: Run) -> AssetResult:
    """Rank all training users by their similarity to the seed and measure how good the ranking is."""
    try:
        return _build_audience(installation, partition, run)
    finally:
        close_drop(installation, partition)


@builds(GenerationJob, "audience")
def _build_audience(work: Work[GenerationJob]) -> AssetResult:
    from cleanroom_pipelines.similarity.ranking import generate
    from cleanroom_pipelines.similarity.specs import GenerationSettings

    installation = work.installation
    seed = _matched_seed(work)
    matched = seed.matched
    assert matched is not None
    job, configured, model = _family(installation.catalog, work)
    inputs = inputs_of(installation.store, job, model)
    settings = {"sizes": [str(size) for size in configured.sizes], "mode": job.seed_mode}
    private = PrivateJob.of(installation, job, configured, model, ids_digest=seed.ids_digest)
    if private is not None:
        return _build_private_audience(work, private, matched, configured, settings)
    with (
        work.opening_input(model.artifact("audience_model")) as model_folder,
        work.drafting("audience", inputs, settings) as draft,
    ):
        report = generate(
            model=model_folder,
            seed=matched,
            out=draft.path,
            sizes=configured.sizes,
            min_matching_seed_size=configured.min_matching_seed_size,
            settings=GenerationSettings(seed_floor=installation.settings.seed_floor),
            score=shared_scoring(installation, model.artifact("audience_model")),
            runtime=work.runtime,
        )
        reveals = reveals_by_ensemble(installation.catalog, job, configured, job.seed_mode)
        draft.facts["reveals"] = reveals
    documents = {"metrics": report.metrics, "explanation": report.explanation}
    made = built(work, "audience", report.sentence, documents)
    work.finish(
        report.sentence,
        (_current(installation.catalog, Kind.CONFIGURED_AUDIENCE_MODEL, configured.id).ref, model.ref),
        metrics=shared_metrics(report.metrics),
        **drift_of_audience(installation, job.id, report.metrics),
        **ensemble_statement(reveals, job.seed_mode),
    )
    end_use_of_seed(installation, job)
    return made


def _build_private_audience(
    work: Work[GenerationJob],
    private: PrivateJob,
    matched: "MatchedSeed",
    configured: ConfiguredAudienceModel,
    settings: Mapping[str, Any],
) -> AssetResult:
    """Build the audience of a job between two organisations: a ranking and quality figures with noise."""
    from cleanroom_pipelines.similarity.rankings import RANKING_FILE

    installation, job, model = private.installation, private.job, private.model
    inputs = inputs_of(installation.store, job, model)
    with (
        work.opening_input(model.artifact("audience_model")) as model_folder,
        work.drafting("audience", inputs, {**settings, "private": True}) as draft,
    ):
        documents = private.make(
            model_folder,
            matched.users.seed_ids,
            draft.path,
            n_matched=matched.counts.n_matched,
            n_users=matched.users.n_users,
            sizes=configured.sizes,
            minimum=configured.min_matching_seed_size,
            runtime=work.runtime,
        )
        if private.mode is not SeedMode.IN_PLACE:
            mark_seed(draft.path / RANKING_FILE, matched.users.seed_ids)
        write_documents(draft.path, documents)
        draft.facts.update(reveals=private.reveals, private_mode=private.mode.value)
    sentence = documents["metrics"]["sentence"]
    made = built(work, "audience", sentence, documents)
    work.finish(
        sentence,
        (_current(installation.catalog, Kind.CONFIGURED_AUDIENCE_MODEL, configured.id).ref, model.ref),
        metrics=shared_metrics(documents["metrics"]),
        privacy=documents["metrics"]["privacy"]["statement"],
        **drift_of_audience(installation, job.id, documents["metrics"]),
    )
    end_use_of_seed(installation, job)
    return made


@builds(ExportJob, "audience_export")
def build_audience_export(work: Work[ExportJob]) -> AssetResult:
    """Export the most similar users, up to the requested size, to the configured model's destination."""
    from cleanroom_pipelines.similarity.rankings import RANKING_FILE, n_seed_users, select_audience

    installation, export = work.installation, work.record
    audience = _current(installation.catalog, Kind.GENERATION_JOB, export.generation_job_id)
    job = installation.catalog.get(GenerationJob, export.generation_job_id)
    configured = installation.catalog.get(ConfiguredAudienceModel, job.configured_audience_model_id)
    folder = export.id.rsplit("-", 1)[-1] + (f"-v{work.version.number}" if work.version.number > 1 else "")
    place = _destination(installation.buckets, configured) / folder
    ranked = installation.store.manifest(audience.artifact("audience")).facts
    is_private = "private_mode" in ranked
    mode, reveals = _mode_of(installation.catalog, export, job, configured, ranked)
    inputs = (installation.store.as_input(audience.artifact("audience")),)
    options = configured.delivery or {}
    spec = {"size": str(export.size), "mode": mode} | ({"delivery": dict(options)} if options else {})
    with work.withdrawing("audience_export"), ExitStack() as stack:
        folder_of_ranking = stack.enter_context(installation.store.opening(audience.artifact("audience")))
        drafting = stack.enter_context(ExitStack())
        draft = drafting.enter_context(work.drafting("audience_export", inputs, spec))
        documents: dict[str, Any] = {}

        def note(written: ExportManifest) -> None:
            """Store the artifact before the files become visible; after a crash only the version is unfinished."""
            warnings = list(selection.warnings)
            documents["export"] = {
                **written.as_dict(),
                "url": place.url,
                "warnings": warnings,
                "reveals": reveals,
            }
            write_documents(draft.path, documents)
            draft.facts.update(
                requested=written.requested, delivered=written.delivered, folder=folder, reveals=reveals
            )
            drafting.close()
            write_down_reveals(installation.audit, export.id, reveals, account=export.account_id)

        def report_users(n_users: int) -> None:
            work.report_progress(n_users / max(1, selection.delivered), "writing")
            if work.should_cancel():
                raise CancelledError("The export was cancelled.")

        selection = select_audience(folder_of_ranking / RANKING_FILE, export.size, mode)
        if mode is SeedMode.EXCLUDED and job.started_by not in (None, job.account_id):
            _reject_revealing_size(selection, read_documents(folder_of_ranking)["metrics"], is_private)
        holdout = _holdout_of(installation.key, job, options)
        n_first = n_seed_users(folder_of_ranking / RANKING_FILE) if mode is SeedMode.FIRST else 0
        ranked_users = selection.user_ids()
        written = deliver(
            place,
            in_keyed_order(work, job, ranked_users, n_first, stack) if is_private else ranked_users,
            ExportOptions(
                export=export.id,
                requested=selection.requested,
                format_=configured.export_format.value,
                generation_job=job.id,
                max_rows=int(str(options.get("max_rows") or ROWS_PER_PART)),
                gzip=bool(options.get("gzip")),
                reveals=reveals,
                delta_from=_export_before(work, configured) if options.get("changes") else None,
            ),
            control_group=ControlGroup(holdout, folder_on_disk(draft.path / "holdout")) if holdout else None,
            engine=installation.engine_settings,
            slices=None if is_private else selection.slices,
            hooks=ExportHooks(work.delivery_fence, report_users, note),
        ).manifest
        sentence = f"Exported {written.delivered:,} users ({export.size}) to {place.url}."
        made = built(work, "audience_export", sentence, documents)
        work.finish(
            sentence,
            (audience.ref,),
            output_location=place.url,
            delivered=written.delivered,
            **drift_of_export(documents["export"]),
        )
    close_drop(installation, job.id)
    return made


def _mode_of(
    catalog: Catalog,
    export: ExportJob,
    job: GenerationJob,
    configured: ConfiguredAudienceModel,
    ranked: Mapping[str, Any],
) -> tuple[SeedMode, list[str]]:
    """Return how an exported list treats the seed users, and codes for the facts that the list reveals."""
    if "private_mode" in ranked:
        return SeedMode(ranked["private_mode"]), list(ranked["reveals"])
    mode = export.seed_mode or job.seed_mode
    return mode, reveals_by_ensemble(catalog, job, configured, mode)


def _holdout_of(key: InstallationKey, job: GenerationJob, options: Mapping[str, Any]) -> Holdout | None:
    """Return an audience's control group, which is the same after each refresh; None if no group is held out."""
    share = options.get("holdout")
    return Holdout.parse(str(share), holdout_salt(key.derive("holdouts"), job.id)) if share else None


def verify_exported_files(installation: Installation, partition: str, manifest: Manifest) -> int:
    """Check the files of an export against their manifest and return the number of users in them.

    Raises:
        ArtifactError: A file is missing or was altered, or the counts differ.
    """
    export = installation.catalog.get(ExportJob, partition)
    # where it was written: the configured model may have another destination by now
    beside = str(export.output_location).rpartition("/")[0]
    place = installation.buckets.destination(export.account_id, beside) / manifest.facts["folder"]
    written = verify_export(place)
    if written["delivered"] != manifest.facts["delivered"]:
        raise ArtifactError("The number of users in the export differs from its manifest.")
    return int(written["delivered"])


def _destination(buckets: Buckets, configured: ConfiguredAudienceModel) -> ObjectPlace:
    return buckets.destination(configured.account_id, configured.output_url)


def _matched_seed(work: Work[GenerationJob]) -> JudgedSeed:
    """Return the matched seed that the validation step stored; if it stored none, validate the seed now."""
    _, _, model = _family(work.installation.catalog, work)
    if "seed_validation_report" in work.version.artifacts:
        judged = handed_on(work, model)
        if judged is not None and judged.matched is not None:
            return judged
    made, seed = _build_report(work)
    if made.failure:
        raise SeedError(made.failure)
    return seed


def _build_report(work: Work[GenerationJob]) -> tuple[AssetResult, JudgedSeed]:
    """Validate a seed and build the report; also return the seed."""
    from cleanroom_pipelines.uploads.report import report_sentence

    installation = work.installation
    job, configured, model = _family(installation.catalog, work)
    job = work.record = fetch_requested_seed(installation, job)
    seed = judge_seed(work, model)
    documents, sentence = {"report": seed.report.as_dict()}, report_sentence(seed.report)
    failure = why_unusable(work, seed, configured, model)
    if seed.matched is not None:
        match = seed.matched.counts
        documents["match"] = match.as_dict()
        sentence = f"{sentence} {match.n_matched:,} of its users matched ({match.match_rate:.0%})."
        if failure is None:
            hand_on(work, seed, model)
        elif seed.user_ids is not None:
            # Not only for seeds without any match: that would tell them from seeds with few.
            form = form_of_ids(job.requested_seed, seed.user_ids, installation)
            failure = (failure[0], f"{failure[1]} {form}".rstrip())
    with work.drafting("seed_validation_report", (seed_input(job),), {}) as draft:
        documents["outcome"] = {
            "usable": failure is None,
            "statusCode": failure[0] if failure else None,
            "message": failure[1] if failure else None,
        }
        write_documents(draft.path, documents)
        draft.facts["usable"] = failure is None
    made = built(work, "seed_validation_report", sentence, documents)
    if failure:
        work.fail(*failure)
        made = replace(made, failure=failure[1])
        if not job.keep_seed and job.origin is not Origin.INBOX:
            forget_seed(installation, job)  # an inbox seed is deleted when its receipt is written
    return made, seed


def shared_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that both accounts of a job may see; they are stored with the job.

    They hold no counts of the seed. The summary sentence does, and only the operator sees it.
    """
    main = metrics["recall_at"]
    return {
        "recall": main["recall"],
        "recall_at": {"type": str(main["type"]), "value": main["value"]},
        "relevance": [
            {"type": str(entry["type"]), "value": entry["value"], "score": entry["relevance"]}
            for entry in metrics["sizes"]
        ],
        "n_users": metrics["n_users"],
        "warnings": [warning["code"] for warning in metrics["warnings"]],
    }


def _reject_revealing_size(selection: "Audience", metrics: Mapping[str, Any], is_private: bool) -> None:
    """Reject an export so large that the users missing from it would reveal the seed.

    Raises:
        UsageError: More than half of the scored users who are not in the seed would be delivered.
    """
    n_others = metrics["n_users"] - metrics["match"]["n_matched"]  # the released number, for a private job
    if 2 * (selection.requested if is_private else selection.delivered) > n_others:
        raise UsageError(
            "This size would deliver more than half of the users who are not in the seed. The users missing from "
            "the list would then reveal the seed.",
            remedy="Export a smaller size.",
            status_code=StatusCode.SIZE_REVEALS_SEED,
        )


def _export_before(work: Work[ExportJob], configured: ConfiguredAudienceModel) -> ObjectPlace | None:
    """Return the location of the previous version's export; None for the first version."""
    installation = work.installation
    current = installation.catalog.resources.current_version(Kind.EXPORT_JOB, work.record.id)
    if current is None or "audience_export" not in current.artifacts:
        return None
    return _destination(installation.buckets, configured) / str(
        installation.store.manifest(current.artifact("audience_export")).facts["folder"]
    )


def _current(catalog: Catalog, kind: Kind, partition: str) -> Version:
    try:
        version = catalog.resources.current_version(kind, partition)
    except NotFoundError:  # the job's model may have been replaced and deleted since the job started
        version = None
    if version is None:
        raise CleanroomError(
            f"This work depends on another resource ({kind.words}) that is not ACTIVE.",
            remedy=f"Fix the problem shown in the status of that {kind.words}, then try again.",
            status_code=StatusCode.PARENT_NOT_ACTIVE,
        )
    return version


def _usable_dataset(catalog: Catalog, partition: str) -> tuple[TrainingDataset, Version]:
    """Return a dataset and its current version; raise the error of its newest version if that failed."""
    dataset = catalog.get(TrainingDataset, partition)
    newest = catalog.resources.newest_version(Kind.TRAINING_DATASET, partition)
    if newest.status is Status.CREATE_FAILED:
        raise TrainingDataError(
            newest.status_message or "The training dataset failed validation.",
            status_code=newest.status_code or StatusCode.TRAINING_DATA_INVALID,
        )
    return dataset, _current(catalog, Kind.TRAINING_DATASET, partition)


def _family(catalog: Catalog, work: Work[GenerationJob]) -> tuple[GenerationJob, ConfiguredAudienceModel, Version]:
    """Return the job, its configured model as it was at the job's start, and the audience model's version."""
    job = work.record
    configured = catalog.get(ConfiguredAudienceModel, job.configured_audience_model_id)
    if started := configured_at_start(work.version):
        configured = replace(
            configured,
            audience_model_id=started.audience_model_id,
            sizes=started.sizes,
            min_matching_seed_size=started.min_matching_seed_size,
        )
    return job, configured, _current(catalog, Kind.AUDIENCE_MODEL, configured.audience_model_id)


def _columns_of(dataset: TrainingDataset) -> dict[str, Any]:
    return {"columns": dataset.columns, "users_columns": dataset.users_columns}


def _window_of(model: AudienceModel, version: Version) -> dict[str, int | None]:
    """Return the training window: the declared dates, or the refresh window, which ends at the newest event.

    Without declared dates the first model uses the refresh window too. Otherwise its first refresh would lose
    users.
    """
    seconds = version.params.get("window_seconds")
    if seconds is None and model.window_start is None and model.window_end is None:
        seconds = model.refresh_window_seconds
    if seconds:
        return {"start": None, "end": None, "seconds": seconds}
    return {"start": model.window_start, "end": model.window_end, "seconds": None}


def _tables_of(dataset: TrainingDataset) -> "TrainingTables":
    from cleanroom_pipelines.similarity.specs import InteractionsSchema, TrainingTables, UsersSchema

    return TrainingTables(
        interactions=dataset.source,
        schema=InteractionsSchema(dataset.columns),
        users=dataset.users_source,
        users_schema=UsersSchema(dataset.users_columns) if dataset.users_source else None,
        max_invalid_share=dataset.max_invalid_share,
    )


def _population_floors(profile: "SizeProfile") -> dict[str, int]:
    many = profile.min_interactions_per_user > 1
    return {
        "min_rows": profile.min_rows,
        "min_users": 0 if many else profile.min_users,
        "min_users_with_two": profile.min_users if many else 0,
    }


def _dataset_sentence(documents: Mapping[str, Any]) -> str:
    from cleanroom_pipelines.uploads.report import ValidationReport, report_sentence

    sentence = report_sentence(ValidationReport.from_dict(documents["report"]))
    profile = documents.get("profile")
    if not profile:
        return sentence
    return f"{profile['n_users']:,} users and {profile['n_items']:,} items. {sentence}"
