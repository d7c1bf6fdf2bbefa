"""Signing in and out: by password, token, one-time link or single sign-on, and accepting an invitation.

Lives here: the public pages, and signing out.
Keep out: passkeys and the user's account (`passkeys.py`), passwords and secrets (`runs.sign_in`), cookies.

No page shows whether a user exists: all failures have the same text.
"""

import logging
from ipaddress import ip_address
from threading import Thread
from urllib.parse import urlsplit

from cleanroom_pipelines.catalog import LinkPurpose
from cleanroom_pipelines.catalog.room_specs import check_email
from cleanroom_pipelines.console.page import PageRequest, Route
from cleanroom_pipelines.console.sessions import (
    challenge_secret,
    forget_session,
    keep_challenge,
    keep_session,
    session_secret,
)
from cleanroom_pipelines.errors import CleanroomError, UsageError
from cleanroom_pipelines.media.errors import MediaError, NotFoundError, UnauthorizedError
from cleanroom_pipelines.runs.passkeys import PasskeySite
from cleanroom_pipelines.runs.sign_in import (
    MAX_PASSWORD,
    MIN_PASSWORD,
    accept_invitation,
    check_password,
    end_session,
    find_link,
    issue_link,
    start_session,
    start_session_by_password,
    start_session_by_token,
    use_sign_in_link,
)
from cleanroom_pipelines.runs.single_sign_on import begin_sign_on, finish_sign_on
from cleanroom_pipelines.server.requests import Reply

_LOG = logging.getLogger(__name__)
_RETURN = "/sign-in/sso/return"


def sign_in(page: PageRequest) -> Reply:
    """Show the forms to sign in; a user who is signed in already is sent to the start page."""
    return page.redirect("/") if page.email else show_sign_in(page, page.query.get("next", ""))


def sign_in_by_password(page: PageRequest) -> Reply:
    """Sign in by e-mail address and password."""
    email = page.form.text("email").lower()
    limit(page, email)
    secret = start_session_by_password(page.service.installation, email, page.form.secret("password"))
    if secret is None:
        raise rejected(page, "The e-mail address or the password is wrong.", email)
    return enter(page, email, secret)


def sign_in_by_token(page: PageRequest) -> Reply:
    """Sign in by a token; the session ends when the token does."""
    limit(page)
    started = start_session_by_token(page.service.installation, page.form.text("token"))
    if started is None:
        raise rejected(page, "The token is invalid.")
    return enter(page, *started)


def begin_sso(page: PageRequest) -> Reply:
    """Send the browser to the operator's sign-on provider."""
    try:
        limit(page)
        secret, address = begin_sign_on(page.service.installation, page.address(_RETURN))
    except CleanroomError as error:
        return again(page, error)
    page.set_cookie(keep_challenge(page.request, secret))
    return page.redirect_to(address)


def finish_sso(page: PageRequest) -> Reply:
    """Sign in a user whose e-mail address the sign-on provider has verified."""
    installation, secret = page.service.installation, challenge_secret(page.request)
    try:
        try:
            email = finish_sign_on(installation, page.address(_RETURN), secret, page.query)
        except UsageError as error:
            raise rejected(page, error.message) from None
        if email is None:
            raise rejected(page, "No user of this clean room has your e-mail address.")
    except CleanroomError as error:
        return again(page, error)
    return enter(page, email, start_session(installation, email))


def ask_for_link(page: PageRequest) -> Reply:
    """Send a one-time link by e-mail; for an unknown address the reply is the same and takes as long."""
    email = page.form.text("email").lower()
    try:
        try:
            page.limits.check_mail(page.request, email)
        except MediaError as error:
            page.service.audit_rejection("send_link", error, page.request.id)
            raise
        check_email(email)
    except CleanroomError as error:
        return again(page, error)
    if page.service.installation.settings.mail is not None:
        Thread(target=_send_link, args=(page, email), daemon=True).start()
    return page.redirect("/sign-in", done="signing.link_sent.done")


def invitation(page: PageRequest) -> Reply:
    """Show the form to set a password, without using up the invitation."""
    return show_invitation(page)


def accept(page: PageRequest) -> Reply:
    """Use up an invitation: set the password and sign in."""
    installation, password = page.service.installation, page.form.secret("password")
    limit(page)
    problem = None
    if password != page.form.secret("again"):
        problem = page.rendering.text("signing.passwords_differ")
    try:
        check_password(password)
    except UsageError:
        problem = page.rendering.text("signing.password_length", least=MIN_PASSWORD, most=MAX_PASSWORD)
    if problem:
        return show_invitation(page, problem)
    started = accept_invitation(installation, page.path["secret"], password)
    if started is None:
        raise invalid_link(page)
    return enter(page, *started)


def link(page: PageRequest) -> Reply:
    """Ask whether to sign in by a one-time link, without using it up."""
    found = find_link(page.service.installation, page.path["secret"], LinkPurpose.SIGN_IN)
    if found is None:
        raise invalid_link(page)
    return page.show("signing/link.html", link=found, secret=page.path["secret"])


