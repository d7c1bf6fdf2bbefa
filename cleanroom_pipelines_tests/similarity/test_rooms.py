"""Contract: a room's lookalikes find a planted group from any features of the base audience, rank every relevant
user, cut exact reaches in an order that reveals nothing, and put no count into an error or a document."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cleanroom_pipelines.audiences.overlap import question_about
from cleanroom_pipelines.engine import Runtime, stable_hash
from cleanroom_pipelines.errors import (
    ArtifactError,
    CancelledError,
    SeedError,
    StatusCode,
    TrainingDataError,
    UsageError,
)
from cleanroom_pipelines.privacy import Price, Releaser
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.rankings import RANKING_FILE
from cleanroom_pipelines.similarity.room_statistics import released_statistics, room_statistics
from cleanroom_pipelines.similarity.rooms import (
    HELD_OUT_FILE,
    USERS_FILE,
    check_released_seed,
    rank_room,
    reach_size,
    select_reach,
    train_room,
)
from cleanroom_pipelines_tests.offenders import offenders
from cleanroom_pipelines_tests.similarity.planted import ENGINE, QUICK, SMALL

N_USERS = 800
RELEASER = Releaser(b"k" * 32, "room 1", hide_absolute_values=False)
BASE = Price(10)
OF_BASE = Releaser(b"k" * 32, "base 1", hide_absolute_values=False)
SOURCE = question_about("buyers")


@dataclass(frozen=True)
class Room:
    """A base audience on disk, its relevant users, and those who share a taste."""

    base: Path
    users: list[str]
    group: list[str]
    without_segments: list[str]


def make_room(
    base: Path,
    *,
    segments: bool = False,
    demographics: bool = False,
    embeddings: int = 0,
    scopes: int = 1,
    n_users: int = N_USERS,
    random_seed: int = 5,
) -> Room:
    """Create a base audience, a quarter of whose users share segments, age and direction of the embedding.

    One user in nine has no segment; twenty more users have segments but are not relevant.
    """
    rng = np.random.default_rng(random_seed)
    base.mkdir(parents=True)
    users = [f"u{number:05d}" for number in range(n_users)]
    in_group = np.arange(n_users) % 4 == 0
    bare = np.arange(n_users) % 9 == 4
    outsiders = [f"x{number}" for number in range(20)]
    rows: list[tuple[str, str]] = []
    for number, user in enumerate(users):
        if segments and not bare[number]:
            picked = {f"common {item}" for item in rng.choice(30, rng.integers(2, 8))}
            if in_group[number]:
                picked |= {f"rare {item}" for item in rng.choice(8, 2)}
            rows += [(user, segment) for segment in sorted(picked)]
    rows += [(user, "rare 0") for user in outsiders] if segments else []
    ages = np.where(
        in_group & (rng.random(n_users) < 0.8), "25-34", rng.choice(["35-44", "45-54", "55+"], n_users)
    )
    everybody = pd.DataFrame(
        {
            "user_id": users + outsiders,
            "age": ([*ages] if demographics else [None] * n_users) + [None] * 20,
            "gender": ([*rng.choice(["F", "M"], n_users)] if demographics else [None] * n_users) + [None] * 20,
            "is_relevant": [True] * n_users + [False] * 20,
            "is_matchable": [True] * n_users + [False] * 20,
        }
    )
    everybody.insert(1, "stable_hash", everybody.user_id.map(stable_hash))
    everybody.sort_values(["stable_hash", "user_id"]).to_parquet(base / "users.parquet", index=False)
    pq.write_table(
        pa.table(
            {
                "user_id": pa.array([r[0] for r in rows], pa.string()),
                "segment": pa.array([r[1] for r in rows], pa.string()),
            }
        ),
        base / "segments.parquet",
    )
    if embeddings:
        parts = []
        for scope in range(scopes):
            cells = rng.normal(size=(n_users, embeddings))
            cells[in_group, :3] += 1.5
            part = pd.DataFrame(cells, columns=[f"e{number}" for number in range(embeddings)])
            part.insert(0, "scope", f"scope'\"{scope}")
            part.insert(0, "user_id", users)
            # Not everybody has every scope.
            parts.append(part if scope == 0 else part.iloc[::2])
        pd.concat(parts).to_parquet(base / "embeddings.parquet", index=False)
    given_ = {"has_matching": True, "has_segments": segments, "has_demographics": demographics}
    (base / "base.json").write_text(
        json.dumps(given_ | {"has_embeddings": embeddings > 0, "n_embeddings": embeddings})
    )
    return Room(
        base,
        users,
        [user for user, member in zip(users, in_group, strict=True) if member],
        [user for user, is_bare in zip(users, bare, strict=True) if is_bare],
    )


def train(room: Room, out: Path, **changes: Any) -> Path:
    out.mkdir(parents=True)
    arguments: dict[str, Any] = {"settings": SMALL, "runtime": Runtime(ENGINE)} | changes
    train_room(room.base, out, **arguments)
    return out


def rank(model: Path, seed: list[str], out: Path, **changes: Any) -> Path:
    out.mkdir(parents=True)
    rank_room(model, pa.array(seed, pa.string()), out, **({"settings": QUICK} | changes))
    return out


def seed_of(ranked: Path, out: Path) -> Path:
    """Write a file of the users that a ranking was built for."""
    table = pd.read_parquet(ranked / RANKING_FILE)
    table[table.is_seed][["user_id"]].to_parquet(out / "seed.parquet", index=False)
    return out / "seed.parquet"


def reach(ranked: Path, percent: int, out: Path, *, exclude: bool) -> list[str]:
    out.mkdir(parents=True)
    excluded = seed_of(ranked, out) if exclude else None
    select_reach(ranked / RANKING_FILE, percent, out, exclude=excluded, engine=ENGINE)
    table = pd.read_parquet(out / USERS_FILE)
    assert list(table.columns) == ["user_id"]
    return list(table.user_id)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    return make_room(tmp_path_factory.mktemp("room") / "base", segments=True, demographics=True, embeddings=4)


@pytest.fixture(scope="module")
def model(room: Room, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(room, tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def ranked(room: Room, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rank(model, room.group[::2], tmp_path_factory.mktemp("ranked") / "out")


@pytest.mark.parametrize(
    "features",
    [
        {"segments": True},
        {"embeddings": 8},
        {"embeddings": 4, "scopes": 3},
        {"embeddings": 4, "scopes": 9},
        {"segments": True, "demographics": True},
    ],
    ids=str,
)
def test_a_planted_group_is_found(tmp_path: Path, features: dict[str, Any]) -> None:
    room = make_room(tmp_path / "base", **features)
    assert_group_is_found(room, rank(train(room, tmp_path / "model"), room.group[::2], tmp_path / "out"))


def test_a_planted_group_is_found_with_all_features(room: Room, ranked: Path) -> None:
    assert_group_is_found(room, ranked)


def assert_group_is_found(room: Room, ranked: Path) -> None:
    statistics = room_statistics(ranked)
    assert statistics.auc > 0.8
    at_20 = statistics.reach[19]
    assert at_20.reach == 20
    assert at_20.tpr > 0.5
    table = pd.read_parquet(ranked / RANKING_FILE)
    hidden = set(room.group[1::2])
    assert table[~table.is_seed].head(len(hidden)).user_id.isin(hidden).mean() > 0.5


def test_exactly_the_relevant_users_are_ranked(room: Room, model: Path, ranked: Path) -> None:
    table = pd.read_parquet(ranked / RANKING_FILE)
    assert sorted(table.user_id) == sorted(room.users)
    assert set(room.without_segments) <= set(table.user_id)
    assert set(table[table.is_seed].user_id) == set(room.group[::2])
    # What only irrelevant users carry is not counted either.
    opened = Model(model)
    segments = pd.read_parquet(room.base / "segments.parquet")
    relevant = segments[segments.user_id.isin(room.users)]
    users_of = dict(zip(opened.item_ids(), opened.item_users().tolist(), strict=True))
    assert users_of == relevant.groupby("segment").user_id.nunique().to_dict()


def test_segments_keep_their_exact_text(tmp_path: Path) -> None:
    room = make_room(tmp_path / "base", segments=True)
    texts = ["News", "news", "news ", "NEWS ☕", "a\"b'c", "12", "12.0", "é", "e\u0301"]
    rows = [(user, text) for number, user in enumerate(room.users) for text in texts[: 1 + number % len(texts)]]
    pd.DataFrame(rows, columns=["user_id", "segment"]).to_parquet(room.base / "segments.parquet", index=False)
    assert set(Model(train(room, tmp_path / "model")).item_ids()) == set(texts)


def test_missing_values_are_not_numbers(tmp_path: Path) -> None:
    room = make_room(tmp_path / "base", demographics=True, embeddings=4, scopes=2)
    path = room.base / "embeddings.parquet"
    embeddings = pd.read_parquet(path)
    embeddings.loc[::3, "e1"] = np.nan
    embeddings.to_parquet(path, index=False)
    model = Model(train(room, tmp_path / "model"))
    names = [feature["name"] for feature in model.features]
    assert [name for name in names if name.startswith("embedding")] == [
        f"embedding {number} of scope {scope}" for scope in (1, 2) for number in range(4)
    ]
    assert {"age = 25-34", "gender = F"} <= set(names)
    assert np.isfinite(model.shard(0).dense).all()
    # Every second user lacks the second scope, and stands at its mean.
    second = np.asarray(model.shard(0).dense)[:, names.index("embedding 0 of scope 2")]
    lacking = ~np.isin(np.array(model.user_ids().to_pylist()), room.users[::2])
    assert (second[lacking] == 0).all()
    assert (second[~lacking] != 0).all()


def test_users_without_segments_are_found_by_other_features(room: Room, ranked: Path) -> None:
    table = pd.read_parquet(ranked / RANKING_FILE)
    bare = table[table.user_id.isin(room.without_segments) & ~table.is_seed]
    in_group = bare.user_id.isin(room.group)
    assert bare[in_group]["rank"].mean() < bare[~in_group]["rank"].mean()


def test_users_without_segments_do_not_worsen_the_others(tmp_path: Path) -> None:
    room = make_room(tmp_path / "base", segments=True, embeddings=4)
    with_all = rank(train(room, tmp_path / "all"), room.group[::2], tmp_path / "ranked")
    known = sorted(set(room.users) - set(room.without_segments))
    users = pd.read_parquet(room.base / "users.parquet")
    users.assign(is_relevant=users.user_id.isin(known)).to_parquet(room.base / "users.parquet", index=False)
    seed = sorted(set(room.group[::2]) & set(known))
    without = rank(train(room, tmp_path / "known"), seed, tmp_path / "ranked known")
    assert room_statistics(with_all).reach[19].tpr > room_statistics(without).reach[19].tpr - 0.05


def test_a_random_source_is_at_chance(room: Room, model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    found = [
        room_statistics(rank(model, list(rng.choice(room.users, 200, replace=False)), tmp_path / str(number)))
        for number in range(4)
    ]
    assert np.mean([statistics.auc for statistics in found]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([statistics.reach[19].tpr for statistics in found]) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("percent", [1, 7, 30])
def test_reaches_are_exact_and_exclusion_refills(room: Room, ranked: Path, tmp_path: Path, percent: int) -> None:
    table = pd.read_parquet(ranked / RANKING_FILE)
    n = percent * len(room.users) // 100
    in_place = reach(ranked, percent, tmp_path / "in", exclude=False)
    assert set(in_place) == set(table.user_id.head(n))
    assert len(in_place) == n
    excluded = reach(ranked, percent, tmp_path / "ex", exclude=True)
    assert set(excluded) == set(table[~table.is_seed].user_id.head(n))
    assert len(excluded) == n


def test_the_order_does_not_reveal_the_rank(ranked: Path, tmp_path: Path) -> None:
    for exclude in (False, True):
        users = reach(ranked, 30, tmp_path / str(exclude), exclude=exclude)
        assert users == sorted(users, key=lambda user: (stable_hash(user), user))


def test_a_source_of_most_users_leaves_fewer_users_than_requested(room: Room, model: Path, tmp_path: Path) -> None:
    ranked = rank(model, room.users[: N_USERS * 85 // 100], tmp_path / "ranked")
    (tmp_path / "reach").mkdir()
    excluded = seed_of(ranked, tmp_path)
    found = select_reach(ranked / RANKING_FILE, 30, tmp_path / "reach", exclude=excluded, engine=ENGINE)
    assert (found.requested, found.delivered) == (240, 120)


def test_a_reach_out_of_range_is_rejected(ranked: Path, tmp_path: Path) -> None:
    def check(percent: Any) -> None:
        with pytest.raises(UsageError, match="from 1 to 30"):
            select_reach(ranked / RANKING_FILE, percent, tmp_path, engine=ENGINE)

    assert offenders([0, 31, -1, 2.5, True, "10"], check) == []


@given(percent=st.integers(1, 30), n_users=st.integers(1, 10_000_000))
def test_reach_sizes_follow_the_floor_rule(percent: int, n_users: int) -> None:
    assert reach_size(percent, n_users) == max(1, percent * n_users // 100)


def test_the_statistics_agree_with_a_slow_count(room: Room, ranked: Path) -> None:
    statistics = room_statistics(ranked)
    held_out = pd.read_parquet(ranked / HELD_OUT_FILE)
    n_seed = len(room.group[::2])
    assert (statistics.n_seed_users, statistics.n_users) == (n_seed, len(room.users))
    assert len(statistics.fpr) == len(statistics.tpr) == 101
    assert statistics.fpr == pytest.approx([number / 100 for number in range(101)])
    half_a_step = (held_out.percentile.value_counts().max() / 2 + 0.01) / n_seed
    for fpr, tpr in list(zip(statistics.fpr, statistics.tpr, strict=True))[1:-1]:
        assert tpr == pytest.approx((held_out.percentile >= 1 - fpr).mean(), abs=half_a_step)
    assert statistics.auc == pytest.approx(np.trapezoid(statistics.tpr, statistics.fpr), abs=0.02)
    assert [entry.reach for entry in statistics.reach] == list(range(1, 31))
    for entry in statistics.reach:
        assert entry.n_users == entry.reach * len(room.users) // 100
        # Those taken are the found source users and other users.
        taken = entry.tpr * n_seed + entry.fpr * (len(room.users) - n_seed)
        assert taken == pytest.approx(entry.n_users, abs=1e-6)
    recalls = [entry.tpr for entry in statistics.reach]
    assert recalls == sorted(recalls)


def _released(ranked: Path, *, hide: bool = False) -> dict[str, Any]:
    statistics = room_statistics(ranked)
    seed = replace(RELEASER, hide_absolute_values=hide).count(statistics.n_seed_users, question=SOURCE)
    addressable = replace(OF_BASE, hide_absolute_values=hide).count(statistics.n_users, question="all", price=BASE)
    return released_statistics(statistics, seed, addressable)


def test_released_statistics_have_the_shape_of_the_protocol(room: Room, ranked: Path) -> None:
    told = _released(ranked)
    exact = room_statistics(ranked)
    assert set(told) == {
        "auc",
        "fpr",
        "tpr",
        "reach",
        "seed_size",
        "addressable_size",
        "test_set_sizes",
        "noise",
    }
    assert json.loads(json.dumps(told)) == told
    assert len(told["fpr"]) == len(told["tpr"]) == 101
    assert told["tpr"] == pytest.approx(exact.tpr, abs=0.0006)
    assert told["auc"] == pytest.approx(exact.auc, abs=0.0006)
    assert [entry["reach"] for entry in told["reach"]] == list(range(1, 31))
    for entry, true in zip(told["reach"], exact.reach, strict=True):
        assert entry["tpr"] == pytest.approx(true.tpr, abs=0.1)
        assert entry["fpr"] == pytest.approx(true.fpr, abs=0.04)
        assert entry["size"] is None or abs(entry["size"] - true.n_users) <= 20
    assert told["reach"][0]["size"] is None
    assert told["test_set_sizes"]["seed"] == told["seed_size"]
    assert told["test_set_sizes"]["others"] == told["addressable_size"] - told["seed_size"]


def test_hidden_statistics_have_rates_only(ranked: Path) -> None:
    told, hidden = _released(ranked), _released(ranked, hide=True)
    sizes = ("seed_size", "addressable_size")
    assert [hidden[name] for name in sizes] == [None, None]
    assert hidden["test_set_sizes"] == {"seed": None, "others": None}
    assert all(entry["size"] is None for entry in hidden["reach"])
    for name in ("auc", "fpr", "tpr", "noise"):
        assert hidden[name] == told[name]
    assert [entry["tpr"] for entry in hidden["reach"]] == [entry["tpr"] for entry in told["reach"]]


def test_rates_do_not_reveal_the_number_of_held_out_users(room: Room, model: Path, tmp_path: Path) -> None:
    n_seed = 50
    told = _released(rank(model, room.group[:n_seed], tmp_path / "out"), hide=True)
    rates = np.array([*told["tpr"], *(entry["tpr"] for entry in told["reach"])])
    rates = rates[(rates > 0.01) & (rates < 0.99)]
    assert len(rates) > 50

    def fit(n: int) -> float:
        """Return the share of rates that are multiples of 1 / n except for rounding, compared with chance."""
        return float((np.abs(rates * n - np.round(rates * n)) <= 0.0005 * n).mean()) - 0.001 * n

    assert fit(n_seed) < 0.3
    # The same check finds the steps of a plain curve.
    percentiles = pd.read_parquet(tmp_path / "out" / HELD_OUT_FILE).percentile.to_numpy()
    rates = np.array([round((percentiles >= 1 - fpr).mean(), 3) for fpr in told["fpr"][1:-1]])
    assert fit(n_seed) > 0.9


def test_rows_in_any_order_give_the_same_bytes(room: Room, ranked: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "base"
    shuffled.mkdir()
    for path in room.base.glob("*.parquet"):
        pd.read_parquet(path).sample(frac=1, random_state=1).to_parquet(shuffled / path.name, index=False)
    (shuffled / "base.json").write_text((room.base / "base.json").read_text())
    again = Room(shuffled, room.users, room.group, room.without_segments)
    seed = room.group[::2][::-1]
    second = rank(
        train(again, tmp_path / "model", runtime=Runtime(type(ENGINE)(1 << 30, 2))),
        [*seed, *seed],
        tmp_path / "out",
    )
    for name in (RANKING_FILE, HELD_OUT_FILE):
        assert (second / name).read_bytes() == (ranked / name).read_bytes()
    first_users, second_users = (
        reach(folder, 10, tmp_path / name, exclude=True) for folder, name in ((ranked, "a"), (second, "b"))
    )
    assert first_users == second_users
    assert (tmp_path / "a" / USERS_FILE).read_bytes() == (tmp_path / "b" / USERS_FILE).read_bytes()


def test_means_of_many_scopes_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    room = make_room(tmp_path / "base", embeddings=3, scopes=12)
    first = train(room, tmp_path / "first")
    path = room.base / "embeddings.parquet"
    pd.read_parquet(path).sample(frac=1, random_state=3).to_parquet(path, index=False)
    second = train(room, tmp_path / "second")
    assert (first / "users/part-00000.parquet").read_bytes() == (second / "users/part-00000.parquet").read_bytes()


def test_the_source_may_be_a_file(room: Room, model: Path, ranked: Path, tmp_path: Path) -> None:
    pd.DataFrame({"user_id": [*room.group[::2], "nobody"]}).to_parquet(tmp_path / "seed.parquet", index=False)
    (tmp_path / "out").mkdir()
    rank_room(model, tmp_path / "seed.parquet", tmp_path / "out", settings=QUICK)
    assert (tmp_path / "out" / RANKING_FILE).read_bytes() == (ranked / RANKING_FILE).read_bytes()


def test_no_document_is_written(ranked: Path) -> None:
    assert sorted(path.name for path in ranked.iterdir()) == [HELD_OUT_FILE, RANKING_FILE]
    assert "user_id" not in pq.read_schema(ranked / HELD_OUT_FILE).names


@pytest.mark.parametrize(
    ("n_seed", "code"),
    [(0, "INSUFFICIENT_MATCHING_SEED"), (24, "INSUFFICIENT_MATCHING_SEED"), (750, "SEED_COVERS_POPULATION")],
)
def test_rejections_contain_no_count_and_no_id(
    room: Room, model: Path, tmp_path: Path, n_seed: int, code: str
) -> None:
    with pytest.raises(SeedError) as caught:
        rank(model, [*room.users[:n_seed], "nobody"], tmp_path / "out")
    assert caught.value.status_code is StatusCode(code)
    assert caught.value.attributes == {}
    assert not any(character.isdigit() for character in str(caught.value))
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(SeedError) as decided:
        check_released_seed(
            RELEASER.count(n_seed, question=SOURCE), OF_BASE.count(len(room.users), question="all", price=BASE)
        )
    assert (str(decided.value), decided.value.status_code) == (str(caught.value), caught.value.status_code)


@pytest.mark.parametrize("hide", [False, True])
def test_a_usual_source_is_accepted_even_if_counts_are_hidden(hide: bool) -> None:
    releaser = replace(RELEASER, hide_absolute_values=hide)
    check_released_seed(releaser.count(5_000, question=SOURCE), releaser.count(20_000, question="all"))


def test_callers_may_lower_the_minimum_number_of_users(room: Room, model: Path, tmp_path: Path) -> None:
    found = rank(model, room.group[:5], tmp_path / "out", min_seed_users=5, settings=type(QUICK)(threads=1))
    assert room_statistics(found).n_seed_users == 5
    with pytest.raises(UsageError):
        rank(model, room.group[:4], tmp_path / "no", min_seed_users=4, settings=type(QUICK)(threads=1))


def test_too_few_relevant_users_are_rejected(tmp_path: Path) -> None:
    room = make_room(tmp_path / "base", segments=True, n_users=99)
    with pytest.raises(TrainingDataError, match="at least 100 relevant users") as caught:
        train(room, tmp_path / "model")
    assert caught.value.status_code is StatusCode.TRAINING_DATA_TOO_SMALL
    assert "99" not in str(caught.value)
    assert caught.value.attributes == {}


def test_a_hundred_users_and_few_segments_are_enough(tmp_path: Path) -> None:
    room = make_room(tmp_path / "base", segments=True, n_users=130)
    assert room_statistics(rank(train(room, tmp_path / "model"), room.group[:28], tmp_path / "out")).n_users == 130


def test_a_base_audience_without_segments_and_embeddings_is_rejected(tmp_path: Path) -> None:
    room = make_room(tmp_path / "base", demographics=True)
    with pytest.raises(TrainingDataError, match="segments or embeddings"):
        train(room, tmp_path / "model")


def test_damaged_files_are_reported(room: Room, model: Path, ranked: Path, tmp_path: Path) -> None:
    (tmp_path / RANKING_FILE).write_bytes(b"no parquet")
    with pytest.raises(ArtifactError):
        select_reach(tmp_path / RANKING_FILE, 5, tmp_path, engine=ENGINE)
    with pytest.raises(ArtifactError):
        room_statistics(tmp_path)
    with pytest.raises(ArtifactError):
        rank_room(model, tmp_path / RANKING_FILE, tmp_path)
    with pytest.raises(ArtifactError):
        train(Room(tmp_path, [], [], []), tmp_path / "model")
    (tmp_path / "base.json").write_text((room.base / "base.json").read_text())
    with pytest.raises(ArtifactError, match=r"users\.parquet"):
        train(Room(tmp_path, [], [], []), tmp_path / "second model")


def test_progress_rises_and_cancelling_stops(room: Room, model: Path, tmp_path: Path) -> None:
    told: list[float] = []
    train(room, tmp_path / "model", runtime=Runtime(progress=lambda share, _: told.append(share)))
    assert told == sorted(told)
    assert told[-1] == 1.0
    ranked_told: list[float] = []
    rank(
        model,
        room.group,
        tmp_path / "ranked",
        runtime=Runtime(progress=lambda share, _: ranked_told.append(share)),
    )
    assert ranked_told == sorted(ranked_told)
    assert ranked_told[-1] == 1.0
    with pytest.raises(CancelledError):
        train(room, tmp_path / "no model", runtime=Runtime(should_cancel=lambda: True))
    with pytest.raises(CancelledError):
        rank(model, room.group, tmp_path / "no ranking", runtime=Runtime(should_cancel=lambda: True))
