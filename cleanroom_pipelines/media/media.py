"""The data room, as its participants use it.

Lives here: `MediaDcr`, its configuration and its audit log.
Add here when a data room can do a further thing.
Keep out: deciding anything. The server decides who may do what and what a number may say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from cleanroom_pipelines.documents import ServerDocument
from cleanroom_pipelines.media.api import AudienceType, CustomAudience, SeedAudience, reference
from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.media.compute_job import (
    JOBS,
    MediaAudiencesValidationReportJob,
    MediaAudienceUserListJob,
    MediaBaseAudienceValidationReportsJob,
    MediaComputeJob,
    MediaDataAttributesJob,
    MediaEstimateAudienceSizeJob,
    MediaGetAudiencesJob,
    MediaInsightsJob,
    MediaLookalikeAudienceStatisticsJob,
    MediaOverlapStatisticsJob,
)
from cleanroom_pipelines.media.definition import AudienceDefinition
from cleanroom_pipelines.media.errors import InvalidDefinitionError, InvalidRequestError, NotFoundError
from cleanroom_pipelines.media.exclusion_targeting_builder import ExclusionTargetingAudienceDefinition
from cleanroom_pipelines.media.lookalike_audience_builder import LookalikeAudienceDefinition
from cleanroom_pipelines.media.participant import Participant
from cleanroom_pipelines.media.protocol import JobKind, Method
from cleanroom_pipelines.media.remarketing_audience_builder import RemarketingAudienceDefinition
from cleanroom_pipelines.media.results import BudgetProposal, PriceEstimate, PrivacyBudget
from cleanroom_pipelines.media.rule_based_builder import RuleBasedAudienceDefinition
from cleanroom_pipelines.terms import CollaborationType, MatchingId


@dataclass(frozen=True)
class DcrConfiguration(ServerDocument):
    """What a data room was created with; it never changes.

    Args:
        id: Its id.
        name: Its name.
        owner_email: Who created it.
        participants: Who takes part.
        collaboration_types: What it is for.
        matching_ids: The kinds of matching ids.
        hide_absolute_values: Whether counts that depend on both sides are hidden.
        activation: Ad destinations whose hashes are kept of the base audience.
        created_at: When it was created, ISO 8601 in UTC.
        privacy: The numbers of its privacy policy.
    """

    id: str
    name: str
    owner_email: str
    participants: tuple[Participant, ...]
    collaboration_types: tuple[CollaborationType, ...]
    matching_ids: tuple[MatchingId, ...]
    hide_absolute_values: bool = False
    activation: tuple[str, ...] = ()
    created_at: str | None = None
    privacy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataRoomAuditLog:
    """One line of a data room's audit log, as far as the caller may see it.

    Args:
        entry: All that the server tells of it.
    """

    entry: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.entry[name]

    def as_dict(self) -> dict[str, Any]:
        """All that the server tells of it."""
        return dict(self.entry)


class MediaDcr:
    """A data room of one publisher and one advertiser; constructing it creates one on the server.

    Args:
        client: Who creates it, and works in it.
        name: Its name.
        participants: Who takes part; its creator must be among them.
        collaboration_types: What it is for, at least one.
        matching_ids: The kinds of matching ids, at least one.
        hide_absolute_values: Whether counts that depend on both sides are hidden from everybody.
        activation: Ad destinations whose hashes are kept of the base audience, such as `google` and `meta`.

    Raises:
        InvalidRequestError: The configuration is incomplete or contradicts itself; nothing was created.
    """

    def __init__(
        self,
        client: Client,
        *,
        name: str | None = None,
        participants: list[Participant] | None = None,
        collaboration_types: list[CollaborationType] | None = None,
        matching_ids: list[MatchingId] | None = None,
        hide_absolute_values: bool = False,
        activation: Sequence[str] = (),
        _existing_dcr_id: str | None = None,
    ) -> None:
        self._client = client
        if _existing_dcr_id is not None:
            self._room = client.call(Method.GET_ROOM, room_id=_existing_dcr_id)
            return
        if not name or not participants or not collaboration_types or not matching_ids:
            raise InvalidRequestError(
                "The data room is not described completely.",
                remedy="Give a name, participants, collaboration types and matching ids.",
            )
        self._room = client.call(
            Method.CREATE_ROOM,
            name=name,
            participants=[participant.as_dict() for participant in participants],
            collaboration_types=_values(CollaborationType, collaboration_types),
            matching_ids=_values(MatchingId, matching_ids),
            hide_absolute_values=bool(hide_absolute_values),
            activation=list(activation),
        )

    @classmethod
    def from_existing(cls, dcr_id: str, client: Client) -> Self:
        """Open a data room that exists.

        Args:
            dcr_id: Its id.
            client: Who works in it.

        Raises:
            PermissionDeniedError: There is none of that id for the caller.
        """
        return cls(client, _existing_dcr_id=dcr_id)

    def __repr__(self) -> str:
        return f"MediaDcr({self.id!r})"

    @property
    def id(self) -> str:
        """Its id."""
        return str(self._room["id"])

    # who and what

    def get_configuration(self) -> DcrConfiguration:
        """What the data room was created with."""
        return DcrConfiguration.from_dict(self._room)

    def get_participants(self) -> list[Participant]:
        """Who takes part."""
        return list(self.get_configuration().participants)

    def get_owner_email(self) -> str:
        """Who created it."""
        return self.get_configuration().owner_email

    def can_other_participants_export_audience(self) -> bool:
        """Whether a participant that the caller does not belong to may export audiences."""
        email = self._client.email
        others = (each for each in self.get_participants() if not each.has_member(email))
        return any(each.can_export_audience() for each in others)

    def get_audit_log(self) -> list[DataRoomAuditLog]:
        """What was done in the data room; what other groups did is told without names and definitions."""
        entries = self._client.call(Method.GET_AUDIT_LOG, room_id=self.id)["entries"]
        return [DataRoomAuditLog(entry) for entry in entries]

    def get_privacy_budget(self) -> PrivacyBudget:
        """What the two organisations that provide the room's data have spent together, in all their rooms."""
        return PrivacyBudget.from_dict(self._client.call(Method.GET_ROOM, room_id=self.id)["ledger"])

    def estimate(
        self,
        kind: str,
        *,
        audience_type: str | None = None,
        definition: Mapping[str, Any] | None = None,
        audience: CustomAudience | None = None,
    ) -> PriceEstimate:
        """What a question would cost now; asking for the price costs nothing and computes nothing.

        Args:
            kind: `overlap_statistics`, `insights`, `audience_size`, `lookalike_statistics`, `user_list` or
                `base_figures`.
            audience_type: Of insights, the seed audience.
            definition: Of an audience that does not exist yet.
            audience: One that does.
        """
        about = None if audience is None else audience.as_dict()
        given = {"audience_type": audience_type, "definition": definition, "audience": about}
        present = {name: value for name, value in given.items() if value is not None}
        found = self._client.call(Method.GET_ESTIMATE, room_id=self.id, kind=kind, **present)
        return PriceEstimate.from_dict(found)

    def renew_base_figures(self) -> None:
        """Pay for new figures of the base audience: those that were told stay until then.

        Answers that rest on them are made again. Figures of the present base are not paid twice.
        """
        self._client.call(Method.RENEW_BASE_FIGURES, room_id=self.id)

    def propose_refill(self, units: int) -> BudgetProposal:
        """Propose more units; they are given once both organisations that provide the data approved it.

        Args:
            units: How many, 1 to 100.
        """
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise InvalidRequestError("The units cannot be used.", remedy="Give a whole number from 1.")
        return self._propose("refill", units=units)

    def propose_monthly_budget(self) -> BudgetProposal:
        """Propose that the units are given every month instead of once; read its `bound_then` before approving."""
        return self._propose("period")

    def propose_share(self, organization: str, units: int) -> BudgetProposal:
        """Propose how much of the budget the people of one participating organisation may spend, of all rooms.

        Args:
            organization: Its name, which is the domain of its addresses unless the operator set another, or the
                address of one of its people.
            units: The most that they may spend, from 0; within a month where the budget is given every month.
        """
        if isinstance(units, bool) or not isinstance(units, int) or units < 0:
            raise InvalidRequestError("The units are invalid.", remedy="Give a whole number from 0.")
        return self._propose("share", organization=organization, units=units)

    def propose_full_lookalike(self) -> BudgetProposal:
        """Propose lookalikes by the full ensemble in this room: more exact, and outside the privacy bound."""
        return self._propose("full_lookalike")

    def get_proposals(self) -> list[BudgetProposal]:
        """What was proposed to the two organisations, with the bound before and after."""
        found = self._client.call(Method.LIST_PROPOSALS, room_id=self.id)["proposals"]
        return [BudgetProposal.from_dict(each) for each in found]

    def approve(self, proposal: BudgetProposal) -> BudgetProposal:
        """Approve a proposal for the caller's organisation."""
        found = self._client.call(Method.APPROVE, room_id=self.id, proposal_id=proposal.id)
        return BudgetProposal.from_dict(found)

    def _propose(self, kind: str, **more: Any) -> BudgetProposal:
        return BudgetProposal.from_dict(self._client.call(Method.PROPOSE, room_id=self.id, kind=kind, **more))

    def decline(self) -> None:
        """Refuse to take part: the room is gone from the caller's list, and its owner sees who declined.

        Raises:
            ConflictError: It is the caller's own room.
        """
        self._client.call(Method.DECLINE_ROOM, room_id=self.id)

    # what the two sides bring

    def provision_base_audience(self, data_lab_id: str) -> None:
        """Put a validated data lab into the room as its base audience, in place of an earlier one.

        Args:
            data_lab_id: The data lab.

        Raises:
            NotValidatedError: It was not validated, or did not pass.
        """
        self._client.call(Method.PROVISION_BASE, room_id=self.id, lab_id=data_lab_id)

    def deprovision_base_audience(self) -> None:
        """Take the base audience with all its datasets out of the room."""
        self._client.call(Method.DEPROVISION_BASE, room_id=self.id)

    def is_base_audience_provisioned(self) -> bool:
        """Whether the base audience is there."""
        return bool(self._client.call(Method.GET_PROVISIONING, room_id=self.id)["base"])

    def get_base_audience_validation_reports(self) -> MediaBaseAudienceValidationReportsJob:
        """Fetch the validation reports of the base audience."""
        return MediaBaseAudienceValidationReportsJob.start(self._client, self.id)

    def provision_seed_audiences(
        self, manifest_hash: str | Sequence[str], *, matching_id: MatchingId | None = None
    ) -> None:
        """Put an uploaded file into the room as its seed audiences, in place of earlier ones.

        Args:
            manifest_hash: What `Client.upload_dataset` returned; several, one for each kind of matching ids, in a
                room that has several.
            matching_id: The file's kind of matching ids, if that was not said when it was uploaded.

        Raises:
            ValidationFailedError: The file cannot be used; nothing was changed.
        """
        hashes = [manifest_hash] if isinstance(manifest_hash, str) else list(manifest_hash)
        if matching_id is not None and len(hashes) > 1:
            raise InvalidRequestError(
                "One kind of matching ids was given for several files.",
                remedy="Say it for each of them in `upload_dataset`.",
            )
        kinds = [matching_id or getattr(each, "matching_id", None) for each in hashes]
        datasets = [
            {"manifest_hash": str(each), "matching_id": None if kind is None else MatchingId(kind).value}
            for each, kind in zip(hashes, kinds, strict=True)
        ]
        self._client.call(Method.PROVISION_SEEDS, room_id=self.id, datasets=datasets)

    def deprovision_seed_audiences(self) -> None:
        """Take the seed audiences out of the room."""
        self._client.call(Method.DEPROVISION_SEEDS, room_id=self.id)

    def are_seed_audiences_provisioned(self) -> bool:
        """Whether the seed audiences are there."""
        return bool(self._client.call(Method.GET_PROVISIONING, room_id=self.id)["seeds"])

    def get_seed_audiences_validation_report(self) -> MediaAudiencesValidationReportJob:
        """Fetch the validation report of the seed audiences."""
        return MediaAudiencesValidationReportJob.start(self._client, self.id)

    # what the room tells

    def get_overlap_statistics(self) -> MediaOverlapStatisticsJob:
        """Work out how the seed audiences and the base audience meet."""
        return MediaOverlapStatisticsJob.start(self._client, self.id)

    def get_insights(self) -> MediaInsightsJob:
        """Work out what sets the matched users of each seed audience apart."""
        return MediaInsightsJob.start(self._client, self.id)

    def get_data_attributes(self) -> MediaDataAttributesJob:
        """Look up which attributes filters can be set on."""
        return MediaDataAttributesJob.start(self._client, self.id)

    # audiences

    def get_audiences(self) -> MediaGetAudiencesJob:
        """Look up the audiences that the caller sees."""
        return MediaGetAudiencesJob.start(self._client, self.id)

    def create_lookalike_audience(self, definition: LookalikeAudienceDefinition) -> CustomAudience:
        """Create a lookalike audience.

        Args:
            definition: What it is, from `LookalikeAudienceBuilder`.
        """
        return self._create(definition, LookalikeAudienceDefinition)

    def create_rule_based_audience(self, definition: RuleBasedAudienceDefinition) -> CustomAudience:
        """Create a rule-based audience.

        Args:
            definition: What it is, from `RuleBasedAudienceBuilder`.
        """
        return self._create(definition, RuleBasedAudienceDefinition)

    def create_remarketing_audience(self, definition: RemarketingAudienceDefinition) -> CustomAudience:
        """Create a remarketing audience.

        Args:
            definition: What it is, from `RemarketingAudienceBuilder`.
        """
        return self._create(definition, RemarketingAudienceDefinition)

    def create_exclusion_audience(self, definition: ExclusionTargetingAudienceDefinition) -> CustomAudience:
        """Create an exclusion audience: all users but the matched ones.

        Args:
            definition: What it is, from `ExclusionTargetingAudienceBuilder`.
        """
        return self._create(definition, ExclusionTargetingAudienceDefinition)

    def share_audiences(self, audiences: list[CustomAudience], participants: list[Participant]) -> None:
        """Let exactly these participants see the audiences too; whom they were shared with before is replaced.

        Args:
            audiences: The audiences.
            participants: The participants; none to stop sharing.
        """
        self._client.call(
            Method.SHARE_AUDIENCES,
            room_id=self.id,
            audience_ids=_custom_ids(audiences),
            participant_ids=self._participant_ids(participants),
        )

    def delete_audiences(
        self, audiences: list[CustomAudience], *, delete_dependent_audiences: bool = False
    ) -> None:
        """Delete audiences, all of them or none.

        Args:
            audiences: The audiences.
            delete_dependent_audiences: Whether the audiences that refer to them are deleted too.

        Raises:
            AudienceHasDependentsError: Others refer to them, and shall stay.
        """
        self._client.call(
            Method.DELETE_AUDIENCES,
            room_id=self.id,
            audience_ids=_custom_ids(audiences),
            delete_dependent_audiences=bool(delete_dependent_audiences),
        )

    def get_audience_size(self, audience: AudienceType | AudienceDefinition) -> MediaEstimateAudienceSizeJob:
        """Work out how many users an audience has.

        Args:
            audience: The audience, or a definition that was not saved.
        """
        if isinstance(audience, AudienceDefinition):
            return MediaEstimateAudienceSizeJob.start(self._client, self.id, definition=audience.as_dict())
        return MediaEstimateAudienceSizeJob.start(self._client, self.id, audience=reference(audience))

    def get_audience_user_list(
        self,
        audience: SeedAudience | CustomAudience,
        *,
        destination: str | None = None,
        gzip: bool = False,
        max_rows: int | None = None,
        holdout: str | None = None,
        delta_from: str | None = None,
    ) -> MediaAudienceUserListJob:
        """Deliver the users of an audience.

        Args:
            audience: The audience.
            destination: `plain` for user ids, one a line, which is what None means; or an ad destination that the
                base audience keeps hashes for, such as `google` or `meta`.
            gzip: Whether files are compressed.
            max_rows: Most rows in a file.
            holdout: Share of the users that is kept out as a control group, such as `10%`.
            delta_from: Id of an earlier user list's job, to get what was added and removed since too.
        """
        options = {
            "destination": destination,
            "gzip": gzip or None,
            "max_rows": max_rows,
            "holdout": holdout,
            "delta_from": delta_from,
        }
        chosen = {name: value for name, value in options.items() if value is not None}
        return MediaAudienceUserListJob.start(self._client, self.id, audience=reference(audience), options=chosen)

    def get_lookalike_audience_statistics(self, audience: AudienceType) -> MediaLookalikeAudienceStatisticsJob:
        """Work out how well a lookalike audience's ranking finds seed users that it was not shown.

        Args:
            audience: The lookalike audience.
        """
        return MediaLookalikeAudienceStatisticsJob.start(self._client, self.id, audience=reference(audience))

    def get_job(self, job_id: str) -> MediaComputeJob[Any]:
        """A job that was started before, perhaps by another process of the caller.

        Args:
            job_id: Its id.
        """
        state = self._client.call(Method.GET_JOB, job_id=job_id)
        return JOBS[JobKind(state["kind"])](self._client, state)

    def request_audience(self, definition: AudienceDefinition) -> dict[str, Any]:
        """Create an audience and return what the server tells of it, as JSON."""
        if not isinstance(definition, AudienceDefinition):
            raise InvalidDefinitionError("What was given is no definition.", remedy="Call `build` on a builder.")
        told: dict[str, Any] = self._client.call(
            Method.CREATE_AUDIENCE,
            room_id=self.id,
            name=definition.name,
            definition=definition.as_dict(),
            shared_with=self._participant_ids(definition.shared_with),
        )
        return told

    def _create(self, definition: AudienceDefinition, kind: type[AudienceDefinition]) -> CustomAudience:
        if not isinstance(definition, kind):
            raise InvalidDefinitionError(
                f"What was given is no {kind.__name__}.", remedy="Call `build` on the builder that makes one."
            )
        return CustomAudience.from_dict(self.request_audience(definition))

    def _participant_ids(self, participants: Iterable[Participant]) -> list[str]:
        """Their ids in this room; who was built here and not loaded is known by the e-mail addresses."""
        known = self.get_participants()
        ids = []
        for participant in participants:
            found = next((each for each in known if _is_same(each, participant)), None)
            if found is None or found.id is None:
                raise NotFoundError(
                    "A participant is none of this data room.", remedy="Take them from `get_participants`."
                )
            ids.append(found.id)
        return ids


def _is_same(known: Participant, given: Participant) -> bool:
    if given.id is not None:
        return given.id == known.id
    mine, theirs = ({email.casefold() for email in each.emails} for each in (known, given))
    return mine == theirs


def _custom_ids(audiences: Iterable[CustomAudience]) -> list[str]:
    listed = list(audiences)
    if not all(isinstance(each, CustomAudience) for each in listed):
        raise InvalidRequestError(
            "Something that was given is no custom audience.", remedy="Seed audiences belong to the advertiser."
        )
    return [each.id for each in listed]


def _values(kind: type[StrEnum], given: Iterable[Any]) -> list[str]:
    try:
        return [kind(each).value for each in given]
    except ValueError:
        raise InvalidRequestError(
            f"There is no such {kind.__name__}.", remedy=f"Choose from: {', '.join(kind.__members__)}."
        ) from None
