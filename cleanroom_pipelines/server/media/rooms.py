"""Data rooms and data labs: creation, configuration, provisioning and audit log.

Lives here: every call of the data-room (Media) API about a room or a lab as a whole, or about the members of a
participant and their ways to sign in.
Add here when rooms or labs get another call.
Keep out: audiences (`audiences.py`), jobs (`jobs.py`) and signing in (the console).
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
    Stage,
    Status,
    Upload,
    Version,
)
from cleanroom_pipelines.catalog.room_specs import check_email
from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.identity import BASE_DATASETS, Dataset, InputName
from cleanroom_pipelines.media.errors import ConflictError, InvalidRequestError, NotValidatedError
from cleanroom_pipelines.privacy import PAIR_TENTHS, ReleasePolicy
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.budgets import Budget, room_organizations, room_pair
from cleanroom_pipelines.runs.sign_in import invite
from cleanroom_pipelines.server.media.access import Call, Room, check_quota, denied
from cleanroom_pipelines.terms import CollaborationType, MatchingId, Permission

# The longest part of a log that a call may ask for, and the largest number of an entry.
_MOST_ENTRIES, _MOST_PLACE = 10_000, 2**62


def whoami(call: Call) -> dict[str, Any]:
    """Return the user who makes the call."""
    return {"email": call.email}


def create_room(call: Call) -> dict[str, Any]:
    """Create a room that the caller owns."""
    catalog = call.installation.catalog
    record = catalog.resources.create(_new_room(call), declared=True)
    call.trail["room"] = record.id
    return _room(call, catalog.get(DataRoom, record.id))


def check_room(call: Call) -> dict[str, Any]:
    """Return the participants and privacy terms of a room before it is created, and what prevents creating it."""
    room = _new_room(call)
    return {
        "participants": [each.as_dict() for each in room.participants],
        "problems": [
            {"place": each.attributes["place"], "message": each.message, "remedy": each.remedy}
            for each in room.problems()
        ],
        "privacy": ReleasePolicy().as_dict(),
    }


def _new_room(call: Call) -> DataRoomSpec:
    """Parse the new room that a call describes; the room's rules are checked later."""
    catalog, token_hex = call.installation.catalog, call.installation.token_hex
    owned = catalog.rooms.count_owned(Kind.DATA_ROOM, call.email)
    check_quota("data rooms per owner", owned, call.installation.settings.max_rooms)
    groups = [_group(value, token_hex(8)) for value in call.objects("participants")]
    types = _members(CollaborationType, call.texts("collaboration_types"), "collaboration type")
    kinds = _members(MatchingId, call.texts("matching_ids"), "kind of matching ids")
    return DataRoomSpec(
        name=call.text("name"),
        mark=token_hex(8),
        owner_email=call.email,
        participants=tuple(groups),
        collaboration_types=tuple(types),
        matching_ids=tuple(kind.value for kind in kinds),
        hide_absolute_values=call.flag("hide_absolute_values"),
        activation=_activation(call),
    )


def get_room(call: Call) -> dict[str, Any]:
    """Return a room's configuration and the privacy budget of its two data providers."""
    return _room(call, call.room().record)


def list_rooms(call: Call) -> dict[str, Any]:
    """Return the caller's rooms, each with the caller's role and the data provisioned so far."""
    rooms = call.installation.catalog.rooms.data_rooms()
    mine = [(room, group.as_member(call.email)) for room in rooms if (group := room.group_of(call.email))]
    return {"rooms": [_listed(room, group) for room, group in mine]}


def _listed(room: DataRoom, group: ParticipantSpec) -> dict[str, Any]:
    return {
        "id": room.id,
        "name": room.name,
        "created_at": room.created_at.isoformat(),
        "role": group.role,
        "permissions": [each.value for each in group.permissions],
        "base": room.has_base,
        "seeds": room.has_seeds,
    }


