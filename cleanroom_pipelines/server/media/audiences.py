"""A room's audiences: creating, sharing, deleting and showing them.

Lives here: every call of the data-room (Media) API that changes audiences, and the rules on which audiences a
participant may create or export.
Add here when audiences get another operation.
Keep out: jobs about audiences (`jobs.py`) and finding users (the runs).
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
from cleanroom_pipelines.identity import Dataset, inputs_of
from cleanroom_pipelines.media.errors import AudienceHasDependentsError
from cleanroom_pipelines.runs.artifact_documents import read_documents
from cleanroom_pipelines.runs.budgets import Budget, Question, room_organizations, room_pair
from cleanroom_pipelines.runs.building_room_audiences import resolver
from cleanroom_pipelines.server.media.access import Call, Room, denied
from cleanroom_pipelines.terms import CollaborationType, Permission

_FOR = {
    Lookalike: (CollaborationType.LOOKALIKE, "lookalike audiences"),
    RuleBased: (CollaborationType.RULE_BASED, "rule-based audiences"),
    Remarketing: (CollaborationType.REMARKETING, "remarketing"),
    Exclusion: (CollaborationType.EXCLUSION, "exclusion audiences"),
}


def create_audience(call: Call) -> dict[str, Any]:
    """Create an audience; it is built right away."""
    room = call.room(Permission.CREATE_CUSTOM_AUDIENCE)
    definition = read_definition(room, call.mapping("definition") or {})
    shared_with = room.participants(call.texts("shared_with"))
    record = add_audience(call, room, definition, name=call.text("name"), shared_with=shared_with)
    call.trail["resource"] = record.id
    return shown_audience(room, record, Present.of(room))


def share_audiences(call: Call) -> dict[str, Any]:
    """Share audiences of the caller's group with exactly the given groups."""
    room = call.room(Permission.CREATE_CUSTOM_AUDIENCE)
    audiences = [own_audience(room, each) for each in call.texts("audience_ids")]
    groups = room.participants(call.texts("participant_ids"))
    call.trail["resource"] = [each.id for each in audiences][:8] or None
    call.installation.catalog.rooms.share_audiences([each.id for each in audiences], groups)
    return {}


def delete_audiences(call: Call) -> dict[str, Any]:
    """Delete audiences of the caller's group, optionally with their dependents."""
    room = call.room(Permission.CREATE_CUSTOM_AUDIENCE)
    audiences = [own_audience(room, each) for each in call.texts("audience_ids")]
    call.trail["resource"] = [each.id for each in audiences][:8] or None
    visible = {each.id for each in room.visible()}
    try:
        deleted = call.installation.catalog.rooms.request_delete_audiences(
            [each.id for each in audiences], with_dependents=call.flag("delete_dependent_audiences")
        )
    except ConflictError as error:
        dependents = set(error.attributes.get("dependents", ()))
        if not dependents:
            raise
        names = sorted(each.name for each in room.visible() if each.id in dependents)
        raise AudienceHasDependentsError(
            "Other audiences depend on the audiences to delete.",
            remedy="Delete the dependent audiences first, or set `delete_dependent_audiences`.",
            names=names,
            n_others=len(dependents) - len(names),
        ) from None
    return {"deleted": [each for each in deleted if each in visible]}


