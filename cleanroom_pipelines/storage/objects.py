"""Interface of buckets, local and remote.

Lives here: the calls that local and remote buckets share, their results and their errors; the fence of every
delivery, which checks immediately before results become visible that the run may still publish them.
Add here when both kinds of bucket get a new operation.
Keep out: claims and cancellations (catalogue); implementations (local_bucket, remote_bucket); bucket ownership
(buckets).

Decided 2026-11-29, on races between check and action, since catalogue and storage share no transaction.

`commit` is one guarded UPDATE in the catalogue: the claim is held, the work is not cancelled, the resource is not
being deleted. This is the moment of delivery. Later cancellations are rejected, even if the claim holder dies: the
next attempt delivers instead. Only the rename or the manifest upload follows, then the version is closed. The
process may be suspended between the two. If it resumes after its lease has expired:

- Another attempt took over, on disk: that attempt first moved away, by one rename, everything that older attempts
  had staged. The late rename fails because its source is missing.
- Another attempt took over, on an object store: each attempt uses its own file names, and the manifest is written
  only if it has not changed since the writer last read it (If-None-Match, If-Match). The store rejects the late
  upload. A store that ignores these headers leaves a race of one request.
- The resource was deleted, or the version failed after its last attempt: the export still appears. It is complete
  and correct, as if it had been delivered just before; exported files are kept in any case. Nothing newer is
  replaced.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any, Protocol

from cleanroom_pipelines.errors import ClaimLostError, CleanroomError

CHUNK_BYTES = 1 << 20


def _no_check() -> None:
    return None


@dataclass(frozen=True)
class Fence:
    """Checks that a run may still make its result visible.

    Args:
        attempt: Number of the writer's attempt, from 1, increasing with each retry. 0 for a writer without a
            claim.
        check: Raises ClaimLostError or CancelledError if the work is no longer needed. Called before each step.
        commit: The same, and prevents cancellation from then on. Called once, immediately before the last step.
    """

    attempt: int = 0
    check: Callable[[], None] = _no_check
    commit: Callable[[], None] = _no_check


UNFENCED = Fence()


class BucketError(CleanroomError):
    """A bucket cannot be read or written.

    The attribute `problem` is the reason: `denied`, `unreachable`, `no bucket`, `in the way`, `link`, `changed`,
    `region`, `not implemented` or `failed`.
    """

    @property
    def problem(self) -> str:
        """The reason in one of a few fixed words, such as `denied`."""
        return str(self.attributes.get("problem", "failed"))


class BucketForbiddenError(CleanroomError):
    """The bucket belongs to another account."""


@dataclass(frozen=True)
class Patience:
    """Timeouts and retries of a remote store; by default one call takes at most about a minute.

    Args:
        connect_seconds: Timeout for connecting.
        answer_seconds: Timeout without a byte of the response. Sending counts too: a piece of 5 MiB must be sent
            within it.
        n_tries: Tries of one call, including the first.
    """

    connect_seconds: float = 5.0
    answer_seconds: float = 20.0
    n_tries: int = 3


PATIENCE = Patience()


@dataclass(frozen=True)
class ObjectEntry:
    """An object's key and size; its other properties are set only by `find` and by remote stores.

    Args:
        key: Its key.
        n_bytes: Its size.
        e_tag: Its ETag, with quotes.
        modified: The time at which it was written.
        attributes: Its content type and other headers by name, and its user metadata; only from `find`.
    """

    key: str
    n_bytes: int
    e_tag: str = ""
    modified: datetime | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, repr=False)


class OpenedObject:
    """An object opened for reading; close it, or use it in `with`.

    Args:
        n_bytes: Number of bytes of its content, or of the requested range.
        chunks: Its content in chunks of about 1 MB.
        translated_errors: Converts the store's errors into a BucketError.
        close: Called at the end.
    """

    def __init__(
        self,
        n_bytes: int,
        chunks: Iterator[bytes],
        translated_errors: Callable[[], AbstractContextManager[Any]],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.n_bytes = n_bytes
        self._chunks = chunks
        self._translated_errors = translated_errors
        self.close = close

    def __enter__(self) -> "OpenedObject":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in chunks of about 1 MB.

        Raises:
            BucketError: The store failed, or the content is shorter than the object's size.
        """
        n_read = 0
        while True:
            with self._translated_errors():
                chunk = next(self._chunks, None)
            if chunk is None:
                break
            n_read += len(chunk)
            yield chunk
        if n_read < self.n_bytes:
            raise BucketError("The object's content is incomplete.", remedy="Try again.", problem="unreachable")


