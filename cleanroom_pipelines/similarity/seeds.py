"""Seeds: read the advertiser's list and match it.

Lives here: `read_seed` with all checks of a seed, and `match_seed`.
Add here when matching a seed reports another figure.
Keep out: validation of rows and columns (uploads); ranking; matching identifiers of rooms (identity).
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa

from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.engine import EngineSettings, open_configured_engine, open_engine
from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.similarity.model import Model
from cleanroom_pipelines.uploads.checks import SEED, find_upload, reading_of
from cleanroom_pipelines.uploads.likely_causes import form_of, no_match
from cleanroom_pipelines.uploads.reading import distinct_ids, read, reject_invalid_rows
from cleanroom_pipelines.uploads.report import ValidationReport
from cleanroom_pipelines.uploads.roles import Role
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_IDS, MIN_SEED_IDS, choose_seed_column


@dataclass(frozen=True)
class SeedUsers:
    """The usable part of a seed file.

    Args:
        user_ids: Distinct user ids as strings, ascending.
        n_rows: Rows of the file.
        n_unique: Distinct usable ids.
        n_invalid: Rows without a usable id, dropped.
        n_duplicates: Rows that repeat an id, dropped.
        ignored_columns: Columns other than the id column.
    """

    user_ids: pa.Array
    n_rows: int
    n_unique: int
    n_invalid: int
    n_duplicates: int
    ignored_columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, report: ValidationReport, user_ids: pa.ChunkedArray) -> Self:
        """The users of a validated seed (`uploads.files.check_seed`)."""
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


def read_seed(
    path: str | Path,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
    min_users: int = MIN_SEED_IDS,
    max_users: int = MAX_SEED_IDS,
    max_invalid_share: float = 0.05,
) -> SeedUsers:
    """Read a seed: JSON Lines `{"user_id": "…"}`, CSV with that header, or parquet.

    Counts are the same as those of `uploads.files.check_seed`.

    Args:
        path: File, glob or folder.
        engine: Memory, threads and scratch of the engine.
        min_users: Fewest distinct ids (25).
        max_users: Most distinct ids (500,000).
        max_invalid_share: Largest allowed share of rows without a usable id, 0 to 1.

    Raises:
        SeedError: The seed is missing, unreadable, damaged or empty, has no user_id column, too many invalid rows,
            or too few or too many ids.
    """
    tables = find_upload(path, SEED)
    declared = ((choose_seed_column(tables.columns), Role.USER_ID),)
    with (
        tempfile.TemporaryDirectory(prefix="seed-", dir=engine.scratch) as scratch,
        reading_of(SEED),
        open_engine(engine, paths=[*tables.files, Path(scratch)]) as database,
    ):
        checked = read(database, "seed", tables, declared, SEED, scratch=Path(scratch))
        counts = database.fetch(
            f"""-- one row
            WITH usable AS (SELECT CASE WHEN {checked.usable} THEN v0 END AS id FROM seed)
            SELECT count(*) AS n_rows, count(id) AS n_valid, count(DISTINCT id) AS n_unique FROM usable"""
        ).to_pylist()[0]
        n_rows = counts["n_rows"] + checked.n_rejected
        n_invalid = n_rows - counts["n_valid"]
        reject_invalid_rows(database, checked, SEED, (n_invalid, n_rows), max_invalid_share)
        _check_counts(n_rows, counts["n_unique"], min_users=min_users, max_users=max_users)
        ids = distinct_ids(database, checked)
    return SeedUsers(
        user_ids=ids.combine_chunks(),
        n_rows=n_rows,
        n_unique=counts["n_unique"],
        n_invalid=n_invalid,
        n_duplicates=counts["n_valid"] - counts["n_unique"],
        ignored_columns=tuple(name for name in tables.columns if name != declared[0][0]),
    )


def match_seed(
    model: str | Path | Model,
    seed: SeedUsers | str | Path,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
) -> SeedMatch:
    """Count how many seed users a model knows, without starting a job.

    Args:
        model: The model or its folder.
        seed: The seed or its file.
        engine: Engine that reads the model's users; memory, threads and scratch.

    Raises:
        SeedError: The seed is unusable.
        ArtifactError: The model cannot be read.
    """
    from cleanroom_pipelines.similarity.scoring import match_users

    opened = model if isinstance(model, Model) else Model(model)
    users = seed if isinstance(seed, SeedUsers) else read_seed(seed, engine=engine)
    with open_configured_engine(engine, paths=(opened.folder,)) as database:
        n_matched = len(match_users(database, opened, users.user_ids).seed)
    return SeedMatch(
        n_rows=users.n_rows,
        n_unique=users.n_unique,
        n_invalid=users.n_invalid,
        n_duplicates=users.n_duplicates,
        n_matched=n_matched,
        match_rate=n_matched / users.n_unique if users.n_unique else 0.0,
    )


def why_no_match(
    model: str | Path,
    seed: SeedUsers,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
) -> str:
    """Explain by counts why a model knows none of a seed's users; show it only to the owner of both.

    Args:
        model: The model's folder.
        seed: The seed.
        engine: Memory, threads and scratch.
    """
    with open_engine(engine) as database:
        database.register("seed", pa.table({"id": seed.user_ids}))
        database.register("known", pa.table({"id": Model(model).user_ids()}))
        mine, known = "SELECT id FROM seed", "SELECT id FROM known"
        return no_match(database, mine, known, what="seed users", where="are known to the model")


def form_of_seed(
    user_ids: pa.ChunkedArray,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
) -> str:
    """Describe the form of most ids of a seed, for a message that both parties read; empty if it is usual."""
    with open_engine(engine) as database:
        database.register("seed", pa.table({"id": user_ids}))
        return form_of(database, "SELECT id FROM seed", what="ids") or ""


def matched_seed_users(
    model: str | Path,
    seed: str | Path,
    *,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 frozen
) -> tuple[pa.ChunkedArray, int]:
    """The seed ids that a model knows, and the model's number of users; exact.

    Args:
        model: The model's folder.
        seed: The seed's file.
        engine: Engine that reads the model's users; memory, threads and scratch.

    Raises:
        SeedError: The seed is unusable.
        ArtifactError: The model cannot be read.
    """
    from cleanroom_pipelines.similarity.scoring import match_users

    opened, users = Model(model), read_seed(seed, engine=engine)
    with open_configured_engine(engine, paths=(opened.folder,)) as database:
        matched = match_users(database, opened, users.user_ids)
    return pa.chunked_array([matched.seed_ids]), opened.n_users


def _check_counts(n_rows: int, n_unique: int, *, min_users: int, max_users: int) -> None:
    if n_rows == 0:
        raise SeedError("The seed has no rows.", remedy="Give at least 25 user ids.")
    if n_unique < min_users:
        raise SeedError(
            f"The seed has {n_unique:,} distinct user ids; at least {min_users:,} are needed.",
            remedy="Give a larger seed.",
            status_code=StatusCode.SEED_TOO_SMALL,
            n_unique=n_unique,
        )
    if n_unique > max_users:
        raise SeedError(
            f"The seed has {n_unique:,} distinct user ids; at most {max_users:,} are allowed.",
            remedy="Give a smaller seed.",
            status_code=StatusCode.SEED_TOO_LARGE,
            n_unique=n_unique,
        )
