"""Contract: a delivery on a real store, compared with an earlier one there, equals byte for byte that on the
disk."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from cleanroom_pipelines.delivery.exports import verify_export
from cleanroom_pipelines.delivery.holdouts import Holdout, holdout_salt
from cleanroom_pipelines.storage import Home, ObjectPlace
from cleanroom_pipelines.storage.buckets import Buckets, RegisteredBucket, folder_on_disk

from ..object_stores import PROFILE, ObjectStore, empty_store
from .exporting import delivered

ACCOUNT = "111111111111"


@pytest.fixture
def store(store_server: ThreadedMotoServer, tmp_path: Path) -> Iterator[ObjectStore]:
    with empty_store(store_server, tmp_path) as running:
        running.client().create_bucket(Bucket="real")
        yield running


def write(places: dict[str, ObjectPlace]) -> None:
    users = [f"user-{number}" for number in range(200)]
    for export, chosen, since in (("first", users[:150], None), ("second", users[50:], places["first"])):
        delivered(
            places[export],
            [pa.array(chosen)],
            export=export,
            generation_job="g",
            requested=len(chosen),
            format_="jsonl",
            gzip=True,
            max_rows=40,
            holdout=Holdout.parse("20%", holdout_salt(b"key", "spring")),
            holdout_place=places[f"{export}-held-out"],
            delta_from=since,
        )


def test_bytes_equal_those_on_disk(home: Home, store: ObjectStore, tmp_path: Path) -> None:
    names = ("first", "first-held-out", "second", "second-held-out")
    buckets = Buckets(home, lambda name: RegisteredBucket(name, ACCOUNT, "s3://real/shop", PROFILE))
    beside = buckets.destination(ACCOUNT, "s3://audiences/spring")
    remote = {name: beside / name for name in names}
    local = {name: folder_on_disk(tmp_path / "local" / name) for name in names}
    write(remote)
    write(local)
    there = {key.removeprefix("shop/spring/"): content for key, content in store.objects("real").items()}
    here = {
        path.relative_to(tmp_path / "local").as_posix(): path.read_bytes()
        for path in (tmp_path / "local").rglob("*")
        if path.is_file()
    }
    assert there == here
    assert verify_export(remote["second"]) == verify_export(local["second"])
    assert {"second/added-00000.jsonl.gz", "second/removed-00000.jsonl.gz"} < set(there)
