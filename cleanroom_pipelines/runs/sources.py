"""Tables of training datasets: fetching and opening them.

Lives here: local copies of a dataset's sources, the digests of its files, and the folder of its day cache.
Add here when a dataset gets another table.
Keep out: reading sources (uploads.sources), validation and training (building).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from cleanroom_pipelines.catalog import TrainingDataset
from cleanroom_pipelines.engine import Runtime, find_tables
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, StatusCode, TrainingDataError
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage import Input, InstallationKey
from cleanroom_pipelines.storage.layout import path_of_partition
from cleanroom_pipelines.storage.warehouse import reject_links, table_of
from cleanroom_pipelines.uploads.checks import INTERACTIONS, USERS, UploadKind
from cleanroom_pipelines.uploads.sources import is_remote

_COPIES = "sources"


@contextmanager
def opened_tables(
    installation: Installation, dataset: TrainingDataset, runtime: Runtime
) -> Iterator[TrainingDataset]:
    """Yield the dataset with local paths as its sources; their files do not change until the `with` body ends.

    Copies of remote tables are kept with the dataset's day cache, so the next run fetches only what has changed.

    Raises:
        TrainingDataError: A table is missing, cannot be read or is not configured here, a link leads out of a
            warehouse table, or a dataset that was created over HTTP has a remote source.
    """
    _check_exists(installation, dataset)
    reject_links(installation.home, dataset.account_id, Path(dataset.source))
    remote = [source for source in (dataset.source, dataset.users_source) if source and is_remote(source)]
    if remote and not dataset.declared:
        # it would be read with the operator's credentials
        raise TrainingDataError(
            "Only a training dataset from a declaration can have a remote source.",
            remedy="Ask the operator to declare it.",
        )
    sources, folder = installation.sources_of(dataset.account_id), _cache_of(installation, dataset) / _COPIES
    with ExitStack() as stack:

        def local(source: str, upload: UploadKind) -> str:
            if not is_remote(source):
                return source
            try:
                return str(stack.enter_context(sources.opening(source, upload, folder=folder, runtime=runtime)))
            except ConfigurationError:
                # its text names the operator's settings, and the dataset's account may read it
                raise TrainingDataError(
                    f"The source of the {upload.what} is not configured where this work runs.",
                    remedy="The operator can check it with a dry run of its declaration.",
                ) from None

        yield replace(
            dataset,
            source=local(dataset.source, INTERACTIONS),
            users_source=local(dataset.users_source, USERS) if dataset.users_source else None,
        )


def _check_exists(installation: Installation, dataset: TrainingDataset) -> None:
    """Reject a dataset whose warehouse table has no folder; the error names the table and its database."""
    folder = Path(dataset.source)
    names = table_of(installation.home, dataset.account_id, folder)
    if names is not None and not folder.exists():
        database, table = names
        raise TrainingDataError(
            f"The table {database}.{table} does not exist in the account's warehouse.",
            remedy=f"Put its files into the bucket warehouse-{dataset.account_id}, below {database}/{table}/.",
            status_code=StatusCode.TRAINING_DATA_NOT_FOUND,
        )


def table_inputs(key: InstallationKey, dataset: TrainingDataset) -> tuple[Input, ...]:
    """Return the opened tables as inputs of an artifact, with keyed digests of their files."""
    sources = {"interactions": dataset.source, "users": dataset.users_source}
    inputs = []
    for name, source in sources.items():
        if source:
            try:
                files = find_tables(source, what=f"{name} table").files
                digest = key.digest_files("table digests", files)
            except (CleanroomError, OSError):
                digest = "unreadable"  # the validation report says why
            inputs.append(Input(name, "", "", digest))
    return tuple(inputs)


def day_cache(installation: Installation, dataset: TrainingDataset) -> Path | None:
    """Return the cache folder of a dataset whose table has several files, such as one per day; otherwise None."""
    if len(find_tables(dataset.source, what="interactions table").files) < 2:
        return None
    folder = _cache_of(installation, dataset)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _cache_of(installation: Installation, dataset: TrainingDataset) -> Path:
    return installation.home.day_caches / path_of_partition(dataset.id)
