"""Backing an installation up into one file, and restoring it.

Lives here: what belongs to a backup and in which order it is read.
Keep out: Dagster's own history; runs are not needed to go on.
"""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from cleanroom_pipelines.errors import ConflictError, InputError, UsageError
from cleanroom_pipelines.execution.installation import Installation
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error

_FORMAT = "cleanroom-backup-1"
_FORMAT_FILE = "FORMAT"
_PARTS = ("accounts", "inbox", "artifacts", "seeds")


def back_up(installation: Installation, target: Path) -> None:
    """Write the catalogue, the key, artifacts, seeds, warehouses and buckets of a local home into one tar file.

    The catalogue is copied first and consistently; artifacts are immutable, so whatever it refers to is complete
    in the copy, work that goes on meanwhile included. The file holds the installation key: keep it as safe.

    Raises:
        UsageError: The catalogue or the artifacts do not lie in the home; their own tools back them up.
        ConflictError: The target exists.
    """
    settings = installation.settings
    if settings.catalog_url or settings.artifacts_url:
        raise UsageError(
            "Only an installation that lies wholly in its home is backed up here.",
            remedy="Back the database and the object store up with their own tools.",
        )
    if target.exists():
        raise ConflictError("The backup file exists already.", remedy="Give another name.")
    home = installation.home
    draft = target.with_name(f".{target.name}.draft")
    folder = Path(tempfile.mkdtemp(prefix="backup-", dir=home.scratch))
    try:
        with full_disk_is_an_error():
            installation.catalog.copy_to(folder / "catalog.db")
            (folder / _FORMAT_FILE).write_text(_FORMAT)
            _ = installation.key
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                with tarfile.open(fileobj=stream, mode="w") as archive:
                    archive.add(folder / _FORMAT_FILE, _FORMAT_FILE)
                    archive.add(folder / "catalog.db", "catalog.db")
                    archive.add(settings.key_file or home.key_file, "installation.key")
                    for part in _PARTS:
                        archive.add(home.root / part, part, filter=_without_drafts)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def restore(source: Path, root: Path) -> None:
    """Restore a backup into a folder that does not exist or is empty.

    Raises:
        InputError: The file is no backup, or is damaged; nothing is left behind.
        ConflictError: The folder holds something.
    """
    if root.exists() and any(root.iterdir()):
        raise ConflictError("The home is not empty.", remedy="Set CLEANROOM_HOME to a new folder.")
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        with full_disk_is_an_error(), tarfile.open(source) as archive:
            first = archive.next()
            marker = archive.extractfile(first) if first and first.name == _FORMAT_FILE else None
            if marker is None or marker.read().decode() != _FORMAT:
                raise InputError("This file is no backup of this project.", remedy="Give one that `backup` wrote.")
            archive.extractall(draft, filter="data")
        if root.exists():
            root.rmdir()
        os.rename(draft, root)
        (root / "installation.key").chmod(0o600)
    except (tarfile.TarError, EOFError, UnicodeDecodeError, FileNotFoundError) as error:
        raise InputError(
            f"The backup cannot be read ({type(error).__name__}).", remedy="Check the file; nothing was restored."
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _without_drafts(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if Path(entry.name).name.startswith(".") else entry
