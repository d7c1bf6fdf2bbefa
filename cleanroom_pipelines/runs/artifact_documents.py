"""The JSON documents of artifacts, such as reports and metrics: writing them, and reading them from the store.

Lives here: writing and reading documents by their names.
Add here when documents are read in another way.
Keep out: what documents contain, and building artifacts (building*.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage import ArtifactReference, ArtifactStore, Manifest
from cleanroom_pipelines.storage.artifacts import MANIFEST


def write_documents(folder: Path, documents: Mapping[str, Any]) -> None:
    """Write documents into an artifact's folder as JSON files; each document's key becomes `<key>.json`."""
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1, sort_keys=True, default=str))


def newest_artifact(
    installation: Installation, kind: Kind, partition: str, asset: str
) -> tuple[Manifest, dict[str, Any]]:
    """Return the manifest and the verified JSON documents of the newest artifact of a partition.

    Raises:
        ArtifactError: There is no such artifact, or it was altered.
    """
    for version in reversed(installation.catalog.resources.versions(kind, partition)):
        if asset in version.artifacts:
            return read_verified(installation.store, version.artifact(asset))
    raise ArtifactError(f"The asset {asset} has not been built for this partition.", remedy="Build it first.")


def read_verified(store: ArtifactStore, reference: ArtifactReference) -> tuple[Manifest, dict[str, Any]]:
    """Verify all files of a stored artifact, then return its manifest and JSON documents.

    Raises:
        ArtifactError: It is missing, or was altered.
    """
    with store.opening(reference) as folder:
        return store.manifest(reference), read_documents(folder)


def read_stored(store: ArtifactStore, reference: ArtifactReference) -> tuple[Manifest, dict[str, Any]]:
    """Read a stored artifact's manifest and verified JSON documents without opening its tables.

    Raises:
        ArtifactError: It is missing, or a document was altered.
    """
    manifest = store.manifest(reference)
    names = [Path(entry.name) for entry in manifest.files]
    documents = [name for name in names if name.suffix == ".json" and len(name.parts) == 1]
    return manifest, {name.stem: json.loads(store.read(reference, str(name))) for name in documents}


def read_documents(folder: Path) -> dict[str, Any]:
    """Return the JSON documents of an artifact, by name."""
    paths = (path for path in sorted(folder.glob("*.json")) if path.name != MANIFEST)
    return {path.stem: json.loads(path.read_text()) for path in paths}
