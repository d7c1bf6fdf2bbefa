"""The cost of privacy: private lookalikes compared with the full model and logistic regression, by seed size.

Lives here: tasks of a given number of seed users, on real data and on a population with planted groups; the table.
Add here when private lookalikes are measured in another way.
Keep out: the tasks themselves and recall (quality).

The tasks are the item tasks of the quality benchmark, with a seed of exactly the given number of the item's users
and at least as many others to find. Sizes for which fewer than five items have enough users are reported as none.
The noise here is a rounded normal, drawn three times; the mechanism's own noise is keyed and has the same width.

Measured (recall at 10 % ÷ that of logistic regression, 5 to 8 tasks each, ± .02 or more):

    seed users (units)    300 (41.7)   500 (15)   1,000 (8)   2,000 (8)
    page visits           .99          .99        1.00        .97
    wholesale             .97, .98     none       none        none
    groceries             .91          none       none        none
    movie ratings (610)   none         none       none        none
    planted groups                     1.12                   .89

With 128 coordinates, planted groups at 2,000 reach .94 and page visits .95. A private lookalike of a million users
takes 0.11 of the ensemble's time (2.9 and 26.7 CPU seconds, 2,000 seed users, 10 million rows).
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cleanroom_pipelines.benchmarks.baselines import BASELINES
from cleanroom_pipelines.benchmarks.quality import (
    OURS,
    Batch,
    Data,
    Source,
    Task,
    item_batches,
    measure_ranking,
    our_scores,
    standard_error,
    table_of,
    trained,
)
from cleanroom_pipelines.benchmarks.synthetic import SyntheticSettings, interest_of, write_interactions
from cleanroom_pipelines.engine import EngineSettings
from cleanroom_pipelines.privacy.prices import figures_price, in_units
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.private_lookalikes import (
    SUM_GRID,
    choose,
    held_out_histogram,
    private_ranking,
    seed_sum,
    sensitivity,
    statistics_from_released,
)
from cleanroom_pipelines.similarity.rankings import RANKING_FILE
from cleanroom_pipelines.similarity.specs import GenerationSettings, InteractionsSchema, TrainingSettings

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

SEED_SIZES = (300, 500, 1_000, 2_000)
PRIVATE, PEER = "private", "LR TF-IDF"
"""Names of the private method and its peer in the table; recalls are compared with the peer's."""
_FEWEST_TASKS = 5
_DRAWS = 3
_Z90 = 1.6448536269514722
_KEY = "recall@10%"
_PLANTED = SyntheticSettings(n_users=50_000, n_interactions=400_000, n_items=2_000, n_interests=10)
_PLANTED_NAME = "planted groups"


