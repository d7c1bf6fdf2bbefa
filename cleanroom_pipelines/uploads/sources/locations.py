"""Locations of tables: local paths, object stores, Iceberg, Delta and databases.

Lives here: parsing a source's text, and rejecting sources that contain credentials.
Add here when tables may be stored in another kind of place.
Keep out: connecting (objects, tables).

A source never contains a password, since declarations are stored in the catalogue and shown to people. Object
stores use the credentials of the operator's own tools, databases those of a URL in the operator's environment.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from cleanroom_pipelines.errors import UsageError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_OBJECTS = ("s3", "gs", "az", "abfs", "abfss")
_DELTA = ("delta+file", *(f"delta+{scheme}" for scheme in _OBJECTS))
_ICEBERG = re.compile(r"iceberg://([A-Za-z0-9_-]{1,64})/([^/@?]+\.[^/@?]+)(?:@([0-9]{1,19}))?")
_ADBC = re.compile(r"adbc:([A-Za-z][A-Za-z0-9_]{0,63})\?(table|query)=(.+)", re.DOTALL)
_VERSION = re.compile(r"(.*?)(?:@([0-9]{1,19}))?(\?.*)?", re.DOTALL)
_S3_OPTIONS = re.compile(r"(?:(?:region|endpoint_override|scheme|tls_ca_file_path)=[^&]*(?:&|$))*")
_KINDS = "s3://, gs://, az://, abfss://, iceberg://, delta+file://, delta+s3:// or adbc:"


@dataclass(frozen=True)
class ObjectsLocation:
    """Objects in a store: one object, a folder or a glob.

    Args:
        store: URL of the bucket or container, without a key.
        bucket: Name of the bucket or container.
        key: Key of the object or folder, or a glob with `*` and `**`, without slashes at its ends.
        options: Options of the URL with their question mark, or empty.
    """

    store: str
    bucket: str
    key: str
    options: str = ""

    @property
    def shown(self) -> str:
        """The source as text, without the options in its URL."""
        return f"{self.store}/{self.key}"


@dataclass(frozen=True)
class IcebergLocation:
    """An Iceberg table in a catalogue of pyiceberg's configuration; `snapshot` None means the newest."""

    catalog: str
    table: str
    snapshot: int | None

    @property
    def shown(self) -> str:
        """The source as text, without the snapshot."""
        return f"iceberg://{self.catalog}/{self.table}"


@dataclass(frozen=True)
class DeltaLocation:
    """A Delta table at a URL; `version` None means the newest."""

    url: str
    version: int | None
    options: str = ""

    @property
    def shown(self) -> str:
        """The source as text, without the version."""
        return f"delta+{self.url}"


@dataclass(frozen=True)
class DatabaseLocation:
    """A table or query in a database; environment variables of the operator define the named connection."""

    connection: str
    kind: Literal["table", "query"]
    text: str

    @property
    def shown(self) -> str:
        """The source as text without the query, which may contain values."""
        return f"adbc:{self.connection}?{self.kind}={self.text if self.kind == 'table' else '…'}"


Location = ObjectsLocation | IcebergLocation | DeltaLocation | DatabaseLocation


def is_remote(source: str) -> bool:
    """Whether a source is not a local path."""
    return source.startswith("adbc:") or _SCHEME.match(source) is not None


def parse_source(source: str) -> Location | None:
    """Parse a source without connecting; None for a local path.

    Args:
        source: A local path, or one of:
            `s3://bucket/key` (also with `?region=…` or `?endpoint_override=host:port&scheme=http`),
            `gs://bucket/key`, `az://container/key`, `abfss://container@account.dfs.core.windows.net/key`, where
            the key is an object, a folder or a glob; `iceberg://catalog/namespace.table[@snapshot]`;
            `delta+file:///path[@version]` or `delta+s3://bucket/path[@version]`;
            `adbc:NAME?table=schema.table` or `adbc:NAME?query=SELECT …`.

    Raises:
        UsageError: It has another form, or contains credentials; the message does not quote it.
    """
    if not is_remote(source):
        return None
    if source.startswith("adbc:"):
        return _database(source)
    scheme = source.partition("://")[0]
    if scheme == "iceberg":
        return _iceberg(source)
    if scheme in _DELTA:
        return _delta(source)
    if scheme in _OBJECTS:
        return _objects(source)
    if _has_password(source) or scheme.startswith(("postgres", "snowflake", "mysql", "grpc")):
        raise UsageError(
            "A database's URL cannot be a source, since it may contain a password.",
            remedy="Choose a name such as SALES, set CLEANROOM_SOURCE_SALES_URL to the URL, and use "
            "adbc:SALES?table=schema.table.",
        )
    raise UsageError("The kind of this source is unknown.", remedy=f"Use a path, or {_KINDS}.")


def _objects(source: str) -> ObjectsLocation:
    store, key, options = _split(source)
    if any(character in key for character in "[]"):
        raise UsageError("The source has a bracket in its key.", remedy="Use only * and ** as wildcards.")
    bucket = store.partition("://")[2].partition("@")[0]
    return ObjectsLocation(store, bucket, key, options)


def _delta(source: str) -> DeltaLocation:
    matched = _VERSION.fullmatch(source.removeprefix("delta+"))
    assert matched is not None
    url, version = matched[1], matched[2]
    options = matched[3] or ""
    if not url.startswith("file:///"):
        _split(url + options)
    elif options:
        raise UsageError("The source of the Delta table has options.", remedy="Remove everything from the ? on.")
    return DeltaLocation(url, int(version) if version else None, options)


def _iceberg(source: str) -> IcebergLocation:
    matched = _ICEBERG.fullmatch(source)
    if matched is None:
        raise UsageError(
            "The source of the Iceberg table is invalid.",
            remedy="Use iceberg://catalog/namespace.table, and @snapshot for an earlier snapshot.",
        )
    return IcebergLocation(matched[1], matched[2], int(matched[3]) if matched[3] else None)


def _database(source: str) -> DatabaseLocation:
    matched = _ADBC.fullmatch(source)
    if matched is None:
        raise UsageError(
            "The source of the database table is invalid.",
            remedy="Use adbc:NAME?table=schema.table or adbc:NAME?query=SELECT …; CLEANROOM_SOURCE_NAME_URL is "
            "the URL of the database.",
        )
    return DatabaseLocation(matched[1].upper(), "table" if matched[2] == "table" else "query", matched[3])


def _split(source: str) -> tuple[str, str, str]:
    """Return the store, the key and the options of an object store's URL."""
    if _has_password(source):
        raise UsageError(
            "The source contains credentials.",
            remedy="Remove them from the URL and set them in the environment or in a profile.",
        )
    scheme = source.partition("://")[0]
    text, mark, options = source.partition("?")
    host, _, key = text.partition("://")[2].partition("/")
    is_known = scheme == "s3" and _S3_OPTIONS.fullmatch(options)
    if not host or (mark and not is_known):
        raise UsageError(
            "The source's URL has no bucket, or an unknown option.",
            remedy="Use s3://bucket/key?region=name, s3://bucket/key?endpoint_override=host:port&scheme=https, "
            "gs://bucket/key, az://container/key or abfss://container@account.dfs.core.windows.net/key.",
        )
    return f"{scheme}://{host}", key.strip("/"), mark + options


def _has_password(source: str) -> bool:
    try:
        parsed = urlsplit(source)
    except ValueError:
        return True  # not a URL; what it contains is unknown
    is_container = parsed.scheme.removeprefix("delta+") in ("abfs", "abfss")
    return bool(parsed.password or (parsed.username and not is_container))
