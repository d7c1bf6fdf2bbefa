"""Build the assets of data labs and data rooms: compute and store their artifacts, and finish the version.

Lives here: validating a lab, and building the six assets of a room; unchanged assets are reused.
Add here when a room gets another asset.
Keep out: the room's audiences (`building_room_audiences.py`), charts and metadata (defs), computation (the core).

A version of a room is one state of its data. One run builds all of its assets. An asset is rebuilt only if its
inputs changed; otherwise the new version reuses the artifact of the previous one.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cleanroom_pipelines.catalog import Catalog, DataLab, DataRoom, Kind, Version, hex_of
from cleanroom_pipelines.errors import ArtifactError, NotFoundError, StatusCode
from cleanroom_pipelines.identity import BASE_DATASETS, Dataset, InputName, inputs_of
from cleanroom_pipelines.privacy import INSIGHTS, BudgetSpentError
from cleanroom_pipelines.runs.artifact_documents import read_documents, write_documents
from cleanroom_pipelines.runs.budgets import RoomBudget, seed_digests
from cleanroom_pipelines.runs.building import AssetResult, builds, built, nothing, stored
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.runs.room_inbox import close_room_drop, make_room_inbox
from cleanroom_pipelines.runs.work import Work
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore, Draft, Input, InstallationKey
from cleanroom_pipelines.terms import CollaborationType

ROOM_ASSETS = ASSETS_OF[Kind.DATA_ROOM]
SEALED_HASHES = "activation.sealed"
"""Name of the file with the encrypted hashes for ad destinations, in a base audience's artifact."""

_HASHES = "activation hashes"


@builds(DataLab, "data_lab")
def build_data_lab(work: Work[DataLab]) -> AssetResult:
    """Validate a publisher's uploads before they are used in a room."""
    from cleanroom_pipelines.uploads.rooms import validate_base

    installation, lab = work.installation, work.record
    with _opening_uploads(work, lab.datasets, lab.n_embeddings) as uploads:
        report = validate_base(uploads, runtime=work.runtime)
    documents: dict[str, Any] = {
        "reports": {name: each.as_dict() for name, each in report.reports.items()},
        "statistics": dict(report.counts),
    }
    with work.drafting("data_lab", _upload_inputs(installation.catalog, lab.datasets), {}) as draft:
        write_documents(draft.path, documents)
        draft.facts["passed"] = report.passed
    failed = [name for name, each in report.reports.items() if not each.passed]
    sentence = (
        f"All {len(report.reports)} datasets are valid."
        if report.passed
        else f"These datasets failed validation: {', '.join(failed)}. See their reports."
    )
    made = built(work, "data_lab", sentence, documents)
    if report.passed:
        work.finish(sentence)
    else:
        work.fail(StatusCode.TRAINING_DATA_INVALID, sentence)
        made = replace(made, failure=sentence)
    return made


def _built_earlier(store: ArtifactStore, newest: Version, asset: str) -> AssetResult:
    version = newest.artifacts.get(asset)
    if version is None or not version.startswith(f"{newest.number:04d}-"):
        why = "Nothing to build: the inputs are unchanged, or the room lacks data that this asset needs."
        return nothing(asset, newest.resource_id, why)
    return stored(store, newest.artifact(asset), _SENTENCES[asset])


@builds(DataRoom, built_earlier=_built_earlier)
def build_room_asset(work: Work[DataRoom], *, asset: str, finishes: bool) -> AssetResult:
    """Build one asset of a room; first build the upstream assets that this version of the room still lacks.

    Args:
        work: The claimed version of the room.
        asset: One of ROOM_ASSETS.
        finishes: Whether this is the run's last asset: then the remaining assets are built and the version closes.
    """
    state = _RoomBuild(work)
    last = len(ROOM_ASSETS) if finishes else ROOM_ASSETS.index(asset) + 1
    for number, name in enumerate(ROOM_ASSETS[:last]):
        if name not in state.version.artifacts:
            work.report_progress(number / len(ROOM_ASSETS), name.replace("_", " "))
            _BUILDERS[name](state)
            if not work.is_open:
                return replace(state.result_of(asset), failure=state.failure)
    if finishes:
        make_room_inbox(work.installation, state.room)
        work.finish(state.sentence)
        delete_unused_room_data(work.installation, state.version)
    return state.result_of(asset)


