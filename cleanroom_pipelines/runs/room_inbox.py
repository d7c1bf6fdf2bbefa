"""The data-room inbox: files that the operator drops for one side of a room.

Lives here: provisioning a room with the complete files in `inbox/rooms/<data room>/<dataset>/`.
Add here when a room accepts another dataset.
Keep out: validating file contents (the run does that and reports problems), rejecting files (drops.py), and the
seed inbox.

The inner folder is the dataset: `matching`, `segments`, `demographics`, `embeddings` or `seed_audiences`. If a
room has several kinds of matching ids, the names of `matching` and `seed_audiences` folders end with the kind, as
in `matching-EMAIL`. A dropped file acts as the operator, for the side that provides the dataset, and the audit log
records it.
"""

import difflib
import json
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from cleanroom_pipelines.catalog import UPLOAD, DataRoom, Kind, Status, Upload
from cleanroom_pipelines.errors import InputError, NotFoundError, StatusCode, UsageError
from cleanroom_pipelines.identity import Dataset, InputName
from cleanroom_pipelines.runs.drops import (
    ACCEPTED,
    REJECTED,
    CompleteDrop,
    Drop,
    RejectedDrop,
    complete_drop,
    drops_below,
    one_at_a_time,
    reject,
    write_receipt,
)
from cleanroom_pipelines.runs.inbox_folders import folder_of, owner_of_folder, same_named
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.storage.seed_parts import check_not_workbook
from cleanroom_pipelines.storage.vault import chunks_of
from cleanroom_pipelines.terms import MatchingId
from cleanroom_pipelines.ways_in import acting_for

FOLDERS = tuple(dataset.key for dataset in Dataset)


def find_room_drops(installation: Installation) -> Iterator[Drop]:
    """Find all files in the data-room inbox, even incomplete ones and those in a wrong folder."""
    yield from drops_below(installation.home, installation.home.inbox_rooms)


@acting_for("inbox")
def provision_drop(installation: Installation, drop: Drop) -> DataRoom | RejectedDrop | None:
    """Encrypt a copy of a complete drop, provision its room with it, and delete the file; or reject the file.

    After an interruption the same upload is reused, so that a file provisions its room only once.

    Returns:
        The room; the receipt of a drop that was rejected because of its folder or format; None when the file no
        longer exists.

    Raises:
        StillWrittenError: A process may be writing the file; it stays.
        StorageFullError: The disk is full; the file stays.
    """
    with one_at_a_time(installation):
        try:
            complete = complete_drop(installation, drop)
        except FileNotFoundError:
            return None  # another process got there first
        room_id = ""
        try:
            room_id = owner_of_folder(installation, Kind.DATA_ROOM, drop.place, depth=3).id
            room = installation.catalog.get(DataRoom, room_id)
            name = _input_of(room, drop.place[-1])
            check_not_workbook(drop.path)
        except (InputError, NotFoundError, UsageError) as error:
            entry = {"operation": "provision", "room": room_id}
            return reject(installation, complete, error, entry, what="upload")
        upload = _sealed_upload(installation, room, complete, name.matching_id)
        if room.inputs.get(str(name)) != upload.id:
            note = {"file": drop.path.name, "upload": {"bytes": upload.n_bytes, "digest": upload.digest}}
            write_receipt(drop.path.parent / ACCEPTED / f"{upload.id}.json", note)
            n_embeddings = None
            if name.dataset is Dataset.EMBEDDINGS:
                with installation.uploads.opening(upload.location, upload.digest) as copy:
                    n_embeddings = _n_embeddings(installation, copy)
            installation.audit.write(
                {
                    "way": "inbox",
                    "operation": "provision",
                    "room": room.id,
                    "dataset": name.dataset.key,
                    "outcome": "ok",
                }
            )
            installation.catalog.rooms.provision(room.id, {str(name): upload.id}, n_embeddings=n_embeddings)
        complete.remove()
        return room


