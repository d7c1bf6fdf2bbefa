"""Who sent a request, by its signature (AWS Signature Version 4).

Lives here: the check of the Authorization header against the request and the key of a local account.
Add here when AWS signs in another way that we accept.
Keep out: where keys are kept and how they are sealed (`catalog`), what a caller may do (the operations).

Source: "Signing AWS API requests" in the IAM user guide. Refused on purpose: presigned queries, session tokens (we
issue none), unsigned payloads, SigV4A.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.model import SERVICE

ALGORITHM: Final = "AWS4-HMAC-SHA256"
TOLERANCE: Final = timedelta(minutes=15)
"""How far a request's date may be from ours, before and after."""

_TERMINATOR = "aws4_request"
_CREDENTIAL = re.compile(
    "(?P<key_id>[A-Za-z0-9_]{1,128})/(?P<date>[0-9]{8})/(?P<region>[a-z0-9-]{1,40})/(?P<service>[^/]*)/aws4_request"
)
_SIGNATURE = re.compile("[0-9a-f]{64}")
_BASIC_TIMESTAMP = re.compile("[0-9]{8}T[0-9]{6}Z")
# A second one of these makes it a matter of taste which of the two was meant.
_ONLY_ONCE = ("authorization", "host", "x-amz-date", "date", "x-amz-content-sha256", "content-type")
_QUERY_AUTHENTICATION = ("x-amz-signature", "x-amz-credential", "x-amz-algorithm", "x-amz-security-token")
# Signed with where there is no key, so that a made-up key costs what a real one costs.
_NO_SECRET = "0" * 40


@dataclass(frozen=True)
class Key:
    """An access key as the check needs it.

    Attributes:
        id: What the request names.
        account_id: Whose it is, 12 digits.
        secret: Unsealed.
        is_disabled: Whether it signs no more.
    """

    id: str
    account_id: str
    secret: str = field(repr=False)
    is_disabled: bool = False


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """What the Authorization header says."""

    key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        return "/".join((self.date, self.region, self.service, _TERMINATOR))


def verify(
    method: str,
    raw_path: str,
    raw_query: str,
    headers: Sequence[tuple[str, str]],
    body_sha256: str,
    *,
    find_key: Callable[[str], Key | None],
    now: datetime,
    service: str = SERVICE,
) -> Caller:
    """Find out who signed a request.

    The path is taken as it was sent: dot segments and doubled slashes are not resolved, so that what was signed is
    what is routed. A client of the API sends neither.

    Args:
        method: HTTP method.
        raw_path: As it was sent, still percent-encoded; it is encoded once more, as every service but S3 does.
        raw_query: What stood after `?`, still percent-encoded.
        headers: As they came, a repeated header several times; read as Latin-1, as servers do.
        body_sha256: Lower-case hex digest of the body that was received.
        find_key: Gives the key of an id, None where there is none.
        now: The present time, aware.
        service: Of the signature's scope.

    Returns:
        The account, the key and the region of the scope.

    Raises:
        ApiError: AccessDeniedException. An unknown key, a disabled one and a wrong signature read the same; the
            `reason` tells them apart for the audit log.
    """
    if not (raw_path.isascii() and raw_query.isascii()):
        raise _denied("The path and the query must be percent-encoded.", "not ASCII")
    found = _by_name(headers)
    for name in _ONLY_ONCE:
        if len(found.get(name, ())) > 1:
            raise _denied(f"The request has more than one {name} header.", "repeated header")
    claim = _read_claim(found, raw_query)
    if claim.service != service:
        raise _denied(f"Credential should be scoped to correct service: '{service}'.", "wrong service")
    _check_signed_headers(found, claim.signed_headers)
    if found.get("x-amz-content-sha256", [body_sha256]) != [body_sha256]:
        raise _denied("The x-amz-content-sha256 header is not the SHA-256 of the request's body.", "wrong body")
    timestamp = _timestamp(found)
    if timestamp[:8] != claim.date:
        raise _denied("The date in the credential scope is not that of the request.", "wrong scope date")
    _check_time(timestamp, now)

    path, query = quote(raw_path or "/", safe="/~"), _canonical_query(raw_query)
    signed = _canonical_headers(found, claim.signed_headers)
    request = "\n".join((method, path, query, signed, body_sha256)).encode("latin-1", "replace")
    text = "\n".join((ALGORITHM, timestamp, claim.scope, hashlib.sha256(request).hexdigest()))
    key = find_key(claim.key_id)
    expected = _signature(key.secret if key else _NO_SECRET, claim, text)
    is_right = hmac.compare_digest(expected, claim.signature)
    if key is None or key.is_disabled or not is_right:
        reason = "unknown key" if key is None else "disabled key" if key.is_disabled else "wrong signature"
        raise _denied(
            "The access key is not known here, or the request signature we calculated does not match the signature"
            " you provided. Check the access key id, the secret access key and the signing method.",
            reason,
        )
    return Caller(key.account_id, key.id, claim.region)


