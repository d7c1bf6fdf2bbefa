"""The operator's pages, over HTTP against a real `cleanroom serve` without a worker.

Contract: an operator invites users, sets roles and organisations, issues and disables keys and tokens, and makes
collaborations; a secret is shown once; only operators see or change anything here, and only on this machine; each
action has one audit entry; what was typed is never unescaped.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import httpx
import pytest
from click.testing import CliRunner

from cleanroom_pipelines.cli.users import user as user_command
from cleanroom_pipelines.media.errors import ConflictError, PermissionDeniedError
from cleanroom_pipelines.runs.credentials import user_of
from cleanroom_pipelines.runs.installation import Installation, Settings
from cleanroom_pipelines.runs.sign_in import accept_invitation, start_session
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.operating import Operating
from cleanroom_pipelines.server.requests import Request
from cleanroom_pipelines.terms import Permission
from cleanroom_pipelines_tests.server.server import serving

from ..storage.auditing import lines_of
from .sites import Served, words

OPERATOR, ANALYST = "operator@host.example", "analyst@shop.example"
ONES = f"/operator/users/{ANALYST}"
PAGES = ("", "/organizations", "/users", f"/users/{ANALYST}", "/accounts", "/collaborations", "/quotas")
SCRIPT = "<script>alert(1)</script>"


@dataclass
class Site(Served):
    """A served installation, and what its operator does."""

    def get(self, path: str, email: str = OPERATOR, status: int = 200) -> str:
        return self.page(email, path, status)

    def post(self, path: str, who: str = OPERATOR, status: int = 303, **fields: str | list[str]) -> str:
        return self.submit(who, path, fields, status)

    def entries(self) -> list[dict[str, str]]:
        found = (line for line in lines_of(self.installation.home.audit) if line.startswith(b"{"))
        return [json.loads(line) for line in found]

    def account(self, name: str) -> str:
        self.post("/operator/accounts", status=200, name=name)
        return self.installation.catalog.parties.account_named(name)


def secret_of(page: str) -> str:
    found = re.search(r'id="secret"[^>]*>([^<]+)<', page)
    assert found is not None, words(page)
    return html.unescape(found.group(1))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("operating") / "home"
    installation = Installation(Settings(home=home, threads=1, memory_bytes=512 * 10**6))
    for email in (OPERATOR, ANALYST):
        installation.catalog.users.create_user(email)
    installation.catalog.users.set_role(OPERATOR, is_operator=True, account_id=None)
    with serving(home, "--no-worker") as server:
        yield Site(installation, server.url)


def test_all_pages_show_and_lead_to_each_other(site: Site) -> None:
    assert site.browser(OPERATOR).get("/console/").headers["location"] == "/console/operator", "who has no rooms"
    for path in PAGES:
        page = site.get(f"/operator{path}")
        assert 'aria-label="Operator"' in page
        assert len(page) < 100_000
    assert "Everything is done; nothing failed." in site.get("/console/operator")


@pytest.mark.parametrize("path", PAGES)
def test_only_operators_see_the_pages(site: Site, path: str) -> None:
    assert "Only operators see this page." in site.get(f"/operator{path}", ANALYST, status=403)


def test_users_without_a_role_do_not_see_a_way_there(site: Site) -> None:
    assert "/console/operator" not in site.get("/", ANALYST)


@pytest.mark.parametrize(
    ("action", "path", "fields"),
    [
        pytest.param("invite_user", "/operator/users", {"email": "x@y.example"}, id="invite"),
        pytest.param("set_role", ONES, {"action": "role", "is_operator": "yes"}, id="role"),
        pytest.param("sign_in_link", f"/operator/users/{OPERATOR}", {"action": "link"}, id="link"),
        pytest.param("issue_token", f"/operator/users/{OPERATOR}", {"action": "token", "days": "9"}, id="token"),
        pytest.param("create_account", "/operator/accounts", {"name": "theirs"}, id="account"),
        pytest.param(
            "create_collaboration",
            "/operator/collaborations",
            {"name": "theirs", "members": ["1", "2"]},
            id="collaboration",
        ),
    ],
)
def test_only_operators_change_anything(site: Site, action: str, path: str, fields: dict[str, str]) -> None:
    page = site.post(path, ANALYST, status=403, **fields)
    assert "Only operators see this page." in page
    newest = [each for each in site.entries() if each["operation"] == f"operator.{action}"][-1]
    assert (newest["way"], newest["outcome"]) == ("console", "refused")
    catalog = site.installation.catalog
    assert not catalog.users.user(ANALYST).is_operator  # type: ignore[union-attr]
    assert catalog.users.user("x@y.example") is None
    assert not catalog.users.tokens(OPERATOR)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Via"])
def test_a_proxy_does_not_count_as_this_machine(site: Site, header: str) -> None:
    headers = {header: "127.0.0.1", "X-Forwarded-Proto": "https"}
    cookies = {"Cookie": f"__Host-cleanroom={start_session(site.installation, OPERATOR)}"}
    answer = httpx.get(f"{site.url}/console/operator", headers=headers | cookies)
    assert answer.status_code == 403
    assert "only on the server" in words(answer.text)
    first = httpx.get(f"{site.url}/console/", headers=headers | cookies)
    assert first.status_code == 200, "the first page leads nowhere else"
    assert "/console/operator" not in first.text


def test_another_name_of_this_machine_does_not_count(site: Site) -> None:
    """Another site's name may resolve to this machine."""
    cookies = {"Cookie": f"cleanroom={start_session(site.installation, OPERATOR)}"}
    for host, status in (("evil.example:80", 403), ("localhost:80", 200), ("127.0.0.1", 200), ("[::1]:80", 200)):
        answer = httpx.get(f"{site.url}/console/operator", headers={"Host": host} | cookies)
        assert answer.status_code == status, host


