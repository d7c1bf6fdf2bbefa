"""Lists that the user delivered from a room: destination, control group, changes, checksums and downloads.

Lives here: the user's lists, one of them with its files, and delivering the changes since it.
Add here when a delivered list shows something more.
Keep out: choosing what is delivered (the page of an audience), and who may download (the handlers).
"""

from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.console.pages.asking import agree, job_of, missing, own_jobs
from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.media.errors import MediaError
from cleanroom_pipelines.media.protocol import JobKind, JobStatus, Method, error_from_dict
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.terms import Permission

_PATH = "/rooms/{room_id}/lists"
_ONE = _PATH + "/{job_id}"
_CHANGES = ("added", "removed")


def lists(page: PageRequest) -> Reply:
    """List the audience lists that the user delivered from the room."""
    room = page.room()
    audiences = f"/rooms/{room['id']}/audiences"
    return page.show(
        "lists/lists.html",
        room=room,
        lists=own_jobs(page, JobKind.USER_LIST),
        destinations=_destinations(),
        audiences=page.is_page(audiences),
    )


def one(page: PageRequest) -> Reply:
    """Show a list's progress, then its files."""
    job, failure, found = _job(page), None, None
    if job["error"]:
        failure = error_from_dict(job["error"])
    elif job["status"] == JobStatus.SUCCESS:
        try:
            found = page.call(Method.GET_JOB_RESULT, job_id=job["id"])
        except MediaError as error:
            failure = error
    return page.show(
        "lists/list.html",
        room=page.room(),
        job=job,
        failure=failure,
        list=found,
        kinds={each["name"]: _kind_of(each["name"]) for each in found["files"]} if found else {},
        destinations=_destinations(),
        price=_price(page, job["audience"]) if found and job["audience"] else None,
    )


def deliver_changes(page: PageRequest) -> Reply:
    """Deliver the audience again with the same options, and with the changes since this list."""
    job = _job(page)
    if job["audience"] is None:
        raise missing(page)
    about = {"room_id": job["room_id"], "kind": JobKind.USER_LIST.value, "audience": _about(job["audience"])}
    agree(page, page.call(Method.GET_ESTIMATE, **about))
    made = page.call(Method.START_JOB, **about, options={**job["options"], "delta_from": job["id"]})
    return page.redirect(_ONE, room_id=job["room_id"], job_id=made["id"])


def download(page: PageRequest) -> Reply:
    """Send a file of a list."""
    return page.download(_job(page)["id"], page.path["name"])


def _job(page: PageRequest) -> dict[str, Any]:
    return job_of(page, own_jobs(page, JobKind.USER_LIST))


def _price(page: PageRequest, audience: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the price of another list of an audience; None if it cannot be delivered now."""
    try:
        price: dict[str, Any] = page.call(
            Method.GET_ESTIMATE, room_id=page.room()["id"], kind=JobKind.USER_LIST.value, audience=_about(audience)
        )
    except MediaError:
        return None
    return price


def _about(audience: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in audience.items() if name != "name"}


def _kind_of(name: str) -> str:
    return next((each for each in _CHANGES if name.startswith(f"{each}-")), "part")


def _destinations() -> dict[str, str]:
    return {each.value: each.words for each in AdDestination}


PAGES = (
    Route("GET", _PATH, lists),
    Route("GET", _ONE, one),
    Route("POST", _ONE, deliver_changes, one),
    Route("GET", _ONE + "/files/{name}", download),
)
TAB = Tab("lists", _PATH, (Permission.EXPORT_AUDIENCE,))
