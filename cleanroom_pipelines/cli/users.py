"""Commands for data-room users and their tokens.

Lives here: `cleanroom user` and `cleanroom token`.
Add here when the operator can manage something else of a user.
Keep out: what users do in rooms; they use HTTP.
"""

from typing import TYPE_CHECKING

import click

from cleanroom_pipelines.cli.console import JSON, open_installation, print_json, print_result, read_installation
from cleanroom_pipelines.errors import UsageError

if TYPE_CHECKING:
    from cleanroom_pipelines.runs.installation import Installation

_BASE_URL = click.option(
    "--url",
    help="Address at which users open the server; default: CLEANROOM_CONSOLE_URL, or http://127.0.0.1:8723.",
)


_MAIL = click.option(
    "--mail", "by_mail", is_flag=True, help="Send the link to the user by e-mail (CLEANROOM_MAIL)."
)


@click.group()
def user() -> None:
    """Manage the users of data rooms."""


@user.command("create")
@click.argument("email")
@click.option(
    "--organization",
    help="Organisation whose privacy budget pays for results about the user's data; default: the e-mail domain.",
)
@JSON
def create_user(email: str, organization: str | None, as_json: bool) -> None:
    """Create a user with this e-mail address."""
    catalog = open_installation().catalog
    created = catalog.users.create_user(email.lower())
    if organization:
        catalog.pairs.set_organization(organization, email=created.email)
    print_result({"email": created.email}, f"Created the user {created.email}.", as_json=as_json)


@user.command("list")
@JSON
def list_users(as_json: bool) -> None:
    """List all users."""
    users = read_installation().catalog.users.all()
    if as_json:
        print_json([{"email": each.email, "disabled": each.disabled} for each in users])
        return
    for each in users:
        print(f"{each.email}{'  (disabled)' if each.disabled else ''}")


@user.command("disable")
@click.argument("email")
def disable_user(email: str) -> None:
    """Disable a user: all their tokens are rejected."""
    open_installation().catalog.users.set_user_disabled(email.lower(), True)
    print("Disabled.")


@user.command("enable")
@click.argument("email")
def enable_user(email: str) -> None:
    """Enable a user again: their tokens are accepted."""
    open_installation().catalog.users.set_user_disabled(email.lower(), False)
    print("Enabled.")


@user.command("invite")
@click.argument("email")
@_BASE_URL
@_MAIL
def invite_user(email: str, url: str | None, by_mail: bool) -> None:
    """Print or mail a link to set a password or a passkey for the console; it works once, within seven days.

    Creates the user if needed. An accepted invitation replaces a forgotten password and all passkeys.
    """
    from cleanroom_pipelines.runs.sign_in import invite

    installation = open_installation()
    _check_mail(installation, by_mail)
    secret, _ = invite(installation, email.lower())
    _hand_out(
        installation, email, "invitation", f"{_address(installation, url)}/console/invitation/{secret}", by_mail
    )


@user.command("role")
@click.argument("email")
@click.option("--operator/--no-operator", "is_operator", default=None, help="Whether the user is an operator.")
@click.option("--account", help="Account that the user manages in the console, by id or name; 'none' for none.")
def set_role(email: str, is_operator: bool | None, account: str | None) -> None:
    """Set whether a user is an operator, and which account the user manages; without options, show both.

    An operator manages users, organisations, accounts and keys. A user with an account acts with all of the
    account's permissions on its models, jobs and exports.
    """
    from cleanroom_pipelines.server.operating import user_named

    catalog = open_installation().catalog
    found = user_named(catalog, email)
    if is_operator is not None or account is not None:
        account_id = found.account_id if account is None else None
        if account not in (None, "none"):
            account_id = catalog.parties.account_named(account)
        is_operator = found.is_operator if is_operator is None else is_operator
        found = catalog.users.set_role(found.email, is_operator=is_operator, account_id=account_id)
    print(f"operator: {'yes' if found.is_operator else 'no'}, account: {found.account_id or 'none'}")


@user.command("link")
@click.argument("email")
@_BASE_URL
@_MAIL
def sign_in_link(email: str, url: str | None, by_mail: bool) -> None:
    """Print or mail a link by which the user signs in to the console; it works once, within 15 minutes."""
    from cleanroom_pipelines.catalog import LinkPurpose
    from cleanroom_pipelines.runs.sign_in import issue_link

    installation = open_installation()
    _check_mail(installation, by_mail)
    secret, _ = issue_link(installation, email.lower(), LinkPurpose.SIGN_IN)
    _hand_out(installation, email, "link", f"{_address(installation, url)}/console/link/{secret}", by_mail)


def _check_mail(installation: "Installation", by_mail: bool) -> None:
    """Reject `--mail` without a mail server before a new link replaces an earlier one."""
    if by_mail and installation.settings.mail is None:
        raise UsageError("E-mail is not set up here.", remedy="Set CLEANROOM_MAIL, or leave out --mail.")


def _hand_out(installation: "Installation", email: str, kind: str, link: str, by_mail: bool) -> None:
    """Mail a link as the console does, or print it; also print it if it cannot be mailed."""
    if not by_mail:
        print(link)
        return
    from cleanroom_pipelines.console.page import mail_link
    from cleanroom_pipelines.console.rendering import Rendering

    try:
        mail_link(installation, Rendering(), email.lower(), kind, link)
    except UsageError:
        print(link)
        raise
    print("The link was sent by e-mail.")


def _address(installation: "Installation", url: str | None) -> str:
    return (url or installation.settings.console_url or "http://127.0.0.1:8723").rstrip("/")


@user.command("sign-out")
@click.argument("email")
def sign_out_user(email: str) -> None:
    """End all sessions of a user in the console."""
    open_installation().catalog.sign_in.end_sessions(email.lower())
    print("Signed out everywhere.")


@click.group()
def token() -> None:
    """Manage the access tokens of data-room users."""


@token.command("issue")
@click.argument("email")
@click.option("--days", default=90, show_default=True, help="Days until the token expires.")
@JSON
def issue(email: str, days: int, as_json: bool) -> None:
    """Issue a token. It is shown only once."""
    from cleanroom_pipelines.runs.credentials import issue_token

    text, kept = issue_token(open_installation(), email.lower(), days)
    expires = kept.expires_at.isoformat(timespec="seconds")
    print_result({"token": text, "id": kept.id, "expires_at": expires}, text, as_json=as_json)


@token.command("list")
@click.argument("email")
@JSON
def list_tokens(email: str, as_json: bool) -> None:
    """List a user's tokens: ids and expiry, never the tokens themselves."""
    tokens = read_installation().catalog.users.tokens(email.lower())
    rows = [
        {"id": each.id, "expires_at": each.expires_at.isoformat(timespec="seconds"), "revoked": each.revoked}
        for each in tokens
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print(f"{row['id']}  until {row['expires_at']}{'  (revoked)' if row['revoked'] else ''}")


@token.command("revoke")
@click.argument("token_id")
def revoke(token_id: str) -> None:
    """Revoke a token by its id."""
    open_installation().catalog.users.revoke_token(token_id)
    print("Revoked.")
