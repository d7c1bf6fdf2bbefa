"""Contract: a worker without a heartbeat for a minute counts as dead."""

import pytest

from cleanroom_pipelines.catalog import Catalog
from cleanroom_pipelines.errors import UsageError

from .building import Clock
from .dialects import on_both_dialects


@on_both_dialects
def test_workers_without_heartbeats_are_dead(catalog: Catalog, clock: Clock) -> None:
    catalog.work.heartbeat_worker("a")
    clock.turn(30)
    catalog.work.heartbeat_worker("b")
    assert catalog.work.dead_workers() == ()
    clock.turn(30)
    assert catalog.work.dead_workers() == ("a",)
    catalog.work.heartbeat_worker("a")
    assert catalog.work.dead_workers() == ()
    clock.turn(60)
    assert catalog.work.dead_workers() == ("b", "a")
    assert catalog.work.dead_workers(silent_seconds=90) == ("b",)
    catalog.work.forget_worker("b")
    catalog.work.forget_worker("nobody")
    assert catalog.work.dead_workers() == ("a",)


def test_unstorable_worker_id(catalog: Catalog) -> None:
    with pytest.raises(UsageError):
        catalog.work.heartbeat_worker("a\0")
