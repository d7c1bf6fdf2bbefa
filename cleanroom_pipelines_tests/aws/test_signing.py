"""Verification of signatures.

Contract: requests signed by botocore and AWS's published example are accepted; any change of body, path, query,
date, key or signature, a date more than 15 minutes off, and any other authentication is an AccessDeniedException,
which does not distinguish an unknown key from a wrong secret, neither in its message nor in its timing.
"""

import hashlib
import hmac
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from unittest import mock
from urllib.parse import quote, unquote

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import assume, given
from hypothesis import strategies as st

from cleanroom_pipelines.aws import signing
from cleanroom_pipelines.aws.answers import ApiError, Caller
from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines.aws.signing import SigningKey, verify

from ..cases import assert_each
from .examples import right
from .requests import HOST, KEY_ID, REGION, SECRET, RawRequest, ShortClient, build, sign

NOW = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)
ACCOUNT = "123456789012"
KEYS = {
    KEY_ID: SigningKey(KEY_ID, ACCOUNT, SECRET),
    "AKIADISABLEDDISABLED": SigningKey("AKIADISABLEDDISABLED", ACCOUNT, SECRET, is_disabled=True),
    "AKIAANOTHERSANOTHERS": SigningKey("AKIAANOTHERSANOTHERS", "210987654321", "another secret"),
}
MISMATCH = "The access key is not known here, or the request signature we calculated does not match"


def check(request: RawRequest, now: datetime = NOW, service: str = "cleanrooms-ml") -> Caller:
    return verify(
        request.method,
        request.raw_path,
        request.raw_query,
        request.headers,
        request.body_sha256,
        find_key=KEYS.get,
        now=now,
        service=service,
    )


def denial(request: RawRequest, now: datetime = NOW) -> ApiError:
    with pytest.raises(ApiError) as caught:
        check(request, now)
    assert (caught.value.name, caught.value.status) == ("AccessDeniedException", 403)
    return caught.value


@pytest.fixture(scope="module")
def create() -> RawRequest:
    return sign(build("CreateAudienceModel", right("CreateAudienceModel")), now=NOW)


@pytest.fixture(scope="module")
def untag() -> RawRequest:
    return sign(build("UntagResource", right("UntagResource") | {"tagKeys": ["b", "a b", "a+%"]}), now=NOW)


@pytest.fixture(scope="module")
def client() -> ShortClient:
    return ShortClient()


# accepted


