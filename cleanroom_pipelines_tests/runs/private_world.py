"""A publisher and an advertiser of two organisations who use the AWS API, with large seeds.

Lives here: a home with a trained model and shared sizes, created once and copied; starting jobs over the API,
doing their work, and what each side sees.
Keep out: assertions.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cleanroom_pipelines.catalog import Kind, Pair, Version
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.server.starting import make_gateway
from cleanroom_pipelines_tests.server.server import (
    ADVERTISER,
    DATABASE,
    PUBLISHER,
    STRANGER,
    TABLE,
    Parties,
    add_party,
    client_of,
    configured_parameters,
    dataset_parameters,
    export_parameters,
    job_parameters,
    policy_for,
)

from .. import worlds

N_USERS, N_GROUP, N_SEED = 1_500, 700, 500
SIZES = [5, 10, 20, 60]
GROUP = tuple(worlds.user(number) for number in range(N_GROUP))
SEED = GROUP[:N_SEED]
SHOP, BRAND = "shop.example", "brand.example"
_IDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|-[0-9a-f]{12}\b")


def build_private_world(folder: Path) -> None:
    """Make `home`, in which a model is trained and configured, and `parties.json`."""
    installation = Installation(Settings.from_environment(worlds.settings(folder / "home")))
    parties = [add_party(installation, name, account) for name, account in _ACCOUNTS.items()]
    for account, organization in ((PUBLISHER, SHOP), (ADVERTISER, BRAND)):
        installation.catalog.pairs.set_organization(organization, account_id=account)
    table = installation.home.accounts / PUBLISHER / "warehouse" / DATABASE / TABLE
    table.mkdir(parents=True)
    worlds.write_events(table / "a.parquet", _events())
    world = PrivateWorld(installation, Parties(*parties))
    dataset = world.publisher.create_training_dataset(**dataset_parameters(parties[0]))["trainingDatasetArn"]
    model = world.publisher.create_audience_model(name="model", trainingDatasetArn=dataset)["audienceModelArn"]
    world.work()
    sizes = {"audienceSizeType": "PERCENTAGE", "audienceSizeBins": SIZES}
    made = world.publisher.create_configured_audience_model(
        **configured_parameters(parties[0], model, audienceSizeConfig=sizes)
    )
    world.publisher.put_configured_audience_model_policy(
        configuredAudienceModelArn=made["configuredAudienceModelArn"],
        configuredAudienceModelPolicy=policy_for(made["configuredAudienceModelArn"], ADVERTISER),
    )
    world.work()
    (folder / "parties.json").write_text(json.dumps([vars(party) for party in parties]))
    installation.catalog.database.close()


@contextmanager
def open_private_world(folder: Path, **more: Any) -> Iterator["PrivateWorld"]:
    """Open a world whose files are a copy of those that `build_private_world` wrote."""
    installation = Installation(Settings.from_environment(worlds.settings(folder / "home")), **more)
    parties = [add_party(installation, name, account) for name, account in _ACCOUNTS.items()]
    yield PrivateWorld(installation, Parties(*parties))
    installation.catalog.database.close()


@dataclass(frozen=True)
class PrivateWorld:
    """Two organisations and the API between them.

    Args:
        installation: Where.
        parties: Who meets.
    """

    installation: Installation
    parties: Parties

    @cached_property
    def publisher(self) -> Any:
        """The publisher's client."""
        return client_of(make_gateway(self.installation, is_strict=True), self.parties.publisher)

    @cached_property
    def advertiser(self) -> Any:
        """The advertiser's client."""
        return client_of(make_gateway(self.installation, is_strict=True), self.parties.advertiser)

    @property
    def pair(self) -> Pair:
        """The pair that pays."""
        return self.installation.catalog.pairs.pair(SHOP, BRAND)

    @property
    def spent(self) -> int:
        """Tenths of a unit that the pair has spent."""
        return self.installation.catalog.pairs.ledger(self.pair.id).spent

    def collaboration(self, **terms: bool) -> str:
        """A collaboration of the two on these terms."""
        made = self.installation.catalog.parties.create_collaboration("both", [PUBLISHER, ADVERTISER], **terms)
        return made.id

    def start(self, name: str, users: Sequence[str] = SEED, **changes: Any) -> str:
        """Start a job of the advertiser's; its ARN."""
        folder = self.installation.home.accounts / ADVERTISER / "buckets" / "advertiser-seeds"
        folder.mkdir(parents=True, exist_ok=True)
        worlds.write_seed(folder / f"{name}.jsonl", users)
        source = {"s3Uri": f"s3://advertiser-seeds/{name}.jsonl"}
        configured = worlds.the(self.installation, Kind.CONFIGURED_AUDIENCE_MODEL)
        parameters = job_parameters(
            self.parties.advertiser,
            str(configured.arn),
            name,
            seedAudience={"roleArn": self.parties.advertiser.role, "dataSource": source},
            **changes,
        )
        return str(self.advertiser.start_audience_generation_job(**parameters)["audienceGenerationJobArn"])

    def job(self, name: str, users: Sequence[str] = SEED, **changes: Any) -> str:
        """Start a job and do its work; its ARN."""
        arn = self.start(name, users, **changes)
        self.work()
        return arn

    def work(self) -> None:
        """Do all pending work, as a worker does."""
        while ready := self.installation.catalog.work.ready():
            for version in ready:
                self._do(version)

    def _do(self, version: Version) -> None:
        for asset in ASSETS_OF[version.kind]:
            try:
                worlds.make(self.installation, asset, version.resource_id, Run("run", number=version.number))
            except CleanroomError:
                return  # the version says so

    def told(self, arn: str) -> list[dict[str, Any]]:
        """What the API tells of a job: to its starter, to the model's owner."""
        own = self.parties.publisher.own(arn)
        return [
            self.advertiser.get_audience_generation_job(audienceGenerationJobArn=arn),
            self.publisher.get_audience_generation_job(audienceGenerationJobArn=own),
        ]

    def message(self, arn: str) -> str:
        """What the status of a job says to its starter."""
        return str(self.told(arn)[0]["statusDetails"]["message"])

    def export(self, arn: str, size: int = 20, name: str = "best") -> "Listed":
        """Export a job; what lies at the publisher's place."""
        parameters = export_parameters(arn, name, audienceSize={"type": "PERCENTAGE", "value": size})
        self.advertiser.start_audience_export_job(**parameters)
        self.work()
        own = self.publisher.list_audience_export_jobs()["audienceExportJobs"]
        status = next(one for one in own if one["name"] == name)
        location = status.get("outputLocation")
        if location is None:
            return Listed(status, (), {})
        place = self.installation.buckets.destination(PUBLISHER, location.rstrip("/")).folder
        assert place is not None
        manifest = json.loads((place / "manifest.json").read_text())
        lines = [line for part in manifest["files"] for line in (place / part["name"]).read_text().splitlines()]
        return Listed(status, tuple(json.loads(line)["user_id"] for line in lines), manifest)

    def ranking(self, arn: str) -> list[str]:
        """The ranking of a job, best first; the operator's."""
        job = arn.rpartition("/")[2]
        version = self.installation.catalog.resources.current_version(Kind.GENERATION_JOB, job)
        assert version is not None
        folder = self.installation.home.artifacts / "audience" / job[-12:] / version.artifacts["audience"]
        table = pq.read_table(folder / "ranking.parquet").sort_by("rank")
        return list(table["user_id"].to_pylist())


