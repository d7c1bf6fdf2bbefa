"""A bucket on a real S3-compatible store, through `cleanroom serve` and boto3.

Contract: a bucket that was registered with a URL and a profile belongs to one account: a seed is fetched from it,
a complete export is written to it, and both parties store and fetch objects through the server. If the store
rejects the bucket's credentials, or has no such bucket, the job's status says so in one sentence, without the
store's address, the keys or the bucket's real name.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines_tests.server import server as endpoint

from .. import worlds
from ..object_stores import ObjectStore, empty_store, running_server

STORED, STORE_PREFIX, NOWHERE = "warehouse-of-the-store", "clean/room", "no-such-bucket-of-the-store"
WRONG, WRONG_KEY, WRONG_SECRET = "wrong", "AKIAWRONGWRONGWRONG2", "a-secret-that-opens-nothing"


@dataclass(frozen=True)
class World:
    """A small world of files, with buckets on a store."""

    server: endpoint.Server
    parties: endpoint.Parties
    store: ObjectStore
    configured_arn: str
    key: str
    secret: str

    @property
    def publisher(self) -> Any:
        return self.server.client(self.parties.publisher)

    @property
    def advertiser(self) -> Any:
        return self.server.client(self.parties.advertiser)

    def run_job(self, name: str, **changes: Any) -> Any:
        """Start a job of the advertiser and wait for its end."""
        parameters = endpoint.job_parameters(self.parties.advertiser, self.configured_arn, name, **changes)
        arn = self.advertiser.start_audience_generation_job(**parameters)["audienceGenerationJobArn"]
        return endpoint.wait_until_ended(
            lambda: self.advertiser.get_audience_generation_job(audienceGenerationJobArn=arn)
        )

    def run_export(self, job_arn: str, name: str) -> Any:
        """Export a job, wait for its end, and return it as the publisher sees it."""
        own = self.parties.publisher.own(job_arn)
        self.publisher.start_audience_export_job(**endpoint.export_parameters(own, name))

        def look() -> Any:
            listed = self.publisher.list_audience_export_jobs(audienceGenerationJobArn=own)["audienceExportJobs"]
            return next(one for one in listed if one["name"] == name)

        return endpoint.wait_until_ended(look)

    def seed_at(self, url: str) -> dict[str, Any]:
        return {"roleArn": self.parties.advertiser.role, "dataSource": {"s3Uri": url}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("store")
    with running_server() as moto, empty_store(moto, folder) as store:
        store.client().create_bucket(Bucket=STORED)
        key, secret = user_of_one_bucket(store)
        store.write_profile("own", key=key, secret=secret)
        store.write_profile(WRONG, key=WRONG_KEY, secret=WRONG_SECRET)
        installation = endpoint.installation_at(folder / "home")
        parties = endpoint.settle(installation)
        register(installation)
        with endpoint.serving(folder / "home") as server:
            publisher = server.client(parties.publisher)
            dataset = publisher.create_training_dataset(**endpoint.dataset_parameters(parties.publisher))
            model = publisher.create_audience_model(
                name="model", trainingDatasetArn=dataset["trainingDatasetArn"]
            )["audienceModelArn"]
            endpoint.wait_until_ended(lambda: publisher.get_audience_model(audienceModelArn=model))
            configured = publisher.create_configured_audience_model(
                **endpoint.configured_parameters(
                    parties.publisher, model, outputConfig=output(parties, "s3://publisher-store/audiences")
                )
            )["configuredAudienceModelArn"]
            allow = endpoint.policy_for(configured, parties.advertiser.account_id)
            publisher.put_configured_audience_model_policy(
                configuredAudienceModelArn=configured, configuredAudienceModelPolicy=allow
            )
            yield World(server, parties, store, configured, key, secret)


def user_of_one_bucket(store: ObjectStore) -> tuple[str, str]:
    """Make the store check credentials, and return a key that may use one bucket."""
    iam = store.client("iam")
    iam.create_user(UserName="clean-room")
    resources = [f"arn:aws:s3:::{name}{what}" for name in (STORED, NOWHERE) for what in ("", "/*")]
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": resources}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    iam.put_user_policy(UserName="clean-room", PolicyName="own", PolicyDocument=document)
    made = iam.create_access_key(UserName="clean-room")["AccessKey"]
    httpx.post(f"{store.url}/moto-api/reset-auth", content="0")
    return made["AccessKeyId"], made["SecretAccessKey"]


def register(installation: Installation) -> None:
    """Register a bucket, as the operator does with `cleanroom bucket register`."""
    for name, account, url, profile in (
        ("advertiser-store", endpoint.ADVERTISER, f"s3://{STORED}/{STORE_PREFIX}/seeds", "own"),
        ("publisher-store", endpoint.PUBLISHER, f"s3://{STORED}/{STORE_PREFIX}/out", "own"),
        ("advertiser-wrong", endpoint.ADVERTISER, f"s3://{STORED}/{STORE_PREFIX}/seeds", WRONG),
        ("publisher-wrong", endpoint.PUBLISHER, f"s3://{STORED}/{STORE_PREFIX}/out", WRONG),
        ("advertiser-nowhere", endpoint.ADVERTISER, f"s3://{NOWHERE}", "own"),
    ):
        installation.catalog.parties.register_bucket(name, account, url, profile)


def output(parties: endpoint.Parties, url: str) -> dict[str, Any]:
    return {"destination": {"s3Destination": {"s3Uri": url}}, "roleArn": parties.publisher.role}


def seed() -> bytes:
    return "".join(json.dumps({"user_id": worlds.user(number)}) + "\n" for number in range(worlds.N_SEED)).encode()


def objects(world: World, prefix: str) -> dict[str, bytes]:
    """List the objects below a prefix on the store, as the bucket's own user."""
    client = world.store.client("s3", world.key, world.secret)
    listed = client.list_objects_v2(Bucket=STORED, Prefix=f"{STORE_PREFIX}/{prefix}").get("Contents", ())
    keys = [str(each["Key"]) for each in listed]
    return {key: client.get_object(Bucket=STORED, Key=key)["Body"].read() for key in keys}


