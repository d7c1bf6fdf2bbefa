"""The situation of an installation: what failed, runs, waits and is due, and what was exported.

Lives here: reading it from the catalogue, for the start page and `cleanroom status`.
Add here when an operator must see something else at a glance.
Keep out: how it is shown (defs.start_page, cli.status).
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from cleanroom_pipelines.catalog import Catalog, Kind, Resource, Status, Version
from cleanroom_pipelines.errors import CleanroomError, NotFoundError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.notices import NoticeState, states_of
from cleanroom_pipelines.runs.reasons import Failure, failure_of

_MOST_ROWS = 50
_MOST_FAILURES = 100
_WEEK = timedelta(days=7)
_TENTHS = 10
_FULL_SHARE = 0.1


@dataclass(frozen=True)
class Problem:
    """A failure, with what else failed because of it.

    Args:
        first: The resource that failed first.
        reason: What happened and what to do.
        others: The resources that failed because of it.
        command: The command that retries all of them.
    """

    first: Resource
    reason: str
    others: tuple[Resource, ...]
    command: str

    @property
    def consequences(self) -> str:
        """A sentence about the others; empty if there are none."""
        n_others = len(self.others)
        if not n_others:
            return ""
        return f" {n_others} other {'resource' if n_others == 1 else 'resources'} failed because of it."


@dataclass(frozen=True)
class Open:
    """A version in progress or waiting."""

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
        """The number of users in words."""
        return "an unknown number of users" if self.n_users is None else f"{self.n_users:,} users"


@dataclass(frozen=True)
class Situation:
    """What an operator needs to know at a glance.

    Args:
        n_failed: The number of resources whose newest version failed.
        problems: What failed and why, newest first.
        running: What runs.
        waiting: What waits, and for what.
        refreshes: Models with their next refresh, soonest first, and whether it is overdue.
        exports: Exports of the last seven days, newest first.
        budgets: Units left and in total, by pair of organisations.
        drift: Sentences about models whose population changed much with the last refresh.
        notices: The receivers of notices, and whether each one's last notice arrived.
        free_bytes: Free space on the disk of the home.
        total_bytes: Size of that disk.
    """

    n_failed: int
    problems: tuple[Problem, ...]
    running: tuple[Open, ...]
    waiting: tuple[Open, ...]
    refreshes: tuple[tuple[Resource, datetime, bool], ...]
    exports: tuple[Export, ...]
    budgets: Mapping[str, tuple[float, float]]
    drift: tuple[str, ...]
    notices: tuple[NoticeState, ...]
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
        """A text that differs when the start page must be renewed; progress and free space alone do not count."""
        facts = asdict(self) | {"free_bytes": self.is_disk_full, "total_bytes": 0}
        return repr({**facts, "running": [each.record.id for each in self.running]})


def situation_of(installation: Installation) -> Situation:
    """Read the situation; the cost depends on what failed, is open or is recent, not on the history."""
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
        exports=tuple(
            Export(record, _place_of(installation, record), version.summary.get("delivered"), version.finished_at)
            for record, version in catalog.resources.exports_since(now - _WEEK, _MOST_ROWS)
        ),
        budgets=budgets,
        drift=tuple(
            f"{model.name}: {sentence}" for model in models if (sentence := drift_of(installation, model.id))
        ),
        notices=states_of(catalog, setting=installation.settings.notify),
        free_bytes=usage.free,
        total_bytes=usage.total,
    )


def drift_of(installation: Installation, model_id: str, limit: float = 0.2) -> str:
    """Compare a model's newest two versions; return a sentence if users or items changed more than the limit."""
    versions = installation.catalog.resources.versions(Kind.AUDIENCE_MODEL, model_id)
    done = [version.summary for version in versions if version.status is Status.ACTIVE and version.summary]
    if len(done) < 2:
        return ""
    before, after = done[-2:]
    changes = [
        f"{before[key]:,} → {after[key]:,} {words}"
        for key, words in (("n_users", "users"), ("n_items", "items"))
        if key in before and key in after and abs(after[key] - before[key]) > limit * max(1, before[key])
    ]
    return f"{', '.join(changes)} since the previous version." if changes else ""


def _problems(catalog: Catalog, failed: Sequence[Version]) -> tuple[Problem, ...]:
    """Group failures by their cause, newest first."""
    groups = dict[str, list[Failure]]()
    for version in reversed(failed):
        if (failure := failure_of(catalog, version.kind, version.resource_id)) is not None:
            groups.setdefault(failure.root.id, []).append(failure)
    return tuple(_problem_of(failures) for failures in list(groups.values())[:_MOST_ROWS])


def _problem_of(failures: list[Failure]) -> Problem:
    first = failures[0].root
    others = tuple(each.record for each in failures if each.record.id != first.id)
    command = "cleanroom retry --failed" if others else f"cleanroom retry {first.id}"
    return Problem(first, failures[0].reason, others, command)


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
        (running if is_running else waiting).append(Open(record, str(stage) if is_running else stage.words))
    return tuple(running), tuple(waiting)


def _place_of(installation: Installation, record: Any) -> str:
    """Return where an export is stored: a path on this machine, or the URL on a store."""
    location = str(record.output_location)
    try:
        folder = installation.buckets.locate(record.account_id, location).folder
    except CleanroomError:
        return location
    return location if folder is None else str(folder)