def _sealed_upload(
    installation: Installation, room: DataRoom, complete: CompleteDrop, matching_id: MatchingId | None
) -> Upload:
    """Return the encrypted upload of a drop; create it unless an upload with the file's id already exists."""
    folder = complete.drop.path.parent.name
    for number in count():
        mark = f"{room.id}/{folder}/{complete.state}/{number}"
        upload_id = installation.key.digest("dropped uploads", mark.encode())[:32]
        try:
            upload = installation.catalog.rooms.upload(upload_id)
        except NotFoundError:
            break
        if upload.location is not None or upload.id in room.inputs.values():
            return upload
        # its content was deleted, after a rejection or a day without use: accept the file again
    installation.catalog.deletion.announce(UPLOAD, upload_id)
    with complete.drop.path.open("rb") as stream:
        sealed = installation.uploads.seal(upload_id, chunks_of(stream))
    try:
        complete.check()
    except BaseException:
        installation.uploads.delete(sealed.location)
        raise
    return installation.catalog.rooms.add_upload(
        upload_id,
        room.owner_email,
        f"dropped {folder}",
        n_bytes=sealed.n_bytes,
        digest=sealed.digest,
        matching_id=matching_id and matching_id.value,
        location=sealed.location,
    )


def close_room_drop(
    installation: Installation, upload_id: str, code: StatusCode | None = None, message: str = ""
) -> None:
    """Finish with a dropped file after a run: delete its note and, if the run failed, write a receipt.

    Does nothing for other uploads.

    Args:
        installation: The installation.
        upload_id: The upload.
        code: Why the run failed; None if it succeeded.
        message: The reason in words.
    """
    for note in installation.home.inbox_rooms.glob(f"*/*/{ACCEPTED}/{upload_id}.json"):
        if code is not None:
            failure = {"status": Status.CREATE_FAILED.value, "statusCode": code.value, "message": message}
            write_receipt(note.parents[1] / REJECTED / note.name, json.loads(note.read_text()) | failure)
        note.unlink(missing_ok=True)


def make_room_inbox(installation: Installation, room: DataRoom) -> None:
    """Create a room's inbox folders; rooms with the same name get new ones, named after their partition keys."""
    for each in same_named(installation, room):
        _make_folders(installation, installation.catalog.get(DataRoom, each.id))


def _make_folders(installation: Installation, room: DataRoom) -> None:
    several, inbox = len(room.matching_ids) > 1, folder_of(installation, room)
    for dataset in Dataset:
        for kind in room.matching_ids if several and dataset.has_ids else ("",):
            name = f"{dataset.key}-{kind}" if kind else dataset.key
            (inbox / name).mkdir(mode=0o700, parents=True, exist_ok=True)


def _input_of(room: DataRoom, folder: str) -> InputName:
    key, _, kind = folder.partition("-")
    if key not in FOLDERS:
        close = difflib.get_close_matches(key.lower(), FOLDERS, n=1)
        guess = f"Did you mean {close[0]}? " if close else ""
        remedy = f"{guess}Use {', '.join(FOLDERS)}."
        raise InputError("The inbox folder is not named after a dataset.", remedy=remedy)
    dataset = Dataset(key.upper())
    if not dataset.has_ids:
        return InputName(dataset)
    if not kind and len(room.matching_ids) == 1:
        kind = room.matching_ids[0]
    if kind not in room.matching_ids:
        raise InputError(
            "The inbox folder is named after a kind of matching ids that the room does not accept.",
            remedy=f"Use a folder such as {key}-{room.matching_ids[0]}.",
        )
    return InputName(dataset, MatchingId(kind))


def _n_embeddings(installation: Installation, path: Path) -> int:
    """Return the number of values per embedding: the file's columns, minus user and scope."""
    from cleanroom_pipelines.uploads.room_files import open_room_file
    from cleanroom_pipelines.uploads.room_reading import sizes_of

    max_bytes = installation.engine_settings.unpacked_bytes
    with tempfile.TemporaryDirectory(prefix="drop-", dir=installation.home.scratch) as scratch:
        try:
            file = open_room_file(path, Path(scratch), sizes=sizes_of(Dataset.EMBEDDINGS), max_bytes=max_bytes)
        except InputError:
            return 1  # validation reports what is wrong
        return max(1, file.n_columns - 2)