class _RoomBuild:
    """A version of a room during its build: inputs, artifacts so far, and the previous version."""

    def __init__(self, work: Work[DataRoom]) -> None:
        self.installation = work.installation
        self.work = work
        room = work.record
        self.room = room
        catalog = work.installation.catalog
        # read again: an earlier run may have stored assets in the version
        self.version = catalog.resources.version(Kind.DATA_ROOM, room.id, work.version.number)
        self.before = catalog.resources.current_version(Kind.DATA_ROOM, room.id)
        self.made = set[str]()
        self.failure: str | None = None

    @property
    def base_inputs(self) -> dict[str, str]:
        """The ids of the uploads of the base audience, by dataset."""
        return inputs_of(self.room.inputs, *BASE_DATASETS)

    @property
    def seed_inputs(self) -> dict[str, str]:
        """The ids of the uploads of the seed audiences, by dataset."""
        return inputs_of(self.room.inputs, Dataset.SEED_AUDIENCES)

    @property
    def sentence(self) -> str:
        """One sentence that says whether the version has a base audience and seed audiences."""
        parts = {"base_audience": "a base audience", "seed_audiences": "seed audiences"}
        held = [words for name, words in parts.items() if name in self.version.artifacts]
        return f"The room contains {' and '.join(held)}." if held else "The room contains no data."

    def earlier(self, asset: str) -> ArtifactReference | None:
        """Return the reference to the previous version's artifact of an asset; None if there is none."""
        return self.before.artifact(asset) if self.before and asset in self.before.artifacts else None

    @contextmanager
    def opening(self, *assets: str) -> Iterator[list[Path]]:
        """Open artifacts of this version and yield their folders."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(self.installation.store.opening(self.version.artifact(asset)))
                for asset in assets
            ]

    def input_of(self, asset: str) -> Input:
        """Return this version's artifact of an asset, as an input of another artifact."""
        return self.installation.store.as_input(self.version.artifact(asset))

    def reuse(self, asset: str, inputs: tuple[Input, ...], spec: Mapping[str, Any]) -> bool:
        """Use the previous version's artifact again if its inputs are unchanged; return whether it was used."""
        earlier = self.earlier(asset)
        if earlier is None:
            return False
        if self.installation.store.manifest(earlier).data_version != self.work.data_version(asset, inputs, spec):
            return False
        self.installation.catalog.work.publish_artifact(self.work.claim, asset, earlier.version)
        self._add(asset, earlier.version)
        return True

    @contextmanager
    def drafting(self, asset: str, inputs: tuple[Input, ...], spec: Mapping[str, Any]) -> Iterator[Draft]:
        """Yield the draft of a new artifact, and publish it in this version when the `with` body ends."""
        with self.work.drafting(asset, inputs, spec) as draft:
            yield draft
        self._add(asset, self.work.manifests[asset].version)
        self.made.add(asset)

    def _add(self, asset: str, version: str) -> None:
        self.version = replace(self.version, artifacts={**self.version.artifacts, asset: version})

    def result_of(self, asset: str) -> AssetResult:
        """Return what this run reports for one asset: its new artifact, or why nothing was built."""
        if asset not in self.made:
            why = (
                "Nothing to build: the inputs are unchanged."
                if asset in self.version.artifacts
                else "Nothing to build: the room lacks data that this asset needs."
            )
            return nothing(asset, self.room.id, why)
        return stored(self.installation.store, self.version.artifact(asset), _SENTENCES[asset])


def delete_unused_room_data(installation: Installation, version: Version) -> None:
    """Delete uploads that a room has ingested, and data that its participants have removed.

    The run that created the version does this; if the run was killed, the cleanup does.

    Args:
        installation: The installation to work on.
        version: The room's current version.
    """
    catalog, store = installation.catalog, installation.store
    artifacts, data_room_id = version.artifacts, version.resource_id
    for asset in ("base_audience", "seed_audiences"):
        if asset in artifacts:
            for upload_id in store.manifest(version.artifact(asset)).facts.get("inputs", {}).values():
                with suppress(NotFoundError):
                    if location := catalog.rooms.upload(upload_id).location:
                        installation.uploads.delete(location)
                        catalog.rooms.forget_upload(upload_id)
                        close_room_drop(installation, upload_id)
    removed = [asset for asset in ROOM_ASSETS if asset not in artifacts and store.versions(asset, data_room_id)]
    gone = [(asset, data_room_id) for asset in removed]
    if {"base_audience", "seed_audiences"} & set(removed):
        audiences = (
            *catalog.rooms.custom_audiences(data_room_id),
            *catalog.rooms.custom_audiences(data_room_id, hidden=True),
        )
        gone += [(asset, each.id) for each in audiences for asset in ASSETS_OF[Kind.CUSTOM_AUDIENCE]]
    for asset, partition in gone:
        kind = Kind.DATA_ROOM if partition == data_room_id else Kind.CUSTOM_AUDIENCE
        stored = store.versions(asset, partition)
        catalog.deletion.delete_artifacts(kind, hex_of(partition), stored)
        for each in stored:
            store.delete(ArtifactReference(asset, partition, each))