def test_the_operator_may_allow_other_machines(site: Site) -> None:
    settings = replace(site.installation.settings, operator_pages="remote")
    service = MediaService(Installation(settings), way="console")
    elsewhere = Request("r" * 8, "GET", "/console/operator", "", [], is_secure=True, is_private=True)
    assert Operating(service, elsewhere, OPERATOR).call("quotas")
    with pytest.raises(PermissionDeniedError, match="own machine"):
        Operating(MediaService(site.installation), elsewhere, OPERATOR).call("quotas")


def test_an_invitation_is_shown_once_and_sets_a_password(site: Site) -> None:
    email = "new@agency.example"
    page = site.post("/operator/users", status=200, email="New@agency.example", organization="group.example")
    link = secret_of(page)
    assert link.startswith(f"{site.url}/console/invitation/")
    assert link not in site.get(f"/operator/users/{email}")
    assert "invitation valid until" in site.get("/console/operator/users")
    assert "group.example" in site.get("/console/operator/organizations")
    password = "a sentence of good length"
    headers = {"Sec-Fetch-Site": "same-origin"}
    answer = httpx.post(link, data={"password": password, "again": password}, headers=headers)
    assert answer.status_code == 303
    assert site.installation.catalog.sign_in.can_sign_in(email)
    newest = [each for each in site.entries() if each["operation"] == "operator.invite_user"][-1]
    assert newest["outcome"] == "ok"
    assert newest["resource"] == site.installation.audit_name(email)
    assert "agency" not in json.dumps(site.entries())


def test_a_rejected_form_keeps_what_was_typed(site: Site) -> None:
    page = site.post("/operator/users", status=400, email=SCRIPT, organization="kept.example")
    assert html.escape(SCRIPT).replace("&#x27;", "&#39;") in page
    assert 'value="kept.example"' in page
    assert SCRIPT not in page


def test_names_are_shown_escaped(site: Site) -> None:
    site.post("/operator/accounts", status=200, name=SCRIPT)
    for path in ("/operator/accounts", "/operator/collaborations", "/operator/organizations", ONES):
        assert SCRIPT not in site.get(path)


