"""Contract: receivers of notices and their outcomes are stored, and the counts of metrics read, alike on both
databases."""

from datetime import timedelta

import pytest

from cleanroom_pipelines.catalog import Catalog, Kind, Lane, Mail, NoticeReceiver, Status, Webhook
from cleanroom_pipelines.errors import NotFoundError, StatusCode

from .building import Builder, Clock, dataset_spec, model_spec
from .dialects import on_both_dialects


@on_both_dialects
def test_receivers_and_counts(catalog: Catalog, clock: Clock) -> None:
    hook = NoticeReceiver("ops", Webhook("https://hooks.example/x"), "shop", (Kind.AUDIENCE_MODEL,))
    mail = NoticeReceiver("ops", Mail("a@b.example", "c@d.example", "mail.example", 25), only_failures=True)
    for receiver in (hook, mail):
        catalog.notices.declare_receiver(receiver)
        assert catalog.notices.all() == (receiver,)
    catalog.notices.record_outcome("ops", "HTTP status 500")
    clock.turn(5)
    catalog.notices.record_outcome("ops", "")
    assert {name: (each.at, each.problem) for name, each in catalog.notices.outcomes().items()} == {
        "ops": (clock(), "")
    }
    catalog.notices.delete_receiver("ops")
    assert catalog.notices.outcomes() == {}
    with pytest.raises(NotFoundError):
        catalog.notices.delete_receiver("ops")

    builder = Builder(catalog, clock)
    dataset = builder.create(dataset_spec())
    requested = clock()
    clock.turn(60)
    builder.create(dataset_spec("others"))
    assert catalog.work.waiting() == {Lane.SMALL: (2, requested)}
    builder.drain()
    builder.create(model_spec(dataset.id))
    assert catalog.work.waiting() == {Lane.HEAVY: (1, clock())}
    day = timedelta(days=1)
    assert catalog.resources.count_started(clock() - day) == {(Kind.TRAINING_DATASET, Status.ACTIVE): 2}
    assert catalog.resources.count_started(clock()) == {}
    assert catalog.resources.count_failures() == 0
    (pending,) = catalog.work.ready()
    claim = catalog.work.claim(pending.kind, pending.resource_id, pending.number, "run")
    assert claim is not None
    catalog.work.fail(claim, StatusCode.INTERNAL, "failed")
    assert catalog.resources.count_failures() == len(catalog.resources.failures()) == 1