def _build_base(state: _RoomBuild) -> None:
    from cleanroom_pipelines.delivery.destinations import AdDestination
    from cleanroom_pipelines.delivery.kept import hashers_to_keep
    from cleanroom_pipelines.uploads.rooms import ingest_base

    installation, inputs = state.installation, state.base_inputs
    if not inputs_of(inputs, Dataset.MATCHING):
        return
    spec = {"activation": state.room.activation, "datasets": sorted(inputs)}
    uploads_as_inputs = _upload_inputs(installation.catalog, inputs)
    if state.reuse("base_audience", uploads_as_inputs, spec):
        return
    new, kept, previous = _changed_inputs(state, inputs)
    with ExitStack() as stack:
        uploads = stack.enter_context(_opening_uploads(state.work, new, state.room.n_embeddings))
        earlier = stack.enter_context(installation.store.opening(previous)) if previous and kept else None
        scratch = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="activation-", dir=installation.home.scratch))
        )
        draft = stack.enter_context(state.drafting("base_audience", uploads_as_inputs, spec))
        report = ingest_base(
            uploads,
            previous=earlier,
            keep=kept,
            room_key=installation.room_key(state.room.id),
            out=draft.path,
            activation=hashers_to_keep(AdDestination(name) for name in state.room.activation) or None,
            activation_out=scratch if state.room.activation else None,
            runtime=state.work.runtime,
        )
        if report.passed:
            hashes = scratch / "activation.parquet"
            if hashes.exists():
                sealed = installation.key.seal(_HASHES, hashes.read_bytes())
                (draft.path / SEALED_HASHES).write_bytes(sealed)
            elif earlier is not None and (earlier / SEALED_HASHES).exists():
                (draft.path / SEALED_HASHES).write_bytes((earlier / SEALED_HASHES).read_bytes())
            draft.facts["inputs"] = dict(inputs)
        else:
            write_documents(
                draft.path, {"reports": {name: each.as_dict() for name, each in report.reports.items()}}
            )
    if not report.passed:
        message = "The base audience failed validation. See its validation reports."
        _fail_validation(state, new, StatusCode.TRAINING_DATA_INVALID, message)


def _build_seeds(state: _RoomBuild) -> None:
    from cleanroom_pipelines.uploads.rooms import ingest_seeds

    installation, inputs = state.installation, state.seed_inputs
    if not inputs:
        return
    uploads_as_inputs = _upload_inputs(installation.catalog, inputs)
    if state.reuse("seed_audiences", uploads_as_inputs, {}):
        return
    with (
        _opening_uploads(state.work, inputs, 0) as uploads,
        state.drafting("seed_audiences", uploads_as_inputs, {}) as draft,
    ):
        report = ingest_seeds(
            uploads,
            room_key=installation.room_key(state.room.id),
            out=draft.path,
            runtime=state.work.runtime,
        )
        if report.passed:
            draft.facts["inputs"] = dict(inputs)
            write_documents(draft.path, {"digests": seed_digests(draft.path)})
        else:
            write_documents(draft.path, {"report": report.report.as_dict()})
    if not report.passed:
        message = "The seed audiences failed validation. See their validation report."
        _fail_validation(state, inputs, StatusCode.SEED_INVALID, message)


def _build_attributes(state: _RoomBuild) -> None:
    from cleanroom_pipelines.audiences.attributes import data_attributes
    from cleanroom_pipelines.audiences.insights import base_figures
    from cleanroom_pipelines.audiences.relations import open_room_relations
    from cleanroom_pipelines.engine import open_engine

    if "base_audience" not in state.version.artifacts:
        return
    inputs = (state.input_of("base_audience"),)
    room = RoomBudget.of(state.installation, state.room, state.version)
    figures = None if room is None else _earlier_figures(state, room)
    spec = room.spec if room else {}
    if figures and figures.get("is_renewed"):
        spec = {**spec, "figures": figures["question"]}  # so that assets based on the earlier figures are rebuilt
    if state.reuse("data_attributes", inputs, spec):
        return
    with (
        state.opening("base_audience") as (base,),
        open_engine(state.installation.engine_settings, paths=[base]) as engine,
        state.drafting("data_attributes", inputs, spec) as draft,
    ):
        relations = open_room_relations(engine, base)
        documents: dict[str, Any] = {"attributes": data_attributes(relations).as_dict()}
        if room is not None and "figures" not in (figures or {}):
            with suppress(BudgetSpentError):  # then no figures of the base are released or compared
                question = room.question_of_base()
                room.budget.pay([question])
                figures = {
                    **(figures or {}),
                    "made_at": state.installation.clock().isoformat(),
                    "pair": room.budget.pair.id,
                    "question": question.key,
                    "figures": base_figures(relations, room.releaser(), room.salt).as_dict(),
                }
        write_documents(draft.path, documents | ({"base_figures": figures} if figures else {}))


