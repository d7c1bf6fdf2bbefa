"""Seeds: reading the advertiser's list, and finding its users in a model.

Lives here: `read_seed`, `match_seed`, and the matched seed as bytes.
Add here when matching a seed reports another figure.
Keep out: validation of rows and columns (uploads); ranking; matching identifiers of rooms (identity).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.engine import Engine, EngineSettings, Runtime, open_configured_engine, open_engine
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.similarity.specs import GenerationSettings
from cleanroom_pipelines.uploads.files import check_seed
from cleanroom_pipelines.uploads.likely_causes import form_of, no_match
from cleanroom_pipelines.uploads.report import ValidationReport

if TYPE_CHECKING:
    from cleanroom_pipelines.similarity.ensemble import Candidates


@dataclass(frozen=True)
class SeedUsers:
    """The usable, distinct user ids of a seed file, and counts of its rows.

    Args:
        user_ids: Distinct user ids as strings, ascending.
        n_rows: Rows of the file.
        n_unique: Distinct usable ids.
        n_invalid: Rows without a usable id, dropped.
        n_duplicates: Rows that repeat an id, dropped.
    """

    user_ids: pa.Array
    n_rows: int
    n_unique: int
    n_invalid: int
    n_duplicates: int

    @classmethod
    def of(cls, report: ValidationReport, user_ids: pa.ChunkedArray) -> Self:
        """Create the `SeedUsers` of a seed that `uploads.files.check_seed` has validated."""
        return cls(
            user_ids=user_ids.combine_chunks(),
            n_rows=report.n_rows,
            n_unique=report.uniqueness.n_unique,
            n_invalid=report.n_invalid_rows,
            n_duplicates=report.uniqueness.n_duplicates,
        )


@dataclass(frozen=True)
class SeedMatch(Document):
    """Counts from matching a seed with a model.

    Args:
        n_rows: Rows of the seed.
        n_unique: Distinct usable ids.
        n_invalid: Rows without a usable id.
        n_duplicates: Rows that repeat an id.
        n_matched: Ids among the model's users.
        match_rate: n_matched / n_unique, 0 to 1.
    """

    n_rows: int
    n_unique: int
    n_invalid: int
    n_duplicates: int
    n_matched: int
    match_rate: float


@dataclass(frozen=True)
class MatchedSeed:
    """A seed after matching, which a job's validation step stores for its ranking step.

    Args:
        counts: The counts of the match.
        users: The seed users that the model knows, and a sample of its other users.
    """

    counts: SeedMatch
    users: "Candidates"

    def to_bytes(self) -> bytes:
        """Return the matched seed as an Arrow stream; it has ids of users, so store it only encrypted."""
        users, n_others = self.users, len(self.users.others)
        table = pa.table(
            {
                "number": np.concatenate([users.seed, users.others]),
                "hash": np.concatenate([users.seed_hashes, users.other_hashes]),
                "user_id": pa.concat_arrays([users.seed_ids, pa.nulls(n_others, users.seed_ids.type)]),
            },
            metadata={"n_users": str(users.n_users), "counts": json.dumps(self.counts.as_dict())},
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue())

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a matched seed from the bytes that `to_bytes` returned."""
        from cleanroom_pipelines.similarity.ensemble import Candidates

        table = pa.ipc.open_stream(content).read_all()
        facts = table.schema.metadata
        n_seed = table.num_rows - table["user_id"].null_count
        number, hashes = (table[name].to_numpy() for name in ("number", "hash"))
        users = Candidates(
            n_users=int(facts[b"n_users"]),
            seed=number[:n_seed],
            seed_hashes=hashes[:n_seed],
            seed_ids=table["user_id"][:n_seed].combine_chunks(),
            others=number[n_seed:],
            other_hashes=hashes[n_seed:],
        )
        return cls(SeedMatch.from_dict(json.loads(facts[b"counts"])), users)


def read_seed(
    path: str | Path,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
    **limits: Any,
) -> SeedUsers:
    """Read a seed: JSON Lines `{"user_id": "…"}`, or CSV or parquet with a column of ids.

    Args:
        path: File, glob or folder.
        engine: Memory, threads and scratch of the engine.
        **limits: As in `uploads.files.check_seed`.

    Raises:
        SeedError: The seed is missing, unreadable, damaged or empty, has no column of ids, too many invalid rows,
            or too few or too many ids.
    """
    report, user_ids = check_seed(path, is_strict=True, runtime=Runtime(engine), **limits)
    assert user_ids is not None
    return SeedUsers.of(report, user_ids)


def match_seed(
    model: str | Path | Model,
    seed: SeedUsers | str | Path,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
) -> MatchedSeed:
    """Find the users that are in both a seed and a model, without starting a job.

    Args:
        model: The model or its folder.
        seed: The seed or its file.
        engine: Engine that reads the model's users; memory, threads and scratch.

    Raises:
        SeedError: The seed is unusable.
        ArtifactError: The model cannot be read.
    """
    opened = model if isinstance(model, Model) else Model(model)
    users = seed
    if not isinstance(users, SeedUsers):
        users = read_seed(users, engine=engine, dataset_column=opened.user_id_column)
    with open_configured_engine(engine, paths=(opened.folder,)) as database:
        return match_with(database, opened, users, GenerationSettings())


def match_with(engine: Engine, model: Model, seed: SeedUsers, settings: GenerationSettings) -> MatchedSeed:
    """Match a seed as `match_seed` does, but with the given engine, which can read the model."""
    from cleanroom_pipelines.similarity.scoring import match_users

    users = match_users(engine, model, seed.user_ids, settings)
    n_matched = len(users.seed)
    counts = SeedMatch(
        n_rows=seed.n_rows,
        n_unique=seed.n_unique,
        n_invalid=seed.n_invalid,
        n_duplicates=seed.n_duplicates,
        n_matched=n_matched,
        match_rate=n_matched / seed.n_unique if seed.n_unique else 0.0,
    )
    return MatchedSeed(counts, users)


def why_no_match(model: str | Path, seed: SeedUsers) -> str:
    """Explain, with counts, why no seed user is in a model; show this only to the owner of both."""
    with open_engine(EngineSettings()) as database:
        database.register("seed", pa.table({"id": seed.user_ids}))
        database.register("known", pa.table({"id": Model(model).user_ids()}))
        mine, known = "SELECT id FROM seed", "SELECT id FROM known"
        return no_match(database, mine, known, what="seed users", where="are known to the model")


def form_of_seed(user_ids: pa.ChunkedArray, *, engine: EngineSettings) -> str:
    """Describe the form of most ids of a seed, for a message to both parties; empty if this form is usual."""
    with open_engine(engine) as database:
        database.register("seed", pa.table({"id": user_ids}))
        return form_of(database, "SELECT id FROM seed", what="ids") or ""
