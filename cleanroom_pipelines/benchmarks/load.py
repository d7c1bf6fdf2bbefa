"""Load test of the HTTP server: many clients send requests at a steady pace and check every response.

Lives here: the clients with their expected state, timing, and the final
check that no resource was lost or duplicated.
Add here when the mix needs another call.
Keep out: the server's code; printing (cli).

Each client follows its own schedule and sends calls when they are due, so slow responses do not reduce the load
unnoticed: if a late response delays the next call, the delay counts. Clients are threads of one process with one
connection each, and sign with botocore's signer. No peer offers this API (moto has no `cleanroomsml`), so the
baseline is the same server's no-op health check, called in the same run.
"""

import http.client
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from cleanroom_pipelines.aws.model import SERVICE, operations
from cleanroom_pipelines.benchmarks.serving import (
    cpu_seconds,
    drive,
    fsync_milliseconds,
    percentiles,
    serving,
)
from cleanroom_pipelines.catalog import RECORDS, Catalog, Kind, ParentRef
from cleanroom_pipelines.runs.credentials import issue_access_key
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.server.gateway import HEALTH

FLOOR: Final = "(health check: minimum)"
_REGION: Final = "eu-central-1"
_SECONDS_TO_ANSWER = 60.0
_SENTENCE = {"sentence": "Closed by the benchmark.", "metrics": {"relevance": [], "recall": None}}
_LISTS: Final = {
    "TrainingDatasets": (Kind.TRAINING_DATASET, "trainingDatasets"),
    "AudienceModels": (Kind.AUDIENCE_MODEL, "audienceModels"),
    "ConfiguredAudienceModels": (Kind.CONFIGURED_AUDIENCE_MODEL, "configuredAudienceModels"),
    "AudienceGenerationJobs": (Kind.GENERATION_JOB, "audienceGenerationJobs"),
    "AudienceExportJobs": (Kind.EXPORT_JOB, "audienceExportJobs"),
}
_NOUNS: Final = {
    Kind.TRAINING_DATASET: ("TrainingDataset", "trainingDatasetArn"),
    Kind.AUDIENCE_MODEL: ("AudienceModel", "audienceModelArn"),
    Kind.CONFIGURED_AUDIENCE_MODEL: ("ConfiguredAudienceModel", "configuredAudienceModelArn"),
    Kind.GENERATION_JOB: ("AudienceGenerationJob", "audienceGenerationJobArn"),
}


@dataclass(frozen=True)
class LoadPlan:
    """Settings of the HTTP server's load test.

    Args:
        n_clients: Number of threads, each with its own connection.
        seconds: Duration of the calls.
        n_accounts: Accounts among which the clients are distributed, at least 2.
        pace_per_second: Calls per second of each client, with jitter of up to half the interval.
        random_seed: Random seed of all calls and their timing.
    """

    n_clients: int = 32
    seconds: float = 60.0
    n_accounts: int = 4
    pace_per_second: float = 4.0
    random_seed: int = 0


@dataclass(frozen=True)
class LoadAccount:
    """An account with its initial resources.

    Args:
        id: 12 digits.
        key_id: Id of its access key.
        secret: Secret of its access key.
        model: ARN of a trained model.
        shared: ARN of a configured model that all other accounts may use.
        job: ARN of a finished job.
    """

    id: str
    key_id: str
    secret: str = field(repr=False)
    model: str = ""
    shared: str = ""
    job: str = ""

    @property
    def role(self) -> str:
        """The ARN of a role of this account."""
        return f"arn:aws:iam::{self.id}:role/clean-room"


@dataclass
class Thing:
    """The expected state of a resource that a client created.

    Args:
        kind: Kind of resource.
        name: Name in the create call.
        arn: ARN in the response; exports have none.
        tags: Expected tags.
        status: Expected status; "gone" if it was deleted.
        policy_hash: Hash of its policy; empty without a policy.
        least: Its minimum seed size.
        n_children: Number of this client's resources that depend on it.
        owner: Id of the account whose model it uses, else of the client's own account.
    """

    kind: Kind
    name: str
    arn: str
    tags: dict[str, str]
    status: str
    policy_hash: str = ""
    least: int = 0
    n_children: int = 0
    owner: str = ""


