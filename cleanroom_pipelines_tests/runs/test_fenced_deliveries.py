"""Contract: deliveries are fenced. Up to the last step, nothing becomes visible outside for a run that was
cancelled, whose resource is being deleted or that lost its claim; its staged files are removed. The manifest names
the attempt that wrote it, and an earlier attempt never replaces a later one. Tested for exports on a disk and on
an object store, and for the lists of rooms, whose artifacts are on either.

The moments are "in the middle", when the second file is written, and "at the last step", immediately before the
rename or the request that makes the delivery visible. A pause is simulated by letting the lease expire.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from unittest import mock

import obstore
import pytest
from moto.server import ThreadedMotoServer

from cleanroom_pipelines.catalog import CatalogUnavailableError, Status
from cleanroom_pipelines.catalog.claims import Claims
from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.errors import (
    CancelledError,
    ClaimLostError,
    CleanroomError,
    ConflictError,
    DestinationError,
)
from cleanroom_pipelines.media.errors import PermissionDeniedError
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.server.media.access import Call
from cleanroom_pipelines.server.media.jobs import open_file
from cleanroom_pipelines.storage import Home, ObjectPlace
from cleanroom_pipelines.storage.buckets import Buckets, RegisteredBucket
from cleanroom_pipelines.storage.objects import Fence
from cleanroom_pipelines_tests.delivery.exporting import exported as exported_as

from ..conftest import StandingClock
from ..object_stores import PROFILE, ObjectStore, Reply, Request, empty_store, running_server
from .delivery_worlds import ACCOUNT, ANALYST, N_DELIVERED, Delivery, at, export_delivery, list_delivery

Moment = Callable[[Callable[[], object]], AbstractContextManager[None]]

REAL = "real"


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    with running_server() as running:
        yield running


@pytest.fixture
def store(server: ThreadedMotoServer, tmp_path: Path) -> Iterator[ObjectStore]:
    with empty_store(server, tmp_path) as running:
        running.client().create_bucket(Bucket=REAL)
        yield running


@pytest.fixture(params=["export on a disk", "export on a store", "list on a disk", "list on a store"])
def delivery(request: pytest.FixtureRequest, home: Home, clock: StandingClock) -> Delivery:
    installation = Installation(Settings(home.root, seed_floor=1), clock=clock)
    if request.param == "export on a store":
        store = request.getfixturevalue("store")
        installation.catalog.parties.register_bucket("audiences", ACCOUNT, f"s3://{REAL}", PROFILE)
        return export_delivery(installation, clock, lambda: store.objects(REAL))
    if request.param == "list on a store":
        store = request.getfixturevalue("store")
        monkeypatch = request.getfixturevalue("monkeypatch")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "own")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        url = f"s3://{REAL}/home?endpoint_override={store.url.removeprefix('http://')}&scheme=http"
        installation = Installation(Settings(home.root, seed_floor=1, artifacts_url=url), clock=clock)
    return (export_delivery if "export" in request.param else list_delivery)(installation, clock)


@pytest.fixture(params=["in the middle", "at the last step"])
def moment(request: pytest.FixtureRequest, delivery: Delivery) -> Moment:
    """Does something once at a moment of a delivery."""
    return last_step(delivery) if request.param == "at the last step" else middle(delivery)


def middle(delivery: Delivery) -> Moment:
    if delivery.asset == "audience_export":
        return lambda action: at(Claims, "report_progress", lambda *_: True, action)
    return lambda action: at(os, "open", lambda path, *_, **__: path == "part-00001.csv", action)


def last_step(delivery: Delivery) -> Moment:
    """When nothing is asked any more, for an export; for a list the version's end is the last step."""
    if delivery.asset == "audience_user_list":
        return lambda action: at(Claims, "finish", lambda *_: True, action)
    name = delivery.record.id.rsplit("-", 1)[-1]
    if delivery.installation.catalog.parties.bucket("audiences") is None:
        return lambda action: at(os, "rename", lambda _, target, **__: target == name, action)
    return lambda action: at(obstore, "put", lambda _store, key, *_, **__: key.endswith("manifest.json"), action)


def assert_nothing(delivery: Delivery) -> None:
    """Neither a file nor a draft is where it goes, and no artifact lists its users."""
    assert delivery.files() == {}
    assert delivery.artifacts == []
    assert not list(delivery.installation.home.scratch.iterdir())


