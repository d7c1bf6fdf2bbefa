"""Backing up an installation to one file, and restoring it.

Lives here: the parts of a backup, the order in which they are read, and detection of damaged backups.
Add here when the home gets another part that must survive.
Keep out: Dagster's own history; its UI is rebuilt from the catalogue (rebuilding.py).
"""

import hashlib
import io
import os
import secrets
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from cleanroom_pipelines.catalog import Catalog
from cleanroom_pipelines.errors import (
    ConfigurationError,
    ConflictError,
    InputError,
    StorageFullError,
    UsageError,
)
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.opening import digest_of
from cleanroom_pipelines.storage import Home, InstallationKey
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error, is_leftover, replacing
from cleanroom_pipelines.storage.audit import DATABASE, HEADS
from cleanroom_pipelines.storage.identity import IDENTITY_FILE, HomeIdentity, Identity

_FORMAT = "cleanroom-backup-1"
_FORMAT_FILE, _END_FILE = "FORMAT", "END"
_CATALOG, _KEY = "catalog.db", "installation.key"
_FILES = frozenset({_FORMAT_FILE, _END_FILE, _CATALOG, _KEY, IDENTITY_FILE})
# Seeds come right after the catalogue: they are deleted when their jobs end.
_AUDIT = "audit"
_PARTS = ("seeds", "uploads", "inbox", "artifacts", "accounts", _AUDIT)
_CHUNK_BYTES = 1 << 20


def back_up(installation: Installation, target: Path) -> None:
    """Back up the catalogue, key, artifacts, seeds, warehouses and buckets of a local home to one tar file.

    The catalogue is copied first, consistently, and the copy is checked. Artifacts are immutable, so the backup
    holds everything the catalogue refers to, even while work continues. Links are skipped: their targets are
    outside of the home. The file contains the installation key, so store it just as securely.

    Args:
        installation: The installation to back up.
        target: The file to create.

    Raises:
        UsageError: The catalogue or the artifacts are outside of the home (their own tools back them up), or the
            target's folder is missing or is itself backed up.
        ConflictError: The target exists.
        ConfigurationError: The catalogue's file is damaged.
        StorageFullError: The disk is full; nothing is left behind.
    """
    settings, home = installation.settings, installation.home
    if settings.catalog_url or settings.artifacts_url:
        raise UsageError(
            "Only an installation stored entirely in its home can be backed up with this command.",
            remedy="Back up the database and the object store with their own tools.",
        )
    if os.path.lexists(target):
        raise ConflictError("The backup file already exists.", remedy="Give another file name.")
    if not target.parent.is_dir():
        raise UsageError("The folder of the backup file does not exist.", remedy="Create it first.")
    if any(target.resolve().is_relative_to(home.root / part) for part in _PARTS):
        raise UsageError("The backup file would contain itself.", remedy="Give a path outside the home.")
    key = installation.key.secret
    with full_disk_is_an_error():
        folder = Path(tempfile.mkdtemp(prefix="backup-", dir=home.scratch))
    try:
        with full_disk_is_an_error(), replacing(target) as draft:
            installation.catalog.resources.copy_to(folder / _CATALOG)
            (folder / _AUDIT).mkdir()
            installation.audit.copy_to(folder / _AUDIT)
            identity = _identity_of(folder)
            with tarfile.open(draft, "w") as archive:
                _add_bytes(archive, _FORMAT_FILE, _FORMAT.encode())
                _add_file(archive, folder / _CATALOG, _CATALOG)
                _add_bytes(archive, _KEY, key)
                if identity is not None:
                    _add_bytes(archive, IDENTITY_FILE, identity.to_json())
                for part in _PARTS:
                    _add_folder(archive, home.root / part, part)
                for path in sorted((folder / _AUDIT).iterdir()):
                    _add_file(archive, path, f"{_AUDIT}/{path.name}")
            _add_end(draft)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def restore(source: Path, root: Path) -> None:
    """Restore a backup into a folder that does not exist or is empty.

    The restored home contains the key, even if it was stored elsewhere before.

    Args:
        source: A file that `back_up` wrote.
        root: The new home.

    Raises:
        InputError: The file is not a backup, has unexpected content, or is damaged; nothing is left behind.
        ConflictError: The folder is not empty.
        StorageFullError: The disk is full; nothing is left behind.
    """
    if os.path.lexists(root) and (not root.is_dir() or any(root.iterdir())):
        raise ConflictError("The home is not empty.", remedy="Set CLEANROOM_HOME to a new folder.")
    with _damage_is_an_error():
        _check(source)
    root.parent.mkdir(parents=True, exist_ok=True)
    # An existing empty folder may be a mounted volume, which cannot be replaced.
    is_there = root.exists()
    with full_disk_is_an_error():
        draft = Path(tempfile.mkdtemp(prefix=".restore-", dir=root if is_there else root.parent))
    try:
        with full_disk_is_an_error(), _damage_is_an_error(), tarfile.open(source, "r:") as archive:
            # Python before 3.11.4 has no filters; `_check` has rejected all but plain files with plain names.
            filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(draft, **filters)  # noqa: S202
        _check_restored(draft)
        (draft / _KEY).chmod(0o600)
        for name in (_FORMAT_FILE, _END_FILE):
            (draft / name).unlink()
        if is_there:
            # the catalogue last: without it there is no installation
            for path in sorted(draft.iterdir(), key=lambda path: path.name == _CATALOG):
                os.rename(path, root / path.name)
            draft.rmdir()
        else:
            os.rename(draft, root)
    except BaseException:
        for path in [*root.iterdir()] if is_there else [draft]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise


