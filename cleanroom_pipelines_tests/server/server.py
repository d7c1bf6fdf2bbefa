"""The server for tests: two parties with their data, `cleanroom serve` as a process, and real clients.

Lives here: the small world of a publisher and an advertiser, starting the server on a free port, the same gateway
in this process, boto3 clients, uploads and downloads.
Keep out: fixtures (conftest.py) and assertions.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config

from cleanroom_pipelines.catalog import RECORDS, Kind, ParentRef
from cleanroom_pipelines.errors import NotFoundError
from cleanroom_pipelines.runs.credentials import issue_access_key
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.server.gateway import Gateway
from cleanroom_pipelines.server.starting import make_gateway
from cleanroom_pipelines_tests.aws.requests import SERVICE, RawAnswer, RawRequest, send, sign

from .. import worlds
from ..journeys.developing import end_with_children

REGION = "eu-central-1"
PUBLISHER, ADVERTISER, STRANGER = "222222222222", "111111111111", "333333333333"
DATABASE, TABLE, CUSTOMERS = "shop", "events", "customers"
SEED = "s3://advertiser-seeds/loyal.jsonl"
OUTPUT = "s3://publisher-audiences/shop"
# what a job that ended well says of itself
SUMMARY = {
    "sentence": "Made.",
    "metrics": {
        "recall": 0.75,
        "recall_at": {"type": "PERCENTAGE", "value": 20},
        "relevance": [
            {"type": "PERCENTAGE", "value": 5, "score": 0.5},
            {"type": "PERCENTAGE", "value": 10, "score": -0.25},
            {"type": "PERCENTAGE", "value": 20, "score": None},
        ],
        "n_users": 300,
        "warnings": [],
    },
}


@dataclass(frozen=True)
class Party:
    """An account with a key.

    Attributes:
        account_id: 12 digits.
        key_id: Of its access key.
        secret: Of its access key.
    """

    account_id: str
    key_id: str
    secret: str

    @property
    def role(self) -> str:
        """A role of this account."""
        return f"arn:aws:iam::{self.account_id}:role/clean-room"

    def own(self, arn: str) -> str:
        """The ARN of a job of two accounts as this one knows it."""
        parts = arn.split(":")
        return ":".join([*parts[:4], self.account_id, *parts[5:]])


@dataclass(frozen=True)
class Parties:
    """The parties of the small world.

    Attributes:
        publisher: Has the table `shop.events` of 300 users and 40 items.
        advertiser: Has the seed `SEED` and the table `shop.customers`, of 40 users who like ten of the items.
        stranger: Has nothing.
    """

    publisher: Party
    advertiser: Party
    stranger: Party


@dataclass(frozen=True)
class Server:
    """A running `cleanroom serve`.

    Attributes:
        url: Where it listens.
        home: Its home.
        process: It; its worker is a child.
        log: What it and its worker say.
    """

    url: str
    home: Path
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, party: Party, **config: Any) -> Any:
        """A boto3 client of a party."""
        return client(self.url, party, **config)

    def call(self, party: Party, request: RawRequest) -> RawAnswer:
        """Sign a raw request and send it."""
        return send(self.url, signed(request, party, self.url), timeout_seconds=120)


def installation_at(home: Path, **more: str) -> Installation:
    """Open a small installation, without using the environment.

    Args:
        home: Its folder.
        **more: Settings by environment variable.
    """
    return Installation(Settings.from_environment(worlds.settings(home) | more))


def add_party(installation: Installation, name: str, account_id: str | None = None) -> Party:
    """Create an account, if it does not exist, and a key for it."""
    catalog = installation.catalog
    try:
        account = catalog.parties.account(account_id or "")
    except NotFoundError:
        account = catalog.parties.create_account(name, account_id)
    return Party(account.id, *issue_access_key(installation, account.id))


def settle(installation: Installation) -> Parties:
    """Write the small world into a home: accounts, tables and the seed."""
    parties = Parties(
        add_party(installation, "publisher", PUBLISHER),
        add_party(installation, "advertiser", ADVERTISER),
        add_party(installation, "stranger", STRANGER),
    )
    for party in (parties.publisher, parties.advertiser):
        # of one organisation: 40 seed users are too few for a private ranking
        installation.catalog.pairs.set_organization("Loyal group", account_id=party.account_id)
    accounts = installation.home.accounts
    worlds.write_events(
        _folder(accounts / PUBLISHER / "warehouse" / DATABASE / TABLE) / "a.parquet", worlds.events()
    )
    loyal = [worlds.user(number) for number in range(worlds.N_SEED)]
    customers = pa.table({"user_id": loyal, "visits": pa.array(range(len(loyal)), pa.int64())})
    folder = _folder(accounts / ADVERTISER / "warehouse" / DATABASE / CUSTOMERS)
    pq.write_table(customers, folder / "a.parquet")
    worlds.write_seed(_folder(accounts / ADVERTISER / "buckets" / "advertiser-seeds") / "loyal.jsonl", loyal)
    return parties


@cache
def _settled() -> tuple[Parties, dict[str, bytes]]:
    """Return the small world and its files, built once: copying them is ten times as fast."""
    with TemporaryDirectory() as folder:
        installation = installation_at(Path(folder))
        parties = settle(installation)
        installation.catalog.database.close()
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return parties, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def serving(
    home: Path, *arguments: str, environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Iterator[Server]:
    """Run `cleanroom serve` on a home, on a free port, until the block ends.

    Args:
        home: Made if it does not exist.
        *arguments: Such as `--no-worker`.
        environment: Variables beside those that keep it small.
        log: Where its words go; beside the home if not given.
    """
    log = log or home.parent / f"{home.name}-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "cleanroom_pipelines.cli.main", "serve", "--port", "0", *arguments],
            env={**os.environ, **worlds.settings(home), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=stream,
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()  # nothing, if it ends before it is ready
        assert url.startswith(("http://", "https://")), log.read_text(errors="replace")[-2000:]
        yield Server(url, home, process, log)
    finally:
        end_with_children(process)
        assert process.stdout is not None
        process.stdout.close()


def client(
    url: str | None,
    party: Party,
    *,
    region: str = REGION,
    service: str = "cleanroomsml",
    ca: Path | None = None,
    **config: Any,
) -> Any:
    """Return a real client of a party, which ignores the AWS profile of the current user.

    Args:
        url: The endpoint; None leaves it to the environment.
        party: Who calls.
        region: Region of the signature.
        service: Whose model the client has.
        ca: Certificate that it trusts, if the endpoint speaks TLS.
        **config: Of botocore's `Config`.
    """
    return _session().client(
        service,
        endpoint_url=url,
        region_name=region,
        verify=None if ca is None else str(ca),
        aws_access_key_id=party.key_id,
        aws_secret_access_key=party.secret,
        config=Config(**({"retries": {"total_max_attempts": 1}} | config)),
    )


@cache
def _session() -> boto3.Session:
    """Return a session that ignores the AWS profile of the current user; cached, because creating one is slow."""
    session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
    session.set_config_variable("config_file", os.devnull)
    return boto3.Session(botocore_session=session)


def client_of(
    gateway: Gateway,
    party: Party,
    *,
    region: str = REGION,
    service: str = "cleanroomsml",
    url: str = "http://gateway.test",
) -> Any:
    """Return a real client of a gateway in this process, without a socket."""
    made = client(url, party, region=region, service=service)
    answer = _answering(gateway)

    def before_send(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        parts = urlsplit(request.url)
        texts = [(name, _text(value)) for name, value in request.headers.items()]
        body = request.body or b""
        raw = RawRequest(
            request.method,
            parts.path,
            parts.query,
            (("Host", parts.netloc), *texts),
            body.encode() if isinstance(body, str) else bytes(body),
        )
        given = answer(raw)
        return AWSResponse(request.url, given.status, dict(given.headers), _Content(given.body))

    made.meta.events.register("before-send.*.*", before_send)
    return made


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class _Content:
    """A body that botocore can read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