def test_the_seed_is_fetched_from_the_store_and_the_export_written_to_it(world: World) -> None:
    url, parties = world.server.url, world.parties
    assert endpoint.upload(url, parties.advertiser, "advertiser-store/2026/loyal.jsonl", seed()).status == 200
    assert objects(world, "seeds/") == {f"{STORE_PREFIX}/seeds/2026/loyal.jsonl": seed()}
    job = world.run_job("stored", seedAudience=world.seed_at("s3://advertiser-store/2026/loyal.jsonl"))
    assert job["status"] == "ACTIVE", job.get("statusDetails")
    export = world.run_export(job["audienceGenerationJobArn"], "stored")
    assert export["status"] == "ACTIVE", export.get("statusDetails")
    location = export["outputLocation"]
    assert location.startswith("s3://publisher-store/audiences/")

    folder = location.removeprefix("s3://publisher-store/").rstrip("/")
    stored = objects(world, f"out/{folder}/")
    manifest = json.loads(stored[f"{STORE_PREFIX}/out/{folder}/manifest.json"])
    assert manifest["delivered"] == worlds.N_USERS // 5
    assert len(stored) == 1 + len(manifest["files"])
    delivered = list[str]()
    for file in manifest["files"]:
        content = stored[f"{STORE_PREFIX}/out/{folder}/{file['name']}"]
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        delivered += [json.loads(line)["user_id"] for line in content.splitlines()]
        fetched = endpoint.download(url, parties.publisher, f"publisher-store/{folder}/{file['name']}")
        assert fetched.body == content
    seeded = {worlds.user(number) for number in range(worlds.N_SEED)}
    assert len(delivered) == len(set(delivered)) == manifest["delivered"]
    assert not seeded & set(delivered)


def test_a_folder_of_the_store_is_a_seed(world: World) -> None:
    lines = seed().splitlines(keepends=True)
    for number, part in enumerate((lines[:15], lines[15:])):
        path = f"advertiser-store/parts/part-{number}.jsonl"
        assert endpoint.upload(world.server.url, world.parties.advertiser, path, b"".join(part)).status == 200
    listed = endpoint.keys_of(world.server.url, world.parties.advertiser, "advertiser-store", "parts")
    assert listed == ["parts/part-0.jsonl", "parts/part-1.jsonl"]
    job = world.run_job("parts", seedAudience=world.seed_at("s3://advertiser-store/parts/"))
    assert job["status"] == "ACTIVE", job.get("statusDetails")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://advertiser-wrong/2026/loyal.jsonl", "rejected the bucket's credentials"),
        ("s3://advertiser-nowhere/loyal/", "does not exist on its store"),
        ("s3://advertiser-store/2026/nobody.jsonl", "was not found"),
    ],
)
def test_a_seed_that_cannot_be_fetched_is_reported(world: World, url: str, told: str) -> None:
    job = world.run_job(url.removeprefix("s3://").replace("/", " "), seedAudience=world.seed_at(url))
    assert job["status"] == "CREATE_FAILED"
    assert job["statusDetails"]["statusCode"] == "SEED_NOT_FOUND"
    assert told in job["statusDetails"]["message"]
    reveals_nothing_about_the_store(world, job["statusDetails"]["message"])


def test_a_destination_that_cannot_be_written_is_reported(world: World) -> None:
    world.publisher.update_configured_audience_model(
        configuredAudienceModelArn=world.configured_arn,
        outputConfig=output(world.parties, "s3://publisher-wrong/x"),
    )
    job = world.run_job("not writable")
    assert job["status"] == "ACTIVE", job.get("statusDetails")
    export = world.run_export(job["audienceGenerationJobArn"], "not writable")
    assert export["status"] == "CREATE_FAILED"
    assert export["statusDetails"]["statusCode"] == "DESTINATION_NOT_WRITABLE"
    assert "rejected the bucket's credentials" in export["statusDetails"]["message"]
    reveals_nothing_about_the_store(world, export["statusDetails"]["message"])
    assert "outputLocation" not in export


def test_each_account_has_its_own_buckets_of_the_store(world: World) -> None:
    publisher, advertiser = world.parties.publisher, world.parties.advertiser
    with pytest.raises(world.advertiser.exceptions.AccessDeniedException):
        world.run_job("theirs", seedAudience=world.seed_at("s3://publisher-store/audiences/seed.jsonl"))
    for party, bucket in ((publisher, "advertiser-store"), (advertiser, "publisher-store")):
        assert endpoint.upload(world.server.url, party, f"{bucket}/x.jsonl", b"x").status == 403
        assert endpoint.download(world.server.url, party, bucket).status == 403
    assert not [key for key in objects(world, "") if key.endswith("/x.jsonl")]


def reveals_nothing_about_the_store(world: World, message: str) -> None:
    host = world.store.url.removeprefix("http://")
    secrets = [
        host,
        host.split(":")[1],
        WRONG_KEY,
        WRONG_SECRET,
        world.key,
        world.secret,
        STORED,
        STORE_PREFIX,
        NOWHERE,
    ]
    assert not [secret for secret in [*secrets, "s3://", "http"] if secret in message]