def test_awss_published_example() -> None:
    """`get-vanilla` of the Signature Version 4 test suite."""
    key_id, secret = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    request = RawRequest(
        "GET",
        "/",
        headers=(
            ("Host", "example.amazonaws.com"),
            ("X-Amz-Date", "20150830T123600Z"),
            (
                "Authorization",
                f"AWS4-HMAC-SHA256 Credential={key_id}/20150830/us-east-1/service/aws4_request, "
                "SignedHeaders=host;x-amz-date, "
                "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
        ),
    )
    caller = verify(
        request.method,
        request.raw_path,
        "",
        request.headers,
        request.body_sha256,
        find_key={key_id: SigningKey(key_id, ACCOUNT, secret)}.get,
        now=datetime(2015, 8, 30, 12, 36, tzinfo=UTC),
        service="service",
    )
    assert caller == Caller(ACCOUNT, key_id, "us-east-1")


def test_a_real_client_of_each_operation(client: ShortClient) -> None:
    def is_accepted(name: str) -> None:
        parameters = right(name)
        if "tagKeys" in parameters:
            parameters["tagKeys"] = ["b", "a b", "a", "100 %", "x+y", "ü/😀", "=&?", "~-._"]
        request, _ = client.call(name, parameters)
        now = datetime.strptime(request.header("X-Amz-Date"), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        assert check(request, now) == Caller(ACCOUNT, KEY_ID, REGION)

    assert_each(is_accepted, OPERATIONS)


def test_botocores_signer_for_each_operation() -> None:
    def is_accepted(name: str) -> None:
        request = sign(build(name, right(name)), now=NOW, region="eu-central-1")
        assert check(request) == Caller(ACCOUNT, KEY_ID, "eu-central-1")

    assert_each(is_accepted, OPERATIONS)


_NASTY = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=20)


@given(
    segment=_NASTY.filter(lambda text: text not in {".", ".."}),
    keys=st.lists(_NASTY, max_size=4),
    body=st.binary(),
)
def test_botocores_signer_with_nasty_texts(segment: str, keys: list[str], body: bytes) -> None:
    query = "&".join(f"tagKeys={quote(key, safe='-_.~')}" for key in keys)
    request = RawRequest("DELETE", f"/tags/{quote(segment, safe='-_.~')}", query, body=body)
    assert check(sign(request, now=NOW)).account_id == ACCOUNT


def test_the_order_of_headers_and_of_the_query_is_not_signed(create: RawRequest, untag: RawRequest) -> None:
    check(replace(create, headers=tuple(reversed(create.headers))))
    check(replace(create, headers=tuple((name.swapcase(), value) for name, value in create.headers)))
    check(replace(untag, raw_query="&".join(reversed(untag.raw_query.split("&")))))


def test_blanks_of_a_header_are_not_signed() -> None:
    request = sign(RawRequest("GET", "/tags/x", headers=(("X-Amz-Meta", " a   b "),)), now=NOW)
    check(request.with_header("x-amz-meta", "a b"))
    assert denial(request.with_header("x-amz-meta", "ab")).reason == "wrong signature"


def test_unsigned_headers_are_allowed(create: RawRequest) -> None:
    for name in ("User-Agent", "X-Amzn-Trace-Id", "amz-sdk-request", "Accept"):
        check(create.with_header(name, "anything"))


def test_a_content_type_need_not_be_signed() -> None:
    """Version 2 of the JavaScript SDK does this."""
    request = build("CreateAudienceModel", right("CreateAudienceModel"))
    check(replace(sign(replace(request, headers=()), now=NOW)).with_header("Content-Type", "application/json"))


def test_a_date_header_instead() -> None:
    request = sign(RawRequest("GET", "/tags/x", headers=(("Date", "later"),)), now=NOW)
    assert "x-amz-date" not in {name.lower() for name, _ in request.headers}
    check(request)
    assert denial(request.with_header("Date", "Sun, 01 Mar 2026 12:00:06 GMT")).reason == "wrong signature"


def test_a_body_hash_header_is_accepted(create: RawRequest) -> None:
    """Version 3 of the JavaScript SDK does this."""
    unsigned = build("CreateAudienceModel", right("CreateAudienceModel"))
    with_hash = sign(unsigned.with_header("X-Amz-Content-SHA256", unsigned.body_sha256), now=NOW)
    check(with_hash)
    assert denial(replace(with_hash, body=with_hash.body + b" ")).reason == "wrong body"
    for lie in ("UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", hashlib.sha256(b"").hexdigest(), ""):
        assert denial(sign(unsigned.with_header("X-Amz-Content-SHA256", lie), now=NOW)).reason == "wrong body"


def test_a_clock_may_be_15_minutes_off(create: RawRequest) -> None:
    def is_accepted(seconds: int) -> None:
        check(create, NOW + timedelta(seconds=seconds))

    assert_each(is_accepted, [-900, -1, 0, 1, 900])


def test_the_end_of_a_day_does_not_matter() -> None:
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    check(sign(RawRequest("GET", "/tags/x"), now=midnight - timedelta(minutes=5)), midnight + timedelta(minutes=5))


# refused


def test_a_date_out_of_range(create: RawRequest) -> None:
    def is_rejected(seconds: int) -> None:
        error = denial(create, NOW + timedelta(seconds=seconds))
        assert error.message.startswith("Signature expired")
        assert "2026" not in error.message

    assert_each(is_rejected, [-901, 901, 86_400, -86_400, 10**9])


ALTERED: dict[str, Callable[[RawRequest], RawRequest]] = {
    "body": lambda r: replace(r, body=r.body.replace(b"Kunden", b"") + b" "),
    "no body": lambda r: replace(r, body=b""),
    "method": lambda r: replace(r, method="PUT"),
    "method in another case": lambda r: replace(r, method="post"),
    "path with a slash more": lambda r: replace(r, raw_path="/audience-model/"),
    "path with a slash before": lambda r: replace(r, raw_path="//audience-model"),
    "path with dots": lambda r: replace(r, raw_path="/x/../audience-model"),
    "path": lambda r: replace(r, raw_path="/training-dataset"),
    "path, encoded otherwise": lambda r: replace(r, raw_path="/audience%2Dmodel"),
    "query": lambda r: replace(r, raw_query="maxResults=1"),
    "query of nothing": lambda r: replace(r, raw_query="&"),
    "host": lambda r: r.with_header("Host", "elsewhere"),
    "content type": lambda r: r.with_header("Content-Type", "text/plain"),
    "date": lambda r: r.with_header("X-Amz-Date", "20260301T120006Z"),
}


def test_an_altered_request(create: RawRequest) -> None:
    def is_rejected(name: str) -> None:
        altered = ALTERED[name](create)
        assert altered != create
        error = denial(altered)
        assert (error.reason, error.message.startswith(MISMATCH)) == ("wrong signature", True)

    assert_each(is_rejected, ALTERED)


def test_an_altered_query(untag: RawRequest) -> None:
    def is_rejected(query: str) -> None:
        check(untag)
        assert denial(replace(untag, raw_query=query)).reason == "wrong signature"

    assert_each(
        is_rejected,
        [
            "tagKeys=b&tagKeys=a%20b",
            "tagKeys=b&tagKeys=a%20b&tagKeys=a%2B%25&tagKeys=",
            "tagKeys=b&tagKeys=a%20b&tagKeys=a+",
            "tagkeys=b&tagKeys=a%20b&tagKeys=a%2B%25",
            "tagKeys=b&tagKeys=a+b&tagKeys=a%2B%25",
            "",
        ],
    )


@given(data=st.data())
def test_any_one_changed_character(create: RawRequest, untag: RawRequest, data: st.DataObject) -> None:
    request = data.draw(st.sampled_from([create, untag]))
    what = data.draw(st.sampled_from(["path", "query", "body", "authorization", "date"]))
    text = {
        "path": request.raw_path,
        "query": request.raw_query or "a",
        "body": request.body.decode() or "a",
        "authorization": request.header("Authorization"),
        "date": request.header("X-Amz-Date"),
    }[what]
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters(min_codepoint=0x21, max_codepoint=0x7E).filter(lambda c: c != text[place]))
    changed = text[:place] + character + text[place + 1 :]
    if what == "authorization" and text[place] == " ":
        changed = text[:place] + character + text[place:]  # the blank after a comma may be left out
    assume(what != "query" or unquote(changed) != unquote(text))  # `%2b` is `%2B`
    altered = {
        "path": lambda: replace(request, raw_path=changed),
        "query": lambda: replace(request, raw_query=changed),
        "body": lambda: replace(request, body=changed.encode()),
        "authorization": lambda: request.with_header("Authorization", changed),
        "date": lambda: request.with_header("X-Amz-Date", changed),
    }[what]()
    denial(altered)


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from([*"=,;/ ", "AWS4-HMAC-SHA256 ", "Credential=", "SignedHeaders=host", "Signature="]),
        max_size=12,
    ).map("".join)
)
def test_any_authorization_is_rejected(text: str) -> None:
    denial(
        RawRequest(
            "GET", "/tags/x", headers=(("host", HOST), ("x-amz-date", "20260301T120005Z"), ("authorization", text))
        )
    )


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_any_request_is_rejected(path: str, query: str, date: str, host: str) -> None:
    authorization = sign(RawRequest("GET", "/tags/x"), now=NOW).header("Authorization")
    headers = (("host", host), ("x-amz-date", date), ("authorization", authorization))
    denial(RawRequest("GET", path, query, headers))


