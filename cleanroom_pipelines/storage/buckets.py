"""Buckets: resolve an account's `s3://bucket/key` to an object in the home or on an object store.

Lives here: ownership and location of buckets, and fetching, storing, listing and opening their objects.
Add here when buckets can be registered in a new way, or objects have a new operation.
Keep out: disk access (local_bucket), store access (remote_bucket), bucket records (catalogue).
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cleanroom_pipelines.errors import ConfigurationError, NotFoundError, SeedError, StatusCode, UsageError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, replacing
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines.storage.objects import (
    UNFENCED,
    Bucket,
    BucketError,
    BucketForbiddenError,
    Fence,
    FolderDraft,
    ObjectEntry,
    OpenedObject,
)
from cleanroom_pipelines.storage.s3_urls import MAX_KEY, is_bucket_name, split_s3_url
from cleanroom_pipelines.storage.seed_parts import SeedTooLarge, format_of_part, merge_parts, seed_suffix

if TYPE_CHECKING:
    from cleanroom_pipelines.storage.remote_bucket import RemoteBucket

WAREHOUSE = "warehouse-"
"""Prefix of the bucket name of an account's warehouse; the account id follows."""

_ACCOUNT = re.compile(r"[0-9]{12}")
_MAX_SEED_FILES = 1000
_ROOM_FOR_EXPORT = 64  # /<12 hex>-v<number>/part-<number>.parquet


@dataclass(frozen=True)
class RegisteredBucket:
    """A bucket that the operator registered.

    Args:
        name: Its name in `s3://name/…`.
        account_id: Account that owns it.
        url: `s3://real-bucket[/prefix]` on a real object store; None for a folder in the home.
        profile: Credentials profile in the AWS configuration files; required for every real bucket.
    """

    name: str
    account_id: str
    url: str | None = None
    profile: str | None = None

    def __post_init__(self) -> None:
        """Validate the record.

        Raises:
            ConfigurationError: Only one of URL and profile is set, or the URL is invalid.
        """
        if (self.url is None) != (self.profile is None) or self.profile == "":
            # without its own profile, a bucket would be accessed with the machine's own permissions
            raise ConfigurationError(
                "A bucket on a real object store needs both a URL and a credentials profile.",
                remedy="Register it with --url and --credentials-profile; omit both for a folder of the home.",
            )
        if self.url is not None:
            try:
                split_s3_url(self.url, what="bucket's URL")
            except UsageError as error:
                raise ConfigurationError(error.message, remedy="Use s3://real-bucket/prefix.") from None