def test_a_user_gets_a_link_a_token_an_organisation_and_an_end(site: Site) -> None:
    assert "/console/link/" in secret_of(site.post(ONES, status=200, action="link"))
    token = secret_of(site.post(ONES, status=200, action="token", days="9"))
    assert user_of(site.installation, token) == ANALYST
    assert token not in site.get(ONES)
    (kept,) = site.installation.catalog.users.tokens(ANALYST)
    site.post(ONES, action="revoke", token_id=kept.id)
    assert user_of(site.installation, token) is None
    site.post(ONES, action="organization", organization="Other.example")
    assert site.installation.catalog.pairs.organization_of_user(ANALYST) == "other.example"
    site.post(ONES, action="disable")
    assert site.installation.catalog.users.user(ANALYST).disabled  # type: ignore[union-attr]
    site.post(ONES, action="enable")
    site.browsers.pop(ANALYST, None)
    mine = site.browser(ANALYST)
    assert mine.get("/console/account").status_code == 200
    site.post(ONES, action="sign_out")
    assert mine.get("/console/account").status_code == 303
    site.browsers.pop(ANALYST)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"action": "token", "days": "0"}, id="days"),
        pytest.param({"action": "revoke", "token_id": "x" * 16}, id="token"),
        pytest.param({"action": "role", "account": "999999999999"}, id="account"),
        pytest.param({"action": "organization", "organization": ""}, id="organization"),
        pytest.param({"action": "explode"}, id="action"),
    ],
)
def test_wrong_values_are_shown_as_an_error(site: Site, fields: dict[str, str]) -> None:
    answer = site.browser(OPERATOR).post(f"/console{ONES}", data=fields)
    assert answer.status_code in (400, 404)
    assert 'role="alert"' in answer.text


def test_an_unknown_user_or_account_is_not_found(site: Site) -> None:
    assert site.browser(OPERATOR).get("/console/operator/users/none@x.example").status_code == 404
    assert site.browser(OPERATOR).get("/console/operator/accounts/999999999999").status_code in (400, 404)


@pytest.mark.parametrize("fields", [{"action": "role"}, {"action": "disable"}], ids=["role", "disable"])
def test_operators_do_not_end_their_own_access(site: Site, fields: dict[str, str]) -> None:
    page = site.post(f"/operator/users/{OPERATOR}", status=400, **fields)
    assert "cannot end their own access" in page


def test_a_key_is_shown_once_and_disabled_after_a_question(site: Site) -> None:
    page = site.post("/operator/accounts", status=200, name="shop", account_id="123456789012")
    secret = secret_of(page)
    assert secret not in site.get("/console/operator/accounts/123456789012")
    another = site.post("/operator/accounts/123456789012", status=200, action="key")
    assert secret_of(another) != secret
    keys = site.installation.catalog.parties.access_keys("123456789012")
    assert len(keys) == 2
    fields = {"action": "disable_key", "key_id": keys[0].id}
    assert "cannot be enabled again" in site.post("/operator/accounts/123456789012", status=200, **fields)
    assert not site.installation.catalog.parties.access_keys("123456789012")[0].disabled
    site.post("/operator/accounts/123456789012", sure="yes", **fields)
    assert site.installation.catalog.parties.access_keys("123456789012")[0].disabled
    (entry,) = [each for each in site.entries() if each["operation"] == "operator.disable_key"]
    assert entry["access_key"] == keys[0].id
    site.post("/operator/accounts/123456789012", action="disable")
    assert "disabled" in site.get("/console/operator/accounts")
    again = site.post("/operator/accounts", status=409, name="shop")
    assert 'value="shop"' in again


