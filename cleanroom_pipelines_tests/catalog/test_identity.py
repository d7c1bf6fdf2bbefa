"""The identity of a catalogue, its tombstones, and the dossiers from which it can be rebuilt.

Contract: an identity is read without changing the database, and is created once; the generation rises in the
transaction that publishes or deletes, also if many do so at once, and is reported after it. A seed or upload has a
tombstone until a record refers to it, and again when none does any more. A catalogue rebuilt from a version's
dossier has what the dossier contains.
"""

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import RECORDS, SEED, UPLOAD, Catalog, Kind, ProvenResource, ProvenVersion, hex_of
from cleanroom_pipelines.storage.identity import Identity

from .building import Builder, Clock, Numbered, dataset_spec, job_spec, utc_now

OURS = Identity("0" * 32, 1, "a" * 64)


def test_reading_the_identity_creates_no_database(tmp_path: Path) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path}/catalog.db", clock=Clock(), token_hex=Numbered())
    assert catalog.ownership.identity() is None
    assert catalog.ownership.is_blank()
    assert list(tmp_path.iterdir()) == []


def test_identity_is_assigned_once(empty_url: str) -> None:
    catalog = Catalog(empty_url, clock=Clock(), token_hex=Numbered())
    assert catalog.ownership.identity() is None
    assert catalog.ownership.identify(OURS) == OURS
    assert catalog.ownership.identify(replace(OURS, id="1" * 32)) == OURS
    assert catalog.ownership.is_blank()
    catalog.resources.create(dataset_spec())
    assert not catalog.ownership.is_blank()
    catalog.database.close()


def test_generation_increases_with_every_concurrent_version(url: str) -> None:
    told: list[int] = []
    catalog = Catalog(url, clock=utc_now, token_hex=secrets.token_hex, on_generation=told.append)
    catalog.ownership.identify(OURS)
    made = [catalog.resources.create(dataset_spec(name=f"Set {number}")) for number in range(12)]
    assert catalog.ownership.identity() == OURS

    def publish(dataset_id: str) -> None:
        claim = catalog.work.claim(Kind.TRAINING_DATASET, dataset_id, 1, "run")
        catalog.work.finish(claim, {"sentence": "Made."})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(publish, [dataset.id for dataset in made]))
    assert catalog.ownership.identity().generation == 13
    assert sorted(told) == list(range(2, 14))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda one: catalog.deletion.request_delete(one.kind, one.id), made))
    assert catalog.ownership.identity().generation == 25
    assert catalog.deletion.deleted(hex_of(one.id) for one in made) == {hex_of(one.id) for one in made}
    assert catalog.deletion.deleted([hex_of(made[0].id)], Kind.AUDIENCE_MODEL) == frozenset()
    catalog.database.close()


def test_failed_transaction_keeps_the_generation(builder: Builder) -> None:
    catalog = builder.catalog
    catalog.ownership.identify(OURS)
    dataset = builder.create(dataset_spec())
    claim = catalog.work.claim(dataset.kind, dataset.id, 1, "run")
    with pytest.raises(ValueError, match="stored as JSON"):
        catalog.work.finish(claim, {"sentence": object()})
    assert catalog.ownership.identity() == OURS


def test_seed_without_a_job_has_a_tombstone(builder: Builder) -> None:
    catalog = builder.catalog
    *_, configured = builder.chain()
    slots = ["aaaaaaaaaaaa", "bbbbbbbbbbbb"]
    for slot in slots:
        catalog.deletion.announce(SEED, slot)
        catalog.deletion.announce(SEED, slot)
    assert catalog.deletion.deleted(slots, SEED) == set(slots)
    job = builder.create(job_spec(configured.id, seed_location="aaaaaaaaaaaa/seed.csv"))
    assert catalog.deletion.deleted(slots, SEED) == {"bbbbbbbbbbbb"}
    catalog.resources.place_seed(job.id, "bbbbbbbbbbbb/seed.csv")
    assert catalog.deletion.deleted(slots, SEED) == {"aaaaaaaaaaaa"}
    catalog.resources.forget_seed(job.id)
    assert catalog.deletion.deleted(slots, SEED) == set(slots)


def test_unrecorded_upload_has_a_tombstone(catalog: Catalog, clock: Clock) -> None:
    catalog.deletion.announce(UPLOAD, "00ff00ff")
    catalog.rooms.add_upload(
        "00ff00ff", "a@example.com", "x", n_bytes=1, digest="ab", matching_id=None, location="00ff00ff"
    )
    assert catalog.deletion.deleted(["00ff00ff"], UPLOAD) == frozenset()
    catalog.deletion.abandon_uploads(clock())
    assert catalog.deletion.deleted(["00ff00ff"], UPLOAD) == frozenset(), "it was brought just now"
    clock.turn(1)
    catalog.deletion.abandon_uploads(clock())
    assert catalog.deletion.deleted(["00ff00ff"], UPLOAD) == {"00ff00ff"}
    assert catalog.rooms.upload("00ff00ff").location is None


def test_dossier_contains_the_catalogues_facts(
    undeclared: Builder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    catalog = undeclared.catalog
    dataset, model, configured = undeclared.chain()
    job = undeclared.create(job_spec(configured.id, tags={"a": "1"}))
    undeclared.drain()
    kinds = (dataset, model, configured, job)
    dossiers = {one.id: json.loads(json.dumps(catalog.dossiers.dossier(one.kind, one.id, 1))) for one in kinds}
    new = Catalog(
        f"sqlite:///{tmp_path_factory.mktemp('new')}/catalog.db", clock=undeclared.clock, token_hex=Numbered()
    )
    new.ownership.identify(OURS)
    proven = []
    for one in kinds:
        version = catalog.resources.version(one.kind, one.id, 1)
        made_at, dossier = version.finished_at, dossiers[one.id]
        told = ProvenVersion(1, {}, version.parents, made_at, version.summary, dossier=dossier)
        seed = job.seed_location if one is job else None
        proven.append(ProvenResource(one.kind, one.id, (told,), dossiers[one.id], seed))
    rebuilt = new.dossiers.rebuild(proven, generation=9)
    assert (rebuilt.n_resources, rebuilt.n_versions) == (4, 4)
    assert new.ownership.identity().generation == 10
    for one in kinds:
        assert replace(new.get(RECORDS[one.kind], one.id), updated_at=one.updated_at) == replace(
            catalog.get(RECORDS[one.kind], one.id), updated_at=one.updated_at
        )
        assert (
            new.resources.version(one.kind, one.id, 1).parents
            == catalog.resources.version(one.kind, one.id, 1).parents
        )
    new.database.close()
