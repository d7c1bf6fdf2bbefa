"""Recovery: rebuilding a lost or outdated catalogue from the manifests of stored artifacts.

Lives here: deriving resources and versions from manifests, and writing them to a catalogue.
Add here when more can be derived from stored artifacts.
Keep out: the rows (catalog.dossiers) and showing the plan (cli).

Each manifest holds a sealed copy of the catalogue's facts about its version and resource. Manifests of earlier
releases hold only versions, resources and inputs. A version is proven when its last asset is stored. Everything
else is lost: accounts, users, keys and tokens, questions and their prices. The privacy budget of each data room
therefore counts as spent. Nothing is deleted: an SQLite catalogue is rebuilt in a copy that replaces the file, and
the old file is kept next to it under another name.
"""

import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cleanroom_pipelines.catalog import (
    Catalog,
    Dossier,
    Kind,
    ParentRef,
    ProvenResource,
    ProvenVersion,
    Rebuilt,
    Resource,
    Version,
    hex_of,
    is_proof,
)
from cleanroom_pipelines.catalog.room_specs import SPECS
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, IdentityError, StatusCode, UsageError
from cleanroom_pipelines.runs.building_lookalike import shared_metrics
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS, ASSETS_OF
from cleanroom_pipelines.runs.opening import digest_of, load_key
from cleanroom_pipelines.runs.work import unseal_dossier
from cleanroom_pipelines.storage import (
    ArtifactStore,
    Home,
    InstallationKey,
    Manifest,
    SeedVault,
)
from cleanroom_pipelines.storage.artifacts import sync_folder
from cleanroom_pipelines.storage.identity import HomeIdentity, Identity
from cleanroom_pipelines.storage.vault import Vault

_UNFINISHED = (
    StatusCode.INTERNAL,
    "This work was unfinished when the catalogue was lost. Try again.",
)
# Manifest facts that are also in a version's summary.
_FACTS = ("n_users", "n_items", "delivered")


@dataclass(frozen=True)
class Lost:
    """A partition with stored artifacts, whose catalogue record cannot be rebuilt from them.

    Args:
        kind: The resource's kind.
        id: Its partition key.
        why: The reason, in a few words.
    """

    kind: Kind
    id: str
    why: str


@dataclass(frozen=True)
class Plan:
    """A plan to rebuild a catalogue: the resources that it would restore, and those that would be lost.

    Args:
        catalogue: The catalogue's problem, in one sentence.
        resources: Resources to add to it, parents first.
        known: Names of the resources already in it, by partition key.
        lost: Partitions that cannot be rebuilt.
        gone: Resources in an older catalogue whose current version lacks an artifact; they may have been deleted
            since.
        n_unreadable: Number of manifests that cannot be read.
    """

    catalogue: str
    resources: tuple[ProvenResource, ...]
    known: Mapping[str, str]
    lost: tuple[Lost, ...]
    gone: tuple[Resource, ...]
    n_unreadable: int


@dataclass(frozen=True)
class Recovery:
    """The plan for rebuilding a catalogue, and the objects needed to carry it out.

    Args:
        plan: The plan.
        installation: The installation to recover.
        catalog: A working copy of the catalogue, or the database itself.
        identity: Identity of home and catalogue after the recovery, except for the generation.
        copy: The file of the copy; None for a database.
    """

    plan: Plan
    installation: Installation
    catalog: Catalog
    identity: Identity
    copy: Path | None

    def write(self) -> Rebuilt:
        """Rebuild the catalogue as planned, and give home and catalogue the same identity.

        Returns:
            The records that were added.
        """
        home = HomeIdentity(self.installation.home.root)
        with home.locked():
            self.catalog.ownership.identify(self.identity)
            rebuilt = self.catalog.dossiers.rebuild(self.plan.resources, self.identity.generation)
            identity = self.catalog.ownership.identity()
            assert identity is not None
            self.catalog.database.close()
            if self.copy is not None:
                file = self.installation.parts.catalog.database.file
                assert file is not None
                _replace_catalogue(file, self.copy, self.installation.clock())
            home.write(identity)
        return rebuilt


