"""Contract: valid contents of a training table, counts and errors."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cleanroom_pipelines.engine import Runtime
from cleanroom_pipelines.errors import CancelledError, StatusCode, TrainingDataError, UsageError
from cleanroom_pipelines.similarity import (
    InteractionsSchema,
    SizeProfile,
    TrainingReport,
    TrainingTables,
    UsersSchema,
    Window,
    pairs,
    training,
)
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.training import train
from cleanroom_pipelines_tests import damaged
from cleanroom_pipelines_tests.offenders import offenders
from cleanroom_pipelines_tests.similarity.planted import (
    ENGINE,
    FIRST_SECOND,
    SCHEMA,
    World,
    make_world,
    train_with,
)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(n_users=150)


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingReport, Model]:
    """A model trained on the unchanged world; read-only."""
    return _train(world.interactions, tmp_path_factory.mktemp("plain"))


USERS = "users/part-00000.parquet"


def _train(frame: pd.DataFrame, folder: Path, **changes: object) -> tuple[TrainingReport, Model]:
    source, out = folder / "rows.parquet", folder / "model"
    if "interactions" not in changes:
        frame.to_parquet(source, index=False)
    out.mkdir()
    return train_with({"interactions": source} | changes, out), Model(out)


def _files(model: Model) -> list[str]:
    return sorted(path.relative_to(model.folder).as_posix() for path in model.folder.rglob("*") if path.is_file())


def _rejected(frame: pd.DataFrame, folder: Path, **changes: object) -> TrainingDataError:
    with pytest.raises(TrainingDataError) as caught:
        _train(frame, folder, **changes)
    assert caught.value.remedy
    assert "u00" not in str(caught.value)
    return caught.value


def test_more_users_than_a_packed_pair_can_number_are_rejected(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pairs.MAX_USERS == 2**28
    monkeypatch.setattr(training, "MAX_USERS", len(world.users) - 1)
    assert "Spark" in _rejected(world.interactions, tmp_path).remedy


def test_the_matrix_matches_pandas(world: World, plain: tuple[TrainingReport, Model]) -> None:
    report, model = plain
    frame = world.interactions
    per_item = frame.groupby("item_id").user_id.nunique()
    vocabulary = per_item[per_item >= 5]
    expected = frame[frame.item_id.isin(vocabulary.index)].groupby(["user_id", "item_id"]).size()
    users, items = model.user_ids().to_pylist(), model.item_ids()
    found = {}
    for number, user in enumerate(users):
        for position in range(model.shard(0).starts[number], model.shard(0).starts[number + 1]):
            found[user, items[model.shard(0).items[position]]] = int(model.shard(0).counts[position])
    assert found == expected.to_dict()
    assert report.n_users == frame.user_id.nunique()
    assert report.n_pairs == len(expected)
    assert per_item[items].tolist() == sorted(vocabulary, reverse=True)


def test_users_are_in_order_of_their_stable_hash(plain: tuple[TrainingReport, Model]) -> None:
    from cleanroom_pipelines.engine import stable_hash

    _, model = plain
    hashes = [stable_hash(user) for user in model.user_ids().to_pylist()]
    assert hashes == model.hashes().tolist() == sorted(hashes)


def test_recency_and_activity_are_standardised_features(world: World, plain: tuple[TrainingReport, Model]) -> None:
    _, model = plain
    names = [feature["name"] for feature in model.features]
    assert names == ["interactions", "distinct items", "days since last interaction", "days active"]
    counts = world.interactions.groupby("user_id").size()[model.user_ids().to_pylist()]
    logs = np.log1p(counts.to_numpy())
    assert np.allclose(model.shard(0).dense[:, 0], np.clip((logs - logs.mean()) / logs.std(), -5, 5), atol=1e-5)


def test_bad_rows_are_dropped_and_counted(world: World, tmp_path: Path) -> None:
    frame = world.interactions.copy()
    frame.loc[frame.index[:20], "user_id"] = None
    frame.loc[frame.index[20:30], "item_id"] = None
    report, _ = _train(frame, tmp_path)
    assert report.n_invalid_rows == 30
    assert report.n_interactions == len(frame) - 30


def test_too_many_invalid_rows_are_rejected_unless_allowed(world: World, tmp_path: Path) -> None:
    frame = world.interactions.copy()
    frame.loc[frame.index[: len(frame) // 10], "user_id"] = None
    _rejected(frame, tmp_path)
    (tmp_path / "again").mkdir()
    report, _ = _train(frame, tmp_path / "again", max_invalid_share=0.2)
    assert report.n_invalid_rows == len(frame) // 10


def test_milliseconds_are_rejected(world: World, tmp_path: Path) -> None:
    frame = world.interactions.assign(ts=world.interactions.ts * 1_000)
    assert "seconds" in _rejected(frame, tmp_path).message


def test_a_window_is_half_open(world: World, tmp_path: Path) -> None:
    frame = world.interactions.copy()
    times = frame.ts.sort_values().to_numpy()
    window = Window(int(times[100]), int(times[-100]))
    report, _ = _train(frame, tmp_path, window=window)
    assert report.n_interactions == int(((frame.ts >= window.start) & (frame.ts < window.end)).sum())


def test_a_window_of_the_last_seconds_ends_at_the_newest_event(world: World, tmp_path: Path) -> None:
    report, _ = _train(world.interactions, tmp_path, window_seconds=9_000_000)
    newest = int(world.interactions.ts.max())
    assert report.window == Window(newest + 1 - 9_000_000, newest + 1)
    assert report.n_interactions == int((world.interactions.ts >= newest + 1 - 9_000_000).sum())


def test_an_empty_window_is_rejected(world: World, tmp_path: Path) -> None:
    assert "window" in _rejected(world.interactions, tmp_path, window=Window(5, 6)).message


def test_a_population_that_is_too_small(world: World, tmp_path: Path) -> None:
    frame = world.interactions[world.interactions.user_id.isin(world.users[:99])]
    assert _rejected(frame, tmp_path).status_code is StatusCode.TRAINING_DATA_TOO_SMALL
    (tmp_path / "aws").mkdir()
    error = _rejected(world.interactions, tmp_path / "aws", size_profile=SizeProfile.AWS)
    assert error.status_code is StatusCode.TRAINING_DATA_TOO_SMALL


def test_types_that_a_role_forbids(world: World, tmp_path: Path) -> None:
    def check(column: str, values: object) -> None:
        folder = tmp_path / f"{column} {values}"
        folder.mkdir()
        _rejected(world.interactions.assign(**{column: values}), folder)

    assert offenders([("user_id", 1.5), ("item_id", True), ("ts", 0.5), ("ts", "yesterday")], check) == []


def test_missing_files_and_columns(world: World, tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError) as caught:
        _train(world.interactions, tmp_path, interactions=tmp_path / "nowhere.parquet")
    assert caught.value.status_code is StatusCode.TRAINING_DATA_NOT_FOUND
    (tmp_path / "b").mkdir()
    error = _rejected(world.interactions.drop(columns="item_id"), tmp_path / "b")
    assert "item_id" in error.message


def test_unknown_columns_are_named_and_ignored(world: World, tmp_path: Path) -> None:
    report, _ = _train(world.interactions.assign(colour="red"), tmp_path)
    assert report.ignored_columns == ("colour",)


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 or so")
    (tmp_path / "model").mkdir()
    with pytest.raises(TrainingDataError):
        train(TrainingTables(tmp_path / "x.parquet", SCHEMA), tmp_path / "model", runtime=Runtime(ENGINE))


def test_json_lines_with_broken_lines(world: World, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in world.interactions.to_dict("records")] + ["{broken"] * 3
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    report, _ = _train(world.interactions, tmp_path, interactions=path)
    assert (report.n_rows, report.n_invalid_rows) == (len(lines), 3)


def test_declared_features_and_a_users_table(world: World, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = world.interactions.assign(spend=rng.random(len(world.interactions)), shop="north")
    frame.loc[frame.index[::3], "shop"] = "south"
    users = pd.DataFrame({"user_id": world.users, "age": ["young", "old", "old"] * 50, "e0": rng.random(150)})
    users = pd.concat([users, users.head(3)])
    users.to_parquet(tmp_path / "users.parquet", index=False)
    schema = InteractionsSchema.parse(str(SCHEMA) + ",spend=NUMERICAL_FEATURE,shop=CATEGORICAL_FEATURE")
    _, model = _train(frame, tmp_path, schema=schema, users=tmp_path / "users.parquet")
    names = [feature["name"] for feature in model.features]
    assert names[4:] == ["mean spend", "shop = north", "shop = south", "age = old", "age = young", "e0"]
    spend = frame.groupby("user_id").spend.mean()[model.user_ids().to_pylist()].to_numpy()
    assert np.allclose(model.shard(0).dense[:, 4], (spend - spend.mean()) / spend.std(), atol=1e-3)
    assert model.description["profile"]["users_table"]["n_matched_users"] == 150


def test_a_users_table_may_declare_its_roles(world: World, tmp_path: Path) -> None:
    pd.DataFrame({"id": world.users, "code": range(150)}).to_parquet(tmp_path / "users.parquet")
    schema = UsersSchema.parse("id=USER_ID,code=NUMERICAL_FEATURE")
    _, model = _train(world.interactions, tmp_path, users=tmp_path / "users.parquet", users_schema=schema)
    assert [feature["name"] for feature in model.features][-1] == "code"


def test_no_seed_and_no_clock_in_the_model(
    world: World, plain: tuple[TrainingReport, Model], tmp_path: Path
) -> None:
    _, one = plain
    _, two = _train(world.interactions, tmp_path)
    names = _files(one)
    assert names == _files(two)
    assert all((one.folder / name).read_bytes() == (two.folder / name).read_bytes() for name in names)


def test_the_folder_must_be_empty_and_cancelling_stops(world: World, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "something").touch()
    world.interactions.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UsageError):
        train(TrainingTables(tmp_path / "rows.parquet", SCHEMA), tmp_path / "model")
    (tmp_path / "other").mkdir()
    with pytest.raises(CancelledError):
        _train(world.interactions, tmp_path / "other", runtime=Runtime(should_cancel=lambda: True))


def test_importing_the_package_is_cheap() -> None:
    import subprocess
    import sys

    code = (
        "import sys, cleanroom_pipelines.similarity; "
        "print([name for name in ('lightgbm', 'sklearn', 'duckdb', 'pandas') if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    )


def _days(world: World, folder: Path) -> Path:
    """Write the world, compressed from 116 days to 8, as one CSV file per day."""
    days = folder / "days"
    days.mkdir()
    frame = world.interactions.assign(ts=FIRST_SECOND + (world.interactions.ts - FIRST_SECOND) // 16)
    for day, rows in frame.groupby(frame.ts // 86_400):
        rows.to_csv(days / f"{day}.csv", index=False)
    assert len(list(days.iterdir())) == 8
    return days


@pytest.mark.parametrize("window_seconds", [None, 86_400 * 6, 86_400 * 6 + 5_000])
def test_the_cache_changes_no_byte_of_the_model(world: World, tmp_path: Path, window_seconds: int | None) -> None:
    days = _days(world, tmp_path)
    for name in ("plain", "first", "again", "cache"):
        (tmp_path / name).mkdir()
    reports, models = [], []
    for name, cache in (("plain", None), ("first", tmp_path / "cache"), ("again", tmp_path / "cache")):
        report, model = _train(
            world.interactions, tmp_path / name, interactions=days, day_cache=cache, window_seconds=window_seconds
        )
        reports.append(report)
        models.append(model)
    names = _files(models[0])
    for other in models[1:]:
        assert all((other.folder / name).read_bytes() == (models[0].folder / name).read_bytes() for name in names)
    assert reports[0].n_interactions == reports[1].n_interactions == reports[2].n_interactions


def test_the_cache_reads_a_day_once_and_a_changed_day_again(world: World, tmp_path: Path) -> None:
    days = _days(world, tmp_path)
    for name in ("a", "b", "c", "cache"):
        (tmp_path / name).mkdir()
    arguments = {"interactions": days, "day_cache": tmp_path / "cache", "window_seconds": 86_400 * 6}
    _train(world.interactions, tmp_path / "a", **arguments)
    first = {path.name for path in (tmp_path / "cache").iterdir()}
    _train(world.interactions, tmp_path / "b", **arguments)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == first
    newest = max(days.iterdir())
    newest.write_text(newest.read_text("utf-8") + f"u00001,i001,{int(newest.stem) * 86_400}\n", "utf-8")
    report, _ = _train(world.interactions, tmp_path / "c", **arguments)
    assert len({path.name for path in (tmp_path / "cache").iterdir()} - first) == 2
    assert report.n_rows == len(world.interactions) + 1


def test_the_cache_keeps_nothing_of_a_damaged_day(world: World, tmp_path: Path) -> None:
    days = _days(world, tmp_path)
    first = min(days.iterdir())
    header, rows = first.read_bytes().split(b"\n", 1)
    content = header + b"\n" + 10 * rows

    def check(how: str) -> None:
        folder = tmp_path / how
        for name in ("a", "cache", "scratch"):
            (folder / name).mkdir(parents=True)
        first.unlink(missing_ok=True)
        if how == "quote":
            first.write_bytes(damaged.with_open_quote(content))
        else:
            first.with_suffix(".csv.gz").write_bytes(damaged.GZIPS[how](content))
        error = _rejected(
            world.interactions,
            folder / "a",
            interactions=days,
            day_cache=folder / "cache",
            runtime=Runtime(replace(ENGINE, scratch=folder / "scratch")),
        )
        first.with_suffix(".csv.gz").unlink(missing_ok=True)
        assert error.status_code is StatusCode.TRAINING_DATA_INVALID
        for name in ("a/model", "cache", "scratch"):
            assert list((folder / name).iterdir()) == []

    assert offenders([*damaged.GZIPS, "quote"], check) == []


def test_damaged_users_are_not_read_as_fewer_users(world: World, tmp_path: Path) -> None:
    content = pd.DataFrame({"user_id": world.users, "age": 30}).to_csv(index=False).encode()

    def check(what: str, how: str) -> None:
        folder = tmp_path / f"{what} {how}"
        folder.mkdir()
        path = folder / f"users.csv{'' if how == 'quote' else '.gz'}"
        path.write_bytes(damaged.with_open_quote(content) if how == "quote" else damaged.GZIPS[how](content))
        error = _rejected(world.interactions, folder, **{what: path})
        assert error.status_code is StatusCode.TRAINING_DATA_INVALID
        assert "users table" in str(error)

    assert offenders(product(["users", "population"], [*damaged.GZIPS, "quote"]), check) == []


def _population(users: list[str], folder: Path) -> Path:
    path = folder / "population.parquet"
    pd.DataFrame({"user_id": [*users, users[0]]}).to_parquet(path, index=False)
    return path


def test_a_population_of_all_users_with_interactions_changes_no_byte(
    world: World, plain: tuple[TrainingReport, Model], tmp_path: Path
) -> None:
    population = _population(sorted(set(world.interactions.user_id)), tmp_path)
    _, with_population = _train(world.interactions, tmp_path, population=population)
    _, without = plain
    names = _files(without)
    assert all(
        (with_population.folder / name).read_bytes() == (without.folder / name).read_bytes() for name in names
    )


@pytest.mark.parametrize("window", [Window(), Window(end=1_605_000_000)])
def test_a_population_defines_who_is_ranked(world: World, tmp_path: Path, window: Window) -> None:
    silent = [f"silent {number}" for number in range(30)]
    listened_to = world.users[:100]
    report, model = _train(
        world.interactions, tmp_path, population=_population(silent + listened_to, tmp_path), window=window
    )
    users = model.user_ids().to_pylist()
    assert sorted(users) == sorted(silent + listened_to)
    kept = world.interactions[world.interactions.user_id.isin(listened_to)]
    if window.end is not None:
        kept = kept[kept.ts < window.end]
    assert report.n_interactions == len(kept)
    per_item = kept.groupby("item_id").user_id.nunique()
    assert (
        dict(zip(model.item_ids(), model.item_users().tolist(), strict=True)) == per_item[per_item >= 5].to_dict()
    )
    n_pairs = dict(zip(users, np.diff(model.shard(0).starts).tolist(), strict=True))
    assert all(n_pairs[user] == 0 for user in silent)
    assert np.isfinite(model.shard(0).dense).all()


def test_integer_ids_of_a_population_match_integer_interactions(world: World, tmp_path: Path) -> None:
    numbered = world.interactions.assign(user_id=world.interactions.user_id.str[1:].astype(int))
    report, model = _train(numbered, tmp_path, population=_population([str(n) for n in range(140)], tmp_path))
    assert report.n_users == 140
    assert set(model.user_ids().to_pylist()) == {str(number) for number in range(140)}
    assert report.n_interactions == int((numbered.user_id < 140).sum())


def test_a_population_needs_no_interactions_but_enough_users(world: World, tmp_path: Path) -> None:
    report, model = _train(world.interactions.iloc[:0], tmp_path, population=_population(world.users, tmp_path))
    assert (report.n_users, report.n_interactions, model.n_items) == (150, 0, 0)
    (tmp_path / "few").mkdir()
    error = _rejected(
        world.interactions, tmp_path / "few", population=_population(world.users[:99], tmp_path / "few")
    )
    assert error.status_code is StatusCode.TRAINING_DATA_TOO_SMALL
    assert error.attributes == {}
