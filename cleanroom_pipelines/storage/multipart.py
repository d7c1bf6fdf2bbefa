"""Unfinished multipart uploads: the parts of objects that become visible only when completed.

Lives here: storing parts and joining them into an object.
Add here when unfinished uploads get another operation.
Keep out: the API's errors and limits (`server.s3`), ownership of buckets (buckets).

An upload is a local bucket in `accounts/<account>/multipart/<id>`: its parts are objects named by their numbers,
and one more object describes the future object.
"""

import hashlib
import io
import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from cleanroom_pipelines.errors import NotFoundError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.home import Home
from cleanroom_pipelines.storage.local_bucket import LocalBucket
from cleanroom_pipelines.storage.objects import ObjectEntry

LONGEST = timedelta(days=7)
"""Time after which an unfinished upload expires."""

_ID = re.compile("[0-9a-f]{32}")
_ABOUT = "upload.json"


@dataclass(frozen=True)
class MultipartUpload:
    """An unfinished multipart upload of one object.

    Args:
        id: 32 hex digits.
        bucket: The bucket's name.
        key: Key of the future object.
        attributes: Its headers and user metadata.
        started: When it was started.
        parts_bucket: Where its parts are.
    """

    id: str
    bucket: str
    key: str
    attributes: Mapping[str, str] = field(repr=False)
    started: datetime
    parts_bucket: LocalBucket = field(repr=False)

    def parts(self) -> list[tuple[int, ObjectEntry]]:
        """Return the number and size of each part, ordered by number; `part` also returns a part's ETag."""
        entries = self.parts_bucket.list("")
        return [(int(entry.key), entry) for entry in entries if entry.key != _ABOUT]

    def part(self, number: int) -> ObjectEntry | None:
        """Return the part with this number; None if it is missing."""
        return self.parts_bucket.find(_name_of(number))

    def store(self, number: int, source: IO[bytes]) -> ObjectEntry:
        """Store a part, replacing any part with the same number.

        Raises:
            NotFoundError: The upload was completed or aborted meanwhile.
            StorageFullError: The disk is full.
        """
        self.parts_bucket.put(_name_of(number), source)
        found = self.part(number)
        if found is None or self.parts_bucket.size(_ABOUT) is None:
            self.discard()  # it was aborted meanwhile
            raise NotFoundError("The upload no longer exists.")
        return found

    @contextmanager
    def joined(self, numbers: Sequence[int], scratch: Path) -> Iterator[IO[bytes]]:
        """Yield the content of parts, joined in this order.

        Raises:
            NotFoundError: A part was removed meanwhile.
            StorageFullError: The disk is full.
        """
        with tempfile.TemporaryFile(prefix="upload-", dir=scratch) as stream:
            for number in numbers:
                with self.parts_bucket.open(_name_of(number)) as opened, full_disk_is_an_error():
                    for chunk in opened.chunks():
                        stream.write(chunk)
            stream.seek(0)
            yield stream

    def discard(self) -> None:
        """Delete the upload with its parts."""
        folder = self.parts_bucket.path("")
        removed = folder.with_name(f".draft-{secrets.token_hex(4)}")  # then no reader sees a part of it
        try:
            folder.rename(removed)
        except FileNotFoundError:
            return
        shutil.rmtree(removed, ignore_errors=True)


class MultipartUploads:
    """All unfinished multipart uploads of an installation.

    Args:
        home: The installation's home.
        clock: Returns the current time, aware.
    """

    def __init__(self, home: Home, clock: Callable[[], datetime]) -> None:
        self._home, self._clock = home, clock

    def start(self, account_id: str, bucket: str, key: str, attributes: Mapping[str, str]) -> MultipartUpload:
        """Start a multipart upload of an object.

        Raises:
            BucketError: It cannot be written.
        """
        upload_id, now = secrets.token_hex(16), self._clock()
        parts = LocalBucket(self._folder(account_id) / upload_id)
        about = {"bucket": bucket, "key": key, "attributes": dict(attributes), "started": now.isoformat()}
        parts.put(_ABOUT, io.BytesIO(json.dumps(about).encode()))
        return MultipartUpload(upload_id, bucket, key, attributes, now, parts)

    def find(self, account_id: str, upload_id: str) -> MultipartUpload | None:
        """Return the account's upload with this id; None if it does not exist or is too old."""
        if not _ID.fullmatch(upload_id):
            return None
        parts = LocalBucket(self._folder(account_id) / upload_id)
        try:
            with parts.open(_ABOUT) as opened:
                about: dict[str, Any] = json.loads(b"".join(opened.chunks()))
        except NotFoundError:
            return None
        started = datetime.fromisoformat(about.pop("started"))
        found = MultipartUpload(upload_id, **about, started=started, parts_bucket=parts)
        return found if self._clock() - started <= LONGEST else None

    def list(self, account_id: str) -> list[MultipartUpload]:
        """Return an account's uploads, sorted by key and time, after deleting uploads that are too old."""
        found = []
        folder = self._folder(account_id)
        for path in folder.iterdir() if folder.is_dir() else ():
            upload = self.find(account_id, path.name)
            if upload is not None:
                found.append(upload)
            elif _ID.fullmatch(path.name) and self._is_old(path):
                MultipartUpload(path.name, "", "", {}, self._clock(), LocalBucket(path)).discard()
        return sorted(found, key=lambda each: (each.key, each.started, each.id))

    def delete_old(self) -> None:
        """Delete all uploads that are too old, whatever their account."""
        for folder in self._home.accounts.glob("*/multipart"):
            self.list(folder.parent.name)

    def _is_old(self, path: Path) -> bool:
        try:
            return self._clock().timestamp() - path.stat().st_mtime > LONGEST.total_seconds()
        except FileNotFoundError:
            return False

    def _folder(self, account_id: str) -> Path:
        return self._home.accounts / account_id / "multipart"


def e_tag_of(parts: Sequence[ObjectEntry]) -> str:
    """Return an object's ETag as S3 computes it from the parts: the MD5 of their MD5s, and their number."""
    digests = b"".join(bytes.fromhex(part.e_tag.strip('"').partition("-")[0]) for part in parts)
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'


def _name_of(number: int) -> str:
    return f"{number:05d}"
