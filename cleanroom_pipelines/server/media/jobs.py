"""Jobs of the data-room (Media) API: starting them, their progress and their results.

Lives here: the kinds of jobs, each with its requirements, its price and the place of its result.
Add here when another kind of job can be started.
Keep out: computing results (the runs) and deciding which counts are released (`privacy`).

A job is a query about a version of a resource, and succeeds when that version has been built. The first fetch of
its result is charged to the two providers' privacy budget; later fetches are free for all who may see the result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cleanroom_pipelines.audiences.definitions import Lookalike, Remarketing, parse_definition
from cleanroom_pipelines.catalog import (
    OPEN,
    AudienceList,
    AudienceListSpec,
    CustomAudience,
    Kind,
    RoomJob,
    Status,
    Version,
)
from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.delivery.holdouts import Holdout
from cleanroom_pipelines.errors import ArtifactError, NotFoundError, StatusCode
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.media.protocol import JobKind, JobStatus, error_as_dict
from cleanroom_pipelines.privacy import in_units
from cleanroom_pipelines.runs.artifact_documents import newest_artifact, read_documents
from cleanroom_pipelines.runs.budgets import Question
from cleanroom_pipelines.runs.building_room_audiences import FILES
from cleanroom_pipelines.runs.upgrading import queue_room_rebuild
from cleanroom_pipelines.server.media import audiences as room_audiences
from cleanroom_pipelines.server.media import budgets as room_budgets
from cleanroom_pipelines.server.media.access import ABOUT_AUDIENCES, ABOUT_ROOMS, Call, Room, denied
from cleanroom_pipelines.server.media.rooms import own_lab
from cleanroom_pipelines.terms import CollaborationType, Permission

_NEEDS = {
    JobKind.OVERLAP_STATISTICS: ("base", "seeds"),
    JobKind.INSIGHTS: ("base", "seeds"),
    JobKind.DATA_ATTRIBUTES: ("base",),
    JobKind.BASE_REPORTS: ("base",),
    JobKind.SEEDS_REPORT: ("seeds",),
}
_REPORTS = {
    JobKind.LAB_VALIDATION: "data_lab",
    JobKind.BASE_REPORTS: "base_audience",
    JobKind.SEEDS_REPORT: "seed_audiences",
}
_MOST_ROWS = 10_000_000
_MOST_JOBS = 50
_SEED_NAME = "seed audience"  # of the hidden audience of a job about a seed audience


def start_job(call: Call) -> dict[str, Any]:
    """Start a job about a room or one of its audiences."""
    try:
        kind = JobKind(call.text("kind"))
    except ValueError:
        raise errors.InvalidRequestError(
            "Unknown kind of job.", remedy="Give a value of `JobKind` in cleanroom_pipelines.media.protocol."
        ) from None
    call.trail["operation"] = f"start_job.{kind.value}"
    if kind in ABOUT_AUDIENCES:
        room = call.room(ABOUT_AUDIENCES[kind])
        audience = _audience(call, room, kind)
        return _shown(call, _note(call, room, kind, *_target_of(call, room, kind, audience)))
    if kind is JobKind.AUDIENCES:
        room = call.room()
    elif kind in ABOUT_ROOMS:
        room = call.room(ABOUT_ROOMS[kind])
    else:
        raise errors.InvalidRequestError("This kind of job is for data labs only.", remedy="Call `start_lab`.")
    if kind is JobKind.INSIGHTS:
        room.require(CollaborationType.INSIGHTS, "insights")
    has = {"base": room.record.has_base, "seeds": room.record.has_seeds}
    missing = [side for side in _NEEDS.get(kind, ()) if not has[side]]
    if missing and not _has_report(call, kind, Kind.DATA_ROOM, room.id):  # a rejected file has a report
        sides = {"base": "base audience", "seeds": "seed audiences"}
        what = sides[missing[0]]
        raise errors.NotProvisionedError(f"The room has no {what} yet.", remedy=f"Provision the {what} first.")
    options = {} if (about := call.mapping("audience")) is None else {"audience_type": _seed_type(about)}
    return _shown(call, _note(call, room, kind, _room_version(call, room), options))


def start_lab(call: Call) -> dict[str, Any]:
    """Start a job that waits for the validation of a lab."""
    lab = own_lab(call)
    version = call.installation.catalog.resources.newest_version(Kind.DATA_LAB, lab.id)
    job = call.installation.catalog.rooms.add_room_job(
        email=call.email, data_room_id=None, kind=JobKind.LAB_VALIDATION.value, target=version, options={}
    )
    return _shown(call, job)


def get_job(call: Call) -> dict[str, Any]:
    """Return a job's status and progress."""
    return _shown(call, own_job(call))


