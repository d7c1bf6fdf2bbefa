"""Console actions for an account's users: call operations of the lookalike (AWS) API, and upload a seed.

Lives here: the check that the caller manages an account, the validation and handlers of the API, and auditing.
Add here when account users need operations of another service.
Keep out: the operations (`aws`), signatures (`server.callers`) and pages (the console).

Each call runs as the account: policies are evaluated as if one of the account's keys had signed the request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.constraints import CheckedValue
from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines.aws.model import operations
from cleanroom_pipelines.catalog import parse_arn
from cleanroom_pipelines.catalog.names import LOCAL_REGION
from cleanroom_pipelines.media import errors
from cleanroom_pipelines.server.media.access import Call
from cleanroom_pipelines.server.media.service import MediaService
from cleanroom_pipelines.server.requests import Request
from cleanroom_pipelines.server.starting import endpoint_of

_START = "StartAudienceGenerationJob"
_ERRORS: Mapping[str, type[errors.MediaError]] = {
    "ValidationException": errors.InvalidRequestError,
    "ServiceQuotaExceededException": errors.QuotaExceededError,
    "AccessDeniedException": errors.PermissionDeniedError,
    "ResourceNotFoundException": errors.NotFoundError,
    "ConflictException": errors.ConflictError,
    "ServiceUnavailableException": errors.ServerUnavailableError,
}


@dataclass(frozen=True)
class AccountPerson:
    """Executes operations on behalf of the account that a user manages, and audits them.

    Args:
        service: Audits the operations.
        request: The request.
        email: E-mail address of the caller.
        region: The AWS Region whose resources the caller sees.
    """

    service: MediaService
    request: Request
    email: str
    region: str = LOCAL_REGION

    def call(self, operation: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Execute an operation of the lookalike API.

        Raises:
            MediaError: No account is assigned to the caller, or the operation was rejected.
        """
        only_reads = operations()[operation].method == "GET"

        def do(call: Call) -> Any:
            return self._operate(call, operation, call.params)

        found = self.service.perform(
            self.email, operation, do, _filled(parameters or {}), self.request.id, only_reads=only_reads
        )
        return dict(found or {})

    def start_job(self, bucket: str, seed: IO[bytes], parameters: Mapping[str, Any]) -> None:
        """Store a seed in one of the account's buckets under a new key, and start a generation job with it.

        Args:
            bucket: Name of the bucket.
            seed: The seed; it is deleted again if the job is rejected.
            parameters: The other parameters of StartAudienceGenerationJob.

        Raises:
            MediaError: The bucket is not the account's, or the job was rejected.
        """

        def do(call: Call) -> Any:
            account_id = self._account(call)
            if bucket not in _buckets(call, account_id):
                raise errors.InvalidRequestError(
                    "The account has no such bucket.", remedy="Choose one of the account's buckets."
                )
            url = f"s3://{bucket}/console/seed-{call.installation.token_hex(8)}.jsonl"
            place = call.installation.buckets.locate(account_id, url)
            seed.seek(0)
            place.bucket.put(place.key, seed)
            # a role stands for its account
            role = f"arn:aws:iam::{account_id}:role/console"
            chosen = {"seedAudience": {"roleArn": role, "dataSource": {"s3Uri": url}}}
            try:
                return self._operate(call, _START, {**call.params, **chosen})
            except Exception:
                place.bucket.delete_object(place.key)
                raise

        self.service.perform(self.email, _START, do, _filled(parameters), self.request.id, only_reads=False)

    def buckets(self) -> list[str]:
        """Return the names of the account's buckets."""
        found: list[str] = self.service.perform(
            self.email,
            "ListBuckets",
            lambda call: _buckets(call, self._account(call)),
            {},
            self.request.id,
            only_reads=True,
        )
        return found

    def _account(self, call: Call) -> str:
        catalog = call.installation.catalog
        user = catalog.users.user(call.email)
        if user is None or user.disabled or user.account_id is None:
            raise errors.PermissionDeniedError(
                "No account is assigned to you.", remedy="Ask the operator to assign one."
            )
        call.trail["account"] = user.account_id
        if catalog.parties.account(user.account_id).disabled:
            raise errors.PermissionDeniedError("The account is disabled.", remedy="Ask the operator to enable it.")
        return user.account_id

    def _operate(self, call: Call, name: str, given: Mapping[str, Any]) -> Any:
        caller = Caller(self._account(call), "", self.region, self.request.is_secure)
        try:
            parameters = _validated(name, given)
            _about(call, parameters)
            found = OPERATIONS[name](endpoint_of(call.installation), caller, parameters)
        except ApiError as error:
            raise _media_error(error) from None
        _about(call, found or {})
        return found


def _filled(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a form's parameters without empty fields."""
    return {name: value for name, value in parameters.items() if value not in ("", None)}


def _buckets(call: Call, account_id: str) -> list[str]:
    registered = (each.name for each in call.installation.catalog.parties.buckets(account_id))
    return sorted({*registered, *call.installation.buckets.created_by(account_id)})


def _validated(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Validate parameters against the API's model, as the server does for parameters of an HTTP request."""
    checked, shape = CheckedValue(), operations()[name].input
    by_wire_name = {shape.members[key].wire_name: value for key, value in given.items() if key in shape.members}
    parameters = checked.structure(shape, by_wire_name, locations=("uri", "querystring", "body"))
    if checked.problems:
        member, _, rule = (
            checked.problems[0].removeprefix("Value at '").partition("' failed to satisfy constraint: ")
        )
        problem = "is missing" if rule == "Member must not be null" else f"is invalid: {rule}"
        raise errors.InvalidRequestError(f"The value of '{member}' {problem}.", remedy="Correct the form.")
    return parameters


def _about(call: Call, values: Mapping[str, Any]) -> None:
    found = [str(value) for value in values.values() if parse_arn(str(value)) is not None]
    if found:
        call.trail["resource"] = found[0]


def _media_error(error: ApiError) -> errors.MediaError:
    kind = _ERRORS.get(error.name, errors.ServerError)
    return kind(error.message, remedy="Change the form and send it again.")
