"""A room's audiences: the list, and one audience with its size, quality, sharing, delivery and deletion.

Lives here: what participants do with audiences that exist.
Add here when they can do something else with one.
Keep out: defining audiences (`defining.py`), and permissions and prices (the handlers).
"""

from collections.abc import Mapping
from typing import Any

from cleanroom_pipelines.console.charts import Bar, roc_curve
from cleanroom_pipelines.console.page import PageRequest, Route, Tab
from cleanroom_pipelines.console.rules import sentence
from cleanroom_pipelines.delivery.destinations import AdDestination
from cleanroom_pipelines.media.errors import (
    AudienceHasDependentsError,
    InvalidRequestError,
    MediaError,
    NotFoundError,
    NotProvisionedError,
)
from cleanroom_pipelines.media.protocol import JobKind, Method, error_from_dict
from cleanroom_pipelines.server.requests import Reply
from cleanroom_pipelines.terms import CollaborationType, Permission

KINDS = {
    "rule_based": CollaborationType.RULE_BASED,
    "lookalike": CollaborationType.LOOKALIKE,
    "remarketing": CollaborationType.REMARKETING,
    "exclusion": CollaborationType.EXCLUSION,
}
"""The kinds of audiences, with the collaboration types that allow a room to create each."""

LIST = "/rooms/{room_id}/audiences"
ONE = LIST + "/{audience_id}"
DELIVERY = LIST + "/deliveries/{job_id}"
TONES = {"ready": "good", "running": "wait", "outdated": "wait", "failed": "bad"}
_STRENGTH_WITHIN = 1.6  # a strength is in standard deviations: ± 1.6 of them in 9 of 10 cases
HOLDOUTS = ("", "5%", "10%", "20%", "50%")


def audiences(page: PageRequest) -> Reply:
    """List the audiences that the user can see."""
    room = page.room()
    found = page.call(Method.LIST_AUDIENCES, room_id=room["id"])
    names = names_in(found)
    t = page.rendering.text
    return page.show(
        "audiences/audiences.html",
        room=room,
        seeds=found["seeds"],
        audiences=[
            {**each, "means": sentence(t, each["definition"], names)} for each in reversed(found["audiences"])
        ],
        running=any(each["state"]["name"] == "running" for each in found["audiences"]),
        roles=roles_of(room),
        tones=TONES,
        kinds=allowed_kinds(page),
        figures=_price_of_figures(page),
    )


def renew_figures(page: PageRequest) -> Reply:
    """Pay for new figures about the publisher's users, from which other figures are then computed."""
    if (price := _price_of_figures(page)) is not None:
        require_agreed(page, price)
    page.call(Method.RENEW_BASE_FIGURES, room_id=page.path["room_id"])
    return page.redirect(LIST, room_id=page.path["room_id"], done="audiences.renewed.done")


def audience(page: PageRequest) -> Reply:
    """Show an audience."""
    room, id_ = page.room(), page.path["audience_id"]
    found = page.call(Method.GET_AUDIENCE, room_id=room["id"], audience_id=id_)
    failure, problem = found["state"].get("error"), (found["export"] or {}).get("problem")
    statistics = found["statistics"]
    may_build, is_paid = page.may(Permission.CREATE_CUSTOM_AUDIENCE), found["size"] is not None
    needs_price = may_build and not (is_paid and found["state"]["name"] == "ready")
    price = price_of(page, JobKind.AUDIENCE_SIZE, audience=_about(id_)) if needs_price else None
    return page.show(
        "audiences/audience.html",
        room=room,
        audience=found,
        means=sentence(page.rendering.text, found["definition"], found["names"]),
        failure=error_from_dict(failure) if failure else None,
        barred=error_from_dict(problem) if problem else None,
        tones=TONES,
        roles=roles_of(room),
        others=others_in(room),
        may_change=may_build and found["is_own"],
        size_price=price,
        list_price=price_of(page, JobKind.USER_LIST, audience=_about(id_)) if found["export"] else None,
        destinations=[each for each in AdDestination if each.value in ("plain", *room["activation"])],
        holdouts=HOLDOUTS,
        statistics=statistics,
        roc=roc_curve(statistics) if statistics else None,
        apart=_bars(page, statistics) if statistics else [],
    )


