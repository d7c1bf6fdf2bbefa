"""Specs of data rooms: labs, rooms, custom audiences and delivered lists; and the digests of all specs.

Lives here: one frozen spec per kind, and the rules that can be checked without the database; the spec of each
kind, its field values, and its digest, for comparing declarations.
Add here when one of these kinds gets a field that its creator sets.
Keep out: specs of the lookalike API (`specs.py`) and the meaning of definitions (`audiences.definitions`).

A room's rules are those of the Media API.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Annotated, Any, Self

from pydantic import Field

from cleanroom_pipelines.catalog.names import Kind, check_label, is_fit_to_show
from cleanroom_pipelines.catalog.specs import (
    AudienceModelSpec,
    ConfiguredAudienceModelSpec,
    ExportJobSpec,
    GenerationJobSpec,
    Spec,
    TrainingDatasetSpec,
)
from cleanroom_pipelines.documents import Document, as_json
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.identity import Dataset, inputs_of
from cleanroom_pipelines.terms import CollaborationType, Permission

MAX_PARTICIPANTS = 20
MAX_EMAILS = 100
_EMAIL = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,255}")


@dataclass(frozen=True)
class ParticipantSpec(Document):
    """A participant of a data room: a group of people with permissions.

    Attributes:
        id: Hex digits and dashes, unique in the room.
        emails: Its members, in lower case.
        role: Free text for people.
        permissions: What its members may do.
        organization_id: Free text; None if not given.
        declined: Former members who declined to take part; they are no longer in `emails`.
        member_permissions: The permissions of members who have fewer than the group.
    """

    id: str
    emails: tuple[str, ...]
    role: str
    permissions: tuple[Permission, ...]
    organization_id: str | None = None
    # Omitted while empty: digests of rooms contain it, and older rooms do not have it.
    declined: Annotated[tuple[str, ...], Field(exclude_if=lambda emails: not emails)] = ()
    member_permissions: Annotated[
        Mapping[str, tuple[Permission, ...]], Field(exclude_if=lambda members: not members)
    ] = field(default_factory=dict)

    def may(self, permission: Permission) -> bool:
        """Return whether the participant has a permission."""
        return permission in self.permissions

    def without(self, email: str) -> Self:
        """Return the participant after a member declined; unchanged if no member has this address."""
        if email not in self.emails:
            return self
        return replace(self.without_user(email), declined=(*self.declined, email))

    def as_member(self, email: str) -> Self:
        """Return the participant with only the permissions of one of its members."""
        return replace(self, permissions=self.member_permissions.get(email, self.permissions))

    def with_user(self, email: str, permissions: tuple[Permission, ...]) -> Self:
        """Return the participant with one more member, who has the given permissions."""
        members = dict(self.member_permissions)
        if set(permissions) != set(self.permissions):
            members[email] = permissions
        declined = tuple(each for each in self.declined if each != email)
        return replace(self, emails=(*self.emails, email), declined=declined, member_permissions=members)

    def without_user(self, email: str) -> Self:
        """Return the participant without one of its members."""
        members = {name: each for name, each in self.member_permissions.items() if name != email}
        return replace(
            self, emails=tuple(each for each in self.emails if each != email), member_permissions=members
        )

    @property
    def is_able(self) -> bool:
        """Whether each of the participant's permissions is held by at least one member."""
        held = {each for email in self.emails for each in self.as_member(email).permissions}
        return held >= set(self.permissions)


@dataclass(frozen=True, kw_only=True)
class _MarkedSpec(Spec):
    """Base class of specs whose names need not be unique.

    Attributes:
        mark: Random hex digits that distinguish resources of the same name.
    """

    mark: str


@dataclass(frozen=True, kw_only=True)
class DataLabSpec(_MarkedSpec):
    """A data lab: a publisher's uploads, validated before they are provisioned to a room.

    Attributes:
        owner_email: Its owner.
        datasets: Upload ids by `InputName`, without seeds.
        n_embeddings: The dimension of the embeddings; 0 without embeddings.
        activation: Ad destinations whose hashes are kept.
    """

    kind = Kind.DATA_LAB
    fields_without_rebuild = Spec.fields_without_rebuild | {"mark", "owner_email"}

    owner_email: str
    datasets: Mapping[str, str]
    n_embeddings: int = 0
    activation: tuple[str, ...] = ()

    def validate(self) -> None:
        """Raise UsageError if matching ids are missing, or if the embeddings' dimension is wrong."""
        super().validate()
        check_email(self.owner_email)
        if not inputs_of(self.datasets, Dataset.MATCHING):
            raise UsageError(
                "The data lab has no dataset of matching ids.",
                remedy="Add the file with user ids and matching ids.",
            )
        if (
            bool(inputs_of(self.datasets, Dataset.EMBEDDINGS)) != (self.n_embeddings > 0)
            or self.n_embeddings > 4096
        ):
            raise UsageError(
                "The dimension of the embeddings is invalid.",
                remedy="Give 1 to 4,096 with embeddings, or 0 without.",
            )