@contextmanager
def planned_recovery(installation: Installation) -> Iterator[Recovery | None]:
    """Plan the rebuild of a home's catalogue; changes nothing before `Recovery.write`.

    Args:
        installation: The installation; not opened, because its parts may not belong together.

    Yields:
        The plan; None if home and catalogue belong together, or the home is empty.

    Raises:
        IdentityError: The key is missing or does not belong to the home.
        UsageError: The database cannot be used, and is not a file that can be replaced.
    """
    parts, home = installation.parts, installation.home
    if not parts.has_data() and parts.catalog.ownership.is_blank():
        yield None
        return
    key = load_key(parts.key_file)
    kept = _identity_of(home.root)
    if kept is not None and kept.key_digest != digest_of(key):
        raise _another_key()
    state = _state_of(parts.catalog, kept, digest_of(key))
    if state.is_whole:
        yield None
        return
    known = state.found or kept
    identity = Identity(
        id=(kept or state.found or Identity(installation.token_hex(16), 0, "")).id,
        generation=max(kept.generation if kept else 1, known.generation if known else 1),
        key_digest=digest_of(key),
    )
    if parts.catalog.database.file is None:
        if not (state.is_kept or parts.catalog.ownership.is_blank()):
            raise UsageError(
                f"{state.sentence} This command cannot replace a database on a server.",
                remedy="Set CLEANROOM_CATALOG_URL to an empty database, "
                "or restore the old database with its own tools.",
            )
        yield Recovery(_plan(installation, parts.catalog, key, state), installation, parts.catalog, identity, None)
        return
    folder = Path(tempfile.mkdtemp(prefix=".recover-", dir=parts.catalog.database.file.parent))
    try:
        copy = Catalog(
            Home(folder).catalog_url,
            clock=installation.clock,
            token_hex=installation.token_hex,
            seed_floor=installation.settings.seed_floor,
        )
        assert copy.database.file is not None
        if state.is_kept:
            parts.catalog.resources.copy_to(copy.database.file)
        plan = _plan(installation, copy, key, state)
        yield Recovery(plan, installation, copy, identity, copy.database.file)
        copy.database.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _CatalogueState:
    """How a catalogue relates to its home: intact, missing, outdated, or of another installation.

    Args:
        sentence: The problem, in one sentence.
        found: The catalogue's identity, if it has one.
        is_kept: Whether its records are kept.
        is_whole: Whether it has no problem.
    """

    sentence: str
    found: Identity | None = None
    is_kept: bool = False
    is_whole: bool = False


def _state_of(catalog: Catalog, kept: Identity | None, key_digest: str) -> _CatalogueState:
    try:
        if catalog.ownership.exists():
            catalog.resources.check_file()
        found, is_blank = catalog.ownership.identity(), catalog.ownership.is_blank()
    except ConfigurationError as error:
        return _CatalogueState(error.message)
    if found is None:
        if is_blank:
            return _CatalogueState("The catalogue is missing or empty.")
        return _CatalogueState("The catalogue was created by an earlier release than the home.", is_kept=True)
    if found.key_digest != key_digest or (kept is not None and found.id != kept.id):
        return _CatalogueState("The catalogue belongs to another installation.")
    if kept is None:
        return _CatalogueState(
            "The home has no identity file, so its catalogue may be outdated.", found, is_kept=True
        )
    is_whole = found.generation >= kept.generation
    return _CatalogueState("The catalogue is older than the home.", found, is_kept=True, is_whole=is_whole)


def _identity_of(root: Path) -> Identity | None:
    with suppress(IdentityError):
        return HomeIdentity(root).read()
    return None


def _another_key() -> IdentityError:
    return IdentityError(
        "The installation key does not belong to this installation.",
        remedy="Check CLEANROOM_KEY_FILE, or restore the key from a backup.",
    )