class Buckets:
    """All buckets of an installation.

    Args:
        home: The installation's home.
        find_bucket: Returns the registered bucket with a name; None if it is not registered.
    """

    def __init__(self, home: Home, find_bucket: Callable[[str], RegisteredBucket | None]) -> None:
        self._home = home
        self._find = find_bucket
        self._real = dict[RegisteredBucket, "RemoteBucket"]()

    def locate(self, account_id: str, s3_uri: str) -> "ObjectPlace":
        """Resolve a URL for an account, without reading or connecting.

        Args:
            account_id: 12 digits.
            s3_uri: `s3://bucket/key`; with a trailing slash, or without a key, it is a folder.

        Raises:
            UsageError: The URL has another form, or its path contains a symbolic link.
            BucketForbiddenError: The bucket belongs to another account.
        """
        name, segments = split_s3_url(s3_uri, any_key=True)
        bucket = self._bucket(account_id, name, StatusCode.SEED_NOT_FOUND)
        key = "/".join(segments)
        if isinstance(bucket, LocalBucket):
            _reject_links(bucket, "/".join(segments[:-1]))
        elif key and not bucket.has_key(key):
            raise UsageError(
                "A registered bucket cannot contain an object with this key.",
                remedy="Use a key without empty segments.",
            )
        is_folder = not segments or s3_uri.endswith("/")
        return ObjectPlace("/".join((f"s3://{name}", *segments)), bucket, key, is_folder)

    def destination(self, account_id: str, s3_uri: str) -> "ObjectPlace":
        """Resolve the destination folder of an account's exports, without writing or connecting.

        Args:
            account_id: 12 digits.
            s3_uri: `s3://bucket/prefix`.

        Raises:
            UsageError: The URL has another form or is too long, or its path contains a symbolic link.
            BucketForbiddenError: The bucket belongs to another account.
        """
        name, segments = split_s3_url(s3_uri, what="destination")
        bucket = self._bucket(account_id, name, StatusCode.DESTINATION_NOT_WRITABLE)
        key = "/".join(segments)
        if isinstance(bucket, LocalBucket):
            _reject_links(bucket, key)
        elif len(bucket.prefix) + len(key) + _ROOM_FOR_EXPORT > MAX_KEY:
            raise UsageError(
                "The destination is too long: the keys of the exported files would exceed the limit.",
                remedy="Use a shorter prefix.",
            )
        return ObjectPlace("/".join((f"s3://{name}", *segments)), bucket, key, is_folder=True)

    def open(self, account_id: str, name: str) -> "LocalBucket | RemoteBucket":
        """Return an account's bucket, whether or not it exists, without connecting.

        Raises:
            UsageError: The name is not that of a bucket.
            BucketForbiddenError: The bucket belongs to another account.
        """
        if not is_bucket_name(name):
            raise UsageError(
                "The name of the bucket is invalid.", remedy="Use lower-case letters, digits, - and ."
            )
        return self._bucket(account_id, name, StatusCode.SEED_NOT_FOUND)

    def created_by(self, account_id: str) -> "Mapping[str, LocalBucket]":
        """Return an account's warehouse and its local buckets (folders in the home), by name."""
        names = {f"{WAREHOUSE}{account_id}"}
        with suppress(FileNotFoundError), os.scandir(self._home.accounts / account_id / "buckets") as entries:
            names |= {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        found = {}
        for name in sorted(filter(is_bucket_name, names)):
            with suppress(BucketForbiddenError):
                bucket = self._bucket(account_id, name, StatusCode.SEED_NOT_FOUND)
                if isinstance(bucket, LocalBucket):
                    found[name] = bucket
        return found

    def is_registered(self, name: str) -> bool:
        """Whether the operator registered a bucket with this name."""
        return self._find(name) is not None

    def real(self, account_id: str, name: str) -> "RemoteBucket | None":
        """Return an account's registered bucket on an object store, without connecting; None for local buckets.

        Raises:
            BucketForbiddenError: The bucket belongs to another account.
        """
        bucket = self._bucket(account_id, name, StatusCode.TRAINING_DATA_NOT_FOUND)
        return None if isinstance(bucket, LocalBucket) else bucket

    def _bucket(self, account_id: str, name: str, status_code: StatusCode) -> "LocalBucket | RemoteBucket":
        if not _ACCOUNT.fullmatch(account_id):
            raise UsageError("The account id is not 12 digits.", remedy="Use an account id of 12 digits.")
        is_warehouse = is_warehouse_name(name)
        registered = None if is_warehouse else self._find(name)
        owner = name.removeprefix(WAREHOUSE) if is_warehouse else registered and registered.account_id
        if owner not in (None, account_id):
            raise BucketForbiddenError(
                "The bucket belongs to another account.",
                remedy="Use one of your own buckets.",
                status_code=status_code,
            )
        if is_warehouse:
            return LocalBucket(self._home.accounts / account_id / "warehouse")
        if registered is None or registered.url is None:
            return LocalBucket(self._home.accounts / account_id / "buckets" / name)
        if registered not in self._real:
            from cleanroom_pipelines.storage.remote_bucket import RemoteBucket, open_bucket

            assert registered.profile is not None
            real, segments = split_s3_url(registered.url)
            prefix = "/".join(segments)
            opening = partial(open_bucket, registered.profile, real, prefix)
            self._real[registered] = RemoteBucket(opening, self._home.scratch, prefix)
        return self._real[registered]


def is_warehouse_name(name: str) -> bool:
    """Whether a bucket name is that of an account's warehouse, a bucket with a folder for each database."""
    return name.startswith(WAREHOUSE) and _ACCOUNT.fullmatch(name.removeprefix(WAREHOUSE)) is not None


@dataclass(frozen=True)
class ObjectPlace:
    """An object, or a folder of objects, in a bucket.

    Args:
        url: The URL in the account's terms, without a trailing slash.
        bucket: The bucket.
        key: Key in the bucket.
        is_folder: Whether it is a folder.
    """

    url: str
    bucket: Bucket = field(repr=False)
    key: str
    is_folder: bool = False

    def __truediv__(self, segment: str) -> "ObjectPlace":
        key = f"{self.key}/{segment}" if self.key else segment
        return ObjectPlace(f"{self.url}/{segment}", self.bucket, key)

    @property
    def folder(self) -> Path | None:
        """Local path of the folder or file; None if the bucket is on a remote object store."""
        return self.bucket.path(self.key) if isinstance(self.bucket, LocalBucket) else None

    def drafting(
        self,
        *,
        owner: str,
        marker: str,
        attempt_of: Callable[[bytes], int | None],
        fence: Fence = UNFENCED,
    ) -> AbstractContextManager[FolderDraft]:
        """Write files to this folder, which becomes visible to readers when complete; see Bucket.drafting.

        Raises:
            UsageError: It is the bucket itself.
        """
        if not self.key:
            raise UsageError("The bucket itself cannot be an export folder.", remedy="Add a folder to the URL.")
        return self.bucket.drafting(self.key, owner=owner, marker=marker, attempt_of=attempt_of, fence=fence)

    def exists(self) -> bool:
        """Whether an object with this key exists; folders do not count.

        Raises:
            BucketError: The bucket cannot be read.
        """
        return not self.is_folder and self.bucket.size(self.key) is not None

    def open(self) -> OpenedObject:
        """Open the object for reading.

        Raises:
            NotFoundError: It does not exist.
            BucketError: The bucket cannot be read.
        """
        if self.is_folder:
            raise NotFoundError("The object does not exist in the bucket.", remedy="Check its key.")
        return self.bucket.open(self.key)

    def list(self, *, after: str = "") -> Iterator[ObjectEntry]:
        """List the objects below this key at any depth, ordered by key; with `after`, only later keys.

        Raises:
            BucketError: The bucket cannot be read.
        """
        return self.bucket.list(self.key, after=after)

    def store(self, source: Path) -> None:
        """Write the object atomically, replacing any object with the same key.

        Args:
            source: A local file.

        Raises:
            UsageError: The URL is a folder.
            BucketError: The bucket cannot be written.
            StorageFullError: The disk is full.
        """
        if self.is_folder:
            raise UsageError("The URL is a folder, not an object.", remedy="Use a key that ends in a file name.")
        with source.open("rb") as stream:
            self.bucket.put(self.key, stream)

    def fetch(self, target: Path, *, max_bytes: int) -> Path:
        """Fetch a seed into one local file, from one object or by merging the files of a folder.

        In a folder, the .jsonl, .csv or .parquet files directly in it are read (optionally with .gz). They must
        have one format and the same columns. Names that start with a dot or an underscore are skipped. An object
        without a dot in its name is read as JSON Lines, the format that AWS documents for seeds.

        Args:
            target: Output file; the format's suffix is added if it has no seed suffix.
            max_bytes: Maximum size of all files together, both gzipped and unpacked, in bytes.

        Returns:
            The file that was written.

        Raises:
            SeedError: It does not exist or the bucket cannot be read (SEED_NOT_FOUND), it is too large
                (SEED_TOO_LARGE), or its files cannot be merged into one seed (SEED_INVALID).
            StorageFullError: The disk is full.
        """
        with _seed_errors(max_bytes):
            sources = self._sources(max_bytes)
            suffix = _suffix_of(sources[0].key) if len(sources) == 1 else f".{format_of_part(sources[0].key)}"
            if not _has_suffix(target):
                target = target.with_name(target.name + suffix)
            with full_disk_is_an_error(), replacing(target) as draft:
                if len(sources) == 1:
                    self._fetch_part(sources[0], draft, max_bytes)
                else:
                    self._fetch_parts(sources, draft, max_bytes)
        return target

    def _sources(self, max_bytes: int) -> Sequence[ObjectEntry]:
        if not self.is_folder:
            n_bytes = self.bucket.size(self.key)
            if n_bytes is not None:
                return [ObjectEntry(self.key, n_bytes)]
        found = [
            entry
            for entry in self.bucket.list(self.key, deep=False)
            if entry.n_bytes and format_of_part(entry.key) and entry.key.rsplit("/", 1)[-1][0] not in "._"
        ]
        if not found:
            raise NotFoundError("The folder has no seed files.")
        if len(found) > _MAX_SEED_FILES:
            raise SeedError("The seed's folder has more than 1,000 files.", remedy="Merge some of them.")
        if len({format_of_part(entry.key) for entry in found}) > 1:
            raise SeedError("The seed's folder mixes file formats.", remedy="Use files of one format.")
        if sum(entry.n_bytes for entry in found) > max_bytes:
            raise SeedTooLarge
        return found

    def _fetch_part(self, entry: ObjectEntry, path: Path, max_bytes: int) -> int:
        with self.bucket.open(entry.key) as opened, path.open("wb") as stream:
            if opened.n_bytes > max_bytes:
                raise SeedTooLarge
            for chunk in opened.chunks():
                stream.write(chunk)
                if stream.tell() > max_bytes:
                    raise SeedTooLarge
            return stream.tell()

    def _fetch_parts(self, entries: Sequence[ObjectEntry], target: Path, max_bytes: int) -> None:
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=target.parent) as name:
            parts, left = [], max_bytes
            for number, entry in enumerate(entries):
                part = Path(name) / f"{number:05d}{_suffix_of(entry.key)}"
                left -= self._fetch_part(entry, part, left)
                parts.append(part)
            merge_parts(parts, target, max_bytes=max_bytes)