def cancel_job(call: Call) -> dict[str, Any]:
    """Cancel a running job."""
    job = own_job(call)
    if _state(call, job).status is not JobStatus.RUNNING:
        return _shown(call, job)
    return _shown(call, call.installation.catalog.rooms.cancel_room_job(job.id))


def list_jobs(call: Call) -> dict[str, Any]:
    """Return the caller's newest jobs of the given kinds in a room, newest first."""
    kinds = [each for each in (*ABOUT_ROOMS, *ABOUT_AUDIENCES) if each.value in call.texts("kinds")]
    if not kinds or len(kinds) < len(call.texts("kinds")):
        raise errors.InvalidRequestError(
            "No kinds of jobs were given, or one of them is unknown.",
            remedy="Give at least one kind of job for rooms or audiences.",
        )
    permissions = [ABOUT_ROOMS.get(each) or ABOUT_AUDIENCES[each] for each in kinds]
    room = call.room(*permissions)
    found = call.installation.catalog.rooms.room_jobs(room.id, call.email, kinds, _MOST_JOBS)
    names = {each.id: each.name for each in room.visible()}
    return {"jobs": [_listed(call, job, names) for job in found]}


def get_job_price(call: Call) -> dict[str, Any]:
    """Return the price of fetching a job's result: 0 if it is paid or free.

    Raises:
        JobFailedError: The job failed; the error gives the reason.
        ConflictError: The job is still running.
    """
    job = own_job(call)
    room = _room_of_complete(call, job)
    if room is None:
        raise errors.InvalidRequestError(
            "Jobs of data labs have no price.", remedy="Fetch the result, which is free."
        )
    budget = room_budgets.of(room)
    cost = budget.cost([Question.from_dict(each) for each in _questions(call, job)])
    return room_budgets.priced(budget, call.organization, cost)


def get_job_result(call: Call) -> Any:
    """Return a job's result; pay for it from the privacy budget if it depends on the data of both sides.

    Raises:
        JobFailedError: The job failed; the error gives the reason.
        ConflictError: The job is still running.
        BudgetSpentError: The remaining budget is too small.
    """
    job = own_job(call)
    kind = JobKind(job.kind)
    call.trail["operation"] = f"get_job_result.{kind.value}"
    room = _room_of_complete(call, job)
    if room is None:
        return _documents(call, job, "data_lab").get("reports", {})
    return _ANSWERS[kind](call, room, job)


def _room_of_complete(call: Call, job: RoomJob) -> Room | None:
    """Return the room of a completed job whose result the caller may see; None for a job of a data lab."""
    state = _state(call, job)
    if state.error is not None:
        raise state.error
    if state.status is JobStatus.RUNNING:
        raise errors.ConflictError("The job is still running.", remedy="Wait until it is complete.")
    if job.data_room_id is None:
        return None
    permission = ABOUT_ROOMS.get(JobKind(job.kind)) or ABOUT_AUDIENCES.get(JobKind(job.kind))
    return call.room_of(job.data_room_id, *([permission] if permission else []))


@contextmanager
def open_file(call: Call, job_id: str, name: str) -> Iterator[Path]:
    """Open a file of one of the caller's user lists for the duration of the `with` block.

    Raises:
        PermissionDeniedError: The caller has no such file.
    """
    job = own_job(Call(call.installation, call.email, {"job_id": job_id}, call.trail))
    if JobKind(job.kind) is not JobKind.USER_LIST or job.data_room_id is None:
        raise denied()
    call.room_of(job.data_room_id, Permission.EXPORT_AUDIENCE)
    version = call.installation.catalog.resources.version(job.target_kind, job.target_id, job.target_version)
    if version.status is not Status.ACTIVE or job.cancelled:
        raise denied()
    call.trail["resource"] = job.target_id
    with call.installation.store.opening(version.artifact("audience_user_list")) as folder:
        known = {entry["name"] for entry in read_documents(folder)["list"]["files"]}
        if name not in known:
            raise denied()
        yield folder / FILES / name


