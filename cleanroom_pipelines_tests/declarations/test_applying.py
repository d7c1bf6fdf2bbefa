"""Applying a declaration creates and updates its resources.

Contract: applying reports what it did, and applying again changes nothing; a dry run reports the same and changes
nothing; an invalid declaration changes nothing at all. Nothing is deleted, and resources that were not declared
are not taken over. The vault stores a seed once, while its job needs it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cleanroom_pipelines.catalog import RECORDS, AudienceModelSpec, Catalog, Kind, ParentRef, TrainingDatasetSpec
from cleanroom_pipelines.catalog.creation import Creation
from cleanroom_pipelines.declarations import apply_declaration, read_declaration
from cleanroom_pipelines.errors import CleanroomError, ConflictError, SeedError, StatusCode, UsageError
from cleanroom_pipelines.uploads.roles import Role

from .. import worlds
from ..cases import assert_each
from .conftest import Room, actions, edit_declaration, worded

EVERYTHING = ["Baskets", "Shoppers", "Partners", "Spring", "Spring 5%", "Spring 20%"]
Edit = Callable[[str, Any], None]
NewRoom = Callable[[], Room]


def finish_all(catalog: Catalog) -> None:
    """Do all pending work without doing any."""
    while ready := catalog.work.ready():
        for version in ready:
            claim = catalog.work.claim(version.kind, version.resource_id, version.number, "run")
            record = catalog.get(RECORDS[version.kind], version.resource_id)
            parents = ()
            if record.parent_id is not None:
                parent = catalog.get(RECORDS[record.parent_kind], record.parent_id)
                parents = (ParentRef(parent.kind, parent.id, parent.current_version),)
            catalog.work.finish(claim, {"sentence": "Made."}, parents)


def fail_all(catalog: Catalog) -> None:
    """Fail the pending work, and with it all that depends on it."""
    for version in catalog.work.ready():
        claim = catalog.work.claim(version.kind, version.resource_id, version.number, "run")
        catalog.work.fail(claim, StatusCode.INTERNAL, "It failed.")
    catalog.work.fail_orphans()


def finish_jobs(room: Room) -> None:
    """Do all pending work, and forget the seeds that are not kept, as the runs do."""
    finish_all(room.catalog)
    for job in room.catalog.resources.iterate(Kind.GENERATION_JOB):
        if not job.keep_seed:
            room.installation.vault.delete(job.seed_location)
            room.catalog.resources.forget_seed(job.id)
    finish_all(room.catalog)


def n_versions(room: Room) -> dict[str, int]:
    records = [record for kind in Kind for record in room.catalog.resources.iterate(kind)]
    return {record.name: len(room.catalog.resources.versions(record.kind, record.id)) for record in records}


def seed_files(room: Room) -> list[str]:
    folder = room.installation.home.seeds
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_everything_is_created_parents_first(room: Room) -> None:
    changes = room.apply()
    assert actions(changes) == [("create", name) for name in EVERYTHING]
    assert [change.kind for change in changes] == [*worlds.ROAD, Kind.EXPORT_JOB]
    for change in changes:
        record = room.catalog.get(RECORDS[change.kind], change.id)
        assert (record.name, record.declared) == (change.name, True)
    assert room.one(Kind.TRAINING_DATASET).source == str(room.folder / "baskets.csv")


def test_applying_again_changes_nothing(room: Room) -> None:
    first = room.apply()
    before = room.state()
    second = room.apply()
    assert actions(second) == [("keep", name) for name in EVERYTHING]
    assert [change.id for change in second] == [change.id for change in first]
    assert room.state() == before
    finish_jobs(room)
    before = room.state()
    assert actions(room.apply()) == [("keep", name) for name in EVERYTHING]
    assert room.state() == before
    assert seed_files(room) == []


def test_dry_run_lists_the_changes_without_applying_them(room: Room, edit: Edit) -> None:
    def told(changes: list[Any]) -> list[tuple[str, Kind, str]]:
        return [(change.action, change.kind, change.name) for change in changes]

    steps: list[tuple[str, Any]] = [
        ("generation_jobs.0.description", "now with words"),
        ("configured_audience_models.0.sizes", ["5%", "20%"]),
        ("audience_models.0.window.end", 1_700_000_000),
        ("training_datasets.0.name", "Other baskets"),
        ("audience_models.0.training_dataset", "Other baskets"),
        ("generation_jobs.0.exports", ["20%"]),
        ("generation_jobs.0.name", "Summer"),
    ]
    for number in range(len(steps) + 1):
        if number == 4:  # a parent that is renamed and what refers to it change together
            edit(*steps[number - 1])
            continue
        if number:
            edit(*steps[number - 1])
        before = room.state()
        dry = told(room.apply(dry_run=True))
        assert room.state() == before
        assert told(room.apply()) == dry
        assert any(action != "keep" for action, _, _ in dry) or number == 6
        finish_jobs(room)


CHANGES: list[tuple[str, Any, list[str]]] = [
    ("training_datasets.0.description", "words", []),
    ("training_datasets.0.tags", {"team": "a"}, []),
    ("training_datasets.0.max_invalid_share", 0.2, ["Baskets"]),
    ("training_datasets.0.source", "other.csv", ["Baskets"]),
    ("audience_models.0.refresh", {"every": "7d"}, []),
    ("audience_models.0.window.end", 1_700_000_000, ["Shoppers"]),
    ("configured_audience_models.0.share_metrics", True, []),
    ("configured_audience_models.0.export_format", "csv", ["Partners"]),
    ("generation_jobs.0.description", "words", []),
    ("generation_jobs.0.seed_mode", "first", ["Spring"]),
]


def test_changed_resources_are_updated(room: Room, edit: Edit) -> None:
    """One change after the other, each of a room in which all is done."""

    def is_updated(place: str, value: Any, renewed: list[str]) -> None:
        finish_jobs(room)
        before = n_versions(room)
        edit(place, value)
        changes = room.apply()
        section = ["training_datasets", "audience_models", "configured_audience_models", "generation_jobs"]
        touched = EVERYTHING[section.index(place.partition(".")[0])]
        assert [change.name for change in changes if change.action != "keep"] == [touched]
        after = n_versions(room)
        assert [name for name in after if after[name] > before[name]] == renewed
        assert actions(room.apply()) == [("keep", name) for name in EVERYTHING]

    room.apply()
    assert_each(is_updated, CHANGES)


def test_failed_resources_are_retried(room: Room) -> None:
    room.apply()
    for kept in (True, False):
        job = room.one(Kind.GENERATION_JOB)
        if not kept:
            room.installation.vault.delete(job.seed_location)
            room.catalog.resources.forget_seed(job.id)
        fail_all(room.catalog)
        dry = actions(room.apply(dry_run=True))
        assert actions(room.apply()) == dry == [("retry", name) for name in EVERYTHING]
        assert set(n_versions(room).values()) == {1}
        assert not room.catalog.resources.failures()
        assert [room.one(Kind.GENERATION_JOB).seed_location] == seed_files(room)
    assert actions(room.apply()) == [("keep", name) for name in EVERYTHING]


def test_model_moves_to_another_dataset(room: Room, edit: Edit) -> None:
    room.apply()
    edit("training_datasets.0.name", "Other baskets")
    edit("audience_models.0.training_dataset", "Other baskets")
    dry = actions(room.apply(dry_run=True))
    changes = room.apply()
    assert actions(changes) == dry
    assert dry[:2] == [("create", "Other baskets"), ("update", "Shoppers")]
    assert room.one(Kind.AUDIENCE_MODEL).training_dataset_id == changes[0].id
    assert [record.name for record in room.catalog.resources.iterate(Kind.TRAINING_DATASET)] == [
        "Baskets",
        "Other baskets",
    ]


def test_another_seed_of_the_same_name_requests_a_new_version(room: Room) -> None:
    room.apply()
    finish_jobs(room)
    (room.folder / "seed.csv").write_text("user\nberta@example.com\n")
    assert ("update", "Spring") in actions(room.apply())
    assert n_versions(room)["Spring"] == 2
    job = room.one(Kind.GENERATION_JOB)
    with room.installation.vault.opening(job.seed_location) as path:
        assert path.read_text() == "user\nberta@example.com\n"


def test_parent_may_be_declared_in_an_earlier_file(room: Room) -> None:
    jobs = room.raw.pop("generation_jobs")
    room.apply()
    room.raw = {"generation_jobs": jobs}
    assert actions(room.apply()) == [("create", name) for name in EVERYTHING[3:]]
    room.raw = {"generation_jobs": [jobs[0] | {"name": "Summer", "exports": ["7%"]}]}
    with pytest.raises(UsageError, match="the generation job 'Summer'"):
        room.apply()


WRONG: list[tuple[str, Any, str]] = [
    (
        "audience_models.0.training_dataset",
        "Basket",
        "audience_models.0: This entry refers to the training dataset 'Basket', which is not declared. Did",
    ),
    ("configured_audience_models.0.audience_model", "Shopper", "Did you mean 'Shoppers'? Declare it in"),
    ("generation_jobs.0.configured_audience_model", "x" * 99, "generation_jobs.0"),
    ("generation_jobs.0.seed", "canary-7f3a.csv", "generation_jobs.0: The seed was not found"),
    ("generation_jobs.0.seed", ".", "generation_jobs.0: The seed was not found"),
    ("generation_jobs.0.name", "canary-7f3a\n", "generation_jobs.0: The name"),
    ("training_datasets.0.name", "canary-7f3a" * 10, "training_datasets.0: The name"),
    ("training_datasets.0.columns", {"user": "USER_ID"}, "training_datasets.0"),
    ("training_datasets.0.max_invalid_share", 1.5, "training_datasets.0"),
    ("training_datasets.0.max_invalid_share", float("nan"), "training_datasets.0"),
    ("training_datasets.0.tags", {"aws:canary-7f3a": "x"}, "training_datasets.0"),
    ("audience_models.0.refresh", {"every": "0d"}, "audience_models.0"),
    ("audience_models.0.window", {"start": 5, "end": 5}, "audience_models.0"),
    ("audience_models.0.window.end", 2**60, "audience_models.0"),
    ("configured_audience_models.0.sizes", ["0%"], "configured_audience_models.0"),
    ("configured_audience_models.0.sizes", ["101%"], "configured_audience_models.0"),
    ("configured_audience_models.0.sizes", ["5%", "5 %"], "configured_audience_models.0"),
    ("configured_audience_models.0.sizes", ["5%", "5%"], "configured_audience_models.0"),
    ("configured_audience_models.0.sizes", ["5%", "05%"], "configured_audience_models.0"),
    ("configured_audience_models.0.sizes", ["5%", 500], "configured_audience_models.0"),
    ("configured_audience_models.0.sizes", ["canary-7f3a"], "configured_audience_models.0"),
    ("configured_audience_models.0.minimum_matching_seed_size", 0, "configured_audience_models.0"),
    ("configured_audience_models.0.minimum_matching_seed_size", 500_001, "configured_audience_models.0"),
    ("generation_jobs.0.exports", ["0%"], "generation_jobs.0"),
    ("generation_jobs.0.exports", ["101%"], "generation_jobs.0"),
    ("generation_jobs.0.exports", ["7%"], "generation_jobs.0: An export has a size"),
    ("generation_jobs.0.exports", ["5%", "5%"], "generation_jobs.0"),
    ("generation_jobs.0.exports", ["5%", "05%"], "generation_jobs.0"),
]


@pytest.mark.parametrize("on_empty_home", [True, False])
def test_invalid_declaration_changes_nothing(room: Room, edit: Edit, *, on_empty_home: bool) -> None:
    (room.folder / "canary-7f3a.txt").write_text("x")
    if not on_empty_home:
        room.apply()
        finish_jobs(room)
    before = room.state()

    def changes_nothing(place: str, value: Any, said: str) -> None:
        room.start_over()
        edit(place, value)
        for dry_run in (True, False):
            with pytest.raises(CleanroomError) as caught:
                room.apply(dry_run=dry_run)
            assert isinstance(caught.value, UsageError | SeedError)
            where, colon, why = said.partition(": ")
            assert f"{worded(room.raw, where)}{colon}{why}" in str(caught.value)
            assert caught.value.remedy
            assert "canary-7f3a" not in str(caught.value)
            assert room.state() == before

    assert_each(changes_nothing, WRONG)


@pytest.mark.parametrize("is_declared_again", [True, False])
def test_the_header_of_a_seed_may_be_that_of_the_declared_dataset(room: Room, *, is_declared_again: bool) -> None:
    (room.folder / "baskets.csv").write_text("household_key,item\n")
    (room.folder / "seed.csv").write_text("spend,household_key\n" + "".join(f"1,p{n}\n" for n in range(30)))
    edit_declaration(room, "training_datasets.0.columns", {"household_key": "USER_ID", "item": "ITEM_ID"})
    if not is_declared_again:
        room.apply()
        for section in ("training_datasets", "audience_models", "configured_audience_models"):
            del room.raw[section]
        edit_declaration(room, "generation_jobs.0.name", "Summer")
    installation = room.installation
    changes = apply_declaration(
        room.catalog,
        installation.vault,
        read_declaration(room.write()),
        new_slot=lambda: "0" * 24,
        sources_of=installation.sources_of,
        dry_run=True,
    )
    assert {change.warning for change in changes} == {""}


def test_seed_of_an_unsupported_format_is_rejected(room: Room, edit: Edit) -> None:
    (room.folder / "seed.xlsx").write_text("x")
    edit("generation_jobs.0.seed", "seed.xlsx")
    before = room.state()
    with pytest.raises(SeedError, match="the generation job 'Spring': Excel workbooks are not read"):
        room.apply()
    assert room.state() == before


def test_undeclared_resource_is_not_taken_over(room: Room) -> None:
    room.catalog.resources.create(
        TrainingDatasetSpec(name="Baskets", source="x.csv", columns=(("u", Role.USER_ID), ("i", Role.ITEM_ID)))
    )
    before = room.state()
    for dry_run in (True, False):
        with pytest.raises(ConflictError, match="the training dataset 'Baskets'"):
            room.apply(dry_run=dry_run)
    assert room.state() == before


def test_undeclared_parent_may_be_used(room: Room) -> None:
    dataset = room.catalog.resources.create(
        TrainingDatasetSpec(name="Theirs", source="x.csv", columns=(("u", Role.USER_ID), ("i", Role.ITEM_ID)))
    )
    room.raw = {"audience_models": [{"name": "Shoppers", "training_dataset": "Theirs"}]}
    assert actions(room.apply()) == [("create", "Shoppers")]
    assert room.one(Kind.AUDIENCE_MODEL).training_dataset_id == dataset.id


def test_resource_being_deleted_is_reported(room: Room) -> None:
    dataset = room.catalog.resources.create(
        TrainingDatasetSpec(name="Theirs", source="x.csv", columns=(("u", Role.USER_ID), ("i", Role.ITEM_ID))),
        declared=True,
    )
    model = room.catalog.resources.create(
        AudienceModelSpec(name="Shoppers", training_dataset_id=dataset.id), declared=True
    )
    room.catalog.deletion.request_delete(Kind.AUDIENCE_MODEL, model.id)
    before = room.state()
    for raw in (room.raw, {"configured_audience_models": room.raw["configured_audience_models"]}):
        room.raw = raw
        with pytest.raises(ConflictError, match="being deleted"):
            room.apply()
    assert room.state() == before


def test_seed_is_in_the_vault_while_its_job_needs_it(new_room: NewRoom) -> None:
    def is_stored(keep: bool) -> None:
        room = new_room()
        edit_declaration(room, "generation_jobs.0.keep_seed", keep)
        room.apply()
        room.apply()
        assert len(seed_files(room)) == 1
        assert room.one(Kind.GENERATION_JOB).seed_location == seed_files(room)[0]
        assert seed_files(room)[0].endswith(".vault")
        finish_jobs(room)
        edit_declaration(room, "generation_jobs.0.description", "words")
        room.apply()
        kept = seed_files(room)
        assert len(kept) == keep
        assert [room.one(Kind.GENERATION_JOB).seed_location] == (kept or [None])

    assert_each(is_stored, [False, True])


def test_seed_to_be_kept_is_sealed(room: Room, edit: Edit) -> None:
    room.apply()
    finish_jobs(room)
    edit("generation_jobs.0.keep_seed", True)
    room.apply()
    (kept,) = seed_files(room)
    assert kept.endswith(".vault")
    assert room.one(Kind.GENERATION_JOB).seed_location == kept
    assert room.one(Kind.GENERATION_JOB).keep_seed
    edit("generation_jobs.0.keep_seed", False)
    room.apply()
    assert seed_files(room) == []
    assert room.one(Kind.GENERATION_JOB).seed_location is None


def test_refresh_determines_whether_seeds_are_kept(new_room: NewRoom) -> None:
    def determines_kept_seed(refresh: bool | None, job: bool | None, kept: bool) -> None:
        room = new_room()
        if refresh is not None:
            edit_declaration(room, "audience_models.0.refresh", {"every": "7d", "keep_seed": refresh})
        if job is not None:
            edit_declaration(room, "generation_jobs.0.keep_seed", job)
        room.apply()
        assert room.one(Kind.GENERATION_JOB).keep_seed is kept

    assert_each(
        determines_kept_seed,
        [(None, None, False), (False, None, False), (True, None, True), (True, False, False), (False, True, True)],
    )


def test_seed_is_deleted_if_its_job_cannot_be_created(room: Room) -> None:
    with (
        mock.patch.object(Creation, "create", autospec=True, side_effect=failing_for_jobs(Creation.create)),
        pytest.raises(KeyboardInterrupt),
    ):
        room.apply()
    assert seed_files(room) == []
    assert list(room.installation.home.seeds.iterdir()) == []
    assert actions(room.apply())[3:] == [("create", name) for name in EVERYTHING[3:]]


def failing_for_jobs(create: Any) -> Any:
    def failing(catalog: Creation, spec: Any, **options: Any) -> Any:
        if spec.kind is Kind.GENERATION_JOB:
            raise KeyboardInterrupt
        return create(catalog, spec, **options)

    return failing


def test_exports_of_long_names_have_distinct_names(room: Room, edit: Edit) -> None:
    edit("generation_jobs.0.name", "x" * 63)
    room.apply()
    names = {record.name for record in room.catalog.resources.iterate(Kind.EXPORT_JOB)}
    assert names == {"x" * 60 + " 5%", "x" * 59 + " 20%"}


def test_names_may_contain_any_one_line_text(room: Room, edit: Edit) -> None:
    edit("training_datasets.0.name", "../'; DROP TABLE\" 🛒")
    edit("audience_models.0.training_dataset", "../'; DROP TABLE\" 🛒")
    dataset, *_ = room.apply()
    assert dataset.name == "../'; DROP TABLE\" 🛒"
    assert Path(dataset.id).name == dataset.id
