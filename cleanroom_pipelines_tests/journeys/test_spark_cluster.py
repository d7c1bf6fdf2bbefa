"""The demo on a real Spark cluster, through Dagster.

Contract: a standalone cluster on loopback, with a master and two workers, does everything from the tables to the
exports, and the audience agrees with DuckDB's within the documented tolerance: Spearman at least 0.999, at least
99 % the same users at each size. The results can be read afterwards without the cluster.
"""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from cleanroom_pipelines.catalog import Kind
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.similarity.rankings import RANKING_FILE, ranking_parts
from cleanroom_pipelines.storage import ArtifactReference
from cleanroom_pipelines_tests.contract.clusters import java_processes_of, standalone_cluster

from .. import worlds
from .commands import Demo, run, run_demo, typed

pytestmark = pytest.mark.spark
SHARES = (0.01, 0.05, 0.1, 0.2)


def ranking_of(home: Path) -> tuple[pd.DataFrame, bool]:
    """Return the demo's ranking, and whether it is stored in parts."""
    installation = Installation(Settings(home))
    (job,) = installation.catalog.resources.iterate(Kind.GENERATION_JOB)
    version = installation.catalog.resources.current_version(Kind.GENERATION_JOB, job.id)
    assert version is not None
    with installation.store.opening(
        ArtifactReference("audience", job.id, version.artifacts["audience"])
    ) as folder:
        tables = [pq.read_table(part).to_pandas() for part in ranking_parts(folder / RANKING_FILE)]
        return pd.concat(tables), (folder / RANKING_FILE).is_dir()


def test_the_demo_on_a_cluster_agrees_with_the_demo_on_one_machine(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cluster, on_spark = tmp_path / "cluster", tmp_path / "spark"
    cluster.mkdir()
    on_spark.mkdir()
    with standalone_cluster(cluster) as url:
        assert url.startswith("spark://127.0.0.1:")
        on_cluster = run_demo(on_spark, url)
    assert java_processes_of(cluster) == []
    # only now: another test may be running it meanwhile
    on_one: Demo = request.getfixturevalue("demo")

    (theirs, in_parts), (ours, in_one) = ranking_of(on_cluster.home), ranking_of(on_one.home)
    assert in_parts, "the cluster ranked it"
    assert not in_one
    assert sorted(theirs["user_id"]) == sorted(ours["user_id"])
    ranks = theirs.set_index("user_id")["rank"].loc[ours["user_id"]]
    assert spearmanr(ours["rank"], ranks).statistic >= 0.999
    for share in SHARES:
        n_users = int(share * len(ours))
        assert len(set(ours["user_id"][:n_users]) & set(theirs["user_id"][:n_users])) >= 0.99 * n_users
    assert on_cluster.told["report"] == on_one.told["report"]
    assert on_cluster.told["metrics"]["recall_at"]["recall"] == pytest.approx(
        on_one.told["metrics"]["recall_at"]["recall"], abs=0.01
    )
    assert len(on_cluster.told["exports"]) == len(on_one.told["exports"]) > 0

    # Without the cluster: everything is there, verified, and the demo has nothing more to do.
    statuses = worlds.statuses(Installation(Settings(on_cluster.home)))
    run(on_cluster.home, "demo")
    assert worlds.statuses(Installation(Settings(on_cluster.home))) == statuses


def test_an_unreachable_cluster_is_reported_in_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ended = typed(home, "demo", "--json", engine="spark://127.0.0.1:9")
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert "The Spark cluster does not respond." in ended.stderr
    assert not (tmp_path / "spark-warehouse").exists()