@dataclass(frozen=True, kw_only=True)
class DataRoomSpec(_MarkedSpec):
    """A data room: one publisher, one advertiser and their permissions; immutable once created.

    Attributes:
        owner_email: Its creator.
        participants: The groups.
        collaboration_types: Its purposes, at least one.
        matching_ids: The kinds of matching ids, at least one, without duplicates.
        hide_absolute_values: Whether all counts that depend on both parties' data are hidden.
        activation: Ad destinations whose hashes are kept for the base.
    """

    kind = Kind.DATA_ROOM
    fields_without_rebuild = Spec.fields_without_rebuild | {"mark", "owner_email"}

    owner_email: str
    participants: tuple[ParticipantSpec, ...]
    collaboration_types: tuple[CollaborationType, ...]
    matching_ids: tuple[str, ...]
    hide_absolute_values: bool = False
    activation: tuple[str, ...] = ()

    def participant(self, participant_id: str) -> ParticipantSpec | None:
        """Return the participant with this id; None if the room has no such participant."""
        return next((group for group in self.participants if group.id == participant_id), None)

    def group_of(self, email: str) -> ParticipantSpec | None:
        """Return the participant that a user is a member of; None if the user is not in the room."""
        return next((group for group in self.participants if email.lower() in group.emails), None)

    def allows(self, collaboration: CollaborationType) -> bool:
        """Return whether this collaboration type is enabled in the room."""
        return collaboration in self.collaboration_types

    def validate(self) -> None:
        """Raise the first of the room's problems, if it has any."""
        for problem in self.problems():
            raise problem

    def problems(self) -> Iterator[UsageError]:
        """Yield an error for each rule of the Media API that the room breaks.

        The attribute `place` names the field: `name`, `owner`, `collaboration_types`, `matching_ids`,
        `participants`, or one of a participant, such as `participants.0.emails`.
        """
        yield from _failures("name", super().validate)
        yield from _failures("owner", lambda: check_email(self.owner_email))
        if not self.collaboration_types:
            yield _problem("collaboration_types", "The data room has no collaboration type.", "Give at least one.")
        if not self.matching_ids or len(set(self.matching_ids)) < len(self.matching_ids):
            message = "The matching ids are empty or contain duplicates."
            yield _problem("matching_ids", message, "Give each kind once.")
        if not 1 <= len(self.participants) <= MAX_PARTICIPANTS:
            message = f"The data room has {len(self.participants)} participants."
            yield _problem("participants", message, f"Give 1 to {MAX_PARTICIPANTS} participants.")
        for number, group in enumerate(self.participants):
            yield from self._problems_of(group, f"participants.{number}")
        yield from self._problems_between()

    def _problems_of(self, group: ParticipantSpec, place: str) -> Iterator[UsageError]:
        # a participant whose members all left stays in the room without any
        if not (group.emails or group.declined) or len(group.emails) > MAX_EMAILS:
            yield _problem(
                f"{place}.emails",
                "A participant has too few or too many e-mail addresses.",
                f"Give 1 to {MAX_EMAILS} addresses.",
            )
        for email in group.emails:
            yield from _failures(f"{place}.emails", partial(check_email, email))
        role, organization = group.role or None, group.organization_id
        yield from _failures(f"{place}.role", lambda: check_label("role of a participant", role, 255))
        yield from _failures(
            f"{place}.organization_id", lambda: check_label("organization of a participant", organization, 255)
        )
        types = self.collaboration_types
        if group.may(Permission.VIEW_INSIGHTS) and CollaborationType.INSIGHTS not in types:
            yield _problem(
                f"{place}.permissions",
                "A participant may view insights, but the data room does not allow insights.",
                "Add the collaboration type INSIGHTS, or remove the permission.",
            )
        audience_permissions = {Permission.CREATE_CUSTOM_AUDIENCE, Permission.EXPORT_AUDIENCE} & set(
            group.permissions
        )
        if audience_permissions and not any(each.makes_audiences for each in types):
            yield _problem(
                f"{place}.permissions",
                "A participant may create or export audiences, but the data room does not allow audiences.",
                "Add a collaboration type with audiences, or remove the permission.",
            )

    def _problems_between(self) -> Iterator[UsageError]:
        seen = set[str]()
        for number, group in enumerate(self.participants):
            if seen & set(group.emails) or len(set(group.emails)) < len(group.emails):
                yield _problem(
                    f"participants.{number}.emails",
                    "An e-mail address is listed twice.",
                    "List each address once, under one participant.",
                )
            seen |= set(group.emails)
        if self.owner_email not in seen:
            yield _problem(
                "owner",
                "The creator of the data room is not a participant.",
                "Add your own e-mail address to a participant.",
            )
        base = [group for group in self.participants if group.may(Permission.PROVIDE_BASE_AUDIENCE)]
        seed = [group for group in self.participants if group.may(Permission.PROVIDE_SEED_AUDIENCE)]
        if len(base) > 1 or len(seed) > 1 or (base and base == seed):
            yield _problem(
                "participants",
                "Two participants provide the same kind of data, or one participant provides both kinds.",
                "Let one participant provide the base audience, and another one the seed audiences.",
            )