class Sink(io.RawIOBase):
    """An open file that counts and hashes the bytes written to it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._digest = hashlib.sha256()
        self.n_bytes = 0

    @property
    def sha256(self) -> str:
        """SHA-256 hex of the bytes written so far."""
        return self._digest.hexdigest()

    def writable(self) -> bool:  # noqa: D102
        return True

    def write(self, content: Any) -> int:  # noqa: D102
        view = memoryview(content).cast("B")
        self._stream.write(view)
        self._digest.update(view)
        self.n_bytes += len(view)
        return len(view)

    def tell(self) -> int:  # noqa: D102
        return self.n_bytes


class FolderDraft(Protocol):
    """A folder being written, which readers ignore until it is complete."""

    def named(self, name: str) -> str:
        """Return the stored name of a file in the folder; the completion marker keeps its own name."""

    def creating(self, name: str) -> AbstractContextManager[Sink]:
        """Create a file under a name that `named` returned, and open it; create the completion marker last."""


class Bucket(Protocol):
    """A store of objects by key; a key consists of segments joined by `/`, and callers must validate it."""

    def find(self, key: str) -> ObjectEntry | None:
        """Return the object with exactly this key and all its properties; None if it does not exist.

        Raises:
            BucketError: The bucket cannot be read.
        """

    def size(self, key: str) -> int | None:
        """Return the size of an object; None if it does not exist.

        Raises:
            BucketError: The bucket cannot be read.
        """

    def open(self, key: str, *, e_tag: str = "", start: int = 0, end: int | None = None) -> OpenedObject:
        """Open an object, or the part from byte `start` to before byte `end`.

        Args:
            key: Its key.
            e_tag: If not empty, opening fails if the object was replaced since it had this ETag.
            start: First byte.
            end: End of the part; None: the end of the object.

        Raises:
            NotFoundError: It does not exist.
            BucketError: The bucket cannot be read.
        """

    def put(
        self, key: str, source: IO[bytes], *, attributes: Mapping[str, str] | None = None, e_tag: str = ""
    ) -> None:
        """Write an object atomically, replacing any object with the same key.

        Args:
            key: Its key.
            source: The content.
            attributes: Headers by name, and user metadata.
            e_tag: The ETag of an object from several parts; a real store computes its own.

        Raises:
            BucketError: The bucket cannot be written.
            StorageFullError: The disk is full.
        """

    def delete_object(self, key: str) -> None:
        """Delete an object, if it exists.

        Raises:
            BucketError: The bucket cannot be written.
        """

    def list(self, folder: str, *, after: str = "", deep: bool = True) -> Iterator[ObjectEntry]:
        """List the objects of a folder and, if `deep`, of its subfolders; empty if the folder does not exist.

        They are ordered by the bytes of their keys, starting after a key. Nothing is read before
        the first item is requested.

        Raises:
            BucketError: The bucket cannot be read.
        """

    def drafting(
        self,
        folder: str,
        *,
        owner: str,
        marker: str,
        attempt_of: Callable[[bytes], int | None],
        fence: Fence = UNFENCED,
    ) -> AbstractContextManager[FolderDraft]:
        """Write a folder that becomes visible to readers when the `with` body succeeds.

        Args:
            folder: Its key.
            owner: The writer. Earlier attempts of the same owner are replaced; later attempts and other owners'
                folders are not.
            marker: Name of the file that is written last.
            attempt_of: Reads the owner's attempt from the marker of an existing folder; None for another owner.
            fence: Checked before anything becomes visible.

        Raises:
            BucketError: Other objects exist there, or the bucket cannot be written.
            ClaimLostError: A later attempt has delivered already, or the fence raised it.
            CancelledError: Raised by the fence.
            OSError: The disk cannot be written.
        """


def later_attempt() -> ClaimLostError:
    """Return the error for a folder that a later attempt has already written."""
    return ClaimLostError("A later attempt has already delivered this export.", remedy="Nothing was changed.")


def link_in_the_way() -> BucketError:
    """Return the error for an object whose path contains a symbolic link."""
    return BucketError(
        "The path contains a symbolic link, which is not allowed in a bucket.",
        remedy="Put the file or folder itself there.",
        problem="link",
    )
