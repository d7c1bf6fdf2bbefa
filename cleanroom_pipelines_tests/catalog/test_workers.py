"""Contract: a worker that was not heard of for a minute counts as dead."""

import pytest

from cleanroom_pipelines.catalog import Catalog
from cleanroom_pipelines.errors import UsageError

from .building import Clock
from .dialects import on_both_dialects


@on_both_dialects
def test_who_is_dead(catalog: Catalog, clock: Clock) -> None:
    catalog.heartbeat_worker("a")
    clock.turn(30)
    catalog.heartbeat_worker("b")
    assert catalog.dead_workers() == ()
    clock.turn(30)
    assert catalog.dead_workers() == ("a",)
    catalog.heartbeat_worker("a")
    assert catalog.dead_workers() == ()
    clock.turn(60)
    assert catalog.dead_workers() == ("b", "a")
    assert catalog.dead_workers(silent_seconds=90) == ("b",)
    catalog.forget_worker("b")
    catalog.forget_worker("nobody")
    assert catalog.dead_workers() == ("a",)


def test_an_id_that_cannot_be_stored(catalog: Catalog) -> None:
    with pytest.raises(UsageError):
        catalog.heartbeat_worker("a\0")
