"""Sources in declarations: tables of training datasets, and seeds.

Lives here: resolving a declared source, checking its header before anything is created, and fetching remote seeds.
Add here when declarations name another kind of table.
Keep out: connecting to sources (uploads.sources), and creating resources (applying).
"""

import difflib
import glob
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from cleanroom_pipelines.declarations.form import JobForm, TableForm, TrainingDatasetForm
from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.storage.seed_parts import SeedTooLarge, merge_parts, seed_suffix
from cleanroom_pipelines.uploads.checks import (
    INTERACTIONS,
    SEED,
    USERS,
    UploadKind,
    choose_seed_column,
    find_upload,
    missing_columns,
)
from cleanroom_pipelines.uploads.seed_files import MAX_SEED_BYTES
from cleanroom_pipelines.uploads.sources import Sources, is_remote, parse_source


def source_of(folder: Path, text: str) -> str:
    """Resolve a path or glob relative to the declaration's folder; return a remote source unchanged.

    Raises:
        UsageError: It is remote and has an unknown form, or contains credentials.
    """
    if is_remote(text):
        parse_source(text)
        return text
    path = folder / text
    if glob.has_magic(text) and not path.exists():
        return str(Path(glob.escape(str(folder))) / text)
    return str(path)


def check_dataset(form: TrainingDatasetForm, folder: Path, sources: Sources) -> None:
    """Read the headers of a dataset's tables, and reject declared columns that the tables lack.

    Raises:
        TrainingDataError: A table is missing, cannot be read, or lacks a declared column.
        ConfigurationError: A library or connection is missing.
    """
    _check_table(form, INTERACTIONS, folder, sources)
    if form.users:
        _check_table(form.users, USERS, folder, sources)


def _check_table(
    form: TrainingDatasetForm | TableForm, upload: UploadKind, folder: Path, sources: Sources
) -> None:
    there = sources.columns(source_of(folder, form.source), upload)
    missing = [name for name in form.columns if name not in there]
    if missing:
        remedy = _suggestion(missing[0], there) or "Check the spelling of the names."
        raise missing_columns(missing, upload, remedy)


def _suggestion(name: str, there: Iterable[str]) -> str:
    """Suggest the existing column with the most similar name; only the operator sees this suggestion."""
    by_lower = {column.lower(): column for column in there}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"Did you mean {by_lower[close[0]]!r}?" if close else ""


def check_seed_header(seed: Path, dataset_column: str) -> None:
    """Read the header of a seed, and reject a seed without a column of ids.

    Args:
        seed: The file.
        dataset_column: Name of the training dataset's USER_ID column; empty if unknown.

    Raises:
        SeedError: It cannot be read, or has no column of ids.
    """
    choose_seed_column(find_upload(seed, SEED), dataset_column)


def find_seed(form: JobForm, folder: Path, sources: Sources | None, stack: ExitStack) -> Path:
    """Return the local file of a job's seed; a remote seed is copied, and its files are merged.

    Args:
        form: The job.
        folder: Folder of the declaration.
        sources: Places that the operator can read seeds from; None: the seed is a local file.
        stack: Deletes the copy in the end.

    Raises:
        UsageError: The source has an unknown form.
        SeedError: It is missing, cannot be read, or is too large.
    """
    if sources is None:
        seed = folder / form.seed
        if not seed.is_file():
            raise SeedError(
                "The seed was not found.",
                remedy="Give its path relative to the declaration file.",
                status_code=StatusCode.SEED_NOT_FOUND,
            )
        return seed
    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="seed-", dir=sources.scratch)))
    path = stack.enter_context(sources.opening(form.seed, SEED, folder=scratch))
    files = find_upload(path, SEED).files
    if len(files) == 1:
        return files[0]
    merged = scratch / f"seed{seed_suffix(files[0]).removesuffix('.gz')}"
    try:
        merge_parts(files, merged, max_bytes=MAX_SEED_BYTES)
    except SeedTooLarge:
        raise SEED.rejection(
            f"The seed is larger than the limit of {MAX_SEED_BYTES:,} bytes.",
            remedy="Provide a smaller seed.",
            problem="too large",
        ) from None
    return merged