def test_accounts_work_together_until_one_leaves(site: Site) -> None:
    members = [site.account("one"), site.account("two")]
    assert "2 to 10" in site.post("/operator/collaborations", status=400, name="spring", members=members[:1])
    site.post("/operator/collaborations", name="spring", members=members, monthly="yes", seed_removed="yes")
    (made,) = site.installation.catalog.parties.collaborations()
    assert (made.seed_removed, made.full_ensemble) == (True, False)
    assert "with 1" in re.sub(r"with \d{12}", "with 1", words(site.get("/console/operator/organizations")))
    leave = {"collaboration_id": made.id, "account_id": members[1]}
    assert "No new jobs" in site.post("/operator/collaborations/leave", status=200, **leave)
    site.post("/operator/collaborations/leave", sure="yes", **leave)
    (left,) = site.installation.catalog.parties.collaborations()
    assert [each.active for each in left.members] == [True, False]


def test_the_command_sets_the_role(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEANROOM_HOME", str(site.installation.home.root))
    account = site.account("for a person")
    run = CliRunner().invoke
    done = run(user_command, ["role", ANALYST, "--operator", "--account", account], catch_exceptions=False)
    assert done.output == f"operator: yes, account: {account}\n"
    assert run(user_command, ["role", ANALYST]).output == done.output
    done = run(user_command, ["role", ANALYST, "--no-operator", "--account", "none"], catch_exceptions=False)
    assert done.output == "operator: no, account: none\n"


def test_a_participant_cannot_invite_someone_with_a_role(site: Site) -> None:
    manager, later = "manager@host.example", "later@host.example"
    for email in (manager, later):
        site.installation.catalog.users.create_user(email)
    site.installation.catalog.users.set_role(later, is_operator=True, account_id=None)
    service = MediaService(site.installation)
    managing = [Permission.PROVIDE_BASE_AUDIENCE.value, Permission.MANAGE_USERS.value]
    room = service.call(
        manager,
        "create_room",
        {
            "name": "Spring",
            "participants": [
                {"emails": [manager, later], "role": "publisher", "permissions": managing},
                {"emails": [OPERATOR], "role": "shop", "permissions": ["PROVIDE_SEED_AUDIENCE"]},
            ],
            "collaboration_types": ["ENABLE_OVERLAP"],
            "matching_ids": ["EMAIL"],
            "hide_absolute_values": False,
            "activation": [],
        },
    )["id"]
    place = service.call(manager, "get_room", {"room_id": room})["participants"][0]["id"]

    def add(email: str, *permissions: str, by: str = manager) -> None:
        given = [Permission.PROVIDE_BASE_AUDIENCE.value, *permissions]
        params = {"room_id": room, "participant_id": place, "email": email, "permissions": given}
        service.call(by, "add_user", params)

    def invite(email: str, by: str = manager) -> str:
        params = {"room_id": room, "participant_id": place, "email": email}
        return str(service.call(by, "invite_user", params)["invitation"])

    with pytest.raises(ConflictError, match="permissions that you lack"):
        invite(later)

    # known to the operator, whose own invitation would become invalid
    known = "officer@host.example"
    site.installation.catalog.users.create_user(known)
    add(known)
    with pytest.raises(ConflictError, match="permissions that you lack"):
        invite(known)

    # a role that the user gets between the invitation and its use
    promoted = "promoted@host.example"
    add(promoted)
    secret = invite(promoted)
    site.installation.catalog.users.set_role(promoted, is_operator=True, account_id=None)
    assert accept_invitation(site.installation, secret, "correct horse battery") is None

    # an inviter who is disabled, and one with fewer permissions than the participant
    helper, guest = "helper@host.example", "guest@host.example"
    add(guest)
    secret = invite(guest)
    site.installation.catalog.users.set_user_disabled(manager, True)
    assert accept_invitation(site.installation, secret, "correct horse battery") is None
    site.installation.catalog.users.set_user_disabled(manager, False)
    site.installation.catalog.users.create_user(helper)
    add_manager = {"room_id": room, "participant_id": place, "email": helper, "permissions": ["MANAGE_USERS"]}
    service.call(manager, "add_user", add_manager)
    with pytest.raises(PermissionDeniedError):
        add("puppet@host.example", by=helper)
