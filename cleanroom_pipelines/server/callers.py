"""Authentication and auditing of requests.

Lives here: checking signatures with the accounts' keys, and auditing each request with its outcome.
Add here when requests are authenticated by something other than a signature.
Keep out: permissions of callers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.model import SERVICE
from cleanroom_pipelines.aws.s3.errors import S3Error
from cleanroom_pipelines.aws.signing import S3Signature, SigningKey, verify, verify_s3
from cleanroom_pipelines.catalog import parse_arn
from cleanroom_pipelines.server.requests import RateLimit, Request
from cleanroom_pipelines.storage.audit import AuditLog

_NO_FAILURES = ("NotImplemented", "SlowDown")  # of S3, with statuses from 500
FindKey = Callable[[str], SigningKey | None]


@dataclass
class AuditTrail:
    """The audit entry of a request, filled in while the request is handled.

    Args:
        request_id: Id of the request.
        entry: The fields so far.
        is_read: Whether the request only reads; such entries are written in batches.
    """

    request_id: str
    entry: dict[str, Any] = field(default_factory=dict)
    is_read: bool = False

    def about(self, arn: object) -> None:
        """Record the request's resource if `arn` is a valid ARN; other values from clients are never logged."""
        if isinstance(arn, str) and parse_arn(arn) is not None:
            self.entry["resource"] = arn


@dataclass(frozen=True)
class Doorkeeper:
    """Authenticates, limits and audits requests.

    Args:
        find_key: Returns the key with an id.
        audit: The audit log.
        clock: Returns the current time, aware.
        rate: Request rate limit per account.
    """

    find_key: FindKey
    audit: AuditLog
    clock: Callable[[], datetime]
    rate: RateLimit

    def admit(self, request: Request, body_sha256: str, trail: AuditTrail, *, service: str = SERVICE) -> Caller:
        """Verify a request's signature, check the caller's rate limit, and return the caller.

        Args:
            request: The request.
            body_sha256: SHA-256 of its body, in hex.
            trail: Records the caller for the audit log.
            service: The service that the signature must be for.

        Raises:
            ApiError: AccessDeniedException or ThrottlingException.
        """
        caller = verify(
            request.method,
            request.raw_path,
            request.raw_query,
            request.headers,
            body_sha256,
            find_key=self.find_key,
            now=self.clock(),
            service=service,
        )
        self._count(caller, trail)
        return replace(caller, is_secure=request.is_secure)

    def admit_s3(self, request: Request, trail: AuditTrail) -> S3Signature:
        """Verify an S3 request's signature and check the caller's rate limit; the body is not verified yet.

        Raises:
            ApiError: AccessDeniedException or ThrottlingException.
        """
        signature = verify_s3(
            request.method,
            request.raw_path,
            request.raw_query,
            request.headers,
            find_key=self.find_key,
            now=self.clock(),
        )
        self._count(signature.caller, trail)
        return signature

    def _count(self, caller: Caller, trail: AuditTrail) -> None:
        trail.entry |= {"account": caller.account_id, "access_key": caller.access_key_id}
        if not self.rate.allows(caller.account_id):
            raise ApiError("ThrottlingException")

    def note(self, trail: AuditTrail, error: ApiError | S3Error | None) -> None:
        """Write a request's audit entry before its response is sent; queue it for reads and throttled requests."""
        is_rejected = error is not None and (error.status < 500 or error.name in _NO_FAILURES)
        outcome = "ok" if error is None else "refused" if is_rejected else "failed"
        entry = {"request_id": trail.request_id, "way": "api", "operation": "unknown", **trail.entry}
        entry["outcome"] = outcome
        if error is not None:
            # the reason for rejecting a signature is for this log only, not for the client
            entry["error"] = f"{error.name}:{error.reason.replace(' ', '-')}" if error.reason else error.name
        is_write = error is None and not trail.is_read
        is_rejection = error is not None and error.name not in ("ThrottlingException", "SlowDown", "NotModified")
        (self.audit.write if is_write or is_rejection else self.audit.write_soon)(entry)