def _replace_catalogue(file: Path, copy: Path, at: datetime) -> None:
    """Replace the catalogue with a rebuilt one, and keep the old file under another name."""
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(f"{file}{suffix}", f"{file}{suffix}.aside-{at:%Y%m%dT%H%M%S%f}")
    os.replace(copy, file)
    sync_folder(file.parent)


class _Stored:
    """The contents of the artifact store: manifests by resource, and the stored versions."""

    def __init__(self, store: ArtifactStore, key: InstallationKey) -> None:
        self.by_resource: dict[tuple[Kind, str], list[Manifest]] = defaultdict(list)
        self.artifacts = set[tuple[str, str, str]]()
        self.n_unreadable = 0
        self._key = key
        for asset, row in ASSETS.items():
            for manifest in store.manifests(asset):
                if manifest is None:
                    self.n_unreadable += 1
                    continue
                self.by_resource[row.kind, manifest.partition].append(manifest)
                self.artifacts.add((asset, manifest.partition, manifest.version))

    def dossier(self, manifests: Sequence[Manifest]) -> Dossier | None:
        """Return the newest record among these manifests that the key can decrypt; None if there is none."""
        for manifest in sorted(manifests, key=_built_at, reverse=True):
            if manifest.record:
                with suppress(ConfigurationError, ValueError):
                    return unseal_dossier(self._key, manifest.record)
        return None

    def has(self, asset: str, partition: str, version: str) -> bool:
        return (asset, partition, version) in self.artifacts


def _plan(installation: Installation, catalog: Catalog, key: InstallationKey, state: _CatalogueState) -> Plan:
    stored = _Stored(installation.parts.store, key)
    records = [record for kind in Kind for record in catalog.resources.iterate(kind)]
    known = {record.id: record for record in records}
    versions = {record.id: catalog.resources.versions(record.kind, record.id) for record in records}
    deleted = catalog.deletion.deleted(hex_of(partition) for _, partition in stored.by_resource)
    builder = _ResourceBuilder(installation, catalog, key, stored)
    proven, lost = list[ProvenResource](), list[Lost]()
    for (kind, partition), manifests in stored.by_resource.items():
        if hex_of(partition) in deleted:
            continue
        dossier = stored.dossier(manifests)
        if partition not in known and dossier is None:
            lost.append(Lost(kind, partition, "its manifests were written by an earlier release"))
        elif found := builder.resource(kind, partition, manifests, dossier, versions.get(partition)):
            proven.append(found)
    wanted, ids = list[ProvenResource](), set(known)
    for resource in sorted(proven, key=_creation):
        parent = resource.dossier["resource"].get("parent_id") if resource.dossier else None
        if parent is not None and parent not in ids:
            lost.append(Lost(resource.kind, resource.id, "its inputs cannot be rebuilt"))
            continue
        ids.add(resource.id)
        wanted.append(resource)
    return Plan(
        catalogue=state.sentence,
        resources=tuple(wanted),
        known={record.id: record.name for record in records},
        lost=tuple(lost),
        gone=tuple(_incomplete(records, versions, wanted, stored)),
        n_unreadable=stored.n_unreadable,
    )


def _creation(resource: ProvenResource) -> tuple[int, str, str]:
    created = resource.dossier["resource"]["created_at"] if resource.dossier else ""
    return tuple(Kind).index(resource.kind), created, resource.id


def _incomplete(
    records: Sequence[Resource],
    versions: Mapping[str, Sequence[Version]],
    proven: Sequence[ProvenResource],
    stored: _Stored,
) -> Iterator[Resource]:
    """Yield the resources in the catalogue whose current version has a missing artifact."""
    renewed = {resource.id for resource in proven}
    for record in records:
        current = next((each for each in versions[record.id] if each.number == record.current_version), None)
        if current is None or record.id in renewed:
            continue
        if not all(stored.has(asset, record.id, version) for asset, version in current.artifacts.items()):
            yield record


