"""What the two sides of a job see, and what a list must not reveal.

Contract: the summary of a finished job has the metrics that the API shows; its status has no count of matches,
path or id. Across accounts, an export without the seed has at most half of the scored users who are not in the
seed. A job keeps the configuration with which it was started.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode
from cleanroom_pipelines.catalog import (
    AudienceModelSpec,
    ExportJobSpec,
    GenerationJob,
    GenerationJobSpec,
    Kind,
    Starter,
    Version,
)
from cleanroom_pipelines.errors import CleanroomError, SeedError, StatusCode
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.similarity.ranking import generate

from .. import worlds

OWNER, STARTER = "000000000000", "111111111111"
N_OTHERS = worlds.N_USERS - worlds.N_SEED
SIZES = ("5%", "20%", "43%", "44%", "60%")  # 130 of the 260 others are 43.3 % of all 300


def make(installation: Installation, asset: str, partition: str) -> None:
    worlds.make(installation, asset, partition, Run("run", number=1))


@pytest.fixture(scope="module")
def room_without_job(world: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a clean room with two accounts and a model but no job; to be copied."""
    home = tmp_path_factory.mktemp("told") / "home"
    declaration = worlds.declare(
        home.with_name("told.yaml"), interactions=world.interactions, seed=None, configured={"sizes": list(SIZES)}
    )
    with worlds.installed(home) as installation:
        worlds.apply(installation, declaration)
        for kind in list(Kind)[:3]:
            make(installation, ASSETS_OF[kind][0], worlds.the(installation, kind).id)
        for account in (OWNER, STARTER):
            # of one organisation: jobs between two are private (test_private_jobs.py)
            installation.catalog.parties.create_account(f"Account {account[0]}", account, "One house")
    return home


