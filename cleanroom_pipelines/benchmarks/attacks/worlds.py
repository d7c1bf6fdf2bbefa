"""Simulated installations ("worlds") to attack: each has its own home with a data room.

Lives here: access to the APIs that attackers use; building a home once and copying it for each world, calls
through the handlers, and running the work.
Add here when an attack needs more from a world.
Keep out: the attackers' requests and guesses (playing, guessing).

All worlds share one base and model. They differ in the victim's membership in the other side's upload, and in the
noise key.
"""

import io
import random
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, Self
from unittest.mock import patch

from cleanroom_pipelines.aws.answers import Caller
from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines.aws.operations.endpoint import Endpoint
from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.media.client import Transport
from cleanroom_pipelines.privacy import Price
from cleanroom_pipelines.runs.backups import back_up, restore
from cleanroom_pipelines.runs.budgets import restore_ledgers
from cleanroom_pipelines.runs.building_lookalike import (
    build_audience,
    build_audience_export,
    build_audience_model,
    build_configured_audience_model,
    build_seed_validation_report,
    build_training_dataset,
)
from cleanroom_pipelines.runs.building_room_audiences import build_audience_list, build_custom_audience
from cleanroom_pipelines.runs.building_rooms import ROOM_ASSETS, build_data_lab, build_room_asset
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.server.media.service import LocalTransport, MediaService
from cleanroom_pipelines.storage import InstallationKey
from cleanroom_pipelines.terms import CollaborationType, Permission

PUBLISHER, ADVERTISER, AGENCY = "data@publisher.example", "data@advertiser.example", "data@agency.example"
N_USERS = 1_600
VICTIM = "user00007"
RARE = 45
"""Number of known customers in the victim's segment; their released size without noise is 40, or 50 with the
victim."""
N_INTERESTS = 50
N_SEED = 280
"""Number of seed users: so few that a lookalike costs most of the budget, yet enough for a lookalike."""
N_ODD = 8
"""Number of segments that share no user with the seed lists; excluding one from a rule keeps the rule's users."""

_MANY = 1_000_000
_EVERYTHING = (Permission.VIEW_OVERLAP, Permission.VIEW_INSIGHTS, Permission.CREATE_CUSTOM_AUDIENCE,
               Permission.EXPORT_AUDIENCE)  # fmt: skip

REGION = "eu-central-1"


