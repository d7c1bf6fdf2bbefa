"""The console as a site of the HTTP server: routing, access to pages, and errors.

Lives here: `Console`, which finds a request's page and session, and turns errors into pages.
Keep out: the pages (`pages`) and receiving requests (`server.gateway`).
"""

import logging
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import unquote

from cleanroom_pipelines.console.forms import MAX_FIELD_BYTES, Form, FormReader, read_fields
from cleanroom_pipelines.console.page import PageRequest, Route
from cleanroom_pipelines.console.pages import ROUTES, TABS
from cleanroom_pipelines.console.pages.signing import show_sign_in
from cleanroom_pipelines.console.rendering import PREFIX, PRIVATE, Rendering, url
from cleanroom_pipelines.console.repeats import RepeatedForms
from cleanroom_pipelines.console.sessions import SignInLimits, check_origin, check_transport, session_secret
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.media.protocol import as_media_error, status_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.sign_in import find_session
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.requests import RateLimit, Reply, Request
from cleanroom_pipelines.ways_in import REQUEST, acting_for

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
_STATIC = f"{PREFIX}/static/"
_READS = ("GET", "HEAD")


class Console:
    """The console's pages, as a site of an installation's HTTP server.

    Args:
        installation: The installation.
    """

    most_bytes = MAX_FIELD_BYTES

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._service = MediaService(installation, way="console")
        self._rendering = Rendering()
        self._limits = SignInLimits()
        self._repeats = RepeatedForms()
        self._rate = RateLimit(installation.settings.requests_per_second)

    def serves(self, request: Request) -> bool:
        """Whether the console handles a request: one for a page, or one from a browser for the server's root."""
        if request.raw_path == "/":
            is_api = request.header("authorization") or "X-Amz-" in request.raw_query
            accepts = request.header("accept") or ""
            return request.method in _READS and not is_api and "text/html" in accepts
        return request.raw_path == PREFIX or request.raw_path.startswith(f"{PREFIX}/")

    def answer(self, request: Request, body: bytes) -> Reply:
        """Answer a request from its whole body, which is small because it contains no files."""
        if request.raw_path in ("/", PREFIX):
            return Reply(303, {**PRIVATE, "Location": f"{PREFIX}/"})
        if request.raw_path.startswith(_STATIC) and request.method in _READS:
            may_compress = "gzip" in (request.header("accept-encoding") or "")
            files = self._rendering.compressed if may_compress else self._rendering.static
            found = files.get(request.raw_path.removeprefix(_STATIC))
            if found is not None:
                return found
        return self._guarded(request, lambda: self._answer(request, body))

    def begin(self, request: Request) -> "FormUpload | Reply":
        """Start to receive a form that may contain files; reply at once if its sender may not send it."""

        def begin() -> FormUpload | Reply:
            route, page = self._open(request)
            if route is None:
                return self._to_sign_in(request, page)
            self._service.admit_upload(page.email, request.id)
            reader = self._audited(request, page.email, "upload", lambda: self._reader(request, route))
            return FormUpload(self, route, page, reader)

        return self._guarded(request, begin)

    def reject(self, request: Request, status: int) -> Reply:
        """Reject a request that was not received completely, and close its connection."""
        error = errors.InvalidRequestError(
            "The form is too large or took too long to arrive.", remedy="Try again."
        )
        self._service.audit_rejection("unknown", error, request.id)
        reply = self._error_page(request, "", error, status)
        return Reply(status, {**reply.headers, "Connection": "close"}, reply.body)

    def run(self, route: Route, page: PageRequest) -> Reply:
        """Answer a request after its form was read; a form that is sent twice is handled once."""

        def answer() -> Reply:
            return self._guarded(page.request, lambda: self._show(route, page), page.email)

        if route.method in _READS:
            with self._installation.catalog.database.reading_once():
                return answer()
        if not page.email:
            return answer()
        return self._repeats.answer(session_secret(page.request), page.request.raw_path, page.form, answer)

    def _show(self, route: Route, page: PageRequest) -> Reply:
        """Return a route's page. If the page rejects the request, audit that unless an API handler already has."""
        error: Exception | None = None
        try:
            reply = route.reply(page)
            if reply.status >= 400:
                error = page.error or errors.InvalidRequestError("The form is incomplete.")
            return reply
        except Exception as raised:
            error = raised
            raise
        finally:
            if error is not None and not page.is_rejection_audited:
                page.service.audit_rejection(f"page.{route.answer.__name__}", error, page.request.id, page.email)

    def is_signed_in(self, page: PageRequest) -> bool:
        """Whether the session of a request still exists."""
        session = find_session(self._installation, session_secret(page.request))
        return session is not None and session.email == page.email

    def fail(self, page: PageRequest, error: Exception) -> Reply:
        """Return the error page for a form that was being received, and audit the error."""
        self._service.audit_rejection("upload", error, page.request.id, page.email)
        return self._error_page(page.request, page.email, as_media_error(error), status_of(error))

    def _reader(self, request: Request, route: Route) -> FormReader:
        if not route.files:
            raise errors.InvalidRequestError("This page does not accept files.", remedy="Open the page again.")
        most_bytes = self._installation.settings.max_upload_bytes
        return FormReader(request.header("content-type") or "", self._installation.home.scratch, most_bytes)

    def _answer(self, request: Request, body: bytes) -> Reply:
        route, page = self._open(request)
        if route is None:
            return self._to_sign_in(request, page)
        page.form = self._audited(request, page.email, "unknown", lambda: read_fields(body)) if body else Form()
        return self.run(route, page)

    def _open(self, request: Request) -> tuple[Route | None, PageRequest]:
        """Return a request's route and page; None as the route if the user must sign in first.

        Raises:
            MediaError: The page does not exist, or its sender may not send this request.
        """
        self._audited(request, "", "authorize", lambda: check_transport(request))
        if request.method not in _READS:
            self._audited(request, "", "authorize", lambda: check_origin(request))
        route, values = self._audited(request, "", "unknown", lambda: _find(request))
        session = find_session(self._installation, session_secret(request))
        email = session.email if session else ""
        page = PageRequest(
            self._service, self._rendering, self._limits, request, email, values, tabs=TABS, routes=ROUTES
        )
        if session is None:
            return (route if route.is_public else None), page
        self._audited(request, email, "authorize", lambda: self._count(email))
        return route, page

    def _count(self, email: str) -> None:
        if not self._rate.allows(email):
            raise errors.TooManyRequestsError("Too many requests.", remedy="Try again in some seconds.")

    def _to_sign_in(self, request: Request, page: PageRequest) -> Reply:
        error = errors.UnauthorizedError("Your session has ended.", remedy="Sign in again.")
        if request.method in _READS:
            to = {"next": request.raw_path.removeprefix(PREFIX)} if request.raw_path != f"{PREFIX}/" else None
            return Reply(303, {**PRIVATE, "Location": url("/sign-in", to)})
        self._service.audit_rejection("authorize", error, request.id)
        page.error = error
        return show_sign_in(page)

    def _audited(self, request: Request, email: str, operation: str, do: Callable[[], T]) -> T:
        """Run a check and audit its rejection, because API handlers audit only the calls that reach them."""
        try:
            return do()
        except errors.MediaError as error:
            self._service.audit_rejection(operation, error, request.id, email)
            raise

    def _guarded(self, request: Request, do: Callable[[], T], email: str = "") -> T | Reply:
        """Run the handler of a request; any error becomes an error page."""
        try:
            with acting_for(REQUEST):
                return do()
        except Exception as error:
            known, status = as_media_error(error), status_of(error)
            if isinstance(error, WrongMethodError):
                status = 405
            if status >= 500:
                _LOG.error("A page failed: %s.", type(error).__name__)
            return self._error_page(request, email, known, status)

    def _error_page(self, request: Request, email: str, error: errors.MediaError, status: int) -> Reply:
        page = PageRequest(self._service, self._rendering, self._limits, request, email, {})
        return page.show("error.html", status=status, error=error, code=status)


