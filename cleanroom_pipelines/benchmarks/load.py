"""Load on the endpoint: many clients call a real server at a steady pace, and every answer is checked.

Lives here: starting a server on a temporary home, the clients and what each knows to be there, timing, the check
at the end that nothing was lost or doubled.
Add here when another call belongs into the mix.
Keep out: what the server does; printing (cli).

The clients do not wait for each other's answers: each has a timetable of its own and sends when a call is due, so
that a slow answer is not hidden by fewer calls (a client whose answer is late sends the next one late, and that is
counted). They are threads of one process with one connection each; signatures are made by botocore's signer. No
peer offers this API (moto has no `cleanroomsml`), so what stands beside it is the floor: the same server's answer
that does nothing, called in the same run.
"""

import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from cleanroom_pipelines.aws.model import SERVICE, operations
from cleanroom_pipelines.catalog import RECORDS, Catalog, Kind, ParentRef
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.parties import issue_access_key
from cleanroom_pipelines.server.gateway import HEALTH

FLOOR: Final = "(nothing: the floor)"
_REGION: Final = "eu-central-1"
_SECONDS_TO_START, _SECONDS_TO_END, _SECONDS_TO_ANSWER = 120.0, 30.0, 60.0
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
    """How much is asked.

    Args:
        n_clients: Threads with a connection each.
        seconds: How long they call.
        n_accounts: Accounts that the clients are shared out to, at least 2.
        pace_per_second: Calls of each client; each comes up to half of the time between two early or late.
        random_seed: Decides who calls what when.
    """

    n_clients: int = 32
    seconds: float = 60.0
    n_accounts: int = 4
    pace_per_second: float = 4.0
    random_seed: int = 0


@dataclass(frozen=True)
class LoadAccount:
    """An account, and what it has from the beginning.

    Args:
        id: 12 digits.
        key_id: Of its access key.
        secret: Of its access key.
        model: ARN of a trained model.
        shared: ARN of a configured model that all other accounts may use.
        job: ARN of a job that ended.
    """

    id: str
    key_id: str
    secret: str = field(repr=False)
    model: str = ""
    shared: str = ""
    job: str = ""

    @property
    def role(self) -> str:
        """A role of this account."""
        return f"arn:aws:iam::{self.id}:role/clean-room"


