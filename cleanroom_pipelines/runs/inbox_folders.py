"""Inbox folders of configured audience models and data rooms, named after the resource or its partition key.

Lives here: which resource a folder belongs to, which folder to create, and the error for files in other folders.
Add here when folders of the inbox can be named in another way.
Keep out: the files in them (drops.py, inbox.py, room_inbox.py).

Files are accepted in a folder with the resource's name (in any letter case) and in one with its partition key.
Names of folders on disk are compared with names of resources. A resource's name becomes part of a path only if it
consists of letters, digits and the punctuation below, and if no other resource of its kind has it.
"""

import difflib
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from cleanroom_pipelines.catalog import RECORDS, Kind, Resource
from cleanroom_pipelines.errors import NotFoundError, StatusCode, UsageError
from cleanroom_pipelines.runs.drops import ACCEPTED, REJECTED
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.resources import listed
from cleanroom_pipelines.storage import Home
from cleanroom_pipelines.storage.layout import is_partition_key

_SAFE = re.compile(r"\w(?:[\w .,()&+-]*[\w)])?")


def inbox_of(home: Home, kind: Kind) -> Path:
    """Return the folder that contains the inbox folders of a kind's resources."""
    return home.inbox_rooms if kind is Kind.DATA_ROOM else home.inbox_seeds


def folder_of(installation: Installation, record: Resource) -> Path:
    """Return the folder for a resource's files: the one that exists, or else the one to create.

    It is named after the resource, or after its partition key: if another resource of its kind has the same name,
    if the name is not safe as the name of a folder, or if only the folder with the key exists.
    """
    inbox = inbox_of(installation.home, record.kind)
    by_key = inbox / record.id
    if not _is_safe(record.name) or len(same_named(installation, record)) > 1:
        return by_key
    existing = _entries(inbox, record.name)
    if existing:
        return existing[0] if _is_folder(existing[0]) else by_key
    return by_key if by_key.is_dir() else inbox / record.name


def folders_to_delete(installation: Installation, record: Resource) -> tuple[Path, ...]:
    """Return the inbox folders that belong only to this resource."""
    inbox = inbox_of(installation.home, record.kind)
    is_only = _is_safe(record.name) and len(same_named(installation, record)) == 1
    return (inbox / record.id, *(filter(_is_folder, _entries(inbox, record.name)) if is_only else ()))


def same_named(installation: Installation, record: Resource) -> tuple[Resource, ...]:
    """Return a resource and all others of its kind that have the same name in any letter case."""
    found = _with_name(installation, record.kind, record.name)
    return (record, *(each for each in found if each.id != record.id))


def owner_of_folder(installation: Installation, kind: Kind, place: tuple[str, ...], *, depth: int) -> Resource:
    """Return the resource that an inbox folder belongs to.

    Args:
        installation: The installation.
        kind: The kind of the resources.
        place: Names of the folders from the inbox to a file.
        depth: How many folders there should be; the second is the resource's.

    Raises:
        UsageError: The folder belongs to no resource or to several; the remedy names the right folders.
    """
    root = inbox_of(installation.home, kind).name
    found: tuple[Resource, ...] = ()
    if len(place) == depth and place[0] == root:
        if is_partition_key(place[1]):
            with suppress(NotFoundError):
                return installation.catalog.get(RECORDS[kind], place[1])
        elif _is_safe(place[1]):
            found = _with_name(installation, kind, place[1])
    if len(found) == 1:
        return found[0]
    if found:
        raise _wrong_folder(
            f"{len(found)} {kind.words}s have the name of the file's folder.",
            f"Put the file into a folder named after a partition key: {_folders_in_words(installation, found)}.",
        )
    raise _not_a_folder(installation, kind, place[1:] if place[:1] == (root,) else place)


def _not_a_folder(installation: Installation, kind: Kind, parts: tuple[str, ...]) -> UsageError:
    message = f"The file's folder does not belong to a {kind.words}."
    if meant := _closest(installation, kind, parts):
        return _wrong_folder(message, f"Did you mean {_folders_in_words(installation, meant, ' or ')}?")
    where = f"inbox/{inbox_of(installation.home, kind).name}/NAME/{_below(kind)}"
    return _wrong_folder(
        message, f"Put the file directly into {where}. NAME is the {kind.words}'s name or partition key."
    )


def _closest(installation: Installation, kind: Kind, parts: tuple[str, ...]) -> tuple[Resource, ...]:
    for part in filter(is_partition_key, parts):
        with suppress(NotFoundError):
            return (installation.catalog.get(RECORDS[kind], part),)
    names = {_normal(name): name for name in installation.catalog.resources.names(kind)}
    for part in parts:
        if close := difflib.get_close_matches(_normal(part), names, n=1):
            return _with_name(installation, kind, names[close[0]])
    return ()


def _folders_in_words(installation: Installation, records: tuple[Resource, ...], separator: str = ", ") -> str:
    folders = [folder_of(installation, record).relative_to(installation.home.root) for record in records]
    return listed(
        (f"{folder}/{_below(record.kind)}" for folder, record in zip(folders, records, strict=True)), separator
    )


def _below(kind: Kind) -> str:
    return "DATASET/" if kind is Kind.DATA_ROOM else ""


def _wrong_folder(message: str, remedy: str) -> UsageError:
    return UsageError(message, remedy=remedy, status_code=StatusCode.PARENT_NOT_ACTIVE)


def _with_name(installation: Installation, kind: Kind, name: str) -> tuple[Resource, ...]:
    resources = installation.catalog.resources
    names = [each for each in resources.names(kind) if _normal(each) == _normal(name)]
    return tuple(record for each in names for record in resources.named(each, kind))


def _is_safe(name: str) -> bool:
    return (
        _SAFE.fullmatch(name) is not None
        and not is_partition_key(_normal(name))
        and _normal(name) not in (ACCEPTED, REJECTED)
    )


def _entries(inbox: Path, name: str) -> list[Path]:
    """Return a folder's entries that have this name in any letter case, the exact match first."""
    paths = inbox.iterdir() if inbox.is_dir() else ()
    return sorted(
        (path for path in paths if _normal(path.name) == _normal(name)),
        key=lambda path: (path.name != name, path.name),
    )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