@dataclass(frozen=True)
class _JobState:
    status: JobStatus
    progress: float = 0.0
    stage: str = ""
    place: int | None = None
    error: errors.MediaError | None = None


def _state(call: Call, job: RoomJob) -> _JobState:
    kind = JobKind(job.kind)
    try:
        version = _answering(call, job)
    except NotFoundError:
        return _JobState(
            JobStatus.FAILED,
            error=errors.JobFailedError("The audience or room that the job is about was deleted."),
        )
    if version.status in OPEN and not job.cancelled:
        stage = call.installation.catalog.work.stages([version.resource_id]).get(
            (version.resource_id, version.number)
        )
        if stage is None:  # it has just ended: the next poll returns the outcome
            return _JobState(JobStatus.RUNNING, version.progress, version.progress_stage)
        return _JobState(JobStatus.RUNNING, stage.progress, stage.words, stage.place)
    if job.cancelled:
        return _JobState(JobStatus.FAILED, error=errors.JobCancelledError("The job was cancelled."))
    is_available = version.status is Status.ACTIVE or _has_report(call, kind, job.target_kind, job.target_id)
    if is_available:
        return _JobState(JobStatus.SUCCESS, 1.0)
    return _JobState(JobStatus.FAILED, error=failure_of(version))


def _answering(call: Call, job: RoomJob) -> Version:
    """Return the version (of a room, lab, audience or list) that contains, or will contain, a job's result.

    If the room was being rebuilt when a job about an audience was started, the result uses the new data: the job
    waits for the room, and then for the audience's version that is built from it.

    Raises:
        NotFoundError: The resource that the job is about was deleted.
    """
    catalog, wanted = call.installation.catalog, job.options.get("room_version")
    target = catalog.resources.version(job.target_kind, job.target_id, job.target_version)
    if wanted is None or target.status is not Status.ACTIVE or job.data_room_id is None:
        return target
    room = catalog.resources.version(Kind.DATA_ROOM, job.data_room_id, wanted)
    if room.status is not Status.ACTIVE:
        return room if room.status in OPEN else target  # invalid new data changes nothing
    later = [
        each
        for each in catalog.resources.versions(target.kind, target.resource_id)
        if each.number >= target.number
    ]
    return next((each for each in later if not _is_before(each, room)), later[-1])


def _is_before(version: Version, room: Version) -> bool:
    """Check whether a version was built from a room version earlier than the given one."""
    built_from = [parent.version for parent in version.parents if parent.id == room.resource_id]
    return version.status is Status.ACTIVE and bool(built_from) and max(built_from) < room.number


def failure_of(version: Version) -> errors.MediaError:
    """Return the Media API error that explains why a version could not be built."""
    message = version.status_message or "The work failed."
    kinds: Mapping[StatusCode, type[errors.MediaError]] = {
        StatusCode.INSUFFICIENT_MATCHING_SEED: errors.TooFewUsersError,
        StatusCode.SEED_COVERS_POPULATION: errors.TooFewUsersError,
        StatusCode.SEED_INVALID: errors.ValidationFailedError,
        StatusCode.TRAINING_DATA_INVALID: errors.ValidationFailedError,
        StatusCode.TRAINING_DATA_TOO_SMALL: errors.TooFewUsersError,
        StatusCode.PARENT_NOT_ACTIVE: errors.NotProvisionedError,
        StatusCode.PRIVACY_BUDGET_SPENT: errors.BudgetSpentError,
        StatusCode.CANCELLED: errors.JobCancelledError,
    }
    kind = kinds.get(version.status_code or StatusCode.INTERNAL, errors.ServerError)
    return errors.job_failure(kind(message))


