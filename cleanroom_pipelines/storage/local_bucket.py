"""Local buckets: folders in the home.

Lives here: reading, writing and listing files below one folder, without ever leaving it.
Add here when local buckets get a new operation.
Keep out: ownership of buckets (buckets); the content of objects.

A file is named as its key, segment by segment, with unsafe segments escaped (`s3_urls.name_of_segment`). ETag,
headers and user metadata are in an extended attribute of the file, which counts only while the file has the size
and time that it states. Other files, and those on disks without such attributes, have no metadata; their ETag is
made from size and time.

Every folder of a path is opened relative to its parent and links are not followed, so a link has no effect even if
it is created between two calls.

Decided 2026-11-30: obstore is not used for the disk. Its LocalStore (tried in 0.12) reads and writes through
links, does not flush written files, and hangs in a process forked after another call.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cleanroom_pipelines.errors import CleanroomError, NotFoundError
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.objects import (
    CHUNK_BYTES,
    UNFENCED,
    BucketError,
    Fence,
    ObjectEntry,
    OpenedObject,
    Sink,
    later_attempt,
    link_in_the_way,
)
from cleanroom_pipelines.storage.s3_urls import name_of_segment, segment_of_name

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# without O_NONBLOCK, opening a pipe would block forever
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_STAGE, _NEW, _OLD = ".export-", "new", "old"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_PROPERTIES = "user.cleanroom.object"
_TRIES = 5


class LocalBucket:
    """A folder whose files are the objects.

    Args:
        folder: The bucket's folder; created by the first write. Links above it, set by the operator, are followed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def exists(self) -> bool:
        """Whether the bucket's folder exists."""
        return self._folder.is_dir() and not self._folder.is_symlink()

    @property
    def created(self) -> datetime:
        """The bucket's creation date for display: its folder's last change, or 1970 if the folder is missing."""
        with suppress(OSError):
            return datetime.fromtimestamp(self._folder.stat().st_mtime, UTC)
        return datetime.fromtimestamp(0, UTC)

    def create(self) -> None:
        """Create the bucket's folder, if it does not exist.

        Raises:
            BucketError: It cannot be created.
        """
        with _translated_errors(is_writing=True), self._at((), make=True):
            pass

    def remove(self) -> None:
        """Remove the bucket.

        Raises:
            BucketError: It has objects; `problem` is `in the way`.
        """
        if next(self.list(""), None) is not None:
            raise BucketError("The bucket is not empty.", remedy="Delete its objects.", problem="in the way")
        for path in sorted(self._folder.rglob("*"), reverse=True):
            with suppress(OSError):  # a folder that a killed writer left
                path.rmdir()
        with _translated_errors(is_writing=True), suppress(FileNotFoundError):
            self._folder.rmdir()

    def path(self, key: str) -> Path:
        """Return the local path of an object or folder, for display."""
        return self._folder.joinpath(*_segments(key))

    def check(self, key: str) -> None:
        """Reject a key whose path contains a symbolic link; parts that do not exist yet are accepted.

        Raises:
            BucketError: It contains one.
        """
        try:
            with self._at(_segments(key)):
                pass
        except OSError:
            pass  # does not exist yet, or reading and writing reports the error

    def size(self, key: str) -> int | None:
        """Return the size of an object; None if it does not exist."""
        found = self.find(key)
        return None if found is None else found.n_bytes

    def find(self, key: str) -> ObjectEntry | None:
        """Return an object with all its properties; None if it does not exist."""
        try:
            with _translated_errors():
                descriptor = self._open(key)
                try:
                    return _entry(key, descriptor)
                finally:
                    os.close(descriptor)
        except NotFoundError:
            return None

    def open(self, key: str, *, e_tag: str = "", start: int = 0, end: int | None = None) -> OpenedObject:
        """Open an object, or a range of its bytes; see Bucket.open."""
        with _translated_errors():
            stream = os.fdopen(self._open(key), "rb")
            if e_tag and _entry(key, stream.fileno()).e_tag != e_tag:
                stream.close()
                raise BucketError("Another writer changed the object.", remedy="Try again.", problem="changed")
            stop = sys.maxsize if end is None else end
            n_bytes = max(min(stop, os.fstat(stream.fileno()).st_size) - start, 0)
            stream.seek(start)
            return OpenedObject(n_bytes, _chunks(stream, stop), _translated_errors, stream.close)

    def put(
        self,
        key: str,
        source: IO[bytes],
        *,
        attributes: Mapping[str, str] | None = None,
        e_tag: str = "",
        is_new: bool = False,
    ) -> None:
        """Write an object atomically; with `is_new`, reject an existing key with the problem `changed`."""
        *folders, name = _segments(key)
        with _translated_errors(is_writing=True), ExitStack() as stack:
            folder, draft, descriptor = self._open_draft(stack, folders)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    if _is_link(folder, name):
                        raise link_in_the_way()
                    md5 = _copy(source, stream)
                    _describe(descriptor, e_tag or f'"{md5}"', attributes or {})
                    os.fsync(descriptor)
                if is_new:
                    _link_new(draft, name, folder)
                else:
                    os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=folder)
                self._remove_empty(folders)
                raise
            os.fsync(folder)

    def delete_object(self, key: str) -> None:
        """Delete an object, if it exists, and the folders that become empty."""
        *folders, name = _segments(key)
        with suppress(NotFoundError), _translated_errors():
            with self._at(folders) as folder:
                os.close(_open_file(folder, name))
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
            self._remove_empty(folders)

    def _remove_empty(self, folders: list[str]) -> None:
        """Remove a folder if it is empty, then each of its parents that is empty now."""
        with suppress(OSError, BucketError):
            while folders:
                with self._at(folders[:-1]) as above:
                    os.rmdir(folders.pop(), dir_fd=above)

    def _open_draft(self, stack: ExitStack, folders: Sequence[str]) -> tuple[int, str, int]:
        """Open a folder and a new file in it; return the folder, the file's name, and the file, as descriptors."""
        draft = f".{secrets.token_hex(16)}.draft"
        for n_left in reversed(range(_TRIES)):
            try:
                with ExitStack() as attempt:
                    folder = attempt.enter_context(self._at(folders, make=True))
                    descriptor = os.open(draft, _NEW_FILE, 0o600, dir_fd=folder)
                    stack.push(attempt.pop_all())
                    return folder, draft, descriptor
            except FileNotFoundError:  # a delete has just removed the folder, which was empty
                if not n_left:
                    raise
        raise AssertionError

    def _open(self, key: str) -> int:
        *folders, name = _segments(key)
        with self._at(folders) as folder:
            return _open_file(folder, name)

    def list(self, folder: str, *, after: str = "", deep: bool = True) -> Iterator[ObjectEntry]:
        """List the objects of a folder, ordered by key; see Bucket.list."""
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
        """Write a folder next to its target, then rename it, so that it appears as a whole.

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
    """Return the file names of a key's segments."""
    return [*map(name_of_segment, key.split("/"))] if key else []


