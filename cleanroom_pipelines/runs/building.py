"""What all builders of assets share: the result of a build, and the claiming of work around each builder.

Lives here: claiming a version for a builder, verifying finished artifacts, and reporting what a build returned.
Add here when every builder must do something more.
Keep out: what an asset contains (`building_*.py`), and the lifecycle of a claim (work.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from cleanroom_pipelines.catalog import Resource
from cleanroom_pipelines.runs.artifact_documents import read_verified
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.work import NothingToDo, Run, Work, working
from cleanroom_pipelines.storage import ArtifactStore, Manifest

_P = ParamSpec("_P")
_R = TypeVar("_R", bound=Resource)


@dataclass(frozen=True)
class AssetResult:
    """Result of building an asset, or the reason that nothing was built.

    Args:
        asset: Name of the asset.
        partition: Partition key.
        sentence: Summary for people, in one sentence.
        manifest: Manifest of the artifact that was built or verified; None when there was neither.
        documents: The artifact's small JSON files by name without `.json`.
        made: Whether a new artifact was built, rather than an existing one verified.
        failure: Why the version failed although the artifact, which holds only a report, was built.
    """

    asset: str
    partition: str
    sentence: str
    manifest: Manifest | None = None
    documents: Mapping[str, Any] = field(default_factory=dict)
    made: bool = True
    failure: str | None = None


def builds(
    record_type: type[_R], asset: str | None = None
) -> Callable[
    [Callable[Concatenate[Work[_R], _P], AssetResult]],
    Callable[Concatenate[Installation, str, Run, _P], AssetResult],
]:
    """Decorate an asset's build function: claim the version to build, pass it in, then release the claim.

    If there is nothing to do, the function is not called; finished artifacts are verified if that was requested.

    Args:
        record_type: The class of the resource's records.
        asset: Name of the asset; None if the builder takes it as the option `asset`.
    """

    def decorate(
        body: Callable[Concatenate[Work[_R], _P], AssetResult],
    ) -> Callable[Concatenate[Installation, str, Run, _P], AssetResult]:
        @wraps(body)
        def build(
            installation: Installation, partition: str, run: Run, /, *args: _P.args, **options: _P.kwargs
        ) -> AssetResult:
            with working(installation, record_type, partition, run) as work:
                if isinstance(work, NothingToDo):
                    return _verify(installation.store, asset or str(options["asset"]), partition, work)
                return body(work, *args, **options)

        return build

    return decorate


def built(work: Work[Any], asset: str, sentence: str, documents: Mapping[str, Any]) -> AssetResult:
    """Return the result of an asset that this work has stored."""
    return AssetResult(asset, work.record.id, sentence, work.manifests[asset], documents)


def _verify(store: ArtifactStore, asset: str, partition: str, idle: NothingToDo) -> AssetResult:
    if idle.verified is None or asset not in idle.verified.artifacts:
        return AssetResult(asset, partition, idle.message, made=False)
    manifest, documents = read_verified(store, idle.verified.artifact(asset))
    sentence = f"Verified: all {len(manifest.files)} files match the manifest. {idle.message}"
    return AssetResult(asset, partition, sentence, manifest, documents, made=False)
