"""A data room and the operations that a participant can call.

Lives here: `MediaDcr`, its configuration and its audit log.
Add here when a data room gets another operation.
Keep out: decisions. The server checks permissions and decides which counts are released.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from cleanroom_pipelines.documents import ServerDocument
from cleanroom_pipelines.media.api import (
    USER_ID,
    AudienceType,
    CustomAudience,
    IdType,
    SeedAudience,
    reference,
)
from cleanroom_pipelines.media.api import matching_id as as_matching_id
from cleanroom_pipelines.media.client import Client
from cleanroom_pipelines.media.compute_job import (
    JOBS,
    RESULT_SECONDS,
    DataLabValidationJob,
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
from cleanroom_pipelines.media.exclusion_targeting_audience_builder import ExclusionTargetingAudienceDefinition
from cleanroom_pipelines.media.lookalike_audience_builder import LookalikeAudienceDefinition
from cleanroom_pipelines.media.participant import Participant, known_permissions
from cleanroom_pipelines.media.protocol import JobKind, Method
from cleanroom_pipelines.media.remarketing_audience_builder import RemarketingAudienceDefinition
from cleanroom_pipelines.media.results import BudgetProposal, PriceEstimate, PrivacyBudget
from cleanroom_pipelines.media.rule_based_builder import RuleBasedAudienceDefinition
from cleanroom_pipelines.terms import CollaborationType, MatchingId, Permission


@dataclass(frozen=True)
class DcrConfiguration(ServerDocument):
    """A data room's configuration, which never changes after creation.

    Args:
        id: Its id.
        name: Its name.
        owner_email: E-mail address of its creator.
        participants: Its participants.
        collaboration_types: The collaborations that it allows.
        matching_ids: The kinds of matching ids that it accepts.
        hide_absolute_values: Whether counts that depend on both sides are hidden.
        activation: Ad destinations for which the base audience keeps hashed ids.
        created_at: When it was created, ISO 8601 in UTC.
        privacy: The parameters of its privacy policy.
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

    def model_dump_json(self) -> str:
        """Return the configuration as JSON text."""
        return json.dumps(self.as_dict(), ensure_ascii=False)


@dataclass(frozen=True)
class DataRoomAuditLog:
    """One entry of a data room's audit log, limited to the fields that the caller may see.

    Args:
        entry: All fields that the server returned.
    """

    entry: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.entry[name]

    def as_dict(self) -> dict[str, Any]:
        """Return all fields that the server returned."""
        return dict(self.entry)


