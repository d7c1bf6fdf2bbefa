"""`cleanroom retry` and `run --wait`: retry failed work, report or wait for work of other processes.

Contract: a failed version becomes pending again from its first attempt.
"""

import json
from pathlib import Path

import pytest
import yaml

from cleanroom_pipelines.catalog import Catalog, Cause, Claim, Kind, Status
from cleanroom_pipelines.catalog.overview import Overview
from cleanroom_pipelines.errors import StatusCode
from cleanroom_pipelines.runs.installation import Installation

from .. import worlds
from .commands import Commands


@pytest.fixture
def catalog(command: Commands, installation: Installation, world: worlds.World) -> Catalog:
    """A declared clean room in which nothing was done yet."""
    command("apply", world.declaration)
    return installation.catalog


def take(installation: Installation, kind: Kind) -> Claim:
    record = worlds.the(installation, kind)
    claim = installation.catalog.work.claim(kind, record.id, 1, "another process")
    assert claim is not None
    return claim


def fail(installation: Installation, kind: Kind) -> str:
    claim = take(installation, kind)
    installation.catalog.work.fail(claim, StatusCode.INTERNAL, "It failed.")
    return claim.id


def test_failed_version_is_queued_again(command: Commands, installation: Installation, catalog: Catalog) -> None:
    key = fail(installation, Kind.TRAINING_DATASET)
    ended = command("retry", key)
    assert (ended.code, ended.out, ended.err) == (0, "Queued 1 failed version.\n", "")
    version = catalog.resources.newest_version(Kind.TRAINING_DATASET, key)
    assert (version.status, version.attempt) == (Status.CREATE_PENDING, 0)


def test_all_failed_versions_are_queued_parents_first(
    command: Commands, installation: Installation, catalog: Catalog
) -> None:
    fail(installation, Kind.TRAINING_DATASET)
    assert len(catalog.work.fail_orphans()) == 4
    job = worlds.the(installation, Kind.GENERATION_JOB)
    catalog.resources.forget_seed(job.id)
    ended = json.loads(command("retry", "--failed", "--json").out)
    kinds = [catalog.resources.named(each["partition"])[0].kind for each in ended["queued"]]
    assert kinds == [Kind.TRAINING_DATASET, Kind.AUDIENCE_MODEL, Kind.CONFIGURED_AUDIENCE_MODEL]
    skipped, export = ended["skipped"]
    assert skipped["partition"] == job.id
    assert "Run `cleanroom apply` with the file that declares the job" in skipped["reason"]
    assert export["partition"] == worlds.the(installation, Kind.EXPORT_JOB).id, "it needs the job"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Give either names or --failed."),
        (
            ("no-such-000000000000",),
            "No resource has this name or partition key. Existing names: 'Loyal customers', ",
        ),
        (("shop event",), "Did you mean 'Shop events'? Existing names: "),
        (("no-such-000000000000", "--failed"), "Give either names or --failed."),
    ],
)
def test_invalid_usage_has_a_remedy(
    command: Commands, catalog: Catalog, arguments: tuple[str, ...], sentence: str
) -> None:
    ended = command("retry", *arguments)
    assert ended.code == 2
    assert sentence in ended.err
    assert ended.err.count("\n") == 1


def test_resources_are_retried_and_cancelled_by_name(
    command: Commands, installation: Installation, catalog: Catalog
) -> None:
    fail(installation, Kind.TRAINING_DATASET)
    assert command("retry", worlds.DATASET).out == "Queued 1 failed version.\n"
    stopped = command("cancel", worlds.JOB)
    assert (stopped.code, stopped.out) == (0, f"Asked version 1 of the generation job {worlds.JOB!r} to stop.\n")