@dataclass
class Thing:
    """A resource as the client that made it knows it.

    Args:
        kind: What it is.
        name: As it was given.
        arn: As it was answered; exports have none.
        tags: As they were left.
        status: As it must be now; "gone" if it was deleted.
        policy_hash: Of its policy; empty without one.
        least: Its smallest seed.
        n_children: How many of this client's things need it.
        owner: Id of the account whose model it uses, else of its own.
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
    """One call: when it was due, sent and answered, in seconds of one clock."""

    operation: str
    due: float
    sent: float
    answered: float


@dataclass(frozen=True)
class Answer:
    """What a call was answered with.

    Args:
        status: Of HTTP.
        error: Name of the exception; empty when it is none.
        body: What it says.
    """

    status: int
    error: str
    body: Mapping[str, Any]


class Connection:
    """A kept connection that signs what it sends for one account.

    Args:
        url: The server.
        account: Whose key signs.
    """

    def __init__(self, url: str, account: LoadAccount) -> None:
        from botocore.auth import SigV4Auth
        from botocore.credentials import Credentials

        self._url = url
        self._signer = SigV4Auth(Credentials(account.key_id, account.secret), SERVICE, _REGION)
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_SECONDS_TO_ANSWER)
        self.sent = 0.0

    def call(self, name: str, parameters: Mapping[str, Any]) -> Answer:
        """Sign a call, send it and read its answer."""
        from botocore.awsrequest import AWSRequest

        method, target, body = _written(name, parameters)
        headers = {"Content-Type": "application/json"} if body else {}
        request = AWSRequest(method, self._url + target, headers, body)
        self._signer.add_auth(request)
        return self._send(method, target, body, dict(request.headers.items()))

    def touch(self) -> Answer:
        """Ask for what does nothing."""
        return self._send("GET", HEALTH, b"", {})

    def close(self) -> None:
        """Let the connection go."""
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
    """Method, target and body of a call; checks nothing."""
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
    """An answer that is not the one there should be."""


class LoadClient:
    """One client: it makes, looks at, changes and deletes its own resources, and knows what must come of it.

    Args:
        number: Which of all clients; tells its account and what it calls.
        accounts: All of them; it has some of its own, and looks at others'.
        random_seed: Decides, with the number, what it calls when.
        connect: Gives the connection of an account.

    Attributes:
        account: Its own.
        things: What it made.
        problems: What went wrong.
    """

    def __init__(
        self,
        number: int,
        accounts: Sequence[LoadAccount],
        random_seed: int,
        connect: Callable[[LoadAccount], Connection],
    ) -> None:
        self.account = accounts[number % len(accounts)]
        self.things: list[Thing] = []
        self.timed: list[_Timed] = []
        self.problems: list[str] = []
        self.n_refusals = 0
        self._number = number
        self._others = [account for account in accounts if account is not self.account]
        self._dice = random.Random(f"{random_seed} {number}")  # noqa: S311 - repeatable on purpose
        self._connection = connect(self.account)
        self._due = 0.0
        # per hundred calls, as far as there is something to call them on
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
        """Call until the time is over; what goes wrong is kept.

        Args:
            start: When the timetable begins, in monotonic seconds.
            seconds: How long it is.
            pace_per_second: Calls a second.
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

    def _call(self, name: str, parameters: Mapping[str, Any], refusal: str = "") -> Mapping[str, Any]:
        answer = self._connection.call(name, parameters)
        self.timed.append(_Timed(name, self._due, self._connection.sent, time.monotonic()))
        if (answer.status == 200, answer.error) != (not refusal, refusal):
            raise _UnexpectedError(
                f"{name} was answered with {answer.status} {answer.error} instead of {refusal or 200}"
            )
        self.n_refusals += bool(refusal)
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
        told = self._call(operation, {"name": name, **parameters, **({"tags": tags} if tags else {})})
        arn = told[_NOUNS[kind][1]] if kind in _NOUNS else ""
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
        made = self._new(kind, "CreateConfiguredAudienceModel", "ACTIVE", parameters)
        made.least = parameters["minMatchingSeedSize"]
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
        told = self._call(f"Get{noun}", {member: thing.arn})
        _expect((told["name"], told["status"]) == (thing.name, thing.status), f"the answer of Get{noun}")
        _expect(told["tags"] == thing.tags, f"the tags of Get{noun}")
        if thing.kind is Kind.CONFIGURED_AUDIENCE_MODEL:
            _expect(told["minMatchingSeedSize"] == thing.least, "the updated configuration")
        return True

    def _list(self) -> bool:
        noun = self._dice.choice(list(_LISTS))
        told = self._call(f"List{noun}", {"maxResults": self._dice.choice((10, 25, 100))})
        _expect(isinstance(told[_LISTS[noun][1]], list), f"the answer of List{noun}")
        return True

    def _list_tags(self) -> bool:
        thing = self._any(*_NOUNS)
        if thing is not None:
            told = self._call("ListTagsForResource", {"resourceArn": thing.arn})
            _expect(told["tags"] == thing.tags, "the answer of ListTagsForResource")
        return thing is not None

    def _get_policy(self) -> bool:
        thing = self._any(Kind.CONFIGURED_AUDIENCE_MODEL)
        if thing is None:
            return False
        name, parameters = "GetConfiguredAudienceModelPolicy", {"configuredAudienceModelArn": thing.arn}
        if not thing.policy_hash:
            self._call(name, parameters, "ResourceNotFoundException")
            return True
        told = self._call(name, parameters)
        _expect(told["policyHash"] == thing.policy_hash, f"the answer of {name}")
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
            told = self._call("PutConfiguredAudienceModelPolicy", parameters)
            thing.policy_hash = told["policyHash"]
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
            is_slow = thing.kind in (Kind.AUDIENCE_MODEL, Kind.GENERATION_JOB)  # nobody is there to finish it
            thing.status = "DELETE_PENDING" if is_slow and thing.owner == self.account.id else "gone"
        return True


def _expect(is_so: bool, what: str) -> None:
    if not is_so:
        raise _UnexpectedError(f"{what} is not what was made")


