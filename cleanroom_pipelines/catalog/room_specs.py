"""Specs of the data room: labs, rooms, custom audiences and the lists that are delivered of them.

Lives here: what somebody asks for, frozen, and the rules that can be told without the database.
Add here when a room or what belongs to it gets a field that its creator decides.
Keep out: the other road's specs (`specs.py`) and what definitions mean (`audiences.definitions`).

A room's rules are those of the Media API (source: contracts/media.md, section 3).
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Self

from pydantic import Field

from cleanroom_pipelines.catalog.names import Kind, check_label, is_fit_to_show
from cleanroom_pipelines.catalog.specs import Spec
from cleanroom_pipelines.documents import Document
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.identity import Dataset, inputs_of
from cleanroom_pipelines.terms import CollaborationType, Permission

MAX_PARTICIPANTS = 20
MAX_EMAILS = 100
_EMAIL = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,255}")


@dataclass(frozen=True)
class ParticipantSpec(Document):
    """A group of people in a room, with what they may do.

    Attributes:
        id: Hex digits and dashes, unique in the room.
        emails: Who belongs to it, lower-case.
        role: Free text for people.
        permissions: What they may do.
        organization_id: Free text, if they gave one.
        declined: Who belonged to it and refused to take part; they are not in `emails` any more.
    """

    id: str
    emails: tuple[str, ...]
    role: str
    permissions: tuple[Permission, ...]
    organization_id: str | None = None
    # left out where nobody did, as it was before somebody could: digests of rooms hold it
    declined: Annotated[tuple[str, ...], Field(exclude_if=lambda emails: not emails)] = ()

    def may(self, permission: Permission) -> bool:
        """Whether the group holds a permission."""
        return permission in self.permissions

    def without(self, email: str) -> Self:
        """The group after somebody refused to take part; the same if they do not belong to it."""
        if email not in self.emails:
            return self
        emails = tuple(each for each in self.emails if each != email)
        return replace(self, emails=emails, declined=(*self.declined, email))


@dataclass(frozen=True, kw_only=True)
class _MarkedSpec(Spec):
    """A spec whose name need not be unique: the mark is.

    Attributes:
        mark: Random hex digits; two resources of one name differ by it.
    """

    mark: str


@dataclass(frozen=True, kw_only=True)
class DataLabSpec(_MarkedSpec):
    """A publisher's uploads, to be validated before they go into a room.

    Attributes:
        owner_email: Whose it is.
        datasets: Upload ids by `InputName`; none of seeds.
        n_embeddings: Numbers per embedding; 0 without embeddings.
        activation: Ad destinations whose hashes are to be kept.
    """

    kind = Kind.DATA_LAB
    fields_without_rebuild = Spec.fields_without_rebuild | {"mark", "owner_email"}

    owner_email: str
    datasets: Mapping[str, str]
    n_embeddings: int = 0
    activation: tuple[str, ...] = ()

    def validate(self) -> None:
        """Raises UsageError unless there is a matching dataset and the embeddings have a length."""
        super().validate()
        check_email(self.owner_email)
        if not inputs_of(self.datasets, Dataset.MATCHING):
            raise UsageError(
                "The data lab has no matching dataset.", remedy="Bring the file of user ids and matching ids."
            )
        if (
            bool(inputs_of(self.datasets, Dataset.EMBEDDINGS)) != (self.n_embeddings > 0)
            or self.n_embeddings > 4096
        ):
            raise UsageError(
                "The length of the embeddings does not fit.", remedy="Give 1 to 4,096 with embeddings, else none."
            )


@dataclass(frozen=True, kw_only=True)
class DataRoomSpec(_MarkedSpec):
    """One publisher, one advertiser, and what they allow each other; never changed once created.

    Attributes:
        owner_email: Who created it.
        participants: The groups.
        collaboration_types: What it is for, at least one.
        matching_ids: The kinds of matching ids, at least one, none twice.
        hide_absolute_values: Whether no count that depends on both sides is shown.
        activation: Ad destinations whose hashes are kept of the base.
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
        """The group of an id."""
        return next((group for group in self.participants if group.id == participant_id), None)

    def group_of(self, email: str) -> ParticipantSpec | None:
        """The group that somebody belongs to."""
        return next((group for group in self.participants if email.lower() in group.emails), None)

    def allows(self, collaboration: CollaborationType) -> bool:
        """Whether the room is for this."""
        return collaboration in self.collaboration_types

    def validate(self) -> None:
        """Raises UsageError unless the room keeps the rules of the Media API."""
        super().validate()
        check_email(self.owner_email)
        if not self.collaboration_types:
            raise UsageError("The data room is for nothing.", remedy="Give at least one collaboration type.")
        if not self.matching_ids or len(set(self.matching_ids)) < len(self.matching_ids):
            raise UsageError("The kinds of matching ids cannot be used.", remedy="Give at least one, each once.")
        if not 1 <= len(self.participants) <= MAX_PARTICIPANTS:
            raise UsageError(
                f"The data room has {len(self.participants)} participants.",
                remedy=f"Give 1 to {MAX_PARTICIPANTS} of them.",
            )
        for group in self.participants:
            self._check_group(group)
        emails = Counter(email for group in self.participants for email in group.emails)
        if any(n > 1 for n in emails.values()):
            raise UsageError("Somebody is in two participants.", remedy="Put each e-mail address into one.")
        if self.owner_email not in emails:
            raise UsageError(
                "The creator of the data room is no participant.", remedy="Put your own e-mail address into one."
            )
        self._check_providers()

    def _check_group(self, group: ParticipantSpec) -> None:
        if not 1 <= len(group.emails) <= MAX_EMAILS:
            raise UsageError(
                "A participant has no e-mail address, or too many.", remedy=f"Give 1 to {MAX_EMAILS}."
            )
        for email in group.emails:
            check_email(email)
        check_label("role of a participant", group.role or None, 255)
        check_label("organization of a participant", group.organization_id, 255)
        types = self.collaboration_types
        if group.may(Permission.VIEW_INSIGHTS) and CollaborationType.INSIGHTS not in types:
            raise UsageError(
                "A participant may view insights, which the data room is not for.",
                remedy="Add the collaboration type INSIGHTS, or take the permission away.",
            )
        wants = {Permission.CREATE_CUSTOM_AUDIENCE, Permission.EXPORT_AUDIENCE} & set(group.permissions)
        if wants and not any(each.makes_audiences for each in types):
            raise UsageError(
                "A participant may create or export audiences, which the data room is not for.",
                remedy="Add a collaboration type with audiences, or take the permission away.",
            )

    def _check_providers(self) -> None:
        base = [group for group in self.participants if group.may(Permission.PROVIDE_BASE_AUDIENCE)]
        seed = [group for group in self.participants if group.may(Permission.PROVIDE_SEED_AUDIENCE)]
        if len(base) > 1 or len(seed) > 1 or (base and base == seed):
            raise UsageError(
                "The data room does not have one provider for each side.",
                remedy="Let at most one participant provide the base audience and another one the seed audiences.",
            )


