"""Authenticating requests by their signature (AWS Signature Version 4).

Lives here: checking the Authorization header against the request and a local account's key.
Add here when another AWS signing method is supported.
Keep out: storing and encrypting keys (`catalog`), permissions of callers (the operations).

Source: "Signing AWS API requests" in the IAM user guide, and "Authenticating Requests" in the S3 API reference.
Rejected on purpose: SigV4A, and session tokens, which this server does not issue. Presigned queries and unsigned
payloads are accepted for S3 only.
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
"""Largest allowed difference between a request's date and the server's clock, in either direction."""

_TERMINATOR = "aws4_request"
_CREDENTIAL = re.compile(
    "(?P<key_id>[A-Za-z0-9_]{1,128})/(?P<date>[0-9]{8})/(?P<region>[a-z0-9-]{1,40})/(?P<service>[^/]*)/aws4_request"
)
_SERVICE = re.compile("[a-z][a-z0-9-]{0,39}")
_SIGNATURE = re.compile("[0-9a-f]{64}")
_BASIC_TIMESTAMP = re.compile("[0-9]{8}T[0-9]{6}Z")
# Repeating one of these headers would make the request ambiguous.
_ONLY_ONCE = ("authorization", "host", "x-amz-date", "date", "x-amz-content-sha256", "content-type")
# Headers that clients and proxies add after signing, and that nothing here reads.
_UNREAD = frozenset(
    f"x-amz-{name}"
    for name in ("user-agent", "api-version", "sdk-request", "sdk-invocation-id", "trace-id", "cf-id")
)
S3: Final = "s3"
"""The name of S3 in signatures."""
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""The value of x-amz-content-sha256 in a request that does not sign its body."""

_LONGEST_PRESIGNED = timedelta(days=7)
_EXPIRES = re.compile("[0-9]{1,6}")
_QUERY_MEMBERS = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
)
_QUERY_AUTHENTICATION = ("x-amz-signature", "x-amz-credential", "x-amz-algorithm", "x-amz-security-token")
# Used if the key is unknown, so that unknown and known keys take the same time to reject.
_NO_SECRET = "0" * 40


@dataclass(frozen=True)
class SigningKey:
    """An access key, with its decrypted secret.

    Attributes:
        id: Its id, as given in requests.
        account_id: The account that owns it, 12 digits.
        secret: The decrypted secret.
        is_disabled: Whether it has been disabled.
    """

    id: str
    account_id: str
    secret: str = field(repr=False)
    is_disabled: bool = False


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """A signature with its key id and scope, as read from the Authorization header or a presigned URL."""

    key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        return "/".join((self.date, self.region, self.service, _TERMINATOR))


@dataclass(frozen=True)
class S3Signature:
    """The verified signature of an S3 request; its chunks are signed with the same key.

    Attributes:
        caller: The account and the key.
        payload: SHA-256 of the body as the client signed it, in hex, or S3's word for another form of body.
        timestamp: The request's date.
        scope: The credential scope.
        signature: The signature, in hex.
        signing_key: The key of the scope.
    """

    caller: Caller
    payload: str
    timestamp: str
    scope: str
    signature: str
    signing_key: bytes = field(repr=False)

    def signs(self, text: str, signature: str) -> bool:
        """Check whether a signature was made for a text with this key."""
        return hmac.compare_digest(_hmac(self.signing_key, text), signature)


def is_for_s3(authorization: str, raw_query: str) -> bool:
    """Whether a request's credential scope, in header or query, names S3; the signature is not verified."""
    scoped = f"/{S3}/{_TERMINATOR}"
    query = dict(_pairs(raw_query)) if "x-amz-credential" in raw_query.lower() else {}
    return f"{scoped}," in f"{authorization}," or query.get("X-Amz-Credential", "").endswith(scoped)