def read_definition(room: Room, value: Mapping[str, Any]) -> Definition:
    """Parse a definition and check that the caller's group may use it in this room.

    Raises:
        UsageError: The definition is invalid.
        PermissionDeniedError: The room does not allow it, or it refers to an audience that the group cannot see.
    """
    definition = parse_definition(value)
    for reference in references(definition):
        if isinstance(reference, CustomRef):
            room.audience(reference.id)
    reachable(definition, resolver(room.installation.catalog))
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
    """Add an audience to the catalogue; a hidden one serves a single job and is never listed."""
    catalog = call.installation.catalog
    record = catalog.resources.create(
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
    return catalog.get(CustomAudience, record.id)


def check_export(room: Room, audience: CustomAudience) -> None:
    """Check that the room allows exporting an audience, because its list may disclose members of the seed.

    The decision depends on the definition and the ids of each seed audience only, never on who matched.

    Raises:
        PermissionDeniedError: The room does not allow it.
    """
    resolve, definition = resolver(room.installation.catalog), parse_definition(audience.definition)
    needs = what_it_needs(definition, resolve, seed_digests(room))
    if Need.REMARKETING in needs:
        room.require(CollaborationType.REMARKETING, "lists that disclose which users match")
    if Need.EXCLUSION in needs:
        room.require(CollaborationType.EXCLUSION, "lists that exclude the matched users")
    leaves_out = any(each.exclude_seed_audience for each in lookalikes_of(definition, resolve).values())
    if leaves_out and not _is_from_seed_to_base(room, audience):
        room.require(CollaborationType.EXCLUSION, "lookalikes that exclude the users of their source")


def seed_digests(room: Room) -> Mapping[str, str]:
    """Return the keyed digest of each seed audience's ids, by seed type."""
    return dict(_documents(room, "seed_audiences").get("digests", {}))


def _is_from_seed_to_base(room: Room, audience: CustomAudience) -> bool:
    """Check whether the seed provider created the audience and only the base provider would receive its users."""
    base, seed = room_organizations(room.installation, room.record)
    of_user = room.installation.catalog.pairs.organization_of_user
    return of_user(audience.created_by_email) == seed and all(of_user(each) == base for each in room.group.emails)


@dataclass(frozen=True)
class Present:
    """The seed types and attribute values that definitions can refer to, from the room's current data.

    Args:
        n_ids: The number of ids of each seed type, sorted by type.
        values: The values of each attribute; empty without a base audience.
    """

    n_ids: Mapping[str, int]
    values: Mapping[str, frozenset[str]]

    @property
    def seed_types(self) -> tuple[str, ...]:
        """The types of the room's seed audiences, sorted."""
        return tuple(self.n_ids)

    @classmethod
    def of(cls, room: Room) -> Self:
        """Read the seed types and attribute values of a room."""
        seeds, attributes = _documents(room, "seed_audiences"), _documents(room, "data_attributes")
        by_type = seeds["seeds"]["by_type"] if seeds else {}
        return cls(
            {kind: counts["n_unique_ids"] for kind, counts in sorted(by_type.items())},
            {
                each["name"]: frozenset(each["values"])
                for each in (attributes["attributes"]["attributes"] if attributes else ())
            },
        )


def shown_seeds(room: Room, present: Present) -> list[dict[str, Any]]:
    """Return the seed audiences as JSON; only their provider sees sizes, and only paid overlaps are included."""
    uploads = inputs_of(room.record.inputs, Dataset.SEED_AUDIENCES).values()
    uploaded = [room.installation.catalog.rooms.upload(each).created_at for each in uploads]
    is_provider = room.group.may(Permission.PROVIDE_SEED_AUDIENCE)
    released = _paid_overlap(room) if room.group.may(Permission.VIEW_OVERLAP) else {}
    return [
        {
            "kind": "seed",
            "audience_type": kind,
            "audience_size": n_ids if is_provider else None,
            "created_at": max(uploaded).isoformat() if uploaded else None,
            "overlap_size": released.get(kind, {}).get("overlap_size"),
            "is_empty": released.get(kind, {}).get("is_empty"),
        }
        for kind, n_ids in present.n_ids.items()
    ]


def _paid_overlap(room: Room) -> dict[str, Mapping[str, Any]]:
    """Return the released overlaps that were paid for, by seed type."""
    document = _documents(room, "overlap_statistics").get("overlap")
    pair = room_pair(room.installation, room.record)
    if document is None or pair is None:
        return {}
    budget = Budget(room.installation, pair, room.id)
    rows = zip(document["without_own_counts"]["rows"], document["questions"], strict=True)
    return {row["audience_type"]: row for row, asked in rows if budget.is_paid([Question.from_dict(asked)])}


def shown_audience(room: Room, audience: CustomAudience, present: Present) -> dict[str, Any]:
    """Return an audience as JSON; only the group that created it sees the creator's e-mail address."""
    definition, resolve = parse_definition(audience.definition), resolver(room.installation.catalog)
    is_own = audience.created_by == room.group.id
    sources = [resolve(ref.id) for ref in reachable(definition, resolve) if isinstance(ref, CustomRef)]
    return {
        "id": audience.id,
        "name": audience.name,
        "kind": audience.definition["kind"],
        "definition": dict(audience.definition),
        "created_at": audience.created_at.isoformat(),
        "created_by": audience.created_by_email if is_own else audience.created_by,
        "created_by_group_id": audience.created_by,
        "does_audience_depend_on_lookalike_audience": any(isinstance(each, Lookalike) for each in sources),
        "shared_with": list(audience.shared_with),
        "staleness_warnings": _staleness(room, audience, present),
        "missing": _missing(definition, present),
    }


def _documents(room: Room, asset: str) -> dict[str, Any]:
    """Return an asset's JSON documents from the room's current version; empty if the asset has not been built."""
    version = room.installation.catalog.resources.current_version(Kind.DATA_ROOM, room.id)
    if version is None or asset not in version.artifacts:
        return {}
    with room.installation.store.opening(version.artifact(asset)) as folder:
        return read_documents(folder)


def _staleness(room: Room, audience: CustomAudience, present: Present) -> list[str]:
    """Return warnings about data that an audience's definition refers to but the room no longer has."""
    warnings = []
    refs = reachable(parse_definition(audience.definition), resolver(room.installation.catalog))
    wanted = {ref.audience_type for ref in refs if isinstance(ref, SeedRef)}
    if not room.record.has_base:
        warnings.append("The base audience is not provisioned.")
    if wanted and not room.record.has_seeds:
        warnings.append("The seed audiences are not provisioned.")
    elif wanted - {*present.seed_types}:
        warnings.append("A seed audience in the audience's definition no longer exists.")
    values = present.values
    looked_for = filter_values(parse_definition(audience.definition))
    if values and any(wanted - values.get(attribute, frozenset()) for attribute, wanted in looked_for.items()):
        warnings.append("A filter value in the audience's definition does not occur in the base audience.")
    return warnings


def _missing(definition: Definition, present: Present) -> dict[str, list[str]]:
    """Return the seed types, attributes and values that a definition names but the room's data lacks."""
    seeds = {each.audience_type for each in references(definition) if isinstance(each, SeedRef)}
    wanted = {name: values for name, values in filter_values(definition).items() if values}
    found: Mapping[str, frozenset[str]] = {name: present.values.get(name, frozenset()) for name in wanted}
    values = set().union(*(wanted[name] - found[name] for name in wanted)) if present.values else set()
    return {
        "missing_custom_audiences": [],
        "missing_filter_attributes": [name for name in wanted if present.values and not found[name]],
        "missing_filter_values": sorted(values),
        "missing_seed_audiences": sorted(seeds - {*present.seed_types}),
    }


def own_audience(room: Room, audience_id: str) -> CustomAudience:
    """Return an audience of the caller's group.

    Raises:
        PermissionDeniedError: The group has no audience with this id.
    """
    audience = room.audience(audience_id)
    if audience.created_by != room.group.id:
        raise denied()
    return audience
