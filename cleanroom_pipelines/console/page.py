"""`PageRequest`: a request for a page, the argument of every function that shows one.

Lives here: `PageRequest` and `Route`.
Add here when several pages need the same of a request.
Keep out: sessions, routing (`app.py`) and what pages show (`pages`).
"""

import mimetypes
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any
from urllib.parse import parse_qsl, quote

from starlette.routing import compile_path

from cleanroom_pipelines.console.forms import Form, FormFile
from cleanroom_pipelines.console.rendering import PREFIX, PRIVATE, Rendering, url
from cleanroom_pipelines.console.sessions import SignInLimits
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.media.errors import InvalidRequestError, MediaError
from cleanroom_pipelines.media.protocol import Method, status_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.notices import mail_user
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.operating import open_areas
from cleanroom_pipelines.server.requests import Reply, Request, send_file
from cleanroom_pipelines.terms import Permission


@dataclass(frozen=True)
class Tab:
    """An entry of a room's menu.

    Args:
        key: Its text is `tab.<key>`.
        path: The path of its route, with `{room_id}`.
        needs: The user sees it with any of these permissions; empty for all participants.
    """

    key: str
    path: str
    needs: tuple[Permission, ...] = ()


@dataclass
class PageRequest:
    """A request for a page, by a signed-in user or for a public page.

    Args:
        service: The handlers.
        rendering: The templates.
        limits: Limits on attempts to sign in.
        request: The request without its body.
        email: Address of the signed-in user; empty on a public page.
        path: The values of the route's parameters.
        form: The fields and files of a POST.
        tabs: The entries of a room's menu.
        routes: All pages.
        is_rejection_audited: Whether a handler has audited that it rejected something.
        error: Why the form was rejected; its page, which is shown again, states it. None if there is no error, or
            if only fields state it.
    """

    service: MediaService
    rendering: Rendering
    limits: SignInLimits
    request: Request
    email: str
    path: Mapping[str, str]
    form: Form = field(default_factory=Form)
    tabs: tuple[Tab, ...] = ()
    routes: "tuple[Route, ...]" = ()
    is_rejection_audited: bool = False
    error: CleanroomError | None = None
    _headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Remember when an API handler has audited a rejection, so that it is not audited twice."""
        self.service = replace(self.service, on_rejection=partial(setattr, self, "is_rejection_audited", True))

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The fields of the URL's query; for a repeated field, its first value."""
        try:
            return dict(reversed(parse_qsl(self.request.raw_query, max_num_fields=100)))
        except ValueError:
            raise InvalidRequestError("The address is malformed.", remedy="Go to your data rooms.") from None

    def call(self, method: Method, **params: Any) -> Any:
        """Call a handler of the data-room (Media) API as the signed-in user.

        Raises:
            MediaError: The handler rejected the call or failed.
        """
        return self.service.call(self.email, method, params, self.request.id)

    def room(self) -> dict[str, Any]:
        """Return the room named in the path, as the API's `get_room` does; `mine` is the user's participant.

        Raises:
            MediaError: The user is not in the room.
        """
        return self._room

    @cached_property
    def _room(self) -> dict[str, Any]:
        room: dict[str, Any] = self.call(Method.GET_ROOM, room_id=self.path["room_id"])
        mine = next(each for each in room["participants"] if self.email in each["emails"])
        permissions = mine.get("member_permissions", {}).get(self.email, mine["permissions"])
        return {**room, "mine": {**mine, "permissions": permissions}}

    @cached_property
    def areas(self) -> tuple[str, ...]:
        """The areas besides data rooms that the user can open: `operator`, `account`."""
        if not self.routes or not self.email:
            return ()  # pages of errors have no routes; they must not need the catalogue
        return open_areas(self.service.installation, self.request, self.email)

    def may(self, *permissions: Permission) -> bool:
        """Whether the user has all these permissions in the path's room; API handlers check them again."""
        return {each.value for each in permissions} <= set(self.room()["mine"]["permissions"])

    def upload(self, file: FormFile, matching_id: str | None = None) -> dict[str, Any]:
        """Store a file of the form encrypted, and return its `manifest_hash`.

        Raises:
            MediaError: It is too large, or the user has too many files.
        """
        return self.service.upload(self.email, file.chunks(), file.name, matching_id, self.request.id)

    def show(
        self, template: str, *, status: int | None = None, room: Mapping[str, Any] | None = None, **values: Any
    ) -> Reply:
        """Render a page.

        Args:
            template: Name of the template.
            status: HTTP status; by default that of the error, 400 if fields have `problems`, else 200.
            room: The room whose menu the page has.
            **values: Values for the template.
        """
        done = self.query.get("done", "")
        if status is None:
            status = status_of(self.error) if self.error else 400 if values.get("problems") else 200
        shared = {
            "me": self.email,
            "path": self.request.raw_path,
            "form": self.form,
            "error": self.error,
            "done": done if done.endswith("done") and done in self.rendering.texts else None,
            "room": room,
            "tabs": self._tabs(room) if room else (),
            "mails": self.service.installation.settings.mail is not None,
            "areas": self.areas,
        }
        return self.rendering.render(template, shared | values, status=status, headers=self._headers)

    def redirect(self, path: str, *, done: str | None = None, **parts: str) -> Reply:
        """Answer a successful POST with a redirect to another page.

        Args:
            path: The path of its route.
            done: Key of a text to show there; it ends in `done`.
            **parts: Values for the path's parameters.
        """
        return self.redirect_to(url(path, {"done": done} if done else None, **parts))

    def redirect_to(self, address: str) -> Reply:
        """Redirect the browser to an address, which must not be taken from the request (no open redirect)."""
        return Reply(303, {**PRIVATE, **self._headers, "Location": address})

    def download(self, job_id: str, name: str) -> Reply:
        """Send a file of one of the user's lists.

        Raises:
            MediaError: The user has no such file.
        """
        return send_file(self.service.opening(self.email, job_id, name, self.request.id), _attachment(name))

    def attach(self, name: str, chunks: Iterable[str]) -> Reply:
        """Send a small file, such as figures as CSV."""
        return Reply(200, _attachment(name), "".join(chunks).encode())

    def send_json(self, text: str) -> Reply:
        """Send JSON, such as the options for a passkey, to the page's script."""
        return Reply(200, {**PRIVATE, **self._headers, "Content-Type": "application/json"}, text.encode())

    def address(self, path: str, **parts: str) -> str:
        """Return a page's full URL: the configured address or else the request's origin, then the page's path."""
        return (self.service.installation.settings.console_url or self.request.origin) + url(path, None, **parts)

    def mail(self, email: str, kind: str, link: str) -> None:
        """Send a link to a user by e-mail.

        Raises:
            UsageError: There is no mail server, or it did not accept the message.
        """
        mail_link(self.service.installation, self.rendering, email, kind, link)

    def is_page(self, path: str) -> bool:
        """Whether a path below /console is that of a page, so that a user may be sent there after signing in."""
        is_path = re.fullmatch(r"/[\w%./~-]*", path, re.ASCII) and not path.startswith("//")
        return bool(is_path) and any(
            each.method == "GET" and each.match(PREFIX + path) is not None for each in self.routes
        )

    def set_cookie(self, cookie: str) -> None:
        """Set a cookie with the reply."""
        self._headers["Set-Cookie"] = cookie

    def _tabs(self, room: Mapping[str, Any]) -> list[tuple[Tab, str]]:
        mine = set(room["mine"]["permissions"])
        shown = [each for each in self.tabs if not each.needs or any(p.value in mine for p in each.needs)]
        return [(each, url(each.path, room_id=room["id"])) for each in shown]