def create_lab(call: Call) -> dict[str, Any]:
    """Create a lab from uploaded files and start its validation."""
    owned = call.installation.catalog.rooms.count_owned(Kind.DATA_LAB, call.email)
    check_quota("data labs per owner", owned, call.installation.settings.max_labs)
    datasets = call.mapping("datasets") or {}
    for name, upload_id in datasets.items():
        _check_lab_input(name)
        own_upload(call, upload_id)
    catalog = call.installation.catalog
    record = catalog.resources.create(
        DataLabSpec(
            name=call.text("name"),
            mark=call.installation.token_hex(8),
            owner_email=call.email,
            datasets=dict(datasets),
            n_embeddings=call.number("n_embeddings", 0),
            activation=_activation(call),
        )
    )
    return _lab(call, catalog.get(DataLab, record.id))


def get_lab(call: Call) -> dict[str, Any]:
    """Return one of the caller's labs, with its reports once it has been validated."""
    return _lab(call, own_lab(call))


def own_lab(call: Call) -> DataLab:
    """Return the lab that the call names.

    Raises:
        PermissionDeniedError: The caller has no lab with this id.
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


def own_upload(call: Call, upload_id: object) -> Upload:
    """Return an upload of the caller whose content still exists.

    Raises:
        PermissionDeniedError: The caller has no upload with this id.
        InvalidRequestError: Its content was ingested and deleted.
    """
    try:
        upload = call.installation.catalog.rooms.upload(str(upload_id))
    except CleanroomError:
        raise denied() from None
    if upload.owner_email != call.email:
        raise denied()
    if upload.location is None:
        raise InvalidRequestError(
            "The uploaded file is no longer available: it was deleted after it was ingested.",
            remedy="Upload it again.",
        )
    return upload


def work_of(call: Call, version: Version) -> dict[str, Any]:
    """Return a version's status and, while it is being built, its stage, progress and place in the queue."""
    stages = call.installation.catalog.work.stages([version.resource_id])
    stage = stages.get((version.resource_id, version.number)) or Stage(
        version.progress_stage or "", version.progress
    )
    return {
        "status": version.status.value,
        "is_open": version.status in (Status.CREATE_PENDING, Status.CREATE_IN_PROGRESS),
        "stage": stage.words,
        "progress": stage.progress,
        "place": stage.place,
    }


def list_labs(call: Call) -> dict[str, Any]:
    """Return the caller's labs, the newest first."""
    labs = call.installation.catalog.rooms.labs_of(call.email)
    return {
        "labs": [
            {
                "id": each.id,
                "name": each.name,
                "created_at": each.created_at.isoformat(),
                "status": each.status.value,
                "datasets": sorted(each.datasets),
            }
            for each in labs
        ]
    }


def delete_lab(call: Call) -> dict[str, Any]:
    """Delete one of the caller's labs; data provisioned from it stays in the rooms."""
    lab = own_lab(call)
    call.trail["resource"] = lab.id
    call.installation.catalog.deletion.request_delete(Kind.DATA_LAB, lab.id)
    return {}


def provision_base(call: Call) -> dict[str, Any]:
    """Provision a lab's datasets to a room."""
    room, lab = call.room(Permission.PROVIDE_BASE_AUDIENCE), own_lab(call)
    if lab.status is not Status.ACTIVE:
        raise NotValidatedError(
            "The data lab has not passed validation.", remedy="See the data lab's validation reports."
        )
    kinds = {InputName.parse(name).matching_id for name in lab.datasets} - {None}
    if not kinds <= set(room.record.matching_ids):
        raise InvalidRequestError(
            "The data lab has a kind of matching ids that the room does not accept.",
            remedy="Build a data lab with matching ids that the room accepts.",
        )
    for upload_id in lab.datasets.values():
        if call.installation.catalog.rooms.upload(upload_id).location is None:
            raise NotValidatedError(
                "The data lab's files were deleted after they were provisioned to a room.",
                remedy="Create the data lab again.",
            )
    call.installation.catalog.rooms.provision(room.id, lab.datasets, BASE_DATASETS, n_embeddings=lab.n_embeddings)
    return {}


def deprovision_base(call: Call) -> dict[str, Any]:
    """Remove the base audience from a room."""
    room = call.room(Permission.PROVIDE_BASE_AUDIENCE)
    call.installation.catalog.rooms.provision(room.id, {}, BASE_DATASETS, n_embeddings=0)
    return {}


