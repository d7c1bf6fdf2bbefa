"""Prepared deliveries: an export of an audience, and a list of a room.

Lives here: the records and artifacts that a delivery needs, and what is visible of it from outside.
Keep out: failures of deliveries.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom_pipelines.audiences.sizes import AudienceSize
from cleanroom_pipelines.catalog import (
    AudienceListSpec,
    Catalog,
    ConfiguredAudienceModelSpec,
    CustomAudienceSpec,
    DataRoom,
    DataRoomSpec,
    ExportJobSpec,
    GenerationJobSpec,
    Kind,
    ParticipantSpec,
    Resource,
    Version,
)
from cleanroom_pipelines.runs.building_lookalike import build_audience_export
from cleanroom_pipelines.runs.building_room_audiences import build_audience_list
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.similarity.rankings import RANKING_FILE, RANKING_SCHEMA, ranking_metadata
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.terms import CollaborationType, Permission

from ..conftest import StandingClock
from .building import make_room

ACCOUNT = "000000000000"
USERS = [f"user-{number}" for number in range(50)]
N_DELIVERED = 10
GROUP, ANALYST = "bb", "analyst@adv.example"


@dataclass
class Delivery:
    """One delivery that is pending, and what a test does with it.

    Attributes:
        installation: Where.
        clock: Its clock.
        record: The export job or the audience list.
        parent: What it goes with when that is deleted.
        files: Gives the files that can be seen where it is delivered, by name.
    """

    installation: Installation
    clock: StandingClock
    record: Resource
    parent: Resource
    files: Callable[[], dict[str, bytes]]

    @property
    def catalog(self) -> Catalog:
        return self.installation.catalog

    @property
    def version(self) -> Version:
        return self.catalog.resources.newest_version(self.record.kind, self.record.id)

    @property
    def asset(self) -> str:
        return "audience_export" if self.record.kind is Kind.EXPORT_JOB else "audience_user_list"

    @property
    def artifacts(self) -> list[str]:
        """The versions of the delivery's artifact that lie in the store."""
        return self.installation.store.versions(self.asset, self.record.id)

    @property
    def manifest(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.files()["manifest.json"])
        return found

    def make(self, run: str) -> None:
        """Deliver it, as a run does."""
        make = build_audience_export if self.record.kind is Kind.EXPORT_JOB else build_audience_list
        make(self.installation, self.record.id, Run(run, self.version.number))

    def delete(self) -> None:
        self.catalog.deletion.request_delete(self.parent.kind, self.parent.id)

    def pause(self) -> None:
        """Let a holder's lease run out, as if its process had stood still."""
        self.clock.turn(seconds=61)
        self.catalog.work.reap()


def export_delivery(
    installation: Installation, clock: StandingClock, bucket: Callable[[], dict[str, bytes]] | None = None
) -> Delivery:
    """The export of an audience of 50 in parts of 4 users.

    Args:
        installation: Where.
        clock: Its clock.
        bucket: Gives the objects of the bucket that exports go to; None: a folder of the home.
    """
    catalog = installation.catalog
    configured = catalog.resources.create(
        ConfiguredAudienceModelSpec(
            name="Small files",
            audience_model_id=make_room(catalog).audience_model_id,
            sizes=(AudienceSize.parse("20%"),),
            output_url="s3://audiences/x",
            delivery={"max_rows": 4},
        )
    )
    close(catalog, configured)
    job = catalog.resources.create(
        GenerationJobSpec(
            name="Loyal",
            configured_audience_model_id=configured.id,
            seed_location="none",
            seed_name="loyal",
            seed_bytes=1,
            seed_digest="0" * 32,
        )
    )
    claim = catalog.work.claim(job.kind, job.id, 1, "generation")
    assert claim is not None
    reference = ArtifactReference("audience", job.id, "0001-00000000")
    with installation.store.drafting(reference, code_version="1", data_version="d", created_at="now") as draft:
        columns = [USERS, range(1, len(USERS) + 1), [0.5] * len(USERS), [False] * len(USERS)]
        table = pa.Table.from_arrays(
            [pa.array(column, field.type) for column, field in zip(columns, RANKING_SCHEMA, strict=True)],
            schema=RANKING_SCHEMA,
        )
        pq.write_table(table.replace_schema_metadata(ranking_metadata(0)), draft.path / RANKING_FILE)
    catalog.work.publish_artifact(claim, "audience", reference.version)
    catalog.work.finish(claim, {"sentence": "Ranked."})
    export = catalog.resources.create(
        ExportJobSpec(name="Best", generation_job_id=job.id, size=AudienceSize.parse("20%"))
    )
    folder = export.id.rsplit("-", 1)[-1]
    here = installation.home.accounts / ACCOUNT / "buckets" / "audiences"

    def files() -> dict[str, bytes]:
        """All there is, drafts too; the files of the export by their names."""
        found = bucket() if bucket else {str(path.relative_to(here)): path.read_bytes() for path in below(here)}
        return {key.rpartition(f"/{folder}/")[2]: content for key, content in found.items()}

    return Delivery(installation, clock, export, job, files)


