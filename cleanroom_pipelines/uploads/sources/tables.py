"""Tables of other systems: Iceberg, Delta and databases, read as streams of Arrow record batches.

Lives here: opening such tables, and copying each of their files, or the rows of a query, to parquet.
Add here when tables of another format or system can be read.
Keep out: parsing sources (locations), local copies (snapshots), object stores (objects).

The libraries are optional and imported on use. Their errors may quote cells, queries and URLs with passwords, so
only the names of their classes are kept. Batches are written as they arrive, except that pyiceberg reads each data
file completely; 6 million rows from PostgreSQL took 70 MB more than 1,000 rows. PostgreSQL is tested. Other ADBC
drivers, such as those of Snowflake and BigQuery, are loaded by name and are not tested.
"""

import errno
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom_pipelines.engine import quote_identifier
from cleanroom_pipelines.errors import CleanroomError, ConfigurationError, InputError
from cleanroom_pipelines.uploads.sources.locations import DatabaseLocation, DeltaLocation, IcebergLocation
from cleanroom_pipelines.uploads.sources.snapshots import Listing, Piece

_DRIVER = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FIXED_NS = 10**18  # the files of Iceberg and Delta never change, and their copies are named by content
_BATCH_ROWS = 65_536
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # of the local disk, not of the source
Check = Callable[[], None]


@dataclass(frozen=True)
class Connection:
    """A database connection that is set in the operator's environment.

    Args:
        url: URL of the database, with its credentials.
        driver: Name of the ADBC driver, such as `postgresql` or `snowflake`.
    """

    url: str = field(repr=False)
    driver: str = "postgresql"


def list_iceberg(location: IcebergLocation) -> Listing:
    """List the data files of an Iceberg table at a snapshot.

    Raises:
        InputError: The table or snapshot is missing or cannot be read.
        ConfigurationError: pyiceberg is not installed.
    """
    with _failures("Iceberg table"):
        table = _iceberg_table(location)
        snapshot = table.snapshot_by_id(location.snapshot) if location.snapshot else table.current_snapshot()
        if snapshot is None:
            raise _missing("Iceberg table", "snapshot" if location.snapshot else "data")
        scan = table.scan(snapshot_id=snapshot.snapshot_id)
        from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow

        schema = schema_to_pyarrow(scan.projection(), include_field_ids=False)
        pieces = []
        for task in scan.plan_files():
            reader = ArrowScan(table.metadata, table.io, scan.projection(), scan.row_filter)
            deleted = sorted(file.file_path for file in task.delete_files)
            identity = _digest(task.file.file_path, *deleted, str(schema))
            read = partial(reader.to_record_batches, [task])
            pieces.append(_piece(identity, partial(_write, "Iceberg table", schema, read)))
        return Listing(str(snapshot.snapshot_id), pieces)


def columns_of_iceberg(location: IcebergLocation) -> tuple[str, ...]:
    """Read the column names of an Iceberg table.

    Raises:
        InputError: The table or snapshot is missing or cannot be read.
        ConfigurationError: pyiceberg is not installed.
    """
    with _failures("Iceberg table"):
        table = _iceberg_table(location)
        if location.snapshot and table.snapshot_by_id(location.snapshot) is None:
            raise _missing("Iceberg table", "snapshot")
        return tuple(table.scan(snapshot_id=location.snapshot).projection().column_names)


def list_delta(location: DeltaLocation) -> Listing:
    """List the data files of a Delta table at a version.

    Raises:
        InputError: The table or version is missing or cannot be read.
        ConfigurationError: deltalake is not installed.
    """
    with _failures("Delta table"):
        table = _delta_table(location)
        dataset = table.to_pyarrow_dataset()
        schema = dataset.schema
        pieces = []
        for fragment in dataset.get_fragments():
            identity = _digest(fragment.path, str(schema))
            read = partial(fragment.to_batches, schema=schema, batch_size=_BATCH_ROWS)
            pieces.append(_piece(identity, partial(_write, "Delta table", schema, read)))
        if not pieces:
            raise _missing("Delta table", "data")
        return Listing(str(table.version()), pieces)


def columns_of_delta(location: DeltaLocation) -> tuple[str, ...]:
    """Read the column names of a Delta table.

    Raises:
        InputError: The table or version is missing or cannot be read.
        ConfigurationError: deltalake is not installed.
    """
    with _failures("Delta table"):
        return tuple(each.name for each in _delta_table(location).schema().fields)


def list_database(location: DatabaseLocation, connection: Connection) -> Listing:
    """Return a listing for a database table or query; each reading fetches all rows again, in one statement.

    Raises:
        ConfigurationError: The driver is not installed.
    """
    _driver_of(connection)

    def write(target: Path, check: Check) -> int:
        with _failures("database"), _querying(location, connection) as reader:
            schema = pa.schema([pa.field(each.name, _plain(each.type)) for each in reader.schema])
            batches = partial(map, partial(_as_plain, schema), reader)
            return _write("database", schema, batches, target, check)

    return Listing("", [Piece("rows.parquet", "", write, None)], is_fixed=False)


