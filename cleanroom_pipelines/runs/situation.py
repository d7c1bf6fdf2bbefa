"""The situation of an installation: failed, running and waiting work, due refreshes, and recent exports.

Lives here: reading it from the catalogue, for the start page and `cleanroom status`.
Add here when an operator must see something else at a glance.
Keep out: how it is shown (defs.start_page, cli.resources).
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from cleanroom_pipelines.catalog import AudienceModel, Catalog, ExportJob, Kind, Resource, Status, Version
from cleanroom_pipelines.errors import CleanroomError, NotFoundError
from cleanroom_pipelines.runs.drift import drift_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.notices import NoticeState, states_of
from cleanroom_pipelines.runs.reasons import APPLY, RETRY_ALL, RETRY_JOB, START_JOB, Failure, failure_of

_MOST_ROWS = 50
_MOST_FAILURES = 100
_WEEK = timedelta(days=7)
_TENTHS = 10
_FULL_SHARE = 0.1
_GRACE = timedelta(minutes=15)  # the schedule of refreshes ticks every five


@dataclass(frozen=True)
class Problem:
    """A failure, and the other failures that it caused.

    Args:
        first: The resource that failed first.
        reason: What happened and what to do.
        others: The resources that failed because of it.
        job: The job to launch in Dagster; empty if a click on Materialize is enough.
        command: The command that does the same.
    """

    first: Resource
    reason: str
    others: tuple[Resource, ...]
    job: str
    command: str

    @property
    def consequences(self) -> str:
        """A sentence about the failures that this failure caused; empty if it caused none."""
        n_others = len(self.others)
        if not n_others:
            return ""
        return f" {n_others} other {'resource' if n_others == 1 else 'resources'} failed because of it."


@dataclass(frozen=True)
class Open:
    """A version in progress or waiting, with its stage."""

    record: Resource
    stage: str


@dataclass(frozen=True)
class Export:
    """A finished export.

    Args:
        record: The export job.
        place: The real path of its folder, or its URL on a store.
        n_users: The number of users in it; None if its version does not state it.
        finished_at: UTC.
    """

    record: Resource
    place: str
    n_users: int | None
    finished_at: datetime | None

    @property
    def size(self) -> str:
        """The number of exported users, as text."""
        return "an unknown number of users" if self.n_users is None else f"{self.n_users:,} users"


@dataclass(frozen=True)
class Situation:
    """The state of the installation at a glance, for the operator.

    Args:
        n_failed: The number of resources whose newest version failed.
        problems: What failed and why, newest first.
        running: Work in progress.
        waiting: Pending work, and what it waits for.
        refreshes: Models with their next refresh, soonest first, and whether it is overdue.
        late: Why the refresh of a model failed or is overdue, by the id of the model.
        exports: Exports of the last seven days, newest first.
        budgets: Units left and in total, by pair of organisations.
        drift: Sentences about models, audiences and exports that changed much with a refresh.
        notices: The receivers of notices, and whether each one's last notice arrived.
        inbox: The folder of the inbox for seeds, which has one for each configured audience model.
        free_bytes: Free space on the disk of the home.
        total_bytes: Size of that disk.
    """

    n_failed: int
    problems: tuple[Problem, ...]
    running: tuple[Open, ...]
    waiting: tuple[Open, ...]
    refreshes: tuple[tuple[Resource, datetime, bool], ...]
    late: Mapping[str, str]
    exports: tuple[Export, ...]
    budgets: Mapping[str, tuple[float, float]]
    drift: tuple[str, ...]
    notices: tuple[NoticeState, ...]
    inbox: str
    free_bytes: int
    total_bytes: int

    @property
    def headline(self) -> str:
        """The situation in one sentence."""
        parts = [f"{self.n_failed} failed", f"{len(self.running)} running", f"{len(self.waiting)} waiting"]
        if not self.n_failed and not self.running and not self.waiting:
            parts = ["Everything is done; nothing failed"]
        if self.is_disk_full:
            parts.append("the disk is almost full")
        if any(each.arrived is False for each in self.notices):
            parts.append("a notice did not arrive")
        return f"{', '.join(parts)}."

    @property
    def is_disk_full(self) -> bool:
        """Whether little space is left on the disk."""
        return self.free_bytes < _FULL_SHARE * self.total_bytes

    @property
    def mark(self) -> str:
        """A text that changes when the start page needs a reload; progress and free space do not change it."""
        facts = asdict(self) | {"free_bytes": self.is_disk_full, "total_bytes": 0}
        return repr({**facts, "running": [each.record.id for each in self.running]})


def situation_of(installation: Installation) -> Situation:
    """Read the situation; the cost depends on the failed, open and recent work, not on the whole history."""
    catalog = installation.catalog
    running, waiting = _open_work(installation)
    failed = catalog.resources.failures()
    now, usage = installation.clock(), shutil.disk_usage(installation.home.root)
    budgets = dict[str, tuple[float, float]]()
    for pair in catalog.pairs.all()[:_MOST_ROWS]:
        ledger = catalog.pairs.ledger(pair.id)
        names = ("a person" if "@" in name else name for name in pair.organizations)
        budgets[" + ".join(names)] = (ledger.left / _TENTHS, ledger.total / _TENTHS)
    models = catalog.resources.coming_refreshes(_MOST_ROWS)
    return Situation(
        n_failed=len(failed),
        problems=_problems(catalog, failed[-_MOST_FAILURES:]),
        running=running,
        waiting=waiting,
        refreshes=tuple(
            (model, model.next_refresh_at, model.next_refresh_at < now)
            for model in models
            if model.next_refresh_at
        ),
        late={model.id: sentence for model in models if (sentence := lateness_of(installation, model))},
        exports=tuple(
            Export(record, place_of(installation, record), version.summary.get("delivered"), version.finished_at)
            for record, version in catalog.resources.exports_since(now - _WEEK, _MOST_ROWS)
        ),
        budgets=budgets,
        drift=tuple(_drift(installation, models, now - _WEEK)),
        notices=states_of(catalog, setting=installation.settings.notify),
        inbox=str(installation.home.inbox_seeds),
        free_bytes=usage.free,
        total_bytes=usage.total,
    )


def _drift(installation: Installation, models: Sequence[AudienceModel], since: datetime) -> Iterator[str]:
    for model in models:
        if sentence := drift_of(installation, model.id):
            yield f"{model.name}: {sentence}"
    for record, version in installation.catalog.resources.refreshed_since(since, _MOST_ROWS):
        if "drift" in version.summary:
            yield f"{record.name}: {version.summary['drift']}"


def lateness_of(installation: Installation, model: AudienceModel) -> str:
    """Return why a model's declared refresh failed or is overdue; empty if neither."""
    if (due := model.next_refresh_at) is None:
        return ""
    if (failure := failure_of(installation.catalog, Kind.AUDIENCE_MODEL, model.id)) is not None:
        return failure.sentence
    if due > installation.clock() - _GRACE:
        return ""
    return f"A refresh was due at {due:%Y-%m-%d %H:%M} UTC and has not started. Check that Dagster's daemon runs."


