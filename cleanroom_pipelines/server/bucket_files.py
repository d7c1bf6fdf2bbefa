"""Uploads and downloads of a remote party: `/_cleanroom/buckets/{bucket}/{key}`, which is ours and not AWS's.

Lives here: PUT and GET of an object, GET of a listing; each signed as a call of the API is.
Keep out: where a bucket lies and whose it is (`storage.buckets`).

    PUT /_cleanroom/buckets/{bucket}/{key}                      x-amz-content-sha256 must be sent and signed
    GET /_cleanroom/buckets/{bucket}/{key}
    GET /_cleanroom/buckets/{bucket}?prefix=…&after=…           {"objects": [{"key", "bytes"}], "after": …}

Account, bucket and key are those of `s3://bucket/key` for the account of the access key. A segment of the path is
unquoted after the path was split: an encoded slash stays in its segment, where it is refused.
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
    """Answers requests for objects.

    Args:
        buckets: All buckets.
        door: Who may come in.
        scratch: Where uploads wait until they are whole.
        most_bytes: Of one upload.
    """

    buckets: Buckets
    door: Doorkeeper
    scratch: Path
    most_bytes: int

    def answer(self, request: Request) -> Reply:
        """Answer a request without a body."""
        trail = AuditTrail(request.id, {"operation": "GetObject"}, is_read=True)
        return self._noted(request, trail, lambda: self._get(request, trail))

    def begin(self, request: Request) -> "FileUpload | Reply":
        """Check who uploads what where; its body is then fed to what is returned, or refused before it is read."""
        trail = AuditTrail(request.id, {"operation": "PutObject"})
        begun: list[FileUpload] = []

        def check() -> Reply:
            declared = request.header("x-amz-content-sha256")
            if declared is None or not _SHA256.fullmatch(declared):
                raise ApiError(
                    "ValidationException",
                    "The request needs the signed header x-amz-content-sha256, the SHA-256 of its body in hex.",
                )
            caller = self.door.admit(request, declared, trail)
            place, _ = self._place(request, caller)
            if place.is_folder:
                raise ApiError("ValidationException", "The path names no object.")
            if int(request.header("content-length") or 0) > self.most_bytes:
                raise self._too_large()
            handle, path = tempfile.mkstemp(prefix="upload-", dir=self.scratch)
            begun.append(FileUpload(self, request, trail, place, declared, handle, Path(path)))
            return Reply(200, {})

        try:
            check()
        except Exception as raised:
            refused = raised
            return self._noted(request, trail, lambda: _raise(refused))
        return begun[0]

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
            raise ApiError("ValidationException", "A segment of the path holds an encoded slash.")
        place = self.buckets.locate(caller.account_id, "s3://" + "/".join(segments))
        return place, parse_qs(request.raw_query, keep_blank_values=True)

    def _noted(self, request: Request, trail: AuditTrail, answer: Callable[[], Reply]) -> Reply:
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
    """An object that is being uploaded.

    Args:
        files: Where it goes.
        request: What came before the body.
        trail: What the audit log will say.
        place: The object.
        declared: The SHA-256 that was signed.
        handle: Open descriptor of the draft.
        path: The draft.
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
        """Take a piece of the body; a refusal ends the upload."""
        self._n_bytes += len(chunk)
        if self._n_bytes > self.files.most_bytes:
            return self._noted(lambda: _raise(self.files._too_large()))
        self._digest.update(chunk)
        try:
            with full_disk_is_an_error():
                view = memoryview(chunk)
                while view:
                    view = view[os.write(self.handle, view) :]
        except (StorageFullError, OSError) as raised:
            failed = raised
            return self._noted(lambda: _raise(failed))
        return None

    def give_up(self) -> Reply:
        """Refuse what takes too long to arrive."""
        message = "The object took too long to arrive."
        error = ApiError("ValidationException", message, status=408, headers={"Connection": "close"})
        return self._noted(lambda: _raise(error))

    def finish(self) -> Reply:
        """Put the object in its place, if the body is what was signed."""
        return self._noted(self._finish)

    def discard(self) -> None:
        """Let go of the draft."""
        os.close(self.handle)
        self.path.unlink(missing_ok=True)

    def _finish(self) -> Reply:
        if self._digest.hexdigest() != self.declared:
            raise ApiError("AccessDeniedException", "The body is not the one that was signed.")
        self.trail.entry["n_bytes"] = self._n_bytes
        self.place.store(self.path)
        return Reply(200, {"x-amzn-RequestId": self.request.id})

    def _noted(self, answer: Callable[[], Reply]) -> Reply:
        return self.files._noted(self.request, self.trail, answer)


def _as_file_error(raised: Exception) -> ApiError:
    if isinstance(raised, NotFoundError | SeedError):
        return ApiError("ResourceNotFoundException", "There is no such object.")
    if isinstance(raised, BucketError):
        return ApiError("ValidationException", str(raised))
    if isinstance(raised, UnicodeDecodeError):
        return ApiError("ValidationException", "The path is not percent-encoded UTF-8.")
    return as_api_error(raised)


def _raise(error: Exception) -> Reply:
    raise error
