"""Operators' actions in the console: organisations, users, accounts, keys, collaborations, quotas, health.

Lives here: one function for each action, the check that its caller is an operator, and its audit entry.
Add here when operators can do something else in the console.
Keep out: pages (the console) and the rules (catalog, runs); the commands call the same functions.

A secret is returned by the action that creates it, and shown nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cleanroom_pipelines.catalog import Catalog, LinkPurpose, User
from cleanroom_pipelines.errors import NotFoundError
from cleanroom_pipelines.media.errors import InvalidRequestError, PermissionDeniedError
from cleanroom_pipelines.privacy import in_units
from cleanroom_pipelines.runs.budgets import known_organizations
from cleanroom_pipelines.runs.credentials import areas_of, issue_access_key, issue_token
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.sign_in import invite, issue_link
from cleanroom_pipelines.runs.situation import situation_of
from cleanroom_pipelines.server.media.access import Call
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.requests import Request
from cleanroom_pipelines.storage.audit import fits

_MOST_DAYS_OF_A_TOKEN = 90
Do = Callable[[Call], Any]
_ACTIONS: dict[str, tuple[Do, bool]] = {}
"""The actions by name, each with whether it only reads."""


@dataclass(frozen=True)
class Operating:
    """Executes the actions of a user who must be an operator, and audits them.

    Args:
        service: Audits the actions.
        request: The request, which must come from this machine unless the operator's settings allow others.
        email: E-mail address of the caller.
    """

    service: MediaService
    request: Request
    email: str

    def call(self, action: str, **params: Any) -> Any:
        """Execute an action.

        Raises:
            MediaError: The caller is not an operator, or the action was rejected.
        """
        do, only_reads = _ACTIONS[action]

        def checked(call: Call) -> Any:
            _check_operator(call, self.request)
            return do(call)

        name = f"operator.{action}"
        return self.service.perform(self.email, name, checked, params, self.request.id, only_reads=only_reads)


def user_named(catalog: Catalog, email: str) -> User:
    """Return the user with an e-mail address.

    Raises:
        NotFoundError: The user does not exist.
    """
    found = catalog.users.user(email.strip().lower())
    if found is None:
        raise NotFoundError("There is no such user.", remedy="Invite the user first.")
    return found


def open_areas(installation: Installation, request: Request, email: str) -> tuple[str, ...]:
    """Return the console areas that a user can open; the operator's area may require a local request."""
    areas = areas_of(installation, email)
    return tuple(each for each in areas if each != "operator" or _is_near(installation, request))


def _action(*, only_reads: bool = False) -> Callable[[Do], Do]:
    """Register a function as the action of its name; actions that only read are audited in batches."""

    def register(do: Do) -> Do:
        _ACTIONS[do.__name__.lstrip("_")] = do, only_reads
        return do

    return register


def _is_near(installation: Installation, request: Request) -> bool:
    return installation.settings.operator_pages == "remote" or request.is_local


def _check_operator(call: Call, request: Request) -> None:
    if "operator" not in areas_of(call.installation, call.email):
        raise PermissionDeniedError("Only operators see this page.", remedy="Go to your data rooms.")
    if not _is_near(call.installation, request):
        raise PermissionDeniedError(
            "The operator's pages are shown only on the server's own machine.",
            remedy="Open them there, for example through an SSH tunnel.",
        )


@_action(only_reads=True)
def _health(call: Call) -> Any:
    return situation_of(call.installation)


@_action(only_reads=True)
def _organizations(call: Call) -> list[dict[str, Any]]:
    """Return the organisations with their users, accounts and privacy budgets."""
    pairs = call.installation.catalog.pairs
    found: dict[str, dict[str, Any]] = {
        name: {"name": name, "users": [], "accounts": [], "budgets": []}
        for name in sorted(known_organizations(call.installation))
    }
    for user in call.installation.catalog.users.all():
        found[pairs.organization_of_user(user.email)]["users"].append(user)
    for account in call.installation.catalog.parties.accounts():
        found[pairs.organization_of_account(account.id)]["accounts"].append(account)
    for pair in pairs.all():
        ledger = pairs.ledger(pair.id)
        for name in dict.fromkeys(pair.organizations):
            others = [each for each in pair.organizations if each != name] or [name]
            budget = {"with": others[0], "left": in_units(ledger.left), "total": in_units(ledger.total)}
            if name in found:
                found[name]["budgets"].append({**budget, "period": ledger.period})
    return list(found.values())


@_action(only_reads=True)
def _users(call: Call) -> list[dict[str, Any]]:
    catalog = call.installation.catalog
    invited = {each.email: each.expires_at for each in catalog.sign_in.invitations()}
    return [
        {
            "user": user,
            "organization": catalog.pairs.organization_of_user(user.email),
            "can_sign_in": catalog.sign_in.can_sign_in(user.email),
            "invited_until": invited.get(user.email),
        }
        for user in catalog.users.all()
    ]


@_action(only_reads=True)
def _user(call: Call) -> dict[str, Any]:
    catalog, user = call.installation.catalog, _named(call)
    return {
        "user": user,
        "organization": catalog.pairs.organization_of_user(user.email),
        "can_sign_in": catalog.sign_in.can_sign_in(user.email),
        "tokens": catalog.users.tokens(user.email),
    }


