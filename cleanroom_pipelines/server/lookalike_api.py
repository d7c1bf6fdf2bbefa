"""The lookalike (AWS) API over HTTP, with two small AWS APIs: reading collaborations, and GetCallerIdentity.

Lives here: the order of a request's steps: signature, rate limit, route, validation, operation, audit, response.
Keep out: the implementation of the steps (`aws`).
"""

import hashlib
import logging
from dataclasses import dataclass, replace

from cleanroom_pipelines.aws import query, wire
from cleanroom_pipelines.aws.answers import ApiError, Caller, from_cleanroom_error
from cleanroom_pipelines.aws.handlers import HANDLERS
from cleanroom_pipelines.aws.model import operations
from cleanroom_pipelines.aws.operations.endpoint import Endpoint
from cleanroom_pipelines.aws.signing import service_named
from cleanroom_pipelines.errors import CleanroomError
from cleanroom_pipelines.server.callers import AuditTrail, Doorkeeper
from cleanroom_pipelines.server.requests import Reply, Request
from cleanroom_pipelines.ways_in import REQUEST, acting_for

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LookalikeApi:
    """Handler of lookalike, collaboration and STS requests; the signature's scope names the service.

    Args:
        endpoint: The parts that the operations use.
        door: Authenticates and audits requests.
        is_strict: Whether to validate every output against its shape; for tests.
    """

    endpoint: Endpoint
    door: Doorkeeper
    is_strict: bool = False

    def __post_init__(self) -> None:
        for service in HANDLERS:
            operations(service)  # load the models at startup, so that a missing one is reported then

    def answer(self, request: Request, body: bytes) -> Reply:
        """Handle and audit one request; any exception becomes an error response."""
        # an endpoint that ends in a slash doubles it; SDKs sign the path with one
        request = replace(request, raw_path=f"/{request.raw_path.lstrip('/')}")
        write_error = query.write_error if query.is_query(request.headers) else wire.write_error
        trail = AuditTrail(request.id)
        error: ApiError | None = None
        try:
            reply = self._answer(request, body, trail)
        except Exception as raised:
            error = as_api_error(raised)
            reply = Reply(*write_error(error, request.id))
        try:
            self.door.note(trail, error)
        except Exception as raised:
            # a request that cannot be audited is not confirmed
            return Reply(*write_error(as_api_error(raised), request.id))
        return reply

    def reject(self, request: Request, error: ApiError) -> Reply:
        """Reject and audit a request that cannot be parsed."""
        try:
            self.door.note(AuditTrail(request.id), error)
        except Exception as raised:
            error = as_api_error(raised)
        return Reply(*wire.write_error(error, request.id))

    def _answer(self, request: Request, body: bytes, trail: AuditTrail) -> Reply:
        service = service_named(request.headers)
        caller = self.door.admit(request, hashlib.sha256(body).hexdigest(), trail, service=service)
        if service not in HANDLERS:
            return self._identify(service, caller, request, body, trail)
        operation, labels = wire.route(request.method, request.raw_path, service)
        trail.entry["operation"] = operation.name
        trail.is_read = operation.method == "GET"
        for label in labels.values():
            trail.about(label)
        call = wire.read(operation, labels, request.raw_query, request.headers, body)
        trail.entry["n_unknown_members"] = call.n_unknown
        with acting_for(REQUEST):
            output = HANDLERS[service][operation.name](self.endpoint, caller, call.parameters)
        for value in (output or {}).values():
            trail.about(value)
        return Reply(*wire.write(operation, output, request.id, is_strict=self.is_strict))

    def _identify(self, service: str, caller: Caller, request: Request, body: bytes, trail: AuditTrail) -> Reply:
        """Handle GetCallerIdentity of the service STS; reject requests to services that are not available here."""
        name = query.requested_operation(request.headers, request.raw_query, body)
        if service != query.STS:
            raise query.not_available(service, name)
        identity = query.caller_identity(caller, name, request.id)
        trail.entry["operation"], trail.is_read = "GetCallerIdentity", True
        return Reply(*identity)


def as_api_error(raised: Exception) -> ApiError:
    """Convert an exception into an API error; only the class of a server error is logged."""
    if isinstance(raised, ApiError):
        return raised
    if isinstance(raised, CleanroomError):
        error = from_cleanroom_error(raised)
    else:
        error = ApiError("InternalServiceException", reason=type(raised).__name__)
    if error.status >= 500:
        _LOG.error("A request failed: %s.", type(raised).__name__)
    return error