def assert_delivered(delivery: Delivery, attempt: int) -> None:
    """It is there whole, once, and its version is ACTIVE."""
    files = delivery.files()
    assert delivery.version.status is Status.ACTIVE
    manifest = json.loads(files["manifest.json"])
    assert manifest["attempt"] == attempt
    assert sorted(files) == sorted(["manifest.json", *(part["name"] for part in manifest["files"])])
    assert manifest["delivered"] == N_DELIVERED


def assert_no_other_artifact(delivery: Delivery) -> None:
    """What an attempt noted of its delivery in vain is gone."""
    assert delivery.artifacts == [delivery.version.artifacts[delivery.asset]]


def test_undisturbed_delivery_happens_once(delivery: Delivery) -> None:
    delivery.make("first")
    assert_delivered(delivery, attempt=1)
    assert len(delivery.files()) == 4
    delivery.make("second")  # nothing is to be done
    assert_delivered(delivery, attempt=1)
    assert_no_other_artifact(delivery)


def test_delivery_cancelled_midway_is_not_published(delivery: Delivery) -> None:
    cancel = lambda: delivery.catalog.work.request_cancel(delivery.record.kind, delivery.record.id)  # noqa: E731
    with middle(delivery)(cancel), pytest.raises(CancelledError):
        delivery.make("first")
    assert (delivery.version.status, delivery.version.status_code) == ("CREATE_FAILED", "CANCELLED")
    assert_nothing(delivery)


def test_delivery_deleted_midway_is_not_published(delivery: Delivery) -> None:
    with middle(delivery)(delivery.delete), pytest.raises(CancelledError):
        delivery.make("first")
    assert (delivery.version.status, delivery.version.status_code) == ("CREATE_FAILED", "CANCELLED")
    assert_nothing(delivery)
    parent = delivery.parent
    assert [record.id for record in delivery.catalog.deletion.deletions()] == [parent.id], "the deletion goes on"
    delivery.catalog.deletion.begin_delete(parent.kind, parent.id)


def test_paused_and_cancelled_attempt_delivers_nothing(delivery: Delivery) -> None:
    def pause_and_cancel() -> None:
        delivery.pause()
        delivery.catalog.work.request_cancel(delivery.record.kind, delivery.record.id)

    with middle(delivery)(pause_and_cancel), pytest.raises(ClaimLostError):
        delivery.make("first")
    assert (delivery.version.status, delivery.version.status_code) == ("CREATE_FAILED", "CANCELLED")
    assert_nothing(delivery)
    delivery.catalog.work.retry(delivery.record.kind, delivery.record.id)
    delivery.make("second")
    assert delivery.version.status is Status.ACTIVE


@pytest.mark.parametrize("is_reaped", [True, False])
def test_paused_and_replaced_attempt_keeps_the_later_delivery(
    delivery: Delivery, moment: Moment, is_reaped: bool
) -> None:
    def replace() -> None:
        if is_reaped:
            delivery.pause()
        else:
            delivery.clock.turn(seconds=61)  # the second run takes the claim itself
        delivery.make("second")
        later.update(delivery.files())
        assert_delivered(delivery, attempt=2)

    later = dict[str, bytes]()
    with moment(replace), pytest.raises(ClaimLostError):
        delivery.make("first")
    assert delivery.files() == later
    assert_delivered(delivery, attempt=2)
    assert_no_other_artifact(delivery)


def test_paused_attempt_with_interrupted_successor_delivers_once(delivery: Delivery, moment: Moment) -> None:
    def attempt_again() -> None:
        delivery.pause()
        with middle(delivery)(interrupt), pytest.raises(KeyboardInterrupt):
            delivery.make("second")

    with moment(attempt_again), pytest.raises(ClaimLostError):
        delivery.make("first")
    assert delivery.version.status is Status.CREATE_PENDING
    delivery.make("third")
    assert_delivered(delivery, attempt=3)
    assert_no_other_artifact(delivery)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_cancel_at_the_last_step_wins_or_is_rejected(delivery: Delivery) -> None:
    """Never both: what is called cancelled is not delivered."""
    told = list[bool]()

    def cancel() -> None:
        try:
            delivery.catalog.work.request_cancel(delivery.record.kind, delivery.record.id)
        except ConflictError:
            told.append(False)
        else:
            told.append(True)

    with last_step(delivery)(cancel), suppress(CancelledError):
        delivery.make("first")
    is_cancelled = told == [True]
    assert is_cancelled == (delivery.asset == "audience_user_list")
    if is_cancelled:
        assert delivery.version.status_code == "CANCELLED"
        assert_nothing(delivery)
    else:
        assert_delivered(delivery, attempt=1)