def list_delivery(installation: Installation, clock: StandingClock) -> Delivery:
    """The list of a room's audience of 10 users, for a group."""
    catalog = installation.catalog
    room = make_data_room(catalog)
    version = catalog.resources.current_version(Kind.DATA_ROOM, room.id)
    assert version is not None
    audience = catalog.resources.create(
        CustomAudienceSpec(
            name="Loyal",
            mark="0b",
            data_room_id=room.id,
            definition={"kind": "remarketing", "audience_type": "loyal"},
            created_by=GROUP,
            created_by_email=ANALYST,
        )
    )
    claim = catalog.work.claim(audience.kind, audience.id, 1, "audience")
    assert claim is not None
    reference = ArtifactReference("custom_audience", audience.id, "0001-00000000")
    with installation.store.drafting(reference, code_version="1", data_version="d", created_at="now") as draft:
        pq.write_table(pa.table({"user_id": USERS[:N_DELIVERED]}), draft.path / "users.parquet")
        (draft.path / "audience.json").write_text(json.dumps({"is_enough": True, "questions": [], "reveals": []}))
    catalog.work.publish_artifact(claim, "custom_audience", reference.version)
    catalog.work.finish(claim, {"sentence": "Made."}, (version.ref,))
    record = catalog.resources.create(
        AudienceListSpec(
            name="list",
            mark="0c",
            custom_audience_id=audience.id,
            delivered_to=GROUP,
            options={"max_rows": 4},
        )
    )

    def files() -> dict[str, bytes]:
        """What the group may fetch."""
        current = catalog.resources.current_version(record.kind, record.id)
        if current is None:
            return {}
        artifact = ArtifactReference("audience_user_list", record.id, current.artifacts["audience_user_list"])
        with installation.store.opening(artifact) as opened:
            return {path.name: path.read_bytes() for path in below(opened / "files")}

    return Delivery(installation, clock, record, audience, files)


def make_data_room(catalog: Catalog, name: str = "Spring") -> DataRoom:
    """A room of a publisher and an advertiser, nothing provisioned."""
    room = catalog.resources.create(
        DataRoomSpec(
            name=name,
            mark="0a",
            owner_email="publisher@pub.example",
            participants=(
                ParticipantSpec(
                    "aa", ("publisher@pub.example",), "publisher", (Permission.PROVIDE_BASE_AUDIENCE,)
                ),
                ParticipantSpec(GROUP, (ANALYST,), "advertiser", (Permission.EXPORT_AUDIENCE,)),
            ),
            collaboration_types=tuple(CollaborationType),
            matching_ids=("EMAIL",),
        )
    )
    assert isinstance(room, DataRoom)
    close(catalog, room)
    return room


def close(catalog: Catalog, record: Resource) -> None:
    """Close a resource's first version as ACTIVE, nothing made."""
    claim = catalog.work.claim(record.kind, record.id, 1, "run")
    assert claim is not None
    catalog.work.finish(claim, {"sentence": "Made."})


def below(folder: Path) -> list[Path]:
    """The files at any depth, hidden ones too; folders that are empty as well, since they may be a draft."""
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


@contextmanager
def at(owner: object, name: str, when: Callable[..., bool], action: Callable[[], object]) -> Iterator[None]:
    """Do something once, immediately before a call that a condition is true of."""
    original, is_done = getattr(owner, name), False

    def hooked(*arguments: object, **options: object) -> object:
        nonlocal is_done
        if not is_done and when(*arguments, **options):
            is_done = True
            action()
        return original(*arguments, **options)

    with mock.patch.object(owner, name, hooked):
        yield
    assert is_done, "the moment came"
