"""Metrics of an installation in Prometheus format, and the check of who may read them.

Lives here: the metrics, counting requests, and the rule of access.
Add here when an operator needs another number; add it to the board `data/example/hosts/grafana.json` too.
Keep out: data. A label is a fixed word, or the keyed digest of a pair of organisations.

Reading the metrics does not slow down as the history grows: queries read only open, failed and recently started
versions, and pairs of organisations.
"""

import hmac
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING

from cleanroom_pipelines.catalog import Lane
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.media.protocol import PREFIX as MEDIA_PREFIX
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.notices import states_of

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

METRICS = "/_cleanroom/metrics"
_TOKEN = "METRICS"  # noqa: S105 - the name of the secret
_CACHE_SECONDS = 5.0
_TENTHS = 10
_DAY = timedelta(days=1)


class Metrics:
    """The metrics of an installation; requests are counted since this process started.

    Args:
        installation: The installation.
    """

    def __init__(self, installation: Installation) -> None:
        from prometheus_client import CollectorRegistry, Counter

        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "cleanroom_http_requests",
            "Requests, by API and class of HTTP status.",
            ["api", "status"],
            registry=self._registry,
        )
        self._registry.register(_State(installation))
        self._token = installation.settings.secrets.get(_TOKEN)

    def count(self, path: str, status: int, *, is_s3: bool) -> None:
        """Count a request."""
        if is_s3:
            api = "s3"
        elif path.startswith(f"{MEDIA_PREFIX}/"):
            api = "data_room"
        elif path == "/" or path.startswith("/console"):
            api = "console"
        else:
            api = "operator" if path.startswith("/_cleanroom/") else "lookalike"
        self._requests.labels(api, f"{status // 100}xx").inc()

    def admits(self, authorization: str, *, is_local: bool) -> bool:
        """Whether a request may read the metrics: it has the token or, if none is set, comes from this machine.

        Args:
            authorization: The header `Authorization`.
            is_local: Whether the request comes from this machine, without a proxy.
        """
        if self._token is None:
            return is_local
        expected = f"Bearer {self._token}"
        return hmac.compare_digest(authorization.encode(errors="replace"), expected.encode())

    def render(self) -> tuple[str, bytes]:
        """Return the content type and the metrics."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return CONTENT_TYPE_LATEST, generate_latest(self._registry)


class _State:
    """Collector of metrics about the catalogue and the disk; reads them at most once every five seconds."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._lock = Lock()
        self._families: list[GaugeMetricFamily] = []
        self._read_at = float("-inf")

    def collect(self) -> Iterator["GaugeMetricFamily"]:
        """Yield the metrics; called by the registry."""
        with self._lock:
            if time.monotonic() - self._read_at > _CACHE_SECONDS:
                self._families = list(self._read())
                self._read_at = time.monotonic()
            yield from self._families

    def _read(self) -> Iterator["GaugeMetricFamily"]:
        usage = shutil.disk_usage(self._installation.home.root)
        yield _gauge("disk_free_bytes", "Free space on the disk that stores the home folder.", usage.free)
        yield _gauge("disk_size_bytes", "Size of the disk that stores the home folder.", usage.total)
        try:
            families = [*self._queue(), *self._jobs(), *self._budgets(), self._notices()]
        except CleanroomError:
            families = []
        yield _gauge("catalog_up", "1 if the catalogue responds, 0 if not.", int(bool(families)))
        yield from families

    def _queue(self) -> Iterator["GaugeMetricFamily"]:
        now, waiting = self._installation.clock(), self._installation.catalog.work.waiting()
        count = _family("waiting_jobs", "Jobs that are ready to start, by lane (small or heavy jobs).", "lane")
        age = _family(
            "oldest_waiting_seconds",
            "Age of the oldest job that is ready to start, by lane; 0 if no job is ready.",
            "lane",
        )
        for lane in Lane:
            n_jobs, oldest = waiting.get(lane, (0, now))
            count.add_metric([lane.value], n_jobs)
            age.add_metric([lane.value], max(0.0, (now - oldest).total_seconds()))
        yield from (count, age)

    def _jobs(self) -> Iterator["GaugeMetricFamily"]:
        resources = self._installation.catalog.resources
        unfinished = _family(
            "unfinished_jobs",
            "Jobs that are running or pending, including those that wait for another job.",
            "status",
        )
        for status, n_jobs in resources.unfinished().items():
            unfinished.add_metric([status.value], n_jobs)
        started = _family(
            "jobs_last_day", "Jobs that started in the last 24 hours, by kind and status.", "kind", "status"
        )
        for (kind, status), n_jobs in resources.count_started(self._installation.clock() - _DAY).items():
            started.add_metric([kind.value, status.value], n_jobs)
        failed = resources.count_failures()
        yield from (
            unfinished,
            started,
            _gauge("failed_resources", "Resources whose newest version failed.", failed),
        )

    def _budgets(self) -> Iterator["GaugeMetricFamily"]:
        spent = _family(
            "budget_spent_units", "Units of the privacy budget that a pair of organisations has spent.", "pair"
        )
        total = _family(
            "budget_total_units", "Units in the whole privacy budget of a pair of organisations.", "pair"
        )
        pairs, key = self._installation.catalog.pairs, self._installation.key
        for pair in pairs.all():
            ledger, label = pairs.ledger(pair.id), key.digest("metrics", pair.id.encode())[:16]
            spent.add_metric([label], ledger.spent / _TENTHS)
            total.add_metric([label], ledger.total / _TENTHS)
        yield from (spent, total)

    def _notices(self) -> "GaugeMetricFamily":
        states = states_of(self._installation.catalog, setting=self._installation.settings.notify)
        n_failing = sum(state.arrived is False for state in states)
        return _gauge("failing_receivers", "Receivers whose last notice could not be delivered.", n_failing)


def _family(name: str, about: str, *labels: str) -> "GaugeMetricFamily":
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"cleanroom_{name}", about, labels=labels)


def _gauge(name: str, about: str, value: float) -> "GaugeMetricFamily":
    family = _family(name, about)
    family.add_metric([], value)
    return family
