"""The AWS CLI, installed from PyPI into its own environment, against a real `cleanroom serve`.

Contract: all calls of two accounts work from the command line: parameters from options and from files, `--query`,
`--output text`, pages, dates. Rejections are shown with the CLI's exit codes: 255 with the service's error, or 2
with the CLI's own.
"""

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cleanroom_pipelines_tests.server import server as endpoint

from .. import worlds

pytestmark = pytest.mark.sdk

VERSION = "awscli==1.46.3"
_EVERY_SECONDS = 2.0  # a look is a process, which takes as long from the work that is waited for
REFUSED = 255  # of version 1, which PyPI has; version 2 says 254


@dataclass(frozen=True)
class Aws:
    """The program `aws`, run by one party.

    Attributes:
        program: The CLI.
        party: The party whose key it uses.
        url: The endpoint.
        folder: Its working directory, with the party's files.
        by_option: Whether the endpoint is given by `--endpoint-url` instead of the environment.
    """

    program: Path
    party: endpoint.Party
    url: str
    folder: Path
    by_option: bool = False

    def run(self, *words: str, service: str = "cleanroomsml") -> "subprocess.CompletedProcess[str]":
        """Run `aws cleanroomsml …`, or a command of another service."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
            "AWS_ACCESS_KEY_ID": self.party.key_id,
            "AWS_SECRET_ACCESS_KEY": self.party.secret,
            "AWS_DEFAULT_REGION": endpoint.REGION,
            "AWS_CONFIG_FILE": "config",
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }
        options = ["--endpoint-url", self.url] if self.by_option else []
        if not self.by_option:
            environment["AWS_ENDPOINT_URL"] = f"{self.url}/"
        return subprocess.run(
            [str(self.program), *options, service, *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )

    def text(self, *words: str, service: str = "cleanroomsml") -> str:
        """Return what a successful command prints."""
        done = self.run(*words, service=service)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def json(self, *words: str) -> Any:
        """Return what a successful command prints, parsed as JSON; None if it prints nothing."""
        printed = self.text(*words)
        return json.loads(printed) if printed else None

    def rejected(self, *words: str) -> str:
        """Return what a command prints when the service rejects it."""
        done = self.run(*words)
        assert done.returncode == REFUSED, (done.returncode, done.stderr)
        assert not done.stdout
        return done.stderr.strip()

    def write(self, name: str, content: Any) -> str:
        """Write a JSON file into the working directory, and return the CLI argument that refers to it."""
        (self.folder / name).write_text(json.dumps(content))
        return f"file://{name}"


@dataclass(frozen=True)
class Desk:
    """The two parties that use the CLI."""

    publisher: Aws
    advertiser: Aws


@pytest.fixture(scope="module")
def program(pytestconfig: pytest.Config) -> Path:
    """The CLI, installed once and kept in pytest's cache."""
    folder = pytestconfig.cache.mkdir(VERSION.replace("==", "-")) / f"py{sys.version_info[0]}{sys.version_info[1]}"
    ready = folder / "ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", VERSION]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        ready.touch()
    return folder / "bin" / "aws"