def ask(gateway: Gateway, request: RawRequest) -> RawAnswer:
    """Send a request to a gateway in this process, as a web server would."""
    return _answering(gateway)(request)


def _answering(gateway: Gateway) -> Callable[[RawRequest], RawAnswer]:
    def answer(request: RawRequest) -> RawAnswer:
        return asyncio.run(_asked(gateway, request))

    return answer


async def _asked(gateway: Gateway, request: RawRequest) -> RawAnswer:
    scope = {
        "type": "http",
        "client": ("127.0.0.1", 50_000),
        "method": request.method,
        "raw_path": request.raw_path.encode(),
        "query_string": request.raw_query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers],
    }
    told: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def take(message: MutableMapping[str, Any]) -> None:
        told.append(message)

    await gateway(scope, receive, take)
    start = told[0]
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
    return RawAnswer(start["status"], headers, b"".join(message.get("body", b"") for message in told[1:]))


def signed(
    request: RawRequest, party: Party, url: str, *, region: str = REGION, service: str = SERVICE
) -> RawRequest:
    """Sign a request for a party with the current time."""
    return sign(
        request,
        now=datetime.now(UTC),
        key_id=party.key_id,
        secret=party.secret,
        region=region,
        service=service,
        host=urlsplit(url).netloc,
    )