def use_link(page: PageRequest) -> Reply:
    """Use up a one-time link and sign in."""
    installation = page.service.installation
    limit(page)
    started = use_sign_in_link(installation, page.path["secret"])
    if started is None:
        raise invalid_link(page)
    return enter(page, *started)


def sign_out(page: PageRequest) -> Reply:
    """End this session."""
    end_session(page.service.installation, session_secret(page.request))
    return _leave(page, "sign_out")


def sign_out_everywhere(page: PageRequest) -> Reply:
    """End all sessions of the user."""
    page.service.installation.catalog.sign_in.end_sessions(page.email)
    return _leave(page, "sign_out_everywhere")


def limit(page: PageRequest, email: str | None = None) -> None:
    """Count an attempt to sign in, and reject it if there were too many.

    Raises:
        TooManyRequestsError: There were too many.
    """
    try:
        page.limits.check(page.request, email)
    except MediaError as error:
        page.service.audit_rejection("sign_in", error, page.request.id)
        raise


def show_sign_in(page: PageRequest, to: str = "") -> Reply:
    """Show the forms to sign in.

    Args:
        page: The request.
        to: The page that is shown after signing in.
    """
    provider = page.service.installation.settings.sso
    return page.show(
        "signing/sign_in.html",
        next=to if page.is_page(to) else "",
        site=site_of(page),
        provider=urlsplit(provider.issuer).hostname if provider else None,
    )


def site_of(page: PageRequest) -> PasskeySite | None:
    """Return the site to which passkeys are bound; None where they cannot work: at an IP address, or without TLS.

    Browsers accept `localhost` without TLS.
    """
    origin = page.request.origin
    host = urlsplit(origin).hostname or ""
    is_secure = page.request.is_secure or host == "localhost"
    return PasskeySite(host, origin) if is_secure and host and not _is_address(host) else None


def again(page: PageRequest, error: CleanroomError | None = None) -> Reply:
    """After a failed attempt, show the sign-in forms again, with the error."""
    page.error = error or page.error
    return show_sign_in(page, page.form.text("next"))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def show_invitation(page: PageRequest, problem: str | None = None) -> Reply:
    """Show the forms to accept an invitation, and what is wrong with the password."""
    found = find_link(page.service.installation, page.path["secret"], LinkPurpose.INVITATION)
    if found is None:
        raise invalid_link(page)
    return page.show(
        "signing/invitation.html",
        site=site_of(page),
        link=found,
        secret=page.path["secret"],
        problems={"password": problem} if problem else {},
        least=MIN_PASSWORD,
    )


def enter(page: PageRequest, email: str, secret: str) -> Reply:
    """Set the cookie of a new session, and end the browser's previous session."""
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


def rejected(page: PageRequest, message: str, email: str = "") -> UnauthorizedError:
    """Record a failed sign-in in the audit log, and return the error to show."""
    error = UnauthorizedError(message, remedy="Try again, or ask the operator for a one-time link.")
    page.service.audit_rejection("sign_in", error, page.request.id, email)
    return error


def invalid_link(page: PageRequest) -> NotFoundError:
    """Audit the use of an invalid link, and return the error to show."""
    error = NotFoundError("This link is invalid, was used, or has expired.", remedy="Ask for another link.")
    page.service.audit_rejection("sign_in", error, page.request.id)
    return error


def _send_link(page: PageRequest, email: str) -> None:
    """Issue and send a one-time link, if its user exists and is not disabled."""
    installation, request_id = page.service.installation, page.request.id
    try:
        user = installation.catalog.users.user(email)
        if user is None or user.disabled:
            return
        secret, _ = issue_link(installation, email, LinkPurpose.SIGN_IN)
        page.mail(email, "link", page.address("/link/{secret}", secret=secret))
        page.service.audit_success("send_link", request_id, email)
    except Exception as error:
        _LOG.warning("A one-time link was not sent (%s).", type(error).__name__)
        page.service.audit_rejection("send_link", error, request_id, email)


PAGES = (
    Route("GET", "/sign-in", sign_in, is_public=True),
    Route("POST", "/sign-in", sign_in_by_password, again, is_public=True),
    Route("POST", "/sign-in/token", sign_in_by_token, again, is_public=True),
    Route("POST", "/sign-in/link", ask_for_link, is_public=True),
    Route("GET", "/sign-in/sso", begin_sso, is_public=True),
    Route("GET", _RETURN, finish_sso, is_public=True),
    Route("GET", "/invitation/{secret}", invitation, is_public=True),
    Route("POST", "/invitation/{secret}", accept, is_public=True),
    Route("GET", "/link/{secret}", link, is_public=True),
    Route("POST", "/link/{secret}", use_link, is_public=True),
    Route("POST", "/sign-out", sign_out),
    Route("POST", "/sign-out-everywhere", sign_out_everywhere),
)