def _link_new(draft: str, name: str, folder: int) -> None:
    """Link an unfinished file under its final name, unless a file with that name exists."""
    try:
        os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        raise BucketError("The object exists already.", remedy="Use another key.", problem="changed") from None
    os.unlink(draft, dir_fd=folder)


def _chunks(stream: IO[bytes], stop: int) -> Iterator[bytes]:
    while chunk := stream.read(max(0, min(CHUNK_BYTES, stop - stream.tell()))):
        yield chunk


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a stream, and return the MD5 of its content, as S3's ETag."""
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        digest.update(chunk)
    target.flush()
    return digest.hexdigest()


def _describe(descriptor: int, e_tag: str, attributes: Mapping[str, str]) -> None:
    """Store an object's ETag and attributes in extended attributes of its file, if the disk supports them."""
    status = os.fstat(descriptor)
    found = {"e_tag": e_tag, "attributes": dict(attributes), "n_bytes": status.st_size, "ns": status.st_mtime_ns}
    if hasattr(os, "setxattr"):
        try:
            os.setxattr(descriptor, _PROPERTIES, json.dumps(found).encode())
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.E2BIG, errno.ERANGE):
                raise


def _entry(key: str, descriptor: int) -> ObjectEntry:
    status = os.fstat(descriptor)
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    found: dict[str, Any] = {}
    if hasattr(os, "getxattr"):
        with suppress(OSError, ValueError):
            found = json.loads(os.getxattr(descriptor, _PROPERTIES))
    if (found.get("n_bytes"), found.get("ns")) == (status.st_size, status.st_mtime_ns):
        return ObjectEntry(key, status.st_size, found["e_tag"], modified, found["attributes"])
    version = hashlib.sha256(f"{status.st_ino} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
    # the number says that it is not the MD5 of the content
    return ObjectEntry(key, status.st_size, f'"{version[:32]}-1"', modified)


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
    """Yield a folder's objects with keys greater than `after`, in byte order as S3 lists them."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            segment = segment_of_name(entry.name)
            if segment is not None:
                if entry.is_dir(follow_symlinks=False):
                    # a folder sorts as its objects do: "a-b" < "a/x" < "a0"
                    found.append((f"{segment}/", entry.name, True, 0))
                elif entry.is_file(follow_symlinks=False):
                    found.append((segment, entry.name, False, entry.stat(follow_symlinks=False).st_size))
    for segment, name, is_folder, n_bytes in sorted(found):
        key = base + segment
        if not is_folder:
            if key > after:
                yield ObjectEntry(key, n_bytes)
        elif deep and (key > after or after.startswith(key)):
            try:
                below = os.open(name, _FOLDER, dir_fd=folder)
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
    """Remove temporary folders of the owner's earlier attempts; rename each first, so that late writers fail."""
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