@pytest.mark.parametrize("delivery", ["export on a disk", "export on a store"], indirect=True)
def test_begun_delivery_cannot_be_cancelled_after_its_run_is_lost(delivery: Delivery) -> None:
    def pause_and_cancel() -> None:
        delivery.pause()
        with pytest.raises(ConflictError, match="being delivered"):
            delivery.catalog.work.request_cancel(delivery.record.kind, delivery.record.id)
        raise KeyboardInterrupt  # the run ends there

    with last_step(delivery)(pause_and_cancel), pytest.raises(KeyboardInterrupt):
        delivery.make("first")
    assert delivery.version.status is Status.CREATE_PENDING
    delivery.make("second")
    assert_delivered(delivery, attempt=2)


def test_run_stopped_before_its_last_step_is_retried(delivery: Delivery) -> None:
    with last_step(delivery)(interrupt), pytest.raises(KeyboardInterrupt):
        delivery.make("first")
    assert delivery.files() == {}
    delivery.make("second")
    assert_delivered(delivery, attempt=2)


@pytest.mark.parametrize("delivery", ["export on a disk", "export on a store"], indirect=True)
def test_unclosed_delivery_is_repeated(delivery: Delivery) -> None:
    """The catalogue goes away after the last step: the export did not fail, and the next attempt closes it."""
    away = CatalogUnavailableError("Away.")
    with mock.patch.object(Claims, "finish", side_effect=away), pytest.raises(CatalogUnavailableError):
        delivery.make("first")
    assert delivery.version.status is Status.CREATE_IN_PROGRESS
    assert delivery.manifest["attempt"] == 1
    delivery.pause()
    delivery.make("second")
    assert_delivered(delivery, attempt=2)


@pytest.mark.parametrize("delivery", ["list on a disk"], indirect=True)
def test_list_of_a_cancelled_job_cannot_be_fetched(delivery: Delivery) -> None:
    catalog, parent = delivery.catalog, delivery.parent
    job = catalog.rooms.add_room_job(
        email=ANALYST, data_room_id=parent.parent_id, kind="user_list", target=delivery.version, options={}
    )
    delivery.make("first")
    call = Call(delivery.installation, ANALYST, {})
    with open_file(call, job.id, "part-00000.csv") as path:
        assert path.read_bytes() == delivery.files()["part-00000.csv"]
    catalog.rooms.cancel_room_job(job.id)
    with pytest.raises(PermissionDeniedError), open_file(call, job.id, "part-00000.csv"):
        pass


@pytest.fixture(params=["on a disk", "on a store"])
def place(request: pytest.FixtureRequest, home: Home) -> ObjectPlace:
    if request.param == "on a store":
        request.getfixturevalue("store")
        registered = RegisteredBucket("audiences", ACCOUNT, f"s3://{REAL}", PROFILE)
        return Buckets(home, lambda _: registered).destination(ACCOUNT, "s3://audiences/x") / "1"
    return Buckets(home, lambda _: None).destination(ACCOUNT, "s3://audiences/x") / "1"


def write(place: ObjectPlace, attempt: int, **hooks: Callable[..., None]) -> None:
    """Write what only this attempt writes: one user more than its number."""
    users = [f"{attempt}-{number}" for number in range(attempt + 1)]
    on_users = hooks.pop("on_users", lambda _: None)
    exported_as(
        place,
        [users],
        export="e",
        generation_job=None,
        requested=attempt,
        format_="jsonl",
        max_rows=1,
        fence=Fence(attempt, **hooks),
        on_users=on_users,
    )


@pytest.mark.parametrize("attempt", [1, 2])
def test_earlier_attempt_does_not_replace_a_later_one(place: ObjectPlace, attempt: int) -> None:
    write(place, 3)
    with pytest.raises(ClaimLostError, match="later attempt"):
        write(place, attempt)
    assert verify_export(place)["attempt"] == 3


@pytest.mark.parametrize("first", [1, 2])
def test_later_attempt_replaces_an_earlier_one(place: ObjectPlace, first: int) -> None:
    write(place, first)
    write(place, 3)
    assert (verify_export(place)["attempt"], verify_export(place)["delivered"]) == (3, 4)


@pytest.mark.parametrize(("step", "n_allowed"), [("check", 0), ("commit", 0), ("check", 1), ("check", 2)])
@pytest.mark.parametrize("error", [CancelledError("Stop."), ClaimLostError("Gone.")])
def test_staged_files_are_removed_when_the_fence_rejects(
    place: ObjectPlace, home: Home, step: str, n_allowed: int, error: CleanroomError
) -> None:
    answers = iter([None] * n_allowed)

    def asked() -> None:
        if next(answers, error) is not None:
            raise error

    # on a disk nothing is visible between the begin and the last step, so nothing is asked there
    with pytest.raises(type(error)) if place.folder is None or not n_allowed else nullcontext():
        write(place, 2, **{step: asked})
    if place.folder is None or not n_allowed:
        assert everything(place) == []
    assert list(home.scratch.iterdir()) == []