class Doors(Protocol):
    """Access to the APIs of one installation."""

    def media(self, email: str) -> Transport:
        """Return a transport that calls the data-room (Media) API for a user."""

    def lookalikes(self, account_id: str, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run an operation of the lookalike (AWS) API for an account.

        Raises:
            ApiError: The operation was rejected.
        """

    def close(self) -> None:
        """Close all opened resources."""


OpenDoors = Callable[[Installation], Doors]


class InProcess:
    """Direct access to an installation's request handlers, without HTTP.

    Args:
        installation: The installation.
    """

    def __init__(self, installation: Installation) -> None:
        self._service = MediaService(installation)
        self._endpoint = Endpoint(
            installation.catalog,
            installation.home,
            installation.buckets,
            lambda: str(uuid.uuid4()),
            max_unfinished_jobs=_MANY,
            max_resources=_MANY,
        )

    def media(self, email: str) -> Transport:
        """Return a transport that calls the data-room (Media) API for a user."""
        return LocalTransport(self._service, email)

    def lookalikes(self, account_id: str, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run an operation of the lookalike (AWS) API for an account."""
        return OPERATIONS[operation](self._endpoint, Caller(account_id, "-", REGION), parameters) or {}

    def close(self) -> None:
        """Do nothing, because in-process access opens nothing."""


def user(number: int) -> str:
    """Return the id of a user of the base audience."""
    return f"user{number:05d}"


def odd(number: int) -> str:
    """Return the name of a segment whose users are on none of the lists."""
    return f"odd {number}"


def email(name: str) -> str:
    """Return a user's matching id, an e-mail address."""
    return f"{name}@mail.example"


VICTIM_INTERESTS = frozenset(f"interest {number:02d}" for number in range(N_INTERESTS))

Numbers = dict[str, float]


def with_victim(users: tuple[str, ...], is_in: bool) -> tuple[str, ...]:
    """Add the victim to the users if it is in the data."""
    return (*users, VICTIM) if is_in else users


@dataclass(frozen=True)
class PublisherUsers:
    """The publisher's users, the same in all worlds.

    Args:
        users: All users except the victim.
        segments: Segments of each user, including the victim.
        group: Users with similar interests; most of the seed comes from them.
        rare: Users who share the segment `rare` with the victim.
        seed: The known customers, without the victim.
    """

    users: tuple[str, ...]
    segments: Mapping[str, frozenset[str]]
    group: frozenset[str]
    rare: tuple[str, ...]
    seed: tuple[str, ...]

    @classmethod
    def make(cls) -> Self:
        """Generate the users deterministically."""
        dice = random.Random(5)  # noqa: S311 no secret
        users = [user(number) for number in range(N_USERS) if user(number) != VICTIM]
        names = sorted(VICTIM_INTERESTS)
        group = frozenset(dice.sample(users, N_USERS // 4))
        segments = {each: frozenset(dice.sample(names[:12] if each in group else names, 5)) for each in users} | {
            VICTIM: VICTIM_INTERESTS | {"rare"}
        }
        likely = sorted(group)
        others = sorted(set(users) - group)
        seed = dice.sample(likely, 180) + dice.sample(others, N_SEED - 180)
        rare = tuple(sorted(seed)[:RARE])
        for each in rare:
            segments[each] |= {"rare"}
        never = sorted(set(users) - set(seed))
        for number in range(N_ODD):
            for each in never[30 * number : 30 * (number + 1)]:
                segments[each] |= {odd(number)}
        return cls(tuple(users), segments, group, rare, tuple(sorted(seed)))

    def files(self, *, with_victim: bool = True, n_left_out: int = 0) -> dict[str, str]:
        """Return the publisher's files by dataset; the victim and the last `n_left_out` users can be left out."""
        known = self.users[: len(self.users) - n_left_out]
        users = sorted({*known, *([VICTIM] if with_victim else ())})
        dice = random.Random(6)  # noqa: S311 no secret
        # drawn for all users, so that leaving some out does not change the others' values
        about = {
            each: (dice.choice(["18-24", "25-34"]), dice.choice("fm")) for each in sorted({*self.users, VICTIM})
        }
        return {
            "matching:EMAIL": "".join(f"{each},{email(each)}\n" for each in users),
            "segments": "".join(f"{each},{name}\n" for each in users for name in sorted(self.segments[each])),
            "demographics": "".join(f"{each},{','.join(about[each])}\n" for each in users),
        }


POPULATION = PublisherUsers.make()


@dataclass(frozen=True)
class _WorldKey(InstallationKey):
    """An installation key from which each world derives different noise."""

    world: str = ""

    def derive(self, purpose: str) -> bytes:
        return super().derive(purpose + self.world if purpose.startswith("noise of ") else purpose)


def open_installation(home: Path, world: str = "") -> Installation:
    """Open an installation with quotas that no attack reaches."""
    settings = Settings(
        home,
        threads=1,
        memory_bytes=512 * 10**6,
        seed_floor=1,
        max_rooms=_MANY,
        max_labs=_MANY,
        max_uploads=_MANY,
        max_resources=_MANY,
        max_unfinished_jobs=_MANY,
        requests_per_second=_MANY,
    )
    installation = Installation(settings)
    key = _WorldKey(installation.key.secret, world)
    installation.__dict__["opened"] = replace(installation.opened, key=key)
    installation.catalog.database.stay_connected()
    return installation


@contextmanager
def without_noise() -> Iterator[None]:
    """Switch the privacy policy off by making the noise negligible."""
    with patch.object(Price, "variance", property(lambda price: Fraction(1, 200))):
        yield


@dataclass
class World:
    """A simulated installation with one data room, used through the participants' APIs.

    Args:
        installation: The installation.
        doors: The participants' API access.
        room: Id of the room, or for the lookalike API the ARN of the configured model.
        open_again: Opens a home of this world with its API access.
        backup: The last backup, and the room at that time.
    """

    installation: Installation
    doors: Doors
    room: str
    open_again: Callable[[Path], tuple[Installation, Doors]]
    backup: tuple[Path, str] | None = None

    @classmethod
    def open(cls, home: Path, *, mark: str = "", room: str = "", open_doors: OpenDoors = InProcess) -> Self:
        """Open the simulated installation that is stored in a home.

        Args:
            home: The home's folder.
            mark: Text that makes its noise differ from that of other worlds.
            room: The initial room.
            open_doors: Opens the participants' API access.
        """

        def open_again(home: Path) -> tuple[Installation, Doors]:
            installation = open_installation(home, mark)
            return installation, open_doors(installation)

        return cls(*open_again(home), room, open_again)

    def close(self) -> None:
        """Close all open resources."""
        self.doors.close()
        self.installation.audit.close()
        self.installation.catalog.database.close()

    def back_up(self) -> None:
        """Back up the home, as an operator does."""
        file = self.installation.home.root / "backup.tar"
        back_up(self.installation, file)
        self.backup = file, self.room

    def restore(self) -> None:
        """Restore the backup, as done by an operator who has no record of the requests made since."""
        assert self.backup is not None
        backup, self.room = self.backup
        home = self.installation.home.root
        self.close()
        restored = home.with_name(f"{home.name}-restored")
        restore(backup, restored)
        shutil.rmtree(home)
        restored.rename(home)
        self.installation, self.doors = self.open_again(home)
        restore_ledgers(self.installation, is_complete=False)

    def call(self, who: str, method: str, **params: Any) -> Any:
        """Call a method of the data-room (Media) API for the room, as one participant."""
        return self.doors.media(who).call(method, {"room_id": self.room, **params})

    def upload(self, who: str, text: str, name: str) -> str:
        """Upload a file and return its hash."""
        return str(self.doors.media(who).upload(io.BytesIO(text.encode()), name)["manifest_hash"])

    def work(self) -> None:
        """Run all pending work."""
        catalog = self.installation.catalog
        while ready := catalog.work.ready():
            for version in ready:
                run = Run(self.installation.token_hex(8), version.number)
                with suppress(CleanroomError):
                    _BUILDERS[version.kind](self.installation, version.resource_id, run)

    def ask(self, who: str, kind: str, **params: Any) -> Any:
        """Start a job as a participant and return its result, or its error instead of raising it."""
        try:
            job = self.call(who, "start_job", kind=kind, **params)
            self.work()
            answer = self.doors.media(who).call("get_job_result", {"job_id": job["id"]})
        except CleanroomError as error:
            return {"error": type(error).__name__, "message": error.message}
        return answer | {"job": job["id"]}

    def users_of(self, who: str, answer: Mapping[str, Any]) -> list[str] | None:
        """Return the users of a delivered list; None if no list was delivered."""
        if "files" not in answer:
            return None
        lines: list[str] = []
        for each in answer["files"]:
            lines += b"".join(self.doors.media(who).download(answer["job"], each["name"])).decode().split()
        return lines

    def audience(self, who: str, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Create an audience and return a reference to it."""
        name = self.installation.token_hex(6)
        audience = self.call(who, "create_audience", name=name, definition=definition, shared_with=[])
        return {"kind": "custom", "id": audience["id"]}

    def provision_seeds(self, seeds: Mapping[str, tuple[str, ...]], mark: str = "0") -> None:
        """Provision the advertiser's lists; `mark` changes the files, but not the known users in them."""
        lines = [f"{email(each)},{kind}\n" for kind, ids in seeds.items() for each in ids]
        lines += [f"stranger{mark}@nowhere.example,{kind}\n" for kind in seeds]
        upload = self.upload(ADVERTISER, "".join(lines), "seeds.csv")
        datasets = [{"manifest_hash": upload, "matching_id": "EMAIL"}]
        self.call(ADVERTISER, "provision_seeds", datasets=datasets)
        self.work()

    def provision_base(self, files: Mapping[str, str]) -> None:
        """Provision the publisher's files."""
        datasets = {name: self.upload(PUBLISHER, text, f"{name[:4]}.csv") for name, text in files.items()}
        media = self.doors.media(PUBLISHER)
        lab = media.call("create_lab", {"name": "lab", "datasets": datasets, "activation": []})
        self.work()
        self.call(PUBLISHER, "provision_base", lab_id=lab["id"])
        self.work()

    def new_room(self, *purposes: CollaborationType, more: tuple[str, ...] = ()) -> str:
        """Create another room for the same participants, and switch to it.

        Args:
            *purposes: Collaboration types in addition to rule-based.
            more: Further users of the agency.
        """
        types = (CollaborationType.RULE_BASED, *purposes)
        may = [
            each
            for each in _EVERYTHING
            if each is not Permission.VIEW_INSIGHTS or CollaborationType.INSIGHTS in types
        ]
        created = self.doors.media(PUBLISHER).call(
            "create_room",
            {
                "name": "Spring",
                "participants": [
                    _group("publisher", [PUBLISHER], Permission.PROVIDE_BASE_AUDIENCE, *may),
                    _group("advertiser", [ADVERTISER], Permission.PROVIDE_SEED_AUDIENCE, *may),
                    _group("agency", [AGENCY, *more], *may),
                ],
                "collaboration_types": [each.value for each in types],
                "matching_ids": ["EMAIL"],
                "hide_absolute_values": False,
                "activation": [],
            },
        )
        self.room = str(created["id"])
        return self.room

    def left(self) -> float:
        """Return the units left in the privacy budget of the two organisations, as every participant sees them."""
        return float(self.call(AGENCY, "get_room")["ledger"]["left"])


class Templates:
    """Builds homes once, and copies them for each world.

    Args:
        folder: Folder of the homes.
        open_doors: Opens the participants' API access.
    """

    def __init__(self, folder: Path, open_doors: OpenDoors = InProcess) -> None:
        self._folder = folder
        self._open_doors = open_doors
        self._n_worlds = 0

    @contextmanager
    def opening(self, name: str, make: Callable[[World], None]) -> Iterator[World]:
        """Open a new world that is a copy of a template.

        Args:
            name: Name of the template, which is built on first use.
            make: Builds the template.
        """
        template = self._folder / name
        if not template.exists():
            draft = self._folder / f"{name}-draft"
            world = World.open(draft)
            make(world)
            world.close()
            (draft / "room").write_text(world.room)
            draft.rename(template)
        self._n_worlds += 1
        home = self._folder / f"world-{self._n_worlds}"
        shutil.copytree(template, home, copy_function=_copy, symlinks=True)
        room = (home / "room").read_text()
        world = World.open(home, mark=self._mark(), room=room, open_doors=self._open_doors)
        try:
            yield world
        finally:
            world.close()
            shutil.rmtree(home, ignore_errors=True)

    def _mark(self) -> str:
        return f" in world {random.SystemRandom().getrandbits(128)}"


def make_room(
    *purposes: CollaborationType, with_victim: bool = True, n_left_out: int = 0
) -> Callable[[World], None]:
    """Return a function that creates a room with a base audience, optionally without some users."""

    def make(world: World) -> None:
        world.new_room(*purposes)
        world.provision_base(POPULATION.files(with_victim=with_victim, n_left_out=n_left_out))

    return make


def _copy(source: str, target: str) -> object:
    # artifacts are immutable, so hard links suffice
    if "/artifacts/" in source:
        Path(target).hardlink_to(source)
        return target
    return shutil.copy2(source, target)


def _group(role: str, emails: list[str], *permissions: Permission) -> dict[str, Any]:
    return {"emails": emails, "role": role, "permissions": [each.value for each in permissions]}


def _make_job(installation: Installation, key: str, run: Run) -> object:
    build_seed_validation_report(installation, key, run)
    return build_audience(installation, key, run)


_BUILDERS: Mapping[Kind, Callable[[Installation, str, Run], object]] = {
    Kind.TRAINING_DATASET: build_training_dataset,
    Kind.AUDIENCE_MODEL: build_audience_model,
    Kind.CONFIGURED_AUDIENCE_MODEL: build_configured_audience_model,
    Kind.GENERATION_JOB: _make_job,
    Kind.EXPORT_JOB: build_audience_export,
    Kind.DATA_LAB: build_data_lab,
    Kind.DATA_ROOM: lambda home, key, run: build_room_asset(home, key, run, asset=ROOM_ASSETS[-1], finishes=True),
    Kind.CUSTOM_AUDIENCE: lambda home, key, run: build_custom_audience(home, key, run, asset="custom_audience"),
    Kind.AUDIENCE_LIST: build_audience_list,
}
