"""Contract: declared tables and seeds may be remote: a run reads them with the operator's credentials or those of
the account's registered bucket, and a dry run checks their headers. Only a declaration may name such a source."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.catalog import Cause, Kind, TrainingDatasetSpec
from cleanroom_pipelines.errors import CleanroomError, SeedError, TrainingDataError
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.building_lookalike import build_audience_model, build_training_dataset
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines_tests import worlds
from cleanroom_pipelines_tests.object_stores import PROFILE, ObjectStore

OWN, OTHER = "000000000000", "111111111111"


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with worlds.installed(tmp_path / "home") as opened:
        yield opened


def url_of(store: ObjectStore, key: str) -> str:
    return f"s3://shop/{key}?endpoint_override={store.url.removeprefix('http://')}&scheme=http"


def put_days(store: ObjectStore, folder: Path, days: range) -> None:
    rows = worlds.events()
    for day in days:
        file = worlds.write_events(folder / f"{day}.parquet", rows[day::3])
        store.put("shop", f"events/{day}.parquet", file.read_bytes())


def declared(tmp_path: Path, source: str, seed: str | None = None, **changes: Mapping[str, Any]) -> Path:
    return worlds.declare(
        tmp_path / "cleanroom.yaml", interactions=Path("x"), seed=Path("x") if seed else None,
        **{"dataset": {"source": source}, "job": {"seed": seed}, **changes},
    )  # fmt: skip


def built(installation: Installation, number: int) -> dict[str, str]:
    """The digests of a new version of the model."""
    dataset, model = worlds.the(installation, Kind.TRAINING_DATASET), worlds.the(installation, Kind.AUDIENCE_MODEL)
    if number == 1:
        build_training_dataset(installation, dataset.id, Run("dataset", 1))
    else:
        installation.catalog.work.request_version(Kind.AUDIENCE_MODEL, model.id, Cause.BY_HAND)
    manifest = build_audience_model(installation, model.id, Run(f"model {number}", number)).manifest
    assert manifest is not None
    return {file.name: file.sha256 for file in manifest.files if file.name != "training.json"}


def test_a_run_reads_a_store_and_then_only_its_new_day(
    store: ObjectStore, installation: Installation, tmp_path: Path
) -> None:
    put_days(store, tmp_path, range(2))
    worlds.apply(installation, declared(tmp_path, url_of(store, "events")))
    first = built(installation, 1)
    kept = {path: path.stat().st_mtime_ns for path in installation.home.day_caches.rglob("*.parquet")}
    assert len(kept) == 2 * 2, "files and counts"
    put_days(store, tmp_path, range(2, 3))
    second = built(installation, 2)
    assert first != second
    now = {path: path.stat().st_mtime_ns for path in installation.home.day_caches.rglob("*.parquet")}
    assert len(now) == 2 * 3
    assert kept.items() <= now.items()

    local = tmp_path / "local"
    local.mkdir()
    with worlds.installed(tmp_path / "other home") as other:
        worlds.apply(other, declared(tmp_path, str(local)))
        for day in range(3):
            (tmp_path / f"{day}.parquet").rename(local / f"{day}.parquet")
            if day == 1:
                assert built(other, 1) == first
        assert built(other, 2) == second


def test_a_registered_bucket_is_read_with_its_own_profile(
    store: ObjectStore, installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_days(store, tmp_path, range(3))
    monkeypatch.delenv("AWS_PROFILE")
    installation.catalog.parties.register_bucket("mine", OWN, "s3://shop/events", PROFILE)
    worlds.apply(installation, declared(tmp_path, "s3://mine"))
    assert built(installation, 1)


def test_another_accounts_bucket_is_not_read(
    store: ObjectStore, installation: Installation, tmp_path: Path
) -> None:
    put_days(store, tmp_path, range(3))
    installation.catalog.parties.create_account("partner", account_id=OTHER)
    installation.catalog.parties.register_bucket("theirs", OTHER, "s3://shop/events", PROFILE)
    declaration = declared(tmp_path, "s3://theirs")
    with pytest.raises(CleanroomError, match="another account"):
        worlds.apply(installation, declaration, dry_run=True)
    worlds.apply(installation, declaration)
    with pytest.raises(CleanroomError, match="another account"):
        built(installation, 1)


@pytest.mark.parametrize("source", ["s3://shop/events", "delta+file:///x", "iceberg://a/b.c", "adbc:SHOP?table=t"])
def test_only_a_declaration_may_name_a_remote_source(
    source: str, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the source was opened")

    monkeypatch.setattr("cleanroom_pipelines.uploads.sources.Sources.opening", opened)
    columns = tuple(worlds.ROLES.items())
    users = {"users_source": source, "users_columns": (("user", "USER_ID"),)}
    for name, place in (("a", {"source": source}), ("b", {"source": "x.csv", **users})):
        dataset = installation.catalog.resources.create(TrainingDatasetSpec(name=name, columns=columns, **place))
        with pytest.raises(TrainingDataError, match="declaration"):
            build_training_dataset(installation, dataset.id, Run(name, 1))
        assert source not in str(installation.catalog.resources.newest_version(dataset.kind, dataset.id))


def test_a_failed_source_fails_the_dataset_with_a_sentence(
    store: ObjectStore, installation: Installation, tmp_path: Path
) -> None:
    worlds.apply(installation, declared(tmp_path, url_of(store, "events")))
    dataset = worlds.the(installation, Kind.TRAINING_DATASET)
    with pytest.raises(TrainingDataError):
        build_training_dataset(installation, dataset.id, Run("a", 1))
    version = worlds.newest(installation, Kind.TRAINING_DATASET)
    assert (version.status, version.status_code) == ("CREATE_FAILED", "TRAINING_DATA_NOT_FOUND")
    assert "s3://" not in str(version.status_message)


@pytest.mark.parametrize("form", ["file", "folder", "delta"])
def test_a_seed_may_be_remote(form: str, store: ObjectStore, installation: Installation, tmp_path: Path) -> None:
    put_days(store, tmp_path, range(1))
    users = [worlds.user(number) for number in range(40)]
    source = url_of(store, "seeds/a.csv" if form == "file" else "seeds")
    if form == "delta":
        from deltalake import write_deltalake

        for half in (users[:20], users[20:]):
            write_deltalake(tmp_path / "seed", pa.table({"user_id": half}), mode="append")
        source = f"delta+file://{tmp_path}/seed"
    else:
        for name, part in {"file": {"a": users}, "folder": {"a": users[:20], "b": users[20:]}}[form].items():
            worlds.write_seed(tmp_path / f"{name}.csv", part)
            store.put("shop", f"seeds/{name}.csv", (tmp_path / f"{name}.csv").read_bytes())
    declaration = declared(tmp_path, url_of(store, "events"), source)
    dry = worlds.apply(installation, declaration, dry_run=True)
    made = worlds.apply(installation, declaration)
    assert [each.name for each in dry] == [each.name for each in made]
    job = worlds.the(installation, Kind.GENERATION_JOB)
    with installation.vault.opening(job.seed_location, job.seed_digest) as seed:
        text = seed.suffix == ".csv"
        found = seed.read_text().split()[1:] if text else pq.read_table(seed)["user_id"].to_pylist()
    assert sorted(found) == users
    assert {each.action for each in worlds.apply(installation, declaration)} == {"keep"}
    assert [path for path in installation.home.scratch.iterdir() if path.name.startswith("seed-")] == []


def test_a_dry_run_reads_headers_and_suggests_names(
    store: ObjectStore, installation: Installation, tmp_path: Path
) -> None:
    put_days(store, tmp_path, range(1))
    (tmp_path / "users.csv").write_text("user,country,password_hint\nu1,CH,x\n")
    roles = worlds.ROLES
    misspelt = {"usr" if name == "user" else name: role for name, role in roles.items()}
    users = {"source": "users.csv", "columns": {"user": "USER_ID", "countri": "CATEGORICAL_FEATURE"}}
    strange = {"user": "USER_ID", "zzzzzzzz": "CATEGORICAL_FEATURE"}
    cases = {
        "Did you mean 'user'?": {"columns": misspelt, "source": url_of(store, "events")},
        "Did you mean 'country'?": {"source": url_of(store, "events"), "users": users},
        "Check the spelling": {"source": url_of(store, "events"), "users": users | {"columns": strange}},
        "was not found": {"source": "missing.parquet"},
        "No object": {"source": url_of(store, "missing")},
    }
    for sentence, dataset in cases.items():
        declaration = worlds.declare(
            tmp_path / "cleanroom.yaml", interactions=Path("x"), seed=None, dataset=dataset
        )
        with pytest.raises(TrainingDataError) as caught:
            worlds.apply(installation, declaration, dry_run=True)
        assert sentence in str(caught.value)
        assert "training dataset 'Shop events'" in str(caught.value)
        assert "password_hint" not in str(caught.value)
    assert list(installation.catalog.resources.iterate(Kind.TRAINING_DATASET)) == []


def test_a_dry_run_checks_the_header_of_a_seed(
    store: ObjectStore, installation: Installation, tmp_path: Path
) -> None:
    put_days(store, tmp_path, range(1))
    (tmp_path / "seed.csv").write_text("colour,city\nred,Bern\n")
    store.put("shop", "seed.csv", (tmp_path / "seed.csv").read_bytes())
    for seed in ("seed.csv", url_of(store, "seed.csv"), url_of(store, "missing.csv")):
        with pytest.raises(SeedError, match="the generation job"):
            worlds.apply(installation, declared(tmp_path, url_of(store, "events"), seed), dry_run=True)


def test_a_source_with_a_password_is_rejected_before_anything_is_stored(
    installation: Installation, tmp_path: Path
) -> None:
    for source in ("postgresql://me:hunter2@host/db", "s3://key:hunter2@shop/events"):
        with pytest.raises(CleanroomError) as caught:
            worlds.apply(installation, declared(tmp_path, source))
        assert "hunter2" not in str(caught.value)
    for file in installation.home.root.rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes()


def test_a_connection_that_is_not_set_is_named_in_a_dry_run_only(
    installation: Installation, tmp_path: Path
) -> None:
    declaration = declared(tmp_path, "adbc:shop?table=events")
    with pytest.raises(CleanroomError, match="CLEANROOM_SOURCE_SHOP_URL"):
        worlds.apply(installation, declaration, dry_run=True)
    worlds.apply(installation, declaration)
    dataset = worlds.the(installation, Kind.TRAINING_DATASET)
    with pytest.raises(TrainingDataError, match="not configured"):
        build_training_dataset(installation, dataset.id, Run("a", 1))
    assert "SHOP" not in str(worlds.newest(installation, Kind.TRAINING_DATASET).status_message)


def test_no_password_reaches_what_is_stored(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEANROOM_SOURCE_SHOP_URL", "postgresql://me:hunter2@127.0.0.1:1/db")
    with worlds.installed(tmp_path / "home") as opened:
        worlds.apply(opened, declared(tmp_path, "adbc:shop?table=events"))
        dataset = worlds.the(opened, Kind.TRAINING_DATASET)
        with pytest.raises(TrainingDataError):
            build_training_dataset(opened, dataset.id, Run("a", 1))
        with pytest.raises(CleanroomError):
            newest_artifact(opened, Kind.TRAINING_DATASET, dataset.id, "training_dataset")
    for file in (tmp_path / "home").rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes()


def test_the_manifest_is_kept_with_the_day_cache(
    store: ObjectStore, installation: Installation, tmp_path: Path
) -> None:
    put_days(store, tmp_path, range(3))
    worlds.apply(installation, declared(tmp_path, url_of(store, "events")))
    built(installation, 1)
    [manifest] = installation.home.day_caches.rglob("manifest.json")
    found = json.loads(manifest.read_text())
    assert found["n_rows"] == worlds.N_EVENTS
    assert found["source"] == "s3://shop/events"
