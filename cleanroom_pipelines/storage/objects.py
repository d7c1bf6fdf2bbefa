"""What a bucket is, wherever it lies.

Lives here: the few calls that local and real buckets share, what they give back, and why they refuse.
Add here when both kinds of bucket learn something new.
Keep out: how they do it (local_bucket, remote_bucket); whose bucket it is (buckets).
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Any, Protocol

from cleanroom_pipelines.errors import ClaimLostError, CleanroomError
from cleanroom_pipelines.storage.fences import UNFENCED, Fence

CHUNK_BYTES = 1 << 20


class BucketError(CleanroomError):
    """A bucket cannot be read or written.

    Its attribute `problem` says why: `denied`, `unreachable`, `no bucket`, `in the way`, `link`, `changed`,
    `region`, `not implemented` or `failed`.
    """

    @property
    def problem(self) -> str:
        """Why, in a word."""
        return str(self.attributes.get("problem", "failed"))


class BucketForbiddenError(CleanroomError):
    """The bucket is another account's."""


@dataclass(frozen=True)
class Patience:
    """How long a real store is waited for: by default at most about a minute for one call.

    Args:
        connect_seconds: For a connection.
        answer_seconds: Without a byte of an answer. Sending a piece counts: 5 MiB must be through by then.
        n_tries: Of one call, the first included.
    """

    connect_seconds: float = 5.0
    answer_seconds: float = 20.0
    n_tries: int = 3


PATIENCE = Patience()


@dataclass(frozen=True)
class ObjectEntry:
    """One object: its key in the bucket and its size."""

    key: str
    n_bytes: int


class OpenedObject:
    """An object being read; close it, or use it in `with`.

    Args:
        n_bytes: Its size when it was opened.
        chunks: Its bytes, about a megabyte at a time.
        telling: Turns the store's errors into a BucketError.
        close: Called at the end.
    """

    def __init__(
        self,
        n_bytes: int,
        chunks: Iterator[bytes],
        telling: Callable[[], AbstractContextManager[Any]],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.n_bytes = n_bytes
        self._chunks = chunks
        self._telling = telling
        self.close = close

    def __enter__(self) -> "OpenedObject":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, about a megabyte at a time.

        Raises:
            BucketError: The store failed, or the object ended before its size.
        """
        n_read = 0
        while True:
            with self._telling():
                chunk = next(self._chunks, None)
            if chunk is None:
                break
            n_read += len(chunk)
            yield chunk
        if n_read < self.n_bytes:
            raise BucketError("An object ended before its end.", remedy="Try again.", problem="unreachable")


class Sink(io.RawIOBase):
    """A file being written, which counts and digests what goes through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._digest = hashlib.sha256()
        self.n_bytes = 0

    @property
    def sha256(self) -> str:
        """SHA-256 hex of what was written so far."""
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
    """A folder being written, which nobody trusts yet."""

    def named(self, name: str) -> str:
        """The name that a file other than the marker gets in the folder."""

    def creating(self, name: str) -> AbstractContextManager[Sink]:
        """Write one new file under a name that `named` gave; the folder's marker must be the last."""


class Bucket(Protocol):
    """Objects by key. Keys are segments with `/` between them, checked by whoever made them."""

    def size(self, key: str) -> int | None:
        """The size of an object; None when there is none.

        Raises:
            BucketError: The bucket cannot be read.
        """

    def open(self, key: str) -> OpenedObject:
        """Open an object.

        Raises:
            NotFoundError: There is none.
            BucketError: The bucket cannot be read.
        """

    def put(self, key: str, source: IO[bytes]) -> None:
        """Write an object whole or not at all, in place of what has that key.

        Raises:
            BucketError: The bucket cannot be written.
            StorageFullError: The disk is full.
        """

    def list(self, folder: str, *, after: str = "", deep: bool = True) -> Iterator[ObjectEntry]:
        """The objects of a folder, and when `deep` those of the folders below it; none when there is none.

        They come in the order of their keys' bytes, beginning after a key; nothing is read before one is taken.

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
        """Write a folder: when the body ends well it is there; until then, and when it fails, no reader trusts it.

        Args:
            folder: Its key.
            owner: Who writes; the same owner's earlier attempt is replaced, no later one and nobody else's.
            marker: Name of the file that is written last.
            attempt_of: The owner's attempt that the marker of a folder that is there tells of; None for anybody
                else's.
            fence: Asked before anything becomes visible.

        Raises:
            BucketError: Something else lies there, or the bucket cannot be written.
            ClaimLostError: A later attempt was faster, or the fence says so.
            CancelledError: The fence says so.
            OSError: The disk cannot be written.
        """


def later_attempt() -> ClaimLostError:
    """What is raised where a later attempt has written its folder already."""
    return ClaimLostError("A later attempt has delivered this already.", remedy="Nothing was changed.")


def link_in_the_way() -> BucketError:
    """What is raised where a link would lead out of a bucket."""
    return BucketError(
        "A symbolic link lies in the path, and a bucket holds none.",
        remedy="Put the file or folder itself there.",
        problem="link",
    )