def _problem(place: str, message: str, remedy: str) -> UsageError:
    return UsageError(message, remedy=remedy, place=place)


def _failures(place: str, check: Callable[[], None]) -> Iterator[UsageError]:
    """Run a check; if it fails, yield its error together with the place of the field concerned."""
    try:
        check()
    except UsageError as error:
        yield _problem(place, error.message, error.remedy)


@dataclass(frozen=True, kw_only=True)
class CustomAudienceSpec(_MarkedSpec):
    """A custom audience, defined by a participant of a room.

    Attributes:
        data_room_id: The room.
        definition: The definition as JSON (`audiences.definitions`).
        created_by: The group that owns it.
        created_by_email: The user who created it.
        shared_with: Other groups that can see it.
        hidden: Whether listings omit it: a draft, or a seed audience created only to be sized or exported.
        references: Ids of the custom audiences in its definition.
    """

    kind = Kind.CUSTOM_AUDIENCE
    parent_kind = Kind.DATA_ROOM
    fields_without_rebuild = Spec.fields_without_rebuild | {
        "mark",
        "shared_with",
        "created_by",
        "created_by_email",
        "hidden",
    }

    data_room_id: str
    definition: Mapping[str, Any]
    created_by: str
    created_by_email: str
    shared_with: tuple[str, ...] = ()
    hidden: bool = False
    references: tuple[str, ...] = ()

    @property
    def parent_id(self) -> str:
        """The id of the data room."""
        return self.data_room_id

    def is_seen_by(self, participant_id: str) -> bool:
        """Return whether a participant can see the audience: as its owner, or because it was shared with them."""
        return participant_id == self.created_by or participant_id in self.shared_with


@dataclass(frozen=True, kw_only=True)
class AudienceListSpec(_MarkedSpec):
    """One delivery of an audience's users to a participant of the room.

    Attributes:
        custom_audience_id: The audience.
        delivered_to: The group.
        options: Its output options: destination, gzip, rows per file, holdout, the delivery it is a delta of.
    """

    kind = Kind.AUDIENCE_LIST
    parent_kind = Kind.CUSTOM_AUDIENCE
    fields_without_rebuild = Spec.fields_without_rebuild | {"mark"}

    custom_audience_id: str
    delivered_to: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parent_id(self) -> str:
        """The id of the custom audience."""
        return self.custom_audience_id


def check_email(email: str) -> None:
    """Reject a text that is not a lower-case e-mail address.

    Raises:
        UsageError: The address is invalid; the message does not quote it.
    """
    if not _EMAIL.fullmatch(email) or email != email.lower() or not is_fit_to_show(email):
        raise UsageError("An e-mail address is invalid.", remedy="Give name@domain in lower case.")


SPECS: Mapping[Kind, type[Spec]] = {
    spec.kind: spec
    for spec in (
        TrainingDatasetSpec,
        AudienceModelSpec,
        ConfiguredAudienceModelSpec,
        GenerationJobSpec,
        ExportJobSpec,
        DataLabSpec,
        DataRoomSpec,
        CustomAudienceSpec,
        AudienceListSpec,
    )
}


def spec_values(spec: Spec) -> dict[str, object]:
    """Return the values of a spec's fields by name, without the additional fields that a record has."""
    return {part.name: getattr(spec, part.name) for part in fields(SPECS[spec.kind])}


def spec_digest(spec: Spec) -> str:
    """Return the SHA-256 hex of the spec's canonical JSON: equal declarations have equal digests."""
    values = {
        name: value for name, value in spec_values(spec).items() if not (value is None and name in spec.came_later)
    } | {"tags": dict(spec.tags)}
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), default=_as_json)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _as_json(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else as_json(type(value), value)
