"""`/_cleanroom/metrics` shows counts, ages and sizes, and no names.

Contract: without a token only a direct request from this machine may read it, with a token only a request that has
it; every metric of the Grafana board exists; labels are fixed words or keyed digests; a catalogue that does not
respond hides only its own metrics.
"""

import asyncio
import json
import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cleanroom_pipelines.catalog import Kind, LedgerLine, NoticeReceiver, Webhook
from cleanroom_pipelines.server import metrics

from ..architecture.tree import ROOT
from ..catalog.building import dataset_spec
from ..storage.auditing import lines_of
from .server import Room, dataset_parameters

BOARD = ROOT / "data" / "example" / "hosts" / "grafana.json"
Read = dict[tuple[str, tuple[str, ...]], float]
LOCAL = ("127.0.0.1", 50_000)
TOKEN = {"authorization": "Bearer scrape me"}


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    monkeypatch.setattr(metrics, "_CACHE_SECONDS", -1.0)
    return Room.open(tmp_path / "home")


def get(room: Room, client: tuple[str, int] | None = LOCAL, **headers: str) -> tuple[int, str]:
    """Request the metrics from an address with headers."""
    scope = {
        "type": "http",
        "client": client,
        "method": "GET",
        "raw_path": b"/_cleanroom/metrics",
        "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(room.gateway(scope, receive, send))
    return sent[0]["status"], sent[1]["body"].decode()


def read(room: Room) -> Read:
    status, text = get(room)
    assert status == 200
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_queue_jobs_and_requests_are_counted(room: Room) -> None:
    before = read(room)
    assert before["cleanroom_waiting_jobs", ("small",)] == 0
    assert before["cleanroom_oldest_waiting_seconds", ("heavy",)] == 0
    publisher = room.parties.publisher
    room.client(publisher).create_training_dataset(**dataset_parameters(publisher))
    with pytest.raises(Exception, match="ResourceNotFound"):
        room.client(publisher).get_audience_model(
            audienceModelArn=f"arn:aws:cleanrooms-ml:eu-central-1:{publisher.account_id}:audience-model/none-000000000000"
        )
    catalog = room.installation.catalog
    catalog.resources.create(dataset_spec("Other"))
    (first, *_) = catalog.work.ready()
    claim = catalog.work.claim(Kind.TRAINING_DATASET, first.resource_id, first.number, "run")
    assert claim is not None
    after = read(room)
    assert after["cleanroom_waiting_jobs", ("small",)] == 1
    assert after["cleanroom_unfinished_jobs", ("CREATE_PENDING",)] == 1
    assert after["cleanroom_unfinished_jobs", ("CREATE_IN_PROGRESS",)] == 1
    assert after["cleanroom_jobs_last_day", ("training_dataset", "CREATE_IN_PROGRESS")] == 1
    assert after["cleanroom_http_requests_total", ("lookalike", "2xx")] == 1
    assert after["cleanroom_http_requests_total", ("lookalike", "4xx")] == 1
    assert after["cleanroom_http_requests_total", ("operator", "2xx")] == 1
    assert 0 < after["cleanroom_disk_free_bytes", ()] < after["cleanroom_disk_size_bytes", ()]


def test_budgets_have_no_names(room: Room) -> None:
    catalog = room.installation.catalog
    pair = catalog.pairs.pair("alpha.example", "anna@mail.example")
    catalog.pairs.charge(pair.id, [LedgerLine("k", "size", 125, created_at=room.installation.clock())])
    catalog.notices.declare_receiver(NoticeReceiver("Ops", Webhook("https://hooks.example/path")))
    catalog.notices.record_outcome("Ops", "HTTP status 500")
    found = read(room)
    ((label,),) = {labels for name, labels in found if name == "cleanroom_budget_spent_units"}
    assert re.fullmatch("[0-9a-f]{16}", label)
    assert found["cleanroom_budget_spent_units", (label,)] == 12.5
    assert found["cleanroom_budget_total_units", (label,)] == 100
    assert found["cleanroom_failing_receivers", ()] == 1
    assert label not in pair.id, "a digest without the key could be compared with guesses"
    text = get(room)[1]
    for name in ("alpha", "anna", "Ops", "hooks", pair.id, *vars(room.parties.publisher).values()):
        assert name not in text


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (("10.0.0.7", 50_000), {}),
        (None, {}),
        (LOCAL, {"x_forwarded_for": "127.0.0.1"}),
        (LOCAL, {"forwarded": "for=127.0.0.1"}),
        (LOCAL, {"via": "1.1 proxy"}),
        (("10.0.0.7", 50_000), TOKEN),
    ],
    ids=["another machine", "unknown", "x-forwarded-for", "forwarded", "via", "token that is not set"],
)
def test_requests_from_elsewhere_are_rejected_and_audited(
    room: Room, client: tuple[str, int] | None, headers: dict[str, str]
) -> None:
    status, body = get(room, client, **headers)
    assert status == 403
    assert "cleanroom_" not in body
    assert b"refused" in lines_of(room.installation.home.audit)[-1]


def test_with_a_token_every_request_needs_it(tmp_path: Path) -> None:
    room = Room.open(tmp_path / "home", CLEANROOM_SECRET_METRICS="scrape me")
    assert get(room, ("10.0.0.7", 50_000), **TOKEN)[0] == 200
    assert get(room, LOCAL, x_forwarded_for="10.0.0.7", **TOKEN)[0] == 200
    assert get(room)[0] == 403
    for wrong in ("Bearer scrape m", "Bearer scrape me ", "bearer", "Basic scrape me", "Bearer é", ""):
        assert get(room, authorization=wrong)[0] == 403


def test_metrics_respond_without_the_catalogue(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(room)["cleanroom_catalog_up", ()] == 1
    room.installation.catalog.database.close()
    file = room.installation.catalog.database.file
    assert file is not None
    file.write_bytes(b"damaged" * 1000)
    for log in file.parent.glob(f"{file.name}-*"):
        log.unlink()
    found = read(room)
    assert found["cleanroom_catalog_up", ()] == 0
    assert found["cleanroom_disk_free_bytes", ()] > 0


def test_results_are_cached(tmp_path: Path) -> None:
    room = Room.open(tmp_path / "home")
    assert read(room)["cleanroom_waiting_jobs", ("small",)] == 0
    room.installation.catalog.resources.create(dataset_spec("Other"))
    assert read(room)["cleanroom_waiting_jobs", ("small",)] == 0


def test_board_uses_existing_metrics_and_all_of_them(room: Room) -> None:
    names = {name for name, _ in read(room)} | {"cleanroom_jobs_last_day", "cleanroom_unfinished_jobs"}
    names |= {"cleanroom_budget_spent_units", "cleanroom_budget_total_units", "cleanroom_http_requests_total"}
    board = json.loads(BOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    used = {name for query in queries for name in re.findall(r"cleanroom_[a-z_]+", query)}
    assert used <= names
    assert {name for name in names if not name.endswith("_created")} <= used
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