@dataclass(frozen=True)
class _Timed:
    """The times at which a call was due, sent and answered, in seconds on the same clock."""

    operation: str
    due: float
    sent: float
    answered: float


@dataclass(frozen=True)
class Answer:
    """The response to a call.

    Args:
        status: HTTP status.
        error: Name of the exception; empty without an error.
        body: Parsed JSON body.
    """

    status: int
    error: str
    body: Mapping[str, Any]


class LoadConnection:
    """A persistent connection that signs its calls for one account.

    Args:
        url: URL of the server.
        account: The account whose key signs.
    """

    def __init__(self, url: str, account: LoadAccount) -> None:
        from botocore.auth import SigV4Auth
        from botocore.credentials import Credentials

        self._url = url
        self._signer = SigV4Auth(Credentials(account.key_id, account.secret), SERVICE, _REGION)
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_SECONDS_TO_ANSWER)
        self.sent = 0.0

    def call(self, name: str, parameters: Mapping[str, Any]) -> Answer:
        """Sign a call, send it and read the response."""
        from botocore.awsrequest import AWSRequest

        method, target, body = _written(name, parameters)
        headers = {"Content-Type": "application/json"} if body else {}
        request = AWSRequest(method, self._url + target, headers, body)
        self._signer.add_auth(request)
        return self._send(method, target, body, dict(request.headers.items()))

    def touch(self) -> Answer:
        """Call the health check, which does nothing."""
        return self._send("GET", HEALTH, b"", {})

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _send(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.sent = time.monotonic()
        try:
            self._http.request(method, target, body or None, dict(headers))
            answer = self._http.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._http.close()  # the next call opens it again
            raise
        error = answer.getheader("x-amzn-ErrorType", "")
        return Answer(answer.status, error, json.loads(content) if content else {})


def _written(name: str, parameters: Mapping[str, Any]) -> tuple[str, str, bytes]:
    """Return the method, target and body of a call's HTTP request; the parameters are not validated."""
    operation = operations()[name]
    members = {member.wire_name: member for member in operation.input.members.values()}
    path = "".join(
        "/" + (quote(parameters[members[part[1:-1]].name], safe="") if part.startswith("{") else part)
        for part in operation.segments
    )
    given = {
        wire: (member, parameters[member.name]) for wire, member in members.items() if member.name in parameters
    }
    query = {wire: value for wire, (member, value) in given.items() if member.location == "querystring"}
    body = {wire: value for wire, (member, value) in given.items() if member.location == "body"}
    has_body = any(member.location == "body" for member in members.values())
    target = f"{path}?{urlencode(query, doseq=True, quote_via=quote)}" if query else path
    return operation.method, target, json.dumps(body).encode() if has_body else b""


class _UnexpectedError(Exception):
    """A response differs from the expected one."""


class LoadClient:
    """One client of the load test, which creates, reads, changes and deletes resources and remembers their state.

    Args:
        number: The client's number, which determines its account and its calls.
        accounts: All accounts; the client belongs to one and also tries to read resources of the others.
        random_seed: Random seed, combined with the number.
        connect: Opens a connection for an account.

    Attributes:
        account: The client's account.
        things: The resources it created.
        problems: Unexpected responses and errors.
    """

    def __init__(
        self,
        number: int,
        accounts: Sequence[LoadAccount],
        random_seed: int,
        connect: Callable[[LoadAccount], LoadConnection],
    ) -> None:
        self.account = accounts[number % len(accounts)]
        self.things: list[Thing] = []
        self.timed: list[_Timed] = []
        self.problems: list[str] = []
        self.n_expected_errors = 0
        self._number = number
        self._others = [account for account in accounts if account is not self.account]
        self._dice = random.Random(f"{random_seed} {number}")  # noqa: S311 - repeatable on purpose
        self._connection = connect(self.account)
        self._due = 0.0
        # weights in percent; an operation without a suitable resource is drawn again
        self._mix: dict[Callable[[], bool], int] = {
            self._make_dataset: 8,
            self._make_model: 5,
            self._make_configured: 5,
            self._start_job: 4,
            self._start_guest_job: 2,
            self._start_export: 2,
            self._make_again: 2,
            self._get: 26,
            self._list: 12,
            self._list_tags: 5,
            self._get_policy: 3,
            self._look_at_others: 2,
            self._tag: 5,
            self._untag: 2,
            self._update: 3,
            self._put_policy: 3,
            self._delete_policy: 1,
            self._delete: 5,
            self._touch: 5,
        }

    def run(self, start: float, seconds: float, pace_per_second: float) -> None:
        """Send requests until the time is over, and record problems.

        Args:
            start: Start of the schedule, in monotonic seconds.
            seconds: Length of the schedule.
            pace_per_second: Calls per second.
        """
        between = 1.0 / pace_per_second
        due = start + self._dice.uniform(0, between)
        while due < start + seconds:
            self._due = due + self._dice.uniform(-0.5, 0.5) * between
            time.sleep(max(0.0, self._due - time.monotonic()))
            try:
                while not self._dice.choices(list(self._mix), list(self._mix.values()))[0]():
                    pass
            except (_UnexpectedError, OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.problems.append(f"{type(error).__name__}: {error}")
            due += between
        self._connection.close()

    def _call(self, name: str, parameters: Mapping[str, Any], expected_error: str = "") -> Mapping[str, Any]:
        answer = self._connection.call(name, parameters)
        self.timed.append(_Timed(name, self._due, self._connection.sent, time.monotonic()))
        if (answer.status == 200, answer.error) != (not expected_error, expected_error):
            raise _UnexpectedError(
                f"{name} returned {answer.status} {answer.error} instead of {expected_error or 200}"
            )
        self.n_expected_errors += bool(expected_error)
        return answer.body

    def _touch(self) -> bool:
        answer = self._connection.touch()
        self.timed.append(_Timed(FLOOR, self._due, self._connection.sent, time.monotonic()))
        _expect(answer.status == 200, "the health check")
        return True

    def _any(self, *kinds: Kind, statuses: Sequence[str] = ("ACTIVE", "CREATE_PENDING")) -> Thing | None:
        found = [thing for thing in self.things if thing.kind in kinds and thing.status in statuses]
        return self._dice.choice(found) if found else None

    def _new(
        self, kind: Kind, operation: str, status: str, parameters: Mapping[str, Any], owner: str = ""
    ) -> Thing:
        name = f"client {self._number:03d} {kind.words} {len(self.things):04d}"
        tags = {"client": str(self._number)} if kind is not Kind.EXPORT_JOB else {}
        response = self._call(operation, {"name": name, **parameters, **({"tags": tags} if tags else {})})
        arn = response[_NOUNS[kind][1]] if kind in _NOUNS else ""
        thing = Thing(kind, name, arn, tags, status, owner=owner or self.account.id)
        self.things.append(thing)
        return thing

    def _make_dataset(self) -> bool:
        self._new(Kind.TRAINING_DATASET, "CreateTrainingDataset", "ACTIVE", dataset_parameters(self.account))
        return True

    def _make_model(self) -> bool:
        dataset = self._any(Kind.TRAINING_DATASET)
        if dataset is not None:
            parameters = {"trainingDatasetArn": dataset.arn}
            self._new(Kind.AUDIENCE_MODEL, "CreateAudienceModel", "CREATE_PENDING", parameters)
            dataset.n_children += 1
        return dataset is not None

    def _make_configured(self) -> bool:
        kind, parameters = Kind.CONFIGURED_AUDIENCE_MODEL, _configured(self.account)
        configured = self._new(kind, "CreateConfiguredAudienceModel", "ACTIVE", parameters)
        configured.least = parameters["minMatchingSeedSize"]
        return True

    def _start_job(self) -> bool:
        configured = self._any(Kind.CONFIGURED_AUDIENCE_MODEL)
        if configured is not None:
            self._job(configured.arn)
            configured.n_children += 1
        return configured is not None

    def _start_guest_job(self) -> bool:
        owner = self._dice.choice(self._others)
        self._job(owner.shared, owner.id)
        return True

    def _job(self, configured: str, owner: str = "") -> None:
        parameters = {"configuredAudienceModelArn": configured, "seedAudience": _seed(self.account)}
        self._new(Kind.GENERATION_JOB, "StartAudienceGenerationJob", "CREATE_PENDING", parameters, owner)

    def _start_export(self) -> bool:
        size = {"type": "PERCENTAGE", "value": 10}
        parameters = {"audienceGenerationJobArn": self.account.job, "audienceSize": size}
        self._new(Kind.EXPORT_JOB, "StartAudienceExportJob", "CREATE_PENDING", parameters)
        return True

    def _make_again(self) -> bool:
        dataset = self._any(Kind.TRAINING_DATASET)
        if dataset is not None:
            again = {"name": dataset.name, **dataset_parameters(self.account)}
            self._call("CreateTrainingDataset", again, "ConflictException")
        return dataset is not None

    def _get(self) -> bool:
        thing = self._any(*_NOUNS, statuses=("ACTIVE", "CREATE_PENDING", "DELETE_PENDING", "gone"))
        if thing is None:
            return False
        noun, member = _NOUNS[thing.kind]
        if thing.status == "gone":
            self._call(f"Get{noun}", {member: thing.arn}, "ResourceNotFoundException")
            return True
        response = self._call(f"Get{noun}", {member: thing.arn})
        _expect((response["name"], response["status"]) == (thing.name, thing.status), f"the response of Get{noun}")
        _expect(response["tags"] == thing.tags, f"the tags of Get{noun}")
        if thing.kind is Kind.CONFIGURED_AUDIENCE_MODEL:
            _expect(response["minMatchingSeedSize"] == thing.least, "the updated configuration")
        return True

    def _list(self) -> bool:
        noun = self._dice.choice(list(_LISTS))
        response = self._call(f"List{noun}", {"maxResults": self._dice.choice((10, 25, 100))})
        _expect(isinstance(response[_LISTS[noun][1]], list), f"the response of List{noun}")
        return True

    def _list_tags(self) -> bool:
        thing = self._any(*_NOUNS)
        if thing is not None:
            response = self._call("ListTagsForResource", {"resourceArn": thing.arn})
            _expect(response["tags"] == thing.tags, "the response of ListTagsForResource")
        return thing is not None

    def _get_policy(self) -> bool:
        thing = self._any(Kind.CONFIGURED_AUDIENCE_MODEL)
        if thing is None:
            return False
        name, parameters = "GetConfiguredAudienceModelPolicy", {"configuredAudienceModelArn": thing.arn}
        if not thing.policy_hash:
            self._call(name, parameters, "ResourceNotFoundException")
            return True
        response = self._call(name, parameters)
        _expect(response["policyHash"] == thing.policy_hash, f"the response of {name}")
        return True

    def _look_at_others(self) -> bool:
        theirs = self._dice.choice(self._others).model
        self._call("GetAudienceModel", {"audienceModelArn": theirs}, "ResourceNotFoundException")
        return True

    def _tag(self) -> bool:
        thing = self._any(*_NOUNS)
        if thing is not None:
            tags = {f"tag {self._dice.randrange(5)}": str(self._dice.randrange(1000))}
            self._call("TagResource", {"resourceArn": thing.arn, "tags": tags})
            thing.tags |= tags
        return thing is not None

    def _untag(self) -> bool:
        thing = self._any(*_NOUNS)
        if thing is not None:
            key = f"tag {self._dice.randrange(5)}"
            self._call("UntagResource", {"resourceArn": thing.arn, "tagKeys": [key]})
            thing.tags.pop(key, None)
        return thing is not None

    def _update(self) -> bool:
        thing = self._any(Kind.CONFIGURED_AUDIENCE_MODEL)
        if thing is not None:
            least = self._dice.randrange(25, 500_000)
            parameters = {"configuredAudienceModelArn": thing.arn, "minMatchingSeedSize": least}
            self._call("UpdateConfiguredAudienceModel", parameters)
            thing.least = least
        return thing is not None

    def _put_policy(self) -> bool:
        thing = self._any(Kind.CONFIGURED_AUDIENCE_MODEL)
        if thing is not None:
            policy = _policy(thing.arn, self._dice.sample([account.id for account in self._others], 1))
            parameters = {"configuredAudienceModelArn": thing.arn, "configuredAudienceModelPolicy": policy}
            if thing.policy_hash:
                parameters["previousPolicyHash"] = thing.policy_hash
            response = self._call("PutConfiguredAudienceModelPolicy", parameters)
            thing.policy_hash = response["policyHash"]
        return thing is not None

    def _delete_policy(self) -> bool:
        thing = self._any(Kind.CONFIGURED_AUDIENCE_MODEL)
        if thing is None or not thing.policy_hash:
            return False
        self._call("DeleteConfiguredAudienceModelPolicy", {"configuredAudienceModelArn": thing.arn})
        thing.policy_hash = ""
        return True

    def _delete(self) -> bool:
        thing = self._any(*_NOUNS)
        if thing is None:
            return False
        noun, member = _NOUNS[thing.kind]
        is_needed = bool(thing.n_children)
        self._call(f"Delete{noun}", {member: thing.arn}, "ConflictException" if is_needed else "")
        if not is_needed:
            is_slow = thing.kind in (Kind.AUDIENCE_MODEL, Kind.GENERATION_JOB)  # no worker finishes it
            thing.status = "DELETE_PENDING" if is_slow and thing.owner == self.account.id else "gone"
        return True


def _expect(is_so: bool, what: str) -> None:
    if not is_so:
        raise _UnexpectedError(f"{what} differs from what was expected")


def dataset_parameters(account: LoadAccount) -> dict[str, Any]:
    """Parameters of a training dataset, except its name."""
    roles = (("user", "USER_ID"), ("item", "ITEM_ID"), ("ts", "TIMESTAMP"))
    schema = [{"columnName": name, "columnTypes": [role]} for name, role in roles]
    source = {"glueDataSource": {"databaseName": "shop", "tableName": "events"}}
    data = {"type": "INTERACTIONS", "inputConfig": {"schema": schema, "dataSource": source}}
    return {"roleArn": account.role, "trainingData": [data]}


def _configured(account: LoadAccount) -> dict[str, Any]:
    destination = {"s3Destination": {"s3Uri": f"s3://audiences-of-{account.id}/shop"}}
    return {
        "audienceModelArn": account.model,
        "outputConfig": {"destination": destination, "roleArn": account.role},
        "sharedAudienceMetrics": ["ALL"],
        "minMatchingSeedSize": 25,
        "audienceSizeConfig": {"audienceSizeType": "PERCENTAGE", "audienceSizeBins": [5, 10, 20]},
    }


def _seed(account: LoadAccount) -> dict[str, Any]:
    return {"roleArn": account.role, "dataSource": {"s3Uri": f"s3://seeds-of-{account.id}/loyal.jsonl"}}


def _policy(configured: str, account_ids: Sequence[str]) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": list(account_ids)},
        "Action": "cleanrooms-ml:StartAudienceGenerationJob",
        "Resource": configured,
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


Check = Callable[[Catalog, Sequence[LoadAccount], Sequence[LoadClient], str], list[str]]


def run_load(
    plan: LoadPlan,
    progress: Callable[[float, str], None] = lambda share, stage: None,
    *,
    check_all: Check | None = None,
) -> dict[str, Any]:
    """Run a load test against a server, and report latencies and problems.

    Args:
        plan: Settings of the test.
        progress: Called with the share done and the stage.
        check_all: Compares the final state with the clients' expectations; default `check`.

    Returns:
        `calls`: per operation, and for `all` without the baseline, the number of calls and the 50th, 95th and 99th
        percentile and maximum of the milliseconds from sending to the complete response; `from_due` the same for
        all, from the time each was due. `problems`: every unexpected response, and every resource lost, duplicated
        or different at the end; empty on success. Also the settings, the throughput, and the machine's load.
    """
    with tempfile.TemporaryDirectory(prefix="cleanroom-load-") as folder:
        home = Path(folder) / "home"
        installation = Installation(Settings(home=home))
        machine: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
        machine["fsync_milliseconds"] = fsync_milliseconds(Path(folder))
        with serving(home, Path(folder) / "server.log") as (url, process):
            progress(0.0, "setting up")
            accounts = _create_accounts(installation, url, plan.n_accounts)
            clients = [
                LoadClient(number, accounts, plan.random_seed, partial(LoadConnection, url))
                for number in range(plan.n_clients)
            ]
            cpu_before = cpu_seconds(process.pid)
            seconds = drive(clients, plan.seconds, plan.pace_per_second, progress)
            cpu = cpu_seconds(process.pid) - cpu_before
            progress(1.0, "checking")
            problems = [problem for client in clients for problem in client.problems]
            problems += (check_all or check)(installation.catalog, accounts, clients, url)
        machine |= {"load_after": os.getloadavg()[0], "server_cpu_share": cpu / seconds}
    timed = [one for client in clients for one in client.timed]
    own = [one for one in timed if one.operation != FLOOR]
    return {
        "asked": vars(plan),
        "machine": machine,
        "seconds": seconds,
        "calls_per_second": len(timed) / seconds,
        "calls": {
            "all": percentiles([one.answered - one.sent for one in own]),
            **{
                name: percentiles([one.answered - one.sent for one in timed if one.operation == name])
                for name in sorted({one.operation for one in timed})
            },
        },
        "from_due": percentiles([one.answered - one.due for one in own]),
        "n_expected_errors": sum(client.n_expected_errors for client in clients),
        "n_resources": sum(len(client.things) for client in clients),
        "problems": problems,
    }


def table(result: Mapping[str, Any]) -> str:
    """Format the result as a plain text table."""
    asked, machine = result["asked"], result["machine"]
    lines = [
        f"{asked['n_clients']} clients of {asked['n_accounts']} accounts, each {asked['pace_per_second']:g} calls"
        f" per second with jitter, for {result['seconds']:.0f} s: {result['calls_per_second']:.1f} calls/s in all",
        f"{machine['cores']} cores, load average {machine['load_before']:.1f} before and"
        f" {machine['load_after']:.1f} after, server used {machine['server_cpu_share']:.2f} cores, one fsync"
        f" {machine['fsync_milliseconds']:.1f} ms",
        f"{'milliseconds':40}{'calls':>7}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}",
    ]
    rows = {**result["calls"], "all, from due time": result["from_due"]}
    lines += [
        f"{name:40}{row['n']:>7}{row['p50']:>9.1f}{row['p95']:>9.1f}{row['p99']:>9.1f}{row['max']:>9.1f}"
        for name, row in rows.items()
    ]
    lines.append(
        f"{result['n_resources']} resources created, {result['n_expected_errors']} calls rejected as expected,"
        f" {len(result['problems'])} problems"
    )
    lines += [f"  {n} times: {problem}" for problem, n in Counter(result["problems"]).most_common(20)]
    return "\n".join(lines)


def _create_accounts(installation: Installation, url: str, n_accounts: int) -> list[LoadAccount]:
    """Create the accounts with their initial resources."""
    ids = [f"{number:012d}" for number in range(1, n_accounts + 1)]
    accounts = []
    for account_id in ids:
        installation.catalog.parties.create_account(f"account {account_id}", account_id)
        account = LoadAccount(account_id, *issue_access_key(installation, account_id))
        others = [other for other in ids if other != account_id]
        accounts.append(_with_resources(installation.catalog, url, account, others))
    return accounts


def _with_resources(catalog: Catalog, url: str, account: LoadAccount, others: Sequence[str]) -> LoadAccount:
    connection = LoadConnection(url, account)

    def create(name: str, member: str, parameters: Mapping[str, Any]) -> str:
        answer = connection.call(name, parameters)
        _expect(answer.status == 200, f"{name} during setup")
        return str(answer.body[member])

    dataset = create(
        "CreateTrainingDataset", "trainingDatasetArn", {"name": "first", **dataset_parameters(account)}
    )
    trained = {"name": "first", "trainingDatasetArn": dataset}
    account = replace(account, model=create("CreateAudienceModel", "audienceModelArn", trained))
    _close_all(catalog)
    configured = {"name": "first", **_configured(account)}
    shared = create("CreateConfiguredAudienceModel", "configuredAudienceModelArn", configured)
    policy = {"configuredAudienceModelArn": shared, "configuredAudienceModelPolicy": _policy(shared, others)}
    create("PutConfiguredAudienceModelPolicy", "policyHash", policy)
    started = {"name": "first", "configuredAudienceModelArn": shared, "seedAudience": _seed(account)}
    job = create("StartAudienceGenerationJob", "audienceGenerationJobArn", started)
    _close_all(catalog)
    connection.close()
    return replace(account, shared=shared, job=job)


def _close_all(catalog: Catalog) -> None:
    """Mark all pending work as successful, without doing it."""
    while ready := catalog.work.ready():
        for version in ready:
            claim = catalog.work.claim(version.kind, version.resource_id, version.number, "benchmark")
            assert claim is not None
            record = catalog.get(RECORDS[version.kind], version.resource_id)
            kind, parent_id = record.parent_kind, record.parent_id
            parents = [ParentRef(kind, parent_id, 1)] if kind is not None and parent_id is not None else []
            catalog.work.finish(claim, _SENTENCE, parents)


def check(catalog: Catalog, accounts: Sequence[LoadAccount], clients: Sequence[LoadClient], url: str) -> list[str]:
    """Compare the server's final state with the clients' expectations.

    Args:
        catalog: The server's catalogue.
        accounts: The accounts whose lists are checked.
        clients: The clients with their expected resources.
        url: URL of the server.

    Returns:
        One sentence per lost, unexpected or different resource.
    """
    wanted: dict[str, Counter[tuple[str, str, str]]] = {account.id: Counter() for account in accounts}
    tags: dict[str, dict[str, str]] = {}
    for account in accounts:
        wanted[account.id].update((noun, "first", "ACTIVE") for noun in _LISTS if noun != "AudienceExportJobs")
    nouns = {kind: noun for noun, (kind, _) in _LISTS.items()}
    for client in clients:
        for thing in client.things:
            if thing.status != "gone":
                wanted[client.account.id][nouns[thing.kind], thing.name, thing.status] += 1
                tags[thing.arn] = thing.tags
            if thing.owner != client.account.id:  # a job that a guest deletes stays with the owner
                name = f"{client.account.id}-{thing.name}"
                wanted[thing.owner][nouns[thing.kind], name, "CREATE_PENDING"] += 1
    problems = []
    for account in accounts:
        found = Counter(_listed(LoadConnection(url, account)))
        missing, surplus = wanted[account.id] - found, found - wanted[account.id]
        problems += [f"lost: one of {noun} with status {status}" for noun, _, status in missing.elements()]
        problems += [f"unexpected: one of {noun} with status {status}" for noun, _, status in surplus.elements()]
    for kind in _NOUNS:
        for record in catalog.resources.iterate(kind):
            if record.arn in tags and dict(record.tags) != tags[record.arn]:
                problems.append(f"the tags of a {kind.words} differ from what was expected")
    return problems


def _listed(connection: LoadConnection) -> Iterator[tuple[str, str, str]]:
    """Yield all resources that an account can list, page by page."""
    for noun, (_, member) in _LISTS.items():
        page: dict[str, Any] = {}
        while page is not None:
            answer = connection.call(f"List{noun}", page)
            _expect(answer.status == 200, f"List{noun} at the end")
            yield from ((noun, one["name"], one["status"]) for one in answer.body[member])
            token = answer.body.get("nextToken")
            if token is None:
                break
            page = {"nextToken": token}
    connection.close()