def mail_link(installation: Installation, rendering: Rendering, email: str, kind: str, link: str) -> None:
    """Send a link to a user by e-mail.

    Args:
        installation: The installation.
        rendering: The texts, `mail.<kind>_subject` and `mail.<kind>`.
        email: The receiver.
        kind: `invitation` or `link`.
        link: The link.

    Raises:
        UsageError: There is no mail server, or it did not accept the message.
    """
    subject, text = (rendering.plain(f"mail.{kind}{part}", link=link) for part in ("_subject", ""))
    mail_user(installation, email, subject, text)


class Route:
    """A page's method and path.

    Args:
        method: GET or POST; GET also answers HEAD.
        path: Its path below /console, with parameters as `{name}`.
        answer: The function that answers.
        again: Shows the form's page again with the error, `page.error`, if the form is rejected.
        is_public: Whether it is shown without signing in.
        files: Whether its form may contain files.
    """

    def __init__(
        self,
        method: str,
        path: str,
        answer: Callable[[PageRequest], Reply],
        again: Callable[[PageRequest], Reply] | None = None,
        *,
        is_public: bool = False,
        files: bool = False,
    ) -> None:
        self.method, self.path, self.answer, self.again = method, path, answer, again
        self.is_public, self.files = is_public, files
        self._pattern = compile_path(PREFIX + path)[0]

    def reply(self, page: PageRequest) -> Reply:
        """Answer a request; if its form is rejected, show the form's page again.

        Raises:
            MediaError: The request was rejected, and has no form to show again, or its sender may not see that.
        """
        try:
            return self.answer(page)
        except MediaError as error:
            if self.again is None:
                raise
            page.error = error
            return self.again(page)

    def match(self, raw_path: str) -> dict[str, str] | None:
        """Return the values of the parameters in a path, still percent-encoded; None for another path."""
        found = self._pattern.match(raw_path)
        return found.groupdict() if found else None


def _attachment(name: str) -> dict[str, str]:
    kind, encoding = mimetypes.guess_type(name)
    kind = kind if kind and not encoding else "application/octet-stream"
    disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    return {**PRIVATE, "Content-Type": kind, "Content-Disposition": disposition}