@dataclass(frozen=True, kw_only=True)
class CustomAudienceSpec(_MarkedSpec):
    """An audience that somebody defined in a room.

    Attributes:
        data_room_id: The room.
        definition: The definition as JSON (`audiences.definitions`).
        created_by: The group whose it is.
        created_by_email: Who created it.
        shared_with: Groups that see it too.
        hidden: Whether it is a draft, or a seed audience that is to be sized or listed: in no listing.
        references: Ids of the custom audiences that the definition names.
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
        """The data room."""
        return self.data_room_id

    def is_seen_by(self, participant_id: str) -> bool:
        """Whether a group sees it: its own, or shared with it."""
        return participant_id == self.created_by or participant_id in self.shared_with


@dataclass(frozen=True, kw_only=True)
class AudienceListSpec(_MarkedSpec):
    """One delivery of an audience's users to a group.

    Attributes:
        custom_audience_id: The audience.
        delivered_to: The group.
        options: How it is written: destination, gzip, rows per file, holdout, the delivery it is a change of.
    """

    kind = Kind.AUDIENCE_LIST
    parent_kind = Kind.CUSTOM_AUDIENCE
    fields_without_rebuild = Spec.fields_without_rebuild | {"mark"}

    custom_audience_id: str
    delivered_to: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parent_id(self) -> str:
        """The custom audience."""
        return self.custom_audience_id


def check_email(email: str) -> None:
    """Refuse what is no e-mail address in lower case.

    Raises:
        UsageError: Another form; the text is not told.
    """
    if not _EMAIL.fullmatch(email) or email != email.lower() or not is_fit_to_show(email):
        raise UsageError("An e-mail address cannot be used.", remedy="Give name@domain.")
