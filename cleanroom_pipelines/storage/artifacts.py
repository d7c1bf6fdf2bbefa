"""Immutable, versioned artifacts with a manifest.

Lives here: drafting, publishing, verifying, opening and deleting of what the assets make.
Add here when the manifest must say something more (and raise FORMAT_VERSION).
Keep out: which version is current (catalogue); what the files hold.

A draft is written under a temporary name beside its target; its files are flushed to disk, the manifest is
written last, and only then does it get its name. A reader trusts nothing that no manifest lists.
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
from cleanroom_pipelines.storage.fences import UNFENCED, Fence
from cleanroom_pipelines.storage.layout import is_version, path_of_asset, path_of_partition, path_of_version
from cleanroom_pipelines.storage.objects import CHUNK_BYTES, PATIENCE, BucketError, OpenedObject, Patience
from cleanroom_pipelines.storage.processes import remembered

if TYPE_CHECKING:
    from cleanroom_pipelines.storage.remote_bucket import RemoteBucket

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
_S3 = "s3"
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LEFTOVER = re.compile(r"\.draft-[a-z0-9_]{8}|\.export-[a-z0-9_-]{8,60}|\..+\.draft")
_NOT_ALLOWED = {errno.EROFS, errno.EACCES, errno.EPERM}
_TOO_MANY_FILES = {errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class ArtifactReference:
    """One version of one asset's partition."""

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
    """What an artifact was made from: another artifact, or an uploaded table (then `version` is empty)."""

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
    """What a reader may trust.

    Args:
        asset: Name of the asset.
        partition: Partition key.
        version: Version of the artifact.
        code_version: Version of the code that made it.
        data_version: Keyed digest of what the artifact was made from: same inputs and code, same data version.
        created_at: ISO date and time, UTC.
        inputs: What it was made from.
        files: What it holds.
        facts: Small JSON facts about the artifact, no user data.
        record: What the catalogue knew of the version and its resource, sealed under the installation key; empty
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

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(self.as_dict(), sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a manifest.

        Raises:
            ArtifactError: It is no manifest, or one of a newer format.
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
                raise ValueError("a file outside of the artifact")
            return manifest
        except (ValueError, KeyError, TypeError):
            raise ArtifactError("A manifest cannot be read.", remedy="Build it again.") from None


@dataclass
class Draft:
    """An artifact being written: put files into `path`, say their rows, add facts."""

    path: Path
    reference: ArtifactReference
    n_rows: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None


class _Folder:
    """What is below a folder of this machine; links in it are the operator's own, as in no bucket."""

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
            raise NotFoundError("There is no such file.") from None
        chunks = iter(partial(stream.read, CHUNK_BYTES), b"")
        return OpenedObject(os.fstat(stream.fileno()).st_size, chunks, nullcontext, stream.close)

    def delete(self, path: str) -> None:
        target = self._root / path
        with suppress(FileNotFoundError):
            (shutil.rmtree if target.is_dir() else os.unlink)(target)