@_action()
def _invite_user(call: Call) -> dict[str, Any]:
    """Invite a user, creating it if needed; set its organisation if one is given."""
    email, organization = call.text("email").strip().lower(), call.text("organization", "").strip()
    users = call.installation.catalog.users
    if users.user(email) is None:
        users.create_user(email)
    _about(call, resource=call.installation.audit_name(email))
    if organization:
        call.installation.catalog.pairs.set_organization(organization, email=email)
    secret, link = invite(call.installation, email)
    return {"secret": secret, "email": email, "expires_at": link.expires_at}


@_action()
def _sign_in_link(call: Call) -> dict[str, Any]:
    secret, link = issue_link(call.installation, _named(call).email, LinkPurpose.SIGN_IN)
    return {"secret": secret, "email": link.email, "expires_at": link.expires_at}


@_action()
def _set_organization(call: Call) -> None:
    call.installation.catalog.pairs.set_organization(call.text("organization").strip(), email=_named(call).email)


@_action()
def _set_role(call: Call) -> None:
    """Set a user's role; operators cannot remove their own role, so at least one operator remains."""
    user, is_operator, account = _named(call), call.flag("is_operator"), call.text("account", "").strip()
    if user.email == call.email and not is_operator:
        raise _not_yourself()
    account_id = call.installation.catalog.parties.account_named(account) if account else None
    call.installation.catalog.users.set_role(user.email, is_operator=is_operator, account_id=account_id)


@_action()
def _set_user_disabled(call: Call) -> None:
    email, is_disabled = _named(call).email, call.flag("disabled")
    if email == call.email and is_disabled:
        raise _not_yourself()
    call.installation.catalog.users.set_user_disabled(email, is_disabled)


@_action()
def _end_sessions(call: Call) -> None:
    call.installation.catalog.sign_in.end_sessions(_named(call).email)


@_action()
def _issue_token(call: Call) -> dict[str, Any]:
    days = call.number("days", _MOST_DAYS_OF_A_TOKEN)
    text, token = issue_token(call.installation, _named(call).email, days)
    return {"secret": text, "email": token.email, "expires_at": token.expires_at}


@_action()
def _revoke_token(call: Call) -> None:
    _about(call, resource=call.text("token_id"))
    call.installation.catalog.users.revoke_token(call.text("token_id"))


@_action(only_reads=True)
def _accounts(call: Call) -> list[dict[str, Any]]:
    catalog = call.installation.catalog
    return [
        {
            "account": account,
            "organization": catalog.pairs.organization_of_account(account.id),
            "keys": catalog.parties.access_keys(account.id),
            "users": [user for user in catalog.users.all() if user.account_id == account.id],
        }
        for account in catalog.parties.accounts()
    ]


@_action()
def _create_account(call: Call) -> dict[str, Any]:
    """Create an account with an access key."""
    name, organization = call.text("name").strip(), call.text("organization", "").strip()
    account_id = call.text("account_id", "").strip()
    created = call.installation.catalog.parties.create_account(name, account_id or None, organization or None)
    return _issued(call, created.id)


@_action()
def _issue_key(call: Call) -> dict[str, Any]:
    return _issued(call, call.installation.catalog.parties.account_named(call.text("account_id")))


@_action()
def _disable_key(call: Call) -> None:
    _about(call, access_key=call.text("key_id"))
    call.installation.catalog.parties.disable_access_key(call.text("key_id"))


@_action()
def _set_account_disabled(call: Call) -> None:
    account_id = call.installation.catalog.parties.account_named(call.text("account_id"))
    _about(call, account=account_id)
    call.installation.catalog.parties.set_account_disabled(account_id, call.flag("disabled"))


@_action(only_reads=True)
def _collaborations(call: Call) -> dict[str, Any]:
    parties = call.installation.catalog.parties
    names = {each.id: each.name for each in parties.accounts()}
    return {"collaborations": parties.collaborations(), "names": names}


@_action()
def _create_collaboration(call: Call) -> None:
    parties = call.installation.catalog.parties
    created = parties.create_collaboration(
        call.text("name").strip(),
        [parties.account_named(each) for each in call.texts("members")],
        seed_removed=call.flag("seed_removed"),
        full_ensemble=call.flag("full_ensemble"),
        monthly=call.flag("monthly"),
    )
    _about(call, resource=created.id)


@_action()
def _leave_collaboration(call: Call) -> None:
    collaboration_id, account_id = call.text("collaboration_id"), call.text("account_id")
    _about(call, resource=collaboration_id, account=account_id)
    call.installation.catalog.parties.set_membership(collaboration_id, account_id, active=False)


@_action(only_reads=True)
def _quotas(call: Call) -> list[tuple[str, float]]:
    """Return the names and values of the quotas in the installation's settings."""
    settings = call.installation.settings
    names = ("requests_per_second", "max_unfinished_jobs", "max_resources", "max_rooms", "max_labs", "max_uploads")
    return [(name, getattr(settings, name)) for name in (*names, "max_upload_bytes", "max_unpacked_bytes")]


def _named(call: Call) -> User:
    found = user_named(call.installation.catalog, call.text("email"))
    _about(call, resource=call.installation.audit_name(found.email))
    return found


def _about(call: Call, **facts: str) -> None:
    """Add facts about an action to its audit entry; skip values that the audit log does not allow."""
    call.trail |= {name: value for name, value in facts.items() if fits(name, value)}


def _issued(call: Call, account_id: str) -> dict[str, Any]:
    key_id, secret = issue_access_key(call.installation, account_id)
    _about(call, account=account_id, access_key=key_id)
    return {"account_id": account_id, "key_id": key_id, "secret": secret}


def _not_yourself() -> InvalidRequestError:
    return InvalidRequestError(
        "Operators cannot end their own access.", remedy="Ask another operator, or use the command line."
    )
