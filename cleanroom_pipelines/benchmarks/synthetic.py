"""Generate realistic interactions and audience models of any size, with planted groups.

Lives here: the deterministic generators of the scale benchmark.
Add here when synthetic data lacks a property of real data that affects costs.
Keep out: small data sets for tests.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

_CHUNK_USERS = 50_000
_NEWEST = 1_700_000_000
_SPAN_SECONDS = 90 * 86_400
_OWN_SHARE = 0.4
_NOISE_OF_COPIES = 0.05


@dataclass(frozen=True)
class SyntheticSettings:
    """Size and shape of the synthetic data.

    Args:
        n_users: Number of users.
        n_interactions: Number of interactions, accurate within a few per cent.
        n_items: Number of items; popularity falls as 1 / rank.
        n_interests: Number of latent interests; 40 % of a user's interactions are with items of one interest.
        random_seed: Seed of all random draws.
    """

    n_users: int
    n_interactions: int
    n_items: int = 20_000
    n_interests: int = 50
    random_seed: int = 0


def interest_of(settings: SyntheticSettings, users: Int64) -> Int64:
    """Return the planted interest of each user, given the users' numbers."""
    return ((users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)).astype(
        np.int64
    ) % settings.n_interests


def write_interactions(settings: SyntheticSettings, folder: Path) -> int:
    """Write interactions as parquet files: user_id (VARCHAR), item_id and ts (BIGINT); activity is log-normal.

    Args:
        settings: Size and shape.
        folder: Existing directory.

    Returns:
        Rows written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    popularity = np.cumsum(1.0 / np.arange(1, settings.n_items + 1))
    mean = settings.n_interactions / settings.n_users
    n_rows = 0
    for number, start in enumerate(range(0, settings.n_users, _CHUNK_USERS)):
        rng = np.random.default_rng([settings.random_seed, number])
        users = np.arange(start, min(settings.n_users, start + _CHUNK_USERS))
        activity = np.maximum(1, rng.poisson(rng.lognormal(np.log(mean) - 0.5, 1.0, len(users))))
        user = np.repeat(users, activity)
        item = np.searchsorted(popularity, rng.random(len(user)) * popularity[-1])
        own = rng.random(len(user)) < _OWN_SHARE
        # Moving to the nearest item of the user's own interest preserves the popularity distribution.
        item[own] += (interest_of(settings, user[own]) - item[own]) % settings.n_interests
        ts = _NEWEST - rng.integers(0, _SPAN_SECONDS, len(user))
        order = rng.permutation(len(user))
        ids = np.char.add("user-", np.char.zfill(users.astype(str), 8))
        table = pa.table(
            {
                "user_id": pa.array(ids).take(pa.array((user - start)[order])),
                "item_id": np.minimum(item, settings.n_items - 1)[order],
                "ts": ts[order],
            }
        )
        pq.write_table(table, folder / f"part-{number:05d}.parquet", compression="zstd")
        n_rows += len(user)
    return n_rows


def seed_ids(settings: SyntheticSettings, interest: int, n: int) -> list[str]:
    """Return up to n ids of users with one planted interest."""
    users = np.arange(settings.n_users)
    members = users[interest_of(settings, users) == interest]
    chosen = np.random.default_rng([settings.random_seed, interest]).permutation(members)[:n]
    return [f"user-{user:08d}" for user in np.sort(chosen)]


def n_users_to_copy(n_users: int) -> int:
    """Return how many users a small model needs so that `copy_model` can build a model of `n_users` from it."""
    from cleanroom_pipelines.similarity import TrainingSettings
    from cleanroom_pipelines.similarity.shards import shard_bits

    return n_users >> shard_bits(n_users, TrainingSettings().users_per_shard)


def copied_seed(user_ids: Sequence[str]) -> list[str]:
    """Return the ids of the first copies of the given users in a model built by `copy_model`."""
    return [f"{user_id}-0" for user_id in user_ids]


def copy_model(model: Path, out: Path, n_users: int) -> None:
    """Write a large audience model, in which each shard contains copies of a small model's users.

    Each copy of a user has an id, a stable hash and features of its own, so that the scores of copies differ.

    Args:
        model: A model of one shard with `n_users_to_copy` users.
        out: The folder to create.
        n_users: Number of users, accurate within one per shard.
    """
    import pyarrow as pa

    from cleanroom_pipelines.similarity.model import Model
    from cleanroom_pipelines.similarity.shards import (
        EMBEDDINGS_FOLDER,
        USERS_FOLDER,
        ShardArrays,
        block_bits,
        first_hashes,
        part_name,
        shard_bits,
        write_shard,
    )

    small = Model(model)
    users = small.shard(0)
    bits = shard_bits(n_users, small.n_users)
    shutil.copytree(model, out, ignore=shutil.ignore_patterns(USERS_FOLDER, EMBEDDINGS_FOLDER, "digests.json"))
    (out / USERS_FOLDER).mkdir()
    (out / EMBEDDINGS_FOLDER).mkdir()
    hashes = first_hashes(bits)
    for number in range(1 << bits):
        rng = np.random.default_rng(number)
        shard = ShardArrays(
            user_ids=pa.array([f"{user_id}-{number}" for user_id in users.user_ids.to_pylist()]),
            hashes=np.sort(rng.integers(hashes[number], hashes[number + 1], small.n_users)),
            starts=users.starts,
            items=users.items,
            counts=users.counts,
            days=users.days,
            dense=users.dense + rng.normal(0.0, _NOISE_OF_COPIES, users.dense.shape).astype(np.float32),
        )
        write_shard(out, number, shard)
        part = Path(EMBEDDINGS_FOLDER, part_name(number))
        shutil.copyfile(model / EMBEDDINGS_FOLDER / part_name(0), out / part)
    description = dict(small.description)
    description["users_per_shard"] = [small.n_users] * (1 << bits)
    description["n_users"] = small.n_users << bits
    description["n_blocks"] = 1 << block_bits(description["n_users"])
    (out / "model.json").write_text(json.dumps(description), "utf-8")
