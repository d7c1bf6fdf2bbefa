"""Rooms and labs: creating them, what they are, what is provisioned, and their audit log.

Lives here: every call of the Media API about a room or a lab as a whole.
Add here when a room or lab can be asked or told something more.
Keep out: audiences (`audiences.py`) and questions (`jobs.py`).
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from cleanroom_pipelines.catalog import (
    DataLab,
    DataLabSpec,
    DataRoom,
    DataRoomSpec,
    Kind,
    ParticipantSpec,
    Status,
    Upload,
)
from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.identity import BASE_DATASETS, Dataset, InputName
from cleanroom_pipelines.media.errors import ConflictError, InvalidRequestError, NotValidatedError
from cleanroom_pipelines.privacy import PAIR_TENTHS, ReleasePolicy
from cleanroom_pipelines.runs.budgets import Budget, room_pair
from cleanroom_pipelines.runs.building import newest_artifact
from cleanroom_pipelines.server.media.access import Call, check_quota, denied
from cleanroom_pipelines.terms import CollaborationType, MatchingId, Permission


def whoami(call: Call) -> dict[str, Any]:
    """Who the token's user is."""
    return {"email": call.email}


def create_room(call: Call) -> dict[str, Any]:
    """Create a room; its owner is the caller."""
    catalog, token_hex = call.installation.catalog, call.installation.token_hex
    owned = catalog.rooms.count_owned(Kind.DATA_ROOM, call.email)
    check_quota("data rooms of one owner", owned, call.installation.settings.max_rooms)
    groups = [_group(value, token_hex(8)) for value in call.objects("participants")]
    types = _members(CollaborationType, call.texts("collaboration_types"), "collaboration type")
    kinds = _members(MatchingId, call.texts("matching_ids"), "kind of matching ids")
    record = catalog.resources.create(
        DataRoomSpec(
            name=call.text("name"),
            mark=token_hex(8),
            owner_email=call.email,
            participants=tuple(groups),
            collaboration_types=tuple(types),
            matching_ids=tuple(kind.value for kind in kinds),
            hide_absolute_values=call.flag("hide_absolute_values"),
            activation=_activation(call),
        ),
        declared=True,
    )
    assert isinstance(record, DataRoom)
    call.trail["room"] = record.id
    return _room(call, record)


def get_room(call: Call) -> dict[str, Any]:
    """A room's configuration, and what the pair of its providers has spent."""
    return _room(call, call.room().record)


def list_rooms(call: Call) -> dict[str, Any]:
    """The rooms that the caller is in."""
    mine = [room for room in call.installation.catalog.rooms.data_rooms() if room.group_of(call.email)]
    return {
        "rooms": [{"id": room.id, "name": room.name, "created_at": room.created_at.isoformat()} for room in mine]
    }


def create_lab(call: Call) -> dict[str, Any]:
    """Create a lab of uploads, and begin to validate it."""
    owned = call.installation.catalog.rooms.count_owned(Kind.DATA_LAB, call.email)
    check_quota("data labs of one owner", owned, call.installation.settings.max_labs)
    datasets = call.mapping("datasets") or {}
    for name, upload_id in datasets.items():
        _check_lab_input(name)
        _upload(call, upload_id)
    record = call.installation.catalog.resources.create(
        DataLabSpec(
            name=call.text("name"),
            mark=call.installation.token_hex(8),
            owner_email=call.email,
            datasets=dict(datasets),
            n_embeddings=call.number("n_embeddings", 0),
            activation=_activation(call),
        )
    )
    assert isinstance(record, DataLab)
    return _lab(call, record)


def get_lab(call: Call) -> dict[str, Any]:
    """A lab of the caller's, with its reports once it was validated."""
    return _lab(call, own_lab(call))


def own_lab(call: Call) -> DataLab:
    """The lab that the call names.

    Raises:
        PermissionDeniedError: There is none of the caller's.
    """
    try:
        lab = call.installation.catalog.get(DataLab, call.text("lab_id"))
    except CleanroomError as error:
        if isinstance(error, InvalidRequestError):
            raise
        raise denied() from None
    if lab.owner_email != call.email:
        raise denied()
    return lab