def _denied(message: str, reason: str) -> ApiError:
    return ApiError("AccessDeniedException", message, reason=reason)


def _by_name(headers: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(" ".join(value.split()))
    return found


def _read_claim(found: dict[str, list[str]], raw_query: str) -> _Claim:
    names = {_encoded(pair.partition("=")[0]).lower() for pair in raw_query.split("&")}
    if "x-amz-security-token" in found or "x-amz-security-token" in names:
        raise _denied("The security token included in the request is invalid.", "session token")
    if names & set(_QUERY_AUTHENTICATION):
        raise _denied("Signatures in the query are not accepted here; sign with a header.", "presigned")
    if "authorization" not in found:
        raise _denied("Missing Authentication Token.", "no signature")
    algorithm, _, rest = found["authorization"][0].partition(" ")
    parts = [part.strip().partition("=") for part in rest.split(",")]
    named = {name: value for name, _, value in parts}
    credential = _CREDENTIAL.fullmatch(named.get("Credential", ""))
    if (
        algorithm != ALGORITHM
        or len(parts) != 3
        or named.keys() != {"Credential", "SignedHeaders", "Signature"}
        or credential is None
        or not _SIGNATURE.fullmatch(named["Signature"])
    ):
        raise _denied(f"The Authorization header is not a complete {ALGORITHM} signature.", "no such signature")
    return _Claim(
        **credential.groupdict(),
        signed_headers=tuple(named["SignedHeaders"].split(";")),
        signature=named["Signature"],
    )


def _check_signed_headers(found: dict[str, list[str]], signed: tuple[str, ...]) -> None:
    """Refuse a signature that leaves out what steers the request.

    AWS's rule: host, the date and every x-amz-* header. The content type may be signed or not (version 2 of the
    JavaScript SDK does not), and steers nothing here: a body is JSON.
    """
    if list(signed) != sorted(set(signed)) or not set(signed) <= found.keys():
        raise _denied(
            "SignedHeaders must name headers of the request, sorted and in lower case.", "signed headers"
        )
    must = {name for name in found if name.startswith("x-amz-")} | {"host"}
    if "x-amz-date" not in found:
        must.add("date")
    if not must <= set(signed):
        raise _denied("The headers host, date and every x-amz-* header must be signed.", "unsigned header")


def _timestamp(found: dict[str, list[str]]) -> str:
    """The request's date as `YYYYMMDDTHHMMSSZ`."""
    text = (found.get("x-amz-date") or found.get("date") or [""])[0]
    if _BASIC_TIMESTAMP.fullmatch(text):
        return text
    try:
        if "x-amz-date" in found:
            raise ValueError
        date = parsedate_to_datetime(text)
        return date.replace(tzinfo=date.tzinfo or UTC).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError):
        raise _denied("The request's date is not of the form YYYYMMDD'T'HHMMSS'Z'.", "no date") from None


def _check_time(timestamp: str, now: datetime) -> None:
    try:
        then = datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _denied("The request's date is not one that a calendar has.", "no date") from None
    if abs(now - then) > TOLERANCE:
        raise _denied(
            "Signature expired: the request's date is more than 15 minutes from this server's. Check the clock.",
            "date out of range",
        )


def _canonical_headers(found: dict[str, list[str]], signed: tuple[str, ...]) -> str:
    return "".join(f"{name}:{','.join(found[name])}\n" for name in signed) + "\n" + ";".join(signed)


def _canonical_query(raw_query: str) -> str:
    if not raw_query:
        return ""
    pairs = [pair.partition("=") for pair in raw_query.split("&")]
    return "&".join(f"{name}={value}" for name, value in sorted((_encoded(n), _encoded(v)) for n, _, v in pairs))


def _encoded(text: str) -> str:
    """A part of the query as the standard encodes it, however the client did."""
    return quote(unquote_to_bytes(text), safe="-_.~")


def _signature(secret: str, claim: _Claim, text: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in (claim.date, claim.region, claim.service, _TERMINATOR):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