def _add_folder(archive: tarfile.TarFile, folder: Path, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o700
    archive.addfile(entry)
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_copied = name == _AUDIT and path.name.startswith((DATABASE, HEADS))  # in one state, by `copy_to`
        if is_leftover(path.name) or path.is_symlink() or is_copied:
            continue
        if path.is_dir():
            _add_folder(archive, path, f"{name}/{path.name}")
        elif path.is_file():
            _add_file(archive, path, f"{name}/{path.name}")


def _add_file(archive: tarfile.TarFile, path: Path, name: str) -> None:
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return  # its job ended in the meantime
    with stream:
        status = os.fstat(stream.fileno())
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode = status.st_size, int(status.st_mtime), stat.S_IMODE(status.st_mode)
        archive.addfile(entry, stream)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def _add_end(draft: Path) -> None:
    """Append a digest to the archive, so that a truncated archive is detected."""
    with tarfile.open(draft, "a") as archive:
        _add_bytes(archive, _END_FILE, _digest(draft, archive.offset).encode())


def _check(source: Path) -> None:
    with tarfile.open(source, "r:") as archive:
        first = archive.next()
        marker = archive.extractfile(first) if first and first.name == _FORMAT_FILE else None
        if marker is None or marker.read() != _FORMAT.encode():
            raise InputError("This file is not a clean-room backup.", remedy="Give a file that `backup` wrote.")
        last = archive.getmembers()[-1]
        _reject_foreign(archive.getmembers())
        end = archive.extractfile(last) if last.name == _END_FILE else None
        if end is None or end.read().decode() != _digest(source, last.offset):
            raise InputError("The backup is damaged or truncated.", remedy="Give another copy of it.")


def _reject_foreign(members: Sequence[tarfile.TarInfo]) -> None:
    """Reject a backup with unexpected members: unknown parts, links, devices or duplicate names."""
    names = [member.name for member in members]
    for member in members:
        path = PurePosixPath(member.name)
        is_part = path.parts[0] in _PARTS and ".." not in path.parts and (member.isfile() or member.isdir())
        if not is_part and not (member.name in _FILES and member.isfile()):
            raise InputError("The backup has unexpected content.", remedy="Give a file that `backup` wrote.")
    if len(set(names)) < len(names) or not {_CATALOG, _KEY} <= set(names):
        raise InputError("A backup part is missing or duplicated.", remedy="Give a file that `backup` wrote.")


def _check_restored(home: Path) -> None:
    """Reject a restored home whose catalogue is damaged, or whose key does not match its catalogue."""
    try:
        identity = _identity_of(home)
        if identity is not None:
            HomeIdentity(home).write(identity)
            key = InstallationKey.load(home / _KEY)
            if digest_of(key) != identity.key_digest:
                raise InputError("The backup's key does not match its catalogue.", remedy="Give another backup.")
    except ConfigurationError as error:
        raise InputError(f"The backup is damaged: {error.message}", remedy="Give another copy of it.") from None


def _identity_of(folder: Path) -> Identity | None:
    """Check a home's catalogue for damage and return its identity; catalogues of earlier releases have none."""
    url = Home(folder).catalog_url
    opened = Catalog(url, clock=lambda: datetime.now(UTC), token_hex=secrets.token_hex)
    try:
        opened.resources.check_file()
        return opened.ownership.identity()
    finally:
        opened.database.close()


def _digest(file: Path, n_bytes: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while n_bytes > 0 and (chunk := stream.read(min(_CHUNK_BYTES, n_bytes))):
            digest.update(chunk)
            n_bytes -= len(chunk)
    return digest.hexdigest()


@contextmanager
def _damage_is_an_error() -> Iterator[None]:
    try:
        yield
    except StorageFullError:
        raise
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        FileNotFoundError,
        IsADirectoryError,
        PermissionError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The backup cannot be read ({type(error).__name__}).", remedy="Check the file; nothing was restored."
        ) from None