def provision_base(call: Call) -> dict[str, Any]:
    """Bring a lab's datasets into a room."""
    room, lab = call.room(Permission.PROVIDE_BASE_AUDIENCE), own_lab(call)
    if lab.status is not Status.ACTIVE:
        raise NotValidatedError("The data lab is not validated, or did not pass.", remedy="See its reports.")
    kinds = {InputName.parse(name).matching_id for name in lab.datasets} - {None}
    if not kinds <= set(room.record.matching_ids):
        raise InvalidRequestError(
            "The data lab has a kind of matching ids that the room does not have.",
            remedy="Build a lab of the room's kinds.",
        )
    for upload_id in lab.datasets.values():
        if call.installation.catalog.rooms.upload(upload_id).location is None:
            raise NotValidatedError(
                "The data lab's files went into a room already and were deleted.", remedy="Bring them again."
            )
    call.installation.catalog.rooms.provision(room.id, lab.datasets, BASE_DATASETS, n_embeddings=lab.n_embeddings)
    return {}


def deprovision_base(call: Call) -> dict[str, Any]:
    """Take the base audience out of a room."""
    room = call.room(Permission.PROVIDE_BASE_AUDIENCE)
    call.installation.catalog.rooms.provision(room.id, {}, BASE_DATASETS, n_embeddings=0)
    return {}


def provision_seeds(call: Call) -> dict[str, Any]:
    """Bring seed audiences into a room, in the place of those there are."""
    room = call.room(Permission.PROVIDE_SEED_AUDIENCE)
    add: dict[str, str] = {}
    for each in call.objects("datasets"):
        upload = _upload(call, each.get("manifest_hash"))
        kind = each.get("matching_id") or upload.matching_id
        if kind is None and len(room.record.matching_ids) == 1:
            kind = room.record.matching_ids[0]
        if kind not in room.record.matching_ids:
            raise InvalidRequestError(
                "A file's kind of matching ids is not one of the room's, or not said.", remedy="Say which it is."
            )
        name = str(InputName(Dataset.SEED_AUDIENCES, MatchingId(kind)))
        if name in add:
            raise InvalidRequestError(
                "Two files have one kind of matching ids.", remedy="Bring one file for each."
            )
        add[name] = upload.id
    if not add:
        raise InvalidRequestError("No file was named.", remedy="Give the hash of an upload.")
    call.installation.catalog.rooms.provision(room.id, add, (Dataset.SEED_AUDIENCES,))
    return {}


def deprovision_seeds(call: Call) -> dict[str, Any]:
    """Take the seed audiences out of a room."""
    room = call.room(Permission.PROVIDE_SEED_AUDIENCE)
    call.installation.catalog.rooms.provision(room.id, {}, (Dataset.SEED_AUDIENCES,))
    return {}


def get_provisioning(call: Call) -> dict[str, Any]:
    """Whether each side has brought its data."""
    room = call.room()
    return {"base": room.record.has_base, "seeds": room.record.has_seeds}


def get_audit_log(call: Call) -> dict[str, Any]:
    """What happened in the room: one's own group's actions in full, others' without what they were about."""
    room = call.room()
    entries = []
    for entry in call.installation.audit.entries(room=room.id):
        is_own = entry.get("participant") == room.group.id
        entries.append(
            {
                "at": entry.get("at") or entry.get("time"),
                "action": entry.get("operation"),
                "participant": entry.get("participant"),
                "outcome": entry.get("outcome"),
                "audience": entry.get("resource") if is_own else None,
                "user": entry.get("user") if is_own else None,
            }
        )
    return {"entries": entries}


def decline_room(call: Call) -> dict[str, Any]:
    """Refuse to take part: the room is no longer the caller's to see, and its owner sees that they declined.

    Raises:
        ConflictError: It is the caller's own room.
    """
    room = call.room()
    if room.record.owner_email == call.email:
        raise ConflictError(
            "The owner of a data room cannot decline it.", remedy="Ask the operator to delete the data room."
        )
    call.installation.catalog.rooms.decline_room(room.id, call.email)
    return {}


