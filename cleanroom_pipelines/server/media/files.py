"""Uploaded files before they are provisioned: storing, guessing the format, converting and deleting.

Lives here: every call about uploads that are not provisioned yet, and the state of a room's data.
Add here when callers can do something else with an upload.
Keep out: provisioning (`rooms.py`), and reading files (`uploads`).
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cleanroom_pipelines.catalog import UPLOAD, Kind, Upload
from cleanroom_pipelines.errors import ArtifactError, InputError, UsageError
from cleanroom_pipelines.identity import Dataset
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.server.media.access import Call, check_quota, denied
from cleanroom_pipelines.server.media.rooms import own_upload, work_of
from cleanroom_pipelines.terms import MatchingId, Permission
from cleanroom_pipelines.uploads.guessing import SEPARATORS, Guess, guess_file, rewritten

_KINDS = frozenset({"STRING", "EMAIL", "HASHED_EMAIL", "PHONE_NUMBER", "HASHED_PHONE_NUMBER"})


def store_upload(call: Call, chunks: Iterable[bytes], name: str, matching_id: str | None = None) -> dict[str, Any]:
    """Encrypt and store a file that the caller uploads.

    Raises:
        InvalidRequestError: The kind of matching ids is unknown.
        UploadTooLargeError: The file exceeds the installation's upload limit.
    """
    if matching_id is not None and matching_id not in _KINDS:
        raise errors.InvalidRequestError(
            "Unknown kind of matching ids.", remedy=f"Give one of {', '.join(sorted(_KINDS))}."
        )
    upload_id = call.installation.token_hex(16)
    call.installation.catalog.deletion.announce(UPLOAD, upload_id)
    sealed = call.installation.uploads.seal(upload_id, _limited(call, chunks))
    try:
        call.installation.catalog.rooms.add_upload(
            upload_id,
            call.email,
            name or "file",
            n_bytes=sealed.n_bytes,
            digest=sealed.digest,
            matching_id=matching_id,
            location=sealed.location,
        )
    except UsageError:
        call.installation.uploads.delete(sealed.location)
        raise
    call.trail["n_bytes"] = sealed.n_bytes
    return {"manifest_hash": upload_id, "name": name, "n_bytes": sealed.n_bytes}


def check_uploads(call: Call) -> None:
    """Check that the caller may store another file.

    Raises:
        QuotaExceededError: The caller has too many files that are not in a data room yet.
    """
    held = call.installation.catalog.rooms.count_uploads(call.email)
    check_quota("files that are not in a data room yet", held, call.installation.settings.max_uploads)


def get_upload(call: Call) -> dict[str, Any]:
    """Return one of the caller's uploads, and guess how to read it as a dataset of a room.

    Raises:
        ValidationFailedError: It cannot be a file of this dataset.
    """
    dataset, kinds = _dataset(call)
    upload = own_upload(call, call.text("manifest_hash"))
    return {**_shown(upload), **_guess(call, upload, dataset, kinds).as_dict()}


def convert_upload(call: Call) -> dict[str, Any]:
    """Replace one of the caller's uploads with its rows, parsed with the given separator and header flag.

    Raises:
        ValidationFailedError: The result cannot be a file of this dataset; the upload is kept.
    """
    dataset, kinds = _dataset(call)
    upload, separator = own_upload(call, call.text("manifest_hash")), call.text("separator")
    if separator not in SEPARATORS:
        raise errors.InvalidRequestError(
            "Unknown separator.", remedy="Give a comma, a semicolon, a tab or a vertical bar."
        )
    _check_unused(call, upload)
    with _opening(call, upload) as (path, scratch):
        chunks = rewritten(path, scratch, separator=separator, header=call.flag("header"), max_bytes=_most(call))
        stored = store_upload(call, chunks, upload.name, upload.matching_id)
    converted = own_upload(call, stored["manifest_hash"])
    try:
        guess = _guess(call, converted, dataset, kinds)
    except InputError:
        _delete(call, converted)
        raise
    _delete(call, upload)
    return {**_shown(converted), **guess.as_dict()}


def delete_upload(call: Call) -> dict[str, Any]:
    """Delete one of the caller's uploads that no room and no lab uses.

    Raises:
        ConflictError: A room or lab uses it.
    """
    upload = own_upload(call, call.text("manifest_hash"))
    _check_unused(call, upload)
    _delete(call, upload)
    return {}


def get_room_data(call: Call) -> dict[str, Any]:
    """Return the state of the data that the caller may provide to a room, with its validation reports."""
    room = call.room()
    sides: dict[str, Any] = {}
    if room.group.may(Permission.PROVIDE_BASE_AUDIENCE):
        reports = _documents(call, room.id, "base_audience").get("reports", {})
        sides["base"] = {"provided": room.record.has_base, "reports": reports}
    if room.group.may(Permission.PROVIDE_SEED_AUDIENCE):
        report = _documents(call, room.id, "seed_audiences").get("report")
        sides["seeds"] = {"provided": room.record.has_seeds, "reports": {"seeds": report} if report else {}}
    if not sides:
        raise denied()
    newest = call.installation.catalog.resources.newest_version(Kind.DATA_ROOM, room.id)
    return {"sides": sides, "work": work_of(call, newest), "has_data": bool(room.record.inputs)}


def _dataset(call: Call) -> tuple[Dataset, tuple[MatchingId, ...]]:
    """Return the dataset that a call names, if the caller may provide it, and the room's kinds of matching ids."""
    try:
        dataset = Dataset(call.text("dataset").upper())
    except ValueError:
        known = ", ".join(each.key for each in Dataset)
        raise errors.InvalidRequestError("Unknown dataset.", remedy=f"Give one of {known}.") from None
    is_seed = dataset is Dataset.SEED_AUDIENCES
    room = call.room(Permission.PROVIDE_SEED_AUDIENCE if is_seed else Permission.PROVIDE_BASE_AUDIENCE)
    return dataset, tuple(MatchingId(each) for each in room.record.matching_ids)


