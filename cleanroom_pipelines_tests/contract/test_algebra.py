"""Contract: matching, set algebra and selecting a reach find the same users on Spark as on DuckDB.

Both are compared with the plain evaluator of the algebra's own tests.
"""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from cleanroom_pipelines.audiences.definitions import Combinator, CombineOperator, FileRef, RuleBased
from cleanroom_pipelines.audiences.evaluating import count, evaluate, evaluate_files
from cleanroom_pipelines.audiences.relations import open_room_relations
from cleanroom_pipelines.engine import EngineSettings, open_configured_engine, stable_hash
from cleanroom_pipelines.similarity.rooms import select_reach
from cleanroom_pipelines_tests.audiences.definition_worlds import Room, rooms, users_of
from cleanroom_pipelines_tests.audiences.test_algebra_oracle import lookalike_files, no_audiences

pytestmark = pytest.mark.spark
# Every definition is a Spark job or two; the worlds are the same in each run.
FEW = settings(deadline=None, max_examples=6, derandomize=True, suppress_health_check=list(HealthCheck))


@FEW
@given(rooms)
def test_definitions_in_a_room_find_the_described_users(spark_here: str, room: Room) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, seeds = room.write(folder)
        counting = room.counting()
        with open_configured_engine(EngineSettings(url=spark_here, scratch=folder), paths=[folder]) as engine:
            assert engine.is_cluster
            relations = open_room_relations(engine, base, seeds)
            assert relations.audience_types == tuple(sorted({type_ for _, type_ in room.seeds}))
            for definition in room.audiences.values():
                files = lookalike_files(definition, room, folder)
                out = folder / "out.parquet"
                n_users = evaluate(engine, definition, room.resolve, files, out)
                users = pq.read_table(out)["user_id"].to_pylist()
                assert users == sorted(users_of(definition, room), key=lambda user: (stable_hash(user), user))
                assert n_users == len(users)
                # Of a count, an id stands for one user.
                assert count(engine, definition, room.resolve, files) == len(users_of(definition, counting))


@pytest.mark.parametrize("operator", list(CombineOperator))
def test_set_algebra_over_files(spark_here: str, tmp_path: Path, operator: CombineOperator) -> None:
    lists = {"a": ["1", "1", None, "2", "é", "it's"], "b": [None, "2", "3", "it's"]}
    for name, ids in lists.items():
        pq.write_table(pa.table({"id": pa.array(ids, pa.string())}), tmp_path / f"{name}.parquet")
    first, second = (FileRef(str(tmp_path / f"{name}.parquet"), "id") for name in lists)
    found = []
    for url in (None, spark_here):
        out = tmp_path / f"{url}.parquet"
        definition = RuleBased(first, None, (Combinator(operator, second),))
        n_ids = evaluate_files(definition, no_audiences, out, EngineSettings(url=url, scratch=tmp_path))
        ids = pq.read_table(out)["user_id"].to_pylist()
        assert n_ids == len(ids)
        found.append(sorted(ids))
    assert found[0] == found[1]


@pytest.mark.parametrize("exclude", [True, False])
def test_selecting_a_reach(spark_here: str, tmp_path: Path, exclude: bool) -> None:
    n_users = 1_000
    table = pa.table(
        {
            "user_id": [f"ü{number}" for number in range(n_users)],
            "rank": range(1, n_users + 1),
            "score": [1 - number / n_users for number in range(n_users)],
            "is_seed": [number % 7 == 3 for number in range(n_users)],
        }
    )
    n_seed = sum(table["is_seed"].to_pylist())
    pq.write_table(
        table.replace_schema_metadata({b"n_seed_users": str(n_seed).encode()}), tmp_path / "ranking.parquet"
    )
    found = []
    for number, url in enumerate((None, spark_here)):
        out = tmp_path / str(number)
        out.mkdir()
        settings_ = EngineSettings(url=url, scratch=tmp_path)
        excluded = None
        if exclude:
            excluded = tmp_path / "seed.parquet"
            pq.write_table(table.filter(table["is_seed"]).select(["user_id"]), excluded)
        reached = select_reach(tmp_path / "ranking.parquet", 20, out, exclude=excluded, engine=settings_)
        assert (reached.requested, reached.delivered) == (200, 200)
        found.append(pq.read_table(out / "users.parquet")["user_id"].to_pylist())
    assert found[0] == found[1]
    assert len(found[0]) == 200
