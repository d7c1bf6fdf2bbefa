"""Load test of the console: sessions of three parties open a room's pages; the baseline is the health check.

Lives here: a room as it is after some weeks of work, its pages, the sessions that open them, and timing.
Add here when the console gets another page of a room.
Keep out: the pages (`cleanroom_pipelines.console`); printing (cli).

The room is built by a real server and its worker from made-up data; then a server without a worker answers. Each
session opens pages when they are due, as in `load.py`. The CPU time of each page is measured before, alone:
it hardly depends on what else the machine does.
"""

import http.client
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cleanroom_pipelines.benchmarks.load import FLOOR
from cleanroom_pipelines.benchmarks.serving import (
    cpu_seconds,
    drive,
    fsync_milliseconds,
    percentiles,
    serving,
)
from cleanroom_pipelines.media import (
    AudienceFilters,
    BaseAudience,
    Client,
    CollaborationType,
    CustomAudience,
    DataLabBuilder,
    ExclusionTargetingAudienceBuilder,
    Filter,
    FilterOperator,
    LookalikeAudienceBuilder,
    MatchingId,
    MatchOperator,
    MediaDcr,
    Participant,
    Permission,
    RemarketingAudienceBuilder,
    RuleBasedAudienceBuilder,
)
from cleanroom_pipelines.runs.credentials import issue_token
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.sign_in import start_session
from cleanroom_pipelines.server.gateway import HEALTH

_PUBLISHER, _ADVERTISER, _AGENCY = "data@publisher.example", "crm@advertiser.example", "plans@agency.example"
_SEED = "buyers"
_AGES, _GENDERS = ("20-29", "30-39", "40-49", "50-59"), ("f", "m")
_N_RULES, _N_LISTS = 12, 6
_REPETITIONS = 20
_FLOOR_SHARE = 0.1  # of all requests are health checks
_SECONDS_TO_ANSWER: Final = 60.0


@dataclass(frozen=True)
class ConsolePlan:
    """Settings of the console's load test.

    Args:
        n_sessions: Number of sessions, each with its own connection.
        seconds: Duration of the load.
        pace_per_second: Pages per second of each session, with jitter of up to half the interval.
        n_users: Number of users of the publisher; a tenth of them are the advertiser's customers.
        n_entries: Number of entries of the room's audit log.
        random_seed: Random seed of the data, and of all pages and their timing.
    """

    n_sessions: int = 32
    seconds: float = 60.0
    pace_per_second: float = 1.0
    n_users: int = 20_000
    n_entries: int = 20_000
    random_seed: int = 0


@dataclass(frozen=True)
class _Visited:
    name: str
    path: str
    email: str


