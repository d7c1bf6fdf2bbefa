"""Signing in and out: by password, token or one-time link, and accepting an invitation.

Lives here: the public pages, and the page of the user's own sessions.
Keep out: passwords and secrets (`runs.sign_in`), cookies (`sessions.py`).

No page shows whether a user exists: all failures have the same text.
"""

from cleanroom_pipelines.catalog import LinkPurpose
from cleanroom_pipelines.console.page import PageRequest, Route
from cleanroom_pipelines.console.sessions import forget_session, keep_session, session_secret
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.media.errors import MediaError, NotFoundError, UnauthorizedError
from cleanroom_pipelines.media.protocol import status_of
from cleanroom_pipelines.runs.sign_in import (
    MAX_PASSWORD,
    MIN_PASSWORD,
    accept_invitation,
    check_password,
    end_session,
    find_link,
    start_session_by_password,
    start_session_by_token,
    use_sign_in_link,
)
from cleanroom_pipelines.server.requests import Reply


def sign_in(page: PageRequest) -> Reply:
    """Show the forms to sign in."""
    if page.email:
        return page.redirect("/")
    to = page.query.get("next", "")
    return page.show("signing/sign_in.html", next=to if page.is_page(to) else "")


def sign_in_by_password(page: PageRequest) -> Reply:
    """Sign in by e-mail address and password."""
    email = page.form.text("email").lower()
    try:
        _limit(page, email)
        secret = start_session_by_password(page.service.installation, email, page.form.secret("password"))
        if secret is None:
            raise _rejected(page, email, "The e-mail address or the password is wrong.")
    except MediaError as error:
        return _again(page, error)
    return _enter(page, email, secret)


def sign_in_by_token(page: PageRequest) -> Reply:
    """Sign in by a token; the session ends when the token does."""
    try:
        _limit(page)
        started = start_session_by_token(page.service.installation, page.form.text("token"))
        if started is None:
            raise _rejected(page, "", "The token is invalid.")
    except MediaError as error:
        return _again(page, error)
    return _enter(page, *started)


def invitation(page: PageRequest) -> Reply:
    """Show the form to set a password, without using up the invitation."""
    return _show_invitation(page)


def accept(page: PageRequest) -> Reply:
    """Use up an invitation: set the password and sign in."""
    installation, password = page.service.installation, page.form.secret("password")
    _limit(page)
    problem = None
    if password != page.form.secret("again"):
        problem = page.rendering.text("signing.passwords_differ")
    try:
        check_password(password)
    except UsageError:
        problem = page.rendering.text("signing.password_length", least=MIN_PASSWORD, most=MAX_PASSWORD)
    if problem:
        return _show_invitation(page, problem)
    started = accept_invitation(installation, page.path["secret"], password)
    if started is None:
        raise _invalid_link(page)
    return _enter(page, *started)


def link(page: PageRequest) -> Reply:
    """Ask whether to sign in by a one-time link, without using it up."""
    found = find_link(page.service.installation, page.path["secret"], LinkPurpose.SIGN_IN)
    if found is None:
        raise _invalid_link(page)
    return page.show("signing/link.html", link=found, secret=page.path["secret"])


def use_link(page: PageRequest) -> Reply:
    """Use up a one-time link and sign in."""
    installation = page.service.installation
    _limit(page)
    started = use_sign_in_link(installation, page.path["secret"])
    if started is None:
        raise _invalid_link(page)
    return _enter(page, *started)


def account(page: PageRequest) -> Reply:
    """Show who is signed in, and how to sign out."""
    return page.show("signing/account.html")


def sign_out(page: PageRequest) -> Reply:
    """End this session."""
    end_session(page.service.installation, session_secret(page.request))
    return _leave(page, "sign_out")


def sign_out_everywhere(page: PageRequest) -> Reply:
    """End all sessions of the user."""
    page.service.installation.catalog.sign_in.end_sessions(page.email)
    return _leave(page, "sign_out_everywhere")


def _limit(page: PageRequest, email: str | None = None) -> None:
    try:
        page.limits.check(page.request, email)
    except MediaError as error:
        page.service.audit_rejection("sign_in", error, page.request.id)
        raise


def _again(page: PageRequest, error: MediaError) -> Reply:
    to = page.form.text("next")
    to = to if page.is_page(to) else ""
    return page.show("signing/sign_in.html", status=status_of(error), error=error, next=to)


def _show_invitation(page: PageRequest, problem: str | None = None) -> Reply:
    found = find_link(page.service.installation, page.path["secret"], LinkPurpose.INVITATION)
    if found is None:
        raise _invalid_link(page)
    return page.show(
        "signing/invitation.html",
        status=400 if problem else 200,
        link=found,
        secret=page.path["secret"],
        problems={"password": problem} if problem else {},
        least=MIN_PASSWORD,
    )


def _enter(page: PageRequest, email: str, secret: str) -> Reply:
    """Store a new session in the browser, and end its previous session."""
    end_session(page.service.installation, session_secret(page.request))
    page.service.audit_success("sign_in", page.request.id, email)
    page.set_cookie(keep_session(page.request, secret))
    to = page.form.text("next")
    # the path matches a page, so that it cannot lead elsewhere
    return page.redirect(to.replace("{", "").replace("}", "") if page.is_page(to) else "/")


def _leave(page: PageRequest, operation: str) -> Reply:
    page.service.audit_success(operation, page.request.id, page.email)
    page.set_cookie(forget_session(page.request))
    return page.redirect("/sign-in", done="signing.signed_out.done")


def _rejected(page: PageRequest, email: str, message: str) -> UnauthorizedError:
    error = UnauthorizedError(message, remedy="Try again, or ask the operator for a one-time link.")
    page.service.audit_rejection("sign_in", error, page.request.id, email)
    return error


def _invalid_link(page: PageRequest) -> NotFoundError:
    error = NotFoundError("This link is invalid, was used, or has expired.", remedy="Ask for another link.")
    page.service.audit_rejection("sign_in", error, page.request.id)
    return error


PAGES = (
    Route("GET", "/sign-in", sign_in, is_public=True),
    Route("POST", "/sign-in", sign_in_by_password, is_public=True),
    Route("POST", "/sign-in/token", sign_in_by_token, is_public=True),
    Route("GET", "/invitation/{secret}", invitation, is_public=True),
    Route("POST", "/invitation/{secret}", accept, is_public=True),
    Route("GET", "/link/{secret}", link, is_public=True),
    Route("POST", "/link/{secret}", use_link, is_public=True),
    Route("GET", "/account", account),
    Route("POST", "/sign-out", sign_out),
    Route("POST", "/sign-out-everywhere", sign_out_everywhere),
)
