"""Local buckets: folders in the home.

Lives here: reading, writing and listing files below one folder, without ever leaving it.
Add here when local buckets get a new operation.
Keep out: ownership of buckets (buckets); the content of objects.

Every folder of a path is opened relative to its parent and links are not followed, so a link has no effect even if
it is created between two calls.

Decided 2026-11-30: obstore is not used for the disk. Its LocalStore (tried in 0.12) reads and writes through
links, does not flush written files, and hangs in a process forked after another call.
"""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from cleanroom_pipelines.errors import CleanroomError, NotFoundError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.fences import UNFENCED, Fence
from cleanroom_pipelines.storage.objects import (
    CHUNK_BYTES,
    BucketError,
    ObjectEntry,
    OpenedObject,
    Sink,
    later_attempt,
    link_in_the_way,
)
from cleanroom_pipelines.storage.s3_urls import is_plain_segment

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# without O_NONBLOCK, opening a pipe would block forever
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_STAGE, _NEW, _OLD = ".export-", "new", "old"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class LocalBucket:
    """A folder whose files are the objects.

    Args:
        folder: The bucket's folder; created by the first write. Links above it, set by the operator, are followed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: str) -> Path:
        """Return the local path of an object or folder, for display."""
        return self._folder / key

    def check(self, key: str) -> None:
        """Reject a key whose existing path contains a link.

        Raises:
            BucketError: It contains one.
        """
        try:
            with self._at(_segments(key)):
                pass
        except OSError:
            pass  # does not exist yet, or reading and writing reports the error

    def size(self, key: str) -> int | None:
        """See Bucket.size."""
        try:
            with self.open(key) as opened:
                return opened.n_bytes
        except NotFoundError:
            return None

    def open(self, key: str) -> OpenedObject:
        """See Bucket.open."""
        with _translated_errors():
            *folders, name = key.split("/")
            with self._at(folders) as folder:
                descriptor = _open_file(folder, name)
            stream = os.fdopen(descriptor, "rb")
            chunks = iter(partial(stream.read, CHUNK_BYTES), b"")
            return OpenedObject(os.fstat(descriptor).st_size, chunks, _translated_errors, stream.close)

    def put(self, key: str, source: IO[bytes]) -> None:
        """See Bucket.put."""
        *folders, name = key.split("/")
        with _translated_errors(is_writing=True), self._at(folders, make=True) as folder:
            if _is_link(folder, name):
                raise link_in_the_way()
            draft = f".{name[:100]}.{secrets.token_hex(4)}.draft"
            descriptor = os.open(draft, _NEW_FILE, 0o600, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    shutil.copyfileobj(source, stream, CHUNK_BYTES)
                    stream.flush()
                    os.fsync(descriptor)
                os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=folder)
                raise
            os.fsync(folder)

    def list(self, folder: str, *, after: str = "", deep: bool = True) -> Iterator[ObjectEntry]:
        """See Bucket.list."""
        base = f"{folder}/" if folder else ""
        with suppress(NotFoundError), _translated_errors(), self._at(_segments(folder)) as descriptor:
            yield from _walk(descriptor, base, after, deep)

    @contextmanager
    def drafting(
        self,
        folder: str,
        *,
        owner: str,
        marker: str,
        attempt_of: Callable[[bytes], int | None],
        fence: Fence = UNFENCED,
    ) -> Iterator["_LocalDraft"]:
        """See Bucket.drafting. The folder is written next to its target and renamed, so it appears as a whole.

        It is staged in a folder named after owner and attempt. A later attempt first removes the stages of earlier
        ones. Every rename of an attempt has its source or target in its stage, so late renames fail.
        """
        *folders, name = _segments(folder)
        with self._at(folders, make=True) as parent:
            fence.check()
            if fence.attempt:
                _remove_older_stages(parent, owner, fence.attempt)
            stage = _new_stage(parent, f"{_mark_of(owner)}-{fence.attempt}-")
            try:
                descriptor = os.open(f"{stage}/{_NEW}", _FOLDER, dir_fd=parent)
                try:
                    yield _LocalDraft(descriptor)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                _give_name(parent, stage, name, lambda: _attempt_there(parent, name, marker, attempt_of), fence)
            except OSError:
                fence.check()  # raises ClaimLostError if a later attempt has removed the stage
                raise
            finally:
                shutil.rmtree(stage, ignore_errors=True, dir_fd=parent)

    @contextmanager
    def _at(self, folders: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """Open a folder of the bucket and yield its descriptor."""
        if make:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in (self._folder.name, *folders):
                above, descriptor = descriptor, _enter(descriptor, name, make=make)
                os.close(above)
            yield descriptor
        finally:
            os.close(descriptor)


class _LocalDraft:
    def __init__(self, folder: int) -> None:
        self._folder = folder

    def named(self, name: str) -> str:
        return name

    @contextmanager
    def creating(self, name: str) -> Iterator[Sink]:
        descriptor = os.open(name, _NEW_FILE, 0o666, dir_fd=self._folder)
        with os.fdopen(descriptor, "wb") as stream:
            yield Sink(stream)
            stream.flush()
            os.fsync(descriptor)


def _segments(key: str) -> list[str]:
    return key.split("/") if key else []


def _enter(above: int, name: str, *, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
            os.fsync(above)
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except OSError:
        if _is_link(above, name):
            raise link_in_the_way() from None
        raise


def _open_file(folder: int, name: str) -> int:
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        if _is_link(folder, name):
            raise link_in_the_way() from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError
    return descriptor


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _walk(folder: int, base: str, after: str, deep: bool) -> Iterator[ObjectEntry]:
    """Yield the objects below a folder whose keys come after `after`, in byte order as S3 lists them."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_plain_segment(entry.name):
                if entry.is_dir(follow_symlinks=False):
                    # a folder sorts as its objects do: "a-b" < "a/x" < "a0"
                    found.append((f"{entry.name}/", 0))
                elif entry.is_file(follow_symlinks=False):
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
    for name, n_bytes in sorted(found):
        key = base + name
        if not name.endswith("/"):
            if key > after:
                yield ObjectEntry(key, n_bytes)
        elif deep and (key > after or after.startswith(key)):
            try:
                below = os.open(name.rstrip("/"), _FOLDER, dir_fd=folder)
            except OSError:
                continue  # deleted meanwhile
            try:
                yield from _walk(below, key, after, deep)
            finally:
                os.close(below)


