"""Who sends a request: cookies, protection against forged requests, and limits on signing in.

Lives here: cookies of sessions and challenges, the checks of Sec-Fetch-Site and Origin, and the limits per address
and user.
Keep out: passwords and secrets (`runs.sign_in`) and pages.

Forged requests are recognised as OWASP's cheat sheet on cross-site request forgery describes: by Sec-Fetch-Site,
or by Origin where a browser does not send it.
"""

import hashlib
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from starlette.requests import cookie_parser

from cleanroom_pipelines.media.errors import PermissionDeniedError, TooManyRequestsError
from cleanroom_pipelines.runs.sign_in import CHALLENGE_VALID
from cleanroom_pipelines.server.requests import RateLimit, Request

_SESSION, _CHALLENGE = "cleanroom", "cleanroom-challenge"
_PER_ADDRESS, _BURST_OF_ADDRESS = 1 / 6, 20.0
_PER_USER, _BURST_OF_USER = 1 / 30, 10.0
_MAILS_PER_USER, _BURST_OF_MAILS = 1 / 300, 3.0


def session_secret(request: Request) -> str:
    """Return the secret in a request's session cookie; empty if there is no such cookie."""
    return _cookie(request, _SESSION)


def keep_session(request: Request, secret: str) -> str:
    """Return the header Set-Cookie that stores a session's secret until the browser is closed."""
    return f"{_cookie_name(request, _SESSION)}={secret}{_attributes(request)}"


def forget_session(request: Request) -> str:
    """Return the header Set-Cookie that deletes the session's secret."""
    return f"{_cookie_name(request, _SESSION)}=; Max-Age=0{_attributes(request)}"


def challenge_secret(request: Request) -> str:
    """Return the secret in a request's challenge cookie; empty if there is no such cookie."""
    return _cookie(request, _CHALLENGE)


def keep_challenge(request: Request, secret: str) -> str:
    """Return the header Set-Cookie that stores the secret of a challenge as long as it is valid."""
    seconds = int(CHALLENGE_VALID.total_seconds())
    return f"{_cookie_name(request, _CHALLENGE)}={secret}; Max-Age={seconds}{_attributes(request)}"


def check_transport(request: Request) -> None:
    """Reject a request over a connection that others could read.

    Raises:
        PermissionDeniedError: It arrived without TLS from another machine.
    """
    if not request.is_private:
        raise PermissionDeniedError(
            "The console needs an encrypted connection.",
            remedy="Open it over https, or on the server's own machine. For a container whose port is published "
            "on 127.0.0.1 only, ask the operator to declare its network as private.",
        )


def check_origin(request: Request) -> None:
    """Reject a form that was sent by a page of another site.

    Raises:
        PermissionDeniedError: The request is from another site, or does not say where it is from.
    """
    site = request.header("sec-fetch-site")
    is_own = site == "same-origin" if site is not None else _is_own_origin(request)
    if not is_own:
        raise PermissionDeniedError("Another site sent the form.", remedy="Open the page again.")


class SignInLimits:
    """Limits on attempts to sign in, per network address and per user, counted in this process.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses = RateLimit(_PER_ADDRESS, clock, _BURST_OF_ADDRESS)
        self._users = RateLimit(_PER_USER, clock, _BURST_OF_USER)
        self._mails = RateLimit(_MAILS_PER_USER, clock, _BURST_OF_MAILS)

    def check(self, request: Request, email: str | None = None) -> None:
        """Count an attempt to sign in, and reject it if there were too many.

        Raises:
            TooManyRequestsError: There were too many attempts.
        """
        self._check(request, email, self._users)

    def check_mail(self, request: Request, email: str) -> None:
        """Count requests for sign-in e-mails, separately from attempts to sign in; reject too many requests.

        Raises:
            TooManyRequestsError: There were too many attempts or e-mails.
        """
        self._check(request, email, self._mails)

    def _check(self, request: Request, email: str | None, limit: RateLimit) -> None:
        # an address over its limit does not count against the user, whom it could lock out
        is_allowed = self._addresses.allows(_bucket(_network(request.client)))
        if is_allowed and email is not None:
            is_allowed = limit.allows(_bucket(email))
        if not is_allowed:
            raise TooManyRequestsError(
                "There were too many attempts to sign in.", remedy="Try again in some minutes."
            )


def _cookie(request: Request, name: str) -> str:
    # every header, because a proxy may split it
    cookies = "; ".join(value for key, value in request.headers if key.lower() == "cookie")
    return cookie_parser(cookies).get(_cookie_name(request, name), "")


def _cookie_name(request: Request, name: str) -> str:
    return f"__Host-{name}" if request.is_secure else name


def _attributes(request: Request) -> str:
    return f"; Path=/; HttpOnly; SameSite=Lax{'; Secure' if request.is_secure else ''}"


def _is_own_origin(request: Request) -> bool:
    return bool(request.header("host")) and request.header("origin") == request.origin


def _network(client: str) -> str:
    """Return an IPv4 address, or the /64 network of an IPv6 address, since one sender usually has all of it."""
    try:
        address = ip_address(client)
    except ValueError:
        return client
    return address.exploded[:19] if isinstance(address, IPv6Address) else client


def _bucket(text: str) -> str:
    """Map a text to one of 65,536 buckets, so that unknown senders cannot fill the memory."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:4]
