"""A small data room with planted structure: a group whose members share segments, and seeds taken from it."""

import random
import shutil
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq

from cleanroom_pipelines.audiences.overlap import question_about
from cleanroom_pipelines.catalog import (
    RECORDS,
    AudienceList,
    AudienceListSpec,
    CustomAudience,
    CustomAudienceSpec,
    DataRoom,
    DataRoomSpec,
    Kind,
    ParticipantSpec,
    Resource,
    Version,
)
from cleanroom_pipelines.identity import Dataset
from cleanroom_pipelines.runs.budgets import RoomBudget
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.running import run_pending
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines.terms import CollaborationType, Permission

from .. import worlds

N_USERS = 3_000
PUBLISHER, ADVERTISER = "publisher@pub.example", "analyst@adv.example"
ADVERTISERS = "bb"
AGES = ("18-24", "25-34", "35+")


def email(user: str) -> str:
    return f"{user}@mail.example"


@dataclass
class RoomWorld:
    """A room, its files, and what a test does with them."""

    installation: Installation
    instance: dg.DagsterInstance
    room: DataRoom
    users: list[str]
    group: set[str]
    segments: dict[str, set[str]]
    gender: dict[str, str]
    seeds: dict[str, set[str]]
    files: dict[str, str] = field(default_factory=dict)

    def upload(self, text: str, matching_id: str | None = None, owner: str = PUBLISHER) -> str:
        """Bring a file; gives its id."""
        sealed = self.installation.uploads.seal(self.installation.token_hex(16), [text.encode()])
        upload = self.installation.catalog.rooms.add_upload(
            sealed.location,
            owner,
            "a file",
            n_bytes=sealed.n_bytes,
            digest=sealed.digest,
            matching_id=matching_id,
            location=sealed.location,
        )
        return upload.id

    def provision_base(self, without: Set[str] = frozenset()) -> None:
        """Bring the publisher's files, without some of the users."""

        def file(name: str) -> str:
            lines = self.files[name].splitlines(keepends=True)
            return "".join(line for line in lines if line.partition(",")[0] not in without)

        uploads = {
            "matching:EMAIL": self.upload(file("matching")),
            "segments": self.upload(file("segments")),
            "demographics": self.upload(file("demographics")),
        }
        self.installation.catalog.rooms.provision(self.room.id, uploads)

    def provision_seeds(self, text: str | None = None) -> None:
        upload = self.upload(self.files["seeds"] if text is None else text, owner=ADVERTISER)
        self.installation.catalog.rooms.provision(self.room.id, {"seeds:EMAIL": upload}, (Dataset.SEED_AUDIENCES,))

    def run(self) -> int:
        """Do what is pending."""
        return run_pending(self.installation, self.instance)

    def version(self) -> Version:
        """The room's current version."""
        version = self.installation.catalog.resources.current_version(Kind.DATA_ROOM, self.room.id)
        assert version is not None
        return version

    def room_now(self) -> DataRoom:
        """The room with what it holds now."""
        return self.installation.catalog.get(DataRoom, self.room.id)

    def is_enough(self, audience_type: str) -> bool:
        """Whether the seeds of a type count as enough users."""
        room = RoomBudget.of(self.installation, self.room, self.version())
        assert room is not None
        question = question_about(audience_type, seeds=room.seeds)
        return room.releaser().count(len(self.seeds[audience_type]), question=question).is_enough()

    def users_of(self, record: Resource) -> list[str]:
        """The users of an audience or a list, in their order."""
        asset = "custom_audience" if isinstance(record, CustomAudience) else "audience_user_list"
        version = self.installation.catalog.resources.current_version(record.kind, record.id)
        assert version is not None, self.installation.catalog.get(RECORDS[record.kind], record.id).status_message
        reference = ArtifactReference(asset, record.id, version.artifacts[asset])
        with self.installation.store.opening(reference) as folder:
            ids: list[str] = pq.read_table(folder / "users.parquet")["user_id"].to_pylist()
            return ids

    def audience(
        self, definition: Mapping[str, object], *references: str, name: str = "audience", hidden: bool = False
    ) -> CustomAudience:
        spec = CustomAudienceSpec(
            name=name,
            mark=self.installation.token_hex(8),
            data_room_id=self.room.id,
            definition=definition,
            created_by=ADVERTISERS,
            created_by_email=ADVERTISER,
            hidden=hidden,
            references=references,
        )
        record = self.installation.catalog.resources.create(spec, declared=not hidden)
        assert isinstance(record, CustomAudience)
        return record

    def deliver(self, audience: CustomAudience, **options: object) -> AudienceList:
        spec = AudienceListSpec(
            name="list",
            mark=self.installation.token_hex(8),
            custom_audience_id=audience.id,
            delivered_to=ADVERTISERS,
            options=options,
        )
        record = self.installation.catalog.resources.create(spec)
        assert isinstance(record, AudienceList)
        return record


