"""Helpers for tests of runs: create a room in the catalogue, and close its work without doing it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import (
    RECORDS,
    AudienceModelSpec,
    Catalog,
    ConfiguredAudienceModel,
    ConfiguredAudienceModelSpec,
    Kind,
    ParentRef,
    TrainingDatasetSpec,
    Version,
)
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs.drops import Drop, RejectedDrop
from cleanroom_pipelines.runs.inbox import close_drop, find_drops, register_drop
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.uploads.roles import Role

COLUMNS = (("u", Role.USER_ID), ("i", Role.ITEM_ID))
CANARY = "canary@example.com"
SEED = f"user_id\n{CANARY}\nberta\n".encode()


def make_room(catalog: Catalog, name: str = "Partners", declared: bool = False) -> ConfiguredAudienceModel:
    """A configured audience model, its parents and itself finished."""
    dataset = catalog.resources.create(
        TrainingDatasetSpec(name=f"{name} baskets", source="x.csv", columns=COLUMNS), declared=declared
    )
    model = catalog.resources.create(
        AudienceModelSpec(name=f"{name} model", training_dataset_id=dataset.id), declared=declared
    )
    sizes = tuple(AudienceSize.parse(size) for size in ("1%", "5%", "20%"))
    configured = catalog.resources.create(
        ConfiguredAudienceModelSpec(
            name=name, audience_model_id=model.id, sizes=sizes, output_url="s3://audiences/x"
        ),
        declared=declared,
    )
    finish_all(catalog)
    return configured


def parents_of(catalog: Catalog, version: Version) -> tuple[ParentRef, ...]:
    record = catalog.get(RECORDS[version.kind], version.resource_id)
    if record.parent_id is None:
        return ()
    parent = catalog.get(RECORDS[record.parent_kind], record.parent_id)
    return (ParentRef(parent.kind, parent.id, parent.current_version),)


def finish_all(catalog: Catalog) -> None:
    while ready := catalog.work.ready():
        for version in ready:
            claim = catalog.work.claim(version.kind, version.resource_id, version.number, "run")
            catalog.work.finish(claim, {"sentence": "Made."}, parents_of(catalog, version))


def write_artifact(installation: Installation, asset: str, resource_id: str, number: int, **files: object) -> str:
    reference = ArtifactReference(asset, resource_id, f"{number:04d}-{installation.token_hex(4)}")
    with installation.store.drafting(reference, code_version="1", data_version="d", created_at="now") as draft:
        for name, document in files.items():
            (draft.path / f"{name}.json").write_text(json.dumps(document))
    return reference.version


@dataclass
class Inbox:
    """One folder of the inbox, with what a sensor and the runs would do."""

    installation: Installation
    configured: ConfiguredAudienceModel
    told: list[str] = field(default_factory=list)

    @property
    def catalog(self) -> Catalog:
        return self.installation.catalog

    @property
    def folder(self) -> Path:
        return self.installation.home.inbox_seeds / self.configured.id

    def drop(self, name: str = "members.csv", content: bytes = SEED) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        path.write_bytes(content)
        return path

    def drops(self) -> list[Drop]:
        return list(find_drops(self.installation))

    def register(self) -> list[object]:
        """Register all drops; gives their jobs, and None for what was rejected or stays."""
        found = [register_drop(self.installation, drop) for drop in self.drops()]
        return [None if isinstance(each, RejectedDrop) else each for each in found]

    def jobs(self) -> list[object]:
        return list(self.catalog.resources.iterate(Kind.GENERATION_JOB))

    def newest(self, record: object) -> Version:
        return self.catalog.resources.newest_version(record.kind, record.id)

    def claim(self, record: object) -> object:
        version = self.newest(record)
        return self.catalog.work.claim(version.kind, version.resource_id, version.number, "run")

    def fail(self, record: object, code: StatusCode = StatusCode.SEED_TOO_SMALL, *, settle: bool = True) -> None:
        """End the record's newest version as failed, with its report, as a run does."""
        claim = self.claim(record)
        if record.kind is Kind.GENERATION_JOB:
            artifact = write_artifact(
                self.installation,
                "seed_validation_report",
                record.id,
                claim.number,
                report={"passed": False, "rows": 2},
                outcome={"usable": False},
            )
            self.catalog.work.publish_artifact(claim, "seed_validation_report", artifact)
        self.catalog.work.fail(claim, code, "The seed is too small. Give a larger one.")
        if settle:
            self.settle(record)

    def finish(self, record: object, *, settle: bool = True) -> None:
        claim = self.claim(record)
        if record.kind is Kind.EXPORT_JOB:
            self.catalog.work.publish_output(claim, "s3://audiences/x/1")
        self.catalog.work.finish(
            claim, {"sentence": "Finds twice as many."}, parents_of(self.catalog, self.newest(record))
        )
        if settle:
            self.settle(record)

    def settle(self, record: object) -> None:
        close_drop(self.installation, record.generation_job_id if record.kind is Kind.EXPORT_JOB else record.id)

    def export_of(self, job: object) -> object:
        (export,) = self.catalog.resources.list(Kind.EXPORT_JOB, parent_id=job.id).items
        return export

    def receipts(self, state: str) -> list[dict[str, object]]:
        folder = self.folder / state
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []

    def seeds(self) -> list[bytes]:
        """The content of the seeds in the vault, without what seals them."""
        vault, folder = self.installation.vault, self.installation.home.seeds
        found = []
        for location in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("seed.*")):
            with vault.opening(location) as seed:
                found.append(seed.read_bytes())
        return found

    def lying(self) -> list[str]:
        """The files that lie in the folder itself."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())