def _mark_of(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()[:12]


def _new_stage(parent: int, what: str) -> str:
    stage = f"{_STAGE}{what}{secrets.token_hex(4)}"
    os.mkdir(stage, 0o700, dir_fd=parent)
    os.mkdir(f"{stage}/{_NEW}", 0o700, dir_fd=parent)
    return stage


def _remove_older_stages(parent: int, owner: str, attempt: int) -> None:
    """Remove the temporary folders of the owner's earlier attempts; each is renamed before it is removed."""
    before = f"{_STAGE}{_mark_of(owner)}-"
    with os.scandir(parent) as entries:
        stages = [entry.name for entry in entries if entry.name.startswith(before)]
    for stage in stages:
        number = stage.removeprefix(before).partition("-")[0]
        if number.isdecimal() and 0 < int(number) <= attempt:
            removed = f"{_STAGE}{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):  # the attempt ended meanwhile
                os.rename(stage, removed, src_dir_fd=parent, dst_dir_fd=parent)
            shutil.rmtree(removed, ignore_errors=True, dir_fd=parent)


def _give_name(parent: int, stage: str, name: str, attempt_there: Callable[[], int | None], fence: Fence) -> None:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        fence.commit()
        # the rename fails if a folder that is not empty appeared meanwhile
        os.rename(f"{stage}/{_NEW}", name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
        return
    there = attempt_there()
    if there is None:
        raise FileExistsError
    if there > fence.attempt:
        raise later_attempt()
    # an earlier attempt was killed after its rename; it exported the same users, so it may be replaced
    fence.commit()
    os.rename(name, f"{stage}/{_OLD}", src_dir_fd=parent, dst_dir_fd=parent)
    try:
        os.rename(f"{stage}/{_NEW}", name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        with suppress(OSError):  # a later attempt removed the stage and continues
            os.rename(f"{stage}/{_OLD}", name, src_dir_fd=parent, dst_dir_fd=parent)
        raise
    os.fsync(parent)


def _attempt_there(parent: int, name: str, marker: str, attempt_of: Callable[[bytes], int | None]) -> int | None:
    """Return the number of the attempt that wrote a folder; 0 if it is empty, None if another owner wrote it."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except OSError:
        return None
    try:
        try:
            with os.fdopen(_open_file(folder, marker), "rb") as stream:
                return attempt_of(stream.read())
        except (OSError, CleanroomError):
            with os.scandir(folder) as entries:
                return 0 if next(entries, None) is None else None
    finally:
        os.close(folder)


@contextmanager
def _translated_errors(*, is_writing: bool = False) -> Iterator[None]:
    try:
        with full_disk_is_an_error():
            yield
    except CleanroomError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not is_writing:
            raise NotFoundError("The object does not exist in the bucket.", remedy="Check its key.") from None
        if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError):
            raise BucketError(
                "The key conflicts with an existing file or folder.",
                remedy="Choose another key.",
                problem="in the way",
            ) from None
        raise BucketError(
            f"The bucket cannot be used ({type(error).__name__}).",
            remedy="Check the permissions of its folder.",
            problem="denied" if isinstance(error, PermissionError) else "failed",
        ) from None