def verify_s3(
    method: str,
    raw_path: str,
    raw_query: str,
    headers: Sequence[tuple[str, str]],
    *,
    find_key: Callable[[str], SigningKey | None],
    now: datetime,
) -> S3Signature:
    """Verify the signature in an S3 request's header or query, before the body is received.

    Args:
        method: HTTP method.
        raw_path: The path as received. It is signed percent-encoded once; other services encode it twice.
        raw_query: The query string after `?`, still percent-encoded.
        headers: The headers as received, decoded as Latin-1.
        find_key: Returns the key with an id, or None.
        now: The current time, aware.

    Raises:
        ApiError: AccessDeniedException, as of `verify`; `reason` distinguishes the cases.
    """
    found = _well_formed(raw_path, raw_query, headers)
    query, is_presigned = _pairs(raw_query), "x-amz-signature=" in raw_query.lower()
    if is_presigned:
        claim, timestamp = _read_query_claim(query, found, now)
    else:
        claim, timestamp = _read_claim(found, raw_query), _timestamp(found)
        _check_time(timestamp, now)
    if claim.service != S3:
        raise _denied(f"Credential should be scoped to correct service: '{S3}'.", "wrong service")
    _check_signed_headers(found, claim.signed_headers, is_dated=is_presigned)
    if timestamp[:8] != claim.date:
        raise _denied("The date in the credential scope differs from the request's date.", "wrong scope date")
    payload = found.get("x-amz-content-sha256", [dict(query).get("X-Amz-Content-Sha256", "")])[0]
    if not payload:
        if not is_presigned:
            raise _denied("The request needs a signed x-amz-content-sha256 header.", "no payload hash")
        payload = UNSIGNED

    kept = "&".join(pair for pair in raw_query.split("&") if not pair.startswith("X-Amz-Signature="))
    path = quote(unquote_to_bytes(raw_path or "/"), safe="/-_.~")
    signed = _canonical_headers(found, claim.signed_headers)
    request = "\n".join((method, path, _canonical_query(kept), signed, payload)).encode("latin-1", "replace")
    text = "\n".join((ALGORITHM, timestamp, claim.scope, hashlib.sha256(request).hexdigest()))
    key = _check_key(find_key(claim.key_id), claim, text)
    return S3Signature(
        Caller(key.account_id, key.id, claim.region),
        payload,
        timestamp,
        claim.scope,
        claim.signature,
        _signing_key(key.secret, claim),
    )


def verify(
    method: str,
    raw_path: str,
    raw_query: str,
    headers: Sequence[tuple[str, str]],
    body_sha256: str,
    *,
    find_key: Callable[[str], SigningKey | None],
    now: datetime,
    service: str = SERVICE,
) -> Caller:
    """Verify a request's signature and return the caller.

    The path is used exactly as received: dot segments and double slashes are not resolved, so that the signed path
    is also the routed one. API clients send neither.

    Args:
        method: HTTP method.
        raw_path: The path as received, still percent-encoded; it is encoded again, as for every service except S3.
        raw_query: The query string after `?`, still percent-encoded.
        headers: The headers as received, decoded as Latin-1; a repeated header occurs several times.
        body_sha256: SHA-256 of the received body, in lower-case hex.
        find_key: Returns the key with an id, or None.
        now: The current time, aware.
        service: The service in the signature's scope.

    Returns:
        The account, the key and the Region in the scope.

    Raises:
        ApiError: AccessDeniedException. An unknown key, a disabled one and a wrong signature share a message; only
            `reason` distinguishes them, for the audit log.
    """
    found = _well_formed(raw_path, raw_query, headers)
    claim = _read_claim(found, raw_query)
    if claim.service != service:
        raise _denied(f"Credential should be scoped to correct service: '{service}'.", "wrong service")
    _check_signed_headers(found, claim.signed_headers)
    if found.get("x-amz-content-sha256", [body_sha256]) != [body_sha256]:
        raise _denied("The x-amz-content-sha256 header is not the SHA-256 of the request's body.", "wrong body")
    timestamp = _timestamp(found)
    if timestamp[:8] != claim.date:
        raise _denied("The date in the credential scope differs from the request's date.", "wrong scope date")
    _check_time(timestamp, now)

    path, query = quote(raw_path or "/", safe="/~"), _canonical_query(raw_query)
    signed = _canonical_headers(found, claim.signed_headers)
    request = "\n".join((method, path, query, signed, body_sha256)).encode("latin-1", "replace")
    text = "\n".join((ALGORITHM, timestamp, claim.scope, hashlib.sha256(request).hexdigest()))
    key = _check_key(find_key(claim.key_id), claim, text)
    return Caller(key.account_id, key.id, claim.region)


def _check_key(key: SigningKey | None, claim: _Claim, text: str) -> SigningKey:
    """Check that a key exists, is enabled and signed the text, and return it."""
    expected = _hmac(_signing_key(key.secret if key else _NO_SECRET, claim), text)
    is_correct = hmac.compare_digest(expected, claim.signature)
    if key is None or key.is_disabled or not is_correct:
        reason = "unknown key" if key is None else "disabled key" if key.is_disabled else "wrong signature"
        raise _denied(
            "The access key is not known here, or the request signature we calculated does not match the signature"
            " you provided. Check the access key id, the secret access key and the signing method.",
            reason,
        )
    return key


def service_named(headers: Sequence[tuple[str, str]]) -> str:
    """Return the service in a request's credential scope, or SERVICE if it has none; the signature is unverified.

    Args:
        headers: The headers as received.
    """
    for name, value in headers:
        if name.lower() == "authorization" and (credential := _CREDENTIAL.search(value)):
            return credential["service"] if _SERVICE.fullmatch(credential["service"]) else SERVICE
    return SERVICE


