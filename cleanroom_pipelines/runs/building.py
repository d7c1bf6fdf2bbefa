"""What all builders of assets share: the result of a build, and the claim on the version that is built.

Lives here: claiming a version for a builder, verifying finished artifacts, and reporting what a build returned.
Add here when every builder must do something more.
Keep out: what an asset contains (`building_*.py`), and the lifecycle of a claim (work.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from cleanroom_pipelines.catalog import Resource, Status, Version
from cleanroom_pipelines.runs.artifact_documents import read_verified
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.work import NothingToDo, Run, Work, working
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore, Manifest

_P = ParamSpec("_P")
_R = TypeVar("_R", bound=Resource)


@dataclass(frozen=True)
class AssetResult:
    """Result of building an asset, or the reason that nothing was built.

    Args:
        asset: Name of the asset.
        partition: Partition key.
        sentence: Summary for people, in one sentence.
        manifest: Manifest of the artifact that was built or verified; None if there is none.
        documents: The artifact's small JSON files by name without `.json`.
        made: Whether a new artifact was built, rather than an existing one verified.
        failure: Why the version failed. Its artifact, which holds only a report, was built all the same.
    """

    asset: str
    partition: str
    sentence: str
    manifest: Manifest | None = None
    documents: Mapping[str, Any] = field(default_factory=dict)
    made: bool = True
    failure: str | None = None


def builds(
    record_type: type[_R],
    asset: str | None = None,
    *,
    built_earlier: Callable[[ArtifactStore, Version, str], AssetResult] | None = None,
) -> Callable[
    [Callable[Concatenate[Work[_R], _P], AssetResult]],
    Callable[Concatenate[Installation, str, Run, _P], AssetResult],
]:
    """Decorate an asset's build function: claim the version to build, pass it in, then release the claim.

    If there is nothing to do, the function is not called; finished artifacts are verified if that was requested.

    Args:
        record_type: The class of the resource's records.
        asset: Name of the asset; None if the builder takes it as the option `asset`.
        built_earlier: Returns the result of an asset of a version that an earlier step of this run has finished.
    """

    def decorate(
        body: Callable[Concatenate[Work[_R], _P], AssetResult],
    ) -> Callable[Concatenate[Installation, str, Run, _P], AssetResult]:
        @wraps(body)
        def build(
            installation: Installation, partition: str, run: Run, /, *args: _P.args, **options: _P.kwargs
        ) -> AssetResult:
            name = asset or str(options["asset"])
            if built_earlier is not None:
                newest = installation.catalog.resources.newest_version(record_type.kind, partition)
                if newest.run_id == run.id and newest.status is not Status.CREATE_IN_PROGRESS:
                    return built_earlier(installation.store, newest, name)
            with working(installation, record_type, partition, run) as work:
                if isinstance(work, NothingToDo):
                    return _verify(installation.store, name, partition, work)
                return body(work, *args, **options)

        return build

    return decorate


def built(work: Work[Any], asset: str, sentence: str, documents: Mapping[str, Any]) -> AssetResult:
    """Return the result of an asset that this run has just built."""
    return AssetResult(asset, work.record.id, sentence, work.manifests[asset], documents)


def nothing(asset: str, partition: str, why: str) -> AssetResult:
    """Return the result of an asset for which nothing was built, with the reason."""
    return AssetResult(asset, partition, why, made=False)


def stored(store: ArtifactStore, reference: ArtifactReference, sentence: str, *, made: bool = True) -> AssetResult:
    """Return the result of an asset whose artifact is stored, after verifying its files."""
    manifest, documents = read_verified(store, reference)
    return AssetResult(reference.asset, reference.partition, sentence, manifest, documents, made)


def _verify(store: ArtifactStore, asset: str, partition: str, idle: NothingToDo) -> AssetResult:
    if idle.verified is None or asset not in idle.verified.artifacts:
        return nothing(asset, partition, idle.message)
    reference = idle.verified.artifact(asset)
    n_files = len(store.manifest(reference).files)
    sentence = f"Verified: all {n_files} files match the manifest. {idle.message}"
    return stored(store, reference, sentence, made=False)