@dataclass(frozen=True)
class _ResourceBuilder:
    """Derives resources and versions from manifests."""

    installation: Installation
    catalog: Catalog
    key: InstallationKey
    stored: _Stored

    def resource(
        self,
        kind: Kind,
        partition: str,
        manifests: Sequence[Manifest],
        dossier: Dossier | None,
        known: Sequence[Version] | None,
    ) -> ProvenResource | None:
        """Derive the records that the catalogue lacks for a resource; None if it lacks nothing."""
        deleted = self.catalog.deletion.deleted_artifacts(kind, hex_of(partition))
        by_number: dict[int, list[Manifest]] = defaultdict(list)
        for manifest in manifests:
            if manifest.version not in deleted:
                by_number[int(manifest.version.partition("-")[0])].append(manifest)
        there = {version.number: version for version in known or ()}
        found = (self._version(kind, partition, number, each) for number, each in sorted(by_number.items()))
        proven = tuple(version for version in found if _proves_more(version, there.get(version.number)))
        if not proven:
            return None
        if known is not None:
            return ProvenResource(kind, partition, proven)
        assert dossier is not None
        return ProvenResource(
            kind, partition, proven, self._with_files(dossier), self._seed_of(dossier["resource"])
        )

    def _version(self, kind: Kind, partition: str, number: int, manifests: Sequence[Manifest]) -> ProvenVersion:
        newest = {manifest.asset: manifest for manifest in sorted(manifests, key=_built_at)}
        dossier = self.stored.dossier(manifests)
        if dossier is not None and dossier["version"]["number"] != number:
            dossier = None
        artifacts = {asset: manifest.version for asset, manifest in newest.items()}
        if dossier is not None:
            earlier = dossier["version"]["artifacts"]
            artifacts = {
                asset: version for asset, version in earlier.items() if self.stored.has(asset, partition, version)
            } | artifacts
        if kind is Kind.DATA_ROOM:
            artifacts = self._with_reused(partition, artifacts)
        failure = _failure_of(kind, newest, artifacts, dossier)
        return ProvenVersion(
            number=number,
            artifacts=artifacts,
            parents=_parents_of(partition, newest.values(), dossier),
            made_at=max(map(_built_at, manifests)),
            summary={} if failure else self._summary(newest),
            failure=failure,
            dossier=dossier,
            output_location=self._output(newest) if failure is None else None,
        )

    def _with_reused(self, partition: str, artifacts: Mapping[str, str]) -> dict[str, str]:
        """Add the artifacts that a room version reused from earlier versions, found by their inputs."""
        found = dict(artifacts)
        earlier = sorted(self.stored.by_resource[Kind.DATA_ROOM, partition], key=_built_at)
        for asset in ASSETS_OF[Kind.DATA_ROOM]:
            for manifest in earlier:
                own = [each for each in manifest.inputs if each.partition == partition]
                if (
                    manifest.asset == asset
                    and asset not in artifacts
                    and own
                    and all(found.get(each.asset) == each.version for each in own)
                ):
                    found[asset] = manifest.version
        return found

    def _summary(self, newest: Mapping[str, Manifest]) -> dict[str, Any]:
        summary: dict[str, Any] = {"sentence": "Rebuilt from its manifest."}
        for manifest in newest.values():
            summary |= {name: manifest.facts[name] for name in _FACTS if name in manifest.facts}
        if "audience" in newest:
            with suppress(CleanroomError, ValueError, KeyError, TypeError):
                summary["metrics"] = shared_metrics(self._document(newest["audience"], "metrics"))
        return summary

    def _output(self, newest: Mapping[str, Manifest]) -> str | None:
        if "audience_export" not in newest:
            return None
        with suppress(CleanroomError, ValueError, KeyError):
            return str(self._document(newest["audience_export"], "export")["url"])
        return None

    def _document(self, manifest: Manifest, name: str) -> Any:
        return json.loads(self.installation.parts.store.read(manifest.reference, f"{name}.json"))

    def _seed_of(self, resource: Mapping[str, Any]) -> str | None:
        """Return the location of a job's seed, if the seed still exists."""
        location = resource.get("seed_location")
        if not location:
            return None
        with suppress(UsageError):
            return SeedVault(self.installation.home, self.key).find(str(location).partition("/")[0])
        return None

    def _with_files(self, dossier: Dossier) -> Dossier:
        """Return the catalogue record with only those uploads whose files still exist."""
        there = Vault(self.installation.home, self.key).locations()
        uploads = [
            upload if upload["location"] in there else {**upload, "location": None}
            for upload in dossier.get("uploads", ())
        ]
        return {**dossier, "uploads": uploads}