class ArtifactStore:
    """Artifacts in one folder, or below one URL.

    Args:
        url: Root, such as a local path or `s3://bucket/prefix`.
        scratch: Local folder for drafts and copies of remote artifacts.
        patience: How long a real store is waited for.

    Raises:
        ConfigurationError: The URL cannot be read, or its kind of store is not known.
    """

    def __init__(self, url: str, scratch: Path, patience: Patience = PATIENCE) -> None:
        check_store_url(url)
        self._scratch = scratch
        self._folder: Path | None = None
        if _is_local(url):
            path = unquote(url.removeprefix("file://")) if url.startswith("file://") else url
            self._folder = Path(path).expanduser().absolute()
        self._files = _Folder(self._folder) if self._folder else _bucket_at(url, scratch, patience)

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
        """Write an artifact: it becomes visible when the body ends well, and leaves nothing when it does not.

        Args:
            reference: What is written.
            code_version: Version of the code that makes it.
            data_version: Keyed digest of what it is made from.
            created_at: ISO date and time, UTC.
            inputs: What it is made from.
            fence: Asked before anything becomes visible in the store.
            record: What the catalogue knows of the version, sealed.

        Raises:
            ClaimLostError: The fence says so; nothing is left.
            CancelledError: The same.
            StorageFullError: The disk is full.
            ArtifactError: This version exists already.
        """
        target = self._folder / reference.path if self._folder else None
        parent = target.parent if target else self._scratch
        if self._is_finished(reference.path):
            raise ArtifactError("This version of the artifact exists already.")
        with full_disk_is_an_error():
            parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".draft-", dir=parent))
        try:
            # a draft beside its target is deleted too where this process is killed
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
            ArtifactError: There is none: the version was never finished, or was deleted.
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
            raise ArtifactError("A manifest belongs to another artifact.", remedy="Build it again.")
        return manifest

    @contextmanager
    def opening(self, reference: ArtifactReference) -> Iterator[Path]:
        """Give a local folder that holds exactly the files of the manifest, each verified.

        Raises:
            ArtifactError: A file is missing, was altered or was added.
            StorageFullError: The disk is too full for a copy of a remote artifact.
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
                # what is missing is told by _verify
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
        """One file of a version, verified; for small ones.

        Raises:
            ArtifactError: It is missing or was altered.
        """
        entry = next((entry for entry in self.manifest(reference).files if entry.name == name), None)
        content = b""
        with suppress(NotFoundError):
            content = self._read(f"{reference.path}/{name}")
        if entry is None or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise ArtifactError(
                f"The artifact of {reference.asset} was altered or is incomplete.",
                remedy="Materialise the asset again.",
            )
        return content

    def verify(self, reference: ArtifactReference) -> Manifest:
        """Check every file of a version against its manifest and return it.

        Raises:
            ArtifactError: A file is missing or was altered.
        """
        with self.opening(reference):
            return self.manifest(reference)

    def versions(self, asset: str, partition: str) -> list[str]:
        """All finished versions of a partition, oldest first."""
        folder = f"{path_of_asset(asset)}/{path_of_partition(partition)}"
        versions = filter(is_version, self._names(folder))
        finished = [name for name in versions if self._is_finished(f"{folder}/{name}")]
        return sorted(finished, key=lambda name: (int(name.partition("-")[0]), name))

    def as_input(self, reference: ArtifactReference) -> Input:
        """An artifact as what another one is made from.

        Raises:
            ArtifactError: It is missing.
        """
        digest = self.manifest(reference).data_version
        return Input(reference.asset, reference.partition, reference.version, digest)

    def manifests(self, asset: str) -> Iterator[Manifest | None]:
        """The manifests of all finished versions of an asset; None for one that cannot be read."""
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
                    reference = ArtifactReference(manifest.asset, manifest.partition, manifest.version)
                    is_its_own = reference.path == f"{root}/{partition}/{version}"
                except CleanroomError:
                    is_its_own = False
                yield manifest if is_its_own else None

    def is_empty(self) -> bool:
        """Whether nothing was ever stored here."""
        return not self._names("")

    def delete(self, reference: ArtifactReference) -> None:
        """Delete a version, its manifest first, so that no reader meets a half-deleted one."""
        self._delete(f"{reference.path}/{MANIFEST}")
        self._delete(reference.path)

    def delete_partition(self, asset: str, partition: str) -> None:
        """Delete all versions of a partition, and what a writer or a deletion that was killed left of one."""
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
                f"The store of the artifacts does not answer or refused. {error.message}",
                remedy="Check CLEANROOM_ARTIFACTS_URL, its credentials and that the store is up; then try again.",
            ) from None

    def _give_name(self, draft: Path, target: Path) -> None:
        if target.is_dir() and not (target / MANIFEST).exists():
            shutil.rmtree(target, ignore_errors=True)  # what a cut-off deletion left
        try:
            os.rename(draft, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise ArtifactError("This version of the artifact exists already.") from None
            raise
        # a new partition's folder must outlive a power cut too, up to the root
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
            with suppress(Exception):  # the store that failed may fail again; without a manifest nothing is read
                self._files.delete(reference.path)
            raise


def check_store_url(url: str) -> None:
    """Refuse the URL of a store that cannot be opened here; nothing is connected.

    Raises:
        ConfigurationError: It cannot be read, or its kind of store is not known.
    """
    if not _is_local(url):
        from cleanroom_pipelines.storage.remote_bucket import open_url

        open_url(url)


def _bucket_at(url: str, scratch: Path, patience: Patience) -> "RemoteBucket":
    from cleanroom_pipelines.storage.remote_bucket import RemoteBucket, open_url

    return RemoteBucket(partial(open_url, url, patience), scratch)


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is a draft: of no use once its writer is gone."""
    return _LEFTOVER.fullmatch(name) is not None


def _is_local(url: str) -> bool:
    return urlsplit(url).scheme in ("", "file")


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name != MANIFEST


@contextmanager
def full_disk_is_an_error() -> Iterator[None]:
    """Turn the operating system's "no space left" into an error with a remedy."""
    try:
        yield
    except StorageFullError:
        raise
    except OSError as error:
        if isinstance(told := of_the_machine(error), StorageFullError):
            raise told from None
        raise


def of_the_machine(error: OSError) -> CleanroomError | None:
    """Our own error for one of the operating system's that has a known cause and remedy; None for another."""
    if isinstance(error, CleanroomError):
        return error
    # numpy tells of a write that was cut short in words alone
    if error.errno in _FULL_DISK or (error.errno is None and _CUT_SHORT.search(str(error))):
        return StorageFullError("The disk is full.", remedy="Free some space and try again.")
    if error.errno in _NOT_ALLOWED:
        return ConfigurationError(
            f"A file or folder may not be read or written ({errno.errorcode[error.errno]}).",
            remedy="See that the home, and the place of what is written, are this user's and not read-only.",
        )
    if error.errno in _TOO_MANY_FILES:
        return ConfigurationError(
            "This process may open no more files.", remedy="Raise the limit (ulimit -n), then try again."
        )
    if error.errno == errno.EIO:
        return ConfigurationError(
            "The disk failed (EIO).", remedy="See the system's log; the disk may be damaged."
        )
    return None


def write_durably(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and give it its name; all of it or nothing."""
    with replacing(path) as draft:
        draft.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside a path; when the body ends well it is flushed and takes the path's name.

    The name is another one for each writer, so that two of the same file do not meet; its mode is 0600.
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
        # readers take whatever lies in the folder, so nothing may lie there that no manifest lists
        raise ArtifactError(
            f"The artifact of {manifest.asset} holds a file that its manifest does not list.",
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
    """Flush a folder's names to disk, so that a rename in it outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
