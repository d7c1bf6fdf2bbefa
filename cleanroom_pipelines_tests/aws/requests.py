"""Raw requests as any client could send them, built from botocore's model without its checks.

Keep out: our own model and signing, which these helpers test.
"""

import hashlib
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from unittest import mock
from urllib.parse import quote, urlsplit

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.model import OperationModel, ServiceModel

HOST = "127.0.0.1:8723"
REGION = "us-east-1"
SERVICE = "cleanrooms-ml"
KEY_ID = "AKIAEXAMPLEEXAMPLE22"
SECRET = "hK3/example+secret/of+forty+characters+0123"


@dataclass(frozen=True)
class RawRequest:
    """An HTTP request, byte for byte."""

    method: str
    raw_path: str
    raw_query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    @property
    def target(self) -> str:
        return f"{self.raw_path}?{self.raw_query}" if self.raw_query else self.raw_path

    @property
    def body_sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    def header(self, name: str) -> str:
        return next(value for key, value in self.headers if key.lower() == name.lower())

    def with_header(self, name: str, value: str | None) -> "RawRequest":
        """Replace or remove one header, and keep everything else, including the signature."""
        kept = tuple((key, each) for key, each in self.headers if key.lower() != name.lower())
        return replace(self, headers=kept if value is None else (*kept, (name, value)))


@dataclass(frozen=True)
class RawAnswer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str | None:
        """The error's name in a header, or in S3's XML."""
        code = re.search(rb"<Error><Code>(\w+)</Code>", self.body)
        return code[1].decode() if code else self.headers.get("x-amzn-errortype")


@lru_cache(maxsize=1)
def _session() -> botocore.session.Session:
    # whoever runs the tests may have a profile of his own
    return botocore.session.Session(session_vars={"profile": (None, None, None, None)})


@lru_cache(maxsize=1)
def service_model() -> ServiceModel:
    return _session().get_service_model("cleanroomsml")


def operation_model(name: str) -> OperationModel:
    return service_model().operation_model(name)


def build(name: str, parameters: Mapping[str, Any]) -> RawRequest:
    """Build an unsigned request of an operation with any parameters, valid or not."""
    operation = operation_model(name)
    members = operation.input_shape.members
    path, pairs, body = operation.http["requestUri"], [], {}
    for member, value in parameters.items():
        location = members[member].serialization.get("location") if member in members else None
        if location == "uri":
            path = path.replace(f"{{{member}}}", quote(str(value), safe="-_.~"))
        elif location == "querystring":
            each_value = value if isinstance(value, list | tuple) else [value]
            pairs.extend(f"{member}={quote(str(each), safe='-_.~')}" for each in each_value)
        else:
            body[member] = value
    method = operation.http["method"]
    has_body = method in {"POST", "PUT", "PATCH"}
    return RawRequest(
        method,
        path,
        "&".join(pairs),
        (("Content-Type", "application/json"),) if has_body else (),
        json.dumps(body, default=_json_timestamp).encode() if has_body else b"",
    )


def _json_timestamp(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def sign(
    request: RawRequest,
    *,
    now: datetime,
    key_id: str = KEY_ID,
    secret: str = SECRET,
    region: str = REGION,
    service: str = SERVICE,
    host: str = HOST,
) -> RawRequest:
    """Sign a request with botocore's own signer; for S3 a header may declare any form of body."""
    headers = dict(request.headers)
    if service == "s3":
        headers = {"X-Amz-Content-SHA256": request.body_sha256} | headers
    unsigned = AWSRequest(request.method, f"http://{host}{request.target}", headers, request.body)
    with mock.patch("botocore.auth.get_current_datetime", return_value=now):
        signer = _SignerForS3 if service == "s3" else SigV4Auth
        signer(Credentials(key_id, secret), service, region).add_auth(unsigned)
    return replace(request, headers=(("Host", host), *((name, value) for name, value in unsigned.headers.items())))


class _SignerForS3(SigV4Auth):  # type: ignore[misc]
    """S3 encodes a path once."""

    def _normalize_url_path(self, path: str) -> str:
        return path


def send(url: str, request: RawRequest, *, timeout_seconds: float = 10) -> RawAnswer:
    """Send a request unchanged."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout_seconds)
    try:
        connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers:
            connection.putheader(name, value)
        if request.body and "content-length" not in {name.lower() for name, _ in request.headers}:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body or None)
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return RawAnswer(answer.status, headers, answer.read())
    finally:
        connection.close()


def call(
    url: str,
    name: str,
    parameters: Mapping[str, Any],
    *,
    now: datetime | None = None,
    key_id: str = KEY_ID,
    secret: str = SECRET,
    region: str = REGION,
) -> RawAnswer:
    """Build, sign and send a request of an operation, without a client."""
    request = build(name, parameters)
    signed = sign(
        request,
        now=now or datetime.now(UTC),
        key_id=key_id,
        secret=secret,
        region=region,
        host=urlsplit(url).netloc,
    )
    return send(url, signed)


class ShortClient:
    """A real botocore client whose requests are recorded and answered here, without a network."""

    def __init__(self) -> None:
        self.client = _session().create_client(
            "cleanroomsml",
            region_name=REGION,
            endpoint_url=f"http://{HOST}",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
            config=Config(retries={"total_max_attempts": 1}),
        )
        self.client.meta.events.register("before-send.cleanroomsml.*", self._take)
        self._answer: tuple[int, Mapping[str, str], bytes] = (200, {}, b"")
        self.requests: list[RawRequest] = []

    def _take(self, request: Any, **_: Any) -> AWSResponse:
        parts = urlsplit(request.url)
        text = [
            (name, value.decode() if isinstance(value, bytes) else value)
            for name, value in request.headers.items()
        ]
        body = request.body or b""
        self.requests.append(
            RawRequest(
                request.method,
                parts.path,
                parts.query,
                (("Host", parts.netloc), *text),
                body.encode() if isinstance(body, str) else bytes(body),
            )
        )
        status, headers, content = self._answer
        return AWSResponse(request.url, status, dict(headers), _Raw(content))

    def call(
        self, name: str, parameters: Mapping[str, Any], answer: tuple[int, Mapping[str, str], bytes] | None = None
    ) -> tuple[RawRequest, dict[str, Any]]:
        """Return the client's request, and its reading of the response."""
        self._answer = answer or (200, {}, b"{}")
        self.requests.clear()
        method = botocore.xform_name(name)
        parsed = getattr(self.client, method)(**parameters)
        return self.requests[0], parsed


class _Raw:
    """A body that botocore can read."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


@contextmanager
def raised(client: Any, name: str) -> Iterator[dict[str, Any]]:
    """Expect the client's own exception class of that name, and capture its message."""
    told: dict[str, Any] = {}
    try:
        yield told
    except getattr(client.exceptions, name) as error:
        told.update(error.response)
    else:
        raise AssertionError(f"{name} was not raised")