def _guess(call: Call, upload: Upload, dataset: Dataset, kinds: tuple[MatchingId, ...]) -> Guess:
    with _opening(call, upload) as (path, scratch):
        return guess_file(path, dataset, kinds, scratch, max_bytes=_most(call))


@contextmanager
def _opening(call: Call, upload: Upload) -> Iterator[tuple[Path, Path]]:
    """Decrypt an upload for the duration of the `with` block; yield its path and an empty folder."""
    with ExitStack() as stack:
        path = stack.enter_context(call.installation.uploads.opening(upload.location, upload.digest))
        folder = tempfile.TemporaryDirectory(prefix="guess-", dir=call.installation.home.scratch)
        yield path, Path(stack.enter_context(folder))


def _most(call: Call) -> int | None:
    return call.installation.engine_settings.unpacked_bytes


def _check_unused(call: Call, upload: Upload) -> None:
    if upload.id in call.installation.catalog.rooms.uploads_in_use():
        raise errors.ConflictError(
            "A data room or data lab uses the file.",
            remedy="Remove the data from the room, or delete the data lab.",
        )


def _delete(call: Call, upload: Upload) -> None:
    call.installation.uploads.delete(upload.location)
    call.installation.catalog.rooms.forget_upload(upload.id)


def _shown(upload: Upload) -> dict[str, Any]:
    return {"manifest_hash": upload.id, "name": upload.name, "n_bytes": upload.n_bytes}


def _documents(call: Call, room_id: str, asset: str) -> Mapping[str, Any]:
    try:
        return newest_artifact(call.installation, Kind.DATA_ROOM, room_id, asset)[1]
    except ArtifactError:
        return {}


def _limited(call: Call, chunks: Iterable[bytes]) -> Iterator[bytes]:
    left = call.installation.settings.max_upload_bytes
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise errors.UploadTooLargeError(
                "The file exceeds the server's upload limit.",
                remedy="Upload a smaller file, or ask the operator for a higher limit.",
            )
        yield chunk