class MediaDcr:
    """A data room of one publisher and one advertiser; the constructor creates it on the server.

    Args:
        client: The client that creates and uses it.
        name: Its name.
        participants: Its participants, including its creator.
        collaboration_types: The collaborations that it allows, at least one.
        matching_ids: The kinds of matching ids that it accepts, at least one.
        hide_absolute_values: Whether counts that depend on both sides are hidden from all participants.
        show_match_rate: Ignored: the match rate is always shown to the advertiser and never to others, since it
            reveals the exact size of the advertiser's list.
        activation: Ad destinations for which the base audience keeps hashed ids, such as `google` and `meta`.

    Raises:
        InvalidRequestError: The configuration is incomplete or inconsistent; nothing was created.
    """

    def __init__(
        self,
        client: Client,
        *,
        name: str | None = None,
        participants: list[Participant] | None = None,
        collaboration_types: list[CollaborationType] | None = None,
        matching_ids: Sequence[MatchingId | IdType] | None = None,
        hide_absolute_values: bool = False,
        show_match_rate: bool = False,
        activation: Sequence[str] = (),
        _existing_dcr_id: str | None = None,
    ) -> None:
        self._client = client
        self._activation_id = USER_ID
        if _existing_dcr_id is not None:
            self._room = client.call(Method.GET_ROOM, room_id=_existing_dcr_id)
            return
        if not name or not participants or not collaboration_types or not matching_ids:
            raise InvalidRequestError(
                "The data room's configuration is incomplete.",
                remedy="Give a name, participants, collaboration types and matching ids, at least one of each.",
            )
        self._room = client.call(
            Method.CREATE_ROOM,
            name=name,
            participants=[participant.as_dict() for participant in participants],
            collaboration_types=[_collaboration(each).value for each in collaboration_types],
            matching_ids=[as_matching_id(each).value for each in matching_ids],
            hide_absolute_values=bool(hide_absolute_values),
            activation=list(activation),
        )

    @classmethod
    def from_existing(cls, dcr_id: str, client: Client) -> Self:
        """Open an existing data room.

        Args:
            dcr_id: Its id.
            client: The client that uses it.

        Raises:
            PermissionDeniedError: The caller can see no data room with that id.
        """
        return cls(client, _existing_dcr_id=dcr_id)

    def __repr__(self) -> str:
        return f"MediaDcr({self.id!r})"

    @property
    def id(self) -> str:
        """The data room's id."""
        return str(self._room["id"])

    # configuration, audit log and budget

    def get_configuration(self) -> DcrConfiguration:
        """Return the configuration that the data room was created with."""
        return DcrConfiguration.from_dict(self._room)

    def get_participants(self) -> list[Participant]:
        """Return the participants."""
        return list(self.get_configuration().participants)

    def add_user_as_participant(self, participant: Participant, email: str, permissions: list[Permission]) -> None:
        """Add a user of the caller's organisation to the caller's own participant.

        Args:
            participant: The participant.
            email: E-mail address of the user.
            permissions: The user's permissions, all of them among the participant's.

        Raises:
            PermissionDeniedError: It is not the caller's own participant, or the caller may not manage users.
        """
        [participant_id] = self._participant_ids([participant])
        self._room = self._client.call(
            Method.ADD_USER,
            room_id=self.id,
            participant_id=participant_id,
            email=email,
            permissions=[each.value for each in known_permissions(permissions)],
        )

    def remove_user_from_participant(self, participant: Participant, email: str) -> None:
        """Remove a user from the caller's own participant.

        Args:
            participant: The participant.
            email: E-mail address of the user.

        Raises:
            PermissionDeniedError: It is not the caller's own participant, or the caller may not manage users.
            ConflictError: One of the participant's permissions would be left without a user.
        """
        [participant_id] = self._participant_ids([participant])
        self._room = self._client.call(
            Method.REMOVE_USER, room_id=self.id, participant_id=participant_id, email=email
        )

    def set_activation_id(self, activation_id: str) -> None:
        """Set the kind of ids that `get_audience_user_list` delivers by default.

        Args:
            activation_id: `userId`, or an ad destination for which the base audience keeps hashed ids.

        Raises:
            InvalidRequestError: The room keeps no such ids.
        """
        if activation_id not in (known := (USER_ID, *self.get_configuration().activation)):
            raise InvalidRequestError(
                "This data room cannot deliver ids of this kind.", remedy=f"Choose from: {', '.join(known)}."
            )
        self._activation_id = activation_id

    def get_owner_email(self) -> str:
        """Return the e-mail address of the room's creator."""
        return self.get_configuration().owner_email

    def can_other_participants_export_audience(self) -> bool:
        """Check whether any other participant may export audiences."""
        email = self._client.email
        others = (each for each in self.get_participants() if not each.has_member(email))
        return any(each.can_export_audience() for each in others)

    def get_audit_log(self) -> list[DataRoomAuditLog]:
        """Return the audit log; entries of other participants omit audience and user."""
        entries = self._client.call(Method.GET_AUDIT_LOG, room_id=self.id)["entries"]
        return [DataRoomAuditLog(entry) for entry in entries]

    def get_privacy_budget(self) -> PrivacyBudget:
        """Return the privacy budget that the room's two data providers share across all their rooms."""
        return PrivacyBudget.from_dict(self._client.call(Method.GET_ROOM, room_id=self.id)["ledger"])

    def estimate(
        self,
        kind: str,
        *,
        audience_type: str | None = None,
        definition: Mapping[str, Any] | None = None,
        audience: CustomAudience | None = None,
    ) -> PriceEstimate:
        """Estimate the price of a query; the estimate itself is free and computes nothing.

        Args:
            kind: `overlap_statistics`, `insights`, `audience_size`, `lookalike_statistics`, `user_list` or
                `base_figures`.
            audience_type: The type of seed audience, for insights.
            definition: The definition of an audience that does not exist yet.
            audience: An existing audience.
        """
        about = None if audience is None else audience.as_dict()
        given = {"audience_type": audience_type, "definition": definition, "audience": about}
        present = {name: value for name, value in given.items() if value is not None}
        found = self._client.call(Method.GET_ESTIMATE, room_id=self.id, kind=kind, **present)
        return PriceEstimate.from_dict(found)

    def renew_base_figures(self) -> None:
        """Pay for new figures about the base audience; until then, the room shows the figures already published.

        Results that depend on them are rebuilt. Figures of the current base audience are paid only once.
        """
        self._client.call(Method.RENEW_BASE_FIGURES, room_id=self.id)

    def propose_refill(self, units: int) -> BudgetProposal:
        """Propose more budget units; they are added once both data providers approve.

        Args:
            units: Number of units, 1 to 100.
        """
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            raise InvalidRequestError(
                "The number of units is invalid.", remedy="Give a whole number of at least 1."
            )
        return self._propose("refill", units=units)

    def propose_monthly_budget(self) -> BudgetProposal:
        """Propose a budget that renews every month; check its privacy bound (`bound_then`) before approving."""
        return self._propose("period")

    def propose_share(self, organization: str, units: int) -> BudgetProposal:
        """Propose a limit on the spending of one participating organisation, across all rooms.

        Args:
            organization: Its name (the domain of its e-mail addresses, unless the operator set another), or the
                e-mail address of one of its members.
            units: Largest number of units that it may spend, from 0; per month if the budget is monthly.
        """
        if isinstance(units, bool) or not isinstance(units, int) or units < 0:
            raise InvalidRequestError(
                "The number of units is invalid.", remedy="Give a whole number of at least 0."
            )
        return self._propose("share", organization=organization, units=units)

    def propose_full_lookalike(self) -> BudgetProposal:
        """Propose lookalikes by the full ensemble in this room: more accurate, but outside the privacy bound."""
        return self._propose("full_lookalike")

    def get_proposals(self) -> list[BudgetProposal]:
        """Return the budget proposals, each with the privacy bound now and once the proposal takes effect."""
        found = self._client.call(Method.LIST_PROPOSALS, room_id=self.id)["proposals"]
        return [BudgetProposal.from_dict(each) for each in found]

    def approve(self, proposal: BudgetProposal) -> BudgetProposal:
        """Approve a proposal on behalf of the caller's organisation."""
        found = self._client.call(Method.APPROVE, room_id=self.id, proposal_id=proposal.id)
        return BudgetProposal.from_dict(found)

    def _propose(self, kind: str, **more: Any) -> BudgetProposal:
        return BudgetProposal.from_dict(self._client.call(Method.PROPOSE, room_id=self.id, kind=kind, **more))

    def decline(self) -> None:
        """Decline the room: the caller no longer sees it, and its owner sees that the caller declined.

        Raises:
            ConflictError: The caller owns the room.
        """
        self._client.call(Method.DECLINE_ROOM, room_id=self.id)

    # provisioning

    def provision_base_audience(self, data_lab_id: str, *, force: bool = False) -> None:
        """Provision a validated data lab as the room's base audience, replacing any earlier one.

        Args:
            data_lab_id: The data lab.
            force: Whether to provision a data lab that is still being validated, once it passes. One that failed
                is never provisioned.

        Raises:
            NotValidatedError: It has not been validated, or failed validation.
        """
        if force:
            DataLabValidationJob(
                self._client, self._client.call(Method.START_LAB, lab_id=data_lab_id)
            ).wait_for_completion(RESULT_SECONDS)
        self._client.call(Method.PROVISION_BASE, room_id=self.id, lab_id=data_lab_id)

    def deprovision_base_audience(self) -> None:
        """Remove the base audience and all its datasets from the room."""
        self._client.call(Method.DEPROVISION_BASE, room_id=self.id)

    def is_base_audience_provisioned(self) -> bool:
        """Check whether the base audience is provisioned."""
        return bool(self._client.call(Method.GET_PROVISIONING, room_id=self.id)["base"])

    def get_base_audience_validation_reports(self) -> MediaBaseAudienceValidationReportsJob:
        """Fetch the validation reports of the base audience."""
        return MediaBaseAudienceValidationReportsJob.start(self._client, self.id)

    def provision_seed_audiences(
        self, manifest_hash: str | Sequence[str], *, matching_id: MatchingId | IdType | None = None
    ) -> None:
        """Provision an uploaded file as the room's seed audiences, replacing any earlier ones.

        Args:
            manifest_hash: The hash that `Client.upload_dataset` returned; a list with one per kind of matching
                ids, in a room that accepts several kinds.
            matching_id: The file's kind of matching ids, unless it was given at upload.

        Raises:
            ValidationFailedError: The file is invalid; nothing was changed.
        """
        hashes = [manifest_hash] if isinstance(manifest_hash, str) else list(manifest_hash)
        if matching_id is not None and len(hashes) > 1:
            raise InvalidRequestError(
                "One `matching_id` was given for several files.",
                remedy="Give `matching_id` for each file in `upload_dataset`.",
            )
        kinds = [matching_id or getattr(each, "matching_id", None) for each in hashes]
        datasets = [
            {"manifest_hash": str(each), "matching_id": None if kind is None else as_matching_id(kind).value}
            for each, kind in zip(hashes, kinds, strict=True)
        ]
        self._client.call(Method.PROVISION_SEEDS, room_id=self.id, datasets=datasets)

    def deprovision_seed_audiences(self) -> None:
        """Remove the seed audiences from the room."""
        self._client.call(Method.DEPROVISION_SEEDS, room_id=self.id)

    def are_seed_audiences_provisioned(self) -> bool:
        """Check whether the seed audiences are provisioned."""
        return bool(self._client.call(Method.GET_PROVISIONING, room_id=self.id)["seeds"])

    def get_seed_audiences_validation_report(self) -> MediaAudiencesValidationReportJob:
        """Fetch the validation report of the seed audiences."""
        return MediaAudiencesValidationReportJob.start(self._client, self.id)

    # statistics

    def get_overlap_statistics(self) -> MediaOverlapStatisticsJob:
        """Compute the overlap of each seed audience with the base audience."""
        return MediaOverlapStatisticsJob.start(self._client, self.id)

    def get_insights(self) -> MediaInsightsJob:
        """Compute the traits that distinguish the matched users of each seed audience."""
        return MediaInsightsJob.start(self._client, self.id)

    def get_data_attributes(self) -> MediaDataAttributesJob:
        """Fetch the attributes that filters can use."""
        return MediaDataAttributesJob.start(self._client, self.id)

    # audiences

    def get_audiences(self) -> MediaGetAudiencesJob:
        """Fetch the audiences that the caller can see."""
        return MediaGetAudiencesJob.start(self._client, self.id)

    def create_lookalike_audience(self, definition: LookalikeAudienceDefinition) -> CustomAudience:
        """Create a lookalike audience.

        Args:
            definition: The definition, built with `LookalikeAudienceBuilder`.
        """
        return self._create(definition, LookalikeAudienceDefinition)

    def create_rule_based_audience(self, definition: RuleBasedAudienceDefinition) -> CustomAudience:
        """Create a rule-based audience.

        Args:
            definition: The definition, built with `RuleBasedAudienceBuilder`.
        """
        return self._create(definition, RuleBasedAudienceDefinition)

    def create_remarketing_audience(self, definition: RemarketingAudienceDefinition) -> CustomAudience:
        """Create a remarketing audience.

        Args:
            definition: The definition, built with `RemarketingAudienceBuilder`.
        """
        return self._create(definition, RemarketingAudienceDefinition)

    def create_exclusion_targeting_audience(
        self, definition: ExclusionTargetingAudienceDefinition
    ) -> CustomAudience:
        """Create an exclusion audience; the same as `create_exclusion_audience`."""
        return self.create_exclusion_audience(definition)

    def create_exclusion_audience(self, definition: ExclusionTargetingAudienceDefinition) -> CustomAudience:
        """Create an exclusion audience: all users except the matched ones.

        Args:
            definition: The definition, built with `ExclusionTargetingAudienceBuilder`.
        """
        return self._create(definition, ExclusionTargetingAudienceDefinition)

    def share_audiences(self, audiences: list[CustomAudience], participants: list[Participant]) -> None:
        """Share audiences with exactly the given participants; this replaces earlier sharing.

        Args:
            audiences: The audiences.
            participants: The participants; an empty list stops sharing.
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
        """Delete several audiences in one transaction: all of them, or none.

        Args:
            audiences: The audiences.
            delete_dependent_audiences: Whether the audiences that refer to them are deleted too.

        Raises:
            AudienceHasDependentsError: Other audiences depend on them, and were not to be deleted.
        """
        self._client.call(
            Method.DELETE_AUDIENCES,
            room_id=self.id,
            audience_ids=_custom_ids(audiences),
            delete_dependent_audiences=bool(delete_dependent_audiences),
        )

    def get_audience_size(self, audience: AudienceType | AudienceDefinition) -> MediaEstimateAudienceSizeJob:
        """Compute the size of an audience.

        Args:
            audience: The audience, or an unsaved definition.
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
        """Export the users of an audience.

        Args:
            audience: The audience.
            destination: `plain` for user ids, one per line; or an ad destination for which the base audience keeps
                hashed ids, such as `google` or `meta`. By default what `set_activation_id` set, or `plain`.
            gzip: Whether the files are compressed.
            max_rows: Largest number of rows per file.
            holdout: Share of the users that is withheld as a control group, such as `10%`.
            delta_from: Id of an earlier user list's job, to also get the users added and removed since then.
        """
        if destination is None and self._activation_id != USER_ID:
            destination = self._activation_id
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
        """Compute how well a lookalike audience's ranking finds held-out seed users.

        Args:
            audience: The lookalike audience.
        """
        return MediaLookalikeAudienceStatisticsJob.start(self._client, self.id, audience=reference(audience))

    def get_job(self, job_id: str) -> MediaComputeJob[Any]:
        """Return a job that was started earlier, possibly by another process of the caller.

        Args:
            job_id: Its id.
        """
        state = self._client.call(Method.GET_JOB, job_id=job_id)
        return JOBS[JobKind(state["kind"])](self._client, state)

    def request_audience(self, definition: AudienceDefinition) -> dict[str, Any]:
        """Create an audience and return the server's response as JSON."""
        if not isinstance(definition, AudienceDefinition):
            raise InvalidDefinitionError(
                "The argument is not an audience definition.", remedy="Call `build` on a builder."
            )
        created: dict[str, Any] = self._client.call(
            Method.CREATE_AUDIENCE,
            room_id=self.id,
            name=definition.name,
            definition=definition.as_dict(),
            shared_with=self._participant_ids(definition.shared_with),
        )
        return created

    def _create(self, definition: AudienceDefinition, kind: type[AudienceDefinition]) -> CustomAudience:
        if not isinstance(definition, kind):
            raise InvalidDefinitionError(
                f"The argument is not a {kind.__name__}.", remedy="Call `build` on the matching builder."
            )
        return CustomAudience.from_dict(self.request_audience(definition))

    def _participant_ids(self, participants: Iterable[Participant]) -> list[str]:
        """Return the participants' ids in this room; participants built locally are found by e-mail address."""
        known = self.get_participants()
        ids = []
        for participant in participants:
            found = next((each for each in known if _is_same(each, participant)), None)
            if found is None or found.id is None:
                raise NotFoundError(
                    "A participant does not belong to this data room.",
                    remedy="Use participants from `get_participants`.",
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
            "Only custom audiences can be shared or deleted.", remedy="Remove seed audiences from the list."
        )
    return [each.id for each in listed]


def _collaboration(given: Any) -> CollaborationType:
    try:
        return CollaborationType(given)
    except ValueError:
        raise InvalidRequestError(
            "Unknown CollaborationType.", remedy=f"Choose from: {', '.join(CollaborationType.__members__)}."
        ) from None