def ask_size(page: PageRequest) -> Reply:
    """Ask for an audience's size, at the price that was shown."""
    room_id, id_ = page.path["room_id"], page.path["audience_id"]
    require_agreed(page, price_of(page, JobKind.AUDIENCE_SIZE, audience=_about(id_)))
    job = page.call(Method.START_JOB, room_id=room_id, kind=JobKind.AUDIENCE_SIZE, audience=_about(id_))
    require_agreed(page, page.call(Method.GET_JOB_PRICE, job_id=job["id"]))
    page.call(Method.GET_JOB_RESULT, job_id=job["id"])
    return page.redirect(ONE, room_id=room_id, audience_id=id_, done="audiences.sized.done")


def share(page: PageRequest) -> Reply:
    """Publish an audience to exactly the chosen participants."""
    room_id, id_ = page.path["room_id"], page.path["audience_id"]
    participants = page.form.texts("participants")
    page.call(Method.SHARE_AUDIENCES, room_id=room_id, audience_ids=[id_], participant_ids=participants)
    return page.redirect(ONE, room_id=room_id, audience_id=id_, done="audiences.shared.done")


def refresh(page: PageRequest) -> Reply:
    """Build an audience again, at the price that was shown."""
    room_id, id_ = page.path["room_id"], page.path["audience_id"]
    require_agreed(page, price_of(page, JobKind.AUDIENCE_SIZE, audience=_about(id_)))
    page.call(Method.REFRESH_AUDIENCE, room_id=room_id, audience_id=id_)
    return page.redirect(ONE, room_id=room_id, audience_id=id_, done="audiences.refreshed.done")


def confirm_delete(page: PageRequest) -> Reply:
    """Ask for confirmation before an audience is deleted, and show its dependents."""
    room = page.room()
    found = page.call(Method.GET_AUDIENCE, room_id=room["id"], audience_id=page.path["audience_id"])
    return page.show("audiences/delete.html", room=room, audience=found)


def delete(page: PageRequest) -> Reply:
    """Delete an audience with the dependents that were shown."""
    room_id, id_ = page.path["room_id"], page.path["audience_id"]
    found = page.call(Method.GET_AUDIENCE, room_id=room_id, audience_id=id_)["dependents"]
    n_dependents = len(found["names"]) + found["n_others"] if found else 0
    if n_dependents and page.form.number("dependents") != n_dependents:
        t = page.rendering.text
        raise AudienceHasDependentsError(
            t("audiences.has_dependents"), remedy=t("audiences.has_dependents_remedy")
        )
    with_dependents = n_dependents > 0
    page.call(
        Method.DELETE_AUDIENCES, room_id=room_id, audience_ids=[id_], delete_dependent_audiences=with_dependents
    )
    return page.redirect(LIST, room_id=room_id, done="audiences.deleted.done")


def deliver(page: PageRequest) -> Reply:
    """Deliver an audience as a list to the user's own participant."""
    room_id, id_ = page.path["room_id"], page.path["audience_id"]
    options: dict[str, Any] = {"destination": page.form.text("destination", "plain")}
    if page.form.text("holdout"):
        options["holdout"] = page.form.text("holdout")
    if page.form.has("gzip"):
        options["gzip"] = True
    require_agreed(page, price_of(page, JobKind.USER_LIST, audience=_about(id_)))
    about = {"audience": _about(id_), "options": options}
    job = page.call(Method.START_JOB, room_id=room_id, kind=JobKind.USER_LIST, **about)
    return page.redirect(DELIVERY, room_id=room_id, job_id=job["id"])


def delivery(page: PageRequest) -> Reply:
    """Show the progress of a delivery, then its files."""
    room = page.room()
    job = page.call(Method.GET_JOB, job_id=page.path["job_id"])
    if job["room_id"] != room["id"] or job["kind"] != JobKind.USER_LIST:
        raise missing_page(page)
    is_done = job["status"] == "Success"
    return page.show(
        "audiences/delivery.html",
        room=room,
        job=job,
        failure=error_from_dict(job["error"]) if job["error"] else None,
        list=page.call(Method.GET_JOB_RESULT, job_id=job["id"]) if is_done else None,
        lists=page.is_page(f"/rooms/{room['id']}/lists"),
    )