def test_unknown_disabled_and_wrong_keys_give_the_same_message() -> None:
    request = build("ListAudienceModels", {})
    unknown = denial(sign(request, now=NOW, key_id="AKIAUNKNOWNUNKNOWN22"))
    disabled = denial(sign(request, now=NOW, key_id="AKIADISABLEDDISABLED"))
    wrong = denial(sign(request, now=NOW, secret=SECRET[:-1]))
    borrowed = denial(sign(request, now=NOW, key_id="AKIAANOTHERSANOTHERS"))
    assert unknown.message == disabled.message == wrong.message == borrowed.message
    assert [error.reason for error in (unknown, disabled, wrong, borrowed)] == [
        "unknown key",
        "disabled key",
        "wrong signature",
        "wrong signature",
    ]


def test_an_unknown_key_takes_as_long_as_a_known_one() -> None:
    request = build("ListAudienceModels", {})
    counts = []
    for signed in (
        sign(request, now=NOW),
        sign(request, now=NOW, secret="wrong"),
        sign(request, now=NOW, key_id="AKIAUNKNOWNUNKNOWN22"),
    ):
        with (
            mock.patch.object(signing.hmac, "new", wraps=hmac.new) as new,
            mock.patch.object(signing.hmac, "compare_digest", wraps=hmac.compare_digest) as compare,
        ):
            with suppress(ApiError):
                check(signed)
            counts.append((new.call_count, compare.call_count))
    assert counts == [(5, 1)] * 3


