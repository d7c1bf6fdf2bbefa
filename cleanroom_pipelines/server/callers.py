"""Who sent a request, and the line that the audit log gets for it.

Lives here: checking signatures against the accounts' keys, and auditing each request with its outcome.
Add here when a request is known by something else than a signature.
Keep out: what a caller may do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.signing import Key, verify
from cleanroom_pipelines.catalog import parse_arn
from cleanroom_pipelines.server.limits import RateLimit
from cleanroom_pipelines.server.requests import Request
from cleanroom_pipelines.storage.audit import AuditLog

FindKey = Callable[[str], Key | None]


@dataclass
class AuditTrail:
    """What the audit log will say of a request; filled in while it is answered.

    Args:
        request_id: Of the request.
        entry: The fields so far.
        is_read: Whether it only looked: such entries are written in batches.
    """

    request_id: str
    entry: dict[str, Any] = field(default_factory=dict)
    is_read: bool = False

    def about(self, arn: object) -> None:
        """Name the resource, if the text is an ARN of ours: what a stranger sends does not reach the log."""
        if isinstance(arn, str) and parse_arn(arn) is not None:
            self.entry["resource"] = arn


@dataclass(frozen=True)
class Doorkeeper:
    """Lets requests in and writes them down.

    Args:
        find_key: Gives the key of an id.
        audit: Where they are written down.
        clock: Gives the time, aware.
        rate: How often an account may ask.
    """

    find_key: FindKey
    audit: AuditLog
    clock: Callable[[], datetime]
    rate: RateLimit

    def admit(self, request: Request, body_sha256: str, trail: AuditTrail) -> Caller:
        """Say who signed a request.

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
        )
        trail.entry |= {"account": caller.account_id, "access_key": caller.access_key_id}
        if not self.rate.allows(caller.account_id):
            raise ApiError("ThrottlingException")
        return caller

    def note(self, trail: AuditTrail, error: ApiError | None) -> None:
        """Write a request down, before it is answered; looks and throttled requests a moment later."""
        outcome = "ok" if error is None else "refused" if error.status < 500 else "failed"
        entry = {"request_id": trail.request_id, "way": "api", "operation": "unknown", **trail.entry}
        entry["outcome"] = outcome
        if error is not None:
            # why a signature was refused is for this log alone; the client is not told
            entry["error"] = f"{error.name}:{error.reason.replace(' ', '-')}" if error.reason else error.name
        is_hurried = error is None and not trail.is_read
        is_refusal = error is not None and error.name != "ThrottlingException"
        (self.audit.write if is_hurried or is_refusal else self.audit.write_soon)(entry)
