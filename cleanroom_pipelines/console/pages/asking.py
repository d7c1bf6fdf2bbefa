"""Questions about both parties' data: show the price, ask, and show the answer.

Lives here: what the pages of the overlap and of the insights have in common.
Add here when another page asks questions that are paid from the privacy budget.
Keep out: what an answer shows (the pages), and prices and payment (the handlers).

Opening a page never spends the budget. A form shows the price and sends it along; if the price has risen since,
the page is shown again. An answer that is there at once is paid with the form that asked; one that takes time is
paid by a second form, with its price, when it is ready.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cleanroom_pipelines.console.page import PageRequest
from cleanroom_pipelines.media.errors import ConflictError, MediaError, NotFoundError, NotProvisionedError
from cleanroom_pipelines.media.protocol import JobKind, JobStatus, Method, error_from_dict
from cleanroom_pipelines.server.requests import Reply


@dataclass(frozen=True)
class Asking:
    """A kind of question with its own page.

    Args:
        kind: The kind of job.
        path: The path of its page.
        template: The template of its page.
    """

    kind: JobKind
    path: str
    template: str

    @property
    def answer_path(self) -> str:
        """The path of the page of one answer."""
        return f"{self.path}/{{job_id}}"

    def show(self, page: PageRequest, **more: Any) -> Reply:
        """Show an answer (the one in the path or else the newest), earlier answers, and the price of a new one."""
        room = page.room()
        asked = own_jobs(page, self.kind)
        job = job_of(page, asked) if "job_id" in page.path else next(iter(asked), None)
        values = {**self.state(page, job), "price": self.price(page), "asked": asked, "job": job, **more}
        return page.show(self.template, room=room, **values)

    def ask(self, page: PageRequest, **about: Any) -> Reply:
        """Start a job at the price that the form sends; if the job's answer is ready at once, pay for it."""
        room_id = page.room()["id"]
        agree(page, page.call(Method.GET_ESTIMATE, room_id=room_id, kind=self.kind.value, **about))
        to = {"audience": {"kind": "seed", **about}} if about else {}
        job = page.call(Method.START_JOB, room_id=room_id, kind=self.kind.value, **to)
        if job["status"] == JobStatus.SUCCESS:
            agree(page, page.call(Method.GET_JOB_PRICE, job_id=job["id"]))
            page.call(Method.GET_JOB_RESULT, job_id=job["id"])
        return page.redirect(self.answer_path, room_id=room_id, job_id=job["id"])

    def pay(self, page: PageRequest) -> Reply:
        """Pay for an answer that is ready, at the price that the form sends."""
        job = job_of(page, own_jobs(page, self.kind))
        agree(page, page.call(Method.GET_JOB_PRICE, job_id=job["id"]))
        page.call(Method.GET_JOB_RESULT, job_id=job["id"])
        return page.redirect(self.answer_path, room_id=page.room()["id"], job_id=job["id"])

    def state(self, page: PageRequest, job: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return what the page shows of a job: its answer if paid for, or else its price, or why it failed."""
        found: dict[str, Any] = {"answer": None, "answer_price": None, "failure": None}
        if job is None or job["status"] == JobStatus.RUNNING:
            return found
        if job["error"]:
            return {**found, "failure": error_from_dict(job["error"])}
        try:
            price = page.call(Method.GET_JOB_PRICE, job_id=job["id"])
            if price["units"]:
                return {**found, "answer_price": price}
            return {**found, "answer": page.call(Method.GET_JOB_RESULT, job_id=job["id"])}
        except MediaError as error:
            return {**found, "failure": error}

    def price(self, page: PageRequest) -> dict[str, Any] | None:
        """Return the price of asking this question now; None until both sides have provided their data."""
        provided = page.call(Method.GET_PROVISIONING, room_id=page.room()["id"])
        if not (provided["base"] and provided["seeds"]):
            return None
        try:
            price: dict[str, Any] = page.call(Method.GET_ESTIMATE, room_id=page.room()["id"], kind=self.kind.value)
        except NotProvisionedError:
            return None
        return price


def agree(page: PageRequest, price: Mapping[str, Any]) -> None:
    """Check that the price shown on the form is at least the current price.

    Raises:
        ConflictError: The price has risen, or the form sends none.
    """
    try:
        shown = float(page.form.text("price", "-1"))
    except ValueError:
        shown = -1.0
    if not shown >= price["units"]:
        t = page.rendering.text
        raise ConflictError(t("figures.price_changed"), remedy=t("figures.price_remedy"))


def own_jobs(page: PageRequest, kind: JobKind) -> list[dict[str, Any]]:
    """Return the user's jobs of one kind in the room, newest first."""
    found: list[dict[str, Any]] = page.call(Method.LIST_JOBS, room_id=page.room()["id"], kinds=[kind.value])[
        "jobs"
    ]
    return found


def job_of(page: PageRequest, jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the user's job that the path names.

    Raises:
        MediaError: The user has no such job in this room.
    """
    found = next((each for each in jobs if each["id"] == page.path["job_id"]), None)
    if found is None:
        page.call(Method.GET_JOB, job_id=page.path["job_id"])  # rejects, and audits, other users' jobs
        raise missing(page)
    return found


def missing(page: PageRequest) -> NotFoundError:
    """Return the error for an answer that does not exist in this room."""
    t = page.rendering.text
    return NotFoundError(t("figures.missing"), remedy=t("figures.missing_remedy"))
