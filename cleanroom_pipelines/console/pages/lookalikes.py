"""Lookalikes of an AWS account: models, configured models, generation jobs, exports, and storing a seed.

Lives here: the list of an account's resources, and forms to start jobs and exports.
Add here when people of accounts need another operation.
Keep out: the operations and who may call them (`server.account_people`).
"""

import re

from cleanroom_pipelines.catalog import parse_arn
from cleanroom_pipelines.catalog.names import LOCAL_REGION
from cleanroom_pipelines.console.page import PageRequest, Route
from cleanroom_pipelines.media.errors import InvalidRequestError
from cleanroom_pipelines.server.account_people import AccountPerson
from cleanroom_pipelines.server.requests import Reply

LIST, JOB = "/lookalikes", "/lookalikes/jobs/{arn}"
_LISTED = {
    "models": ("ListAudienceModels", "audienceModels"),
    "configured": ("ListConfiguredAudienceModels", "configuredAudienceModels"),
    "jobs": ("ListAudienceGenerationJobs", "audienceGenerationJobs"),
    "exports": ("ListAudienceExportJobs", "audienceExportJobs"),
}
_REGION = re.compile(r"[a-z]{2}(-[a-z]{1,20}){1,3}-[0-9]", re.ASCII)
TONES = {"ACTIVE": "good", "CREATE_FAILED": "bad", "DELETE_FAILED": "bad"}


def lookalikes(page: PageRequest) -> Reply:
    """List the account's resources, with forms to store a seed and to start a job."""
    person = _person(page)
    found = {key: person.call(name)[member] for key, (name, member) in _LISTED.items()}
    return page.show(
        "lookalikes/lookalikes.html",
        buckets=person.buckets(),
        region=person.region,
        tones=TONES,
        **found,
    )


def sample(page: PageRequest) -> Reply:
    """Send a sample file that shows the format of a seed."""
    _person(page).buckets()  # for users who manage an account
    return page.attach("sample-seed.jsonl", [f'{{"user_id": "user-{number}"}}\n' for number in (1, 2, 3)])


def start(page: PageRequest) -> Reply:
    """Store the form's seed in a bucket, and start a generation job with it."""
    person, form = _person(page), page.form
    file = form.file("seed")
    if file is None:
        raise InvalidRequestError("The form has no seed.", remedy="Choose a file with a user id on each line.")
    names = ("name", "configuredAudienceModelArn", "collaborationId")
    person.start_job(form.text("bucket"), file.stream, {name: form.text(name) for name in names})
    return page.redirect(LIST, done="lookalikes.started.done")


def job(page: PageRequest) -> Reply:
    """Show a generation job with its metrics and exports, and a form to export it."""
    person, named = _person(page), {"audienceGenerationJobArn": page.path["arn"]}
    found = person.call("GetAudienceGenerationJob", named)
    exports = person.call("ListAudienceExportJobs", named)["audienceExportJobs"]
    return page.show("lookalikes/job.html", job=found, exports=exports, tones=TONES)


def export(page: PageRequest) -> Reply:
    """Start an export of a generation job."""
    size = {"type": page.form.text("type"), "value": page.form.number("value")}
    named = {"audienceGenerationJobArn": page.path["arn"], "name": page.form.text("name")}
    _person(page).call("StartAudienceExportJob", {**named, "audienceSize": size})
    return page.redirect(JOB, arn=page.path["arn"], done="lookalikes.started.done")


def _person(page: PageRequest) -> AccountPerson:
    """Return the signed-in user as a user of the account. The request's ARN or else its query sets the Region."""
    named = parse_arn(page.path.get("arn") or page.form.text("configuredAudienceModelArn"))
    asked = page.query.get("region") or LOCAL_REGION
    region = named.region if named else asked if _REGION.fullmatch(asked) else LOCAL_REGION
    return AccountPerson(page.service, page.request, page.email, region)


PAGES = (
    Route("GET", LIST, lookalikes),
    Route("GET", LIST + "/sample-seed.jsonl", sample),
    Route("POST", LIST, start, lookalikes, files=True),
    Route("GET", JOB, job),
    Route("POST", JOB, export, job),
)