def _earlier_figures(state: _RoomBuild, room: RoomBudget) -> dict[str, Any] | None:
    """Return the base audience's noised figures from the previous version, to publish them unchanged.

    Returns:
        The document; it lacks `figures` if they must be computed again. None if there are no earlier figures.
    """
    earlier = state.earlier("data_attributes")
    if earlier is None:
        return None
    with state.installation.store.opening(earlier) as folder:
        found = read_documents(folder).get("base_figures")
    if not found or found["pair"] != room.budget.pair.id:
        found = None
    wanted = room.question_of_base()
    if (found or {}).get("question") != wanted.key and room.budget.is_paid([wanted]):
        return {"question": wanted.key, "is_renewed": True}
    return dict(found) if found else None


def _build_overlap(state: _RoomBuild) -> None:
    from cleanroom_pipelines.audiences.overlap import overlap_statistics
    from cleanroom_pipelines.audiences.relations import open_room_relations
    from cleanroom_pipelines.engine import open_engine

    if not _has_both(state):
        return
    inputs = (state.input_of("base_audience"), state.input_of("seed_audiences"))
    room = RoomBudget.of(state.installation, state.room, state.version)
    if room is None or state.reuse("overlap_statistics", inputs, room.spec):
        return
    with (
        state.opening("base_audience", "seed_audiences") as (base, seeds),
        open_engine(state.installation.engine_settings, paths=[base, seeds]) as engine,
        state.drafting("overlap_statistics", inputs, room.spec) as draft,
    ):
        found = overlap_statistics(open_room_relations(engine, base, seeds), room.releaser(), room.seeds)
        document = {
            "with_own_counts": found.as_dict(with_own_counts=True),
            "without_own_counts": found.as_dict(with_own_counts=False),
            "questions": [room.question("overlap", text, found.price).as_dict() for text in found.questions],
            "privacy": room.budget.as_dict(),
        }
        write_documents(draft.path, {"overlap": document})


def _build_insights(state: _RoomBuild) -> None:
    from cleanroom_pipelines.audiences.insights import BaseFigures, insights
    from cleanroom_pipelines.audiences.overlap import question_about
    from cleanroom_pipelines.audiences.relations import open_room_relations
    from cleanroom_pipelines.engine import open_engine

    if not _has_both(state) or not state.room.allows(CollaborationType.INSIGHTS):
        return
    inputs = (
        state.input_of("base_audience"),
        state.input_of("seed_audiences"),
        state.input_of("data_attributes"),
    )
    room = RoomBudget.of(state.installation, state.room, state.version)
    if room is None or state.reuse("insights", inputs, room.spec):
        return
    with (
        state.opening("base_audience", "seed_audiences", "data_attributes") as (base, seeds, attributes),
        open_engine(state.installation.engine_settings, paths=[base, seeds]) as engine,
    ):
        if (published := read_documents(attributes).get("base_figures")) is None:
            return  # the pair could not pay for them
        figures = BaseFigures.from_dict(published["figures"], is_hidden=state.room.hide_absolute_values)
        relations = open_room_relations(engine, base, seeds)
        with state.drafting("insights", inputs, room.spec) as draft:
            found = insights(relations, room.releaser(), figures, room.salt, room.seeds)
            document = {
                "result": found.as_dict() | {"total_publisher": figures.addressable.value},
                "questions": {
                    each.audience_type: [
                        room.question("insights", text, INSIGHTS).as_dict(),
                        room.question("overlap", question_about(each.audience_type, seeds=room.seeds)).as_dict(),
                    ]
                    for each, text in zip(found.audiences, found.questions, strict=True)
                },
                "privacy": room.budget.as_dict(),
            }
            write_documents(draft.path, {"insights": document})


