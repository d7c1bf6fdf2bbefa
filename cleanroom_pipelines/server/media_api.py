"""The Media API over HTTP: from a request with its body to the answer, uploads and downloads included.

Lives here: tokens, limits, JSON in and out, and files on their way.
Keep out: what calls do (`server.media`).
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote

from cleanroom_pipelines.media import errors
from cleanroom_pipelines.media.protocol import PREFIX, error_as_dict, status_of
from cleanroom_pipelines.runs.users import user_of
from cleanroom_pipelines.server.limits import RateLimit
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.requests import Reply, Request
from cleanroom_pipelines.storage.vault import chunks_of

_LOG = logging.getLogger(__name__)
MAX_BODY_BYTES = 4 << 20
_UPLOADS = f"{PREFIX}/uploads"
_JOBS = f"{PREFIX}/jobs/"


@dataclass(frozen=True)
class MediaApi:
    """Answers requests to the Media API.

    Args:
        service: Carries calls out.
        rate: How often a user may ask.
    """

    service: MediaService
    rate: RateLimit

    def answer(self, request: Request, body: bytes) -> Reply:
        """Answer one request; whatever happens, the client gets an answer."""
        try:
            email = self._admit(request)
            if request.method == "GET" and request.raw_path.startswith(_JOBS):
                return self._file(request, email)
            with self._written_down(request, email):
                if request.method != "POST":
                    raise errors.NotFoundError("There is no such path.", remedy="See the protocol.")
                params = _object(body)
            method = request.raw_path.removeprefix(f"{PREFIX}/")
            return _json(200, {"result": self.service.call(email, method, params, request.id)})
        except Exception as error:
            return self.refusal(request, error)

    def begin(self, request: Request) -> "MediaUpload | Reply":
        """Begin to take an upload, if its sender is known."""
        try:
            email = self._admit(request)
            with self._written_down(request, email):
                if request.raw_path != _UPLOADS:
                    raise errors.NotFoundError("There is no such path.", remedy="See the protocol.")
            self.service.admit_upload(email, request.id)
            query = parse_qs(request.raw_query)
            name = (query.get("name") or ["file"])[0]
            kind = query["matching_id"][0] if "matching_id" in query else None
            return MediaUpload(self, email, request, name=name, matching_id=kind)
        except Exception as error:
            return self.refusal(request, error)

    def refuse(self, request: Request, message: str, *, status: int, ends: bool) -> Reply:
        """Refuse a request that cannot be read as one."""
        reply = _json(status, {"error": error_as_dict(errors.InvalidRequestError(message))})
        return Reply(status, {**reply.headers, **({"Connection": "close"} if ends else {})}, reply.body)

    def _admit(self, request: Request) -> str:
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        email = user_of(self.service.installation, token.strip()) if scheme.lower() == "bearer" else None
        if email is None:
            error = errors.UnauthorizedError("The token opens nothing.", remedy="Ask the operator for a new one.")
            self.service.refused("authorize", error, request.id)
            raise error
        with self._written_down(request, email):
            if not self.rate.allows(email):
                raise errors.TooManyRequestsError("Too many requests.", remedy="Ask less often.")
        return email

    @contextmanager
    def _written_down(self, request: Request, email: str) -> Iterator[None]:
        """Write a refusal by the body down: it does not reach the service, which writes the others."""
        try:
            yield
        except errors.MediaError as error:
            self.service.refused("unknown", error, request.id, email)
            raise

    def _file(self, request: Request, email: str) -> Reply:
        parts = [unquote(part) for part in request.raw_path.removeprefix(_JOBS).split("/")]
        with self._written_down(request, email):
            if len(parts) != 3 or parts[1] != "files":
                raise errors.NotFoundError("There is no such path.", remedy="See the protocol.")
        stack = ExitStack()
        try:
            path = stack.enter_context(self.service.opening(email, parts[0], parts[2]))
            stream = stack.enter_context(path.open("rb"))
        except BaseException:
            stack.close()
            raise
        headers = {"Content-Type": "application/octet-stream"}
        n_bytes = path.stat().st_size
        return Reply(200, headers, chunks=chunks_of(stream), n_bytes=n_bytes, close=stack.close)

    def refusal(self, request: Request, error: Exception) -> Reply:
        """The answer to a request that was refused; of our own defects the server's log gets the class alone."""
        status = status_of(error)
        if status >= 500:
            _LOG.error("A request failed: %s.", type(error).__name__)
        return _json(status, {"error": error_as_dict(error)})


class MediaUpload:
    """A file on its way: it lies in scratch until it is whole, then sealed in the vault."""

    def __init__(self, api: MediaApi, email: str, request: Request, *, name: str, matching_id: str | None) -> None:
        service = api.service
        self._service = service
        self._email, self._name, self._matching_id = email, name, matching_id
        self._refusal, self._request = api.refusal, request
        self._left = service.installation.settings.max_upload_bytes
        self._file: IO[Any] = tempfile.TemporaryFile(  # noqa: SIM115 - closed by `discard`
            prefix="upload-", dir=Path(service.installation.home.scratch)
        )

    def take(self, chunk: bytes) -> Reply | None:
        """Take a piece; a refusal ends the upload."""
        self._left -= len(chunk)
        if self._left < 0:
            error = errors.UploadTooLargeError("The file is larger than the server takes.")
            self._service.refused("upload", error, self._request.id)
            return self._refusal(self._request, error)
        try:
            self._file.write(chunk)
        except OSError as error:
            return self._refusal(self._request, error)
        return None

    def finish(self) -> Reply:
        """Seal the file and answer with its hash."""
        try:
            self._file.seek(0)
            result = self._service.upload(self._email, self._chunks(), self._name, self._matching_id)
            return _json(200, {"result": result})
        except Exception as error:
            return self._refusal(self._request, error)

    def give_up(self) -> Reply:
        """Answer an upload that takes too long."""
        error = errors.InvalidRequestError("The file took too long to arrive.", remedy="Try again.")
        self._service.refused("upload", error, self._request.id)
        return self._refusal(self._request, error)

    def discard(self) -> None:
        """Let go of what lies in scratch."""
        self._file.close()

    def _chunks(self) -> Iterator[bytes]:
        yield from chunks_of(self._file)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise errors.InvalidRequestError("The body is no JSON object.", remedy="Send one.")
    return value


def _json(status: int, value: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
