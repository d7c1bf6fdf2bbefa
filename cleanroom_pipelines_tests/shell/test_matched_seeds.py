"""Contract: a job reads, judges and matches its seed once; later steps and attempts use what was handed on.

What is handed on is encrypted in the seed's slot: it survives a backup and is deleted with the seed. Without it,
or if it belongs to another model or was altered, the seed is read again. The ranking is the same, byte for byte.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from cleanroom_pipelines.catalog import GenerationJob, Kind
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.backups import back_up, restore
from cleanroom_pipelines.runs.building_lookalike import build_audience, build_seed_validation_report
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.work import Run
from cleanroom_pipelines.similarity import scoring
from cleanroom_pipelines.storage import SeedVault
from cleanroom_pipelines.uploads import reading

from .. import worlds
from .conftest import Shell

MATCHED, SEED = "matched.vault", "seed.jsonl.vault"


def job_of(installation: Installation) -> GenerationJob:
    return worlds.the(installation, Kind.GENERATION_JOB)  # type: ignore[return-value]


def validate(installation: Installation) -> None:
    """Build the report of the job alone, as a run of this asset does; the job waits again."""
    build_seed_validation_report(installation, job_of(installation).id, Run("report", 1), audience_follows=False)


def rank(installation: Installation) -> bytes:
    """Build the audience of the job, and return the ranking."""
    job = job_of(installation)
    assert build_audience(installation, job.id, Run("audience", 1)).made
    manifest, _ = newest_artifact(installation, Kind.GENERATION_JOB, job.id, "audience")
    folder = installation.home.artifacts / f"audience/{job.id[-12:]}/{manifest.version}"
    return (folder / "ranking.parquet").read_bytes()


def slot(installation: Installation) -> list[str]:
    return sorted(path.name for path in installation.home.seeds.rglob("*") if path.is_file())


@contextmanager
def reads() -> Iterator[Callable[[], tuple[int, int]]]:
    """Count how often a table is judged and how often a seed is matched."""
    with (
        mock.patch.object(reading, "_viewed", wraps=reading._viewed) as judged,
        mock.patch.object(scoring, "match_users", wraps=scoring.match_users) as matched,
    ):
        yield lambda: (judged.call_count, matched.call_count)


@pytest.fixture
def validated(trained: Shell) -> Installation:
    """A clean room whose job has its report and waits for its audience."""
    worlds.apply(trained.installation, trained.world.declaration)
    with reads() as counted:
        validate(trained.installation)
        assert counted() == (1, 1)
    assert slot(trained.installation) == [MATCHED, SEED]
    return trained.installation


@pytest.fixture(scope="module")
def ranking(finished: Shell) -> bytes:
    """The ranking of a job whose report and audience were built in one run."""
    job = finished.partition("audience")
    (path,) = finished.installation.home.artifacts.glob(f"audience/{job[-12:]}/*/ranking.parquet")
    return path.read_bytes()


def test_audience_alone_reads_the_seed_no_more(validated: Installation, ranking: bytes) -> None:
    with reads() as counted:
        assert rank(validated) == ranking
        assert counted() == (0, 0)
    assert slot(validated) == []


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def of_another_model(path: Path) -> None:
    vault = SeedVault(Installation.from_environment().home, Installation.from_environment().key)
    location = f"{path.parent.name}/{SEED}"
    content = vault.read_matched(location)
    assert content is not None
    vault.put_matched(location, bytes([content[0] ^ 1]) + content[1:])


@pytest.mark.parametrize("change", [Path.unlink, truncate, of_another_model], ids=["earlier", "altered", "other"])
def test_seed_is_read_again_where_nothing_fitting_was_handed_on(
    validated: Installation, ranking: bytes, change: Callable[[Path], None]
) -> None:
    (matched,) = validated.home.seeds.rglob(MATCHED)
    change(matched)
    with reads() as counted:
        assert rank(validated) == ranking
        assert counted() == (1, 1)
    assert slot(validated) == []


def test_second_report_reads_the_seed_no_more(validated: Installation) -> None:
    _, before = newest_artifact(validated, Kind.GENERATION_JOB, job_of(validated).id, "seed_validation_report")
    with reads() as counted:
        validate(validated)
        assert counted() == (0, 0)
    _, after = newest_artifact(validated, Kind.GENERATION_JOB, job_of(validated).id, "seed_validation_report")
    assert after == before


def test_kept_seed_is_kept_without_its_match(trained: Shell) -> None:
    installation, world = trained.installation, trained.world
    declaration = worlds.declare(
        trained.folder / "kept.yaml", interactions=world.interactions, seed=world.seed, job={"keep_seed": True}
    )
    worlds.apply(installation, declaration)
    validate(installation)
    assert slot(installation) == [MATCHED, SEED]
    rank(installation)
    assert slot(installation) == [SEED]


def test_match_survives_a_backup(validated: Installation, ranking: bytes, tmp_path: Path) -> None:
    back_up(validated, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "restored")
    with worlds.installed(tmp_path / "restored") as restored, reads() as counted:
        assert rank(restored) == ranking
        assert counted() == (0, 0)


def test_match_is_encrypted_and_its_plain_copies_are_deleted(validated: Installation, trained: Shell) -> None:
    ids = [name.encode() for name in trained.world.seed_users]
    (matched,) = validated.home.seeds.rglob(MATCHED)
    assert matched.stat().st_mode & 0o077 == 0
    content = validated.vault.read_matched(f"{matched.parent.name}/{SEED}")
    assert content is not None
    assert all(each in content for each in ids), "it has the ids"
    assert not any(each in matched.read_bytes() for each in ids)
    assert not any(path.is_file() for path in validated.home.scratch.rglob("*"))


def test_match_of_a_deleted_seed_is_not_stored(validated: Installation) -> None:
    location = job_of(validated).seed_location
    validated.vault.delete(location)
    validated.vault.put_matched(location, b"ids")
    validated.vault.put_matched(None, b"ids")
    assert list(validated.home.seeds.iterdir()) == []
    assert validated.vault.read_matched(location) is None
    assert validated.vault.read_matched(None) is None
