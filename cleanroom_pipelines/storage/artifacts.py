"""Immutable, versioned artifacts with a manifest.

Lives here: drafting, publishing, verifying, opening and deleting the artifacts of assets.
Add here when the manifest needs another field (and raise FORMAT_VERSION).
Keep out: which version is current (catalogue); the content of the files.

A draft is written under a temporary name next to its target. Its files are flushed to disk, the manifest is
written last, and only then is the draft renamed. Readers trust only files that a manifest lists.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.errors import (
    ArtifactError,
    CleanroomError,
    ConfigurationError,
    NotFoundError,
    StorageFullError,
    StoreUnavailableError,
)
from cleanroom_pipelines.storage.layout import is_version, path_of_asset, path_of_partition, path_of_version
from cleanroom_pipelines.storage.objects import (
    CHUNK_BYTES,
    PATIENCE,
    UNFENCED,
    BucketError,
    Fence,
    OpenedObject,
    Patience,
)
from cleanroom_pipelines.storage.processes import remembered

if TYPE_CHECKING:
    from cleanroom_pipelines.storage.remote_bucket import RemoteBucket

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LEFTOVER = re.compile(r"\.draft-[a-z0-9_]{8}|\.export-[a-z0-9_-]{8,60}|\..+\.draft")
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
_TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class ArtifactReference:
    """Reference to one artifact: one version of one partition of an asset."""

    asset: str
    partition: str
    version: str

    @property
    def path(self) -> str:
        """Path below the store's root."""
        return "/".join(
            (path_of_asset(self.asset), path_of_partition(self.partition), path_of_version(self.version))
        )


@dataclass(frozen=True)
class Input:
    """An input of an artifact: another artifact, or external data such as a seed, whose `version` is empty."""

    asset: str
    partition: str
    version: str
    digest: str


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    name: str
    n_bytes: int
    sha256: str
    n_rows: int | None = None