def provision_seeds(call: Call) -> dict[str, Any]:
    """Replace the room's seed audiences."""
    room = call.room(Permission.PROVIDE_SEED_AUDIENCE)
    add: dict[str, str] = {}
    for each in call.objects("datasets"):
        upload = own_upload(call, each.get("manifest_hash"))
        kind = each.get("matching_id") or upload.matching_id
        if kind is None and len(room.record.matching_ids) == 1:
            kind = room.record.matching_ids[0]
        if kind not in room.record.matching_ids:
            raise InvalidRequestError(
                "A file's kind of matching ids is missing, or the room does not accept it.",
                remedy=f"Give one of {', '.join(room.record.matching_ids)}.",
            )
        name = str(InputName(Dataset.SEED_AUDIENCES, MatchingId(kind)))
        if name in add:
            raise InvalidRequestError(
                "Two files have the same kind of matching ids.", remedy="Give one file for each kind."
            )
        add[name] = upload.id
    if not add:
        raise InvalidRequestError("No dataset was given.", remedy="Give the hash of at least one upload.")
    call.installation.catalog.rooms.provision(room.id, add, (Dataset.SEED_AUDIENCES,))
    return {}


def deprovision_seeds(call: Call) -> dict[str, Any]:
    """Remove the seed audiences from a room."""
    room = call.room(Permission.PROVIDE_SEED_AUDIENCE)
    call.installation.catalog.rooms.provision(room.id, {}, (Dataset.SEED_AUDIENCES,))
    return {}


def get_provisioning(call: Call) -> dict[str, Any]:
    """Return whether the base audience and the seed audiences are provisioned."""
    room = call.room()
    return {"base": room.record.has_base, "seeds": room.record.has_seeds}


def get_audit_log(call: Call) -> dict[str, Any]:
    """Return the room's audit log; entries of other groups omit audience and user.

    With the parameter `limit`, it has only the newest entries, newest first, or with `before`, the `older` of an
    earlier page, the entries before those; `visible` then has the ids of their audiences that the caller can open.
    """
    room, limit, before = call.room(), call.number("limit", 0), call.number("before", 0)
    if not (0 <= limit <= _MOST_ENTRIES and 0 <= before <= _MOST_PLACE):
        raise InvalidRequestError(
            "The parameter `limit` or `before` is out of range.",
            remedy=f"Give a `limit` of at most {_MOST_ENTRIES:,}. Take `before` from an earlier page's `older`.",
        )
    audit = call.installation.audit
    if not limit:
        return {"entries": [_entry(entry, room.group.id) for entry in audit.entries(room=room.id)], "older": None}
    found, older = audit.newest(room.id, limit, before or None)
    entries = [_entry(entry, room.group.id) for entry in found]
    visible = [each.id for each in room.visible({each for entry in entries for each in _audiences_of(entry)})]
    return {"entries": entries, "older": older, "visible": visible}