def everything(place: ObjectPlace) -> list[str]:
    """All that lies beside the place, drafts too."""
    if place.folder is not None:
        return [path.name for path in place.folder.parent.iterdir()]
    return [entry.key for entry in place.bucket.list("")]


@pytest.mark.parametrize("rename", ["away", "in"])
def test_attempt_paused_between_renames_keeps_the_later_delivery(home: Home, rename: str) -> None:
    """Replacing takes two: the earlier folder goes out of the way, the new one comes in."""
    place = Buckets(home, lambda _: None).destination(ACCOUNT, "s3://audiences/x") / "1"
    write(place, 1)
    ends = {"away": "/old", "in": "1"}[rename]
    with (
        at(os, "rename", lambda _, target, **__: target.endswith(ends), lambda: write(place, 3)),
        pytest.raises(DestinationError),
    ):
        write(place, 2)
    assert (verify_export(place)["attempt"], verify_export(place)["delivered"]) == (3, 4)
    assert everything(place) == ["1"]


def test_late_part_of_an_earlier_attempt_is_not_mixed_in(store: ObjectStore, home: Home) -> None:
    registered = RegisteredBucket("audiences", ACCOUNT, f"s3://{REAL}", PROFILE)
    place = Buckets(home, lambda _: registered).destination(ACCOUNT, "s3://audiences/x") / "1"
    asked = iter([None, None])

    def lost() -> None:
        if next(asked, True):
            raise ClaimLostError("Gone.")

    with (
        at(
            obstore,
            "put",
            lambda _store, key, *_, **__: key.endswith("part-00001-2.jsonl"),
            lambda: write(place, 4),
        ),
        pytest.raises(ClaimLostError),
    ):
        write(place, 2, check=lost)
    assert verify_export(place)["attempt"] == 4
    assert sorted(store.objects(REAL)) == ["x/1/manifest.json", *(f"x/1/part-0000{n}-4.jsonl" for n in range(5))]


def test_fence_is_checked_before_a_large_file_completes(store: ObjectStore, home: Home) -> None:
    registered = RegisteredBucket("audiences", ACCOUNT, f"s3://{REAL}", PROFILE)
    place = Buckets(home, lambda _: registered).destination(ACCOUNT, "s3://audiences/x") / "1"
    users = [f"user-{number:0100d}" for number in range(90_000)]  # 12 MB as JSON Lines
    options = {"export": "e", "generation_job": None, "requested": 1, "format_": "jsonl"}
    pending = lambda: store.client().list_multipart_uploads(Bucket=REAL).get("Uploads", [])  # noqa: E731
    n_pending = list[int]()

    def cancel() -> None:
        n_pending.append(len(pending()))
        assert store.objects(REAL) == {}
        raise CancelledError("Stop.")

    with pytest.raises(CancelledError):
        exported_as(place, [users], fence=Fence(1, check=cancel), **options)
    assert (n_pending, pending(), store.objects(REAL)) == ([1], [], {})
    exported_as(place, [users], fence=Fence(1), **options)
    assert verify_export(place)["delivered"] == len(users)


@pytest.mark.parametrize("answer", ["lost", "501"])
def test_manifest_is_stored_despite_lost_response_or_ignored_conditions(
    store: ObjectStore, home: Home, answer: str
) -> None:
    registered = RegisteredBucket("audiences", ACCOUNT, f"s3://{REAL}", PROFILE)
    place = Buckets(home, lambda _: registered).destination(ACCOUNT, "s3://audiences/x") / "1"
    conditions = list[object]()

    def sending(send: Callable[[], Reply], request: Request) -> Reply:
        if request.method != "PUT" or not request.url.endswith("manifest.json"):
            return send()
        condition = request.headers.get("if-none-match")
        conditions.append(condition)
        if answer == "501" and condition:
            return [b"<Error><Code>NotImplemented</Code></Error>"], "501 Not Implemented", []
        answered = send()
        if answer == "lost":
            raise ConnectionError
        return answered

    with store.tampering(sending):
        write(place, 1)
    assert verify_export(place)["attempt"] == 1
    assert conditions[0] == "*"
    assert answer == "lost" or conditions[-1] is None, "it was asked for again"