def upload(url: str, party: Party, path: str, content: bytes) -> RawAnswer:
    """Upload an object; `path` is `bucket/key`, percent-encoded."""
    request = RawRequest("PUT", f"/{path}", "", (), content)
    return send(url, signed(request, party, url, service="s3"), timeout_seconds=120)


def download(url: str, party: Party, path: str) -> RawAnswer:
    """Download an object."""
    return send(url, signed(RawRequest("GET", f"/{path}"), party, url, service="s3"), timeout_seconds=120)


def s3_client(url: str, party: Party, **options: Any) -> Any:
    """Return an unmodified boto3 client for a party's buckets; `options` are those of its configuration."""
    return _session().client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=party.key_id,
        aws_secret_access_key=party.secret,
        config=Config(retries={"total_max_attempts": 1}, **options),
    )


def keys_of(url: str, party: Party, bucket: str, prefix: str = "") -> list[str]:
    """Return the keys of a bucket."""
    pages = s3_client(url, party).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [each["Key"] for page in pages for each in page.get("Contents", ())]


def dataset_parameters(party: Party, name: str = "events", **changes: Any) -> dict[str, Any]:
    """Return parameters of a training dataset on the publisher's table."""
    columns = [{"columnName": column, "columnTypes": [role]} for column, role in worlds.ROLES.items()]
    source = {"glueDataSource": {"databaseName": DATABASE, "tableName": TABLE}}
    data = {"type": "INTERACTIONS", "inputConfig": {"schema": columns, "dataSource": source}}
    return {"name": name, "roleArn": party.role, "trainingData": [data]} | changes


def configured_parameters(
    party: Party, model_arn: str, name: str = "lookalikes", **changes: Any
) -> dict[str, Any]:
    """Return parameters of a configured model, with three sizes and the smallest minimum."""
    return {
        "name": name,
        "audienceModelArn": model_arn,
        "outputConfig": {"destination": {"s3Destination": {"s3Uri": OUTPUT}}, "roleArn": party.role},
        "sharedAudienceMetrics": ["ALL"],
        "minMatchingSeedSize": 25,
        "audienceSizeConfig": {"audienceSizeType": "PERCENTAGE", "audienceSizeBins": [5, 10, 20]},
    } | changes


def job_parameters(party: Party, configured_arn: str, name: str = "loyal", **changes: Any) -> dict[str, Any]:
    """Return parameters of a job with a party's seed."""
    seed = {"roleArn": party.role, "dataSource": {"s3Uri": SEED}}
    return {"name": name, "configuredAudienceModelArn": configured_arn, "seedAudience": seed} | changes


def export_parameters(job_arn: str, name: str = "best", **changes: Any) -> dict[str, Any]:
    """Return parameters of an export of a job's top fifth."""
    return {
        "name": name,
        "audienceGenerationJobArn": job_arn,
        "audienceSize": {"type": "PERCENTAGE", "value": 20},
    } | changes


def policy_for(configured_arn: str, *account_ids: str, **statement: Any) -> str:
    """Return a policy that allows these accounts to start jobs on a configured model."""
    allowed = {
        "Effect": "Allow",
        "Principal": {"AWS": list(account_ids)},
        "Action": "cleanrooms-ml:StartAudienceGenerationJob",
        "Resource": configured_arn,
    } | statement
    return json.dumps({"Version": "2012-10-17", "Statement": [allowed]})


