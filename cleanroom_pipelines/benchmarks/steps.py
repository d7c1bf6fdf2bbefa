"""The steps of the scale benchmark; each runs in its own process.

Lives here: the code of the processes; `python -m cleanroom_pipelines.benchmarks.steps STEP JSON`.
Add here when another peer is to be measured.
Keep out: monitoring the processes (scale).
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

_USERS_PER_FILE = 250_000


def _engine_settings(arguments: Mapping[str, Any]) -> Any:
    from cleanroom_pipelines.engine import EngineSettings

    return EngineSettings(
        memory_bytes=arguments["memory_bytes"],
        threads=arguments["threads"],
        scratch=Path(arguments["scratch"]),
        url=arguments.get("engine"),
    )


def _train(arguments: Mapping[str, Any]) -> dict[str, Any]:
    from cleanroom_pipelines.engine import Runtime
    from cleanroom_pipelines.similarity.specs import InteractionsSchema, TrainingTables
    from cleanroom_pipelines.similarity.training import train

    out = Path(arguments["model"])
    out.mkdir()
    schema = InteractionsSchema.parse("user_id=USER_ID,item_id=ITEM_ID,ts=TIMESTAMP")
    tables = TrainingTables(arguments["interactions"], schema)
    report = train(tables, out, runtime=Runtime(_engine_settings(arguments)))
    return {
        "n_users": report.n_users,
        "n_items": report.n_items,
        "n_pairs": report.n_pairs,
        "stages": dict(report.timing_seconds),
        "model_bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    }


def _generate(arguments: Mapping[str, Any]) -> dict[str, Any]:
    from cleanroom_pipelines.engine import Runtime
    from cleanroom_pipelines.similarity.ranking import generate
    from cleanroom_pipelines.similarity.specs import GenerationSettings

    out = Path(arguments["out"])
    out.mkdir()
    report = generate(
        model=arguments["model"],
        seed=arguments["seed"],
        out=out,
        min_matching_seed_size=25,
        settings=GenerationSettings(threads=arguments["threads"]),
        runtime=Runtime(_engine_settings(arguments)),
    )
    return {
        "sentence": report.sentence,
        "ranking_bytes": sum(path.stat().st_size for path in out.rglob("*.parquet") if path.is_file()),
        "recall": {entry["size"]: entry["recall"] for entry in report.metrics["sizes"]},
        "stages": dict(report.timing_seconds),
    }


def _match(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Match a hashed seed with a base of ten times as many rows."""
    from cleanroom_pipelines.benchmarks.algebra import MATCHING

    return _answer(MATCHING, arguments)


def _combine(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Combine five lists of ids."""
    return _answer("mixed", arguments)


def _answer(question: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    from cleanroom_pipelines.benchmarks.algebra import prepare

    out = Path(arguments["out"])
    prepare(question, Path(arguments["lists"]), out, _engine_settings(arguments))()
    return {"list_bytes": out.stat().st_size}


def _export(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Write all users of a ranking, best first, as JSON Lines."""
    from cleanroom_pipelines.audiences.sizes import AudienceSize, SizeType
    from cleanroom_pipelines.delivery.exports import ExportOptions
    from cleanroom_pipelines.delivery.writing import deliver
    from cleanroom_pipelines.similarity.rankings import RANKING_FILE, select_audience
    from cleanroom_pipelines.storage.buckets import folder_on_disk

    out = Path(arguments["out"])
    all_users = AudienceSize(SizeType.PERCENTAGE, 100)
    audience = select_audience(Path(arguments["audience"]) / RANKING_FILE, all_users)
    deliver(
        folder_on_disk(out),
        audience.user_ids(),
        ExportOptions("benchmark", audience.requested, "jsonl", max_rows=_USERS_PER_FILE),
        engine=_engine_settings(arguments),
        slices=audience.slices,
    )
    return {"export_bytes": sum(path.stat().st_size for path in out.iterdir())}


def _pairs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Write the table (user number, item number, interactions) that every compared library starts from."""
    from cleanroom_pipelines.engine import find_tables, open_engine

    tables = find_tables(arguments["interactions"])
    target = Path(arguments["pairs"])
    with open_engine(_engine_settings(arguments), paths=[*tables.files, target.parent]) as engine:
        engine.scan("events", tables)
        engine.execute("CREATE TEMP TABLE users AS SELECT DISTINCT user_id FROM events")
        engine.execute("CREATE TEMP TABLE items AS SELECT DISTINCT item_id FROM events")
        engine.write_parquet(
            """SELECT u.rowid AS user, i.rowid AS item, count(*) AS n
            FROM events JOIN users u USING (user_id) JOIN items i USING (item_id) GROUP BY ALL""",
            target,
        )
    return {}


def _als(arguments: Mapping[str, Any]) -> dict[str, Any]:
    import os

    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import numpy as np
    import pyarrow.parquet as pq
    import scipy.sparse as sp
    from implicit.als import AlternatingLeastSquares

    pairs = pq.read_table(arguments["pairs"])
    matrix = sp.csr_matrix(
        (
            pairs["n"].to_numpy().astype(np.float32),
            (pairs["user"].to_numpy().astype(np.int32), pairs["item"].to_numpy().astype(np.int32)),
        )
    )
    started = perf_counter()
    AlternatingLeastSquares(factors=64, iterations=15, random_state=0, num_threads=arguments["threads"]).fit(
        matrix, show_progress=False
    )
    return {"fit_seconds": perf_counter() - started}


def _pandas(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Group in pandas, fit TF-IDF and balanced logistic regression in scikit-learn, score all users."""
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    frame = pd.read_parquet(arguments["interactions"], columns=["user_id", "item_id"])
    counts = frame.groupby(["user_id", "item_id"]).size()
    users, ids = pd.factorize(counts.index.get_level_values(0))
    items, _ = pd.factorize(counts.index.get_level_values(1))
    matrix = TfidfTransformer(sublinear_tf=True).fit_transform(
        sp.csr_matrix((counts.to_numpy().astype(np.float64), (users, items)))
    )
    is_seed = pd.Index(ids).isin(pd.read_csv(arguments["seed"], dtype=str)["user_id"])
    model = LogisticRegression(class_weight="balanced", max_iter=300).fit(matrix, is_seed)
    np.argsort(-model.decision_function(matrix))
    return {}


_STEPS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "train": _train,
    "generate": _generate,
    "match": _match,
    "combine": _combine,
    "export": _export,
    "pairs": _pairs,
    "als": _als,
    "pandas": _pandas,
}

if __name__ == "__main__":
    from cleanroom_pipelines.engine.spark_sessions import keep_event_log

    keep_event_log()
    sys.stdout.write(json.dumps(_STEPS[sys.argv[1]](json.loads(sys.argv[2]))) + "\n")