def _audiences_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the ids of the audiences that an audit entry names."""
    named = entry["audience"]
    return named if isinstance(named, list) else [named] if named else []


def _entry(entry: Mapping[str, Any], mine: str) -> dict[str, Any]:
    is_own = entry.get("participant") == mine
    return {
        "at": entry.get("at") or entry.get("time"),
        "action": entry.get("operation"),
        "participant": entry.get("participant"),
        "outcome": entry.get("outcome"),
        "audience": entry.get("resource") if is_own else None,
        "user": entry.get("user") if is_own else None,
    }


def decline_room(call: Call) -> dict[str, Any]:
    """Decline a room: the caller no longer sees it, and its owner sees that the caller declined.

    Raises:
        ConflictError: The caller owns the room.
    """
    room = call.room()
    if room.record.owner_email == call.email:
        raise ConflictError(
            "The owner of a data room cannot decline it.", remedy="Ask the operator to delete the data room."
        )
    call.installation.catalog.rooms.decline_room(room.id, call.email)
    return {}


def add_user(call: Call) -> dict[str, Any]:
    """Add a user of the caller's organisation to the caller's own group, with some of its permissions.

    Raises:
        InvalidRequestError: The user belongs to another organisation, or is in the room already.
    """
    room, email = managed_room(call), call.text("email").strip().lower()
    permissions = tuple(dict.fromkeys(_members(Permission, call.texts("permissions"), "permission")))
    whole = room.record.participant(room.group.id)
    assert whole is not None
    if not permissions or not set(permissions) <= set(whole.permissions):
        raise InvalidRequestError(
            "A user can have only permissions that the participant has.",
            remedy="Give at least one of the participant's permissions.",
        )
    if not set(permissions) <= set(whole.as_member(call.email).permissions):
        raise denied()
    check_email(email)
    organization_of = call.installation.catalog.pairs.organization_of_user
    if {organization_of(email)} != {organization_of(each) for each in whole.emails}:
        raise InvalidRequestError(
            "The user and the participant belong to different organisations.",
            remedy="Add users of the participant's organisation.",
        )
    changed = call.installation.catalog.rooms.change_users(
        room.id, room.group.id, lambda group: group.with_user(email, permissions)
    )
    return _room(call, changed)


def remove_user(call: Call) -> dict[str, Any]:
    """Remove a user from the caller's own group.

    Raises:
        ConflictError: Only this user has one of the group's permissions, the user owns the room, or the room's
            data would count as another organisation's.
    """
    room, email = managed_room(call), call.text("email").strip().lower()
    whole = room.record.participant(room.group.id)
    assert whole is not None
    if email not in whole.emails:
        raise denied()
    after = tuple(each.without_user(email) if each.id == whole.id else each for each in room.record.participants)
    sides = [
        room_organizations(call.installation, record)
        for record in (room.record, replace(room.record, participants=after))
    ]
    if email == room.record.owner_email or sides[0] != sides[1]:
        raise ConflictError(
            "The user cannot be removed, because the user owns the data room or provides a participant's data.",
            remedy="Create another data room without the user.",
        )
    changed = call.installation.catalog.rooms.change_users(
        room.id, room.group.id, lambda group: group.without_user(email)
    )
    return _room(call, changed) if changed.group_of(call.email) else {"id": room.id}


def managed_room(call: Call) -> Room:
    """Return the room, if the call names the caller's own group and the caller may manage its users.

    Raises:
        PermissionDeniedError: The caller may not.
    """
    room = call.room(Permission.MANAGE_USERS)
    if call.text("participant_id") != room.group.id:
        raise denied()
    return room


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
        error = {"message": newest.status_message or "The validation of the data lab failed."}
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status.value,
        "is_validated": record.status is Status.ACTIVE,
        "datasets": dict(record.datasets),
        "n_embeddings": record.n_embeddings,
        "activation": list(record.activation),
        "work": work_of(call, newest),
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
    raise InvalidRequestError("The data lab has an unknown dataset.", remedy=f"Choose from: {', '.join(known)}.")


def _group(value: Mapping[str, Any], new_id: str) -> ParticipantSpec:
    emails, permissions = value.get("emails"), value.get("permissions")
    role, organization = value.get("role") or "", value.get("organization_id")
    if (
        not isinstance(emails, list)
        or not isinstance(permissions, list)
        or not all(isinstance(each, str) for each in (*emails, *permissions, role, organization or ""))
    ):
        raise InvalidRequestError(
            "A participant is malformed.",
            remedy="Give the participant a list of e-mail addresses, a list of permissions, and a role.",
        )
    return ParticipantSpec(
        id=new_id,
        emails=tuple(dict.fromkeys(email.strip().lower() for email in emails)),
        role=role,
        permissions=tuple(dict.fromkeys(_members(Permission, permissions, "permission"))),
        organization_id=organization,
        member_permissions=_member_permissions(value),
    )


def _member_permissions(value: Mapping[str, Any]) -> dict[str, tuple[Permission, ...]]:
    """Return, by e-mail address, the permissions of members who lack some of their group's permissions."""
    given, emails = value.get("member_permissions") or {}, {each.strip().lower() for each in value["emails"]}
    if not isinstance(given, dict) or not all(isinstance(each, list) for each in given.values()):
        raise InvalidRequestError(
            "The permissions of a participant's members are malformed.",
            remedy="Give a list of permissions for each e-mail address.",
        )
    members = {
        email.strip().lower(): tuple(dict.fromkeys(_members(Permission, each, "permission")))
        for email, each in given.items()
    }
    if not set(members) <= emails or any(not set(each) <= {*value["permissions"]} for each in members.values()):
        raise InvalidRequestError(
            "A member can have only permissions that the participant has.",
            remedy="Remove the member's other permissions.",
        )
    return members