def _problems(catalog: Catalog, failed: Sequence[Version]) -> tuple[Problem, ...]:
    """Group the failures by the failure that caused them, newest group first."""
    groups = dict[str, list[Failure]]()
    for version in reversed(failed):
        if (failure := failure_of(catalog, version.kind, version.resource_id)) is not None:
            groups.setdefault(failure.root.id, []).append(failure)
    return tuple(_problem_of(failures) for failures in list(groups.values())[:_MOST_ROWS])


def _problem_of(failures: list[Failure]) -> Problem:
    first = failures[0].root
    others = tuple(each.record for each in failures if each.record.id != first.id)
    job, command = "", f"cleanroom retry {first.id}"
    if failures[0].needs_new_seed:
        job, command = START_JOB, APPLY
    elif others:
        job, command = RETRY_JOB, RETRY_ALL
    return Problem(first, failures[0].reason, others, job, command)


def _open_work(installation: Installation) -> tuple[tuple[Open, ...], tuple[Open, ...]]:
    catalog = installation.catalog
    running, waiting = list[Open](), list[Open]()
    for (resource_id, number), stage in list(catalog.work.stages().items())[: 2 * _MOST_ROWS]:
        if (record := catalog.resources.find(resource_id)) is None:
            continue
        try:
            version = catalog.resources.version(record.kind, resource_id, number)
        except NotFoundError:
            continue
        is_running = version.status is Status.CREATE_IN_PROGRESS
        words = (str(stage) if is_running else stage.words) + _stops_of(version.attempt - is_running)
        (running if is_running else waiting).append(Open(record, words))
    return tuple(running), tuple(waiting)


def _stops_of(n_stops: int) -> str:
    if n_stops <= 0:
        return ""
    times = "once" if n_stops == 1 else f"{n_stops} times"
    return f"; its process stopped responding {times}, and the work is retried"


def place_of(installation: Installation, record: ExportJob) -> str:
    """Return where an export is stored: a path on this machine, or the URL on a store."""
    location = str(record.output_location)
    try:
        folder = installation.buckets.locate(record.account_id, location).folder
    except CleanroomError:
        return location
    return location if folder is None else str(folder)
