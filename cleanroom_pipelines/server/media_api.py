"""The data-room (Media) API over HTTP: calls, uploads and downloads.

Lives here: tokens, rate limits, JSON requests and responses, and file transfers.
Keep out: what the calls do (`server.media`).
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote

from cleanroom_pipelines.media import errors
from cleanroom_pipelines.media.protocol import PREFIX, error_as_dict, status_of
from cleanroom_pipelines.runs.credentials import user_of
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.requests import RateLimit, Reply, Request, send_file
from cleanroom_pipelines.storage.vault import chunks_of

_LOG = logging.getLogger(__name__)
MAX_BODY_BYTES = 4 << 20
_UPLOADS = f"{PREFIX}/uploads"
_JOBS = f"{PREFIX}/jobs/"


@dataclass(frozen=True)
class MediaApi:
    """Handler of requests to the data-room (Media) API.

    Args:
        service: The service that executes the calls.
        rate: Request rate limit per user.
    """

    service: MediaService
    rate: RateLimit

    def answer(self, request: Request, body: bytes) -> Reply:
        """Handle one request; any exception becomes an error response."""
        try:
            email = self._admit(request)
            if request.method == "GET" and request.raw_path.startswith(_JOBS):
                return self._file(request, email)
            with self._audited_rejections(request, email):
                if request.method != "POST":
                    raise _unknown_path()
                params = _object(body)
            method = request.raw_path.removeprefix(f"{PREFIX}/")
            return _json(200, {"result": self.service.call(email, method, params, request.id)})
        except Exception as error:
            return self.error_reply(request, error)

    def begin(self, request: Request) -> "MediaUpload | Reply":
        """Start an upload, if its sender is authenticated."""
        try:
            email = self._admit(request)
            with self._audited_rejections(request, email):
                if request.raw_path != _UPLOADS:
                    raise _unknown_path()
            self.service.admit_upload(email, request.id)
            query = parse_qs(request.raw_query)
            name = (query.get("name") or ["file"])[0]
            kind = query["matching_id"][0] if "matching_id" in query else None
            return MediaUpload(self, email, request, name=name, matching_id=kind)
        except Exception as error:
            return self.error_reply(request, error)

    def reject(self, request: Request, message: str, *, status: int, ends: bool) -> Reply:
        """Reject a request that cannot be parsed."""
        reply = _json(status, {"error": error_as_dict(errors.InvalidRequestError(message))})
        return Reply(status, {**reply.headers, **({"Connection": "close"} if ends else {})}, reply.body)

    def _admit(self, request: Request) -> str:
        scheme, _, token = (request.header("authorization") or "").partition(" ")
        email = user_of(self.service.installation, token.strip()) if scheme.lower() == "bearer" else None
        if email is None:
            error = errors.UnauthorizedError("The token is invalid.", remedy="Ask the operator for a new one.")
            self.service.audit_rejection("authorize", error, request.id)
            raise error
        with self._audited_rejections(request, email):
            if not self.rate.allows(email):
                raise errors.TooManyRequestsError("Too many requests.", remedy="Send fewer requests per second.")
        return email

    @contextmanager
    def _audited_rejections(self, request: Request, email: str) -> Iterator[None]:
        """Audit errors raised in the `with` block, where the request has not reached the service yet."""
        try:
            yield
        except errors.MediaError as error:
            self.service.audit_rejection("unknown", error, request.id, email)
            raise

    def _file(self, request: Request, email: str) -> Reply:
        parts = [unquote(part) for part in request.raw_path.removeprefix(_JOBS).split("/")]
        with self._audited_rejections(request, email):
            if len(parts) != 3 or parts[1] != "files":
                raise _unknown_path()
        headers = {"Content-Type": "application/octet-stream"}
        return send_file(self.service.opening(email, parts[0], parts[2]), headers)

    def error_reply(self, request: Request, error: Exception) -> Reply:
        """Return the error response to a request; only the class of a server error is logged."""
        status = status_of(error)
        if status >= 500:
            _LOG.error("A request failed: %s.", type(error).__name__)
        return _json(status, {"error": error_as_dict(error)})


class MediaUpload:
    """An upload in progress: stored in the scratch folder until complete, then encrypted in the vault."""

    def __init__(self, api: MediaApi, email: str, request: Request, *, name: str, matching_id: str | None) -> None:
        service = api.service
        self._service = service
        self._email, self._name, self._matching_id = email, name, matching_id
        self._error_reply, self._request = api.error_reply, request
        self._left = service.installation.settings.max_upload_bytes
        self._file: IO[Any] = tempfile.TemporaryFile(  # noqa: SIM115 - closed by `discard`
            prefix="upload-", dir=Path(service.installation.home.scratch)
        )

    def take(self, chunk: bytes) -> Reply | None:
        """Store a chunk; an error response ends the upload."""
        self._left -= len(chunk)
        if self._left < 0:
            error = errors.UploadTooLargeError("The file exceeds the server's upload limit.")
            self._service.audit_rejection("upload", error, self._request.id)
            return self._error_reply(self._request, error)
        try:
            self._file.write(chunk)
        except OSError as error:
            return self._error_reply(self._request, error)
        return None

    def finish(self) -> Reply:
        """Encrypt the file and return its hash."""
        try:
            self._file.seek(0)
            result = self._service.upload(self._email, self._chunks(), self._name, self._matching_id)
            return _json(200, {"result": result})
        except Exception as error:
            return self._error_reply(self._request, error)

    def give_up(self) -> Reply:
        """Reject an upload that takes too long."""
        error = errors.InvalidRequestError("The file took too long to arrive.", remedy="Try again.")
        self._service.audit_rejection("upload", error, self._request.id)
        return self._error_reply(self._request, error)

    def discard(self) -> None:
        """Delete the scratch file."""
        self._file.close()

    def _chunks(self) -> Iterator[bytes]:
        yield from chunks_of(self._file)


def _unknown_path() -> errors.NotFoundError:
    return errors.NotFoundError("Unknown path.", remedy="See the paths in cleanroom_pipelines.media.protocol.")


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise errors.InvalidRequestError("The body is not a JSON object.", remedy="Send a JSON object.")
    return value


def _json(status: int, value: Any) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
