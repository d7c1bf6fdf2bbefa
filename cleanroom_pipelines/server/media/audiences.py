"""Audiences of a room: creating, sharing and deleting them, and what is told of each.

Lives here: every call of the Media API that changes audiences, and the rules on who may make or list which.
Add here when something else can be done with an audience.
Keep out: questions about audiences (`jobs.py`) and finding users (the runs).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cleanroom_pipelines.audiences.canonical import Need, lookalikes_of, what_it_needs
from cleanroom_pipelines.audiences.definitions import (
    CustomRef,
    Definition,
    Exclusion,
    Lookalike,
    Remarketing,
    RuleBased,
    SeedRef,
    filter_values,
    parse_definition,
    reachable,
    references,
)
from cleanroom_pipelines.catalog import CustomAudience, CustomAudienceSpec, Kind
from cleanroom_pipelines.errors import ConflictError
from cleanroom_pipelines.media.errors import AudienceHasDependentsError
from cleanroom_pipelines.runs.budgets import room_organizations
from cleanroom_pipelines.runs.building import read_documents
from cleanroom_pipelines.runs.building_audiences import resolver
from cleanroom_pipelines.server.media.access import Call, Room, denied
from cleanroom_pipelines.terms import CollaborationType, Permission

_FOR = {
    Lookalike: (CollaborationType.LOOKALIKE, "lookalike audiences"),
    RuleBased: (CollaborationType.RULE_BASED, "rule-based audiences"),
    Remarketing: (CollaborationType.REMARKETING, "remarketing"),
    Exclusion: (CollaborationType.EXCLUSION, "exclusion audiences"),
}


def create_audience(call: Call) -> dict[str, Any]:
    """Create an audience; it is made right away."""
    room = call.room(Permission.CREATE_CUSTOM_AUDIENCE)
    definition = read_definition(room, call.mapping("definition") or {})
    shared_with = room.participants(call.texts("shared_with"))
    record = add_audience(call, room, definition, name=call.text("name"), shared_with=shared_with)
    call.trail["resource"] = record.id
    return shown_audience(room, record, Present.of(room))


def share_audiences(call: Call) -> dict[str, Any]:
    """Let exactly these groups see audiences of one's own group."""
    room = call.room(Permission.CREATE_CUSTOM_AUDIENCE)
    audiences = [_own(room, each) for each in call.texts("audience_ids")]
    groups = room.participants(call.texts("participant_ids"))
    call.trail["resource"] = [each.id for each in audiences][:8] or None
    call.installation.catalog.rooms.share_audiences([each.id for each in audiences], groups)
    return {}


def delete_audiences(call: Call) -> dict[str, Any]:
    """Delete audiences of one's own group, with what is built on them if that is said."""
    room = call.room(Permission.CREATE_CUSTOM_AUDIENCE)
    audiences = [_own(room, each) for each in call.texts("audience_ids")]
    call.trail["resource"] = [each.id for each in audiences][:8] or None
    visible = {each.id for each in room.visible()}
    try:
        gone = call.installation.catalog.rooms.request_delete_audiences(
            [each.id for each in audiences], with_dependents=call.flag("delete_dependent_audiences")
        )
    except ConflictError as error:
        dependents = set(error.attributes.get("dependents", ()))
        if not dependents:
            raise
        names = sorted(each.name for each in room.visible() if each.id in dependents)
        raise AudienceHasDependentsError(
            "Other audiences are built on these.",
            remedy="Delete those first, or all of them together.",
            names=names,
            n_others=len(dependents) - len(names),
        ) from None
    return {"deleted": [each for each in gone if each in visible]}


def read_definition(room: Room, value: Mapping[str, Any]) -> Definition:
    """A definition that the caller's group may use in this room.

    Raises:
        UsageError: It is none.
        PermissionDeniedError: The room is not for it, or it names an audience that the group does not see.
    """
    definition = parse_definition(value)
    for reference in references(definition):
        if isinstance(reference, CustomRef):
            room.audience(reference.id)
    reachable(definition, resolver(room.installation))
    room.require(*_FOR[type(definition)])
    return definition


def add_audience(
    call: Call,
    room: Room,
    definition: Definition,
    *,
    name: str,
    shared_with: tuple[str, ...] = (),
    hidden: bool = False,
) -> CustomAudience:
    """Put an audience into the catalogue; a hidden one is for one question and in no listing."""
    record = call.installation.catalog.resources.create(
        CustomAudienceSpec(
            name=name,
            mark=call.installation.token_hex(8),
            data_room_id=room.id,
            definition=definition.as_dict(),
            created_by=room.group.id,
            created_by_email=call.email,
            shared_with=shared_with,
            hidden=hidden,
            references=tuple(each.id for each in references(definition) if isinstance(each, CustomRef)),
        ),
        declared=not hidden,
    )
    assert isinstance(record, CustomAudience)
    return record


