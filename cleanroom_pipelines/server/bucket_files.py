"""Uploads and downloads by remote parties at `/_cleanroom/buckets/{bucket}/{key}`, our own extension of AWS.

Lives here: PUT and GET of an object, GET of a listing; each is signed like a call of the lookalike (AWS) API.
Keep out: the location and ownership of buckets (`storage.buckets`).

    PUT /_cleanroom/buckets/{bucket}/{key}                      requires a signed x-amz-content-sha256 header
    GET /_cleanroom/buckets/{bucket}/{key}
    GET /_cleanroom/buckets/{bucket}?prefix=…&after=…           {"objects": [{"key", "bytes"}], "after": …}

The object is `s3://bucket/key` of the access key's account. The path is split before its segments are unquoted, so
that an encoded slash stays within its segment, where it is rejected.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qs, unquote

from cleanroom_pipelines.aws import wire
from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.errors import NotFoundError, SeedError, StorageFullError
from cleanroom_pipelines.server.callers import AuditTrail, Doorkeeper
from cleanroom_pipelines.server.lookalike_api import as_api_error
from cleanroom_pipelines.server.requests import Reply, Request
from cleanroom_pipelines.storage.artifacts import full_disk_is_an_error
from cleanroom_pipelines.storage.buckets import Buckets, ObjectPlace
from cleanroom_pipelines.storage.objects import BucketError

PREFIX = "/_cleanroom/buckets/"
_SHA256 = re.compile("[0-9a-f]{64}")
_NOTHING = hashlib.sha256(b"").hexdigest()
_MOST_LISTED = 1000


@dataclass(frozen=True)
class BucketFiles:
    """Handler of requests for objects in buckets.

    Args:
        buckets: All buckets.
        door: Authenticates and audits requests.
        scratch: Folder for uploads in progress.
        most_bytes: Size limit of one upload, in bytes.
    """

    buckets: Buckets
    door: Doorkeeper
    scratch: Path
    most_bytes: int

    def answer(self, request: Request) -> Reply:
        """Handle a request without a body."""
        trail = AuditTrail(request.id, {"operation": "GetObject"}, is_read=True)
        return self._audited(request, trail, lambda: self._get(request, trail))

    def begin(self, request: Request) -> "FileUpload | Reply":
        """Check an upload before its body is read; return the upload that takes the body, or an error."""
        trail = AuditTrail(request.id, {"operation": "PutObject"})
        started: list[FileUpload] = []

        def check() -> Reply:
            declared = request.header("x-amz-content-sha256")
            if declared is None or not _SHA256.fullmatch(declared):
                raise ApiError(
                    "ValidationException",
                    "The request must have a signed x-amz-content-sha256 header: its body's SHA-256 in hex.",
                )
            caller = self.door.admit(request, declared, trail)
            place, _ = self._place(request, caller)
            if place.is_folder:
                raise ApiError("ValidationException", "The path does not name an object.")
            if int(request.header("content-length") or 0) > self.most_bytes:
                raise self._too_large()
            handle, path = tempfile.mkstemp(prefix="upload-", dir=self.scratch)
            started.append(FileUpload(self, request, trail, place, declared, handle, Path(path)))
            return Reply(200, {})

        try:
            check()
        except Exception as raised:
            rejection = raised
            return self._audited(request, trail, lambda: _raise(rejection))
        return started[0]

    def _get(self, request: Request, trail: AuditTrail) -> Reply:
        if request.method not in ("GET", "HEAD"):
            raise ApiError("UnknownOperationException", status=405, headers={"Allow": "GET, PUT"})
        caller = self.door.admit(request, _NOTHING, trail)
        place, query = self._place(request, caller)
        if place.is_folder:
            trail.entry["operation"] = "ListObjects"
            return self._list(request, caller, query)
        opened = place.open()
        return Reply(
            200,
            {"Content-Type": "application/octet-stream", "x-amzn-RequestId": request.id},
            chunks=opened.chunks() if request.method == "GET" else (),
            n_bytes=opened.n_bytes if request.method == "GET" else 0,
            close=opened.close,
        )

    def _list(self, request: Request, caller: Caller, query: dict[str, list[str]]) -> Reply:
        bucket = request.raw_path.removeprefix(PREFIX).split("/")[0]
        prefix = query.get("prefix", [""])[0].strip("/")
        place = self.buckets.locate(caller.account_id, f"s3://{unquote(bucket)}/{prefix}")
        found = [*islice(place.list(after=query.get("after", [""])[0]), _MOST_LISTED + 1)]
        listed = [{"key": entry.key, "bytes": entry.n_bytes} for entry in found[:_MOST_LISTED]]
        after = listed[-1]["key"] if len(found) > _MOST_LISTED else None
        body = json.dumps({"objects": listed, "after": after}).encode()
        return Reply(200, {"Content-Type": "application/json", "x-amzn-RequestId": request.id}, body)

    def _place(self, request: Request, caller: Caller) -> tuple[ObjectPlace, dict[str, list[str]]]:
        segments = [unquote(part, errors="strict") for part in request.raw_path.removeprefix(PREFIX).split("/")]
        if any("/" in segment for segment in segments):
            raise ApiError("ValidationException", "A segment of the path contains an encoded slash.")
        place = self.buckets.locate(caller.account_id, "s3://" + "/".join(segments))
        return place, parse_qs(request.raw_query, keep_blank_values=True)

    def _audited(self, request: Request, trail: AuditTrail, answer: Callable[[], Reply]) -> Reply:
        error: ApiError | None = None
        reply: Reply | None = None
        try:
            reply = answer()
        except Exception as raised:
            error = _as_file_error(raised)
        try:
            self.door.note(trail, error)
        except Exception as raised:
            error = as_api_error(raised)
        if error is not None:
            if reply is not None:
                reply.close()
            return Reply(*wire.write_error(error, request.id))
        assert reply is not None
        return reply

    def _too_large(self) -> ApiError:
        return ApiError("ValidationException", f"The object is larger than {self.most_bytes:,} bytes.", status=413)


@dataclass
class FileUpload:
    """An upload in progress.

    Args:
        files: The handler that received the request.
        request: The request, without its body.
        trail: The fields of its audit entry.
        place: The object to write.
        declared: The signed SHA-256 of the body.
        handle: Open file descriptor of the draft.
        path: Path of the draft.
    """

    files: BucketFiles
    request: Request
    trail: AuditTrail
    place: ObjectPlace
    declared: str
    handle: int
    path: Path

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()
        self._n_bytes = 0

    def take(self, chunk: bytes) -> Reply | None:
        """Store a chunk of the body; an error response ends the upload."""
        self._n_bytes += len(chunk)
        if self._n_bytes > self.files.most_bytes:
            return self._audited(lambda: _raise(self.files._too_large()))
        self._digest.update(chunk)
        try:
            with full_disk_is_an_error():
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self.handle, view) :]
        except (StorageFullError, OSError) as raised:
            failed = raised
            return self._audited(lambda: _raise(failed))
        return None

    def give_up(self) -> Reply:
        """Reject an upload that takes too long."""
        message = "The object took too long to arrive."
        error = ApiError("ValidationException", message, status=408, headers={"Connection": "close"})
        return self._audited(lambda: _raise(error))

    def finish(self) -> Reply:
        """Store the received body as the object if it has the signed SHA-256; return the response."""
        return self._audited(self._finish)

    def discard(self) -> None:
        """Delete the draft file of the upload."""
        os.close(self.handle)
        self.path.unlink(missing_ok=True)

    def _finish(self) -> Reply:
        if self._digest.hexdigest() != self.declared:
            raise ApiError("AccessDeniedException", "The body does not have the signed SHA-256.")
        self.trail.entry["n_bytes"] = self._n_bytes
        self.place.store(self.path)
        return Reply(200, {"x-amzn-RequestId": self.request.id})

    def _audited(self, answer: Callable[[], Reply]) -> Reply:
        return self.files._audited(self.request, self.trail, answer)


def _as_file_error(raised: Exception) -> ApiError:
    if isinstance(raised, NotFoundError | SeedError):
        return ApiError("ResourceNotFoundException", "The object does not exist.")
    if isinstance(raised, BucketError):
        return ApiError("ValidationException", str(raised))
    if isinstance(raised, UnicodeDecodeError):
        return ApiError("ValidationException", "The path is not percent-encoded UTF-8.")
    return as_api_error(raised)


def _raise(error: Exception) -> Reply:
    raise error