def run_private(
    data: Data | None,
    *,
    seed_sizes: Sequence[int] = SEED_SIZES,
    n_tasks: int = 8,
    random_seed: int = 0,
    settings: GenerationSettings = GenerationSettings(),  # noqa: B008 frozen
    training: TrainingSettings = TrainingSettings(),  # noqa: B008 frozen
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Compare private lookalikes, the full model (ensemble) and logistic regression on the same seeds.

    Args:
        data: Data set; None for a population of 50,000 with ten planted groups.
        seed_sizes: Numbers of matched seed users.
        n_tasks: Maximum number of tasks per size.
        random_seed: Random seed for the choice of tasks, seeds and noise.
        settings: Settings of the ensemble.
        training: Settings of the representation.
        engine: Memory, threads and scratch.
        progress: Called with the share done and the task.

    Returns:
        `data` and `sizes`: by seed size None, or price, means and standard errors of recall by method, ratio to
        logistic regression, and the error of the released recall.
    """
    name = data.name if data else _PLANTED_NAME
    result: dict[str, Any] = {"data": name, "n_tasks": n_tasks, "seed": random_seed, "sizes": {}}
    with tempfile.TemporaryDirectory(prefix="private-", dir=engine.scratch) as scratch:
        source = Source(data or _planted(Path(scratch)), Path(scratch), engine)
        for done, size in enumerate(seed_sizes):
            rng = np.random.default_rng([random_seed, size])
            batches = [_planted_batch()] if data is None else item_batches(source, n_tasks, rng, smallest=2 * size)
            rows = []
            for batch in batches:
                model = trained(source, batch, training, with_users=False)
                number = {user_id: place for place, user_id in enumerate(model.user_ids().to_pylist())}
                table = table_of(model, random_seed)
                for task in batch.tasks[:n_tasks]:
                    members = np.sort([number[user_id] for user_id in task.members if user_id in number])
                    if len(members) < 2 * size:
                        continue
                    seed = np.sort(rng.choice(members, size, replace=False))
                    private = _private(model, seed, members, rng, source.folder)
                    row = {
                        PRIVATE: private[_KEY],
                        OURS: measure_ranking(our_scores(model, seed, settings), members, seed)[_KEY],
                        PEER: measure_ranking(BASELINES[PEER](table, seed), members, seed)[_KEY],
                    }
                    rows.append({"task": task.name, "n_members": len(members), "methods": row, **private})
                    if progress:
                        share = (done + len(rows) / n_tasks) / len(seed_sizes)
                        progress(min(1.0, share), f"{name}: {size} seed users")
            result["sizes"][size] = _summary(size, rows) if len(rows) >= _FEWEST_TASKS else None
    return result


def private_table(result: Mapping[str, Any]) -> str:
    """Format the result as a plain text table, one line per seed size."""
    lines = [
        f"{result['data']}: {_KEY}, private compared with other methods on the same seeds",
        f"  {'seed':>6}{'tasks':>7}{'units':>7}{'d':>5}{PRIVATE:>16}{OURS:>16}{PEER:>16}"
        f"{'÷ ' + PEER:>14}{'÷ ' + OURS:>14}{'released figure':>18}",
    ]
    for size, block in result["sizes"].items():
        if block is None:
            lines.append(f"  {size:>6}   none: fewer than {_FEWEST_TASKS} tasks have enough users")
            continue
        cells = "".join(
            f"{block['methods'][name]['mean']:>9.3f} ±{block['methods'][name]['standard_error']:.3f}"
            for name in (PRIVATE, OURS, PEER)
        )
        lines.append(
            f"  {size:>6}{block['n_tasks']:>7}{block['units']:>7}{block['d']:>5}{cells}"
            f"{block['ratio'][PEER]:>14.3f}{block['ratio'][OURS]:>14.3f}"
            f"{block['released_within']:>9.0%} in ±{block['released_error']:.3f}"
        )
    return "\n".join(lines)


def _private(
    model: Model, seed: Int64, members: Int64, rng: np.random.Generator, folder: Callable[[], Path]
) -> dict[str, Any]:
    """Return a private ranking's mean recall over several noise draws, and the error of its released recall."""
    choice = choose(len(seed))
    ids = model.user_ids().take(pa.array(seed))
    exact = seed_sum(model.folder, ids, choice.d)
    sigma = math.sqrt(figures_price(len(seed)).variance)
    hidden = np.setdiff1d(members, seed)
    recalls, errors, within = [], [], []
    for _ in range(_DRAWS):
        out = folder()
        b = exact + np.rint(rng.normal(size=choice.d) * choice.sigma * sensitivity(choice.d)).astype(np.int64)
        private_ranking(model.folder, b, choice.d, out, ridge=choice.ridge)
        scores = _scores(model, out / RANKING_FILE)
        recalls.append(measure_ranking(scores, members, seed)[_KEY])
        held_out = held_out_histogram(model.folder, ids, b, choice.d, ranking=out, ridge=choice.ridge)
        counts = held_out.counts + np.rint(rng.normal(size=len(held_out.counts)) * sigma).astype(np.int64)
        total = held_out.total + round(rng.normal() * sigma * SUM_GRID)
        figure = statistics_from_released(counts.tolist(), total, model.n_users, sigma)["reach"][9]
        # The figure refers to all users including the seed; the hidden users are a sample, as the seed is.
        found = float(np.mean(scores[hidden] > 0.9))
        own_error = _Z90 * np.sqrt(found * (1 - found) / len(hidden))
        if figure["tpr"] is not None:
            errors.append(figure["tpr_error"])
            within.append(abs(figure["tpr"] - found) <= np.hypot(figure["tpr_error"], own_error))
    return {_KEY: float(np.mean(recalls)), "errors": errors, "within": within}


def _scores(model: Model, ranking: Path) -> Float64:
    import pyarrow.parquet as pq

    found = pq.read_table(ranking, columns=["user_id", "score"])
    by_id = dict(zip(found["user_id"].to_pylist(), found["score"].to_pylist(), strict=True))
    return np.array([by_id[user_id] for user_id in model.user_ids().to_pylist()])


def _summary(size: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = {name: np.array([row["methods"][name] for row in rows]) for name in (PRIVATE, OURS, PEER)}
    choice = choose(size)
    within = [inside for row in rows for inside in row["within"]]
    errors = [error for row in rows for error in row["errors"]]
    return {
        "n_tasks": len(rows),
        "units": choice.units,
        "d": choice.d,
        "statistics_units": in_units(figures_price(size).tenths),
        "tasks": [{key: row[key] for key in ("task", "n_members", "methods")} for row in rows],
        "methods": {
            name: {"mean": float(array.mean()), "standard_error": standard_error(array)}
            for name, array in values.items()
        },
        "ratio": {name: float(values[PRIVATE].mean() / values[name].mean()) for name in (OURS, PEER)},
        "released_within": float(np.mean(within)) if within else 0.0,
        "released_error": float(np.mean(errors)) if errors else 0.0,
    }


def _planted(scratch: Path) -> Data:
    folder = scratch / "planted"
    if not folder.exists():
        folder.mkdir()
        write_interactions(_PLANTED, folder)
    return Data(folder, InteractionsSchema.parse("user_id=USER_ID,item_id=ITEM_ID,ts=TIMESTAMP"))


def _planted_batch() -> Batch:
    users = np.arange(_PLANTED.n_users)
    interests = interest_of(_PLANTED, users)
    tasks = [
        Task("group", f"interest {interest}", tuple(f"user-{user:08d}" for user in users[interests == interest]))
        for interest in range(_PLANTED.n_interests)
    ]
    return Batch(tasks)