class WrongMethodError(errors.NotFoundError):
    """The page exists, but not for the request's HTTP method."""


class FormUpload:
    """A form with files while it is being received."""

    def __init__(self, console: Console, route: Route, page: PageRequest, reader: FormReader) -> None:
        self._console, self._route, self._page, self._reader = console, route, page, reader

    def take(self, chunk: bytes) -> Reply | None:
        """Read the next part of the form; if it is invalid, return an error page, which ends the upload."""
        try:
            self._reader.take(chunk)
        except Exception as error:
            return self._console.fail(self._page, error)
        return None

    def finish(self) -> Reply:
        """Run the page that receives the form, and return its reply."""
        if not self._console.is_signed_in(self._page):  # the session may have ended while the form arrived
            return self._console.fail(self._page, errors.UnauthorizedError("Your session has ended."))
        try:
            self._page.form = self._reader.finish()
        except errors.MediaError as error:
            return self._console.fail(self._page, error)
        return self._console.run(self._route, self._page)

    def give_up(self) -> Reply:
        """Reject a form that takes too long."""
        error = errors.InvalidRequestError("The file took too long to arrive.", remedy="Try again.")
        return self._console.fail(self._page, error)

    def discard(self) -> None:
        """Delete the form's files in the scratch folder."""
        self._reader.form.close()


def _find(request: Request) -> tuple[Route, dict[str, str]]:
    found = [(route, values) for route in ROUTES if (values := route.match(request.raw_path)) is not None]
    if not found:
        raise errors.NotFoundError("This page does not exist.", remedy="Go to your data rooms.")
    method = "GET" if request.method == "HEAD" else request.method
    fitting = [(route, values) for route, values in found if route.method == method]
    if not fitting:
        raise WrongMethodError("This page cannot be requested this way.", remedy="Go to your data rooms.")
    route, values = fitting[0]
    return route, {name: unquote(value) for name, value in values.items()}
