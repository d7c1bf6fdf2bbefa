"""The operator's pages: health, organisations, users, accounts and keys, collaborations, and quotas.

Lives here: the forms of these pages, and showing a new secret once.
Add here when operators can do something else in the console.
Keep out: who is an operator, and what the actions do (`server.operating`).

A new secret is in the response to the form, not on a page of its own: no address leads to it again.
"""

from collections.abc import Callable
from typing import Any

from cleanroom_pipelines.console.page import PageRequest, Route
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.media.errors import InvalidRequestError, PermissionDeniedError
from cleanroom_pipelines.server.operating import Operating
from cleanroom_pipelines.server.requests import Reply

HEALTH, USERS, ACCOUNTS = "/operator", "/operator/users", "/operator/accounts"
COLLABORATIONS = "/operator/collaborations"
USER, ACCOUNT = USERS + "/{email}", ACCOUNTS + "/{account_id}"


def health(page: PageRequest) -> Reply:
    """Show failed, running, waiting and due work."""
    return page.show("operating/health.html", now=_act(page, "health"))


def organizations(page: PageRequest) -> Reply:
    """List the organisations with their users, accounts and privacy budgets."""
    return page.show("operating/organizations.html", found=_act(page, "organizations"))


def quotas(page: PageRequest) -> Reply:
    """Show the limits of this installation."""
    return page.show("operating/quotas.html", quotas=_act(page, "quotas"))


def users(page: PageRequest) -> Reply:
    """List the users, with a form to invite one."""
    found = _act(page, "users")
    return page.show("operating/users.html", users=found)


def invite(page: PageRequest) -> Reply:
    """Invite a user; send the link by e-mail, or show it once."""
    given = {name: page.form.text(name) for name in ("email", "organization")}
    return _show_link(page, "invitation", _act(page, "invite_user", **given))


def user(page: PageRequest) -> Reply:
    """Show a user's role and tokens, with forms to change them."""
    found = _act(page, "user", email=page.path["email"])
    accounts = [each["account"] for each in _act(page, "accounts")]
    return page.show("operating/user.html", accounts=accounts, **found)


def change_user(page: PageRequest) -> Reply:
    """Make the change whose button was pressed on a user's page."""
    email, action = page.path["email"], page.form.text("action")

    if action in ("invitation", "link"):
        made = _act(page, {"invitation": "invite_user", "link": "sign_in_link"}[action], email=email)
        return _show_link(page, action, made)
    if action == "token":
        made = _act(page, "issue_token", email=email, days=page.form.number("days") or 0)
        return _show_secret(page, "token", made["secret"], USER, email=email)
    _change_user(page, email, action)
    return page.redirect(USER, email=email, done="operating.saved.done")


def accounts(page: PageRequest) -> Reply:
    """List the accounts, with a form to create one."""
    found = _act(page, "accounts")
    return page.show("operating/accounts.html", accounts=found)


def create_account(page: PageRequest) -> Reply:
    """Create an account and show the secret of its first key once."""
    names = ("name", "account_id", "organization")
    return _show_key(page, _act(page, "create_account", **{name: page.form.text(name) for name in names}))


def account(page: PageRequest) -> Reply:
    """Show an account with its keys and people."""
    found = next((e for e in _act(page, "accounts") if e["account"].id == page.path["account_id"]), None)
    if found is None:
        raise _unknown()
    return page.show("operating/account.html", **found)


def change_account(page: PageRequest) -> Reply:
    """Issue or disable a key, or disable or enable the account."""
    account_id, action = page.path["account_id"], page.form.text("action")

    if action == "key":
        return _show_key(page, _act(page, "issue_key", account_id=account_id))
    if action == "disable_key":
        if not page.form.has("sure"):
            return _ask(page, "disable_key", ACCOUNT, ("action", "key_id"), account_id=account_id)
        _act(page, "disable_key", key_id=page.form.text("key_id"))
    elif action in ("disable", "enable"):
        _act(page, "set_account_disabled", account_id=account_id, disabled=action == "disable")
    else:
        raise _unknown()
    return page.redirect(ACCOUNT, account_id=account_id, done="operating.saved.done")


def collaborations(page: PageRequest) -> Reply:
    """List the collaborations with members and terms, and a form to create one."""
    found = _act(page, "collaborations")
    return page.show("operating/collaborations.html", **found)