def _has_report(call: Call, kind: JobKind, about: Kind, id_: str) -> bool:
    """Check whether any version of the room or lab contains the validation report for this kind of job."""
    versions = call.installation.catalog.resources.versions(about, id_) if kind in _REPORTS else ()
    return any(_REPORTS[kind] in version.artifacts for version in versions)


def _shown(call: Call, job: RoomJob) -> dict[str, Any]:
    state = _state(call, job)
    return {
        "id": job.id,
        "kind": job.kind,
        "room_id": job.data_room_id,
        "status": state.status.value,
        "progress": state.progress,
        "stage": state.stage,
        "place": state.place,
        "error": error_as_dict(state.error) if state.error else None,
    }


def own_job(call: Call) -> RoomJob:
    """Return the job that the call names.

    Raises:
        PermissionDeniedError: The caller has no job with this id.
    """
    try:
        job = call.installation.catalog.rooms.room_job(call.text("job_id"))
    except NotFoundError:
        raise denied() from None
    if job.email != call.email:
        raise denied()
    if job.data_room_id:
        call.room_of(job.data_room_id)
    return job


def _listed(call: Call, job: RoomJob, names: Mapping[str, str]) -> dict[str, Any]:
    """Return a job and the audience or seed type that it is about; omit names that the caller may not see."""
    audience, current = None, None
    if job.target_kind is Kind.DATA_ROOM:
        current = call.installation.catalog.resources.current_version(Kind.DATA_ROOM, job.target_id)
    else:
        audience = _audience_of(call, job)
    return {
        **_shown(call, job),
        "created_at": job.created_at.isoformat(),
        "options": {name: value for name, value in job.options.items() if name != "room_version"},
        "is_of_current_data": current is None or job.target_version >= current.number,
        "audience": audience and {**audience, "name": names.get(str(audience.get("id")))},
    }


def _audience_of(call: Call, job: RoomJob) -> dict[str, Any] | None:
    """Return the reference to the audience that a job is about; None if it was deleted or is a draft."""
    catalog = call.installation.catalog
    try:
        if job.target_kind is Kind.AUDIENCE_LIST:
            id_ = catalog.get(AudienceList, job.target_id).custom_audience_id
        else:
            id_ = job.target_id
        audience = catalog.get(CustomAudience, id_)
    except NotFoundError:
        return None
    if not audience.hidden:
        return {"kind": "custom", "id": audience.id}
    definition = parse_definition(audience.definition)
    if isinstance(definition, Remarketing) and audience.name == _SEED_NAME:
        return {"kind": "seed", "audience_type": definition.audience_type}
    return None


def _note(
    call: Call, room: Room, kind: JobKind, target: Version, options: Mapping[str, Any] | None = None
) -> RoomJob:
    return call.installation.catalog.rooms.add_room_job(
        email=call.email, data_room_id=room.id, kind=kind.value, target=target, options=options or {}
    )


def _room_version(call: Call, room: Room) -> Version:
    """Return the room version that is queued or being built; otherwise, the current version."""
    queue_room_rebuild(call.installation, room.id)
    newest = call.installation.catalog.resources.newest_version(Kind.DATA_ROOM, room.id)
    if newest.status in OPEN:
        return newest
    return call.installation.catalog.resources.current_version(Kind.DATA_ROOM, room.id) or newest


def _audience(call: Call, room: Room, kind: JobKind) -> CustomAudience:
    """Return the audience that a job is about: a visible one, or a hidden one created for this job."""
    definition, about = call.mapping("definition"), call.mapping("audience")
    if definition is not None and kind is JobKind.AUDIENCE_SIZE:
        return room_audiences.add_audience(
            call, room, room_audiences.read_definition(room, definition), name="draft", hidden=True
        )
    if about is None:
        raise errors.InvalidRequestError("The request names no audience.", remedy="Give `audience`.")
    if about.get("kind") == "seed" and kind is not JobKind.LOOKALIKE_STATISTICS:
        if kind is JobKind.USER_LIST:
            room.require(CollaborationType.REMARKETING, "lists of matched users")
        seed = Remarketing(_seed_type(about))
        return room_audiences.add_audience(call, room, seed, name=_SEED_NAME, hidden=True)
    if about.get("kind") != "custom" or not isinstance(about.get("id"), str):
        raise errors.InvalidRequestError(
            "This kind of job does not support this audience.", remedy="Give another audience."
        )
    audience = room.audience(str(about["id"]))
    call.trail["resource"] = audience.id
    return audience