def test_a_key_is_looked_up_only_for_a_wellformed_request(create: RawRequest) -> None:
    def find(key_id: str) -> SigningKey | None:
        raise AssertionError(key_id)

    with pytest.raises(ApiError):
        verify("GET", "/tags/x", "", (), create.body_sha256, find_key=find, now=NOW)
    with pytest.raises(ApiError, match="expired"):
        verify(
            "POST",
            "/audience-model",
            "",
            create.headers,
            create.body_sha256,
            find_key=find,
            now=NOW + timedelta(hours=1),
        )


def with_authorization(request: RawRequest, old: str, new: str) -> RawRequest:
    text = request.header("Authorization")
    assert old in text
    return request.with_header("Authorization", text.replace(old, new))


ALTERED_AUTHORIZATIONS = [
    ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1", "no such signature"),
    ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", "no such signature"),
    ("AWS4-HMAC-SHA256", "Bearer", "no such signature"),
    ("AWS4-HMAC-SHA256 ", "", "no such signature"),
    ("Credential=", "credential=", "no such signature"),
    ("Credential=", "Credential=x, Credential=", "no such signature"),
    ("SignedHeaders=", "Signature=", "no such signature"),
    ("Signature=", "Signature=0", "no such signature"),
    ("/aws4_request", "/aws4_requests", "no such signature"),
    ("/aws4_request", "", "no such signature"),
    ("/us-east-1/", "//", "no such signature"),
    ("/us-east-1/", "/US-EAST-1/", "no such signature"),
    ("/us-east-1/", f"/{'a' * 41}/", "no such signature"),
    ("/us-east-1/", "/us-east-2/", "wrong signature"),
    ("/20260301/", "/20260302/", "wrong scope date"),
    ("/20260301/", "/2026030/", "no such signature"),
    ("/20260301/", "/٢٠٢٦٠٣٠١/", "no such signature"),
    ("/cleanrooms-ml/", "/cleanrooms/", "wrong service"),
    ("/cleanrooms-ml/", "/s3/", "wrong service"),
    (KEY_ID, KEY_ID + "%", "no such signature"),
    (KEY_ID, "", "no such signature"),
    (KEY_ID, "A" * 129, "no such signature"),
    ("content-type;host;x-amz-date", "host;content-type;x-amz-date", "signed headers"),
    ("content-type;host;x-amz-date", "content-type;host;host;x-amz-date", "signed headers"),
    ("content-type;host;x-amz-date", "Content-Type;host;x-amz-date", "signed headers"),
    ("content-type;host;x-amz-date", "content-type;host;range;x-amz-date", "signed headers"),
    ("content-type;host;x-amz-date", "", "signed headers"),
    ("content-type;host;x-amz-date", "content-type;x-amz-date", "unsigned header"),
    ("content-type;host;x-amz-date", "content-type;host", "unsigned header"),
    ("content-type;host;x-amz-date", "host;x-amz-date", "wrong signature"),
]