def folder_on_disk(folder: Path) -> ObjectPlace:
    """Return a local folder as an `ObjectPlace`, to write or inspect exports there."""
    return ObjectPlace(folder.name, LocalBucket(folder.parent), folder.name)


def _reject_links(bucket: LocalBucket, key: str) -> None:
    """Reject a key whose path contains a symbolic link."""
    try:
        bucket.check(key)
    except BucketError as error:
        raise UsageError("The URL's path contains a symbolic link.", remedy=error.remedy) from None


@contextmanager
def _seed_errors(max_bytes: int) -> Iterator[None]:
    try:
        yield
    except NotFoundError:
        raise SeedError(
            "The seed was not found.",
            remedy="Check that its s3Uri names a file, or a folder with .jsonl, .csv or .parquet files.",
            status_code=StatusCode.SEED_NOT_FOUND,
        ) from None
    except BucketError as error:
        raise SeedError(
            f"The seed cannot be fetched. {error.message}",
            remedy=error.remedy,
            status_code=StatusCode.SEED_NOT_FOUND,
            problem=error.problem,
        ) from None
    except SeedTooLarge:
        raise SeedError(
            f"The seed is larger than the limit of {max_bytes:,} bytes.",
            remedy="Provide a smaller seed.",
            status_code=StatusCode.SEED_TOO_LARGE,
        ) from None


def _has_suffix(path: Path) -> bool:
    try:
        seed_suffix(path)
    except SeedError:
        return False
    return True


def _suffix_of(key: str) -> str:
    name = key.rsplit("/", 1)[-1]
    return seed_suffix(Path(name)) if "." in name else ".jsonl"
