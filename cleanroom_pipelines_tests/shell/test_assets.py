"""All lookalike assets through Dagster, from a table to an export.

Contract: each asset is materialised once and its checks pass; its page starts with a one-sentence result and names
the exact versions it was built from; the data version is a function of the inputs; every artifact matches its
manifest; an export is the top of the ranking and contains no score.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from cleanroom_pipelines.audiences.sizes import AudienceSize, SeedMode
from cleanroom_pipelines.catalog import RECORDS, ExportJobSpec, GenerationJobSpec, Kind
from cleanroom_pipelines.defs.pages import RELEVANCE, bars
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.building_lookalike import verify_exported_files
from cleanroom_pipelines.runs.kinds import ASSETS_OF
from cleanroom_pipelines.storage import ArtifactReference

from .. import worlds
from .conftest import Shell

ASSETS = [asset for kind in worlds.ROAD for asset in ASSETS_OF[kind]]
ROWS = {
    "training_dataset": worlds.N_EVENTS,
    "configured_audience_model": 3,
    "seed_validation_report": worlds.N_SEED,
    "audience": worlds.N_USERS,
    "audience_export": worlds.N_USERS // 5,
}
PARENTS = {
    "training_dataset": {"interactions"},
    "audience_model": {"interactions", "training_dataset"},
    "configured_audience_model": {"audience_model"},
    "seed_validation_report": {"seed"},
    "audience": {"audience_model", "seed"},
    "audience_export": {"audience"},
}


def page_of(shell: Shell, asset: str) -> dict[str, Any]:
    (materialization,) = worlds.materializations(shell.instance, asset)
    return {name: value.value for name, value in materialization.metadata.items()}


def exported_users(shell: Shell, location: str) -> list[str]:
    folder = shell.installation.home.accounts / "000000000000" / "buckets" / location.removeprefix("s3://")
    lines = [line for part in sorted(folder.glob("part-*.jsonl")) for line in part.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    assert all(set(row) == {"user_id"} for row in rows), "an export carries ids only"
    return [row["user_id"] for row in rows]


def ranking_of(shell: Shell, job_id: str) -> list[dict[str, Any]]:
    manifest, _ = newest_artifact(shell.installation, Kind.GENERATION_JOB, job_id, "audience")
    with shell.installation.store.opening(ArtifactReference("audience", job_id, manifest.version)) as folder:
        return sorted(pq.read_table(folder / "ranking.parquet").to_pylist(), key=lambda row: row["rank"])


@pytest.mark.parametrize("asset", ASSETS)
def test_each_asset_is_materialised_once(finished: Shell, asset: str) -> None:
    (materialization,) = worlds.materializations(finished.instance, asset)
    assert materialization.partition == finished.partition(asset)


def test_every_run_succeeded_and_is_linked_to_its_version(finished: Shell) -> None:
    runs = finished.instance.get_runs()
    assert {run.job_name for run in runs} == {
        "validate_training_dataset",
        "train_audience_model",
        "configure_audience_model",
        "generate_audience",
        "export_audience",
    }
    assert len(runs) == 5
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert {run.tags["cleanroom/version"] for run in runs} == {"1"}
    for kind in worlds.ROAD:
        version = worlds.newest(finished.installation, kind)
        assert version.run_id in {run.run_id for run in runs}


def test_every_check_was_evaluated_and_passed(finished: Shell) -> None:
    checks = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    logs = [log for run in finished.instance.get_runs() for log in finished.instance.all_logs(run.run_id, checks)]
    evaluations = [log.get_dagster_event().asset_check_evaluation_data for log in logs]
    assert sorted(check.check_name for check in evaluations) == [
        "audience_is_like_the_one_before",
        "dataset_is_valid",
        "export_is_like_the_one_before",
        "export_matches_manifest",
        "model_is_fresh",
        "model_is_like_the_one_before",
        "recall_beats_chance",
        "seed_is_usable",
    ]
    for check in evaluations:
        assert check.passed, check.check_name
        assert check.partition == finished.partition(check.asset_key.to_user_string())


@pytest.mark.parametrize("asset", ASSETS)
def test_page_starts_with_the_result(finished: Shell, asset: str) -> None:
    page = page_of(finished, asset)
    assert next(iter(page)) == "summary"
    sentence = page["summary"].strip("*")
    version = worlds.newest(finished.installation, worlds.kind_of(asset))
    if asset != "seed_validation_report":  # the version's own sentence is that of its audience
        assert sentence == version.summary["sentence"]
    assert re.search(r"\d", sentence)
    assert len(sentence) < 200


@pytest.mark.parametrize("asset", ASSETS)
def test_page_has_row_count_and_columns(finished: Shell, asset: str) -> None:
    page = page_of(finished, asset)
    if asset == "audience_model":
        events = worlds.events()
        assert page["dagster/row_count"] == len({(who, item) for who, item, _ in events})
    else:
        assert page["dagster/row_count"] == ROWS[asset]
    if asset in ("configured_audience_model", "seed_validation_report"):
        return  # documents, not tables
    columns = [column.name for column in page["dagster/column_schema"].columns]
    assert ("user" if asset == "training_dataset" else "user_id") in columns
    assert "score" not in columns or asset == "audience"


@pytest.mark.parametrize("asset", ASSETS)
def test_page_describes_the_partition(finished: Shell, asset: str) -> None:
    told = page_of(finished, asset)["partition"]
    record = finished.installation.catalog.get(RECORDS[worlds.kind_of(asset)], finished.partition(asset))
    assert record.name.replace("%", "") in told.replace("\\", "").replace("%", "")
    assert f"`{record.id}`" in told
    assert "Created 20" in told
    assert "Status: " in told
    ancestor = record
    while ancestor.parent_id and ancestor.parent_kind:
        ancestor = finished.installation.catalog.get(RECORDS[ancestor.parent_kind], ancestor.parent_id)
        asset_of_parent = ASSETS_OF[ancestor.kind][-1]
        assert f"](/assets/{asset_of_parent}?view=partitions&partition={ancestor.id})" in told


@pytest.mark.parametrize("asset", ASSETS)
def test_page_names_exact_parent_versions(finished: Shell, asset: str) -> None:
    inputs = [record.data for record in page_of(finished, asset)["input artifacts"].records]
    assert {entry["asset"] for entry in inputs} == PARENTS[asset]
    for entry in inputs:
        assert re.fullmatch("[0-9a-f]{16}", str(entry["digest"]))
        if entry["asset"] in ASSETS:
            parent, _ = newest_artifact(
                finished.installation,
                worlds.kind_of(str(entry["asset"])),
                str(entry["partition"]),
                str(entry["asset"]),
            )
            assert entry["version"] == parent.version
            assert parent.data_version.startswith(str(entry["digest"]))


@pytest.mark.parametrize("asset", ["training_dataset", "audience"])
def test_pictures_are_small_enough_for_dagster(finished: Shell, asset: str) -> None:
    page = page_of(finished, asset)
    pictures = [value for name, value in page.items() if name.startswith("picture")]
    assert pictures
    for picture in pictures:
        assert re.match(r"!\[[^]]+\]\(data:image/png;base64,iVBOR", picture)
        assert len(picture) < 100_000


def test_audience_page_shows_its_quality(finished: Shell) -> None:
    page = page_of(finished, "audience")
    assert re.match(r"\*\*Finds [\d.]+ times as many held-out seed users as chance at 10 % \(", page["summary"])
    assert [record.data["size"] for record in page["quality by size"].records] == ["5%", "10%", "20%"]
    for record in page["quality by size"].records:
        for column in (
            "recall of held-out seed users",
            "95 % interval",
            "recall of a random ranking",
            "lift (random: 1)",
            RELEVANCE,
        ):
            assert record.data[column]
    columns = {column.name for column in page["quality by size"].schema.columns}
    assert not {name for name in columns if "relevance" in name} - {RELEVANCE}, (
        "that of a random ranking is higher"
    )
    assert page["recall at 20%"] > 2 * page["recall at 20%, random ranking"]


def test_numbers_are_bars_that_need_no_click(finished: Shell) -> None:
    expected = {
        "training_dataset": {"interactions by month": "2023-11"},
        "audience_model": {"seconds by stage": "learning the representation"},
        "seed_validation_report": {"seed match": f"known to the model | {'█' * 20} {worlds.N_SEED}"},
        "audience": {
            "held-out seed users found": "20% | █",
            "what distinguishes the seed": "item item-0",
            "seconds by stage": "scoring all users",
        },
        "audience_export": {"users": f"delivered | {'█' * 20} {worlds.N_USERS // 5}"},
    }
    for asset, shown_words in expected.items():
        page = page_of(finished, asset)
        for name, words in shown_words.items():
            shown = page[name].replace("\\", "")
            assert words in shown, name
            assert "█" in shown
            assert len(page[name]) <= 1_000
            assert (" MB |" in shown) == (name == "seconds by stage"), "each stage's peak memory"
        assert list(page).index(next(iter(shown_words))) < next(
            (number for number, name in enumerate(page) if name.startswith("picture")), len(page)
        )


def test_bars_name_what_they_leave_out() -> None:
    value = bars("a|b", ("n",), [(f"*{'x' * 99} {n}", [(n, str(n))]) for n in range(90)]).value
    assert value is not None
    _, _, *rows, last = value.split("\n")
    assert (len(value) <= 1_000, len(rows) > 8) == (True, True)
    assert last == f"| {90 - len(rows)} more | |"
    assert bars("", ("n",), [("none", [(None, "too few")]), ("zero", [(0, "0")])]).value == (
        "|  | n |\n|---|---|\n| none | too few |\n| zero | 0 |"
    )


def test_pages_show_real_places(finished: Shell) -> None:
    exported = page_of(finished, "audience_export")
    folder = Path(exported["stored at"])
    assert exported["destination"].startswith("s3://")
    assert (folder.is_absolute(), sorted(path.suffix for path in folder.iterdir())) == (True, [".json", ".jsonl"])
    inbox = Path(page_of(finished, "configured_audience_model")["inbox folder for seeds"])
    assert inbox.is_dir()
    name = worlds.the(finished.installation, Kind.CONFIGURED_AUDIENCE_MODEL).name
    assert inbox.parts[-3:] == ("inbox", "seeds", name)


@pytest.mark.parametrize("asset", ASSETS)
def test_artifacts_match_their_manifests(finished: Shell, asset: str) -> None:
    partition = finished.partition(asset)
    version = worlds.newest(finished.installation, worlds.kind_of(asset)).artifacts[asset]
    manifest = finished.installation.store.verify(ArtifactReference(asset, partition, version))
    assert manifest.files
    (materialization,) = worlds.materializations(finished.instance, asset)
    assert materialization.tags is not None
    assert materialization.tags["dagster/data_version"] == manifest.data_version


def test_nothing_is_built_twice(finished: Shell) -> None:
    for asset in ASSETS:
        partition = finished.partition(asset)
        assert len(finished.installation.store.versions(asset, partition)) == 1
    for kind in worlds.ROAD:
        version = worlds.newest(finished.installation, kind)
        assert (version.attempt, version.queue_generation) == (1, 0), "no claim was given back on the way"


def test_seeds_are_deleted(finished: Shell) -> None:
    assert not any(path.is_file() for path in finished.installation.home.seeds.rglob("*"))
    assert list(finished.installation.home.scratch.iterdir()) == []
    job = worlds.the(finished.installation, Kind.GENERATION_JOB)
    assert job.seed_location is None  # type: ignore[union-attr]


def test_export_is_the_top_of_the_ranking(finished: Shell) -> None:
    export = worlds.the(finished.installation, Kind.EXPORT_JOB)
    ranking = ranking_of(finished, finished.partition("audience"))
    best = [row["user_id"] for row in ranking if not row["is_seed"]][: worlds.N_USERS // 5]
    users = exported_users(finished, export.output_location)  # type: ignore[union-attr,arg-type]
    assert users == best
    assert not set(users) & set(finished.world.seed_users)
    others = set(finished.world.group) - set(finished.world.seed_users)
    assert len(others & set(users)) > 0.6 * len(others), "the rest of the group is what a lookalike should find"


def test_seed_modes_and_size_limits_are_applied(again: Shell) -> None:
    job_id, catalog = again.partition("audience"), again.installation.catalog
    for mode in SeedMode:
        size = AudienceSize.parse("10%")
        catalog.resources.create(
            ExportJobSpec(name=f"As {mode}", generation_job_id=job_id, size=size, seed_mode=mode)
        )
    assert again.run_pending() == 3
    ranking, seed = ranking_of(again, job_id), set(again.world.seed_users)
    users = {
        mode: exported_users(again, worlds.the(again.installation, Kind.EXPORT_JOB, f"As {mode}").output_location)  # type: ignore[union-attr,arg-type]
        for mode in SeedMode
    }
    assert {len(names) for names in users.values()} == {worlds.N_USERS // 10}
    assert users[SeedMode.IN_PLACE] == [row["user_id"] for row in ranking][:30]
    assert users[SeedMode.EXCLUDED] == [row["user_id"] for row in ranking if not row["is_seed"]][:30]
    assert set(users[SeedMode.FIRST]) <= seed
    assert users[SeedMode.FIRST] != sorted(users[SeedMode.FIRST]), "the seed comes shuffled"


def test_altered_export_is_detected(again: Shell) -> None:
    export = worlds.the(again.installation, Kind.EXPORT_JOB)
    folder = again.installation.home.accounts / "000000000000" / "buckets" / "audiences" / "shop"
    (part,) = folder.rglob("part-*.jsonl")
    part.write_text(part.read_text().replace("user-", "uzer-", 1))
    manifest, _ = newest_artifact(again.installation, Kind.EXPORT_JOB, export.id, "audience_export")
    with pytest.raises(Exception, match="altered"):
        verify_exported_files(again.installation, export.id, manifest)


def test_export_is_verified_at_its_destination(again: Shell) -> None:
    export, configured = (
        worlds.the(again.installation, kind) for kind in (Kind.EXPORT_JOB, Kind.CONFIGURED_AUDIENCE_MODEL)
    )
    again.installation.catalog.resources.update_configured_audience_model(
        configured.id, output_url="s3://elsewhere/now"
    )
    manifest, _ = newest_artifact(again.installation, Kind.EXPORT_JOB, export.id, "audience_export")
    assert verify_exported_files(again.installation, export.id, manifest) == worlds.N_USERS // 5


COMPARED = ("training_dataset", "audience_model", "audience")


def data_versions(shell: Shell, *assets: str) -> dict[str, str]:
    return {
        asset: newest_artifact(shell.installation, worlds.kind_of(asset), shell.partition(asset), asset)[
            0
        ].data_version
        for asset in assets
    }


def test_data_versions_depend_on_the_inputs(
    finished_folder: Path, finished: Shell, new_shell: Callable[[str], Shell], tmp_path: Path
) -> None:
    wanted = data_versions(finished, *COMPARED)
    same = new_shell("same")
    same.installation.home.key_file.write_bytes((finished_folder / "home" / "installation.key").read_bytes())
    worlds.apply(same.installation, finished.world.declaration)
    worlds.run_first(same.installation, same.instance, 4)  # all but the export
    assert data_versions(same, *COMPARED) == wanted

    other = new_shell("other")
    other.installation.home.key_file.write_bytes((finished_folder / "home" / "installation.key").read_bytes())
    one_event_less = worlds.write_events(tmp_path / "events.parquet", worlds.events()[1:])
    declaration = worlds.declare(
        tmp_path / "cleanroom.yaml", interactions=one_event_less, seed=finished.world.seed
    )
    worlds.apply(other.installation, declaration)
    worlds.run_first(other.installation, other.instance, 2)
    changed = data_versions(other, "training_dataset", "audience_model")
    assert not any(changed[asset] == wanted[asset] for asset in changed)


def test_another_key_gives_other_digests(finished: Shell, new_shell: Callable[[str], Shell]) -> None:
    wanted = data_versions(finished, "training_dataset")
    stranger = new_shell("stranger")
    worlds.apply(stranger.installation, finished.world.declaration)
    worlds.run_first(stranger.installation, stranger.instance, 1)
    assert data_versions(stranger, "training_dataset") != wanted


def test_second_job_on_the_same_model_trains_nothing(again: Shell) -> None:
    installation = again.installation
    configured = worlds.the(installation, Kind.CONFIGURED_AUDIENCE_MODEL)
    installation.catalog.resources.create(
        GenerationJobSpec(
            name="Once more",
            configured_audience_model_id=configured.id,
            seed_location=installation.vault.put(installation.token_hex(12), again.world.seed),
            seed_digest=installation.vault.digest(again.world.seed),
        )
    )
    before = len(worlds.materializations(again.instance, "audience_model"))
    assert again.run_pending() == 1
    assert len(worlds.materializations(again.instance, "audience_model")) == before
    first, second = (
        ranking_of(again, job.id) for job in installation.catalog.resources.iterate(Kind.GENERATION_JOB)
    )
    assert first == second