def create_collaboration(page: PageRequest) -> Reply:
    """Create a collaboration."""
    terms = {name: page.form.has(name) for name in ("seed_removed", "full_ensemble", "monthly")}
    name, members = page.form.text("name"), page.form.texts("members")
    _act(page, "create_collaboration", name=name, members=members, **terms)
    return page.redirect(COLLABORATIONS, done="operating.saved.done")


def leave_collaboration(page: PageRequest) -> Reply:
    """Remove an account from a collaboration, after the operator has confirmed it."""
    fields = ("collaboration_id", "account_id")
    if not page.form.has("sure"):
        return _ask(page, "leave", f"{COLLABORATIONS}/leave", fields, back=COLLABORATIONS)
    _act(page, "leave_collaboration", **{name: page.form.text(name) for name in fields})
    return page.redirect(COLLABORATIONS, done="operating.saved.done")


def _again(show: Callable[[PageRequest], Reply]) -> Callable[[PageRequest], Reply]:
    """Show a rejected form again, unless its sender may not see the form either."""

    def again(page: PageRequest) -> Reply:
        if isinstance(page.error, PermissionDeniedError):
            raise page.error
        return show(page)

    return again


def _act(page: PageRequest, action: str, **params: Any) -> Any:
    return Operating(page.service, page.request, page.email).call(action, **params)


def _change_user(page: PageRequest, email: str, action: str) -> None:
    form = page.form
    if action == "organization":
        _act(page, "set_organization", email=email, organization=form.text("organization"))
    elif action == "role":
        role = {"is_operator": form.has("is_operator"), "account": form.text("account")}
        _act(page, "set_role", email=email, **role)
    elif action in ("disable", "enable"):
        _act(page, "set_user_disabled", email=email, disabled=action == "disable")
    elif action == "sign_out":
        _act(page, "end_sessions", email=email)
    elif action == "revoke":
        _act(page, "revoke_token", token_id=form.text("token_id"))
    else:
        raise _unknown()


def _show_link(page: PageRequest, kind: str, made: dict[str, Any]) -> Reply:
    email, link = made["email"], page.address(f"/{kind}/{{secret}}", secret=made["secret"])
    room_id = page.form.text("room_id")  # of a form on a room's page, which the operator returns to
    back, parts = ("/rooms/{room_id}", {"room_id": room_id}) if room_id else (USER, {"email": email})
    if page.form.text("by") != "mail":
        return _show_secret(page, kind, link, back, **parts)
    try:
        page.mail(email, kind, link)
    except UsageError as error:
        return _show_secret(page, kind, link, back, error=error, **parts)
    return page.redirect(back, **parts, done="operating.mailed.done")


def _show_key(page: PageRequest, made: dict[str, Any]) -> Reply:
    account_id = made["account_id"]
    return _show_secret(page, "key", made["secret"], ACCOUNT, key_id=made["key_id"], account_id=account_id)


def _show_secret(
    page: PageRequest,
    kind: str,
    secret: str,
    back: str,
    *,
    key_id: str = "",
    error: UsageError | None = None,
    **parts: str,
) -> Reply:
    template = "operating/secret.html"
    return page.show(template, error=error, kind=kind, secret=secret, key_id=key_id, back=back, parts=parts)


def _ask(page: PageRequest, kind: str, path: str, names: tuple[str, ...], back: str = "", **parts: str) -> Reply:
    """Ask for confirmation before an irreversible change; confirming sends the same fields again."""
    _act(page, "quotas")  # rejects, and audits, everyone but operators
    fields = {name: page.form.text(name) for name in names} | {"sure": "yes"}
    return page.show("operating/sure.html", kind=kind, address=path, back=back or path, fields=fields, parts=parts)


def _unknown() -> InvalidRequestError:
    return InvalidRequestError("This page does not offer this action.", remedy="Open the page again.")


PAGES = (
    Route("GET", HEALTH, health),
    Route("GET", "/operator/organizations", organizations),
    Route("GET", "/operator/quotas", quotas),
    Route("GET", USERS, users),
    Route("POST", USERS, invite, _again(users)),
    Route("GET", USER, user),
    Route("POST", USER, change_user, _again(user)),
    Route("GET", ACCOUNTS, accounts),
    Route("POST", ACCOUNTS, create_account, _again(accounts)),
    Route("GET", ACCOUNT, account),
    Route("POST", ACCOUNT, change_account, _again(account)),
    Route("GET", COLLABORATIONS, collaborations),
    Route("POST", COLLABORATIONS, create_collaboration, _again(collaborations)),
    Route("POST", f"{COLLABORATIONS}/leave", leave_collaboration, _again(collaborations)),
)
