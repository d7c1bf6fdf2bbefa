"""`cleanroom delete` deletes a resource with its dependents, or explains why it does not.

Contract: deleting also removes the Dagster partition with its materialisations; exit codes are 0 and 2.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.dagster_home import dagster_instance
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import KINDS
from cleanroom_pipelines.runs.traces import shown_partitions

from .. import worlds
from .commands import Commands


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def installation(finished_home: Path) -> Iterator[Installation]:
    """A copy of a finished clean room that the environment names."""
    with worlds.installed(finished_home) as opened:
        yield opened


def test_dataset_is_deleted_with_its_dependents(command: Commands, installation: Installation) -> None:
    assert command("run").out == "Finished 0 runs.\n"
    with dagster_instance(installation) as instance:
        assert sum(len(shown_partitions(instance, kind)) for kind in KINDS) == 5
    dataset = worlds.the(installation, Kind.TRAINING_DATASET)
    refused = command("delete", dataset.id)
    # The export is not among them: it goes with its job.
    assert (refused.code, refused.err) == (
        2,
        f"cleanroom: The training dataset {dataset.name!r} has dependents: 1 generation job, 1 configured "
        "audience model, 1 audience model. Delete those first, or add --with-dependents to delete all of them.\n",
    )
    unconfirmed = command("delete", dataset.id, "--with-dependents")
    assert (unconfirmed.code, "--yes" in unconfirmed.err) == (2, True)
    assert len(json.loads(command("status", "--json").out)) == 5
    exported = files_below(installation.home.accounts)
    assert exported

    ended = command("delete", dataset.id, "--with-dependents", "--yes")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"Deleted the training dataset {dataset.name!r} and ")
    assert json.loads(command("status", "--json").out) == []
    assert files_below(installation.home.artifacts) == []
    assert files_below(installation.home.seeds) == []
    with dagster_instance(installation) as instance:
        assert not any(shown_partitions(instance, kind) for kind in KINDS)
    assert files_below(installation.home.accounts) == exported, "what was exported is its owner's"
    entries = [entry for entry in installation.audit.entries() if entry["operation"] == "delete"]
    noted = [(entry["operation"], entry["resource"]) for entry in entries]
    assert noted[-1] == ("delete", dataset.id)
    assert len(noted) == 4
    again = command("delete", dataset.id, "--yes")
    assert (again.code, "No resource has this name or partition key." in again.err) == (2, True)


def test_terminal_asks_for_confirmation(
    command: Commands, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = worlds.the(installation, Kind.GENERATION_JOB)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    asked: list[str] = []

    def answer(text: str, abort: bool, err: bool) -> None:
        asked.append(text)

    monkeypatch.setattr("click.confirm", answer)
    assert command("delete", job.id).code == 0
    assert asked == [f"Delete the generation job {job.name!r}? This cannot be undone."]
    assert list(installation.catalog.resources.iterate(Kind.GENERATION_JOB)) == []
    assert list(installation.catalog.resources.iterate(Kind.EXPORT_JOB)) == []
    assert len(list(installation.catalog.resources.iterate(Kind.CONFIGURED_AUDIENCE_MODEL))) == 1
