"""Opening sources: making tables, given by a path or URL, available as local files.

Lives here: `Sources`, which opens local paths and remote tables alike and reads their column names.
Add here when a new kind of location needs to be opened.
Keep out: the single kinds (objects, tables), the environment (runs.installation).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom_pipelines.engine import Runtime, find_tables
from cleanroom_pipelines.errors import ConfigurationError, InputError, NotFoundError, UsageError
from cleanroom_pipelines.storage.objects import BucketError
from cleanroom_pipelines.uploads.checks import UploadKind
from cleanroom_pipelines.uploads.sources import objects, tables
from cleanroom_pipelines.uploads.sources.locations import (
    DatabaseLocation,
    DeltaLocation,
    IcebergLocation,
    Location,
    ObjectsLocation,
    parse_source,
)
from cleanroom_pipelines.uploads.sources.snapshots import Listing, snapshot_of

if TYPE_CHECKING:
    from cleanroom_pipelines.storage.remote_bucket import RemoteBucket

_REMEDIES = {
    "denied": "Check the operator's credentials for this store: environment, profile or the machine's own role.",
    "no bucket": "Check the name of the bucket or container.",
    "region": "Set the region, for instance s3://bucket/key?region=eu-central-1.",
    "unreachable": "Check the endpoint in the URL or the environment, and that the store is up.",
}


@dataclass(frozen=True)
class Sources:
    """Access to the tables that an operator can read: local paths, object stores, table formats and databases.

    Args:
        scratch: Existing local folder for temporary files.
        connections: Databases by the names in `adbc:NAME?…`, in capitals.
        registered: Returns the account's registered bucket with a name, opened with its own credentials; None if
            it is not registered. All other buckets are opened with the operator's credentials.
    """

    scratch: Path
    connections: Mapping[str, tables.Connection] = field(default_factory=dict, repr=False)
    registered: Callable[[str], "RemoteBucket | None"] = lambda name: None

    @contextmanager
    def opening(
        self,
        source: str,
        upload: UploadKind,
        *,
        folder: Path,
        runtime: Runtime = Runtime(),  # noqa: B008 frozen
    ) -> Iterator[Path]:
        """Make a source available as local files, which do not change until the `with` body ends.

        Args:
            source: See `parse_source`.
            upload: Kind of upload, for messages and status codes.
            folder: Folder of the local copies. A later call with the same folder fetches only what has changed.
            runtime: Progress and cancellation.

        Yields:
            File, folder or glob: a local path itself, or the local copy of anything else.

        Raises:
            UsageError: The source has an unknown form.
            TrainingDataError: Or SeedError: it is missing, or cannot be read.
            ConfigurationError: A library or connection is missing.
        """
        location = parse_source(source)
        if location is None:
            yield Path(source)
            return
        # Each kind has its own copy: two readers of one copy in one run would wait for each other.
        copy = folder / hashlib.sha256(f"{upload.what} {source}".encode()).hexdigest()[:16]
        with ExitStack() as stack:
            with errors_of(upload):
                opening = snapshot_of(copy, location.shown, lambda: self._list(location), runtime)
                path = stack.enter_context(opening)
            yield path

    def columns(self, source: str, upload: UploadKind) -> tuple[str, ...]:
        """Read the column names of a source, with its partition columns, but not its rows.

        Raises:
            UsageError: The source has an unknown form.
            TrainingDataError: Or SeedError: it is missing, or cannot be read.
            ConfigurationError: A library or connection is missing.
        """
        location = parse_source(source)
        with errors_of(upload):
            match location:
                case None:
                    return find_tables(source, what=upload.what).columns
                case ObjectsLocation():
                    return objects.columns_of_objects(
                        self._bucket(location), location.key, self.scratch, upload.what
                    )
                case IcebergLocation():
                    return tables.columns_of_iceberg(location)
                case DeltaLocation():
                    return tables.columns_of_delta(location)
                case DatabaseLocation():
                    return tables.columns_of_database(location, self._connection(location))

    def _list(self, location: Location) -> Listing:
        match location:
            case ObjectsLocation():
                return objects.list_objects(self._bucket(location), location.key)
            case IcebergLocation():
                return tables.list_iceberg(location)
            case DeltaLocation():
                return tables.list_delta(location)
            case DatabaseLocation():
                return tables.list_database(location, self._connection(location))

    def _bucket(self, location: ObjectsLocation) -> "RemoteBucket":
        from cleanroom_pipelines.storage.remote_bucket import RemoteBucket, open_url

        registered = self.registered(location.bucket) if location.store.startswith("s3://") else None
        if registered is not None:
            return registered
        try:
            store = open_url(location.store + location.options)
        except ConfigurationError:
            raise UsageError(
                "The source's URL cannot be opened, or an environment variable of its object store is not set.",
                remedy="Check the URL; for az:// set AZURE_STORAGE_ACCOUNT_NAME.",
            ) from None
        return RemoteBucket(lambda: store, self.scratch)

    def _connection(self, location: DatabaseLocation) -> tables.Connection:
        found = self.connections.get(location.connection)
        if found is None:
            raise ConfigurationError(
                f"The source names the connection {location.connection}, which is not set.",
                remedy=f"Set CLEANROOM_SOURCE_{location.connection}_URL to the URL of the database.",
            )
        return found


@contextmanager
def errors_of(upload: UploadKind) -> Iterator[None]:
    """Replace errors in reading a source with the upload's error class, and add a remedy."""
    try:
        yield
    except BucketError as error:
        problem = "missing" if error.problem == "no bucket" else "unreadable"
        message = f"The source of the {upload.what} cannot be fetched. {error.message}"
        raise upload.rejection(
            message, remedy=_REMEDIES.get(error.problem, error.remedy), problem=problem
        ) from None
    except NotFoundError:
        raise upload.rejection(
            f"A file of the {upload.what} was deleted from its store while it was fetched.",
            remedy="Try again.",
            problem="missing",
        ) from None
    except InputError as error:
        if isinstance(error, upload.error):
            raise
        raise upload.rejection(
            f"The {upload.what} cannot be used. {error.message}",
            remedy=error.remedy,
            problem=error.attributes.get("problem", "unreadable"),
        ) from None