def test_ambiguous_name_is_rejected_with_the_keys(
    command: Commands, installation: Installation, catalog: Catalog, world: worlds.World, tmp_path: Path
) -> None:
    same_name = {
        "model": {"name": worlds.DATASET},
        "configured": {"name": "More", "audience_model": worlds.DATASET},
    }
    more = worlds.declare(tmp_path / "more.yaml", interactions=world.interactions, seed=None, **same_name)
    assert command("apply", more).code == 0
    dataset = worlds.the(installation, Kind.TRAINING_DATASET)
    model = worlds.the(installation, Kind.AUDIENCE_MODEL, worlds.DATASET)
    for verb in ("retry", "cancel", "delete"):
        ended = command(verb, dataset.name)
        assert (ended.code, "2 resources have this name. Give a partition key: " in ended.err) == (2, True)
        assert f"{dataset.id} (training dataset), {model.id} (audience model)." in ended.err


def test_successful_version_is_not_queued(command: Commands, installation: Installation, catalog: Catalog) -> None:
    ended = command("retry", worlds.the(installation, Kind.TRAINING_DATASET).id)
    assert (ended.code, "did not fail" in ended.err) == (2, True)


def test_run_reports_work_claimed_by_other_processes(
    command: Commands, installation: Installation, catalog: Catalog
) -> None:
    take(installation, Kind.TRAINING_DATASET)
    ended = command("run")
    assert ended.code == 0
    assert ended.out.startswith(
        "Finished 0 runs.\nUnfinished versions: 1 is in progress in other processes and 4 are waiting."
    )


def test_run_waits_for_work_claimed_by_other_processes(
    command: Commands, trained_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worlds.installed(trained_home) as installation:
        catalog, count = installation.catalog, Overview.unfinished
        configured = worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL)
        version = catalog.work.request_version(configured.kind, configured.id, Cause.BY_HAND)
        held = [catalog.work.claim(configured.kind, configured.id, version.number, "another process")]

        def count_then_release(self: Overview) -> dict[Status, int]:
            counted = count(self)
            while held and (claim := held.pop()):
                catalog.work.release(claim)
            return counted

        monkeypatch.setattr(Overview, "unfinished", count_then_release)
        ended = command("run", "--wait")
        assert (ended.code, ended.out) == (0, "Finished 1 run.\n")
        assert worlds.newest(installation, configured.kind).status is Status.ACTIVE


def test_job_with_too_few_matches_is_repaired_as_its_message_says(
    command: Commands, trained_home: Path, tmp_path: Path
) -> None:
    """The seed is deleted with the failure; the corrected declaration supplies it again."""
    seed, file = tmp_path / "seed.csv", tmp_path / "job.yaml"
    seed.write_text("user_id\n" + "".join(f"{worlds.user(number)}\n" for number in range(40)))

    def declare(minimum: int) -> None:
        worlds.declare(
            file,
            interactions=trained_home / "events.parquet",
            seed=seed,
            configured={"minimum_matching_seed_size": minimum},
        )
        form = yaml.safe_load(file.read_text())
        file.write_text(
            yaml.safe_dump({key: form[key] for key in ("configured_audience_models", "generation_jobs")})
        )

    with worlds.installed(trained_home) as installation:
        declare(50)
        dry = command("apply", file, "--dry-run")
        assert (dry.code, dry.err.count("\n")) == (0, 1)
        assert "fewer unique ids than the 50 users that must match" in dry.err
        ended = command("apply", file, "--run")
        assert ended.code == 2
        assert (
            "(50). Give a larger seed, check that it uses the training data's ids, or lower minimum" in ended.err
        )
        assert worlds.the(installation, Kind.GENERATION_JOB).seed_location is None
        again = command("retry", "--failed")
        assert again.out == "Queued 0 failed versions.\n"
        declare(40)
        ended = command("apply", file, "--run")
        assert ended.code == 0, ended.err
        assert [line.split()[0] for line in ended.out.splitlines()] == ["updated", "retried", "retried"]
        assert worlds.newest(installation, Kind.EXPORT_JOB).status is Status.ACTIVE