@dataclass(frozen=True)
class Listed:
    """An export.

    Args:
        status: What the model's owner is told of its job.
        users: As the files hold them.
        manifest: Beside them.
    """

    status: dict[str, Any]
    users: tuple[str, ...]
    manifest: dict[str, Any]


def plain(told: Any) -> str:
    """An answer without ids, times and names, which differ from job to job."""
    kept = json.loads(json.dumps(told, default=str))

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            unlike = {"createTime", "updateTime", "ResponseMetadata", "name", "seedAudience"}
            return {key: cleaned(each) for key, each in value.items() if key not in unlike}
        if isinstance(value, list):
            return [cleaned(each) for each in value]
        return _IDS.sub("-", value.split(":")[-1].rpartition("/")[0]) if str(value).startswith("arn:") else value

    return json.dumps(cleaned(kept), sort_keys=True)


_ACCOUNTS = {"publisher": PUBLISHER, "advertiser": ADVERTISER, "stranger": STRANGER}


def _events() -> list[tuple[str, str, int]]:
    """Of 40 items the first ten are what the group mostly takes."""
    dice = random.Random(11)
    rows = []
    for number in range(12 * N_USERS):
        who = number % N_USERS
        n_items = 10 if who < N_GROUP and dice.random() < 0.6 else 40
        second = worlds.FIRST_SECOND + dice.randrange(worlds.DAYS * 86_400)
        rows.append((worlds.user(who), f"item-{dice.randrange(n_items):02d}", second))
    return rows