def _build_model(state: _RoomBuild) -> None:
    from cleanroom_pipelines.similarity.private_representation import keep_representation
    from cleanroom_pipelines.similarity.rooms import train_room

    if "base_audience" not in state.version.artifacts or not state.room.allows(CollaborationType.LOOKALIKE):
        return
    inputs = (state.input_of("base_audience"),)
    if state.reuse("room_model", inputs, {}):
        return
    with state.opening("base_audience") as (base,):
        features = read_documents(base)["base"]
        if not (features["has_segments"] or features["has_embeddings"]):
            return  # a request for a lookalike reports why there is no model
        with state.drafting("room_model", inputs, {}) as draft:
            train_room(base, draft.path, runtime=state.work.runtime)
            if (earlier := state.earlier("room_model")) is not None:
                with state.installation.store.opening(earlier) as before, suppress(ArtifactError):
                    keep_representation(draft.path, before)


_BUILDERS: Mapping[str, Callable[[_RoomBuild], None]] = {
    "base_audience": _build_base,
    "seed_audiences": _build_seeds,
    "data_attributes": _build_attributes,
    "overlap_statistics": _build_overlap,
    "insights": _build_insights,
    "room_model": _build_model,
}


def unseal_hashes(key: InstallationKey, base: Path, target: Path) -> None:
    """Decrypt a base audience's hashes for ad destinations, if it has them.

    Args:
        key: The installation key.
        base: Folder of the base audience's artifact.
        target: The parquet file to write.
    """
    sealed = base / SEALED_HASHES
    if sealed.exists():
        target.write_bytes(key.unseal(_HASHES, sealed.read_bytes()))


def _has_both(state: _RoomBuild) -> bool:
    return {"base_audience", "seed_audiences"} <= set(state.version.artifacts)


def _fail_validation(state: _RoomBuild, failed: Mapping[str, str], code: StatusCode, message: str) -> None:
    """Mark the version as failed: the room keeps its previous data, and the unusable files are deleted."""
    before: dict[str, str] = {}
    for asset in ("base_audience", "seed_audiences"):
        if (earlier := state.earlier(asset)) is not None:
            before |= state.installation.store.manifest(earlier).facts.get("inputs", {})
    state.installation.catalog.rooms.restore_inputs(state.room.id, failed, before)
    state.work.fail(code, message)
    state.failure = message
    for upload_id in failed.values():
        close_room_drop(state.installation, upload_id, code, message)
        state.installation.uploads.delete(upload_id)
        state.installation.catalog.rooms.forget_upload(upload_id)


def _changed_inputs(
    state: _RoomBuild, inputs: Mapping[str, str]
) -> tuple[dict[str, str], list[Dataset], ArtifactReference | None]:
    """Return the changed uploads, the unchanged datasets, and the earlier artifact with the unchanged datasets."""
    earlier = state.earlier("base_audience")
    if earlier is None:
        return dict(inputs), [], None
    before = state.installation.store.manifest(earlier).facts.get("inputs", {})
    given = [each for each in BASE_DATASETS if inputs_of(inputs, each)]
    kept = [each for each in given if inputs_of(inputs, each) == inputs_of(before, each)]
    return inputs_of(inputs, *(each for each in given if each not in kept)), kept, earlier


@contextmanager
def _opening_uploads(work: Work[Any], datasets: Mapping[str, str], n_embeddings: int) -> Iterator[list[Any]]:
    """Decrypt uploads for ingestion into a room; yield them as `RoomUpload` objects."""
    from cleanroom_pipelines.uploads.rooms import RoomUpload

    with ExitStack() as stack:
        uploads = []
        for name, upload_id in sorted(datasets.items()):
            dataset, matching_id = InputName.parse(name)
            upload = work.installation.catalog.rooms.upload(upload_id)
            path = stack.enter_context(work.installation.uploads.opening(upload.location, upload.digest))
            uploads.append(
                RoomUpload(
                    dataset,
                    path,
                    matching_id=matching_id,
                    n_embeddings=n_embeddings if dataset is Dataset.EMBEDDINGS else None,
                )
            )
        yield uploads


def _upload_inputs(catalog: Catalog, datasets: Mapping[str, str]) -> tuple[Input, ...]:
    return tuple(
        Input(name, "", "", catalog.rooms.upload(upload_id).digest) for name, upload_id in sorted(datasets.items())
    )


_SENTENCES = {
    "base_audience": "Ingested the publisher's users.",
    "seed_audiences": "Ingested the advertiser's seed audiences.",
    "data_attributes": "Listed the attributes available for defining audiences.",
    "overlap_statistics": "Released the overlap of each seed audience with the base audience.",
    "insights": "Released the segments and demographics that distinguish each seed audience's matched users.",
    "room_model": "Trained the similarity model on the publisher's users, without any seed.",
}