def _room(call: Call, record: DataRoom) -> dict[str, Any]:
    group = record.group_of(call.email)
    assert group is not None
    is_owner = record.owner_email == call.email
    groups = record.participants if is_owner else tuple(replace(each, declined=()) for each in record.participants)
    pair = room_pair(call.installation, record)
    budget = None if pair is None else Budget(call.installation, pair, record.id)
    spent = budget.as_dict(call.organization) | {"pair": list(budget.pair.organizations)} if budget else None
    return {
        "id": record.id,
        "name": record.name,
        "owner_email": record.owner_email,
        "participants": [each.as_dict() for each in groups],
        "collaboration_types": [each.value for each in record.collaboration_types],
        "matching_ids": list(record.matching_ids),
        "hide_absolute_values": record.hide_absolute_values,
        "activation": list(record.activation),
        "created_at": record.created_at.isoformat(),
        "privacy": ReleasePolicy().as_dict(budget.ledger.total if budget else PAIR_TENTHS),
        "ledger": spent,
        "full_lookalike": pair is not None
        and call.installation.catalog.pairs.is_full_lookalike(pair.id, record.id),
    }


def _lab(call: Call, record: DataLab) -> dict[str, Any]:
    documents: Mapping[str, Any] = {}
    newest = call.installation.catalog.resources.newest_version(Kind.DATA_LAB, record.id)
    if "data_lab" in newest.artifacts:
        _, documents = newest_artifact(call.installation, Kind.DATA_LAB, record.id, "data_lab")
    error = None
    if newest.status is Status.CREATE_FAILED:
        error = {"message": newest.status_message or "The data lab cannot be used."}
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status.value,
        "is_validated": record.status is Status.ACTIVE,
        "reports": documents.get("reports"),
        "statistics": documents.get("statistics"),
        "error": error,
    }


def _check_lab_input(name: str) -> None:
    with suppress(ValueError):
        if InputName.parse(name).dataset in BASE_DATASETS:
            return
    known = [str(InputName(Dataset.MATCHING, kind)) for kind in MatchingId]
    known += [str(InputName(dataset)) for dataset in BASE_DATASETS if not dataset.has_ids]
    raise InvalidRequestError(
        "A data lab has a dataset that is not known.", remedy=f"Give some of {', '.join(known)}."
    )


def _upload(call: Call, upload_id: object) -> Upload:
    try:
        upload = call.installation.catalog.rooms.upload(str(upload_id))
    except CleanroomError:
        raise denied() from None
    if upload.owner_email != call.email:
        raise denied()
    if upload.location is None:
        raise InvalidRequestError("The uploaded file was taken in and deleted.", remedy="Upload it again.")
    return upload


def _group(value: Mapping[str, Any], new_id: str) -> ParticipantSpec:
    emails, permissions = value.get("emails"), value.get("permissions")
    role, organization = value.get("role") or "", value.get("organization_id")
    is_right = (
        isinstance(emails, list)
        and isinstance(permissions, list)
        and all(isinstance(each, str) for each in (*emails, *permissions, role, organization or ""))
    )
    if not is_right:
        raise InvalidRequestError(
            "A participant cannot be read.", remedy="Give e-mail addresses, permissions and a role."
        )
    assert isinstance(emails, list)
    assert isinstance(permissions, list)
    return ParticipantSpec(
        id=new_id,
        emails=tuple(dict.fromkeys(email.strip().lower() for email in emails)),
        role=role,
        permissions=tuple(dict.fromkeys(_members(Permission, permissions, "permission"))),
        organization_id=organization,
    )


def _activation(call: Call) -> tuple[str, ...]:
    names = _members(AdDestination, call.texts("activation"), "ad destination")
    return tuple(dict.fromkeys(each.value for each in names if each is not AdDestination.PLAIN))


def _members(enum: Any, values: list[str], what: str) -> list[Any]:
    try:
        return [enum(value) for value in values]
    except ValueError:
        known = ", ".join(each.value for each in enum)
        raise InvalidRequestError(f"There is no such {what}.", remedy=f"Give one of {known}.") from None
