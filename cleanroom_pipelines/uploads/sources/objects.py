"""Tables in object stores: the objects of a source, and their column names.

Lives here: which objects belong to a source, copying them, and reading a header without copying a large file.
Add here when a source in a store may have another form.
Keep out: connections and credentials (storage.remote_bucket), local copies (snapshots).

The local copy has the files of the store, so a table is read exactly as if it were a local folder.
"""

import hashlib
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom_pipelines.engine import find_tables
from cleanroom_pipelines.errors import InputError
from cleanroom_pipelines.storage.objects import ObjectEntry
from cleanroom_pipelines.uploads.sources.snapshots import Listing, Piece

if TYPE_CHECKING:
    from cleanroom_pipelines.storage.remote_bucket import RemoteBucket

_MAX_FILES = 100_000
_MAX_NAME_BYTES = 200
_FOOTER_BYTES = 8
_WILDCARDS = re.compile(r"\*\*/|\*\*|\*")
_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}


def list_objects(bucket: "RemoteBucket", key: str) -> Listing:
    """List the objects of a source.

    Args:
        bucket: Bucket of the source.
        key: An object, a folder (its own objects, and those in folders named `column=value`) or a glob.

    Raises:
        InputError: There is none, there are too many, or a key cannot be a local path.
        BucketError: The bucket cannot be read.
    """
    found, pattern = _find(bucket, key)
    return Listing("", [_piece(bucket, entry, name) for entry, name in found], pattern)


def columns_of_objects(bucket: "RemoteBucket", key: str, scratch: Path, what: str) -> tuple[str, ...]:
    """Read a source's column names from its smallest file; of a parquet file, only the footer is read.

    Raises:
        InputError: As for `list_objects`, or the header cannot be read.
        BucketError: The bucket cannot be read.
    """
    found, _ = _find(bucket, key)
    entry, name = min(found, key=lambda each: each[0].n_bytes)
    *folders, file_name = name.split("/")
    if file_name.endswith(".parquet"):
        own = _parquet_columns(bucket, entry, what)
    else:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            file = Path(folder) / file_name
            _copy(bucket, entry, file, lambda: None)
            own = find_tables(file, what=what).columns
    partitions = [part.partition("=")[0] for part in folders if "=" in part]
    return (*own, *(name for name in partitions if name not in own))


def _find(bucket: "RemoteBucket", key: str) -> tuple[Sequence[tuple[ObjectEntry, str]], str]:
    """Return a source's objects with their relative paths, and the path or glob that selects the local copies."""
    root, pattern = _root_of(key)
    if key and not pattern and (single := bucket.find(key)) is not None and single.n_bytes:
        name = key.rpartition("/")[2]
        return [(single, name)], name
    start = len(root) + 1 if root else 0
    listed = ((entry, entry.key[start:]) for entry in bucket.list_all(root) if entry.n_bytes)
    found = [(entry, name) for entry, name in listed if _belongs(name, pattern)]
    if not found:
        raise InputError(
            "No object in the store matches this key, folder or glob.",
            remedy="Check the bucket and the key, which is case-sensitive.",
            problem="missing",
        )
    if len(found) > _MAX_FILES:
        raise InputError(
            f"The source has more than {_MAX_FILES:,} objects.",
            remedy="Use fewer, larger files.",
            problem="format",
        )
    _check_names([name for _, name in found])
    return found, pattern


def _root_of(key: str) -> tuple[str, str]:
    """Split a source's key into a folder and the glob below it, which is empty if the key has no `*`."""
    if "*" not in key:
        return key, ""
    parts = key.split("/")
    first = next(number for number, part in enumerate(parts) if "*" in part)
    return "/".join(parts[:first]), "/".join(parts[first:])


def _belongs(name: str, pattern: str) -> bool:
    parts = name.split("/")
    if any(part.startswith((".", "_")) for part in parts):
        return False
    if pattern:
        return re.fullmatch(_regex(pattern), name, re.DOTALL) is not None
    return all("=" in part for part in parts[:-1])


def _regex(pattern: str) -> str:
    found, position = [], 0
    for match in _WILDCARDS.finditer(pattern):
        found += [re.escape(pattern[position : match.start()]), _WILD[match[0]]]
        position = match.end()
    return "".join(found) + re.escape(pattern[position:])


def _check_names(names: Sequence[str]) -> None:
    """Reject keys that are unsafe as local paths, because anyone who can write to the store chooses them."""
    folders = {name.rpartition("/")[0] for name in names}
    parts = {part for name in names for part in name.split("/")}
    if folders & set(names) or any(
        part in ("", ".", "..") or "\x00" in part or len(part.encode()) > _MAX_NAME_BYTES for part in parts
    ):
        raise InputError(
            "The key of an object cannot be used as a local path.",
            remedy=f"Use at most {_MAX_NAME_BYTES} bytes between slashes, and give no object a folder's name.",
            problem="format",
        )


def _piece(bucket: "RemoteBucket", entry: ObjectEntry, name: str) -> Piece:
    seconds = int(entry.modified.timestamp()) if entry.modified else 0
    identity = f"{entry.e_tag} {entry.n_bytes}"
    # Stores give times in seconds. The fraction distinguishes two objects of the same second and size.
    rest = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:3], "big")
    return Piece(name, identity, partial(_copy, bucket, entry), seconds * 10**9 + rest)


def _copy(bucket: "RemoteBucket", entry: ObjectEntry, target: Path, check: Callable[[], None]) -> int | None:
    with bucket.open(entry.key, e_tag=entry.e_tag) as opened, target.open("wb") as stream:
        for chunk in opened.chunks():
            check()
            stream.write(chunk)
    if target.suffix != ".parquet":
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(target).num_rows)
    except (pa.ArrowException, OSError, ValueError):
        return None  # reading the table reports the error


def _parquet_columns(bucket: "RemoteBucket", entry: ObjectEntry, what: str) -> tuple[str, ...]:
    """Read a parquet file's column names from its footer, which ends with its length (4 bytes) and `PAR1`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    end = entry.n_bytes
    if end >= _FOOTER_BYTES:
        n_bytes = int.from_bytes(bucket.read_range(entry.key, end - _FOOTER_BYTES, end)[:4], "little")
        footer = bucket.read_range(entry.key, max(0, end - n_bytes - _FOOTER_BYTES), end)
        with suppress(pa.ArrowException, ValueError, OSError):
            return tuple(pq.read_schema(pa.BufferReader(b"PAR1" + footer)).names)
    raise InputError(
        f"The {what} cannot be read as parquet.",
        remedy="Check that its files are complete.",
        problem="unreadable",
    )