@pytest.fixture(scope="module")
def room_with_job(room_without_job: Path, world: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same once a job of another account is ranked."""
    home = Path(shutil.copytree(room_without_job, tmp_path_factory.mktemp("ranked") / "home"))
    with worlds.installed(home) as installation:
        rank(installation, world)
    return home


@pytest.fixture
def room(room_without_job: Path, tmp_path: Path) -> Iterator[Installation]:
    shutil.copytree(room_without_job, tmp_path / "home")
    with worlds.installed(tmp_path / "home") as installation:
        yield installation


@pytest.fixture
def ranked(room_with_job: Path, tmp_path: Path) -> Iterator[Installation]:
    shutil.copytree(room_with_job, tmp_path / "home")
    with worlds.installed(tmp_path / "home") as installation:
        yield installation


def only_job(room: Installation) -> GenerationJob:
    job = worlds.the(room, Kind.GENERATION_JOB)
    assert isinstance(job, GenerationJob)
    return job


def start(
    room: Installation, users: Sequence[str], *, starter: str = STARTER, mode: SeedMode = SeedMode.EXCLUDED
) -> GenerationJob:
    """Start a job of these users, as an account asks for it over the wire."""
    seed = worlds.write_seed(room.home.scratch / "seed.jsonl", users)
    digest = room.vault.digest(seed)
    spec = GenerationJobSpec(
        name="Theirs",
        configured_audience_model_id=worlds.the(room, Kind.CONFIGURED_AUDIENCE_MODEL).id,
        seed_location=room.vault.put(room.token_hex(12), seed, move=True),
        seed_digest=digest,
        seed_mode=mode,
    )
    options = {} if starter == OWNER else {"starter": Starter(STARTER, "Theirs")}
    return room.catalog.resources.create(spec, account_id=OWNER, **options)


def newest(room: Installation, job: GenerationJob) -> Version:
    return room.catalog.resources.newest_version(Kind.GENERATION_JOB, job.id)


def rank(room: Installation, world: worlds.World, **options: object) -> GenerationJob:
    job = start(room, world.seed_users, **options)
    make(room, "audience", job.id)
    assert newest(room, job).status == "ACTIVE"
    return job


def export(room: Installation, job: GenerationJob, size: str) -> Version:
    exported = room.catalog.resources.create(
        ExportJobSpec(
            name=f"Export {size}",
            generation_job_id=job.id,
            size=AudienceSize.parse(size),
            started_by=job.started_by,
        ),
        account_id=OWNER,
    )
    try:
        make(room, "audience_export", exported.id)
    except CleanroomError as error:
        assert error.status_code is StatusCode.SIZE_REVEALS_SEED
    return room.catalog.resources.newest_version(Kind.EXPORT_JOB, exported.id)


def test_summary_contains_what_the_api_shows(ranked: Installation) -> None:
    room, job = ranked, only_job(ranked)
    told = newest(room, job).summary["metrics"]
    _, documents = newest_artifact(room, Kind.GENERATION_JOB, job.id, "audience")
    metrics = documents["metrics"]
    assert told["recall"] == metrics["recall_at"]["recall"]
    assert told["recall_at"] == {"type": "PERCENTAGE", "value": 44}, "the largest percentage up to 50"
    assert [entry["value"] for entry in told["relevance"]] == [5, 20, 43, 44, 60]
    assert {entry["type"] for entry in told["relevance"]} == {"PERCENTAGE"}
    assert [entry["score"] for entry in told["relevance"]] == [row["relevance"] for row in metrics["sizes"]]
    assert told["n_users"] == worlds.N_USERS
    assert told["warnings"] == [warning["code"] for warning in metrics["warnings"]]
    assert "MINIMUM_LOWERED" in told["warnings"]
    assert str(metrics["match"]["n_matched"]) not in re.findall(r"\d+", json.dumps(told))


@pytest.mark.parametrize(("size", "is_delivered"), [("20%", True), ("43%", True), ("44%", False), ("60%", False)])
def test_cross_account_export_is_at_most_half_of_the_other_users(
    ranked: Installation, size: str, is_delivered: bool
) -> None:
    room, job = ranked, only_job(ranked)
    assert job.started_by == STARTER
    assert any(entry["value"] == 60 for entry in newest(room, job).summary["metrics"]["relevance"]), "computed"
    version = export(room, job, size)
    exported = [*(room.home.accounts / OWNER / "buckets").rglob("part-*")]
    if is_delivered:
        assert version.status == "ACTIVE"
        assert version.summary["delivered"] <= N_OTHERS / 2
        assert len(exported) == 1
    else:
        assert (version.status, version.status_code) == ("CREATE_FAILED", StatusCode.SIZE_REVEALS_SEED)
        assert not re.search(r"\d", version.status_message), "the message tells no count"
        assert exported == []


@pytest.mark.parametrize(
    ("starter", "mode"),
    [(OWNER, SeedMode.EXCLUDED), (STARTER, SeedMode.FIRST), (STARTER, SeedMode.IN_PLACE)],
)
def test_own_or_listed_seed_is_exempt_from_the_size_limit(
    room: Installation, world: worlds.World, starter: str, mode: SeedMode
) -> None:
    job = rank(room, world, starter=starter, mode=mode)
    assert export(room, job, "60%").status == "ACTIVE"


def test_job_keeps_its_initial_settings(room: Installation, world: worlds.World) -> None:
    job = start(room, world.seed_users)
    configured = worlds.the(room, Kind.CONFIGURED_AUDIENCE_MODEL)
    room.catalog.resources.update_configured_audience_model(
        configured.id, sizes=(AudienceSize.parse("7%"),), min_matching_seed_size=400
    )
    make(room, "audience", job.id)
    version = newest(room, job)
    assert version.status == "ACTIVE"
    assert [entry["value"] for entry in version.summary["metrics"]["relevance"]] == [5, 20, 43, 44, 60]


def test_retry_without_the_original_model_reports_it(room: Installation, world: worlds.World) -> None:
    job = start(room, world.seed_users)
    claim = room.catalog.work.claim(Kind.GENERATION_JOB, job.id, 1, "another run")
    room.catalog.work.fail(claim, StatusCode.STORAGE_FULL, "The disk is full.")
    configured, model = worlds.the(room, Kind.CONFIGURED_AUDIENCE_MODEL), worlds.the(room, Kind.AUDIENCE_MODEL)
    other = room.catalog.resources.create(
        AudienceModelSpec(name="Other", training_dataset_id=model.training_dataset_id)
    )
    make(room, "audience_model", other.id)
    room.catalog.resources.update_configured_audience_model(configured.id, audience_model_id=other.id)
    room.catalog.deletion.request_delete(Kind.AUDIENCE_MODEL, model.id)
    room.catalog.deletion.begin_delete(Kind.AUDIENCE_MODEL, model.id)
    room.catalog.deletion.finish_delete(Kind.AUDIENCE_MODEL, model.id)
    room.catalog.work.retry(Kind.GENERATION_JOB, job.id)
    with pytest.raises(CleanroomError):
        make(room, "audience", job.id)
    version = newest(room, job)
    assert (version.status, version.status_code) == ("CREATE_FAILED", StatusCode.PARENT_NOT_ACTIVE)
    assert model.id not in version.status_message


def seeds(world: worlds.World) -> dict[str, list[str]]:
    everybody = [worlds.user(number) for number in range(worlds.N_USERS)]
    return {
        "few known": [*world.group[:13], *(f"stranger-{number}" for number in range(87))],
        "covers all": everybody[:217],
        "too few": everybody[:17],
    }


@pytest.mark.parametrize("seed", ["few known", "covers all", "too few"])
def test_status_of_a_failed_job_contains_no_match_count(
    room: Installation, world: worlds.World, seed: str
) -> None:
    job = start(room, seeds(world)[seed])
    with pytest.raises(SeedError):
        make(room, "audience", job.id)
    version = newest(room, job)
    assert version.status == "CREATE_FAILED"
    numbers = set(re.findall(r"\d+", version.status_message))
    assert not numbers & {"13", "217", "83", "300", "100"}
    assert job.id not in version.status_message
    assert str(room.home.root) not in version.status_message


@pytest.mark.parametrize(("seed", "n_matched"), [("few known", 13), ("covers all", 217)])
def test_counts_are_attributes_of_the_error(
    room: Installation, world: worlds.World, tmp_path: Path, seed: str, n_matched: int
) -> None:
    model = worlds.the(room, Kind.AUDIENCE_MODEL)
    (folder,) = (room.home.artifacts / "audience_model" / model.id[-12:]).iterdir()
    path = worlds.write_seed(tmp_path / "seed.jsonl", seeds(world)[seed])
    with pytest.raises(SeedError) as caught:
        generate(model=folder, seed=path, out=tmp_path, min_matching_seed_size=25)
    assert caught.value.attributes["n_matched"] == n_matched
    assert str(n_matched) not in str(caught.value)