def test_an_altered_authorization(create: RawRequest) -> None:
    def is_rejected(old: str, new: str, reason: str) -> None:
        error = denial(with_authorization(create, old, new))
        assert error.reason == reason
        assert KEY_ID not in error.message
        assert "SHA1" not in error.message

    assert_each(is_rejected, ALTERED_AUTHORIZATIONS)


def test_a_header_given_twice(create: RawRequest) -> None:
    def is_rejected(name: str) -> None:
        twice = replace(create, headers=(*create.headers, (name.lower(), create.header(name))))
        assert denial(twice).reason == "repeated header"

    assert_each(is_rejected, ["Authorization", "Host", "X-Amz-Date", "Content-Type"])


def test_a_header_that_is_missing(create: RawRequest) -> None:
    def is_rejected(name: str, reason: str) -> None:
        assert denial(create.with_header(name, None)).reason == reason

    assert_each(
        is_rejected,
        [("Authorization", "no signature"), ("Host", "signed headers"), ("X-Amz-Date", "signed headers")],
    )


def test_an_amz_header_that_is_not_signed(create: RawRequest) -> None:
    assert denial(create.with_header("X-Amz-Target", "x")).reason == "unsigned header"


def test_an_invalid_date(create: RawRequest) -> None:
    def is_rejected(date: str) -> None:
        assert denial(create.with_header("X-Amz-Date", date)).reason in {"no date", "wrong scope date"}

    assert_each(
        is_rejected,
        [
            "",
            "now",
            "2026-03-01T12:00:05Z",
            "20260301T126005Z",
            "20261301T120005Z",
            "\u0662\u0660\u0662\u06660301T120005Z",
        ],
    )


def test_an_invalid_date_header() -> None:
    def is_rejected(date: str) -> None:
        request = sign(RawRequest("GET", "/tags/x", headers=(("Date", "later"),)), now=NOW)
        assert denial(request.with_header("Date", date)).reason == "no date"

    assert_each(is_rejected, ["", "yesterday", "Sun, 99 Mar 2026 12:00:05 GMT", "x" * 1000])


def test_session_token_is_rejected() -> None:
    """None are issued here, so the token belongs to another service."""
    with_token = AWSRequest("GET", f"http://{HOST}/tags/x")
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        SigV4Auth(Credentials(KEY_ID, SECRET, "token"), "cleanrooms-ml", REGION).add_auth(with_token)
    headers = (("Host", HOST), *with_token.headers.items())
    error = denial(RawRequest("GET", "/tags/x", headers=headers))
    assert (error.reason, error.message) == (
        "session token",
        "The security token included in the request is invalid.",
    )


def test_presigned_query_is_rejected() -> None:
    presigned = AWSRequest("GET", f"http://{HOST}/tags/x")
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        SigV4QueryAuth(Credentials(KEY_ID, SECRET), "cleanrooms-ml", REGION).add_auth(presigned)
    query = presigned.url.partition("?")[2]
    assert denial(RawRequest("GET", "/tags/x", query, (("Host", HOST),))).reason == "presigned"
    beside = sign(RawRequest("GET", "/tags/x", "%58-amz-signature=0"), now=NOW)
    assert denial(beside).reason == "presigned"


def test_the_secret_is_not_in_a_keys_repr() -> None:
    assert SECRET not in repr(KEYS[KEY_ID])
