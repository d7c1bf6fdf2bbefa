"""Implementation of `train`, `generate` and `match`, which work on files without catalogue or Dagster.

Lives here: turning options into specs, and creating the output folder atomically.
Keep out: the computations (similarity).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from cleanroom_pipelines.declarations.form import parse_moment
from cleanroom_pipelines.engine import EngineSettings, Progress, Runtime
from cleanroom_pipelines.errors import ConflictError, SeedError, UsageError
from cleanroom_pipelines.runs.installation import engine_url, parse_bytes, source_connections
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.uploads.checks import INTERACTIONS, SEED, USERS, UploadKind
from cleanroom_pipelines.uploads.sources import Sources, is_remote


def train_model(
    *,
    interactions: str,
    users: str | None,
    schema: str,
    users_schema: str | None,
    out: Path,
    start: str | None,
    end: str | None,
    memory: str | None,
    threads: int | None,
    engine: str | None,
    max_invalid: str,
    day_cache: Path | None,
    progress: Progress,
) -> Any:
    """Train a model into a new folder.

    Raises:
        UsageError: An option is invalid.
        ConflictError: The output folder exists already.
        TrainingDataError: The table cannot be used.
    """
    from cleanroom_pipelines.similarity.specs import (
        InteractionsSchema,
        SizeProfile,
        TrainingTables,
        UsersSchema,
        Window,
    )
    from cleanroom_pipelines.similarity.training import train

    if bool(users) != bool(users_schema):
        raise UsageError("Only one of --users and --users-schema was given.", remedy="Give both, or neither.")
    if day_cache is not None:
        day_cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    runtime = Runtime(engine_settings(memory, threads, engine, out=out), progress)
    with new_folder(out) as folder, ExitStack() as stack:
        opening = partial(local_table, near=folder, keep=day_cache, runtime=runtime)
        tables = TrainingTables(
            interactions=stack.enter_context(opening(interactions, INTERACTIONS)),
            schema=InteractionsSchema.parse(schema),
            users=stack.enter_context(opening(users, USERS)) if users else None,
            users_schema=UsersSchema.parse(users_schema) if users_schema else None,
            max_invalid_share=_share(max_invalid),
        )
        return train(
            tables,
            folder,
            window=Window(_moment(start), _moment(end)),
            day_cache=day_cache,
            size_profile=SizeProfile(os.environ.get("CLEANROOM_SIZE_PROFILE", "default")),
            runtime=runtime,
        )


def generate_audience(
    *,
    model: Path,
    seed: str,
    out: Path,
    sizes: str,
    seed_mode: str,
    min_matching_seed_size: int,
    memory: str | None,
    threads: int | None,
    engine: str | None,
    progress: Progress,
) -> Any:
    """Rank all users for a seed; write ranked.parquet, metrics.json and explanation.json into a new folder.

    Raises:
        UsageError: An option is invalid.
        ConflictError: The output folder exists already.
        SeedError: The seed cannot be used.
        ArtifactError: The model is damaged.
    """
    from cleanroom_pipelines.audiences.sizes import SeedMode, parse_sizes
    from cleanroom_pipelines.similarity.ranking import generate
    from cleanroom_pipelines.similarity.rankings import RANKING_FILE, remove_ranking, write_ranked
    from cleanroom_pipelines.similarity.specs import GenerationSettings

    runtime = Runtime(engine_settings(memory, threads, engine, out=out), progress)
    with (
        new_folder(out) as folder,
        local_table(seed, SEED, near=folder, runtime=runtime) as table,
        _with_match_counts(model, table),
    ):
        check_model(model)
        report = generate(
            model=model,
            seed=table,
            out=folder,
            sizes=parse_sizes(sizes),
            min_matching_seed_size=min_matching_seed_size,
            settings=GenerationSettings(seed_floor=1),
            runtime=runtime,
        )
        write_ranked(ranking=folder / RANKING_FILE, out=folder / "ranked.parquet", seed_mode=SeedMode(seed_mode))
        remove_ranking(folder / RANKING_FILE)
        return report


def match_users(*, model: Path, seed: str) -> tuple[Any, str]:
    """Count how many seed users are in a model; if none are, also return a likely cause.

    Raises:
        SeedError: The seed cannot be used.
        ArtifactError: The model is damaged.
    """
    from cleanroom_pipelines.similarity.model import Model
    from cleanroom_pipelines.similarity.seeds import match_seed, read_seed, why_no_match

    check_model(model)
    with local_table(seed, SEED) as table:
        users = read_seed(table, dataset_column=Model(model).user_id_column)
    found = match_seed(model, users).counts
    return found, "" if found.n_matched else why_no_match(model, users)


@contextmanager
def local_table(
    source: str,
    upload: UploadKind,
    *,
    near: Path | None = None,
    keep: Path | None = None,
    runtime: Runtime = Runtime(),  # noqa: B008 frozen
) -> Iterator[Path]:
    """Yield a local path to a source's files; the files of a remote source are copied.

    Args:
        source: A local path, or a remote source that this machine's user can read.
        upload: Kind of upload.
        near: Path in whose folder a temporary copy is stored; None: the system's temporary folder.
        keep: Folder that keeps the copy, so that the next call fetches only what has changed.
        runtime: Progress and cancellation.

    Raises:
        UsageError: The source has an unknown form.
        TrainingDataError: Or SeedError: it is missing, or cannot be read.
    """
    if not is_remote(source):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix=".source-", dir=near and near.parent) as name:
        sources = Sources(Path(name), source_connections(os.environ))
        folder = keep / "sources" if keep else Path(name)
        with sources.opening(source, upload, folder=folder, runtime=runtime) as path:
            yield path


def check_model(model: Path) -> None:
    """Reject a model that was damaged after its training; warn if the model has no digests to check.

    Raises:
        ArtifactError: The model is damaged.
    """
    from cleanroom_pipelines.similarity.model import Model, check_digests

    Model(model)  # raises if the folder is not a model
    if not check_digests(model):
        click.echo(
            "Warning: this model was trained without digests of its files, so damage cannot be detected. Train it "
            "again to add them.",
            err=True,
        )


@contextmanager
def _with_match_counts(model: Path, seed: Path) -> Iterator[None]:
    """Add match counts and a likely cause to seed errors. This is safe: the caller owns both model and seed."""
    try:
        yield
    except SeedError as error:
        if "n_matched" not in error.attributes:
            raise
        n_matched, n_unique, n_users = (error.attributes[name] for name in ("n_matched", "n_unique", "n_users"))
        why = ""
        if not n_matched:
            from cleanroom_pipelines.similarity.model import Model
            from cleanroom_pipelines.similarity.seeds import read_seed, why_no_match

            users = read_seed(seed, dataset_column=Model(model).user_id_column)
            why = f" {why_no_match(model, users)}"
        raise SeedError(
            f"{error.message} {n_matched:,} of {n_unique:,} seed users match; the model knows {n_users:,} "
            f"users.{why}",
            remedy=error.remedy,
            status_code=error.status_code,
            **error.attributes,
        ) from None


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `target`, renamed to it if the `with` body succeeds.

    Raises:
        ConflictError: The target exists.
        UsageError: The target cannot be written.
    """
    if target.exists():
        raise ConflictError("The output folder exists already.", remedy="Give --out a new name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UsageError(
            f"The output folder cannot be created ({type(error).__name__}).", remedy="Check --out."
        ) from None
    try:
        with full_disk_is_an_error():
            yield draft
            draft.chmod(0o755)
            os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def engine_settings(
    memory: str | None, threads: int | None, engine: str | None = None, *, out: Path | None = None
) -> EngineSettings:
    """Convert the engine options of a command into settings.

    Args:
        memory: Such as 8GB.
        threads: At least 1.
        engine: Address of a Spark cluster, or `duckdb`.
        out: The output: scratch files of a cluster are stored in the same folder, which it must see.

    Raises:
        UsageError: The memory or the engine is invalid.
    """
    try:
        n_bytes = parse_bytes(memory) if memory else None
    except (ValueError, KeyError):
        raise UsageError("The memory limit is invalid.", remedy="Write it as 8GB.") from None
    try:
        url = engine_url(engine) if engine else None
    except ValueError:
        raise UsageError(
            "The engine's address is invalid.",
            remedy="Give duckdb, spark://host:port, local[4] or sc://host:port.",
        ) from None
    scratch = out.absolute().parent if url is not None and out is not None else None
    return EngineSettings(n_bytes, threads, scratch, url=url)


def _moment(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else parse_moment(text)
    except ValueError:
        raise UsageError("--start or --end is not a valid time.", remedy="Write it as 2017-10-30.") from None


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError("The maximum share of invalid rows is out of range.", remedy="Write it as 5%.")
    return share