@pytest.fixture(scope="module")
def desk(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("cli")
    parties = endpoint.settle(endpoint.installation_at(folder / "home"))
    with endpoint.serving(folder / "home") as server:
        yield Desk(
            Aws(program, parties.publisher, server.url, own_folder(folder, "publisher"), by_option=True),
            Aws(program, parties.advertiser, server.url, own_folder(folder, "advertiser")),
        )


def own_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    # of version 2, which version 1 ignores
    (folder / name / "config").write_text("[default]\ncli_binary_format = raw-in-base64-out\ncli_pager =\n")
    return folder / name


def training_data(columns: dict[str, str]) -> list[dict[str, Any]]:
    schema = [{"columnName": column, "columnTypes": [role]} for column, role in columns.items()]
    source = {"glueDataSource": {"databaseName": endpoint.DATABASE, "tableName": endpoint.TABLE}}
    return [{"type": "INTERACTIONS", "inputConfig": {"schema": schema, "dataSource": source}}]


def ended(look: Any) -> Any:
    return endpoint.wait_until_ended(look, every=_EVERY_SECONDS)


def test_the_whole_journey(desk: Desk) -> None:
    publisher, advertiser = desk.publisher, desk.advertiser
    p_role, a_role = publisher.party.role, advertiser.party.role

    dataset = publisher.text(
        *("create-training-dataset", "--name", "events", "--role-arn", p_role, "--description", "Käufe, été"),
        *("--training-data", publisher.write("training-data.json", training_data(worlds.ROLES))),
        *("--tags", '{"team": "ads", "cost centre": "a/b"}', "--query", "trainingDatasetArn", "--output", "text"),
    )
    shown = publisher.json("get-training-dataset", "--training-dataset-arn", dataset)
    assert (shown["status"], shown["description"]) == ("ACTIVE", "Käufe, été")
    assert shown["trainingData"] == training_data_shown(publisher)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", shown["createTime"])
    publisher.text("tag-resource", "--resource-arn", dataset, "--tags", "gone=soon")
    publisher.text("untag-resource", "--resource-arn", dataset, "--tag-keys", "gone", "never")
    tags = publisher.json("list-tags-for-resource", "--resource-arn", dataset, "--query", "tags")
    assert tags == {"team": "ads", "cost centre": "a/b"}

    model = publisher.text(
        *("create-audience-model", "--name", "model", "--training-dataset-arn", dataset),
        *("--training-data-start-time", "2023-11-01T00:00:00+01:00", "--training-data-end-time", "2024-06-01"),
        *("--query", "audienceModelArn", "--output", "text"),
    )
    trained = ended(lambda: publisher.json("get-audience-model", "--audience-model-arn", model))
    assert trained["status"] == "ACTIVE", trained
    assert trained["trainingDataStartTime"].startswith("2023-10-31T23:00:00")

    configured = publisher.text(
        "create-configured-audience-model",
        *("--cli-input-json", publisher.write("configured.json", configuration(p_role, model))),
        *("--query", "configuredAudienceModelArn", "--output", "text"),
    )
    publisher.text(
        *("update-configured-audience-model", "--configured-audience-model-arn", configured),
        *("--min-matching-seed-size", "25"),
    )
    (publisher.folder / "policy.json").write_text(endpoint.policy_for(configured, advertiser.party.account_id))
    told = publisher.json(
        *("put-configured-audience-model-policy", "--configured-audience-model-arn", configured),
        *("--configured-audience-model-policy", "file://policy.json"),
    )
    kept = publisher.json("get-configured-audience-model-policy", "--configured-audience-model-arn", configured)
    assert kept["policyHash"] == told["policyHash"]

    job = advertiser.text(
        *("start-audience-generation-job", "--name", "loyal", "--configured-audience-model-arn", configured),
        *("--seed-audience", f"roleArn={a_role},dataSource={{s3Uri={endpoint.SEED}}}"),
        *("--query", "audienceGenerationJobArn", "--output", "text"),
    )
    theirs = publisher.party.own(job)
    done = ended(lambda: advertiser.json("get-audience-generation-job", "--audience-generation-job-arn", job))
    assert done["status"] == "ACTIVE", done
    assert 0 < done["metrics"]["recallMetric"] <= 1
    assert "seedAudience" not in publisher.json(
        "get-audience-generation-job", "--audience-generation-job-arn", theirs
    )

    advertiser.text(
        *("start-audience-export-job", "--name", "best", "--audience-generation-job-arn", job),
        *("--audience-size", "type=PERCENTAGE,value=20"),
    )
    ended(lambda: advertiser.json("list-audience-export-jobs", "--query", "audienceExportJobs[0]"))
    assert advertiser.json("list-audience-export-jobs", "--query", "audienceExportJobs[].outputLocation") == []
    location = publisher.text(
        *("list-audience-export-jobs", "--audience-generation-job-arn", theirs),
        *("--query", "audienceExportJobs[?status=='ACTIVE'] | [0].outputLocation", "--output", "text"),
    )
    manifest = endpoint.download(
        publisher.url, publisher.party, f"{location.removeprefix('s3://').rstrip('/')}/manifest.json"
    )
    assert json.loads(manifest.body)["delivered"] == worlds.N_USERS // 5

    assert "(ConflictException)" in publisher.rejected(
        "delete-training-dataset", "--training-dataset-arn", dataset
    )
    publisher.text("delete-audience-generation-job", "--audience-generation-job-arn", theirs)
    gone(advertiser, "get-audience-generation-job", "--audience-generation-job-arn", job)
    publisher.text("delete-configured-audience-model-policy", "--configured-audience-model-arn", configured)
    publisher.text("delete-configured-audience-model", "--configured-audience-model-arn", configured)
    publisher.text("delete-audience-model", "--audience-model-arn", model)
    gone(publisher, "get-audience-model", "--audience-model-arn", model)
    publisher.text("delete-training-dataset", "--training-dataset-arn", dataset)
    gone(publisher, "get-training-dataset", "--training-dataset-arn", dataset)


def training_data_shown(publisher: Aws) -> list[dict[str, Any]]:
    """Return the training data that was given, and the expected catalogue."""
    [data] = training_data(worlds.ROLES)
    data["inputConfig"]["dataSource"]["glueDataSource"]["catalogId"] = publisher.party.account_id
    return [data]


def configuration(role: str, model: str) -> dict[str, Any]:
    return {
        "name": "lookalikes",
        "audienceModelArn": model,
        "outputConfig": {"destination": {"s3Destination": {"s3Uri": endpoint.OUTPUT}}, "roleArn": role},
        "sharedAudienceMetrics": ["ALL"],
        "audienceSizeConfig": {"audienceSizeType": "PERCENTAGE", "audienceSizeBins": [5, 10, 20]},
    }


def gone(aws: Aws, *words: str) -> None:
    def is_deleted() -> bool:
        done = aws.run(*words)
        assert done.returncode == 0 or "(ResourceNotFoundException)" in done.stderr, done.stderr
        return done.returncode == REFUSED

    worlds.wait_until(is_deleted, seconds=300, what="a deletion", every=_EVERY_SECONDS)


def test_the_services_around_the_api(desk: Desk) -> None:
    for aws in (desk.publisher, desk.advertiser):
        account = aws.party.account_id
        words = ("get-caller-identity", "--query", "Account", "--output", "text")
        assert aws.text(*words, service="sts") == account
        assert json.loads(aws.text("list-collaborations", service="cleanrooms")) == {"collaborationList": []}
        (aws.folder / "part ü.csv").write_text("user_id\n")
        (aws.folder / "_schema.json").write_text('[{"Name": "user_id", "Type": "string"}]')
        table = f"s3://warehouse-{account}/shop/from the cli/"
        for name in ("part ü.csv", "_schema.json"):
            aws.text("cp", name, f"{table}day=1/{name}" if name[0] == "p" else table, service="s3")
        listed = aws.text("ls", table, "--recursive", service="s3")
        assert "day=1/part ü.csv" in listed
        aws.text("cp", f"{table}day=1/part ü.csv", "back.csv", service="s3")
        assert (aws.folder / "back.csv").read_text() == "user_id\n"
        aws.text("rm", table, "--recursive", service="s3")
        done = aws.run("get-tables", "--database-name", "shop", service="glue")
        assert (done.returncode, "GetTables of the service glue is not available here." in done.stderr) == (
            REFUSED,
            True,
        )


def test_lists_are_paged_by_the_cli(desk: Desk) -> None:
    advertiser = desk.advertiser
    data = advertiser.write("data.json", training_data({"user_id": "USER_ID", "b": "ITEM_ID", "c": "TIMESTAMP"}))
    names = [f"paged {number}" for number in range(4)]
    arns = [
        advertiser.text(
            *("create-training-dataset", "--name", name, "--role-arn", advertiser.party.role),
            *("--training-data", data, "--query", "trainingDatasetArn", "--output", "text"),
        )
        for name in names
    ]
    listing = ("list-training-datasets", "--query", "trainingDatasets[].name")
    assert sorted(advertiser.json(*listing, "--page-size", "1")) == names
    first = advertiser.json("list-training-datasets", "--page-size", "2", "--max-items", "3")
    rest = advertiser.json("list-training-datasets", "--starting-token", first["NextToken"])
    assert "NextToken" not in rest
    assert len(first["trainingDatasets"]) == 3
    assert sorted(one["name"] for one in first["trainingDatasets"] + rest["trainingDatasets"]) == names
    unpaged = advertiser.json("list-training-datasets", "--no-paginate", "--max-results", "3")
    assert len(unpaged["trainingDatasets"]) == 3
    assert unpaged["nextToken"]
    for arn in arns:
        advertiser.text("delete-training-dataset", "--training-dataset-arn", arn)


def test_the_cli_shows_rejections(desk: Desk) -> None:
    advertiser, publisher = desk.advertiser, desk.publisher
    data = advertiser.write("data.json", training_data({"user_id": "USER_ID", "b": "ITEM_ID", "c": "TIMESTAMP"}))

    def create(name: str, role: str) -> tuple[str, ...]:
        return ("create-training-dataset", "--name", name, "--role-arn", role, "--training-data", data)

    told = advertiser.rejected(*create("x" * 64, advertiser.party.role))
    assert "An error occurred (ValidationException) when calling the CreateTrainingDataset operation: " in told
    assert "'name'" in told
    assert "x" * 64 not in told
    told = advertiser.rejected(*create("foreign", publisher.party.role))
    assert "(AccessDeniedException)" in told
    arn = advertiser.json(*create("taken", advertiser.party.role))["trainingDatasetArn"]
    assert "(ConflictException)" in advertiser.rejected(*create("taken", advertiser.party.role))
    assert "(ResourceNotFoundException)" in publisher.rejected(
        "get-training-dataset", "--training-dataset-arn", arn
    )
    stranger = endpoint.Party(advertiser.party.account_id, advertiser.party.key_id, "not the secret")
    told = Aws(advertiser.program, stranger, advertiser.url, advertiser.folder).rejected("list-audience-models")
    assert "(AccessDeniedException)" in told
    advertiser.text("delete-training-dataset", "--training-dataset-arn", arn)


def test_files_are_copied_listed_synchronised_and_removed(desk: Desk) -> None:
    for aws in (desk.publisher, desk.advertiser):
        folder = aws.folder / "files"
        (folder / "day=1").mkdir(parents=True)
        (folder / "day=1" / "a+b@c ü.jsonl").write_text('{"user_id": "a"}\n')
        (folder / "big.bin").write_bytes(os.urandom(9 << 20))  # in parts

        def s3(*words: str, aws: Aws = aws) -> str:
            return aws.text(*words, service="s3")

        s3("mb", "s3://typed")
        s3("sync", "files", "s3://typed/all")
        assert "a+b@c ü.jsonl" in s3("ls", "s3://typed/all/", "--recursive")
        assert [line.split()[-1] for line in s3("ls", "s3://typed/all/").splitlines()] == ["day=1/", "big.bin"]
        assert s3("sync", "files", "s3://typed/all") == "", "nothing is sent twice"
        s3("cp", "s3://typed/all/big.bin", "s3://typed/copy.bin")
        s3("cp", "s3://typed/copy.bin", "back.bin")
        assert (aws.folder / "back.bin").read_bytes() == (folder / "big.bin").read_bytes()
        s3("sync", "s3://typed/all", "back", "--delete")
        assert (aws.folder / "back" / "day=1" / "a+b@c ü.jsonl").read_text() == '{"user_id": "a"}\n'
        s3("mv", "s3://typed/copy.bin", "s3://typed/moved.bin")
        s3("rm", "s3://typed", "--recursive")
        assert s3("ls", "s3://typed") == ""
        s3("rb", "s3://typed")
        assert f"warehouse-{aws.party.account_id}" in s3("ls")
    theirs = f"s3://warehouse-{desk.publisher.party.account_id}/shop/events/a.parquet"
    done = desk.advertiser.run("cp", theirs, "stolen", service="s3")
    assert done.returncode == 1
    assert "(403)" in done.stderr


@pytest.mark.parametrize("words", [("get-training-dataset",), ("create-training-datasets",)])
def test_requests_that_the_cli_rejects_are_not_sent(desk: Desk, words: tuple[str, ...]) -> None:
    done = desk.advertiser.run(*words)
    assert done.returncode == 2
    assert "aws: error:" in done.stderr