def check_export(room: Room, audience: CustomAudience) -> None:
    """Refuse a list that would tell who is in the other side's data, unless the room is for that.

    Decided on the definition alone, with each seed audience known by its ids: never on who matched.

    Raises:
        PermissionDeniedError: The room is not for it.
    """
    resolve, definition = resolver(room.installation), parse_definition(audience.definition)
    needs = what_it_needs(definition, resolve, seed_digests(room))
    if Need.REMARKETING in needs:
        room.require(CollaborationType.REMARKETING, "lists that tell which users match")
    if Need.EXCLUSION in needs:
        room.require(CollaborationType.EXCLUSION, "lists that leave the matched users out")
    leaves_out = any(each.exclude_seed_audience for each in lookalikes_of(definition, resolve).values())
    if leaves_out and not _is_from_seed_to_base(room, audience):
        room.require(CollaborationType.EXCLUSION, "lookalikes that leave their source out")


def seed_digests(room: Room) -> Mapping[str, str]:
    """The keyed digest of the ids of each type of seed audience that the room holds."""
    return dict(_documents(room, "seed_audiences").get("digests", {}))


def _is_from_seed_to_base(room: Room, audience: CustomAudience) -> bool:
    """Whether the seed's provider created an audience and the base's provider receives it."""
    base, seed = room_organizations(room.installation, room.record)
    of_user = room.installation.catalog.pairs.organization_of_user
    return of_user(audience.created_by_email) == seed and all(of_user(each) == base for each in room.group.emails)


@dataclass(frozen=True)
class Present:
    """What a room holds now that definitions can name.

    Args:
        seed_types: Types of its seed audiences, sorted.
        values: The values of each attribute; empty while it holds no base audience.
    """

    seed_types: tuple[str, ...]
    values: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, room: Room) -> Self:
        """Read it, once for all audiences of an answer."""
        seeds, attributes = _documents(room, "seed_audiences"), _documents(room, "data_attributes")
        return cls(
            tuple(sorted(seeds["seeds"]["by_type"])) if seeds else (),
            {
                each["name"]: frozenset(each["values"])
                for each in (attributes["attributes"]["attributes"] if attributes else ())
            },
        )


def shown_audience(room: Room, audience: CustomAudience, present: Present) -> dict[str, Any]:
    """An audience as its group, or one that it is shared with, sees it."""
    return {
        "id": audience.id,
        "name": audience.name,
        "kind": audience.definition["kind"],
        "definition": dict(audience.definition),
        "created_at": audience.created_at.isoformat(),
        "created_by": audience.created_by,
        "shared_with": list(audience.shared_with),
        "staleness_warnings": _staleness(room, audience, present),
    }


def _documents(room: Room, asset: str) -> dict[str, Any]:
    """The documents of an asset of the room's current version; empty if it has none."""
    version = room.installation.catalog.resources.current_version(Kind.DATA_ROOM, room.id)
    if version is None or asset not in version.artifacts:
        return {}
    with room.installation.store.opening(version.artifact(asset)) as folder:
        return read_documents(folder)


def _staleness(room: Room, audience: CustomAudience, present: Present) -> list[str]:
    """What a definition names and the room has no more; only what the group wrote itself is repeated."""
    warnings = []
    refs = reachable(parse_definition(audience.definition), resolver(room.installation))
    wanted = {ref.audience_type for ref in refs if isinstance(ref, SeedRef)}
    if not room.record.has_base:
        warnings.append("The base audience is not provisioned.")
    if wanted and not room.record.has_seeds:
        warnings.append("The seed audiences are not provisioned.")
    elif wanted - {*present.seed_types}:
        warnings.append("A seed audience that it names is not there any more.")
    values = present.values
    looked_for = filter_values(parse_definition(audience.definition))
    if values and any(wanted - values.get(attribute, frozenset()) for attribute, wanted in looked_for.items()):
        warnings.append("A value that it filters by is not among the attributes of the base audience.")
    return warnings


def _own(room: Room, audience_id: str) -> CustomAudience:
    audience = room.audience(audience_id)
    if audience.created_by != room.group.id:
        raise denied()
    return audience