def _activation(call: Call) -> tuple[str, ...]:
    names = _members(AdDestination, call.texts("activation"), "ad destination")
    return tuple(dict.fromkeys(each.value for each in names if each is not AdDestination.PLAIN))


def _members(enum: Any, values: list[str], what: str) -> list[Any]:
    try:
        return [enum(value) for value in values]
    except ValueError:
        known = ", ".join(each.value for each in enum)
        raise InvalidRequestError(f"Unknown {what}.", remedy=f"Give one of {known}.") from None


def get_members(call: Call) -> dict[str, Any]:
    """Return the members of the caller's own group, with their permissions and how they can sign in.

    `colleagues` are users of the same organisation who share a group with the caller in another room.
    """
    group = _whole_group(call)
    sign_in = call.installation.catalog.sign_in
    invited = {each.email: each.expires_at.isoformat() for each in sign_in.invitations()}
    return {
        "members": [
            {
                "email": email,
                "permissions": [each.value for each in group.as_member(email).permissions],
                "can_sign_in": sign_in.can_sign_in(email),
                "invited_until": invited.get(email),
            }
            for email in group.emails
        ],
        "colleagues": _colleagues(call, group),
    }


def _colleagues(call: Call, group: ParticipantSpec) -> list[str]:
    catalog = call.installation.catalog
    groups = (each.group_of(call.email) for each in catalog.rooms.data_rooms())
    known = {email for each in groups if each is not None for email in each.emails} - {*group.emails}
    return sorted(email for email in known if catalog.pairs.organization_of_user(email) == call.organization)


def invite_user(call: Call) -> dict[str, Any]:
    """Invite a member of the caller's own group and organisation to choose a password.

    The secret of the invitation is in this response only. Members who can sign in are not invited, because an
    invitation replaces the password.

    Raises:
        ConflictError: The member can already sign in, belongs to another organisation, has permissions that the
            caller lacks, or was added by someone else, so that the invitation would give more than the caller has.
    """
    group, email = _whole_group(call), call.text("email").strip().lower()
    if email not in group.emails:
        raise denied()
    if call.installation.catalog.pairs.organization_of_user(email) != call.organization:
        raise ConflictError(
            "The member belongs to another organisation.", remedy="Ask the operator to invite the member."
        )
    if call.installation.catalog.sign_in.can_sign_in(email):
        raise ConflictError("The member can already sign in.", remedy="Ask the operator for a one-time link.")
    if not _is_only_the_callers(call, email) or not _has_at_most(group, email, call.email):
        raise ConflictError(
            "The member has permissions that you lack, in this data room or in another one.",
            remedy="Ask the operator to invite the member.",
        )
    secret, link = invite(call.installation, email, call.email)
    return {"invitation": secret, "expires_at": link.expires_at.isoformat()}


def _is_only_the_callers(call: Call, email: str) -> bool:
    """Whether a user is new or was invited only by the caller, and has no permission that the caller lacks."""
    catalog = call.installation.catalog
    if (known := catalog.users.user(email)) is not None:
        pending = [each for each in catalog.sign_in.invitations() if each.email == email]
        if [each.invited_by for each in pending] != [call.email] or known.has_role:
            return False
    groups = (each.group_of(email) for each in catalog.rooms.data_rooms())
    return all(_has_at_most(each, email, call.email) for each in groups if each is not None)


def _has_at_most(group: ParticipantSpec, email: str, other: str) -> bool:
    """Whether `other` is a member of the group and has all permissions that the member `email` has."""
    if other not in group.emails:
        return False
    return {*group.as_member(email).permissions} <= {*group.as_member(other).permissions}


def _whole_group(call: Call) -> ParticipantSpec:
    room = managed_room(call)
    group = room.record.participant(room.group.id)
    assert group is not None
    return group
