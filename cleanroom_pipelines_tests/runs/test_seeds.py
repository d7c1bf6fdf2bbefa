"""Contract: a job started from a file has its seed in the vault, or there is neither job nor seed."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode
from cleanroom_pipelines.catalog import LARGEST, Kind, Origin
from cleanroom_pipelines.errors import ConflictError, NotFoundError, SeedError, UsageError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.seeds import judge_seed, start_job_from_file

from .building import SEED, Inbox, make_room


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    path = tmp_path / "members.csv"
    path.write_bytes(SEED)
    return path


@pytest.mark.parametrize(
    ("size", "expected"), [("", None), ("largest", LARGEST), ("5%", AudienceSize.parse("5%"))]
)
def test_job_is_registered_with_its_seed(
    installation: Installation, seed: Path, size: str, expected: object
) -> None:
    configured = make_room(installation.catalog)
    job = start_job_from_file(
        installation, configured=configured.id, seed=seed, name="Spring", seed_mode="first", export_size=size
    )
    assert (job.export_size, job.seed_mode, job.origin) == (expected, SeedMode.FIRST, Origin.UI)
    assert (job.seed_name, job.seed_bytes) == ("Spring", len(SEED))
    assert job.seed_digest == installation.vault.digest(seed)
    with installation.vault.opening(job.seed_location) as path:
        assert path.read_bytes() == SEED
    assert seed.exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"configured": "nosuch-0123456789ab"}, NotFoundError),
        ({"name": "Taken"}, ConflictError),
        ({"name": "two\nlines"}, UsageError),
        ({"seed_mode": "last"}, UsageError),
        ({"export_size": "101%"}, UsageError),
        ({"export_size": "7%"}, UsageError),
        ({"export_size": "much"}, UsageError),
        ({"seed": "missing.csv"}, SeedError),
        ({"seed": "."}, SeedError),
        ({"seed": "members.docx"}, SeedError),
    ],
)
def test_invalid_arguments_leave_nothing(
    installation: Installation, seed: Path, changes: dict[str, str], error: type[Exception]
) -> None:
    configured = make_room(installation.catalog)
    first = start_job_from_file(installation, configured=configured.id, seed=seed, name="Taken")
    installation.vault.delete(first.seed_location)
    seed.with_name("members.docx").write_bytes(SEED)
    arguments = {"configured": configured.id, "seed": seed, "name": "Spring"} | changes
    arguments["seed"] = seed.parent / arguments["seed"]
    with pytest.raises(error) as caught:
        start_job_from_file(installation, **arguments)
    assert caught.value.remedy
    assert len(list(installation.catalog.resources.iterate(Kind.GENERATION_JOB))) == 1
    assert list(installation.home.seeds.iterdir()) == []


@pytest.mark.parametrize(("account", "taken"), [(None, "u"), ("111122223333", None)])
def test_a_seed_may_name_its_ids_as_the_dataset_does(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, account: str | None, taken: str | None
) -> None:
    """The header `u` is not a known word; another account may not learn that the dataset has such a column."""
    inbox.drop("members.csv", b"spend,u\n" + b"".join(b"1,user-%02d\n" % number for number in range(30)))
    (job,) = inbox.register()
    work = SimpleNamespace(installation=inbox.installation, record=replace(job, started_by=account))
    monkeypatch.setattr("cleanroom_pipelines.runs.seeds.handed_on", lambda work, model: None)
    monkeypatch.setattr("cleanroom_pipelines.similarity.seeds.match_seed", lambda *_, **__: None)
    work.opening_input = lambda artifact: nullcontext()
    report = judge_seed(work, SimpleNamespace(artifact=lambda asset: None)).report  # type: ignore[arg-type]
    assert (report.uniqueness.key_columns, report.uniqueness.n_unique) == (((taken,), 30) if taken else ((), 0))


def test_configured_model_is_found_by_its_name(installation: Installation, seed: Path) -> None:
    configured = make_room(installation.catalog)
    job = start_job_from_file(installation, configured=configured.name, seed=seed, name="Spring")
    assert job.parent_id == configured.id
    with pytest.raises(NotFoundError) as caught:
        start_job_from_file(installation, configured="Unknown", seed=seed, name="Summer")
    assert repr(configured.name) in caught.value.remedy