@contextmanager
def open_room(folder: Path, **settings: str) -> Iterator[RoomWorld]:
    """A room with a home below a folder and a Dagster instance in memory."""
    with (
        worlds.installed(folder / "home", **settings) as installation,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        worlds.with_catalog(installation.home)
        yield room_world(installation, instance)


def make_data_room(folder: Path) -> None:
    """Make `home` and `dagster` of a room that has taken in both sides' files; its rare seeds are too few.

    The noise lifts seven users over the threshold in 2 of 100 rooms. Such a room is passed over for another one.
    """
    for number in range(10):
        draft = folder / f"draft-{number}"
        with (
            worlds.installed(draft / "home") as installation,
            worlds.dagster_at(draft / "dagster", one_file=True) as instance,
        ):
            world = room_world(installation, instance)
            world.provision_base()
            world.provision_seeds()
            world.run()
            is_wanted = not world.is_enough("rare")
        if is_wanted:
            for part in ("home", "dagster"):
                (draft / part).rename(folder / part)
        shutil.rmtree(draft)
        if is_wanted:
            return
    raise AssertionError("ten rooms in a row tell seven users")


@contextmanager
def open_copied_room(folder: Path, *, with_history: bool = True) -> Iterator[RoomWorld]:
    """Open a copy of what `make_data_room` made.

    Args:
        folder: The copy.
        with_history: Open Dagster's history of it too; without it a run costs half.
    """
    with (
        worlds.installed(folder / "home") as installation,
        worlds.dagster_at(folder / "dagster", one_file=True)
        if with_history
        else dg.DagsterInstance.ephemeral() as instance,
    ):
        room = worlds.the(installation, Kind.DATA_ROOM)
        assert isinstance(room, DataRoom)
        yield planned_world(installation, instance, room)


def room_world(
    installation: Installation, instance: dg.DagsterInstance, *, hide: bool = False, random_seed: int = 1
) -> RoomWorld:
    """A room of all collaboration types, nothing provisioned."""
    spec = DataRoomSpec(
        name="Spring",
        mark=installation.token_hex(8),
        owner_email=PUBLISHER,
        participants=(
            ParticipantSpec("aa", (PUBLISHER,), "publisher", (Permission.PROVIDE_BASE_AUDIENCE,)),
            ParticipantSpec(
                ADVERTISERS,
                (ADVERTISER,),
                "advertiser",
                (
                    Permission.PROVIDE_SEED_AUDIENCE,
                    Permission.CREATE_CUSTOM_AUDIENCE,
                    Permission.EXPORT_AUDIENCE,
                ),
            ),
        ),
        collaboration_types=tuple(CollaborationType),
        matching_ids=("EMAIL",),
        hide_absolute_values=hide,
        activation=("meta",),
    )
    room = installation.catalog.resources.create(spec, declared=True)
    assert isinstance(room, DataRoom)
    return planned_world(installation, instance, room, random_seed)


def planned_world(
    installation: Installation, instance: dg.DagsterInstance, room: DataRoom, random_seed: int = 1
) -> RoomWorld:
    """A room with the users, the planted group and the files that belong to a seed of the dice."""
    dice = random.Random(random_seed)
    names = [f"segment {number}" for number in range(25)]
    users = [f"user{number:05d}" for number in range(N_USERS)]
    group = {user for user in users if dice.random() < 0.2}
    segments = {user: set(dice.sample(names[:5] if user in group else names, 3)) for user in users}
    gender = {user: dice.choice("fm") for user in users}
    seeds = {
        "loyal": {user for user in sorted(group) if dice.random() < 0.6},
        "new": set(dice.sample(users, 120)),
        "rare": set(dice.sample(users, 7)),
    }
    world = RoomWorld(installation, instance, room, users, group, segments, gender, seeds)
    world.files = {
        "matching": "".join(f"{user},{email(user)}\n" for user in users),
        "segments": "".join(f"{user},{name}\n" for user in users for name in sorted(segments[user])),
        "demographics": "".join(
            f"{user},{dice.choice(['18-24', '25-34', '35+'])},{gender[user]}\n" for user in users
        ),
        "seeds": seed_file(seeds),
    }
    return world


def seed_file(seeds: Mapping[str, set[str]]) -> str:
    """The advertiser's file, with customers that the publisher does not know."""
    known = "".join(f"{email(user)},{kind}\n" for kind, of_kind in seeds.items() for user in sorted(of_kind))
    return known + "".join(f"stranger{number}@adv.example,loyal\n" for number in range(40))