@dataclass(frozen=True)
class Manifest(Document):
    """The list of an artifact's files with their digests; readers ignore all other files.

    Args:
        asset: Name of the asset.
        partition: Partition key.
        version: Version of the artifact.
        code_version: Version of the code that built it.
        data_version: Keyed digest of its inputs: same inputs and code, same data version.
        created_at: ISO date and time, UTC.
        inputs: Its inputs.
        files: Its files.
        facts: Small JSON facts about the artifact, without user data.
        record: The catalogue's record of the version and its resource, encrypted with the installation key; empty
            in manifests of format 1.
        format_version: FORMAT_VERSION of the code that wrote it.
    """

    asset: str
    partition: str
    version: str
    code_version: str
    data_version: str
    created_at: str
    inputs: tuple[Input, ...]
    files: tuple[FileEntry, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    record: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def reference(self) -> ArtifactReference:
        """The reference to the artifact that the manifest describes."""
        return ArtifactReference(self.asset, self.partition, self.version)

    def to_json(self) -> str:
        """Return the manifest as canonical JSON."""
        return json.dumps(self.as_dict(), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a manifest.

        Raises:
            ArtifactError: It is not a manifest, or has a newer format.
        """
        try:
            raw = json.loads(text)
            if raw["format_version"] > FORMAT_VERSION:
                raise ArtifactError(
                    "This artifact was written by a newer version of cleanroom_pipelines.",
                    remedy="Upgrade this installation.",
                )
            manifest = cls.from_dict(raw)
            if not all(_is_inside(entry.name) for entry in manifest.files):
                raise ValueError("a file is outside the artifact")
            return manifest
        except (ValueError, KeyError, TypeError):
            raise ArtifactError(
                "The manifest of an artifact cannot be read.", remedy="Build the artifact again."
            ) from None


@dataclass
class Draft:
    """An unfinished artifact: put files into `path`, set each file's `n_rows`, and add the manifest's `facts`."""

    path: Path
    reference: ArtifactReference
    n_rows: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None


class _Folder:
    """Access to a local folder; follows symbolic links, because only the operator can create them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(path.name for path in (self._root / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def open(self, path: str) -> OpenedObject:
        try:
            stream = (self._root / path).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError("The file does not exist.") from None
        chunks = iter(partial(stream.read, CHUNK_BYTES), b"")
        return OpenedObject(os.fstat(stream.fileno()).st_size, chunks, nullcontext, stream.close)

    def delete(self, path: str) -> None:
        target = self._root / path
        with suppress(FileNotFoundError):
            (shutil.rmtree if target.is_dir() else os.unlink)(target)


class ArtifactStore:
    """Artifact store in a folder or at a URL.

    Args:
        url: Root, such as a local path or `s3://bucket/prefix`.
        scratch: Local folder for drafts and copies of remote artifacts.
        patience: Timeouts and retries for remote stores.

    Raises:
        ConfigurationError: The URL is invalid, or its kind of store is unknown.
    """

    def __init__(self, url: str, scratch: Path, patience: Patience = PATIENCE) -> None:
        check_store_url(url)
        self._scratch = scratch
        self._folder: Path | None = None
        if _is_local(url):
            path = unquote(url.removeprefix("file://")) if url.startswith("file://") else url
            self._folder = Path(path).expanduser().absolute()
        self._files = _Folder(self._folder) if self._folder else _bucket_at(url, scratch, patience)
        self._root = str(self._folder) if self._folder else url.split("?", maxsplit=1)[0].rstrip("/")

    def location(self, reference: ArtifactReference) -> str:
        """Return where an artifact is stored, as an absolute path or URL."""
        return f"{self._root}/{reference.path}"

    @contextmanager
    def drafting(
        self,
        reference: ArtifactReference,
        *,
        code_version: str,
        data_version: str,
        created_at: str,
        inputs: tuple[Input, ...] = (),
        fence: Fence = UNFENCED,
        record: str = "",
    ) -> Iterator[Draft]:
        """Write an artifact: it becomes visible if the `with` body succeeds, and is deleted if it fails.

        Args:
            reference: The version to write.
            code_version: Version of the code that builds it.
            data_version: Keyed digest of its inputs.
            created_at: ISO date and time, UTC.
            inputs: Its inputs.
            fence: Checked before anything becomes visible in the store.
            record: The catalogue's record of the version, encrypted.

        Raises:
            ClaimLostError: Raised by the fence; nothing is kept.
            CancelledError: Raised by the fence; nothing is kept.
            StorageFullError: The disk is full.
            ArtifactError: This version already exists.
        """
        target = self._folder / reference.path if self._folder else None
        parent = target.parent if target else self._scratch
        if self._is_finished(reference.path):
            raise ArtifactError("This version of the artifact already exists.")
        with full_disk_is_an_error():
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".draft-", dir=parent))
        try:
            # `remembered`: a draft outside scratch is deleted too if this process is killed
            with full_disk_is_an_error(), remembered(self._scratch, folder):
                draft = Draft(folder, reference)
                yield draft
                draft.manifest = Manifest(
                    reference.asset,
                    reference.partition,
                    reference.version,
                    code_version,
                    data_version,
                    created_at,
                    inputs,
                    _entries(folder, draft.n_rows),
                    draft.facts,
                    record,
                )
                write_durably(folder / MANIFEST, draft.manifest.to_json().encode())
                if target:
                    fence.check()
                    self._give_name(folder, target)
                else:
                    self._upload(folder, reference, draft.manifest, fence)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def manifest(self, reference: ArtifactReference) -> Manifest:
        """Read a version's manifest.

        Raises:
            ArtifactError: It does not exist: the version was never finished, or was deleted.
        """
        try:
            text = self._read(f"{reference.path}/{MANIFEST}").decode()
        except (NotFoundError, UnicodeDecodeError):
            raise ArtifactError(
                f"The artifact of {reference.asset} is missing.", remedy="Build it again."
            ) from None
        manifest = Manifest.from_json(text)
        if (manifest.asset, manifest.partition, manifest.version) != (
            reference.asset,
            reference.partition,
            reference.version,
        ):
            raise ArtifactError(
                "The manifest in an artifact's folder belongs to another artifact.", remedy="Build it again."
            )
        return manifest

    @contextmanager
    def opening(self, reference: ArtifactReference) -> Iterator[Path]:
        """Open a local folder with exactly the files that the manifest lists, each verified.

        Raises:
            ArtifactError: A file is missing, was altered or was added.
            StorageFullError: The disk has no space for a copy of a remote artifact.
        """
        manifest = self.manifest(reference)
        if self._folder:
            folder = self._folder / reference.path
            _verify(folder, manifest)
            yield folder
            return
        with full_disk_is_an_error():
            folder = Path(tempfile.mkdtemp(prefix="copy-", dir=self._scratch))
        try:
            for entry in manifest.files:
                target = folder / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                # _verify reports missing files
                with (
                    suppress(NotFoundError),
                    self._reached(),
                    full_disk_is_an_error(),
                    self._files.open(f"{reference.path}/{entry.name}") as opened,
                    target.open("wb") as copy,
                ):
                    copy.writelines(opened.chunks())
            _verify(folder, manifest)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def read(self, reference: ArtifactReference, name: str) -> bytes:
        """Read and verify one small file of a version.

        Raises:
            ArtifactError: It is missing or was altered.
        """
        entry = next((entry for entry in self.manifest(reference).files if entry.name == name), None)
        content = b""
        with suppress(NotFoundError):
            content = self._read(f"{reference.path}/{name}")
        if entry is None or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise ArtifactError(
                f"The stored artifact of {reference.asset} was altered or is incomplete.",
                remedy="Materialise the asset again.",
            )
        return content

    def verify(self, reference: ArtifactReference) -> Manifest:
        """Check every file of a version against its manifest, and return the manifest.

        Raises:
            ArtifactError: A file is missing or was altered.
        """
        with self.opening(reference):
            return self.manifest(reference)

    def versions(self, asset: str, partition: str) -> list[str]:
        """List the finished versions of a partition, oldest first."""
        folder = f"{path_of_asset(asset)}/{path_of_partition(partition)}"
        versions = filter(is_version, self._names(folder))
        finished = [name for name in versions if self._is_finished(f"{folder}/{name}")]
        return sorted(finished, key=lambda name: (int(name.partition("-")[0]), name))

    def as_input(self, reference: ArtifactReference) -> Input:
        """Describe an artifact as an input of another artifact.

        Raises:
            ArtifactError: It is missing.
        """
        digest = self.manifest(reference).data_version
        return Input(reference.asset, reference.partition, reference.version, digest)

    def manifests(self, asset: str) -> Iterator[Manifest | None]:
        """Read the manifests of all finished versions of an asset; yield None for each unreadable manifest."""
        root = path_of_asset(asset)
        for partition in self._names(root):
            for version in filter(is_version, self._names(f"{root}/{partition}")):
                try:
                    text = self._read(f"{root}/{partition}/{version}/{MANIFEST}").decode()
                except NotFoundError:
                    continue  # never finished, or being deleted
                except UnicodeDecodeError:
                    text = ""
                try:
                    manifest = Manifest.from_json(text)
                    is_its_own = manifest.reference.path == f"{root}/{partition}/{version}"
                except CleanroomError:
                    is_its_own = False
                yield manifest if is_its_own else None

    def is_empty(self) -> bool:
        """Whether the store contains no files or folders at all."""
        return not self._names("")

    def delete(self, reference: ArtifactReference) -> None:
        """Delete a version; its manifest is deleted first, so that no reader sees a half-deleted version."""
        self._delete(f"{reference.path}/{MANIFEST}")
        self._delete(reference.path)

    def delete_partition(self, asset: str, partition: str) -> None:
        """Delete all versions of a partition, including the remains of interrupted writes and deletions."""
        for version in self.versions(asset, partition):
            self.delete(ArtifactReference(asset, partition, version))
        self._delete(f"{path_of_asset(asset)}/{path_of_partition(partition)}")

    def _is_finished(self, folder: str) -> bool:
        return MANIFEST in self._names(folder)

    def _names(self, folder: str) -> Sequence[str]:
        with self._reached():
            return self._files.names(folder)

    def _read(self, path: str) -> bytes:
        with self._reached(), self._files.open(path) as opened:
            return b"".join(opened.chunks())

    def _delete(self, path: str) -> None:
        with self._reached():
            self._files.delete(path)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except BucketError as error:
            raise StoreUnavailableError(
                f"The artifact store is unreachable or rejected the request. {error.message}",
                remedy="Check CLEANROOM_ARTIFACTS_URL, its credentials and that the store is up; then try again.",
            ) from None

    def _give_name(self, draft: Path, target: Path) -> None:
        if target.is_dir() and not (target / MANIFEST).exists():
            shutil.rmtree(target, ignore_errors=True)  # remains of an interrupted deletion
        try:
            os.rename(draft, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise ArtifactError("This version of the artifact already exists.") from None
            raise
        # a new partition's folders must survive a power cut too, up to the root
        for folder in target.parents:
            sync_folder(folder)
            if folder == self._folder:
                break

    def _upload(self, folder: Path, reference: ArtifactReference, manifest: Manifest, fence: Fence) -> None:
        try:
            assert not isinstance(self._files, _Folder)
            for name in (*(entry.name for entry in manifest.files), MANIFEST):
                fence.check()
                with self._reached(), (folder / name).open("rb") as source:
                    self._files.put(f"{reference.path}/{name}", source)
        except BaseException:
            with suppress(Exception):  # the store may fail again; files without a manifest are ignored
                self._files.delete(reference.path)
            raise


def check_store_url(url: str) -> None:
    """Reject a store URL that cannot be opened, without connecting.

    Raises:
        ConfigurationError: The URL is invalid, or its kind of store is unknown.
    """
    if not _is_local(url):
        from cleanroom_pipelines.storage.remote_bucket import open_url

        open_url(url)


def _bucket_at(url: str, scratch: Path, patience: Patience) -> "RemoteBucket":
    from cleanroom_pipelines.storage.remote_bucket import RemoteBucket, open_url

    return RemoteBucket(partial(open_url, url, patience), scratch)


def is_leftover(name: str) -> bool:
    """Whether a name belongs to an unfinished file or folder, which may be deleted after its writer has ended."""
    return _LEFTOVER.fullmatch(name) is not None


def _is_local(url: str) -> bool:
    return urlsplit(url).scheme in ("", "file")


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name != MANIFEST


@contextmanager
def full_disk_is_an_error() -> Iterator[None]:
    """Raise an error with a remedy if the operating system reports that the disk is full."""
    try:
        yield
    except StorageFullError:
        raise
    except OSError as error:
        if isinstance(translated := of_the_machine(error), StorageFullError):
            raise translated from None
        raise


def of_the_machine(error: OSError) -> CleanroomError | None:
    """Convert an operating-system error with a known cause into a `CleanroomError`; None for any other error."""
    if isinstance(error, CleanroomError):
        return error
    # numpy reports a short write only in its message, without an errno
    if error.errno in _FULL_DISK or (error.errno is None and _CUT_SHORT.search(str(error))):
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    if error.errno in _NOT_ALLOWED:
        return ConfigurationError(
            f"Permission to read or write a file or folder was denied ({errno.errorcode[error.errno]}).",
            remedy="Check that the home and the output folder belong to this user and are not read-only.",
        )
    if error.errno in _TOO_MANY_FILES:
        return ConfigurationError(
            "This process has reached its limit of open files.",
            remedy="Raise the limit (ulimit -n), then try again.",
        )
    if error.errno == errno.EIO:
        return ConfigurationError(
            "The disk failed (EIO).", remedy="Check the system log; the disk may be damaged."
        )
    return None


def write_durably(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name, flushed to disk, then renamed."""
    with replacing(path) as draft:
        draft.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, and rename the file to `path` if the `with` body succeeds.

    Each writer gets its own temporary name, so that writers of the same file do not collide. The mode is 0600.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".draft", dir=path.parent)
    draft = Path(name)
    try:
        yield draft
        os.fsync(descriptor)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def _entries(folder: Path, n_rows: Mapping[str, int]) -> tuple[FileEntry, ...]:
    entries = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        entries.append(FileEntry(name, path.stat().st_size, sha256_of(path), n_rows.get(name)))
    return tuple(entries)


def sha256_of(path: Path) -> str:
    """SHA-256 hex of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify(folder: Path, manifest: Manifest) -> None:
    listed = {entry.name for entry in manifest.files} | {MANIFEST}
    if any(path.relative_to(folder).as_posix() not in listed for path in folder.rglob("*") if not path.is_dir()):
        # readers use every file in the folder, so it must hold only files that the manifest lists
        raise ArtifactError(
            f"The artifact of {manifest.asset} contains a file that its manifest does not list.",
            remedy="Build it again.",
        )
    for entry in manifest.files:
        path = folder / entry.name
        try:
            intact = path.stat().st_size == entry.n_bytes and sha256_of(path) == entry.sha256
        except OSError:
            intact = False
        if not intact:
            raise ArtifactError(
                f"The artifact of {manifest.asset} was altered or is incomplete.",
                remedy="Build it again.",
            )


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