@dataclass
class PageSession:
    """One user's session in the load test of the console.

    Args:
        url: URL of the server.
        secret: The session's secret.
        pages: The pages that its user opens.
        dice: Determines the pages and their timing.

    Attributes:
        timed: The page and the seconds from sending the request to the complete response.
        problems: Responses other than the page.
    """

    url: str
    secret: str = field(repr=False)
    pages: Sequence[_Visited]
    dice: random.Random
    timed: list[tuple[str, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._http = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=_SECONDS_TO_ANSWER)

    def run(self, start: float, seconds: float, pace_per_second: float) -> None:
        """Open pages at the given pace for `seconds` seconds; `start` is on the monotonic clock."""
        between = 1.0 / pace_per_second
        due = start + self.dice.uniform(0, between)
        while due < start + seconds:
            time.sleep(max(0.0, due + self.dice.uniform(-0.5, 0.5) * between - time.monotonic()))
            is_floor = self.dice.random() < _FLOOR_SHARE
            page = _Visited(FLOOR, HEALTH, "") if is_floor else self.dice.choice(self.pages)
            try:
                self.timed.append((page.name, self.open(page)))
            except (OSError, http.client.HTTPException) as error:
                self.problems.append(f"{page.name}: {type(error).__name__}")
                self._http.close()  # the next request opens it again
            due += between
        self._http.close()

    def open(self, page: _Visited) -> float:
        """Open a page, and return the seconds that the response took."""
        sent = time.monotonic()
        self._http.request("GET", page.path, headers={"Cookie": f"cleanroom={self.secret}", "Accept": "text/html"})
        answer = self._http.getresponse()
        answer.read()
        took = time.monotonic() - sent
        if answer.status != 200:
            self.problems.append(f"{page.name}: status {answer.status}")
        return took


def run_console(
    plan: ConsolePlan, progress: Callable[[float, str], None] = lambda share, stage: None
) -> dict[str, Any]:
    """Run the load test, and report latencies, CPU times and problems.

    Args:
        plan: Settings of the test.
        progress: Called with the share done and the stage.

    Returns:
        `pages`: per page, and for `all` without the health check, the number of requests, the 50th, 95th and 99th
        percentile and maximum of the milliseconds from sending to the complete response, `ratio` of the 95th
        percentile to that of the health check, and `cpu_milliseconds` of one request. `problems`: responses other
        than the page; empty on success. Also the settings, and the machine's load.
    """
    with tempfile.TemporaryDirectory(prefix="cleanroom-console-") as folder:
        home = Path(folder) / "home"
        installation = Installation(Settings(home=home))
        machine: dict[str, Any] = {"cores": os.cpu_count(), "fsync_milliseconds": fsync_milliseconds(Path(folder))}
        progress(0.0, "building a room")
        with serving(home, Path(folder) / "worker.log", worker=True) as (url, _):
            pages = _build_room(installation, url, Path(folder), plan)
        _write_entries(installation, pages[0].path.split("/")[3], plan.n_entries)
        with serving(home, Path(folder) / "server.log") as (url, process):
            cpu = _measure_cpu(installation, url, pages, process.pid)
            sessions = [
                PageSession(
                    url,
                    start_session(installation, email),
                    [page for page in pages if page.email == email],
                    random.Random(f"{plan.random_seed} {number}"),  # noqa: S311 - repeatable on purpose
                )
                for number in range(plan.n_sessions)
                for email in [(_ADVERTISER, _PUBLISHER, _AGENCY)[number % 3]]
            ]
            machine["load_before"], cpu_before = os.getloadavg()[0], cpu_seconds(process.pid)
            seconds = drive(sessions, plan.seconds, plan.pace_per_second, progress)
            machine["load_after"] = os.getloadavg()[0]
            machine["server_cpu_share"] = (cpu_seconds(process.pid) - cpu_before) / seconds
    timed = [one for session in sessions for one in session.timed]
    floor = percentiles([took for name, took in timed if name == FLOOR])
    rows = {"all": percentiles([took for name, took in timed if name != FLOOR])}
    rows |= {name: percentiles([took for other, took in timed if other == name]) for name in sorted(cpu)}
    weights = Counter(name for name, _ in timed if name != FLOOR)
    cpu["all"] = sum(cpu[name] * n for name, n in weights.items()) / max(1, weights.total())
    return {
        "asked": vars(plan),
        "machine": machine,
        "seconds": seconds,
        "pages_per_second": len(timed) / seconds,
        "pages": {
            name: {**row, "ratio": row["p95"] / (floor["p95"] or 1.0), "cpu_milliseconds": cpu[name]}
            for name, row in rows.items()
        },
        "problems": [problem for session in sessions for problem in session.problems],
    }


def table(result: Mapping[str, Any]) -> str:
    """Format the result as a plain text table."""
    asked, machine = result["asked"], result["machine"]
    lines = [
        f"{asked['n_sessions']} sessions, each {asked['pace_per_second']:g} pages per second with jitter, for"
        f" {result['seconds']:.0f} s: {result['pages_per_second']:.1f} pages/s in all",
        f"{machine['cores']} cores, load average {machine['load_before']:.1f} before and"
        f" {machine['load_after']:.1f} after, server used {machine['server_cpu_share']:.2f} cores, one fsync"
        f" {machine['fsync_milliseconds']:.1f} ms",
        f"{'milliseconds':32}{'pages':>7}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}{'p95 ratio':>11}{'CPU':>8}",
    ]
    lines += [
        f"{name:32}{row['n']:>7}{row['p50']:>9.1f}{row['p95']:>9.1f}{row['p99']:>9.1f}{row['max']:>9.1f}"
        f"{row['ratio']:>11.1f}{row['cpu_milliseconds']:>8.1f}"
        for name, row in result["pages"].items()
    ]
    lines.append(f"{len(result['problems'])} problems")
    lines += [f"  {n} times: {problem}" for problem, n in Counter(result["problems"]).most_common(20)]
    return "\n".join(lines)


def _measure_cpu(installation: Installation, url: str, pages: Sequence[_Visited], pid: int) -> dict[str, float]:
    """Return the server's CPU milliseconds per request for each page, measured without other requests."""
    found: dict[str, list[float]] = {}
    for page in [*pages, _Visited(FLOOR, HEALTH, _PUBLISHER)]:
        session = PageSession(url, start_session(installation, page.email), [], random.Random(0))  # noqa: S311 - unused
        session.open(page)
        before = cpu_seconds(pid)
        for _ in range(_REPETITIONS):
            session.open(page)
        found.setdefault(page.name, []).append(1000 * (cpu_seconds(pid) - before) / _REPETITIONS)
        if session.problems:
            raise RuntimeError(f"The benchmark cannot open a page: {session.problems[0]}.")
    return {name: sum(values) / len(values) for name, values in found.items()}


def _write_entries(installation: Installation, room: str, n: int) -> None:
    """Fill the room's audit log with views, as months of work do."""
    for _ in range(n):
        installation.audit.write_soon({"way": "console", "operation": "get_room", "outcome": "ok", "room": room})
    installation.audit.flush()


def _build_room(installation: Installation, url: str, folder: Path, plan: ConsolePlan) -> list[_Visited]:
    """Let three parties work in a room, and return its pages, each with the person who opens it."""
    for email in (_PUBLISHER, _ADVERTISER, _AGENCY):
        installation.catalog.users.create_user(email)
    publisher, advertiser, agency = (
        Client(url, issue_token(installation, email)[0]) for email in (_PUBLISHER, _ADVERTISER, _AGENCY)
    )
    may = Permission
    room = MediaDcr(
        publisher,
        name="Groceries",
        participants=[
            Participant(
                [_PUBLISHER], [may.PROVIDE_BASE_AUDIENCE, may.VIEW_OVERLAP, may.EXPORT_AUDIENCE], "publisher"
            ),
            Participant(
                [_ADVERTISER],
                [
                    may.PROVIDE_SEED_AUDIENCE,
                    may.VIEW_OVERLAP,
                    may.VIEW_INSIGHTS,
                    may.CREATE_CUSTOM_AUDIENCE,
                    may.EXPORT_AUDIENCE,
                ],
                "advertiser",
            ),
            Participant([_AGENCY], [may.VIEW_OVERLAP, may.VIEW_INSIGHTS], "agency"),
        ],
        collaboration_types=list(CollaborationType),
        matching_ids=[MatchingId.EMAIL],
    )
    _write_files(folder, plan)
    lab = (
        DataLabBuilder(publisher)
        .with_name("Shoppers")
        .with_matching_id_format(MatchingId.EMAIL)
        .with_segments()
        .with_demographics()
        .build()
    )
    lab.provision_local_datasets(
        matching_data_path=folder / "matching.csv",
        segments_data_path=folder / "segments.csv",
        demographics_data_path=folder / "demographics.csv",
    )
    lab.run()
    room.provision_base_audience(lab.id)
    theirs = MediaDcr.from_existing(room.id, advertiser)
    theirs.provision_seed_audiences(advertiser.upload_dataset(folder / "customers.csv"))
    theirs.get_overlap_statistics().wait_for_completion().result()
    MediaDcr.from_existing(room.id, agency).get_overlap_statistics().result()
    MediaDcr.from_existing(room.id, agency).get_insights().result()
    theirs.get_insights().result()
    seed = theirs.get_audiences().result().get_seed_audience(_SEED)
    like = theirs.create_lookalike_audience(
        LookalikeAudienceBuilder(name="Like buyers", reach=10, source_audience=seed).build()
    )
    sources: list[CustomAudience | BaseAudience] = [BaseAudience(), *[like] * (_N_RULES - 1)]
    rules = [
        theirs.create_rule_based_audience(
            RuleBasedAudienceBuilder(name=f"Age group {number}", source_audience=source)
            .with_filters(
                AudienceFilters(
                    filters=[
                        Filter(
                            attribute="age",
                            values=[_AGES[number % len(_AGES)]],
                            operator=FilterOperator.CONTAINS_ANY,
                        )
                    ],
                    operator=MatchOperator.MATCH_ALL,
                )
            )
            .build()
        )
        for number, source in enumerate(sources)
    ]
    theirs.create_remarketing_audience(
        RemarketingAudienceBuilder(name="Buyers again", source_audience_type=_SEED).build()
    )
    theirs.create_exclusion_audience(
        ExclusionTargetingAudienceBuilder(name="No buyers", source_audience_type=_SEED).build()
    )
    theirs.get_audience_size(rules[0]).result()
    theirs.get_lookalike_audience_statistics(like).result()
    theirs.share_audiences([like], [theirs.get_participants()[0]])
    lists = [theirs.get_audience_user_list(like) for _ in range(_N_LISTS)]
    for job in lists:
        job.result()
    own = f"/console/rooms/{room.id}"
    shared = {
        "room": "",
        "overlap": "/overlap",
        "privacy": "/privacy",
        "activity": "/activity",
        "people": "/people",
    }
    mine = {
        _ADVERTISER: {
            **shared,
            "data": "/data",
            "data history": "/data/history",
            "insights": "/insights",
            "audiences": "/audiences",
            "lookalike": f"/audiences/{like.id}",
            "rule": f"/audiences/{rules[0].id}",
            "new rule": "/audiences/new/rule_based",
            "new lookalike": "/audiences/new/lookalike",
            "lists": "/lists",
            "list": f"/lists/{lists[0].id}",
        },
        _PUBLISHER: {**shared, "data": "/data", "audiences": "/audiences", "lookalike": f"/audiences/{like.id}"},
        _AGENCY: {**shared, "insights": "/insights"},
    }
    return [
        *(_Visited(name, own + path, email) for email, pages in mine.items() for name, path in pages.items()),
        *(_Visited("rooms", "/console/", email) for email in mine),
    ]


def _write_files(folder: Path, plan: ConsolePlan) -> None:
    """Write both parties' files; about 70 % of the buyers have only interests from the first 10 of 40."""
    dice = random.Random(plan.random_seed)  # noqa: S311 - made-up data
    with (
        (folder / "matching.csv").open("w") as matching,
        (folder / "segments.csv").open("w") as segments,
        (folder / "demographics.csv").open("w") as demographics,
        (folder / "customers.csv").open("w") as customers,
    ):
        for number in range(plan.n_users):
            is_buyer = number % 10 == 0
            email = f"user-{number}@mail.example"
            matching.write(f"{number},{email}\n")
            for interest in dice.sample(range(10 if is_buyer and dice.random() < 0.7 else 40), 5):
                segments.write(f"{number},interest {interest}\n")
            demographics.write(f"{number},{dice.choice(_AGES)},{dice.choice(_GENDERS)}\n")
            if is_buyer:
                customers.write(f"{email},{_SEED}\n")