def download(page: PageRequest) -> Reply:
    """Send a file of a delivery."""
    return page.download(page.path["job_id"], page.path["name"])


def allowed_kinds(page: PageRequest) -> list[str]:
    """Return the kinds of audiences that the user may create in the room."""
    if not page.may(Permission.CREATE_CUSTOM_AUDIENCE):
        return []
    types = page.room()["collaboration_types"]
    return [kind for kind, needed in KINDS.items() if needed.value in types]


def names_in(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the audiences that the user can see, by id."""
    return {each["id"]: each["name"] for each in found["audiences"]}


def others_in(room: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the other participants, with whom an audience can be shared."""
    return [each for each in room["participants"] if each["id"] != room["mine"]["id"] and each["emails"]]


def roles_of(room: Mapping[str, Any]) -> dict[str, str]:
    """Return the roles of a room's participants, by id."""
    return {each["id"]: each["role"] for each in room["participants"]}


def price_of(page: PageRequest, kind: str, **about: Any) -> dict[str, Any] | None:
    """Return the price of a question; None until the room has data."""
    try:
        price: dict[str, Any] = page.call(Method.GET_ESTIMATE, room_id=page.path["room_id"], kind=kind, **about)
    except NotProvisionedError:
        return None
    return price


def require_agreed(page: PageRequest, price: Mapping[str, Any] | None, name: str = "priced") -> None:
    """Check that the price shown on the form is at least the current price.

    Args:
        page: The request.
        price: The present price.
        name: The field that has the shown price.

    Raises:
        InvalidRequestError: The user has not seen this price, or there is none yet.
    """
    t = page.rendering.text
    if price is None:  # whatever were asked now would be paid unseen when the data arrive
        raise InvalidRequestError(t("figures.no_data"), remedy=t("figures.no_data_text"))
    try:
        shown = float(page.form.text(name, "-1"))
    except ValueError:
        shown = -1.0
    if not price["units"] <= shown:
        raise InvalidRequestError(t("audiences.price_unseen"), remedy=t("audiences.price_unseen_remedy"))


def missing_page(page: PageRequest) -> MediaError:
    """Return the error for an address that does not exist in this room."""
    t = page.rendering.text
    return NotFoundError(t("audiences.not_here"), remedy=t("audiences.not_here_remedy"))


def _about(audience_id: str) -> dict[str, str]:
    return {"kind": "custom", "id": audience_id}


def _price_of_figures(page: PageRequest) -> dict[str, Any] | None:
    """Return the price of figures about the publisher's current users; None if already paid or unavailable."""
    if not page.may(Permission.CREATE_CUSTOM_AUDIENCE):
        return None
    price = price_of(page, "base_figures")
    return price if price and price["units"] else None


def _bars(page: PageRequest, statistics: Mapping[str, Any]) -> list[Bar]:
    def label(attribute: str) -> str:
        return page.rendering.text(f"audiences.attribute.{attribute}")

    return [
        Bar(
            f"{label(each['attribute'])}: {each['value']}",
            each["strength"],
            _STRENGTH_WITHIN,
            f"{each['strength']:.1f} ± {_STRENGTH_WITHIN}",
        )
        for each in statistics.get("explanation") or ()
        if each["strength"] is not None
    ]


PAGES = (
    Route("GET", LIST, audiences),
    Route("POST", LIST + "/figures", renew_figures, audiences),
    Route("GET", DELIVERY, delivery),
    Route("GET", DELIVERY + "/files/{name}", download),
    Route("GET", ONE, audience),
    Route("POST", ONE + "/size", ask_size, audience),
    Route("POST", ONE + "/share", share, audience),
    Route("POST", ONE + "/refresh", refresh, audience),
    Route("GET", ONE + "/delete", confirm_delete),
    Route("POST", ONE + "/delete", delete, confirm_delete),
    Route("POST", ONE + "/deliver", deliver, audience),
)
TAB = Tab("audiences", LIST)
