"""Passkeys: signing in or accepting an invitation with one, and the account page, where users manage them.

Lives here: options for the browser's script, the forms that it sends, and the page of the account.
Keep out: what a device must sign (`runs.passkeys`) and other ways to sign in (`signing.py`).
"""

from cleanroom_pipelines.catalog import LinkPurpose, NewPasskey, Passkey
from cleanroom_pipelines.catalog.names import check_label
from cleanroom_pipelines.console.page import PageRequest, Route
from cleanroom_pipelines.console.pages.signing import (
    again,
    enter,
    invalid_link,
    limit,
    rejected,
    show_invitation,
    site_of,
)
from cleanroom_pipelines.console.sessions import challenge_secret, keep_challenge, keep_session, session_secret
from cleanroom_pipelines.errors import CleanroomError, UsageError
from cleanroom_pipelines.media.errors import InvalidRequestError, NotFoundError, PermissionDeniedError
from cleanroom_pipelines.media.protocol import as_media_error
from cleanroom_pipelines.runs.passkeys import (
    PasskeySite,
    check_registration,
    registration_options,
    sign_in_by_passkey,
    sign_in_options,
)
from cleanroom_pipelines.runs.sign_in import accept_invitation, find_link, find_session, start_session
from cleanroom_pipelines.server.requests import Reply

_PASSKEYS, _PASSKEY = "/account/passkeys", "/account/passkeys/{passkey_id}/remove"
_INVITATION = "/invitation/{secret}/passkey"
_SESSION = "session"


def begin_sign_in(page: PageRequest) -> Reply:
    """Send the page's script the options with which the browser asks the device to sign in by a passkey."""
    limit(page)
    return _begin(page, sign_in_options(page.service.installation, _site(page)))


def sign_in(page: PageRequest) -> Reply:
    """Sign in by a passkey's signature; the attempt was counted when the options were sent."""
    try:
        found = sign_in_by_passkey(page.service.installation, _site(page), *_answer(page))
        if found is None:
            raise rejected(page, "The passkey was not accepted.")
    except CleanroomError as error:
        return again(page, error)
    return enter(page, *found)


def begin_invitation(page: PageRequest) -> Reply:
    """Send the page's script the options to create an invited user's passkey, instead of a password."""
    limit(page)
    email, purpose = _invited(page), page.path["secret"]
    return _begin(page, registration_options(page.service.installation, _site(page), email, purpose))


def accept(page: PageRequest) -> Reply:
    """Use up an invitation: store the passkey and sign in."""
    installation, secret = page.service.installation, page.path["secret"]
    limit(page)
    name = page.rendering.plain("signing.first_passkey")
    try:
        started = accept_invitation(installation, secret, _made(page, _invited(page), secret, name))
    except UsageError as error:
        page.service.audit_rejection("accept_invitation", error, page.request.id)
        page.error = error
        return show_invitation(page)
    if started is None:
        raise invalid_link(page)
    return enter(page, *started)


def account(page: PageRequest) -> Reply:
    """Show the account page: who is signed in, the user's passkeys, and how to sign out."""
    return page.show(
        "signing/account.html",
        site=site_of(page),
        is_by_token=_is_by_token(page),
        passkeys=page.service.installation.catalog.sign_in.passkeys(page.email),
    )


def begin_adding(page: PageRequest) -> Reply:
    """Send the page's script the options to create another passkey."""
    _check_session(page)
    return _begin(page, registration_options(page.service.installation, _site(page), page.email, _SESSION))


def add(page: PageRequest) -> Reply:
    """Store another passkey."""
    _check_session(page)
    name = page.form.text("name")
    try:
        check_label("name of the passkey", name, 100)
        made = _made(page, page.email, _SESSION, name)
        page.service.installation.catalog.sign_in.add_passkey(page.email, made)
    except CleanroomError as error:
        page.error = as_media_error(error)
        page.service.audit_rejection("add_passkey", page.error, page.request.id, page.email)
        return account(page)
    page.service.audit_success("add_passkey", page.request.id, page.email)
    return page.redirect("/account", done="signing.passkey_added.done")


def ask_to_remove(page: PageRequest) -> Reply:
    """Ask for confirmation before a passkey is removed."""
    return page.show("signing/remove_passkey.html", passkey=_own(page))


def remove(page: PageRequest) -> Reply:
    """Remove a passkey and end all sessions of the user but this one, which gets a new secret."""
    _check_session(page)
    installation = page.service.installation
    try:
        installation.catalog.sign_in.remove_passkey(page.email, page.path["passkey_id"])
    except CleanroomError as error:
        page.error = as_media_error(error)
        page.service.audit_rejection("remove_passkey", page.error, page.request.id, page.email)
        return account(page)
    page.service.audit_success("remove_passkey", page.request.id, page.email)
    page.set_cookie(keep_session(page.request, start_session(installation, page.email)))
    return page.redirect("/account", done="signing.passkey_removed.done")


def _begin(page: PageRequest, begun: tuple[str, str]) -> Reply:
    secret, options = begun
    page.set_cookie(keep_challenge(page.request, secret))
    return page.send_json(options)


def _answer(page: PageRequest) -> tuple[str, str]:
    return challenge_secret(page.request), page.form.text("credential")


def _made(page: PageRequest, email: str, purpose: str, name: str) -> NewPasskey:
    secret, response = _answer(page)
    return check_registration(
        page.service.installation, _site(page), email, purpose, secret=secret, response=response, name=name
    )


def _site(page: PageRequest) -> PasskeySite:
    found = site_of(page)
    if found is None:
        raise InvalidRequestError(
            "Passkeys do not work at this address.",
            remedy="Open the console over https by its host name, or at http://localhost on the server's machine.",
        )
    return found


def _invited(page: PageRequest) -> str:
    found = find_link(page.service.installation, page.path["secret"], LinkPurpose.INVITATION)
    if found is None:
        raise invalid_link(page)
    return found.email


def _is_by_token(page: PageRequest) -> bool:
    session = find_session(page.service.installation, session_secret(page.request))
    return session is None or session.token_id is not None


def _check_session(page: PageRequest) -> None:
    """Reject users who signed in by a token: a passkey would let them sign in after the token has expired."""
    if _is_by_token(page):
        error = PermissionDeniedError(
            "You signed in with a token.", remedy="Sign in with your password, a passkey or a one-time link."
        )
        page.service.audit_rejection("add_passkey", error, page.request.id, page.email)
        raise error


def _own(page: PageRequest) -> Passkey:
    mine = page.service.installation.catalog.sign_in.passkeys(page.email)
    found = next((each for each in mine if each.id == page.path["passkey_id"]), None)
    if found is None:
        raise NotFoundError("You have no such passkey.", remedy="Open your account again.")
    return found


PAGES = (
    Route("POST", "/sign-in/passkey/options", begin_sign_in, is_public=True),
    Route("POST", "/sign-in/passkey", sign_in, is_public=True),
    Route("POST", f"{_INVITATION}/options", begin_invitation, is_public=True),
    Route("POST", _INVITATION, accept, is_public=True),
    Route("GET", "/account", account),
    Route("POST", f"{_PASSKEYS}/options", begin_adding),
    Route("POST", _PASSKEYS, add),
    Route("GET", _PASSKEY, ask_to_remove),
    Route("POST", _PASSKEY, remove),
)