def dataset_parameters(account: LoadAccount) -> dict[str, Any]:
    """What creates a training dataset, but for its name."""
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
    """Put a server under load and say how it did.

    Args:
        plan: How much is asked.
        progress: Told the share done and the stage.
        check_all: Says at the end what is not as the clients left it; `check` if not given.

    Returns:
        `calls`: per operation, and `all` of them without the floor, their number and the 50th, 95th and 99th
        percentile and the greatest of the milliseconds from sending to the whole answer; `from_due` the same of
        all, counted from when each was due. `problems`: every answer that was not the one there should be, and
        every resource lost, doubled or different at the end; empty when all is well. Further what was asked, the
        throughput, and how busy the machine was.
    """
    with tempfile.TemporaryDirectory(prefix="cleanroom-load-") as folder:
        home = Path(folder) / "home"
        installation = Installation(Settings(home=home))
        machine: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
        machine["fsync_milliseconds"] = _fsync_milliseconds(Path(folder))
        with _server(home, Path(folder) / "server.log") as (url, process):
            progress(0.0, "setting up")
            accounts = _settle(installation, url, plan.n_accounts)
            clients = [
                LoadClient(number, accounts, plan.random_seed, partial(Connection, url))
                for number in range(plan.n_clients)
            ]
            cpu_before = _cpu_seconds(process.pid)
            seconds = _drive(clients, plan, progress)
            cpu = _cpu_seconds(process.pid) - cpu_before
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
        "n_refusals": sum(client.n_refusals for client in clients),
        "n_resources": sum(len(client.things) for client in clients),
        "problems": problems,
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as a plain text table."""
    asked, machine = result["asked"], result["machine"]
    lines = [
        f"{asked['n_clients']} clients of {asked['n_accounts']} accounts, each {asked['pace_per_second']:g} calls"
        f" a second with jitter, for {result['seconds']:.0f} s: {result['calls_per_second']:.1f} calls a second",
        f"{machine['cores']} cores, load of the machine {machine['load_before']:.1f} before and"
        f" {machine['load_after']:.1f} after, server {machine['server_cpu_share']:.2f} cores, one fsync"
        f" {machine['fsync_milliseconds']:.1f} ms",
        f"{'milliseconds':40}{'calls':>7}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}",
    ]
    rows = {**result["calls"], "all, from when it was due": result["from_due"]}
    lines += [
        f"{name:40}{row['n']:>7}{row['p50']:>9.1f}{row['p95']:>9.1f}{row['p99']:>9.1f}{row['max']:>9.1f}"
        for name, row in rows.items()
    ]
    lines.append(
        f"{result['n_resources']} resources made, {result['n_refusals']} calls refused as they should be,"
        f" {len(result['problems'])} problems"
    )
    lines += [f"  {n} times: {problem}" for problem, n in Counter(result["problems"]).most_common(20)]
    return "\n".join(lines)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """How many there are, and their percentiles at the nearest rank, in milliseconds."""
    ordered = sorted(seconds) or [0.0]
    ranks = {f"p{share}": ordered[-(-len(ordered) * share // 100) - 1] * 1000 for share in (50, 95, 99)}
    return {"n": len(seconds), **ranks, "max": ordered[-1] * 1000}


@contextmanager
def _server(home: Path, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real server on a home, without a worker, deaf to the settings of whoever measures."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLEANROOM_")}
    environment |= {"CLEANROOM_HOME": str(home), "CLEANROOM_MAX_UNFINISHED_JOBS": "1000000"}
    command = [sys.executable, "-m", "cleanroom_pipelines.cli.main", "serve", "--port", "0", "--no-worker"]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stream)  # noqa: S603
    # a server that says nothing is ended, and its pipe with it
    timer = threading.Timer(_SECONDS_TO_START, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        timer.cancel()
        if not url:
            raise RuntimeError(f"The server did not start: {log.read_text(errors='replace')[-1000:]}")
        yield url, process
    finally:
        timer.cancel()
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _settle(installation: Installation, url: str, n_accounts: int) -> list[LoadAccount]:
    """Make the accounts and what they have from the beginning."""
    ids = [f"{number:012d}" for number in range(1, n_accounts + 1)]
    accounts = []
    for account_id in ids:
        installation.catalog.parties.create_account(f"account {account_id}", account_id)
        account = LoadAccount(account_id, *issue_access_key(installation, account_id))
        others = [other for other in ids if other != account_id]
        accounts.append(_settled(installation.catalog, url, account, others))
    return accounts


def _settled(catalog: Catalog, url: str, account: LoadAccount, others: Sequence[str]) -> LoadAccount:
    connection = Connection(url, account)

    def made(name: str, member: str, parameters: Mapping[str, Any]) -> str:
        answer = connection.call(name, parameters)
        _expect(answer.status == 200, f"{name} at the beginning")
        return str(answer.body[member])

    dataset = made("CreateTrainingDataset", "trainingDatasetArn", {"name": "first", **dataset_parameters(account)})
    trained = {"name": "first", "trainingDatasetArn": dataset}
    account = replace(account, model=made("CreateAudienceModel", "audienceModelArn", trained))
    _close_all(catalog)
    configured = {"name": "first", **_configured(account)}
    shared = made("CreateConfiguredAudienceModel", "configuredAudienceModelArn", configured)
    policy = {"configuredAudienceModelArn": shared, "configuredAudienceModelPolicy": _policy(shared, others)}
    made("PutConfiguredAudienceModelPolicy", "policyHash", policy)
    started = {"name": "first", "configuredAudienceModelArn": shared, "seedAudience": _seed(account)}
    job = made("StartAudienceGenerationJob", "audienceGenerationJobArn", started)
    _close_all(catalog)
    connection.close()
    return replace(account, shared=shared, job=job)


def _close_all(catalog: Catalog) -> None:
    """Close all pending work as a run would that did it well."""
    while ready := catalog.work.ready():
        for version in ready:
            claim = catalog.work.claim(version.kind, version.resource_id, version.number, "benchmark")
            assert claim is not None
            record = catalog.get(RECORDS[version.kind], version.resource_id)
            kind, parent_id = record.parent_kind, record.parent_id
            parents = [ParentRef(kind, parent_id, 1)] if kind is not None and parent_id is not None else []
            catalog.work.finish(claim, _SENTENCE, parents)


def _drive(clients: Sequence[LoadClient], plan: LoadPlan, progress: Callable[[float, str], None]) -> float:
    """Let the clients call for their time; gives how long it took them."""
    start = time.monotonic() + 0.5
    threads = [
        threading.Thread(target=client.run, args=(start, plan.seconds, plan.pace_per_second)) for client in clients
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        progress(min(1.0, max(0.0, (time.monotonic() - start) / plan.seconds)), "calling")
        threads[0].join(0.2) if threads[0].is_alive() else time.sleep(0.05)
    return time.monotonic() - start


def check(catalog: Catalog, accounts: Sequence[LoadAccount], clients: Sequence[LoadClient], url: str) -> list[str]:
    """Say what is there that should not be, is not there that should be, or is otherwise than it was left.

    Args:
        catalog: The server's.
        accounts: Whose lists are looked at.
        clients: What they know must be there.
        url: The server.

    Returns:
        A sentence for each.
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
            if thing.owner != client.account.id:  # what a guest gave back stays with the owner
                name = f"{client.account.id}-{thing.name}"
                wanted[thing.owner][nouns[thing.kind], name, "CREATE_PENDING"] += 1
    problems = []
    for account in accounts:
        found = Counter(_listed(Connection(url, account)))
        missing, surplus = wanted[account.id] - found, found - wanted[account.id]
        problems += [f"lost: one of {noun} that is {status}" for noun, _, status in missing.elements()]
        problems += [f"surplus: one of {noun} that is {status}" for noun, _, status in surplus.elements()]
    for kind in _NOUNS:
        for record in catalog.resources.iterate(kind):
            if record.arn in tags and dict(record.tags) != tags[record.arn]:
                problems.append(f"the tags of a {kind.words} are not as they were left")
    return problems


def _listed(connection: Connection) -> Iterator[tuple[str, str, str]]:
    """Everything an account is shown, page by page."""
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


def _cpu_seconds(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _fsync_milliseconds(folder: Path) -> float:
    """The median of what it takes to have 4 KiB on the disk."""
    took = []
    with (folder / "fsync").open("wb") as stream:
        for _ in range(21):
            stream.write(bytes(4096))
            stream.flush()
            begun = time.perf_counter()
            os.fsync(stream.fileno())
            took.append(time.perf_counter() - begun)
    return sorted(took)[10] * 1000