def _proves_more(proven: ProvenVersion, known: Version | None) -> bool:
    """Whether the artifacts prove that a version got further than the outdated catalogue says."""
    if known is None:
        return True
    return proven.failure is None and is_proof(known.status, known.finished_at, proven.made_at)


def _failure_of(
    kind: Kind, newest: Mapping[str, Manifest], artifacts: Mapping[str, str], dossier: Dossier | None
) -> tuple[StatusCode, str] | None:
    """Return why a version cannot be ACTIVE, judging by its artifacts; None if they are complete."""
    unusable = {asset for asset, manifest in newest.items() if not _is_usable(asset, manifest, artifacts)}
    if unusable:
        of_seeds = unusable & {"seed_validation_report", "seed_audiences"}
        code = StatusCode.SEED_INVALID if of_seeds else StatusCode.TRAINING_DATA_INVALID
        return code, "The input of this resource failed validation. See its report."
    if _last_assets(kind, artifacts, dossier) - set(artifacts):
        return _UNFINISHED
    return None


def _is_usable(asset: str, manifest: Manifest, artifacts: Mapping[str, str]) -> bool:
    """Whether an artifact can be used: the validation that it records has passed."""
    if asset in ("base_audience", "seed_audiences"):
        return "inputs" in manifest.facts
    if asset == "seed_validation_report":
        return "audience" in artifacts or bool(manifest.facts.get("usable", True))
    return bool(manifest.facts.get("passed", True))


def _last_assets(kind: Kind, artifacts: Mapping[str, str], dossier: Dossier | None) -> set[str]:
    """Return the assets that a finished version of this kind of resource must have."""
    if kind is Kind.GENERATION_JOB:
        return {"audience"}
    if kind is Kind.CUSTOM_AUDIENCE:
        return {"custom_audience"}
    return _required_of_room(artifacts, dossier) if kind is Kind.DATA_ROOM else set()


def _required_of_room(artifacts: Mapping[str, str], dossier: Dossier | None) -> set[str]:
    """Return the assets that a finished room version must have, given the data that it contains."""
    wanted = {"data_attributes"} if "base_audience" in artifacts else set[str]()
    if {"base_audience", "seed_audiences"} <= set(artifacts):
        wanted.add("overlap_statistics")
        if dossier and "ENABLE_INSIGHTS" in dossier["resource"]["collaboration_types"]:
            wanted.add("insights")
    return wanted


def _parents_of(partition: str, manifests: Iterable[Manifest], dossier: Dossier | None) -> tuple[ParentRef, ...]:
    """Return a resource's parent versions, from its input artifacts and its catalogue record."""
    found = dict[str, ParentRef]()
    for manifest in manifests:
        for each in manifest.inputs:
            if each.asset in ASSETS and each.version and each.partition not in ("", partition):
                number = int(each.version.partition("-")[0])
                found[each.partition] = ParentRef(ASSETS[each.asset].kind, each.partition, number)
    if dossier and dossier.get("parent_version") is not None:
        parent_id = dossier["resource"]["parent_id"]
        parent_kind = SPECS[Kind(dossier["resource"]["kind"])].parent_kind
        if parent_kind is not None:
            found[parent_id] = ParentRef(parent_kind, parent_id, dossier["parent_version"])
    return tuple(found.values())


def _built_at(manifest: Manifest) -> datetime:
    try:
        at = datetime.fromisoformat(manifest.created_at)
    except ValueError:
        at = datetime.fromtimestamp(0, UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