def _denied(message: str, reason: str) -> ApiError:
    return ApiError("AccessDeniedException", message, reason=reason)


def _well_formed(raw_path: str, raw_query: str, headers: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the headers by name; reject a request that two parsers could read differently."""
    if not (raw_path.isascii() and raw_query.isascii()):
        raise _denied("The path and the query must be percent-encoded.", "not ASCII")
    found = _by_name(headers)
    for name in _ONLY_ONCE:
        if len(found.get(name, ())) > 1:
            raise _denied(f"The request has more than one {name} header.", "repeated header")
    return found


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


def _pairs(raw_query: str) -> list[tuple[str, str]]:
    """Decode the names and values of a query; different bytes stay different, even if they are invalid UTF-8."""
    split = [pair.partition("=") for pair in raw_query.split("&")] if raw_query else []
    return [(_unquoted(name), _unquoted(value)) for name, _, value in split]


def _unquoted(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def _read_query_claim(
    query: list[tuple[str, str]], found: dict[str, list[str]], now: datetime
) -> tuple[_Claim, str]:
    """Return the signature in a presigned URL's query, and its date; reject an expired URL."""
    named = dict(query)
    names = [name.lower() for name, _ in query]
    if "x-amz-security-token" in names or "x-amz-security-token" in found:
        raise _denied("The security token included in the request is invalid.", "session token")
    credential = _CREDENTIAL.fullmatch(named.get("X-Amz-Credential", ""))
    if (
        "authorization" in found
        or any(names.count(member.lower()) != 1 or member not in named for member in _QUERY_MEMBERS)
        or named["X-Amz-Algorithm"] != ALGORITHM
        or credential is None
        or not _SIGNATURE.fullmatch(named["X-Amz-Signature"])
        or not _BASIC_TIMESTAMP.fullmatch(named["X-Amz-Date"])
        or not _EXPIRES.fullmatch(named["X-Amz-Expires"])
    ):
        raise _denied(f"The query string has no complete {ALGORITHM} signature.", "no such query signature")
    age, lifetime = now - _date_of(named["X-Amz-Date"]), timedelta(seconds=int(named["X-Amz-Expires"]))
    if not timedelta(0) < lifetime <= _LONGEST_PRESIGNED:
        raise _denied("A presigned URL may be valid for 1 second to 7 days.", "no such query signature")
    if age > lifetime:
        raise _denied("Request has expired. Sign a new URL.", "expired")
    if age < -TOLERANCE:
        raise _denied("The URL's date is more than 15 minutes ahead of this server's.", "date out of range")
    claim = _Claim(
        **credential.groupdict(),
        signed_headers=tuple(named["X-Amz-SignedHeaders"].split(";")),
        signature=named["X-Amz-Signature"],
    )
    return claim, named["X-Amz-Date"]


def _check_signed_headers(found: dict[str, list[str]], signed: tuple[str, ...], *, is_dated: bool = False) -> None:
    """Reject a signature that does not cover all headers that affect the request.

    AWS requires host, the date and every x-amz-* header; here those that nothing reads may be unsigned. The
    content type may be unsigned too (as in version 2 of the JavaScript SDK): it selects only the form of errors.
    `is_dated`: the date is in the signed query.
    """
    if list(signed) != sorted(set(signed)) or not set(signed) <= found.keys():
        raise _denied(
            "SignedHeaders must name headers of the request, sorted and in lower case.", "signed headers"
        )
    required = {name for name in found if name.startswith("x-amz-") and name not in _UNREAD} | {"host"}
    if "x-amz-date" not in found and not is_dated:
        required.add("date")
    if not required <= set(signed):
        raise _denied("The host, date and x-amz-* headers must all be signed.", "unsigned header")


def _timestamp(found: dict[str, list[str]]) -> str:
    """Return the request's date as `YYYYMMDDTHHMMSSZ`."""
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


def _date_of(timestamp: str) -> datetime:
    try:
        return datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _denied("The request's date is not a valid calendar date.", "no date") from None


def _check_time(timestamp: str, now: datetime) -> None:
    if abs(now - _date_of(timestamp)) > TOLERANCE:
        raise _denied(
            "Signature expired: the request's date is over 15 minutes off from this server's. Check your clock.",
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
    """Percent-encode a part of the query in the one form that Signature Version 4 prescribes."""
    return quote(unquote_to_bytes(text), safe="-_.~")


def _signing_key(secret: str, claim: _Claim) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (claim.date, claim.region, claim.service, _TERMINATOR):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _hmac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