@dataclass(frozen=True)
class Room:
    """The small world behind a gateway in this process; its work is finished without being executed.

    Attributes:
        installation: Its catalogue says what is there.
        parties: Who meets.
        gateway: Holds every output against its shape.
        clients: By account and region; see `client`.
    """

    installation: Installation
    parties: Parties
    gateway: Gateway
    clients: dict[tuple[str, str], Any] = field(default_factory=dict)

    @classmethod
    def open(cls, home: Path, **more: str) -> "Room":
        """A room on a new home.

        Args:
            home: Its folder, made by this.
            **more: Settings by environment variable.
        """
        parties, files = _settled()
        for path, content in files.items():
            (_folder((home / path).parent) / Path(path).name).write_bytes(content)
        installation = installation_at(home, **more)
        installation.catalog.database.stay_connected()  # as a server does
        return cls(installation, parties, make_gateway(installation, is_strict=True))

    def client(self, party: Party, region: str = REGION) -> Any:
        """A real client of a party."""
        key = (party.key_id, region)
        if key not in self.clients:
            self.clients[key] = client_of(self.gateway, party, region=region)
        return self.clients[key]

    @property
    def publisher(self) -> Any:
        """The publisher's client."""
        return self.client(self.parties.publisher)

    @property
    def advertiser(self) -> Any:
        """The advertiser's client."""
        return self.client(self.parties.advertiser)

    def ask(self, party: Party, request: RawRequest, *, service: str = SERVICE) -> RawAnswer:
        """Sign a raw request and give it to the gateway."""
        return ask(self.gateway, signed(request, party, "http://gateway.test", service=service))

    def finish(self) -> None:
        """Finish all pending work as successful."""
        catalog = self.installation.catalog
        while ready := catalog.work.ready():
            for version in ready:
                claim = catalog.work.claim(version.kind, version.resource_id, version.number, "run")
                assert claim is not None
                record = catalog.get(RECORDS[version.kind], version.resource_id)
                parents = ()
                if record.parent_kind is not None and record.parent_id is not None:
                    parent = catalog.get(RECORDS[record.parent_kind], record.parent_id)
                    parents = (ParentRef(parent.kind, parent.id, parent.current_version or 1),)
                if version.kind is Kind.EXPORT_JOB:
                    catalog.work.publish_output(claim, f"{OUTPUT}/{record.id}/")
                catalog.work.finish(claim, SUMMARY, parents)

    def dataset(self, name: str = "events", **changes: Any) -> str:
        """A training dataset of the publisher's; its ARN."""
        made = self.publisher.create_training_dataset(
            **dataset_parameters(self.parties.publisher, name, **changes)
        )
        return str(made["trainingDatasetArn"])

    def model(self, name: str = "model", dataset: str | None = None, **changes: Any) -> str:
        """An ACTIVE audience model of the publisher's, on a dataset of the same name if none is given; its ARN."""
        made = self.publisher.create_audience_model(
            name=name, trainingDatasetArn=dataset or self.dataset(name), **changes
        )
        self.finish()
        return str(made["audienceModelArn"])

    def configured(self, name: str = "lookalikes", model: str | None = None, **changes: Any) -> str:
        """Create a configured audience model of the publisher's, without a policy; return its ARN."""
        parameters = configured_parameters(self.parties.publisher, model or self.model(name), name, **changes)
        made = self.publisher.create_configured_audience_model(**parameters)
        return str(made["configuredAudienceModelArn"])

    def shared(self, name: str = "lookalikes", **changes: Any) -> str:
        """A configured audience model of the publisher's that the advertiser may use; its ARN."""
        arn = self.configured(name, **changes)
        policy = policy_for(arn, self.parties.advertiser.account_id)
        self.publisher.put_configured_audience_model_policy(
            configuredAudienceModelArn=arn, configuredAudienceModelPolicy=policy
        )
        return arn

    def job(self, configured: str, name: str = "loyal", **changes: Any) -> str:
        """A job of the advertiser's, not begun; its ARN."""
        parameters = job_parameters(self.parties.advertiser, configured, name, **changes)
        return str(self.advertiser.start_audience_generation_job(**parameters)["audienceGenerationJobArn"])


def wait_until_ended(
    look: Callable[[], Mapping[str, Any]], *, seconds: float = 300, every: float = 0.2
) -> Mapping[str, Any]:
    """Poll a model, job or export until it is neither pending nor in progress."""

    def ended() -> Mapping[str, Any] | None:
        seen = look()
        return None if seen["status"] in ("CREATE_PENDING", "CREATE_IN_PROGRESS") else seen

    return worlds.wait_until(ended, seconds=seconds, what="the end of the work", every=every)


def wait_until_gone(look: Callable[[], Any], missing: type[Exception], *, seconds: float = 300) -> None:
    """Poll a resource until it no longer exists."""

    def gone() -> bool:
        try:
            look()
        except missing:
            return True
        return False

    worlds.wait_until(gone, seconds=seconds, what="a deletion", every=0.2)
