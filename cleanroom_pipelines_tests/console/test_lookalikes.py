"""The pages of an AWS account's people, over HTTP against a real `cleanroom serve` without a worker.

Contract: the pages show what the account sees by the API; a seed goes to the account's bucket and starts a job if
the model's policy allows it, and is deleted if not; only people of an account see the pages, each one only of his
own account; each operation has one audit entry with the account.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import pytest

from cleanroom_pipelines_tests.server.server import REGION, Room, serving

from ..storage.auditing import lines_of
from .sites import Served, words

PEOPLE = {"publisher": "p@publisher.example", "advertiser": "a@shop.example", "stranger": "s@else.example"}
NO_ONE = "none@else.example"
SEED = b'{"user_id": "u1"}\n'
BUCKET = "advertiser-seeds"


@dataclass
class Site(Served):
    """A served installation with the small world."""

    room: Room

    def get(self, who: str, path: str = f"?region={REGION}", status: int = 200) -> str:
        return self.page(PEOPLE.get(who, who), f"/lookalikes{path}", status)

    def start(self, who: str, **fields: str) -> httpx.Response:
        given = {"bucket": BUCKET, **fields}
        return self.browser(PEOPLE.get(who, who)).post(
            "/console/lookalikes", data=given, files={"seed": ("seed.jsonl", SEED)}
        )

    def seeds(self) -> list[str]:
        account = self.room.parties.advertiser.account_id
        place = self.installation.buckets.locate(account, f"s3://{BUCKET}/console/")
        return [each.key for each in place.list()]

    def entries(self) -> list[dict[str, str]]:
        lines = lines_of(self.installation.home.audit)
        return [json.loads(line) for line in lines if line.startswith(b"{")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("lookalikes") / "home"
    room = Room.open(home)
    users = room.installation.catalog.users
    users.create_user(NO_ONE)
    for who, email in PEOPLE.items():
        users.create_user(email)
        users.set_role(email, is_operator=False, account_id=getattr(room.parties, who).account_id)
    with serving(home, "--no-worker") as server:
        yield Site(room.installation, server.url, room)


@pytest.fixture(scope="module")
def shared(site: Site) -> str:
    return site.room.shared("lookalikes")


def test_an_account_sees_its_own_resources_only(site: Site, shared: str) -> None:
    page = site.get("publisher")
    assert "lookalikes" in words(page)
    assert "ready" in words(page)
    assert "None yet." in site.get("stranger")
    assert site.get("publisher", "").count("None yet.") == 4, "another Region has none"
    assert '/console/lookalikes"' in site.browser(PEOPLE["publisher"]).get("/console/").text


def test_a_user_without_an_account_sees_nothing(site: Site, shared: str) -> None:
    assert "No account is assigned to you." in site.get(NO_ONE, status=403)
    assert "/console/lookalikes" not in site.browser(NO_ONE).get("/console/").text
    answer = site.start(NO_ONE, name="mine", configuredAudienceModelArn=shared)
    assert answer.status_code == 403


def test_a_seed_starts_a_job_that_is_exported(site: Site, shared: str) -> None:
    answer = site.start("advertiser", name="spring", configuredAudienceModelArn=shared)
    assert answer.status_code == 303, words(answer.text)
    newest = [each for each in site.entries() if each["operation"] == "StartAudienceGenerationJob"][-1]
    assert (newest["way"], newest["account"]) == ("console", site.room.parties.advertiser.account_id)
    assert len(site.seeds()) == 1
    (job,) = site.room.advertiser.list_audience_generation_jobs()["audienceGenerationJobs"]
    assert job["name"] == "spring"
    arn = job["audienceGenerationJobArn"]
    address = f"/jobs/{quote(arn, safe='')}"
    assert address in site.get("advertiser")
    site.get("stranger", address, status=404)
    site.room.finish()
    page = site.get("advertiser", address)
    assert "Relevance by size" in page
    assert "not better than random" in page, "a score is missing where recall is not above chance"
    export = {"name": "best", "type": "PERCENTAGE", "value": "20"}
    answer = site.browser(PEOPLE["advertiser"]).post(
        f"/console/lookalikes{address}", data={**export, "value": "101"}
    )
    assert (answer.status_code, 'value="101"' in answer.text) == (400, True)
    answer = site.browser(PEOPLE["advertiser"]).post(f"/console/lookalikes{address}", data={**export, "name": ""})
    assert "The value of 'name' is missing. Correct the form." in words(answer.text)
    answer = site.browser(PEOPLE["advertiser"]).post(f"/console/lookalikes{address}", data=export)
    assert answer.status_code == 303, words(answer.text)
    assert "best" in site.get("advertiser", address)


@pytest.mark.parametrize(
    ("who", "changes", "status"),
    [
        pytest.param("advertiser", {"configuredAudienceModelArn": "x"}, 400, id="arn"),
        pytest.param("advertiser", {"name": ""}, 400, id="name"),
        pytest.param("advertiser", {"bucket": "../other"}, 400, id="bucket"),
        pytest.param("advertiser", {"collaborationId": "0" * 36}, 400, id="collaboration"),
        pytest.param("stranger", {}, 400, id="another-account's-bucket"),
    ],
)
def test_a_rejected_job_leaves_no_seed(
    site: Site, shared: str, who: str, changes: dict[str, str], status: int
) -> None:
    before = site.seeds()
    answer = site.start(who, **{"name": "other", "configuredAudienceModelArn": shared, **changes})
    assert answer.status_code in (status, 403, 404), words(answer.text)
    assert 'role="alert"' in answer.text
    assert site.seeds() == before
    newest = [each for each in site.entries() if each["operation"] == "StartAudienceGenerationJob"][-1]
    assert newest["outcome"] == "refused"


def test_the_policy_is_evaluated_for_the_account(site: Site, shared: str) -> None:
    private = site.room.configured("private", model=None)
    answer = site.start("advertiser", name="other", configuredAudienceModelArn=private)
    assert answer.status_code == 404
    assert "There is no such" in answer.text


def test_people_of_a_disabled_account_are_rejected(site: Site, shared: str) -> None:
    parties, account = site.room.installation.catalog.parties, site.room.parties.stranger.account_id
    parties.set_account_disabled(account, True)
    assert "The account is disabled." in site.get("stranger", status=403)
    parties.set_account_disabled(account, False)
    site.get("stranger")