def columns_of_database(location: DatabaseLocation, connection: Connection) -> tuple[str, ...]:
    """Read the column names of a table or query; the query fetches no rows.

    Raises:
        InputError: The database cannot be reached, or has no such table.
        ConfigurationError: The driver is not installed.
    """
    with _failures("database"), _querying(location, connection, n_rows=0) as reader:
        return tuple(reader.schema.names)


def _iceberg_table(location: IcebergLocation) -> Any:
    catalog = _library("pyiceberg.catalog", "iceberg")
    return catalog.load_catalog(location.catalog).load_table(location.table)


def _delta_table(location: DeltaLocation) -> Any:
    library = _library("deltalake", "delta")
    return library.DeltaTable(location.url, version=location.version, storage_options=_storage_options(location))


def _storage_options(location: DeltaLocation) -> Mapping[str, str] | None:
    """Settings to open a Delta table in S3, with the operator's credentials from botocore; None outside S3."""
    if not location.url.startswith("s3://"):
        return None  # deltalake reads the environment of Azure and Google itself
    query = dict(parse_qsl(location.options.removeprefix("?")))
    options = {}
    if region := query.get("region"):
        options["AWS_REGION"] = region
    if other := query.get("endpoint_override"):
        scheme = query.get("scheme", "https")
        options |= {"AWS_ENDPOINT_URL": f"{scheme}://{other}", "AWS_ALLOW_HTTP": str(scheme == "http").lower()}
        options.setdefault("AWS_REGION", "us-east-1")
    try:
        import botocore.session
    except ImportError:
        return options
    found = botocore.session.Session().get_credentials()
    if found is not None:
        key = found.get_frozen_credentials()
        options |= {"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret_key}
        options |= {"AWS_SESSION_TOKEN": key.token} if key.token else {}
    return options


@contextmanager
def _querying(
    location: DatabaseLocation, connection: Connection, n_rows: int | None = None
) -> Iterator[pa.RecordBatchReader]:
    dbapi = _library("adbc_driver_manager.dbapi", "postgresql")
    statement = location.text
    if location.kind == "table":
        statement = f"SELECT * FROM {'.'.join(quote_identifier(part) for part in location.text.split('.'))}"
    if n_rows is not None:
        statement = f"SELECT * FROM ({statement.strip().rstrip(';')}) AS source LIMIT {n_rows}"
    # The transaction is never committed, so a statement cannot change the database.
    opened = dbapi.connect(driver=_driver_of(connection), db_kwargs={"uri": connection.url})
    with closing(opened) as database, closing(database.cursor()) as cursor:
        cursor.execute(statement)
        with closing(cursor.fetch_record_batch()) as reader:
            yield reader


def _driver_of(connection: Connection) -> str:
    """Return what ADBC's driver manager loads: the path of an installed driver's library, or the driver's name."""
    if not _DRIVER.fullmatch(connection.driver):
        raise ConfigurationError(
            "The name of the ADBC driver is invalid.",
            remedy="Set CLEANROOM_SOURCE_<NAME>_DRIVER to a driver such as postgresql.",
        )
    try:
        return str(import_module(f"adbc_driver_{connection.driver}")._driver_path())
    except (ImportError, AttributeError):
        if connection.driver != "postgresql":
            return connection.driver
    raise _not_installed("postgresql")


def _plain(type_: pa.DataType) -> pa.DataType:
    """Unwrap an extension type, which drivers use for types unknown to Arrow; return other types unchanged."""
    return type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_


def _as_plain(schema: pa.Schema, batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [column.storage if isinstance(column, pa.ExtensionArray) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _piece(identity: str, write: Callable[[Path, Check], int]) -> Piece:
    return Piece(f"{identity}.parquet", identity, write, _FIXED_NS)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _write(
    what: str, schema: pa.Schema, read: Callable[[], Iterator[pa.RecordBatch]], target: Path, check: Check
) -> int:
    n_rows = 0
    with _failures(what), pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in read():
            check()
            if batch.num_rows:
                writer.write_batch(batch.cast(schema) if batch.schema != schema else batch)
                n_rows += batch.num_rows
    return n_rows


def _library(name: str, extra: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise _not_installed(extra) from None


def _not_installed(extra: str) -> ConfigurationError:
    return ConfigurationError(
        "The library that reads this source is not installed.",
        remedy=f"Install the extra: pip install 'cleanroom-pipelines[{extra}]'.",
    )


def _missing(what: str, part: str) -> InputError:
    return InputError(
        f"The {what} has no such {part}." if part == "snapshot" else f"The {what} has no {part}.",
        remedy="Check the source and the table's history.",
        problem="missing",
    )


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """Replace library errors, whose text may quote cells and URLs, with errors that quote nothing."""
    try:
        yield
    except CleanroomError:
        raise
    except OSError as error:
        if error.errno in _DISK:
            raise
        raise _unreadable(what, error) from None
    except Exception as error:
        raise _unreadable(what, error) from None


def _unreadable(what: str, error: Exception) -> InputError:
    return InputError(
        f"The {what} of the source cannot be read ({type(error).__name__}).",
        remedy="Check its name, and that the operator's credentials allow reading it.",
        problem="unreadable",
    )