def _seed_type(about: Mapping[str, Any]) -> str:
    """Validate and return the type of the seed audience that a job is about."""
    seed = parse_definition({"kind": "remarketing", "audience_type": about.get("audience_type")})
    assert isinstance(seed, Remarketing)
    return seed.audience_type


def _target_of(
    call: Call, room: Room, kind: JobKind, audience: CustomAudience
) -> tuple[Version, Mapping[str, Any]]:
    """Return the version that must be built before a job about an audience can succeed, and the job's options."""
    catalog = call.installation.catalog
    queue_room_rebuild(call.installation, room.id)
    definition = parse_definition(audience.definition)
    if kind is JobKind.LOOKALIKE_STATISTICS and not isinstance(definition, Lookalike):
        raise errors.InvalidRequestError(
            "The audience is not a lookalike audience.", remedy="Give a lookalike audience."
        )
    if kind is not JobKind.USER_LIST:
        newest = catalog.resources.newest_version(Kind.DATA_ROOM, room.id)
        waits = {"room_version": newest.number} if newest.status in OPEN else {}
        return catalog.resources.newest_version(Kind.CUSTOM_AUDIENCE, audience.id), waits
    room_audiences.check_export(room, audience)
    options = _list_options(call, room)
    spec = AudienceListSpec(
        name="list",
        mark=call.installation.token_hex(8),
        custom_audience_id=audience.id,
        delivered_to=room.group.id,
        options=options,
    )
    made = catalog.resources.create(spec)
    call.trail["resource"] = audience.id
    return catalog.resources.newest_version(Kind.AUDIENCE_LIST, made.id), options


def _list_options(call: Call, room: Room) -> dict[str, Any]:
    asked = Call(call.installation, call.email, call.mapping("options") or {}, call.trail)
    options: dict[str, Any] = {}
    if (name := asked.params.get("destination")) is not None:
        try:
            destination = AdDestination(name)
        except ValueError:
            raise errors.InvalidRequestError(
                "Unknown ad destination.", remedy=f"Give one of {', '.join(AdDestination)}."
            ) from None
        if destination is not AdDestination.PLAIN and destination.value not in room.record.activation:
            raise errors.PermissionDeniedError(
                "The data room was created without this ad destination.",
                remedy="Create another data room, with the destination in `activation`.",
            )
        options["destination"] = destination.value
    if asked.flag("gzip"):
        options["gzip"] = True
    if asked.params.get("max_rows") is not None:
        rows = asked.number("max_rows")
        if not 1 <= rows <= _MOST_ROWS:
            raise errors.InvalidRequestError(
                "`max_rows` is out of range.", remedy=f"Give a number from 1 to {_MOST_ROWS:,}."
            )
        options["max_rows"] = rows
    if asked.params.get("holdout") is not None:
        share = asked.text("holdout")
        Holdout.parse(share, "-")
        options["holdout"] = share
    if asked.params.get("delta_from") is not None:
        job = own_job(Call(call.installation, call.email, {"job_id": asked.text("delta_from")}, call.trail))
        if JobKind(job.kind) is not JobKind.USER_LIST or job.data_room_id != room.id:
            raise denied()
        options["delta_from"] = job.id
    return options


def _documents(call: Call, job: RoomJob, asset: str) -> dict[str, Any]:
    """Return an asset's JSON documents from the version that contains the job's result."""
    version = _answering(call, job)
    if asset not in version.artifacts:
        raise errors.NotProvisionedError(
            "The room lacks the data for this job.", remedy="Provision the base audience and the seed audiences."
        )
    try:
        with call.installation.store.opening(version.artifact(asset)) as folder:
            return read_documents(folder)
    except ArtifactError:
        raise errors.NotProvisionedError(
            "The data that this job used is no longer provisioned.", remedy="Start a new job."
        ) from None


def _paid(
    call: Call, room: Room, questions: Sequence[Mapping[str, Any]], answer: dict[str, Any]
) -> dict[str, Any]:
    """Pay for a result and return it with its price and the remaining budget."""
    budget = room_budgets.of(room)
    asked = [Question.from_dict(each) for each in questions]
    if asked:
        budget.pay(asked, call.organization)
    price = sum(each.price.tenths for each in asked)
    return {**answer, "privacy": {"price": in_units(price), **budget.as_dict(call.organization)}}


def _questions(call: Call, job: RoomJob) -> list[Mapping[str, Any]]:
    """Return the priced queries that are charged for a job's result."""
    match JobKind(job.kind):
        case JobKind.OVERLAP_STATISTICS:
            return list(_documents(call, job, "overlap_statistics")["overlap"]["questions"])
        case JobKind.INSIGHTS:
            wanted = job.options.get("audience_type")
            tables = _documents(call, job, "insights")["insights"]["questions"]
            return [each for kind, asked in tables.items() if wanted in (None, kind) for each in asked]
        case JobKind.AUDIENCE_SIZE:
            return list(_documents(call, job, "custom_audience")["audience"]["questions"])
        case _:
            return []


def _overlap(call: Call, room: Room, job: RoomJob) -> Any:
    document = _documents(call, job, "overlap_statistics")["overlap"]
    is_advertiser = room.group.may(Permission.PROVIDE_SEED_AUDIENCE)
    answer = document["with_own_counts" if is_advertiser else "without_own_counts"]
    return _paid(call, room, _questions(call, job), answer)


def _insights(call: Call, room: Room, job: RoomJob) -> Any:
    document = _documents(call, job, "insights")["insights"]
    result, wanted = document["result"], job.options.get("audience_type")
    tables = [each for each in result["audiences"] if wanted in (None, each["audience_type"])]
    answer = {"audiences": tables, "total_publisher": result.get("total_publisher"), "noise": result["noise"]}
    return _paid(call, room, _questions(call, job), answer)


def _attributes(call: Call, room: Room, job: RoomJob) -> Any:
    return _documents(call, job, "data_attributes")["attributes"]


def _audiences(call: Call, room: Room, job: RoomJob) -> Any:
    present = room_audiences.Present.of(room)
    custom = (room_audiences.shown_audience(room, each, present) for each in room.visible())
    return {"audiences": [*room_audiences.shown_seeds(room, present), *custom]}


def _size(call: Call, room: Room, job: RoomJob) -> Any:
    document = _documents(call, job, "custom_audience")["audience"]
    return _paid(call, room, _questions(call, job), document["released"])


def _statistics(call: Call, room: Room, job: RoomJob) -> Any:
    # paid when the lookalike was built
    return _paid(call, room, [], _documents(call, job, "lookalike_statistics")["statistics"]["result"])


def _user_list(call: Call, room: Room, job: RoomJob) -> Any:
    return _documents(call, job, "audience_user_list")["list"]


def _base_reports(call: Call, room: Room, job: RoomJob) -> Any:
    return _report(call, room, "base_audience")["reports"]


def _seeds_report(call: Call, room: Room, job: RoomJob) -> Any:
    return _report(call, room, "seed_audiences")["report"]


def _report(call: Call, room: Room, asset: str) -> dict[str, Any]:
    try:
        _, documents = newest_artifact(call.installation, Kind.DATA_ROOM, room.id, asset)
    except ArtifactError:
        raise errors.NotProvisionedError(
            "There is no report, because the room's data was not provisioned or was removed.",
            remedy="Provision the data first.",
        ) from None
    return documents


_ANSWERS: Mapping[JobKind, Callable[[Call, Room, RoomJob], Any]] = {
    JobKind.OVERLAP_STATISTICS: _overlap,
    JobKind.INSIGHTS: _insights,
    JobKind.DATA_ATTRIBUTES: _attributes,
    JobKind.AUDIENCES: _audiences,
    JobKind.AUDIENCE_SIZE: _size,
    JobKind.USER_LIST: _user_list,
    JobKind.LOOKALIKE_STATISTICS: _statistics,
    JobKind.BASE_REPORTS: _base_reports,
    JobKind.SEEDS_REPORT: _seeds_report,
}
